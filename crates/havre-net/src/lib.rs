//! Networks: what is asked of them, their addresses, and how containers are joined to them.
//!
//! Invariants: no address is given twice; no subnet overlaps another one or, where nobody chose it, a route of the host;
//! what is asked and cannot be done is refused with the option's name.
//! Not here: containers. A sandbox is a network namespace and an id.

pub mod addresses;
pub mod dns;
pub mod drivers;
mod error;
pub mod explain;
pub mod fabric;
pub mod firewall;
pub mod ipam;
pub mod listeners;
mod live;
pub mod networks;
pub mod options;
pub mod place;
pub mod pools;
pub mod ports;
mod publish;
pub mod rate;
pub mod relay;
pub mod routes;
pub mod sandbox;
pub mod spec;
pub mod stale;
pub mod watch;

pub use error::NetError;

type Result<T> = std::result::Result<T, NetError>;
