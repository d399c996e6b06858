//! The one process that leads to published ports where the kernel cannot: from `::1`, and where the host's rules for what
//! is its own are to judge.
//!
//! Invariants: a door of the host leads to one place at a time; it is open when the call that asked for it returns, and
//! who takes over a door finds it open. The number of doors, connections and correspondents is bounded: what is beyond
//! waits, or is dropped where it is a datagram. A connection that is relayed ends with its door and with the engine.
//! Not here: SCTP, of which only the kernel leads to published ports.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use havre_base::EndpointId;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::ports::{Protocol, Publication};
use crate::{NetError, Result};

/// More doors than this are not opened.
const DOORS: usize = 4096;
/// More of those that only spare somebody on this host the other family are not opened.
const LOOPBACK_DOORS: usize = 1024;
/// Connections of all doors together.
const CONNECTIONS: usize = 8192;
/// Who sends datagrams to one door.
const CORRESPONDENTS: usize = 1024;
/// After this long without a datagram in either direction an answer is not expected any more; as Docker's proxy.
const SILENCE: Duration = Duration::from_secs(90);
/// A container that does not take a connection for this long takes none.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// After a failure that lasts, such as too many descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How many bytes of a connection are on their way in each direction.
const BUFFER: usize = 32 << 10;
const BACKLOG: i32 = 4096;

/// Where the relay waits on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    /// For what.
    pub protocol: Protocol,
    /// At which address and port; a wildcard is of one family.
    pub at: SocketAddr,
}

/// Where a door leads now.
type Target = Arc<Mutex<SocketAddr>>;

#[derive(Debug)]
struct Open {
    target: Target,
    /// Until the task has it.
    socket: Option<OwnedFd>,
    owner: Option<EndpointId>,
}

/// All doors.
#[derive(Debug, Default)]
pub struct Relay {
    doors: Mutex<BTreeMap<Door, Open>>,
    changed: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Through which doors these ports are reached, and which of them matter; the others spare the search for another family.
/// `by_input` says that the host's rules for what is its own judge about what comes from elsewhere.
#[must_use]
pub fn doors(ports: &[Publication], by_input: bool) -> BTreeMap<Door, (SocketAddr, bool)> {
    let mut doors = BTreeMap::new();
    for port in ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
        let v6 = port.to.is_ipv6();
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let own = match port.at {
            Some(at) if at == Ipv6Addr::LOCALHOST => Some(at),
            Some(at) => Some(at).filter(|at| by_input && !at.is_loopback()),
            None => Some(any).filter(|_| by_input),
        };
        let to = SocketAddr::new(port.to, port.to_port);
        let mut lead = |at: IpAddr, matters| {
            let door = Door { protocol: port.protocol, at: SocketAddr::new(at, port.port) };
            let old = doors.entry(door).or_insert((to, matters));
            // IPv6 leads to IPv6 where it can.
            if v6 {
                *old = (to, matters);
            }
        };
        if let Some(at) = own {
            lead(at, by_input || port.at.is_some());
        }
        if port.at.is_none() && !(by_input && v6) {
            lead(Ipv6Addr::LOCALHOST.into(), false);
        }
    }
    // What waits at all addresses of IPv6 waits at the loopback too.
    let wildcards: Vec<Door> =
        doors.keys().filter(|door| door.at.ip() == Ipv6Addr::UNSPECIFIED).copied().collect();
    for door in wildcards {
        let at = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), door.at.port());
        doors.remove(&Door { at, ..door });
    }
    doors
}

fn open(door: &Door) -> io::Result<OwnedFd> {
    let (kind, protocol) = match door.protocol {
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        _ => (SocketType::STREAM, ipproto::TCP),
    };
    let family = if door.at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    if door.at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &door.at)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

impl Relay {
    /// The doors of a place are these from now on. Those that matter are open then, or nothing has changed.
    pub fn set(&self, place: &EndpointId, wanted: &BTreeMap<Door, (SocketAddr, bool)>) -> Result<()> {
        let mut doors = locked(&self.doors);
        let had = |open: &Open| open.owner.as_ref() == Some(place);
        if wanted.is_empty() && !doors.values().any(had) {
            return Ok(());
        }
        let mut new = Vec::new();
        for (door, (_, matters)) in wanted.iter().filter(|(door, _)| !doors.contains_key(door)) {
            let room = if *matters { DOORS } else { LOOPBACK_DOORS };
            let opened = match doors.len() + new.len() < room {
                true => open(door),
                false => Err(io::Error::other(format!("{room} ports are relayed already"))),
            };
            match opened {
                Ok(socket) => new.push((*door, socket)),
                Err(error) if *matters => {
                    let by = format!(" ({error})");
                    return Err(NetError::PortInUse { wanted: door.at, by });
                }
                // There is the other family, or no IPv6 at all.
                Err(error) => {
                    tracing::debug!(at = %door.at, %error, "a port is not relayed from this address")
                }
            }
        }
        for (door, open) in doors.iter_mut() {
            match wanted.get(door) {
                Some((to, _)) => {
                    *locked(&open.target) = *to;
                    open.owner = Some(place.clone());
                }
                None if had(open) => open.owner = None,
                None => {}
            }
        }
        for (door, socket) in new {
            if let Some((to, _)) = wanted.get(&door) {
                let (target, socket) = (Arc::new(Mutex::new(*to)), Some(socket));
                doors.insert(door, Open { target, socket, owner: Some(place.clone()) });
            }
        }
        drop(doors);
        self.changed.notify_one();
        Ok(())
    }

    /// Where it waits: no program of somebody else does.
    #[must_use]
    pub fn doors(&self) -> Vec<Door> {
        locked(&self.doors).keys().copied().collect()
    }

    /// Leads through the doors as long as it is polled.
    pub async fn run(&self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks: HashMap<Door, Ends> = HashMap::new();
        loop {
            for door in self.attend(&mut tasks, &room) {
                if let Some(task) = tasks.remove(&door) {
                    task.end().await;
                }
                self.close(door);
            }
            self.changed.notified().await;
        }
    }

    /// Gives each new door a task; which doors nobody wants any more.
    fn attend(&self, tasks: &mut HashMap<Door, Ends>, room: &Arc<Semaphore>) -> Vec<Door> {
        let mut gone = Vec::new();
        for (door, open) in locked(&self.doors).iter_mut() {
            if open.owner.is_none() {
                gone.push(*door);
            } else if let Some(socket) = open.socket.take() {
                let serving = serve(door.protocol, socket, Arc::clone(&open.target), Arc::clone(room));
                tasks.insert(*door, Ends(tokio::task::spawn(serving)));
            }
        }
        gone
    }

    /// Forgets a door whose socket is closed, unless somebody came to want it meanwhile.
    fn close(&self, door: Door) {
        let mut doors = locked(&self.doors);
        let Some(again) = doors.remove(&door).filter(|open| open.owner.is_some()) else { return };
        match open(&door) {
            Ok(socket) => {
                doors.insert(door, Open { socket: Some(socket), ..again });
                self.changed.notify_one();
            }
            Err(error) => tracing::warn!(at = %door.at, %error, "cannot wait for connections again"),
        }
    }
}

/// A task that ends when this is dropped.
struct Ends(JoinHandle<()>);

impl Ends {
    /// Ends when it has ended.
    async fn end(mut self) {
        self.0.abort();
        // It was cancelled, or a panic was told.
        (&mut self.0).await.unwrap_or(());
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(protocol: Protocol, socket: OwnedFd, target: Target, room: Arc<Semaphore>) {
    let served = match protocol {
        Protocol::Udp => datagrams(socket, &target).await,
        _ => connections(socket, &target, &room).await,
    };
    if let Err(error) = served {
        tracing::warn!(%error, "cannot relay what comes to a published port");
    }
}

async fn connections(socket: OwnedFd, target: &Target, room: &Arc<Semaphore>) -> io::Result<()> {
    let listener = TcpListener::from_std(socket.into())?;
    let mut under_way = JoinSet::new();
    loop {
        // Who finds no room waits in the kernel's queue.
        let Ok(place) = Arc::clone(room).acquire_owned().await else { return Ok(()) };
        let client = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => break client,
                    Err(_) => sleep(PAUSE).await,
                },
                Some(_) = under_way.join_next() => {}
            }
        };
        let to = *locked(target);
        under_way.spawn(async move {
            // Either side may end it at any time, which is nobody's fault.
            relay(client, to).await.unwrap_or(());
            drop(place);
        });
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let Ok(Ok(mut inner)) = timeout(CONNECT_WITHIN, TcpStream::connect(to)).await else {
        // As if nobody listened.
        return client.set_zero_linger();
    };
    for side in [&client, &inner] {
        side.set_nodelay(true)?;
        sockopt::set_socket_keepalive(side, true)?;
    }
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut inner, BUFFER, BUFFER).await.map(drop)
}

/// Answers to somebody who sent datagrams.
struct Correspondent {
    inner: Arc<UdpSocket>,
    /// Milliseconds since the door was opened.
    last: Arc<AtomicU64>,
    to: SocketAddr,
    task: Ends,
}

async fn datagrams(socket: OwnedFd, target: &Target) -> io::Result<()> {
    let door = Arc::new(UdpSocket::from_std(socket.into())?);
    let begin = Instant::now();
    let now = move || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut known: HashMap<SocketAddr, Correspondent> = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, from) = match door.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        let to = *locked(target);
        // Another container has the port now, or nothing was heard for long.
        known.retain(|other, one| *other != from || (one.to == to && !one.task.0.is_finished()));
        if known.len() >= CORRESPONDENTS {
            known.retain(|_, one| !one.task.0.is_finished());
        }
        if !known.contains_key(&from) && known.len() < CORRESPONDENTS {
            let any: IpAddr =
                if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let Ok(inner) = UdpSocket::bind((any, 0)).await else { continue };
            if inner.connect(to).await.is_err() {
                continue;
            }
            let (inner, last) = (Arc::new(inner), Arc::new(AtomicU64::new(now())));
            let answering = answers(Arc::clone(&door), from, Arc::clone(&inner), Arc::clone(&last), now);
            let task = Ends(tokio::task::spawn(answering));
            known.insert(from, Correspondent { inner, last, to, task });
        }
        if let (Some(one), Some(datagram)) = (known.get(&from), buffer.get(..length)) {
            one.last.store(now(), Ordering::Relaxed);
            // What cannot be sent is lost, as datagrams are.
            one.inner.send(datagram).await.map(drop).unwrap_or(());
        }
    }
}

async fn answers(
    door: Arc<UdpSocket>,
    to: SocketAddr,
    inner: Arc<UdpSocket>,
    last: Arc<AtomicU64>,
    now: impl Fn() -> u64,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let quiet = Duration::from_millis(now().saturating_sub(last.load(Ordering::Relaxed)));
        let Some(patience) = SILENCE.checked_sub(quiet) else { return };
        match timeout(patience, inner.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                last.store(now(), Ordering::Relaxed);
                let answer = buffer.get(..length).unwrap_or_default();
                door.send_to(answer, to).await.map(drop).unwrap_or(());
            }
            // Nobody listens there now; somebody may soon.
            Ok(Err(_)) => sleep(PAUSE).await,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(at: Option<&str>, to: &str) -> Publication {
        Publication {
            protocol: Protocol::Tcp,
            at: at.map(|at| at.parse().unwrap()),
            port: 8080,
            to: to.parse().unwrap(),
            to_port: 80,
        }
    }

    fn shown(ports: &[Publication], by_input: bool) -> Vec<String> {
        let show = |(door, (to, matters)): (Door, (SocketAddr, bool))| format!("{} {to} {matters}", door.at);
        doors(ports, by_input).into_iter().map(show).collect()
    }

    #[test]
    fn only_what_the_kernel_cannot_is_relayed() {
        let both = [port(None, "10.0.0.2"), port(None, "fd00::2")];
        assert_eq!(shown(&both, false), ["[::1]:8080 [fd00::2]:80 false"]);
        assert_eq!(shown(&both[..1], false), ["[::1]:8080 10.0.0.2:80 false"]);
        assert_eq!(shown(&[port(Some("::1"), "fd00::2")], false), ["[::1]:8080 [fd00::2]:80 true"]);
        for at in ["127.0.0.1", "192.0.2.1"] {
            assert!(shown(&[port(Some(at), "10.0.0.2")], false).is_empty(), "{at}");
        }
    }

    #[test]
    fn what_the_hosts_rules_judge_is_relayed_and_its_loopback_is_the_kernels() {
        let both = [port(None, "10.0.0.2"), port(None, "fd00::2")];
        assert_eq!(shown(&both, true), ["0.0.0.0:8080 10.0.0.2:80 true", "[::]:8080 [fd00::2]:80 true"]);
        assert_eq!(
            shown(&both[..1], true),
            ["0.0.0.0:8080 10.0.0.2:80 true", "[::1]:8080 10.0.0.2:80 false"]
        );
        assert_eq!(shown(&[port(Some("192.0.2.1"), "10.0.0.2")], true), ["192.0.2.1:8080 10.0.0.2:80 true"]);
        assert!(shown(&[port(Some("127.0.0.1"), "10.0.0.2")], true).is_empty());
    }
}
