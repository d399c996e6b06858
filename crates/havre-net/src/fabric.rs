//! Networks as they are on this host: what is recorded and what the kernel has, kept together.
//!
//! Invariants: a network that was acknowledged has its device, and one that could not be made leaves neither record nor
//! device; a container's places are recorded before its links are made and given back when they could not be made or
//! the container has ended. What a crash leaves apart, `restore` puts together at the next start.
//! All of it works in the namespace in which `open` was called. Everything here blocks, for a millisecond or two.

mod leaving;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use havre_base::{ContainerId, NetworkId};
use havre_sys::netlink::Route;

use crate::drivers::remote::Plugins;
use crate::drivers::{self, bridge, parent};
use crate::firewall::Firewall;
use crate::networks::{Endpoint, EndpointSpec, Network, Networks, Prepared};
use crate::ports::PublishedPort;
use crate::rate::{self, Rates};
use crate::relay::Relay;
use crate::sandbox::{self, Sandbox};
use crate::spec::{BlockSpec, Driver, Ipam, NetworkSpec};
use crate::stale::Stale;
use crate::{NetError, Result, forwarding};

use leaving::Leavers;
pub use leaving::Leaving;
use ports::first_port;

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
    leaving: (Mutex<Leavers>, Condvar),
    /// Whether the default network's addresses on this host are used by others than its containers.
    default_is_used: AtomicBool,
    plugins: Plugins,
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
        let (default_is_used, leaving) = (AtomicBool::new(false), (Mutex::default(), Condvar::new()));
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
        if let Err(error) = rate::sweep(&mut host, self.networks.engine(), &self.networks.all_endpoints())
            .and_then(|()| sandbox::sweep(&mut host, self.networks.engine(), &self.networks.all_endpoints()))
            .and_then(|()| drivers::sweep(&mut host, self.networks.engine(), &all))
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
            firewall.empty()?;
            return self.stop_forwarding(firewall);
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
        // Another engine that ended meanwhile saw no bridge and may have turned it off.
        self.forward_for(network, &mut host)?;
        drop(host);
        self.firewall.as_ref().map_or(Ok(()), |firewall| firewall.add_network(network))
    }

    /// Before the first bridge of a family.
    fn forward_for(&self, network: &Network, host: &mut Route) -> Result<()> {
        let Some(firewall) = &self.firewall else { return Ok(()) };
        for (wanted, ipv6) in [(network.spec.ipv4, false), (network.spec.ipv6, true)] {
            if wanted && let Some(bridges) = forwarding::start(&self.mark, ipv6, host)? {
                firewall.close_to_others(ipv6, bridges);
            }
        }
        Ok(())
    }

    /// Removes a network that nobody is in, and its device.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let network = self.after_leavers(|| self.networks.remove(name))?;
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
        if let Some(firewall) = self.firewall.as_ref().filter(|firewall| !firewall.is_used()) {
            self.stop_forwarding(firewall)?;
        }
        Ok(network)
    }

    /// When no network is left: the host is as it was.
    fn stop_forwarding(&self, firewall: &Firewall) -> Result<()> {
        let mut host = self.host();
        for ipv6 in [false, true] {
            if forwarding::stop(&self.mark, ipv6, &mut host)? {
                firewall.open_to_others(ipv6);
            }
        }
        Ok(())
    }

    /// Gives a container that is about to start a namespace with a link for each place it asks for, and ports of the host.
    pub fn connect(
        &self,
        container: &ContainerId,
        name: &str,
        asked: &[EndpointSpec],
        ports: &[PublishedPort],
    ) -> Result<Connected> {
        self.after_leavers(|| self.connect_once(container, name, asked, ports))
    }

    fn connect_once(
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
            rate::limit(&mut self.host(), self.networks.engine(), &endpoint, rates)?;
            self.networks.set_rates(&endpoint.id, rates);
        }
        Ok(())
    }

    /// At the end of the engine: devices that nobody is at go, those of running containers stay.
    pub fn close(&self) {
        let some = |leavers: &mut Leavers| leavers.under_way > 0;
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
            && let Err(error) = firewall.empty().and_then(|()| self.stop_forwarding(firewall))
        {
            tracing::warn!(error = havre_base::chain(&error), "cannot leave the host as it was");
        }
    }
}
