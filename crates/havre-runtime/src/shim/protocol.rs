//! What the daemon and a shim say to each other: JSON messages over a seqpacket socket, descriptors
//! beside them.
//!
//! Invariants: one packet is one message of at most [`MAX_MESSAGE`] bytes; every [`Request`] is answered
//! by exactly one [`Reply`] with its number; an [`Event`] is sent to every connected daemon once. The
//! first packet on the shim's standard input carries [`Hello`] and descriptors: the [`ShimConfig`] as
//! JSON in a memfd, the run folder's lock (held while the shim lives), the compiled seccomp filter if
//! there is one, the clients.

use std::collections::BTreeMap;
use std::path::PathBuf;

use havre_base::{ContainerId, ExecId, Timestamp};
use havre_oci::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use super::evidence::Evidence;

/// The largest packet either side sends, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The version of this protocol; a shim of another version is driven by its own daemon's rules, so it
/// only ever grows compatibly.
pub const VERSION: u32 = 1;

/// Everything a shim needs to run one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container.
    pub id: ContainerId,
    /// What to run. Its seccomp section is empty when a compiled filter is handed over.
    pub spec: Spec,
    /// The root filesystem.
    pub root: RootConfig,
    /// Docker's user text, resolved inside the root.
    pub user: String,
    /// `--group-add`, resolved inside the root.
    pub additional_groups: Vec<String>,
    /// The control group below each hierarchy, as `/havre/<id>`.
    pub cgroup: String,
    /// Standard input is a pipe that attached clients feed (else it is `/dev/null`).
    pub open_stdin: bool,
    /// Standard input closes when the first client that fed it goes away.
    pub stdin_once: bool,
    /// Where output is logged; nothing is kept when absent.
    pub log: Option<LogConfig>,
    /// The folder of the shim's socket and state file.
    pub run_dir: PathBuf,
    /// Run our own reaper as process 1.
    pub init: bool,
    /// Tell the payload what each step took: the daemon's steps, in nanoseconds, in `HAVRE_TRACE_ENGINE`, the
    /// runtime's in `HAVRE_TRACE`.
    pub trace: Option<Vec<(String, u64)>>,
    /// Terminal rows and columns at start; zero leaves the kernel's.
    pub console: (u16, u16),
    /// An external OCI runtime to use instead of our own.
    pub runtime: Option<ExternalRuntime>,
    /// The containers whose namespaces the spec joins, by the numbers of their first processes.
    #[serde(default)]
    pub donors: Vec<Donor>,
}

/// A container whose namespaces another one joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Donor {
    /// The container.
    pub id: ContainerId,
    /// Its first process, as the host numbered it when the daemon looked.
    pub pid: i32,
    /// Its control group below each hierarchy.
    pub cgroup: String,
}

/// An OCI runtime that is started as a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRuntime {
    /// Path of the program.
    pub path: PathBuf,
    /// Arguments before the command.
    pub args: Vec<String>,
}

/// The root filesystem of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RootConfig {
    /// An overlay mounted in the container's own mount namespace.
    Overlay {
        /// Read-only layers, topmost first.
        lowers: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// Overlay's own folder, on the same filesystem.
        work: PathBuf,
        /// Never sync: for containers whose data nobody reads after a crash.
        volatile: bool,
        /// An empty folder to mount on.
        target: PathBuf,
    },
    /// A folder as it is.
    Path(PathBuf),
}

/// The local log of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogConfig {
    /// The current file.
    pub path: PathBuf,
    /// Rotate at this size in bytes; zero never rotates.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub max_file: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// What each record says of the container.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// The first message to a new shim; the configuration comes beside it as a descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// A compiled seccomp filter comes after the configuration and the lock.
    pub filter: bool,
    /// The network namespace of the container, which is ready, comes after that.
    #[serde(default)]
    pub network: bool,
    /// Clients to attach before the container runs; their sockets are the last descriptors.
    pub clients: Vec<AttachSpec>,
}

/// Which process of a container is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The container's first process.
    Init,
    /// One exec.
    Exec(ExecId),
}

/// How a client's connection is fed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Bytes from the client go to the process.
    pub stdin: bool,
    /// The process's standard output goes to the client.
    pub stdout: bool,
    /// The process's standard error goes to the client.
    pub stderr: bool,
    /// Frame output with Docker's eight-byte headers.
    pub multiplexed: bool,
    /// Key sequence that detaches a client of a terminal; empty for none.
    pub detach_keys: Vec<u8>,
}

/// One exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Its id.
    pub id: ExecId,
    /// What to run.
    pub process: Process,
    /// Docker's user text, resolved inside the root.
    pub user: String,
    /// Supplementary groups, resolved inside the root.
    pub additional_groups: Vec<String>,
    /// Standard input is a pipe.
    pub open_stdin: bool,
    /// Terminal rows and columns at start; zero leaves the kernel's.
    pub console: (u16, u16),
}

/// What the daemon asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// What is the state? Answered with [`Answer::Status`].
    Status,
    /// Take the descriptor that comes along as a client.
    Attach {
        /// Whose streams.
        target: Target,
        /// Which streams, and how.
        spec: AttachSpec,
    },
    /// Start one more process. A descriptor beside it is attached before the process runs; a second or
    /// only one (see `filter`) is the compiled seccomp filter.
    Exec {
        /// What to run.
        exec: Box<ExecConfig>,
        /// How the client is fed, when one came along.
        attach: Option<AttachSpec>,
        /// The last descriptor is a compiled seccomp filter.
        filter: bool,
    },
    /// Send a signal.
    Signal {
        /// To which process.
        target: Target,
        /// The kernel's signal number.
        signal: i32,
        /// For which request, in a word that is kept with the exit.
        #[serde(default)]
        by: String,
    },
    /// Set the terminal's size.
    Resize {
        /// Of which process.
        target: Target,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Keep the descriptors that come along, in place of those kept before, until the container ends.
    Keep,
    /// Give them to me too. Answered with [`Answer::Kept`].
    Kept,
}

/// One numbered request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The caller's number for it.
    pub seq: u64,
    /// What is asked.
    pub ask: Ask,
}

/// Why a process could not be started, in the terms the engine acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The command does not exist: Docker's exit code 127.
    NotFound,
    /// The command cannot be executed: Docker's exit code 126.
    NotExecutable,
    /// The request itself is wrong: user, working directory, option.
    Invalid,
    /// The kernel or the machine refused.
    Internal,
    /// No such process here (it may have ended).
    Gone,
}

/// A failure as told to the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub kind: FailureKind,
    /// What a user reads.
    pub message: String,
}

/// What a shim answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// An exec runs.
    ExecStarted {
        /// Its process id on the host.
        pid: i32,
    },
    /// The state now.
    Status(Box<Status>),
    /// What is kept comes along.
    Kept,
    /// It failed.
    Failed(Failure),
}

/// One numbered answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub seq: u64,
    /// The answer.
    pub answer: Answer,
}

/// How the container's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 plus the signal.
    pub code: i32,
    /// The kernel killed a process of the container for its memory limit.
    pub oom_killed: bool,
    /// When.
    pub at: Timestamp,
    /// What is known beyond that. Older records have none.
    #[serde(default)]
    pub evidence: Box<Evidence>,
}

/// What a shim knows; also the content of its state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The shim's own process id.
    pub shim_pid: i32,
    /// Process 1 of the container, as the host numbers it.
    pub pid: i32,
    /// When it started.
    pub started_at: Timestamp,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// Running execs: id and process id.
    pub execs: Vec<(ExecId, i32)>,
    /// Processes of the container that the kernel killed for its memory limit.
    pub oom_kills: u64,
}

/// What a shim tells unasked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// The container runs; sent once, to the daemon that started the shim.
    Started {
        /// The state at that moment.
        status: Status,
        /// Nanoseconds each step took.
        timings: Vec<(String, u64)>,
        /// What could not be limited on this kernel, in words.
        warnings: Vec<String>,
    },
    /// The container could not be started; the shim ends.
    StartFailed(Failure),
    /// The container's first process ended, and its log is complete.
    Exited(Exit),
    /// After [`Event::Exited`]: the control group is gone too, so the container can be started again.
    Clean,
    /// An exec ended.
    ExecExited {
        /// Which.
        id: ExecId,
        /// Exit status, or 128 plus the signal.
        code: i32,
    },
    /// The kernel killed a process of the container for its memory limit.
    Oom,
    /// A client left with the detach keys.
    Detached(Target),
}

/// One packet from shim to daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Packet {
    /// An answer.
    Reply(Reply),
    /// An event.
    Event(Event),
}

/// The name of the socket in the run folder.
pub const SOCKET: &str = "shim.sock";
/// The name of the state file in the run folder.
pub const STATE: &str = "state.json";
