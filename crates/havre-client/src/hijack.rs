//! Connections that have become raw streams.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use havre_api::MULTIPLEXED_STREAM;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::error::ClientError;

/// A blocking socket; input and output are copied by threads of their own, so that a slow terminal
/// never delays signals.
pub enum Socket {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Socket {
    /// A second handle to the same stream.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(false),
            Self::Tcp(stream) => stream.set_nonblocking(false),
        }
    }

    /// Says that no more input comes; output still does.
    pub fn close_write(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose other end is copied from and to the daemon by a task.
pub(crate) fn bridge<S>(stream: S) -> io::Result<Socket>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (ours, theirs) = tokio::net::UnixStream::pair()?;
    let (mut from_daemon, mut to_daemon) = tokio::io::split(stream);
    let (mut from_us, mut to_us) = ours.into_split();
    // Each half ends with its source, and nobody hears of a failure but by the end of the other stream.
    tokio::spawn(async move {
        tokio::io::copy(&mut from_us, &mut to_daemon).await.map(drop).unwrap_or(());
        to_daemon.shutdown().await.unwrap_or(());
    });
    tokio::spawn(async move {
        tokio::io::copy(&mut from_daemon, &mut to_us).await.map(drop).unwrap_or(());
        to_us.shutdown().await.unwrap_or(());
    });
    theirs.into_std().map(Socket::Unix)
}

/// A hijacked connection.
pub struct Hijacked {
    /// The stream.
    pub socket: Socket,
    /// What had arrived behind the answer's head already.
    pub early: Bytes,
    /// Whether the daemon said that output comes in frames; `None` when it did not say.
    pub multiplexed: Option<bool>,
}

impl Hijacked {
    pub(crate) async fn from_response(response: Response<Incoming>) -> Result<Self, ClientError> {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        // Daemons before API 1.42 say `raw-stream` for both.
        let multiplexed = kind.and_then(|kind| (kind == MULTIPLEXED_STREAM).then_some(true));
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::Transport)?;
        let (socket, early) = match upgraded.downcast::<TokioIo<tokio::net::UnixStream>>() {
            Ok(parts) => (parts.io.into_inner().into_std().map(Socket::Unix), parts.read_buf),
            Err(upgraded) => match upgraded.downcast::<TokioIo<tokio::net::TcpStream>>() {
                Ok(parts) => (parts.io.into_inner().into_std().map(Socket::Tcp), parts.read_buf),
                // Not the kernel's stream: a task decrypts it into one that is.
                Err(upgraded) => (bridge(TokioIo::new(upgraded)), Bytes::new()),
            },
        };
        let socket = socket.map_err(ClientError::Stream)?;
        socket.set_blocking().map_err(ClientError::Stream)?;
        Ok(Self { socket, early, multiplexed })
    }
}
