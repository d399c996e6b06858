//! `/images/...`.
//!
//! The image service is blocking code: it runs on the blocking pool, fed from and to the connection
//! through bounded queues.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use havre_api::container::HealthConfig;
use havre_api::image::{
    DeleteResponse, GraphDriver, HistoryItem, ImageConfig, ImageInspect, ImageSummary, Metadata,
    PruneResponse, RootFs,
};
use havre_api::message::{ErrorDetail, JsonMessage};
use havre_api::{ApiVersion, Filters};
use havre_base::{ContainerId, chain};
use havre_engine::Engine;
use havre_image::{ImageError, ImageUser, ImageView, ImportSpec, ListSpec, LoadEvent, PruneSpec, Removed};
use havre_oci::{Digest, Platform, Reference};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::Server;
use crate::body::{self, Answer, Sink};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::{platform, registry};
use crate::versions::{self, Shape};

type Handled = Result<Answer, Refusal>;

/// Pieces of an upload that may wait for the disk.
const PIECES: usize = 16;

/// Runs blocking code of the image service.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Refusal::from),
        Err(error) => Err(Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("the image service failed: {error}"),
        }),
    }
}

/// A request body as a blocking reader.
struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Upload {
    fn new(mut body: Incoming) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => Ok(data),
                        Err(_) => continue,
                    },
                    Err(error) => Err(io::Error::other(error)),
                };
                if sender.send(piece).await.is_err() {
                    // Nobody wants the rest; the answer says why.
                    body::drain(body).await;
                    return;
                }
            }
        });
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for Upload {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(into.len());
        self.current.copy_to_slice(into.get_mut(..count).unwrap_or(&mut []));
        Ok(count)
    }
}

/// A response body as a blocking writer.
struct Download(mpsc::Sender<io::Result<Bytes>>);

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn count_of(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn names(list: &[String]) -> Option<Vec<String>> {
    Some(list.to_vec())
}

pub(super) fn filters(call: &Call) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(filters
        .names()
        .map(|name| (name.to_owned(), filters.values(name).map(str::to_owned).collect()))
        .collect())
}

pub(crate) async fn list(server: &Server, call: &Call) -> Handled {
    let mut given = filters(call)?;
    // The parameter of API versions before filters.
    let old = call.version < ApiVersion::new(1, 41);
    if let Some(text) = call.query.get("filter").filter(|text| old && !text.is_empty()) {
        given.entry("reference".into()).or_default().push(text.to_owned());
    }
    let spec = ListSpec::parse(call.query.flag("all"), &given)?;
    let (list, _) = summaries(server, spec, call.query.flag("shared-size")).await?;
    Ok(versions::json(call.version, Shape::ImageList, &list))
}

/// All images with what they share, and the bytes of all layers.
pub(crate) async fn usage(server: &Server) -> Result<(Vec<ImageSummary>, i64), Refusal> {
    summaries(server, ListSpec::parse(false, &BTreeMap::new())?, true).await
}

async fn summaries(
    server: &Server,
    spec: ListSpec,
    shared_wanted: bool,
) -> Result<(Vec<ImageSummary>, i64), Refusal> {
    let engine = Arc::clone(&server.engine);
    let (views, usage) =
        blocking(move || Ok((engine.images.list(&spec)?, engine.images.disk_usage()))).await?;
    let mut containers: HashMap<Digest, i64> = HashMap::new();
    for one in server.engine.containers.list() {
        *containers.entry(one.fixed.image.clone()).or_default() += 1;
    }
    let summary = |view: &ImageView| ImageSummary {
        containers: containers.get(&view.id).copied().unwrap_or(0),
        created: view.created.map_or(0, havre_base::Timestamp::as_seconds),
        id: view.id.to_string(),
        labels: labels_of(view),
        parent_id: view.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        repo_digests: names(&view.repo_digests),
        repo_tags: names(&view.repo_tags),
        shared_size: if shared_wanted {
            usage.shared.get(&view.id).map_or(0, |size| count_of(*size))
        } else {
            -1
        },
        size: count_of(view.size),
        ..ImageSummary::default()
    };
    Ok((views.iter().map(summary).collect(), count_of(usage.layers)))
}

/// Docker prints no labels as null.
fn labels_of(view: &ImageView) -> Option<BTreeMap<String, String>> {
    let labels = &view.config.config.labels;
    (!labels.is_empty()).then(|| labels.clone())
}

fn config_of(view: &ImageView) -> ImageConfig {
    let config = &view.config.config;
    let empty = |set: &havre_oci::image::Set| {
        let keys = set.keys().map(|key| (key.clone(), havre_api::Empty {})).collect::<BTreeMap<_, _>>();
        (!keys.is_empty()).then_some(keys)
    };
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let health = config.healthcheck.as_ref().and_then(|health| {
        let value = serde_json::to_value(health).ok()?;
        serde_json::from_value::<HealthConfig>(value).ok()
    });
    ImageConfig {
        user: config.user.clone(),
        exposed_ports: empty(&config.exposed_ports),
        env: some(&config.env),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: empty(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: labels_of(view),
        stop_signal: config.stop_signal.clone(),
        healthcheck: health,
        on_build: some(&config.on_build),
        shell: config.shell.clone(),
        ..ImageConfig::default()
    }
}

pub(crate) async fn inspect(server: &Server, call: &Call, name: &str) -> Handled {
    let wanted = platform::wanted(call, "platform")?;
    if !wanted.is_empty() && call.query.flag("manifests") {
        return Err(Refusal::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    platform::check(&server.engine, name, &wanted)?;
    let view = server.engine.images.inspect(name)?;
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let driver = server.engine.images.driver();
    let mut data = BTreeMap::new();
    // The others have nothing on disk that belongs to an image alone.
    if driver.mounts()
        && let Some((top, rest)) = view.lowers.split_first()
    {
        data.insert("UpperDir".to_owned(), text(top));
        if !rest.is_empty() {
            data.insert(
                "LowerDir".to_owned(),
                rest.iter().map(|path| text(path)).collect::<Vec<_>>().join(":"),
            );
        }
    }
    let document = &view.config;
    let platform = document.platform();
    let shown = ImageInspect {
        id: view.id.to_string(),
        repo_tags: names(&view.repo_tags),
        repo_digests: names(&view.repo_digests),
        parent: view.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        created: document.created.clone().unwrap_or_default(),
        comment: document.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
        author: document.author.clone(),
        config: Some(config_of(&view)),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        os: platform.os.clone(),
        size: count_of(view.size),
        graph_driver: Some(GraphDriver { name: driver.name().into(), data: driver.mounts().then_some(data) }),
        root_fs: RootFs {
            kind: "layers".into(),
            layers: Some(document.rootfs.diff_ids.iter().map(ToString::to_string).collect()),
        },
        metadata: Metadata {
            last_tag_time: view
                .last_tagged
                .map_or_else(|| "0001-01-01T00:00:00Z".into(), |at| at.to_string()),
        },
        ..ImageInspect::default()
    };
    Ok(versions::json(call.version, Shape::Image, &shown))
}

pub(crate) async fn history(server: &Server, call: &Call, name: &str) -> Handled {
    platform::check(&server.engine, name, &platform::wanted(call, "platform")?)?;
    let lines = server.engine.images.history(name)?;
    let item = |line: &havre_image::HistoryView| HistoryItem {
        comment: line.step.comment.clone(),
        created: line.created.map_or(0, havre_base::Timestamp::as_seconds),
        created_by: line.step.created_by.clone(),
        id: line.id.as_ref().map_or_else(|| "<missing>".into(), ToString::to_string),
        size: count_of(line.size),
        tags: (!line.tags.is_empty()).then(|| line.tags.clone()),
    };
    Ok(body::json(&lines.iter().map(item).collect::<Vec<_>>()))
}

pub(super) fn happened(engine: &Engine, action: &str, id: &str, name: &str) {
    engine.events.publish("image", action, id, BTreeMap::from([("name".to_owned(), name.to_owned())]));
}

pub(crate) async fn tag(server: &Server, call: &Call, source: &str) -> Handled {
    let repo = call.query.get("repo").unwrap_or("");
    let target = match call.query.get("tag").filter(|tag| !tag.is_empty()) {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_owned(),
    };
    let (engine, source) = (Arc::clone(&server.engine), source.to_owned());
    let (image, target) = blocking(move || Ok((engine.images.tag(&source, &target)?, target))).await?;
    // Clients may ask with the long form of the name.
    let name = Reference::parse(&target).map_or(target, |reference| reference.familiar());
    happened(&server.engine, "tag", &image.id.to_string(), &name);
    Ok(body::empty(StatusCode::CREATED))
}

/// The containers of an image.
fn users(engine: &Engine, image: &Digest) -> Vec<ImageUser> {
    let views = engine.containers.list();
    views
        .iter()
        .filter(|view| view.fixed.image == *image)
        .map(|view| {
            let container: ContainerId = view.id().clone();
            ImageUser { container, running: view.now.state.is_alive() }
        })
        .collect()
}

pub(crate) async fn remove(server: &Server, call: &Call, name: &str) -> Handled {
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    platform::check(&server.engine, name, &platform::wanted(call, "platforms")?)?;
    let (engine, name) = (Arc::clone(&server.engine), name.to_owned());
    let removed =
        blocking(move || engine.images.remove(&name, force, no_prune, &|image| users(&engine, image)))
            .await?;
    Ok(body::json(&gone(&server.engine, removed)))
}

/// Tells listeners and the client what was removed.
pub(super) fn gone(engine: &Engine, removed: Vec<Removed>) -> Vec<DeleteResponse> {
    let deleted = |id: Digest| DeleteResponse { deleted: id.to_string(), ..DeleteResponse::default() };
    let entry = |one: Removed| match one {
        Removed::Untagged { name, image } => {
            happened(engine, "untag", &image.to_string(), &name);
            DeleteResponse { untagged: name, ..DeleteResponse::default() }
        }
        Removed::Image(id) => {
            happened(engine, "delete", &id.to_string(), &id.to_string());
            deleted(id)
        }
        Removed::Layer(id) => deleted(id),
    };
    removed.into_iter().map(entry).collect()
}

pub(crate) async fn prune(server: &Server, call: &Call) -> Handled {
    let spec = PruneSpec::parse(&filters(call)?)?;
    let engine = Arc::clone(&server.engine);
    let (removed, freed) =
        blocking(move || engine.images.prune(&spec, &|image| users(&engine, image))).await?;
    let deleted = gone(&server.engine, removed);
    let reclaimed = BTreeMap::from([("reclaimed".to_owned(), freed.to_string())]);
    server.engine.events.publish("image", "prune", "", reclaimed);
    Ok(body::json(&PruneResponse {
        images_deleted: (!deleted.is_empty()).then_some(deleted),
        space_reclaimed: freed,
    }))
}

fn say(sink: &Sink, message: &JsonMessage) {
    // A client that went away does not stop what it asked for half done: the work decides by itself.
    sink.blocking_send(Bytes::from(body::go_json(message))).unwrap_or(());
}

/// Why something failed; where there was no space left, also who has it.
pub(super) fn explained(engine: &Engine, error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error);
    if havre_engine::is_want_of_space(error) {
        format!("{text}: {}", engine.containers.space())
    } else {
        text
    }
}

fn fail(engine: &Engine, sink: &Sink, error: &ImageError) {
    let message = explained(engine, error);
    say(
        sink,
        &JsonMessage {
            error_detail: Some(ErrorDetail { message: message.clone(), ..ErrorDetail::default() }),
            error: message,
            ..JsonMessage::default()
        },
    );
}

pub(crate) async fn load(server: &Server, call: Call) -> Handled {
    let platforms = match platform::wanted(&call, "platform") {
        Ok(platforms) => platforms,
        Err(refused) => {
            body::drain(call.request.into_body()).await;
            return Err(refused);
        }
    };
    let quiet = call.query.flag("quiet");
    let upload = Upload::new(call.request.into_body());
    let (sink, answer) = body::stream("application/json");
    let engine = Arc::clone(&server.engine);
    tokio::task::spawn_blocking(move || {
        let result = engine.images.load(upload, &platforms, &mut |event| match event {
            LoadEvent::Layer { diff_id, size } if !quiet => {
                let id = diff_id.short();
                say(
                    &sink,
                    &JsonMessage { status: format!("Loaded layer ({size} B)"), id, ..JsonMessage::default() },
                );
            }
            LoadEvent::Layer { .. } => {}
            LoadEvent::Loaded(loaded) => {
                let lines: Vec<String> = if loaded.names.is_empty() {
                    vec![format!("Loaded image ID: {}\n", loaded.image)]
                } else {
                    loaded.names.iter().map(|name| format!("Loaded image: {}\n", name.familiar())).collect()
                };
                for stream in lines {
                    say(&sink, &JsonMessage { stream, ..JsonMessage::default() });
                }
            }
        });
        match result {
            Ok(loaded) => {
                for image in loaded {
                    let id = image.image.to_string();
                    happened(&engine, "load", &id, &id);
                }
            }
            Err(error) => fail(&engine, &sink, &error),
        }
    });
    Ok(answer)
}

/// `docker pull`, and `docker import` with `fromSrc=-`.
pub(crate) async fn create(server: &Server, call: Call) -> Handled {
    if call.query.get("fromImage").is_some_and(|image| !image.is_empty()) {
        return registry::pull(server, &call).await;
    }
    let spec = match import_spec(&call) {
        Ok(spec) => spec,
        Err(refused) => {
            body::drain(call.request.into_body()).await;
            return Err(refused);
        }
    };
    let upload = Upload::new(call.request.into_body());
    let (sink, answer) = body::stream("application/json");
    let engine = Arc::clone(&server.engine);
    tokio::task::spawn_blocking(move || match engine.images.import(upload, &spec) {
        Ok(image) => {
            let id = image.id.to_string();
            happened(&engine, "import", &id, &id);
            say(&sink, &JsonMessage { status: id, ..JsonMessage::default() });
        }
        Err(error) => fail(&engine, &sink, &error),
    });
    Ok(answer)
}

fn import_spec(call: &Call) -> Result<ImportSpec, Refusal> {
    let query = &call.query;
    match query.get("fromSrc") {
        Some("-") => {}
        Some(source) if !source.is_empty() => {
            return Err(Refusal::not_yet(&format!("importing from {source}; send the archive itself")));
        }
        _ => return Err(Refusal::invalid("either fromImage or fromSrc must be given")),
    }
    let repo = query.get("repo").unwrap_or("");
    let reference = match (repo, query.get("tag").filter(|tag| !tag.is_empty())) {
        ("", _) => None,
        (repo, Some(tag)) => Some(format!("{repo}:{tag}")),
        (repo, None) => Some(repo.to_owned()),
    };
    let reference = reference
        .map(|text| Reference::parse(&text))
        .transpose()
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    let platform = query
        .get("platform")
        .filter(|text| !text.is_empty())
        .map(Platform::parse)
        .transpose()
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(ImportSpec {
        reference,
        message: query.get("message").unwrap_or("").to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform,
    })
}

fn save_names(server: &Server, call: &Call, names: Vec<String>) -> Handled {
    let platforms = platform::wanted(call, "platform")?;
    // What is missing is said before the first byte.
    for name in &names {
        server.engine.images.resolve(name)?;
        platform::check(&server.engine, name, &platforms)?;
    }
    let (sink, answer) = body::fallible("application/x-tar");
    let engine = Arc::clone(&server.engine);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(64 * 1024, Download(sink.clone()));
        match engine.images.save(&names, out) {
            // The announced end: without it the archive is cut, and the client's connection with it.
            Ok(()) => sink.blocking_send(Ok(Bytes::new())).unwrap_or(()),
            Err(error) => tracing::warn!(error = chain(&error), "saving images ended early"),
        }
    });
    Ok(answer)
}

pub(crate) async fn save(server: &Server, call: &Call, name: String) -> Handled {
    save_names(server, call, vec![name])
}

pub(crate) async fn save_many(server: &Server, call: &Call) -> Handled {
    let names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Refusal::invalid("no image named: want names=..."));
    }
    save_names(server, call, names)
}
