//! One repository: its manifests and tags, by way of whichever endpoint answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use havre_oci::image::{MAX_DOCUMENT, media};
use havre_oci::{Digest, Reference};
use hyper::body::Incoming;
use hyper::{Method, Response, header};
use serde::Deserialize;

use crate::address::{self, Endpoint};
use crate::auth::{Auth, Credentials};
use crate::connect;
use crate::http::{self, Ask, Http};
use crate::referrers::Referrer;
use crate::settings::Settings;
use crate::{RegistryError, Result};

/// How long a mirror that failed is left alone.
const REST: Duration = Duration::from_secs(30);
/// Tags of a repository that are read.
const MAX_TAGS: usize = 100_000;
/// Pages of them: a registry may send one a page, and none of them the last.
const MAX_PAGES: usize = 5_000;

/// All registries, as the administrator set them up.
#[derive(Debug)]
pub struct Registries {
    http: RwLock<Http>,
    /// Which mirrors failed, and until when they are left alone.
    resting: Mutex<HashMap<Endpoint, Instant>>,
}

/// What is going to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read; mirrors will do.
    Pull,
    /// Write; only the registry itself will do.
    Push,
}

impl Default for Registries {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Registries {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { http: RwLock::new(Http::new(Arc::new(settings))), resting: Mutex::default() }
    }

    /// Other settings from now on; what is going on keeps those it began with.
    pub fn configure(&self, settings: Settings) {
        *self.http.write().unwrap_or_else(PoisonError::into_inner) = Http::new(Arc::new(settings));
    }

    pub(crate) fn http(&self) -> Http {
        self.http.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a registry answers, in the order of asking; those by https first.
    pub(crate) async fn direct(&self, http: &Http, domain: &str) -> Vec<Endpoint> {
        let secure = Endpoint::of_domain(domain, true);
        let host = secure.host();
        // Only what an address decides needs one.
        let addresses: Vec<IpAddr> = match connect::resolve_host(host, 443).await {
            Ok(found) => found.iter().map(std::net::SocketAddr::ip).collect(),
            Err(_) => Vec::new(),
        };
        let plain = http.settings.is_plain(&secure.authority, host, &addresses);
        let plain = plain.then(|| Endpoint::of_domain(domain, false));
        std::iter::once(secure).chain(plain).collect()
    }

    /// The repository of a reference.
    pub async fn repository(
        &self,
        reference: &Reference,
        access: Access,
        credentials: Credentials,
    ) -> Repository<'_> {
        let http = self.http();
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", reference.path());
        let mut endpoints = Vec::new();
        if access == Access::Pull {
            let now = Instant::now();
            let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
            let of = http.settings.mirrors.iter().filter(|mirror| mirror.of == reference.domain());
            let awake = |endpoint: &Endpoint| resting.get(endpoint).is_none_or(|until| *until <= now);
            endpoints.extend(of.map(|mirror| mirror.endpoint.clone()).filter(awake));
        }
        endpoints.extend(self.direct(&http, reference.domain()).await);
        Repository {
            registries: self,
            http,
            path: reference.path().to_owned(),
            auth: Auth::new(credentials, Some(scope)),
            endpoints,
            chosen: AtomicUsize::new(0),
        }
    }
}

/// A document as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What the registry calls it.
    pub media_type: String,
    /// Its digest, which it was verified against if one was asked for.
    pub digest: Digest,
    /// The document.
    pub bytes: Bytes,
}

/// One repository, for one operation of one user.
#[derive(Debug)]
pub struct Repository<'a> {
    registries: &'a Registries,
    pub(crate) http: Http,
    path: String,
    pub(crate) auth: Auth,
    /// Never empty.
    endpoints: Vec<Endpoint>,
    /// Which of them answered last.
    chosen: AtomicUsize,
}

/// One question on its way from endpoint to endpoint.
pub(crate) struct Tour<'a> {
    repository: &'a Repository<'a>,
    order: Vec<usize>,
    at: usize,
    /// By the last endpoint in the order of preference, whichever was asked first: of two ways to a registry, that is the
    /// one without TLS, which says what is wrong where there is none.
    failed: Option<(usize, RegistryError)>,
}

impl<'a> Tour<'a> {
    /// Whom to ask next.
    pub(crate) fn next(&mut self) -> Option<&'a Endpoint> {
        let at = *self.order.get(self.at)?;
        self.repository.endpoints.get(at)
    }

    /// What came of it: an answer, or nothing yet.
    pub(crate) fn heard<T>(&mut self, answer: Result<T>) -> Option<T> {
        let (at, endpoint) = (*self.order.get(self.at)?, self.next()?);
        self.at += 1;
        match answer {
            Ok(answer) => {
                self.repository.chosen.store(at, Ordering::Relaxed);
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(endpoint = endpoint.url(""), %error, "this endpoint does not have it");
                if endpoint.mirror && error.is_temporary() {
                    let resting = &self.repository.registries.resting;
                    let until = Instant::now() + REST;
                    resting.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.clone(), until);
                }
                // The registry has spoken; only if it could not, there may be another way to it.
                if !endpoint.mirror && !matches!(error, RegistryError::Unreachable { .. }) {
                    self.at = self.order.len();
                }
                if self.failed.as_ref().is_none_or(|(other, _)| *other <= at) {
                    self.failed = Some((at, error));
                }
                None
            }
        }
    }

    pub(crate) fn failed(self) -> RegistryError {
        let none = || RegistryError::Setting("there is no endpoint to ask".into());
        self.failed.map_or_else(none, |(_, error)| error)
    }
}

/// Asks one endpoint after the other until one answers. Not a function that takes the question: futures of such a
/// question could not be sent to another thread.
macro_rules! anywhere {
    ($repository:expr, $endpoint:ident => $ask:expr) => {{
        let mut tour = $repository.tour();
        loop {
            let Some($endpoint) = tour.next() else { break Err(tour.failed()) };
            let answer: crate::Result<_> = async { $ask }.await;
            if let Some(answer) = tour.heard(answer) {
                break Ok(answer);
            }
        }
    }};
}
pub(crate) use anywhere;

/// What manifests may be.
const DOCUMENTS: [&str; 4] = [media::DOCKER_MANIFEST, media::DOCKER_LIST, media::MANIFEST, media::INDEX];

impl Repository<'_> {
    /// Below the repository: `manifests/latest`.
    pub(crate) fn below(&self, path: &str) -> String {
        format!("{}/{path}", self.path)
    }

    /// The endpoints in the order of asking: the one that answered last first.
    pub(crate) fn tour(&self) -> Tour<'_> {
        let first = self.chosen.load(Ordering::Relaxed);
        let others = (0..self.endpoints.len()).filter(|at| *at != first);
        Tour { repository: self, order: std::iter::once(first).chain(others).collect(), at: 0, failed: None }
    }

    /// Sends a request until it is answered, proving who asks when that is wanted.
    pub(crate) async fn send(&self, endpoint: &Endpoint, ask: Ask) -> Result<Response<Incoming>> {
        let settings = &self.http.settings;
        let mut pause = settings.pause;
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, asked) = match self.authorized(endpoint, &ask).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let asked = retry_after(&answer);
                    (http::refusal(answer, &ask.url).await, asked)
                }
                Err(error) => (error, None),
            };
            // Who cannot be connected to at all is asked again only by who has nobody else to ask.
            let again = matches!(error, RegistryError::Refused { .. }) && error.is_temporary();
            if !again || tries >= settings.tries {
                return Err(error);
            }
            let wait = asked.unwrap_or(pause).min(Duration::from_secs(30));
            tracing::debug!(url = ask.url, %error, ?wait, "asking again");
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
    }

    async fn authorized(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response<Incoming>> {
        let mut ask = ask.clone();
        for _ in 0..2 {
            ask.authorization = self.auth.proof(endpoint);
            let answer = self.http.send(ask.clone()).await?;
            if answer.status() != hyper::StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            match self.auth.answer(&self.http, endpoint, &answer, ask.authorization.as_deref()).await {
                Ok(_) => {}
                // The registry's own words are better than ours, if it has any.
                Err(RegistryError::Unauthorized(ours)) => {
                    return Err(match http::refusal(answer, &ask.url).await {
                        denied @ RegistryError::Refused { .. } if denied.is_denied() => denied,
                        RegistryError::Refused { code, message, .. }
                            if !code.is_empty() && ask.authorization.is_some() =>
                        {
                            RegistryError::Unauthorized(message)
                        }
                        _ => RegistryError::Unauthorized(ours),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        ask.authorization = self.auth.proof(endpoint);
        self.http.send(ask).await
    }

    /// A manifest or an index, by tag or digest.
    pub async fn manifest(&self, name: &str) -> Result<Fetched> {
        anywhere!(self, endpoint => {
            let mut ask = Ask::new(Method::GET, endpoint.url(&self.below(&format!("manifests/{name}"))));
            for kind in DOCUMENTS {
                ask = ask.with(header::ACCEPT, kind);
            }
            let url = ask.url.clone();
            let answer = self.send(endpoint, ask).await?;
            let media_type = http::text(&answer, &header::CONTENT_TYPE).unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            let told = digest_header(&answer);
            let bytes = http::whole(answer, &url, MAX_DOCUMENT, self.http.settings.silence).await?;
            let digest = Digest::of_bytes(&bytes);
            for expected in told.into_iter().chain(Digest::parse(name).ok()) {
                if expected != digest {
                    return Err(RegistryError::Mismatch { what: "manifest", expected, found: digest });
                }
            }
            Ok(Fetched { media_type, digest, bytes })
        })
    }

    /// Digest, media type and length of a manifest, without the manifest; `None` where a registry does not say.
    pub async fn describe(&self, name: &str) -> Result<Option<(Digest, String, u64)>> {
        anywhere!(self, endpoint => {
            let mut ask = Ask::new(Method::HEAD, endpoint.url(&self.below(&format!("manifests/{name}"))));
            for kind in DOCUMENTS {
                ask = ask.with(header::ACCEPT, kind);
            }
            let answer = self.send(endpoint, ask).await?;
            let length = http::text(&answer, &header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
            let kind = http::text(&answer, &header::CONTENT_TYPE).unwrap_or_default().to_owned();
            Ok(digest_header(&answer).zip(length).map(|(digest, length)| (digest, kind, length)))
        })
    }

    /// Stores a manifest under a tag or its digest, so that what it refers to leads to it.
    pub async fn put_manifest(&self, name: &str, media_type: &str, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of_bytes(&bytes);
        let seen = self.put_document(name, media_type, &bytes).await?;
        if !seen && let Some(referrer) = Referrer::of(media_type, &digest, &bytes) {
            self.refer(&referrer).await?;
        }
        Ok(digest)
    }

    /// Stores a document; whether the registry has seen what it refers to.
    pub(crate) async fn put_document(&self, name: &str, media_type: &str, bytes: &Bytes) -> Result<bool> {
        let digest = Digest::of_bytes(bytes);
        anywhere!(self, endpoint => {
            let mut ask = Ask::new(Method::PUT, endpoint.url(&self.below(&format!("manifests/{name}"))))
                .with(header::CONTENT_TYPE, media_type);
            ask.body = bytes.clone();
            let answer = self.send(endpoint, ask).await?;
            match digest_header(&answer) {
                Some(found) if found != digest => {
                    Err(RegistryError::Mismatch { what: "manifest", expected: digest.clone(), found })
                }
                _ => Ok(answer.headers().contains_key("oci-subject")),
            }
        })
    }

    /// All tags, as the registry orders them.
    pub async fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        anywhere!(self, endpoint => {
            let first = endpoint.url(&self.below("tags/list"));
            let mut url = first.clone();
            let (mut tags, mut pages) = (Vec::<String>::new(), 0);
            loop {
                let answer = self.send(endpoint, Ask::new(Method::GET, url.clone())).await?;
                let next = answer
                    .headers()
                    .get(header::LINK)
                    .and_then(|value| value.to_str().ok())
                    .and_then(next_page)
                    .map(|next| http::resolve(&url, next));
                let bytes = http::whole(answer, &url, 16 << 20, self.http.settings.silence).await?;
                let bad = |why: &str| RegistryError::Protocol { url: url.clone(), why: why.into() };
                let page: Page =
                    serde_json::from_slice(&bytes).map_err(|_| bad("the answer is no list of tags"))?;
                let page = page.tags.unwrap_or_default();
                let is_last = page.is_empty();
                tags.extend(page);
                if tags.len() > MAX_TAGS {
                    return Err(bad("there are more than 100000 tags"));
                }
                match next {
                    Some(next) if !is_last => {
                        let next = next?;
                        if !next.starts_with(first.split("/v2/").next().unwrap_or_default()) {
                            let why = "the next page is at another host";
                            return Err(RegistryError::Elsewhere { from: url, to: next, why });
                        }
                        pages += 1;
                        if next == url || pages > MAX_PAGES {
                            return Err(bad("the list of tags has no end"));
                        }
                        url = next;
                    }
                    _ => return Ok(tags),
                }
            }
        })
    }

    /// Where content was asked for last.
    #[must_use]
    pub fn authority(&self) -> &str {
        let chosen = self.chosen.load(Ordering::Relaxed);
        self.endpoints.get(chosen).map_or("", |endpoint| address::host(&endpoint.authority))
    }
}

fn digest_header(answer: &Response<Incoming>) -> Option<Digest> {
    let value = answer.headers().get("docker-content-digest")?.to_str().ok()?;
    Digest::parse(value).ok()
}

/// `Retry-After`: seconds; a date or nonsense is as if it were not there.
pub(crate) fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    http::text(answer, &header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

/// The target of `<...>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(target)
}
