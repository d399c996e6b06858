//! The container log on disk: Docker's `json-file` format, written by the shim, read by the daemon.
//!
//! One record a line: `{"log":"text\n","stream":"stdout","time":"2026-01-02T15:04:05.123Z"}`. The newest
//! file is `path`, older ones `path.1`, `path.2` and so on (`.gz` behind it when compressed).
//!
//! Invariants: the files together never exceed `max_size * max_file` (plus one record); records of one
//! stream keep their order; a crash at any instruction costs at most the record being written, and what
//! follows a torn record is read normally. The default is bounded: 10 MiB in each of three files.
//! Not here: other log drivers; who logs and why.

mod encode;
mod files;
mod reader;
mod record;
mod watch;
mod writer;

use std::io;
use std::path::PathBuf;

use havre_base::{Classify, ErrorKind};

pub use reader::{Entry, ReadSpec, Reader};
pub use watch::{Watch, watch};
pub use writer::{Options, Writer};

/// Which of a container's two outputs a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output; everything, when the container has a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// What can go wrong with a log file.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or made.
    #[error("cannot open log {}", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read log {}", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Changes of the file cannot be waited for.
    #[error("cannot watch log {}", path.display())]
    Watch {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Classify for LogError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { .. } | Self::Read { .. } | Self::Watch { .. } => ErrorKind::Internal,
        }
    }
}
