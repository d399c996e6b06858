//! One container's task: every change of the container goes through its inbox, in order.
//!
//! Invariants: the kernel is touched only by this task and the shim it talks to; a change is applied,
//! then queued for the database, then published; nothing here waits for a client or for the
//! container: what takes long is a deadline or an event in the loop.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use havre_base::{Clock as _, ExecId, SystemClock};
use havre_runtime::shim::protocol::{
    Answer, Ask, AttachSpec, Event, ExecConfig, Exit, Failure, FailureKind, Packet, Status, Target,
};
use havre_store::db::Batch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::EngineError;
use crate::error_text::exit_code_of;
use crate::launcher::Launcher;
use crate::link::Link;
use crate::record::{CONTAINERS, Changing, Fixed, STATES, View};
use crate::restart::{self, Ended};
use crate::spec::{ExecSpec, RestartPolicy};
use crate::state::{Change, State};

/// SIGKILL.
const KILL: i32 = 9;
/// Ended execs that can still be inspected.
const ENDED_EXECS: usize = 64;
/// A shim that takes longer than this to clean up is stuck in the kernel; the next start says so itself.
const CLEAN_WITHIN: Duration = Duration::from_secs(5);
/// A client whose attach request was answered arrives within a round trip, or it is gone.
const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
/// The exit code of a container whose supervisor was killed.
const SUPERVISOR_LOST: i32 = 137;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// A client's connection, and how it wants to be fed.
pub type Attachment = (AttachSpec, OwnedFd);

/// What can be asked of a container.
pub(crate) enum Command {
    Start(Reply<()>),
    Stop { signal: Option<i32>, grace: Option<i64>, reply: Reply<()> },
    Restart { signal: Option<i32>, grace: Option<i64>, reply: Reply<()> },
    Kill { signal: i32, reply: Reply<()> },
    Remove { force: bool, reply: Reply<()> },
    Attach { attachment: Attachment, reply: Reply<()> },
    Announce(Reply<Option<oneshot::Sender<Attachment>>>),
    Resize { target: Target, rows: u16, columns: u16, reply: Reply<()> },
    Freeze { frozen: bool, reply: Reply<()> },
    Rename { name: havre_base::ContainerName, reply: Reply<()> },
    ExecCreate { spec: Box<ExecSpec>, reply: Reply<ExecId> },
    ExecStart { id: ExecId, attachment: Option<Attachment>, console: (u16, u16), reply: Reply<()> },
    ExecInspect { id: ExecId, reply: Reply<ExecView> },
}

/// What is known of an exec.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// What was asked.
    pub spec: ExecSpec,
    /// It runs.
    pub running: bool,
    /// Process id on the host; zero before it runs.
    pub pid: i32,
    /// How it ended.
    pub exit_code: Option<i32>,
}

/// What happens when the running container has ended.
enum AfterEnd {
    Answer(Reply<()>),
    Start(Reply<()>),
    Remove(Reply<()>),
}

/// What an answer of the shim is for.
enum Pending {
    Plain(Reply<()>),
    Exec(ExecId, Reply<()>),
}

/// What the task owns.
pub(crate) struct Container {
    launcher: Arc<Launcher>,
    fixed: Arc<Fixed>,
    now: Changing,
    inbox: mpsc::Receiver<Command>,
    view: watch::Sender<Arc<View>>,
    link: Option<Link>,
    shim: Option<Child>,
    pending: HashMap<u64, Pending>,
    /// Clients that attached before the start, or announced that they will.
    waiting: Vec<oneshot::Receiver<Attachment>>,
    execs: BTreeMap<ExecId, ExecView>,
    ended_execs: VecDeque<ExecId>,
    after_end: Vec<AfterEnd>,
    kill_at: Option<Instant>,
    restart_at: Option<Instant>,
    last_delay: Option<Duration>,
    exits: u64,
    timings: Arc<Vec<(String, u64)>>,
    removed: bool,
}

/// How a container begins its life in this daemon.
pub(crate) enum Origin {
    /// Just created, or found at rest.
    Resting,
    /// Its shim lives.
    Adopted(Link),
}

impl Container {
    pub(crate) fn new(
        launcher: Arc<Launcher>,
        fixed: Arc<Fixed>,
        now: Changing,
        inbox: mpsc::Receiver<Command>,
        origin: Origin,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let timings = Arc::new(Vec::new());
        let view = Arc::new(View {
            fixed: Arc::clone(&fixed),
            now: now.clone(),
            exits: 0,
            removed: false,
            execs: Vec::new(),
            timings: Arc::clone(&timings),
        });
        let (view, receiver) = watch::channel(view);
        let link = match origin {
            Origin::Resting => None,
            Origin::Adopted(link) => Some(link),
        };
        let container = Self {
            launcher,
            fixed,
            now,
            inbox,
            view,
            link,
            shim: None,
            pending: HashMap::new(),
            waiting: Vec::new(),
            execs: BTreeMap::new(),
            ended_execs: VecDeque::new(),
            after_end: Vec::new(),
            kill_at: None,
            restart_at: None,
            last_delay: None,
            exits: 0,
            timings,
            removed: false,
        };
        (container, receiver)
    }

    /// Runs until the container is removed or the engine lets go of it.
    pub(crate) async fn run(mut self, start_now: bool) {
        if start_now && let Err(error) = self.start().await {
            tracing::warn!(container = %self.fixed.id, error = havre_base::chain(&error), "restart failed");
            self.start_failed(&error);
        }
        while !self.removed {
            let timer = match (self.kill_at, self.restart_at) {
                (Some(kill), Some(restart)) => Some(kill.min(restart)),
                (one, other) => one.or(other),
            };
            tokio::select! {
                biased;
                packet = next_packet(&mut self.link) => self.on_packet(packet).await,
                () = until(timer) => self.on_timer().await,
                command = self.inbox.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Start(reply) => {
                let result = self.start_by_user().await;
                answer(reply, result);
            }
            Command::Stop { signal, grace, reply } => self.stop(signal, grace, AfterEnd::Answer(reply)).await,
            Command::Restart { signal, grace, reply } => {
                if self.now.state.is_alive() {
                    self.stop(signal, grace, AfterEnd::Start(reply)).await;
                } else {
                    self.restart_at = None;
                    let result = self.start_fresh().await;
                    answer(reply, result);
                }
            }
            Command::Kill { signal, reply } => self.kill(signal, reply).await,
            Command::Remove { force, reply } => self.remove_by_user(force, reply).await,
            Command::Attach { attachment, reply } => self.attach(attachment, reply).await,
            Command::Announce(reply) => {
                let announced = (!self.now.state.is_alive()).then(|| {
                    let (sender, receiver) = oneshot::channel();
                    self.waiting.push(receiver);
                    sender
                });
                answer(reply, Ok(announced));
            }
            Command::Resize { target, rows, columns, reply } => {
                self.ask(Ask::Resize { target, rows, columns }, Vec::new(), Pending::Plain(reply)).await;
            }
            Command::Freeze { frozen, reply } => {
                let result = self.freeze(frozen);
                answer(reply, result);
            }
            Command::Rename { name, reply } => {
                let old = std::mem::replace(&mut self.now.name, name);
                self.publish();
                self.happened("rename", &[("oldName", format!("/{old}"))]);
                let result = self.record().await;
                answer(reply, result);
            }
            Command::ExecCreate { spec, reply } => {
                let result = self.exec_create(*spec);
                answer(reply, result);
            }
            Command::ExecStart { id, attachment, console, reply } => {
                self.exec_start(id, attachment, console, reply).await;
            }
            Command::ExecInspect { id, reply } => {
                let view = self.execs.get(&id).cloned();
                answer(reply, view.ok_or_else(|| EngineError::NoExec(id.to_string())));
            }
        }
    }

    // ---- start -------------------------------------------------------------------------------

    async fn start_by_user(&mut self) -> Result<(), EngineError> {
        match self.now.state {
            State::Running { .. } => Err(EngineError::Unchanged(self.fixed.id.clone())),
            State::Paused { .. } => {
                Err(EngineError::State("cannot start a paused container, try unpause instead".into()))
            }
            State::Removing => {
                Err(EngineError::State("container is marked for removal and cannot be started".into()))
            }
            State::Created | State::Exited(_) | State::Restarting(_) => self.start_fresh().await,
        }
    }

    /// A start that a user asked for: counters begin again.
    async fn start_fresh(&mut self) -> Result<(), EngineError> {
        self.now.restart_count = 0;
        self.now.stopped_by_user = false;
        self.last_delay = None;
        let result = self.start().await;
        if let Err(error) = &result {
            self.start_failed(error);
            if self.fixed.spec.auto_remove {
                self.remove_now();
            }
            return result;
        }
        self.remember_wish().await
    }

    /// Whether a user wants the container to run decides what a restart policy does after a power loss: it
    /// is durable before the user is answered. Without a policy nothing depends on it.
    async fn remember_wish(&self) -> Result<(), EngineError> {
        if self.fixed.spec.restart == RestartPolicy::No || self.removed {
            return Ok(());
        }
        self.record().await
    }

    /// Makes the present state durable.
    async fn record(&self) -> Result<(), EngineError> {
        self.launcher.commit(Batch::new().put(STATES, self.fixed.id.as_str(), &self.now)).await
    }

    async fn start(&mut self) -> Result<(), EngineError> {
        self.restart_at = None;
        self.now.start_error = None;
        self.await_clean().await;
        let waiting = self.arrived().await;
        let launched = self.launcher.launch(&self.fixed, waiting)?;
        self.shim = Some(launched.child);
        let mut link = launched.link;
        let begun = loop {
            match link.recv().await {
                Ok(Some(Packet::Event(Event::Started { status, timings, warnings }))) => {
                    break Ok((status, timings, warnings));
                }
                Ok(Some(Packet::Event(Event::StartFailed(failure)))) => {
                    break Err(EngineError::Start { kind: failure.kind, message: failure.message });
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break Err(EngineError::Shim(self.fixed.id.clone())),
            }
        };
        match begun {
            Ok((status, timings, warnings)) => {
                for warning in warnings {
                    tracing::warn!(container = %self.fixed.id, warning, "limit not applied");
                }
                self.link = Some(link);
                let mut steps = launched.timings;
                steps.extend(timings);
                tracing::debug!(container = %self.fixed.id, nanos = ?steps, "started");
                self.timings = Arc::new(steps);
                self.started(&status);
                for (spec, fd) in launched.more_clients {
                    self.ask_quietly(Ask::Attach { target: Target::Init, spec }, vec![fd]).await;
                }
                Ok(())
            }
            Err(error) => {
                drop(link);
                self.reap_shim();
                self.launcher.tidy(&self.fixed.id);
                Err(error)
            }
        }
    }

    /// The clients to attach from the first byte on. One that was announced is waited for: its request was
    /// answered, so it may count on seeing everything.
    async fn arrived(&mut self) -> Vec<Attachment> {
        let mut clients = Vec::new();
        let deadline = Instant::now() + ARRIVES_WITHIN;
        for client in std::mem::take(&mut self.waiting) {
            if let Ok(Ok(client)) = tokio::time::timeout_at(deadline, client).await {
                clients.push(client);
            }
        }
        if !clients.is_empty() {
            self.happened("attach", &[]);
        }
        clients
    }

    fn started(&mut self, status: &Status) {
        self.now.started_at = Some(status.started_at);
        self.now.oom_killed = false;
        self.apply(Change::Started { pid: status.pid, at: status.started_at });
        self.happened("start", &[]);
    }

    fn start_failed(&mut self, error: &EngineError) {
        self.now.start_error = Some((havre_base::chain(error), exit_code_of(error)));
        if matches!(self.now.state, State::Restarting(_)) {
            self.apply(Change::GaveUp);
        } else {
            self.changed();
        }
    }

    // ---- stop and kill -----------------------------------------------------------------------

    async fn stop(&mut self, signal: Option<i32>, grace: Option<i64>, then: AfterEnd) {
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
        self.signal_quietly(signal).await;
        let at = self.fixed.spec.grace(grace).map(|grace| Instant::now() + grace);
        // The earliest of several stops decides.
        self.kill_at = match (self.kill_at, at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    async fn kill(&mut self, signal: i32, reply: Reply<()>) {
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
            self.signal_quietly(signal).await;
        } else {
            self.ask(Ask::Signal { target: Target::Init, signal }, Vec::new(), Pending::Plain(reply)).await;
        }
    }

    async fn on_timer(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.happened("kill", &[("signal", KILL.to_string())]);
            self.signal_quietly(KILL).await;
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

    async fn signal_quietly(&mut self, signal: i32) {
        self.ask_quietly(Ask::Signal { target: Target::Init, signal }, Vec::new()).await;
    }

    /// A frozen process takes no signal.
    fn thaw_for_signal(&mut self) {
        if matches!(self.now.state, State::Paused { .. })
            && let Err(error) = self.freeze(false)
        {
            tracing::warn!(container = %self.fixed.id, error = havre_base::chain(&error), "cannot thaw");
        }
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), EngineError> {
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

    // ---- the end of a run --------------------------------------------------------------------

    async fn on_packet(&mut self, packet: std::io::Result<Option<Packet>>) {
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
    async fn lost_supervisor(&mut self) {
        self.end_link();
        if !self.now.state.is_alive() {
            return;
        }
        tracing::error!(container = %self.fixed.id, "the supervisor was killed; ending its container");
        let exit = self.launcher.recorded_exit(&self.fixed.id).unwrap_or_else(|| {
            self.launcher.destroy(&self.fixed);
            Exit { code: SUPERVISOR_LOST, oom_killed: false, at: SystemClock.now() }
        });
        self.ended(exit).await;
    }

    async fn ended(&mut self, exit: Exit) {
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
        self.kill_at = None;
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
        match delay {
            Some(delay) => {
                self.last_delay = Some(delay);
                self.restart_at = Some(Instant::now() + delay);
                self.apply(Change::DiedForNow(exit));
            }
            None => self.apply(Change::Died(exit)),
        }
        self.happened("die", &[("exitCode", code.to_string())]);
        for then in std::mem::take(&mut self.after_end) {
            self.finish_one(then).await;
        }
        if self.fixed.spec.auto_remove && !self.now.state.is_alive() && !self.removed {
            self.remove_now();
        }
    }

    /// The shim has nothing more to say.
    fn end_link(&mut self) {
        self.link = None;
        self.reap_shim();
        if !self.now.state.is_alive() {
            self.launcher.tidy(&self.fixed.id);
        }
    }

    /// Waits until the last run's shim has cleaned up: its control group has the name of the next one's.
    async fn await_clean(&mut self) {
        while let Some(link) = &mut self.link {
            match tokio::time::timeout(CLEAN_WITHIN, link.recv()).await {
                Ok(Ok(Some(Packet::Event(Event::Clean)) | None) | Err(_)) | Err(_) => self.end_link(),
                Ok(Ok(Some(_))) => {}
            }
        }
    }

    async fn finish_one(&mut self, then: AfterEnd) {
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
    fn reap_shim(&mut self) {
        if let Some(child) = self.shim.take() {
            self.launcher.reaper.add(child);
        }
    }

    // ---- removal -----------------------------------------------------------------------------

    async fn remove_by_user(&mut self, force: bool, reply: Reply<()>) {
        let name = self.now.name.clone();
        match (&self.now.state, force) {
            (State::Running { .. } | State::Paused { .. }, true) => {
                self.now.stopped_by_user = true;
                self.thaw_for_signal();
                self.after_end.push(AfterEnd::Remove(reply));
                self.happened("kill", &[("signal", KILL.to_string())]);
                self.signal_quietly(KILL).await;
            }
            (State::Running { .. }, false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is running: stop the container before removing or force remove"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Paused { .. }, false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is paused and must be unpaused first"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Restarting(_), false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is restarting: stop the container before removing or force remove"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Created | State::Exited(_) | State::Restarting(_) | State::Removing, _) => {
                let result = self.remove_durably().await;
                answer(reply, result);
            }
        }
    }

    /// Removes; the database has forgotten the container before the answer.
    async fn remove_durably(&mut self) -> Result<(), EngineError> {
        let id = self.fixed.id.as_str();
        let batch = Batch::new().delete(CONTAINERS, id).delete(STATES, id);
        self.launcher.commit(batch).await?;
        self.remove_everything();
        Ok(())
    }

    /// Removes; the database forgets behind. For containers that asked to be removed: a start of the
    /// daemon removes what is left of one.
    fn remove_now(&mut self) {
        let id = self.fixed.id.as_str();
        let batch = Batch::new().delete(CONTAINERS, id).delete(STATES, id);
        self.launcher.enqueue(batch);
        self.remove_everything();
    }

    fn remove_everything(&mut self) {
        self.restart_at = None;
        self.launcher.remove(&self.fixed.id);
        self.launcher.forget(&self.fixed.id, &self.now.name);
        self.removed = true;
        self.happened("destroy", &[]);
        self.publish();
    }

    // ---- streams and execs -------------------------------------------------------------------

    async fn attach(&mut self, attachment: Attachment, reply: Reply<()>) {
        match self.now.state {
            State::Running { .. } | State::Paused { .. } => {
                let (spec, fd) = attachment;
                self.happened("attach", &[]);
                let ask = Ask::Attach { target: Target::Init, spec };
                self.ask(ask, vec![fd], Pending::Plain(reply)).await;
            }
            State::Created | State::Exited(_) | State::Restarting(_) => {
                let (sender, receiver) = oneshot::channel();
                sender.send(attachment).map(drop).unwrap_or(());
                self.waiting.push(receiver);
                answer(reply, Ok(()));
            }
            State::Removing => {
                answer(reply, Err(EngineError::State("container is marked for removal".into())));
            }
        }
    }

    fn exec_create(&mut self, spec: ExecSpec) -> Result<ExecId, EngineError> {
        let id = &self.fixed.id;
        match self.now.state {
            State::Running { .. } => {}
            State::Paused { .. } => {
                let text = format!("container {id} is paused, unpause the container before exec");
                return Err(EngineError::State(text));
            }
            State::Restarting(_) => {
                let text = format!("container {id} is restarting, wait until the container is running");
                return Err(EngineError::State(text));
            }
            State::Created | State::Exited(_) | State::Removing => {
                return Err(EngineError::State(format!("container {id} is not running")));
            }
        }
        let exec = ExecId::random();
        self.happened(&format!("exec_create: {}", spec.command.join(" ")), &[("execID", exec.to_string())]);
        self.execs.insert(exec.clone(), ExecView { spec, running: false, pid: 0, exit_code: None });
        self.launcher.remember_exec(&exec, &self.fixed.id);
        self.publish();
        Ok(exec)
    }

    async fn exec_start(
        &mut self,
        id: ExecId,
        attachment: Option<Attachment>,
        console: (u16, u16),
        reply: Reply<()>,
    ) {
        let Some(exec) = self.execs.get_mut(&id) else {
            return answer(reply, Err(EngineError::NoExec(id.to_string())));
        };
        if exec.running || exec.exit_code.is_some() {
            let text = format!("exec command {id} has already run");
            return answer(reply, Err(EngineError::State(text)));
        }
        let planned = self.launcher.plan_exec(&self.fixed, &exec.spec);
        let (process, filter) = match planned {
            Ok(planned) => planned,
            Err(error) => return answer(reply, Err(error)),
        };
        exec.running = true;
        let asked = if console == (0, 0) { exec.spec.console } else { console };
        let user = if exec.spec.user.is_empty() { &self.fixed.merged.user } else { &exec.spec.user };
        let config = ExecConfig {
            id: id.clone(),
            process,
            user: user.clone(),
            additional_groups: self.fixed.spec.group_add.clone(),
            open_stdin: exec.spec.attach_stdin && attachment.is_some(),
            console: asked,
        };
        let command = exec.spec.command.join(" ");
        self.happened(&format!("exec_start: {command}"), &[("execID", id.to_string())]);
        let (attach, client) = attachment.map_or((None, None), |(spec, fd)| (Some(spec), Some(fd)));
        let ask = Ask::Exec { exec: Box::new(config), attach, filter: filter.is_some() };
        let fds = client.into_iter().chain(filter).collect();
        self.ask(ask, fds, Pending::Exec(id, reply)).await;
    }

    fn exec_ended(&mut self, id: &ExecId, code: i32) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        exec.running = false;
        exec.exit_code = Some(code);
        self.ended_execs.push_back(id.clone());
        if self.ended_execs.len() > ENDED_EXECS
            && let Some(oldest) = self.ended_execs.pop_front()
        {
            self.execs.remove(&oldest);
            self.launcher.forget_exec(&oldest);
        }
        self.happened("exec_die", &[("execID", id.to_string()), ("exitCode", code.to_string())]);
        self.publish();
    }

    fn on_answer(&mut self, seq: u64, given: Answer) {
        match (self.pending.remove(&seq), given) {
            (Some(Pending::Plain(reply)), Answer::Failed(failure)) => {
                answer(reply, Err(self.refused(failure)));
            }
            (Some(Pending::Plain(reply)), _) => answer(reply, Ok(())),
            (Some(Pending::Exec(id, reply)), Answer::ExecStarted { pid }) => {
                if let Some(exec) = self.execs.get_mut(&id) {
                    exec.pid = pid;
                }
                self.publish();
                answer(reply, Ok(()));
            }
            (Some(Pending::Exec(id, reply)), Answer::Failed(failure)) => {
                let error = EngineError::Exec { kind: failure.kind, message: failure.message };
                self.exec_ended(&id, exit_code_of(&error));
                answer(reply, Err(error));
            }
            (Some(Pending::Exec(_, reply)), Answer::Done | Answer::Status(_)) => answer(reply, Ok(())),
            (None, _) => {}
        }
    }

    fn refused(&self, failure: Failure) -> EngineError {
        match failure.kind {
            FailureKind::Gone => EngineError::State(format!("container {} is not running", self.fixed.id)),
            FailureKind::Invalid | FailureKind::NotFound | FailureKind::NotExecutable => {
                EngineError::Invalid(failure.message)
            }
            FailureKind::Internal => EngineError::State(failure.message),
        }
    }

    async fn ask(&mut self, ask: Ask, fds: Vec<OwnedFd>, pending: Pending) {
        let sent = match &mut self.link {
            _ if !self.now.state.is_alive() => {
                Err(EngineError::State(format!("container {} is not running", self.fixed.id)))
            }
            None => Err(EngineError::State(format!("container {} is not running", self.fixed.id))),
            Some(link) => {
                let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
                link.send(ask, &borrowed).await.map_err(|_| EngineError::Shim(self.fixed.id.clone()))
            }
        };
        match sent {
            Ok(seq) => {
                self.pending.insert(seq, pending);
            }
            Err(error) => {
                let reply = match pending {
                    Pending::Plain(reply) => reply,
                    Pending::Exec(id, reply) => {
                        self.exec_ended(&id, SUPERVISOR_LOST);
                        reply
                    }
                };
                answer(reply, Err(error));
            }
        }
    }

    async fn ask_quietly(&mut self, ask: Ask, fds: Vec<OwnedFd>) {
        let (reply, _unread) = oneshot::channel();
        self.ask(ask, fds, Pending::Plain(reply)).await;
    }

    // ---- telling -----------------------------------------------------------------------------

    fn apply(&mut self, change: Change) {
        match self.now.state.clone().apply(change) {
            Ok(state) => self.now.state = state,
            Err(error) => tracing::error!(container = %self.fixed.id, %error, "impossible transition"),
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.launcher.enqueue(Batch::new().put(STATES, self.fixed.id.as_str(), &self.now));
        self.publish();
    }

    fn publish(&self) {
        let execs = self.execs.iter().filter(|(_, exec)| exec.exit_code.is_none()).map(|(id, _)| id.clone());
        self.view.send_replace(Arc::new(View {
            fixed: Arc::clone(&self.fixed),
            now: self.now.clone(),
            exits: self.exits,
            removed: self.removed,
            execs: execs.collect(),
            timings: Arc::clone(&self.timings),
        }));
    }

    fn happened(&self, action: &str, more: &[(&str, String)]) {
        let mut attributes = self.fixed.merged.labels.clone();
        attributes.insert("image".into(), self.fixed.spec.image.clone());
        attributes.insert("name".into(), self.now.name.to_string());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.launcher.events.publish("container", action, self.fixed.id.as_str(), attributes);
    }
}

/// A caller that went away needs no answer.
fn answer<T>(reply: Reply<T>, result: Result<T, EngineError>) {
    reply.send(result).map(drop).unwrap_or(());
}

async fn next_packet(link: &mut Option<Link>) -> std::io::Result<Option<Packet>> {
    match link {
        Some(link) => link.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Docker's name for the log in a container's folder.
pub(crate) fn log_path(dir: &std::path::Path, id: &havre_base::ContainerId) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}
