//! Routes, versions, streams and hijacking, error kind to status, wire to domain.
//!
//! Invariants: no wire type goes below this crate; a request never reaches a handler with an API
//! version outside the supported ones; a body is bounded before it is read whole; nothing a client does
//! or fails to do holds a lock or a task of the engine.

mod body;
mod convert;
mod error;
mod hijack;
mod query;
mod router;
mod routes;
mod shows;
mod versions;
mod websocket;

use std::sync::Arc;

use havre_engine::Engine;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};

pub use router::Info;

/// What handlers share.
#[derive(Clone)]
pub struct Server {
    engine: Arc<Engine>,
    info: Arc<Info>,
}

impl Server {
    /// A server over an engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>, info: Info) -> Self {
        Self { engine, info: Arc::new(info) }
    }

    /// Serves a unix socket until the task is dropped.
    pub async fn serve_unix(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream),
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Serves a TCP socket until the task is dropped.
    pub async fn serve_tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    stream.set_nodelay(true).unwrap_or(());
                    self.spawn(stream);
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    fn spawn<S>(&self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let server = self.clone();
        // The connection's task ends with its client or with the runtime.
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(router::answer(&server, request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

/// Out of descriptors, most likely: others must close first.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}
