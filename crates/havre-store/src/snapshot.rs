//! Layers, extracted and ready to be mounted, and the writable layers of containers.
//!
//! `layers/<diff id>/fs` is a read-only layer in overlayfs's form, `containers/<id>/{fs,work}` a writable
//! one. A layer is the same whatever lies below it, so it is kept by the digest of its own archive and
//! shared by all images that have it.
//!
//! Invariants: a layer under its final name is whole, verified, durable, and never changes; what is removed
//! goes to `trash` by one rename and is deleted behind.
//! Not here: names and tags (`havre-image`); mounting (the runtime mounts what `WritableLayer` names).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use havre_base::ContainerId;
use havre_oci::{Digest, Digester};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::extract::{Extracted, Limits, extract};
use crate::{StoreError, folder, recipe};

/// The snapshot store.
#[derive(Debug)]
pub struct Snapshots {
    layers: PathBuf,
    containers: PathBuf,
    temporary: PathBuf,
    trash: PathBuf,
    /// Deletes what is in the trash. Unbounded, but of paths that are on disk already.
    janitor: Sender<PathBuf>,
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

/// A container's writable layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableLayer {
    /// Overlayfs's upper folder.
    pub upper: PathBuf,
    /// Overlayfs's work folder.
    pub work: PathBuf,
}

impl Snapshots {
    /// Opens the store in `root`, making it when it is not there. Half-made layers and trash are deleted.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let [layers, containers, temporary, trash] =
            ["layers", "containers", "tmp", "trash"].map(|name| root.join(name));
        for path in [root, &layers, &containers, &temporary, &trash] {
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
                    if folder::remove(&path).is_err() {
                        of_janitor.lock().unwrap_or_else(PoisonError::into_inner).push(path);
                    }
                }
            })
            .map_err(|e| StoreError::write(root, e))?;
        Ok(Self { layers, containers, temporary, trash, janitor, stuck })
    }

    /// A folder with nothing in it, for what needs a lower layer and has none.
    pub fn empty_layer(&self) -> Result<PathBuf, StoreError> {
        let path = self.layers.join("empty");
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
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

    /// The folder of a layer that overlayfs takes as a lower one.
    #[must_use]
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.folder(diff_id).join("fs")
    }

    /// Extracts an archive, compressed or not.
    pub fn extract(&self, input: impl Read, limits: Limits) -> Result<Pending, StoreError> {
        let path = folder::unused(&self.temporary);
        folder::private(&path)?;
        let undo = Undo { path: &path, janitor: &self.janitor };
        let Extracted { diff_id, blob, size, tar_size } = extract(input, &path, limits)?;
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
        if self.layer(diff_id).is_none() {
            return Err(StoreError::Missing(diff_id.clone()));
        }
        let mut tee = Tee { out, digester: Digester::new() };
        recipe::write_tar(&path, &mut tee).map_err(|e| StoreError::read(&path, e))?;
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

    /// Makes the writable layer of a container, or finds it. Nothing is synced: what is written there is the
    /// container's own affair.
    pub fn create_writable(&self, container: &ContainerId) -> Result<WritableLayer, StoreError> {
        let path = self.containers.join(container.as_str());
        let layer = WritableLayer { upper: path.join("fs"), work: path.join("work") };
        for (path, mode) in [(&path, 0o700), (&layer.upper, 0o755), (&layer.work, 0o700)] {
            match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
                // The upper folder is the container's `/`: its mode must not depend on our umask.
                Ok(()) if mode == 0o755 => rustix::fs::chmod(path, Mode::from_raw_mode(mode)),
                Err(rustix::io::Errno::EXIST) => Ok(()),
                other => other,
            }
            .map_err(|e| StoreError::write(path, e))?;
        }
        Ok(layer)
    }

    /// Where the upper folder of a container is, if it was made.
    #[must_use]
    pub fn writable_path(&self, container: &ContainerId) -> PathBuf {
        self.containers.join(container.as_str()).join("fs")
    }

    /// Removes the writable layer of a container; absent counts as removed.
    pub fn remove_writable(&self, container: &ContainerId) -> Result<(), StoreError> {
        self.discard(&self.containers.join(container.as_str()))
    }

    /// Bytes of the files that a container wrote; none has written nothing.
    #[must_use]
    pub fn written(&self, container: &ContainerId) -> u64 {
        folder::size(&self.containers.join(container.as_str()).join("fs"))
    }

    /// The containers that have a writable layer.
    #[must_use]
    pub fn writables(&self) -> Vec<ContainerId> {
        folder::names(&self.containers).iter().filter_map(|name| ContainerId::parse(name).ok()).collect()
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

    /// Whether both folders of a container's writable layer are there.
    #[must_use]
    pub fn is_writable_whole(&self, container: &ContainerId) -> bool {
        let path = self.containers.join(container.as_str());
        ["fs", "work"].iter().all(|name| path.join(name).is_dir())
    }

    /// Out of sight at once, deleted behind.
    fn discard(&self, path: &Path) -> Result<(), StoreError> {
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

struct Undo<'a> {
    path: &'a Path,
    janitor: &'a Sender<PathBuf>,
}

impl Undo<'_> {
    fn keep(mut self) {
        self.path = Path::new("");
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Without a janitor the next start deletes it.
            let _later = self.janitor.send(self.path.into());
        }
    }
}
