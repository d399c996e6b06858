//! What every part of Havre shares and nothing else: ids, names, error kinds, time stamps.
//!
//! Invariants: no I/O beyond reading the clock and the random source, no async, nothing of Docker's
//! wire format. Every newtype has one `parse`; a value that exists is valid.

pub mod error;
pub mod id;
pub mod time;

pub use error::{Classify, ErrorKind, chain};
pub use id::{ContainerId, ContainerName, EndpointId, ExecId, InvalidId, InvalidName, NetworkId};
pub use time::{Clock, SystemClock, Timestamp};
