//! The files of containers, and the layers they stand on.
//!
//! Invariant: a container's layers stay as long as its files do, even when its image is removed by force.

use std::path::PathBuf;

use havre_base::ContainerId;
use havre_oci::Digest;
use havre_store::{Batch, Difference, Writable};

use crate::index::State;
use crate::{ImageError, Images, Result, WRITABLES};

impl Images {
    /// Makes the files of a container, or finds them.
    pub fn create_writable(&self, container: &ContainerId, image: &Digest) -> Result<Writable> {
        Ok(self.snapshots.create_writable(container, &self.layers_below(container, image)?)?)
    }

    /// What there is to know about the driver, as Docker names it.
    #[must_use]
    pub fn driver_status(&self) -> Vec<(String, String)> {
        self.snapshots.driver_status()
    }

    /// What a container changed.
    pub fn difference(&self, container: &ContainerId, image: &Digest) -> Result<Difference<'_>> {
        Ok(self.snapshots.difference(container, &self.layers_below(container, image)?)?)
    }

    /// The layers that a container stands on, which are its image's when it is new.
    fn layers_below(&self, container: &ContainerId, image: &Digest) -> Result<Vec<Digest>> {
        let mut state = self.state();
        if let Some(layers) = state.writables().get(container) {
            return Ok(layers.clone());
        }
        let known = state.images().get(image).ok_or_else(|| ImageError::NotFound(image.to_string()))?;
        let layers = known.config.rootfs.diff_ids.clone();
        self.db.enqueue(Batch::new().put(WRITABLES, container.as_str(), &layers));
        state.insert_writable(container.clone(), layers.clone());
        Ok(layers)
    }

    /// Where the folder that a container writes to is, if it was made.
    #[must_use]
    pub fn writable_path(&self, container: &ContainerId) -> PathBuf {
        self.snapshots.writable_path(container)
    }

    /// Removes the files of a container; absent counts as removed. They go behind.
    pub fn remove_writable(&self, container: &ContainerId) -> Result<()> {
        self.snapshots.remove_writable(container)?;
        let mut state = self.state();
        if let Some(layers) = state.remove_writable(container) {
            self.db.enqueue(Batch::new().delete(WRITABLES, container.as_str()));
            for layer in layers.iter().filter(|layer| !state.layer_is_needed(layer)) {
                self.snapshots.remove_layer(layer)?;
            }
            self.drop_trees(&state)?;
        }
        Ok(())
    }

    /// Removes trees of layers that are no image's and no container's.
    pub(crate) fn drop_trees(&self, state: &State) -> Result<()> {
        let images = state.images().values().map(|known| known.config.rootfs.diff_ids.as_slice());
        let containers = state.writables().values().map(Vec::as_slice);
        Ok(self.snapshots.keep_trees(images.chain(containers))?)
    }

    /// Bytes of the files that a container wrote.
    #[must_use]
    pub fn written(&self, container: &ContainerId) -> u64 {
        let layers = self.state().writables().get(container).cloned().unwrap_or_default();
        self.snapshots.written(container, &layers)
    }
}
