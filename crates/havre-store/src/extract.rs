//! From a layer's archive to files in the form overlayfs wants.
//!
//! Invariants: nothing outside the layer's root is read or changed (`havre_archive::unpack`). Whiteouts become
//! overlayfs's, and attributes by which an archive could speak to overlayfs itself are dropped. Everything is
//! bounded: entries, depth, names, and (in `stream`) how far compression may inflate.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use havre_archive::tar::{Entry, TarReader};
use havre_archive::unpack::{Links, Owner, Place, Rules, Unpacker, failed, refuse, split};
use havre_archive::{ArchiveError, pack};
use havre_oci::{Digest, layer};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags, makedev};
use rustix::io::Errno;

use crate::StoreError;
use crate::recipe::RecipeWriter;
use crate::stream::{Compression, Counted, Plain};

/// Files of at least this size are on their way to the disk as soon as they are whole.
const BEGIN: u64 = 1 << 20;

/// Bounds of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Folders inside each other.
    pub depth: usize,
    /// Bytes of names and attributes, where they have to be in memory all at once.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 1 << 40, depth: 256, memory: 128 << 20 }
    }
}

impl Limits {
    /// How a layer is unpacked.
    pub(crate) const fn rules(&self) -> Rules {
        Rules { depth: self.depth, links: Links::InRoot, dots: false, root: true }
    }

    /// Refuses an entry, the `count`th one, whose content begins at `offset`.
    pub(crate) fn check(&self, count: u64, offset: u64, entry: &Entry) -> Result<(), ArchiveError> {
        if count > self.entries {
            return Err(ArchiveError::Limit { what: "entries", limit: self.entries });
        }
        if offset.saturating_add(entry.size) > self.bytes {
            return Err(ArchiveError::Limit { what: "bytes", limit: self.bytes });
        }
        Ok(())
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
    let mut unpacker = Unpacker::new(root, b"", limits.rules(), Layer { folder, recipe, replaced: 0 });
    let plain = Plain::new(input, true).map_err(ArchiveError::stream)?;
    let mut tar = TarReader::new(Counted::new(plain, true), true);
    let mut count = 0;
    while let Some(entry) = tar.next_entry()? {
        count += 1;
        limits.check(count, tar.offset(), &entry)?;
        one(&mut unpacker, &mut tar, &entry)?;
    }
    finish(unpacker, tar).map_err(|error| match error {
        // A full disk is better named by the layer's folder.
        StoreError::Write { source, .. } => StoreError::Write { path: folder.into(), source },
        other => other,
    })
}

/// Adds an entry to the layer.
fn one<R: Read>(
    unpacker: &mut Unpacker<Layer<'_>>,
    tar: &mut TarReader<R>,
    entry: &Entry,
) -> Result<(), ArchiveError> {
    unpacker.owner.recipe.raw(tar.headers()).map_err(failed(entry))?;
    let path = unpacker.clean(&entry.path)?;
    match Meaning::of(entry, &path)? {
        Meaning::Entry => return unpacker.entry(tar, entry, &path),
        Meaning::Nothing => {}
        Meaning::Opaque(folder) => {
            unpacker.open_parent(entry, folder)?;
            set_opaque(unpacker.parent()).map_err(|e| failed(entry)(e.into()))?;
        }
        Meaning::Whiteout(folder, hidden) => {
            unpacker.open_parent(entry, folder)?;
            whiteout(unpacker.parent(), hidden).map_err(|e| failed(entry)(e.into()))?;
        }
    }
    unpacker.keep(tar, entry)
}

/// What an entry of a layer's archive says.
pub(crate) enum Meaning<'a> {
    /// That there is something.
    Entry,
    /// Nothing that matters here.
    Nothing,
    /// That this folder hides those of the layers below.
    Opaque(&'a [u8]),
    /// That in this folder this name is gone.
    Whiteout(&'a [u8], &'a [u8]),
}

impl<'a> Meaning<'a> {
    /// Of the entry with this cleaned name.
    pub(crate) fn of(entry: &Entry, path: &'a [u8]) -> Result<Self, ArchiveError> {
        let (folder, name) = split(path);
        if name == layer::OPAQUE {
            return Ok(Self::Opaque(folder));
        }
        if name.starts_with(layer::WHITEOUT_META) {
            return Ok(Self::Nothing);
        }
        match name.strip_prefix(layer::WHITEOUT) {
            None => Ok(Self::Entry),
            Some(b"" | b"." | b"..") => Err(refuse(&entry.path, "whiteout of no name")),
            Some(hidden) => Ok(Self::Whiteout(folder, hidden)),
        }
    }
}

fn whiteout(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
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

/// What a layer adds to the unpacking of its archive.
struct Layer<'a> {
    folder: &'a Path,
    recipe: RecipeWriter,
    replaced: u64,
}

impl Layer<'_> {
    /// Makes room for an entry that names something again.
    fn make_room(&mut self, place: &Place<'_>, old: &Stat) -> io::Result<()> {
        let (parent, name) = (place.parent, place.name);
        match FileType::from_raw_mode(old.st_mode) {
            FileType::Directory => {
                // Not by the path of the archive: the folder itself is moved out of the root and removed there.
                let trash = self.folder.join("displaced");
                rustix::fs::renameat(parent, name, rustix::fs::CWD, &trash)?;
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
                rustix::fs::renameat(parent, name, rustix::fs::CWD, &kept)?;
                self.recipe.moved(place.path, self.replaced)?;
            }
            _ => rustix::fs::unlinkat(parent, name, AtFlags::empty())?,
        }
        Ok(())
    }
}

impl Owner for Layer<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.recipe.raw(bytes)
    }

    fn content(&mut self, file: &File, path: &[u8], size: u64) -> io::Result<()> {
        // The layer is synced when it is whole: by then the disk has had something to do.
        if size >= BEGIN {
            havre_sys::durable::begin_writing(file);
        }
        self.recipe.file(path, size)
    }

    fn displace(&mut self, place: &Place<'_>, old: &Stat) -> Result<(), ArchiveError> {
        self.make_room(place, old).map_err(|source| ArchiveError::Extract {
            name: String::from_utf8_lossy(place.path).into_owned(),
            source: std::sync::Arc::new(source),
        })
    }

    fn folder_made(&mut self, folder: BorrowedFd<'_>, displaced: Option<&Stat>) -> io::Result<()> {
        if displaced.is_some_and(pack::is_whiteout) {
            set_opaque(folder)?;
        }
        Ok(())
    }
}

/// Bytes that an archive may have behind its end.
const BEHIND: u64 = 64 << 20;

/// Reads what is behind the end of an archive; `each` gets its bytes.
pub(crate) fn rest<R: Read>(
    tar: &mut TarReader<R>,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ArchiveError> {
    let mut behind = 0;
    tar.rest(|bytes| {
        behind += u64::try_from(bytes.len()).unwrap_or(0);
        if behind > BEHIND {
            return Err(ArchiveError::Limit { what: "bytes behind the end of an archive", limit: BEHIND });
        }
        each(bytes).map_err(ArchiveError::stream)
    })
}

/// What is known of a layer whose archive was read to its end.
pub(crate) fn extracted<R: Read>(
    mut counted: Counted<Plain<R>>,
    size: u64,
) -> Result<Extracted, ArchiveError> {
    let missing = || ArchiveError::stream(io::Error::other("no digest"));
    let diff_id = counted.digest().ok_or_else(missing)?;
    let tar_size = counted.count();
    let plain = counted.inner_mut();
    plain.drain().map_err(ArchiveError::stream)?;
    let length = plain.input().count();
    let blob = match plain.compression() {
        Compression::None => diff_id.clone(),
        _ => plain.input().digest().ok_or_else(missing)?,
    };
    Ok(Extracted { diff_id, blob: (blob, length), size, tar_size })
}

fn finish<R: Read>(
    mut unpacker: Unpacker<Layer<'_>>,
    mut tar: TarReader<Counted<Plain<R>>>,
) -> Result<Extracted, StoreError> {
    let unwritten = |e: io::Error| StoreError::write(Path::new(""), e);
    unpacker.owner.recipe.raw(tar.headers()).map_err(unwritten)?;
    rest(&mut tar, |bytes| unpacker.owner.recipe.raw(bytes))?;
    unpacker.finish()?;
    let size = unpacker.size();
    unpacker.owner.recipe.finish().map_err(unwritten)?;
    Ok(extracted(tar.into_input(), size)?)
}

fn set_opaque(folder: impl std::os::fd::AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(folder, c"trusted.overlay.opaque", b"y", XattrFlags::empty())
}
