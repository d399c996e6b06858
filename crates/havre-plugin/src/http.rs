//! One question, one answer, one connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::LARGEST;
use crate::discovery::Address;
use crate::error::Why;

/// What both sides of the protocol call its first version.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Status and body.
type Answer = (u16, Bytes);

/// Asks and waits for the answer, though not for longer than `patience`.
pub(crate) fn ask(address: &Address, method: &str, body: Vec<u8>, patience: Duration) -> Result<Answer, Why> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Why::Io)?;
    runtime.block_on(async {
        tokio::time::timeout(patience, exchange(address, method, body))
            .await
            .unwrap_or(Err(Why::Late(patience)))
    })
}

async fn exchange(address: &Address, method: &str, body: Vec<u8>) -> Result<Answer, Why> {
    match address {
        Address::Unix(path) => send(UnixStream::connect(path).await.map_err(Why::Io)?, method, body).await,
        Address::Tcp(address) => {
            send(TcpStream::connect(address.as_str()).await.map_err(Why::Io)?, method, body).await
        }
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    body: Vec<u8>,
) -> Result<Answer, Why> {
    let http = |error: hyper::Error| Why::Http(havre_base::chain(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/{method}"))
        .header(HOST, "plugin")
        .header(ACCEPT, MEDIA_TYPE)
        .header(CONTENT_TYPE, MEDIA_TYPE)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Why::Http(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status().as_u16();
        match Limited::new(response.into_body(), LARGEST).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Why::TooLarge(LARGEST)),
            Err(error) => Err(Why::Http(havre_base::chain(&*error))),
        }
    };
    tokio::pin!(exchange, connection);
    // The connection makes progress only while it is asked, and may end before its answer is read.
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}
