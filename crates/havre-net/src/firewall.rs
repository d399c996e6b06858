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
//! | neither from nor to a network | where the host forwarded before it had networks of ours; else only from and to bridges that came later |
//!
//! Invariant: nothing outside of the table is written, but for the rules that `coexist` says.

mod coexist;
mod ears;
mod guard;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use havre_base::{EndpointId, NetworkId};
use havre_sys::nft::{Batch, Chain, Element, Family, Nft, Table, TableView, Value};
use ipnet::IpNet;

use self::ears::Ears;
pub use self::ears::Heard;
use self::guard::Guard;
use self::rules::{CHAINS, SETS, chain, rules};
use crate::networks::{Endpoint, Network};
use crate::options::GatewayMode;
use crate::ports::{Protocol, Publication};
use crate::{NetError, Result};

/// More elements than this are added while nobody listens.
const HEARD: usize = 32;

/// Elements of a network, by set.
type Elements = Vec<(&'static str, Element)>;

#[derive(Debug, Default)]
struct Wanted {
    /// Bridges of others that were there before forwarding was turned on for us: they may lead out of the machine.
    outer: BTreeSet<String>,
    networks: BTreeMap<NetworkId, Elements>,
    bridges: BTreeMap<NetworkId, String>,
    /// Chains of others that drop what they do not know, as they were told.
    closed: Vec<String>,
    ports: BTreeMap<EndpointId, Elements>,
    guard: Guard,
}

/// The table.
#[derive(Debug)]
pub struct Firewall {
    name: String,
    /// Of which families what has nothing to do with us is dropped, because forwarding was turned on for us.
    only_ours: [AtomicBool; 2],
    by_input: bool,
    state: Mutex<(Nft, Wanted)>,
    ears: Ears,
    /// By which the kernel names us when it tells who changed something.
    writer: u32,
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

fn by_set<'a>(
    elements: impl Iterator<Item = &'a (&'static str, Element)>,
) -> BTreeMap<&'static str, Vec<Element>> {
    let mut all: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (set, element) in elements {
        all.entry(set).or_default().push(element.clone());
    }
    all
}

impl Firewall {
    /// Works on the calling thread's namespace, in a table of this name. `by_input` leaves what comes to published ports from
    /// elsewhere to the host's rules for what is its own, and to the relay.
    pub fn open(name: &str, by_input: bool) -> Result<Self> {
        let nft = Nft::open()?;
        let (name, writer) = (name.to_owned(), nft.port());
        let state = Mutex::new((nft, Wanted::default()));
        Ok(Self { name, only_ours: Default::default(), by_input, state, ears: Ears::default(), writer })
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins to listen to what others do to the packet filter; the descriptor is readable when there is something.
    pub fn listen(&self) -> Result<OwnedFd> {
        self.ears.open()
    }

    /// Ends when [`Firewall::heard`] has something to say that cannot be read.
    pub async fn look(&self) {
        self.ears.look().await;
    }

    /// What others did since this was asked last.
    pub fn heard(&self) -> Result<Heard> {
        let ours = |name: &str| {
            CHAINS.contains(&name) || SETS.iter().any(|set| set.name == name) || guard::is_ours(name)
        };
        self.ears.heard(self.writer, &self.name, ours)
    }

    /// From the next writing on, packets of this family that are neither from nor to a network are dropped, unless they
    /// are from or to a bridge that is none of `outer`: that of another engine, which forwards because it wants to.
    pub fn close_to_others(&self, ipv6: bool, outer: impl IntoIterator<Item = String>) {
        let [four, six] = &self.only_ours;
        (if ipv6 { six } else { four }).store(true, Ordering::Relaxed);
        self.state().1.outer.extend(outer);
    }

    fn state(&self) -> MutexGuard<'_, (Nft, Wanted)> {
        // Changed behind each transaction, in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Table<'_> {
        Table { family: Family::Inet, name: &self.name }
    }

    /// Writes the table as it is wanted, whatever has become of it; false if nothing is wanted.
    pub fn assert(&self) -> Result<bool> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        if wanted.networks.is_empty() {
            return Ok(false);
        }
        self.write(nft, wanted)?;
        wanted.guard.write(nft, &self.name)?;
        Ok(true)
    }

    fn write(&self, nft: &mut Nft, wanted: &Wanted) -> Result<()> {
        let mut batch = Batch::new();
        self.fill(&mut batch, wanted);
        match self.ears.covered(nft, |nft| Ok(nft.apply(batch)?)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Something of another kind has the name of something of ours.
                tracing::warn!(
                    error = havre_base::chain(&error),
                    "the firewall's table {} cannot be mended; it is made anew, its chain user too",
                    self.name
                );
                let mut batch = Batch::new();
                batch.clear_table(self.table());
                self.fill(&mut batch, wanted);
                self.ears.covered(nft, |nft| Ok(nft.apply(batch)?))
            }
        }
    }

    fn fill(&self, batch: &mut Batch, wanted: &Wanted) {
        let table = self.table();
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
        let only_ours = self.only_ours.each_ref().map(|one| one.load(Ordering::Relaxed));
        for (chain, rule) in rules(only_ours, self.by_input) {
            batch.add_rule(table, chain, &rule);
        }
        let mut by_set = by_set(wanted.networks.values().chain(wanted.ports.values()).flatten());
        let outer = wanted.outer.iter().map(|name| Element::new([Value::name(name)]));
        by_set.entry("outer").or_default().extend(outer);
        for (set, elements) in &by_set {
            batch.add_elements(table, set, elements);
        }
    }

    /// Writes the table for these networks and ports, whatever was wanted before.
    pub fn replace<'a>(
        &self,
        networks: impl Iterator<Item = &'a Network>,
        places: impl Iterator<Item = (&'a Endpoint, &'a Network)> + Clone,
    ) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        (wanted.networks, wanted.bridges) = networks
            .map(|network| {
                let id = &network.id;
                ((id.clone(), of_network(network)), (id.clone(), network.bridge.clone()))
            })
            .unzip();
        let lead =
            |(place, network): (&Endpoint, &Network)| (place.id.clone(), of_ports(network, &place.published));
        wanted.ports = places.clone().map(lead).filter(|(_, elements)| !elements.is_empty()).collect();
        wanted.guard.replace(places.map(|(place, network)| (network, place)));
        self.write(nft, wanted)?;
        self.settle(nft, wanted);
        wanted.guard.write(nft, &self.name)
    }

    /// Lets a container say on its bridge only what is true of its place.
    pub fn guard(&self, network: &Network, place: &Endpoint) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        wanted.guard.add(nft, &self.name, network, place)
    }

    /// Forgets what is true of a place.
    pub fn unguard(&self, place: &EndpointId) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        wanted.guard.remove(nft, &self.name, place)
    }

    /// Does what has to be done in tables of others; for when they changed.
    pub fn coexist(&self) {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        self.settle(nft, wanted);
    }

    fn settle(&self, nft: &mut Nft, wanted: &mut Wanted) {
        let bridges = wanted.bridges.values().map(String::as_str).collect();
        match coexist::settle(nft, &self.name, &bridges) {
            Ok(closed) => {
                for chain in closed.iter().filter(|chain| !wanted.closed.contains(chain)) {
                    tracing::warn!(
                        "the chain {chain} drops what it does not know, so containers reach nobody outside and \
                         published ports are not reached: let it accept what comes from and goes to bridges of \
                         containers (docs/firewall.md)"
                    );
                }
                wanted.closed = closed;
            }
            Err(error) => {
                tracing::warn!(error = havre_base::chain(&error), "cannot look at the rules of others");
            }
        }
    }

    /// Takes everything out, and the table too unless the administrator has rules in it. One that is absent stays so.
    pub fn empty(&self) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        *wanted = Wanted { outer: std::mem::take(&mut wanted.outer), ..Wanted::default() };
        self.settle(nft, wanted);
        wanted.guard.clear(nft, &self.name)?;
        self.leave(nft, wanted)
    }

    /// When no network is left.
    fn leave(&self, nft: &mut Nft, wanted: &Wanted) -> Result<()> {
        let own = |table: &TableView| table.family == Family::Inet && table.name == self.name;
        if !nft.tables()?.iter().any(own) {
            return Ok(());
        }
        if nft.rules(self.table())?.iter().any(|rule| rule.chain == "user") {
            return self.write(nft, wanted);
        }
        let mut batch = Batch::new();
        batch.clear_table(self.table());
        Ok(nft.apply(batch)?)
    }

    /// Adds and removes elements in one transaction; if the table is not what it should be, all of it is written.
    fn change(&self, nft: &mut Nft, wanted: &Wanted, add: &Elements, remove: &Elements) -> Result<()> {
        let table = self.table();
        let mut batch = Batch::new();
        for (set, elements) in by_set(remove.iter()) {
            batch.delete_elements(table, set, &elements);
        }
        for (set, elements) in by_set(add.iter()) {
            batch.add_elements(table, set, &elements);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let many = add.len() + remove.len() > HEARD;
        let apply = |nft: &mut Nft| nft.apply(batch).map_err(NetError::from);
        let done = if many { self.ears.covered(nft, apply) } else { apply(nft) };
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(
                    error = havre_base::chain(&error),
                    "the firewall's table is not as it was; writing it anew"
                );
                self.write(nft, wanted)
            }
        }
    }

    /// Whether a network is in.
    #[must_use]
    pub fn has(&self, network: &NetworkId) -> bool {
        self.state().1.networks.contains_key(network)
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
        wanted.bridges.insert(network.id.clone(), network.bridge.clone());
        self.settle(nft, wanted);
        Ok(())
    }

    /// Takes a network out; an absent one counts as taken out. The table goes with the last one.
    pub fn remove_network(&self, network: &NetworkId) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        let Some(old) = wanted.networks.remove(network) else { return Ok(()) };
        wanted.bridges.remove(network);
        self.settle(nft, wanted);
        if wanted.networks.is_empty() {
            wanted.ports.clear();
            wanted.guard.clear(nft, &self.name)?;
            return self.leave(nft, wanted);
        }
        self.change(nft, wanted, &Elements::new(), &old)
    }

    /// Publishes the ports of a container's place, in place of those that it had.
    pub fn publish(&self, endpoint: &EndpointId, network: &Network, ports: &[Publication]) -> Result<()> {
        self.publish_all(&[(endpoint, network, ports)])
    }

    /// The same for several places, at once.
    pub fn publish_all(&self, places: &[(&EndpointId, &Network, &[Publication])]) -> Result<()> {
        let mut state = self.state();
        let (nft, wanted) = &mut *state;
        let (mut add, mut remove) = (Elements::new(), Elements::new());
        let mut before = Vec::new();
        for (endpoint, network, ports) in places {
            let new = of_ports(network, ports);
            add.extend(new.iter().cloned());
            let old = match new.is_empty() {
                true => wanted.ports.remove(endpoint),
                false => wanted.ports.insert((*endpoint).clone(), new),
            };
            remove.extend(old.iter().flatten().cloned());
            before.push(((*endpoint).clone(), old));
        }
        if let Err(error) = self.change(nft, wanted, &add, &remove) {
            for (endpoint, old) in before {
                match old {
                    Some(old) => wanted.ports.insert(endpoint, old),
                    None => wanted.ports.remove(&endpoint),
                };
            }
            return Err(error);
        }
        Ok(())
    }

    /// Removes the table, the administrator's chain included.
    pub fn remove(&self) -> Result<()> {
        let mut state = self.state();
        let mut batch = Batch::new();
        batch.clear_table(self.table());
        let (nft, wanted) = &mut *state;
        wanted.guard.clear(nft, &self.name)?;
        state.1 = Wanted::default();
        coexist::settle(&mut state.0, &self.name, &BTreeSet::new())?;
        Ok(state.0.apply(batch)?)
    }
}
