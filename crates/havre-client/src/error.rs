//! What can go wrong between caller and daemon.

use std::io;

use havre_api::ErrorResponse;
use havre_base::{Classify, ErrorKind};
use hyper::StatusCode;

use havre_tls::InvalidKeys;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens, or it may not be reached.
    #[error("cannot connect to the daemon at {endpoint}")]
    Connect {
        /// The daemon's address.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection was made, but the two sides do not trust each other, or do not both speak TLS.
    #[error("error during connect: {endpoint}: {reason}")]
    Tls {
        /// The daemon's address.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The program that connects to another machine ended.
    #[error("error during connect: {0}")]
    Ssh(String),
    /// Keys that cannot be used.
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
    /// The connection broke, or what came was no HTTP.
    #[error("the connection to the daemon failed")]
    Transport(#[source] hyper::Error),
    /// Reading or writing a hijacked stream failed.
    #[error("the stream to the daemon failed")]
    Stream(#[source] io::Error),
    /// The daemon refused; the message is its own.
    #[error("{message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The daemon's message.
        message: String,
    },
    /// The daemon answered a request to upgrade with something else.
    #[error("the daemon did not upgrade the connection")]
    NotUpgraded,
    /// Client and daemon speak no common version.
    #[error("the client and the daemon have no API version in common")]
    Version,
    /// A container without a name was asked for.
    #[error("invalid container name or ID: value is empty")]
    NoName,
    /// A path or a header cannot be sent.
    #[error("the request cannot be formed")]
    Request(#[source] hyper::http::Error),
    /// The body of the request cannot be written as JSON.
    #[error("the request cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// The answer is not what the API defines.
    #[error("the daemon's answer cannot be read")]
    Decode(#[source] serde_json::Error),
}

impl ClientError {
    /// Whether nothing listens at the endpoint, so that a daemon could be started.
    #[must_use]
    pub fn nobody_listens(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }

    /// The HTTP status, if the daemon answered with one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Classify for ClientError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } | Self::Ssh(_) => ErrorKind::Unavailable,
            Self::Tls { .. } => ErrorKind::Unauthorized,
            Self::Transport(_) | Self::Stream(_) | Self::NotUpgraded | Self::Decode(_) => ErrorKind::Internal,
            Self::Version | Self::NoName | Self::Keys(_) | Self::Request(_) | Self::Encode(_) => {
                ErrorKind::InvalidParameter
            }
            Self::Api { status, .. } => match status {
                400 => ErrorKind::InvalidParameter,
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                413 => ErrorKind::TooLarge,
                501 => ErrorKind::NotImplemented,
                503 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
        }
    }
}

/// The error that an unsuccessful answer describes.
pub(crate) fn from_answer(status: StatusCode, body: &[u8]) -> ClientError {
    let message = match serde_json::from_slice::<ErrorResponse>(body) {
        Ok(error) if !error.message.is_empty() => error.message.trim().to_owned(),
        _ => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let message = if message.is_empty() { format!("the daemon answered {status}") } else { message };
    ClientError::Api { status: status.as_u16(), message }
}
