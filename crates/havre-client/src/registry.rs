//! Requests that the daemon passes on to registries.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use havre_api::Filters;
use havre_api::registry::{AUTH_HEADER, AuthConfig, AuthResponse, SearchResult};
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use crate::{Client, ClientError, JsonLines, Progress, Query};

impl Client {
    /// Pulls an image; an empty tag means all of them.
    pub async fn pull(
        &self,
        repository: &str,
        tag: &str,
        platform: &str,
        auth: &AuthConfig,
    ) -> Result<Progress<'_>, ClientError> {
        let query = Query::new("/images/create")
            .with("fromImage", repository)
            .with_some("tag", tag)
            .with_some("platform", platform);
        self.transfer(&query, auth).await
    }

    /// Pushes an image; an empty tag means all of them.
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        platform: &str,
        auth: &AuthConfig,
    ) -> Result<Progress<'_>, ClientError> {
        let query = Query::of("/images/", repository, "/push");
        let query = query.with_some("tag", tag).with_some("platform", platform);
        self.transfer(&query, auth).await
    }

    async fn transfer(&self, query: &Query, auth: &AuthConfig) -> Result<Progress<'_>, ClientError> {
        let answer = self.request_with(Method::POST, query, &header(auth)?).await?;
        Ok(Progress { answer, lines: JsonLines::default() })
    }

    /// Looks for repositories.
    pub async fn search(
        &self,
        term: &str,
        limit: &str,
        filters: &Filters,
        auth: &AuthConfig,
    ) -> Result<Vec<SearchResult>, ClientError> {
        let mut query = Query::new("/images/search").with("term", term).with_some("limit", limit);
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        let bytes = self.request_with(Method::GET, &query, &header(auth)?).await?.bytes().await?;
        serde_json::from_slice(&bytes).map_err(ClientError::Decode)
    }

    /// Tries credentials at their registry.
    pub async fn login(&self, auth: &AuthConfig) -> Result<AuthResponse, ClientError> {
        self.json(Method::POST, "/auth", Some(auth)).await
    }
}

/// The header that proves who asks.
fn header(auth: &AuthConfig) -> Result<(HeaderName, HeaderValue), ClientError> {
    let text = URL_SAFE.encode(serde_json::to_vec(auth).map_err(ClientError::Encode)?);
    let mut value = HeaderValue::try_from(text).map_err(|error| ClientError::Request(error.into()))?;
    value.set_sensitive(true);
    Ok((HeaderName::from_static(AUTH_HEADER), value))
}
