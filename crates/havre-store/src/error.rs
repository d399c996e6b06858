//! What can go wrong with what is stored.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use havre_archive::ArchiveError;
use havre_base::{Classify, ErrorKind};
use havre_oci::Digest;

/// An error of the store. It can be cloned, because several callers may wait for one write.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A file or folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The database library failed.
    #[error("{what} the database {}", path.display())]
    Database {
        /// What could not be done.
        what: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<redb::Error>,
    },
    /// Another process has the database open.
    #[error("the database {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The database is closed, or could not be opened again after an error.
    #[error("the database {} is not available", .0.display())]
    Unavailable(PathBuf),
    /// A newer program wrote the database.
    #[error("the database {} has format {found}, newer than {known} which this version knows: use a newer havre", path.display())]
    Format {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest we know.
        known: u32,
    },
    /// A record of the database does not parse.
    #[error("cannot understand record {key:?} of table {table}")]
    Record {
        /// The table.
        table: &'static str,
        /// The record.
        key: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A value cannot be written as JSON.
    #[error("cannot encode a record")]
    Encode(#[source] Arc<serde_json::Error>),
    /// There is no such content.
    #[error("content {0} is not here")]
    Missing(Digest),
    /// Content is not what it was said to be.
    #[error("{what} has digest {found}, not {expected} as announced")]
    Mismatch {
        /// What.
        what: &'static str,
        /// As announced.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// A storage driver cannot be used.
    #[error("{0}")]
    Driver(String),
    /// An archive is not as it should be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl StoreError {
    pub(crate) fn write(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Write { path: path.into(), source: Arc::new(source.into()) }
    }

    /// Whether a want of the machine's (descriptors, memory, rights) says nothing of what is stored.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        use rustix::io::Errno;
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self else { return false };
        let wants = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM];
        wants.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    }

    pub(crate) fn read(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Read { path: path.into(), source: Arc::new(source.into()) }
    }
}

impl Classify for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Write { .. }
            | Self::Read { .. }
            | Self::Database { .. }
            | Self::Record { .. }
            | Self::Format { .. }
            | Self::Encode(_) => ErrorKind::Internal,
            Self::InUse(_) | Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Missing(_) => ErrorKind::NotFound,
            Self::Mismatch { .. } | Self::Driver(_) => ErrorKind::InvalidParameter,
            Self::Archive(error) => error.kind(),
        }
    }
}
