//! Joining and leaving networks, while the container runs or for its next start.
//!
//! Invariants: what was acknowledged is there after the next start; a change that failed left nothing. A crash between
//! the kernel's part and the record's is put together by [`Container::mend_networks`] at the daemon's start.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use havre_net::networks::{Endpoint, EndpointSpec, Network};
use havre_net::ports::PublishedPort;
use havre_net::{NetError, fabric::Fabric};
use havre_runtime::shim::protocol::Ask;
use havre_store::db::Batch;

use super::Container;
use crate::EngineError;
use crate::networking;
use crate::record::{CONTAINERS, Fixed};
use crate::spec::NetworkMode;
use crate::state::State;

/// What a container that has a network namespace of another kind is told.
fn refused(mode: &NetworkMode, network: &Network) -> Option<&'static str> {
    match (mode, network.spec.driver.name()) {
        (NetworkMode::Container(_), _) => Some(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (NetworkMode::Host, "host") => {
            Some("container cannot be disconnected from host network or connected to host network")
        }
        (NetworkMode::Host, _) => Some(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (_, "host") => {
            Some("cannot connect container to host network - container must be created in host network mode")
        }
        (NetworkMode::None, _) | (_, "null") => Some(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        (NetworkMode::Networks, _) => None,
    }
}

impl Container {
    /// Adds a network; a running container has it at once.
    pub(super) async fn connect(&mut self, spec: EndpointSpec) -> Result<(), EngineError> {
        self.not_removing()?;
        let network = self.launcher.fabric.networks().find(&spec.network)?;
        if let Some(why) = refused(&self.fixed.spec.network, &network) {
            return Err(EngineError::Invalid(why.into()));
        }
        let spec = EndpointSpec { network: network.spec.name.clone(), ..spec };
        let mut fixed = (*self.fixed).clone();
        fixed.spec.endpoints.retain(|have| !self.is_of(have, &network));
        fixed.spec.endpoints.push(spec.clone());
        if let Some(pid) = self.now.state.pid() {
            let name = self.now.name.to_string();
            let joined = self.rejoin(pid, fixed.clone(), move |fabric, fixed, ports, netns| {
                fabric.join(&fixed.id, &name, spec, ports, fixed.spec.rates, netns).map(drop)
            });
            joined.await?;
            self.commit_fixed(fixed).await?;
            self.network_happened("connect", &network);
            return Ok(());
        }
        self.commit_fixed(fixed).await
    }

    /// Takes a network away; a running container loses it at once.
    pub(super) async fn leave(&mut self, name: &str, force: bool) -> Result<(), EngineError> {
        self.not_removing()?;
        let network = match self.launcher.fabric.networks().find(name) {
            Ok(network) => Some(network),
            // A network that is gone can still be what a container asks for.
            Err(NetError::NotFound(_)) if force => None,
            Err(error) => return Err(error.into()),
        };
        let is_it = |have: &EndpointSpec| match &network {
            Some(network) => self.is_of(have, network),
            None => have.network == name,
        };
        let id = self.fixed.id.clone();
        let alive = self.now.state.pid();
        if let (NetworkMode::Host, Some(network)) = (&self.fixed.spec.network, &network)
            && network.spec.driver.name() == "host"
        {
            let why = "container cannot be disconnected from host network or connected to host network";
            return Err(EngineError::Invalid(why.into()));
        }
        if !self.fixed.spec.endpoints.iter().any(is_it) {
            let name = network.as_ref().map_or(name, |network| &network.spec.name);
            let the = if alive.is_some() { "" } else { "the " };
            let why = format!("container {id} is not connected to {the}network {name}");
            return Err(NetError::NotConnected(why).into());
        }
        let mut fixed = (*self.fixed).clone();
        fixed.spec.endpoints.retain(|have| !is_it(have));
        if let (Some(network), Some(pid)) = (&network, alive) {
            let id = network.id.clone();
            let parted = self.rejoin(pid, fixed.clone(), move |fabric, fixed, ports, netns| {
                fabric.part(&fixed.id, &id, ports, Some(netns)).map(drop)
            });
            parted.await?;
        }
        self.commit_fixed(fixed).await?;
        if let Some(network) = &network {
            self.network_happened("disconnect", network);
        }
        Ok(())
    }

    /// Changes the networks of a running container, and what it sees of them: its files and its name server.
    async fn rejoin(
        &mut self,
        pid: i32,
        new: Fixed,
        work: impl FnOnce(&Fabric, &Fixed, &[PublishedPort], OwnedFd) -> Result<(), NetError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let (launcher, runtime) = (Arc::clone(&self.launcher), tokio::runtime::Handle::current());
        let done = tokio::task::spawn_blocking(move || {
            let _inside = runtime.enter();
            let netns = launcher.network_namespace(&new, pid)?;
            let own = netns.try_clone().map_err(EngineError::io("open", format!("/proc/{pid}/ns/net")))?;
            let places = || launcher.fabric.networks().of_container(&new.id);
            let before = places();
            work(&launcher.fabric, &new, &networking::ports(&new), own)?;
            let keep = launcher.names_changed(&new, netns.as_fd())?;
            launcher.etc_changed(&new, &before, &places());
            Ok(keep)
        });
        let keep = match done.await.map_err(|_| EngineError::ShuttingDown)? {
            Err(EngineError::Net(error)) => {
                return Err(networking::unconnected(&self.fixed, &self.now.name, error));
            }
            done => done?,
        };
        if !keep.is_empty() {
            self.ask_quietly(Ask::Keep, keep).await;
        }
        Ok(())
    }

    /// Publishes these ports in place of the present ones, at once if the container runs.
    pub(super) async fn publish_ports(&self, fixed: &Fixed) -> Result<(), EngineError> {
        if self.now.state.pid().is_none() || self.fixed.spec.network != NetworkMode::Networks {
            return Ok(());
        }
        let ports = networking::ports(fixed);
        let published = self.on_fabric(move |fabric, fixed, _| fabric.republish(&fixed.id, &ports)).await?;
        published.map_err(|error| networking::unconnected(&self.fixed, &self.now.name, error))
    }

    /// At the daemon's start: gives a running container what its record says, and nothing else.
    pub(super) async fn mend_networks(&self) {
        let Some(pid) = self.now.state.pid() else { return };
        if self.fixed.spec.network != NetworkMode::Networks {
            return;
        }
        let (launcher, name) = (Arc::clone(&self.launcher), self.now.name.to_string());
        let mended = self.on_fabric(move |fabric, fixed, ports| {
            let netns = || {
                launcher
                    .network_namespace(fixed, pid)
                    .map_err(|error| std::io::Error::other(error.to_string()))
            };
            fabric.mend(&fixed.id, &name, &fixed.spec.endpoints, &ports, fixed.spec.rates, &netns)
        });
        let mended = mended.await.and_then(|done| done.map_err(EngineError::from));
        if let Err(error) = mended {
            let error = havre_base::chain(&error);
            tracing::error!(container = %self.fixed.id, error, "cannot put a container's networks in order");
        }
    }

    /// Tells that the container has joined its networks, or has left them.
    pub(super) fn networks_happened(&self, action: &str, places: &[Endpoint]) {
        for place in places {
            if let Ok(network) = self.launcher.fabric.networks().find(place.network.as_str()) {
                self.network_happened(action, &network);
            }
        }
    }

    fn network_happened(&self, action: &str, network: &Network) {
        networking::told(&self.launcher.events, action, network, &[("container", self.fixed.id.as_str())]);
    }

    fn is_of(&self, asked: &EndpointSpec, network: &Network) -> bool {
        self.launcher.fabric.networks().find(&asked.network).is_ok_and(|found| found.id == network.id)
    }

    fn not_removing(&self) -> Result<(), EngineError> {
        match self.now.state {
            State::Removing => {
                let why =
                    "container is marked for removal and cannot be connected or disconnected to the network";
                Err(EngineError::State(why.into()))
            }
            _ => Ok(()),
        }
    }

    async fn commit_fixed(&mut self, fixed: Fixed) -> Result<(), EngineError> {
        self.launcher.commit(Batch::new().put(CONTAINERS, fixed.id.as_str(), &fixed)).await?;
        self.fixed = Arc::new(fixed);
        self.publish();
        Ok(())
    }

    /// Does what takes a millisecond or two where nobody waits for it.
    async fn on_fabric<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Fabric, &Fixed, Vec<PublishedPort>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (fabric, fixed) = (Arc::clone(&self.launcher.fabric), Arc::clone(&self.fixed));
        let done = tokio::task::spawn_blocking(move || {
            let ports = networking::ports(&fixed);
            work(&fabric, &fixed, ports)
        });
        done.await.map_err(|_| EngineError::ShuttingDown)
    }
}

impl crate::launcher::Launcher {
    /// The network namespace of a running container. A process number is given out again: it is the container's if the
    /// process is in its control group and lived on until the namespace was open.
    pub(crate) fn network_namespace(&self, fixed: &Fixed, pid: i32) -> Result<OwnedFd, EngineError> {
        let gone = EngineError::State(format!("container {} is not running", fixed.id));
        match havre_runtime::shim::open_namespace(&self.cgroup_path(fixed), pid, "net") {
            Ok(Some(namespace)) => Ok(namespace),
            Ok(None) | Err(_) => Err(gone),
        }
    }
}
