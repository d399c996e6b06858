//! Requests about the daemon itself.

use havre_api::system::{InfoResponse, VersionResponse};

use havre_api::Filters;
use havre_api::usage::DiskUsageResponse;
use hyper::Method;
use serde::de::DeserializeOwned;

use crate::{Answer, Client, ClientError, JsonLines, Progress, Query};

impl Client {
    /// The daemon's versions.
    pub async fn server_version(&self) -> Result<VersionResponse, ClientError> {
        self.get("/version").await
    }

    /// What the daemon is and has.
    pub async fn info(&self) -> Result<InfoResponse, ClientError> {
        self.get("/info").await
    }

    /// What happens, as a stream of JSON objects; times are empty or seconds since the epoch.
    pub async fn events(
        &self,
        since: &str,
        until: &str,
        filters: &Filters,
    ) -> Result<Answer<'_>, ClientError> {
        let mut query = Query::new("/events").with_some("since", since).with_some("until", until);
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        self.request(Method::GET, &query, None::<&()>).await
    }

    /// What images, containers, volumes and the build cache take on disk.
    pub async fn disk_usage(&self) -> Result<DiskUsageResponse, ClientError> {
        self.get("/system/df?verbose=1").await
    }

    /// Verifies what is stored, and repairs it when asked to. Only Havre knows this.
    pub async fn fsck(&self, repair: bool) -> Result<Progress<'_>, ClientError> {
        let query = Query::new("/system/fsck").flag("repair", repair);
        let answer = self.request(Method::POST, &query, None::<&()>).await?;
        Ok(Progress { answer, lines: JsonLines::default() })
    }

    /// Removes what is unused of a kind: `networks`, `volumes`, `build`.
    pub async fn prune<T: DeserializeOwned>(
        &self,
        kind: &str,
        all: bool,
        filters: &Filters,
    ) -> Result<T, ClientError> {
        let mut query = Query::new(&format!("/{kind}/prune")).flag("all", all);
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        self.json(Method::POST, &query, None::<&()>).await
    }
}
