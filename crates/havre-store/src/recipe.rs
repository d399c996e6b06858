//! How to write a layer's archive again, byte for byte, from its extracted files.
//!
//! A layer is stored once, extracted. Beside it lies its recipe: every byte of the archive that is not the
//! content of a file, and the names of the files whose content belongs between. So `save` and `push` give
//! the very archive whose digest is the layer's id, without keeping a second copy of every file.
//!
//! Invariant: what is written again is checked against that digest by the caller.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

const MAGIC: &[u8; 8] = b"havrtar1";
const END: u8 = 0;
/// Bytes to copy.
const RAW: u8 = 1;
/// The content of a file.
const FILE: u8 = 2;
/// A file written before under this name was replaced by a later entry, and kept under a number.
const MOVED: u8 = 3;
/// The replaced content is not there any more: the archive cannot be written again.
const LOST: u8 = 4;

/// Writes a recipe while a layer is extracted.
pub(crate) struct RecipeWriter {
    out: zstd::Encoder<'static, BufWriter<File>>,
}

impl RecipeWriter {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let mut out = zstd::Encoder::new(BufWriter::new(file), 1)?;
        out.write_all(MAGIC)?;
        Ok(Self { out })
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write_all(&[RAW])?;
        self.number(bytes.len())?;
        self.out.write_all(bytes)
    }

    pub(crate) fn file(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.named(FILE, path, size)
    }

    pub(crate) fn moved(&mut self, path: &[u8], number: u64) -> io::Result<()> {
        self.named(MOVED, path, number)
    }

    pub(crate) fn lost(&mut self) -> io::Result<()> {
        self.out.write_all(&[LOST])
    }

    fn named(&mut self, kind: u8, path: &[u8], value: u64) -> io::Result<()> {
        self.out.write_all(&[kind])?;
        self.number(path.len())?;
        self.out.write_all(path)?;
        self.out.write_all(&value.to_le_bytes())
    }

    fn number(&mut self, value: usize) -> io::Result<()> {
        let value = u32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.out.write_all(&value.to_le_bytes())
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[END])?;
        self.out.finish()?.flush()
    }
}

enum Record {
    Raw(Vec<u8>),
    File(Vec<u8>, u64),
    Moved(Vec<u8>, u64),
    Lost,
}

struct RecipeReader {
    input: zstd::Decoder<'static, BufReader<File>>,
}

impl RecipeReader {
    fn open(path: &Path) -> io::Result<Self> {
        let mut input = zstd::Decoder::new(File::open(path)?)?;
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a recipe we know"));
        }
        Ok(Self { input })
    }

    fn next(&mut self) -> io::Result<Option<Record>> {
        let mut kind = [0];
        self.input.read_exact(&mut kind)?;
        Ok(Some(match kind[0] {
            END => return Ok(None),
            RAW => Record::Raw(self.bytes()?),
            FILE => Record::File(self.bytes()?, self.value()?),
            MOVED => Record::Moved(self.bytes()?, self.value()?),
            LOST => Record::Lost,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "damaged recipe")),
        }))
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > 64 << 20 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "damaged recipe"));
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn value(&mut self) -> io::Result<u64> {
        let mut value = [0; 8];
        self.input.read_exact(&mut value)?;
        Ok(u64::from_le_bytes(value))
    }
}

/// Writes the archive of the layer in `folder` (with `fs`, `recipe` and maybe `replaced`) to `out`.
pub(crate) fn write_tar(folder: &Path, out: &mut impl Write) -> io::Result<()> {
    let recipe = folder.join("recipe");
    let mut moves: HashMap<Vec<u8>, Vec<(u64, u64)>> = HashMap::new();
    let mut reader = RecipeReader::open(&recipe)?;
    let mut index = 0_u64;
    while let Some(record) = reader.next()? {
        match record {
            Record::Moved(path, number) => moves.entry(path).or_default().push((index, number)),
            Record::Lost => {
                let why = "the layer's archive cannot be written again";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            Record::Raw(_) | Record::File(..) => {}
        }
        index += 1;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder.join("fs"), flags, Mode::empty())?;
    let mut reader = RecipeReader::open(&recipe)?;
    let mut block = vec![0_u8; 256 << 10];
    index = 0;
    while let Some(record) = reader.next()? {
        match record {
            Record::Raw(bytes) => out.write_all(&bytes)?,
            Record::File(path, size) => {
                let later = moves.get(&path).and_then(|all| all.iter().find(|(at, _)| *at > index));
                let mut file = match later {
                    Some((_, number)) => File::open(folder.join("replaced").join(number.to_string()))?,
                    None => open_inside(&root, &path)?,
                };
                copy(&mut file, out, size, &mut block)?;
            }
            Record::Moved(..) | Record::Lost => {}
        }
        index += 1;
    }
    Ok(())
}

fn open_inside(root: &impl std::os::fd::AsFd, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), inside)?.into())
}

fn copy(file: &mut File, out: &mut impl Write, size: u64, block: &mut [u8]) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let read = file.read(&mut block[..length])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer's file was shortened"));
        }
        out.write_all(&block[..read])?;
        left -= u64::try_from(read).unwrap_or(0);
    }
    Ok(())
}
