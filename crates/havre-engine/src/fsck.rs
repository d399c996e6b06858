//! A check of what is stored, with the containers that stand on it.
//!
//! Invariants: one at a time; what a container that is alive uses is left alone. Folders of containers that are
//! not there any more are leftovers here as at a start.

use std::sync::{Mutex, TryLockError};

use havre_base::ContainerId;
use havre_image::{CheckEvent, CheckSpec, Checked, Finding, Life, Outcome};

use crate::EngineError;
use crate::containers::Containers;
use crate::launcher::{Launcher, remove_tree};
use crate::state::State;

/// Held while a check goes on.
#[derive(Debug, Default)]
pub(crate) struct Checking(Mutex<()>);

impl Containers {
    /// Verifies what is stored; `on` hears what is found, and ends the check by saying false. Blocks for as long
    /// as reading all layers takes.
    pub fn fsck(
        &self,
        repair: bool,
        on: &mut dyn FnMut(CheckEvent) -> bool,
    ) -> Result<Option<Checked>, EngineError> {
        let launcher = &self.launcher;
        let _one = match launcher.checking.0.try_lock() {
            Ok(held) => held,
            // Whoever panicked holds nothing.
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::State(
                    "another check of what is stored goes on: wait for its end".into(),
                ));
            }
        };
        let life = |id: &ContainerId| {
            let handle = launcher.index.find(id.as_str()).ok()?;
            let view = handle.view.borrow();
            let running = view.now.state.is_alive() || matches!(view.now.state, State::Restarting(_));
            (view.id() == id).then(|| Life { name: view.now.name.to_string(), running })
        };
        let checked = launcher.images.fsck(CheckSpec { repair, life: &life, on: &mut *on })?;
        if checked.is_some() {
            folders(launcher, repair, on)?;
        }
        Ok(checked)
    }
}

/// Folders of containers that are not there.
fn folders(
    launcher: &Launcher,
    repair: bool,
    on: &mut dyn FnMut(CheckEvent) -> bool,
) -> Result<(), EngineError> {
    let root = launcher.settings.data_root.join("containers");
    let entries = std::fs::read_dir(&root).map_err(EngineError::io("read", &root))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = ContainerId::parse(&name).is_ok_and(|id| launcher.index.find(id.as_str()).is_ok());
        if known {
            continue;
        }
        let outcome = match repair.then(|| remove_tree(&entry.path())) {
            None => Outcome::Found,
            Some(Ok(())) => Outcome::Repaired,
            Some(Err(error)) => Outcome::Kept(havre_base::chain(&error)),
        };
        on(CheckEvent::Found(Finding {
            kind: "leftover",
            object: entry.path().display().to_string(),
            problem: "there is no such container".into(),
            repair: "remove it".into(),
            outcome,
            damage: false,
            bytes: 0,
        }));
    }
    Ok(())
}
