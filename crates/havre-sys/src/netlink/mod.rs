//! Netlink: the messages in which the kernel takes orders about links, addresses, routes and packet filters.
//!
//! Invariants: nothing that arrives can make a reader panic or read beyond it; every request is answered or
//! an error; answers that are not from the kernel, or not to what was asked, are not believed; a refusal
//! names what was asked and carries the kernel's own words where it has any.
//! Not here: waiting for several sockets (their descriptors are there to be polled), and what the changes
//! are for.
//!
//! Sources: netlink(7), rtnetlink(7), tc(8), the kernel's headers `linux/netlink.h`, `linux/rtnetlink.h`,
//! `linux/if_link.h`, `linux/neighbour.h`, `linux/pkt_sched.h`.

pub mod address;
pub mod attribute;
mod error;
pub mod link;
mod link_read;
mod link_write;
pub mod message;
pub mod neighbour;
pub mod port;
pub mod qdisc;
pub mod redirect;
pub mod route;
pub mod socket;
pub mod table;

pub use error::NetlinkError;
pub use route::{Changes, Event, Route};

/// The result of a request.
pub type Result<T> = std::result::Result<T, NetlinkError>;
