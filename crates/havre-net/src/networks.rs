//! The networks of this machine and who is in them.
//!
//! Answers come from memory; the database is for the next start. Invariants: a network is durable before it is
//! acknowledged; subnets do not overlap; an address belongs to one endpoint; a network with endpoints stays.
//! Not here: interfaces and the firewall, which follow what is recorded here.

mod records;
mod state;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::{Clock as _, ContainerId, EndpointId, NetworkId, SystemClock};
use havre_store::{Batch, Db, Table};
use ipnet::IpNet;

use crate::addresses::Block;
use crate::options::{GUARD, GatewayMode, Options, guard};
use crate::pools::{Pools, overlap};
use crate::ports::Publication;
use crate::rate::Rates;
use crate::spec::{BlockSpec, Driver, Ipam, NetworkSpec};
use crate::{NetError, Result, drivers, routes};

pub use records::{Endpoint, EndpointSpec, Network, Prepared, Way};
pub(crate) use state::random_mac;
use state::{State, choose, mac_of};

const NETWORKS: Table = Table("networks");
const ENDPOINTS: Table = Table("endpoints");
const ENGINE: Table = Table("engine");

/// The device of the default network.
pub const DEFAULT_BRIDGE: &str = "havre0";

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
    engine: String,
    pools: Pools,
    /// Protects what is known; held around a commit, so that changes are durable in the order they are seen.
    state: Mutex<State>,
}

impl Networks {
    /// Opens them, making the ones that are always there.
    pub fn open(db: Arc<Db>, pools: Pools, default: &NetworkSpec) -> Result<Self> {
        let mut state = State::default();
        let engine = match db.load::<String>(ENGINE)?.pop() {
            Some((_, known)) => known,
            None => {
                let new = NetworkId::random().short().to_owned();
                db.commit(Batch::new().put(ENGINE, "id", &new))?;
                new
            }
        };
        for (_, network) in db.load::<Network>(NETWORKS)? {
            state.insert(Network { engine: engine.clone(), ..network });
        }
        let networks = Self { db, engine, pools, state: Mutex::new(state) };
        for (_, endpoint) in networks.db.load::<Endpoint>(ENDPOINTS)? {
            networks.state().restore(endpoint);
        }
        for (name, driver) in [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)] {
            let spec = NetworkSpec { name: name.into(), driver, ..default.clone() };
            networks.ensure(spec)?;
        }
        Ok(networks)
    }

    /// What marks devices of this engine: the same at each start, and no other engine's.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
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
        let network =
            Network { id, created: SystemClock.now(), spec, blocks, bridge, engine: self.engine.clone() };
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
        let mut all: Vec<Endpoint> = state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == *network && !endpoint.leaving)
            .cloned()
            .collect();
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

    /// These places are about to be given back: from now on nobody finds them by their names.
    pub fn forsake(&self, places: &[Endpoint]) {
        let mut state = self.state();
        for place in places {
            if let Some(endpoint) = state.endpoints.get_mut(&place.id) {
                endpoint.leaving = true;
            }
        }
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
            leaving: false,
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
