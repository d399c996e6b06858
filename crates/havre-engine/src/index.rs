//! Who is who: names, ids, short ids and exec ids to containers.
//!
//! Invariant: a name or id in here belongs to exactly one container that has not been removed. The lock
//! is held for look-ups only, never across a wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use havre_base::{ContainerId, ContainerName, ExecId};
use tokio::sync::{mpsc, watch};

use crate::EngineError;
use crate::container::Command;
use crate::record::View;

/// The way to one container's task.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) inbox: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<ContainerId, Handle>,
    by_name: HashMap<ContainerName, ContainerId>,
    execs: HashMap<ExecId, ContainerId>,
}

/// The index of all containers.
#[derive(Default)]
pub(crate) struct Index(RwLock<Tables>);

impl Index {
    /// Reserves a name and makes the container known.
    pub(crate) fn insert(
        &self,
        id: &ContainerId,
        name: &ContainerName,
        handle: Handle,
    ) -> Result<(), EngineError> {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = tables.by_name.get(name) {
            return Err(EngineError::NameInUse { name: name.clone(), user: user.clone() });
        }
        tables.by_name.insert(name.clone(), id.clone());
        tables.by_id.insert(id.clone(), handle);
        Ok(())
    }

    /// Whether a name is taken, and by whom.
    pub(crate) fn user_of(&self, name: &ContainerName) -> Option<ContainerId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// Moves a container to another name.
    pub(crate) fn rename(
        &self,
        id: &ContainerId,
        old: &ContainerName,
        new: &ContainerName,
    ) -> Result<(), EngineError> {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = tables.by_name.get(new) {
            return Err(EngineError::NameInUse { name: new.clone(), user: user.clone() });
        }
        tables.by_name.remove(old);
        tables.by_name.insert(new.clone(), id.clone());
        Ok(())
    }

    /// Forgets a container: its name is free.
    pub(crate) fn remove(&self, id: &ContainerId, name: &ContainerName) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.remove(id);
        if tables.by_name.get(name) == Some(id) {
            tables.by_name.remove(name);
        }
        tables.execs.retain(|_, owner| owner != id);
    }

    /// Finds by full id, name, or the beginning of an id, in this order.
    pub(crate) fn find(&self, text: &str) -> Result<Handle, EngineError> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || EngineError::NoContainer(text.to_owned());
        if let Ok(id) = ContainerId::parse(text)
            && let Some(handle) = tables.by_id.get(&id)
        {
            return Ok(handle.clone());
        }
        if let Ok(name) = ContainerName::parse(text)
            && let Some(handle) = tables.by_name.get(&name).and_then(|id| tables.by_id.get(id))
        {
            return Ok(handle.clone());
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut matches = tables.by_id.iter().filter(|(id, _)| id.as_str().starts_with(text));
        match (matches.next(), matches.next()) {
            (Some((_, handle)), None) => Ok(handle.clone()),
            (Some(_), Some(_)) => Err(EngineError::Ambiguous(text.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// All containers.
    pub(crate) fn views(&self) -> Vec<Arc<View>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.values().map(|handle| Arc::clone(&handle.view.borrow())).collect()
    }

    pub(crate) fn handles(&self) -> Vec<Handle> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.values().cloned().collect()
    }

    pub(crate) fn insert_exec(&self, exec: &ExecId, owner: &ContainerId) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.execs.insert(exec.clone(), owner.clone());
    }

    pub(crate) fn remove_exec(&self, exec: &ExecId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).execs.remove(exec);
    }

    /// The container of an exec, by full id or its beginning.
    pub(crate) fn find_exec(&self, text: &str) -> Result<(ExecId, Handle), EngineError> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || EngineError::NoExec(text.to_owned());
        let found = match ExecId::parse(text) {
            Ok(id) => tables.execs.get_key_value(&id),
            Err(_) if text.is_empty() => None,
            Err(_) => tables.execs.iter().find(|(id, _)| id.as_str().starts_with(text)),
        };
        let (exec, owner) = found.ok_or_else(missing)?;
        let handle = tables.by_id.get(owner).ok_or_else(missing)?;
        Ok((exec.clone(), handle.clone()))
    }
}
