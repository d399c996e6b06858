//! Changing limits and the restart policy, also of a container that runs.
//!
//! Invariant: the kernel, the database and what readers see have all of a change or nothing of it.

use std::sync::Arc;

use havre_net::ports::PublishedPort;
use havre_net::rate::Rates;
use havre_oci::runtime::LinuxPids;
use havre_store::db::Batch;

use super::Container;
use crate::EngineError;
use crate::plan;
use crate::record::{CONTAINERS, Fixed, STATES};
use crate::spec::{Resources, RestartPolicy};
use crate::state::State;

/// What a container is to be from now on.
#[derive(Debug, Clone)]
pub struct Revised {
    /// All limits.
    pub resources: Resources,
    /// What to do when it ends.
    pub restart: RestartPolicy,
    /// All ports that are to be reached on the host.
    pub published: Vec<PublishedPort>,
    /// How fast it may receive and send.
    pub rates: Rates,
    /// What inspection shows.
    pub asked: serde_json::Value,
}

/// Makes the new decision from the present one, or refuses. It runs in the container's task, so that nothing
/// changes in between; it is pure.
pub type Revision = Box<dyn FnOnce(&Fixed) -> Result<Revised, EngineError> + Send + Sync>;

impl Container {
    pub(super) async fn update(&mut self, revise: Revision) -> Result<Vec<String>, EngineError> {
        let id = self.fixed.id.clone();
        let refused = |why: &str| EngineError::State(format!("Cannot update container {id}: {why}"));
        if self.now.state == State::Removing {
            return Err(refused("Container is marked for removal and cannot be \"update\"."));
        }
        let Revised { resources, restart, published, rates, asked } = revise(&self.fixed)?;
        if self.fixed.spec.auto_remove && restart != RestartPolicy::No {
            let why = "Restart policy cannot be updated because AutoRemove is enabled for the container";
            return Err(refused(why));
        }
        let mut fixed = (*self.fixed).clone();
        let mut wanted = plan::plan_resources(&resources)?;
        if resources.pids.is_none() && fixed.spec.resources.pids.is_some() {
            wanted.pids = Some(LinuxPids { limit: -1 });
        }
        let same = fixed.spec.resources == resources;
        (fixed.spec.resources, fixed.spec.restart, fixed.asked) = (resources, restart, asked);
        let replaces = fixed.spec.published != published;
        fixed.spec.published = published;
        let live = if self.now.state.is_alive() && !same {
            Some(self.launcher.limit(&self.fixed, &wanted)?)
        } else {
            None
        };
        let before = std::mem::replace(&mut fixed.spec.rates, rates);
        let published = if replaces { self.publish_ports(&fixed).await } else { Ok(()) };
        let changed = match published {
            Ok(()) if before != rates => self.limit(rates).await,
            done => done,
        };
        let key = self.fixed.id.as_str();
        // The state goes along: a policy that is new decides by it after a power loss.
        let batch = Batch::new().put(CONTAINERS, key, &fixed).put(STATES, key, &self.now);
        let committed = match changed {
            Ok(()) => self.launcher.commit(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            let told = |undone: Result<(), EngineError>| {
                if let Err(error) = undone {
                    let error = havre_base::chain(&error);
                    tracing::warn!(container = key, error, "a refused update is not undone");
                }
            };
            if before != rates {
                told(self.limit(before).await);
            }
            if replaces {
                told(self.publish_ports(&self.fixed).await);
            }
            if let Some((cgroup, changed)) = &live {
                cgroup.undo(changed);
            }
            return Err(error);
        }
        self.fixed = Arc::new(fixed);
        self.publish();
        self.happened("update", &[]);
        Ok(live.map(|(_, changed)| changed.warnings).unwrap_or_default())
    }

    /// Limits how fast it may receive and send, if it runs.
    async fn limit(&self, rates: Rates) -> Result<(), EngineError> {
        if !self.now.state.is_alive() {
            return Ok(());
        }
        let (launcher, id) = (Arc::clone(&self.launcher), self.fixed.id.clone());
        let limit = tokio::task::spawn_blocking(move || launcher.fabric.limit(&id, rates));
        Ok(limit.await.map_err(|_| EngineError::ShuttingDown)??)
    }
}
