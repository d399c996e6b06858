//! What can go wrong between a spec and a process.
//!
//! Invariants: the message names the step or the field; the texts of `Command`, `NotExecutable` and
//! `User` are the ones Docker's users and their scripts know. An error of the child arrives at the
//! parent as the same variant it had there.

use std::io;

use havre_base::{Classify, ErrorKind};

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The spec asks for something impossible or contradictory.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// The field of the spec.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The spec asks for something that this runtime or this kernel cannot enforce.
    #[error("{field} is not supported: {reason}")]
    Unsupported {
        /// The field of the spec.
        field: String,
        /// Why.
        reason: String,
    },
    /// The program does not exist in the container (exit code 127).
    #[error("{0}")]
    CommandNotFound(String),
    /// The program exists and cannot be executed (exit code 126).
    #[error("{0}")]
    NotExecutable(String),
    /// The user or a group does not exist in the container, or is no id.
    #[error("{0}")]
    User(String),
    /// The working directory cannot be used.
    #[error("{0}")]
    WorkingDirectory(String),
    /// A step of the setting-up failed.
    #[error("{step}")]
    Setup {
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hook failed.
    #[error("{0}")]
    Hook(String),
    /// The container or process is not in the state that the operation needs.
    #[error("{0}")]
    State(String),
    /// There is no such container.
    #[error("container {0} does not exist")]
    NoSuchContainer(String),
}

impl Classify for RuntimeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. }
            | Self::CommandNotFound(_)
            | Self::NotExecutable(_)
            | Self::User(_)
            | Self::WorkingDirectory(_) => ErrorKind::InvalidParameter,
            Self::Unsupported { .. } => ErrorKind::NotImplemented,
            Self::Setup { .. } | Self::Hook(_) => ErrorKind::Internal,
            Self::State(_) => ErrorKind::Conflict,
            Self::NoSuchContainer(_) => ErrorKind::NotFound,
        }
    }
}

impl RuntimeError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), reason: reason.into() }
    }

    /// The exit code that Docker's command line gives for an error of starting a program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CommandNotFound(_) => 127,
            Self::NotExecutable(_) => 126,
            _ => 125,
        }
    }
}

/// Names the step at which a system call failed.
pub(crate) trait Step<T> {
    /// The error as one of the step `name`.
    fn step(self, name: impl Into<String>) -> Result<T, RuntimeError>;

    /// The same, with a name that is only made when needed.
    fn step_with<N: Into<String>>(self, name: impl FnOnce() -> N) -> Result<T, RuntimeError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, name: impl Into<String>) -> Result<T, RuntimeError> {
        self.map_err(|error| RuntimeError::Setup { step: name.into(), source: error.into() })
    }

    fn step_with<N: Into<String>>(self, name: impl FnOnce() -> N) -> Result<T, RuntimeError> {
        self.map_err(|error| RuntimeError::Setup { step: name().into(), source: error.into() })
    }
}
