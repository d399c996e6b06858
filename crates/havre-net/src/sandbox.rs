//! The network namespace of a container, and its links.
//!
//! Invariants: whoever makes a sandbox stays in its own namespace. Everything in it, and the host's ends of its links,
//! goes with the namespace, which lives as long as a descriptor or a process has it: nothing has to be cleaned up after
//! a crash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use havre_sys::netlink::Route;
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::netlink::link::{End, Kind, Peer};
use havre_sys::netlink::port::Port;
use havre_sys::netlink::table::RouteEntry;
use havre_sys::netns;

use crate::Result;
use crate::networks::{Endpoint, Network};

/// A network namespace.
#[derive(Debug)]
pub struct Sandbox {
    netns: OwnedFd,
    route: Route,
}

impl Sandbox {
    /// Makes one; its loopback is up.
    pub fn create() -> Result<Self> {
        let mut sandbox = Self::of(netns::create()?)?;
        sandbox.route.change(|changes| changes.set_up("lo", true))?;
        Ok(sandbox)
    }

    /// The one that is there.
    pub fn of(netns: OwnedFd) -> Result<Self> {
        let route = Route::open_in(netns.as_fd())?;
        Ok(Self { netns, route })
    }

    /// Its descriptor, which the container joins.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Takes its descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.netns
    }

    /// Connects it to a bridge of the host: the name of the interface in it.
    pub fn plug(
        &mut self,
        host: &mut Route,
        bridge: u32,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<String> {
        let options = network.options();
        let name = self.unused(&options.prefix)?;
        let outside = outer_name(endpoint);
        let mtu = (options.mtu > 0).then_some(options.mtu);
        let end = End { name: &outside, mtu, master: Some(bridge), up: true, ..End::default() };
        let peer = Peer {
            name: &name,
            mtu,
            mac: Some(endpoint.mac),
            netns: Some(self.netns.as_fd()),
            ..Peer::default()
        };
        let alias = format!("havre endpoint {}", endpoint.id);
        host.change(|changes| {
            // Where bridged packets pass the filter, one to the container's own published port goes back by its own port.
            let port = Port { hairpin: Some(true), isolated: Some(!options.icc), ..Port::default() };
            changes
                .create_link(&end, &Kind::Veth(peer))
                .set_alias(outside.as_str(), &alias)
                .set_port(outside.as_str(), port)
        })?;
        self.settle(&name, network.spec.ipv6)?;
        let index = self.route.link(name.as_str())?.index;
        self.route.change(|changes| {
            for net in &endpoint.addresses {
                let mut address = Address::new(index, net.addr(), net.prefix_len());
                if address.address.is_ipv6() {
                    // It is nobody else's, and waiting for a proof would cost a second.
                    address.flags = NO_DAD;
                }
                changes.add_address(&address);
            }
            changes.set_up(index, true)
        })?;
        Ok(name)
    }

    /// Takes away what connects it to a network.
    pub fn unplug(&mut self, name: &str) -> Result<()> {
        match self.route.change(|changes| changes.delete_link(name)) {
            Err(error) if error.is_absent() => Ok(()),
            other => Ok(other?),
        }
    }

    /// The way out, for each family: the last of those with the highest priority loses against names that come first,
    /// as with Docker. `None` where no network leads out.
    pub fn lead_out(&mut self, joined: &[(&Network, &Endpoint)]) -> Result<()> {
        for ipv6 in [false, true] {
            let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let gateway = gateway(joined, ipv6);
            let now: Vec<RouteEntry> = self
                .route
                .routes()?
                .into_iter()
                .filter(|route| route.is_default() && route.destination.is_ipv6() == ipv6)
                .collect();
            if now.len() == usize::from(gateway.is_some()) && now.iter().all(|route| route.gateway == gateway)
            {
                continue;
            }
            // What goes with a link that is being removed may go first.
            for old in &now {
                match self.route.change(|changes| changes.delete_route(old)) {
                    Err(error) if error.is_absent() => {}
                    done => done?,
                }
            }
            if let Some(gateway) = gateway {
                self.route.change(|changes| changes.add_route(&RouteEntry::via(any, 0, gateway)))?;
            }
        }
        Ok(())
    }

    /// The lowest free name.
    fn unused(&mut self, prefix: &str) -> Result<String> {
        let taken: Vec<String> = self.route.links()?.into_iter().map(|link| link.name).collect();
        let mut number = 0;
        loop {
            let name = format!("{prefix}{number}");
            if !taken.contains(&name) {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// Parameters of an interface in it.
    fn settle(&self, name: &str, ipv6: bool) -> Result<()> {
        netns::enter_with(self.netns.as_fd(), || {
            for (key, value) in [("disable_ipv6", if ipv6 { "0" } else { "1" }), ("accept_ra", "0")] {
                match std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value) {
                    // A kernel without IPv6.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The place by which the world is reached, and ports of the host lead in.
#[must_use]
pub fn way_out<'a>(joined: &[(&'a Network, &'a Endpoint)]) -> Option<(&'a Network, &'a Endpoint)> {
    [false, true]
        .into_iter()
        .find_map(|ipv6| leading_out(joined, ipv6).first().map(|(network, place, _)| (*network, *place)))
}

/// Which gateway is the default one.
fn gateway(joined: &[(&Network, &Endpoint)], ipv6: bool) -> Option<IpAddr> {
    leading_out(joined, ipv6).first().map(|(_, _, gateway)| *gateway)
}

/// The places that lead out, the preferred one first.
fn leading_out<'a>(
    joined: &[(&'a Network, &'a Endpoint)],
    ipv6: bool,
) -> Vec<(&'a Network, &'a Endpoint, IpAddr)> {
    let mut out: Vec<(&Network, &Endpoint, IpAddr)> = Vec::new();
    for (network, endpoint) in joined.iter().filter(|(network, _)| !network.spec.internal) {
        let of_family =
            |block: &&crate::spec::BlockSpec| block.subnet.is_some_and(|net| net.addr().is_ipv6() == ipv6);
        let has = endpoint.addresses.iter().any(|net| net.addr().is_ipv6() == ipv6);
        // A router of the administrator's goes before the bridge itself.
        let router = if ipv6 { "DefaultGatewayIPv6" } else { "DefaultGatewayIPv4" };
        let gateway = network
            .blocks
            .iter()
            .find(of_family)
            .and_then(|block| block.auxiliary.get(router).copied().or(block.gateway));
        if let (true, Some(gateway)) = (has, gateway) {
            out.push((network, endpoint, gateway));
        }
    }
    out.sort_by(|a, b| {
        let (first, second) = (a.1.spec.priority, b.1.spec.priority);
        second.cmp(&first).then_with(|| a.0.spec.name.cmp(&b.0.spec.name))
    });
    out
}

/// The name of the host's end, which tells whose it is.
#[must_use]
pub fn outer_name(endpoint: &Endpoint) -> String {
    format!("veth{}", endpoint.id.as_str().get(..7).unwrap_or_default())
}
