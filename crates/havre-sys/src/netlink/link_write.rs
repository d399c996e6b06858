//! Links made, changed and removed.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::attribute::Writer;
use super::link::{Bridge, End, Ipvlan, Kind, LinkRef, Mac, Macvlan, Peer, Reach, Vxlan};
use super::link_read::header;
use super::message::{CREATE, EXCL};
use super::route::Changes;

/// `VETH_INFO_PEER`.
const VETH_PEER: u16 = 1;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_AGEING: u16 = 4;
const BRIDGE_STP: u16 = 5;
const BRIDGE_SNOOPING: u16 = 23;
const MACVLAN_MODE: u16 = 1;
const IPVLAN_MODE: u16 = 1;
const IPVLAN_FLAGS: u16 = 2;
const VLAN_ID: u16 = 1;
const VXLAN_ID: u16 = 1;
const VXLAN_GROUP: u16 = 2;
const VXLAN_LINK: u16 = 3;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_TTL: u16 = 5;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PROXY: u16 = 11;
const VXLAN_PORT: u16 = 15;
const VXLAN_GROUP6: u16 = 16;
const VXLAN_LOCAL6: u16 = 17;
/// Ticks a second in which the kernel tells times to users (`USER_HZ`).
const USER_HZ: u32 = 100;

const UP: u32 = libc::IFF_UP.cast_unsigned();

impl End<'_> {
    fn header(&self) -> [u8; 16] {
        let flags = if self.up { UP } else { 0 };
        header(self.index.unwrap_or(0), flags, flags)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(libc::IFLA_IFNAME, self.name);
        if let Some(mac) = self.mac {
            writer.bytes(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = self.mtu {
            writer.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(master) = self.master {
            writer.u32(libc::IFLA_MASTER, master);
        }
        if let Some(netns) = self.netns {
            writer.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
        }
    }
}

impl Changes {
    /// Makes a link. It is an error if there is one of that name.
    pub fn create_link(&mut self, end: &End<'_>, kind: &Kind<'_>) -> &mut Self {
        self.kinds.push((self.messages.count(), kind.name()));
        let what = format!("create {} link {}", kind.name(), end.name);
        self.messages.push(libc::RTM_NEWLINK, CREATE | EXCL, what, &end.header(), |writer| {
            end.write(writer);
            if let Kind::Macvlan { parent, .. } | Kind::Ipvlan { parent, .. } | Kind::Vlan { parent, .. } =
                kind
            {
                writer.u32(libc::IFLA_LINK, *parent);
            }
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, kind.name());
                if !matches!(kind, Kind::Dummy | Kind::Ifb) {
                    info.nest(libc::IFLA_INFO_DATA, |data| kind.write(data));
                }
            });
        });
        self
    }

    /// Removes a link; of a pair both ends go.
    pub fn delete_link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> &mut Self {
        let link = link.into();
        self.about_link(libc::RTM_DELLINK, link, format!("delete {link}"), (0, 0), |_| {})
    }

    /// Puts a link into a group, by which links can be removed together. Zero is where all begin.
    pub fn set_group<'a>(&mut self, link: impl Into<LinkRef<'a>>, group: u32) -> &mut Self {
        self.set_link(link.into(), &format!("put into group {group}"), |writer| {
            writer.u32(libc::IFLA_GROUP, group);
        })
    }

    /// Removes all links of a group, and the other ends of pairs. Each removal waits for all processors; those of a
    /// group wait once for all. The kernel refuses this for group zero.
    pub fn delete_group(&mut self, group: u32) -> &mut Self {
        let what = format!("delete the links of group {group}");
        self.messages.push(libc::RTM_DELLINK, 0, what, &header(0, 0, 0), |writer| {
            writer.u32(libc::IFLA_GROUP, group);
        });
        self
    }

    /// Brings a link up or down.
    pub fn set_up<'a>(&mut self, link: impl Into<LinkRef<'a>>, up: bool) -> &mut Self {
        let (link, word) = (link.into(), if up { "up" } else { "down" });
        let flags = if up { UP } else { 0 };
        self.about_link(libc::RTM_NEWLINK, link, format!("bring {link} {word}"), (flags, UP), |_| {})
    }

    /// Gives the link with this number another name.
    pub fn rename(&mut self, index: u32, name: &str) -> &mut Self {
        self.set_link(index.into(), &format!("give the name {name} to"), |writer| {
            writer.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Makes a link a port of the bridge with this number, or of none.
    pub fn set_master<'a>(&mut self, link: impl Into<LinkRef<'a>>, bridge: Option<u32>) -> &mut Self {
        self.set_link(link.into(), "change the bridge of", |writer| {
            writer.u32(libc::IFLA_MASTER, bridge.unwrap_or(0));
        })
    }

    /// Gives a link another hardware address.
    pub fn set_mac<'a>(&mut self, link: impl Into<LinkRef<'a>>, mac: Mac) -> &mut Self {
        self.set_link(link.into(), "change the hardware address of", |writer| {
            writer.bytes(libc::IFLA_ADDRESS, &mac);
        })
    }

    /// Changes the longest packet of a link.
    pub fn set_mtu<'a>(&mut self, link: impl Into<LinkRef<'a>>, mtu: u32) -> &mut Self {
        self.set_link(link.into(), &format!("set the MTU {mtu} for"), |writer| {
            writer.u32(libc::IFLA_MTU, mtu);
        })
    }

    /// Writes something on a link, up to 255 bytes, so that it can be recognised; nothing removes it.
    pub fn set_alias<'a>(&mut self, link: impl Into<LinkRef<'a>>, alias: &str) -> &mut Self {
        self.set_link(link.into(), "write an alias on", |writer| {
            // Without the zero byte: it would count, and an empty value removes the alias.
            writer.bytes(libc::IFLA_IFALIAS, alias.as_bytes());
        })
    }

    /// Moves a link to another namespace; there it is down and has lost its addresses.
    pub fn move_to<'a>(&mut self, link: impl Into<LinkRef<'a>>, netns: BorrowedFd<'_>) -> &mut Self {
        self.set_link(link.into(), "move to another namespace", |writer| {
            writer.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
        })
    }

    /// Moves the link with this number to another namespace, where it has another name.
    pub fn move_as(&mut self, index: u32, netns: BorrowedFd<'_>, name: &str) -> &mut Self {
        self.set_link(index.into(), &format!("move to another namespace as {name}"), |writer| {
            writer.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
            writer.text(libc::IFLA_IFNAME, name);
        })
    }

    /// Changes an existing link; `doing` is read before the link's name.
    pub(super) fn set_link(
        &mut self,
        link: LinkRef<'_>,
        doing: &str,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        self.about_link(libc::RTM_NEWLINK, link, format!("{doing} {link}"), (0, 0), fill)
    }

    fn about_link(
        &mut self,
        message: u16,
        link: LinkRef<'_>,
        what: String,
        (flags, change): (u32, u32),
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        let index = if let LinkRef::Index(index) = link { index } else { 0 };
        self.messages.push(message, 0, what, &header(index, flags, change), |writer| {
            if let LinkRef::Name(name) = link {
                writer.text(libc::IFLA_IFNAME, name);
            }
            fill(writer);
        });
        self
    }
}

impl Kind<'_> {
    fn write(&self, data: &mut Writer<'_>) {
        match self {
            Self::Bridge(bridge) => write_bridge(bridge, data),
            Self::Veth(Peer { name, index, mac, mtu, netns }) => {
                let peer =
                    End { name, index: *index, mac: *mac, mtu: *mtu, up: false, master: None, netns: *netns };
                data.nest_after(VETH_PEER, &peer.header(), |writer| peer.write(writer));
            }
            Self::Macvlan { mode, .. } => {
                data.u32(
                    MACVLAN_MODE,
                    match mode {
                        Macvlan::Private => 1,
                        Macvlan::Vepa => 2,
                        Macvlan::Bridge => 4,
                        Macvlan::Passthru => 8,
                    },
                );
            }
            Self::Ipvlan { mode, reach, .. } => {
                data.u16(
                    IPVLAN_MODE,
                    match mode {
                        Ipvlan::L2 => 0,
                        Ipvlan::L3 => 1,
                        Ipvlan::L3s => 2,
                    },
                );
                data.u16(
                    IPVLAN_FLAGS,
                    match reach {
                        Reach::Bridge => 0,
                        Reach::Private => 1,
                        Reach::Vepa => 2,
                    },
                );
            }
            Self::Vlan { id, .. } => {
                data.u16(VLAN_ID, *id);
            }
            Self::Vxlan(vxlan) => write_vxlan(vxlan, data),
            Self::Dummy | Self::Ifb => {}
        }
    }
}

/// VLANs and the filters of IP are off unless asked for, and kernels without them refuse even to hear of them.
fn write_bridge(bridge: &Bridge, data: &mut Writer<'_>) {
    data.u32(BRIDGE_STP, 0);
    data.u32(BRIDGE_FORWARD_DELAY, 0);
    data.u32(BRIDGE_AGEING, bridge.ageing.saturating_mul(USER_HZ));
    data.u8(BRIDGE_SNOOPING, u8::from(bridge.multicast_snooping));
}

fn write_vxlan(vxlan: &Vxlan, data: &mut Writer<'_>) {
    data.u32(VXLAN_ID, vxlan.id);
    data.u16_be(VXLAN_PORT, vxlan.port);
    data.u8(VXLAN_LEARNING, u8::from(vxlan.learning));
    data.u8(VXLAN_PROXY, u8::from(vxlan.proxy));
    let by_family = |address: IpAddr, v4, v6| if address.is_ipv4() { v4 } else { v6 };
    if let Some(local) = vxlan.local {
        data.ip(by_family(local, VXLAN_LOCAL, VXLAN_LOCAL6), local);
    }
    if let Some(remote) = vxlan.remote {
        data.ip(by_family(remote, VXLAN_GROUP, VXLAN_GROUP6), remote);
    }
    if let Some(parent) = vxlan.parent {
        data.u32(VXLAN_LINK, parent);
    }
    if let Some(ttl) = vxlan.ttl {
        data.u8(VXLAN_TTL, ttl);
    }
}
