//! What a link is, and what one can be made of.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::port::Port;

/// A hardware address.
pub type Mac = [u8; 6];

/// Which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRef<'a> {
    /// By its number in its namespace.
    Index(u32),
    /// By its name.
    Name(&'a str),
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "link number {index}"),
            Self::Name(name) => write!(f, "link {name}"),
        }
    }
}

/// A link that is to be made; of a pair, the end at this namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct End<'a> {
    /// Its name, up to 15 bytes.
    pub name: &'a str,
    /// Its number, where it matters.
    pub index: Option<u32>,
    /// Its hardware address; random where it is not given.
    pub mac: Option<Mac>,
    /// The longest packet.
    pub mtu: Option<u32>,
    /// Whether it is up at once.
    pub up: bool,
    /// The bridge whose port it becomes.
    pub master: Option<u32>,
    /// The namespace in which it is made, if not that of the socket.
    pub netns: Option<BorrowedFd<'a>>,
}

/// The other end of a pair. It is down until it is brought up in its own namespace: the kernel makes it first,
/// and an end without another cannot be up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'a> {
    /// Its name, up to 15 bytes.
    pub name: &'a str,
    /// Its number, where it matters.
    pub index: Option<u32>,
    /// Its hardware address; random where it is not given.
    pub mac: Option<Mac>,
    /// The longest packet.
    pub mtu: Option<u32>,
    /// The namespace in which it is made, if not that of the socket.
    pub netns: Option<BorrowedFd<'a>>,
}

/// What kind of link is to be made.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// A bridge.
    Bridge(Bridge),
    /// One of two ends; this is the other one.
    Veth(Peer<'a>),
    /// Further hardware addresses on a parent.
    Macvlan {
        /// The number of the parent.
        parent: u32,
        /// How those on one parent reach one another.
        mode: Macvlan,
    },
    /// Further internet addresses on a parent.
    Ipvlan {
        /// The number of the parent.
        parent: u32,
        /// On which layer packets are distributed.
        mode: Ipvlan,
        /// How those on one parent reach one another.
        reach: Reach,
    },
    /// 802.1Q: the packets of a parent that carry this tag.
    Vlan {
        /// The number of the parent.
        parent: u32,
        /// The tag, 1 to 4094.
        id: u16,
    },
    /// Ethernet in UDP.
    Vxlan(Vxlan),
    /// A link that leads nowhere.
    Dummy,
    /// A link to which packets are redirected, to be queued; what is sent on it directly is dropped.
    Ifb,
}

impl Kind<'_> {
    /// What the kernel calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Veth(_) => "veth",
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
            Self::Vlan { .. } => "vlan",
            Self::Vxlan(_) => "vxlan",
            Self::Dummy => "dummy",
            Self::Ifb => "ifb",
        }
    }
}

/// A bridge: it has no spanning tree, forwards at once, knows no VLANs, and asks the filters of IP about
/// bridged packets only where the system's settings (`bridge-nf-call-*`) say so for all bridges.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    /// After how many seconds a hardware address is forgotten.
    pub ageing: u32,
    /// Whether multicast goes only to those who asked for it.
    pub multicast_snooping: bool,
}

impl Default for Bridge {
    /// As the kernel has it.
    fn default() -> Self {
        Self { ageing: 300, multicast_snooping: true }
    }
}

/// How macvlan links on one parent reach one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macvlan {
    /// Not at all.
    Private,
    /// Through the switch outside, if it sends back.
    Vepa,
    /// Directly.
    Bridge,
    /// There is only one.
    Passthru,
}

/// On which layer ipvlan links share their parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipvlan {
    /// By neighbour discovery: broadcasts arrive.
    L2,
    /// By the parent's routes.
    L3,
    /// By the parent's routes and filters.
    L3s,
}

/// How ipvlan links on one parent reach one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Directly.
    #[default]
    Bridge,
    /// Not at all.
    Private,
    /// Through the switch outside, if it sends back.
    Vepa,
}

/// A VXLAN link.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan {
    /// The network's number, below 2^24.
    pub id: u32,
    /// The UDP port.
    pub port: u16,
    /// The address from which packets go out.
    pub local: Option<IpAddr>,
    /// The address to which packets of unknown destination go.
    pub remote: Option<IpAddr>,
    /// The link through which packets go out.
    pub parent: Option<u32>,
    /// How many hops; the system's default where it is not given.
    pub ttl: Option<u8>,
    /// Whether it learns from packets who is where.
    pub learning: bool,
    /// Whether it answers neighbour discovery itself.
    pub proxy: bool,
}

/// A link that exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, as far as it is not hardware.
    pub kind: Option<String>,
    /// Its hardware address, if it has one as Ethernet has.
    pub mac: Option<Mac>,
    /// The longest packet.
    pub mtu: u32,
    /// `IFF_*`.
    pub flags: u32,
    /// `IF_OPER_*`.
    pub operstate: u8,
    /// The bridge whose port it is.
    pub master: Option<u32>,
    /// The other end of a pair, or the parent: its number in its own namespace.
    pub peer: Option<u32>,
    /// Where that is: what this namespace calls the other one. `None` is the same namespace.
    pub peer_netns: Option<i32>,
    /// What its owner wrote on it.
    pub alias: Option<String>,
    /// How it behaves as a bridge's port.
    pub port: Option<Port>,
    /// What went through it.
    pub counters: Counters,
}

impl Link {
    /// Whether it was brought up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Whether packets can flow.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.flags & libc::IFF_RUNNING.cast_unsigned() != 0
    }
}

/// What went through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the words are those of rtnl_link_stats64 in linux/if_link.h")]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}
