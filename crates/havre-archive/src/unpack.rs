//! From an archive's entries to files below a root.
//!
//! Invariants: nothing outside the root is read or changed, whatever links the archive makes and whoever
//! changes the tree meanwhile: each parent folder is opened by `openat2` inside the root and held, the last
//! component is never followed, and what is made is finished through its own descriptor. Folders, depth and
//! names are bounded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

use crate::ArchiveError;
use crate::error::lossy;
use crate::tar::{Entry, Kind, TarReader};

/// Races lost before a folder counts as out of reach.
const ATTEMPTS: usize = 64;
/// Links of one archive that are remembered; none may be used as a folder.
const LINKS: usize = 200_000;

/// How links that are in the way of an entry are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// All are followed inside the root, those of the archive too. For trees that nobody else can reach.
    InRoot,
    /// Those of the tree are followed inside the root; those that the archive made are refused.
    OldInRoot,
    /// Those of the tree are followed while they stay below the root; those that the archive made are refused.
    OldBelow,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Folders inside each other.
    pub depth: usize,
    /// How links are taken.
    pub links: Links,
    /// `a/../b` is `b`; otherwise a name with `..` is refused.
    pub dots: bool,
    /// An entry for the root itself sets the root's owner, mode and time.
    pub root: bool,
}

impl Rules {
    /// The components of `path` that mean something, joined by single slashes; names begin in `base`.
    pub fn clean(&self, path: &[u8], base: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        if path.len() > 4096 {
            return Err(refuse(path, "name longer than 4096 bytes"));
        }
        if path.contains(&0) {
            return Err(refuse(path, "name with a zero byte"));
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".") {
            if part != b".." {
                parts.push(part);
            } else if !self.dots {
                return Err(refuse(path, "name with \"..\""));
            } else if parts.pop().is_none() {
                let folder = format!("/{}", lossy(base));
                return Err(ArchiveError::Outside { name: lossy(path), folder });
            }
            if parts.len() > self.depth {
                return Err(refuse(path, "too many folders inside each other"));
            }
        }
        Ok(parts.join(&b'/'))
    }
}

/// The owner and group of an entry.
pub fn owner(entry: &Entry) -> Result<(u32, u32), ArchiveError> {
    match (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err(refuse(&entry.path, "owner out of range")),
    }
}

/// The target of a symbolic link.
pub fn link_target(entry: &Entry) -> Result<&[u8], ArchiveError> {
    if entry.link.is_empty() || entry.link.contains(&0) {
        return Err(refuse(&entry.path, "link to no name"));
    }
    Ok(&entry.link)
}

/// Refuses what is no file and has much content.
pub fn check_content(entry: &Entry) -> Result<(), ArchiveError> {
    if entry.size > 1 << 20 && entry.kind != Kind::File {
        return Err(refuse(&entry.path, "content where none belongs"));
    }
    Ok(())
}

/// Where the content of a sparse file belongs, piece by piece.
#[derive(Debug)]
pub struct Parts<'a> {
    name: &'a [u8],
    map: std::slice::Iter<'a, (u64, u64)>,
    at: u64,
    left: u64,
    length: u64,
}

impl<'a> Parts<'a> {
    /// Of the file `name` of this length.
    #[must_use]
    pub fn new(name: &'a [u8], map: &'a [(u64, u64)], length: u64) -> Self {
        Self { name, map: map.iter(), at: 0, left: 0, length }
    }

    /// Where the next bytes of the content belong, and how many of at most `most` belong together there.
    pub fn place(&mut self, most: u64) -> Result<(u64, u64), ArchiveError> {
        while self.left == 0 {
            let next = self.map.next().ok_or_else(|| refuse(self.name, "sparse map too short"))?;
            (self.at, self.left) = *next;
        }
        let (at, take) = (self.at, self.left.min(most));
        match at.checked_add(take) {
            Some(end) if end <= self.length => (self.at, self.left) = (end, self.left - take),
            _ => return Err(refuse(self.name, "sparse map beyond the end of the file")),
        }
        Ok((at, take))
    }
}

/// What whoever owns the tree adds to the unpacking.
pub trait Owner {
    /// Bytes of the archive that did not become the content of a file.
    fn raw(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// The content of a file was written.
    fn content(&mut self, _file: &File, _path: &[u8], _size: u64) -> io::Result<()> {
        Ok(())
    }

    /// Makes room for an entry where `old` is: afterwards `name` in `parent` is free.
    fn displace(&mut self, place: &Place<'_>, old: &Stat) -> Result<(), ArchiveError>;

    /// A folder was made, perhaps where something else was before.
    fn folder_made(&mut self, _folder: BorrowedFd<'_>, _displaced: Option<&Stat>) -> io::Result<()> {
        Ok(())
    }

    /// The owner and group of what an entry makes; none for those of this process.
    fn ids(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        let id = |value: u64| u32::try_from(value).unwrap_or(0);
        Some((Uid::from_raw(id(entry.uid)), Gid::from_raw(id(entry.gid))))
    }
}

/// Where an entry goes.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its folder.
    pub parent: BorrowedFd<'a>,
    /// Its name in the archive, cleaned.
    pub path: &'a [u8],
    /// The last part of it.
    pub name: &'a [u8],
    /// Whether the entry is a folder.
    pub is_folder: bool,
}

/// Unpacks entries below a root.
pub struct Unpacker<O> {
    /// Who owns the tree.
    pub owner: O,
    root: OwnedFd,
    /// Where in the root names begin, cleaned.
    base: Vec<u8>,
    rules: Rules,
    /// The folder of the previous entry: archives list folders one after the other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of folders, which the files made in them would change, with what each folder is: by its end a name may
    /// be that of another one.
    folders: Vec<(Vec<u8>, Timestamps, (u64, u64))>,
    /// Bytes that those take.
    remembered: usize,
    links: HashSet<Vec<u8>>,
    size: u64,
}

impl<O> std::fmt::Debug for Unpacker<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// An entry is not acceptable.
pub fn refuse(name: &[u8], why: &'static str) -> ArchiveError {
    ArchiveError::Entry { name: lossy(name), why }
}

/// An entry cannot be made.
pub fn failed(entry: &Entry) -> impl Fn(io::Error) -> ArchiveError + '_ {
    |source| ArchiveError::Extract { name: lossy(&entry.path), source: Arc::new(source) }
}

/// The folder and the last name of a cleaned path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|&b| b == b'/').map_or((b"", path), |at| (&path[..at], &path[at + 1..]))
}

/// The modification time of an entry, for both times of a file.
fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Attributes an archive may set. Not `trusted.overlay.*` and `user.overlay.*`, which would make overlayfs
/// show other files, and nothing by which the host's own security modules judge.
#[must_use]
pub fn attribute_is_allowed(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// A file system without such attributes is no reason to refuse an archive.
fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// Memory for what is remembered of folders: some hundred thousand of them.
const FOLDERS: usize = 64 << 20;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<O: Owner> Unpacker<O> {
    /// Unpacks into `base` of `root`.
    pub fn new(root: OwnedFd, base: &[u8], rules: Rules, owner: O) -> Self {
        let base = base.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
        let (folders, links) = (Vec::new(), HashSet::new());
        Self { owner, root, base, rules, parent: None, folders, remembered: 0, links, size: 0 }
    }

    /// Bytes of all files made.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The folder that [`Unpacker::open_parent`] opened.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd())
    }

    /// The components of `path` that mean something, joined by single slashes.
    pub fn clean(&self, path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        self.rules.clean(path, &self.base)
    }

    /// Makes what an entry describes; `path` is its cleaned name.
    pub fn entry<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        if path.is_empty() {
            if entry.kind == Kind::Directory && self.rules.root {
                let root = self.open_inside(b"").map_err(|e| failed(entry)(e.into()))?;
                self.set_metadata(&root, entry).map_err(|e| failed(entry)(e.into()))?;
                let stat = rustix::fs::fstat(&root).map_err(|e| failed(entry)(e.into()))?;
                self.remember(&[], times(entry), &stat)?;
            }
            return self.keep(tar, entry);
        }
        if entry.kind == Kind::Other {
            return self.keep(tar, entry);
        }
        owner(entry)?;
        let (parent, name) = split(path);
        self.open_parent(entry, parent)?;
        if !self.links.is_empty() {
            self.links.remove(path);
        }
        match entry.kind {
            Kind::File => self.file(tar, entry, path, name),
            Kind::Directory => {
                self.directory(entry, path, name)?;
                self.keep(tar, entry)
            }
            Kind::Symlink | Kind::HardLink | Kind::Character | Kind::Block | Kind::Fifo => {
                self.special(entry, path, name)?;
                self.keep(tar, entry)
            }
            Kind::Other => Ok(()),
        }
    }

    /// Hands over content that becomes no file.
    pub fn keep<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), ArchiveError> {
        check_content(entry)?;
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.owner.raw(chunk).map_err(failed(entry))?;
        }
    }

    /// Sets the times of folders, now that nothing is made in them any more.
    pub fn finish(&mut self) -> Result<(), ArchiveError> {
        for (path, times, known) in std::mem::take(&mut self.folders) {
            // One that a later entry replaced needs no time, and what a link leads to has its own.
            if let Ok(folder) = self.open_inside(&path)
                && rustix::fs::fstat(&folder).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == known)
            {
                let set = rustix::fs::futimens(&folder, &times);
                set.map_err(|e| ArchiveError::Extract { name: lossy(&path), source: Arc::new(e.into()) })?;
            }
        }
        Ok(())
    }

    /// Opens the folder `path` inside the root, following links as the rules say, and makes what is missing.
    pub fn open_parent(&mut self, entry: &Entry, path: &[u8]) -> Result<(), ArchiveError> {
        let linked = |end: usize| self.links.contains(&path[..end]);
        if !self.links.is_empty()
            && (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]).any(linked)
        {
            return Err(refuse(&entry.path, "it goes through a link of the same archive"));
        }
        if self.parent.as_ref().is_some_and(|(known, _)| known == path) {
            return Ok(());
        }
        self.parent = None;
        let folder = self.folder(path).map_err(failed(entry))?;
        self.parent = Some((path.to_vec(), folder));
        Ok(())
    }

    fn folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.open_inside(path) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        for end in (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]) {
            let part = &path[..end];
            if matches!(self.open_inside(part), Err(Errno::NOENT)) {
                let (above, name) = split(part);
                let above = self.open_inside(above)?;
                rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
                let made = rustix::fs::openat(&above, name, FOLDER, Mode::empty())?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
            }
        }
        Ok(self.open_inside(path)?)
    }

    fn open_inside(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let full = match (self.base.is_empty(), path.is_empty()) {
            (true, true) => b".".to_vec(),
            (true, false) => path.to_vec(),
            (false, true) => self.base.clone(),
            (false, false) => [self.base.as_slice(), path].join(&b'/'),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::NO_MAGICLINKS
            | match self.rules.links {
                Links::InRoot | Links::OldInRoot => ResolveFlags::IN_ROOT,
                Links::OldBelow => ResolveFlags::BENEATH,
            };
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.root, full.as_slice(), flags, Mode::empty(), inside) {
                // A rename somewhere on the way made the kernel give up.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Asks the owner to make room where something is already.
    fn displace(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<Option<Stat>, ArchiveError> {
        let parent = self.parent.as_ref().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd());
        let old = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(old) => old,
            // Somebody was faster.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(entry)(error.into())),
        };
        let place = Place { parent, path, name, is_folder: entry.kind == Kind::Directory };
        self.owner.displace(&place, &old)?;
        Ok(Some(old))
    }

    fn file<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut opened = rustix::fs::openat(self.parent(), name, flags, mode);
        if opened.as_ref().err() == Some(&Errno::EXIST) {
            self.displace(entry, path, name)?;
            opened = rustix::fs::openat(self.parent(), name, flags, mode);
        }
        let mut file = File::from(opened.map_err(|e| failed(entry)(e.into()))?);
        if let Some((map, length)) = &entry.sparse {
            self.sparse(tar, entry, &file, map, *length)?;
            self.size = self.size.saturating_add(*length);
        } else {
            loop {
                let chunk = tar.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                file.write_all(chunk).map_err(failed(entry))?;
            }
            if entry.size > 0 {
                self.owner.content(&file, path, entry.size).map_err(failed(entry))?;
            }
            self.size = self.size.saturating_add(entry.size);
        }
        self.set_metadata(&file, entry).map_err(|e| failed(entry)(e.into()))?;
        rustix::fs::futimens(&file, &times(entry)).map_err(|e| failed(entry)(e.into()))
    }

    fn sparse<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        file: &File,
        map: &[(u64, u64)],
        length: u64,
    ) -> Result<(), ArchiveError> {
        file.set_len(length).map_err(failed(entry))?;
        let mut parts = Parts::new(&entry.path, map, length);
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                return Ok(());
            }
            // Not told as the file's content: where it lies in the file is another order.
            self.owner.raw(chunk).map_err(failed(entry))?;
            let mut rest = chunk;
            while !rest.is_empty() {
                let (at, take) = parts.place(u64::try_from(rest.len()).unwrap_or(u64::MAX))?;
                let (piece, behind) = rest.split_at(usize::try_from(take).unwrap_or(rest.len()));
                std::os::unix::fs::FileExt::write_all_at(file, piece, at).map_err(failed(entry))?;
                rest = behind;
            }
        }
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), ArchiveError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut displaced = None;
        let mut made = rustix::fs::mkdirat(self.parent(), name, mode);
        if made == Err(Errno::EXIST) {
            made = match rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(old) if FileType::from_raw_mode(old.st_mode) == FileType::Directory => Ok(()),
                Ok(_) => {
                    displaced = self.displace(entry, path, name)?;
                    rustix::fs::mkdirat(self.parent(), name, mode)
                }
                Err(error) => Err(error),
            };
        }
        let mut finish = || -> io::Result<Stat> {
            made?;
            let folder = rustix::fs::openat(self.parent(), name, FOLDER, Mode::empty())?;
            self.owner.folder_made(folder.as_fd(), displaced.as_ref())?;
            self.set_metadata(&folder, entry)?;
            Ok(rustix::fs::fstat(&folder)?)
        };
        let stat = finish().map_err(failed(entry))?;
        self.remember(path, times(entry), &stat)
    }

    fn remember(&mut self, path: &[u8], times: Timestamps, stat: &Stat) -> Result<(), ArchiveError> {
        let known = (stat.st_dev, stat.st_ino);
        if let Some(last) = self.folders.last_mut().filter(|(last, _, is)| last == path && *is == known) {
            last.1 = times;
            return Ok(());
        }
        self.remembered += path.len() + size_of::<(Vec<u8>, Timestamps, (u64, u64))>();
        if self.remembered > FOLDERS {
            let limit = u64::try_from(FOLDERS).unwrap_or(u64::MAX);
            return Err(ArchiveError::Limit { what: "bytes for the names of folders", limit });
        }
        self.folders.push((path.to_vec(), times, known));
        Ok(())
    }

    fn special(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), ArchiveError> {
        let mut of_link = entry.kind == Kind::Symlink;
        let target = match entry.kind {
            Kind::HardLink => {
                let target = self.clean(&entry.link)?;
                of_link = self.links.contains(&target);
                if target.as_slice() == path {
                    return Ok(());
                }
                let (above, last) = split(&target);
                if last.is_empty() {
                    return Err(refuse(&entry.path, "link to the root"));
                }
                let linked = |end: usize| self.links.contains(&above[..end]);
                if (1..=above.len()).any(linked) {
                    return Err(refuse(&entry.path, "it goes through a link of the same archive"));
                }
                let above = self.open_inside(above).map_err(|e| failed(entry)(e.into()))?;
                Some((above, last.to_vec()))
            }
            Kind::Symlink => {
                link_target(entry)?;
                None
            }
            _ => None,
        };
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let make = |parent: BorrowedFd<'_>| -> rustix::io::Result<()> {
            let node = |kind, device| rustix::fs::mknodat(parent, name, kind, mode, device);
            match (entry.kind, &target) {
                (Kind::HardLink, Some((above, last))) => {
                    rustix::fs::linkat(above, last.as_slice(), parent, name, AtFlags::empty())
                }
                (Kind::Symlink, _) => rustix::fs::symlinkat(entry.link.as_slice(), parent, name),
                (Kind::Character, _) => {
                    node(FileType::CharacterDevice, makedev(entry.device.0, entry.device.1))
                }
                (Kind::Block, _) => node(FileType::BlockDevice, makedev(entry.device.0, entry.device.1)),
                _ => node(FileType::Fifo, 0),
            }
        };
        let mut made = make(self.parent());
        if made == Err(Errno::EXIST) {
            self.displace(entry, path, name)?;
            made = make(self.parent());
        }
        made.map_err(|e| failed(entry)(e.into()))?;
        if of_link && self.rules.links != Links::InRoot {
            if self.links.len() >= LINKS {
                return Err(refuse(&entry.path, "too many links"));
            }
            self.links.insert(path.to_vec());
        }
        // The attributes of a hard link are those of the file it is another name of.
        if entry.kind == Kind::HardLink { Ok(()) } else { self.dress(entry, name).map_err(failed(entry)) }
    }

    /// Sets the attributes of something that is no file and no folder.
    fn dress(&self, entry: &Entry, name: &[u8]) -> io::Result<()> {
        let parent = self.parent();
        if let Some((uid, gid)) = self.owner.ids(entry) {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if entry.kind != Kind::Symlink {
            // By name it could have become a link meanwhile.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) == FileType::Symlink {
                return Err(io::Error::other("it was replaced while it was made"));
            }
            let at = format!("/proc/self/fd/{}", node.as_raw_fd());
            rustix::fs::chmod(at.as_str(), Mode::from_raw_mode(entry.mode))?;
            for (key, value) in entry.xattrs.iter().filter(|(key, _)| attribute_is_allowed(key)) {
                tolerate(rustix::fs::setxattr(at.as_str(), key.as_slice(), value, XattrFlags::empty()))?;
            }
        }
        Ok(rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_metadata(&self, at: &impl AsFd, entry: &Entry) -> rustix::io::Result<()> {
        // Also for root's: what is made in a folder with the set-group bit has the folder's group.
        if let Some((uid, gid)) = self.owner.ids(entry) {
            rustix::fs::fchown(at, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(at, Mode::from_raw_mode(entry.mode))?;
        // After the owner: a change of owner clears capabilities.
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| attribute_is_allowed(key)) {
            tolerate(rustix::fs::fsetxattr(at, key.as_slice(), value, XattrFlags::empty()))?;
        }
        Ok(())
    }
}

/// Removes what `name` in `parent` is, with everything below it, without following a link or leaving its mount.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let Some(depth) = depth.checked_sub(1) else { return Err(Errno::NAMETOOLONG) };
    let one = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    let folder = rustix::fs::openat2(parent, name, FOLDER, Mode::empty(), one)?;
    let mut entries = rustix::fs::Dir::read_from(&folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove_tree(folder.as_fd(), name, depth)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
