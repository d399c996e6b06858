//! The bytes between the user and a hijacked stream.
//!
//! Output and input are copied by a thread each: both block for as long as the other side likes, and
//! signals, resizes and the exit must not wait for that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use havre_client::{Demultiplexer, Hijacked, Socket, StreamKind};
use tokio::sync::oneshot;

use crate::terminal::{DetachKeys, Detector};

/// Large enough that bulk output costs few system calls, small enough for a stack-free buffer.
const BUFFER: usize = 64 * 1024;

/// How to copy.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Send standard input.
    pub(crate) input: bool,
    /// Whether the container has a terminal: one raw stream instead of frames.
    pub(crate) terminal: bool,
    /// Keys that detach, when input comes from a terminal.
    pub(crate) detach: Option<DetachKeys>,
}

/// A running session.
pub(crate) struct Session {
    /// Completes when the output has ended.
    pub(crate) output: oneshot::Receiver<io::Result<()>>,
    /// Completes when the user pressed the detach keys.
    pub(crate) detached: oneshot::Receiver<()>,
    /// Kept so that `detached` never completes by itself when there is no input.
    _no_input: Option<oneshot::Sender<()>>,
}

impl Session {
    /// Starts to copy.
    pub(crate) fn start(hijacked: Hijacked, plan: Plan) -> io::Result<Self> {
        let (ended, output) = oneshot::channel();
        let (detach, detached) = oneshot::channel();
        let framed = hijacked.multiplexed.unwrap_or(!plan.terminal);
        let input = if plan.input { Some(hijacked.socket.try_clone()?) } else { None };
        let (socket, early) = (hijacked.socket, hijacked.early);
        thread("output", move || {
            ended.send(copy_output(socket, &early, framed)).ok();
        })?;
        let mut no_input = Some(detach);
        if let Some(socket) = input {
            let detector = plan.detach.map(Detector::new);
            let detach = no_input.take();
            thread("input", move || {
                if copy_input(socket, detector) {
                    detach.and_then(|detach| detach.send(()).err());
                } else {
                    // The end of input is no detaching: keep the sender until the process ends.
                    loop {
                        std::thread::park();
                    }
                }
            })?;
        }
        Ok(Self { output, detached, _no_input: no_input })
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Never joined: both threads may block on the user; they end with the process.
    std::thread::Builder::new().name(name.into()).stack_size(128 * 1024).spawn(work).map(drop)
}

fn copy_output(mut socket: Socket, early: &[u8], framed: bool) -> io::Result<()> {
    // Own handles, because the standard library's are buffered by line.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let mut frames = Demultiplexer::default();
    let mut pass = |piece: &[u8]| {
        if !framed {
            return stdout.write_all(piece);
        }
        frames.push(piece, &mut |kind, bytes| match kind {
            StreamKind::Stdout => stdout.write_all(bytes),
            StreamKind::Stderr => stderr.write_all(bytes),
            StreamKind::System => Err(io::Error::other(format!(
                "error from daemon in stream: {}",
                String::from_utf8_lossy(bytes)
            ))),
        })
    };
    pass(early)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => pass(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Copies until the end of input (false) or the detach keys (true).
fn copy_input(mut socket: Socket, mut detector: Option<Detector>) -> bool {
    let Ok(mut stdin) = io::stdin().as_fd().try_clone_to_owned().map(File::from) else { return false };
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let sent = match &mut detector {
            None => socket.write_all(&buffer[..count]),
            Some(detector) => {
                let (bytes, detached) = detector.filter(&buffer[..count]);
                let sent = socket.write_all(&bytes);
                if detached {
                    return true;
                }
                sent
            }
        };
        // The container no longer reads; its output still matters.
        if sent.is_err() {
            return false;
        }
    }
    socket.close_write().ok();
    false
}
