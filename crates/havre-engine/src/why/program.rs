//! The program of a container as a file: is it there, may it run, what does it need.
//!
//! Invariants: every file was put there by somebody hostile: at most [`HEAD`] bytes of one are read, every
//! offset in it is checked, nothing is executed; only regular files are opened for reading.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use havre_sys::path::Root;
use rustix::fs::{FileType, OFlags};

use crate::record::Fixed;

/// Bytes of a file that are read.
const HEAD: usize = 64 * 1024;
/// Bytes of a script's first line that the kernel reads.
const FIRST_LINE: usize = 256;
/// Folders of libraries, where no loader's cache is asked.
const LIBRARIES: [&str; 10] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// What was seen of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The name in the command.
    pub(super) name: String,
    /// The file, when there is one.
    pub(super) file: Option<File>,
}

/// A file that should be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: String,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) kind: Kind,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    /// Neither a file nor a folder.
    Special,
    Elf {
        machine: u16,
        /// The loader it names, and whether that is there.
        loader: Option<(String, bool)>,
    },
    Script {
        interpreter: String,
        /// Whether that is there.
        found: bool,
        /// It is not there, and its name ends with a carriage return.
        carriage_return: bool,
    },
    Empty,
    Other,
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    Elf { machine: u16, loader: Option<String> },
    Script { interpreter: String },
    Empty,
    Other,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads ELF headers of both sizes and byte orders, and the first line of a script.
fn head(bytes: &[u8]) -> Head {
    if bytes.is_empty() {
        return Head::Empty;
    }
    if let Some(script) = bytes.strip_prefix(b"#!") {
        let line = script.get(..FIRST_LINE.min(script.len())).unwrap_or(script);
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches([' ', '\t']);
        let interpreter = line.split([' ', '\t']).next().unwrap_or("").to_owned();
        return Head::Script { interpreter };
    }
    elf(bytes).unwrap_or(Head::Other)
}

fn elf(bytes: &[u8]) -> Option<Head> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let wide = match bytes.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let little = match bytes.get(5)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    let half = |at| {
        let raw = number::<2>(bytes, at)?;
        Some(if little { u16::from_le_bytes(raw) } else { u16::from_be_bytes(raw) })
    };
    let word = |at| {
        let raw = number::<4>(bytes, at)?;
        Some(u64::from(if little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) }))
    };
    let long = |at| {
        let raw = number::<8>(bytes, at)?;
        Some(if little { u64::from_le_bytes(raw) } else { u64::from_be_bytes(raw) })
    };
    let machine = half(18)?;
    let segments = || {
        let (start, size, count) = match wide {
            true => (long(32)?, half(54)?, half(56)?),
            false => (word(28)?, half(42)?, half(44)?),
        };
        for index in 0..u64::from(count) {
            let at = usize::try_from(start.checked_add(index.checked_mul(u64::from(size))?)?).ok()?;
            // PT_INTERP
            if word(at)? != 3 {
                continue;
            }
            let (from, length) = match wide {
                true => (long(at.checked_add(8)?)?, long(at.checked_add(32)?)?),
                false => (word(at.checked_add(4)?)?, word(at.checked_add(16)?)?),
            };
            let from = usize::try_from(from).ok()?;
            let length = usize::try_from(length).ok().filter(|length| (2..=4096).contains(length))?;
            let text = bytes.get(from..from.checked_add(length)?)?;
            let text = text.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        None
    };
    Some(Head::Elf { machine, loader: segments() })
}

/// The container's program and its words.
pub(super) fn command(fixed: &Fixed) -> Vec<&str> {
    let words = fixed.merged.entrypoint.iter().flatten().chain(fixed.merged.command.iter().flatten());
    words.map(String::as_str).collect()
}

/// The path against the working directory.
fn absolute(fixed: &Fixed, path: &str) -> String {
    let folder = &fixed.merged.working_dir;
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", if folder.is_empty() { "" } else { folder.trim_end_matches('/') }),
    }
}

/// Looks for the program as the runtime does.
pub(crate) fn look(root: &Root<'_>, fixed: &Fixed) -> Seen {
    let name = command(fixed).first().copied().unwrap_or_default().to_owned();
    let candidates: Vec<String> = if name.contains('/') {
        vec![absolute(fixed, &name)]
    } else {
        let env = fixed.merged.environment(&fixed.hostname, fixed.spec.tty);
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
        let folders = path.split(':').filter(|folder| folder.starts_with('/'));
        folders.map(|folder| format!("{}/{name}", folder.trim_end_matches('/'))).collect()
    };
    let mut files = candidates.iter().filter_map(|path| file(root, fixed, path));
    // One that may run wins, as in the search for it; else the first that is there explains the refusal.
    let first = files.next();
    let file = match first {
        Some(file) if file.mode & 0o111 == 0 => files.find(|file| file.mode & 0o111 != 0).or(Some(file)),
        other => other,
    };
    Seen { name, file }
}

fn exists(root: &Root<'_>, path: &str) -> bool {
    !path.is_empty() && root.open_path(Path::new(path)).is_ok()
}

fn file(root: &Root<'_>, fixed: &Fixed, path: &str) -> Option<File> {
    let found = root.open_path(Path::new(path)).ok()?;
    let stat = rustix::fs::fstat(&found).ok()?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => match head(&read(root, path).ok()?) {
            Head::Elf { machine, loader } => {
                let there = |loader: String| {
                    let found = exists(root, &absolute(fixed, &loader));
                    (loader, found)
                };
                Kind::Elf { machine, loader: loader.map(there) }
            }
            Head::Script { interpreter } => {
                let there = |name: &str| exists(root, &absolute(fixed, name));
                let found = there(&interpreter);
                let without = interpreter.strip_suffix('\r');
                let carriage_return = !found && without.is_some();
                Kind::Script { interpreter, found, carriage_return }
            }
            Head::Empty => Kind::Empty,
            Head::Other => Kind::Other,
        },
        _ => Kind::Special,
    };
    Some(File { path: path.to_owned(), mode: stat.st_mode & 0o7777, owner: (stat.st_uid, stat.st_gid), kind })
}

/// The beginning of a regular file. Not waiting: somebody may have put a pipe there since.
fn read(root: &Root<'_>, path: &str) -> io::Result<Vec<u8>> {
    let file: OwnedFd = root.open(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = vec![0; HEAD];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, u64::try_from(done).unwrap_or(u64::MAX))? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Whether the program is one that a loader completes, and this library is in no usual folder.
pub(super) fn lacks(root: &Root<'_>, fixed: &Fixed, library: &str) -> bool {
    let dynamic =
        matches!(look(root, fixed).file, Some(File { kind: Kind::Elf { loader: Some((_, true)), .. }, .. }));
    let plain = !library.contains('/');
    dynamic
        && match plain {
            true => !LIBRARIES.iter().any(|folder| exists(root, &format!("{folder}/{library}"))),
            false => !exists(root, &absolute(fixed, library)),
        }
}

/// The processor of an ELF machine number; the numbers are the standard's.
pub(super) fn processor(machine: u16) -> String {
    match machine {
        3 => "386".into(),
        8 => "mips".into(),
        21 => "ppc64".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "amd64".into(),
        183 => "arm64".into(),
        243 => "riscv64".into(),
        258 => "loong64".into(),
        other => format!("machine number {other}"),
    }
}

/// Whether this machine's kernel runs such programs itself.
pub(super) fn runs_here(machine: u16) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => matches!(machine, 3 | 62),
        "aarch64" => matches!(machine, 40 | 183),
        "riscv64" => machine == 243,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit little-endian program with one segment that names a loader.
    fn program(machine: u16, loader: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&3_u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&120_u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(loader.len() as u64).to_le_bytes());
        bytes.extend(loader);
        bytes
    }

    #[test]
    fn a_program_names_its_machine_and_its_loader() {
        let found = head(&program(62, b"/lib/ld.so\0"));
        assert_eq!(found, Head::Elf { machine: 62, loader: Some("/lib/ld.so".into()) });
    }

    #[test]
    fn scripts_name_their_interpreter() {
        for (text, interpreter) in [
            ("#!/bin/bash\necho", "/bin/bash"),
            ("#! \t/usr/bin/env python3\n", "/usr/bin/env"),
            ("#!/bin/sh\r\necho\r\n", "/bin/sh\r"),
            ("#!", ""),
        ] {
            assert_eq!(head(text.as_bytes()), Head::Script { interpreter: interpreter.into() }, "{text:?}");
        }
        assert_eq!(head(b""), Head::Empty);
        assert_eq!(head(b"echo"), Head::Other);
        let Head::Script { interpreter } = head(&[b"#!".as_slice(), &[b'a'; 5000]].concat()) else {
            panic!()
        };
        assert_eq!(interpreter.len(), FIRST_LINE);
    }

    #[test]
    fn no_bytes_make_the_reader_fail() {
        let whole = program(183, b"/lib/ld.so\0");
        for length in 0..whole.len() {
            head(&whole[..length]);
        }
        // Every byte at its largest, in every place: offsets and counts that lead anywhere.
        for at in 4..whole.len() {
            for value in [0, 1, 2, 0x7f, 0xff] {
                for width in [1, 2, 4, 8] {
                    let mut bytes = whole.clone();
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].fill(value);
                    head(&bytes);
                }
            }
        }
        let mut endless = program(62, &[b'x'; 5000]);
        assert_eq!(head(&endless), Head::Elf { machine: 62, loader: None });
        endless[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        head(&endless);
    }
}
