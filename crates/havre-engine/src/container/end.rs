//! The end of a run: what the shim tells, the restart policy, and what was asked to happen afterwards.

use havre_base::{Clock as _, SystemClock};
use havre_runtime::shim::evidence::{Ending, Evidence};
use havre_runtime::shim::protocol::{Event, Exit, Packet, Target};
use tokio::time::Instant;

use super::{AfterEnd, CLEAN_WITHIN, Container, Pending, SUPERVISOR_LOST, answer};
use crate::EngineError;
use crate::restart;
use crate::restart::Ended;
use crate::state::Change;

impl Container {
    pub(super) async fn on_packet(&mut self, packet: std::io::Result<Option<Packet>>) {
        match packet {
            Ok(Some(Packet::Reply(reply))) => self.on_answer(reply.seq, reply.answer),
            Ok(Some(Packet::Event(Event::Exited(exit)))) => self.ended(exit).await,
            Ok(Some(Packet::Event(Event::ExecExited { id, code }))) => self.exec_ended(&id, code),
            Ok(Some(Packet::Event(Event::Oom))) => {
                self.now.oom_killed = true;
                self.changed();
                self.happened("oom", &[]);
            }
            Ok(Some(Packet::Event(Event::Detached(Target::Init)))) => self.happened("detach", &[]),
            Ok(Some(Packet::Event(Event::Detached(Target::Exec(id))))) => {
                self.happened("exec_detach", &[("execID", id.to_string())]);
            }
            Ok(Some(Packet::Event(Event::Started { .. } | Event::StartFailed(_)))) => {}
            Ok(Some(Packet::Event(Event::Clean))) => self.end_link(),
            Ok(None) | Err(_) => self.lost_supervisor().await,
        }
    }

    /// The shim is gone without telling the end: somebody killed it.
    pub(super) async fn lost_supervisor(&mut self) {
        self.end_link();
        if !self.now.state.is_alive() {
            return;
        }
        tracing::error!(container = %self.fixed.id, "the supervisor was killed; ending its container");
        let exit = self.launcher.recorded_exit(&self.fixed.id).unwrap_or_else(|| {
            self.launcher.destroy(&self.fixed);
            Exit {
                code: SUPERVISOR_LOST,
                oom_killed: false,
                at: SystemClock.now(),
                evidence: Box::new(Evidence::unseen(Ending::SupervisorLost)),
            }
        });
        self.ended(exit).await;
    }

    pub(super) async fn ended(&mut self, exit: Exit) {
        let ran = self.now.started_at.map(|at| exit.at.since(at)).unwrap_or_default();
        let ended = Ended {
            code: exit.code,
            ran,
            by_user: self.now.stopped_by_user || !self.after_end.is_empty(),
            restarts: self.now.restart_count,
        };
        let delay = restart::after_exit(self.fixed.spec.restart, ended, self.last_delay);
        self.now.finished_at = Some(exit.at);
        self.exits += 1;
        self.now.last_exit = Some(exit.clone());
        self.kill_at = None;
        self.ended_by = None;
        for id in
            self.execs.iter().filter(|(_, exec)| exec.running).map(|(id, _)| id.clone()).collect::<Vec<_>>()
        {
            self.exec_ended(&id, SUPERVISOR_LOST);
        }
        for (_, pending) in self.pending.drain() {
            let (Pending::Plain(reply) | Pending::Exec(_, reply)) = pending;
            answer(reply, Err(EngineError::State(format!("container {} is not running", self.fixed.id))));
        }
        let code = exit.code;
        self.disconnect();
        match delay {
            Some(delay) => {
                self.last_delay = Some(delay);
                self.restart_at = Some(Instant::now() + delay);
                self.apply(Change::DiedForNow(exit));
            }
            None => self.apply(Change::Died(exit)),
        }
        let lived = ran.as_secs().to_string();
        self.happened("die", &[("exitCode", code.to_string()), ("execDuration", lived)]);
        for then in std::mem::take(&mut self.after_end) {
            self.finish_one(then).await;
        }
        if self.fixed.spec.auto_remove && !self.now.state.is_alive() && !self.removed {
            self.remove_now();
        }
    }

    /// The shim has nothing more to say.
    pub(super) fn end_link(&mut self) {
        self.link = None;
        self.reap_shim();
        if !self.now.state.is_alive() {
            self.launcher.tidy(&self.fixed.id);
        }
    }

    /// Waits until the last run's shim has cleaned up: its control group has the name of the next one's.
    pub(super) async fn await_clean(&mut self) {
        while let Some(link) = &mut self.link {
            match tokio::time::timeout(CLEAN_WITHIN, link.recv()).await {
                Ok(Ok(Some(Packet::Event(Event::Clean)) | None) | Err(_)) | Err(_) => self.end_link(),
                Ok(Ok(Some(_))) => {}
            }
        }
    }

    pub(super) async fn finish_one(&mut self, then: AfterEnd) {
        match then {
            AfterEnd::Answer(reply) => {
                self.happened("stop", &[]);
                let result = self.remember_wish().await;
                answer(reply, result);
            }
            AfterEnd::Start(reply) => {
                let result = if self.now.state.is_alive() { Ok(()) } else { self.start_fresh().await };
                if result.is_ok() {
                    self.happened("restart", &[]);
                }
                answer(reply, result);
            }
            AfterEnd::Remove(reply) => {
                let result = if self.removed { Ok(()) } else { self.remove_durably().await };
                answer(reply, result);
            }
        }
    }

    /// Collects the shim's exit. It has closed its socket, so it is past its work.
    pub(super) fn reap_shim(&mut self) {
        if let Some(child) = self.shim.take() {
            self.launcher.reaper.add(child);
        }
    }
}
