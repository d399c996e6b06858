//! Whether this kernel can do what the driver needs.
//!
//! Invariant: it is tried and not guessed: a small layer is made where layers will be, mounted, and an overlay on
//! it; nothing is attached and nothing stays.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

use havre_archive::tar::{Entry, Kind, TarWriter};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::IMAGE;
use crate::{Limits, StoreError, folder};

/// Refuses with what is missing.
pub(crate) fn probe(root: &Path) -> Result<(), StoreError> {
    let refused = |why: &str| {
        StoreError::Driver(format!(
            "the storage driver \"erofs\" (experimental) cannot be used here: {why}: choose overlay2, and another --data-root if this one was made with erofs"
        ))
    };
    // What stays after a crash is deleted with what else is there.
    let path = folder::unused(&root.join("tmp"));
    folder::private(&path)?;
    let probed = sample(&path).and_then(|()| {
        let file = path.join(IMAGE);
        let image = File::open(&file).map_err(|e| StoreError::read(&file, e))?;
        try_out(&image).map_err(|why| refused(&why))
    });
    folder::remove(&path)?;
    probed
}

/// Makes a layer with what a kernel may lack.
fn sample(path: &Path) -> Result<(), StoreError> {
    let mut tar = TarWriter::new(Vec::new());
    let made = |e: std::io::Error| StoreError::write(path, e);
    let entry = |path: &[u8]| Entry { path: path.to_vec(), mode: 0o755, ..Entry::default() };
    for folder in [b"d/", b"e/"] {
        tar.entry(Entry { kind: Kind::Directory, ..entry(folder) }, b"").map_err(made)?;
    }
    tar.entry(entry(b"d/.wh..wh..opq"), b"").map_err(made)?;
    let capability = [1, 0, 0, 2].into_iter().chain([0; 16]).collect();
    let xattrs = vec![(b"security.capability".to_vec(), capability)];
    tar.entry(Entry { xattrs, ..entry(b"f") }, b"content").map_err(made)?;
    super::import(tar.finish().map_err(made)?.as_slice(), path, Limits::default()).map(drop)
}

/// Mounts it; the error is what is missing.
fn try_out(image: &File) -> Result<(), String> {
    let mount = havre_sys::erofs::mount(image).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => "this kernel has no EROFS (CONFIG_EROFS_FS)".to_owned(),
        Some(Errno::NOTBLK) => {
            "this kernel does not mount EROFS from a file of this file system (Linux 6.12 with \
             CONFIG_EROFS_FS_BACKED_BY_FILE, and a data root that is not on overlayfs or tmpfs)"
                .to_owned()
        }
        Some(Errno::PERM) => "file systems may not be mounted here (CAP_SYS_ADMIN)".to_owned(),
        _ => format!("this kernel does not mount the layers that are made for it ({error})"),
    })?;
    let open = |name: &str, flags| rustix::fs::openat(&mount, name, flags | OFlags::CLOEXEC, Mode::empty());
    let has = |name: &str, attribute: &str| {
        let mut value = [0_u8; 32];
        open(name, OFlags::RDONLY)
            .and_then(|file| rustix::fs::fgetxattr(&file, attribute, &mut value))
            .map_err(|error| {
                format!(
                    "this kernel's EROFS does not show {attribute} ({error}; CONFIG_EROFS_FS_XATTR and \
                     CONFIG_EROFS_FS_SECURITY)"
                )
            })
    };
    has("d", "trusted.overlay.opaque")?;
    has("f", "security.capability")?;
    let mut content = [0_u8; 16];
    let read = open("f", OFlags::RDONLY).and_then(|file| rustix::io::read(&file, &mut content));
    if read.ok().and_then(|count| content.get(..count)) != Some(b"content") {
        return Err("this kernel's EROFS does not show what a layer has".to_owned());
    }
    overlay(&mount).map_err(|error| {
        format!("overlayfs does not take a layer that is mounted nowhere ({error}; Linux 6.15)")
    })
}

/// Makes an overlay of the two folders of the layer.
fn overlay(mount: impl AsFd) -> rustix::io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for name in ["d", "e"] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::openat(&mount, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", layer.as_raw_fd());
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", path)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
}
