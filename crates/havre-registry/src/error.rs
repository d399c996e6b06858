//! What can go wrong between us and a registry, in the words Docker's users know.

use havre_base::{Classify, ErrorKind};
use havre_oci::Digest;

/// A failed request to a registry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// It may not be reached, or it and we do not trust each other.
    #[error("{method} \"{url}\": {reason}")]
    Unreachable {
        /// `Get`, as Docker writes it.
        method: String,
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// The registry refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The protocol's code, as `MANIFEST_UNKNOWN`; empty when it sent none.
        code: String,
        /// Its own words, or what the status says.
        message: String,
    },
    /// It wants to know who asks.
    #[error("{0}")]
    Unauthorized(String),
    /// It wants a name and a password, and there are none. Not the kind of `Unauthorized`: at that, Docker's client asks
    /// for a password and tries again, also where nobody can answer.
    #[error("no basic auth credentials")]
    NoCredentials,
    /// It said something the protocol does not have.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// It broke off again and again; what has come is good as far as it goes.
    #[error("{url}: {why}")]
    BrokeOff {
        /// What was asked.
        url: String,
        /// How.
        why: String,
    },
    /// It points to where we do not go.
    #[error("refused to follow {from} to {to}: {why}")]
    Elsewhere {
        /// What was asked.
        from: String,
        /// Where it points.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// It wants its users' keys to be sent to somebody whom nobody allowed.
    #[error(
        "refused to send the credentials for {registry} to {server}, a token server of somebody else: if it is the right one, allow it with \"registry-token-servers\": [\"{registry}={server}\"] in daemon.json"
    )]
    Stranger {
        /// The registry.
        registry: String,
        /// The token server.
        server: String,
    },
    /// Not what its digest says.
    #[error("{what} verification failed: expected {expected}, got {found}")]
    Mismatch {
        /// `manifest` or `blob`.
        what: &'static str,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Keys or settings that cannot be used.
    #[error("{0}")]
    Setting(String),
    /// Our own side of an upload failed.
    #[error("cannot read what is to be uploaded: {0}")]
    Source(String),
}

impl RegistryError {
    /// Whether there is no such thing at the registry.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether who asked is known, perhaps as nobody, and must not.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "DENIED")
    }

    /// Whether a transfer was only interrupted, so that it can go on later from where it is.
    #[must_use]
    pub const fn is_interruption(&self) -> bool {
        matches!(self, Self::BrokeOff { .. }) || self.is_temporary()
    }

    /// Whether another endpoint, or another time, may answer better.
    pub(crate) const fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { status, .. } => match status {
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                400 | 413 | 416 => ErrorKind::InvalidParameter,
                429 | 503 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::Setting(_) => ErrorKind::InvalidParameter,
            Self::NoCredentials
            | Self::Unreachable { .. }
            | Self::Protocol { .. }
            | Self::BrokeOff { .. }
            | Self::Elsewhere { .. }
            | Self::Stranger { .. }
            | Self::Mismatch { .. }
            | Self::Source(_) => ErrorKind::Internal,
        }
    }
}
