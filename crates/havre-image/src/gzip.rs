//! Compression with gzip on several processors, as one stream (RFC 1952) of blocks that were compressed apart.
//!
//! Invariant: what comes out depends on nothing but what goes in, on no number of processors and no timing, because a
//! layer's blob is known by its digest. Each block ends at a whole byte and looks at nothing before itself, so that
//! together they are one deflate stream. At most two blocks a thread are held in memory.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// How much is compressed apart: beside the 32 KiB that deflate looks back, little is lost at its beginning.
const BLOCK: usize = 1 << 20;
/// More threads than this would only wait for the disk and the wire.
const THREADS: usize = 4;
/// No name, no time, an unknown system: the same everywhere.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

type Done = io::Result<Vec<u8>>;

/// A block on its way, and where it goes.
struct Task {
    block: Vec<u8>,
    to: SyncSender<Done>,
}

/// Compresses what is written to it.
pub(crate) struct ParallelGzip<W: Write> {
    out: W,
    block: Vec<u8>,
    sum: Crc,
    begun: bool,
    /// Blocks that are compressed, in their order.
    pending: VecDeque<Receiver<Done>>,
    /// Started with the first block that is not the last one too.
    workers: Option<SyncSender<Task>>,
    threads: usize,
}

fn compress(block: &[u8], last: bool) -> Done {
    let mut state = Compress::new(Compression::default(), false);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    let mut rest = block;
    loop {
        let before = state.total_in();
        let status = state.compress_vec(rest, &mut out, flush).map_err(io::Error::other)?;
        let read = usize::try_from(state.total_in() - before).unwrap_or(0);
        rest = rest.get(read..).unwrap_or(&[]);
        // There was room left, so everything is out.
        if status == Status::StreamEnd || (!last && rest.is_empty() && out.len() < out.capacity()) {
            return Ok(out);
        }
        out.reserve(64 << 10);
    }
}

impl<W: Write> ParallelGzip<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let (block, pending) = (Vec::new(), VecDeque::new());
        Self { out, block, sum: Crc::new(), begun: false, pending, workers: None, threads }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&HEADER)?;
            self.begun = true;
        }
        Ok(())
    }

    fn workers(&mut self) -> io::Result<&SyncSender<Task>> {
        if self.workers.is_none() {
            let (sender, tasks) = sync_channel::<Task>(self.threads);
            let tasks = Arc::new(Mutex::new(tasks));
            for _ in 0..self.threads {
                let tasks = Arc::clone(&tasks);
                // They end with the sender.
                std::thread::Builder::new().name("gzip".into()).stack_size(256 << 10).spawn(move || {
                    loop {
                        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(Task { block, to }) = next else { return };
                        // Whoever asked may have given up.
                        to.send(compress(&block, false)).unwrap_or(());
                    }
                })?;
            }
            self.workers = Some(sender);
        }
        self.workers.as_ref().ok_or_else(|| io::Error::other("no threads to compress with"))
    }

    /// Hands a full block over, first waiting for the oldest one when there are many.
    fn dispatch(&mut self) -> io::Result<()> {
        self.begin()?;
        while self.pending.len() >= self.threads * 2 {
            self.collect()?;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (to, from) = sync_channel(1);
        let gone = |_| io::Error::other("the threads that compress are gone");
        self.workers()?.send(Task { block, to }).map_err(gone)?;
        self.pending.push_back(from);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(next) = self.pending.pop_front() else { return Ok(()) };
        let done = next.recv().map_err(|_| io::Error::other("a block was not compressed"))?;
        self.out.write_all(&done?)
    }

    /// Writes what is left and the end.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.begin()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        let last = compress(&self.block, true)?;
        self.out.write_all(&last)?;
        self.out.write_all(&self.sum.sum().to_le_bytes())?;
        // Its length modulo 2^32.
        self.out.write_all(&self.sum.amount().to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.dispatch()?;
        }
        let room = BLOCK - self.block.len();
        let part = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
        self.sum.update(part);
        self.block.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u32;
        (0..length)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Text and noise by turns.
                if at / 5000 % 2 == 0 { state.to_be_bytes()[0] } else { b'a' + u8::try_from(at % 7).unwrap() }
            })
            .collect()
    }

    fn packed(bytes: &[u8], piece: usize, threads: usize) -> Vec<u8> {
        let mut gzip = ParallelGzip { threads, ..ParallelGzip::new(Vec::new()) };
        bytes.chunks(piece).for_each(|piece| gzip.write_all(piece).unwrap());
        gzip.finish().unwrap()
    }

    #[test]
    fn what_goes_in_comes_out_and_is_one_stream() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let bytes = noise(length);
            let made = packed(&bytes, 100_000, 2);
            let mut out = Vec::new();
            // Not the decoder that goes on with a second stream.
            let mut decoder = flate2::bufread::GzDecoder::new(made.as_slice());
            decoder.read_to_end(&mut out).unwrap();
            assert!(out == bytes, "{length}");
            assert!(decoder.into_inner().is_empty(), "{length}: one stream to the end");
        }
    }

    #[test]
    fn it_depends_on_nothing_but_the_bytes() {
        let bytes = noise(5 * BLOCK + 99);
        let one = packed(&bytes, 1 << 16, 1);
        assert!(one.len() < bytes.len() * 3 / 4, "{}", one.len());
        for (piece, threads) in [(4096, 1), (BLOCK * 2, 2), (77_777, 4)] {
            assert!(packed(&bytes, piece, threads) == one, "{piece} {threads}");
        }
    }

    #[test]
    fn an_output_that_fails_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut gzip = ParallelGzip::new(Full);
        let error = gzip.write_all(&noise(2 * BLOCK)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
