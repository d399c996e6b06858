//! Files that change whole.
//!
//! Invariant: after `replace` has returned `Ok`, a crash leaves the new bytes; before, the old ones or
//! the new ones, never a mixture. Nothing else in the tree opens a state file for writing.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a replaced file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: the file and its folder are synced.
    PowerLoss,
    /// Only the death of this process: enough on file systems that do not outlive the machine anyway.
    Process,
}

/// Replaces the file at `path` with `bytes`, readable by the owner only, and waits until it is on disk.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with(path, bytes, 0o600, Durability::PowerLoss)
}

/// Replaces the file at `path` with `bytes` and the permission bits `mode`.
pub fn replace_with(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = folder.join(temporary);

    let written = write_beside(&temporary, bytes, mode, durability)
        .and_then(|()| Ok(rustix::fs::rename(&temporary, path)?));
    if let Err(error) = written {
        match std::fs::remove_file(&temporary) {
            Ok(()) => {}
            Err(second) if second.kind() == io::ErrorKind::NotFound => {}
            Err(second) => {
                return Err(io::Error::new(error.kind(), format!("{error}; temporary file stays: {second}")));
            }
        }
        return Err(error);
    }
    if durability == Durability::PowerLoss {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    // A stale file of a dead process with our number cannot be in use: replace it, but never follow it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    if durability == Durability::PowerLoss {
        file.sync_all()?;
    }
    Ok(())
}

/// Asks the kernel to begin writing a file to its disk; a sync that comes later finds less to do.
pub fn begin_writing(file: impl std::os::fd::AsFd) {
    use std::os::fd::AsRawFd as _;
    // SAFETY: only numbers are passed. It is a hint: that a file system knows no such thing does not matter.
    unsafe {
        libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/"), b"").is_err());
    }
}
