//! What is going on: connections and requests, counted and listed for the debug endpoints.
//!
//! Invariant: what is counted is counted down by a guard's end, however the work ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Transport;

/// Counters and the requests in work.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    connections: AtomicU64,
    open: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Protects the list of requests in work.
    working: Mutex<BTreeMap<u64, Work>>,
}

/// One request in work.
#[derive(Debug, Clone)]
struct Work {
    transport: Transport,
    what: String,
    since: Instant,
}

/// Counts an open connection.
pub(crate) struct Connected(Arc<Traffic>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a request in the list.
pub(crate) struct Working(Arc<Traffic>, u64);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// The counters at one moment.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counters {
    pub(crate) connections: u64,
    pub(crate) connections_open: u64,
    pub(crate) connections_refused: u64,
    pub(crate) requests: u64,
    pub(crate) requests_failed: u64,
    pub(crate) requests_open: u64,
}

impl Traffic {
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Somebody was turned away before a request.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered with an error.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn working(self: &Arc<Self>, transport: Transport, what: String) -> Working {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let work = Work { transport, what, since: Instant::now() };
        self.working.lock().unwrap_or_else(PoisonError::into_inner).insert(number, work);
        Working(Arc::clone(self), number)
    }

    pub(crate) fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connections: read(&self.connections),
            connections_open: read(&self.open),
            connections_refused: read(&self.refused),
            requests: read(&self.requests),
            requests_failed: read(&self.failures),
            requests_open: self.list().len() as u64,
        }
    }

    /// The requests in work: how they came, what they ask, for how long.
    pub(crate) fn list(&self) -> Vec<(Transport, String, Duration)> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        working.values().map(|work| (work.transport, work.what.clone(), work.since.elapsed())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_not_counted_as_open() {
        let traffic = Arc::new(Traffic::default());
        let connected = traffic.connected();
        let working = traffic.working(Transport::Unix, "GET /info".into());
        assert_eq!(traffic.list()[0].1, "GET /info");
        assert_eq!((traffic.counters().connections_open, traffic.counters().requests_open), (1, 1));
        drop((connected, working));
        let counters = traffic.counters();
        assert_eq!((counters.connections_open, counters.requests_open), (0, 0));
        assert_eq!((counters.connections, counters.requests), (1, 1));
    }
}
