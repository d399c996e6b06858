//! Why a packet would or would not arrive, hop by hop.
//!
//! What is told is what the kernel has now: routes, ports of bridges, elements of our table, chains of others, sockets that
//! wait. Records only say who is who. Invariants: nothing is changed and no packet is sent; what cannot be read, such as the
//! rules of others, is said to be unknown, never guessed.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use havre_sys::netlink::Route;
use havre_sys::netlink::table::{BLACKHOLE, UNREACHABLE};
use havre_sys::netns;
use havre_sys::nft::{DataView, Element, ElementView, KeyType, Nft, Table, Value};

use crate::fabric::Fabric;
use crate::listeners;
use crate::networks::{Endpoint, Network};
use crate::ports::Protocol;
use crate::sandbox::outer_name;
use crate::spec::Driver;
use crate::{NetError, Result};

/// The hooks of chains, as numbers of the kernel (`NF_INET_LOCAL_IN`, `NF_INET_FORWARD`).
const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// What a hop does to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Passes,
    /// It ends here.
    Blocked,
    /// Somebody else decides, by what is not read here.
    Unknown,
}

impl Fate {
    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
        }
    }
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where it is: `name`, `route`, `bridge`, `firewall`, `others`, `port`.
    pub at: &'static str,
    /// What is there, in words.
    pub told: String,
    /// What becomes of the packet.
    pub fate: Fate,
}

/// One end of the way.
#[derive(Debug)]
pub struct Side {
    /// What it is called.
    pub name: String,
    /// Its namespace; none is somewhere else in the world.
    pub netns: Option<OwnedFd>,
    /// Its places in networks, if it is a container.
    pub places: Vec<(Network, Endpoint)>,
    /// Its address, if it was named by that.
    pub address: Option<IpAddr>,
}

impl Side {
    fn is_container(&self) -> bool {
        !self.places.is_empty()
    }

    fn place_at(&self, address: IpAddr) -> Option<&(Network, Endpoint)> {
        self.places.iter().find(|(_, place)| place.addresses.iter().any(|net| net.addr() == address))
    }
}

/// The way so far.
#[derive(Debug, Default)]
struct Way(Vec<Hop>);

impl Way {
    fn add(&mut self, at: &'static str, fate: Fate, told: impl Into<String>) {
        self.0.push(Hop { at, told: told.into(), fate });
    }

    fn is_blocked(&self) -> bool {
        self.0.iter().any(|hop| hop.fate == Fate::Blocked)
    }
}

/// The fate of all hops together, and the sentence that says so.
#[must_use]
pub fn verdict(hops: &[Hop]) -> (Fate, String) {
    let first = |fate| hops.iter().find(|hop| hop.fate == fate);
    match (first(Fate::Blocked), first(Fate::Unknown)) {
        (Some(hop), _) => (Fate::Blocked, format!("does not arrive ({}): {}", hop.at, hop.told)),
        (None, Some(hop)) => (
            Fate::Unknown,
            format!("arrives, unless somebody else decides otherwise ({}): {}", hop.at, hop.told),
        ),
        (None, None) => (Fate::Passes, "arrives".to_owned()),
    }
}

impl Fabric {
    /// Explains the way from one side to a port, or to no certain one, of another. `who` finds the container that has an
    /// address.
    pub fn explain(
        &self,
        source: &Side,
        target: &Side,
        port: Option<(Protocol, u16)>,
        who: &dyn Fn(IpAddr) -> Option<Side>,
    ) -> Result<Vec<Hop>> {
        let mut way = Way::default();
        let Some(address) = name(&mut way, source, target) else { return Ok(way.0) };
        let mut nft = Nft::open()?;
        let Some(port) = port else {
            self.walk(&mut way, &mut nft, source, target, (address, None), false)?;
            return Ok(way.0);
        };
        // A port of the host may lead to a container.
        if !target.is_container()
            && let Some((to, element)) = self.published(&mut nft, address, port)?
            && target.netns.is_some()
        {
            way.add("firewall", Fate::Passes, format!("{element} leads to {to}"));
            let Some(behind) = who(to.ip()) else {
                way.add(
                    "firewall",
                    Fate::Blocked,
                    format!("no container that runs has the address {}", to.ip()),
                );
                return Ok(way.0);
            };
            let inside = Some((port.0, to.port()));
            self.walk(&mut way, &mut nft, source, &behind, (to.ip(), inside), true)?;
            return Ok(way.0);
        }
        self.walk(&mut way, &mut nft, source, target, (address, Some(port)), false)?;
        Ok(way.0)
    }

    /// From the source's routes to the socket that waits.
    fn walk(
        &self,
        way: &mut Way,
        nft: &mut Nft,
        source: &Side,
        target: &Side,
        (address, port): (IpAddr, Option<(Protocol, u16)>),
        translated: bool,
    ) -> Result<()> {
        route(way, source, address)?;
        if way.is_blocked() {
            return Ok(());
        }
        let from = source
            .places
            .iter()
            .find(|(network, _)| target.places.iter().any(|(other, _)| other.id == network.id));
        let same = from
            .filter(|(network, _)| target.place_at(address).is_some_and(|(other, _)| other.id == network.id));
        match (same, target.place_at(address)) {
            (Some((network, one)), Some((_, other))) => neighbours(way, network, one, other)?,
            (None, Some((network, _))) if network.spec.driver == Driver::Bridge => {
                self.inward(way, nft, source, network, (address, port), translated)?;
                others(
                    way,
                    nft,
                    self.table(),
                    if source.netns.is_some() && !source.is_container() { None } else { Some(FORWARD) },
                )?;
            }
            (None, Some((network, _))) => {
                let (name, driver) = (&network.spec.name, network.spec.driver.name());
                way.add(
                    "route",
                    Fate::Unknown,
                    format!("network {name} is of the driver {driver}: the network outside decides"),
                );
            }
            _ if target.netns.is_some() => {
                if source.is_container() || source.netns.is_none() {
                    others(way, nft, self.table(), Some(INPUT))?;
                }
            }
            _ => {
                self.outward(way, nft, source)?;
                if source.is_container() {
                    others(way, nft, self.table(), Some(FORWARD))?;
                }
            }
        }
        if let (Some(port), false) = (port, way.is_blocked()) {
            listener(way, target, address, port)?;
        }
        Ok(())
    }

    fn table(&self) -> Option<&str> {
        self.firewall().map(crate::firewall::Firewall::name)
    }

    fn elements(&self, nft: &mut Nft, set: &str) -> Result<Vec<ElementView>> {
        let Some(name) = self.table() else { return Ok(Vec::new()) };
        match nft.elements(Table { family: havre_sys::nft::Family::Inet, name }, set) {
            Err(error) if error.is_absent() => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    fn holds(&self, nft: &mut Nft, set: &str, key: &[Value]) -> Result<bool> {
        let key = Element::new(key).key_bytes();
        Ok(self.elements(nft, set)?.iter().any(|element| element.key == key))
    }

    /// Where a port of the host leads, and the element that says so.
    fn published(
        &self,
        nft: &mut Nft,
        address: IpAddr,
        (protocol, port): (Protocol, u16),
    ) -> Result<Option<(SocketAddr, String)>> {
        let (number, v6) = (crate::firewall::number(protocol), address.is_ipv6());
        let (at, any) = if v6 { ("ports6_at", "ports6") } else { ("ports4_at", "ports4") };
        let keys = [
            (at, Element::new([Value::from(address), Value::Protocol(number), Value::Port(port)])),
            (any, Element::new([Value::Protocol(number), Value::Port(port)])),
        ];
        for (map, key) in keys {
            let key = key.key_bytes();
            let found = self.elements(nft, map)?.into_iter().find(|element| element.key == key);
            let Some(DataView::Bytes(bytes)) = found.and_then(|element| element.data) else { continue };
            let types = [if v6 { KeyType::V6 } else { KeyType::V4 }, KeyType::Port];
            if let Some(values) = Value::read_all(&types, &bytes)
                && let [Value::Address(to), Value::Port(to_port)] = values.as_slice()
            {
                let name = protocol.name();
                return Ok(Some((SocketAddr::new(*to, *to_port), format!("element {port}/{name} of {map}"))));
            }
        }
        Ok(None)
    }

    /// What our table says of a packet into a network.
    fn inward(
        &self,
        way: &mut Way,
        nft: &mut Nft,
        source: &Side,
        network: &Network,
        (address, port): (IpAddr, Option<(Protocol, u16)>),
        translated: bool,
    ) -> Result<()> {
        let name = &network.spec.name;
        if source.netns.is_some() && !source.is_container() {
            way.add(
                "firewall",
                Fate::Passes,
                format!("the host itself reaches its bridge {}", network.bridge),
            );
            return Ok(());
        }
        if self.table().is_none() {
            way.add("firewall", Fate::Passes, "there is no table of ours: nothing is filtered");
            return Ok(());
        }
        let bridge = Value::name(&network.bridge);
        if !self.holds(nft, "bridges", &[bridge])? {
            way.add(
                "firewall",
                Fate::Unknown,
                format!("the table does not know the bridge {} of network {name}", network.bridge),
            );
            return Ok(());
        }
        if self.holds(nft, "internal", &[bridge])? {
            way.add(
                "firewall",
                Fate::Blocked,
                format!("element {} of the set internal: nothing leads into network {name}", network.bridge),
            );
            return Ok(());
        }
        for (own, _) in source.places.iter().filter(|(own, _)| !own.bridge.is_empty()) {
            if self.holds(nft, "internal", &[Value::name(&own.bridge)])? && source.places.len() == 1 {
                way.add(
                    "firewall",
                    Fate::Blocked,
                    format!(
                        "element {} of the set internal: nothing leads out of network {}",
                        own.bridge, own.spec.name
                    ),
                );
                return Ok(());
            }
            if self.holds(nft, "trusted", &[Value::name(&own.bridge), bridge])? {
                way.add(
                    "firewall",
                    Fate::Passes,
                    format!("element {} . {} of the set trusted", own.bridge, network.bridge),
                );
                return Ok(());
            }
        }
        if translated {
            way.add("firewall", Fate::Passes, "chain inward accepts what was sent to a published port");
            return Ok(());
        }
        let v6 = address.is_ipv6();
        if let Some((protocol, port)) = port {
            let open = if v6 { "open6" } else { "open4" };
            let key =
                [Value::from(address), Value::Protocol(crate::firewall::number(protocol)), Value::Port(port)];
            if self.holds(nft, open, &key)? {
                way.add("firewall", Fate::Passes, format!("element {address} . {port} of the set {open}"));
                return Ok(());
            }
        }
        let ranges = if v6 { "unprotected6" } else { "unprotected4" };
        if in_range(&self.elements(nft, ranges)?, &Element::new([Value::from(address)]).key_bytes()) {
            way.add(
                "firewall",
                Fate::Passes,
                format!("the set {ranges} holds {address}: network {name} is not protected"),
            );
            return Ok(());
        }
        let asked = port.map_or_else(String::new, |(protocol, port)| format!(" {port}/{}", protocol.name()));
        way.add(
            "firewall",
            Fate::Blocked,
            format!("the end of chain inward drops it: neither the same bridge, nor a published port{asked}, nor a trusted interface leads into network {name}"),
        );
        Ok(())
    }

    /// What our table says of a packet that leaves.
    fn outward(&self, way: &mut Way, nft: &mut Nft, source: &Side) -> Result<()> {
        if !source.is_container() {
            return Ok(());
        }
        for (network, place) in
            source.places.iter().filter(|(network, _)| network.spec.driver == Driver::Bridge)
        {
            if self.holds(nft, "internal", &[Value::name(&network.bridge)])? {
                continue;
            }
            for net in &place.addresses {
                let set = if net.addr().is_ipv6() { "masqueraded6" } else { "masqueraded4" };
                if in_range(&self.elements(nft, set)?, &Element::new([Value::from(net.addr())]).key_bytes()) {
                    way.add(
                        "firewall",
                        Fate::Passes,
                        format!("the set {set} holds {}: it leaves with the host's address", net.addr()),
                    );
                }
            }
            let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
            if forwards.trim() == "0" {
                way.add("route", Fate::Blocked, "the host does not forward: net.ipv4.ip_forward is 0");
            }
            return Ok(());
        }
        if source.places.iter().all(|(network, _)| network.spec.internal) {
            way.add(
                "firewall",
                Fate::Blocked,
                format!("{} is in internal networks only: nothing leads out", source.name),
            );
        }
        Ok(())
    }
}

/// By which address the target is known.
fn name(way: &mut Way, source: &Side, target: &Side) -> Option<IpAddr> {
    if let Some(address) = target.address {
        way.add("name", Fate::Passes, format!("{} is the address {address}", target.name));
        return Some(address);
    }
    let shared =
        target.places.iter().find(|(network, _)| source.places.iter().any(|(own, _)| own.id == network.id));
    let (network, place) = shared.or_else(|| target.places.first())?;
    let Some(address) = place.addresses.first().map(ipnet::IpNet::addr) else {
        way.add(
            "name",
            Fate::Blocked,
            format!("{} has no address in network {}", target.name, network.spec.name),
        );
        return None;
    };
    let told = format!("{} is {address} in network {}", target.name, network.spec.name);
    if source.is_container() && shared.is_none() {
        way.add(
            "name",
            Fate::Passes,
            format!("{told}, in which {} is not: it knows the address only", source.name),
        );
    } else {
        way.add("name", Fate::Passes, told);
    }
    Some(address)
}

/// The way that the source's namespace would send it.
fn route(way: &mut Way, source: &Side, address: IpAddr) -> Result<()> {
    let Some(netns) = &source.netns else { return Ok(()) };
    let mut route = Route::open_in(netns.as_fd())?;
    match route.route_to(address) {
        Ok(found) if matches!(found.kind, BLACKHOLE | UNREACHABLE) => {
            way.add(
                "route",
                Fate::Blocked,
                format!("{} has a route that lets packets to {address} vanish", source.name),
            );
        }
        Ok(found) => {
            let link = found.link.and_then(|index| route.link(index).ok());
            let by = link.as_ref().map(|link| format!(" by {}", link.name)).unwrap_or_default();
            let via = found.gateway.map(|gateway| format!(" through {gateway}")).unwrap_or_default();
            let fate =
                if link.as_ref().is_some_and(|link| !link.is_up()) { Fate::Blocked } else { Fate::Passes };
            let down = if fate == Fate::Blocked { ", which is down" } else { "" };
            way.add("route", fate, format!("{} sends to {address}{by}{via}{down}", source.name));
        }
        Err(error) => {
            way.add("route", Fate::Blocked, format!("{} has no route to {address}: {error}", source.name));
        }
    }
    Ok(())
}

/// Two ports of one bridge.
fn neighbours(way: &mut Way, network: &Network, one: &Endpoint, other: &Endpoint) -> Result<()> {
    let name = &network.spec.name;
    if network.spec.driver != Driver::Bridge {
        way.add(
            "bridge",
            Fate::Passes,
            format!("both are in network {name} of the driver {}", network.spec.driver.name()),
        );
        return Ok(());
    }
    let mut route = Route::open()?;
    let mut isolated = Vec::new();
    for place in [one, other] {
        let outer = outer_name(place);
        match route.link(outer.as_str()) {
            Ok(link) if link.is_up() => {
                isolated.push(link.port.is_some_and(|port| port.isolated == Some(true)))
            }
            _ => {
                way.add(
                    "bridge",
                    Fate::Blocked,
                    format!("{outer}, the host's end of {}, is not there or down", place.name),
                );
                return Ok(());
            }
        }
    }
    if isolated.iter().all(|isolated| *isolated) && one.id != other.id {
        way.add(
            "bridge",
            Fate::Blocked,
            format!("both ports of the bridge {} are isolated (enable_icc=false)", network.bridge),
        );
    } else {
        way.add(
            "bridge",
            Fate::Passes,
            format!("both are ports of the bridge {} of network {name}", network.bridge),
        );
    }
    Ok(())
}

/// Chains of others that drop what none of their rules accepts.
fn others(way: &mut Way, nft: &mut Nft, own: Option<&str>, hook: Option<u32>) -> Result<()> {
    let Some(hook) = hook else { return Ok(()) };
    let word = if hook == INPUT { "input" } else { "forward" };
    for table in nft.tables()? {
        if Some(table.name.as_str()) == own {
            continue;
        }
        for chain in nft.chains(Table { family: table.family, name: &table.name })? {
            if chain.drops && chain.hook.is_some_and(|(at, _)| at == hook) {
                let family = format!("{:?}", table.family).to_lowercase();
                way.add(
                    "others",
                    Fate::Unknown,
                    format!(
                        "chain {} of table {family} {} at {word} drops what none of its rules accepts",
                        chain.name, table.name
                    ),
                );
            }
        }
    }
    Ok(())
}

/// Who waits for it.
fn listener(way: &mut Way, target: &Side, address: IpAddr, (protocol, port): (Protocol, u16)) -> Result<()> {
    let Some(netns) = &target.netns else { return Ok(()) };
    let asked = format!("{port}/{}", protocol.name());
    if protocol == Protocol::Sctp {
        way.add("port", Fate::Unknown, format!("who waits at {asked} is in no table of the kernel's"));
        return Ok(());
    }
    let all = netns::enter_with(netns.as_fd(), || Ok(listeners::all(protocol))).map_err(NetError::from)?;
    let of_port = all.get(&port).map(Vec::as_slice).unwrap_or_default();
    let owner = |listener: &listeners::Listener| {
        listener.owner().map_or_else(|| "somebody".to_owned(), |owner| owner.to_string())
    };
    match (listeners::in_the_way(of_port, Some(address)), of_port.first()) {
        (Some(found), _) => {
            way.add(
                "port",
                Fate::Passes,
                format!("{} waits at {} in {}", owner(&found), found.at, target.name),
            );
        }
        (None, Some(elsewhere)) => {
            let told = format!("{} waits at {} only, not at {address}", owner(elsewhere), elsewhere.at);
            way.add("port", Fate::Blocked, told);
        }
        (None, None) => {
            way.add(
                "port",
                Fate::Blocked,
                format!("nobody waits at {asked} in {}: it is refused", target.name),
            );
        }
    }
    Ok(())
}

/// Whether a set of ranges, each told as its beginning and its end, holds a key.
fn in_range(elements: &[ElementView], key: &[u8]) -> bool {
    let before = elements.iter().filter(|element| element.key.as_slice() <= key);
    before
        .max_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)))
        .is_some_and(|element| !element.is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(at: &'static str, fate: Fate) -> Hop {
        Hop { at, told: format!("{at} says so"), fate }
    }

    #[test]
    fn the_first_that_blocks_decides() {
        let hops = [hop("route", Fate::Passes), hop("others", Fate::Unknown), hop("port", Fate::Blocked)];
        assert_eq!(verdict(&hops), (Fate::Blocked, "does not arrive (port): port says so".into()));
        assert_eq!(verdict(&hops[..2]).0, Fate::Unknown);
        assert_eq!(verdict(&hops[..1]), (Fate::Passes, "arrives".into()));
    }

    #[test]
    fn ranges_begin_and_end() {
        let element = |key: u8, is_end| ElementView {
            key: vec![key],
            key_end: None,
            is_end,
            data: None,
            comment: None,
        };
        let ranges = [element(0, true), element(10, false), element(20, true), element(30, false)];
        for (key, held) in [(5, false), (10, true), (19, true), (20, false), (29, false), (200, true)] {
            assert_eq!(in_range(&ranges, &[key]), held, "{key}");
        }
    }
}
