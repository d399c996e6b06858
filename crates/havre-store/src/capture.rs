//! A writable layer as a new read-only one.
//!
//! The archive is made by one thread and unpacked by another, so that the new layer is what anybody who gets
//! the archive would have, by construction.
//! Invariants: the writable layer is only read; what a change under our hands leaves unclear is the container's
//! affair (it is frozen unless its user does not want that); a failure leaves nothing.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use havre_archive::pack::Packer;
use havre_archive::{ArchiveError, unpack};
use rustix::fs::{Mode, OFlags};

use crate::{Limits, Pending, Snapshots, StoreError};

/// Bytes handed over at a time, and how many such pieces may wait.
const PIECE: usize = 1 << 20;
const PIECES: usize = 8;

impl Snapshots {
    /// Makes a layer of the upper folder `upper`, without what `skip` names; none when nothing is in it.
    pub fn capture(
        &self,
        upper: &Path,
        skip: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<Option<Pending>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(upper, flags, Mode::empty()).map_err(|e| StoreError::read(upper, e))?;
        let (sender, receiver) = sync_channel(PIECES);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("pack".into()).stack_size(512 << 10);
            let packing = thread.spawn_scoped(scope, move || {
                let skip: &dyn Fn(&[u8]) -> bool = &|path| skip(path);
                let mut packer = Packer::new(Sender { out: sender, piece: Vec::new() }).layer(skip);
                packer.tree(folder, b"")?;
                packer.finish()?.finish().map_err(ArchiveError::stream)
            });
            let packing = packing.map_err(|e| StoreError::read(upper, e))?;
            let layer = self.extract(Pieces { input: receiver, piece: Vec::new(), at: 0 }, Limits::default());
            let packed = packing
                .join()
                .unwrap_or_else(|_| Err(unpack::refuse(b"", "the packing of a layer panicked")));
            match (packed, layer) {
                // The other side ended because of it.
                (Err(error @ ArchiveError::Out(_)), Ok(_)) => Err(error.into()),
                (_, Err(error)) => Err(error),
                (Err(error), Ok(_)) => Err(error.into()),
                // Two blocks of zeros.
                (Ok(()), Ok(layer)) => Ok((layer.info.tar_size > 1024).then_some(layer)),
            }
        })
    }
}

struct Sender {
    out: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Sender {
    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.out.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> io::Result<()> {
        self.pass()
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.pass()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pieces {
    input: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.input.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let count = (self.piece.len() - self.at).min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
