//! Networks as they are on this host: what is recorded and what the kernel has, kept together.
//!
//! Invariants: a network that was acknowledged has its device, and one that could not be made leaves neither record nor
//! device; a container's places are recorded before its links are made and given back when they could not be made or
//! the container has ended. What a crash leaves apart, `restore` puts together at the next start.
//! All of it works in the namespace in which `open` was called. Everything here blocks, for a millisecond or two.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use havre_base::{ContainerId, EndpointId, NetworkId};
use havre_sys::netlink::Route;
use ipnet::IpNet;

use crate::drivers::remote::Plugins;
use crate::drivers::{self, bridge, parent};
use crate::firewall::Firewall;
use crate::networks::{Endpoint, EndpointSpec, Network, Networks, Prepared};
use crate::options::GatewayMode;
use crate::ports::{Publication, PublishedPort};
use crate::publish::Taken;
use crate::rate::{self, Rates};
use crate::relay::{self, Relay};
use crate::sandbox::{self, Sandbox};
use crate::spec::{BlockSpec, Driver, Ipam, NetworkSpec};
use crate::stale::{self, Stale};
use crate::{NetError, Result};

/// Giving back places takes a millisecond each; an engine that ends waits no longer than this.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);
/// How long plugins may keep a start waiting by what they are told of containers that ended before.
const FORGETTING: Duration = Duration::from_secs(10);

/// The networks of this host.
#[derive(Debug)]
pub struct Fabric {
    networks: Arc<Networks>,
    /// Held for one change at a time.
    host: Mutex<Route>,
    /// None where the administrator does it.
    firewall: Option<Firewall>,
    mark: PathBuf,
    relay: Relay,
    stale: Stale,
    /// Whether the host's rules for what is its own judge about published ports.
    by_input: bool,
    /// Held while ports are chosen, so that nobody else chooses the same; where to look for the next one.
    choosing: Mutex<u16>,
    /// How many containers are giving back their places.
    leaving: (Mutex<usize>, Condvar),
    /// Whether the default network's addresses on this host are used by others than its containers.
    default_is_used: AtomicBool,
    plugins: Plugins,
}

/// A container is giving back its places, for as long as this is held.
#[derive(Debug)]
pub struct Leaving(Arc<Fabric>);

impl Drop for Leaving {
    fn drop(&mut self) {
        *self.0.lock_leaving() -= 1;
        self.0.leaving.1.notify_all();
    }
}

/// What the administrator decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricSpec {
    /// The name of the packet filter's table; without one nothing is filtered, translated or published.
    pub table: Option<String>,
    /// Published ports are what the host's rules for its own input say, as if programs of the host had them.
    pub by_input: bool,
    /// Beside this file, with the family's number behind its name, is one while forwarding is on because of us.
    pub mark: PathBuf,
}

/// A container's namespace, ready to be joined, and its places.
#[derive(Debug)]
pub struct Connected {
    /// The namespace. It goes with this descriptor unless somebody has joined it.
    pub namespace: OwnedFd,
    /// The places in the order in which they were joined.
    pub endpoints: Vec<Endpoint>,
}

/// Turns forwarding on, without which no container reaches anybody else. If it is on because of us, the bridges that
/// were there before: then the host must not forward for others too.
fn forward(mark: &Path, ipv6: bool, host: &mut Route) -> Result<Option<Vec<String>>> {
    let name = if ipv6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
    let mark = mark.with_extension(if ipv6 { "6" } else { "4" });
    let path = format!("/proc/sys/net/{name}");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == "0" => {
            if ipv6 {
                keep_learning()?;
            }
            let mut bridges = bridge::of_others(host)?;
            // The mark first: a crash in between must not open the host.
            std::fs::write(&mark, bridges.join("\n"))?;
            std::fs::write(&path, "1")?;
            bridges.sort();
            Ok(Some(bridges))
        }
        // A kernel without that family.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => match std::fs::read_to_string(&mark) {
            Ok(bridges) => Ok(Some(bridges.lines().map(str::to_owned).collect())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        },
    }
}

/// Engines that share a host begin at different ports: what one publishes another does not see.
fn first_port(spec: &FabricSpec) -> u16 {
    let mut hasher = std::hash::DefaultHasher::new();
    spec.table.hash(&mut hasher);
    // Within what the kernel gives to programs that do not choose; the range itself is looked up when a port is chosen.
    32_768 + u16::try_from(hasher.finish() % 16_384).unwrap_or_default()
}

/// A host that forwards ignores advertisements of routers, and would lose its way out, unless it is told not to.
fn keep_learning() -> Result<()> {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            std::fs::write(&path, "2")?;
        }
    }
    Ok(())
}

/// Places that are given back unless everything went well.
struct Places<'a> {
    fabric: &'a Fabric,
    joined: Vec<(Network, Endpoint)>,
    keep: bool,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if !self.keep {
            for (_, endpoint) in &self.joined {
                self.fabric.unguard(&endpoint.id);
                self.fabric.give_back(endpoint, None);
            }
        }
    }
}

impl Fabric {
    /// Works on the namespace of the calling thread.
    pub fn open(networks: Arc<Networks>, spec: &FabricSpec) -> Result<Self> {
        let host = Mutex::new(Route::open()?);
        let firewall = match &spec.table {
            None => None,
            Some(name) => Some(Firewall::open(name, spec.by_input)?),
        };
        let (relay, stale, by_input) = (Relay::default(), Stale::default(), spec.by_input);
        let (mark, choosing) = (spec.mark.clone(), Mutex::new(first_port(spec)));
        let (default_is_used, leaving) = (AtomicBool::new(false), (Mutex::new(0), Condvar::new()));
        Ok(Self {
            networks,
            host,
            firewall,
            mark,
            relay,
            stale,
            by_input,
            choosing,
            leaving,
            default_is_used,
            plugins: Plugins::default(),
        })
    }

    /// The same, with plugins that are looked for elsewhere.
    #[must_use]
    pub fn with_plugins(mut self, folders: havre_plugin::Folders) -> Self {
        self.plugins = Plugins::new(folders);
        self
    }

    /// What is recorded.
    #[must_use]
    pub const fn networks(&self) -> &Arc<Networks> {
        &self.networks
    }

    pub(crate) fn host(&self) -> MutexGuard<'_, Route> {
        // Requests are whole, and answers that nobody took are skipped by their numbers.
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At start: gives back the places of containers that do not run, makes the devices that are missing and removes
    /// those of networks that are gone. What cannot be made is told, and fails again where it is needed.
    pub fn restore(&self, runs: &dyn Fn(&ContainerId) -> bool) {
        self.forget(runs);
        self.networks.sweep(runs);
        let mut all = self.networks.list();
        // The default network is made for its first container, so that an engine without one leaves the host as it is.
        let used = |network: &Network| {
            !self.networks.endpoints(&network.id).is_empty() || self.default_is_used.load(Ordering::Relaxed)
        };
        all.retain(|network| !network.is_predefined() || used(network));
        let mut host = self.host();
        if let Err(error) = rate::sweep(&mut host, &self.networks.all_endpoints())
            .and_then(|()| drivers::sweep(&mut host, &all))
        {
            tracing::warn!(
                error = havre_base::chain(&error),
                "cannot look for devices of networks that are gone"
            );
        }
        for network in &all {
            let made = match network.spec.driver {
                Driver::Bridge => {
                    self.forward_for(network, &mut host).and_then(|()| bridge::ensure(&mut host, network))
                }
                Driver::Macvlan | Driver::Ipvlan => parent::ensure(&mut host, network),
                Driver::Host | Driver::Null | Driver::Remote(_) => continue,
            };
            if let Err(error) = made {
                let name = &network.spec.name;
                tracing::warn!(
                    network = name,
                    error = havre_base::chain(&error),
                    "cannot make the device of a network"
                );
            }
        }
        drop(host);
        if let Err(error) = self.restore_firewall(&all) {
            tracing::error!(error = havre_base::chain(&error), "cannot write the firewall's table");
        }
    }

    /// All at once, so that running containers lose nothing.
    fn restore_firewall(&self, all: &[Network]) -> Result<()> {
        let Some(firewall) = &self.firewall else { return Ok(()) };
        if !all.iter().any(|network| network.spec.driver == Driver::Bridge) {
            // Left over from an engine that did not come to its end.
            return firewall.empty();
        }
        let bridges = all.iter().filter(|network| network.spec.driver == Driver::Bridge);
        let by_id: BTreeMap<&NetworkId, &Network> = bridges.map(|network| (&network.id, network)).collect();
        let places = self.networks.all_endpoints();
        let known = places.iter().filter_map(|place| Some((place, *by_id.get(&place.network)?)));
        firewall.replace(by_id.values().copied(), known)?;
        for place in &places {
            if let Some(network) = by_id.get(&place.network)
                && let Err(error) = self.open_doors(&place.id, network, &place.published)
            {
                tracing::warn!(error = havre_base::chain(&error), "a published port is not reached");
            }
        }
        Ok(())
    }

    /// What leads where the kernel does not.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Lets the relay lead to these ports of a place, and to no others of it.
    fn open_doors(&self, place: &EndpointId, network: &Network, ports: &[Publication]) -> Result<()> {
        let options = network.options();
        let translated = |port: &&Publication| {
            let mode = if port.to.is_ipv6() { options.mode6 } else { options.mode4 };
            mode != GatewayMode::Routed
        };
        let ports: Vec<Publication> = ports.iter().filter(translated).copied().collect();
        self.relay.set(place, &relay::doors(&ports, self.by_input))
    }

    /// The firewall, unless the administrator does it.
    #[must_use]
    pub const fn firewall(&self) -> Option<&Firewall> {
        self.firewall.as_ref()
    }

    /// Writes the firewall's table anew, for when somebody else has changed it; false where there is none.
    pub fn assert_firewall(&self) -> Result<bool> {
        self.firewall.as_ref().map_or(Ok(false), Firewall::assert)
    }

    /// Containers of other networks use the default network's addresses on this host.
    pub fn use_default(&self) {
        self.default_is_used.store(true, Ordering::Relaxed);
    }

    /// By which addresses containers reach this host: those of the default network's bridge, which is there from now on.
    pub fn host_gateways(&self) -> Result<Vec<IpAddr>> {
        self.use_default();
        let network = self.networks.find("bridge")?;
        if self.firewall.as_ref().is_some_and(|firewall| !firewall.has(&network.id)) {
            self.lay(&network)?;
        }
        bridge::ensure(&mut self.host(), &network)?;
        Ok(network.blocks.iter().filter_map(|block| block.gateway).collect())
    }

    /// Makes a network. Also returns which of its options have no effect.
    pub fn create(&self, spec: NetworkSpec) -> Result<(Network, Vec<String>)> {
        let spec = self.networks.configured(spec)?;
        spec.check()?;
        let prepared = self.prepare(&spec)?;
        let made = self.networks.create_prepared(spec.clone(), &prepared);
        let (network, warnings) = match made {
            Ok(made) => made,
            Err(error) => {
                self.release_pools(&spec, prepared.blocks.as_deref());
                return Err(error);
            }
        };
        if let Err(error) = self.lay(&network) {
            self.networks.remove(network.id.as_str())?;
            self.release_pools(&spec, prepared.blocks.as_deref());
            drivers::remove(&mut self.host(), &network, &self.networks.list())?;
            return Err(error);
        }
        Ok((network, warnings))
    }

    /// Asks the plugins of a network before it is made.
    fn prepare(&self, spec: &NetworkSpec) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        if let Driver::Remote(driver) = &spec.driver {
            prepared.no_gateway = self.plugins.network(driver)?.check(spec)?;
        }
        if let Ipam::Remote(name) = &spec.ipam {
            prepared.blocks = Some(self.plugins.ipam(name)?.pools(spec, prepared.no_gateway)?);
        }
        Ok(prepared)
    }

    fn release_pools(&self, spec: &NetworkSpec, blocks: Option<&[BlockSpec]>) {
        if let (Ipam::Remote(name), Some(blocks)) = (&spec.ipam, blocks) {
            match self.plugins.ipam(name) {
                Ok(ipam) => ipam.release_pools(blocks),
                Err(error) => {
                    tracing::warn!(
                        plugin = name,
                        error = havre_base::chain(&error),
                        "subnets are not given back"
                    );
                }
            }
        }
    }

    /// Makes what is below a network.
    fn lay(&self, network: &Network) -> Result<()> {
        match &network.spec.driver {
            Driver::Bridge => self.lay_bridge(network),
            Driver::Macvlan | Driver::Ipvlan => {
                let mut host = self.host();
                parent::supported(&mut host, network)?;
                parent::ensure(&mut host, network).map(drop)
            }
            Driver::Remote(driver) => self.plugins.network(driver)?.create_network(network),
            Driver::Host | Driver::Null => Ok(()),
        }
    }

    fn lay_bridge(&self, network: &Network) -> Result<()> {
        let mut host = self.host();
        self.forward_for(network, &mut host)?;
        bridge::ensure(&mut host, network)?;
        drop(host);
        self.firewall.as_ref().map_or(Ok(()), |firewall| firewall.add_network(network))
    }

    /// Before the first bridge of a family.
    fn forward_for(&self, network: &Network, host: &mut Route) -> Result<()> {
        let Some(firewall) = &self.firewall else { return Ok(()) };
        for (wanted, ipv6) in [(network.spec.ipv4, false), (network.spec.ipv6, true)] {
            if wanted && let Some(bridges) = forward(&self.mark, ipv6, host)? {
                firewall.close_to_others(ipv6, bridges);
            }
        }
        Ok(())
    }

    /// Removes a network that nobody is in, and its device.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let network = self.networks.remove(name)?;
        if let Driver::Remote(driver) = &network.spec.driver {
            let deleted = self.plugins.network(driver).and_then(|plugin| plugin.delete_network(&network));
            if let Err(error) = deleted {
                // As with Docker it stays until its plugin removes it.
                self.networks.put_back(&network)?;
                return Err(error);
            }
        }
        self.release_pools(&network.spec, Some(&network.blocks));
        if let Some(firewall) = &self.firewall {
            firewall.remove_network(&network.id)?;
        }
        drivers::remove(&mut self.host(), &network, &self.networks.list())?;
        Ok(network)
    }

    /// Gives a container that is about to start a namespace with a link for each place it asks for, and ports of the host.
    pub fn connect(
        &self,
        container: &ContainerId,
        name: &str,
        asked: &[EndpointSpec],
        ports: &[PublishedPort],
    ) -> Result<Connected> {
        // Left over from a run that nobody saw end.
        self.disconnect(container);
        let mut places = Places { fabric: self, joined: Vec::new(), keep: false };
        let mut sandbox = Sandbox::create()?;
        for spec in asked {
            self.settle_default(spec)?;
            places.joined.push(self.take_place(container, name, spec)?);
            if let Some((network, endpoint)) = places.joined.last_mut() {
                self.plug(&mut sandbox, network, endpoint)?;
            }
        }
        let joined: Vec<(&Network, &Endpoint)> =
            places.joined.iter().map(|(network, place)| (network, place)).collect();
        sandbox.lead_out(&joined)?;
        self.publish(&joined, ports)?;
        places.keep = true;
        let now = self.networks.of_container(container);
        let endpoints = places
            .joined
            .iter()
            .filter_map(|(_, old)| now.iter().find(|one| one.id == old.id).cloned())
            .collect();
        Ok(Connected { namespace: sandbox.into_fd(), endpoints })
    }

    /// The default network is made for its first container: what the host has got since its subnet was chosen counts.
    pub(crate) fn settle_default(&self, spec: &EndpointSpec) -> Result<()> {
        let network = self.networks.find(&spec.network)?;
        if !network.is_predefined()
            || network.spec.driver != Driver::Bridge
            || !self.networks.endpoints(&network.id).is_empty()
        {
            return Ok(());
        }
        let found = self.host().link(network.bridge.as_str());
        if found.is_err()
            && self.networks.move_default()?
            && let Some(firewall) = &self.firewall
        {
            firewall.remove_network(&network.id)?;
        }
        Ok(())
    }

    /// Takes a place, with addresses of whoever gives them in that network.
    pub(crate) fn take_place(
        &self,
        container: &ContainerId,
        name: &str,
        spec: &EndpointSpec,
    ) -> Result<(Network, Endpoint)> {
        let network = self.networks.find(&spec.network)?;
        let Ipam::Remote(ipam) = &network.spec.ipam else {
            return self.networks.join(container, name, spec.clone());
        };
        let (ipam, mut spec) = (self.plugins.ipam(ipam)?, spec.clone());
        let addresses = ipam.addresses(&network, &mut spec)?;
        let joined = self.networks.join_at(container, name, spec, Some(addresses.clone()));
        if joined.is_err() {
            ipam.release_addresses(&network, &addresses);
        }
        joined
    }

    /// Takes a place back, and tells the plugins of its network, of whom each call may take only so long.
    pub(crate) fn give_back(&self, endpoint: &Endpoint, patience: Option<Duration>) {
        if let Ok(network) = self.networks.find(endpoint.network.as_str()) {
            let told = |plugin: &str, error: NetError| {
                tracing::warn!(
                    plugin,
                    error = havre_base::chain(&error),
                    "a plugin is not told of a container's end"
                );
            };
            if let Driver::Remote(driver) = &network.spec.driver {
                match self.plugins.network(driver) {
                    Ok(plugin) => plugin.within(patience).remove_endpoint(&network, endpoint),
                    Err(error) => told(driver, error),
                }
            }
            if let Ipam::Remote(name) = &network.spec.ipam {
                match self.plugins.ipam(name) {
                    Ok(plugin) => plugin.within(patience).release_addresses(&network, &endpoint.addresses),
                    Err(error) => told(name, error),
                }
            }
        }
        if endpoint.rates.out.is_some()
            && let Err(error) = rate::forget(&mut self.host(), endpoint)
        {
            tracing::warn!(
                error = havre_base::chain(&error),
                "the link that limited a container's rate is left"
            );
        }
        self.networks.leave(&endpoint.id);
    }

    /// Tells plugins of containers that ended while nobody was there.
    fn forget(&self, runs: &dyn Fn(&ContainerId) -> bool) {
        let is_remote = |network: &Network| {
            matches!(network.spec.driver, Driver::Remote(_)) || matches!(network.spec.ipam, Ipam::Remote(_))
        };
        let deadline = Instant::now() + FORGETTING;
        for endpoint in self.networks.all_endpoints() {
            let network = self.networks.find(endpoint.network.as_str());
            let left = deadline.saturating_duration_since(Instant::now());
            if !network.is_ok_and(|network| is_remote(&network)) || runs(&endpoint.container) {
                continue;
            }
            if left.is_zero() {
                tracing::warn!(endpoint = %endpoint.id, "plugins are too slow to be told of all containers that ended");
                break;
            }
            self.give_back(&endpoint, Some(left / 4));
        }
    }

    pub(crate) fn plug(
        &self,
        sandbox: &mut Sandbox,
        network: &Network,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        match &network.spec.driver {
            Driver::Bridge => {
                if self.firewall.as_ref().is_some_and(|firewall| !firewall.has(&network.id)) {
                    self.lay_bridge(network)?;
                }
                // Before there is a link over which something could be said.
                if let Some(firewall) = &self.firewall {
                    firewall.guard(network, endpoint)?;
                }
                let mut host = self.host();
                let bridge = bridge::ensure(&mut host, network)?;
                sandbox.plug(&mut host, bridge, network, endpoint).map(drop)
            }
            Driver::Null => Ok(()),
            Driver::Host => Err(NetError::Invalid(
                "cannot connect container to host network - container must be created in host network mode"
                    .into(),
            )),
            Driver::Macvlan | Driver::Ipvlan => {
                self.own_addresses(network, endpoint)?;
                let mut host = self.host();
                let on = parent::ensure(&mut host, network)?;
                let made = sandbox.plug_on(&mut host, &parent::kind(network, on), network, endpoint);
                // What follows may wait.
                drop(host);
                made.and_then(|name| sandbox.bring_up(&name, network, endpoint))
                    .map_err(|error| self.unplugged(network, endpoint, error))
            }
            Driver::Remote(driver) => {
                let plugin = self.plugins.network(driver)?;
                plugin.plug(&self.host, sandbox, network, endpoint)?;
                self.networks.amend(endpoint);
                Ok(())
            }
        }
    }

    /// Two links on one parent cannot have one hardware address.
    fn own_addresses(&self, network: &Network, endpoint: &Endpoint) -> Result<()> {
        let on = parent::name(network);
        let same = self.networks.all_endpoints().into_iter().find(|other| {
            other.id != endpoint.id
                && other.mac == endpoint.mac
                && other.mac != [0; 6]
                && self.networks.find(other.network.as_str()).is_ok_and(|network| {
                    matches!(network.spec.driver, Driver::Macvlan | Driver::Ipvlan)
                        && parent::name(&network) == on
                })
        });
        match same {
            None => Ok(()),
            Some(other) => Err(NetError::Predefined(format!(
                "container {} has the hardware address {} on the parent {on} already",
                other.name,
                other.mac.map(|byte| format!("{byte:02x}")).join(":")
            ))),
        }
    }

    /// Why a parent took no further link: the kernel only says that it is busy or that something is invalid.
    fn unplugged(&self, network: &Network, endpoint: &Endpoint, error: NetError) -> NetError {
        let name = &network.spec.name;
        let passthru = network.options().mode == "passthru";
        if passthru && self.networks.endpoints(&network.id).iter().any(|other| other.id != endpoint.id) {
            return NetError::Predefined(format!(
                "a container is in macvlan network {name} already, whose parent {} is passed through to one only",
                parent::name(network)
            ));
        }
        let why = havre_base::chain(&error);
        NetError::Unsupported(format!(
            "cannot put a link of network {name} on its parent {}: {why}",
            parent::name(network)
        ))
    }

    /// Limits how fast a container that is joined may receive and send, in each of its networks.
    pub fn limit(&self, container: &ContainerId, rates: Rates) -> Result<()> {
        for endpoint in self.networks.of_container(container) {
            if endpoint.rates == rates {
                continue;
            }
            let network = self.networks.find(endpoint.network.as_str())?;
            if network.spec.driver != Driver::Bridge {
                let (name, driver) = (&network.spec.name, network.spec.driver.name());
                return Err(NetError::Invalid(format!(
                    "the rate of container {} cannot be limited in network {name}: containers in networks of the driver {driver} have no end at the host, which only bridge networks have",
                    endpoint.name
                )));
            }
            rate::limit(&mut self.host(), &endpoint, rates)?;
            self.networks.set_rates(&endpoint.id, rates);
        }
        Ok(())
    }

    /// Ports lead to the place by which the container reaches the world.
    fn publish(&self, joined: &[(&Network, &Endpoint)], asked: &[PublishedPort]) -> Result<()> {
        let Some((network, endpoint)) = sandbox::way_out(joined) else { return Ok(()) };
        if let Driver::Remote(driver) = &network.spec.driver {
            return self.plugins.network(driver)?.lead_out(network, endpoint, asked);
        }
        let Some(firewall) = self.firewall.as_ref().filter(|_| !asked.is_empty()) else { return Ok(()) };
        if network.spec.driver != Driver::Bridge {
            // As with Docker: the container is reached under its own address.
            let (network, driver) = (&network.spec.name, network.spec.driver.name());
            tracing::warn!(network, driver, "ports are not published: its driver has no port mappings");
            return Ok(());
        }
        let mut next = self.choosing();
        let addresses: Vec<_> = endpoint.addresses.iter().map(IpNet::addr).collect();
        let mut taken = Taken::now(&self.networks.all_endpoints(), asked).besides(self.relay.doors());
        taken.next = *next;
        let chosen = taken.choose(asked, &addresses, network.options().host_binding)?;
        *next = taken.next;
        self.open_doors(&endpoint.id, network, &chosen)?;
        if let Err(error) = firewall.publish(&endpoint.id, network, &chosen) {
            self.open_doors(&endpoint.id, network, &[])?;
            return Err(error);
        }
        self.networks.set_published(&endpoint.id, chosen.clone());
        self.stale.mark(&chosen);
        Ok(())
    }

    /// To be held while ports are chosen.
    pub(crate) fn choosing(&self) -> MutexGuard<'_, u16> {
        self.choosing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads these ports to these places in place of those that led there, at once.
    pub(crate) fn lead_ports(&self, changes: &[(&Endpoint, &Network, &[Publication])]) -> Result<()> {
        let Some(firewall) = &self.firewall else { return Ok(()) };
        let elements: Vec<_> =
            changes.iter().map(|(place, network, ports)| (&place.id, *network, *ports)).collect();
        let doors = |changes: &[(&Endpoint, &Network, &[Publication])]| {
            changes.iter().try_for_each(|(place, network, ports)| self.open_doors(&place.id, network, ports))
        };
        if let Err(error) = doors(changes).and_then(|()| firewall.publish_all(&elements)) {
            let before: Vec<_> = changes
                .iter()
                .map(|(place, network, _)| (*place, *network, place.published.as_slice()))
                .collect();
            doors(&before)?;
            return Err(error);
        }
        for (place, _, ports) in changes {
            self.networks.set_published(&place.id, ports.to_vec());
            self.stale.mark(place.published.iter().chain(*ports));
        }
        Ok(())
    }

    /// Gives back all places of a container that has ended: its links went with its namespace.
    pub fn disconnect(&self, container: &ContainerId) {
        for endpoint in self.networks.of_container(container) {
            if let (Some(firewall), Ok(network)) =
                (&self.firewall, self.networks.find(endpoint.network.as_str()))
                && let Err(error) = firewall
                    .publish(&endpoint.id, &network, &[])
                    .and_then(|()| self.open_doors(&endpoint.id, &network, &[]))
            {
                // The port leads nowhere, and the next change of the table makes it good.
                tracing::warn!(error = havre_base::chain(&error), "cannot take back published ports");
            }
            self.close_port(&endpoint);
            self.unguard(&endpoint.id);
            self.give_back(&endpoint, None);
            self.stale.mark(&endpoint.published);
        }
    }

    /// Ends when the flows of published ports have to be looked at.
    pub(crate) async fn changed_ports(&self) -> BTreeSet<(u16, bool)> {
        self.stale.next().await
    }

    /// Forgets flows that go elsewhere than these ports lead now.
    pub(crate) fn forget_flows(&self, changed: &BTreeSet<(u16, bool)>) -> Result<usize> {
        let published: Vec<Publication> =
            self.networks.all_endpoints().into_iter().flat_map(|place| place.published).collect();
        stale::forget(changed, &published, self.by_input)
    }

    /// The kernel takes the links of a namespace away behind the end of its last process, and answers for them until then:
    /// whoever gets the address next must not share it with them.
    fn close_port(&self, endpoint: &Endpoint) {
        let name = sandbox::outer_name(endpoint);
        match self.host().change(|changes| changes.close_port(name.as_str())) {
            Err(error) if !error.is_absent() => {
                tracing::debug!(link = name, %error, "cannot close the bridge port of a container that has ended");
            }
            _ => {}
        }
    }

    /// Forgets what is true of a place whose link is cut.
    pub(crate) fn unguard(&self, place: &EndpointId) {
        if let Some(firewall) = &self.firewall
            && let Err(error) = firewall.unguard(place)
        {
            // It is about a link that is no more.
            tracing::warn!(error = havre_base::chain(&error), "cannot take back what a container may say");
        }
    }

    /// Says that a container's places are about to be given back; `close` waits for it.
    #[must_use]
    pub fn leaving(self: &Arc<Self>) -> Leaving {
        *self.lock_leaving() += 1;
        Leaving(Arc::clone(self))
    }

    fn lock_leaving(&self) -> MutexGuard<'_, usize> {
        self.leaving.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At the end of the engine: devices that nobody is at go, those of running containers stay.
    pub fn close(&self) {
        let some = |count: &mut usize| *count > 0;
        drop(self.leaving.1.wait_timeout_while(self.lock_leaving(), LEAVES_WITHIN, some));
        let mut host = self.host();
        let used = |network: &Network| {
            network.is_predefined()
                && self.default_is_used.load(Ordering::Relaxed)
                && !self.networks.all_endpoints().is_empty()
        };
        let mut in_use = self.networks.list();
        in_use.retain(|network| used(network) || !self.networks.endpoints(&network.id).is_empty());
        for network in self.networks.list() {
            if !in_use.contains(&network)
                && let Err(error) = drivers::remove(&mut host, &network, &in_use)
            {
                let name = &network.spec.name;
                tracing::warn!(
                    network = name,
                    error = havre_base::chain(&error),
                    "cannot remove the device of a network"
                );
            }
        }
        drop(host);
        if self.networks.all_endpoints().is_empty()
            && let Some(firewall) = &self.firewall
            && let Err(error) = firewall.empty()
        {
            tracing::warn!(error = havre_base::chain(&error), "cannot empty the firewall's table");
        }
    }
}
