//! One container's tree as a client sees it: what a path names, archives out of it and into it.
//!
//! Invariants: every path is resolved inside the root's descriptor, and what it named is held as a descriptor
//! from then on; a path's text only chooses names in the archive.

use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use havre_archive::ArchiveError;
use havre_archive::pack::Packer;
use havre_archive::tar::{Entry, TarReader};
use havre_archive::unpack::{Links, Owner, Place, Rules, Unpacker, remove_tree};
use havre_base::Timestamp;
use havre_store::stream::Plain;
use havre_sys::path::Root;
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::EngineError;

/// Links followed before a chain of them counts as endless.
const LINKS: usize = 255;
/// Entries of one upload.
const ENTRIES: u64 = 4_000_000;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// The mode as the kernel has it, with the type.
    pub mode: u32,
    /// When it was changed.
    pub modified: Timestamp,
    /// Where a link leads in the end, as far as there is something.
    pub link_target: String,
}

/// How an upload is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractSpec {
    /// It is an error to replace a folder by something else, and the other way round.
    pub keep_kinds: bool,
    /// Everything gets this owner and group.
    pub owner: Option<(u32, u32)>,
}

/// A path taken apart as Docker does it.
struct Asked {
    /// Without what means nothing, and absolute; `/` and `/.` at the end are kept.
    path: String,
    /// Its last name: `/` for the root, `.` for a path that ends so.
    base: String,
}

impl Asked {
    fn parse(text: &str) -> Self {
        let clean = clean(text);
        let dot = text == "." || text.ends_with("/.");
        let slash = text.ends_with('/');
        let base = match clean.rsplit('/').next() {
            _ if dot => ".",
            Some("") | None => "/",
            Some(name) => name,
        };
        let base = base.to_owned();
        let path = match clean.as_str() {
            _ if dot => format!("{}/.", clean.trim_end_matches('/')),
            "/" => clean,
            _ if slash => format!("{clean}/"),
            _ => clean,
        };
        Self { path, base }
    }
}

/// The text with `.`, `..` and double slashes resolved by their letters, absolute.
pub fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A tree that is open.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: OwnedFd,
    /// How its container was called.
    pub(super) container: String,
}

impl Tree {
    fn missing(&self, asked: &str) -> EngineError {
        EngineError::NoFile { path: asked.to_owned(), container: self.container.clone() }
    }

    fn failed(&self, asked: &str, error: io::Error) -> EngineError {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => self.missing(asked),
            Some(Errno::NOTDIR) => EngineError::Invalid(format!("lstat {asked}: not a directory")),
            _ => EngineError::io("look at", asked)(error),
        }
    }

    /// What the path names: a descriptor of it, and of its folder if it is none itself.
    fn find(&self, asked: &str) -> Result<(Asked, OwnedFd, Stat), EngineError> {
        let path = Asked::parse(asked);
        let root = Root::new(self.root.as_fd());
        // A slash at the end follows a link, and wants a folder, as the kernel has it.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = root.open(Path::new(&path.path), flags).map_err(|e| self.failed(asked, e))?;
        let stat = rustix::fs::fstat(&found).map_err(|e| self.failed(asked, e.into()))?;
        Ok((path, found, stat))
    }

    /// What a path names.
    pub(super) fn stat(&self, asked: &str) -> Result<PathStat, EngineError> {
        let (path, _, stat) = self.find(asked)?;
        let link_target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.follow(&path.path).map_err(|e| self.failed(asked, e))?,
            _ => String::new(),
        };
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(PathStat {
            name: path.base,
            size: stat.st_size,
            mode: stat.st_mode,
            modified: Timestamp::from_nanos(
                stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos),
            ),
            link_target,
        })
    }

    /// Where a path leads when every link is followed, as far as there is something.
    fn follow(&self, path: &str) -> io::Result<String> {
        let root = Root::new(self.root.as_fd());
        let mut parts: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let (mut done, mut links): (Vec<String>, usize) = (Vec::new(), 0);
        while let Some(part) = parts.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => drop(done.pop()),
                _ => done.push(part),
            }
            let here = format!("/{}", done.join("/"));
            let Ok(found) = root.open(Path::new(&here), OFlags::PATH | OFlags::NOFOLLOW) else { continue };
            if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&found, c"", Vec::new())?;
            let target = target.to_string_lossy();
            done.pop();
            if target.starts_with('/') {
                done.clear();
            }
            parts.extend(target.rsplit('/').map(str::to_owned));
        }
        Ok(format!("/{}", done.join("/")))
    }

    /// Looks for what an archive is to be made of, before its first byte.
    pub(super) fn source(&self, asked: &str) -> Result<Source, EngineError> {
        let (path, found, stat) = self.find(asked)?;
        let root = Root::new(self.root.as_fd());
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&found, c".", flags, Mode::empty());
            let folder = folder.map_err(|e| self.failed(asked, e.into()))?;
            return Ok(Source::Folder(folder, path.base));
        }
        let above = path.path.rsplit_once('/').map_or("/", |(above, _)| above);
        let above = if above.is_empty() { "/" } else { above };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = root.open(Path::new(above), flags).map_err(|e| self.failed(asked, e))?;
        Ok(Source::Leaf(parent, path.base))
    }

    /// Unpacks an archive into the folder that the path names.
    pub(super) fn extract(
        &self,
        asked: &str,
        spec: ExtractSpec,
        input: impl Read,
    ) -> Result<(), EngineError> {
        let clean = clean(asked);
        let root = Root::new(self.root.as_fd());
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = root.open(Path::new(&clean), flags).map_err(|e| self.failed(asked, e))?;
        let found = match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            // Docker's clients follow it before they ask; others mean where it leads.
            FileType::Symlink => {
                root.open(Path::new(&clean), OFlags::PATH).map_err(|e| self.failed(asked, e))?
            }
            _ => found,
        };
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::Directory {
            return Err(EngineError::Invalid("extraction point is not a directory".into()));
        }
        let copy = rustix::io::dup(&self.root).map_err(|e| self.failed(asked, e.into()))?;
        let rules = Rules { depth: 256, links: Links::OldInRoot, dots: true, root: false };
        let upload = Upload { spec, folder: clean.clone() };
        let mut unpacker = Unpacker::new(copy, clean.as_bytes(), rules, upload);
        unpack(&mut unpacker, input)
            .map_err(|error| EngineError::Archive { what: "Error processing tar file", source: error })
    }
}

fn fstat(fd: &OwnedFd) -> Result<Stat, EngineError> {
    rustix::fs::fstat(fd).map_err(EngineError::io("look at", "/"))
}

fn unpack(unpacker: &mut Unpacker<Upload>, input: impl Read) -> Result<(), ArchiveError> {
    let plain = Plain::new(input, false).map_err(ArchiveError::stream)?;
    let mut tar = TarReader::new(plain, false);
    let mut count = 0;
    while let Some(entry) = tar.next_entry()? {
        count += 1;
        if count > ENTRIES {
            return Err(ArchiveError::Limit { what: "entries", limit: ENTRIES });
        }
        let path = unpacker.clean(&entry.path)?;
        unpacker.entry(&mut tar, &entry, &path)?;
    }
    // To the end, so that a client that is still sending is not cut off.
    tar.rest(|_| Ok(()))?;
    unpacker.finish()
}

/// What an archive is made of.
#[derive(Debug)]
pub(super) enum Source {
    Folder(OwnedFd, String),
    /// In this folder, under this name.
    Leaf(OwnedFd, String),
}

impl Source {
    /// Writes the archive.
    pub(super) fn write<W: Write>(self, out: &mut W) -> Result<(), ArchiveError> {
        let mut packer = Packer::new(out);
        match self {
            Self::Folder(folder, name) => packer.tree(folder, name.as_bytes())?,
            Self::Leaf(parent, name) => {
                let text = CString::new(name.clone()).map_err(ArchiveError::stream)?;
                packer.one(parent.as_fd(), &text, OsStr::new(&name).as_bytes())?;
            }
        }
        packer.finish().map(drop)
    }
}

/// What an upload may do to what is there.
struct Upload {
    spec: ExtractSpec,
    folder: String,
}

impl Owner for Upload {
    fn displace(&mut self, place: &Place<'_>, old: &Stat) -> Result<(), ArchiveError> {
        let is_folder = FileType::from_raw_mode(old.st_mode) == FileType::Directory;
        let path = String::from_utf8_lossy(place.path);
        if self.spec.keep_kinds && is_folder != place.is_folder {
            let path = format!("{}/{path}", self.folder.trim_end_matches('/'));
            return Err(ArchiveError::Overwrite { path, is_folder, folder: self.folder.clone() });
        }
        remove_tree(place.parent, place.name, 256).map_err(|error| ArchiveError::Extract {
            name: path.into_owned(),
            source: std::sync::Arc::new(error.into()),
        })
    }

    fn ids(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        let id = |value: u64| u32::try_from(value).unwrap_or(0);
        let (uid, gid) = self.spec.owner.unwrap_or_else(|| (id(entry.uid), id(entry.gid)));
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_what_their_end_says() {
        for (text, path, base) in [
            ("/d", "/d", "d"),
            ("d", "/d", "d"),
            ("/d/", "/d/", "d"),
            ("/d/.", "/d/.", "."),
            (".", "/.", "."),
            ("/", "/", "/"),
            ("//a//b/../c/", "/a/c/", "c"),
            ("../../x", "/x", "x"),
            ("/..", "/", "/"),
        ] {
            let asked = Asked::parse(text);
            assert_eq!((asked.path.as_str(), asked.base.as_str()), (path, base), "{text}");
        }
    }
}
