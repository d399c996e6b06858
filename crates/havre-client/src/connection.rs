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

/// A connection on which one request at a time is sent.
pub(crate) struct Connection(SendRequest<Body>);

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let refused = |source| ClientError::Connect { endpoint: endpoint.to_string(), source };
        match endpoint {
            Endpoint::Unix(path) => Self::start(UnixStream::connect(path).await.map_err(refused)?).await,
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await.map_err(refused)?;
                stream.set_nodelay(true).map_err(refused)?;
                Self::start(stream).await
            }
        }
    }

    async fn start<S>(stream: S) -> Result<Self, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Transport)?;
        // The driver ends when its sender is dropped or the peer closes; its errors reach the sender.
        tokio::spawn(async move { driver.with_upgrades().await.ok() });
        Ok(Self(sender))
    }

    /// Sends one request. A request that never left comes back beside the error.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Body>>)> {
        if let Err(error) = self.0.ready().await {
            return Err((error, Some(request)));
        }
        self.0.try_send_request(request).await.map_err(|mut error| {
            let request = error.take_message();
            (error.into_error(), request)
        })
    }
}
