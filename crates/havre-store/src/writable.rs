//! The files of containers: a writable layer to be mounted over others, or a whole tree, as the driver has it.
//!
//! Invariants: a tree under its final name is whole; the tree of an image's layers never changes, because the
//! containers' differences are found against it. Trees are made beside and renamed. Nothing of a container is
//! synced: what is written there is the container's own affair.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use havre_base::ContainerId;
use havre_oci::{Digest, layer};
use havre_sys::btrfs;
use rustix::fs::{Mode, OFlags};

use crate::snapshot::Undo;
use crate::{Driver, Snapshots, StoreError, folder, tree};

/// A container's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writable {
    /// To be mounted by overlayfs.
    Overlay {
        /// Overlayfs's upper folder: what the container wrote.
        upper: PathBuf,
        /// Overlayfs's work folder.
        work: PathBuf,
        /// The image's layers, topmost first. Never empty.
        lowers: Vec<PathBuf>,
    },
    /// The root itself.
    Tree(PathBuf),
}

impl Writable {
    /// The folder that the container writes to.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match self {
            Self::Overlay { upper: path, .. } | Self::Tree(path) => path,
        }
    }
}

/// What a container changed, in overlayfs's form. What was made for it is removed with it.
#[derive(Debug)]
pub struct Difference<'a> {
    /// What the container wrote.
    pub upper: PathBuf,
    /// What it was made from, topmost first; never empty.
    pub base: Vec<PathBuf>,
    _made: Option<Undo<'a>>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(path: &Path) -> Result<OwnedFd, StoreError> {
    rustix::fs::open(path, FOLDER, Mode::empty()).map_err(|e| StoreError::read(path, e))
}

/// Removes a folder whose `fs` may be a subvolume: at once where the file system can.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let is_subvolume = path.join("fs").symlink_metadata().is_ok_and(|meta| meta.ino() == btrfs::ROOT_INODE);
    if is_subvolume && let Ok(parent) = open(path) {
        // Where that is refused, its files are removed one by one.
        btrfs::remove(parent, c"fs").unwrap_or(());
    }
    folder::remove(path)
}

impl Snapshots {
    /// How containers get their files.
    #[must_use]
    pub const fn driver(&self) -> Driver {
        self.driver
    }

    /// What there is to know about that, as Docker names it.
    #[must_use]
    pub fn driver_status(&self) -> Vec<(String, String)> {
        self.driver.status(&self.layers)
    }

    /// Where layers are that are given from the bottom up, topmost first; never empty.
    #[must_use]
    pub fn lowers(&self, layers: &[Digest]) -> Vec<PathBuf> {
        if layers.is_empty() {
            return vec![self.layers.join("empty")];
        }
        // Overlayfs takes no folder twice (ELOOP). Of a layer that is there again everything is in the upper one already,
        // and what it hides is hidden from there.
        let mut seen = BTreeSet::new();
        let topmost = layers.iter().rev().filter(|layer| seen.insert(*layer));
        topmost.map(|layer| self.layer_path(layer)).collect()
    }

    /// Makes the files of a container that stands on these layers, the bottom one first, or finds them.
    pub fn create_writable(
        &self,
        container: &ContainerId,
        layers: &[Digest],
    ) -> Result<Writable, StoreError> {
        let path = self.containers.join(container.as_str());
        let upper = path.join("fs");
        if !self.driver.mounts() {
            if !upper.is_dir() {
                let base = self.tree_of(layers)?;
                self.make(&path, false, |fs| self.branch(&base, fs))?;
            }
            return Ok(Writable::Tree(upper));
        }
        let work = path.join("work");
        for (path, mode) in [(&path, 0o700), (&upper, 0o755), (&work, 0o700)] {
            match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
                // The upper folder is the container's `/`: its mode must not depend on our umask.
                Ok(()) if mode == 0o755 => rustix::fs::chmod(path, Mode::from_raw_mode(mode)),
                Err(rustix::io::Errno::EXIST) => Ok(()),
                other => other,
            }
            .map_err(|e| StoreError::write(path, e))?;
        }
        Ok(Writable::Overlay { upper, work, lowers: self.lowers(layers) })
    }

    /// Makes a folder with something as its `fs`, whole or not at all.
    fn make(
        &self,
        to: &Path,
        durable: bool,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = folder::unused(&self.temporary);
        folder::private(&path)?;
        let undo = Undo { path: path.clone(), janitor: &self.janitor };
        fill(&path.join("fs"))?;
        if durable {
            rustix::fs::syncfs(open(&path)?).map_err(|e| StoreError::write(&path, e))?;
        }
        if !folder::rename(&path, to)? && !to.join("fs").is_dir() {
            // Something else is in the way, and not what somebody made at the same time.
            self.discard(to)?;
            folder::rename(&path, to)?;
        }
        if path.exists() {
            return Ok(());
        }
        undo.keep();
        Ok(())
    }

    /// The tree of these layers, which is made when somebody wants it for the first time.
    fn tree_of(&self, layers: &[Digest]) -> Result<PathBuf, StoreError> {
        let path = self.trees.join(tree_name(layers));
        let fs = path.join("fs");
        if !fs.is_dir() {
            self.make(&path, true, |fs| {
                self.empty_tree(fs)?;
                let mut lowers = self.lowers(layers);
                lowers.reverse();
                tree::apply_layers(lowers.iter().map(PathBuf::as_path), fs)
                    .map_err(|e| StoreError::write(fs, e))
            })?;
        }
        Ok(fs)
    }

    fn empty_tree(&self, fs: &Path) -> Result<(), StoreError> {
        let made = match self.driver {
            Driver::Btrfs => below(fs, |parent, name| btrfs::create(parent, name)),
            Driver::Vfs | Driver::Overlay2 | Driver::Erofs => std::fs::create_dir(fs),
        };
        made.and_then(|()| Ok(rustix::fs::chmod(fs, Mode::from_raw_mode(0o755))?))
            .map_err(|e| StoreError::write(fs, e))
    }

    /// A tree of its own that has what `base` has.
    fn branch(&self, base: &Path, fs: &Path) -> Result<(), StoreError> {
        match self.driver {
            Driver::Btrfs => {
                let source = open(base)?;
                below(fs, |parent, name| btrfs::snapshot(&source, parent, name))
                    .map_err(|e| StoreError::write(fs, e))
            }
            Driver::Vfs | Driver::Overlay2 | Driver::Erofs => {
                self.empty_tree(fs)?;
                tree::copy_tree(base, fs).map_err(|e| StoreError::write(fs, e))
            }
        }
    }

    /// Removes the trees of all but these stacks of layers.
    pub fn keep_trees<'a>(&self, stacks: impl Iterator<Item = &'a [Digest]>) -> Result<(), StoreError> {
        let here = folder::names(&self.trees);
        if here.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<String> = stacks.map(tree_name).collect();
        for name in here.iter().filter(|name| !wanted.contains(*name)) {
            self.discard(&self.trees.join(name))?;
        }
        Ok(())
    }

    /// What a container changed.
    pub fn difference(
        &self,
        container: &ContainerId,
        layers: &[Digest],
    ) -> Result<Difference<'_>, StoreError> {
        match self.create_writable(container, layers)? {
            Writable::Overlay { upper, lowers, .. } => Ok(Difference { upper, base: lowers, _made: None }),
            Writable::Tree(own) => {
                let base = self.tree_of(layers)?;
                let path = folder::unused(&self.temporary);
                folder::private(&path)?;
                let made = Undo { path: path.clone(), janitor: &self.janitor };
                let upper = path.join("fs");
                std::fs::create_dir(&upper).map_err(|e| StoreError::write(&upper, e))?;
                tree::difference(&base, &own, Some(&upper)).map_err(|e| StoreError::write(&upper, e))?;
                Ok(Difference { upper, base: vec![base], _made: Some(made) })
            }
        }
    }

    /// Where the folder that a container writes to is, if it was made.
    #[must_use]
    pub fn writable_path(&self, container: &ContainerId) -> PathBuf {
        self.containers.join(container.as_str()).join("fs")
    }

    /// Removes the files of a container; absent counts as removed.
    pub fn remove_writable(&self, container: &ContainerId) -> Result<(), StoreError> {
        self.discard(&self.containers.join(container.as_str()))
    }

    /// Bytes of the files that a container wrote, standing on these layers; none has written nothing.
    #[must_use]
    pub fn written(&self, container: &ContainerId, layers: &[Digest]) -> u64 {
        let path = self.writable_path(container);
        if self.driver.mounts() {
            return folder::size(&path);
        }
        let base = self.trees.join(tree_name(layers)).join("fs");
        if path.is_dir() { tree::difference(&base, &path, None).unwrap_or(0) } else { 0 }
    }

    /// The containers that have files.
    #[must_use]
    pub fn writables(&self) -> Vec<ContainerId> {
        folder::names(&self.containers).iter().filter_map(|name| ContainerId::parse(name).ok()).collect()
    }

    /// Whether the folders of a container are there.
    #[must_use]
    pub fn is_writable_whole(&self, container: &ContainerId) -> bool {
        let path = self.containers.join(container.as_str());
        path.join("fs").is_dir() && (!self.driver.mounts() || path.join("work").is_dir())
    }
}

fn tree_name(layers: &[Digest]) -> String {
    layer::chain_id(layers).map_or_else(|| "empty".to_owned(), |chain| chain.hex().to_owned())
}

/// Makes something by its name in the folder above it.
fn below(
    path: &Path,
    make: impl FnOnce(std::os::fd::BorrowedFd<'_>, &std::ffi::CStr) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let parent = rustix::fs::open(parent, FOLDER, Mode::empty())?;
    make(parent.as_fd(), &CString::new(name.as_bytes())?)
}
