//! One HTTP/1.1 connection and the bodies that travel on it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::hijack::{self, Socket};
use crate::ssh::Ssh;
use havre_tls::{self as tls, Connector};

/// Pieces of a body, produced by another thread or task; the channel is bounded, so a slow daemon
/// slows the producer down.
pub type RequestBody = tokio::sync::mpsc::Receiver<Result<Bytes, std::io::Error>>;

/// The body of a request.
pub enum Body {
    /// None.
    Empty,
    /// All of it.
    Whole(Full<Bytes>),
    /// Produced while it is sent.
    Stream(RequestBody),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(full) => Pin::new(full)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Stream(receiver) => {
                receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(full) => full.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(full) => full.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// How a daemon is reached: its address, and what goes with it.
pub(crate) struct Way {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Option<Connector>,
    /// What we are called, which decides the program on another machine.
    pub(crate) program: String,
}

/// A connection on which one request at a time is sent.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    ssh: Option<Ssh>,
}

impl Connection {
    pub(crate) async fn open(way: &Way) -> Result<Self, ClientError> {
        let endpoint = &way.endpoint;
        let refused = |source| ClientError::Connect { endpoint: endpoint.to_string(), source };
        match endpoint {
            Endpoint::Unix(path) => {
                Self::start(UnixStream::connect(path).await.map_err(refused)?, None).await
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await.map_err(refused)?;
                stream.set_nodelay(true).map_err(refused)?;
                match &way.tls {
                    None => Self::start(stream, None).await,
                    Some(tls) => {
                        let stream =
                            tls.connect(address, stream).await.map_err(|error| way.distrust(error))?;
                        Self::start(stream, None).await
                    }
                }
            }
            Endpoint::Ssh(remote) => {
                let (stream, ssh) =
                    remote.connect(&way.program).map_err(|error| ClientError::Ssh(error.to_string()))?;
                stream.set_nonblocking(true).map_err(refused)?;
                Self::start(UnixStream::from_std(stream).map_err(refused)?, Some(ssh)).await
            }
        }
    }

    async fn start<S>(stream: S, ssh: Option<Ssh>) -> Result<Self, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Transport)?;
        // The driver ends when its sender is dropped or the peer closes; its errors reach the sender.
        tokio::spawn(async move { driver.with_upgrades().await.ok() });
        Ok(Self { sender, ssh })
    }

    /// Sends one request. A request that never left comes back beside the error.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Body>>)> {
        if let Err(error) = self.sender.ready().await {
            return Err((error, Some(request)));
        }
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let request = error.take_message();
            (error.into_error(), request)
        })
    }

    /// What a user is told when a request got no answer.
    pub(crate) fn broken(&self, way: &Way, error: hyper::Error) -> ClientError {
        if let Some(reason) = self.ssh.as_ref().and_then(Ssh::reason) {
            return ClientError::Ssh(reason);
        }
        match tls::reason(&error) {
            Some(reason) => ClientError::Tls { endpoint: way.endpoint.to_string(), reason },
            None => ClientError::Transport(error),
        }
    }
}

impl Way {
    /// The bare stream to the daemon, before anybody speaks HTTP on it.
    pub(crate) async fn dial(&self) -> Result<Socket, ClientError> {
        let refused = |source| ClientError::Connect { endpoint: self.endpoint.to_string(), source };
        let socket = match &self.endpoint {
            Endpoint::Unix(path) => {
                UnixStream::connect(path).await.and_then(UnixStream::into_std).map(Socket::Unix)
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await.map_err(refused)?;
                match &self.tls {
                    None => stream.into_std().map(Socket::Tcp),
                    Some(tls) => hijack::bridge(
                        tls.connect(address, stream).await.map_err(|error| self.distrust(error))?,
                    ),
                }
            }
            Endpoint::Ssh(remote) => remote.connect(&self.program).map(|(stream, _)| Socket::Unix(stream)),
        };
        let socket = socket.map_err(refused)?;
        socket.set_blocking().map_err(refused)?;
        Ok(socket)
    }

    fn distrust(&self, error: std::io::Error) -> ClientError {
        let reason = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the daemon ended the TLS handshake".to_owned(),
            _ => tls::reason(&error).unwrap_or_else(|| error.to_string()),
        };
        ClientError::Tls { endpoint: self.endpoint.to_string(), reason }
    }
}
