//! The files of containers.

use serde::{Deserialize, Serialize};

/// What a path names: the header `X-Docker-Container-Path-Stat`, in base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `io/fs.FileMode`.
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a link leads in the end.
    pub link_target: String,
}
