//! What a container changed: the entries of its upper folder against the image's layers.
//!
//! Invariants: the upper folder is read through descriptors of its folders, because the container may change it
//! meanwhile; what the engine itself puts there for its mounts is no change.

use std::os::fd::OwnedFd;

use havre_archive::pack::{is_opaque, is_whiteout};
use havre_image::Difference;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Places that Docker too keeps out of what a container changed: the engine mounts on them.
const FOLDERS: &[&[u8]] =
    &[b"dev/mqueue", b"dev/pts", b"dev/shm", b"proc", b"sys", b"sys/fs", b"sys/fs/cgroup"];
const FILES: &[&[u8]] = &[b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"];
/// Folders that are made for those, if there is nothing else in them.
const PARENTS: &[&[u8]] = &[b"dev", b"etc", b"sys", b"sys/fs"];
/// More changes than this are not listed.
const MOST: usize = 2_000_000;
const DEPTH: usize = 256;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another one now.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// A changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A container's upper folder and what is below it.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    pub(super) upper: OwnedFd,
    pub(super) base: OwnedFd,
    /// Where both are, and what keeps them there.
    pub(super) difference: Difference<'a>,
}

fn look(root: &OwnedFd, path: &[u8]) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let found = rustix::fs::openat2(root, path, flags, Mode::empty(), inside).ok()?;
    rustix::fs::fstat(found).ok().filter(|stat| !is_whiteout(stat))
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn described(stat: &Stat) -> impl PartialEq + use<> {
    (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec)
}

fn names(folder: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            list.push(name);
        }
        if list.len() > MOST {
            return Err(Errno::TOOBIG);
        }
    }
    list.sort();
    Ok(list)
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}

impl Layers<'_> {
    /// Whether an entry of the upper folder is only there because the engine mounts something.
    pub(super) fn is_scaffold(&self, path: &[u8]) -> bool {
        let known = [FOLDERS, FILES, PARENTS].iter().any(|list| list.contains(&path));
        if !known {
            return false;
        }
        let Some(stat) = look(&self.upper, path) else { return false };
        if !is_folder(&stat) {
            return FILES.contains(&path) && stat.st_size == 0 && look(&self.base, path).is_none();
        }
        let same = look(&self.base, path).is_none_or(|old| {
            (old.st_mode, old.st_uid, old.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
        });
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let Ok(folder) = rustix::fs::openat2(&self.upper, path, FOLDER, Mode::empty(), inside) else {
            return false;
        };
        let listed = names(&folder).unwrap_or_default();
        let scaffold = |name: &Vec<u8>| self.is_scaffold(&below(path, name));
        let empty = listed.is_empty() && (FOLDERS.contains(&path) || path == b"dev");
        same && !is_opaque(&folder) && (empty || (!listed.is_empty() && listed.iter().all(scaffold)))
    }

    /// All changes, by path.
    pub(super) fn changes(&self) -> rustix::io::Result<Vec<Change>> {
        let mut found = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&self.upper, c".", flags, Mode::empty())?;
        self.walk(&top, b"", DEPTH, &mut found)?;
        found.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        Ok(found)
    }

    fn walk(
        &self,
        folder: &OwnedFd,
        path: &[u8],
        depth: usize,
        found: &mut Vec<Change>,
    ) -> rustix::io::Result<bool> {
        let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let before = found.len();
        let mut tell = |path: &[u8], kind| {
            let path = format!("/{}", String::from_utf8_lossy(path));
            found.push(Change { path, kind });
            if found.len() > MOST { Err(Errno::TOOBIG) } else { Ok(()) }
        };
        let listed = names(folder)?;
        if !path.is_empty() && is_opaque(folder) && look(&self.base, path).is_some_and(|old| is_folder(&old))
        {
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let old = rustix::fs::openat2(&self.base, path, FOLDER, Mode::empty(), inside)?;
            for gone in names(&old)?.iter().filter(|name| listed.binary_search(name).is_err()) {
                tell(&below(path, gone), ChangeKind::Deleted)?;
            }
        }
        let mut folders = Vec::new();
        for name in &listed {
            let path = below(path, name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let leaf = match rustix::fs::openat(folder, name.as_slice(), flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let stat = rustix::fs::fstat(&leaf)?;
            if is_whiteout(&stat) {
                tell(&path, ChangeKind::Deleted)?;
                continue;
            }
            if self.is_scaffold(&path) {
                continue;
            }
            match look(&self.base, &path) {
                None => tell(&path, ChangeKind::Added)?,
                // Perhaps it is here only for what is in it.
                Some(old) if is_folder(&old) && is_folder(&stat) => {}
                // A hard link made to it brings a file up as it is.
                Some(old) if described(&old) == described(&stat) => {}
                Some(_) => tell(&path, ChangeKind::Modified)?,
            }
            if is_folder(&stat) {
                folders.push((name.clone(), path, stat));
            }
        }
        for (name, path, stat) in folders {
            let inner = match rustix::fs::openat(folder, name.as_slice(), FOLDER, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other?,
            };
            let inside = self.walk(&inner, &path, depth, found)?;
            let Some(old) = look(&self.base, &path).filter(is_folder) else { continue };
            let told = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
            let touched = old.st_mtime != stat.st_mtime && !PARENTS.contains(&path.as_slice());
            if inside || touched || told(&old) != told(&stat) || is_opaque(&inner) {
                let path = format!("/{}", String::from_utf8_lossy(&path));
                found.push(Change { path, kind: ChangeKind::Modified });
            }
        }
        Ok(found.len() > before)
    }
}
