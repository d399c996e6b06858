//! The network namespace of a container, and its links.
//!
//! Invariants: whoever makes a sandbox stays in its own namespace. Everything in it, and the host's ends of its links,
//! goes with the namespace, which lives as long as a descriptor or a process has it: nothing has to be cleaned up after
//! a crash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use havre_sys::netlink::Route;
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::netlink::link::{End, Kind, Peer};
use havre_sys::netlink::port::Port;
use havre_sys::netlink::table::RouteEntry;
use havre_sys::netns;

use crate::drivers::{OF, ipvlan, is_of};
use crate::networks::{Endpoint, Network, Way};
use crate::place::PlaceOptions;
use crate::spec::Driver;
use crate::{NetError, Result};

/// What the host's end of a link has as the beginning of its alias.
const MARK: &str = "havre endpoint ";
/// How long an address may belong to a link whose namespace is being taken away.
const LINGERING: Duration = Duration::from_secs(3);

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
        let name = self.name_for(endpoint, &options.prefix)?;
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
        let alias = format!("{MARK}{}{OF}{}", endpoint.id, network.engine);
        host.change(|changes| {
            // Where bridged packets pass the filter, one to the container's own published port goes back by its own port.
            let port = Port { hairpin: Some(true), isolated: Some(!options.icc), ..Port::default() };
            changes
                .create_link(&end, &Kind::Veth(peer))
                .set_alias(outside.as_str(), &alias)
                .set_port(outside.as_str(), port)
        })?;
        // The address may have been another container's, whose link the kernel has not taken away yet and the bridge
        // remembers: without a word of this one nothing would reach it.
        let port = host.link(outside.as_str())?.index;
        host.change(|changes| changes.set_behind(port, endpoint.mac))?;
        self.bring_up(&name, network, endpoint)?;
        Ok(name)
    }

    /// Gives it a link on an interface of the host, which is to be brought up: the name of the interface in it.
    pub fn plug_on(
        &mut self,
        host: &mut Route,
        kind: &Kind<'_>,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<String> {
        let options = network.options();
        let name = self.name_for(endpoint, &options.prefix)?;
        let end = End {
            name: &name,
            mtu: (options.mtu > 0).then_some(options.mtu),
            mac: (endpoint.mac != [0; 6]).then_some(endpoint.mac),
            netns: Some(self.netns.as_fd()),
            ..End::default()
        };
        host.change(|changes| changes.create_link(&end, kind))?;
        self.announce(&name)?;
        Ok(name)
    }

    /// Neighbours outside learn anew who has its addresses when it comes up.
    fn announce(&self, name: &str) -> Result<()> {
        self.set(name, &[("ipv4", "arp_notify", "1"), ("ipv6", "ndisc_notify", "1")])
    }

    /// Gives the interface the place's addresses. On a parent of the host they may be those of a container that has just
    /// ended: the kernel takes links of a namespace away behind the end of its last process.
    pub fn bring_up(&mut self, name: &str, network: &Network, endpoint: &Endpoint) -> Result<()> {
        let ipv6 = network.spec.ipv6 || endpoint.spec.link_local.iter().any(IpAddr::is_ipv6);
        self.settle(name, ipv6, &PlaceOptions::parse(&endpoint.spec.options)?)?;
        let index = self.route.link(name)?.index;
        // Link-local networks have these sizes.
        let link_local = endpoint.spec.link_local.iter().map(|at| (*at, if at.is_ipv6() { 64 } else { 16 }));
        let all: Vec<(IpAddr, u8)> =
            endpoint.addresses.iter().map(|net| (net.addr(), net.prefix_len())).chain(link_local).collect();
        let deadline = Instant::now() + LINGERING;
        let mut there = Vec::new();
        loop {
            let done = self.route.change(|changes| {
                for (at, prefix) in all.iter().filter(|(at, _)| !there.contains(at)) {
                    let mut address = Address::new(index, *at, *prefix);
                    if address.address.is_ipv6() {
                        // It is nobody else's, and waiting for a proof would cost a second.
                        address.flags = NO_DAD;
                    }
                    changes.add_address(&address);
                }
                changes.set_up(index, true)
            });
            match done {
                Err(error) if error.is_in_use() && Instant::now() < deadline => wait(),
                other => return Ok(other?),
            }
            there = self.route.addresses(Some(index))?.into_iter().map(|one| one.address).collect();
        }
    }

    /// The name that an interface of a plugin's gets: the one it wants, or the lowest free one.
    pub(crate) fn plugin_name(&mut self, wanted: &str, prefix: &str) -> Result<String> {
        if wanted.is_empty() {
            return self.unused(if prefix.is_empty() { "eth" } else { prefix });
        }
        Ok(wanted.to_owned())
    }

    /// Takes an interface of the host.
    pub(crate) fn take(&self, host: &mut Route, index: u32, name: &str) -> Result<()> {
        Ok(host.change(|changes| changes.move_as(index, self.netns.as_fd(), name))?)
    }

    /// The hardware address of an interface in it; zero where it has none as Ethernet has.
    pub(crate) fn mac_of(&mut self, name: &str) -> Result<[u8; 6]> {
        Ok(self.route.link(name)?.mac.unwrap_or_default())
    }

    /// Gives an interface in it another hardware address.
    pub(crate) fn set_mac(&mut self, name: &str, mac: [u8; 6]) -> Result<()> {
        if self.mac_of(name)? == mac {
            return Ok(());
        }
        Ok(self.route.change(|changes| changes.set_mac(name, mac))?)
    }

    /// Adds routes in their order; those without a gateway are by this interface.
    pub(crate) fn add_routes(&mut self, name: &str, routes: &[RouteEntry]) -> Result<()> {
        let index = self.route.link(name)?.index;
        let mut routes = routes.to_vec();
        // A gateway may be reached by one that was named behind it.
        routes.sort_by_key(|route| route.gateway.is_some());
        for route in &mut routes {
            if route.gateway.is_none() {
                route.link = Some(index);
            }
            self.route.change(|changes| changes.add_route(route))?;
        }
        Ok(())
    }

    /// Cuts its link to a network and frees the name; the kernel forgets the link behind, which takes it tens of
    /// milliseconds.
    pub fn unplug(&mut self, endpoint: &Endpoint) -> Result<()> {
        let addresses = self.route.addresses(None)?;
        let has = |own: &Address| endpoint.addresses.iter().any(|net| net.addr() == own.address);
        let mut links = self.route.links()?;
        links.retain(|link| {
            addresses.iter().any(|own| own.index == link.index && has(own))
                // One that a crash left without its addresses.
                || (endpoint.mac != [0; 6] && link.mac == Some(endpoint.mac))
        });
        let Some(index) = links.first().map(|link| link.index) else { return Ok(()) };
        let gone = format!("gone{}", endpoint.id.as_str().get(..7).unwrap_or_default());
        match self.route.change(|changes| changes.set_up(index, false).rename(index, &gone)) {
            // Its removal was under way.
            Err(error) if error.is_absent() => return Ok(()),
            done => done?,
        }
        let mut behind = Route::open_in(self.netns.as_fd())?;
        let forget = move || match behind.change(|changes| changes.delete_link(index)) {
            Err(error) if !error.is_absent() => tracing::warn!(link = gone, %error, "cannot remove a link"),
            _ => {}
        };
        std::thread::Builder::new().name("unplug".into()).spawn(forget)?;
        Ok(())
    }

    /// The way out, for each family: the last of those with the highest priority loses against names that come first,
    /// as with Docker. `None` where no network leads out.
    pub fn lead_out(&mut self, joined: &[(&Network, &Endpoint)]) -> Result<()> {
        for ipv6 in [false, true] {
            let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let wanted = match leading_out(joined, ipv6).first() {
                Some((.., Some(gateway))) => Some(RouteEntry::via(any, 0, *gateway)),
                Some((_, endpoint, None)) => {
                    self.link_of(endpoint, ipv6)?.map(|link| RouteEntry::to_link(any, 0, link))
                }
                None => None,
            };
            let is_wanted = |route: &RouteEntry| {
                wanted.is_some_and(|wanted| {
                    route.gateway == wanted.gateway && (wanted.link.is_none() || wanted.link == route.link)
                })
            };
            let now: Vec<RouteEntry> = self
                .route
                .routes()?
                .into_iter()
                .filter(|route| route.is_default() && route.destination.is_ipv6() == ipv6)
                .collect();
            if now.len() == usize::from(wanted.is_some()) && now.iter().all(is_wanted) {
                continue;
            }
            // What goes with a link that is being removed may go first.
            for old in &now {
                match self.route.change(|changes| changes.delete_route(old)) {
                    Err(error) if error.is_absent() => {}
                    done => done?,
                }
            }
            if let Some(wanted) = &wanted {
                self.route.change(|changes| changes.add_route(wanted))?;
            }
        }
        Ok(())
    }

    /// The link that has a place's address.
    fn link_of(&mut self, endpoint: &Endpoint, ipv6: bool) -> Result<Option<u32>> {
        let own = endpoint.addresses.iter().map(ipnet::IpNet::addr).find(|own| own.is_ipv6() == ipv6);
        let there = self.route.addresses(None)?;
        Ok(there.into_iter().find(|one| Some(one.address) == own).map(|one| one.index))
    }

    /// The name that was asked for, or the lowest free one.
    fn name_for(&mut self, endpoint: &Endpoint, prefix: &str) -> Result<String> {
        match PlaceOptions::parse(&endpoint.spec.options)?.name {
            Some(name) => Ok(name),
            None => self.unused(prefix),
        }
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
    fn settle(&self, name: &str, ipv6: bool, asked: &PlaceOptions) -> Result<()> {
        let own = [("ipv6", "disable_ipv6", if ipv6 { "0" } else { "1" }), ("ipv6", "accept_ra", "0")];
        self.set(name, &own)?;
        if asked.files(name).next().is_none() {
            return Ok(());
        }
        let set = || {
            Ok(asked.files(name).find_map(|(file, value)| {
                let error = std::fs::write(&file, value).err()?;
                Some(format!("cannot write {value:?} to {file}: {error}"))
            }))
        };
        netns::enter_with(self.netns.as_fd(), set)?.map_or(Ok(()), |why| Err(NetError::Invalid(why)))
    }

    fn set(&self, name: &str, parameters: &[(&str, &str, &str)]) -> Result<()> {
        netns::enter_with(self.netns.as_fd(), || {
            for (family, key, value) in parameters {
                match std::fs::write(format!("/proc/sys/net/{family}/conf/{name}/{key}"), value) {
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

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when an address of a parent is free again"
)]
fn wait() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Removes the host's ends of links of this engine's that are nobody's any more: their removal was cut short. Those of
/// containers that have ended go by themselves.
pub(crate) fn sweep(route: &mut Route, engine: &str, endpoints: &[Endpoint]) -> Result<()> {
    for link in route.links()? {
        let Some(alias) = link.alias.as_deref().filter(|alias| is_of(alias, engine)) else { continue };
        let Some((id, _)) = alias.strip_prefix(MARK).and_then(|rest| rest.split_once(OF)) else { continue };
        if !endpoints.iter().any(|endpoint| endpoint.id.as_str() == id) {
            match route.change(|changes| changes.delete_link(link.index)) {
                Err(error) if !error.is_absent() => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The place by which the world is reached, and ports of the host lead in.
#[must_use]
pub fn way_out<'a>(joined: &[(&'a Network, &'a Endpoint)]) -> Option<(&'a Network, &'a Endpoint)> {
    [false, true]
        .into_iter()
        .find_map(|ipv6| leading_out(joined, ipv6).first().map(|(network, place, _)| (*network, *place)))
}

/// The places that lead out, the preferred one first: through a gateway, or by the link itself.
fn leading_out<'a>(
    joined: &[(&'a Network, &'a Endpoint)],
    ipv6: bool,
) -> Vec<(&'a Network, &'a Endpoint, Option<IpAddr>)> {
    let mut out: Vec<(&Network, &Endpoint, Option<IpAddr>)> = Vec::new();
    for (network, endpoint) in joined.iter().filter(|(network, _)| network.leads_out()) {
        if matches!(network.spec.driver, Driver::Remote(_)) {
            let way = endpoint.ways.iter().find_map(|way| match way {
                Way::Gateway(gateway) if gateway.is_ipv6() == ipv6 => Some(Some(*gateway)),
                Way::Link { ipv6: of } if *of == ipv6 => Some(None),
                _ => None,
            });
            out.extend(way.map(|way| (*network, *endpoint, way)));
            continue;
        }
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
        let by_link = ipvlan::routes_by_link(&network.options());
        if has && (by_link || gateway.is_some()) {
            out.push((network, endpoint, gateway.filter(|_| !by_link)));
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
