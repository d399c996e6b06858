//! File systems in files, mounted where nobody sees them.
//!
//! Invariant: nothing is attached anywhere: the mount ends with its descriptor and what was made of it. No loop
//! device is used; the kernel reads the file itself (Linux 6.12, `CONFIG_EROFS_FS_BACKED_BY_FILE`).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// The EROFS file system in the file `image`, as a detached mount that cannot be written.
pub fn mount(image: impl AsFd) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Not its path, which may be longer than the 255 bytes that fsconfig takes.
    let source = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    rustix::mount::fsconfig_set_string(&context, "source", source)?;
    rustix::mount::fsconfig_set_flag(&context, "ro")?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

/// The file system in the file at `path`; none when it is a folder.
pub fn mount_if_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty())?;
    if crate::path::is_folder(&opened)? {
        return Ok(None);
    }
    match mount(opened) {
        Err(error) if error.raw_os_error() == Some(Errno::NOTBLK.raw_os_error()) => {
            let why =
                "the kernel cannot mount EROFS from a file here (CONFIG_EROFS_FS_BACKED_BY_FILE, Linux 6.12)";
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
        other => other.map(Some),
    }
}
