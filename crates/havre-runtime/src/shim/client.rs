//! One attached client: a socket that the daemon handed over.
//!
//! Invariants: what was queued for a client arrives in order or the client is dropped; the queue is
//! bounded by the caller, who stops reading from the process while [`Client::is_full`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::detach::{DetachKeys, Scan};
use super::protocol::AttachSpec;

/// Above this many queued bytes the process is no longer read.
const HIGH_WATER: usize = 64 * 1024;

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes for the process, perhaps none.
    Bytes(Vec<u8>),
    /// Bytes, then the detach keys: the client goes, the process stays.
    Detach(Vec<u8>),
    /// The client will send no more.
    End,
    /// The connection is broken.
    Gone,
}

/// Which output a piece of data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An attached client.
#[derive(Debug)]
pub(super) struct Client {
    fd: OwnedFd,
    spec: AttachSpec,
    keys: Option<DetachKeys>,
    queue: Vec<u8>,
    sent: usize,
    /// The client's sending side is closed.
    pub(super) ended: bool,
    /// Our sending side is closed.
    closing: bool,
}

impl Client {
    /// Takes a connected stream socket. Detach keys are looked for only on a terminal.
    pub(super) fn new(fd: OwnedFd, spec: AttachSpec, terminal: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let keys = (terminal && spec.stdin && !spec.detach_keys.is_empty())
            .then(|| DetachKeys::new(spec.detach_keys.clone()));
        Ok(Self { fd, spec, keys, queue: Vec::new(), sent: 0, ended: false, closing: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the client feeds the process.
    pub(super) fn feeds(&self) -> bool {
        self.spec.stdin
    }

    /// Bytes waiting for the client.
    pub(super) fn pending(&self) -> usize {
        self.queue.len() - self.sent
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending() >= HIGH_WATER
    }

    /// Reads once. Would-block reads as no bytes.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Input {
        let count = match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Input::End,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Input::Bytes(Vec::new()),
            Err(_) => return Input::Gone,
        };
        let bytes = buffer.get(..count).unwrap_or(&[]);
        if !self.spec.stdin {
            return Input::Bytes(Vec::new());
        }
        match &mut self.keys {
            None => Input::Bytes(bytes.to_vec()),
            Some(keys) => match keys.scan(bytes) {
                Scan::Pass(bytes) => Input::Bytes(bytes),
                Scan::Detach(bytes) => Input::Detach(bytes),
            },
        }
    }

    /// Queues output and sends what the socket takes. An error means that the client is gone.
    pub(super) fn push(&mut self, channel: Channel, bytes: &[u8]) -> io::Result<()> {
        let wanted = match channel {
            Channel::Stdout => self.spec.stdout,
            Channel::Stderr => self.spec.stderr,
        };
        if !wanted || bytes.is_empty() {
            return Ok(());
        }
        if self.spec.multiplexed {
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
            let kind = match channel {
                Channel::Stdout => 1,
                Channel::Stderr => 2,
            };
            self.queue.extend_from_slice(&[kind, 0, 0, 0, length[0], length[1], length[2], length[3]]);
            self.queue.extend_from_slice(bytes);
        } else if self.pending() == 0 {
            // The usual case of a terminal: no copy when the socket takes all of it.
            let mut rest = bytes;
            while !rest.is_empty() {
                match rustix::net::send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(count) => rest = rest.get(count..).unwrap_or(&[]),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.queue.extend_from_slice(rest);
            return Ok(());
        } else {
            self.queue.extend_from_slice(bytes);
        }
        self.flush()
    }

    /// Ends our side once everything is sent; true when the other side has ended too. A socket that is
    /// closed with unread input would tell the client of an error instead of the end.
    pub(super) fn end(&mut self) -> bool {
        if self.pending() > 0 {
            return false;
        }
        if !self.closing {
            self.closing = true;
            // A client that is gone already is as good as one that ended.
            if rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write).is_err() {
                self.ended = true;
            }
        }
        self.ended
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.pending() > 0 {
            let rest = self.queue.get(self.sent..).unwrap_or(&[]);
            match rustix::net::send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sent = 0;
        self.queue.clear();
        if self.queue.capacity() > 2 * HIGH_WATER {
            self.queue.shrink_to(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn spec(multiplexed: bool) -> AttachSpec {
        AttachSpec { stdin: true, stdout: true, stderr: true, multiplexed, detach_keys: vec![16, 17] }
    }

    #[test]
    fn output_is_framed_as_docker_frames_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into(), spec(true), false).unwrap();
        client.push(Channel::Stderr, b"oops").unwrap();
        let mut frame = [0; 12];
        theirs.read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"\x02\0\0\0\0\0\0\x04oops");
    }

    #[test]
    fn a_client_that_does_not_read_is_reported_full_and_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into(), spec(false), false).unwrap();
        let mut total = 0;
        while !client.is_full() {
            client.push(Channel::Stdout, &[7; 8192]).unwrap();
            total += 8192;
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        while client.pending() > 0 {
            client.flush().unwrap();
        }
        drop(client);
        assert_eq!(reader.join().unwrap(), total);
    }

    #[test]
    fn detach_keys_work_only_on_a_terminal() {
        for (terminal, expected) in
            [(true, Input::Detach(b"a".to_vec())), (false, Input::Bytes(b"a\x10\x11".to_vec()))]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut client = Client::new(ours.into(), spec(false), terminal).unwrap();
            theirs.write_all(b"a\x10\x11").unwrap();
            assert_eq!(client.read(&mut [0; 64]), expected);
        }
    }
}
