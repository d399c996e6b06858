//! Networks as they are on this host: what is recorded and what the kernel has, kept together.
//!
//! Invariants: a network that was acknowledged has its bridge, and one that could not be made leaves neither record nor
//! device; a container's places are recorded before its links are made and given back when they could not be made or
//! the container has ended. What a crash leaves apart, `restore` puts together at the next start.
//! All of it works in the namespace in which `open` was called. Everything here blocks, for a millisecond or two.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::ContainerId;
use havre_sys::netlink::Route;

use crate::networks::{Endpoint, EndpointSpec, Network, Networks};
use crate::sandbox::Sandbox;
use crate::spec::{Driver, NetworkSpec};
use crate::{NetError, Result, bridge};

/// The networks of this host.
#[derive(Debug)]
pub struct Fabric {
    networks: Arc<Networks>,
    /// Held for one change at a time.
    host: Mutex<Route>,
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
    networks: &'a Networks,
    joined: Vec<(Network, Endpoint)>,
    keep: bool,
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if !self.keep {
            for (_, endpoint) in &self.joined {
                self.networks.leave(&endpoint.id);
            }
        }
    }
}

impl Fabric {
    /// Works on the namespace of the calling thread.
    pub fn open(networks: Arc<Networks>) -> Result<Self> {
        Ok(Self { networks, host: Mutex::new(Route::open()?) })
    }

    /// What is recorded.
    #[must_use]
    pub const fn networks(&self) -> &Arc<Networks> {
        &self.networks
    }

    fn host(&self) -> MutexGuard<'_, Route> {
        // Requests are whole, and answers that nobody took are skipped by their numbers.
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At start: gives back the places of containers that do not run, makes the bridges that are missing and removes
    /// those of networks that are gone. What cannot be made is told, and fails again where it is needed.
    pub fn restore(&self, runs: &dyn Fn(&ContainerId) -> bool) {
        self.networks.sweep(runs);
        let all = self.networks.list();
        let mut host = self.host();
        if let Err(error) = bridge::sweep(&mut host, &all) {
            tracing::warn!(
                error = havre_base::chain(&error),
                "cannot look for bridges of networks that are gone"
            );
        }
        for network in all.iter().filter(|network| network.spec.driver == Driver::Bridge) {
            if let Err(error) = bridge::ensure(&mut host, network) {
                let name = &network.spec.name;
                tracing::warn!(
                    network = name,
                    error = havre_base::chain(&error),
                    "cannot make the bridge of a network"
                );
            }
        }
    }

    /// Makes a network. Also returns which of its options have no effect.
    pub fn create(&self, spec: NetworkSpec) -> Result<(Network, Vec<String>)> {
        if matches!(spec.driver, Driver::Macvlan | Driver::Ipvlan) {
            let driver = spec.driver.name();
            return Err(NetError::Unsupported(format!("not yet supported: networks of the driver {driver}")));
        }
        let (network, warnings) = self.networks.create(spec)?;
        if network.spec.driver == Driver::Bridge
            && let Err(error) = bridge::ensure(&mut self.host(), &network)
        {
            self.networks.remove(network.id.as_str())?;
            return Err(error);
        }
        Ok((network, warnings))
    }

    /// Removes a network that nobody is in, and its bridge.
    pub fn remove(&self, name: &str) -> Result<Network> {
        let network = self.networks.remove(name)?;
        bridge::remove(&mut self.host(), &network)?;
        Ok(network)
    }

    /// Gives a container that is about to start a namespace with a link for each place it asks for.
    pub fn connect(&self, container: &ContainerId, name: &str, asked: &[EndpointSpec]) -> Result<Connected> {
        // Left over from a run that nobody saw end.
        self.disconnect(container);
        let mut places = Places { networks: &self.networks, joined: Vec::new(), keep: false };
        let mut sandbox = Sandbox::create()?;
        for spec in asked {
            let (network, endpoint) = self.networks.join(container, name, spec.clone())?;
            places.joined.push((network, endpoint));
            if let Some((network, endpoint)) = places.joined.last() {
                self.plug(&mut sandbox, network, endpoint)?;
            }
        }
        let joined: Vec<(&Network, &Endpoint)> =
            places.joined.iter().map(|(network, place)| (network, place)).collect();
        sandbox.lead_out(&joined)?;
        places.keep = true;
        let endpoints = places.joined.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        Ok(Connected { namespace: sandbox.into_fd(), endpoints })
    }

    fn plug(&self, sandbox: &mut Sandbox, network: &Network, endpoint: &Endpoint) -> Result<()> {
        match network.spec.driver {
            Driver::Bridge => {
                let mut host = self.host();
                let bridge = bridge::ensure(&mut host, network)?;
                sandbox.plug(&mut host, bridge, network, endpoint).map(drop)
            }
            Driver::Null => Ok(()),
            Driver::Host => Err(NetError::Invalid(
                "cannot connect container to host network - container must be created in host network mode"
                    .into(),
            )),
            Driver::Macvlan | Driver::Ipvlan => Err(NetError::Unsupported(format!(
                "not yet supported: networks of the driver {}",
                network.spec.driver.name()
            ))),
        }
    }

    /// Gives back all places of a container that has ended: its links went with its namespace.
    pub fn disconnect(&self, container: &ContainerId) {
        for endpoint in self.networks.of_container(container) {
            self.networks.leave(&endpoint.id);
        }
    }

    /// At the end of the engine: bridges that nobody is at go, those of running containers stay.
    pub fn close(&self) {
        let mut host = self.host();
        for network in self.networks.list() {
            if network.spec.driver == Driver::Bridge
                && self.networks.endpoints(&network.id).is_empty()
                && let Err(error) = bridge::remove(&mut host, &network)
            {
                let name = &network.spec.name;
                tracing::warn!(
                    network = name,
                    error = havre_base::chain(&error),
                    "cannot remove the bridge of a network"
                );
            }
        }
    }
}
