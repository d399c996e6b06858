//! Requests about containers and execs.

use havre_api::container::{
    Checkpoint, CheckpointRequest, ContainerInspect, ContainerSummary, CreateRequest, CreateResponse,
    PruneResponse, TopResponse, UpdateResponse, WaitResponse,
};
use havre_api::exec::{ExecCreateRequest, ExecInspect, ExecStartRequest};
use havre_api::host::Resources;
use havre_api::{Filters, IdResponse};
use hyper::Method;

use crate::{Answer, Client, ClientError, Hijacked, Query};

/// What to attach.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Send input.
    pub stdin: bool,
    /// Receive output.
    pub stdout: bool,
    /// Receive errors.
    pub stderr: bool,
    /// Receive what was logged before.
    pub logs: bool,
    /// The keys that detach, empty for the daemon's default.
    pub detach_keys: String,
}

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Wait for more.
    pub follow: bool,
    /// Lines from then on (seconds since the epoch, with fraction).
    pub since: String,
    /// Lines before then.
    pub until: String,
    /// With the time of each line.
    pub timestamps: bool,
    /// The last lines only; a number or `all`.
    pub tail: String,
    /// With the attributes that the logging options name.
    pub details: bool,
}

/// A wait that the daemon has taken on.
pub struct Waiting<'a>(Answer<'a>);

impl Waiting<'_> {
    /// The exit, once it happens.
    pub async fn exit(self) -> Result<WaitResponse, ClientError> {
        let bytes = self.0.bytes().await?;
        serde_json::from_slice(&bytes).map_err(ClientError::Decode)
    }
}

impl Client {
    /// Why a container is as it is: an endpoint that only Havre has. The answer as the daemon sent it.
    pub async fn why(&self, container: &str) -> Result<Box<serde_json::value::RawValue>, ClientError> {
        self.get(&Query::of("/containers/", container, "/why")).await
    }

    /// Creates a container.
    pub async fn create(
        &self,
        name: &str,
        platform: &str,
        request: &CreateRequest,
    ) -> Result<CreateResponse, ClientError> {
        let query = Query::new("/containers/create").with_some("name", name).with_some("platform", platform);
        self.json(Method::POST, &query, Some(request)).await
    }

    /// Starts a container.
    pub async fn start(&self, id: &str, detach_keys: &str) -> Result<(), ClientError> {
        let query = Query::of("/containers/", id, "/start").with_some("detachKeys", detach_keys);
        self.call(Method::POST, &query).await
    }

    /// Starts a container from a checkpoint.
    pub async fn start_from(&self, id: &str, checkpoint: &str, folder: &str) -> Result<(), ClientError> {
        let query = Query::of("/containers/", id, "/start")
            .with_some("checkpoint", checkpoint)
            .with_some("checkpoint-dir", folder);
        self.call(Method::POST, &query).await
    }

    /// The use of resources: once, or again and again.
    pub async fn stats(&self, id: &str, stream: bool) -> Result<Answer<'_>, ClientError> {
        let query = Query::of("/containers/", id, "/stats").with("stream", if stream { "1" } else { "0" });
        self.request(Method::GET, &query, None::<&()>).await
    }

    /// Makes a checkpoint.
    pub async fn create_checkpoint(&self, id: &str, request: &CheckpointRequest) -> Result<(), ClientError> {
        let path = Query::of("/containers/", id, "/checkpoints");
        self.request(Method::POST, &path, Some(request)).await?.bytes().await.map(drop)
    }

    /// The checkpoints of a container.
    pub async fn checkpoints(&self, id: &str, folder: &str) -> Result<Vec<Checkpoint>, ClientError> {
        let listed: Option<_> =
            self.get(&Query::of("/containers/", id, "/checkpoints").with_some("dir", folder)).await?;
        Ok(listed.unwrap_or_default())
    }

    /// Removes a checkpoint.
    pub async fn remove_checkpoint(&self, id: &str, name: &str, folder: &str) -> Result<(), ClientError> {
        let container = Query::of("/containers/", id, "/checkpoints/");
        let path = Query::of(container.as_str(), name, "").with_some("dir", folder);
        self.call(Method::DELETE, &path).await
    }

    /// Stops a container: `signal` empty for its own, `seconds` `None` for its own.
    pub async fn stop(&self, id: &str, signal: &str, seconds: Option<i64>) -> Result<(), ClientError> {
        self.end(id, "/stop", signal, seconds).await
    }

    /// Stops and starts a container.
    pub async fn restart(&self, id: &str, signal: &str, seconds: Option<i64>) -> Result<(), ClientError> {
        self.end(id, "/restart", signal, seconds).await
    }

    async fn end(&self, id: &str, how: &str, signal: &str, seconds: Option<i64>) -> Result<(), ClientError> {
        let mut query = Query::of("/containers/", id, how).with_some("signal", signal);
        if let Some(seconds) = seconds {
            query = query.with("t", &seconds.to_string());
        }
        self.call(Method::POST, &query).await
    }

    /// Sends a signal.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), ClientError> {
        self.call(Method::POST, &Query::of("/containers/", id, "/kill").with_some("signal", signal)).await
    }

    /// Freezes a container.
    pub async fn pause(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::POST, &Query::of("/containers/", id, "/pause")).await
    }

    /// Thaws a container.
    pub async fn unpause(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::POST, &Query::of("/containers/", id, "/unpause")).await
    }

    /// Gives a container another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), ClientError> {
        self.call(Method::POST, &Query::of("/containers/", id, "/rename").with("name", name)).await
    }

    /// Removes a container.
    pub async fn remove(&self, id: &str, force: bool, volumes: bool, link: bool) -> Result<(), ClientError> {
        let query =
            Query::of("/containers/", id, "").flag("force", force).flag("v", volumes).flag("link", link);
        self.call(Method::DELETE, &query).await
    }

    /// Registers a wait; when this returns, no later exit is missed.
    pub async fn wait(&self, id: &str, condition: &str) -> Result<Waiting<'_>, ClientError> {
        let query = Query::of("/containers/", id, "/wait").with_some("condition", condition);
        self.request(Method::POST, &query, None::<&()>).await.map(Waiting)
    }

    /// Attaches to a container's streams.
    pub async fn attach(&self, id: &str, options: &AttachOptions) -> Result<Hijacked, ClientError> {
        let query = Query::of("/containers/", id, "/attach")
            .with("stream", "1")
            .flag("stdin", options.stdin)
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr)
            .flag("logs", options.logs)
            .with_some("detachKeys", &options.detach_keys);
        self.hijack(&query, None::<&()>).await
    }

    /// Tells the size of the terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), ClientError> {
        self.call(Method::POST, &sized(Query::of("/containers/", id, "/resize"), rows, columns)).await
    }

    /// Lists containers; `limit` 0 for all.
    pub async fn list(
        &self,
        all: bool,
        limit: usize,
        size: bool,
        filters: &Filters,
    ) -> Result<Vec<ContainerSummary>, ClientError> {
        let mut query = Query::new("/containers/json").flag("all", all).flag("size", size);
        if limit > 0 {
            query = query.with("limit", &limit.to_string());
        }
        if !filters.is_empty() {
            query = query.with("filters", &filters.encode());
        }
        self.get(&query).await
    }

    /// Describes a container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerInspect, ClientError> {
        self.get(&Query::of("/containers/", id, "/json")).await
    }

    /// The container's log as a stream of frames, or raw when it has a terminal.
    pub async fn logs(&self, id: &str, options: &LogsOptions) -> Result<Answer<'_>, ClientError> {
        let query = Query::of("/containers/", id, "/logs")
            .with("stdout", "1")
            .with("stderr", "1")
            .flag("follow", options.follow)
            .flag("timestamps", options.timestamps)
            .flag("details", options.details)
            .with_some("since", &options.since)
            .with_some("until", &options.until)
            .with_some("tail", &options.tail);
        self.request(Method::GET, &query, None::<&()>).await
    }

    /// The processes of a container.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<TopResponse, ClientError> {
        self.get(&Query::of("/containers/", id, "/top").with_some("ps_args", ps_args)).await
    }

    /// Changes limits.
    pub async fn update(&self, id: &str, resources: &Resources) -> Result<UpdateResponse, ClientError> {
        self.json(Method::POST, &Query::of("/containers/", id, "/update"), Some(resources)).await
    }

    /// Removes stopped containers.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<PruneResponse, ClientError> {
        let query = Query::new("/containers/prune").with("filters", &filters.encode());
        self.json(Method::POST, &query, None::<&()>).await
    }

    /// Prepares a command in a running container.
    pub async fn create_exec(
        &self,
        container: &str,
        request: &ExecCreateRequest,
    ) -> Result<String, ClientError> {
        let path = Query::of("/containers/", container, "/exec");
        let response: IdResponse = self.json(Method::POST, &path, Some(request)).await?;
        Ok(response.id)
    }

    /// Runs a prepared command and attaches to it.
    pub async fn start_exec(&self, id: &str, request: &ExecStartRequest) -> Result<Hijacked, ClientError> {
        self.hijack(&Query::of("/exec/", id, "/start"), Some(request)).await
    }

    /// Runs a prepared command in the background.
    pub async fn start_exec_detached(&self, id: &str, request: &ExecStartRequest) -> Result<(), ClientError> {
        let path = Query::of("/exec/", id, "/start");
        self.request(Method::POST, &path, Some(request)).await?.bytes().await.map(drop)
    }

    /// Tells the size of an exec's terminal.
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<(), ClientError> {
        self.call(Method::POST, &sized(Query::of("/exec/", id, "/resize"), rows, columns)).await
    }

    /// Describes an exec.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspect, ClientError> {
        self.get(&Query::of("/exec/", id, "/json")).await
    }
}

fn sized(query: Query, rows: u16, columns: u16) -> Query {
    query.with("h", &rows.to_string()).with("w", &columns.to_string())
}
