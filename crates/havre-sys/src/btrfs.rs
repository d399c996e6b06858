//! Subvolumes and snapshots of Btrfs, which are made and removed by requests to a folder above them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use crate::check;

/// Of Btrfs, see statfs(2).
pub const MAGIC: i64 = 0x9123_683e;
/// The inode number of every subvolume's root.
pub const ROOT_INODE: u64 = 256;

// linux/btrfs.h: `_IOW(0x94, 1 | 14 | 15, struct btrfs_ioctl_vol_args)`.
const SNAP_CREATE: u32 = 0x5000_9401;
const SUBVOL_CREATE: u32 = 0x5000_940e;
const SNAP_DESTROY: u32 = 0x5000_940f;
const NAME: usize = 4088;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Arguments {
    source: i64,
    name: [u8; NAME],
}

fn request(parent: impl AsFd, number: u32, source: i64, name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes();
    let mut arguments = Box::new(Arguments { source, name: [0; NAME] });
    match arguments.name.get_mut(..bytes.len()) {
        // The last byte stays zero.
        Some(place) if bytes.len() < NAME => place.copy_from_slice(bytes),
        _ => return Err(io::ErrorKind::InvalidFilename.into()),
    }
    let descriptor = parent.as_fd().as_raw_fd();
    // SAFETY: the requests read a whole `btrfs_ioctl_vol_args`, which lives until the call returns; other file
    // systems know no request of this number.
    check(unsafe { libc::ioctl(descriptor, number.into(), &raw const *arguments) }.into()).map(drop)
}

/// Makes an empty subvolume in `parent`.
pub fn create(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    request(parent, SUBVOL_CREATE, 0, name)
}

/// Makes a subvolume in `parent` that has what the subvolume `source` has now.
pub fn snapshot(source: impl AsFd, parent: impl AsFd, name: &CStr) -> io::Result<()> {
    request(parent, SNAP_CREATE, source.as_fd().as_raw_fd().into(), name)
}

/// Removes a subvolume with everything in it.
pub fn remove(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    request(parent, SNAP_DESTROY, 0, name)
}
