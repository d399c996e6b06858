//! Everything that asks a registry: pull, push, login, search, `/distribution`.
//!
//! What a registry refuses at once is an error with its status; what goes wrong later is the last message of the stream,
//! as clients expect. A client that goes away gives its transfer up.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use havre_api::message::{ErrorDetail, JsonMessage, ProgressDetail};
use havre_api::registry::{
    AUTH_HEADER, AuthConfig, AuthResponse, DistributionInspect, PushResult, SearchResult,
};
use havre_engine::Engine;
use havre_image::{
    Credentials, DOCKER_HUB, ImageError, PullEvent, PullSpec, PushEvent, PushSpec, PushStep, RegistryError,
    Reports, SearchSpec, Step,
};
use havre_oci::{Digest, Reference};
use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Server;
use crate::body::{self, Answer, Sink};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::images::{explained, filters, happened};
use crate::routes::platform;

type Handled = Result<Answer, Refusal>;

/// The credentials of a document.
fn credentials(auth: AuthConfig) -> Result<Credentials, Refusal> {
    if !auth.registrytoken.is_empty() {
        return Ok(Credentials::Registry(auth.registrytoken));
    }
    if !auth.identitytoken.is_empty() {
        return Ok(Credentials::Identity(auth.identitytoken));
    }
    let (mut user, mut password) = (auth.username, auth.password);
    if user.is_empty() && password.is_empty() && !auth.auth.is_empty() {
        let text = STANDARD.decode(auth.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let invalid = || Refusal::invalid("invalid auth: want base64 of name:password");
        let text = text.ok_or_else(invalid)?;
        let (name, secret) = text.split_once(':').ok_or_else(invalid)?;
        (user, password) = (name.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Ok(if user.is_empty() && password.is_empty() {
        Credentials::Anonymous
    } else {
        Credentials::Password { user, password }
    })
}

/// The credentials that a request brings. What cannot be read counts as nobody's, as for Docker.
fn of_header(call: &Call) -> Credentials {
    let Some(text) = call.request.headers().get(AUTH_HEADER).and_then(|value| value.to_str().ok()) else {
        return Credentials::Anonymous;
    };
    let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
    let decoded = URL_SAFE.decode(&padded).or_else(|_| STANDARD.decode(&padded));
    let auth: Option<AuthConfig> = decoded.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    auth.and_then(|auth| credentials(auth).ok()).unwrap_or_default()
}

fn reference(text: &str) -> Result<Reference, Refusal> {
    Reference::parse(text).map_err(|error| Refusal::invalid(error.to_string()))
}

/// A name and what stands in `tag`: a tag, a digest, or nothing. The flag says that neither names one image.
fn named(name: &str, tag: &str) -> Result<(Reference, bool), Refusal> {
    let all = tag.is_empty() && Reference::is_repository(name);
    let text = match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    Ok((reference(&text)?, all))
}

/// Waits for the first event, so that an early failure is an error of the request itself, and then passes all on.
async fn stream<E: Send + 'static>(
    engine: Arc<Engine>,
    mut events: mpsc::Receiver<E>,
    work: JoinHandle<Result<(), ImageError>>,
    mut line: impl FnMut(E) -> Vec<JsonMessage> + Send + 'static,
) -> Handled {
    let mut work = Transfer(work);
    let Some(first) = events.recv().await else {
        return match work.end().await {
            Ok(()) => Ok(body::stream("application/json").1),
            Err(error) => Err(error.into()),
        };
    };
    let (sink, answer) = body::stream("application/json");
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(event) = next {
            for message in line(event) {
                if !say(&sink, &message).await {
                    return;
                }
            }
            next = tokio::select! {
                event = events.recv() => event,
                // Nobody waits for it any more: dropping it gives it up.
                () = sink.closed() => return,
            };
        }
        if let Err(error) = work.end().await {
            let message = explained(&engine, &error);
            let error_detail = Some(ErrorDetail { message: message.clone(), ..ErrorDetail::default() });
            say(&sink, &JsonMessage { error_detail, error: message, ..JsonMessage::default() }).await;
        }
    });
    Ok(answer)
}

/// A transfer that ends with who wants it.
struct Transfer(JoinHandle<Result<(), ImageError>>);

impl Transfer {
    async fn end(&mut self) -> Result<(), ImageError> {
        (&mut self.0)
            .await
            .unwrap_or_else(|error| Err(ImageError::Pull(format!("the transfer failed: {error}"))))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn say(sink: &Sink, message: &JsonMessage) -> bool {
    sink.send(Bytes::from(body::go_json(message))).await.is_ok()
}

fn status(text: impl Into<String>) -> JsonMessage {
    JsonMessage { status: text.into(), ..JsonMessage::default() }
}

/// A step of a layer; a total of nothing is no progress.
fn step(id: &Digest, text: impl Into<String>, have: u64, of: u64) -> JsonMessage {
    let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    JsonMessage {
        status: text.into(),
        id: id.short(),
        progress_detail: Some(ProgressDetail {
            current: count(have),
            total: count(of),
            ..ProgressDetail::default()
        }),
        progress: bar(have, of),
        ..JsonMessage::default()
    }
}

/// The bar that older clients print as it comes.
fn bar(have: u64, of: u64) -> String {
    if of == 0 {
        return String::new();
    }
    let done = usize::try_from(have.min(of) * 50 / of).unwrap_or(50);
    let rest = " ".repeat(50 - done);
    format!("[{}>{rest}] {:>8}/{}", "=".repeat(done), size(have), size(of))
}

/// Four digits and a decimal unit, as Docker's clients print sizes.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    while value >= 1000.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let before = format!("{value:.0}").len();
    let text = format!("{value:.*}", 4_usize.saturating_sub(before));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

pub(crate) async fn pull(server: &Server, call: &Call) -> Handled {
    let query = &call.query;
    let tag = query.get("tag").unwrap_or("");
    let (reference, all_tags) = named(query.get("fromImage").unwrap_or(""), tag)?;
    let platform = platform::wanted(call, "platform")?.into_iter().next();
    let spec = PullSpec { reference, all_tags, platform, credentials: of_header(call) };
    let (reports, events) = Reports::channel();
    let images = Arc::clone(&server.engine.images);
    let work = tokio::spawn(async move { images.pull(&spec, &reports).await });
    let engine = Arc::clone(&server.engine);
    stream(Arc::clone(&server.engine), events, work, move |event| match event {
        PullEvent::From { repository, name } => {
            vec![JsonMessage { id: name, ..status(format!("Pulling from {repository}")) }]
        }
        PullEvent::Layer(id, what) => vec![match what {
            Step::Wanted => step(&id, "Pulling fs layer", 0, 0),
            Step::Waiting => step(&id, "Waiting", 0, 0),
            Step::Exists => step(&id, "Already exists", 0, 0),
            Step::Downloading { have, of } => step(&id, "Downloading", have, of),
            Step::Downloaded => step(&id, "Download complete", 0, 0),
            Step::Complete => step(&id, "Pull complete", 0, 0),
        }],
        PullEvent::Done { reference, digest, image: _, newer: _ } => {
            happened(&engine, "pull", &reference.familiar(), &reference.familiar_name());
            vec![status(format!("Digest: {digest}"))]
        }
        PullEvent::End { name, newer } => {
            let what = if newer { "Downloaded newer image" } else { "Image is up to date" };
            vec![status(format!("Status: {what} for {name}"))]
        }
    })
    .await
}

pub(crate) async fn push(server: &Server, call: &Call, name: &str) -> Handled {
    let platform = platform::wanted(call, "platform")?.into_iter().next();
    let (reference, all_tags) = named(name, call.query.get("tag").unwrap_or(""))?;
    if reference.digest().is_some() {
        return Err(Refusal::invalid("cannot push a digest reference"));
    }
    let spec = PushSpec { reference: reference.clone(), all_tags, platform, credentials: of_header(call) };
    let (reports, events) = Reports::channel();
    let images = Arc::clone(&server.engine.images);
    let work = tokio::spawn(async move { images.push(&spec, &reports).await });
    let engine = Arc::clone(&server.engine);
    stream(Arc::clone(&server.engine), events, work, move |event| match event {
        PushEvent::To(name) => vec![status(format!("The push refers to repository [{name}]"))],
        PushEvent::Layer(id, what) => vec![match what {
            PushStep::Preparing => step(&id, "Preparing", 0, 0),
            PushStep::Waiting => step(&id, "Waiting", 0, 0),
            PushStep::Exists => step(&id, "Layer already exists", 0, 0),
            PushStep::Mounted(from) => step(&id, format!("Mounted from {from}"), 0, 0),
            PushStep::Pushing(have, of) => step(&id, "Pushing", have, of),
            PushStep::Pushed => step(&id, "Pushed", 0, 0),
        }],
        PushEvent::Done { tag, digest, size } => {
            let name = reference.familiar_name();
            happened(&engine, "push", &format!("{name}:{tag}"), &name);
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            let line = status(format!("{tag}: digest: {digest} size: {size}"));
            let result = PushResult { tag, digest: digest.to_string(), size };
            let aux = serde_json::to_value(result).ok();
            let progress_detail = Some(ProgressDetail::default());
            vec![line, JsonMessage { aux, progress_detail, ..JsonMessage::default() }]
        }
    })
    .await
}

pub(crate) async fn login(server: &Server, call: Call) -> Handled {
    let auth: AuthConfig = body::read_json(call.request.into_body(), false).await?;
    let server_address = auth.serveraddress.clone();
    let who = credentials(auth)?;
    let registries = server.engine.images.registries();
    match registries.login(&server_address, &who).await {
        Ok(done) => Ok(body::json(&AuthResponse {
            status: "Login Succeeded".into(),
            identity_token: done.identity.unwrap_or_default(),
        })),
        Err(error @ RegistryError::Unauthorized(_)) => {
            Err(Refusal { status: StatusCode::UNAUTHORIZED, message: error.to_string() })
        }
        Err(error) => Err(ImageError::from(error).into()),
    }
}

pub(crate) async fn distribution(server: &Server, call: &Call, name: &str) -> Handled {
    let reference = reference(name)?;
    let remote = server.engine.images.remote(&reference, of_header(call)).await?;
    let platform = |platform: &havre_oci::Platform| havre_api::image::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone().unwrap_or_default(),
        variant: platform.variant.clone().unwrap_or_default(),
        ..havre_api::image::Platform::default()
    };
    Ok(body::json(&DistributionInspect {
        descriptor: havre_api::image::Descriptor {
            media_type: remote.document.media_type.clone(),
            digest: remote.document.digest.to_string(),
            size: i64::try_from(remote.document.bytes.len()).unwrap_or(i64::MAX),
            ..havre_api::image::Descriptor::default()
        },
        platforms: Some(remote.platforms.iter().map(platform).collect()),
    }))
}

pub(crate) async fn search(server: &Server, call: &Call) -> Handled {
    let query = &call.query;
    let term = query.get("term").unwrap_or("");
    if term.is_empty() {
        return Err(Refusal::invalid("no search term given: want term=..."));
    }
    let limit = match query.get("limit").filter(|text| !text.is_empty()) {
        None => 25,
        Some(text) => match text.parse::<i64>() {
            Ok(0) => 25,
            Ok(limit) => u32::try_from(limit)
                .ok()
                .filter(|limit| *limit <= 100)
                .ok_or_else(|| Refusal::invalid(format!("Limit {limit} is outside the range of [1, 100]")))?,
            Err(_) => return Err(Refusal::invalid(format!("invalid limit {text:?}: it is no number"))),
        },
    };
    let wanted = Wanted::parse(call)?;
    let (domain, words) = match term.split_once('/') {
        Some((head, rest)) if head.contains(['.', ':']) || head == "localhost" => (head, rest),
        _ => (DOCKER_HUB, term),
    };
    let spec = SearchSpec { domain: domain.into(), term: words.into(), limit };
    let found = server.engine.images.registries().search(&spec, &of_header(call)).await;
    let found = found.map_err(ImageError::from)?;
    let results: Vec<SearchResult> = found
        .into_iter()
        .filter(|found| {
            wanted.official.is_none_or(|wanted| wanted == found.is_official)
                && wanted.automated.is_none_or(|wanted| wanted == found.is_automated)
                && found.star_count >= wanted.stars
        })
        .map(|found| SearchResult {
            star_count: found.star_count,
            is_official: found.is_official,
            name: found.name,
            is_automated: found.is_automated,
            description: found.description,
        })
        .collect();
    Ok(body::json(&results))
}

/// The filters of a search.
#[derive(Default)]
struct Wanted {
    official: Option<bool>,
    automated: Option<bool>,
    stars: i64,
}

impl Wanted {
    fn parse(call: &Call) -> Result<Self, Refusal> {
        let mut wanted = Self::default();
        for (name, values) in filters(call)? {
            let value = values.last().map_or("", String::as_str);
            let invalid = || Refusal::invalid(format!("invalid filter '{name}=[{value}]'"));
            let truth = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(invalid()),
            };
            match name.as_str() {
                "is-official" => wanted.official = Some(truth()?),
                "is-automated" => wanted.automated = Some(truth()?),
                "stars" => {
                    let all = values.iter().map(|text| text.parse::<i64>());
                    wanted.stars = all
                        .collect::<Result<Vec<_>, _>>()
                        .map_err(|_| invalid())?
                        .into_iter()
                        .max()
                        .unwrap_or(0);
                }
                _ => return Err(Refusal::invalid(format!("invalid filter '{name}'"))),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_those_docker_s_clients_know() {
        assert_eq!(bar(0, 0), "");
        assert_eq!(
            bar(1_234_567, 2_469_134),
            format!("[{}>{}]  1.235MB/2.469MB", "=".repeat(25), " ".repeat(25))
        );
        assert_eq!(size(999), "999B");
        assert_eq!(size(1_000_000), "1MB");
        assert_eq!(size(123_456), "123.5kB");
    }

    #[test]
    fn names_and_tags_name_one_image_or_all() {
        assert!(named("a", "").unwrap().1);
        assert!(!named("a:1", "").unwrap().1);
        assert_eq!(named("r:5000/a", "2").unwrap().0.familiar(), "r:5000/a:2");
        let digest = Digest::of_bytes(b"");
        assert_eq!(named("a", &digest.to_string()).unwrap().0.digest(), Some(&digest));
        assert!(named("A", "x").is_err());
    }

    #[test]
    fn credentials_have_many_forms() {
        let of = |auth: AuthConfig| credentials(auth).unwrap();
        assert_eq!(of(AuthConfig::default()), Credentials::Anonymous);
        let auth = AuthConfig { auth: "bWU6Z2VoZWlt".into(), ..AuthConfig::default() };
        let password = Credentials::Password { user: "me".into(), password: "geheim".into() };
        assert_eq!(of(auth), password);
        let token = AuthConfig { identitytoken: "t".into(), username: "u".into(), ..AuthConfig::default() };
        assert_eq!(of(token), Credentials::Identity("t".into()));
        assert!(credentials(AuthConfig { auth: "?".into(), ..AuthConfig::default() }).is_err());
    }
}
