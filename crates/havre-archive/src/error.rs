//! What can go wrong with an archive.

use std::io;
use std::sync::Arc;

use havre_base::{Classify, ErrorKind};

/// An archive, or the tree that it comes from or goes to, is not as it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// An archive does not parse, or its stream ends early.
    #[error("invalid archive")]
    Archive(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// An archive's entry is refused.
    #[error("invalid archive entry {name:?}: {why}")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// An archive's entry names something outside of the folder.
    #[error("{name:?} is outside of {folder:?}")]
    Outside {
        /// Its name.
        name: String,
        /// The folder.
        folder: String,
    },
    /// A folder is not to become something else, and the other way round.
    #[error("cannot overwrite {} {path:?} with {} {folder:?}", words(*is_folder), words(!*is_folder))]
    Overwrite {
        /// What is there.
        path: String,
        /// Whether that is a folder.
        is_folder: bool,
        /// Where the archive goes.
        folder: String,
    },
    /// An archive's entry cannot be made.
    #[error("cannot extract {name:?}")]
    Extract {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file cannot be read.
    #[error("cannot read {name:?}")]
    Read {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Whoever takes the archive takes no more.
    #[error("cannot write the archive")]
    Out(#[source] Arc<io::Error>),
    /// A bound was exceeded.
    #[error("archive exceeds the limit of {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

const fn words(is_folder: bool) -> &'static str {
    if is_folder { "directory" } else { "non-directory" }
}

impl ArchiveError {
    /// An error of the stream itself.
    pub fn stream(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Archive(Arc::new(error))
    }

    pub(crate) fn read(name: &[u8], error: impl Into<io::Error>) -> Self {
        Self::Read { name: lossy(name), source: Arc::new(error.into()) }
    }

    pub(crate) fn out(error: io::Error) -> Self {
        Self::Out(Arc::new(error))
    }
}

/// The beginning of a name, as text.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

impl Classify for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Extract { .. } | Self::Read { .. } | Self::Out(_) => ErrorKind::Internal,
            Self::Archive(_) | Self::Entry { .. } | Self::Outside { .. } | Self::Overwrite { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::Limit { .. } => ErrorKind::TooLarge,
        }
    }
}
