//! From the flags of `run` and `create` to the request.
//!
//! Invariants: pure but for the files that flags name; every flag is sent or refused, never dropped.

pub(crate) mod api_socket;
mod cid_file;
mod devices;
pub(crate) mod flags;
mod mounts;
mod networks;
pub(crate) mod ports;
pub(crate) mod proxies;
mod rates;
mod request;
mod security;

pub(crate) use cid_file::CidFile;
pub(crate) use rates::rate;
pub(crate) use request::{Creation, creation, environment, nano_cpus, restart};
