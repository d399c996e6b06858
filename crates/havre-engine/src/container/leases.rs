//! Leases of a container's files: copies, exports and commits that work beside the task.
//!
//! Invariants: the task never waits for whoever holds a lease longer than a system call of it may take: what
//! must wait is put off until the leases are back or a deadline passes, then they are revoked, and a revoked
//! lease wakes its holder wherever that waits for a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::{Command, Container, Reply, answer};
use crate::EngineError;
use crate::state::State;

/// How long a start or a removal waits for copies that go on.
pub(super) const POLITE: Duration = Duration::from_secs(8);
/// How long it waits for one that was told to end, and is stuck in the kernel.
const STUCK: Duration = Duration::from_secs(5);

/// What somebody wants of a container's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read; a run that begins does not matter.
    Read,
    /// To change; a run may not begin meanwhile.
    Write,
}

/// A lease was given.
#[derive(Debug)]
pub(crate) struct Granted {
    /// The first process, while there is one.
    pub(crate) pid: Option<i32>,
    pub(crate) lease: Lease,
    /// Held by the one who writes while nothing runs.
    pub(crate) writer: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: AtomicUsize,
    /// Those because of which no run may begin.
    runs: AtomicUsize,
    returned: Notify,
}

/// The right to a container's files, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    counts: Arc<Counts>,
    blocks_runs: bool,
    revoked: watch::Receiver<bool>,
    alone: Option<OwnedMutexGuard<()>>,
}

impl Lease {
    /// Tells when the lease has ended before its time.
    pub(crate) fn revoked(&self) -> watch::Receiver<bool> {
        self.revoked.clone()
    }

    /// Waits until nobody else writes.
    pub(crate) async fn hold(&mut self, writer: Arc<Mutex<()>>) -> Result<(), EngineError> {
        let mut revoked = self.revoked();
        tokio::select! {
            guard = writer.lock_owned() => {
                self.alone = Some(guard);
                Ok(())
            }
            _ = revoked.wait_for(|revoked| *revoked) => {
                Err(EngineError::State("the container is started or removed".into()))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.alone = None;
        if self.blocks_runs {
            self.counts.runs.fetch_sub(1, Ordering::AcqRel);
        }
        self.counts.all.fetch_sub(1, Ordering::AcqRel);
        self.counts.returned.notify_one();
    }
}

/// The leases of one container.
pub(super) struct Leases {
    counts: Arc<Counts>,
    revoke: watch::Sender<bool>,
    writer: Arc<Mutex<()>>,
    /// Commands that wait for leases, in order.
    deferred: Vec<Command>,
    /// When they wait no longer.
    pub(super) until: Option<Instant>,
}

impl Default for Leases {
    fn default() -> Self {
        let (counts, writer, deferred) = (Arc::default(), Arc::default(), Vec::new());
        Self { counts, revoke: watch::channel(false).0, writer, deferred, until: None }
    }
}

impl Leases {
    fn give(&self, blocks_runs: bool) -> Lease {
        self.counts.all.fetch_add(1, Ordering::AcqRel);
        if blocks_runs {
            self.counts.runs.fetch_add(1, Ordering::AcqRel);
        }
        Lease { counts: Arc::clone(&self.counts), blocks_runs, revoked: self.revoke.subscribe(), alone: None }
    }

    fn count(&self, of_runs: bool) -> usize {
        if of_runs { &self.counts.runs } else { &self.counts.all }.load(Ordering::Acquire)
    }

    /// Ends all leases; those given from now on are not concerned.
    pub(super) fn revoke(&mut self) {
        self.revoke.send_replace(true);
        self.revoke = watch::channel(false).0;
    }

    /// Ends the leases in the way of a start, or of a removal, and waits until they are back.
    pub(super) async fn clear(&mut self, for_run: bool) {
        if self.count(for_run) == 0 {
            return;
        }
        self.revoke();
        let back = async {
            while self.count(for_run) > 0 {
                self.counts.returned.notified().await;
            }
        };
        if tokio::time::timeout(STUCK, back).await.is_err() {
            tracing::error!("a copy of a container's files does not end");
        }
    }

    /// Comes back when leases were returned that commands wait for.
    pub(super) async fn returned(&self) {
        if self.deferred.is_empty() {
            std::future::pending::<()>().await;
        }
        self.counts.returned.notified().await;
    }
}

impl Container {
    pub(super) fn lease(&self, access: Access, reply: Reply<Granted>) {
        let pid = self.now.state.pid();
        if self.now.state == State::Removing {
            let text = format!("container {} is marked for removal", self.fixed.id);
            return answer(reply, Err(EngineError::State(text)));
        }
        // The tree of a run would outlive the run, and the next one may not begin beside it.
        let blocks_runs = pid.is_some() || access == Access::Write;
        answer(
            reply,
            Ok(Granted {
                pid,
                lease: self.leases.give(blocks_runs),
                writer: Arc::clone(&self.leases.writer),
            }),
        );
    }

    /// Puts off a command that leases are in the way of.
    pub(super) fn put_off(&mut self, command: Command) -> Option<Command> {
        let in_the_way = match &command {
            Command::Resume | Command::Start(_) | Command::Restart { .. } => self.leases.count(true) > 0,
            Command::Remove { .. } => self.leases.count(false) > 0,
            _ => return Some(command),
        };
        let waits = !self.now.state.is_alive() && (in_the_way || !self.leases.deferred.is_empty());
        if !waits {
            return Some(command);
        }
        self.leases.until.get_or_insert_with(|| Instant::now() + POLITE);
        self.leases.deferred.push(command);
        None
    }

    /// Does what was put off, if the leases are back or the deadline has passed.
    pub(super) async fn resume(&mut self) {
        let passed = self.leases.until.is_some_and(|until| until <= Instant::now());
        if self.leases.count(false) > 0 && !passed {
            return;
        }
        self.leases.until = None;
        for command in std::mem::take(&mut self.leases.deferred) {
            if self.removed {
                return;
            }
            self.obey(command).await;
        }
    }
}
