//! Turns one OCI spec into one process and minds it: roles shim and oci.

pub mod capabilities;
pub mod cgroup;
pub mod error;
pub mod seccomp;

pub use error::RuntimeError;
