//! The life of a container as one enum and one pure function.
//!
//! Invariant: what a state needs lives in it; a transition that is not written here does not happen.

use havre_base::Timestamp;
use havre_runtime::shim::protocol::Exit;
use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// Process id on the host.
        pid: i32,
        /// Since when.
        since: Timestamp,
    },
    /// Frozen.
    Paused {
        /// Process id on the host.
        pid: i32,
        /// Running since when.
        since: Timestamp,
    },
    /// Ended, and will be started again.
    Restarting(Exit),
    /// Ended.
    Exited(Exit),
    /// Being removed.
    Removing,
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its first process runs.
    Started {
        /// Process id on the host.
        pid: i32,
        /// When.
        at: Timestamp,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Resumed,
    /// Its first process ended.
    Died(Exit),
    /// Its first process ended and the restart policy will start it again.
    DiedForNow(Exit),
    /// A user or the policy gave up on the next start.
    GaveUp,
    /// Removal began.
    Removing,
}

/// A change that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that is {} cannot change by {change:?}", state.word())]
pub struct BadTransition {
    /// The state.
    pub state: State,
    /// The change.
    pub change: Change,
}

impl State {
    /// The state after `change`.
    pub fn apply(self, change: Change) -> Result<Self, BadTransition> {
        use Change as C;
        Ok(match (self, change) {
            (Self::Created | Self::Exited(_) | Self::Restarting(_), C::Started { pid, at }) => {
                Self::Running { pid, since: at }
            }
            (Self::Running { pid, since }, C::Paused) => Self::Paused { pid, since },
            (Self::Paused { pid, since }, C::Resumed) => Self::Running { pid, since },
            (Self::Running { .. } | Self::Paused { .. }, C::Died(exit)) => Self::Exited(exit),
            (Self::Running { .. } | Self::Paused { .. }, C::DiedForNow(exit)) => Self::Restarting(exit),
            (Self::Restarting(exit), C::GaveUp) => Self::Exited(exit),
            (Self::Created | Self::Exited(_) | Self::Restarting(_) | Self::Removing, C::Removing) => {
                Self::Removing
            }
            (state, change) => return Err(BadTransition { state, change }),
        })
    }

    /// Docker's word for the state.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) => "exited",
            Self::Removing => "removing",
        }
    }

    /// The process id of the first process while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Running { pid, .. } | Self::Paused { pid, .. } => Some(*pid),
            Self::Created | Self::Restarting(_) | Self::Exited(_) | Self::Removing => None,
        }
    }

    /// A first process exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pid().is_some()
    }

    /// How the last run ended, while no run is on.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Restarting(exit) | Self::Exited(exit) => Some(exit),
            Self::Created | Self::Running { .. } | Self::Paused { .. } | Self::Removing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { code, oom_killed: false, at: Timestamp::from_nanos(9), evidence: Box::default() }
    }

    const AT: Timestamp = Timestamp::from_nanos(1);

    #[test]
    fn a_life_goes_through_its_states() {
        let running = State::Created.apply(Change::Started { pid: 7, at: AT }).unwrap();
        assert_eq!(running.pid(), Some(7));
        let paused = running.apply(Change::Paused).unwrap();
        let exited = paused.apply(Change::Died(exit(3))).unwrap();
        assert_eq!(exited.exit().map(|exit| exit.code), Some(3));
        let again = exited.apply(Change::Started { pid: 8, at: AT }).unwrap();
        let waiting = again.apply(Change::DiedForNow(exit(1))).unwrap();
        assert_eq!(waiting.clone().apply(Change::GaveUp).unwrap(), State::Exited(exit(1)));
        assert_eq!(waiting.apply(Change::Removing).unwrap(), State::Removing);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_says_why() {
        let running = State::Running { pid: 1, since: AT };
        let error = running.apply(Change::Removing).unwrap_err();
        assert!(error.to_string().starts_with("a container that is running"));
        assert!(State::Created.apply(Change::Died(exit(0))).is_err());
        assert!(State::Removing.apply(Change::Started { pid: 1, at: AT }).is_err());
    }
}
