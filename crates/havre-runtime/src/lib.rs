//! Turns one OCI spec into one process and minds it: roles shim and oci.
//!
//! Invariants: a field of a spec that is not enforced is an error, never a warning; nothing of a container is
//! looked up by a path twice; what a crash leaves behind carries the container's id in its name.
//! Plain blocking code for single-threaded processes: no async, no helper programs, no polling.

pub mod capabilities;
pub mod cgroup;
pub mod error;
pub mod exec;
mod finish;
mod fscontext;
pub mod hooks;
pub mod init;
pub mod launch;
mod link;
mod lsm;
mod mounts;
mod namespaces;
pub mod oci;
mod rootfs;
pub mod seccomp;
pub mod shim;
mod terminal;
mod user;
pub mod view;

use havre_sys::path;

pub use error::RuntimeError;
pub use exec::{ExecTarget, exec};
pub use launch::{InitBinary, Launch, Launched, RootFs, Stdio, launch};
