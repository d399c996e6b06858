//! Private folders and their clean-up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, IFlags, Mode, OFlags};

use crate::StoreError;

/// Makes `path` (and its parents) as a folder that only we can enter, or repairs one that others can.
pub(crate) fn private(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(|e| StoreError::write(path, e))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| StoreError::write(path, e))?;
    let now = rustix::fs::fstat(&folder).map_err(|e| StoreError::read(path, e))?;
    let (mode, wanted) = (Mode::from_raw_mode(now.st_mode), Mode::from_raw_mode(0o700));
    if FileType::from_raw_mode(now.st_mode) == FileType::Directory && mode != wanted {
        rustix::fs::fchmod(&folder, wanted).map_err(|e| StoreError::write(path, e))?;
    }
    Ok(())
}

/// Asks the file system to place what is made in this folder apart from each other. Without that ext4 puts
/// all layers into the same few groups of inodes, and making files takes a hundred times as long for five
/// seconds after others were deleted there (it does not reuse inodes sooner, and looks at each of them).
pub(crate) fn spread(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(folder) = rustix::fs::open(path, flags, Mode::empty())
        && let Ok(now) = rustix::fs::ioctl_getflags(&folder)
    {
        // Only a wish: other file systems have no such flag.
        let _wished = rustix::fs::ioctl_setflags(&folder, now | IFlags::TOPDIR);
    }
}

/// Makes the names in the folder durable.
pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|e| StoreError::write(path, e))
}

/// A name nobody else uses in `parent`. The folder is emptied at start, so that the process id and a
/// counter are enough.
pub(crate) fn unused(parent: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    parent.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Whether `unused` of this process may have given the name: its owner is at work on it.
pub(crate) fn is_ours(name: &str) -> bool {
    let own = std::process::id().to_string();
    name.split_once('-').is_some_and(|(id, rest)| id == own && rest.parse::<u64>().is_ok())
}

/// Removes a file or a whole folder; absent counts as removed.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::write(path, error)),
        _ => Ok(()),
    }
}

/// Removes everything in the folder and goes on after failures.
pub(crate) fn empty(path: &Path) {
    for name in names(path) {
        // What cannot be removed now is tried again at the next start.
        let _later = remove(&path.join(name));
    }
}

/// Removes what was not changed for `age`, and goes on after failures.
pub(crate) fn remove_older(path: &Path, age: std::time::Duration) {
    for name in names(path) {
        let path = path.join(name);
        let changed = path.symlink_metadata().and_then(|meta| meta.modified()).ok();
        if changed.and_then(|at| at.elapsed().ok()).is_none_or(|since| since > age) {
            let _later = remove(&path);
        }
    }
}

/// The names in the folder.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Moves `from` to `to`, replacing a file there; false when `from` is not there or `to` is a folder with
/// something in it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<bool, StoreError> {
    match rustix::fs::renameat(CWD, from, CWD, to) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(StoreError::write(to, error)),
    }
}

/// Folders below folders that are looked into; what is deeper than a path can be counts as nothing.
const DEEPEST: u32 = 256;

/// Bytes of the files below a folder, each counted once however many names it has. No link is followed, also
/// when a container changes the folder meanwhile.
pub(crate) fn size(path: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    size_below(CWD, path, &mut seen, DEEPEST)
}

/// Bytes of a file, or of the files below a folder.
pub(crate) fn size_of(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => size(path),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

fn size_below(
    parent: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg,
    seen: &mut std::collections::HashSet<u64>,
    left: u32,
) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    let Ok(mut entries) = opened.and_then(rustix::fs::Dir::new) else { return 0 };
    let mut names = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    let Ok(folder) = entries.fd() else { return 0 };
    let mut total = 0_u64;
    for name in names {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(folder, &name, flags) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if left > 0 {
                total = total.saturating_add(size_below(folder, &name, seen, left - 1));
            }
        } else if stat.st_nlink == 1 || seen.insert(stat.st_ino) {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }
    total
}

#[cfg(test)]
mod size_tests {
    use super::size;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("d")).unwrap();
        std::fs::File::create(path.join("d/a")).unwrap().set_len(1000).unwrap();
        std::fs::hard_link(path.join("d/a"), path.join("b")).unwrap();
        std::os::unix::fs::symlink("/", path.join("l")).unwrap();
        assert_eq!(size(path), 1001);
        assert_eq!(size(&path.join("absent")), 0);
    }
}
