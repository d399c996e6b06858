//! What the API does to networks: the record, what follows it, and the event that tells of it.
//!
//! Invariant: an event is published only when the record is durable.
//! Not here: how addresses are chosen (`havre-net`).

use std::collections::BTreeMap;
use std::sync::Arc;

use havre_base::ContainerName;
use havre_net::NetError;
use havre_net::fabric::Fabric;
use havre_net::networks::Network;
use havre_net::ports::PublishedPort;
use havre_net::spec::NetworkSpec;

use crate::events::Events;
use crate::record::Fixed;
use crate::{Engine, EngineError};

/// The ports of a container that are to be reached on the host.
pub(crate) fn ports(fixed: &Fixed) -> Vec<PublishedPort> {
    let spec = &fixed.spec;
    let mut ports = spec.published.clone();
    if spec.publish_all {
        let new =
            fixed.merged.exposed.iter().filter(|port| !spec.published.iter().any(|one| one.port == **port));
        ports.extend(
            new.map(|port| PublishedPort { port: *port, address: None, host: (0, 0) }).collect::<Vec<_>>(),
        );
    }
    ports
}

/// Why a container could not be joined, in Docker's words.
pub(crate) fn unconnected(fixed: &Fixed, name: &ContainerName, error: NetError) -> EngineError {
    match error {
        NetError::PortAllocated(_) | NetError::PortInUse { .. } | NetError::NoPort { .. } => {
            EngineError::State(format!(
                "driver failed programming external connectivity on endpoint {name} ({}): {error}",
                fixed.id
            ))
        }
        other => other.into(),
    }
}

/// Makes a network. Also returns which of its options have no effect.
pub async fn create(engine: &Engine, spec: NetworkSpec) -> Result<(Network, Vec<String>), EngineError> {
    let (network, warnings) = blocking(engine, move |fabric| fabric.create(spec)).await?;
    happened(engine, "create", &network, &[]);
    Ok((network, warnings))
}

/// Removes a network that nobody is in.
pub async fn remove(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let name = name.to_owned();
    let network = blocking(engine, move |fabric| fabric.remove(&name)).await?;
    happened(engine, "destroy", &network, &[]);
    Ok(())
}

/// Removes the networks that nobody is in and that `chosen` holds for; returns their names.
pub async fn prune(engine: &Engine, chosen: impl Fn(&Network) -> bool) -> Result<Vec<String>, EngineError> {
    let mut removed = Vec::new();
    for network in engine.networks.list() {
        // Configurations are nobody's place, and stay until they are removed by name.
        if network.is_predefined()
            || network.spec.config_only
            || !engine.networks.endpoints(&network.id).is_empty()
            || !chosen(&network)
        {
            continue;
        }
        match remove(engine, network.id.as_str()).await {
            Ok(()) => removed.push(network.spec.name),
            // Somebody joined or removed it meanwhile.
            Err(EngineError::Net(NetError::InUse { .. } | NetError::NotFound(_))) => {}
            Err(error) => return Err(error),
        }
    }
    let reclaimed = BTreeMap::from([("reclaimed".to_owned(), "0".to_owned())]);
    engine.events.publish("network", "prune", "", reclaimed);
    Ok(removed)
}

/// Tells of a network; `more` is what else belongs to the action, such as the container that joined.
pub fn happened(engine: &Engine, action: &str, network: &Network, more: &[(&str, &str)]) {
    told(&engine.events, action, network, more);
}

pub(crate) fn told(events: &Events, action: &str, network: &Network, more: &[(&str, &str)]) {
    let own = [("name", network.spec.name.as_str()), ("type", network.spec.driver.name())];
    let attributes = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    events.publish("network", action, network.id.as_str(), attributes.collect());
}

/// Keeps the host's networking as the engine needs it, as long as it is polled.
pub async fn watch(engine: Arc<Engine>) {
    havre_net::watch::watch(Arc::clone(&engine.fabric)).await;
}

/// The database writes with a sync.
async fn blocking<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Fabric) -> Result<T, NetError> + Send + 'static,
) -> Result<T, EngineError> {
    let fabric = Arc::clone(&engine.fabric);
    let done = tokio::task::spawn_blocking(move || work(&fabric));
    Ok(done.await.map_err(|_| EngineError::ShuttingDown)??)
}
