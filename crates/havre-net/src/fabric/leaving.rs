//! Places that are given back: the kernel's part goes on behind the end of a container, and whoever needs what it had waits.
//!
//! Invariants: a place is recorded until nothing of it is in the kernel's tables; who is refused something that is being
//! given back gets it when it is.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use havre_base::{ContainerId, EndpointId};

use super::{FORGETTING, Fabric, LEAVES_WITHIN};
use crate::networks::{Endpoint, Network};
use crate::spec::{Driver, Ipam};
use crate::{NetError, Result, rate, sandbox};

/// Containers that are giving back their places.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    pub(super) under_way: usize,
    /// How many have done so.
    pub(super) gone: u64,
}

/// A container is giving back its places, for as long as this is held.
#[derive(Debug)]
pub struct Leaving(Arc<Fabric>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut leavers = self.0.lock_leaving();
        leavers.under_way -= 1;
        leavers.gone += 1;
        drop(leavers);
        self.0.leaving.1.notify_all();
    }
}

impl Fabric {
    /// Gives back all places of a container that has ended: its links went with its namespace.
    pub fn disconnect(&self, container: &ContainerId) {
        self.leave_places(&self.networks.of_container(container));
    }

    /// The same of the places of one run: the next one may have begun meanwhile.
    pub fn leave_places(&self, places: &[Endpoint]) {
        for endpoint in places {
            if let (Some(firewall), Ok(network)) =
                (&self.firewall, self.networks.find(endpoint.network.as_str()))
                && let Err(error) = firewall
                    .publish(&endpoint.id, &network, &[])
                    .and_then(|()| self.open_doors(&endpoint.id, &network, &[]))
            {
                // The port leads nowhere, and the next change of the table makes it good.
                tracing::warn!(error = havre_base::chain(&error), "cannot take back published ports");
            }
            self.close_port(endpoint);
            self.unguard(&endpoint.id);
            self.give_back(endpoint, None);
            self.stale.mark(&endpoint.published);
        }
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
    pub(super) fn forget(&self, runs: &dyn Fn(&ContainerId) -> bool) {
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

    /// The kernel takes the links of a namespace away behind the end of its last process, and answers for them until then:
    /// whoever gets the address next must not share it with them.
    pub(super) fn close_port(&self, endpoint: &Endpoint) {
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
        self.lock_leaving().under_way += 1;
        Leaving(Arc::clone(self))
    }

    /// Does what is refused because somebody has it who is giving it back: a container that was removed has left its places
    /// for whoever comes next, also where the kernel's part of that goes on behind the answer.
    pub(super) fn after_leavers<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + LEAVES_WITHIN;
        loop {
            let before = self.lock_leaving().gone;
            let done = work();
            if !done.as_ref().is_err_and(NetError::is_taken) {
                return done;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let waits = |leavers: &mut Leavers| leavers.under_way > 0 && leavers.gone == before;
            let (leavers, _) = self
                .leaving
                .1
                .wait_timeout_while(self.lock_leaving(), left, waits)
                .unwrap_or_else(PoisonError::into_inner);
            if leavers.gone == before || left.is_zero() {
                return done;
            }
        }
    }

    pub(super) fn lock_leaving(&self) -> MutexGuard<'_, Leavers> {
        self.leaving.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
