//! Looking at containers and tidying them up: processes, use of resources, sizes, removal of what has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use havre_base::ContainerId;
use havre_runtime::cgroup::Cgroup;
use tokio::sync::watch;

use crate::container::{Command, Revision};
use crate::ps::{self, Table};
use crate::record::View;
use crate::state::State;
use crate::stats::{self, Reading};
use crate::{Containers, EngineError};

/// Between the two samples from which a share of the processors can be told. The counters are exact to the
/// nanosecond, so that a short time is enough.
const WINDOW: Duration = Duration::from_millis(50);

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The containers.
    pub ids: Vec<ContainerId>,
    /// Bytes of what they had written.
    pub bytes: u64,
}

impl Containers {
    /// The processes of a running container, as `ps` with these arguments shows them.
    pub async fn top(&self, text: &str, args: &str) -> Result<Table, EngineError> {
        let view = self.view(text)?;
        match &view.now.state {
            State::Running { .. } | State::Paused { .. } => {}
            State::Restarting(_) => {
                return Err(EngineError::State(format!(
                    "Container {} is restarting, wait until the container is running",
                    view.id()
                )));
            }
            State::Created | State::Exited(_) | State::Removing => {
                return Err(EngineError::State(format!("container {} is not running", view.id())));
            }
        }
        let path = self.launcher.cgroup_path(&view.fixed);
        let args = args.to_owned();
        let listed = tokio::task::spawn_blocking(move || {
            let cgroup = Cgroup::open(&path).map_err(|error| EngineError::State(error.to_string()))?;
            let pids: Vec<i32> = cgroup.processes().iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            ps::table(&pids, &args)
        });
        let table = listed.await.map_err(|_| EngineError::ShuttingDown)??;
        self.tell(&view, "top");
        Ok(table)
    }

    /// Publishes an event of a container that its task need not know of.
    fn tell(&self, view: &View, action: &str) {
        let mut attributes = view.fixed.merged.labels.clone();
        attributes.insert("image".into(), view.fixed.spec.image.clone());
        attributes.insert("name".into(), view.now.name.to_string());
        self.launcher.events.publish("container", action, view.id().as_str(), attributes);
    }

    /// What a container uses now.
    pub async fn sample(&self, text: &str) -> Result<Reading, EngineError> {
        Ok(stats::take(&self.launcher, self.view(text)?).await)
    }

    /// Two samples, a moment apart.
    pub async fn samples(&self, text: &str) -> Result<(Reading, Reading), EngineError> {
        let first = self.sample(text).await?;
        if first.is_some() {
            tokio::time::sleep(WINDOW).await;
        }
        Ok((first, self.sample(text).await?))
    }

    /// What a container uses, again every second.
    pub fn watch_use(&self, text: &str) -> Result<watch::Receiver<Option<Reading>>, EngineError> {
        let (receiver, work) = self.samplers.watch(&self.launcher, self.watch(text)?);
        if let Some(work) = work {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.spawn(work);
        }
        Ok(receiver)
    }

    /// Changes limits or the restart policy, all or nothing. Returns warnings.
    pub async fn update(&self, text: &str, revise: Revision) -> Result<Vec<String>, EngineError> {
        self.ask_named(text, |reply| Command::Update { revise, reply }).await
    }

    /// Bytes that each of the containers has written.
    pub async fn written(&self, views: &[Arc<View>]) -> Result<Vec<u64>, EngineError> {
        let images = Arc::clone(&self.launcher.images);
        let ids: Vec<ContainerId> = views.iter().map(|view| view.id().clone()).collect();
        let sizes = tokio::task::spawn_blocking(move || ids.iter().map(|id| images.written(id)).collect());
        sizes.await.map_err(|_| EngineError::ShuttingDown)
    }

    /// Removes the containers that do not run and that `wanted` chooses. One that is started meanwhile stays.
    pub async fn prune(&self, wanted: impl Fn(&View) -> bool) -> Result<Pruned, EngineError> {
        let rests =
            |view: &View| !view.now.state.is_alive() && !matches!(view.now.state, State::Restarting(_));
        let views: Vec<Arc<View>> =
            self.list().into_iter().filter(|view| rests(view) && wanted(view)).collect();
        let sizes = self.written(&views).await?;
        let mut pruned = Pruned::default();
        for (view, size) in views.iter().zip(sizes) {
            match self.remove(view.id().as_str(), false).await {
                Ok(()) => {
                    pruned.ids.push(view.id().clone());
                    pruned.bytes += size;
                }
                // Gone already, or running again.
                Err(EngineError::NoContainer(_) | EngineError::State(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), pruned.bytes.to_string())]);
        self.launcher.events.publish("container", "prune", "", reclaimed);
        Ok(pruned)
    }
}
