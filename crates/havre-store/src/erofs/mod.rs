//! Layers that are mounted and never extracted.
//!
//! A layer is one file: its archive as it came from byte 4096 on, behind it what EROFS needs to show that as files
//! (`image.rs`), and the superblock before it. Archives begin the content of each file at a multiple of 512, so with
//! blocks of that size a file is where the archive has it. What the headers say is collected while the bytes pass by
//! (`tree.rs`).
//!
//! Invariants: what is accepted and what it becomes is the same as by extraction (`extract.rs`), whose rules are used
//! and not written again; everything before and behind the archive follows from the archive and one moment, so that
//! a check makes it again and compares; memory is bounded (`Limits::memory`).

mod acl;
mod image;
mod probe;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use havre_archive::ArchiveError;
use havre_archive::tar::{Entry, Kind, TarReader};
use havre_archive::unpack::{self, Parts, failed};

use self::image::{Image, Sink};
pub(crate) use self::probe::probe;
use self::tree::{Content, Piece, Tree};
use crate::extract::{self, Extracted, Limits, Meaning};
use crate::stream::{Counted, Plain};
use crate::{LayerInfo, StoreError, Verified};

/// The file of a layer, in its folder.
pub(crate) const IMAGE: &str = "layer.erofs";
/// Where the archive begins.
const ARCHIVE: u64 = 4096;
/// So much is written before the disk is told to begin.
const BEGIN: u64 = 8 << 20;

/// Writes everything that is read.
struct Recorded<R> {
    inner: R,
    file: File,
    /// Bytes since the disk was told to begin.
    waiting: u64,
    /// Why it could not be written, which is told apart from a stream that cannot be read.
    broken: Option<io::Error>,
}

impl<R: Read> Read for Recorded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Err(error) = self.file.write_all(&buffer[..count]) {
            self.broken = Some(error);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.waiting += u64::try_from(count).unwrap_or(0);
        if self.waiting >= BEGIN {
            havre_sys::durable::begin_writing(&self.file);
            self.waiting = 0;
        }
        Ok(count)
    }
}

/// Makes a layer of `input`, an archive, compressed or not, in `folder`, which is new.
pub(crate) fn import(input: impl Read, folder: &Path, limits: Limits) -> Result<Extracted, StoreError> {
    let path = folder.join(IMAGE);
    let made = |e: io::Error| StoreError::write(folder, e);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(made)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(ARCHIVE)).map_err(made)?;
    let image = file.try_clone().map_err(made)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let plain = Plain::new(input, true).map_err(ArchiveError::stream)?;
    let recorded = Recorded { inner: Counted::new(plain, true), file, waiting: 0, broken: None };
    let mut tar = TarReader::new(recorded, false);
    let mut tree = Tree::new(limits.rules(), now, limits.memory);
    let collected = collect(&mut tree, &mut tar, limits);
    if let Some(error) = tar.input_mut().broken.take() {
        return Err(made(error));
    }
    collected?;
    let extracted = extract::extracted(tar.into_input().inner, tree.size())?;
    let image_of = Image { tree: &tree, tar_size: extracted.tar_size, diff_id: &extracted.diff_id, now };
    image_of.write(&mut Written(&image)).map_err(|error| match error {
        StoreError::Write { source, .. } => StoreError::Write { path: folder.into(), source },
        other => other,
    })?;
    Ok(extracted)
}

/// Reads an archive to its end.
fn collect<R: Read>(tree: &mut Tree, tar: &mut TarReader<R>, limits: Limits) -> Result<(), ArchiveError> {
    let mut count = 0;
    while let Some(entry) = tar.next_entry()? {
        count += 1;
        limits.check(count, tar.offset(), &entry)?;
        one(tree, entry, ARCHIVE + tar.offset())?;
    }
    extract::rest(tar, |_| Ok(()))
}

/// Adds an entry whose content is at `at` of the file.
fn one(tree: &mut Tree, mut entry: Entry, at: u64) -> Result<(), ArchiveError> {
    let path = tree.clean(&entry.path)?;
    unpack::check_content(&entry)?;
    match Meaning::of(&entry, &path)? {
        Meaning::Nothing => {}
        Meaning::Opaque(folder) => tree.opaque(folder).map_err(|e| failed(&entry)(e.into()))?,
        Meaning::Whiteout(folder, name) => {
            tree.whiteout(folder, name).map_err(|e| failed(&entry)(e.into()))?;
        }
        Meaning::Entry => {
            let content = content(&mut entry, at)?;
            tree.entry(&entry, &path, content)?;
        }
    }
    tree.check_weight()
}

/// Where the content of an entry is; the map of a sparse file is taken out of it.
fn content(entry: &mut Entry, at: u64) -> Result<Content, ArchiveError> {
    if entry.kind != Kind::File {
        return Ok(Content::Plain { at, length: 0 });
    }
    let (map, length) = match entry.sparse.take() {
        Some((map, length)) => (map, length),
        None if at.is_multiple_of(image::BLOCK) => return Ok(Content::Plain { at, length: entry.size }),
        None => (vec![(0, entry.size)], entry.size),
    };
    let mut parts = Parts::new(&entry.path, &map, length);
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < entry.size {
        let (to, count) = parts.place(entry.size - done)?;
        pieces.push(Piece { from: at + done, to, length: count });
        done += count;
    }
    match pieces.as_slice() {
        [] if length == 0 => Ok(Content::Plain { at, length }),
        [whole] if whole.to == 0 && whole.length == length && at.is_multiple_of(image::BLOCK) => {
            Ok(Content::Plain { at, length })
        }
        _ => Ok(Content::Sparse { pieces, length }),
    }
}

/// Writes the archive of the layer in `folder` to `out`.
pub(crate) fn write_tar(folder: &Path, size: u64, out: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(folder.join(IMAGE))?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(ARCHIVE))?;
    let mut left = size;
    let mut block = vec![0_u8; 256 << 10];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let count = file.read(&mut block[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer's file was shortened"));
        }
        out.write_all(&block[..count])?;
        left -= u64::try_from(count).unwrap_or(0);
    }
    Ok(())
}

/// A layer's file that was read to the end of its archive, which has its digest.
struct Known {
    file: File,
    tree: Tree,
    now: u64,
}

fn read(path: &Path, info: &LayerInfo, write: bool) -> Result<Known, StoreError> {
    let unread = |e: io::Error| StoreError::read(path, e);
    let mut file = File::options().read(true).write(write).open(path).map_err(unread)?;
    let now = image::moment(&file).map_err(unread)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(ARCHIVE)).map_err(unread)?;
    let archive = file.try_clone().map_err(unread)?.take(info.tar_size);
    let mut tar = TarReader::new(Counted::new(archive, true), false);
    // What was taken once is not refused now.
    let limits = Limits { entries: u64::MAX, bytes: u64::MAX, memory: usize::MAX, ..Limits::default() };
    let mut tree = Tree::new(limits.rules(), now, limits.memory);
    let collected = collect(&mut tree, &mut tar, limits);
    let mut input = tar.into_input();
    // The digest says more than where the archive stopped to be one.
    io::copy(&mut input, &mut io::sink()).map_err(unread)?;
    let found = input.digest().ok_or_else(|| unread(io::Error::other("no digest")))?;
    if found != info.diff_id {
        return Err(StoreError::Mismatch { what: "stored layer", expected: info.diff_id.clone(), found });
    }
    collected.map_err(|error| unread(io::Error::other(havre_base::chain(&error))))?;
    Ok(Known { file, tree, now })
}

impl Known {
    fn image<'a>(&'a self, info: &'a LayerInfo) -> Image<'a> {
        Image { tree: &self.tree, tar_size: info.tar_size, diff_id: &info.diff_id, now: self.now }
    }
}

/// Reads the layer's file at `path` to its end: the archive must have its digest, and the rest be what follows from it.
pub(crate) fn verify(path: &Path, info: &LayerInfo) -> Result<Verified, StoreError> {
    let known = read(path, info, false)?;
    match known.image(info).write(&mut Compared { file: &known.file, block: Vec::new() }) {
        Ok(()) => Ok(Verified::Whole),
        Err(StoreError::Write { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
            Ok(Verified::Mendable)
        }
        Err(StoreError::Write { source, .. }) => Err(StoreError::Read { path: path.into(), source }),
        Err(other) => Err(other),
    }
}

/// Makes what is around the archive again. Containers may have it mounted: they get what they should have had.
pub(crate) fn mend(path: &Path, info: &LayerInfo) -> Result<(), StoreError> {
    let known = read(path, info, true)?;
    known.image(info).write(&mut Written(&known.file)).map_err(|error| match error {
        StoreError::Write { source, .. } => StoreError::Write { path: path.into(), source },
        other => other,
    })?;
    known.file.sync_all().map_err(|e| StoreError::write(path, e))
}

/// A file that is made.
struct Written<'a>(&'a File);

impl Sink for Written<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> io::Result<()> {
        let (mut from, mut to, mut left) = (from, to, length);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let count = rustix::fs::copy_file_range(self.0, Some(&mut from), self.0, Some(&mut to), most)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= u64::try_from(count).unwrap_or(0);
        }
        Ok(())
    }

    fn end(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)?;
        // Small ones are written faster all at once.
        if length >= BEGIN {
            havre_sys::durable::begin_writing(self.0);
        }
        Ok(())
    }
}

/// A file that is there and should be the same.
struct Compared<'a> {
    file: &'a File,
    block: Vec<u8>,
}

fn differs() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what lies around the layer's archive is damaged")
}

impl Sink for Compared<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.block.resize(bytes.len(), 0);
        self.file.read_exact_at(&mut self.block, at).map_err(|_| differs())?;
        if self.block == bytes { Ok(()) } else { Err(differs()) }
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> io::Result<()> {
        let mut done = 0;
        let mut piece = vec![0_u8; 64 << 10];
        while done < length {
            let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(piece.len());
            self.file.read_exact_at(&mut piece[..most], from + done)?;
            self.put(to + done, &piece[..most])?;
            done += u64::try_from(most).unwrap_or(0);
        }
        Ok(())
    }

    fn end(&mut self, length: u64) -> io::Result<()> {
        if self.file.metadata()?.len() == length { Ok(()) } else { Err(differs()) }
    }
}
