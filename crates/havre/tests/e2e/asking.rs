//! Questions to name servers, asked where a container is, and a name server that containers' questions are passed on to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::world::Client;

/// Kinds of records.
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
/// Codes of answers.
pub(crate) const FINE: u8 = 0;
pub(crate) const FAILED: u8 = 2;

/// Where containers ask.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// Longer than any machine needs; what takes as long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A question with a number.
pub(crate) fn question(number: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// An answer: its number, its code, whether it was cut, its addresses in their order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) number: u16,
    pub(crate) code: u8,
    pub(crate) cut: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

fn skip_name(bytes: &[u8], mut at: usize) -> usize {
    while bytes[at] != 0 {
        if bytes[at] >= 0xc0 {
            return at + 2;
        }
        at += 1 + usize::from(bytes[at]);
    }
    at + 1
}

pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = 12;
    for _ in 0..word(4) {
        at = skip_name(bytes, at) + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..word(6) {
        at = skip_name(bytes, at);
        let (kind, length) = (word(at), usize::from(word(at + 8)));
        let data = &bytes[at + 10..at + 10 + length];
        match kind {
            A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).into()),
            AAAA => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).into()),
            _ => {}
        }
        at += 10 + length;
    }
    Answer { number: word(0), code: bytes[3] & 15, cut: bytes[2] & 2 != 0, addresses }
}

/// The first process of a container.
pub(crate) fn pid(client: &Client, container: &str) -> String {
    client.run(&["inspect", "-f", "{{.State.Pid}}", container]).exits(0)
}

/// Does something in the network of a process.
pub(crate) fn within<T: Send>(pid: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
                .unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

/// A socket from which a container's server is asked.
pub(crate) fn asker(pid: &str) -> UdpSocket {
    let socket = within(pid, || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(SERVER).unwrap();
        socket
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn next(socket: &UdpSocket) -> Answer {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    answer(&buffer[..length])
}

/// Asks a container's server.
pub(crate) fn ask(pid: &str, name: &str, kind: u16) -> Answer {
    let socket = asker(pid);
    socket.send(&question(7, name, kind)).unwrap();
    next(&socket)
}

/// The same over TCP, several questions at once.
pub(crate) fn ask_tcp(pid: &str, names: &[&str]) -> Vec<Answer> {
    let mut stream = within(pid, || TcpStream::connect(SERVER)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for (number, name) in (0..).zip(names) {
        stream.write_all(&framed(&question(number, name, A))).unwrap();
    }
    names.iter().map(|_| answer(&message(&mut stream).unwrap())).collect()
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut all = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    all.extend(bytes);
    all
}

fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What the name server outside says of every name.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

/// A name server outside: every name has the address [`OUTSIDE`]. Names that begin with `big` have it so often that the
/// answer must be asked for over TCP; to those that begin with `silent` it says nothing. Ends when dropped.
pub(crate) struct Upstream {
    asked: Arc<AtomicUsize>,
    asked_tcp: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    at: SocketAddr,
}

impl Upstream {
    /// At port 53 of an address of this host.
    pub(crate) fn at(address: &str) -> Self {
        let at = SocketAddr::new(address.parse().unwrap(), 53);
        let (udp, tcp) = (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap());
        let new = Self { asked: Arc::default(), asked_tcp: Arc::default(), ends: Arc::default(), at };
        let (asked, ends) = (Arc::clone(&new.asked), Arc::clone(&new.ends));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                asked.fetch_add(1, Ordering::AcqRel);
                if let Some(said) = said(&buffer[..length], false) {
                    udp.send_to(&said, from).ok();
                }
            }
        });
        let (asked, ends) = (Arc::clone(&new.asked_tcp), Arc::clone(&new.ends));
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                if ends.load(Ordering::Acquire) {
                    return;
                }
                while let Ok(bytes) = message(&mut stream) {
                    asked.fetch_add(1, Ordering::AcqRel);
                    if let Some(said) = said(&bytes, true) {
                        stream.write_all(&framed(&said)).ok();
                    }
                }
            }
        });
        new
    }

    /// How often it was asked over UDP, and over TCP.
    pub(crate) fn asked(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Acquire), self.asked_tcp.load(Ordering::Acquire))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wakes those who wait.
        let any = if self.at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        if let Ok(socket) = UdpSocket::bind(any) {
            socket.send_to(&[0; 12], self.at).ok();
        }
        TcpStream::connect(self.at).ok();
    }
}

/// How often `big` names have their address.
const MANY: usize = 300;

fn said(question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let first = question.get(13..)?;
    if first.starts_with(b"silent") {
        return None;
    }
    let end = skip_name(question, 12) + 4;
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let count = match first.starts_with(b"big") {
        _ if kind != A => 0,
        true if over_tcp => MANY,
        true => 0,
        false => 1,
    };
    let cut = first.starts_with(b"big") && !over_tcp;
    let mut bytes = question[..2].to_vec();
    bytes.extend([0x81 | if cut { 2 } else { 0 }, 0x80, 0, 1]);
    bytes.extend(u16::try_from(count).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(&question[12..end]);
    for at in 0..count {
        let [a, b, c, d] = OUTSIDE.octets();
        // Different ones, or they might be taken for one.
        let (c, d) = if count == 1 {
            (c, d)
        } else {
            (u8::try_from(at / 200).unwrap(), u8::try_from(at % 200).unwrap())
        };
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, a, b, c, d]);
    }
    Some(bytes)
}
