//! From a layer's archive to files in the form overlayfs wants.
//!
//! Invariants: nothing outside the layer's root is read or changed, whatever links the archive makes: each
//! parent folder is opened by `openat2` inside the root and the last component is never followed. Whiteouts
//! become overlayfs's, and attributes by which an archive could speak to overlayfs itself are dropped.
//! Everything is bounded: entries, depth, names, and (in `stream`) how far compression may inflate.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use havre_oci::{Digest, layer};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

use crate::StoreError;
use crate::recipe::RecipeWriter;
use crate::stream::{Compression, Counted, Plain};
use crate::tar::{Entry, Kind, TarReader};

/// Bounds of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Folders inside each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 1 << 40, depth: 256 }
    }
}

/// What came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extracted {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Digest and length of the archive as it came.
    pub(crate) blob: (Digest, u64),
    /// Bytes of all files.
    pub(crate) size: u64,
    /// Length of the uncompressed archive.
    pub(crate) tar_size: u64,
}

/// Extracts `input`, compressed or not, into `folder/fs` and writes `folder/recipe`. The folder is new.
pub(crate) fn extract(input: impl Read, folder: &Path, limits: Limits) -> Result<Extracted, StoreError> {
    let made = |e: io::Error| StoreError::write(folder, e);
    let fs = folder.join("fs");
    std::fs::create_dir(&fs).map_err(made)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&fs, flags, Mode::empty()).map_err(|e| made(e.into()))?;
    rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(|e| made(e.into()))?;
    let recipe = RecipeWriter::create(&folder.join("recipe")).map_err(made)?;
    let mut extractor =
        Extractor { root, folder, parent: None, folders: Vec::new(), recipe, replaced: 0, size: 0, limits };
    let archive = |e: io::Error| StoreError::Archive(Arc::new(e));
    let plain = Plain::new(input, true).map_err(archive)?;
    let mut tar = TarReader::new(Counted::new(plain, true), true);
    let mut count = 0;
    while let Some(entry) = tar.next_entry()? {
        count += 1;
        if count > limits.entries {
            return Err(StoreError::Limit { what: "entries", limit: limits.entries });
        }
        if tar.input().count().saturating_add(entry.size) > limits.bytes {
            return Err(StoreError::Limit { what: "bytes", limit: limits.bytes });
        }
        extractor.entry(&mut tar, &entry)?;
    }
    extractor.finish(tar).map_err(|error| match error {
        // A full disk is better named by the layer's folder.
        StoreError::Write { source, .. } => StoreError::Write { path: folder.into(), source },
        other => other,
    })
}

struct Extractor<'a> {
    root: OwnedFd,
    folder: &'a Path,
    /// The folder of the previous entry: archives list folders one after the other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of folders, which the files made in them would change.
    folders: Vec<(Vec<u8>, Timestamps)>,
    recipe: RecipeWriter,
    replaced: u64,
    size: u64,
    limits: Limits,
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

fn refuse(name: &[u8], why: &'static str) -> StoreError {
    StoreError::Entry { name: lossy(name), why }
}

/// The components of `path` that mean something, joined by single slashes.
fn normalise(path: &[u8], depth: usize) -> Result<Vec<u8>, StoreError> {
    if path.len() > 4096 {
        return Err(refuse(path, "name longer than 4096 bytes"));
    }
    if path.contains(&0) {
        return Err(refuse(path, "name with a zero byte"));
    }
    let mut clean = Vec::with_capacity(path.len());
    let mut count = 0;
    for part in path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err(refuse(path, "name with \"..\""));
        }
        count += 1;
        if count > depth {
            return Err(refuse(path, "too many folders inside each other"));
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|&b| b == b'/').map_or((b"", path), |at| (&path[..at], &path[at + 1..]))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Attributes an image may set. Not `trusted.overlay.*` and `user.overlay.*`, which would make overlayfs
/// show other files, and nothing by which the host's own security modules judge.
fn attribute_is_allowed(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

impl Extractor<'_> {
    fn entry<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), StoreError> {
        let failed =
            |source: io::Error| StoreError::Extract { name: lossy(&entry.path), source: Arc::new(source) };
        self.recipe.raw(tar.headers()).map_err(failed)?;
        let path = normalise(&entry.path, self.limits.depth)?;
        let (parent_path, name) = split(&path);
        if path.is_empty() {
            if entry.kind == Kind::Directory {
                let root = rustix::io::dup(&self.root).map_err(|e| failed(e.into()))?;
                self.set_metadata(&root, entry).map_err(|e| failed(e.into()))?;
                self.folders.push((path, times(entry)));
            }
            return self.keep(tar, entry);
        }
        if name == layer::OPAQUE {
            self.open_parent(parent_path).map_err(failed)?;
            let parent = self.parent_fd();
            set_opaque(parent).map_err(|e| failed(e.into()))?;
            return self.keep(tar, entry);
        }
        if name.starts_with(layer::WHITEOUT_META) {
            return self.keep(tar, entry);
        }
        if let Some(hidden) = name.strip_prefix(layer::WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refuse(&entry.path, "whiteout of no name"));
            }
            self.open_parent(parent_path).map_err(failed)?;
            self.whiteout(hidden).map_err(|e| failed(e.into()))?;
            return self.keep(tar, entry);
        }
        if entry.kind == Kind::Other {
            return self.keep(tar, entry);
        }
        let (Ok(_), Ok(_)) = (u32::try_from(entry.uid), u32::try_from(entry.gid)) else {
            return Err(refuse(&entry.path, "owner out of range"));
        };
        self.open_parent(parent_path).map_err(failed)?;
        match entry.kind {
            Kind::File => self.file(tar, entry, &path, name),
            Kind::Directory => {
                self.directory(entry, &path, name).map_err(failed)?;
                self.keep(tar, entry)
            }
            Kind::Symlink | Kind::HardLink | Kind::Character | Kind::Block | Kind::Fifo => {
                self.special(entry, &path, name).map_err(failed)?;
                self.keep(tar, entry)
            }
            Kind::Other => Ok(()),
        }
    }

    /// Puts content that becomes no file into the recipe.
    fn keep<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry) -> Result<(), StoreError> {
        if entry.size > 1 << 20 && entry.kind != Kind::File {
            return Err(refuse(&entry.path, "content where none belongs"));
        }
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.recipe.raw(chunk).map_err(|e| StoreError::write(self.folder, e))?;
        }
    }

    fn parent_fd(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.root, |(_, folder)| folder)
    }

    /// Opens the folder `path` inside the root, following the layer's own links as if the root were `/`, and
    /// makes what is missing.
    fn open_parent(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            self.parent = None;
            return Ok(());
        }
        if self.parent.as_ref().is_some_and(|(known, _)| known == path) {
            return Ok(());
        }
        self.parent = None;
        let folder = match self.open_inside(path) {
            Err(Errno::NOENT) => {
                for end in (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]) {
                    let part = &path[..end];
                    if matches!(self.open_inside(part), Err(Errno::NOENT)) {
                        let (above, name) = split(part);
                        let above = self.open_inside(above)?;
                        rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
                        rustix::fs::chmodat(&above, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
                    }
                }
                self.open_inside(path)?
            }
            other => other?,
        };
        self.parent = Some((path.to_vec(), folder));
        Ok(())
    }

    fn open_inside(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), inside)
    }

    fn file<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), StoreError> {
        let failed =
            |source: io::Error| StoreError::Extract { name: lossy(&entry.path), source: Arc::new(source) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut opened = rustix::fs::openat(self.parent_fd(), name, flags, mode);
        if opened.as_ref().err() == Some(&Errno::EXIST) {
            self.displace(path, name).map_err(failed)?;
            opened = rustix::fs::openat(self.parent_fd(), name, flags, mode);
        }
        let mut file = File::from(opened.map_err(|e| failed(e.into()))?);
        if let Some((map, length)) = &entry.sparse {
            self.sparse(tar, entry, &file, map, *length)?;
            self.size = self.size.saturating_add(*length);
        } else {
            loop {
                let chunk = tar.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                file.write_all(chunk).map_err(failed)?;
            }
            if entry.size > 0 {
                self.recipe.file(path, entry.size).map_err(failed)?;
            }
            self.size = self.size.saturating_add(entry.size);
        }
        self.set_metadata(&file, entry).map_err(|e| failed(e.into()))?;
        rustix::fs::futimens(&file, &times(entry)).map_err(|e| failed(e.into()))
    }

    fn sparse<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        file: &File,
        map: &[(u64, u64)],
        length: u64,
    ) -> Result<(), StoreError> {
        let failed =
            |source: io::Error| StoreError::Extract { name: lossy(&entry.path), source: Arc::new(source) };
        file.set_len(length).map_err(failed)?;
        let mut parts = map.iter().copied();
        let (mut at, mut left) = parts.next().unwrap_or((0, 0));
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                return Ok(());
            }
            // The recipe keeps the content itself: where it lies in the file is another order.
            self.recipe.raw(chunk).map_err(failed)?;
            let mut rest = chunk;
            while !rest.is_empty() {
                while left == 0 {
                    (at, left) = parts.next().ok_or_else(|| refuse(&entry.path, "sparse map too short"))?;
                }
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                let taken = u64::try_from(take).unwrap_or(0);
                if at.checked_add(taken).is_none_or(|end| end > length) {
                    return Err(refuse(&entry.path, "sparse map beyond the end of the file"));
                }
                std::os::unix::fs::FileExt::write_all_at(file, &rest[..take], at).map_err(failed)?;
                (at, left, rest) = (at + taken, left - taken, &rest[take..]);
            }
        }
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> io::Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut hidden_below = false;
        match rustix::fs::mkdirat(self.parent_fd(), name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let old = rustix::fs::statat(self.parent_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
                let kind = FileType::from_raw_mode(old.st_mode);
                if kind != FileType::Directory {
                    hidden_below = kind == FileType::CharacterDevice && old.st_rdev == makedev(0, 0);
                    self.displace(path, name)?;
                    rustix::fs::mkdirat(self.parent_fd(), name, mode)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(self.parent_fd(), name, flags, Mode::empty())?;
        if hidden_below {
            set_opaque(&folder)?;
        }
        self.set_metadata(&folder, entry)?;
        self.folders.push((path.to_vec(), times(entry)));
        Ok(())
    }

    fn special(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> io::Result<()> {
        let target = match entry.kind {
            Kind::HardLink => {
                let target = normalise(&entry.link, self.limits.depth)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "link outside of the layer"))?;
                if target.as_slice() == path {
                    return Ok(());
                }
                let (above, last) = split(&target);
                if last.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "link to the root"));
                }
                Some((self.open_inside(above)?, last.to_vec()))
            }
            Kind::Symlink if entry.link.is_empty() || entry.link.contains(&0) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "link to no name"));
            }
            _ => None,
        };
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let make = |parent: &OwnedFd| -> rustix::io::Result<()> {
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
        match make(self.parent_fd()) {
            Err(Errno::EXIST) => {
                self.displace(path, name)?;
                make(self.parent_fd())?;
            }
            other => other?,
        }
        if entry.kind == Kind::HardLink {
            // The attributes are those of the file it is another name of.
            return Ok(());
        }
        let (uid, gid) = owner(entry);
        let parent = self.parent_fd();
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if entry.kind != Kind::Symlink {
            // Made just now in a folder only we can reach: it is no link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| attribute_is_allowed(key)) {
            let mut at = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            at.extend_from_slice(name);
            tolerate(rustix::fs::lsetxattr(at.as_slice(), key.as_slice(), value, XattrFlags::empty()))?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn whiteout(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        let parent = self.parent_fd();
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            // The layer itself has the name too: it is then the new one, and hides what is below.
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                    Ok(folder) => set_opaque(&folder),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            other => other,
        }
    }

    /// Makes room for an entry that names something again.
    fn displace(&mut self, path: &[u8], name: &[u8]) -> io::Result<()> {
        let old = rustix::fs::statat(self.parent_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(old.st_mode) {
            FileType::Directory => {
                // Not by the path of the archive: the folder itself is moved out of the root and removed there.
                let trash = self.folder.join("displaced");
                rustix::fs::renameat(self.parent_fd(), name, rustix::fs::CWD, &trash)?;
                std::fs::remove_dir_all(&trash)?;
                self.recipe.lost()?;
            }
            FileType::RegularFile if old.st_size > 0 => {
                self.replaced += 1;
                let kept = self.folder.join("replaced");
                if self.replaced == 1 {
                    std::fs::create_dir(&kept)?;
                }
                let kept = kept.join(self.replaced.to_string());
                rustix::fs::renameat(self.parent_fd(), name, rustix::fs::CWD, &kept)?;
                self.recipe.moved(path, self.replaced)?;
            }
            _ => rustix::fs::unlinkat(self.parent_fd(), name, AtFlags::empty())?,
        }
        Ok(())
    }

    fn set_metadata(&self, at: &impl std::os::fd::AsFd, entry: &Entry) -> rustix::io::Result<()> {
        let (uid, gid) = owner(entry);
        if uid != Uid::ROOT || gid != Gid::ROOT {
            rustix::fs::fchown(at, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(at, Mode::from_raw_mode(entry.mode))?;
        // After the owner: a change of owner clears capabilities.
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| attribute_is_allowed(key)) {
            tolerate(rustix::fs::fsetxattr(at, key.as_slice(), value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    fn finish<R: Read>(mut self, mut tar: TarReader<Counted<Plain<R>>>) -> Result<Extracted, StoreError> {
        let failed = |e: io::Error| StoreError::write(Path::new(""), e);
        self.recipe.raw(tar.headers()).map_err(failed)?;
        let mut behind = 0;
        tar.rest(|bytes| {
            behind += bytes.len();
            if behind > 64 << 20 {
                return Err(StoreError::Limit {
                    what: "bytes behind the end of an archive",
                    limit: 64 << 20,
                });
            }
            self.recipe.raw(bytes).map_err(failed)
        })?;
        for (path, times) in &self.folders {
            // One that a later entry replaced needs no time.
            if let Ok(folder) = self.open_inside(path) {
                rustix::fs::futimens(&folder, times).map_err(|e| failed(e.into()))?;
            }
        }
        self.recipe.finish().map_err(failed)?;
        let mut counted = tar.into_input();
        let missing = || StoreError::Archive(Arc::new(io::Error::other("no digest")));
        let diff_id = counted.digest().ok_or_else(missing)?;
        let tar_size = counted.count();
        let plain = counted.inner_mut();
        plain.drain().map_err(|e| StoreError::Archive(Arc::new(e)))?;
        let length = plain.input().count();
        let blob = match plain.compression() {
            Compression::None => diff_id.clone(),
            Compression::Gzip | Compression::Zstd => plain.input().digest().ok_or_else(missing)?,
        };
        Ok(Extracted { diff_id, blob: (blob, length), size: self.size, tar_size })
    }
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    let id = |value: u64| u32::try_from(value).unwrap_or(0);
    (Uid::from_raw(id(entry.uid)), Gid::from_raw(id(entry.gid)))
}

fn set_opaque(folder: &impl std::os::fd::AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(folder, c"trusted.overlay.opaque", b"y", XattrFlags::empty())
}

/// A file system without such attributes is no reason to refuse an image.
fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}
