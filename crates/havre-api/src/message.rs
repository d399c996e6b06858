//! Small bodies that many endpoints share: errors, ids, progress.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use crate::wire::wire;

wire! {
    /// Body of every error.
    pub struct ErrorResponse {
        #[serde(rename = "message")]
        message: String,
    }

    /// Answer of a creation.
    pub struct IdResponse {
        id: String,
    }

    /// One JSON object of a progress stream (load, import, pull, build).
    pub struct JsonMessage {
        #[serde(rename = "stream")]
        omit stream: String,
        #[serde(rename = "status")]
        omit status: String,
        #[serde(rename = "progressDetail")]
        omit progress_detail: Option<ProgressDetail>,
        #[serde(rename = "progress")]
        omit progress: String,
        #[serde(rename = "id")]
        omit id: String,
        #[serde(rename = "errorDetail")]
        omit error_detail: Option<ErrorDetail>,
        #[serde(rename = "error")]
        omit error: String,
        #[serde(rename = "aux")]
        omit aux: Option<serde_json::Value>,
    }

    /// How far something is.
    pub struct ProgressDetail {
        #[serde(rename = "current")]
        omit current: i64,
        #[serde(rename = "total")]
        omit total: i64,
        #[serde(rename = "units")]
        omit units: String,
    }

    /// An error inside a progress stream, after the status line has been sent.
    pub struct ErrorDetail {
        #[serde(rename = "code")]
        omit code: i64,
        #[serde(rename = "message")]
        message: String,
    }
}
