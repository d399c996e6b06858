//! The name servers of running containers: each has one from its first user-defined network on, until it ends.
//!
//! Invariants: who asks is answered by what is recorded at that moment, so nothing has to be told of others that come
//! and go; the sockets are also the supervisor's, so that questions wait while no daemon is there.
//! Not here: names and answers (`havre-net`), `/etc/resolv.conf` (`etc.rs`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::ContainerId;
use havre_net::NetError;
use havre_net::dns::{HostFile, Limits, Names, Resolver, Serving, Sockets};
use havre_net::networks::Networks;

use crate::etc;
use crate::record::Fixed;
use crate::settings::DnsDefaults;

/// The name servers of all running containers.
#[derive(Debug)]
pub(crate) struct NameServers {
    names: Arc<Names>,
    resolver: Arc<Resolver>,
    dns: DnsDefaults,
    /// Protects which containers have one.
    serving: Mutex<HashMap<ContainerId, Serving>>,
}

impl NameServers {
    pub(crate) fn new(networks: Arc<Networks>, dns: DnsDefaults) -> Self {
        let names = Arc::new(Names::new(networks, HostFile::new(etc::HOST_RESOLV_CONF)));
        let directory: Arc<Names> = Arc::clone(&names);
        Self { names, resolver: Resolver::new(directory, Limits::default()), dns, serving: Mutex::default() }
    }

    fn serving(&self) -> MutexGuard<'_, HashMap<ContainerId, Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container has one.
    pub(crate) fn serves(&self, container: &ContainerId) -> bool {
        self.serving().contains_key(container)
    }

    /// The networks of a container, whose namespace this is, are others than before: gives it a name server if it needs
    /// one now and has none. Returns what its supervisor shall keep. To be called within the runtime.
    pub(crate) fn changed(&self, fixed: &Fixed, namespace: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, NetError> {
        self.introduce(fixed);
        if self.serves(&fixed.id) || !self.names.are_seen_by(&fixed.id) {
            return Ok(Vec::new());
        }
        let sockets = Sockets::open(namespace)?;
        let keep = sockets.keep()?;
        self.serve(&fixed.id, sockets)?;
        Ok(keep)
    }

    /// A container runs since before this daemon: takes over what its supervisor has kept, or begins anew. Returns what
    /// it shall keep instead.
    pub(crate) fn adopt(
        &self,
        fixed: &Fixed,
        pid: i32,
        kept: Vec<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, NetError> {
        if let Some(sockets) = Sockets::kept(kept) {
            self.introduce(fixed);
            self.serve(&fixed.id, sockets)?;
            return Ok(Vec::new());
        }
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
        self.changed(fixed, namespace.as_fd())
    }

    /// The container has ended.
    pub(crate) fn end(&self, container: &ContainerId) {
        self.names.forget(container);
        drop(self.serving().remove(container));
    }

    /// The engine lets go of all containers.
    pub(crate) fn close(&self) {
        self.serving().clear();
    }

    fn introduce(&self, fixed: &Fixed) {
        let dns = self.dns.of(&fixed.spec);
        let servers: Vec<IpAddr> = dns.servers.iter().filter_map(|text| text.parse().ok()).collect();
        self.names.set(&fixed.id, &fixed.hostname, &servers, &etc::options(&dns));
    }

    fn serve(&self, container: &ContainerId, sockets: Sockets) -> Result<(), NetError> {
        let serving = self.resolver.serve(container, sockets.udp, sockets.tcp)?;
        drop(self.serving().insert(container.clone(), serving));
        Ok(())
    }
}
