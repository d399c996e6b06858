//! Errors of requests and the one table from kind to status.

use havre_api::ErrorResponse;
use havre_base::{Classify, ErrorKind, chain};
use havre_engine::EngineError;
use havre_image::ImageError;
use havre_net::NetError;
use hyper::StatusCode;

use crate::body::{Answer, json_bytes};

/// A request that cannot be answered as asked.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// The status of each kind, as the Engine API documents them.
pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { status: status_of(kind), message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }

    pub(crate) fn not_yet(what: &str) -> Self {
        Self::new(ErrorKind::NotImplemented, format!("not yet supported: {what}"))
    }

    /// The response that says so.
    pub(crate) fn answer(self) -> Answer {
        if self.status == StatusCode::NOT_MODIFIED {
            return crate::body::empty(self.status);
        }
        json_bytes(self.status, &ErrorResponse { message: self.message })
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        if error.kind() == ErrorKind::Internal {
            tracing::error!(error = chain(&error), "request failed");
        }
        Self::new(error.kind(), chain(&error))
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        Self::new(error.kind(), chain(&error))
    }
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Self {
        Self::new(error.kind(), chain(&error))
    }
}
