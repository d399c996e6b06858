//! Published ports: chosen, led to their places by the packet filter or the relay, and the flows that go elsewhere forgotten.
//!
//! Invariant: what the filter, the relay and the record say of a place's ports is the same when a call returns, or what it
//! was before.

use std::collections::BTreeSet;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{MutexGuard, PoisonError};

use havre_base::EndpointId;
use ipnet::IpNet;

use super::{Fabric, FabricSpec};
use crate::networks::{Endpoint, Network};
use crate::options::GatewayMode;
use crate::ports::{Publication, PublishedPort};
use crate::publish::Taken;
use crate::relay::{self, Relay};
use crate::spec::Driver;
use crate::{Result, sandbox, stale};

/// Engines that share a host begin at different ports: what one publishes another does not see.
pub(super) fn first_port(spec: &FabricSpec) -> u16 {
    let mut hasher = std::hash::DefaultHasher::new();
    spec.table.hash(&mut hasher);
    // Within what the kernel gives to programs that do not choose; the range itself is looked up when a port is chosen.
    32_768 + u16::try_from(hasher.finish() % 16_384).unwrap_or_default()
}

impl Fabric {
    /// What leads where the kernel does not.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Lets the relay lead to these ports of a place, and to no others of it.
    pub(super) fn open_doors(
        &self,
        place: &EndpointId,
        network: &Network,
        ports: &[Publication],
    ) -> Result<()> {
        let options = network.options();
        let translated = |port: &&Publication| {
            let mode = if port.to.is_ipv6() { options.mode6 } else { options.mode4 };
            mode != GatewayMode::Routed
        };
        let ports: Vec<Publication> = ports.iter().filter(translated).copied().collect();
        self.relay.set(place, &relay::doors(&ports, self.by_input))
    }

    /// Ports lead to the place by which the container reaches the world.
    pub(super) fn publish(&self, joined: &[(&Network, &Endpoint)], asked: &[PublishedPort]) -> Result<()> {
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
}
