//! Request and response bodies.
//!
//! Invariants: a JSON body is bounded before it is parsed; a streamed answer holds a bounded number of
//! pieces, so a client that does not read stops its producer and nothing else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::Refusal;

/// The largest JSON body of a request, in bytes.
const MAX_JSON: usize = 4 << 20;
/// Pieces of a stream that may wait for its client.
const PIECES: usize = 16;

/// What a handler gives back.
pub(crate) type Answer = Response<Either<Full<Bytes>, Stream>>;

/// A body that is produced while it is sent.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Its end is all that can happen to it.
    Steady(mpsc::Receiver<Bytes>),
    /// An error breaks the connection, so that nothing cut short looks whole.
    Fallible(mpsc::Receiver<io::Result<Bytes>>),
}

/// The producer's end of a [`Stream`].
pub(crate) type Sink = mpsc::Sender<Bytes>;

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Steady(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Fallible(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A streamed answer and where its pieces go in.
pub(crate) fn stream(content_type: &'static str) -> (Sink, Answer) {
    let (sink, pieces) = mpsc::channel(PIECES);
    let mut answer = Response::new(Either::Right(Stream::Steady(pieces)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sink, answer)
}

/// A streamed answer that may break off, and where its pieces go in.
pub(crate) fn fallible(content_type: &'static str) -> (mpsc::Sender<io::Result<Bytes>>, Answer) {
    let (sink, pieces) = mpsc::channel(PIECES / 2);
    let mut answer = Response::new(Either::Right(Stream::Fallible(pieces)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sink, answer)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

/// A plain text answer.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// JSON as Go writes it: `<`, `>` and `&` escaped, a newline at the end.
pub(crate) fn go_json(value: &impl Serialize) -> Vec<u8> {
    let plain = serde_json::to_vec(value).unwrap_or_default();
    let mut bytes = Vec::with_capacity(plain.len() + 1);
    for byte in plain {
        match byte {
            b'<' => bytes.extend_from_slice(b"\\u003c"),
            b'>' => bytes.extend_from_slice(b"\\u003e"),
            b'&' => bytes.extend_from_slice(b"\\u0026"),
            other => bytes.push(other),
        }
    }
    bytes.push(b'\n');
    bytes
}

/// A JSON answer.
pub(crate) fn json_bytes(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(go_json(value)))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A JSON answer with status 200.
pub(crate) fn json(value: &impl Serialize) -> Answer {
    json_bytes(StatusCode::OK, value)
}

/// Parses a JSON body. An absent one reads as the default where the API allows that.
pub(crate) async fn read_json<T: DeserializeOwned + Default>(
    body: Incoming,
    may_be_absent: bool,
) -> Result<T, Refusal> {
    let bytes = Limited::new(body, MAX_JSON).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                message: format!("request body is larger than {MAX_JSON} bytes"),
            }
        } else {
            Refusal::invalid(format!("cannot read the request body: {error}"))
        }
    })?;
    let bytes = bytes.to_bytes();
    if bytes.is_empty() {
        return if may_be_absent {
            Ok(T::default())
        } else {
            Err(Refusal::invalid("invalid JSON: got EOF while reading request body"))
        };
    }
    serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid(format!("invalid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_go_does() {
        assert_eq!(go_json(&"a<b>&c"), b"\"a\\u003cb\\u003e\\u0026c\"\n");
    }
}
