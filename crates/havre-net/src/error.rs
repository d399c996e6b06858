//! Why something about a network cannot be done, in Docker's words where scripts know them.

use std::net::IpAddr;

use havre_base::{Classify, ErrorKind};
use ipnet::IpNet;

/// Why something about a network cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A field of the request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The default networks are not made, changed or removed.
    #[error("{0}")]
    Predefined(String),
    /// The name is taken.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// There is no such network.
    #[error("network {0} not found")]
    NotFound(String),
    /// There is no network of this name that is a configuration.
    #[error("configuration network {0:?} does not exist")]
    NoConfiguration(String),
    /// A plugin is not there, or did not do what it was asked.
    #[error(transparent)]
    Plugin(#[from] havre_plugin::PluginError),
    /// What a plugin answered cannot be.
    #[error("plugin {plugin:?} answered {method} with what cannot be used: {why}")]
    Lie {
        /// The plugin.
        plugin: String,
        /// What it was asked.
        method: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The beginning of an id, or a name, fits several.
    #[error("network {name} is ambiguous ({count} matches found on {by})")]
    Ambiguous {
        /// What was given.
        name: String,
        /// How many.
        count: usize,
        /// `name` or `ID prefix`.
        by: &'static str,
    },
    /// The network has endpoints.
    #[error("error while removing network: network {name} has active endpoints ({endpoints})")]
    InUse {
        /// Which.
        name: String,
        /// Their names and ids.
        endpoints: String,
    },
    /// A subnet overlaps another network's.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {wanted} overlaps {other}"
    )]
    Overlap {
        /// The subnet asked for.
        wanted: IpNet,
        /// The one in the way, and whose it is.
        other: String,
    },
    /// No subnet is left.
    #[error(
        "all predefined address pools have been fully subnetted: name a --subnet, remove unused networks (docker network prune), or add to default-address-pools"
    )]
    NoSubnet,
    /// No address is left in a subnet.
    #[error(
        "no available IPv{version} addresses on this network's address pools: {name} ({pool}): all are taken"
    )]
    NoAddress {
        /// 4 or 6.
        version: u8,
        /// The network.
        name: String,
        /// What is exhausted.
        pool: IpNet,
    },
    /// The address asked for is taken.
    #[error("Address already in use: {0}")]
    AddressTaken(IpAddr),
    /// The address asked for is outside the network's subnets.
    #[error("invalid address {0}: It does not belong to any of this network's subnets")]
    AddressOutside(IpAddr),
    /// Another container has the port.
    #[error("Bind for {0} failed: port is already allocated")]
    PortAllocated(std::net::SocketAddr),
    /// A program of the host has the port.
    #[error("failed to bind host port for {wanted}: address already in use{by}")]
    PortInUse {
        /// Where it was to be.
        wanted: std::net::SocketAddr,
        /// Who has it, if that could be found out.
        by: String,
    },
    /// The container is not in the network.
    #[error("{0}")]
    NotConnected(String),
    /// All ports of a range are taken.
    #[error("all ports are allocated: none of {first} to {last} is free")]
    NoPort {
        /// The first of the range.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] havre_sys::netlink::NetlinkError),
    /// A namespace could not be made or entered.
    #[error("cannot enter a network namespace")]
    Namespace(#[from] std::io::Error),
    /// The database did not take it.
    #[error(transparent)]
    Store(#[from] havre_store::StoreError),
    /// It is built later, or not in this kernel.
    #[error("{0}")]
    Unsupported(String),
}

impl Classify for NetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::AddressOutside(_) => ErrorKind::InvalidParameter,
            Self::Predefined(_) | Self::InUse { .. } | Self::Overlap { .. } | Self::AddressTaken(_) => {
                ErrorKind::Forbidden
            }
            Self::Exists(_) => ErrorKind::Conflict,
            Self::NotFound(_) | Self::NoConfiguration(_) => ErrorKind::NotFound,
            Self::Plugin(error) => error.kind(),
            Self::Ambiguous { .. } => ErrorKind::InvalidParameter,
            Self::NoSubnet | Self::NoAddress { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
            Self::PortAllocated(_)
            | Self::PortInUse { .. }
            | Self::NoPort { .. }
            | Self::NotConnected(_)
            | Self::Kernel(_)
            | Self::Namespace(_)
            | Self::Lie { .. } => ErrorKind::Internal,
            Self::Unsupported(_) => ErrorKind::NotImplemented,
        }
    }
}
