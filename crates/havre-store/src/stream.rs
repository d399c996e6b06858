//! Byte streams: recognising compression by its first bytes, bounds against decompression bombs, digests
//! on the way.

use std::io::{self, BufReader, Read};

use havre_oci::{Digest, Digester};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way we do not know.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz (LZMA2).
    Xz,
}

impl Compression {
    /// What the first bytes of a stream say.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// Whatever the compression, up to this many bytes come out.
const FREE: u64 = 1 << 30;
/// Beyond that only so many times what went in.
const RATIO: u64 = 200;
/// What unpacking xz may need, in KiB: `xz -9` asks for 65 MiB, a header may ask for 4 GiB.
const XZ_MEMORY: u32 = 256 << 10;

/// Counts and digests what is read through it.
#[derive(Debug)]
pub struct Counted<R> {
    inner: R,
    digester: Option<Digester>,
    count: u64,
}

impl<R: Read> Counted<R> {
    /// Around `inner`, which has not been read yet.
    pub fn new(inner: R, digest: bool) -> Self {
        Self { inner, digester: digest.then(Digester::new), count: 0 }
    }

    /// What it reads from.
    pub const fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// How many bytes were read.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The digest of what was read, if asked for.
    pub fn digest(&self) -> Option<Digest> {
        self.digester.clone().map(Digester::finish)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(digester) = &mut self.digester {
            digester.update(&buffer[..read]);
        }
        self.count += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

/// A stream without its compression.
pub struct Plain<R: Read> {
    kind: Kind<R>,
    out: u64,
}

enum Kind<R: Read> {
    None(Peeked<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Peeked<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Peeked<R>>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<BufReader<Peeked<R>>>>),
    Xz(Box<lzma_rust2::XzReader<BufReader<Peeked<R>>>>),
}

/// A stream whose first bytes were looked at.
struct Peeked<R> {
    head: Vec<u8>,
    at: usize,
    inner: Counted<R>,
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return self.inner.read(buffer);
        }
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl<R: Read> std::fmt::Debug for Plain<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").field("compression", &self.compression()).field("out", &self.out).finish()
    }
}

impl<R: Read> Plain<R> {
    /// Recognises the compression of `input`. With `digest`, what comes in is digested, if it is compressed.
    pub fn new(input: R, digest: bool) -> io::Result<Self> {
        let mut inner = Counted::new(input, digest);
        let mut head = Vec::with_capacity(4);
        inner.by_ref().take(4).read_to_end(&mut head)?;
        let compression = Compression::detect(&head);
        if compression == Compression::None {
            // What comes out is what went in; it is digested there if anyone wants to know.
            inner.digester = None;
        }
        let peeked = Peeked { head, at: 0, inner };
        let buffered = |peeked| BufReader::with_capacity(128 << 10, peeked);
        let kind = match compression {
            Compression::None => Kind::None(peeked),
            Compression::Gzip => Kind::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(peeked)))),
            // The library refuses windows over 128 MiB by itself.
            Compression::Zstd => {
                Kind::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(buffered(peeked))?))
            }
            Compression::Bzip2 => {
                Kind::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(peeked))))
            }
            Compression::Xz => {
                Kind::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(buffered(peeked), true, XZ_MEMORY)))
            }
        };
        Ok(Self { kind, out: 0 })
    }

    /// How the stream was compressed.
    pub const fn compression(&self) -> Compression {
        match &self.kind {
            Kind::None(_) => Compression::None,
            Kind::Gzip(_) => Compression::Gzip,
            Kind::Zstd(_) => Compression::Zstd,
            Kind::Bzip2(_) => Compression::Bzip2,
            Kind::Xz(_) => Compression::Xz,
        }
    }

    /// What went in: how many bytes, and their digest if it was asked for.
    pub fn input(&self) -> &Counted<R> {
        match &self.kind {
            Kind::None(inner) => &inner.inner,
            Kind::Gzip(decoder) => &decoder.get_ref().get_ref().inner,
            Kind::Zstd(decoder) => &decoder.get_ref().get_ref().inner,
            Kind::Bzip2(decoder) => &decoder.get_ref().get_ref().inner,
            Kind::Xz(decoder) => &decoder.inner().get_ref().inner,
        }
    }

    /// Reads what is behind the end of the compressed stream, so that the input's digest is complete.
    pub fn drain(&mut self) -> io::Result<()> {
        let inner: &mut dyn Read = match &mut self.kind {
            Kind::None(inner) => inner,
            Kind::Gzip(decoder) => decoder.get_mut(),
            Kind::Zstd(decoder) => decoder.get_mut(),
            Kind::Bzip2(decoder) => decoder.get_mut(),
            Kind::Xz(decoder) => decoder.inner_mut(),
        };
        io::copy(inner, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.kind {
            Kind::None(inner) => return inner.read(buffer),
            Kind::Gzip(decoder) => decoder.read(buffer)?,
            Kind::Zstd(decoder) => decoder.read(buffer)?,
            Kind::Bzip2(decoder) => decoder.read(buffer)?,
            Kind::Xz(decoder) => decoder.read(buffer)?,
        };
        self.out += u64::try_from(read).unwrap_or(0);
        if self.out > FREE + self.input().count() * RATIO {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the stream inflates more than two hundred times",
            ));
        }
        Ok(read)
    }
}
