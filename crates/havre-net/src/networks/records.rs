//! What is recorded of networks and of who is in them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use havre_base::{ContainerId, EndpointId, NetworkId, Timestamp};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::options::{GUARD, Options, guard};
use crate::ports::Publication;
use crate::rate::Rates;
use crate::spec::{BlockSpec, Driver, NetworkSpec};

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked.
    pub spec: NetworkSpec,
    /// Its subnets, each with a gateway where the network has one.
    pub blocks: Vec<BlockSpec>,
    /// The bridge's device; empty for drivers without one.
    pub bridge: String,
    /// What marks devices of this engine.
    #[serde(default)]
    pub engine: String,
}

impl Network {
    /// Its options, which were checked when it was made.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::parse(&self.spec.driver, &self.spec.options).map(|(options, _)| options).unwrap_or_default()
    }

    /// Whether a container may say on the bridge only what is true of its place.
    #[must_use]
    pub fn is_guarded(&self, place: &Endpoint) -> bool {
        let asked = place.spec.options.get(GUARD).and_then(|value| guard(GUARD, value).ok());
        self.spec.driver == Driver::Bridge && asked.unwrap_or_else(|| self.options().guard)
    }

    /// Whether it is one of those that are always there.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        crate::spec::PREDEFINED.contains(&self.spec.name.as_str())
    }

    /// Whether the world is reached through it.
    #[must_use]
    pub fn leads_out(&self) -> bool {
        let nowhere =
            matches!(self.spec.driver, Driver::Macvlan | Driver::Ipvlan) && self.options().parent.is_empty();
        !self.spec.internal && !nowhere
    }
}

/// What is asked of a container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network by name or id.
    pub network: String,
    /// The IPv4 address it wants.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address it wants.
    pub ipv6: Option<Ipv6Addr>,
    /// The hardware address it wants.
    pub mac: Option<[u8; 6]>,
    /// Further names in this network.
    pub aliases: Vec<String>,
    /// Other containers by names of its own: `container` or `container:alias`.
    pub links: Vec<String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Whose gateway is the default one: the highest.
    pub priority: i64,
    /// Link-local addresses it wants besides.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The network.
    pub network: NetworkId,
    /// The container.
    pub container: ContainerId,
    /// The container's name when it joined.
    pub name: String,
    /// Its addresses with the prefixes of their subnets.
    pub addresses: Vec<IpNet>,
    /// Its hardware address; all zero where it is that of the network's parent.
    pub mac: [u8; 6],
    /// What was asked.
    pub spec: EndpointSpec,
    /// Which ports of the host lead to it.
    #[serde(default)]
    pub published: Vec<Publication>,
    /// How fast it may receive and send.
    #[serde(default)]
    pub rates: Rates,
    /// The container has ended, and the kernel's part of that is under way: nobody finds it any more.
    #[serde(skip)]
    pub leaving: bool,
    /// How it leads out, where a plugin decides that: through whom, or by the link itself for a family.
    #[serde(default)]
    pub ways: Vec<Way>,
}

/// A way out that a plugin named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Through this router.
    Gateway(IpAddr),
    /// By the link itself, for IPv6 or IPv4.
    Link {
        /// Which of both.
        ipv6: bool,
    },
}

/// What others decided about a network before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// Its subnets, where a plugin gives them.
    pub blocks: Option<Vec<BlockSpec>>,
    /// Whether no gateway is chosen, for IPv4 and IPv6.
    pub no_gateway: [bool; 2],
}

impl Endpoint {
    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }
}
