//! The files of one log: their names, their identity, opening them in order, rotating them.
//!
//! Invariant: while files are shifted at most one number is missing, and a compressed file carries the
//! identity of the file it was made from, so that a reader always finds what follows the file it has read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use rustix::fs::{Mode, OFlags};

/// Device and inode number.
pub(crate) type Identity = (u64, u64);

/// `path` with `suffix` appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.extend_from_slice(suffix.as_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(name))
}

pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    with_suffix(path, &format!(".{number}"))
}

fn compressed(path: &Path, number: u32) -> PathBuf {
    with_suffix(path, &format!(".{number}.gz"))
}

pub(crate) fn identity(file: &File) -> io::Result<Identity> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

fn open_read(path: &Path) -> io::Result<File> {
    // A reader must not hang on a FIFO, nor follow a link out of the folder.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // 0640 as Docker's log files.
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?.into())
}

fn if_present(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if_present(rustix::fs::unlink(path))
}

/// Moves every file up by one number, dropping the oldest, and returns a new empty file at `path`.
/// When it fails, `path` is still the file it was.
pub(crate) fn rotate(path: &Path, max_file: u32, compress: bool) -> io::Result<File> {
    let next = with_suffix(path, ".next");
    remove(&next)?;
    let file = open_append(&next)?;
    if max_file > 1 {
        for number in (1..max_file).rev() {
            let last = number + 1 >= max_file;
            for (from, to) in [
                (numbered(path, number), numbered(path, number + 1)),
                (compressed(path, number), compressed(path, number + 1)),
            ] {
                if last { remove(&from)? } else { if_present(rustix::fs::rename(&from, &to))? }
            }
        }
        if_present(rustix::fs::rename(path, numbered(path, 1)))?;
    }
    rustix::fs::rename(&next, path)?;
    if max_file > 1 && compress {
        // The log is rotated; a failure here only leaves a larger file.
        let _kept_plain = compress_file(path, 1);
    }
    Ok(file)
}

fn compress_file(path: &Path, number: u32) -> io::Result<()> {
    let plain = numbered(path, number);
    let temporary = with_suffix(path, ".gz.tmp");
    let mut input = open_read(&plain)?;
    let (device, inode) = identity(&input)?;
    remove(&temporary)?;
    let output = open_append(&temporary)?;
    // Level 1 keeps the shim's pause short: some 40 ms for 10 MiB.
    let mut encoder =
        flate2::GzBuilder::new().comment(format!("{device}:{inode}")).write(output, Compression::fast());
    let mut block = [0_u8; 8192];
    loop {
        let read = input.read(&mut block)?;
        if read == 0 {
            break;
        }
        encoder.write_all(&block[..read])?;
    }
    let _file = encoder.finish()?;
    rustix::fs::rename(&temporary, compressed(path, number))?;
    remove(&plain)
}

/// Removes what a crash during rotation left beside the log.
pub(crate) fn tidy(path: &Path) -> io::Result<()> {
    remove(&with_suffix(path, ".next"))?;
    remove(&with_suffix(path, ".gz.tmp"))?;
    if numbered(path, 1).exists() { remove(&compressed(path, 1)) } else { Ok(()) }
}

/// One file of a log, open for reading.
#[derive(Debug)]
pub(crate) enum Source {
    Plain(File, Identity),
    Gzip(Box<GzDecoder<BufReader<File>>>, Identity),
}

impl Source {
    pub(crate) fn plain(path: &Path) -> io::Result<Self> {
        let file = open_read(path)?;
        let identity = identity(&file)?;
        Ok(Self::Plain(file, identity))
    }

    fn gzip(path: &Path) -> io::Result<Self> {
        let decoder = GzDecoder::new(BufReader::new(open_read(path)?));
        let origin = decoder.header().and_then(|header| {
            let (device, inode) = std::str::from_utf8(header.comment()?).ok()?.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        Ok(Self::Gzip(Box::new(decoder), origin.unwrap_or((0, 0))))
    }

    /// The identity of the file the text was written to. That of a compressed file may have been given to a
    /// later file since; so search from the newest.
    pub(crate) fn identity(&self) -> Identity {
        match self {
            Self::Plain(_, identity) | Self::Gzip(_, identity) => *identity,
        }
    }

    fn own_identity(&self) -> io::Result<Identity> {
        match self {
            Self::Plain(_, own) => Ok(*own),
            Self::Gzip(decoder, _) => identity(decoder.get_ref().get_ref()),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file, _) => file.read(buffer),
            Self::Gzip(decoder, _) => decoder.read(buffer),
        }
    }

    /// Goes back to the first byte.
    pub(crate) fn rewind(self) -> io::Result<Self> {
        match self {
            Self::Plain(mut file, identity) => {
                file.rewind()?;
                Ok(Self::Plain(file, identity))
            }
            Self::Gzip(decoder, identity) => {
                let mut file = decoder.into_inner().into_inner();
                file.rewind()?;
                Ok(Self::Gzip(Box::new(GzDecoder::new(BufReader::new(file))), identity))
            }
        }
    }

    /// Positions the source before its last `wanted` records and returns how many it has of them.
    pub(crate) fn seek_tail(mut self, wanted: usize) -> io::Result<(Self, usize)> {
        let mut block = vec![0_u8; 64 * 1024];
        if let Self::Plain(file, _) = &mut self {
            let (mut end, mut seen) = (file.metadata()?.len(), 0_usize);
            while end > 0 {
                let length = usize::try_from(end).unwrap_or(usize::MAX).min(block.len());
                let start = end - u64::try_from(length).unwrap_or(0);
                let part = &mut block[..length];
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(part)?;
                for at in (0..length).rev() {
                    if part[at] == b'\n' {
                        if seen == wanted {
                            file.seek(SeekFrom::Start(start + u64::try_from(at + 1).unwrap_or(0)))?;
                            return Ok((self, wanted));
                        }
                        seen += 1;
                    }
                }
                end = start;
            }
            file.rewind()?;
            return Ok((self, seen));
        }
        let mut total = 0_usize;
        loop {
            let read = self.read(&mut block)?;
            if read == 0 {
                break;
            }
            total += block[..read].iter().filter(|&&b| b == b'\n').count();
        }
        let mut source = self.rewind()?;
        let mut skip = total.saturating_sub(wanted);
        let mut byte = [0_u8; 1];
        while skip > 0 && source.read(&mut byte)? == 1 {
            skip -= usize::from(byte[0] == b'\n');
        }
        Ok((source, total.min(wanted)))
    }
}

/// Opens all files of the log, newest first, without a gap and none twice.
pub(crate) fn open_all(path: &Path) -> io::Result<Vec<Source>> {
    // A rotation meanwhile would mix up the order; it shows in what `path` is.
    for _ in 0..10 {
        let found = open_numbered(path)?;
        let first = found.first().map(Source::identity);
        match Source::plain(path) {
            Ok(newest) if Some(newest.identity()) == first => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    open_numbered(path)
}

fn open_numbered(path: &Path) -> io::Result<Vec<Source>> {
    let mut found: Vec<(Identity, Source)> = Vec::new();
    let (mut number, mut missing) = (0_u32, 0);
    while missing < 2 {
        let source = match number {
            0 => Source::plain(path),
            _ => match Source::plain(&numbered(path, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Source::gzip(&compressed(path, number))
                }
                other => other,
            },
        };
        match source {
            Ok(source) => {
                missing = 0;
                // One that is being moved up can be met twice. Held open, its inode number is its own.
                let own = source.own_identity()?;
                if found.iter().all(|(other, _)| *other != own) {
                    found.push((own, source));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing += 1,
            Err(error) => return Err(error),
        }
        number += 1;
    }
    Ok(found.into_iter().map(|(_, source)| source).collect())
}
