//! Which servers are asked for names that are not ours.
//!
//! Invariants: questions are passed on from the host's namespace, so the host's servers are asked where the host asks
//! them, on its loopback too; a loopback address that was given to a container means the container's own and is never
//! asked of the host's. The host's file is read again when it has changed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const PORT: u16 = 53;
/// As many as a resolver of the C library asks, and Docker.
const MOST: usize = 3;

/// What becomes of a question that is not answered from our own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// It is never passed on: the asker's networks are internal.
    Never,
    /// These are asked one after another.
    Servers {
        /// The servers.
        servers: Arc<[SocketAddr]>,
        /// Whether names of a single label stay here, because the asker was given `ndots` and will come again with
        /// a domain.
        single_labels_stay: bool,
    },
}

/// The servers that a container was given, without those that would be this host's or this server itself.
#[must_use]
pub fn given(addresses: &[IpAddr]) -> Arc<[SocketAddr]> {
    let usable = |address: &&IpAddr| {
        let address = address.to_canonical();
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
    };
    addresses.iter().filter(usable).take(MOST).map(|address| SocketAddr::new(*address, PORT)).collect()
}

/// The host's resolver configuration.
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    /// Protects what was read last and how the file looked then.
    last: Mutex<(Option<Look>, Arc<[SocketAddr]>)>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl HostFile {
    /// Usually `/etc/resolv.conf`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: Mutex::new((None, Arc::from([]))) }
    }

    /// The servers that it names now. A file that cannot be read names none.
    #[must_use]
    pub fn servers(&self) -> Arc<[SocketAddr]> {
        let look = std::fs::metadata(&self.path).ok().map(|data| Look {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
        });
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if look.is_none() || last.0 != look {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let servers = parse(&text, &interface);
            if *last.1 != *servers {
                tracing::debug!(file = %self.path.display(), ?servers, "the host's name servers");
                last.1 = servers.into();
            }
            last.0 = look;
        }
        Arc::clone(&last.1)
    }
}

/// The number of an interface of the host.
fn interface(name: &str) -> Option<u32> {
    let file = Path::new("/sys/class/net").join(name).join("ifindex");
    name.parse().ok().or_else(|| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn parse(text: &str, interface: &dyn Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let server = |word: &str| match word.split_once('%') {
        Some((address, zone)) if !zone.contains('/') => {
            let address: Ipv6Addr = address.parse().ok()?;
            Some(SocketAddrV6::new(address, PORT, 0, interface(zone)?).into())
        }
        _ => Some(SocketAddr::new(word.parse().ok()?, PORT)),
    };
    lines.filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_the_c_library_reads_it() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 127.0.0.53 # here\n\tnameserver\t2001:db8::1\n\
                    nameserver fe80::1%eth0\nnameserver 10.0.0.1\nnameserver nonsense\noptions ndots:2\n";
        let servers = parse(text, &|name| (name == "eth0").then_some(7));
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.53:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
        let strange =
            ["nameserver", "nameserver  ", "nameserver fe80::1%../../x", "nameserverx 1.1.1.1", "\0"];
        for text in strange {
            assert_eq!(parse(text, &|_| Some(1)), [], "{text}");
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let file = HostFile::new(&path);
        assert!(file.servers().is_empty());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(*file.servers(), ["192.0.2.1:53".parse().unwrap()]);
        assert!(Arc::ptr_eq(&file.servers(), &file.servers()));
        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.22\n").unwrap();
        assert_eq!(file.servers().len(), 2);
        std::fs::remove_file(&path).unwrap();
        assert!(file.servers().is_empty());
    }

    #[test]
    fn n09_servers_given_to_a_container_are_never_the_hosts_loopback_or_this_server() {
        let asked: Vec<IpAddr> = [
            "127.0.0.11",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "192.0.2.1",
            "2001:db8::1",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let shown: Vec<String> = given(&asked).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
