//! Who has a port of the host.
//!
//! Read from the kernel's tables of sockets, so that a port which cannot be published is refused with the program that
//! has it. Invariant: what cannot be found out is left open, never guessed.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::ports::Protocol;

/// A socket of the host that waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where it waits.
    pub at: SocketAddr,
    /// The socket's number.
    inode: u64,
}

/// A process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {} ({})", self.pid, self.program)
    }
}

/// The sockets that wait, by port; SCTP's are in no such table.
#[must_use]
pub fn all(protocol: Protocol) -> HashMap<u16, Vec<Listener>> {
    let mut found: HashMap<u16, Vec<Listener>> = HashMap::new();
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return found,
    };
    for name in tables {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        for listener in table.lines().skip(1).filter_map(|line| parse(line, protocol)) {
            found.entry(listener.at.port()).or_default().push(listener);
        }
    }
    found
}

/// One of them that is in the way of publishing at an address; `None` is every address.
#[must_use]
pub fn in_the_way(listeners: &[Listener], wanted: Option<IpAddr>) -> Option<Listener> {
    let meets = |listener: &&Listener| {
        let at = listener.at.ip();
        match wanted {
            None => true,
            Some(wanted) => at.is_unspecified() && (at.is_ipv6() || wanted.is_ipv4()) || at == wanted,
        }
    };
    listeners.iter().find(meets).copied()
}

/// A line of the table: `sl local remote state … inode`. See proc_net_tcp.rst of the kernel.
fn parse(line: &str, protocol: Protocol) -> Option<Listener> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, remote, state) = (words.get(1)?, words.get(2)?, words.get(3)?);
    // TCP that listens; UDP that is connected to nobody.
    let waits = match protocol {
        Protocol::Tcp => *state == "0A",
        _ => remote.ends_with(":0000"),
    };
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = words.get(9)?.parse().ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(at * 8)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    waits.then_some(Listener { at: SocketAddr::new(ip, port), inode })
}

impl Listener {
    /// The process that has it, found among all descriptors of all processes: only asked when something is refused.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        let link = format!("socket:[{}]", self.inode);
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if has(&entry.path().join("fd"), &link) {
                let program = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                return Some(Owner { pid, program: program.trim_end().to_owned() });
            }
        }
        None
    }
}

fn has(folder: &Path, link: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n12_a_port_that_is_taken_has_an_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = all(Protocol::Tcp);
        let there = in_the_way(&found[&port], Some("127.0.0.1".parse().unwrap())).unwrap();
        let owner = there.owner().unwrap();
        assert_eq!(owner.pid, std::process::id());
        assert!(owner.to_string().contains(&format!("process {} (", owner.pid)), "{owner}");
        assert!(in_the_way(&found[&port], None).is_some());
        assert!(in_the_way(&found[&port], Some("127.0.0.2".parse().unwrap())).is_none());
        // A connection is nobody that waits.
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = client.local_addr().unwrap().port();
        assert!(!all(Protocol::Tcp).contains_key(&own));
        let datagrams = std::net::UdpSocket::bind("[::]:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        let found = all(Protocol::Udp);
        // One of all IPv6 addresses takes IPv4 too.
        assert!(in_the_way(&found[&port], Some("127.0.0.1".parse().unwrap())).is_some());
        datagrams.connect("[::1]:9").unwrap();
        assert!(!all(Protocol::Udp).contains_key(&port));
    }

    #[test]
    fn lines_that_are_none_are_skipped() {
        let line = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1 0";
        let listener = parse(line, Protocol::Tcp).unwrap();
        assert_eq!((listener.at.to_string().as_str(), listener.inode), ("127.0.0.1:8080", 4242));
        for bad in ["", "a b c", "0: x:y 0:0 0A", "0: 01:1F90 0:0 0A 0 0 0 0 0 1", &line[..60]] {
            assert!(parse(bad, Protocol::Tcp).is_none(), "{bad}");
        }
    }
}
