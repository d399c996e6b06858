//! `docker login`: whether a registry takes what a user proves himself with.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode, header};

use crate::address::{DOCKER_HUB, Endpoint};
use crate::auth::{self, Credentials, Wanted};
use crate::challenge::{self, Challenge};
use crate::http::{self, Ask};
use crate::repository::Registries;
use crate::{RegistryError, Result};

/// A successful login.
#[derive(Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// What to keep instead of the password, if the registry gives such a thing.
    pub identity: Option<String>,
}

impl std::fmt::Debug for LoggedIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoggedIn").field("identity", &self.identity.is_some()).finish()
    }
}

/// The registry that a server's address means: clients write it with a scheme and a path too.
fn domain(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" | "docker.io" => DOCKER_HUB,
        host => host,
    }
}

impl Registries {
    /// Tries the credentials at `server`; empty is Docker Hub.
    pub async fn login(&self, server: &str, credentials: &Credentials) -> Result<LoggedIn> {
        let http = self.http();
        let mut failed = None;
        for endpoint in self.direct(&http, domain(server)).await {
            match attempt(&http, &endpoint, credentials).await {
                Err(error @ RegistryError::Unreachable { .. }) => failed = Some(error),
                other => return other,
            }
        }
        Err(failed.unwrap_or_else(|| RegistryError::Setting(format!("no registry at {server}"))))
    }
}

async fn attempt(http: &http::Http, endpoint: &Endpoint, credentials: &Credentials) -> Result<LoggedIn> {
    let url = endpoint.url("");
    let answer = http.send(Ask::new(Method::GET, url.clone())).await?;
    let refused = |status: StatusCode| {
        let words = status.canonical_reason().unwrap_or("");
        RegistryError::Unauthorized(format!(
            "login attempt to {url} failed with status: {} {words}",
            status.as_u16()
        ))
    };
    match answer.status() {
        // It lets everybody in.
        StatusCode::OK => return Ok(LoggedIn { identity: None }),
        StatusCode::UNAUTHORIZED => {}
        status => return Err(refused(status)),
    }
    let headers = answer.headers().get_all(header::WWW_AUTHENTICATE);
    let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
    let (proof, identity) = match (challenge, credentials) {
        (Some(Challenge::Basic), Credentials::Password { user, password }) => {
            (auth::basic(user, password), None)
        }
        (Some(Challenge::Bearer { realm, service, .. }), _) => {
            let wanted = Wanted { realm: &realm, service: &service, scopes: &BTreeSet::new() };
            let token = auth::fetch(http, endpoint, &wanted, credentials, true).await;
            let token = token.map_err(|error| match error {
                // Whatever its reason: it does not take them.
                RegistryError::Refused { code, message, .. } if code == "DENIED" => {
                    RegistryError::Unauthorized(message)
                }
                other => other,
            })?;
            (format!("Bearer {}", token.access), token.refresh)
        }
        _ => return Err(refused(StatusCode::UNAUTHORIZED)),
    };
    let mut ask = Ask::new(Method::GET, url.clone());
    ask.authorization = Some(proof);
    match http.send(ask).await?.status() {
        StatusCode::OK => Ok(LoggedIn { identity }),
        status => Err(refused(status)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_of_servers_name_registries() {
        for hub in ["", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
            assert_eq!(super::domain(hub), "docker.io", "{hub}");
        }
        assert_eq!(super::domain("http://a.test:5000/v2/"), "a.test:5000");
    }
}
