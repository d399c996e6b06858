//! Taking over a connection: from an HTTP request to a raw stream that a shim serves.
//!
//! A client that asks to upgrade gets the connection itself; one that does not gets the output as the body
//! of its answer, and the body of its request is the input.
//!
//! Invariant: for a plain unix socket client that upgrades the daemon keeps nothing of the connection; for
//! any other it keeps one copying task that ends with either side.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use havre_api::{ApiVersion, MULTIPLEXED_STREAM, RAW_STREAM};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::Server;
use crate::body::{self, Answer, Sink};

/// Streams with headers have their own media type since this version.
const MEDIA_TYPES: ApiVersion = ApiVersion::new(1, 42);
/// Bytes copied at once between a client and its shim.
const PIECE: usize = 16 * 1024;
/// How long a client may take to hear that its session has ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// A client that was promised a stream.
pub(crate) enum Client {
    /// The connection is ours when the answer has been sent.
    Upgrading(OnUpgrade),
    /// The stream is the answer's body.
    Streaming(OwnedFd),
}

impl Client {
    /// The descriptor that a shim can serve.
    pub(crate) async fn descriptor(self, server: &Server) -> io::Result<OwnedFd> {
        match self {
            Self::Upgrading(upgrade) => descriptor(server, upgrade.await.map_err(io::Error::other)?).await,
            Self::Streaming(descriptor) => Ok(descriptor),
        }
    }
}

/// Promises a stream: 101 when the client asked to upgrade, else 200 and the stream as a body. `input` is the
/// request's body, unless it was something else.
pub(crate) fn promise(
    head: &Parts,
    upgrade: OnUpgrade,
    input: Option<Incoming>,
    version: ApiVersion,
    terminal: bool,
) -> io::Result<(Answer, Client)> {
    let wants = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let upgrades = wants(CONNECTION).is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"))
        && wants(UPGRADE).is_some();
    let kind = if terminal || version < MEDIA_TYPES { RAW_STREAM } else { MULTIPLEXED_STREAM };
    if !upgrades {
        let (ours, theirs) = pair()?;
        let (sink, answer) = body::stream(kind);
        tokio::spawn(carry(input, ours, sink));
        return Ok((answer, Client::Streaming(theirs)));
    }
    let mut answer = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    Ok((answer, Client::Upgrading(upgrade)))
}

/// A socket of ours and its other end, as a shim takes it.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    Ok((ours, theirs.into()))
}

/// Carries a request's body to the shim and the shim's output into the answer's, until the output or the
/// client ends.
async fn carry(input: Option<Incoming>, shim: UnixStream, sink: Sink) {
    let (mut from_shim, mut to_shim) = shim.into_split();
    let inward = async {
        // A request without a body says nothing about the input, so it does not end it.
        let Some(mut input) = input.filter(|body| !body.is_end_stream()) else { return };
        while let Some(Ok(frame)) = input.frame().await {
            let Ok(piece) = frame.into_data() else { continue };
            if to_shim.write_all(&piece).await.is_err() {
                return;
            }
        }
        to_shim.shutdown().await.unwrap_or(());
    };
    let outward = async {
        let mut output = vec![0; PIECE];
        loop {
            let count = from_shim.read(&mut output).await.unwrap_or(0);
            let Some(piece) = output.get(..count).filter(|piece| !piece.is_empty()) else { return };
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        inward.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = sink.closed() => {}
    }
}

/// The descriptor that a shim can serve.
async fn descriptor(server: &Server, upgraded: Upgraded) -> io::Result<OwnedFd> {
    match upgraded.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) if parts.read_buf.is_empty() => {
            let stream = parts.io.into_inner().into_std()?;
            stream.set_nonblocking(false)?;
            Ok(stream.into())
        }
        // Early bytes, which a descriptor cannot carry, go in front.
        Ok(parts) => bridge(server, parts.read_buf, parts.io.into_inner()),
        // Not the kernel's stream: TLS, or TCP, of which the shim knows nothing.
        Err(upgraded) => bridge(server, Bytes::new(), TokioIo::new(upgraded)),
    }
}

/// A socket whose other end is copied from and to the client by a task.
fn bridge<S>(server: &Server, early: Bytes, client: S) -> io::Result<OwnedFd>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ours, theirs) = pair()?;
    let closing = server.until_closing();
    tokio::spawn(async move { pump(early, client, ours, closing).await });
    Ok(theirs)
}

/// Copies both ways, each until its own end. The end of the shim's output is the end of the session; the
/// end of the client's input is not, and neither is a container that reads no more.
async fn pump<S>(early: Bytes, client: S, shim: UnixStream, closing: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_shim, mut to_shim) = shim.into_split();
    let input = async {
        if to_shim.write_all(&early).await.is_ok() {
            let gone = matches!(copy(&mut from_client, &mut to_shim).await, Err(Side::From));
            if gone {
                return;
            }
        }
        to_shim.shutdown().await.unwrap_or(());
        // Only the output decides from here.
        std::future::pending().await
    };
    let output = async {
        let copied = copy(&mut from_shim, &mut to_client).await;
        drop(copied);
    };
    tokio::select! {
        () = input => {}
        () = output => {}
        () = closing => {}
    }
    // For TLS this says that the end is an end and no cut; a client that is gone need not hear it.
    tokio::time::timeout(FAREWELL, to_client.shutdown()).await.map(drop).unwrap_or(());
}

/// Which side of a copy failed.
enum Side {
    From,
    To,
}

async fn copy<R, W>(from: &mut R, to: &mut W) -> Result<(), Side>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; PIECE];
    loop {
        let count = from.read(&mut buffer).await.map_err(|_| Side::From)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        to.write_all(piece).await.map_err(|_| Side::To)?;
        to.flush().await.map_err(|_| Side::To)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    /// A client, and the shim's end, of a running pump.
    fn running(
        early: &'static [u8],
    ) -> (tokio::io::DuplexStream, UnixStream, tokio::sync::oneshot::Sender<()>) {
        let (client, server) = tokio::io::duplex(64);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (close, closing) = tokio::sync::oneshot::channel();
        let closing = async move { closing.await.unwrap_or(()) };
        tokio::spawn(async move { pump(Bytes::from_static(early), server, ours, closing).await });
        (client, theirs, close)
    }

    #[tokio::test]
    async fn the_end_of_input_leaves_the_output_open() {
        let (mut client, mut shim, _close) = running(b"early ");
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut input = String::new();
        shim.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "early late");
        shim.write_all(b"answer").await.unwrap();
        drop(shim);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "answer");
    }

    #[tokio::test]
    async fn a_container_that_reads_no_more_still_speaks() {
        let (mut client, shim, _close) = running(b"");
        let (read, mut write) = shim.into_split();
        // Nobody reads the input any more.
        let read = read.as_ref().as_fd().try_clone_to_owned().unwrap();
        std::os::unix::net::UnixStream::from(read).shutdown(std::net::Shutdown::Read).unwrap();
        client.write_all(b"for nobody").await.unwrap();
        write.write_all(b"still here").await.unwrap();
        drop(write);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "still here");
    }

    #[tokio::test]
    async fn a_closing_server_ends_the_session() {
        let (mut client, _shim, close) = running(b"");
        close.send(()).unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "");
    }
}
