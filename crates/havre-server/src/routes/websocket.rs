//! Attaching over a WebSocket: a task a client turns frames into bytes and back; the shim sees a socket.

use bytes::BytesMut;
use havre_api::ApiVersion;
use havre_base::ErrorKind;
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;
use crate::routes::streams::Wish;
use crate::websocket::{self, Close, Frame};

/// Output is binary since this version: it need not be text.
const BINARY: ApiVersion = ApiVersion::new(1, 28);
/// Bytes read at once.
const PIECE: usize = 32 * 1024;

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Checks the handshake and makes the key's answer.
fn handshake(headers: &HeaderMap) -> Result<String, Refusal> {
    let says = |name: &HeaderName, word: &str| {
        let mut words = header(headers, name).unwrap_or_default().split(',').map(str::trim);
        words.any(|have| have.eq_ignore_ascii_case(word))
    };
    if !says(&UPGRADE, "websocket") || !says(&CONNECTION, "upgrade") {
        return Err(Refusal::invalid("this endpoint wants a WebSocket handshake (Upgrade: websocket)"));
    }
    if header(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Refusal {
            status: StatusCode::UPGRADE_REQUIRED,
            message: "only version 13 of WebSockets is spoken".into(),
        });
    }
    if !websocket::same_origin(header(headers, &ORIGIN), header(headers, &HOST)) {
        return Err(Refusal::new(ErrorKind::Forbidden, "a page of another origin may not attach"));
    }
    match header(headers, &SEC_WEBSOCKET_KEY) {
        Some(key) if key.len() == 24 && key.ends_with("==") => Ok(websocket::accept(key)),
        _ => Err(Refusal::invalid("invalid Sec-WebSocket-Key")),
    }
}

pub(crate) async fn attach(server: &Server, call: Call, id: &str) -> Handled {
    let Call { version, query, mut request } = call;
    let accept = handshake(request.headers())?;
    let wish = Wish::read(server, &query, id, false).await?;
    let mut answer = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).map_err(|_| Refusal::invalid("invalid Sec-WebSocket-Key"))?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    let upgrade = hyper::upgrade::on(&mut request);
    let (server, text) = (server.clone(), version < BINARY);
    let closing = server.until_closing();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let pair = UnixStream::pair()
            .and_then(|(ours, theirs)| theirs.into_std().map(|theirs| (ours, theirs)))
            .and_then(|(ours, theirs)| theirs.set_nonblocking(false).map(|()| (ours, theirs)));
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => return tracing::error!(%error, "cannot make a socket for a client"),
        };
        let ((), ()) = tokio::join!(
            wish.hand_over(&server, theirs.into()),
            bridge(TokioIo::new(upgraded), ours, text, closing)
        );
    });
    Ok(answer)
}

type Handled = Result<Answer, Refusal>;

/// The client's side for writing, and whether a frame is half written.
struct Outward<W> {
    client: W,
    torn: bool,
}

impl<W: AsyncWrite + Unpin> Outward<W> {
    async fn send(&mut self, frames: &BytesMut) -> std::io::Result<()> {
        self.torn = true;
        self.client.write_all(frames).await?;
        // TLS keeps what is not flushed.
        self.client.flush().await?;
        self.torn = false;
        Ok(())
    }
}

/// Carries bytes until either side ends. Each direction waits for itself only: a container that does not read
/// must not keep its output from the client.
async fn bridge<S: AsyncRead + AsyncWrite>(
    client: S,
    shim: UnixStream,
    text: bool,
    closing: impl Future<Output = ()>,
) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_shim, to_shim) = shim.into_split();
    let outward = Mutex::new(Outward { client: to_client, torn: false });
    let code = tokio::select! {
        code = inward(from_client, to_shim, &outward) => code,
        code = outputs(from_shim, &outward, text) => code,
        () = closing => Some(Close::GoingAway as u16),
    };
    let mut outward = outward.into_inner();
    if let (Some(code), false) = (code, outward.torn) {
        let mut last = BytesMut::new();
        websocket::close(&mut last, code);
        // The client may be gone; then there is nobody to tell.
        outward.send(&last).await.unwrap_or(());
    }
    outward.client.shutdown().await.unwrap_or(());
}

/// From the container to the client. Returns the code to close with; none when the client is gone.
async fn outputs<W: AsyncWrite + Unpin>(
    mut shim: OwnedReadHalf,
    outward: &Mutex<Outward<W>>,
    text: bool,
) -> Option<u16> {
    let (mut output, mut frames) = (vec![0; PIECE], BytesMut::new());
    loop {
        match shim.read(&mut output).await {
            Ok(0) => return Some(Close::Normal as u16),
            Ok(count) => websocket::data(&mut frames, text, output.get(..count).unwrap_or(&[])),
            Err(_) => return Some(Close::Internal as u16),
        }
        outward.lock().await.send(&frames).await.ok()?;
        frames.clear();
    }
}

/// From the client to the container; the same result.
async fn inward<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut client: R,
    mut shim: OwnedWriteHalf,
    outward: &Mutex<Outward<W>>,
) -> Option<u16> {
    let mut arrived = BytesMut::new();
    loop {
        arrived.reserve(PIECE);
        match client.read_buf(&mut arrived).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        loop {
            match websocket::take(&mut arrived) {
                Ok(None) => break,
                // The container may have closed its input; its output still matters.
                Ok(Some(Frame::Data(bytes))) => shim.write_all(&bytes).await.unwrap_or(()),
                Ok(Some(Frame::Ping(payload))) => {
                    let mut answer = BytesMut::new();
                    websocket::pong(&mut answer, &payload);
                    outward.lock().await.send(&answer).await.ok()?;
                }
                Ok(Some(Frame::Pong)) => {}
                Ok(Some(Frame::Close(code))) => return Some(code.unwrap_or(Close::Normal as u16)),
                Err(code) => return Some(code as u16),
            }
        }
    }
}
