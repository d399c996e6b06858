//! Collects ended shims.
//!
//! Invariant: nobody waits for one. A shim may outlive its container for as long as a client takes to read
//! the last output, and that costs the daemon an entry in a list.

use std::process::Child;
use std::sync::{Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

/// Shims whose work is done and whose exit is still to be collected.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    /// Protects the list; nothing under it blocks.
    children: Mutex<Vec<Child>>,
}

impl Reaper {
    /// Takes over a shim.
    pub(crate) fn add(&self, child: Child) {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        self.sweep();
    }

    fn sweep(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // A child that cannot be asked about is not ours any more.
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Collects whenever a child of the daemon ends.
    pub(crate) async fn run(&self) {
        let mut ended = match signal(SignalKind::child()) {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "ended supervisors stay until the daemon ends"),
        };
        self.sweep();
        while ended.recv().await.is_some() {
            self.sweep();
        }
    }
}
