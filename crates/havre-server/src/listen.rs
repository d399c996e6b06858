//! Accepting connections: unix sockets, TCP, and TCP with TLS, within limits.
//!
//! Invariants: a connection counts against its limit until its last request was answered; a client that
//! has not proved who it is (TLS) counts against a limit of its own, so strangers keep no place of a
//! known client; a client that sends its request slower than the limit allows is let go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Either;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::hangup::Hangup;
use crate::{Server, router};

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once that have not finished their TLS handshake.
    pub handshakes: usize,
    /// The longest time between a connection's start, or its last answer, and a request's whole head.
    pub head_time: Duration,
    /// The longest time of a TLS handshake.
    pub handshake_time: Duration,
    /// The largest head of a request, in bytes.
    pub head_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshakes: 128,
            head_time: Duration::from_secs(60),
            handshake_time: Duration::from_secs(10),
            head_size: 256 * 1024,
        }
    }
}

/// How a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket, whose permissions say who may connect.
    Unix,
    /// Without encryption or identity.
    Tcp(SocketAddr),
    /// Encrypted; whether the client proved who it is depends on the configuration.
    Tls(SocketAddr),
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Tcp(peer) => write!(f, "tcp {peer}"),
            Self::Tls(peer) => write!(f, "tls {peer}"),
        }
    }
}

/// What a client gets that speaks HTTP where TLS is spoken; the words are those of Go's server.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

impl Server {
    /// Serves a unix socket until the task is dropped.
    pub async fn serve_unix(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let hangup = Hangup::of(&stream, Transport::Unix);
                    self.spawn(stream, Transport::Unix, hangup).await;
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Serves a TCP socket until the task is dropped.
    pub async fn serve_tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    stream.set_nodelay(true).unwrap_or(());
                    let hangup = Hangup::of(&stream, Transport::Tcp(peer));
                    self.spawn(stream, Transport::Tcp(peer), hangup).await;
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Serves a TCP socket with TLS until the task is dropped.
    pub async fn serve_tls(self, listener: TcpListener, config: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(config);
        loop {
            let Ok(handshake) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    accept_failed(&error).await;
                    continue;
                }
            };
            stream.set_nodelay(true).unwrap_or(());
            let (server, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                let time = server.limits.handshake_time;
                let hangup = Hangup::of(&stream, Transport::Tls(peer));
                match tokio::time::timeout(time, greet(&acceptor, stream)).await {
                    Ok(Ok(stream)) => {
                        drop(handshake);
                        server.spawn(stream, Transport::Tls(peer), hangup).await;
                    }
                    Ok(Err(error)) => {
                        server.traffic.refused();
                        tracing::warn!(%peer, error = havre_base::chain(&error), "TLS handshake failed");
                    }
                    Err(_) => {
                        server.traffic.refused();
                        tracing::warn!(%peer, "TLS handshake took too long");
                    }
                }
            });
        }
    }

    /// Serves a connection in a task of its own, as soon as there is room for one more.
    async fn spawn<S>(&self, stream: S, transport: Transport, hangup: Hangup)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else { return };
        let server = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let _counted = server.traffic.connected();
            server.serve(stream, transport, hangup).await;
        });
    }

    async fn serve<S>(&self, stream: S, transport: Transport, hangup: Hangup)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = hyper::service::service_fn(move |request| {
            let (server, hangup) = (self.clone(), hangup.clone());
            async move {
                let mut answer = router::answer(&server, transport, request).await;
                if let Either::Right(stream) = answer.body_mut() {
                    stream.until(hangup.gone());
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_time)
            .max_buf_size(self.limits.head_size)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.until_closing() => {
                // The request that is being answered is the last one.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%transport, %error, "connection ended");
        }
    }
}

/// The TLS handshake; a client that does not speak TLS is told so.
async fn greet(
    acceptor: &TlsAcceptor,
    mut stream: TcpStream,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
        stream.write_all(NOT_TLS).await?;
        stream.shutdown().await?;
        return Err(std::io::Error::other("the client does not speak TLS"));
    }
    acceptor.accept(stream).await
}

/// Out of descriptors, most likely: others must close first.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
