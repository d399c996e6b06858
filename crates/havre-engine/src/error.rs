//! What can go wrong in the engine, in the words Docker's users know.

use std::io;
use std::path::PathBuf;

use havre_base::{Classify, ContainerId, ContainerName, ErrorKind};
use havre_image::ImageError;
use havre_net::NetError;
use havre_runtime::RuntimeError;
use havre_runtime::shim::protocol::FailureKind;
use havre_store::StoreError;

/// An engine operation failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name or id.
    #[error("No such container: {0}")]
    NoContainer(String),
    /// Several containers have ids that begin so.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoExec(String),
    /// The name belongs to another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{user}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The wanted name.
        name: ContainerName,
        /// Who has it.
        user: ContainerId,
    },
    /// A container has no such file.
    #[error("Could not find the file {path} in container {container}")]
    NoFile {
        /// As asked.
        path: String,
        /// As asked.
        container: String,
    },
    /// Nothing can be written there.
    #[error("{0}")]
    ReadOnly(&'static str),
    /// An archive cannot be unpacked.
    #[error("{what}")]
    Archive {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: havre_archive::ArchiveError,
    },
    /// The request asks for something impossible.
    #[error("{0}")]
    Invalid(String),
    /// Known, but not built yet.
    #[error("not yet supported: {0}")]
    NotYet(String),
    /// The container's state forbids it.
    #[error("{0}")]
    State(String),
    /// Processes were killed and do not end.
    #[error(
        "cannot {what} container \"/{name}\": tried to kill container, but did not receive an exit event: {why}"
    )]
    Stuck {
        /// What was tried.
        what: &'static str,
        /// The container.
        name: ContainerName,
        /// Which processes, where in the kernel.
        why: String,
    },
    /// The container already is as asked.
    #[error("container {0} is already in the wanted state")]
    Unchanged(ContainerId),
    /// The runtime could not start a process.
    #[error("failed to create task for container: {message}")]
    Start {
        /// What class of failure.
        kind: FailureKind,
        /// What the runtime said.
        message: String,
    },
    /// The runtime could not start an exec.
    #[error("OCI runtime exec failed: exec failed: unable to start container process: {message}")]
    Exec {
        /// What class of failure.
        kind: FailureKind,
        /// What the runtime said.
        message: String,
    },
    /// The kernel refused new limits; the old ones hold.
    #[error("Cannot update container {id}")]
    Update {
        /// The container.
        id: ContainerId,
        /// Why.
        #[source]
        source: RuntimeError,
    },
    /// The supervisor is gone or does not answer.
    #[error("the supervisor of container {0} does not answer")]
    Shim(ContainerId),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// An image operation failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An operation on networks failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// Makes [`EngineError::Io`] from any error that is one.
    pub(crate) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, source: error.into() }
    }
}

impl Classify for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoContainer(_) | Self::NoExec(_) | Self::NoFile { .. } => ErrorKind::NotFound,
            Self::Ambiguous(_) | Self::Invalid(_) => ErrorKind::InvalidParameter,
            Self::NameInUse { .. } | Self::State(_) => ErrorKind::Conflict,
            Self::ReadOnly(_) => ErrorKind::Forbidden,
            Self::Archive { source, .. } => source.kind(),
            Self::NotYet(_) => ErrorKind::NotImplemented,
            Self::Unchanged(_) => ErrorKind::NotModified,
            Self::Start { kind, .. } | Self::Exec { kind, .. } => match kind {
                FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::Invalid => {
                    ErrorKind::InvalidParameter
                }
                FailureKind::Gone => ErrorKind::Conflict,
                FailureKind::Internal => ErrorKind::Internal,
            },
            Self::Update { .. } | Self::Stuck { .. } | Self::Shim(_) | Self::Io { .. } => ErrorKind::Internal,
            Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Image(error) => error.kind(),
            Self::Net(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
