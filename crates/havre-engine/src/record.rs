//! What the engine remembers of a container, and what readers see of it.
//!
//! Invariants: a [`Fixed`] never changes; an update puts another one in its place, whole and durable before
//! anybody sees it; [`Changing`] is written to the database after each change, in
//! order; a [`View`] is a whole, consistent copy that readers hold without a lock.

use std::sync::Arc;

use havre_base::{ContainerId, ContainerName, ExecId, Timestamp};
use havre_oci::Digest;
use havre_runtime::shim::protocol::Exit;
use havre_store::db::Table;
use serde::{Deserialize, Serialize};

use crate::merged::Merged;
use crate::spec::ContainerSpec;
use crate::state::State;

/// Containers as created, by id.
pub(crate) const CONTAINERS: Table = Table("containers");
/// What changes in the life of a container, by id.
pub(crate) const STATES: Table = Table("container-states");

/// What is decided at creation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fixed {
    /// The container.
    pub id: ContainerId,
    /// When it was created.
    pub created: Timestamp,
    /// The image's id.
    pub image: Digest,
    /// What was asked.
    pub spec: ContainerSpec,
    /// What was asked, with the image's configuration.
    pub merged: Merged,
    /// The host name inside.
    pub hostname: String,
    /// The client's request as the server wants to show it again; the engine never looks inside.
    pub asked: serde_json::Value,
}

/// What changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changing {
    /// The name.
    pub name: ContainerName,
    /// Where it is in its life.
    pub state: State,
    /// The last start.
    pub started_at: Option<Timestamp>,
    /// The last end.
    pub finished_at: Option<Timestamp>,
    /// Restarts by the policy since a user started it.
    pub restart_count: u32,
    /// A user stopped it; the policy `unless-stopped` respects that.
    pub stopped_by_user: bool,
    /// The kernel killed one of its processes for memory in the last run.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it could not be started, and the exit code that stands for it.
    pub start_error: Option<(String, i32)>,
    /// When that was.
    #[serde(default)]
    pub start_failed_at: Option<Timestamp>,
    /// How the last run ended, also while another one is on.
    #[serde(default)]
    pub last_exit: Option<Exit>,
}

/// A consistent copy of all that is known of a container.
#[derive(Debug, Clone)]
pub struct View {
    /// What was decided, at creation or by the last update.
    pub fixed: Arc<Fixed>,
    /// What changes.
    pub now: Changing,
    /// Runs that ended since the daemon started.
    pub exits: u64,
    /// The container is gone from the engine.
    pub removed: bool,
    /// Execs that have not ended.
    pub execs: Vec<ExecId>,
    /// Nanoseconds each step of the last start took.
    pub timings: Arc<Vec<(String, u64)>>,
}

impl View {
    /// The container.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.fixed.id
    }

    /// The exit code of the last run, or of the failed start; zero before the first.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match (&self.now.start_error, self.now.state.exit()) {
            (Some((_, code)), _) => *code,
            (None, Some(exit)) => exit.code,
            (None, None) => 0,
        }
    }
}
