//! From method, version and path to a handler.
//!
//! Invariant: every endpoint of the Engine API is named here, also those that wait to be built: they
//! answer 501 with their name; everything else is "page not found".

use std::time::Instant;

use havre_api::ApiVersion;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SERVER};
use hyper::{Method, Request, StatusCode};

use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::query::{Query, decode};
use crate::routes::{
    containers, debug, events, execs, explain, files, fsck, images, live, networks, registry, streams,
    system, usage, websocket, why,
};
use crate::{Server, Transport, origin};

/// One request, taken apart.
pub(crate) struct Call {
    pub(crate) version: ApiVersion,
    pub(crate) query: Query,
    pub(crate) request: Request<Incoming>,
}

type Handled = Result<Answer, Refusal>;

/// Answers one request.
pub(crate) async fn answer(server: &Server, transport: Transport, request: Request<Incoming>) -> Answer {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let working = server.traffic.working(transport, format!("{method} {}", request.uri()));
    let handled = match origin::check(transport, &request) {
        Ok(()) => dispatch(server, request).await,
        Err(refusal) => Err(refusal),
    };
    let (mut answer, why) = match handled {
        Ok(answer) => (answer, None),
        Err(refusal) => {
            server.traffic.failed();
            let why = refusal.message.clone();
            (refusal.answer(), Some(why))
        }
    };
    let info = server.info();
    let headers = answer.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static("1.56"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    let experimental = if info.experimental { "true" } else { "false" };
    headers.insert("Docker-Experimental", HeaderValue::from_static(experimental));
    headers
        .insert(SERVER, HeaderValue::from_static(concat!("Havre/", env!("CARGO_PKG_VERSION"), " (linux)")));
    tracing::debug!(
        %method,
        path,
        status = answer.status().as_u16(),
        ms = began.elapsed().as_millis(),
        %transport,
        refused = why,
        "handled request"
    );
    if let Either::Right(stream) = answer.body_mut() {
        stream.keep(working);
        if is_endless(&path) {
            stream.until(server.until_closing());
        }
    }
    answer
}

/// Whether a streamed answer has no end of its own, so that cutting it loses nothing.
fn is_endless(path: &str) -> bool {
    ["/events", "/logs", "/stats", "/wait", "/attach", "/start"].iter().any(|end| path.ends_with(end))
}

/// Splits `/v1.40/containers/json` into the version and the rest.
fn version_of(path: &str, oldest: ApiVersion) -> Result<(ApiVersion, &str), Refusal> {
    let Some(rest) = path.strip_prefix("/v") else { return Ok((ApiVersion::CURRENT, path)) };
    let (first, tail) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(version) = ApiVersion::parse(first) else { return Ok((ApiVersion::CURRENT, path)) };
    if version < oldest {
        return Err(Refusal::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            oldest
        )));
    }
    if version > ApiVersion::CURRENT {
        return Err(Refusal::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {}",
            ApiVersion::CURRENT
        )));
    }
    Ok((version, path.get(path.len() - tail.len() - 1..).unwrap_or("/")))
}

async fn dispatch(server: &Server, request: Request<Incoming>) -> Handled {
    let full = request.uri().path().to_owned();
    let (version, path) = version_of(&full, server.info().oldest)?;
    let decoded: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decode(part, false).into_owned())
        .collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let method = request.method().clone();
    let call = Call { version, query, request };
    let (get, post, delete, head) =
        (method == Method::GET, method == Method::POST, method == Method::DELETE, method == Method::HEAD);
    match parts.as_slice() {
        ["_ping"] if get || head => Ok(system::ping(head)),
        ["version"] if get => Ok(system::version(server)),
        ["info"] if get => system::info(server, &call),
        ["events"] if get => events::events(server, &call),
        ["system", "df"] if get => usage::df(server, &call).await,
        ["system", "network", "explain"] if get => explain::explain(server, &call).await,
        ["system", "fsck"] if post => fsck::fsck(server, &call),

        ["containers", "json"] if get => containers::list(server, &call).await,
        ["containers", "create"] if post => containers::create(server, call).await,
        ["containers", id, "json"] if get => containers::inspect(server, &call, id).await,
        ["containers", id, "start"] if post => containers::start(server, call, id).await,
        ["containers", _, "copy"] if post => Err(Refusal::invalid(
            "the copy endpoint is gone since API version 1.24: use GET /containers/{id}/archive",
        )),
        ["containers", id, "stop"] if post => containers::stop(server, &call, id).await,
        ["containers", id, "restart"] if post => containers::restart(server, &call, id).await,
        ["containers", id, "kill"] if post => containers::kill(server, &call, id).await,
        ["containers", id, "pause"] if post => containers::freeze(server, id, true).await,
        ["containers", id, "unpause"] if post => containers::freeze(server, id, false).await,
        ["containers", id, "rename"] if post => containers::rename(server, &call, id).await,
        ["containers", id, "resize"] if post => containers::resize(server, &call, id).await,
        ["containers", id, "wait"] if post => containers::wait(server, &call, id),
        ["containers", id, "archive"] if head => files::stat(server, &call, id).await,
        ["containers", id, "archive"] if get => files::get(server, &call, id).await,
        ["containers", id, "archive"] if method == Method::PUT => files::put(server, call, id).await,
        ["containers", id, "why"] if get => why::why(server, id).await,
        ["containers", id, "export"] if get => files::export(server, id).await,
        ["containers", id, "changes"] if get => files::changes(server, id).await,
        ["commit"] if post => files::commit(server, call).await,
        ["containers", id, "logs"] if get => streams::logs(server, &call, id),
        ["containers", id, "attach", "ws"] if get => websocket::attach(server, call, id).await,
        ["containers", id, "top"] if get => live::top(server, &call, id).await,
        ["containers", id, "stats"] if get => live::stats(server, &call, id).await,
        ["containers", id, "update"] if post => live::update(server, call, id).await,
        ["containers", "prune"] if post => live::prune(server, &call).await,
        [kind @ ("volumes" | "build"), "prune"] if post => live::prune_nothing(&call, kind),
        ["containers", id, "checkpoints"] if get || post => live::checkpoints(server, id),
        ["containers", id, "checkpoints", _] if delete => live::checkpoints(server, id),
        ["containers", id, "attach"] if post => streams::attach(server, call, id).await,
        ["containers", id, "exec"] if post => execs::create(server, call, id).await,
        ["containers", id] if delete => containers::remove(server, &call, id).await,

        ["networks"] if get => networks::list(server, &call),
        ["networks", "create"] if post => networks::create(server, call).await,
        ["networks", "prune"] if post => networks::prune(server, &call).await,
        ["networks", id] if get => networks::inspect(server, &call, id),
        ["networks", id] if delete => networks::remove(server, id).await,
        ["networks", id, "connect"] if post => networks::connect(server, call, id).await,
        ["networks", id, "disconnect"] if post => networks::disconnect(server, call, id).await,

        ["exec", id, "start"] if post => execs::start(server, call, id).await,
        ["exec", id, "resize"] if post => execs::resize(server, &call, id).await,
        ["exec", id, "json"] if get => execs::inspect(server, id).await,

        ["images", "json"] if get => images::list(server, &call).await,
        ["images", "load"] if post => images::load(server, call).await,
        ["images", "create"] if post => images::create(server, call).await,
        ["images", "search"] if get => registry::search(server, &call).await,
        ["images", name @ .., "push"] if post && !name.is_empty() => {
            registry::push(server, &call, &name.join("/")).await
        }
        ["distribution", name @ .., "json"] if get && !name.is_empty() => {
            registry::distribution(server, &call, &name.join("/")).await
        }
        ["auth"] if post => registry::login(server, call).await,
        ["images", "prune"] if post => images::prune(server, &call).await,
        ["images", "get"] if get => images::save_many(server, &call).await,
        ["images", name @ .., "json"] if get && !name.is_empty() => {
            images::inspect(server, &call, &name.join("/")).await
        }
        ["images", name @ .., "history"] if get && !name.is_empty() => {
            images::history(server, &call, &name.join("/")).await
        }
        ["images", name @ .., "get"] if get && !name.is_empty() => {
            images::save(server, &call, name.join("/")).await
        }
        ["images", name @ .., "tag"] if post && !name.is_empty() => {
            images::tag(server, &call, &name.join("/")).await
        }
        ["images", name @ ..] if delete && !name.is_empty() => {
            images::remove(server, &call, &name.join("/")).await
        }

        ["debug", rest @ ..] if (get || post) && server.info().debug => debug::answer(server, &call, rest),

        _ => {
            let refused = waiting(&method, parts.as_slice());
            body::drain(call.request.into_body()).await;
            refused
        }
    }
}

/// Objects of kinds that wait to be built: there is none, and saying so is true. Clients that look for an
/// object of any kind by its name (`docker inspect`) rely on it.
fn absent(parts: &[&str]) -> Option<Refusal> {
    let missing = |message: String| Some(Refusal::new(havre_base::ErrorKind::NotFound, message));
    match parts {
        ["volumes", name] => missing(format!("get {name}: no such volume")),
        ["plugins", name @ .., "json"] => missing(format!("plugin \"{}\" not found", name.join("/"))),
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => Some(Refusal::new(
            havre_base::ErrorKind::Unavailable,
            "This node is not a swarm manager. Swarm mode is not yet supported.",
        )),
        _ => None,
    }
}

/// The endpoints that wait to be built, by what a user would call them.
fn waiting(method: &Method, parts: &[&str]) -> Handled {
    if method == Method::GET
        && let Some(refusal) = absent(parts)
    {
        return Err(refusal);
    }
    let what = match parts {
        ["images", _, .., "attestations"] => "attestations of images",
        ["build", ..] => "building images",
        ["session" | "grpc"] => "BuildKit sessions",
        ["volumes", ..] => "volumes",
        ["plugins", ..] => "plugins",
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => "swarm mode",
        _ => {
            return Err(Refusal { status: StatusCode::NOT_FOUND, message: "page not found".into() });
        }
    };
    Err(Refusal::not_yet(&format!("{what} ({method} /{})", parts.join("/"))))
}

/// An answer for things that worked and have nothing to say.
pub(crate) fn no_content() -> Answer {
    body::empty(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_split_off_and_bounded() {
        let current = ApiVersion::CURRENT;
        let of = |path| version_of(path, ApiVersion::OLDEST);
        assert_eq!(of("/containers/json").unwrap(), (current, "/containers/json"));
        assert_eq!(of("/v1.24/info").unwrap(), (ApiVersion::new(1, 24), "/info"));
        assert_eq!(of("/volumes/x").unwrap(), (current, "/volumes/x"));
        assert_eq!(of("/v1.30").unwrap().0, ApiVersion::new(1, 30));
        assert!(of("/v1.23/info").unwrap_err().message.contains("too old"));
        assert!(of("/v1.99/info").unwrap_err().message.contains("too new"));
    }

    #[test]
    fn what_waits_is_named_and_what_does_not_exist_is_not_found() {
        let waits = waiting(&Method::GET, &["volumes"]).unwrap_err();
        assert_eq!(waits.status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(waits.message, "not yet supported: volumes (GET /volumes)");
        let nothing = waiting(&Method::GET, &["nope"]).unwrap_err();
        assert_eq!((nothing.status, nothing.message.as_str()), (StatusCode::NOT_FOUND, "page not found"));
    }
}
