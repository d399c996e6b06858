//! Streams between a client and blocking code that works on a container's files.
//!
//! Invariants: a bounded number of pieces waits; whoever waits for the other side is woken when the other side
//! vanishes or the lease is revoked.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Bytes of one piece to a client.
const PIECE: usize = 256 << 10;

/// Pieces from a client.
pub type Incoming = mpsc::Receiver<io::Result<Bytes>>;
/// Pieces to a client; an error ends the connection, so that nothing cut short looks whole.
pub type Outgoing = mpsc::Sender<io::Result<Bytes>>;

async fn revoked(flag: &mut watch::Receiver<bool>) {
    // A sender that is gone revokes too: its container is no more.
    flag.wait_for(|revoked| *revoked).await.map(drop).unwrap_or(());
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it was ended because the container is started or removed")
}

/// What a client sends.
#[derive(Debug)]
pub(crate) struct Inflow {
    pieces: Incoming,
    current: Bytes,
    revoked: watch::Receiver<bool>,
    runtime: Handle,
}

impl Inflow {
    pub(crate) fn new(pieces: Incoming, revoked: watch::Receiver<bool>, runtime: Handle) -> Self {
        Self { pieces, current: Bytes::new(), revoked, runtime }
    }
}

impl Read for Inflow {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let (pieces, flag) = (&mut self.pieces, &mut self.revoked);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = revoked(flag) => Err(cut()),
                    piece = pieces.recv() => Ok(piece),
                }
            })?;
            match next {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// What a client receives.
#[derive(Debug)]
pub(crate) struct Outflow {
    pieces: Outgoing,
    current: Vec<u8>,
    revoked: watch::Receiver<bool>,
    runtime: Handle,
}

impl Outflow {
    pub(crate) fn new(pieces: Outgoing, revoked: watch::Receiver<bool>, runtime: Handle) -> Self {
        Self { pieces, current: Vec::new(), revoked, runtime }
    }

    fn pass(&mut self) -> io::Result<()> {
        if self.current.is_empty() { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = Ok(Bytes::from(std::mem::take(&mut self.current)));
        let flag = &mut self.revoked;
        if *flag.borrow() {
            return Err(cut());
        }
        let piece = match self.pieces.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        let pieces = &self.pieces;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = revoked(flag) => Err(cut()),
                sent = pieces.send(piece) => sent.map_err(|_| io::ErrorKind::BrokenPipe.into()),
            }
        })
    }

    /// Ends the stream: with success all of it is on its way, and an empty piece says that it is all; without
    /// that piece the connection breaks, also when there is no room to say why.
    pub(crate) fn end(mut self, result: Result<(), &dyn std::error::Error>) {
        let ended = match result {
            Ok(()) => self.pass().and_then(|()| self.send()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream of files was cut short");
            // No room means a client that does not read; it learns it from the missing end.
            self.pieces.try_send(Err(error)).map(drop).unwrap_or(());
        }
    }
}

impl Write for Outflow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.capacity() == 0 {
            self.current.reserve_exact(PIECE);
        }
        let count = bytes.len().min(PIECE - self.current.len());
        self.current.extend_from_slice(&bytes[..count]);
        if self.current.len() >= PIECE {
            self.pass()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
