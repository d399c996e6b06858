//! The shim's loop: starts the container, then turns readiness into actions until nothing is left.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use havre_base::{Clock as _, ExecId, SystemClock, chain};
use havre_log::{Options, Writer};
use havre_oci::runtime::Spec;
use havre_sys::seqpacket;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::evidence::Collector;
use super::external::{self, External};
use super::protocol::{
    Answer, Ask, AttachSpec, Event, ExecConfig, Exit, Failure, FailureKind, Hello, MAX_MESSAGE, Packet,
    Reply, Request, RootConfig, SOCKET, ShimConfig, Status, Target, VERSION,
};
use super::reactor::{Interest, Reactor, Ready};
use super::streams::{Ends, Outcome, Part, Streams};
use super::{say, state};
use crate::cgroup::Cgroup;
use crate::{ExecTarget, InitBinary, Launch, Launched, RootFs, RuntimeError, Stdio};

/// Bytes moved at a time between a process and its log and clients.
const BUFFER: usize = 64 * 1024;

/// Why a shim cannot do its work at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShimError {
    #[error("cannot {what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the daemon's first message is not understood: {0}")]
    Hello(String),
}

/// Names the step that failed.
fn step<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ShimError {
    move |error| ShimError::Io { what, source: error.into() }
}

/// What a token of the reactor stands for, packed as kind, process and part.
mod token {
    use super::super::streams::Part;

    pub(super) const LISTENER: u64 = 1 << 56;
    pub(super) const CHILDREN: u64 = 2 << 56;
    pub(super) const OOM: u64 = 3 << 56;
    const DAEMON: u64 = 4 << 56;
    const STREAM: u64 = 5 << 56;
    const KIND: u64 = 0xff << 56;

    pub(super) fn daemon(number: u32) -> u64 {
        DAEMON | u64::from(number)
    }

    pub(super) fn stream(process: u32, part: Part) -> u64 {
        let (kind, client) = match part {
            Part::Stdin => (0, 0),
            Part::Stdout => (1, 0),
            Part::Stderr => (2, 0),
            Part::Client(id) => (3, id & 0x00ff_ffff),
        };
        STREAM | (u64::from(process & 0x003f_ffff) << 32) | (kind << 30) | u64::from(client)
    }

    pub(super) enum Source {
        Listener,
        Children,
        Oom,
        Daemon(u32),
        Stream(u32, Part),
    }

    pub(super) fn decode(token: u64) -> Option<Source> {
        let low = u32::try_from(token & 0xffff_ffff).ok()?;
        match token & KIND {
            LISTENER => Some(Source::Listener),
            CHILDREN => Some(Source::Children),
            OOM => Some(Source::Oom),
            DAEMON => Some(Source::Daemon(low)),
            STREAM => {
                let process = u32::try_from((token >> 32) & 0x003f_ffff).ok()?;
                let part = match low >> 30 {
                    0 => Part::Stdin,
                    1 => Part::Stdout,
                    2 => Part::Stderr,
                    _ => Part::Client(low & 0x00ff_ffff),
                };
                Some(Source::Stream(process, part))
            }
            _ => None,
        }
    }
}

/// One process of the container that this shim started.
struct Child {
    pid: i32,
    pidfd: OwnedFd,
    /// Absent for the container's first process.
    exec: Option<ExecId>,
    ended: bool,
    streams: Streams,
}

/// The number of the container's first process among [`Supervisor::children`].
const INIT: u32 = 0;

struct Supervisor {
    reactor: Reactor,
    config: ShimConfig,
    /// Another runtime than ours.
    external: Option<External>,
    cgroup: Cgroup,
    listener: OwnedFd,
    signals: OwnedFd,
    oom: Option<OwnedFd>,
    /// Shortages of memory the kernel told of, and those the daemon was told of.
    oom_notices: u64,
    oom_told: u64,
    evidence: Collector,
    daemons: BTreeMap<u32, OwnedFd>,
    next_daemon: u32,
    children: BTreeMap<u32, Child>,
    next_child: u32,
    /// Sockets of a daemon that may go away: what comes to them waits for the next one.
    kept: Vec<OwnedFd>,
    status: Status,
    buffer: Vec<u8>,
}

/// Takes the configuration from standard input, starts the container and minds it to its end.
pub(super) fn run() -> Result<(), ShimError> {
    // A session of our own: no terminal or signal of the daemon's reaches us.
    rustix::process::setsid().map(drop).unwrap_or(());
    let daemon = rustix::io::dup(rustix::stdio::stdin()).map_err(step("take the daemon's socket"))?;
    rustix::io::fcntl_setfd(&daemon, rustix::io::FdFlags::CLOEXEC)
        .map_err(step("keep the daemon's socket"))?;
    let null = open_null().map_err(step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("close standard input"))?;
    drop(null);

    let Handed { mut config, filter, network, clients, lock: _lock } = receive_config(&daemon)?;
    if let Some(network) = &network {
        super::donors::give_network(&mut config.spec, network);
    }
    // Known before the container exists, so that a daemon that dies now finds us.
    let listener = listen(&config).map_err(step("listen for the daemon"))?;
    havre_sys::signal::block(&[Signal::CHILD]).map_err(step("hold back signals"))?;
    let signals = havre_sys::signal::signalfd(&[Signal::CHILD]).map_err(step("watch for children"))?;
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).map_err(step("adopt orphans"))?;
    rustix::process::chdir("/").map_err(step("enter /"))?;

    match Supervisor::start(config, filter, clients, listener, signals, &daemon) {
        Ok(mut supervisor) => {
            drop(network);
            supervisor.adopt(daemon).map_err(step("watch the daemon's socket"))?;
            supervisor.mind()
        }
        Err(failure) => {
            send(daemon.as_fd(), &Packet::Event(Event::StartFailed(failure)));
            Ok(())
        }
    }
}

pub(super) fn open_null() -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// What the daemon hands over at the start.
struct Handed {
    config: ShimConfig,
    filter: Option<Vec<u8>>,
    /// Kept open until the container has it.
    network: Option<OwnedFd>,
    clients: Vec<(AttachSpec, OwnedFd)>,
    /// Kept open to the end: it tells a returning daemon that we live.
    lock: OwnedFd,
}

fn receive_config(daemon: &OwnedFd) -> Result<Handed, ShimError> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let received = seqpacket::recv_into(daemon, &mut buffer).map_err(step("receive the configuration"))?;
    let (count, fds) = received.ok_or_else(|| ShimError::Hello("the daemon is gone".into()))?;
    let hello: Hello = serde_json::from_slice(buffer.get(..count).unwrap_or(&[]))
        .map_err(|error| ShimError::Hello(error.to_string()))?;
    let more = usize::from(hello.filter) + usize::from(hello.network);
    if hello.version != VERSION || fds.len() != 2 + more + hello.clients.len() {
        return Err(ShimError::Hello(format!("version {}, {} descriptors", hello.version, fds.len())));
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| ShimError::Hello("a descriptor is missing".into()));
    let config = read_all(&next()?).map_err(step("read the configuration"))?;
    let config = serde_json::from_slice(&config).map_err(|error| ShimError::Hello(error.to_string()))?;
    let lock = next()?;
    let filter = match hello.filter {
        true => Some(read_all(&next()?).map_err(step("read the seccomp filter"))?),
        false => None,
    };
    let network = hello.network.then(&mut next).transpose()?;
    let clients =
        hello.clients.into_iter().map(|spec| Ok((spec, next()?))).collect::<Result<_, ShimError>>()?;
    Ok(Handed { config, filter, network, clients, lock })
}

/// Reads a memfd from its start whatever its offset is: the daemon shares one with many shims.
fn read_all(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let length = usize::try_from(rustix::fs::fstat(fd)?.st_size).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let rest = bytes.get_mut(done..).unwrap_or(&mut []);
        match rustix::io::pread(fd, rest, u64::try_from(done).map_err(io::Error::other)?)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(bytes)
}

/// Listens in the run folder. The path goes through a descriptor: a socket address holds 108 bytes.
fn listen(config: &ShimConfig) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let folder = rustix::fs::open(&config.run_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::unlinkat(&folder, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

fn send(daemon: BorrowedFd<'_>, packet: &Packet) {
    send_with(daemon, packet, &[]);
}

fn send_with(daemon: BorrowedFd<'_>, packet: &Packet, fds: &[BorrowedFd<'_>]) {
    let sent = serde_json::to_vec(packet)
        .map_err(io::Error::other)
        .and_then(|bytes| seqpacket::send(daemon, &bytes, fds));
    // A daemon that went away reads the state file when it comes back.
    if let Err(error) = sent
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        say(&format!("cannot tell the daemon: {error}"));
    }
}

pub(super) fn failure(error: &RuntimeError) -> Failure {
    let kind = match error {
        RuntimeError::CommandNotFound(_) => FailureKind::NotFound,
        RuntimeError::NotExecutable(_) => FailureKind::NotExecutable,
        RuntimeError::Invalid { .. }
        | RuntimeError::Unsupported { .. }
        | RuntimeError::User(_)
        | RuntimeError::WorkingDirectory(_) => FailureKind::Invalid,
        RuntimeError::Setup { .. }
        | RuntimeError::Hook(_)
        | RuntimeError::State(_)
        | RuntimeError::NoSuchContainer(_) => FailureKind::Internal,
    };
    Failure { kind, message: chain(error) }
}

fn internal(what: &str) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure { kind: FailureKind::Internal, message: format!("{what}: {error}") }
}

/// The child's and the parent's ends of a process's streams.
fn make_stdio(terminal: bool, open_stdin: bool, console: (u16, u16)) -> io::Result<(Stdio, Ends)> {
    if terminal {
        let ends = Ends { stdin: None, stdout: None, stderr: None, terminal: true };
        return Ok((Stdio::Terminal { rows: console.0, columns: console.1 }, ends));
    }
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (stdin, feed) = if open_stdin {
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        (read, Some(write))
    } else {
        (open_null()?, None)
    };
    let (out_read, out_write) = rustix::pipe::pipe_with(flags)?;
    let (err_read, err_write) = rustix::pipe::pipe_with(flags)?;
    let ends = Ends { stdin: feed, stdout: Some(out_read), stderr: Some(err_read), terminal: false };
    Ok((Stdio::Pipes { stdin, stdout: out_write, stderr: err_write }, ends))
}

/// Completes the ends with the terminal that the launch made.
fn with_terminal(mut ends: Ends, terminal: Option<OwnedFd>) -> io::Result<Ends> {
    if let Some(terminal) = terminal {
        ends.stdin = Some(rustix::io::fcntl_dupfd_cloexec(&terminal, 3)?);
        ends.stdout = Some(terminal);
    }
    Ok(ends)
}

impl Supervisor {
    fn start(
        mut config: ShimConfig,
        filter: Option<Vec<u8>>,
        clients: Vec<(AttachSpec, OwnedFd)>,
        listener: OwnedFd,
        signals: OwnedFd,
        daemon: &OwnedFd,
    ) -> Result<Self, Failure> {
        let began = std::time::Instant::now();
        let _joined = super::donors::pin(&mut config.spec, &config.donors)?;
        let resources =
            config.spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let log = match &config.log {
            None => None,
            Some(log) => {
                let options =
                    Options { max_size: log.max_size, max_file: log.max_file, compress: log.compress };
                let opened = Writer::open(&log.path, options)
                    .map_err(|error| Failure { kind: FailureKind::Internal, message: chain(&error) });
                Some(opened?.with_attributes(&log.attributes))
            }
        };
        let cgroup = Cgroup::create(&config.cgroup, &resources).map_err(|error| failure(&error))?;
        let cgroup_made = began.elapsed();
        if let (Some(steps), Some(process)) = (&config.trace, &mut config.spec.process) {
            let mut text = String::from("HAVRE_TRACE_ENGINE=");
            for (name, nanos) in steps {
                text.push_str(&format!("{name}={nanos},"));
            }
            text.push_str(&format!("limits={}", nanos(cgroup_made)));
            process.env.push(text);
        }
        let warnings = cgroup.warnings().to_vec();
        let oom = cgroup.oom_watch();
        let terminal = config.spec.process.as_ref().is_some_and(|process| process.terminal);
        let external = config.runtime.as_ref().map(|runtime| External::new(runtime, &config)).transpose();
        let launched = external.and_then(|external| {
            let (launched, ends) = match &external {
                Some(external) => launch_external(&config, external, terminal),
                None => launch_init(&config, filter.as_deref(), &cgroup, terminal),
            }?;
            Ok((external, launched, ends))
        });
        let (external, launched, ends) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                cgroup.kill().unwrap_or(());
                remove_cgroup(&cgroup);
                return Err(failure);
            }
        };
        let status = Status {
            version: VERSION,
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            pid: launched.pid.as_raw_nonzero().get(),
            started_at: SystemClock.now(),
            exit: None,
            execs: Vec::new(),
            oom_kills: 0,
        };
        let mut timings = vec![("cgroup".to_owned(), nanos(cgroup_made))];
        timings.extend(launched.timings.iter().map(|(name, took)| ((*name).to_owned(), nanos(*took))));
        let begun = (|| {
            state::write(&config.run_dir, &status)?;
            let reactor = Reactor::new()?;
            reactor.add(&listener, token::LISTENER, Interest::READ)?;
            reactor.add(&signals, token::CHILDREN, Interest::READ)?;
            if let Some(oom) = &oom {
                reactor.add(oom, token::OOM, Interest::READ)?;
            }
            let naming = Box::new(|part| token::stream(INIT, part));
            let mut streams = Streams::new(&reactor, naming, ends, config.stdin_once, log)?;
            for (spec, client) in clients {
                streams.attach(&reactor, client, spec)?;
            }
            Ok::<_, io::Error>((reactor, streams))
        })();
        let (reactor, streams) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                cgroup.kill().unwrap_or(());
                if let Some(external) = &external {
                    external.delete();
                }
                remove_cgroup(&cgroup);
                return Err(internal("cannot mind the container")(error));
            }
        };
        let init = Child { pid: status.pid, pidfd: launched.pidfd, exec: None, ended: false, streams };
        send(daemon.as_fd(), &Packet::Event(Event::Started { status: status.clone(), timings, warnings }));
        Ok(Self {
            reactor,
            config,
            external,
            cgroup,
            listener,
            signals,
            oom,
            oom_notices: 0,
            oom_told: 0,
            evidence: Collector::default(),
            daemons: BTreeMap::new(),
            next_daemon: 0,
            children: BTreeMap::from([(INIT, init)]),
            next_child: INIT + 1,
            kept: Vec::new(),
            status,
            buffer: vec![0; BUFFER],
        })
    }

    fn adopt(&mut self, daemon: OwnedFd) -> io::Result<()> {
        let number = self.next_daemon;
        self.next_daemon = self.next_daemon.wrapping_add(1);
        self.reactor.add(&daemon, token::daemon(number), Interest::READ)?;
        self.daemons.insert(number, daemon);
        Ok(())
    }

    fn mind(&mut self) -> Result<(), ShimError> {
        let mut ready = Vec::new();
        while self.status.exit.is_none() || self.children.values().any(|child| child.streams.has_clients()) {
            self.reactor.wait(&mut ready).map_err(step("wait for events"))?;
            for &event in &ready {
                match token::decode(event.token) {
                    Some(token::Source::Listener) => self.accept(),
                    Some(token::Source::Children) => self.reap(),
                    Some(token::Source::Oom) => self.note_oom(),
                    Some(token::Source::Daemon(number)) => self.serve(number),
                    Some(token::Source::Stream(process, part)) => self.stream(process, part, event),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(daemon) => {
                if let Err(error) = self.adopt(daemon) {
                    say(&format!("cannot watch a daemon: {error}"));
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => say(&format!("cannot accept a daemon: {error}")),
        }
    }

    fn tell(&self, event: Event) {
        let packet = Packet::Event(event);
        for daemon in self.daemons.values() {
            send(daemon.as_fd(), &packet);
        }
    }

    fn stream(&mut self, process: u32, part: Part, ready: Ready) {
        let Some(child) = self.children.get_mut(&process) else { return };
        let outcome = child.streams.ready(&self.reactor, part, ready, &mut self.buffer);
        let target = child.exec.clone().map_or(Target::Init, Target::Exec);
        let forget = child.ended && child.exec.is_some() && !child.streams.has_clients();
        if forget {
            self.children.remove(&process);
        }
        if outcome == Outcome::Detached {
            self.tell(Event::Detached(target));
        }
    }

    /// Collects every ended child: ours, and orphans of containers that share the host's processes.
    fn reap(&mut self) {
        while let Ok(Some(_)) = havre_sys::signal::next(&self.signals) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let found = self.children.iter().find(|(_, child)| child.pid == pid && !child.ended);
            if let Some((&number, _)) = found {
                self.child_ended(number, status);
            }
        }
    }

    fn child_ended(&mut self, number: u32, status: WaitStatus) {
        if number == INIT {
            // With the host's process namespace nothing else ends what it left behind.
            self.cgroup.kill().unwrap_or(());
        }
        let Some(child) = self.children.get_mut(&number) else { return };
        child.ended = true;
        child.streams.finish(&self.reactor, &mut self.buffer);
        match child.exec.clone() {
            Some(id) => {
                self.status.execs.retain(|(exec, _)| *exec != id);
                self.tell(Event::ExecExited { id, code: exit_code(status) });
            }
            None => self.container_ended(status),
        }
        // In this order: the exit is known, then the client's stream ends, then comes the cleaning.
        if let Some(child) = self.children.get_mut(&number) {
            child.streams.release(&self.reactor);
            if child.exec.is_some() && !child.streams.has_clients() {
                self.children.remove(&number);
            }
        }
        if number == INIT {
            remove_cgroup(&self.cgroup);
            self.tell(Event::Clean);
        }
    }

    fn container_ended(&mut self, status: WaitStatus) {
        let at = SystemClock.now();
        self.note_oom();
        let evidence = self.evidence.finish(self.status.pid, status, &self.cgroup, &mut self.buffer);
        let oom_killed = self.status.oom_kills > 0;
        let exit = Exit { code: exit_code(status), oom_killed, at, evidence: Box::new(evidence) };
        self.status.exit = Some(exit.clone());
        // Its namespace goes with them.
        self.kept.clear();
        if let Err(error) = state::write(&self.config.run_dir, &self.status) {
            say(&format!("cannot record the exit: {error}"));
        }
        // Before the daemon hears of the exit: it removes the run folder then.
        if let Some(external) = &self.external {
            external.delete();
        }
        self.tell(Event::Exited(exit));
    }

    fn note_oom(&mut self) {
        if let Some(oom) = &self.oom {
            self.oom_notices += self.cgroup.oom_notices(oom);
        }
        self.status.oom_kills = self.cgroup.oom_kills();
        let shortages = self.oom_notices.max(self.status.oom_kills);
        if self.status.oom_kills > 0 {
            // Before it is told: whoever hears of it may ask who was taken.
            self.evidence.look_for_victims(self.config.id.as_str(), &mut self.buffer);
        }
        if shortages > self.oom_told {
            self.oom_told = shortages;
            self.tell(Event::Oom);
        }
    }

    fn serve(&mut self, number: u32) {
        let Some(daemon) = self.daemons.get(&number) else { return };
        let (count, fds) = match seqpacket::recv_into(daemon, &mut self.buffer) {
            Ok(Some(received)) => received,
            Ok(None) | Err(_) => {
                if let Some(daemon) = self.daemons.remove(&number) {
                    self.reactor.remove(&daemon);
                }
                return;
            }
        };
        let request: Request = match serde_json::from_slice(self.buffer.get(..count).unwrap_or(&[])) {
            Ok(request) => request,
            Err(error) => return say(&format!("a request is not understood: {error}")),
        };
        let answer = self.answer(request.ask, fds).unwrap_or_else(Answer::Failed);
        let kept: Vec<BorrowedFd<'_>> = match answer {
            Answer::Kept => self.kept.iter().map(OwnedFd::as_fd).collect(),
            _ => Vec::new(),
        };
        if let Some(daemon) = self.daemons.get(&number) {
            send_with(daemon.as_fd(), &Packet::Reply(Reply { seq: request.seq, answer }), &kept);
        }
    }

    fn answer(&mut self, ask: Ask, mut fds: Vec<OwnedFd>) -> Result<Answer, Failure> {
        match ask {
            Ask::Status => Ok(Answer::Status(Box::new(self.status.clone()))),
            Ask::Keep => {
                // One that ended meanwhile must not hold its namespace.
                self.kept = if self.status.exit.is_none() { fds } else { Vec::new() };
                Ok(Answer::Done)
            }
            Ask::Kept => Ok(Answer::Kept),
            Ask::Attach { target, spec } => {
                let client = fds.pop().ok_or_else(|| Failure {
                    kind: FailureKind::Invalid,
                    message: "no client came with the attach request".into(),
                })?;
                let reactor = &self.reactor;
                let child = find(&mut self.children, &target).ok_or_else(gone)?;
                child.streams.attach(reactor, client, spec).map_err(internal("cannot attach"))?;
                Ok(Answer::Done)
            }
            Ask::Exec { exec, attach, filter } => self.exec(*exec, attach, filter, fds),
            Ask::Signal { target, signal, by } => {
                let child =
                    find(&mut self.children, &target).filter(|child| !child.ended).ok_or_else(gone)?;
                havre_sys::signal::pidfd_kill(&child.pidfd, signal)
                    .map_err(internal("cannot send a signal"))?;
                if target == Target::Init {
                    self.evidence.sent(signal, by);
                }
                Ok(Answer::Done)
            }
            Ask::Resize { target, rows, columns } => {
                let child = find(&mut self.children, &target).ok_or_else(gone)?;
                let terminal = child.streams.terminal().ok_or_else(|| Failure {
                    kind: FailureKind::Invalid,
                    message: "the process has no terminal".into(),
                })?;
                let size =
                    rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                rustix::termios::tcsetwinsize(terminal, size)
                    .map_err(|error| internal("cannot resize the terminal")(error.into()))?;
                Ok(Answer::Done)
            }
        }
    }

    fn exec(
        &mut self,
        exec: ExecConfig,
        attach: Option<AttachSpec>,
        filter: bool,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let filter = match filter.then(|| fds.pop()).flatten() {
            Some(fd) => Some(read_all(&fd).map_err(internal("cannot read the seccomp filter"))?),
            None => None,
        };
        let init = self.children.get(&INIT).filter(|child| !child.ended).ok_or_else(gone)?;
        let (stdio, ends) = make_stdio(exec.process.terminal, exec.open_stdin, exec.console)
            .map_err(internal("cannot make the streams"))?;
        let launched = match &self.external {
            Some(external) => external.exec(&self.config.spec, init.pid, &exec, stdio)?,
            None => {
                let target = ExecTarget {
                    pid: Pid::from_raw(init.pid).ok_or_else(gone)?,
                    pidfd: init.pidfd.as_fd(),
                    spec: &self.config.spec,
                    cgroup: Some(&self.cgroup),
                    user: Some(&exec.user),
                    additional_groups: &exec.additional_groups,
                    seccomp_filter: filter.as_deref(),
                    trace: false,
                    preserve_fds: 0,
                };
                crate::exec(&target, &exec.process, stdio).map_err(|error| failure(&error))?
            }
        };
        let number = self.next_child;
        self.next_child += 1;
        let pid = launched.pid.as_raw_nonzero().get();
        let minded = with_terminal(ends, launched.terminal).and_then(|ends| {
            let naming = Box::new(move |part| token::stream(number, part));
            let mut streams = Streams::new(&self.reactor, naming, ends, true, None)?;
            if let Some(spec) = attach
                && let Some(client) = fds.pop()
            {
                streams.attach(&self.reactor, client, spec)?;
            }
            Ok(streams)
        });
        let streams = match minded {
            Ok(streams) => streams,
            Err(error) => {
                havre_sys::signal::pidfd_kill(&launched.pidfd, Signal::KILL.as_raw()).unwrap_or(());
                return Err(internal("cannot mind the process")(error));
            }
        };
        self.status.execs.push((exec.id.clone(), pid));
        let child = Child { pid, pidfd: launched.pidfd, exec: Some(exec.id), ended: false, streams };
        self.children.insert(number, child);
        Ok(Answer::ExecStarted { pid })
    }
}

fn find<'a>(children: &'a mut BTreeMap<u32, Child>, target: &Target) -> Option<&'a mut Child> {
    children.values_mut().find(|child| match (target, &child.exec) {
        (Target::Init, None) => true,
        (Target::Exec(wanted), Some(exec)) => wanted == exec,
        _ => false,
    })
}

fn gone() -> Failure {
    Failure { kind: FailureKind::Gone, message: "the process is not running".into() }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn remove_cgroup(cgroup: &Cgroup) {
    if let Err(error) = cgroup.remove() {
        say(&format!("the control group stays until the next start: {}", chain(&error)));
    }
}

fn launch_external(
    config: &ShimConfig,
    external: &External,
    terminal: bool,
) -> Result<(Launched, Ends), Failure> {
    let (stdio, ends) = make_stdio(terminal, config.open_stdin, config.console)
        .map_err(internal("cannot make the streams"))?;
    let mut launched = external.launch(config, stdio)?;
    let ends = with_terminal(ends, launched.terminal.take()).map_err(internal("cannot keep the terminal"))?;
    Ok((launched, ends))
}

fn launch_init(
    config: &ShimConfig,
    filter: Option<&[u8]>,
    cgroup: &Cgroup,
    terminal: bool,
) -> Result<(Launched, Ends), Failure> {
    let (stdio, ends) = make_stdio(terminal, config.open_stdin, config.console)
        .map_err(internal("cannot make the streams"))?;
    let init = if config.init {
        // We run from the daemon's sealed copy, so our own image is safe to show to the container.
        use rustix::fs::{Mode, OFlags};
        let fd = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| internal("cannot open our own binary")(error.into()))?;
        Some(InitBinary(fd))
    } else {
        None
    };
    let root = match &config.root {
        RootConfig::Overlay { lowers, upper, work, volatile, target } => RootFs::Overlay {
            lowers,
            upper: upper.clone(),
            work: work.clone(),
            volatile: *volatile,
            target: target.clone(),
        },
        RootConfig::Path(path) => RootFs::Path(path.clone()),
    };
    let spec: &Spec = &config.spec;
    let hooked = spec.hooks.as_ref().is_some_and(|hooks| *hooks != Default::default());
    let bundle = if hooked {
        Some(external::write_bundle(&config.run_dir, spec).map_err(|error| failure(&error))?)
    } else {
        None
    };
    let launched = crate::launch(Launch {
        id: config.id.as_str(),
        spec,
        root,
        stdio,
        cgroup: Some(cgroup),
        gate: None,
        init,
        trace: config.trace.is_some(),
        user: Some(&config.user),
        additional_groups: &config.additional_groups,
        seccomp_filter: filter,
        bundle: bundle.as_deref(),
        preserve_fds: 0,
    })
    .map_err(|error| failure(&error))?;
    let Launched { pid, pidfd, terminal, timings } = launched;
    let ends = with_terminal(ends, terminal).map_err(internal("cannot keep the terminal"))?;
    Ok((Launched { pid, pidfd, terminal: None, timings }, ends))
}
