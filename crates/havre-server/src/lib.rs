//! Routes, versions, streams and hijacking, error kind to status, wire to domain.
//!
//! Invariants: no wire type goes below this crate; a request never reaches a handler with an API
//! version outside the supported ones; a body is bounded before it is read whole; nothing a client does
//! or fails to do holds a lock or a task of the engine.

mod body;
mod convert;
mod error;
mod hangup;
mod hijack;
mod info;
mod listen;
mod origin;
mod query;
mod router;
mod routes;
mod shows;
mod traffic;
mod versions;
mod websocket;

use std::sync::{Arc, PoisonError, RwLock};

use havre_engine::Engine;
use tokio::sync::{Semaphore, watch};

pub use convert::{Defaults, check_log, is_ulimit, parse_size};
pub use info::Info;
pub use listen::{Limits, Transport};
use traffic::Traffic;

/// What handlers share.
#[derive(Clone)]
pub struct Server {
    engine: Arc<Engine>,
    /// Replaced whole by a reload of the configuration.
    info: Arc<RwLock<Arc<Info>>>,
    limits: Limits,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    closing: Arc<watch::Sender<bool>>,
    traffic: Arc<Traffic>,
}

impl Server {
    /// A server over an engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>, info: Info, limits: Limits) -> Self {
        Self {
            engine,
            info: Arc::new(RwLock::new(Arc::new(info))),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            closing: Arc::new(watch::Sender::new(false)),
            traffic: Arc::default(),
        }
    }

    /// What the daemon says about itself.
    #[must_use]
    pub fn info(&self) -> Arc<Info> {
        Arc::clone(&self.info.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what the daemon says about itself.
    pub fn set_info(&self, info: Info) {
        *self.info.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(info);
    }

    /// Ends every connection that waits for a request, every endless stream, and the others behind their
    /// answers.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until every connection has ended.
    pub async fn closed(&self) {
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        // The semaphore is never closed, so this ends when all are back.
        self.connections.acquire_many(all).await.map(drop).unwrap_or(());
    }

    /// What the daemon is busy with, for people.
    #[must_use]
    pub fn report(&self) -> String {
        routes::debug::tasks(self)
    }

    /// Completes when the server closes.
    fn until_closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closing = self.closing.subscribe();
        async move { closing.wait_for(|closing| *closing).await.map(drop).unwrap_or(()) }
    }
}
