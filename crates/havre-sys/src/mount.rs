//! What the new mount API has and rustix lacks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::check;

/// Flags of one mount (`MOUNT_ATTR_*`), not of its file system.
pub mod attr {
    pub use libc::{
        MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
        MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    };
    /// The bits that choose how access times are kept.
    pub const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
}

/// How mounts made below one mount reach its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// In both directions.
    Shared,
    /// From the peers only.
    Slave,
    /// Not at all, and it cannot be bound.
    Unbindable,
}

/// A change of the attributes of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr<'a> {
    /// Bits of [`attr`] to set.
    pub set: u64,
    /// Bits of [`attr`] to clear.
    pub clear: u64,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// User namespace whose mappings the mount takes.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// Changes the mount whose root is `path` below `dir`, or `dir` itself for an empty path; with
/// `recursive` also every mount below it.
pub fn mount_setattr(dir: impl AsFd, path: &CStr, recursive: bool, change: MountAttr<'_>) -> io::Result<()> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH.cast_unsigned();
    }
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    let mut attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: match change.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Shared) => libc::MS_SHARED,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        },
        userns_fd: 0,
    };
    if let Some(namespace) = change.idmap {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(namespace.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the path is a valid string, the structure outlives the call and its true size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
