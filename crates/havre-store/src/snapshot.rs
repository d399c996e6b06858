//! Layers, ready to be mounted, and the writable layers of containers.
//!
//! `layers/<diff id>/fs` is a read-only layer in overlayfs's form (`layer.erofs` with that driver, `erofs/`),
//! `containers/<id>` has the files of a container (`writable.rs`). A layer is the same whatever lies below it, so it is kept by the digest of its own archive and
//! shared by all images that have it.
//!
//! Invariants: a layer under its final name is whole, verified, durable, and never changes; what is removed
//! goes to `trash` by one rename and is deleted behind.
//! Not here: names and tags (`havre-image`); mounting (the runtime mounts what `Writable` names).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use havre_base::ContainerId;
use havre_oci::{Digest, Digester};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::extract::{Extracted, Limits, extract};
use crate::{Driver, StoreError, erofs, folder, recipe, writable};

/// The snapshot store.
#[derive(Debug)]
pub struct Snapshots {
    pub(crate) driver: Driver,
    pub(crate) layers: PathBuf,
    pub(crate) containers: PathBuf,
    /// Layers put together, for drivers that mount nothing.
    pub(crate) trees: PathBuf,
    pub(crate) temporary: PathBuf,
    trash: PathBuf,
    /// Deletes what is in the trash. Unbounded, but of paths that are on disk already.
    pub(crate) janitor: Sender<PathBuf>,
    /// What the janitor could not delete. Held to add a path or to copy the list.
    stuck: Arc<Mutex<Vec<PathBuf>>>,
}

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Digest of its archive.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Length of its archive.
    pub tar_size: u64,
}

/// A layer that was extracted and is not committed yet; dropping it removes it.
#[derive(Debug)]
pub struct Pending {
    folder: PathBuf,
    /// What is known of it.
    pub info: LayerInfo,
    /// Digest and length of the archive as it came, compressed or not.
    pub blob: (Digest, u64),
    /// Who deletes it.
    janitor: Sender<PathBuf>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            // Without a janitor the next start deletes it.
            let _later = self.janitor.send(std::mem::take(&mut self.folder));
        }
    }
}

impl Snapshots {
    /// Opens the store in `root`, making it when it is not there. Half-made layers and trash are deleted.
    pub fn open(root: &Path, driver: Driver) -> Result<Self, StoreError> {
        let [layers, containers, trees, temporary, trash] =
            ["layers", "containers", "trees", "tmp", "trash"].map(|name| root.join(name));
        for path in [root, &layers, &containers, &trees, &temporary, &trash] {
            folder::private(path)?;
        }
        folder::spread(&temporary);
        folder::spread(&containers);
        let (janitor, work) = channel::<PathBuf>();
        for old in [&temporary, &trash] {
            for name in folder::names(old) {
                // The receiver is right here.
                let _queued = janitor.send(old.join(name));
            }
        }
        let stuck = Arc::<Mutex<Vec<PathBuf>>>::default();
        let of_janitor = Arc::clone(&stuck);
        std::thread::Builder::new()
            .name("janitor".into())
            .stack_size(256 << 10)
            .spawn(move || {
                for path in work {
                    // What cannot be deleted now is tried again by a check and at the next start.
                    if writable::remove(&path).is_err() {
                        of_janitor.lock().unwrap_or_else(PoisonError::into_inner).push(path);
                    }
                }
            })
            .map_err(|e| StoreError::write(root, e))?;
        let store = Self { driver, layers, containers, trees, temporary, trash, janitor, stuck };
        store.empty_layer()?;
        Ok(store)
    }

    /// A folder with nothing in it, for what needs a lower layer and has none.
    fn empty_layer(&self) -> Result<(), StoreError> {
        let path = self.layers.join("empty");
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(StoreError::write(&path, error)),
        }
    }

    /// What is known of a layer, if it is here.
    #[must_use]
    pub fn layer(&self, diff_id: &Digest) -> Option<LayerInfo> {
        let text = std::fs::read(self.folder(diff_id).join("layer.json")).ok()?;
        serde_json::from_slice(&text).ok().filter(|info: &LayerInfo| info.diff_id == *diff_id)
    }

    fn folder(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(diff_id.hex())
    }

    /// What overlayfs has as a lower layer: a folder, or a file with a file system in it.
    #[must_use]
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        let name = if self.driver == Driver::Erofs { erofs::IMAGE } else { "fs" };
        self.folder(diff_id).join(name)
    }

    /// Extracts an archive, compressed or not.
    pub fn extract(&self, input: impl Read, limits: Limits) -> Result<Pending, StoreError> {
        let path = folder::unused(&self.temporary);
        folder::private(&path)?;
        let undo = Undo { path: path.clone(), janitor: &self.janitor };
        let extracted = match self.driver {
            Driver::Erofs => erofs::import(input, &path, limits),
            Driver::Overlay2 | Driver::Vfs | Driver::Btrfs => extract(input, &path, limits),
        };
        let Extracted { diff_id, blob, size, tar_size } = extracted?;
        let info = LayerInfo { diff_id, size, tar_size };
        undo.keep();
        Ok(Pending { folder: path, info, blob, janitor: self.janitor.clone() })
    }

    /// Makes layers durable and visible: one sync of the file system for all of them.
    pub fn commit(&self, layers: Vec<Pending>) -> Result<(), StoreError> {
        let mut new = Vec::new();
        for layer in layers {
            if self.layer(&layer.info.diff_id).is_none() {
                let path = layer.folder.join("layer.json");
                let text = serde_json::to_vec(&layer.info).map_err(|e| StoreError::Encode(e.into()))?;
                std::fs::write(&path, text).map_err(|e| StoreError::write(&path, e))?;
                new.push(layer);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.layers, flags, Mode::empty())
            .and_then(rustix::fs::syncfs)
            .map_err(|e| StoreError::write(&self.layers, e))?;
        for mut layer in new {
            let to = self.folder(&layer.info.diff_id);
            if !folder::rename(&layer.folder, &to)? && self.layer(&layer.info.diff_id).is_none() {
                // Something else is in the way: not a layer, so away with it.
                self.discard(&to)?;
                folder::rename(&layer.folder, &to)?;
            }
            if self.layer(&layer.info.diff_id).is_some() && !layer.folder.exists() {
                layer.folder = PathBuf::new();
            }
        }
        folder::sync(&self.layers)
    }

    /// Writes the layer's archive to `out`, byte for byte as it was, and verifies that.
    pub fn write_tar(&self, diff_id: &Digest, out: &mut impl Write) -> Result<(), StoreError> {
        let path = self.folder(diff_id);
        let Some(info) = self.layer(diff_id) else {
            return Err(StoreError::Missing(diff_id.clone()));
        };
        let mut tee = Tee { out, digester: Digester::new() };
        let written = match self.driver {
            Driver::Erofs => erofs::write_tar(&path, info.tar_size, &mut tee),
            Driver::Overlay2 | Driver::Vfs | Driver::Btrfs => recipe::write_tar(&path, &mut tee),
        };
        written.map_err(|e| StoreError::read(&path, e))?;
        let found = tee.digester.finish();
        if found != *diff_id {
            return Err(StoreError::Mismatch { what: "stored layer", expected: diff_id.clone(), found });
        }
        Ok(())
    }

    /// Removes a layer; absent counts as removed.
    pub fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        self.discard(&self.folder(diff_id))
    }

    /// All layers.
    #[must_use]
    pub fn layers(&self) -> Vec<Digest> {
        folder::names(&self.layers).iter().filter_map(|name| Digest::from_hex(name)).collect()
    }

    /// Folders of layers and writable layers that are none, and what was not deleted.
    pub(crate) fn strays(&self) -> Vec<(&'static str, PathBuf)> {
        let mut found = Vec::new();
        let known = |name: &str| name == "empty" || Digest::from_hex(name).is_some();
        for name in folder::names(&self.layers).iter().filter(|name| !known(name)) {
            found.push(("what is no layer", self.layers.join(name)));
        }
        for name in folder::names(&self.containers).iter().filter(|name| ContainerId::parse(name).is_err()) {
            found.push(("what is no container's layer", self.containers.join(name)));
        }
        for (what, parent) in [("a half-made layer", &self.temporary), ("what was removed", &self.trash)] {
            for name in folder::names(parent).iter().filter(|name| !folder::is_ours(name)) {
                found.push((what, parent.join(name)));
            }
        }
        let stuck = std::mem::take(&mut *self.stuck.lock().unwrap_or_else(PoisonError::into_inner));
        for path in stuck {
            if path.symlink_metadata().is_ok() {
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
                found.push(("what could not be deleted", path));
            }
        }
        found
    }

    /// Bytes that were removed and are not deleted yet.
    #[must_use]
    pub fn in_trash(&self) -> u64 {
        folder::size(&self.trash)
    }

    /// Out of sight at once, deleted behind.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        let trash = folder::unused(&self.trash);
        if folder::rename(path, &trash)? {
            // Without a janitor the next start deletes it.
            let _later = self.janitor.send(trash);
        }
        Ok(())
    }
}

struct Tee<W> {
    out: W,
    digester: Digester,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digester.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Removes what was begun, unless it is kept.
#[derive(Debug)]
pub(crate) struct Undo<'a> {
    pub(crate) path: PathBuf,
    pub(crate) janitor: &'a Sender<PathBuf>,
}

impl Undo<'_> {
    pub(crate) fn keep(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Without a janitor the next start deletes it.
            let _later = self.janitor.send(std::mem::take(&mut self.path));
        }
    }
}
