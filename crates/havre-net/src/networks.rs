//! The networks of this machine and who is in them.
//!
//! Answers come from memory; the database is for the next start. Invariants: a network is durable before it is
//! acknowledged; subnets do not overlap; an address belongs to one endpoint; a network with endpoints stays.
//! Not here: interfaces and the firewall, which follow what is recorded here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::{Clock as _, ContainerId, EndpointId, NetworkId, SystemClock, Timestamp};
use havre_store::{Batch, Db, Table};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addresses::Block;
use crate::options::{GUARD, GatewayMode, Options, guard};
use crate::pools::{Pools, overlap};
use crate::ports::Publication;
use crate::rate::Rates;
use crate::spec::{BlockSpec, Driver, Ipam, NetworkSpec};
use crate::{NetError, Result, drivers, routes};

const NETWORKS: Table = Table("networks");
const ENDPOINTS: Table = Table("endpoints");

/// The device of the default network.
pub const DEFAULT_BRIDGE: &str = "havre0";

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

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<NetworkId, Network>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Of each network, its subnets in the order of its record.
    blocks: BTreeMap<NetworkId, Vec<Block>>,
}

/// What is recorded, while nothing changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded<'a> {
    pub(crate) networks: &'a BTreeMap<NetworkId, Network>,
    pub(crate) endpoints: &'a BTreeMap<EndpointId, Endpoint>,
}

/// The networks of this machine.
#[derive(Debug)]
pub struct Networks {
    db: Arc<Db>,
    pools: Pools,
    /// Protects what is known; held around a commit, so that changes are durable in the order they are seen.
    state: Mutex<State>,
}

impl Networks {
    /// Opens them, making the ones that are always there.
    pub fn open(db: Arc<Db>, pools: Pools, default: &NetworkSpec) -> Result<Self> {
        let mut state = State::default();
        for (_, network) in db.load::<Network>(NETWORKS)? {
            state.insert(network);
        }
        let networks = Self { db, pools, state: Mutex::new(state) };
        for (_, endpoint) in networks.db.load::<Endpoint>(ENDPOINTS)? {
            networks.state().restore(endpoint);
        }
        for (name, driver) in [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)] {
            let spec = NetworkSpec { name: name.into(), driver, ..default.clone() };
            networks.ensure(spec)?;
        }
        Ok(networks)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure(&self, mut spec: NetworkSpec) -> Result<()> {
        if spec.driver != Driver::Bridge {
            (spec.blocks, spec.options, spec.ipv6) = (Vec::new(), BTreeMap::new(), false);
        }
        let mut state = self.state();
        let known = state.networks.values().find(|network| network.spec.name == spec.name).cloned();
        let Some(mut known) = known else {
            return self.make(&mut state, spec, &Prepared::default()).map(drop);
        };
        if known.spec == spec {
            return Ok(());
        }
        if state.endpoints.values().any(|endpoint| endpoint.network == known.id) {
            tracing::warn!(
                network = spec.name,
                "containers are in the network: its changed configuration is taken over at a start without any"
            );
            return Ok(());
        }
        // The same network with another configuration. Where it names no subnet, the old one stays.
        state.networks.remove(&known.id);
        state.blocks.remove(&known.id);
        let had = (spec.blocks == known.spec.blocks).then_some(&known.blocks);
        let made = self.plan(&state, &spec, &known.id, had, &Prepared::default())?;
        (known.blocks, known.bridge) = made;
        known.spec = spec;
        self.db.commit(Batch::new().put(NETWORKS, known.id.as_str(), &known))?;
        state.insert(known);
        Ok(())
    }

    /// Gives the default network other subnets where the host has come to use those that were chosen for it, as long as
    /// nobody is in it and nobody has asked for them. Whether it did.
    pub fn move_default(&self) -> Result<bool> {
        let mut state = self.state();
        let Some(mut network) = state.networks.values().find(|one| one.spec.name == "bridge").cloned() else {
            return Ok(false);
        };
        let used = state.endpoints.values().any(|endpoint| endpoint.network == network.id);
        let routes = routes::of_host();
        let mut subnets = network.blocks.iter().filter_map(|block| block.subnet);
        let meets = subnets.any(|net| routes.iter().any(|route| overlap(route, &net)));
        if used || !network.spec.blocks.is_empty() || !meets {
            return Ok(false);
        }
        state.networks.remove(&network.id);
        state.blocks.remove(&network.id);
        let planned = self.plan(&state, &network.spec, &network.id, None, &Prepared::default());
        let planned = planned.and_then(|(blocks, bridge)| {
            let moved = Network { blocks, bridge, ..network.clone() };
            self.db.commit(Batch::new().put(NETWORKS, moved.id.as_str(), &moved))?;
            Ok(moved)
        });
        if let Ok(moved) = &planned {
            network = moved.clone();
        }
        state.insert(network);
        planned.map(|_| true)
    }

    /// Makes a network. Also returns which of its options have no effect.
    pub fn create(&self, spec: NetworkSpec) -> Result<(Network, Vec<String>)> {
        self.create_prepared(spec, &Prepared::default())
    }

    /// The same where others have decided something before.
    pub fn create_prepared(&self, spec: NetworkSpec, prepared: &Prepared) -> Result<(Network, Vec<String>)> {
        let (options, warnings) = spec.check()?;
        if options.mode4 == GatewayMode::Isolated && !spec.internal {
            return Err(NetError::Invalid(
                "gateway mode 'isolated' can only be used for an internal network".into(),
            ));
        }
        let mut state = self.state();
        if state.networks.values().any(|network| network.spec.name == spec.name) {
            return Err(NetError::Exists(spec.name));
        }
        if let Some(other) = state.networks.values().find(|other| {
            !options.bridge.is_empty() && (other.bridge == options.bridge || options.bridge == DEFAULT_BRIDGE)
        }) {
            let (bridge, name) = (options.bridge, &other.spec.name);
            return Err(NetError::Predefined(format!(
                "cannot create network {}: the bridge {bridge} is that of network {name}",
                spec.name
            )));
        }
        drivers::check(&spec, &options, state.networks.values())?;
        state.configuration(&spec)?;
        Ok((self.make(&mut state, spec, prepared)?, warnings))
    }

    /// What is asked, with the configuration of the network that it names for that.
    pub fn configured(&self, mut spec: NetworkSpec) -> Result<NetworkSpec> {
        let from = self.state().configuration(&spec)?.cloned();
        if let Some(from) = from {
            spec.configure(&from.spec);
        }
        Ok(spec)
    }

    fn make(&self, state: &mut State, spec: NetworkSpec, prepared: &Prepared) -> Result<Network> {
        let id = NetworkId::random();
        let (blocks, bridge) = self.plan(state, &spec, &id, None, prepared)?;
        let network = Network { id, created: SystemClock.now(), spec, blocks, bridge };
        self.db.commit(Batch::new().put(NETWORKS, network.id.as_str(), &network))?;
        state.insert(network.clone());
        Ok(network)
    }

    /// The subnets and the device of a network; subnets that it `had` it keeps.
    fn plan(
        &self,
        state: &State,
        spec: &NetworkSpec,
        id: &NetworkId,
        had: Option<&Vec<BlockSpec>>,
        prepared: &Prepared,
    ) -> Result<(Vec<BlockSpec>, String)> {
        if spec.config_only {
            return Ok((spec.blocks.clone(), String::new()));
        }
        let (options, _) = Options::parse(&spec.driver, &spec.options)?;
        let mut blocks = prepared.blocks.clone().unwrap_or_default();
        let has_blocks = !matches!(spec.driver, Driver::Host | Driver::Null);
        if has_blocks && spec.ipam == Ipam::Own {
            for asked in had.unwrap_or(&spec.blocks) {
                let of_family =
                    asked.subnet.is_none_or(|net| if net.addr().is_ipv6() { spec.ipv6 } else { spec.ipv4 });
                if !of_family {
                    continue;
                }
                if let Some(wanted) = asked.subnet {
                    state.check_free(&wanted)?;
                }
                blocks.push(asked.clone());
            }
            for ipv6 in [false, true] {
                let wanted = if ipv6 { spec.ipv6 } else { spec.ipv4 };
                let of_family =
                    |block: &&BlockSpec| block.subnet.is_some_and(|net| net.addr().is_ipv6() == ipv6);
                if wanted && !blocks.iter().any(|block| of_family(&block)) {
                    let subnet = self.pools.pick(ipv6, &state.taken(true))?;
                    blocks.push(BlockSpec { subnet: Some(subnet), ..BlockSpec::default() });
                }
            }
            let has_gateway = |v6: bool| {
                let mode = if v6 { options.mode6 } else { options.mode4 };
                mode != GatewayMode::Isolated
                    && drivers::wants_gateway(spec, &options)
                    && !prepared.no_gateway[usize::from(v6)]
            };
            for block in &mut blocks {
                let Some(subnet) = block.subnet else { continue };
                if block.gateway.is_none() && has_gateway(subnet.addr().is_ipv6()) {
                    let mut free = Block::new(subnet, None);
                    block.auxiliary.values().try_for_each(|address| free.take(*address))?;
                    block.gateway = free.lowest();
                }
            }
        }
        let bridge = match spec.driver {
            Driver::Bridge if !options.bridge.is_empty() => options.bridge,
            Driver::Bridge if spec.name == "bridge" => DEFAULT_BRIDGE.to_owned(),
            Driver::Bridge => format!("br-{}", id.short()),
            _ => String::new(),
        };
        Ok((blocks, bridge))
    }

    /// All networks, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<Network> {
        let mut all: Vec<Network> = self.state().networks.values().cloned().collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }

    /// The network of this name, id, or beginning of an id.
    pub fn find(&self, name: &str) -> Result<Network> {
        let state = self.state();
        state.find(name).cloned()
    }

    /// Who is in a network, in the order of their names.
    #[must_use]
    pub fn endpoints(&self, network: &NetworkId) -> Vec<Endpoint> {
        let state = self.state();
        let mut all: Vec<Endpoint> =
            state.endpoints.values().filter(|endpoint| endpoint.network == *network).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Of each subnet of a network: how many addresses are given or reserved, and how many are left to choose from.
    #[must_use]
    pub fn usage(&self, network: &NetworkId) -> Vec<(IpNet, u64, u64)> {
        let state = self.state();
        let blocks = state.blocks.get(network).into_iter().flatten();
        blocks.map(|block| (block.subnet(), block.used(), block.left())).collect()
    }

    /// Looks at all of it at once, without copies; changes wait.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Recorded<'_>) -> T) -> T {
        let state = self.state();
        look(Recorded { networks: &state.networks, endpoints: &state.endpoints })
    }

    /// In which networks a container is.
    #[must_use]
    pub fn of_container(&self, container: &ContainerId) -> Vec<Endpoint> {
        let state = self.state();
        state.endpoints.values().filter(|endpoint| endpoint.container == *container).cloned().collect()
    }

    /// Removes a network that nobody is in.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let mut state = self.state();
        let network = state.find(name)?.clone();
        if network.is_predefined() {
            let name = &network.spec.name;
            return Err(NetError::Predefined(format!(
                "{name} is a pre-defined network and cannot be removed"
            )));
        }
        let takes = |other: &Network| network.spec.config_only && other.spec.config_from == network.spec.name;
        if state.networks.values().any(takes) {
            let name = network.spec.name;
            return Err(NetError::Predefined(format!("configuration network {name:?} is in use")));
        }
        let inside: Vec<String> = state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == network.id)
            .map(|endpoint| format!("name:\"{}\" id:\"{}\"", endpoint.name, endpoint.id.short()))
            .collect();
        if !inside.is_empty() {
            return Err(NetError::InUse { name: network.spec.name, endpoints: inside.join(", ") });
        }
        self.db.commit(Batch::new().delete(NETWORKS, network.id.as_str()))?;
        state.networks.remove(&network.id);
        state.blocks.remove(&network.id);
        Ok(network)
    }

    /// Gives a container a place and addresses in a network.
    pub fn join(
        &self,
        container: &ContainerId,
        name: &str,
        spec: EndpointSpec,
    ) -> Result<(Network, Endpoint)> {
        self.join_at(container, name, spec, None)
    }

    /// The same, with addresses that somebody else gave.
    pub fn join_at(
        &self,
        container: &ContainerId,
        name: &str,
        spec: EndpointSpec,
        at: Option<Vec<IpNet>>,
    ) -> Result<(Network, Endpoint)> {
        let mut state = self.state();
        let network = state.find(&spec.network)?.clone();
        if network.spec.config_only {
            return Err(NetError::Predefined("cannot create endpoint on configuration-only network".into()));
        }
        let already =
            |endpoint: &&Endpoint| endpoint.network == network.id && endpoint.container == *container;
        if state.endpoints.values().any(|endpoint| already(&endpoint)) {
            let network = network.spec.name;
            return Err(NetError::Predefined(format!(
                "endpoint with name {name} already exists in network {network}"
            )));
        }
        if let Some(value) = spec.options.get(GUARD) {
            guard(GUARD, value)?;
        }
        if network.spec.driver == Driver::Ipvlan && spec.mac.is_some() {
            return Err(NetError::Invalid(
                "ipvlan interfaces do not support custom mac address assignment".into(),
            ));
        }
        let mut addresses: Vec<IpNet> = Vec::new();
        let given = state.blocks.entry(network.id.clone()).or_default();
        let taken = (|| {
            if let Some(at) = at {
                for net in at {
                    let block = given.iter_mut().find(|block| block.subnet().contains(&net.addr()));
                    block.ok_or(NetError::AddressOutside(net.addr()))?.take(net.addr())?;
                    addresses.push(net);
                }
                return Ok(());
            }
            if network.spec.ipam == Ipam::Null {
                return Ok(());
            }
            for (ipv6, wanted) in [(false, spec.ipv4.map(IpAddr::V4)), (true, spec.ipv6.map(IpAddr::V6))] {
                if let Some(net) = choose(&network, given, ipv6, wanted)? {
                    addresses.push(net);
                }
            }
            Ok(())
        })();
        if let Err(error) = taken {
            for net in addresses {
                given.iter_mut().for_each(|block| block.give_back(net.addr()));
            }
            return Err(error);
        }
        let mac = match network.spec.driver {
            Driver::Ipvlan => [0; 6],
            // The plugin says which.
            Driver::Remote(_) => spec.mac.unwrap_or_default(),
            _ => spec.mac.unwrap_or_else(|| mac_of(&addresses)),
        };
        let endpoint = Endpoint {
            id: EndpointId::random(),
            network: network.id.clone(),
            container: container.clone(),
            name: name.to_owned(),
            addresses,
            mac,
            spec,
            published: Vec::new(),
            rates: Rates::default(),
            ways: Vec::new(),
        };
        self.db.enqueue(Batch::new().put(ENDPOINTS, endpoint.id.as_str(), &endpoint));
        state.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        Ok((network, endpoint))
    }

    /// Takes a place and its addresses back; absent counts as taken back.
    pub fn leave(&self, endpoint: &EndpointId) -> Option<Endpoint> {
        let mut state = self.state();
        let endpoint = state.endpoints.remove(endpoint)?;
        for block in state.blocks.get_mut(&endpoint.network).into_iter().flatten() {
            endpoint.addresses.iter().for_each(|net| block.give_back(net.addr()));
        }
        self.db.enqueue(Batch::new().delete(ENDPOINTS, endpoint.id.as_str()));
        Some(endpoint)
    }

    /// Records what a plugin decided about a place: its addresses, its hardware address and its ways out.
    pub fn amend(&self, amended: &Endpoint) {
        let mut state = self.state();
        let State { endpoints, blocks, .. } = &mut *state;
        let Some(endpoint) = endpoints.get_mut(&amended.id) else { return };
        for net in amended.addresses.iter().filter(|net| !endpoint.addresses.contains(net)) {
            for block in blocks.get_mut(&endpoint.network).into_iter().flatten() {
                // Whoever else has it was told by the same plugin.
                block.take(net.addr()).unwrap_or(());
            }
        }
        endpoint.clone_from(amended);
        self.db.enqueue(Batch::new().put(ENDPOINTS, endpoint.id.as_str(), endpoint));
    }

    /// Records a network again whose removal did not succeed.
    pub fn put_back(&self, network: &Network) -> Result<()> {
        let mut state = self.state();
        self.db.commit(Batch::new().put(NETWORKS, network.id.as_str(), network))?;
        state.insert(network.clone());
        Ok(())
    }

    /// Records how fast a place may receive and send.
    pub fn set_rates(&self, endpoint: &EndpointId, rates: Rates) {
        let mut state = self.state();
        if let Some(endpoint) = state.endpoints.get_mut(endpoint) {
            endpoint.rates = rates;
            self.db.enqueue(Batch::new().put(ENDPOINTS, endpoint.id.as_str(), endpoint));
        }
    }

    /// Records which ports of the host lead to a place.
    pub fn set_published(&self, endpoint: &EndpointId, published: Vec<Publication>) {
        let mut state = self.state();
        if let Some(endpoint) = state.endpoints.get_mut(endpoint) {
            endpoint.published = published;
            self.db.enqueue(Batch::new().put(ENDPOINTS, endpoint.id.as_str(), endpoint));
        }
    }

    /// A container has another name from now on.
    pub fn rename(&self, container: &ContainerId, name: &str) {
        let mut state = self.state();
        for endpoint in state.endpoints.values_mut().filter(|endpoint| endpoint.container == *container) {
            name.clone_into(&mut endpoint.name);
            self.db.enqueue(Batch::new().put(ENDPOINTS, endpoint.id.as_str(), endpoint));
        }
    }

    /// Everybody who is in a network.
    #[must_use]
    pub fn all_endpoints(&self) -> Vec<Endpoint> {
        self.state().endpoints.values().cloned().collect()
    }

    /// At start: takes back the places of containers that do not run.
    pub fn sweep(&self, runs: &dyn Fn(&ContainerId) -> bool) {
        let all: Vec<(EndpointId, ContainerId)> =
            self.state().endpoints.values().map(|one| (one.id.clone(), one.container.clone())).collect();
        for (endpoint, container) in all {
            if !runs(&container) {
                self.leave(&endpoint);
            }
        }
    }
}

/// An address of a family, if the network has it.
fn choose(
    network: &Network,
    given: &mut [Block],
    ipv6: bool,
    wanted: Option<IpAddr>,
) -> Result<Option<IpNet>> {
    let mut of_family: Vec<&mut Block> =
        given.iter_mut().filter(|block| block.subnet().addr().is_ipv6() == ipv6).collect();
    let with_prefix = |address: IpAddr, block: &Block| IpNet::new(address, block.subnet().prefix_len()).ok();
    if let Some(wanted) = wanted {
        let asked = |block: &&BlockSpec| block.subnet.is_some_and(|net| net.contains(&wanted));
        if network.spec.name == "bridge" && network.is_predefined() {
            return Err(NetError::Invalid(
                "user specified IP address is supported on user defined networks only".into(),
            ));
        }
        if !network.blocks.iter().any(|block| asked(&block)) {
            return Err(NetError::AddressOutside(wanted));
        }
        if !network.spec.blocks.iter().any(|block| asked(&block)) {
            return Err(NetError::Invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
                    .into(),
            ));
        }
        for block in of_family {
            if block.subnet().contains(&wanted) {
                block.take(wanted)?;
                return Ok(with_prefix(wanted, block));
            }
        }
        return Err(NetError::AddressOutside(wanted));
    }
    let Some(pool) = of_family.first().map(|block| block.subnet()) else { return Ok(None) };
    for block in &mut of_family {
        if let Some(address) = block.lowest() {
            return Ok(with_prefix(address, block));
        }
    }
    let version = if ipv6 { 6 } else { 4 };
    Err(NetError::NoAddress { version, name: network.spec.name.clone(), pool })
}

/// Locally administered, and the same for the same address, so that neighbours need not learn anew.
fn mac_of(addresses: &[IpNet]) -> [u8; 6] {
    match addresses.first().map(IpNet::addr) {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x42, a, b, c, d]
        }
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0x43, a, b, c, d]
        }
        None => random_mac(),
    }
}

/// Locally administered.
pub(crate) fn random_mac() -> [u8; 6] {
    let random = EndpointId::random();
    let byte = |at: usize| random.as_str().get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
    let mut mac = [0x02, 0x44, 0, 0, 0, 0];
    for (at, place) in mac.iter_mut().skip(2).enumerate() {
        *place = byte(at * 2).unwrap_or(1);
    }
    mac
}

impl State {
    fn insert(&mut self, network: Network) {
        let mut blocks = Vec::new();
        for spec in &network.blocks {
            let Some(subnet) = spec.subnet else { continue };
            let mut block = Block::new(subnet, spec.range);
            for address in spec.gateway.iter().chain(spec.auxiliary.values()) {
                // Checked when it was made; twice the same is one.
                block.take(*address).unwrap_or(());
            }
            blocks.push(block);
        }
        self.blocks.insert(network.id.clone(), blocks);
        self.networks.insert(network.id.clone(), network);
    }

    fn restore(&mut self, endpoint: Endpoint) {
        for block in self.blocks.get_mut(&endpoint.network).into_iter().flatten() {
            let subnet = block.subnet();
            for net in endpoint.addresses.iter().filter(|net| subnet.contains(&net.addr())) {
                block.take(net.addr()).unwrap_or_else(|error| {
                    tracing::warn!(endpoint = %endpoint.id, %error, "an address is recorded twice");
                });
            }
        }
        self.endpoints.insert(endpoint.id.clone(), endpoint);
    }

    fn find(&self, name: &str) -> Result<&Network> {
        // `default` is what a request calls the default network.
        let name = if name == "default" { "bridge" } else { name };
        if let Ok(id) = NetworkId::parse(name)
            && let Some(network) = self.networks.get(&id)
        {
            return Ok(network);
        }
        if let Some(network) = self.networks.values().find(|network| network.spec.name == name) {
            return Ok(network);
        }
        let mut found = self.networks.values().filter(|network| network.id.as_str().starts_with(name));
        match (found.next(), found.count()) {
            (Some(network), 0) if !name.is_empty() => Ok(network),
            (Some(_), more) if !name.is_empty() => {
                Err(NetError::Ambiguous { name: name.into(), count: more + 1, by: "ID prefix" })
            }
            _ => Err(NetError::NotFound(name.into())),
        }
    }

    /// The network whose configuration another one asks for.
    fn configuration(&self, spec: &NetworkSpec) -> Result<Option<&Network>> {
        if spec.config_from.is_empty() {
            return Ok(None);
        }
        let found = self
            .networks
            .values()
            .find(|network| network.spec.config_only && network.spec.name == spec.config_from);
        found.map(Some).ok_or_else(|| NetError::NoConfiguration(spec.config_from.clone()))
    }

    /// What no other network may overlap; with the host's routes where nobody chose.
    fn taken(&self, routes: bool) -> Vec<IpNet> {
        let mut taken: Vec<IpNet> = self.subnets().map(|(net, _)| net).collect();
        if routes {
            taken.extend(routes::of_host());
        }
        taken
    }

    fn check_free(&self, wanted: &IpNet) -> Result<()> {
        match self.subnets().find(|(net, _)| overlap(net, wanted)) {
            Some((other, network)) => {
                let other = format!("{other} of network {}", network.spec.name);
                Err(NetError::Overlap { wanted: *wanted, other })
            }
            None => Ok(()),
        }
    }

    /// The subnets that this engine gave; what plugins give is in spaces of their own.
    fn subnets(&self) -> impl Iterator<Item = (IpNet, &Network)> {
        let own = self
            .networks
            .values()
            .filter(|network| network.spec.ipam == Ipam::Own && !network.spec.config_only);
        own.flat_map(|network| network.blocks.iter().filter_map(move |block| Some((block.subnet?, network))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{BlockText, blocks};

    fn spec(name: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            blocks: Vec::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..NetworkSpec::default()
        }
    }

    fn with(name: &str, subnet: &str) -> NetworkSpec {
        let text = BlockText { subnet: subnet.into(), ..BlockText::default() };
        NetworkSpec { blocks: blocks(&[text]).unwrap(), ..spec(name) }
    }

    fn open(folder: &tempfile::TempDir) -> Networks {
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        // Where no machine has routes.
        let pool = crate::pools::Pool::new("198.18.0.0/15", 24).unwrap();
        Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap()
    }

    fn asks(network: &str) -> EndpointSpec {
        EndpointSpec { network: network.into(), ..EndpointSpec::default() }
    }

    #[test]
    fn networks_are_made_found_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let networks = open(&folder);
        let names: Vec<String> = networks.list().into_iter().map(|network| network.spec.name).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        let (front, _) = networks.create(spec("front")).unwrap();
        assert_eq!(front.blocks[0].subnet.unwrap().to_string(), "198.18.1.0/24");
        assert_eq!(front.blocks[0].gateway.unwrap().to_string(), "198.18.1.1");
        assert_eq!(front.bridge, format!("br-{}", front.id.short()));
        assert_eq!(networks.find("front").unwrap(), front);
        assert_eq!(networks.find(front.id.short()).unwrap(), front);
        assert_eq!(networks.find("default").unwrap().bridge, DEFAULT_BRIDGE);
        assert!(matches!(networks.create(spec("front")), Err(NetError::Exists(_))));
        let overlapping = networks.create(with("back", "198.18.0.0/16")).unwrap_err().to_string();
        assert!(overlapping.contains("Pool overlaps with other one on this address space"), "{overlapping}");
        assert!(networks.remove("bridge").unwrap_err().to_string().contains("pre-defined network"));
        drop(networks);
        let networks = open(&folder);
        assert_eq!(networks.find("front").unwrap(), front);
        networks.remove("front").unwrap();
        assert!(matches!(networks.find("front"), Err(NetError::NotFound(_))));
        assert!(matches!(networks.find(""), Err(NetError::NotFound(_))));
    }

    #[test]
    fn the_default_network_follows_its_configuration_and_stays_the_same_network() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(&folder).find("bridge").unwrap();
        let again = |default: &NetworkSpec| {
            let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
            let pool = crate::pools::Pool::new("198.18.0.0/15", 24).unwrap();
            Networks::open(db, Pools::new(vec![pool], [1; 5]), default).unwrap()
        };
        let mtu = BTreeMap::from([("com.docker.network.driver.mtu".to_owned(), "1400".to_owned())]);
        let second = again(&NetworkSpec { options: mtu, ..spec("bridge") }).find("bridge").unwrap();
        assert_eq!((&second.id, &second.blocks), (&first.id, &first.blocks));
        assert_eq!(second.options().mtu, 1400);
        let networks = again(&with("bridge", "198.19.7.0/24"));
        let third = networks.find("bridge").unwrap();
        assert_eq!(
            (&third.id, third.blocks[0].subnet.unwrap().to_string().as_str()),
            (&first.id, "198.19.7.0/24")
        );
        networks.join(&ContainerId::random(), "one", asks("bridge")).unwrap();
        drop(networks);
        assert_eq!(again(&spec("bridge")).find("bridge").unwrap().blocks, third.blocks);
    }

    #[test]
    fn endpoints_have_addresses_of_their_own_and_give_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let networks = open(&folder);
        networks.create(NetworkSpec { ipv6: true, ..with("front", "198.19.0.0/29") }).unwrap();
        let (one, two) = (ContainerId::random(), ContainerId::random());
        let (_, first) = networks.join(&one, "one", asks("front")).unwrap();
        let shown: Vec<String> = first.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.19.0.2/29", "fd01:101:101::2/64"]);
        assert_eq!(first.mac, [0x02, 0x42, 198, 19, 0, 2]);
        assert!(
            networks.join(&one, "one", asks("front")).unwrap_err().to_string().contains("already exists")
        );
        let wants = |text: &str| EndpointSpec { ipv4: Some(text.parse().unwrap()), ..asks("front") };
        let taken = networks.join(&two, "two", wants("198.19.0.2")).unwrap_err();
        assert!(matches!(taken, NetError::AddressTaken(_)), "{taken}");
        assert!(
            networks
                .join(&two, "two", wants("10.0.0.1"))
                .unwrap_err()
                .to_string()
                .contains("does not belong")
        );
        let (_, second) = networks.join(&two, "two", wants("198.19.0.6")).unwrap();
        // What a refused request had taken was given back.
        assert_eq!(second.addresses[1].to_string(), "fd01:101:101::3/64");
        let default = EndpointSpec { ipv4: Some("198.18.0.9".parse().unwrap()), ..asks("bridge") };
        assert!(
            networks
                .join(&two, "two", default)
                .unwrap_err()
                .to_string()
                .contains("user defined networks only")
        );
        let inside = networks.remove("front").unwrap_err().to_string();
        assert!(inside.contains("has active endpoints") && inside.contains("name:\"two\""), "{inside}");
        drop(networks);
        let networks = open(&folder);
        assert_eq!(networks.of_container(&one), std::slice::from_ref(&first));
        networks.sweep(&|container| *container == two);
        assert!(networks.of_container(&one).is_empty());
        let names: Vec<String> =
            networks.endpoints(&second.network).into_iter().map(|endpoint| endpoint.name).collect();
        assert_eq!(names, ["two"]);
        let (_, again) = networks.join(&one, "one", asks("front")).unwrap();
        assert_eq!(again.addresses, first.addresses);
        // Full: 2 to 6 are five addresses, of which one is taken by name.
        let more = (0..3).map(|_| networks.join(&ContainerId::random(), "x", asks("front")));
        assert!(more.into_iter().all(|joined| joined.is_ok()));
        let full = networks.join(&ContainerId::random(), "x", asks("front")).unwrap_err().to_string();
        assert!(full.contains("no available IPv4 addresses") && full.contains("198.19.0.0/29"), "{full}");
        networks.leave(&again.id).unwrap();
        assert!(networks.leave(&again.id).is_none());
        assert!(networks.join(&ContainerId::random(), "x", asks("front")).is_ok());
    }
}
