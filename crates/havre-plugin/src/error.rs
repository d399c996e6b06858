//! Why a plugin could not be asked, or what it answered instead.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use havre_base::{Classify, ErrorKind};

/// Why a plugin could not be asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No file names such a plugin.
    #[error("plugin {0:?} not found")]
    NotFound(String),
    /// The file that should say where it is does not.
    #[error("cannot use the plugin file {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is a plugin of another kind.
    #[error("plugin {plugin:?} does not implement {what}: it offers {offered:?}")]
    Other {
        /// Its name.
        plugin: String,
        /// What was wanted.
        what: String,
        /// What it said it is.
        offered: String,
    },
    /// It does not know what was asked.
    #[error("plugin {plugin:?} does not know {method} (404)")]
    Unknown {
        /// Its name.
        plugin: String,
        /// What was asked.
        method: String,
    },
    /// It was asked and said no.
    #[error("remote: {text} (plugin {plugin:?})")]
    Refused {
        /// Its name.
        plugin: String,
        /// Its own words.
        text: String,
    },
    /// It could not be asked, or its answer is none.
    #[error("plugin {plugin:?} at {address} was asked {method}: {why}")]
    Call {
        /// Its name.
        plugin: String,
        /// What was asked.
        method: String,
        /// Where.
        address: String,
        /// What went wrong.
        why: Why,
    },
}

/// What can go wrong with a call.
#[derive(Debug)]
pub enum Why {
    /// The socket failed.
    Io(io::Error),
    /// What came is no HTTP.
    Http(String),
    /// Another status than 200, and what came with it.
    Status(u16, String),
    /// More came than is read.
    TooLarge(usize),
    /// Nothing came for so long.
    Late(Duration),
    /// What came is no answer to it.
    Garbled(serde_json::Error),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Http(why) => write!(f, "its answer is no HTTP: {why}"),
            Self::Status(status, text) => write!(f, "it answered with status {status}: {text}"),
            Self::TooLarge(most) => write!(f, "its answer is longer than {most} bytes"),
            Self::Late(patience) => write!(f, "no answer within {} s", patience.as_secs_f32()),
            Self::Garbled(error) => write!(f, "its answer cannot be read: {error}"),
        }
    }
}

/// A text of somebody else's as it can stand in a line.
pub(crate) fn short(text: &str) -> String {
    let mut short: String =
        text.trim().chars().take(300).map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

impl Classify for PluginError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::File { .. } | Self::Other { .. } => ErrorKind::InvalidParameter,
            Self::Unknown { .. } | Self::Refused { .. } | Self::Call { .. } => ErrorKind::Internal,
        }
    }
}
