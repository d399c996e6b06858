//! Out of a container to this machine.
//!
//! The archive comes from a container that may be hostile: its entries are those that were asked for, below the
//! destination, or it is refused.

use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::{Buf as _, Bytes};
use havre_archive::ArchiveError;
use havre_archive::tar::{Entry, Kind, TarReader};
use havre_archive::unpack::{Links, Owner, Place, Rules, Unpacker, refuse, remove_tree};
use havre_client::Answer;
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid};

use super::paths::{Target, absolute, clean, followed, join, plan, split_entry};
use super::{Copy, FOLDER};
use crate::failure::{Failure, file_error};

impl Copy<'_> {
    pub(super) async fn receive(&self, from: &str, to: &str) -> Result<(), Failure> {
        let to = if to == "-" { None } else { Some(absolute(to)?) };
        if let Some(to) = &to {
            check_output(to)?;
        }
        let (mut from, mut renamed) = (from.to_owned(), None);
        if self.follow
            && let Ok(stat) = self.stat(&from).await
            && let Some(target) = Self::target(&from, &stat)
        {
            (from, renamed) = followed(&from, &target);
        }
        let (stat, answer) = self.client.archive(self.container, &from).await?;
        let Some(to) = to else { return to_output(answer).await };
        // The daemon names the entries by the last part of the path.
        let given = split_entry(&from).1;
        let target = target_here(&to)?;
        let (folder, name) = plan(stat.mode & FOLDER != 0, &target)?;
        let name = name.or(renamed).unwrap_or_else(|| given.clone());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&folder, flags, Mode::empty())
            .map_err(|error| Failure::plain(file_error("open", &folder, &error.into())))?;
        let keep_owner = self.archive && rustix::process::geteuid().is_root();
        let unpacking = Unpacking { root, folder: folder.clone(), given, name, keep_owner };
        let count = unpack(answer, unpacking).await?;
        self.done(count, &to);
        Ok(())
    }
}

async fn to_output(mut answer: Answer<'_>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    while let Some(piece) = answer.chunk().await? {
        out.write_all(&piece)?;
    }
    Ok(out.flush()?)
}

/// Refuses destinations that cannot be any.
pub(in crate::commands) fn check_output(path: &str) -> Result<(), Failure> {
    let clean = clean(path);
    let (folder, _) = split_entry(&clean);
    if matches!(std::fs::metadata(&folder), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Err(Failure::plain(format!("invalid output path: directory \"{folder}\" does not exist")));
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_char_device() || meta.file_type().is_block_device() => {
            Err(Failure::plain(format!(
                "invalid output path: \"{path}\" must be a directory or a regular file: got a device"
            )))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::plain(file_error("stat", path, &error)))
        }
        _ => Ok(()),
    }
}

/// What is at the destination, links followed: a copy changes what a link leads to.
fn target_here(asked: &str) -> Result<Target, Failure> {
    let mut path = asked.to_owned();
    for _ in 0..=10 {
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (folder, _) = split_entry(&path);
                return match std::fs::metadata(&folder) {
                    Ok(meta) if meta.is_dir() => Ok(Target { path, exists: None }),
                    Ok(_) => Err(Failure::plain("not a directory")),
                    Err(error) => Err(Failure::plain(file_error("stat", &folder, &error))),
                };
            }
            Err(error) => return Err(Failure::plain(file_error("lstat", &path, &error))),
        };
        if !found.is_symlink() {
            return Ok(Target { path, exists: Some(found.is_dir()) });
        }
        let link = std::fs::read_link(&path)
            .map_err(|error| Failure::plain(file_error("readlink", &path, &error)))?;
        let link = link.to_string_lossy().into_owned();
        path = if Path::new(&link).is_absolute() { link } else { join(&split_entry(&path).0, &link) };
    }
    Err(Failure::plain(format!("too many symlinks in {asked}")))
}

/// What an archive is turned into.
struct Unpacking {
    root: OwnedFd,
    folder: String,
    /// The name of the archive's top entry.
    given: String,
    /// The name it gets.
    name: String,
    keep_owner: bool,
}

async fn unpack(mut answer: Answer<'_>, how: Unpacking) -> Result<u64, Failure> {
    let (sender, receiver) = sync_channel::<Bytes>(8);
    let thread = std::thread::Builder::new().name("unpack".into());
    let thread = thread.spawn(move || how.run(Pieces { input: receiver, piece: Bytes::new() }))?;
    let mut count = 0;
    let mut broken = None;
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                count += u64::try_from(piece.len()).unwrap_or(0);
                // The other side tells its error below.
                if sender.send(piece).is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let made = thread.join().map_err(|_| Failure::plain("the unpacking of the archive panicked"))?;
    match (broken, made) {
        (Some(error), _) => Err(error.into()),
        (None, Err(error)) => Err(Failure::plain(havre_base::chain(&error))),
        (None, Ok(())) => Ok(count),
    }
}

struct Pieces {
    input: Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.input.recv() {
                Ok(piece) => self.piece = piece,
                Err(_) => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Unpacking {
    fn run(self, input: impl Read) -> Result<(), ArchiveError> {
        let rules = Rules { depth: 1000, links: Links::OldBelow, dots: false, root: false };
        let owner = Destination { folder: self.folder.clone(), keep_owner: self.keep_owner };
        let (given, name) = (self.given.clone(), self.name.clone());
        let mut unpacker = Unpacker::new(self.root, b"", rules, owner);
        let mut tar = TarReader::new(input, false);
        while let Some(mut entry) = tar.next_entry()? {
            entry.path = renamed(&entry.path, &given, &name)?;
            if entry.kind == Kind::HardLink {
                entry.link = renamed(&entry.link, &given, &name)?;
            }
            let path = unpacker.clean(&entry.path)?;
            unpacker.entry(&mut tar, &entry, &path)?;
        }
        tar.rest(|_| Ok(()))?;
        unpacker.finish()
    }
}

/// An entry's name with another first part; an error if the first part is not the one that was asked for.
fn renamed(path: &[u8], given: &str, name: &str) -> Result<Vec<u8>, ArchiveError> {
    if given == "/" {
        return Ok([name.as_bytes(), b"/", path].concat());
    }
    match path.strip_prefix(given.as_bytes()) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => Ok([name.as_bytes(), rest].concat()),
        _ => Err(refuse(path, "it is not part of what was asked for")),
    }
}

/// What a copy may do to what is there.
struct Destination {
    folder: String,
    keep_owner: bool,
}

impl Owner for Destination {
    fn displace(&mut self, place: &Place<'_>, old: &Stat) -> Result<(), ArchiveError> {
        let is_folder = FileType::from_raw_mode(old.st_mode) == FileType::Directory;
        let path = String::from_utf8_lossy(place.path);
        if is_folder != place.is_folder {
            let path = format!("{}/{path}", self.folder.trim_end_matches('/'));
            return Err(ArchiveError::Overwrite { path, is_folder, folder: self.folder.clone() });
        }
        remove_tree(place.parent, place.name, 1).map_err(|error| ArchiveError::Extract {
            name: path.into_owned(),
            source: std::sync::Arc::new(error.into()),
        })
    }

    fn ids(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        let id = |value: u64| u32::try_from(value).unwrap_or(0);
        self.keep_owner.then(|| (Uid::from_raw(id(entry.uid)), Gid::from_raw(id(entry.gid))))
    }
}
