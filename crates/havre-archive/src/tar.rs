//! Reading and writing tar streams entry by entry.
//!
//! Invariants: memory is bounded by the limits of the parser and one block; entries come with everything
//! resolved (GNU and PAX long names, sizes, extended attributes, sparse maps); content is handed out in
//! pieces of the block, without another copy.

use std::io::{self, Read, Write};
use std::sync::Arc;

use tar_core::builder::{EntryBuilder, ExtensionMode};
use tar_core::parse::{Limits, ParseEvent, Parser};
use tar_core::{EntryType, PaxExtensions};

use crate::ArchiveError;
use crate::error::lossy;

const BLOCK: usize = 256 << 10;
/// What all headers of one entry may have together: enough for a megabyte of extensions and the largest map of holes.
const HEADERS: usize = 4 << 20;

/// Writes a tar stream whose bytes depend on nothing but the entries.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `out`.
    pub const fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes the header of an entry, whose `size` bytes of content come next through `content`.
    pub fn header(&mut self, entry: &Entry) -> io::Result<()> {
        self.write_header(entry, &[])
    }

    fn write_header(&mut self, entry: &Entry, records: &[(&str, &[u8])]) -> io::Result<()> {
        let kind = match entry.kind {
            Kind::File | Kind::Other => EntryType::Regular,
            Kind::Directory => EntryType::Directory,
            Kind::Symlink => EntryType::Symlink,
            Kind::HardLink => EntryType::Link,
            Kind::Character => EntryType::Char,
            Kind::Block => EntryType::Block,
            Kind::Fifo => EntryType::Fifo,
        };
        let mut builder = EntryBuilder::new_ustar();
        builder.set_extension_mode(ExtensionMode::Pax).path(&entry.path).entry_type(kind);
        let mut fill = || -> tar_core::Result<()> {
            builder.mode(entry.mode)?.uid(entry.uid)?.gid(entry.gid)?.size(entry.size)?;
            builder.mtime(u64::try_from(entry.mtime.0).unwrap_or(0))?;
            if !entry.link.is_empty() {
                builder.link_name(&entry.link);
            }
            if matches!(entry.kind, Kind::Character | Kind::Block) {
                builder.device(entry.device.0, entry.device.1)?;
            }
            Ok(())
        };
        fill().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))?;
        for (name, value) in records {
            builder.add_pax(name, value);
        }
        for (name, value) in &entry.xattrs {
            builder.add_pax(&format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value);
        }
        self.out.write_all(&builder.finish_bytes())
    }

    /// Writes the header of a file of which only `parts` have content (PAX format 1.0 for sparse files). The
    /// content of the parts comes next through `content`, then `pad` with what is returned here.
    pub fn sparse_header(&mut self, entry: &Entry, parts: &[(u64, u64)]) -> io::Result<u64> {
        // The format wants a last part that ends where the file does.
        let ends = parts.last().is_some_and(|(start, length)| start + length == entry.size);
        let mut map = format!("{}\n", parts.len() + usize::from(!ends));
        for (start, length) in parts {
            map.push_str(&format!("{start}\n{length}\n"));
        }
        if !ends {
            map.push_str(&format!("{}\n0\n", entry.size));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let content = parts.iter().map(|(_, length)| length).sum::<u64>();
        let stored = content + u64::try_from(map.len()).unwrap_or(0);
        let size = entry.size.to_string();
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", &entry.path),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        let at = entry.path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let path = [&entry.path[..at], b"GNUSparseFile.0/", &entry.path[at..]].concat();
        self.write_header(&Entry { path, size: stored, ..entry.clone() }, &records)?;
        self.out.write_all(&map)?;
        Ok(stored)
    }

    /// Where the content is written to; after it, call `pad`.
    pub const fn content(&mut self) -> &mut W {
        &mut self.out
    }

    /// Fills up to the next block after `size` bytes of content.
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.out.write_all(&[0; 512][..padding])
    }

    /// Writes an entry with its content; its size is that of the content.
    pub fn entry(&mut self, mut entry: Entry, content: &[u8]) -> io::Result<()> {
        entry.size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.header(&entry)?;
        self.out.write_all(content)?;
        self.pad(entry.size)
    }

    /// Writes the end of the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }
}

/// One entry's header.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Name as written.
    pub path: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Time of last change: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content that follow in the archive.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file: where the content belongs, and the file's length.
    pub sparse: Option<(Vec<(u64, u64)>, u64)>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the words are those of every file system")]
pub enum Kind {
    #[default]
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
    /// Something to skip.
    Other,
}

/// Reads a tar stream.
pub struct TarReader<R> {
    input: R,
    parser: Parser,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Content of the present entry not yet handed out, and its padding.
    left: u64,
    padding: u64,
    /// The bytes of the present entry's headers, when wanted.
    raw: Option<Vec<u8>>,
    /// Bytes that were read.
    read: u64,
}

impl<R> std::fmt::Debug for TarReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarReader").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<R: Read> TarReader<R> {
    /// Reads from `input`; with `raw`, keeps the bytes of the headers for `headers()`.
    pub fn new(input: R, raw: bool) -> Self {
        let limits = Limits { max_path_len: Some(4096), max_sparse_entries: 100_000, ..Limits::default() };
        let mut parser = Parser::new(limits);
        // Odd times and owner names of real archives are no reason to refuse them; sizes that do not parse
        // lead to a header that does not, and that is an error.
        parser.set_ignore_pax_errors(true);
        Self {
            input,
            parser,
            buffer: vec![0; BLOCK],
            start: 0,
            end: 0,
            left: 0,
            padding: 0,
            raw: raw.then(Vec::new),
            read: 0,
        }
    }

    /// Bytes of the stream before what comes next: after `next_entry`, where the content begins.
    pub fn offset(&self) -> u64 {
        self.read - u64::try_from(self.end - self.start).unwrap_or(0)
    }

    /// Where it reads from.
    pub const fn input(&self) -> &R {
        &self.input
    }

    /// Where it reads from.
    pub const fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Where it reads from, after the last entry.
    pub fn into_input(self) -> R {
        self.input
    }

    /// All bytes between the content of the previous entry and that of this one.
    pub fn headers(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or_default()
    }

    /// Skips what is left of the present entry and reads the next header; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        while self.left > 0 {
            let length = self.chunk()?.len();
            if length == 0 {
                return Err(truncated());
            }
        }
        if let Some(raw) = &mut self.raw {
            raw.clear();
        }
        self.take_padding()?;
        loop {
            let window = self.buffer.get(self.start..self.end).unwrap_or_default();
            let event = self.parser.parse(window).map_err(|e| ArchiveError::Archive(Arc::new(e)))?;
            let (consumed, entry, wanted) = match event {
                ParseEvent::NeedData { min_bytes } if min_bytes > window.len() => (0, None, min_bytes),
                // Of a map of holes without an end of line it asks for what it has, again and again.
                ParseEvent::NeedData { .. } => (0, None, window.len() + 512),
                ParseEvent::Entry { consumed, entry } => (consumed, Some(resolve(&entry, None)), 0),
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    let map = sparse_map.iter().map(|part| (part.offset, part.length)).collect();
                    (consumed, Some(resolve(&entry, Some((map, real_size)))), 0)
                }
                ParseEvent::GlobalExtensions { consumed, .. } => (consumed, None, 0),
                ParseEvent::End { consumed } => {
                    self.consume(consumed);
                    return Ok(None);
                }
            };
            if wanted > 0 {
                if !self.fill(wanted)? {
                    // An archive may end without its two zero blocks, but not inside a header.
                    if self.start == self.end {
                        return Ok(None);
                    }
                    return Err(truncated());
                }
                continue;
            }
            self.consume(consumed);
            if let Some(entry) = entry {
                if i64::try_from(entry.size).is_err() {
                    let why = "size beyond what any file can have";
                    return Err(ArchiveError::Entry { name: lossy(&entry.path), why });
                }
                self.left = entry.size;
                self.padding = entry.size.next_multiple_of(512) - entry.size;
                return Ok(Some(entry));
            }
        }
    }

    /// The next piece of the present entry's content; empty when there is no more.
    pub fn chunk(&mut self) -> Result<&[u8], ArchiveError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill(1)? {
            return Err(truncated());
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.end - self.start);
        self.left -= u64::try_from(length).unwrap_or(0);
        let from = self.start;
        self.start += length;
        Ok(&self.buffer[from..from + length])
    }

    /// The whole content of the present entry, if it is not longer than `limit`.
    pub fn content(&mut self, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.left > limit {
            return Err(ArchiveError::Limit { what: "bytes in a document", limit });
        }
        let mut all = Vec::with_capacity(usize::try_from(self.left).unwrap_or(0));
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(chunk);
        }
    }

    /// Reads everything behind the last entry, giving each piece to `each`.
    pub fn rest(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        loop {
            each(&self.buffer[self.start..self.end])?;
            self.start = self.end;
            if !self.fill(1)? {
                return Ok(());
            }
        }
    }

    fn take_padding(&mut self) -> Result<(), ArchiveError> {
        while self.padding > 0 {
            if self.start == self.end && !self.fill(1)? {
                return Err(truncated());
            }
            let length = usize::try_from(self.padding).unwrap_or(0).min(self.end - self.start);
            self.consume(length);
            self.padding -= u64::try_from(length).unwrap_or(0);
        }
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        if let Some(raw) = &mut self.raw {
            raw.extend_from_slice(&self.buffer[self.start..self.start + count]);
        }
        self.start += count;
    }

    /// Reads until at least `wanted` bytes are there; false at the end of the input.
    /// Reads until `wanted` bytes are there; false when there are not so many.
    fn fill(&mut self, wanted: usize) -> Result<bool, ArchiveError> {
        let mut enough = wanted;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.buffer.len() {
                if wanted > HEADERS {
                    let limit = u64::try_from(HEADERS).unwrap_or(u64::MAX);
                    return Err(ArchiveError::Limit { what: "bytes in the headers of an entry", limit });
                }
                // The parser begins anew each time: with twice as much it does so a few times, not for each block.
                enough = wanted.max(self.buffer.len().saturating_mul(2)).min(HEADERS);
                self.buffer.resize(enough, 0);
            }
        }
        while self.end - self.start < enough {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(self.end - self.start >= wanted),
                Ok(count) => {
                    self.end += count;
                    self.read += u64::try_from(count).unwrap_or(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Archive(Arc::new(error))),
            }
        }
        Ok(true)
    }
}

fn truncated() -> ArchiveError {
    ArchiveError::Archive(Arc::new(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "unexpected end of the archive",
    )))
}

fn resolve(entry: &tar_core::parse::ParsedEntry<'_>, sparse: Option<(Vec<(u64, u64)>, u64)>) -> Entry {
    let kind = match entry.entry_type {
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Char => Kind::Character,
        EntryType::Block => Kind::Block,
        EntryType::Fifo => Kind::Fifo,
        _ => Kind::Other,
    };
    // Archives of the first tar mark folders by a slash at the end of the name only.
    let kind = if kind == Kind::File && entry.path.ends_with(b"/") { Kind::Directory } else { kind };
    let seconds = i64::try_from(entry.mtime).unwrap_or(0);
    let precise = entry
        .pax
        .and_then(|pax| PaxExtensions::new(pax).flatten().find(|record| record.key_bytes() == b"mtime"))
        .and_then(|record| precise_time(record.value_bytes()));
    Entry {
        path: entry.path.to_vec(),
        link: entry.link_target.as_deref().unwrap_or_default().to_vec(),
        kind,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime: precise.unwrap_or((seconds, 0)),
        size: entry.size,
        device: (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0)),
        xattrs: entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        sparse,
    }
}

/// `-12.5` and the like.
fn precise_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_and_a_sign() {
        for (text, expected) in [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("x", None),
            ("1.x", None),
        ] {
            assert_eq!(precise_time(text.as_bytes()), expected, "{text}");
        }
    }
}
