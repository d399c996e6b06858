//! The Engine API from the caller's side: over a unix socket, TCP with or without TLS, or ssh; one request after another on a
//! connection that is kept.
//!
//! Invariants: everything runs on one thread (the caller's current-thread runtime); a connection is
//! reused only after its answer was read to the end; an error carries the daemon's own message.
//! Not here: anything printed.

mod archive;
mod connection;
mod containers;
mod endpoint;
mod error;
mod hijack;
mod images;
mod networks;
mod query;
mod registry;
mod ssh;
mod stream;
mod system;

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use havre_api::ApiVersion;
use http_body_util::{BodyExt, Full};
pub use hyper::Method;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use archive::CommitOptions;
pub use connection::{Body, RequestBody};
use connection::{Connection, Way};
pub use containers::{AttachOptions, LogsOptions, Waiting};
pub use endpoint::{Endpoint, InvalidEndpoint, Remote};
pub use error::ClientError;
pub use havre_tls::{InvalidKeys, Tls};
pub use hijack::{Hijacked, Socket};
pub use images::Progress;
pub use query::Query;
pub use stream::{Demultiplexer, JsonLines, StreamKind};

/// How many times a version may be lowered before the refusal is reported.
const NEGOTIATIONS: usize = 2;

/// A client of one daemon.
pub struct Client {
    way: Way,
    /// Headers that the user wants in every request.
    headers: Vec<(HeaderName, HeaderValue)>,
    version: Cell<ApiVersion>,
    /// Whether the daemon has accepted `version`, or it was fixed by the user.
    settled: Cell<bool>,
    idle: RefCell<Vec<Connection>>,
}

impl Client {
    /// A client that starts with `version`; unless `fixed`, the daemon may lower or raise it.
    #[must_use]
    pub fn new(endpoint: Endpoint, version: ApiVersion, fixed: bool) -> Self {
        Self {
            way: Way { endpoint, tls: None, program: "havre".to_owned() },
            headers: Vec::new(),
            version: Cell::new(version),
            settled: Cell::new(fixed),
            idle: RefCell::default(),
        }
    }

    /// The same client with keys for its connections.
    pub fn with_tls(mut self, tls: &Tls) -> Result<Self, ClientError> {
        self.way.tls = Some(tls.connector()?);
        Ok(self)
    }

    /// The same client, called by a name: over ssh it looks for a program of that name first.
    #[must_use]
    pub fn called(mut self, program: &str) -> Self {
        program.clone_into(&mut self.way.program);
        self
    }

    /// The same client with headers in every request.
    pub fn with_headers<'a>(
        mut self,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ClientError> {
        for (name, value) in headers {
            let name = HeaderName::try_from(name).map_err(|error| ClientError::Request(error.into()))?;
            let value = HeaderValue::try_from(value).map_err(|error| ClientError::Request(error.into()))?;
            self.headers.push((name, value));
        }
        Ok(self)
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.way.endpoint
    }

    /// The API version in use.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        self.version.get()
    }

    /// Opens connections beforehand, so that later requests find them ready.
    pub async fn prepare(&self, count: usize) -> Result<(), ClientError> {
        while self.idle.borrow().len() < count {
            let connection = Connection::open(&self.way).await?;
            self.idle.borrow_mut().push(connection);
        }
        Ok(())
    }

    /// The bare stream to the daemon, for somebody else to speak on.
    pub async fn dial(&self) -> Result<Socket, ClientError> {
        self.way.dial().await
    }

    /// Asks the daemon for its version, unless one is settled already.
    pub async fn negotiate(&self) -> Result<(), ClientError> {
        if self.settled.get() {
            return Ok(());
        }
        let request = self.build(Method::GET, "/_ping", None, Body::Empty, false)?;
        let (response, connection) = self.send_raw(request).await?;
        let offered = response
            .headers()
            .get("api-version")
            .and_then(|value| value.to_str().ok())
            .and_then(ApiVersion::parse);
        Answer { client: self, response, connection }.bytes().await?;
        if let Some(offered) = offered {
            self.version.set(self.version.get().min(offered));
        }
        self.settled.set(true);
        Ok(())
    }

    /// Sends a request and returns the answer if its status says success.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content: Option<&impl Serialize>,
    ) -> Result<Answer<'_>, ClientError> {
        let body = match content {
            Some(value) => Bytes::from(serde_json::to_vec(value).map_err(ClientError::Encode)?),
            None => Bytes::new(),
        };
        let kind = content.map(|_| "application/json");
        for _ in 0..=NEGOTIATIONS {
            let body = if body.is_empty() { Body::Empty } else { Body::Whole(Full::new(body.clone())) };
            let request = self.build(method.clone(), path, kind, body, true)?;
            let (response, connection) = self.send_raw(request).await?;
            match self.accept(response, connection).await {
                Err(ClientError::Api { status: 400, message, .. }) if self.lower(&message) => {}
                other => return other,
            }
        }
        Err(ClientError::Version)
    }

    /// Sends a request without a body and with one more header; the version is settled before.
    async fn request_with(
        &self,
        method: Method,
        path: &str,
        (name, value): &(HeaderName, HeaderValue),
    ) -> Result<Answer<'_>, ClientError> {
        self.negotiate().await?;
        let mut request = self.build(method, path, None, Body::Empty, true)?;
        request.headers_mut().insert(name, value.clone());
        let (response, connection) = self.send_raw(request).await?;
        self.accept(response, connection).await
    }

    /// Sends a request with a body that is produced while it is sent; the version is settled before.
    pub async fn upload(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
    ) -> Result<Answer<'_>, ClientError> {
        self.negotiate().await?;
        let request = self.build(method, path, Some("application/x-tar"), Body::Stream(body), true)?;
        let (response, connection) = self.send_raw(request).await?;
        self.accept(response, connection).await
    }

    /// Sends a request and reads the answer as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let bytes = self.request(method, path, content).await?.bytes().await?;
        serde_json::from_slice(&bytes).map_err(ClientError::Decode)
    }

    /// Reads the answer of a `GET` as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, None::<&()>).await
    }

    /// Sends a request without a body whose answer says nothing.
    pub async fn call(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.request(method, path, None::<&()>).await?.bytes().await.map(drop)
    }

    /// Turns a connection into a raw stream (attach, exec).
    pub async fn hijack(
        &self,
        path: &str,
        content: Option<&impl Serialize>,
    ) -> Result<Hijacked, ClientError> {
        let body = match content {
            Some(value) => Bytes::from(serde_json::to_vec(value).map_err(ClientError::Encode)?),
            None => Bytes::new(),
        };
        for _ in 0..=NEGOTIATIONS {
            let body = if body.is_empty() { Body::Empty } else { Body::Whole(Full::new(body.clone())) };
            let mut request = self.build(Method::POST, path, Some("application/json"), body, true)?;
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            request.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
            let (response, connection) = self.send_raw(request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                self.settled.set(true);
                return Hijacked::from_response(response).await;
            }
            match self.accept(response, connection).await {
                Ok(_) => return Err(ClientError::NotUpgraded),
                Err(ClientError::Api { status: 400, message, .. }) if self.lower(&message) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ClientError::Version)
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        kind: Option<&'static str>,
        body: Body,
        versioned: bool,
    ) -> Result<Request<Body>, ClientError> {
        // `/containers//name` is one by the name that inspection shows, `/containers//json` has none.
        let unnamed = path.strip_prefix("/containers//").and_then(|rest| rest.split('?').next());
        if method != Method::DELETE && unnamed.is_some_and(|rest| !rest.contains('/')) {
            return Err(ClientError::NoName);
        }
        let target = if versioned { format!("/v{}{path}", self.version.get()) } else { path.to_owned() };
        let mut builder =
            Request::builder().method(method).uri(target).header(HOST, self.way.endpoint.host_header());
        if let Some(kind) = kind {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        builder.body(body).map_err(ClientError::Request)
    }

    /// Sends on a kept connection, or on a new one when the kept one turns out to be closed.
    async fn send_raw(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<hyper::body::Incoming>, Connection), ClientError> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&self.way).await?,
            };
            // A kept connection may close while the request is on its way; asking again changes nothing.
            let spare = (!fresh && request.method() == Method::GET).then(|| copy(&request));
            match connection.send(request).await {
                Ok(response) => return Ok((response, connection)),
                Err((error, returned)) => match returned.filter(|_| !fresh).or(spare) {
                    Some(again) => request = again,
                    None => return Err(connection.broken(&self.way, error)),
                },
            }
        }
    }

    async fn accept(
        &self,
        response: Response<hyper::body::Incoming>,
        connection: Connection,
    ) -> Result<Answer<'_>, ClientError> {
        let status = response.status();
        let answer = Answer { client: self, response, connection };
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            self.settled.set(true);
            return Ok(answer);
        }
        let bytes = answer.bytes().await?;
        Err(error::from_answer(status, &bytes))
    }

    /// Adopts the version that a refusal names; false when the refusal is about something else.
    fn lower(&self, message: &str) -> bool {
        if self.settled.get() {
            return false;
        }
        let limit = ["Maximum supported API version is ", "Minimum supported API version is "]
            .iter()
            .find_map(|words| message.split_once(words))
            .and_then(|(_, rest)| {
                ApiVersion::parse(rest.split([',', ' ', '\n']).next().unwrap_or(rest).trim_end_matches('.'))
            });
        limit.is_some_and(|limit| self.version.replace(limit) != limit)
    }
}

/// The same request again, without a body.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// A successful answer whose body has not been read yet.
pub struct Answer<'a> {
    client: &'a Client,
    response: Response<hyper::body::Incoming>,
    connection: Connection,
}

impl Answer<'_> {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The whole body; the connection can be used again afterwards.
    pub async fn bytes(self) -> Result<Bytes, ClientError> {
        let collected = self.response.into_body().collect().await.map_err(ClientError::Transport)?;
        self.client.idle.borrow_mut().push(self.connection);
        Ok(collected.to_bytes())
    }

    /// The next piece of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame.map_err(ClientError::Transport)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
