//! Blobs to a registry: mounted from where it has them, in one request when they are small, else as a stream that goes on
//! where it broke off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use havre_oci::{Digest, Reference};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Response, StatusCode, header};
use tokio::sync::mpsc;

use crate::address::Endpoint;
use crate::auth::encoded;
use crate::http::{self, Ask};
use crate::repository::{Repository, anywhere};
use crate::{RegistryError, Result};

/// Content that can be read again from some place on.
pub trait Source: Send + Sync {
    /// The content from byte `at` on. The end is announced by an empty piece, so that a source that breaks off does not look
    /// whole.
    fn open(&self, at: u64) -> io::Result<mpsc::Receiver<io::Result<Bytes>>>;
}

/// A stream as a body; one that ends unannounced breaks the request.
struct Stream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    ended: bool,
    /// How many pieces went.
    moved: Arc<AtomicU64>,
}

/// Ends when nothing moved for a while. That is either the registry's fault or ours, and waiting longer helps neither.
async fn stall(moved: &AtomicU64, patience: Duration) {
    let mut before = None;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        tokio::time::sleep(patience).await;
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.pieces.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(piece)) => {
                self.moved.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(piece.map(Frame::data)))
            }
            Poll::Ready(None) => Poll::Ready(Some(Err(io::Error::other("the content broke off")))),
        }
    }
}

impl Repository<'_> {
    /// Takes a blob over from another repository of the same registry, if the registry has it there and lets us.
    pub async fn mount(&self, digest: &Digest, from: &Reference) -> Result<bool> {
        self.auth.widen(format!("repository:{}:pull", from.path()));
        let query = encoded([("mount", digest.to_string().as_str()), ("from", from.path())].into_iter());
        anywhere!(self, endpoint => {
            let url = endpoint.url(&self.below(&format!("blobs/uploads/?{query}")));
            let answer = self.send(endpoint, Ask::new(Method::POST, url)).await?;
            if answer.status() == StatusCode::CREATED {
                return Ok(true);
            }
            // It began an upload instead; that is not wanted.
            if let Some(place) = http::text(&answer, &header::LOCATION) {
                let place = http::resolve(&endpoint.url(""), place)?;
                if self.is_own(endpoint, &place) {
                    self.send(endpoint, Ask::new(Method::DELETE, place)).await.map(drop).unwrap_or(());
                }
            }
            Ok(false)
        })
    }

    /// Stores a small blob.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of_bytes(&bytes);
        anywhere!(self, endpoint => {
            let place = self.begin(endpoint).await?;
            let ask = Ask { body: bytes.clone(), ..self.finish(&place, &digest) };
            let ask = ask.with(header::CONTENT_TYPE, "application/octet-stream");
            self.send_there(endpoint, ask).await.map(drop)
        })?;
        Ok(digest)
    }

    /// Stores what `source` reads. `digest` is asked for at its end, when it is known.
    pub async fn upload(
        &self,
        source: &dyn Source,
        digest: impl Fn() -> Result<Digest> + Send + Sync,
    ) -> Result<()> {
        anywhere!(self, endpoint => {
            let mut place = self.begin(endpoint).await?;
            let (mut at, mut vain) = (0, 0);
            loop {
                let error = match self.stream(endpoint, &place, source, at).await {
                    Ok(next) => {
                        place = next;
                        break;
                    }
                    Err(error) => error,
                };
                vain += 1;
                if vain >= self.http.settings.tries || !error.is_temporary() {
                    return Err(error);
                }
                tokio::time::sleep(self.http.settings.pause * 2_u32.saturating_pow(vain - 1)).await;
                let (next, received) = self.progress(endpoint, &place, error).await?;
                if received > at {
                    vain = 0;
                }
                (place, at) = (next, received);
            }
            let digest = digest()?;
            self.send_there(endpoint, self.finish(&place, &digest)).await.map(drop)
        })
    }

    async fn begin(&self, endpoint: &Endpoint) -> Result<String> {
        let url = endpoint.url(&self.below("blobs/uploads/"));
        let answer = self.send(endpoint, Ask::new(Method::POST, url.clone())).await?;
        http::resolve(&url, http::text(&answer, &header::LOCATION).unwrap_or_default())
    }

    /// Sends the content from `at` on; where the upload goes on.
    async fn stream(&self, endpoint: &Endpoint, place: &str, source: &dyn Source, at: u64) -> Result<String> {
        let pieces = source.open(at).map_err(|error| RegistryError::Source(error.to_string()))?;
        let mut ask =
            Ask::new(Method::PATCH, place.to_owned()).with(header::CONTENT_TYPE, "application/octet-stream");
        if self.is_own(endpoint, place) {
            ask.authorization = self.auth.proof(endpoint);
        }
        let moved = Arc::<AtomicU64>::default();
        let body = Stream { pieces, ended: false, moved: Arc::clone(&moved) }.boxed();
        let patience = self.http.settings.silence * 3;
        let registry = endpoint.url("");
        let answer = tokio::select! {
            answer = self.http.send_body(&ask, &registry, body) => answer?,
            () = stall(&moved, patience) => {
                let reason = format!("net/http: timeout: nothing was sent or answered for {} s", patience.as_secs());
                return Err(RegistryError::Unreachable { method: "Patch".into(), url: ask.url, reason });
            }
        };
        if !answer.status().is_success() {
            return Err(http::refusal(answer, place).await);
        }
        http::resolve(place, http::text(&answer, &header::LOCATION).unwrap_or(place))
    }

    /// How far the registry has come.
    async fn progress(
        &self,
        endpoint: &Endpoint,
        place: &str,
        because: RegistryError,
    ) -> Result<(String, u64)> {
        let Ok(answer) = self.send_there(endpoint, Ask::new(Method::GET, place.to_owned())).await else {
            return Err(because);
        };
        let next = http::resolve(place, http::text(&answer, &header::LOCATION).unwrap_or(place))?;
        let range = http::text(&answer, &header::RANGE).unwrap_or_default();
        let last = range
            .trim_start_matches("bytes=")
            .rsplit_once('-')
            .and_then(|(_, last)| last.parse::<u64>().ok());
        // `0-0` is what distribution says of nothing.
        Ok((next, last.filter(|last| *last > 0).map_or(0, |last| last + 1)))
    }

    fn finish(&self, place: &str, digest: &Digest) -> Ask {
        let mark = if place.contains('?') { '&' } else { '?' };
        Ask::new(
            Method::PUT,
            format!("{place}{mark}{}", encoded(std::iter::once(("digest", digest.to_string().as_str())))),
        )
    }

    /// To wherever the registry said that an upload goes on.
    async fn send_there(&self, endpoint: &Endpoint, ask: Ask) -> Result<Response<Incoming>> {
        if self.is_own(endpoint, &ask.url) {
            return self.send(endpoint, ask).await;
        }
        let url = ask.url.clone();
        let body = http::full(ask.body.clone());
        let answer = self.http.send_body(&ask, &endpoint.url(""), body).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(http::refusal(answer, &url).await) }
    }

    /// Whether an address is the registry's own, so that it may have our keys.
    fn is_own(&self, endpoint: &Endpoint, url: &str) -> bool {
        let scheme = if endpoint.secure { "https" } else { "http" };
        let root = format!("{scheme}://{}/", endpoint.authority);
        url.starts_with(&root)
    }
}
