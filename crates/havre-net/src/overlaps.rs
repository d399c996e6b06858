//! Routes of the host that lead into subnets of networks: those that appear when a network is there already, such as a
//! VPN's. The default network gives way by itself until its first container.
//!
//! Invariant: each is told once, and again when it was gone meanwhile. Routes over bridges of ours are ours.
//! Nothing is changed: both were wanted, and which one has to go is the administrator's decision.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use havre_base::NetworkId;
use havre_sys::netlink::table::{RouteEntry, UNICAST};
use havre_sys::netlink::{Event, Route};
use ipnet::IpNet;

use crate::Result;
use crate::networks::Network;
use crate::pools::overlap;
use crate::spec::Driver;

/// A network and a route that are in each other's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The network.
    pub network: Network,
    /// Which of its subnets.
    pub subnet: IpNet,
    /// Where the route leads.
    pub route: IpNet,
    /// Through which link.
    pub link: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, subnet, route, link } = self;
        let name = &network.spec.name;
        write!(out, "the route to {route} through {link} overlaps the subnet {subnet} of network {name}: ")?;
        match route.prefix_len().cmp(&subnet.prefix_len()) {
            std::cmp::Ordering::Greater => {
                write!(out, "containers with addresses in {route} are not reached from this machine")?;
            }
            std::cmp::Ordering::Equal => write!(out, "only one of the two is reached from this machine")?,
            std::cmp::Ordering::Less => {
                write!(out, "what has addresses in {subnet} behind {link} is not reached from this machine")?;
            }
        }
        write!(out, "; remove one of them, or make the network anew with a --subnet outside of {route}")
    }
}

/// Hears of routes.
#[derive(Debug)]
pub(crate) struct Routes {
    ears: Route,
    asks: Route,
    /// Routes that were told, by network.
    known: BTreeMap<(NetworkId, IpNet, Option<u32>), IpNet>,
}

fn destination(route: &RouteEntry) -> Option<IpNet> {
    let leads = route.kind == UNICAST && route.prefix > 0;
    let everywhere = match route.destination {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_multicast(),
        // On every link.
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    IpNet::new(route.destination, route.prefix).ok().filter(|_| leads && !everywhere)
}

impl Routes {
    /// Listens in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self> {
        let ears = Route::open()?;
        ears.listen_to_routes()?;
        Ok(Self { ears, asks: Route::open()?, known: BTreeMap::new() })
    }

    /// Readable when there is something to hear.
    pub(crate) fn ears(&self) -> Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd as _;
        Ok(self.ears.as_fd().try_clone_to_owned()?)
    }

    /// What overlaps these networks and was not told yet, of all routes that there are.
    pub(crate) fn all(&mut self, networks: &[Network]) -> Result<Vec<Overlap>> {
        let routes = self.asks.routes()?;
        self.known.retain(|(_, to, link), _| {
            routes.iter().any(|route| destination(route) == Some(*to) && route.link == *link)
        });
        Ok(routes.iter().flat_map(|route| self.met(route, networks)).collect())
    }

    /// The same, of what was heard.
    pub(crate) fn heard(&mut self, networks: &[Network]) -> Result<Vec<Overlap>> {
        let mut found = Vec::new();
        for event in self.ears.events()? {
            match event {
                Event::Route(route) => found.extend(self.met(&route, networks)),
                Event::RouteGone(route) => {
                    let gone = destination(&route);
                    self.known.retain(|(_, to, link), _| Some(*to) != gone || *link != route.link);
                }
                Event::Lost => found.extend(self.all(networks)?),
                _ => {}
            }
        }
        Ok(found)
    }

    fn met(&mut self, route: &RouteEntry, networks: &[Network]) -> Vec<Overlap> {
        let Some(to) = destination(route) else { return Vec::new() };
        let bridges = networks.iter().filter(|network| network.spec.driver == Driver::Bridge);
        let subnets =
            bridges.flat_map(|network| network.blocks.iter().map(move |block| (network, block.subnet)));
        let mut found = Vec::new();
        for (network, subnet) in subnets {
            let Some(subnet) = subnet.filter(|subnet| overlap(subnet, &to)) else { continue };
            let link = route.link.and_then(|index| self.asks.link(index).ok());
            let link = link.map_or_else(|| "no link".to_owned(), |link| link.name);
            let key = (network.id.clone(), to, route.link);
            let own = networks.iter().any(|network| network.bridge == link);
            if !own && self.known.insert(key, subnet).is_none() {
                found.push(Overlap { network: network.clone(), subnet, route: to, link });
            }
        }
        found
    }
}
