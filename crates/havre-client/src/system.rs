//! Requests about the daemon itself.

use havre_api::system::{InfoResponse, VersionResponse};

use crate::{Client, ClientError};

impl Client {
    /// The daemon's versions.
    pub async fn server_version(&self) -> Result<VersionResponse, ClientError> {
        self.get("/version").await
    }

    /// What the daemon is and has.
    pub async fn info(&self) -> Result<InfoResponse, ClientError> {
        self.get("/info").await
    }
}
