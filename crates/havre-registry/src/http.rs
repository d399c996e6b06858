//! Requests and answers: redirects, bounds on time and size, what a refusal says.
//!
//! Invariants: what a redirect leads to gets no keys unless it is the same host; https never becomes http; addresses of
//! this machine and its link are reached only for a registry that is there itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::challenge;
use crate::connect::{Connector, Reach, names_this_machine};
use crate::settings::Settings;
use crate::{RegistryError, Result};

/// How many times an answer may send us elsewhere.
const REDIRECTS: usize = 10;
/// For the head of an answer: a registry may first look at a large blob.
const HEAD: Duration = Duration::from_secs(90);

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A body of bytes.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, url: String) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, body: Bytes::new() }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Speaks HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) settings: Arc<Settings>,
    /// Reaches every address.
    open: Client<Connector, Body>,
    /// Does not reach the link: for what a registry on this machine names.
    near: Client<Connector, Body>,
    /// Does not reach this machine and its link.
    narrow: Client<Connector, Body>,
}

impl Http {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let keys = Arc::new(Mutex::new(HashMap::new()));
        let client = |reach| {
            let connector = Connector { settings: Arc::clone(&settings), keys: Arc::clone(&keys), reach };
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(60)).build(connector)
        };
        Self {
            open: client(Reach::All),
            near: client(Reach::NotLink),
            narrow: client(Reach::NotMachine),
            settings: Arc::clone(&settings),
        }
    }

    /// Sends a request, following redirects if it only reads.
    pub(crate) async fn send(&self, mut ask: Ask) -> Result<Response<Incoming>> {
        let first = parsed(&ask.url)?;
        let reads = matches!(ask.method, Method::GET | Method::HEAD);
        for _ in 0..=REDIRECTS {
            let uri = parsed(&ask.url)?;
            let body = full(ask.body.clone());
            let answer = self.once(&ask, &uri, &first, body).await?;
            let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved || !reads {
                return Ok(answer);
            }
            let location = text(&answer, &header::LOCATION).unwrap_or_default();
            let next = resolve(&ask.url, location)?;
            let to = parsed(&next)?;
            if uri.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
                let why = "it would leave encryption";
                return Err(RegistryError::Elsewhere { from: ask.url, to: next, why });
            }
            if to.authority() != uri.authority() {
                ask.authorization = None;
            }
            ask.url = next;
        }
        Err(RegistryError::Protocol { url: ask.url, why: format!("more than {REDIRECTS} redirects") })
    }

    /// Sends a request with a body that can be sent once, to where it is said.
    pub(crate) async fn send_body(
        &self,
        ask: &Ask,
        registry: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.once(ask, &parsed(&ask.url)?, &parsed(registry)?, body).await
    }

    async fn once(&self, ask: &Ask, uri: &Uri, first: &Uri, body: Body) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(&ask.method).uri(uri);
        request = request.header(header::USER_AGENT, &self.settings.agent);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &ask.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| {
                RegistryError::Setting("credentials contain characters that cannot be sent".into())
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(body)
            .map_err(|error| RegistryError::Protocol { url: ask.url.clone(), why: error.to_string() })?;
        let client = match first.host() {
            host if host == uri.host() => &self.open,
            Some(host) if names_this_machine(host) => &self.near,
            _ => &self.narrow,
        };
        let failed = |reason: String| RegistryError::Unreachable {
            method: capitalized(ask.method.as_str()),
            url: ask.url.clone(),
            reason,
        };
        // A large body takes as long as it takes; who sends it looks whether it moves.
        let sized = request.body().size_hint().exact().is_some();
        let answer = client.request(request);
        let answer = if sized {
            tokio::time::timeout(HEAD, answer)
                .await
                .map_err(|_| failed("net/http: timeout awaiting response headers".into()))?
        } else {
            answer.await
        };
        answer.map_err(|error| match havre_tls::reason(&error) {
            Some(reason) => failed(reason),
            None => failed(innermost(&error)),
        })
    }
}

fn capitalized(method: &str) -> String {
    let lower = method.to_ascii_lowercase();
    lower.get(..1).unwrap_or_default().to_ascii_uppercase() + lower.get(1..).unwrap_or_default()
}

/// The last cause: those above it say "client error" and "connection error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

pub(crate) fn parsed(url: &str) -> Result<Uri> {
    let bad = |why: &str| RegistryError::Protocol { url: url.to_owned(), why: why.into() };
    let uri: Uri = url.parse().map_err(|_| bad("not a valid address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(bad("not an address of http or https")),
    }
}

/// An address that an answer names, relative to what was asked.
pub(crate) fn resolve(asked: &str, location: &str) -> Result<String> {
    if location.is_empty() {
        return Err(RegistryError::Protocol {
            url: asked.into(),
            why: "the answer names no Location".into(),
        });
    }
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let base = parsed(asked)?;
    let scheme = base.scheme_str().unwrap_or("https");
    if let Some(rest) = location.strip_prefix("//") {
        return Ok(format!("{scheme}://{rest}"));
    }
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if location.starts_with('/') {
        return Ok(format!("{scheme}://{authority}{location}"));
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{scheme}://{authority}{folder}/{location}"))
}

pub(crate) fn text<'a>(answer: &'a Response<Incoming>, name: &HeaderName) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The next piece of a body; silence longer than allowed is an error.
pub(crate) async fn piece(body: &mut Incoming, silence: Duration) -> io::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(silence, body.frame()).await;
        let frame = frame.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(io::Error::other(innermost(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole body of at most `limit` bytes, within a minute.
pub(crate) async fn whole(
    answer: Response<Incoming>,
    url: &str,
    limit: u64,
    silence: Duration,
) -> Result<Bytes> {
    let mut body = answer.into_body();
    let bad = |why: String| RegistryError::Protocol { url: url.to_owned(), why };
    let read = async {
        let mut bytes = Vec::new();
        while let Some(next) = piece(&mut body, silence).await.map_err(|error| bad(error.to_string()))? {
            bytes.extend_from_slice(&next);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                return Err(bad(format!("the answer is larger than {limit} bytes")));
            }
        }
        Ok(Bytes::from(bytes))
    };
    let read = tokio::time::timeout(Duration::from_secs(60).max(silence), read).await;
    read.map_err(|_| bad("the answer took longer than a minute".into()))?
}

/// What a refusal says.
pub(crate) async fn refusal(answer: Response<Incoming>, url: &str) -> RegistryError {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = answer.status();
    let headers = answer.headers().get_all(header::WWW_AUTHENTICATE);
    let lacks = challenge::lacks_right(headers.iter().filter_map(|value| value.to_str().ok()));
    let body = whole(answer, url, 64 << 10, Duration::from_secs(10)).await.unwrap_or_default();
    let said: Option<Errors> = serde_json::from_slice(&body).ok();
    let (code, message) = match said {
        // What the token lacks says more than that it was refused.
        _ if lacks.is_some() => ("DENIED".into(), format!("denied: {}", lacks.unwrap_or_default())),
        Some(Errors { errors, .. }) if !errors.is_empty() => {
            let texts = errors.iter().map(|one| {
                let code = one.code.to_lowercase().replace('_', " ");
                if code.is_empty() { one.message.clone() } else { format!("{code}: {}", one.message) }
            });
            (errors[0].code.clone(), texts.collect::<Vec<_>>().join("\n"))
        }
        Some(Errors { details, .. }) if !details.is_empty() => (String::new(), details),
        _ => (String::new(), by_status(status, url)),
    };
    // The words of a stranger: no control characters, and not too many of them.
    let message: String = message.chars().filter(|c| !c.is_control() || *c == '\n').take(2_000).collect();
    RegistryError::Refused { status: status.as_u16(), code, message }
}

fn by_status(status: StatusCode, url: &str) -> String {
    let words = status.canonical_reason().unwrap_or("");
    match status.as_u16() {
        429 => format!("toomanyrequests: {words} from {url}; wait, or log in for a higher limit"),
        _ => format!("received unexpected HTTP status: {} {words}", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let at = |location: &str| resolve("https://r:1/v2/a/blobs/uploads/?x=1", location).unwrap();
        assert_eq!(at("/v2/b?c=d"), "https://r:1/v2/b?c=d");
        assert_eq!(at("https://o/x"), "https://o/x");
        assert_eq!(at("//o/x"), "https://o/x");
        assert_eq!(at("id"), "https://r:1/v2/a/blobs/uploads/id");
        assert!(resolve("https://r/", "").is_err());
        assert!(parsed("file:///etc/passwd").is_err() && parsed("http://").is_err());
    }
}
