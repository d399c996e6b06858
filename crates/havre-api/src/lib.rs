//! Docker Engine API wire types, used by both sides: the server serialises what the client reads.
//!
//! Invariants: field names, their order and what is left out are Docker's. A scalar that Docker always
//! prints is a plain value, because for it absent, `null` and zero mean the same; a list or a map is an
//! `Option`, because Docker prints `null`, `[]` and `{}` and clients tell them apart; what Docker omits
//! when empty is omitted here. On input every field may be absent or `null` and unknown fields are
//! ignored. Maps are ordered, so that the same value always prints the same text.
//! Not here: what the values mean. `havre-server` parses them into domain types.

mod wire;

pub mod archive;
pub mod container;
pub mod event;
pub mod exec;
pub mod explain;
pub mod filters;
pub mod fsck;
pub mod host;
pub mod image;
pub mod message;
pub mod network;
pub mod registry;
pub mod stats;
pub mod system;
pub mod usage;
pub mod version;
pub mod why;

pub use archive::PathStat;
pub use filters::Filters;
pub use message::{ErrorResponse, IdResponse, JsonMessage};
pub use version::ApiVersion;

/// The content type of a stream that carries raw bytes (a terminal).
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// The content type of a stream of frames with an eight byte header.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

/// An empty object, the value type of Docker's sets (`{"80/tcp": {}}`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Empty {}
