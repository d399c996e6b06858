//! One container's task: every change of the container goes through its inbox, in order.
//!
//! Invariants: the kernel is touched only by this task and the shim it talks to; a change is applied,
//! then queued for the database, then published; nothing here waits for a client or for the
//! container: what takes long is a deadline or an event in the loop.

mod end;
mod execs;
mod leases;
mod network;
mod removal;
mod start;
mod stop;
mod stuck;
mod update;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use havre_base::ExecId;
use havre_runtime::shim::protocol::{Ask, AttachSpec, Packet, Target};
use havre_store::db::Batch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use leases::{Access, Granted, Lease};

use crate::EngineError;
use crate::launcher::Launcher;
use crate::link::Link;
use crate::record::{Changing, Fixed, STATES, View};
use crate::spec::ExecSpec;
use crate::state::Change;

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

pub use update::{Revised, Revision};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// A client's connection, and how it wants to be fed.
pub type Attachment = (AttachSpec, OwnedFd);

/// What can be asked of a container.
pub(crate) enum Command {
    Resume,
    Start(Reply<()>),
    Stop { signal: Option<i32>, grace: Option<i64>, reply: Reply<()> },
    Restart { signal: Option<i32>, grace: Option<i64>, reply: Reply<()> },
    Kill { signal: i32, reply: Reply<()> },
    Remove { force: bool, reply: Reply<()> },
    Attach { attachment: Attachment, reply: Reply<()> },
    Announce(Reply<Option<oneshot::Sender<Attachment>>>),
    Resize { target: Target, rows: u16, columns: u16, reply: Reply<()> },
    Freeze { frozen: bool, reply: Reply<()> },
    Lease { access: Access, reply: Reply<Granted> },
    Happened { action: &'static str, more: Vec<(&'static str, String)> },
    Connect { spec: Box<havre_net::networks::EndpointSpec>, reply: Reply<()> },
    Disconnect { network: String, force: bool, reply: Reply<()> },
    MendNetworks,
    Rename { name: havre_base::ContainerName, reply: Reply<()> },
    Update { revise: Revision, reply: Reply<Vec<String>> },
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
    leases: leases::Leases,
    kill_at: Option<Instant>,
    /// When those who wait for the end of a killed process are told that it does not come.
    ended_by: Option<Instant>,
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
            leases: leases::Leases::default(),
            kill_at: None,
            ended_by: None,
            restart_at: None,
            last_delay: None,
            exits: 0,
            timings,
            removed: false,
        };
        (container, receiver)
    }

    /// Runs until the container is removed or the engine lets go of it.
    pub(crate) async fn run(mut self) {
        while !self.removed {
            let timer =
                [self.kill_at, self.ended_by, self.restart_at, self.leases.until].into_iter().flatten().min();
            tokio::select! {
                biased;
                packet = next_packet(&mut self.link) => self.on_packet(packet).await,
                () = until(timer) => self.on_timer().await,
                () = self.leases.returned() => self.resume().await,
                command = self.inbox.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        if let Some(command) = self.put_off(command) {
            self.obey(command).await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Lease { access, reply } => self.lease(access, reply),
            Command::Happened { action, more } => self.happened(action, &more),
            // As its restart policy says, when the engine begins.
            Command::Resume => {
                if !self.now.state.is_alive()
                    && let Err(error) = self.start().await
                {
                    tracing::warn!(container = %self.fixed.id, error = havre_base::chain(&error), "restart failed");
                    self.start_failed(&error);
                }
            }
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
                    if result.is_ok() {
                        self.happened("restart", &[]);
                    }
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
                if target == Target::Init && self.fixed.spec.tty && self.now.state.is_alive() {
                    self.happened("resize", &[("height", rows.to_string()), ("width", columns.to_string())]);
                }
                self.ask(Ask::Resize { target, rows, columns }, Vec::new(), Pending::Plain(reply)).await;
            }
            Command::Freeze { frozen, reply } => {
                let result = self.freeze(frozen);
                answer(reply, result);
            }
            Command::Connect { spec, reply } => {
                let result = self.connect(*spec).await;
                answer(reply, result);
            }
            Command::Disconnect { network, force, reply } => {
                let result = self.leave(&network, force).await;
                answer(reply, result);
            }
            Command::MendNetworks => self.mend_networks().await,
            Command::Rename { name, reply } => {
                let old = std::mem::replace(&mut self.now.name, name);
                self.launcher.fabric.networks().rename(&self.fixed.id, self.now.name.as_str());
                self.publish();
                self.happened("rename", &[("oldName", format!("/{old}"))]);
                let result = self.record().await;
                answer(reply, result);
            }
            Command::Update { revise, reply } => {
                let result = self.update(revise).await;
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
