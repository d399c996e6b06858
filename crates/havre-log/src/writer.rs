//! The writing end: lines in, records out, bounded files.
//!
//! Invariants: a file only ever grows by whole records unless a write fails half-way, and then the next
//! record starts on a new line; after each call at most 16 KiB of each stream is held back, and only
//! while its line is unfinished. Buffers stay under about 64 KiB, because this runs in every shim.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use havre_base::Timestamp;

use crate::encode::{Tail, cut, escape, newline};
use crate::{LogError, Stream, files};

/// Docker's copier splits longer lines.
const CHUNK: usize = 16 * 1024;
/// Records are collected up to this and then written at once.
const BLOCK: usize = 32 * 1024;
const HEAD: &[u8] = b"{\"log\":\"";

/// How much log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Largest size of one file in bytes; 0 for no limit.
    pub max_size: u64,
    /// How many files, the newest included; 0 counts as 1.
    pub max_file: u32,
    /// Whether rotated files are compressed with gzip.
    pub compress: bool,
}

/// Bounded: three files of 10 MiB.
impl Default for Options {
    fn default() -> Self {
        Self { max_size: 10 * 1024 * 1024, max_file: 3, compress: false }
    }
}

/// Writes the log of one container. There must be only one writer of a path at a time.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    options: Options,
    file: File,
    size: u64,
    /// Rotation failed: try again when the file has this size.
    retry_at: u64,
    /// The file ends in half a record.
    torn: bool,
    /// Records that could not be written.
    lost: u64,
    out: Vec<u8>,
    lanes: [Lane; 2],
}

/// What is remembered of one stream.
#[derive(Debug)]
struct Lane {
    /// The unfinished line.
    pending: Vec<u8>,
    tail: Tail,
    /// The time of the first part of a line that is being split.
    split: Option<Timestamp>,
}

impl Lane {
    fn new(stream: Stream, attributes: &BTreeMap<String, String>) -> Self {
        Self { pending: Vec::new(), tail: Tail::new(stream.as_str(), attributes), split: None }
    }
}

fn lanes(attributes: &BTreeMap<String, String>) -> [Lane; 2] {
    [Stream::Stdout, Stream::Stderr].map(|stream| Lane::new(stream, attributes))
}

impl Writer {
    /// Opens the log for appending, making it when it is not there.
    pub fn open(path: &Path, options: Options) -> Result<Self, LogError> {
        let open = || -> io::Result<(File, u64, bool)> {
            files::tidy(path)?;
            let mut file = files::open_append(path)?;
            let size = file.metadata()?.len();
            let mut last = *b"\n";
            if size > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            Ok((file, size, last != *b"\n"))
        };
        let (file, size, torn) = open().map_err(|source| LogError::Open { path: path.into(), source })?;
        Ok(Self {
            path: path.into(),
            options,
            file,
            size,
            retry_at: 0,
            torn,
            lost: 0,
            out: Vec::new(),
            lanes: lanes(&BTreeMap::new()),
        })
    }

    /// The same writer, putting attributes into each record. Before anything is written.
    #[must_use]
    pub fn with_attributes(mut self, attributes: &BTreeMap<String, String>) -> Self {
        self.lanes = lanes(attributes);
        self
    }

    /// Appends what `stream` has printed. After an error the records of this call may be lost, which are counted;
    /// later calls try again.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        self.lanes[stream.index()].tail.set(now);
        let mut rest = bytes;
        let result = self.lines(stream, &mut rest);
        if result.is_err() {
            self.lost += records(rest);
        }
        result
    }

    /// Records that could not be written since this was last asked.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Appends; after an error `left` is what was not looked at.
    fn lines(&mut self, stream: Stream, left: &mut &[u8]) -> io::Result<()> {
        let mut rest = *left;
        while let Some(at) = newline(rest) {
            let (line, after) = rest.split_at(at);
            rest = after.get(1..).unwrap_or_default();
            *left = rest;
            let lane = &self.lanes[stream.index()];
            if lane.pending.is_empty() && lane.split.is_none() && line.len() < CHUNK {
                self.record(stream, line, true)?;
            } else {
                self.hold(stream, line)?;
                self.release(stream, true)?;
            }
        }
        *left = &[];
        self.hold(stream, rest)?;
        self.commit()
    }

    /// Writes the unfinished lines, without a newline, as at the end of the streams.
    pub fn flush(&mut self) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.lanes[stream.index()].pending.is_empty() {
                self.release(stream, false)?;
            }
        }
        self.commit()
    }

    /// Adds to the unfinished line; what exceeds a chunk becomes a record without a newline.
    fn hold(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let lane = &mut self.lanes[stream.index()];
            let take = (CHUNK - lane.pending.len().min(CHUNK)).min(bytes.len());
            lane.pending.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if lane.pending.len() < CHUNK {
                return Ok(());
            }
            let time = *lane.split.get_or_insert(lane.tail.time);
            let mut pending = std::mem::take(&mut lane.pending);
            let at = cut(&pending);
            let result = self.timed(stream, time, &pending[..at], false);
            pending.drain(..at);
            self.lanes[stream.index()].pending = pending;
            result?;
        }
    }

    fn release(&mut self, stream: Stream, whole: bool) -> io::Result<()> {
        let lane = &mut self.lanes[stream.index()];
        let time = lane.split.take().unwrap_or(lane.tail.time);
        let mut pending = std::mem::take(&mut lane.pending);
        let result = self.timed(stream, time, &pending, whole);
        pending.clear();
        self.lanes[stream.index()].pending = pending;
        result
    }

    fn timed(&mut self, stream: Stream, time: Timestamp, text: &[u8], whole: bool) -> io::Result<()> {
        let now = self.lanes[stream.index()].tail.time;
        self.lanes[stream.index()].tail.set(time);
        let result = self.record(stream, text, whole);
        self.lanes[stream.index()].tail.set(now);
        result
    }

    fn record(&mut self, stream: Stream, text: &[u8], whole: bool) -> io::Result<()> {
        let start = self.out.len();
        self.out.extend_from_slice(HEAD);
        escape(&mut self.out, text);
        if whole {
            self.out.extend_from_slice(b"\\n");
        }
        self.out.extend_from_slice(self.lanes[stream.index()].tail.bytes());
        if self.full(self.out.len()) && self.size + length(start) > 0 {
            let last = self.out.split_off(start);
            if let Err(error) = self.commit() {
                self.lost += 1;
                return Err(error);
            }
            self.rotate();
            self.out = last;
        }
        if self.out.len() >= BLOCK { self.commit() } else { Ok(()) }
    }

    fn full(&self, more: usize) -> bool {
        let size = self.size + length(more);
        self.options.max_size > 0 && size > self.options.max_size && size > self.retry_at
    }

    fn rotate(&mut self) {
        match files::rotate(&self.path, self.options.max_file.max(1), self.options.compress) {
            Ok(file) => (self.file, self.size, self.torn, self.retry_at) = (file, 0, false, 0),
            // Losing the log would be worse than a file that is too large; try again a little later.
            Err(_) => self.retry_at = self.size + self.options.max_size / 8 + 4096,
        }
    }

    /// One write(2) for everything collected.
    fn commit(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        let mut done = 0;
        let result = loop {
            match self.file.write(&self.out[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if done == self.out.len() {
                break Ok(());
            }
        };
        self.lost += records(self.out.get(done..).unwrap_or_default());
        self.size += length(done);
        self.torn = done > 0 && self.out[done - 1] != b'\n';
        self.out.clear();
        // Text full of control characters grows sixfold; do not keep that memory.
        self.out.shrink_to(2 * BLOCK);
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody can be told any more.
        let _lost = self.flush();
    }
}

/// How many records or lines end in `bytes`.
fn records(bytes: &[u8]) -> u64 {
    length(bytes.iter().filter(|byte| **byte == b'\n').count())
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
