//! Taking over a connection: from an HTTP request to a raw stream that a shim serves.
//!
//! Invariant: for a plain unix socket client the daemon keeps nothing of the connection; for any other
//! it keeps one copying task that ends with either side.

use std::os::fd::OwnedFd;

use havre_api::{ApiVersion, MULTIPLEXED_STREAM, RAW_STREAM};
use hyper::StatusCode;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::body::{self, Answer};

/// Streams with headers have their own media type since this version.
const MEDIA_TYPES: ApiVersion = ApiVersion::new(1, 42);

/// The answer that lets go of the connection: 101 when the client asked to upgrade, else Docker's 200.
pub(crate) fn answer(request: &Parts, version: ApiVersion, terminal: bool) -> Answer {
    let wants = |name| request.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let upgrades = wants(CONNECTION).is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"))
        && wants(UPGRADE).is_some();
    let kind = if terminal || version < MEDIA_TYPES { RAW_STREAM } else { MULTIPLEXED_STREAM };
    let status = if upgrades { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK };
    let mut answer = body::empty(status);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    }
    answer
}

/// The descriptor that a shim can serve.
pub(crate) async fn descriptor(upgraded: Upgraded) -> std::io::Result<OwnedFd> {
    match upgraded.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) if parts.read_buf.is_empty() => {
            let stream = parts.io.into_inner().into_std()?;
            stream.set_nonblocking(false)?;
            Ok(stream.into())
        }
        // Early bytes, which a descriptor cannot carry: put them in front.
        Ok(parts) => {
            let (ours, theirs) = UnixStream::pair()?;
            let stream = parts.io.into_inner();
            tokio::spawn(async move {
                let early = parts.read_buf;
                copy(Early { early, stream }, ours).await;
            });
            Ok(theirs.into_std()?.into())
        }
        Err(upgraded) => {
            let (ours, theirs) = UnixStream::pair()?;
            tokio::spawn(copy(TokioIo::new(upgraded), ours));
            Ok(theirs.into_std()?.into())
        }
    }
}

async fn copy<S>(mut client: S, mut shim: UnixStream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Either side going away ends the copy; there is nobody to tell.
    tokio::io::copy_bidirectional(&mut client, &mut shim).await.map(drop).unwrap_or(());
}

/// A stream with bytes that were read too early.
struct Early {
    early: bytes::Bytes,
    stream: UnixStream,
}

impl tokio::io::AsyncRead for Early {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.early.is_empty() {
            return std::pin::Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = self.early.len().min(into.remaining());
        into.put_slice(&self.early.split_to(count));
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Early {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
