//! `docker search`: the old index API, which Docker Hub and a few others have.

use hyper::{Method, StatusCode, header};
use serde::Deserialize;

use crate::address::DOCKER_HUB;
use crate::auth::{self, Credentials, encoded};
use crate::http::{self, Ask};
use crate::repository::Registries;
use crate::{RegistryError, Result};

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSpec {
    /// The registry's domain.
    pub domain: String,
    /// The words.
    pub term: String,
    /// How many results at most.
    pub limit: u32,
}

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What it is, in its owner's words.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Whether the registry's owner stands for it.
    pub is_official: bool,
    /// Whether it is built by the registry.
    pub is_automated: bool,
}

impl Registries {
    /// Looks for repositories.
    pub async fn search(&self, spec: &SearchSpec, credentials: &Credentials) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Vec<Found>,
        }
        let http = self.http();
        let query = encoded([("q", spec.term.as_str()), ("n", &spec.limit.to_string())].into_iter());
        let mut failed = None;
        for endpoint in self.direct(&http, &spec.domain).await {
            let scheme = if endpoint.secure { "https" } else { "http" };
            let host = if spec.domain == DOCKER_HUB { "index.docker.io" } else { &endpoint.authority };
            let url = format!("{scheme}://{host}/v1/search?{query}");
            let mut ask = Ask::new(Method::GET, url.clone()).with(header::ACCEPT, "application/json");
            if let Credentials::Password { user, password } = credentials {
                ask.authorization = Some(auth::basic(user, password));
            }
            match http.send(ask).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    let bytes = http::whole(answer, &url, 16 << 20, http.settings.silence).await?;
                    let answer: Answer =
                        serde_json::from_slice(&bytes).map_err(|_| RegistryError::Protocol {
                            url,
                            why: "the answer is no list of repositories: this registry cannot be searched"
                                .into(),
                        })?;
                    return Ok(answer.results);
                }
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                    let why = "this registry cannot be searched".into();
                    return Err(RegistryError::Protocol { url, why });
                }
                Ok(answer) => return Err(http::refusal(answer, &url).await),
                Err(error @ RegistryError::Unreachable { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| RegistryError::Setting(format!("no registry at {}", spec.domain))))
    }
}
