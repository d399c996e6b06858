//! What a container may say on its bridge: only what is true of it.
//!
//! One table of the bridges' family with a fixed number of rules; what is true is in sets, by the host's end of the
//! container's link, which nobody in the container can change. What is dropped:
//!
//! | frame | why |
//! |---|---|
//! | from another hardware address | it is somebody else's, or one of thousands that fill the bridge's memory |
//! | ARP or a neighbour's advertisement for another address | others would send to this container what is not for it |
//! | IPv4, IPv6 from another address | answers would go to somebody else, and rules by address would be deceived |
//! | router advertisements, redirects | they change the way out of others |
//! | answers of a DHCP server | so do they |
//! | tags within tags | what is within is not seen |
//!
//! Links that are not in the set, those of other engines among them, are not looked at.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use havre_base::EndpointId;
use havre_sys::nft::{Batch, Chain, Element, Family, Field, Hook, KeyType, Nft, Rule, Set, Table, Value};

use super::{Elements, by_set};
use crate::networks::{Endpoint, Network};
use crate::sandbox::outer_name;
use crate::{NetError, Result};

/// As ebtables filters (`NF_BR_PRI_FILTER_BRIDGED`).
const PRIORITY: i32 = -200;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

use KeyType::{Mac, Name, V4, V6};

const fn set(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { name, key, interval: false, data: None, comment: None }
}

const SETS: &[Set<'static>] = &[
    set("links", &[Name]),
    set("macs", &[Name, Mac]),
    set("addresses4", &[Name, V4]),
    set("addresses6", &[Name, V6]),
];

const CHAINS: &[&str] = &["arp", "ipv4", "ipv6", "says", "hears"];

/// Whether a chain or set is one of these.
pub(super) fn is_ours(name: &str) -> bool {
    CHAINS.contains(&name) || SETS.iter().any(|set| set.name == name)
}

fn chain(name: &'static str) -> Chain<'static> {
    match name {
        "says" => Chain::filter(name, Hook::Prerouting, PRIORITY),
        // What is for the bridge itself by a reserved address comes this way only, and the bridge learns from it.
        "hears" => Chain::filter(name, Hook::Input, PRIORITY),
        _ => Chain::new(name),
    }
}

fn rules() -> Vec<(&'static str, Rule)> {
    use Field::{
        ArpAddress, ArpMac, DestinationPort, EtherType, Icmp6Target, Icmp6Type, InputName, Source4, Source6,
        SourceMac, SourcePort,
    };
    let rule = Rule::new;
    let is = |kind: u16| rule().is(EtherType, Value::Port(kind));
    let datagram = |from, to| {
        rule().protocol(UDP).is(SourcePort, Value::Port(from)).is(DestinationPort, Value::Port(to)).drop()
    };
    let message = |kind| rule().protocol(ICMP6).is(Icmp6Type, Value::Icmp6Type(kind));
    let nobody4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let nobody6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let mut rules = Vec::new();
    for base in ["says", "hears"] {
        rules.push((base, rule().not_within(&[InputName], "links").accept()));
        rules.push((base, rule().not_within(&[InputName, SourceMac], "macs").drop()));
    }
    rules.extend([
        ("says", is(IPV4).jump("ipv4")),
        ("says", is(IPV6).jump("ipv6")),
        ("says", is(ARP).jump("arp")),
    ]);
    rules.extend(TAGS.map(|kind| ("says", is(kind).drop())));
    rules.extend([
        ("arp", rule().not_within(&[InputName, ArpMac], "macs").drop()),
        ("arp", rule().within(&[InputName, ArpAddress], "addresses4").accept()),
        // Who asks whether an address is free has none yet.
        ("arp", rule().is(ArpAddress, nobody4).accept()),
        ("arp", rule().drop()),
        ("ipv4", datagram(67, 68)),
        ("ipv4", rule().within(&[InputName, Source4], "addresses4").accept()),
        ("ipv4", rule().is(Source4, nobody4).protocol(UDP).is(DestinationPort, Value::Port(67)).accept()),
        ("ipv4", rule().drop()),
        ("ipv6", message(ROUTER_ADVERTISEMENT).drop()),
        ("ipv6", message(REDIRECT).drop()),
        ("ipv6", message(NEIGHBOUR_ADVERTISEMENT).not_within(&[InputName, Icmp6Target], "addresses6").drop()),
        ("ipv6", datagram(547, 546)),
        ("ipv6", rule().within(&[InputName, Source6], "addresses6").accept()),
        ("ipv6", rule().is(Source6, nobody6).protocol(ICMP6).accept()),
        ("ipv6", rule().drop()),
    ]);
    rules
}

/// The address that a link gives itself from its hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// What is true of a place.
fn of_place(network: &Network, endpoint: &Endpoint) -> Elements {
    let link = Value::name(&outer_name(endpoint));
    let own = network.spec.ipv6.then(|| IpAddr::from(link_local(endpoint.mac)));
    let given = endpoint.addresses.iter().map(ipnet::IpNet::addr);
    let mut elements: Elements =
        vec![("links", Element::new([link])), ("macs", Element::new([link, Value::Mac(endpoint.mac)]))];
    for address in given.chain(endpoint.spec.link_local.iter().copied()).chain(own) {
        let set = if address.is_ipv4() { "addresses4" } else { "addresses6" };
        elements.push((set, Element::new([link, Value::from(address)])));
    }
    elements
}

/// The table's wanted content.
#[derive(Debug, Default)]
pub(super) struct Guard {
    places: BTreeMap<EndpointId, Elements>,
    /// Whether it is in the kernel, as far as we did not hear otherwise.
    written: bool,
}

fn table(name: &str) -> Table<'_> {
    Table { family: Family::Bridge, name }
}

impl Guard {
    /// Wants these places from now on, and no others.
    pub(super) fn replace<'a>(&mut self, places: impl Iterator<Item = (&'a Network, &'a Endpoint)>) {
        let guarded = places.filter(|(network, endpoint)| network.is_guarded(endpoint));
        self.places = guarded.map(|(network, place)| (place.id.clone(), of_place(network, place))).collect();
    }

    /// Writes all of it, whatever has become of it; removes it when nothing is in it.
    pub(super) fn write(&mut self, nft: &mut Nft, name: &str) -> Result<()> {
        let (table, mut batch) = (table(name), Batch::new());
        if self.places.is_empty() {
            let there = |one: &havre_sys::nft::TableView| one.family == Family::Bridge && one.name == name;
            if nft.tables()?.iter().any(there) {
                batch.delete_table(table);
            }
            self.written = false;
            return Ok(nft.apply(batch)?);
        }
        batch.clear_table(table).create_table(table, Some("what containers may say on bridges of havre"));
        for name in CHAINS {
            batch.create_chain(table, &chain(name));
        }
        for set in SETS {
            batch.create_set(table, set);
        }
        for (chain, rule) in rules() {
            batch.add_rule(table, chain, &rule);
        }
        for (set, elements) in by_set(self.places.values().flatten()) {
            batch.add_elements(table, set, &elements);
        }
        nft.apply(batch)?;
        self.written = true;
        Ok(())
    }

    /// Lets a place say what is true of it, and nothing else.
    pub(super) fn add(
        &mut self,
        nft: &mut Nft,
        name: &str,
        network: &Network,
        place: &Endpoint,
    ) -> Result<()> {
        if !network.is_guarded(place) {
            return Ok(());
        }
        let new = of_place(network, place);
        let elements = by_set(new.iter());
        let known = self.places.insert(place.id.clone(), new.clone()).is_some();
        let mut batch = Batch::new();
        for (set, elements) in &elements {
            batch.add_elements(table(name), set, elements);
        }
        let done = match self.written && !known {
            true => nft.apply(batch).map_err(NetError::from).or_else(|_| self.write(nft, name)),
            false => self.write(nft, name),
        };
        if done.is_err() {
            self.places.remove(&place.id);
        }
        done
    }

    /// Forgets a place.
    pub(super) fn remove(&mut self, nft: &mut Nft, name: &str, place: &EndpointId) -> Result<()> {
        let Some(old) = self.places.remove(place) else { return Ok(()) };
        let mut batch = Batch::new();
        for (set, elements) in by_set(old.iter()) {
            batch.delete_elements(table(name), set, &elements);
        }
        nft.apply(batch).map_err(NetError::from).or_else(|_| self.write(nft, name))
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self, nft: &mut Nft, name: &str) -> Result<()> {
        self.places.clear();
        self.write(nft, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_own_address_is_made_of_its_hardware_address() {
        assert_eq!(link_local([2, 0x42, 0xac, 0x11, 0, 2]).to_string(), "fe80::42:acff:fe11:2");
    }
}
