//! The reading end: records in order, across rotated files, following the present one.
//!
//! Invariants: a record is given out once and whole; lines that are no records (torn by a crash, foreign)
//! are skipped and counted; memory is bounded whatever is in the file. A reader that is slower than rotation loses
//! the files that were dropped meanwhile, nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use havre_base::Timestamp;

use crate::encode::newline;
use crate::files::{self, Source};
use crate::{LogError, Stream, record};

const BLOCK: usize = 64 * 1024;
/// A line longer than this is no record of ours (16 KiB of text, at most six bytes for each).
const LONGEST: usize = 1024 * 1024;

/// Which records are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadSpec {
    /// Not those before this time.
    pub since: Option<Timestamp>,
    /// Nothing after this time.
    pub until: Option<Timestamp>,
    /// Of what is there now, only this many of the last records. Taken before `since` and `until` apply,
    /// as Docker does.
    pub tail: Option<usize>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was written.
    pub time: Timestamp,
    /// Where.
    pub stream: Stream,
    /// The text, with its newline unless the line was split or never finished.
    pub line: Vec<u8>,
    /// What the log options wanted to be told of the container.
    pub attributes: BTreeMap<String, String>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            time: Timestamp::default(),
            stream: Stream::Stdout,
            line: Vec::new(),
            attributes: BTreeMap::new(),
        }
    }
}

/// Reads the log of one container.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    spec: ReadSpec,
    current: Option<Source>,
    /// Files after `current`, oldest first.
    queue: VecDeque<Source>,
    buffer: Vec<u8>,
    start: usize,
    /// In the middle of a line that is too long to be a record.
    skipping: bool,
    skipped: u64,
    finished: bool,
}

impl Reader {
    /// Opens the log. One that does not exist yet reads as empty.
    pub fn open(path: &Path, spec: ReadSpec) -> Result<Self, LogError> {
        let mut reader = Self {
            path: path.into(),
            spec,
            current: None,
            queue: VecDeque::new(),
            buffer: Vec::new(),
            start: 0,
            skipping: false,
            skipped: 0,
            finished: false,
        };
        let open = |source| LogError::Open { path: path.into(), source };
        let mut wanted = spec.tail;
        for source in files::open_all(path).map_err(open)? {
            if let Some(left) = wanted {
                if left == 0 && !reader.queue.is_empty() {
                    break;
                }
                let (source, has) = source.seek_tail(left).map_err(open)?;
                wanted = Some(left - has);
                reader.queue.push_front(source);
            } else {
                reader.queue.push_front(source);
            }
        }
        reader.current = reader.queue.pop_front();
        Ok(reader)
    }

    /// The next record; `None` at the present end. Call again after the log has changed.
    #[expect(clippy::should_implement_trait, reason = "an iterator would be over at the first None")]
    pub fn next(&mut self) -> Result<Option<Entry>, LogError> {
        let mut entry = Entry::default();
        Ok(self.read_into(&mut entry)?.then_some(entry))
    }

    /// As `next`, reusing the memory of `entry`; false at the present end.
    pub fn read_into(&mut self, entry: &mut Entry) -> Result<bool, LogError> {
        self.read(entry).map_err(|source| LogError::Read { path: self.path.clone(), source })
    }

    /// Whether the `until` of the specification is passed, so that nothing more will come.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// How many lines were no records: torn by a crash or a full disk, or written by somebody else.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn read(&mut self, entry: &mut Entry) -> io::Result<bool> {
        while !self.finished {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            let Some(length) = newline(rest) else {
                if self.fill()? {
                    continue;
                }
                return Ok(false);
            };
            let line = rest.get(..length).unwrap_or_default();
            self.start += length + 1;
            let is_record = !std::mem::take(&mut self.skipping) && record::parse(line, entry);
            if !is_record {
                self.skipped += u64::from(length > 0);
                continue;
            }
            if self.spec.until.is_some_and(|until| entry.time > until) {
                self.finished = true;
                return Ok(false);
            }
            if self.spec.since.is_none_or(|since| entry.time >= since) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads more bytes, going on to the next file when this one is over; false when there are none now.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        if self.buffer.len() > LONGEST {
            self.skipping = true;
            self.buffer.clear();
        }
        loop {
            let Some(source) = &mut self.current else {
                // There was no log at all when the reader was opened, or between two files.
                let newest_first = files::open_all(&self.path)?;
                self.queue = newest_first.into_iter().rev().collect();
                self.current = self.queue.pop_front();
                if self.current.is_none() {
                    return Ok(false);
                }
                continue;
            };
            if read_block(source, &mut self.buffer)? {
                return Ok(true);
            }
            if self.queue.is_empty() {
                if source_was_truncated(source)? {
                    self.forget_partial();
                    continue;
                }
                if !self.find_successors()? {
                    return Ok(false);
                }
                // Between our last read and the rotation the writer may have appended.
                if let Some(source) = &mut self.current
                    && read_block(source, &mut self.buffer)?
                {
                    self.queue.clear();
                    return Ok(true);
                }
            }
            self.forget_partial();
            self.current = self.queue.pop_front();
        }
    }

    fn forget_partial(&mut self) {
        self.skipped += u64::from(self.skipping || !self.buffer.is_empty());
        self.buffer.clear();
        self.start = 0;
        self.skipping = false;
    }

    /// Queues the files written after the current one; false when it is still the newest.
    fn find_successors(&mut self) -> io::Result<bool> {
        let Some(current) = self.current.as_ref().map(Source::identity) else { return Ok(false) };
        match Source::plain(&self.path) {
            Ok(newest) if newest.identity() == current => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        for source in files::open_all(&self.path)? {
            if source.identity() == current {
                break;
            }
            self.queue.push_front(source);
        }
        Ok(!self.queue.is_empty())
    }
}

/// Appends up to a block; false at the end.
fn read_block(source: &mut Source, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let old = buffer.len();
    buffer.resize(old + BLOCK, 0);
    let result = source.read(&mut buffer[old..]);
    buffer.truncate(old + result.as_ref().map_or(0, |count| *count));
    match result {
        Ok(count) => Ok(count > 0),
        // A compressed file that a crash cut short: what could be read was read.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether someone cut the file shorter than we have read; then it is read from its start.
fn source_was_truncated(source: &mut Source) -> io::Result<bool> {
    use std::io::Seek;
    let Source::Plain(file, _) = source else { return Ok(false) };
    if file.metadata()?.len() >= file.stream_position()? {
        return Ok(false);
    }
    file.rewind()?;
    Ok(true)
}
