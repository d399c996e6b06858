//! The standard streams of one process, the clients attached to them, and its log.
//!
//! Invariants: output is written to the log before any client sees it; a client that does not read
//! stops the process's output, never loses it and never grows without bound; after [`Streams::finish`]
//! everything the process wrote is in the log and queued for the clients; a client's stream ends only
//! after [`Streams::release`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use havre_base::{Clock as _, SystemClock};
use havre_log::{Stream, Writer};
use rustix::io::Errno;

use super::client::{Channel, Client, Input};
use super::protocol::AttachSpec;
use super::reactor::{Interest, Reactor, Ready};

/// Bytes kept for a process that does not read its standard input.
const INPUT_HIGH_WATER: usize = 64 * 1024;
/// What one process may have left unread when it ends: its pipes hold 64 KiB each, a terminal less.
/// More comes only from a process that outlives it, and that one is not waited for.
const DRAIN_LIMIT: usize = 1024 * 1024;

/// Where readiness of a stream's descriptors is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Standard output or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// The process's end of standard input has room.
    Stdin,
    /// A client.
    Client(u32),
}

/// What a stream event means for the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing more.
    Done,
    /// A client left with the detach keys.
    Detached,
}

#[derive(Debug)]
struct Feed {
    fd: OwnedFd,
    queue: Vec<u8>,
    close_when_empty: bool,
}

/// The parent's ends of a process's streams.
#[derive(Debug)]
pub(super) struct Ends {
    /// Write end of standard input, or a duplicate of the terminal.
    pub(super) stdin: Option<OwnedFd>,
    /// Read end of standard output, or the terminal.
    pub(super) stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub(super) stderr: Option<OwnedFd>,
    /// The ends are a terminal.
    pub(super) terminal: bool,
}

/// The streams of one process.
pub(super) struct Streams {
    token: Box<dyn Fn(Part) -> u64>,
    feed: Option<Feed>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: bool,
    /// Standard input ends with the first client that fed it.
    stdin_once: bool,
    clients: BTreeMap<u32, Client>,
    next_client: u32,
    paused: bool,
    finished: bool,
    log: Option<Writer>,
    log_broken: bool,
}

impl Streams {
    /// Watches the ends; `token` names each part to the reactor.
    pub(super) fn new(
        reactor: &Reactor,
        token: Box<dyn Fn(Part) -> u64>,
        ends: Ends,
        stdin_once: bool,
        log: Option<Writer>,
    ) -> io::Result<Self> {
        for fd in [&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        if let Some(fd) = &ends.stdout {
            reactor.add(fd, token(Part::Stdout), Interest::READ)?;
        }
        if let Some(fd) = &ends.stderr {
            reactor.add(fd, token(Part::Stderr), Interest::READ)?;
        }
        Ok(Self {
            token,
            feed: ends.stdin.map(|fd| Feed { fd, queue: Vec::new(), close_when_empty: false }),
            stdout: ends.stdout,
            stderr: ends.stderr,
            terminal: ends.terminal,
            stdin_once,
            clients: BTreeMap::new(),
            next_client: 0,
            paused: false,
            finished: false,
            log,
            log_broken: false,
        })
    }

    /// The terminal, when the process has one.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        if self.terminal { self.stdout.as_ref().map(AsFd::as_fd) } else { None }
    }

    /// Clients are still owed output.
    pub(super) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Adds a client. One that comes after the end sees the end at once.
    pub(super) fn attach(&mut self, reactor: &Reactor, fd: OwnedFd, spec: AttachSpec) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        let client = Client::new(fd, spec, self.terminal)?;
        let id = self.next_client;
        self.next_client = self.next_client.wrapping_add(1);
        reactor.add(client.fd(), (self.token)(Part::Client(id)), Interest::READ)?;
        self.clients.insert(id, client);
        Ok(())
    }

    /// Handles readiness of one part.
    pub(super) fn ready(
        &mut self,
        reactor: &Reactor,
        part: Part,
        ready: Ready,
        buffer: &mut [u8],
    ) -> Outcome {
        match part {
            Part::Stdout | Part::Stderr => {
                self.pump(reactor, part, buffer);
                Outcome::Done
            }
            Part::Stdin => {
                self.flush_input(reactor);
                self.rewatch(reactor);
                Outcome::Done
            }
            Part::Client(id) => self.client_ready(reactor, id, ready, buffer),
        }
    }

    /// The process ended: takes what is left and completes the log. Clients stay until
    /// [`Streams::release`], because the end of their stream tells them that the exit can be asked for.
    pub(super) fn finish(&mut self, reactor: &Reactor, buffer: &mut [u8]) {
        self.drop_input(reactor);
        for part in [Part::Stdout, Part::Stderr] {
            let mut total = 0;
            while total < DRAIN_LIMIT {
                match self.pump(reactor, part, buffer) {
                    0 => break,
                    count => total += count,
                }
            }
            self.close_output(reactor, part);
        }
        if let Some(Err(error)) = self.log.as_mut().map(Writer::flush) {
            self.complain(&error);
        }
        self.tell_of_loss();
        self.log = None;
    }

    /// After the exit was told: lets clients go as they have read all.
    pub(super) fn release(&mut self, reactor: &Reactor) {
        self.finished = true;
        self.sweep(reactor);
        self.rewatch(reactor);
    }

    /// Reads once from an output; returns how much came.
    fn pump(&mut self, reactor: &Reactor, part: Part, buffer: &mut [u8]) -> usize {
        let (fd, channel, stream) = match part {
            Part::Stdout => (&self.stdout, Channel::Stdout, Stream::Stdout),
            Part::Stderr => (&self.stderr, Channel::Stderr, Stream::Stderr),
            Part::Stdin | Part::Client(_) => return 0,
        };
        let Some(fd) = fd else { return 0 };
        let count = match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => {
                self.close_output(reactor, part);
                return 0;
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return 0,
            // A terminal answers EIO when its last user closed it.
            Err(_) => {
                self.close_output(reactor, part);
                return 0;
            }
        };
        let bytes = buffer.get(..count).unwrap_or(&[]);
        match self.log.as_mut().map(|log| log.write(stream, bytes, SystemClock.now())) {
            Some(Err(error)) => self.complain(&error),
            Some(Ok(())) if self.log_broken => self.tell_of_loss(),
            _ => {}
        }
        let gone: Vec<u32> = self
            .clients
            .iter_mut()
            .filter_map(|(id, client)| client.push(channel, bytes).is_err().then_some(*id))
            .collect();
        for id in gone {
            self.remove_client(reactor, id);
        }
        if self.clients.values().any(|client| client.pending() > 0) {
            self.rewatch(reactor);
        }
        count
    }

    fn client_ready(&mut self, reactor: &Reactor, id: u32, ready: Ready, buffer: &mut [u8]) -> Outcome {
        let Some(client) = self.clients.get_mut(&id) else { return Outcome::Done };
        if ready.write && client.flush().is_err() {
            self.remove_client(reactor, id);
            return Outcome::Done;
        }
        let mut outcome = Outcome::Done;
        if ready.read && !client.ended {
            match client.read(buffer) {
                Input::Bytes(bytes) => self.feed(reactor, &bytes),
                Input::Detach(bytes) => {
                    self.feed(reactor, &bytes);
                    self.remove_client_quietly(reactor, id);
                    outcome = Outcome::Detached;
                }
                Input::End => {
                    client.ended = true;
                    self.end_input(reactor, id);
                }
                Input::Gone => self.remove_client(reactor, id),
            }
        } else if ready.hangup {
            self.remove_client(reactor, id);
        }
        self.sweep(reactor);
        self.rewatch(reactor);
        outcome
    }

    fn feed(&mut self, reactor: &Reactor, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(feed) = &mut self.feed {
            let was_empty = feed.queue.is_empty();
            feed.queue.extend_from_slice(bytes);
            if was_empty {
                self.flush_input(reactor);
            }
        }
    }

    fn flush_input(&mut self, reactor: &Reactor) {
        let Some(feed) = &mut self.feed else { return };
        let mut sent = 0;
        let mut broken = false;
        while sent < feed.queue.len() {
            match rustix::io::write(&feed.fd, feed.queue.get(sent..).unwrap_or(&[])) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        feed.queue.drain(..sent);
        let token = (self.token)(Part::Stdin);
        if broken || (feed.queue.is_empty() && feed.close_when_empty) {
            self.drop_input(reactor);
        } else if feed.queue.is_empty() {
            reactor.remove(&feed.fd);
        } else {
            // Registered already when some bytes were left before.
            let interest = Interest { read: false, write: true };
            if reactor.add(&feed.fd, token, interest).is_err() {
                reactor.set(&feed.fd, token, interest).unwrap_or(());
            }
        }
    }

    fn drop_input(&mut self, reactor: &Reactor) {
        if let Some(feed) = self.feed.take() {
            reactor.remove(&feed.fd);
        }
    }

    /// The client sends no more. A pipe may end with it; a terminal never does.
    fn end_input(&mut self, reactor: &Reactor, id: u32) {
        let feeds = self.clients.get(&id).is_some_and(Client::feeds);
        if !feeds || !self.stdin_once || self.terminal {
            return;
        }
        if let Some(feed) = &mut self.feed {
            feed.close_when_empty = true;
            if feed.queue.is_empty() {
                self.drop_input(reactor);
            }
        }
    }

    fn remove_client(&mut self, reactor: &Reactor, id: u32) {
        self.end_input(reactor, id);
        self.remove_client_quietly(reactor, id);
        self.rewatch(reactor);
    }

    fn remove_client_quietly(&mut self, reactor: &Reactor, id: u32) {
        if let Some(client) = self.clients.remove(&id) {
            reactor.remove(client.fd());
        }
    }

    /// After the end, drops clients that have everything and say no more.
    fn sweep(&mut self, reactor: &Reactor) {
        if !self.finished {
            return;
        }
        let done: Vec<u32> =
            self.clients.iter_mut().filter_map(|(id, client)| client.end().then_some(*id)).collect();
        for id in done {
            self.remove_client_quietly(reactor, id);
        }
    }

    fn close_output(&mut self, reactor: &Reactor, part: Part) {
        let slot = if part == Part::Stdout { &mut self.stdout } else { &mut self.stderr };
        if let Some(fd) = slot.take() {
            reactor.remove(&fd);
        }
    }

    /// Sets what every descriptor is watched for from the present state.
    fn rewatch(&mut self, reactor: &Reactor) {
        let input_full = self.feed.as_ref().is_some_and(|feed| feed.queue.len() >= INPUT_HIGH_WATER);
        for (id, client) in &self.clients {
            let held = input_full && client.feeds();
            let read = !(client.ended || held);
            let interest = Interest { read, write: client.pending() > 0 };
            reactor.set(client.fd(), (self.token)(Part::Client(*id)), interest).unwrap_or(());
        }
        let paused = self.clients.values().any(Client::is_full);
        if paused != self.paused {
            self.paused = paused;
            let interest = Interest { read: !paused, write: false };
            for (fd, part) in [(&self.stdout, Part::Stdout), (&self.stderr, Part::Stderr)] {
                if let Some(fd) = fd {
                    reactor.set(fd, (self.token)(part), interest).unwrap_or(());
                }
            }
        }
    }

    /// Says how much of the output is not in the log, once it can be written again or the process has ended.
    fn tell_of_loss(&mut self) {
        self.log_broken = false;
        let lost = self.log.as_mut().map_or(0, Writer::take_lost);
        if lost > 0 {
            super::say(&format!("{lost} records of the container's output are not in its log"));
        }
    }

    /// Says once that the log cannot be written; the container goes on.
    fn complain(&mut self, error: &io::Error) {
        if !self.log_broken {
            self.log_broken = true;
            super::say(&format!("cannot write the container's log, output is lost: {error}"));
        }
    }
}
