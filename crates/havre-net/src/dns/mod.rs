//! The names of containers, for containers: the server at 127.0.0.11 of user-defined networks.
//!
//! Invariants: every question gets its asker's view, as it is at that moment; a name that is ours is never asked of
//! others, and a container all of whose networks are internal never makes this host send a packet (but `localhost` it
//! may ask, which is nobody's); whatever an asker sends, it takes a bounded share of memory, sockets and time.
//! Not here: `/etc/resolv.conf` inside.

mod answer;
mod cache;
mod forward;
mod names;
mod server;
mod sockets;
mod upstream;
mod wire;

use std::net::IpAddr;

use havre_base::ContainerId;

pub use names::Names;
pub use server::{Limits, Resolver, Serving};
pub use sockets::{ADDRESS, Sockets};
pub use upstream::{HostFile, Upstreams, given};

/// What is known of names, by who asks.
pub trait Directory: Send + Sync + 'static {
    /// All addresses of a name, which has no dot at its end; empty where it is ours and has none, `None` where it is
    /// not ours.
    fn addresses(&self, asker: &ContainerId, name: &str) -> Option<Vec<IpAddr>>;

    /// The name of an address, without a dot at its end.
    fn name_of(&self, asker: &ContainerId, address: IpAddr) -> Option<String>;

    /// Who is asked for names that are not ours.
    fn upstreams(&self, asker: &ContainerId) -> Upstreams;
}

#[cfg(test)]
mod tests;
