//! From a tree of files to an archive.
//!
//! Invariants: the tree may change meanwhile, even by somebody hostile: folders are held as descriptors,
//! names are looked up one at a time and never followed, and only what turned out to be a regular file is
//! opened for reading. A file gives exactly the bytes that its header announces. Large holes stay holes.
//! Memory is bounded by the depth of the tree and a batch of names for each folder on the way.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::ArchiveError;
use crate::tar::{Entry, Kind, TarWriter};
use crate::unpack::attribute_is_allowed;

/// Folders inside each other, each of which is a descriptor.
const DEPTH: usize = 400;
/// Names of one folder that are sorted at a time.
const BATCH: usize = 100_000;
/// Files with several names that are remembered; further ones are sent again.
const LINKS: usize = 200_000;
/// A file with less in holes is sent with its zeros: every program understands that.
const HOLES: u64 = 16 << 20;
/// The pieces that a file with holes may have.
const PIECES: usize = 4_000;
const BLOCK: usize = 256 << 10;

/// Which form whiteouts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// A device 0:0 is a device.
    None,
    /// Overlayfs's become those of layers' archives.
    Overlay,
}

/// How a tree is packed.
pub struct Packer<'a, W> {
    tar: TarWriter<W>,
    whiteouts: Whiteouts,
    /// What is left out, by its name in the archive.
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// Every attribute an archive may have, or only capabilities as Docker's copies do.
    attributes: bool,
    links: HashMap<(u64, u64), Vec<u8>>,
    block: Vec<u8>,
}

impl<W> std::fmt::Debug for Packer<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("whiteouts", &self.whiteouts).finish_non_exhaustive()
    }
}

const LEAF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder on the way.
struct Level {
    folder: OwnedFd,
    entries: Dir,
    /// Sorted, the next one last.
    names: Vec<CString>,
    /// What stands before its names.
    prefix: Vec<u8>,
}

impl Level {
    fn new(folder: OwnedFd, prefix: Vec<u8>) -> rustix::io::Result<Self> {
        let entries = Dir::read_from(&folder)?;
        Ok(Self { folder, entries, names: Vec::new(), prefix })
    }

    fn next(&mut self) -> rustix::io::Result<Option<CString>> {
        if self.names.is_empty() {
            while self.names.len() < BATCH
                && let Some(entry) = self.entries.read()
            {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    self.names.push(entry.file_name().to_owned());
                }
            }
            self.names.sort_unstable_by(|a, b| b.cmp(a));
        }
        Ok(self.names.pop())
    }
}

impl<'a, W: Write> Packer<'a, W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            tar: TarWriter::new(out),
            whiteouts: Whiteouts::None,
            skip: &|_| false,
            attributes: false,
            links: HashMap::new(),
            block: vec![0; BLOCK],
        }
    }

    /// Packs the upper folder of an overlay as a layer, without what `skip` names.
    #[must_use]
    pub fn layer(mut self, skip: &'a dyn Fn(&[u8]) -> bool) -> Self {
        (self.whiteouts, self.skip, self.attributes) = (Whiteouts::Overlay, skip, true);
        self
    }

    /// Writes the end of the archive.
    pub fn finish(self) -> Result<W, ArchiveError> {
        self.tar.finish().map_err(ArchiveError::out)
    }

    /// Packs what `name` in `parent` is, as `path`. A folder is packed with everything below it.
    pub fn one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &[u8],
    ) -> Result<(), ArchiveError> {
        match self.entry(parent, name, path) {
            Ok(Some(folder)) => self.below(folder, path),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Packs a folder as `path` with everything below it; for an empty `path` without an entry of its own.
    pub fn tree(&mut self, folder: OwnedFd, path: &[u8]) -> Result<(), ArchiveError> {
        if !path.is_empty() {
            let stat = rustix::fs::fstat(&folder).map_err(|e| ArchiveError::read(path, e))?;
            self.folder(&folder, &stat, path)?;
        }
        self.below(folder, path)
    }

    fn below(&mut self, folder: OwnedFd, path: &[u8]) -> Result<(), ArchiveError> {
        let prefix =
            if path.is_empty() || path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
        let open = |folder, prefix: Vec<u8>| {
            let failed = prefix.clone();
            Level::new(folder, prefix).map_err(|e| ArchiveError::read(&failed, e))
        };
        let mut levels = vec![open(folder, prefix)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.next().map_err(|e| ArchiveError::read(&level.prefix, e))? else {
                levels.pop();
                continue;
            };
            let path = [level.prefix.as_slice(), name.to_bytes()].concat();
            if (self.skip)(&path) {
                continue;
            }
            // A copy, because the entry needs the packer too.
            let parent = rustix::io::dup(&level.folder).map_err(|e| ArchiveError::read(&path, e))?;
            if let Some(inner) = self.entry(parent.as_fd(), &name, &path)? {
                if levels.len() >= DEPTH {
                    return Err(ArchiveError::Limit {
                        what: "folders inside each other",
                        limit: u64::try_from(DEPTH).unwrap_or(0),
                    });
                }
                levels.push(open(inner, [path.as_slice(), b"/"].concat())?);
            }
        }
        Ok(())
    }

    /// Packs one entry; a folder comes back opened.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &[u8],
    ) -> Result<Option<OwnedFd>, ArchiveError> {
        let failed = |error: Errno| ArchiveError::read(path, error);
        let leaf = match rustix::fs::openat(parent, name, LEAF, Mode::empty()) {
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&leaf).map_err(failed)?;
        let mut entry = described(&stat, path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let folder = match rustix::fs::openat(parent, name, FOLDER, Mode::empty()) {
                    // Replaced meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    other => other.map_err(failed)?,
                };
                let stat = rustix::fs::fstat(&folder).map_err(failed)?;
                self.folder(&folder, &stat, path)?;
                return Ok(Some(folder));
            }
            FileType::RegularFile => {
                self.file(&leaf, &stat, entry)?;
                return Ok(None);
            }
            FileType::Symlink => {
                entry.kind = Kind::Symlink;
                let target = rustix::fs::readlinkat(&leaf, c"", Vec::new()).map_err(failed)?;
                entry.link = target.into_bytes();
            }
            FileType::CharacterDevice if stat.st_rdev == 0 && self.whiteouts == Whiteouts::Overlay => {
                let (above, last) = crate::unpack::split(path);
                let slash: &[u8] = if above.is_empty() { b"" } else { b"/" };
                // Never as another name of the previous one, though overlayfs makes them so.
                let path = [above, slash, b".wh.", last].concat();
                self.tar.header(&Entry { path, mode: 0, ..entry }).map_err(ArchiveError::out)?;
                return Ok(None);
            }
            FileType::CharacterDevice => entry.kind = Kind::Character,
            FileType::BlockDevice => entry.kind = Kind::Block,
            FileType::Fifo => entry.kind = Kind::Fifo,
            // An archive cannot have sockets.
            _ => return Ok(None),
        }
        if !self.another_name(&stat, &mut entry) && matches!(entry.kind, Kind::Character | Kind::Block) {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        self.tar.header(&entry).map_err(ArchiveError::out)?;
        Ok(None)
    }

    /// Makes the entry a link if the file was packed before under another name.
    fn another_name(&mut self, stat: &Stat, entry: &mut Entry) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            (entry.kind, entry.size, entry.link) = (Kind::HardLink, 0, first.clone());
            return true;
        }
        if self.links.len() < LINKS {
            self.links.insert(key, entry.path.clone());
        }
        false
    }

    fn folder(&mut self, folder: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<(), ArchiveError> {
        let mut entry = described(stat, path);
        entry.kind = Kind::Directory;
        if !entry.path.ends_with(b"/") {
            entry.path.push(b'/');
        }
        if self.attributes {
            entry.xattrs = self.attributes(folder).map_err(|e| ArchiveError::read(path, e))?;
        }
        self.tar.header(&entry).map_err(ArchiveError::out)?;
        if self.whiteouts == Whiteouts::Overlay && is_opaque(folder) {
            let name = [entry.path.as_slice(), b".wh..wh..opq"].concat();
            let opaque = Entry { path: name, ..described(stat, path) };
            self.tar.header(&Entry { mode: 0, ..opaque }).map_err(ArchiveError::out)?;
        }
        Ok(())
    }

    fn file(&mut self, leaf: &OwnedFd, stat: &Stat, mut entry: Entry) -> Result<(), ArchiveError> {
        if self.another_name(stat, &mut entry) {
            return self.tar.header(&entry).map_err(ArchiveError::out);
        }
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        if entry.size == 0 {
            return self.tar.header(&entry).map_err(ArchiveError::out);
        }
        let failed = |error: io::Error| ArchiveError::read(&entry.path, error);
        // What the descriptor is of is known to be a regular file, and stays it.
        let at = format!("/proc/self/fd/{}", leaf.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(at, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
        let xattrs = self.attributes(&file).map_err(|e| failed(e.into()))?;
        let parts = parts(&file, stat).map_err(|e| failed(e.into()))?;
        entry.xattrs = xattrs;
        match parts {
            None => {
                self.tar.header(&entry).map_err(ArchiveError::out)?;
                self.content(&file, 0, entry.size)?;
                self.tar.pad(entry.size).map_err(ArchiveError::out)
            }
            Some(parts) => {
                let stored = self.tar.sparse_header(&entry, &parts).map_err(ArchiveError::out)?;
                for (at, length) in parts {
                    self.content(&file, at, length)?;
                }
                self.tar.pad(stored).map_err(ArchiveError::out)
            }
        }
    }

    /// Copies so many bytes, zeros for those that the file lost meanwhile.
    fn content(&mut self, file: &File, mut at: u64, mut left: u64) -> Result<(), ArchiveError> {
        let mut ended = false;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.block.len());
            let block = &mut self.block[..wanted];
            let read = match file.read_at(block, at) {
                _ if ended => {
                    block.fill(0);
                    wanted
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => {
                    ended = true;
                    continue;
                }
                Ok(read) => read,
            };
            self.tar.content().write_all(&block[..read]).map_err(ArchiveError::out)?;
            let count = u64::try_from(read).unwrap_or(0);
            (at, left) = (at + count, left - count);
        }
        Ok(())
    }

    fn attributes(&self, file: &impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let value = |name: &[u8]| {
            let mut value = vec![0_u8; 64];
            loop {
                match rustix::fs::fgetxattr(file, name, &mut value) {
                    Ok(length) => {
                        value.truncate(length);
                        return Ok(Some(value));
                    }
                    Err(Errno::RANGE) if value.len() < 65_536 => value = vec![0; 65_536],
                    Err(_) => return Ok(None),
                }
            }
        };
        if !self.attributes {
            let name = b"security.capability";
            return Ok(value(name)?.map(|value| (name.to_vec(), value)).into_iter().collect());
        }
        let mut names = vec![0_u8; 65_536.min(self.block.len())];
        let length = match rustix::fs::flistxattr(file, &mut names) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for name in names[..length].split(|&b| b == 0).filter(|name| attribute_is_allowed(name)) {
            found.extend(value(name)?.map(|value| (name.to_vec(), value)));
        }
        found.sort();
        Ok(found)
    }
}

fn described(stat: &Stat, path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: (stat.st_mtime, 0),
        ..Entry::default()
    }
}

/// Whether a folder hides those of the layers below.
pub fn is_opaque(folder: &impl AsFd) -> bool {
    let mut value = [0_u8; 4];
    matches!(rustix::fs::fgetxattr(folder, c"trusted.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}

/// Whether something in an upper folder only says that a name is gone.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Where a file with large holes has content; none for other files.
fn parts(file: &File, stat: &Stat) -> rustix::io::Result<Option<Vec<(u64, u64)>>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let stored = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if stored.saturating_add(HOLES) > size {
        return Ok(None);
    }
    let seek = |from| rustix::fs::seek(file, from);
    // Small holes count as content, ever larger ones until few enough pieces are left.
    let mut least = 1 << 20;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            // A file system that does not know its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = seek(SeekFrom::Hole(start))?.min(size);
        match parts.last_mut() {
            Some((first, length)) if start - (*first + *length) < least => *length = end - *first,
            _ => parts.push((start, end - start)),
        }
        while parts.len() > PIECES {
            least *= 2;
            parts = joined(parts, least);
        }
        at = end.max(at + 1);
    }
    let content = parts.iter().map(|(_, length)| length).sum::<u64>();
    Ok((content.saturating_add(HOLES) <= size).then_some(parts))
}

/// Joins pieces that are nearer to each other than `least`.
fn joined(parts: Vec<(u64, u64)>, least: u64) -> Vec<(u64, u64)> {
    let mut result: Vec<(u64, u64)> = Vec::with_capacity(parts.len());
    for (start, length) in parts {
        match result.last_mut() {
            Some((first, before)) if start - (*first + *before) < least => *before = start + length - *first,
            _ => result.push((start, length)),
        }
    }
    result
}
