//! A tree as EROFS has it on disk (linux/fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst).
//!
//! The file from its start: zeros, the superblock at 1024, the archive from 4096 on, the inodes, the blocks of folders
//! and long links, the chunks of sparse files. Blocks have 512 bytes, inodes the extended form of 64.
//!
//! Invariants: the bytes depend on nothing but the tree, the archive's length and digest and one moment; they are
//! written once each, in rising order but for the superblock, which comes last; no inode is ever across two blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use havre_archive::ArchiveError;
use havre_oci::Digest;

use super::ARCHIVE;
use super::tree::{Attribute, Id, Node, Piece, ROOT, Tree, What, index};
use crate::StoreError;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 512;
const BLOCK_BITS: u32 = 9;
const INODE: u64 = 64;
/// Inodes are numbered by their place, in this unit.
const SLOT: u64 = 32;
const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Chunks of a file may be somewhere each.
const CHUNKED: u32 = 4;
/// A chunk that is nowhere: zeros.
const HOLE: u32 = u32::MAX;
/// Chunks of a sparse file at most, from which follows how large they are.
const CHUNKS: u64 = 4096;
/// Bytes of an entry of a folder, without its name.
const ENTRY: usize = 12;
/// Bytes before the attributes of a file.
const ATTRIBUTES: usize = 12;
/// What is gathered before it is written.
const PIECE: usize = 256 << 10;

/// Where the bytes go.
pub(super) trait Sink {
    /// These bytes are at `at`.
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// So many bytes that are at `from` are at `to` too.
    fn copy(&mut self, from: u64, to: u64, length: u64) -> io::Result<()>;
    /// The whole has this length.
    fn end(&mut self, length: u64) -> io::Result<()>;
}

/// What is around an archive.
pub(super) struct Image<'a> {
    pub(super) tree: &'a Tree,
    pub(super) tar_size: u64,
    pub(super) diff_id: &'a Digest,
    /// When it was made.
    pub(super) now: u64,
}

/// The moment at which the image in this file was made.
pub(super) fn moment(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, SUPERBLOCK + 24)?;
    Ok(u64::from_le_bytes(bytes))
}

/// An entry of a folder: its name, what it names, and of what kind that is.
type Name<'a> = (&'a [u8], Id, u8);

/// How the content of a node is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Nothing, or at this block.
    Block(u32),
    /// Behind the inode.
    Inline,
    /// By chunks of so many blocks, as a power of two.
    Chunks(u32),
}

/// Where a node is.
#[derive(Debug, Clone, Copy)]
struct Spot {
    id: Id,
    at: u64,
    data: Data,
}

/// Where everything is.
struct Layout {
    /// In the order of their places.
    spots: Vec<Spot>,
    /// The place of each node, zero for those that are nowhere.
    places: Vec<u64>,
    /// Where the inodes begin, and where the blocks behind them do.
    begin: u64,
    blocks: u64,
    /// Where the chunks begin.
    chunks: u64,
}

impl Layout {
    /// What a folder's entry calls the node.
    fn number(&self, id: Id) -> u64 {
        (self.places[index(id)] - self.begin) / SLOT
    }
}

fn too_large() -> StoreError {
    ArchiveError::Limit { what: "bytes in a layer with this driver", limit: BLOCK << 32 }.into()
}

fn block(at: u64) -> Result<u32, StoreError> {
    u32::try_from(at / BLOCK).map_err(|_| too_large())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Image<'_> {
    /// Writes everything but the archive.
    pub(super) fn write(&self, sink: &mut impl Sink) -> Result<(), StoreError> {
        let layout = self.layout()?;
        let unwritten = |e: io::Error| StoreError::write(Path::new(""), e);
        let mut out = Cursor { sink, at: ARCHIVE + self.tar_size, bytes: Vec::with_capacity(PIECE) };
        let (chunks, end) = self.inodes(&layout, &mut out)?;
        self.blocks(&layout, &mut out).map_err(unwritten)?;
        out.fill(layout.chunks).map_err(unwritten)?;
        out.flush().map_err(unwritten)?;
        for Piece { from, to, length } in chunks {
            sink.copy(from, to, length).map_err(unwritten)?;
        }
        // Chunks are read whole, so what they lack is there as a hole.
        sink.end(end).map_err(unwritten)?;
        let head = self.head(&layout, block(end)?)?;
        sink.put(0, &head).map_err(unwritten)
    }

    /// Everything before the archive.
    fn head(&self, layout: &Layout, blocks: u32) -> Result<Vec<u8>, StoreError> {
        let sparse = layout.spots.iter().any(|spot| matches!(spot.data, Data::Chunks(_)));
        let root = u16::try_from(layout.number(ROOT)).map_err(|_| too_large())?;
        let mut id = [0_u8; 16];
        for (byte, pair) in id.iter_mut().zip(self.diff_id.hex().as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).unwrap_or("0");
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        let mut bytes = vec![0; usize::try_from(SUPERBLOCK).unwrap_or(0)];
        bytes.extend(MAGIC.to_le_bytes());
        // No checksum, no compatible features.
        bytes.extend([0; 8]);
        bytes.extend([u8::try_from(BLOCK_BITS).unwrap_or(0), 0]);
        bytes.extend(root.to_le_bytes());
        bytes.extend(count(layout.spots.len()).to_le_bytes());
        bytes.extend(self.now.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(block(layout.begin)?.to_le_bytes());
        // No attributes that several files share.
        bytes.extend(0_u32.to_le_bytes());
        // By which overlayfs tells layers apart.
        bytes.extend(id);
        bytes.extend([0; 16]);
        bytes.extend((if sparse { CHUNKED } else { 0 }).to_le_bytes());
        bytes.resize(usize::try_from(ARCHIVE).unwrap_or(0), 0);
        Ok(bytes)
    }

    /// Finds a place for everything: folders before what is in them, and what is in one together.
    fn layout(&self) -> Result<Layout, StoreError> {
        let nodes = &self.tree.nodes;
        let begin = (ARCHIVE + self.tar_size).next_multiple_of(4096);
        let mut layout =
            Layout { spots: Vec::new(), places: vec![0; nodes.len()], begin, blocks: 0, chunks: 0 };
        // Zero is no number for a file, and the root's has sixteen bits.
        let mut at = begin + BLOCK;
        let mut left = vec![ROOT];
        let mut place = |id: Id, layout: &mut Layout| -> Result<(), StoreError> {
            if layout.places[index(id)] != 0 {
                return Ok(());
            }
            let node = self.tree.at(id);
            let before = INODE + count(attributes_length(node));
            let behind = match &node.what {
                What::Folder(_) => folder_length(&names(self.tree, id)),
                What::Symlink(target) => count(target.len()),
                _ => 0,
            };
            at = at.next_multiple_of(INODE);
            let data = match &node.what {
                // Inside one block, because readers take it from there in one piece.
                What::Folder(_) | What::Symlink(_) if before % BLOCK + behind <= BLOCK => {
                    if (at + before) / BLOCK != (at + before + behind - 1) / BLOCK {
                        at = at.next_multiple_of(BLOCK);
                    }
                    Data::Inline
                }
                What::File { at, length } if *length > 0 => Data::Block(block(*at)?),
                What::Sparse(sparse) => Data::Chunks(chunk_bits(sparse.1)),
                _ => Data::Block(0),
            };
            layout.places[index(id)] = at;
            layout.spots.push(Spot { id, at, data });
            at += before;
            at += match (data, &node.what) {
                (Data::Inline, _) => behind,
                (Data::Chunks(bits), What::Sparse(sparse)) => chunks_of(sparse.1, bits) * 4,
                _ => 0,
            };
            Ok(())
        };
        place(ROOT, &mut layout)?;
        while let Some(id) = left.pop() {
            let Some(folder) = self.tree.at(id).folder() else { continue };
            for child in folder.names.values() {
                place(*child, &mut layout)?;
            }
            left.extend(folder.names.values().rev().filter(|child| self.tree.at(**child).folder().is_some()));
        }
        layout.blocks = at.next_multiple_of(BLOCK);
        let mut next = layout.blocks;
        for spot in &mut layout.spots {
            let length = match (&self.tree.at(spot.id).what, spot.data) {
                (What::Folder(_), Data::Block(_)) => folder_length(&names(self.tree, spot.id)),
                (What::Symlink(target), Data::Block(_)) => count(target.len()),
                _ => continue,
            };
            spot.data = Data::Block(block(next)?);
            next += length.next_multiple_of(BLOCK);
        }
        layout.chunks = next.next_multiple_of(4096);
        Ok(layout)
    }

    /// Writes the inodes and what is right behind each; the result are copies that make the chunks of sparse files,
    /// and where those end.
    fn inodes(
        &self,
        layout: &Layout,
        out: &mut Cursor<'_, impl Sink>,
    ) -> Result<(Vec<Piece>, u64), StoreError> {
        let unwritten = |e: io::Error| StoreError::write(Path::new(""), e);
        let mut copies = Vec::new();
        let mut free = layout.chunks;
        for (number, spot) in (1_u32..).zip(&layout.spots) {
            let node = self.tree.at(spot.id);
            out.fill(spot.at).map_err(unwritten)?;
            let listed = node.folder().map(|_| names(self.tree, spot.id));
            let length = match (&node.what, &listed) {
                (_, Some(names)) => folder_length(names),
                (What::File { length, .. }, _) => *length,
                (What::Sparse(sparse), _) => sparse.1,
                (What::Symlink(target), _) => count(target.len()),
                _ => 0,
            };
            let inode = inode(self.tree, node, number, spot.data, length);
            out.put(&inode).map_err(unwritten)?;
            out.put(&attributes(node)).map_err(unwritten)?;
            match (&node.what, spot.data, listed) {
                (_, Data::Inline, Some(names)) => {
                    out.put(&folder_block(layout, &names)).map_err(unwritten)?;
                }
                (What::Symlink(target), Data::Inline, _) => out.put(target).map_err(unwritten)?,
                (What::Sparse(sparse), Data::Chunks(bits), _) => {
                    let mut places = BTreeMap::new();
                    let size = BLOCK << bits;
                    for piece in &sparse.0 {
                        let mut done = 0;
                        while done < piece.length {
                            let (to, from) = (piece.to + done, piece.from + done);
                            let place = *places.entry(to / size).or_insert_with(|| {
                                free += size;
                                free - size
                            });
                            let most = (piece.length - done).min(size - to % size);
                            copies.push(Piece { from, to: place + to % size, length: most });
                            done += most;
                        }
                    }
                    for chunk in 0..chunks_of(sparse.1, bits) {
                        let place = places.get(&chunk).map_or(Ok(HOLE), |place| block(*place))?;
                        out.put(&place.to_le_bytes()).map_err(unwritten)?;
                    }
                }
                _ => {}
            }
        }
        block(free)?;
        Ok((copies, free))
    }

    /// Writes the blocks of folders and links that are not right behind their inodes.
    fn blocks(&self, layout: &Layout, out: &mut Cursor<'_, impl Sink>) -> io::Result<()> {
        for spot in &layout.spots {
            let Data::Block(at) = spot.data else { continue };
            match &self.tree.at(spot.id).what {
                What::Symlink(target) => {
                    out.fill(u64::from(at) * BLOCK)?;
                    out.put(target)?;
                }
                What::Folder(_) => {
                    out.fill(u64::from(at) * BLOCK)?;
                    let names = names(self.tree, spot.id);
                    for part in folder_blocks(&names) {
                        out.fill(out.at.next_multiple_of(BLOCK))?;
                        out.put(&folder_block(layout, part))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Gathers bytes that follow each other.
struct Cursor<'a, S> {
    sink: &'a mut S,
    /// Where the next byte goes.
    at: u64,
    /// The bytes before it that are not written.
    bytes: Vec<u8>,
}

impl<S: Sink> Cursor<'_, S> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.at += count(bytes.len());
        if self.bytes.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Zeros up to `at`.
    fn fill(&mut self, at: u64) -> io::Result<()> {
        let missing = at.checked_sub(self.at).ok_or(io::ErrorKind::InvalidInput)?;
        self.put(&vec![0; usize::try_from(missing).unwrap_or(0)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.put(self.at - count(self.bytes.len()), &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}

/// The names of a folder in their order, with its own and the one above it among them.
fn names(tree: &Tree, id: Id) -> Vec<Name<'_>> {
    let Some(folder) = tree.at(id).folder() else { return Vec::new() };
    let mut names: Vec<Name<'_>> =
        folder.names.iter().map(|(name, id)| (&**name, *id, kind(&tree.at(*id).what))).collect();
    const FOLDER: u8 = 2;
    for own in [(b".".as_slice(), id, FOLDER), (b"..", folder.parent, FOLDER)] {
        let place = names.partition_point(|(name, ..)| *name < own.0);
        names.insert(place, own);
    }
    names
}

/// The names of a folder, block by block.
fn folder_blocks<'a, 'b>(names: &'b [Name<'a>]) -> impl Iterator<Item = &'b [Name<'a>]> {
    let mut left = names;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = |(name, ..): &&Name<'_>| {
            used += ENTRY + name.len();
            count(used) <= BLOCK
        };
        let (part, behind) = left.split_at(left.iter().take_while(fits).count());
        left = behind;
        (!part.is_empty()).then_some(part)
    })
}

/// Bytes of a folder: whole blocks and what is in the last one.
fn folder_length(names: &[Name<'_>]) -> u64 {
    let used = |part: &[Name<'_>]| part.iter().map(|(name, ..)| ENTRY + name.len()).sum::<usize>();
    folder_blocks(names).fold(0, |length: u64, part| length.next_multiple_of(BLOCK) + count(used(part)))
}

/// One block of a folder: its entries, then their names.
fn folder_block(layout: &Layout, names: &[Name<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut offset = names.len() * ENTRY;
    for (name, id, kind) in names {
        bytes.extend(layout.number(*id).to_le_bytes());
        bytes.extend(u16::try_from(offset).unwrap_or(0).to_le_bytes());
        bytes.extend([*kind, 0]);
        offset += name.len();
    }
    bytes.extend(names.iter().flat_map(|(name, ..)| *name));
    bytes
}

/// What a folder's entry says of what it names (the numbers of linux/fs_types.h).
const fn kind(what: &What) -> u8 {
    match what {
        What::File { .. } | What::Sparse(_) => 1,
        What::Folder(_) => 2,
        What::Character(_) => 3,
        What::Block(_) => 4,
        What::Fifo => 5,
        What::Symlink(_) => 7,
    }
}

fn inode(tree: &Tree, node: &Node, number: u32, data: Data, length: u64) -> Vec<u8> {
    let (format, place) = match (data, &node.what) {
        (_, What::Character(device) | What::Block(device)) => (0, *device),
        (Data::Block(block), _) => (0, block),
        (Data::Inline, _) => (2, 0),
        (Data::Chunks(bits), _) => (4, bits),
    };
    let type_bits: u16 = match &node.what {
        What::File { .. } | What::Sparse(_) => 0o100_000,
        What::Folder(_) => 0o040_000,
        What::Symlink(_) => 0o120_000,
        What::Character(_) => 0o020_000,
        What::Block(_) => 0o060_000,
        What::Fifo => 0o010_000,
    };
    let links = node.folder().map_or(node.links, |folder| {
        let inner = folder.names.values().filter(|id| tree.at(**id).folder().is_some()).count();
        u32::try_from(inner + 2).unwrap_or(u32::MAX)
    });
    let attributes = match attributes_length(node) {
        0 => 0,
        length => u16::try_from((length - ATTRIBUTES) / 4 + 1).unwrap_or(0),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(INODE).unwrap_or(0));
    // The lowest bit is that of the extended form.
    bytes.extend((format << 1 | 1_u16).to_le_bytes());
    bytes.extend(attributes.to_le_bytes());
    bytes.extend((type_bits | node.mode).to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(place.to_le_bytes());
    for value in [number, node.uid, node.gid] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(node.mtime.0.to_le_bytes());
    bytes.extend(node.mtime.1.to_le_bytes());
    bytes.extend(links.to_le_bytes());
    bytes.extend([0; 16]);
    bytes
}

/// The number by which EROFS knows what stands before the rest of an attribute's name, and the rest.
fn prefix(name: &[u8]) -> (u8, &[u8]) {
    for (number, prefix) in [
        (1, b"user.".as_slice()),
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (4, b"trusted."),
        (6, b"security."),
    ] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return (number, rest);
        }
    }
    (0, name)
}

fn attributes_length(node: &Node) -> usize {
    let length = |(name, value): &Attribute| (4 + prefix(name).1.len() + value.len()).next_multiple_of(4);
    let all: usize = node.xattrs.iter().map(length).sum();
    if all == 0 { 0 } else { ATTRIBUTES + all }
}

/// The attributes of a file, as they stand behind its inode.
fn attributes(node: &Node) -> Vec<u8> {
    if node.xattrs.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![0; ATTRIBUTES];
    for (name, value) in &node.xattrs {
        let (number, rest) = prefix(name);
        // Both are bounded when they are taken.
        bytes.extend([u8::try_from(rest.len()).unwrap_or(0), number]);
        bytes.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(rest);
        bytes.extend(&**value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Of how many blocks a chunk of a file of this length is, as a power of two.
fn chunk_bits(length: u64) -> u32 {
    (3..31).find(|bits| chunks_of(length, *bits) <= CHUNKS).unwrap_or(31)
}

fn chunks_of(length: u64, bits: u32) -> u64 {
    length.div_ceil(BLOCK << bits)
}
