//! Stopping, killing, freezing. A stop is a signal, a deadline and an event; nothing waits in between.

use havre_runtime::shim::protocol::{Ask, Target};
use tokio::time::Instant;

use super::{AfterEnd, Container, KILL, Pending, Reply, answer};
use crate::EngineError;
use crate::state::{Change, State};
use crate::why::asker;

impl Container {
    pub(super) async fn stop(&mut self, signal: Option<i32>, grace: Option<i64>, then: AfterEnd) {
        match self.now.state {
            State::Running { .. } | State::Paused { .. } => {}
            State::Restarting(_) => {
                self.restart_at = None;
                self.now.stopped_by_user = true;
                self.apply(Change::GaveUp);
                return self.finish_one(then).await;
            }
            State::Created | State::Exited(_) | State::Removing => {
                let unchanged = EngineError::Unchanged(self.fixed.id.clone());
                return match then {
                    AfterEnd::Answer(reply) => answer(reply, Err(unchanged)),
                    AfterEnd::Start(_) | AfterEnd::Remove(_) => self.finish_one(then).await,
                };
            }
        }
        // A restart is no wish to stay stopped.
        self.now.stopped_by_user = !matches!(then, AfterEnd::Start(_));
        self.after_end.push(then);
        self.thaw_for_signal();
        let signal = signal.unwrap_or(self.fixed.merged.stop_signal);
        self.happened("kill", &[("signal", signal.to_string())]);
        let by = match self.after_end.last() {
            Some(AfterEnd::Start(_)) => asker::RESTART,
            Some(AfterEnd::Remove(_)) => asker::REMOVE,
            Some(AfterEnd::Answer(_)) | None => asker::STOP,
        };
        self.signal_quietly(signal, by).await;
        let default = self.launcher.settings.live.get().stop_timeout;
        let at = self.fixed.spec.grace(grace, default).map(|grace| Instant::now() + grace);
        // The earliest of several stops decides.
        self.kill_at = match (self.kill_at, at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    pub(super) async fn kill(&mut self, signal: i32, reply: Reply<()>) {
        if !self.now.state.is_alive() {
            let id = &self.fixed.id;
            let text = format!("cannot kill container: {id}: container {id} is not running");
            return answer(reply, Err(EngineError::State(text)));
        }
        if signal == KILL || signal == self.fixed.merged.stop_signal {
            self.now.stopped_by_user = true;
        }
        self.happened("kill", &[("signal", signal.to_string())]);
        if signal == KILL {
            self.thaw_for_signal();
            self.after_end.push(AfterEnd::Answer(reply));
            self.kill_for_good(asker::KILL).await;
        } else {
            let ask = Ask::Signal { target: Target::Init, signal, by: asker::KILL.into() };
            self.ask(ask, Vec::new(), Pending::Plain(reply)).await;
        }
    }

    pub(super) async fn on_timer(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.happened("kill", &[("signal", KILL.to_string())]);
            self.kill_for_good(asker::GRACE_OVER).await;
        }
        if self.ended_by.is_some_and(|at| at <= now) {
            self.ended_by = None;
            self.tell_those_who_wait();
        }
        if self.leases.until.is_some_and(|at| at <= now) {
            self.resume().await;
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.now.restart_count += 1;
            if let Err(error) = self.start().await {
                tracing::warn!(container = %self.fixed.id, error = havre_base::chain(&error), "restart failed");
                self.start_failed(&error);
            }
        }
    }

    /// `by` goes into the supervisor's record, where a daemon that dies now cannot lose it.
    pub(super) async fn signal_quietly(&mut self, signal: i32, by: &str) {
        self.ask_quietly(Ask::Signal { target: Target::Init, signal, by: by.into() }, Vec::new()).await;
    }

    /// A frozen process takes no signal.
    pub(super) fn thaw_for_signal(&mut self) {
        if matches!(self.now.state, State::Paused { .. })
            && let Err(error) = self.freeze(false)
        {
            tracing::warn!(container = %self.fixed.id, error = havre_base::chain(&error), "cannot thaw");
        }
    }

    pub(super) fn freeze(&mut self, frozen: bool) -> Result<(), EngineError> {
        let id = &self.fixed.id;
        match (&self.now.state, frozen) {
            (State::Running { .. }, true) | (State::Paused { .. }, false) => {}
            (State::Paused { .. }, true) => {
                return Err(EngineError::State(format!("container {id} is already paused")));
            }
            (State::Running { .. }, false) => {
                return Err(EngineError::State(format!("container {id} is not paused")));
            }
            _ => return Err(EngineError::State(format!("container {id} is not running"))),
        }
        self.launcher.freeze(&self.fixed, frozen)?;
        self.apply(if frozen { Change::Paused } else { Change::Resumed });
        self.happened(if frozen { "pause" } else { "unpause" }, &[]);
        Ok(())
    }
}
