//! The daemon's end of a shim: starting one, finding one again, talking to it.
//!
//! Invariants: a shim's run folder holds a lock for as long as the shim lives or its start is in
//! flight, so a daemon that comes back can tell "dead" from "not yet listening"; the shim's program is
//! a sealed copy of ours that nobody can write.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use havre_runtime::shim::protocol::{
    Ask, AttachSpec, Hello, MAX_MESSAGE, Packet, Request, SOCKET, ShimConfig, VERSION,
};
use havre_sys::seqpacket;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The name of the lock in a run folder.
const LOCK: &str = "lock";
/// How many clients can come along with the start; more follow by request.
pub(crate) const CLIENTS_AT_START: usize = 4;

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Link {
    /// A seqpacket socket; tokio's stream type only lends its readiness here.
    socket: UnixStream,
    seq: u64,
    buffer: Vec<u8>,
}

impl Link {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = UnixStream::from_std(std::os::unix::net::UnixStream::from(socket))?;
        Ok(Self { socket, seq: 0, buffer: Vec::new() })
    }

    /// The next packet; none when the shim is gone. Cancel safe.
    pub(crate) async fn recv(&mut self) -> io::Result<Option<Packet>> {
        Ok(self.recv_with().await?.map(|(packet, _)| packet))
    }

    /// The same, with the descriptors that came along.
    pub(crate) async fn recv_with(&mut self) -> io::Result<Option<(Packet, Vec<OwnedFd>)>> {
        self.buffer.resize(MAX_MESSAGE, 0);
        let buffer = &mut self.buffer;
        let socket = &self.socket;
        let received = socket.async_io(Interest::READABLE, || seqpacket::recv_into(socket, buffer)).await?;
        let packet = match received {
            None => None,
            Some((count, fds)) => {
                let bytes = buffer.get(..count).unwrap_or(&[]);
                Some((serde_json::from_slice(bytes).map_err(io::Error::other)?, fds))
            }
        };
        // An idle container keeps no buffer.
        self.buffer = Vec::new();
        Ok(packet)
    }

    /// Sends a request; its answer comes through [`Link::recv`] with the returned number.
    pub(crate) async fn send(&mut self, ask: Ask, fds: &[BorrowedFd<'_>]) -> io::Result<u64> {
        self.seq += 1;
        let bytes = serde_json::to_vec(&Request { seq: self.seq, ask }).map_err(io::Error::other)?;
        let socket = &self.socket;
        socket.async_io(Interest::WRITABLE, || seqpacket::send(socket, &bytes, fds)).await?;
        Ok(self.seq)
    }
}

/// Takes the lock of a run folder; none when a shim has it.
pub(crate) fn try_lock(run_dir: &Path) -> io::Result<Option<OwnedFd>> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(run_dir.join(LOCK), flags, Mode::from_raw_mode(0o600))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Starts a shim for `config`; `network` is the namespace that the container gets. The clients are attached before the container writes its first byte.
pub(crate) fn spawn(
    binary: BorrowedFd<'_>,
    config: &ShimConfig,
    filter: Option<BorrowedFd<'_>>,
    network: Option<BorrowedFd<'_>>,
    clients: Vec<(AttachSpec, OwnedFd)>,
) -> io::Result<(Link, Child)> {
    let lock = try_lock(&config.run_dir)?
        .ok_or_else(|| io::Error::other("a supervisor of an earlier run still holds the run folder"))?;
    let (ours, theirs) = seqpacket::pair()?;
    let text = serde_json::to_vec(config).map_err(io::Error::other)?;
    let memfd = rustix::fs::memfd_create("havre-config", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let count = rustix::io::write(&memfd, rest)?;
        rest = rest.get(count..).unwrap_or(&[]);
    }
    // Nothing here that the C library's posix_spawn cannot do, or the standard library would copy the whole
    // daemon: the shim enters its folder and session by itself.
    let child = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))
        .arg("shim")
        .arg(config.id.short())
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let hello = Hello {
        version: VERSION,
        filter: filter.is_some(),
        network: network.is_some(),
        clients: clients.iter().map(|(spec, _)| spec.clone()).collect(),
    };
    let mut fds = vec![memfd.as_fd(), lock.as_fd()];
    fds.extend(filter);
    fds.extend(network);
    fds.extend(clients.iter().map(|(_, fd)| fd.as_fd()));
    let bytes = serde_json::to_vec(&hello).map_err(io::Error::other)?;
    seqpacket::send(ours.as_fd(), &bytes, &fds)?;
    Ok((Link::new(ours)?, child))
}

/// What a daemon that comes back finds in a run folder.
#[derive(Debug)]
pub(crate) enum Found {
    /// A living shim.
    Alive(Link),
    /// None lives; the state file says how far it came.
    Dead,
}

/// Looks for the shim of a run folder.
pub(crate) async fn find(run_dir: &Path) -> io::Result<Found> {
    // A shim takes microseconds from its lock to its socket; only a machine that stands still needs more.
    const TRIES: u32 = 500;
    const PAUSE: Duration = Duration::from_millis(2);
    for _ in 0..TRIES {
        if let Some(link) = connect(run_dir)? {
            return Ok(Found::Alive(link));
        }
        if try_lock(run_dir)?.is_some() {
            return Ok(Found::Dead);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(io::Error::other("a supervisor holds the run folder but does not listen"))
}

fn connect(run_dir: &Path) -> io::Result<Option<Link>> {
    use rustix::fs::{Mode, OFlags};
    let folder = rustix::fs::open(run_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // Through the descriptor, because a socket address holds only 108 bytes of path.
    match seqpacket::connect(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))) {
        Ok(socket) => Link::new(socket).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
