//! What parent and child say to each other while the child becomes the user's program.
//!
//! Invariants: the channel is close-on-exec, so its end after `Executing` means that the program runs;
//! an error of the child arrives as the same variant it had there; nothing in a message is trusted by the
//! parent beyond its shape, and the child speaks only before the user's program exists.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use havre_sys::seqpacket;
use serde::{Deserialize, Serialize};

use crate::error::{RuntimeError, Step};

/// Steps whose time is measured, in order.
pub(crate) const STEPS: [&str; 12] = [
    "spec",
    "root",
    "clone",
    "namespaces",
    "mounts",
    "devices",
    "masks",
    "pivot",
    "identity",
    "confine",
    "hooks",
    "total",
];

/// A message of the child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromChild {
    /// The process that will be the container was made; its pidfd comes along. The speaker ends.
    Made { pid: i32 },
    /// The terminal's other side comes along.
    Terminal,
    /// Namespaces and mounts are there, the root is not changed yet: hooks may run.
    Hooks,
    /// Everything is done but the waiting at the gate.
    Ready,
    /// The next call is execve: the end of the channel is success. Microsteps come along.
    Executing { timings: Vec<(usize, u64)> },
    /// It failed.
    Failed(Report),
}

/// An error on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    kind: Kind,
    text: String,
    detail: String,
    errno: Option<i32>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Invalid,
    Unsupported,
    CommandNotFound,
    NotExecutable,
    User,
    WorkingDirectory,
    Setup,
    Hook,
    State,
    NoSuchContainer,
}

impl Report {
    pub(crate) fn of(error: &RuntimeError) -> Self {
        let plain = |kind, text: &str| Self { kind, text: text.into(), detail: String::new(), errno: None };
        match error {
            RuntimeError::Invalid { field, reason } => {
                Self { detail: reason.clone(), ..plain(Kind::Invalid, field) }
            }
            RuntimeError::Unsupported { field, reason } => {
                Self { detail: reason.clone(), ..plain(Kind::Unsupported, field) }
            }
            RuntimeError::CommandNotFound(text) => plain(Kind::CommandNotFound, text),
            RuntimeError::NotExecutable(text) => plain(Kind::NotExecutable, text),
            RuntimeError::User(text) => plain(Kind::User, text),
            RuntimeError::WorkingDirectory(text) => plain(Kind::WorkingDirectory, text),
            RuntimeError::Setup { step, source } => {
                Self { detail: source.to_string(), errno: source.raw_os_error(), ..plain(Kind::Setup, step) }
            }
            RuntimeError::Hook(text) => plain(Kind::Hook, text),
            RuntimeError::State(text) => plain(Kind::State, text),
            RuntimeError::NoSuchContainer(text) => plain(Kind::NoSuchContainer, text),
        }
    }

    pub(crate) fn into_error(self) -> RuntimeError {
        match self.kind {
            Kind::Invalid => RuntimeError::Invalid { field: self.text, reason: self.detail },
            Kind::Unsupported => RuntimeError::Unsupported { field: self.text, reason: self.detail },
            Kind::CommandNotFound => RuntimeError::CommandNotFound(self.text),
            Kind::NotExecutable => RuntimeError::NotExecutable(self.text),
            Kind::User => RuntimeError::User(self.text),
            Kind::WorkingDirectory => RuntimeError::WorkingDirectory(self.text),
            Kind::Setup => RuntimeError::Setup {
                step: self.text,
                source: self
                    .errno
                    .map_or_else(|| io::Error::other(self.detail), io::Error::from_raw_os_error),
            },
            Kind::Hook => RuntimeError::Hook(self.text),
            Kind::State => RuntimeError::State(self.text),
            Kind::NoSuchContainer => RuntimeError::NoSuchContainer(self.text),
        }
    }
}

/// One side of the channel.
pub(crate) struct Link(Option<OwnedFd>);

impl Link {
    pub(crate) fn pair() -> Result<(Self, Self), RuntimeError> {
        let (parent, child) = seqpacket::pair().step("make the channel to the child")?;
        Ok((Self(Some(parent)), Self(Some(child))))
    }

    /// The end of a connection that is used as a link.
    pub(crate) fn over(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }

    /// A link whose other end nobody holds any more: what is said is lost.
    pub(crate) fn silent() -> Self {
        Self(None)
    }

    fn socket(&self) -> Result<&OwnedFd, RuntimeError> {
        self.0.as_ref().ok_or_else(|| RuntimeError::State("nobody is at the other end".into()))
    }

    /// Another descriptor of the same end.
    /// Its end, while it is open.
    pub(crate) fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0.as_ref().map(std::os::fd::AsFd::as_fd)
    }

    pub(crate) fn duplicate(&self) -> Result<Self, RuntimeError> {
        rustix::io::fcntl_dupfd_cloexec(self.socket()?, 3)
            .map(|copy| Self(Some(copy)))
            .step("copy the channel")
    }

    pub(crate) fn say(&self, message: &FromChild, fd: Option<&OwnedFd>) -> Result<(), RuntimeError> {
        let Some(socket) = &self.0 else { return Ok(()) };
        let mut text = serde_json::to_vec(message).map_err(io::Error::from).step("speak to the parent")?;
        if text.len() > seqpacket::MAX_MESSAGE {
            // Only an error text can be as long.
            let short = Report {
                kind: Kind::Setup,
                text: "the error message is too long".into(),
                detail: String::new(),
                errno: None,
            };
            text = serde_json::to_vec(&FromChild::Failed(short)).map_err(io::Error::from).step("speak")?;
        }
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        seqpacket::send(socket, &text, &fds).step("speak to the parent")
    }

    /// The child's next message; `None` at the end.
    pub(crate) fn hear(&self) -> Result<Option<(FromChild, Option<OwnedFd>)>, RuntimeError> {
        let Some((bytes, mut fds)) = seqpacket::recv(self.socket()?).step("listen to the child")? else {
            return Ok(None);
        };
        let message = serde_json::from_slice(&bytes).map_err(io::Error::from).step("understand the child")?;
        Ok(Some((message, fds.pop())))
    }

    /// Lets the child go on.
    pub(crate) fn go(&self) -> Result<(), RuntimeError> {
        seqpacket::send(self.socket()?, b"go", &[]).step("let the child go on")
    }

    /// Waits until the parent lets us go on.
    pub(crate) fn wait(&self) -> Result<(), RuntimeError> {
        let mut buffer = [0; 8];
        match seqpacket::recv_into(self.socket()?, &mut buffer).step("wait for the parent")? {
            Some(_) => Ok(()),
            None => Err(RuntimeError::State("the parent has gone".into())),
        }
    }
}

/// Measures steps.
pub(crate) struct Stopwatch {
    last: Instant,
    steps: Vec<(usize, Duration)>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::with_capacity(STEPS.len()) }
    }

    /// The step called `name` ends now.
    pub(crate) fn lap(&mut self, name: &str) {
        let now = Instant::now();
        if let Some(index) = STEPS.iter().position(|step| *step == name) {
            self.steps.push((index, now - self.last));
        }
        self.last = now;
    }

    pub(crate) fn raw(&self) -> Vec<(usize, u64)> {
        self.steps
            .iter()
            .map(|(index, time)| (*index, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
            .collect()
    }

    pub(crate) fn named(raw: &[(usize, u64)]) -> Vec<(&'static str, Duration)> {
        raw.iter()
            .filter_map(|(index, nanos)| Some((*STEPS.get(*index)?, Duration::from_nanos(*nanos))))
            .collect()
    }

    /// `step=nanos,...`
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (index, nanos) in self.raw() {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(STEPS[index]);
            text.push('=');
            text.push_str(&nanos.to_string());
        }
        text
    }
}
