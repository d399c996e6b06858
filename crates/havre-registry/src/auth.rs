//! Proving who asks: name and password, or a token from the registry's token server
//! (distribution's "Token Authentication Specification").
//!
//! Invariant: a user's secrets go to the registry they are for, and to a token server of the same owner or one that the
//! administrator named, only encrypted unless the registry itself is reached without encryption.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode, header};
use serde::Deserialize;

use crate::address::{self, Endpoint, same_owner};
use crate::challenge::{self, Challenge};
use crate::http::{self, Ask, Http};
use crate::{RegistryError, Result};

/// What a token server may answer.
const MAX_ANSWER: u64 = 1 << 20;

/// What a user proves himself with.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody.
    #[default]
    Anonymous,
    /// Name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// What a token server gave at login.
    Identity(String),
    /// A token that the registry takes as it is.
    Registry(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password(..)",
            Self::Identity(_) => "Identity(..)",
            Self::Registry(_) => "Registry(..)",
        })
    }
}

/// The value of `Authorization` for a name and a password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// What a token server sent.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// A token, and what gets another one later.
pub(crate) struct Token {
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
}

/// What one user has proved to the registries of one operation.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    /// What is wanted: `repository:a/b:pull`.
    scopes: Mutex<BTreeSet<String>>,
    /// `Authorization` by authority.
    proofs: Mutex<HashMap<String, String>>,
    /// One asks for a token at a time; the others use it.
    asking: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials, scope: Option<String>) -> Self {
        Self {
            credentials,
            scopes: Mutex::new(scope.into_iter().collect()),
            proofs: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Asks for one more right from now on.
    pub(crate) fn widen(&self, scope: String) {
        if self.scopes.lock().unwrap_or_else(PoisonError::into_inner).insert(scope) {
            self.proofs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    pub(crate) fn proof(&self, endpoint: &Endpoint) -> Option<String> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&endpoint.authority).cloned()
    }

    /// After a 401: what to prove oneself with now. `failed` is what was sent.
    pub(crate) async fn answer(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        refused: &Response<Incoming>,
        failed: Option<&str>,
    ) -> Result<String> {
        let headers = refused.headers().get_all(header::WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let _alone = self.asking.lock().await;
        if let Some(known) = self.proof(endpoint).filter(|known| Some(known.as_str()) != failed) {
            return Ok(known);
        }
        let mine = if endpoint.mirror { &Credentials::Anonymous } else { &self.credentials };
        let proof = match (challenge, mine) {
            (_, Credentials::Registry(token)) => format!("Bearer {token}"),
            (Some(Challenge::Basic), Credentials::Password { user, password }) => basic(user, password),
            (Some(Challenge::Basic), _) => {
                return Err(RegistryError::NoCredentials);
            }
            (Some(Challenge::Bearer { realm, service, scope }), mine) => {
                let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if !scope.is_empty() && !scopes.iter().any(|have| covers(have, &scope)) {
                    scopes.insert(scope);
                }
                let token = fetch(
                    http,
                    endpoint,
                    &Wanted { realm: &realm, service: &service, scopes: &scopes },
                    mine,
                    false,
                )
                .await?;
                format!("Bearer {}", token.access)
            }
            (None, _) => {
                return Err(RegistryError::Unauthorized("unauthorized: authentication required".into()));
            }
        };
        if Some(proof.as_str()) == failed {
            return Err(RegistryError::Unauthorized("unauthorized: authentication required".into()));
        }
        self.proofs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.authority.clone(), proof.clone());
        Ok(proof)
    }
}

/// Whether who has `have` has `wanted` too: the same thing and at least its actions.
fn covers(have: &str, wanted: &str) -> bool {
    match (have.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((thing, can)), Some((other, must))) => {
            thing == other && must.split(',').all(|action| can.split(',').any(|have| have == action))
        }
        _ => have == wanted,
    }
}

/// What is asked of a token server.
pub(crate) struct Wanted<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: &'a str,
    pub(crate) scopes: &'a BTreeSet<String>,
}

/// Gets a token. With `login`, also what gets others later.
pub(crate) async fn fetch(
    http: &Http,
    endpoint: &Endpoint,
    wanted: &Wanted<'_>,
    credentials: &Credentials,
    login: bool,
) -> Result<Token> {
    let realm = http::parsed(wanted.realm)?;
    let host = realm.host().unwrap_or_default();
    let known = *credentials != Credentials::Anonymous;
    let server = realm.authority().map_or(host, |authority| authority.as_str());
    let mut named = http.settings.token_servers.iter();
    let allowed = named.any(|named| named.allows(&endpoint.authority, server));
    if known && !allowed && !same_owner(endpoint.host(), host) {
        let registry = match endpoint.authority.as_str() {
            address::HUB_HOST => address::DOCKER_HUB,
            other => other,
        };
        return Err(RegistryError::Stranger { registry: registry.into(), server: server.into() });
    }
    if known && endpoint.secure && realm.scheme_str() != Some("https") {
        return Err(RegistryError::Elsewhere {
            from: endpoint.authority.clone(),
            to: wanted.realm.to_owned(),
            why: "credentials would leave encryption",
        });
    }
    let mut fields = vec![("service".to_owned(), wanted.service.to_owned())];
    fields.extend(wanted.scopes.iter().map(|scope| ("scope".to_owned(), scope.clone())));
    let ask = if let Credentials::Identity(token) = credentials {
        // OAuth 2 has one field with all scopes.
        let scopes: Vec<&str> = wanted.scopes.iter().map(String::as_str).collect();
        let form = [
            ("grant_type", "refresh_token"),
            ("service", wanted.service),
            ("client_id", "havre"),
            ("scope", &scopes.join(" ")),
            ("refresh_token", token),
        ];
        let form = encoded(form.iter().map(|(name, value)| (*name, *value)));
        let mut ask = Ask::new(Method::POST, wanted.realm.to_owned())
            .with(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        ask.body = Bytes::from(form);
        ask
    } else {
        if let Credentials::Password { user, .. } = credentials {
            fields.push(("account".to_owned(), user.clone()));
        }
        if login {
            fields.push(("client_id".to_owned(), "havre".to_owned()));
            fields.push(("offline_token".to_owned(), "true".to_owned()));
        }
        let query = encoded(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mark = if wanted.realm.contains('?') { '&' } else { '?' };
        let mut ask = Ask::new(Method::GET, format!("{}{mark}{query}", wanted.realm));
        if let Credentials::Password { user, password } = credentials {
            ask.authorization = Some(basic(user, password));
        }
        ask
    };
    // A stranger's token server is asked as a stranger: it must not be one of this machine's services.
    let first = match allowed {
        true => wanted.realm.to_owned(),
        false => format!("{}://{}/", if endpoint.secure { "https" } else { "http" }, endpoint.authority),
    };
    let answer = if ask.method == Method::GET && address::host(&endpoint.authority) == host {
        http.send(ask.clone()).await?
    } else {
        http.send_body(&ask, &first, http::full(ask.body.clone())).await?
    };
    if answer.status() != StatusCode::OK {
        let status = answer.status();
        let refusal = http::refusal(answer, wanted.realm).await;
        return Err(match status.as_u16() {
            _ if refusal.is_denied() => refusal,
            401 | 403 => RegistryError::Unauthorized(match refusal {
                RegistryError::Refused { code, message, .. } if !code.is_empty() => message,
                _ => "unauthorized: incorrect username or password".into(),
            }),
            _ => refusal,
        });
    }
    let body = http::whole(answer, wanted.realm, MAX_ANSWER, http.settings.silence).await?;
    let bad = |why: &str| RegistryError::Protocol { url: wanted.realm.to_owned(), why: why.into() };
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| bad("the answer is no token"))?;
    let access = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
    let access =
        access.filter(|token| !token.is_empty()).ok_or_else(|| bad("the answer has no token in it"))?;
    Ok(Token { access, refresh: answer.refresh_token.filter(|token| !token.is_empty()) })
}

/// A query or a form.
pub(crate) fn encoded<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let escaped = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out += &format!("%{byte:02X}");
            }
        }
        out
    };
    fields.map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_their_parts() {
        assert!(covers("repository:a:pull,push", "repository:a:pull"));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull", "repository:b:pull"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Credentials::Password { user: "u".into(), password: "geheim".into() });
        assert!(!shown.contains("geheim"));
        assert_eq!(
            encoded([("a", "b c&d"), ("s", "repository:x/y:pull,push")].into_iter()),
            "a=b%20c%26d&s=repository:x/y:pull,push"
        );
    }
}
