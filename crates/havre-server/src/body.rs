//! Request and response bodies.
//!
//! Invariants: a JSON body is bounded before it is parsed; a streamed answer holds a bounded number of
//! pieces, so a client that does not read stops its producer and nothing else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use havre_api::container::{Config, CreateRequest};
use havre_api::host::{HostConfig, PublishChange};
use havre_api::network::NetworkingConfig;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::Refusal;
use crate::traffic::Working;

/// The largest JSON body of a request, in bytes.
const MAX_JSON: usize = 4 << 20;
/// Pieces of a stream that may wait for its client.
const PIECES: usize = 16;

/// What a handler gives back.
pub(crate) type Answer = Response<Either<Full<Bytes>, Stream>>;

/// A body that is produced while it is sent.
pub(crate) struct Stream {
    pieces: Pieces,
    /// The body ends when one of these completes.
    until: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Counts the request as open until the body ends.
    working: Option<Working>,
}

impl Stream {
    fn of(pieces: Pieces) -> Self {
        Self { pieces, until: Vec::new(), working: None }
    }

    /// Ends the body, as if nothing more came, when something happens.
    pub(crate) fn until(&mut self, end: impl Future<Output = ()> + Send + 'static) {
        self.until.push(Box::pin(end));
    }

    /// Keeps a request in the list of those in work until the body ends.
    pub(crate) fn keep(&mut self, working: Working) {
        self.working = Some(working);
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// Where the body's pieces come from.
enum Pieces {
    /// Its end is all that can happen to it.
    Steady(mpsc::Receiver<Bytes>),
    /// An error breaks the connection, and so does an end that no empty piece announced: nothing cut short
    /// looks whole.
    Fallible(mpsc::Receiver<io::Result<Bytes>>),
    /// The announced end.
    Whole,
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
        if self.until.iter_mut().any(|until| until.as_mut().poll(context).is_ready()) {
            self.until.clear();
            // The producer learns by the same that nobody listens.
            match &mut self.pieces {
                Pieces::Steady(pieces) => pieces.close(),
                Pieces::Fallible(pieces) => pieces.close(),
                Pieces::Whole => {}
            }
        }
        match &mut self.pieces {
            Pieces::Whole => Poll::Ready(None),
            Pieces::Steady(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Pieces::Fallible(pieces) => {
                let Poll::Ready(piece) = pieces.poll_recv(context) else { return Poll::Pending };
                let piece = piece.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
                if piece.as_ref().is_ok_and(Bytes::is_empty) {
                    self.pieces = Pieces::Whole;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(piece.map(Frame::data)))
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
    let mut answer = Response::new(Either::Right(Stream::of(Pieces::Steady(pieces))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sink, answer)
}

/// A streamed answer that may break off, and where its pieces go in.
pub(crate) fn fallible(content_type: &'static str) -> (mpsc::Sender<io::Result<Bytes>>, Answer) {
    let (sink, pieces) = mpsc::channel(PIECES / 2);
    let mut answer = Response::new(Either::Right(Stream::of(Pieces::Fallible(pieces))));
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
    let bytes = read_bounded(body).await?;
    if bytes.is_empty() && may_be_absent {
        return Ok(T::default());
    }
    parse_json(&bytes)
}

/// Reads the body of an update: what the host gives, and beside it what changes of the published ports.
pub(crate) async fn read_update(body: Incoming) -> Result<(HostConfig, PublishChange), Refusal> {
    let bytes = read_bounded(body).await?;
    Ok((parse_json(&bytes)?, parse_json(&bytes)?))
}

/// Reads the body of a create request: the configuration, and beside its fields two more documents.
///
/// Not by a flattened type, which would not know where in the document an error is.
pub(crate) async fn read_create(body: Incoming) -> Result<CreateRequest, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Beside {
        host_config: Option<HostConfig>,
        networking_config: Option<NetworkingConfig>,
    }
    let bytes = read_bounded(body).await?;
    let config: Config = parse_json(&bytes)?;
    let Beside { host_config, networking_config } = parse_json(&bytes)?;
    Ok(CreateRequest { config, host_config, networking_config })
}

/// Reads and forgets a body that nobody wants, within limits: a client that still sends when the connection
/// closes may not read its answer.
pub(crate) async fn drain(body: Incoming) {
    const MOST: usize = 1 << 20;
    const PATIENCE: Duration = Duration::from_secs(2);
    let all = Limited::new(body, MOST).collect();
    tokio::time::timeout(PATIENCE, all).await.map(drop).unwrap_or(());
}

async fn read_bounded(body: Incoming) -> Result<Bytes, Refusal> {
    // A length that is too much is refused before the body is sent.
    if body.size_hint().lower() > MAX_JSON as u64 {
        return Err(too_large());
    }
    let bytes = Limited::new(body, MAX_JSON).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            too_large()
        } else {
            Refusal::invalid(format!("cannot read the request body: {error}"))
        }
    })?;
    Ok(bytes.to_bytes())
}

fn too_large() -> Refusal {
    Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        message: format!("request body is larger than {MAX_JSON} bytes"),
    }
}

/// Parses an object, naming the field that is wrong.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::invalid("invalid JSON: got EOF while reading request body"));
    }
    // Lists would be read as the fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::invalid("invalid JSON: the request body is no object"));
    }
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut document).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        Refusal::invalid(format!("invalid JSON: {at}{}", error.into_inner()))
    })?;
    document.end().map_err(|error| Refusal::invalid(format!("invalid JSON: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_body_name_the_field() {
        let message = |body: &str| parse_json::<HostConfig>(body.as_bytes()).unwrap_err().message;
        assert!(message(r#"{"Memory":"x"}"#).starts_with("invalid JSON: Memory: invalid type"));
        assert!(message(r#"{"Devices":[{},{"PathOnHost":1}]}"#).contains("Devices[1].PathOnHost: "));
        assert!(message(r#"{"Memory":1,"Memory":2}"#).contains("duplicate field `Memory`"));
        assert!(message("[]").contains("no object") && message("{} x").contains("trailing"));
        assert!(message("{\"Labels\"").contains("EOF"));
    }

    #[test]
    fn json_is_escaped_as_go_does() {
        assert_eq!(go_json(&"a<b>&c"), b"\"a\\u003cb\\u003e\\u0026c\"\n");
    }
}
