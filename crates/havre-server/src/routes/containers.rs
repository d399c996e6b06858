//! `/containers/...` but for streams.

use std::sync::Arc;

use bytes::Bytes;
use havre_api::container::{CreateResponse, WaitError, WaitResponse};
use havre_api::{ApiVersion, Filters};
use havre_base::ContainerName;
use havre_engine::{View, WaitFor};
use hyper::StatusCode;
use hyper::body::Body as _;

use crate::Server;
use crate::body::{self, Answer};
use crate::convert;
use crate::error::Refusal;
use crate::router::{Call, no_content};
use crate::routes::filter;
use crate::shows;
use crate::versions::{self, Shape};

type Handled = Result<Answer, Refusal>;

pub(crate) async fn list(server: &Server, call: &Call) -> Handled {
    let filters = Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    filter::check(&filters)?;
    filter::check_names(&server.engine, &filters)?;
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
    let wants_state = filters.has("status") || filters.has("exited");
    let all = call.query.flag("all")
        || limit.is_some()
        || wants_state
        || filters.has("before")
        || filters.has("since");
    let engine = &server.engine;
    let views = engine.containers.list();
    let shown = views
        .iter()
        .filter(|view| all || view.now.state.is_alive() || view.now.state.word() == "restarting")
        .filter(|view| filter::passes(engine, &filters, view))
        .take(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
    let mut rows = Vec::new();
    for view in shown {
        let mut row = shows::summary(engine, view);
        if call.query.flag("size") {
            (row.size_rw, row.size_root_fs) = sizes(server, view).await?;
        }
        rows.push(row);
    }
    Ok(versions::json(call.version, Shape::ContainerList, &rows))
}

pub(crate) async fn create(server: &Server, call: Call) -> Handled {
    let name = call.query.get("name").map(str::to_owned);
    let platform = call.query.get("platform").filter(|platform| !platform.is_empty()).map(str::to_owned);
    let version = call.version;
    // Before anything is refused: a client that still sends may not read why.
    let mut request = body::read_create(call.request.into_body()).await?;
    if let Some(platform) = &platform {
        let wanted =
            havre_oci::Platform::parse(platform).map_err(|error| Refusal::invalid(error.to_string()))?;
        if !havre_oci::Platform::host().matches(&wanted) {
            return Err(Refusal::not_yet(&format!("running images of platform {platform} on this machine")));
        }
    }
    versions::create_request(version, &mut request);
    let converted =
        convert::create(&server.engine.containers, &server.info().defaults, name.as_deref(), request)?;
    let mut warnings = converted.warnings;
    warnings.extend(image_warnings(server, &converted.wanted.spec.image, platform.is_some()));
    let id = server.engine.containers.create(converted.wanted).await?;
    let answer = CreateResponse { id: id.to_string(), warnings };
    Ok(body::json_bytes(StatusCode::CREATED, &answer))
}

/// What an image asks for that waits to be built. It may run without; the user is told.
fn image_warnings(server: &Server, name: &str, platform_named: bool) -> Vec<String> {
    let Ok(image) = server.engine.images.resolve(name) else { return Vec::new() };
    let config = &image.config.config;
    let mut warnings = Vec::new();
    let (made_for, host) = (image.config.platform(), havre_oci::Platform::host());
    if !platform_named && !made_for.matches(&host) {
        warnings.push(format!(
            "The requested image's platform ({made_for}) does not match the detected host platform ({host}) and no specific platform was requested"
        ));
    }
    if !config.volumes.is_empty() {
        let paths: Vec<&str> = config.volumes.keys().map(String::as_str).collect();
        warnings.push(format!(
            "volumes are not yet supported: what the image keeps in {} stays in the container's own layer",
            paths.join(", ")
        ));
    }
    let runs = |test: &[String]| !test.is_empty() && test != ["NONE"];
    if config.healthcheck.as_ref().is_some_and(|health| runs(&health.test)) {
        warnings.push("health checks are not yet supported: the image's HEALTHCHECK is not run".into());
    }
    warnings
}

/// What a container wrote, and that with its image.
async fn sizes(server: &Server, view: &Arc<View>) -> Result<(Option<i64>, Option<i64>), Refusal> {
    let sizes = server.engine.files.sizes(Arc::clone(view)).await?;
    let number = |size: u64| Some(i64::try_from(size).unwrap_or(i64::MAX));
    Ok((number(sizes.written), number(sizes.total)))
}

pub(crate) async fn inspect(server: &Server, call: &Call, id: &str) -> Handled {
    let view = server.engine.containers.view(id)?;
    let mut answer = shows::inspect(&server.engine, &view);
    if call.query.flag("size") {
        (answer.size_rw, answer.size_root_fs) = sizes(server, &view).await?;
    }
    Ok(versions::json(call.version, Shape::Container, &answer))
}

pub(crate) async fn start(server: &Server, call: Call, id: &str) -> Handled {
    // A body with a host configuration was how older versions set it; ignoring it would start something
    // else than what was asked. One or two bytes are what clients send for nothing.
    if call.request.body().size_hint().lower() > 2 {
        return Err(Refusal::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    crate::routes::live::no_checkpoint(server, &call)?;
    server.engine.containers.start(id).await?;
    Ok(no_content())
}

fn signal(call: &Call) -> Result<Option<i32>, Refusal> {
    match call.query.get("signal") {
        None | Some("") => Ok(None),
        Some(text) => Ok(Some(havre_engine::signal::parse(text)?)),
    }
}

/// Another signal than the container's own; older versions could not ask for one.
fn stop_signal(call: &Call) -> Result<Option<i32>, Refusal> {
    if call.version < ApiVersion::new(1, 42) { Ok(None) } else { signal(call) }
}

pub(crate) async fn stop(server: &Server, call: &Call, id: &str) -> Handled {
    server.engine.containers.stop(id, stop_signal(call)?, call.query.number("t")?).await?;
    Ok(no_content())
}

pub(crate) async fn restart(server: &Server, call: &Call, id: &str) -> Handled {
    server.engine.containers.restart(id, stop_signal(call)?, call.query.number("t")?).await?;
    Ok(no_content())
}

pub(crate) async fn kill(server: &Server, call: &Call, id: &str) -> Handled {
    const KILL: i32 = 9;
    server.engine.containers.kill(id, signal(call)?.unwrap_or(KILL)).await?;
    Ok(no_content())
}

pub(crate) async fn freeze(server: &Server, id: &str, frozen: bool) -> Handled {
    server.engine.containers.freeze(id, frozen).await?;
    Ok(no_content())
}

pub(crate) async fn rename(server: &Server, call: &Call, id: &str) -> Handled {
    let name = call.query.get("name").unwrap_or("");
    if name.is_empty() {
        return Err(Refusal::invalid("New name cannot be empty"));
    }
    let name = ContainerName::parse(name).map_err(|error| Refusal::invalid(error.to_string()))?;
    server.engine.containers.rename(id, name).await?;
    Ok(no_content())
}

/// Height and width of a terminal.
pub(crate) fn size(call: &Call) -> Result<(u16, u16), Refusal> {
    let side = |name: &str| {
        let number = call.query.number(name)?.unwrap_or(0);
        u16::try_from(number).map_err(|_| Refusal::invalid(format!("invalid value for {name}: {number}")))
    };
    Ok((side("h")?, side("w")?))
}

pub(crate) async fn resize(server: &Server, call: &Call, id: &str) -> Handled {
    let (rows, columns) = size(call)?;
    server.engine.containers.resize(id, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

/// The headers go out at once, so that a client knows that the wait is on; the body follows at the end.
pub(crate) fn wait(server: &Server, call: &Call, id: &str) -> Handled {
    let asked = call.query.get("condition").filter(|_| call.version >= ApiVersion::new(1, 30));
    let condition = match asked {
        None | Some("" | "not-running") => WaitFor::NotRunning,
        Some("next-exit") => WaitFor::NextExit,
        Some("removed") => WaitFor::Removed,
        Some(other) => return Err(Refusal::invalid(format!("invalid condition: \"{other}\""))),
    };
    let ended = server.engine.containers.wait(id, condition)?;
    let (sink, answer) = body::stream("application/json");
    tokio::spawn(async move {
        let result = tokio::select! {
            result = ended => result,
            () = sink.closed() => return,
        };
        let answer = match result {
            Ok(code) => WaitResponse { status_code: i64::from(code), error: None },
            Err(error) => {
                WaitResponse { status_code: -1, error: Some(WaitError { message: error.to_string() }) }
            }
        };
        // A client that went away needs no answer.
        sink.send(Bytes::from(body::go_json(&answer))).await.unwrap_or(());
    });
    Ok(answer)
}

pub(crate) async fn remove(server: &Server, call: &Call, id: &str) -> Handled {
    if call.query.flag("link") {
        return Err(Refusal::not_yet("removing links"));
    }
    server.engine.containers.remove(id, call.query.flag("force")).await?;
    Ok(no_content())
}
