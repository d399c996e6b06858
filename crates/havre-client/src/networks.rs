//! Networks.

use havre_api::Filters;
use havre_api::network::{
    ConnectRequest, DisconnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkPruneResponse,
    NetworkSummary,
};
use hyper::Method;

use crate::{Client, ClientError, Query};

impl Client {
    /// Lists networks.
    pub async fn networks(&self, filters: &Filters) -> Result<Vec<NetworkSummary>, ClientError> {
        let mut query = Query::new("/networks");
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        self.get(&query).await
    }

    /// Why a packet would or would not arrive: an endpoint that only Havre has. The answer as the daemon sent it.
    pub async fn explain(
        &self,
        source: &str,
        target: &str,
    ) -> Result<Box<serde_json::value::RawValue>, ClientError> {
        let query = Query::new("/system/network/explain").with("source", source).with("target", target);
        self.get(&query).await
    }

    /// Makes a network.
    pub async fn create_network(
        &self,
        request: &NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse, ClientError> {
        self.json(Method::POST, &Query::new("/networks/create"), Some(request)).await
    }

    /// Removes a network.
    pub async fn remove_network(&self, name: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &Query::of("/networks/", name, "")).await
    }

    /// Removes the networks that nobody is in.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworkPruneResponse, ClientError> {
        self.prune("networks", false, filters).await
    }

    /// Joins a container to a network.
    pub async fn connect_network(&self, network: &str, request: &ConnectRequest) -> Result<(), ClientError> {
        let query = Query::of("/networks/", network, "/connect");
        self.request(Method::POST, &query, Some(request)).await.map(drop)
    }

    /// Takes a container out of a network.
    pub async fn disconnect_network(
        &self,
        network: &str,
        request: &DisconnectRequest,
    ) -> Result<(), ClientError> {
        let query = Query::of("/networks/", network, "/disconnect");
        self.request(Method::POST, &query, Some(request)).await.map(drop)
    }
}
