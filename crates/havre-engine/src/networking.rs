//! What the API does to networks: the record, what follows it, and the event that tells of it.
//!
//! Invariant: an event is published only when the record is durable.
//! Not here: how addresses are chosen (`havre-net`).

use std::collections::BTreeMap;
use std::sync::Arc;

use havre_net::NetError;
use havre_net::networks::{Network, Networks};
use havre_net::spec::NetworkSpec;

use crate::{Engine, EngineError};

/// Makes a network. Also returns which of its options have no effect.
pub async fn create(engine: &Engine, spec: NetworkSpec) -> Result<(Network, Vec<String>), EngineError> {
    let (network, warnings) = blocking(engine, move |networks| networks.create(spec)).await?;
    happened(engine, "create", &network, &[]);
    Ok((network, warnings))
}

/// Removes a network that nobody is in.
pub async fn remove(engine: &Engine, name: &str) -> Result<(), EngineError> {
    let name = name.to_owned();
    let network = blocking(engine, move |networks| networks.remove(&name)).await?;
    happened(engine, "destroy", &network, &[]);
    Ok(())
}

/// Removes the networks that nobody is in and that `chosen` holds for; returns their names.
pub async fn prune(
    engine: &Engine,
    chosen: impl Fn(&Network) -> bool,
) -> Result<Vec<String>, EngineError> {
    let mut removed = Vec::new();
    for network in engine.networks.list() {
        if network.is_predefined() || !engine.networks.endpoints(&network.id).is_empty() || !chosen(&network) {
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
    let own = [("name", network.spec.name.as_str()), ("type", network.spec.driver.name())];
    let attributes = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    engine.events.publish("network", action, network.id.as_str(), attributes.collect());
}

/// The database writes with a sync.
async fn blocking<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Networks) -> Result<T, NetError> + Send + 'static,
) -> Result<T, EngineError> {
    let networks = Arc::clone(&engine.networks);
    let done = tokio::task::spawn_blocking(move || work(&networks));
    Ok(done.await.map_err(|_| EngineError::ShuttingDown)??)
}
