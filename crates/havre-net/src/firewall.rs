//! One table of the packet filter for all networks: a fixed number of chains and rules; networks and published ports are
//! elements of sets and maps.
//!
//! The chain `user` is the administrator's: it is asked first, and nothing here changes what is in it. What is wanted is
//! kept in memory; each change is one transaction, and whatever somebody else did to the table is made good by writing
//! all of it anew, also in one.
//!
//! | packet | may pass |
//! |---|---|
//! | of a connection that may | yes |
//! | into a network | from the same bridge, to a published port, from a trusted interface, to an open port of a routed network |
//! | into or out of an internal network | no |
//! | out of a network | yes, with the host's address unless it is routed |
//! | to 127.0.0.0/8 from a bridge | no |
//! | neither from nor to a network | only where the host forwarded before it had networks of ours |
//!
//! Invariant: nothing outside of the table is read or written.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use havre_base::{EndpointId, NetworkId};
use havre_sys::nft::{
    Batch, Chain, Data, Element, Family, Field, Hook, KeyType, Nft, Rule, Set, State, Status, Table, Value,
};
use ipnet::IpNet;

use crate::Result;
use crate::networks::Network;
use crate::options::GatewayMode;
use crate::ports::{Protocol, Publication};

/// Before connections are followed.
const RAW: i32 = -300;
/// Where destinations are changed.
const DESTINATIONS: i32 = -100;
/// Where sources are changed.
const SOURCES: i32 = 100;

/// Elements of a network, by set.
type Elements = Vec<(&'static str, Element)>;

#[derive(Debug, Default)]
struct Wanted {
    networks: BTreeMap<NetworkId, Elements>,
    ports: BTreeMap<EndpointId, Elements>,
}

/// The table.
#[derive(Debug)]
pub struct Firewall {
    name: String,
    /// Of which families what has nothing to do with us is dropped, because forwarding was turned on for us.
    only_ours: [AtomicBool; 2],
    state: Mutex<(Nft, Wanted)>,
}

const NAMES: &[KeyType] = &[KeyType::Name];
const PAIRS: &[KeyType] = &[KeyType::Name, KeyType::Name];

const fn set(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { name, key, interval: false, data: None, comment: None }
}

const fn ranges(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { interval: true, ..set(name, key) }
}

const fn map(name: &'static str, key: &'static [KeyType], to: &'static [KeyType]) -> Set<'static> {
    Set { data: Some(Data::Values(to)), ..set(name, key) }
}

use KeyType::{Name, Port, Protocol as Proto, V4, V6};

const SETS: &[Set<'static>] = &[
    set("bridges", NAMES),
    set("internal", NAMES),
    set("same", PAIRS),
    set("trusted", PAIRS),
    ranges("subnets4", &[V4, Name]),
    ranges("subnets6", &[V6, Name]),
    ranges("masqueraded4", &[V4]),
    ranges("masqueraded6", &[V6]),
    ranges("unprotected4", &[V4]),
    ranges("unprotected6", &[V6]),
    set("open4", &[V4, Proto, Port]),
    set("open6", &[V6, Proto, Port]),
    map("ports4", &[Proto, Port], &[V4, Port]),
    map("ports6", &[Proto, Port], &[V6, Port]),
    map("ports4_at", &[V4, Proto, Port], &[V4, Port]),
    map("ports6_at", &[V6, Proto, Port], &[V6, Port]),
];

/// All but the administrator's, which is never emptied.
const CHAINS: &[&str] = &["ports", "inward", "guard", "prerouting", "output", "postrouting", "forward"];

fn chain(name: &'static str) -> Chain<'static> {
    match name {
        "guard" => Chain::filter(name, Hook::Prerouting, RAW),
        "prerouting" => Chain::nat(name, Hook::Prerouting, DESTINATIONS),
        "output" => Chain::nat(name, Hook::Output, DESTINATIONS),
        "postrouting" => Chain::nat(name, Hook::Postrouting, SOURCES),
        "forward" => Chain::filter(name, Hook::Forward, 0),
        _ => Chain::new(name),
    }
}

fn rules(only_ours: [bool; 2]) -> Vec<(&'static str, Rule)> {
    use Field::{
        Destination4, Destination6, DestinationPort, InputName, OutputName, Protocol, Source4, Source6,
    };
    let rule = Rule::new;
    let loopback = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0));
    let mut rules = vec![
        (
            "ports",
            rule().ipv4().redirect_by(
                Family::Ip,
                &[Destination4, Protocol, DestinationPort],
                "ports4_at",
                true,
            ),
        ),
        (
            "ports",
            rule().ipv6().redirect_by(
                Family::Ip6,
                &[Destination6, Protocol, DestinationPort],
                "ports6_at",
                true,
            ),
        ),
        ("ports", rule().ipv4().redirect_by(Family::Ip, &[Protocol, DestinationPort], "ports4", true)),
        ("ports", rule().ipv6().redirect_by(Family::Ip6, &[Protocol, DestinationPort], "ports6", true)),
        ("guard", rule().within(&[InputName], "bridges").to_network(loopback, 8).drop()),
        ("prerouting", rule().to_this_machine().jump("ports")),
        ("output", rule().to_this_machine().jump("ports")),
        // Answers of a neighbour on the same bridge would not come back this way.
        (
            "postrouting",
            rule()
                .status(Status::DESTINATION_CHANGED)
                .ipv4()
                .within(&[Source4, OutputName], "subnets4")
                .masquerade(),
        ),
        (
            "postrouting",
            rule()
                .status(Status::DESTINATION_CHANGED)
                .ipv6()
                .within(&[Source6, OutputName], "subnets6")
                .masquerade(),
        ),
        ("postrouting", rule().within(&[OutputName], "bridges").from_network(loopback, 8).masquerade()),
        ("postrouting", rule().ipv4().within(&[Source4, OutputName], "subnets4").accept()),
        ("postrouting", rule().ipv6().within(&[Source6, OutputName], "subnets6").accept()),
        ("postrouting", rule().ipv4().within(&[Source4], "masqueraded4").masquerade()),
        ("postrouting", rule().ipv6().within(&[Source6], "masqueraded6").masquerade()),
        ("forward", rule().jump("user")),
        ("forward", rule().state(State::ESTABLISHED | State::RELATED).accept()),
        ("forward", rule().within(&[OutputName], "bridges").jump("inward")),
        ("forward", rule().within(&[InputName], "internal").drop()),
        ("inward", rule().within(&[InputName, OutputName], "same").accept()),
        ("inward", rule().within(&[OutputName], "internal").drop()),
        ("inward", rule().within(&[InputName], "internal").drop()),
        ("inward", rule().status(Status::DESTINATION_CHANGED).accept()),
        ("inward", rule().within(&[InputName, OutputName], "trusted").accept()),
        ("inward", rule().ipv4().within(&[Destination4, Protocol, DestinationPort], "open4").accept()),
        ("inward", rule().ipv6().within(&[Destination6, Protocol, DestinationPort], "open6").accept()),
        ("inward", rule().ipv4().within(&[Destination4], "unprotected4").accept()),
        ("inward", rule().ipv6().within(&[Destination6], "unprotected6").accept()),
        ("inward", rule().drop()),
    ];
    let [four, six] = only_ours;
    if four {
        rules.push(("forward", rule().not_within(&[InputName], "bridges").ipv4().drop()));
    }
    if six {
        rules.push(("forward", rule().not_within(&[InputName], "bridges").ipv6().drop()));
    }
    rules
}

/// What a network puts into which set.
fn of_network(network: &Network) -> Elements {
    let options = network.options();
    let bridge = Value::name(&network.bridge);
    let mut elements: Elements = vec![("bridges", Element::new([bridge]))];
    if options.icc {
        elements.push(("same", Element::new([bridge, bridge])));
    }
    if network.spec.internal {
        elements.push(("internal", Element::new([bridge])));
    }
    for name in &options.trusted {
        elements.push(("trusted", Element::new([Value::name(name), bridge])));
    }
    for subnet in network.blocks.iter().filter_map(|block| block.subnet) {
        let (first, last) = (Value::from(subnet.network()), Value::from(subnet.broadcast()));
        let (v6, mode) = match subnet {
            IpNet::V4(_) => (false, options.mode4),
            IpNet::V6(_) => (true, options.mode6),
        };
        let of = |four, six| if v6 { six } else { four };
        elements.push((of("subnets4", "subnets6"), Element::range([first, bridge], [last, bridge])));
        let translates = matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected) && options.masquerade;
        if translates && !network.spec.internal {
            elements.push((of("masqueraded4", "masqueraded6"), Element::range([first], [last])));
        }
        if mode == GatewayMode::NatUnprotected {
            elements.push((of("unprotected4", "unprotected6"), Element::range([first], [last])));
        }
    }
    elements
}

/// Its number in IP packets.
pub(crate) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// What a published port puts into which set; `mode` is that of its network.
fn of_port(publication: &Publication, mode: GatewayMode) -> (&'static str, Element) {
    let Publication { protocol, at, port, to, to_port } = publication;
    let (protocol, v6) = (Value::Protocol(number(*protocol)), to.is_ipv6());
    if mode == GatewayMode::Routed {
        let key = [Value::from(*to), protocol, Value::Port(*to_port)];
        return (if v6 { "open6" } else { "open4" }, Element::new(key));
    }
    let target = [Value::from(*to), Value::Port(*to_port)];
    match at {
        Some(at) => {
            let key = [Value::from(*at), protocol, Value::Port(*port)];
            (if v6 { "ports6_at" } else { "ports4_at" }, Element::new(key).to(target))
        }
        None => {
            (if v6 { "ports6" } else { "ports4" }, Element::new([protocol, Value::Port(*port)]).to(target))
        }
    }
}

fn of_ports(network: &Network, ports: &[Publication]) -> Elements {
    let options = network.options();
    let mode = |port: &Publication| if port.to.is_ipv6() { options.mode6 } else { options.mode4 };
    let mut elements: Elements = ports.iter().map(|port| of_port(port, mode(port))).collect();
    // Two host ports of a routed network may lead to one port.
    elements.sort_by(|a, b| (a.0, a.1.key_bytes()).cmp(&(b.0, b.1.key_bytes())));
    elements.dedup_by(|a, b| a.0 == b.0 && a.1.key_bytes() == b.1.key_bytes());
    elements
}

impl Firewall {
    /// Works on the calling thread's namespace, in a table of this name.
    pub fn open(name: &str) -> Result<Self> {
        let state = Mutex::new((Nft::open()?, Wanted::default()));
        Ok(Self { name: name.to_owned(), only_ours: Default::default(), state })
    }

    /// From the next writing on, packets of this family that are neither from nor to a network are dropped.
    pub fn close_to_others(&self, ipv6: bool) {
        let [four, six] = &self.only_ours;
        (if ipv6 { six } else { four }).store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, (Nft, Wanted)> {
        // Changed behind each transaction, in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn table(&self) -> Table<'_> {
        Table { family: Family::Inet, name: &self.name }
    }

    /// Writes the table as it is wanted, whatever has become of it.
    pub fn assert(&self) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        self.write(nft, wanted)
    }

    fn write(&self, nft: &mut Nft, wanted: &Wanted) -> Result<()> {
        let table = self.table();
        let mut batch = Batch::new();
        batch.create_table(
            table,
            Some("networks of havre: written anew whenever it changes, but for the chain user"),
        );
        batch.create_chain(table, &Chain::new("user"));
        for name in CHAINS {
            batch.create_chain(table, &chain(name)).flush_chain(table, name);
        }
        for set in SETS {
            batch.create_set(table, set).flush_set(table, set.name);
        }
        for (chain, rule) in rules(self.only_ours.each_ref().map(|one| one.load(Ordering::Relaxed))) {
            batch.add_rule(table, chain, &rule);
        }
        let mut by_set: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for (set, element) in wanted.networks.values().chain(wanted.ports.values()).flatten() {
            by_set.entry(set).or_default().push(element.clone());
        }
        for (set, elements) in &by_set {
            batch.add_elements(table, set, elements);
        }
        Ok(nft.apply(batch)?)
    }

    /// Writes the table for these networks and ports, whatever was wanted before.
    pub fn replace<'a>(
        &self,
        networks: impl Iterator<Item = &'a Network>,
        ports: impl Iterator<Item = (&'a EndpointId, &'a Network, &'a [Publication])>,
    ) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        wanted.networks = networks.map(|network| (network.id.clone(), of_network(network))).collect();
        let lead = |(endpoint, network, ports): (&EndpointId, &Network, &[Publication])| {
            (endpoint.clone(), of_ports(network, ports))
        };
        wanted.ports = ports.map(lead).filter(|(_, elements)| !elements.is_empty()).collect();
        self.write(nft, wanted)
    }

    /// Takes everything out, and the table too unless the administrator has rules in it.
    pub fn empty(&self) -> Result<()> {
        let kept = self.state().0.rules(self.table())?.iter().any(|rule| rule.chain == "user");
        if kept { self.replace(std::iter::empty(), std::iter::empty()) } else { self.remove() }
    }

    /// Adds and removes elements in one transaction; if the table is not what it should be, all of it is written.
    fn change(&self, nft: &mut Nft, wanted: &Wanted, add: &Elements, remove: &Elements) -> Result<()> {
        let table = self.table();
        let mut batch = Batch::new();
        let by_set = |elements: &Elements| {
            let mut all: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
            for (set, element) in elements {
                all.entry(set).or_default().push(element.clone());
            }
            all
        };
        for (set, elements) in by_set(remove) {
            batch.delete_elements(table, set, &elements);
        }
        for (set, elements) in by_set(add) {
            batch.add_elements(table, set, &elements);
        }
        if batch.is_empty() {
            return Ok(());
        }
        match nft.apply(batch) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the firewall's table is not as it was; writing it anew");
                self.write(nft, wanted)
            }
        }
    }

    /// Whether a network is in.
    #[must_use]
    pub fn has(&self, network: &NetworkId) -> bool {
        self.state().1.networks.contains_key(network)
    }

    /// Whether any network is in.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.state().1.networks.is_empty()
    }

    /// Lets a network in.
    pub fn add_network(&self, network: &Network) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        let add = of_network(network);
        let old = wanted.networks.insert(network.id.clone(), add.clone()).unwrap_or_default();
        if let Err(error) = self.change(nft, wanted, &add, &old) {
            wanted.networks.remove(&network.id);
            return Err(error);
        }
        Ok(())
    }

    /// Takes a network out; an absent one counts as taken out.
    pub fn remove_network(&self, network: &NetworkId) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        let Some(old) = wanted.networks.remove(network) else { return Ok(()) };
        self.change(nft, wanted, &Elements::new(), &old)
    }

    /// Publishes the ports of a container's place, in place of those that it had.
    pub fn publish(&self, endpoint: &EndpointId, network: &Network, ports: &[Publication]) -> Result<()> {
        let add = of_ports(network, ports);
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        let old = match add.is_empty() {
            true => wanted.ports.remove(endpoint),
            false => wanted.ports.insert(endpoint.clone(), add.clone()),
        }
        .unwrap_or_default();
        if let Err(error) = self.change(nft, wanted, &add, &old) {
            wanted.ports.remove(endpoint);
            return Err(error);
        }
        Ok(())
    }

    /// Removes the table, the administrator's chain included.
    pub fn remove(&self) -> Result<()> {
        let mut state = self.state();
        let mut batch = Batch::new();
        batch.create_table(self.table(), None).delete_table(self.table());
        state.1 = Wanted::default();
        Ok(state.0.apply(batch)?)
    }
}
