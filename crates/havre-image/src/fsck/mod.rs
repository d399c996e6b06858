//! Checking and repairing what is stored: content, layers, images, names, writable layers, leftovers.
//!
//! Everything is read without a lock; what was found is looked at again under the lock before it is told or
//! changed, because images come and go meanwhile.
//! Invariants: a check without repair changes nothing. A repair leaves what is whole or removes it, never
//! touches a layer that a running container stands on, and removes an image before its parts, so that it can
//! be interrupted anywhere. What is lost is named, with how to get it again.

mod repair;

use std::collections::{BTreeMap, BTreeSet};

use havre_base::{ContainerId, chain};
use havre_oci::{Digest, Reference};
use havre_store::{StoreError, Verified};

use crate::{Images, Removed, Result};
use repair::Repair;

/// What the engine knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its name.
    pub name: String,
    /// Whether its files are in use.
    pub running: bool,
}

/// What became of something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Only found: no repair was asked for.
    Found,
    /// Repaired.
    Repaired,
    /// Left as it is: why.
    Kept(String),
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of object: `blob`, `layer`, `image`, `name`, `container`, `record`, `leftover`.
    pub kind: &'static str,
    /// Which.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// What a repair does, and what the user does then.
    pub repair: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether something is lost, and not merely in the way.
    pub damage: bool,
    /// Bytes that a repair frees, as far as they are known.
    pub bytes: u64,
}

/// What happens during a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckEvent {
    /// So many objects of so many were read.
    Progress {
        /// Their kind.
        what: &'static str,
        /// Read.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// Something was found.
    Found(Finding),
}

/// What a check looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Documents.
    pub blobs: usize,
    /// Layers.
    pub layers: usize,
    /// Images.
    pub images: usize,
    /// Names of images.
    pub names: usize,
    /// Writable layers.
    pub containers: usize,
    /// Layers whose archive cannot be written again, so that they cannot be verified.
    pub unverifiable: Vec<Digest>,
    /// What a repair removed of images and names.
    pub removed: Vec<Removed>,
}

/// How a check is done.
pub struct CheckSpec<'a> {
    /// Whether what is found is repaired.
    pub repair: bool,
    /// The containers there are.
    pub life: &'a dyn Fn(&ContainerId) -> Option<Life>,
    /// Hears what happens; false ends the check.
    pub on: &'a mut dyn FnMut(CheckEvent) -> bool,
}

/// Damaged parts, and in what way.
#[derive(Debug, Default)]
struct Damage {
    blobs: BTreeMap<Digest, String>,
    layers: BTreeMap<Digest, String>,
    /// Layers that can be mended from what is here.
    mendable: Vec<Digest>,
}

/// An image with damaged parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broken {
    image: Digest,
    names: Vec<Reference>,
    why: String,
}

impl Images {
    /// Verifies everything that is stored. `None` when whoever listens does not want to go on.
    pub fn fsck(&self, mut spec: CheckSpec<'_>) -> Result<Option<Checked>> {
        let mut checked = Checked::default();
        let Some(damage) = self.read_all(&mut spec, &mut checked)? else { return Ok(None) };
        let mut repair = Repair { images: self, spec, checked };
        repair.parts(damage)?;
        repair.records()?;
        repair.writables()?;
        repair.leftovers()?;
        Ok(Some(repair.checked))
    }

    /// Reads every document and layer.
    fn read_all(&self, spec: &mut CheckSpec<'_>, checked: &mut Checked) -> Result<Option<Damage>> {
        let (mut blobs, mut layers): (BTreeSet<Digest>, BTreeSet<Digest>) =
            (BTreeSet::new(), BTreeSet::new());
        {
            let state = self.state();
            checked.images = state.images().len();
            checked.names = state.tags().len();
            for known in state.images().values() {
                blobs.insert(known.id.clone());
                blobs.extend(known.record.documents.iter().cloned());
                layers.extend(known.config.rootfs.diff_ids.iter().cloned());
            }
            layers.extend(state.writables().values().flatten().cloned());
        }
        blobs.extend(self.content.list());
        layers.extend(self.snapshots.layers());
        let mut damage = Damage::default();
        let mut progress = |what, done, total| (spec.on)(CheckEvent::Progress { what, done, total });
        for (done, blob) in blobs.iter().enumerate() {
            if !progress("blob", done, blobs.len()) {
                return Ok(None);
            }
            if let Err(error) = self.content.verify(blob) {
                damage.blobs.insert(blob.clone(), in_words(error)?);
            }
        }
        for (done, layer) in layers.iter().enumerate() {
            if !progress("layer", done, layers.len()) {
                return Ok(None);
            }
            match self.snapshots.verify(layer) {
                Ok(Verified::Whole) => {}
                Ok(Verified::Mendable) => damage.mendable.push(layer.clone()),
                Ok(Verified::Unrepeatable) => checked.unverifiable.push(layer.clone()),
                Err(error) => drop(damage.layers.insert(layer.clone(), in_words(error)?)),
            }
        }
        checked.blobs = blobs.len();
        checked.layers = layers.len();
        Ok(Some(damage))
    }
}

/// What is wrong with an object; errors that say nothing of it end the check.
fn in_words(error: StoreError) -> Result<String> {
    match error {
        StoreError::Missing(_) => Ok("is not here".into()),
        StoreError::Mismatch { found, .. } => Ok(format!("has other bytes (digest {})", found.short())),
        StoreError::Read { .. } if !error.is_of_the_machine() => Ok(chain(&error)),
        other => Err(other.into()),
    }
}
