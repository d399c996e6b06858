//! A container's file system, looked at from outside.
//!
//! Invariants: nothing is mounted where anybody else could see it: namespaces are entered and made by threads
//! of their own that end at once, and what comes back is a descriptor. A container cannot choose its root:
//! what its processes call `/` is not asked, only its mount namespace. What is mounted into a container that
//! does not run is found inside its root (`havre_sys::path`), as at a start.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use havre_sys::mount::{MountAttr, Propagation, attr, mount_setattr};
use havre_sys::path::Root;
use havre_sys::process::{self, Namespaces};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::error::{RuntimeError, Step};
use crate::fscontext::{self, Layers, RootTree};

/// Which part of a running container's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// With everything that is mounted in it.
    Whole,
    /// The root file system alone.
    Root,
}

/// The files of a container that does not run.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// Its root.
    pub files: Files,
    /// Whether it is to be written.
    pub write: bool,
    /// What is mounted in it.
    pub binds: Vec<Bind>,
}

/// Where the root of a container that does not run is.
#[derive(Debug, Clone)]
pub enum Files {
    /// In layers.
    Overlay {
        /// The image's, topmost first.
        lowers: Vec<PathBuf>,
        /// The writable one.
        upper: PathBuf,
        /// Overlayfs's own folder.
        work: PathBuf,
    },
    /// In a folder as it is.
    Tree(PathBuf),
}

/// Something of the host's in a container that does not run.
#[derive(Debug, Clone)]
pub struct Bind {
    /// The host's file or folder.
    pub source: PathBuf,
    /// Where it is inside.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
    /// With what is mounted below it.
    pub recursive: bool,
}

/// Runs `work` on a thread with a working folder and root of its own.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let alone = || {
        process::unshare_folders()?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("view".into()).stack_size(256 << 10);
        let thread = thread.spawn_scoped(scope, alone)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

/// The root of the container whose first process is behind `pidfd`.
pub fn running(pidfd: BorrowedFd<'_>, part: Part) -> io::Result<OwnedFd> {
    apart(|| {
        // The kernel puts this thread at the root of the namespace, wherever the process has its own.
        process::setns(pidfd, Namespaces::MOUNT)?;
        match part {
            Part::Whole => Ok(rustix::fs::open("/", ROOT, Mode::empty())?),
            Part::Root => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                Ok(rustix::mount::open_tree(CWD, "/", flags)?)
            }
        }
    })
}

/// The user and group that Docker's USER text means in a container.
pub fn user(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32), RuntimeError> {
    let identity = crate::user::resolve(&Root::new(root), text, &[])?;
    Ok((identity.uid, identity.gid))
}

const ROOT: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The tree of a container that does not run. `place` is a folder to mount on, in a namespace of its own.
pub fn stopped(tree: &Stopped, place: &Path) -> Result<OwnedFd, RuntimeError> {
    let root = match &tree.files {
        Files::Overlay { lowers, upper, work } if tree.write => {
            let upper = Some((upper.as_path(), work.as_path()));
            fscontext::overlay(&Layers { lowers, upper, volatile: false }, None)?
        }
        // A tree that is only read needs no upper layer: the writable one is then the topmost of the others.
        Files::Overlay { lowers, upper, .. } => {
            let all: Vec<PathBuf> = std::iter::once(upper).chain(lowers).cloned().collect();
            fscontext::overlay(&Layers { lowers: &all, upper: None, volatile: false }, None)?
        }
        Files::Tree(path) => {
            let folder = rustix::fs::open(path, ROOT, Mode::empty()).step("open a container's files")?;
            let copy = fscontext::copy(&folder, false).step("copy the mount of a container's files")?;
            RootTree::Mount(copy)
        }
    };
    match root {
        RootTree::Mount(mount) if tree.binds.is_empty() => Ok(mount),
        root => apart(|| composed(root, tree, place)).step("mount a container's files"),
    }
}

fn composed(root: RootTree, tree: &Stopped, place: &Path) -> io::Result<OwnedFd> {
    process::unshare(Namespaces::MOUNT)?;
    let private = MountAttr { propagation: Some(Propagation::Private), ..MountAttr::default() };
    mount_setattr(CWD, c"/", true, private)?;
    match root {
        RootTree::Mount(mount) => {
            fscontext::attach(&mount, rustix::fs::open(place, ROOT, Mode::empty())?)?;
        }
        RootTree::Classic(options) => {
            let options = std::ffi::CString::new(options)?;
            rustix::mount::mount(
                "overlay",
                place,
                "overlay",
                rustix::mount::MountFlags::empty(),
                options.as_c_str(),
            )?;
        }
    }
    let mounted = rustix::fs::open(place, ROOT, Mode::empty())?;
    let inside = Root::new(mounted.as_fd());
    for bind in &tree.binds {
        let source = match rustix::fs::open(&bind.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            // As at a start, which would make it, or fail.
            Err(rustix::io::Errno::NOENT) => continue,
            other => other?,
        };
        let is_folder = havre_sys::path::is_folder(&source)?;
        let target = Path::new(&bind.target);
        let found = match tree.write {
            true => inside.ensure_target(target, is_folder),
            false => inside.open_path(target),
        };
        let target = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !tree.write => continue,
            other => other?,
        };
        if is_folder != havre_sys::path::is_folder(&target)? {
            continue;
        }
        let copy = fscontext::copy(&source, bind.recursive)?;
        if bind.read_only {
            let change = MountAttr { set: attr::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            mount_setattr(&copy, c"", bind.recursive, change)?;
        }
        fscontext::attach(&copy, &target)?;
    }
    // The copy lives as long as its descriptor; the namespace ends with this thread.
    let top = rustix::fs::open(place, ROOT, Mode::empty())?;
    fscontext::copy(&top, true)
}
