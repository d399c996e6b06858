//! Removal: forgotten durably, then nothing is left.

use havre_store::db::Batch;

use super::{AfterEnd, Container, KILL, Reply, answer};
use crate::EngineError;
use crate::record::{CONTAINERS, STATES};
use crate::state::State;
use crate::why::asker;

impl Container {
    pub(super) async fn remove_by_user(&mut self, force: bool, reply: Reply<()>) {
        let name = self.now.name.clone();
        match (&self.now.state, force) {
            (State::Running { .. } | State::Paused { .. }, true) => {
                self.now.stopped_by_user = true;
                self.thaw_for_signal();
                self.after_end.push(AfterEnd::Remove(reply));
                self.happened("kill", &[("signal", KILL.to_string())]);
                self.kill_for_good(asker::REMOVE).await;
            }
            (State::Running { .. }, false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is running: stop the container before removing or force remove"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Paused { .. }, false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is paused and must be unpaused first"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Restarting(_), false) => {
                let text = format!(
                    "cannot remove container \"/{name}\": container is restarting: stop the container before removing or force remove"
                );
                answer(reply, Err(EngineError::State(text)));
            }
            (State::Created | State::Exited(_) | State::Restarting(_) | State::Removing, _) => {
                let result = self.remove_durably().await;
                answer(reply, result);
            }
        }
    }

    /// Removes; the database has forgotten the container before the answer.
    pub(super) async fn remove_durably(&mut self) -> Result<(), EngineError> {
        self.leases.clear(false).await;
        let id = self.fixed.id.as_str();
        let batch = Batch::new().delete(CONTAINERS, id).delete(STATES, id);
        self.launcher.commit(batch).await?;
        self.remove_everything();
        Ok(())
    }

    /// Removes; the database forgets behind. For containers that asked to be removed: a start of the
    /// daemon removes what is left of one.
    pub(super) fn remove_now(&mut self) {
        let id = self.fixed.id.as_str();
        let batch = Batch::new().delete(CONTAINERS, id).delete(STATES, id);
        self.launcher.enqueue(batch);
        self.remove_everything();
    }

    pub(super) fn remove_everything(&mut self) {
        self.restart_at = None;
        self.leases.revoke();
        self.launcher.remove(&self.fixed.id);
        self.launcher.forget(&self.fixed.id, &self.now.name);
        self.removed = true;
        self.happened("destroy", &[]);
        self.publish();
    }
}
