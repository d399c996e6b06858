//! How a link behaves as a bridge's port.

use super::attribute::{Attributes, Writer};
use super::link::LinkRef;
use super::route::Changes;

const MODE: u16 = 4;
const GUARD: u16 = 5;
const PROTECT: u16 = 6;
const FAST_LEAVE: u16 = 7;
const LEARNING: u16 = 8;
const UNICAST_FLOOD: u16 = 9;
const PROXY_ARP: u16 = 10;
const FLUSH: u16 = 24;
const MULTICAST_FLOOD: u16 = 27;
const BROADCAST_FLOOD: u16 = 30;
const NEIGH_SUPPRESS: u16 = 32;
const ISOLATED: u16 = 33;
const LOCKED: u16 = 39;

/// Settings of a bridge's port; what is `None` is left as it is (when writing) or unknown (when reading).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Port {
    /// A packet may leave through the port by which it came.
    pub hairpin: Option<bool>,
    /// Messages of the spanning tree are not accepted.
    pub guard: Option<bool>,
    /// It cannot become the port to the root of the tree.
    pub root_block: Option<bool>,
    /// Who leaves a multicast group leaves it at once.
    pub fast_leave: Option<bool>,
    /// Hardware addresses are learnt from what comes in.
    pub learning: Option<bool>,
    /// What is for an unknown hardware address goes out here too.
    pub unicast_flood: Option<bool>,
    /// The bridge answers ARP for others.
    pub proxy_arp: Option<bool>,
    /// Multicast without listeners goes out here too.
    pub multicast_flood: Option<bool>,
    /// Broadcasts go out here too.
    pub broadcast_flood: Option<bool>,
    /// Questions to which the bridge knows the answer do not go out here.
    pub neigh_suppress: Option<bool>,
    /// Nothing goes from here to another isolated port.
    pub isolated: Option<bool>,
    /// Only hardware addresses that were entered may send.
    pub locked: Option<bool>,
}

impl Port {
    fn each(&mut self) -> [(u16, &mut Option<bool>); 12] {
        [
            (MODE, &mut self.hairpin),
            (GUARD, &mut self.guard),
            (PROTECT, &mut self.root_block),
            (FAST_LEAVE, &mut self.fast_leave),
            (LEARNING, &mut self.learning),
            (UNICAST_FLOOD, &mut self.unicast_flood),
            (PROXY_ARP, &mut self.proxy_arp),
            (MULTICAST_FLOOD, &mut self.multicast_flood),
            (BROADCAST_FLOOD, &mut self.broadcast_flood),
            (NEIGH_SUPPRESS, &mut self.neigh_suppress),
            (ISOLATED, &mut self.isolated),
            (LOCKED, &mut self.locked),
        ]
    }

    pub(super) fn read(attributes: Attributes<'_>) -> Self {
        let mut port = Self::default();
        for (kind, place) in port.each() {
            *place = attributes.get(kind).and_then(|value| value.u8()).map(|value| value != 0);
        }
        port
    }

    fn write(mut self, writer: &mut Writer<'_>) {
        for (kind, value) in self.each() {
            if let Some(value) = value {
                writer.u8(kind, u8::from(*value));
            }
        }
    }
}

impl Changes {
    /// Changes how a link behaves as a bridge's port, which it must be.
    pub fn set_port<'a>(&mut self, link: impl Into<LinkRef<'a>>, port: Port) -> &mut Self {
        self.set_link(link.into(), "change the bridge port", |writer| {
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_SLAVE_KIND, "bridge");
                info.nest(libc::IFLA_INFO_SLAVE_DATA, |data| port.write(data));
            });
        })
    }

    /// Nothing goes out by a bridge's port any more, at once: the bridge forgets who was behind it, does not learn it
    /// anew, and sends nothing there on suspicion. (The state of a port is no such switch: without a spanning tree the
    /// kernel makes it forward again.)
    pub fn close_port<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> &mut Self {
        let closed = Port {
            learning: Some(false),
            unicast_flood: Some(false),
            multicast_flood: Some(false),
            broadcast_flood: Some(false),
            ..Port::default()
        };
        self.set_link(link.into(), "close the bridge port", |writer| {
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_SLAVE_KIND, "bridge");
                info.nest(libc::IFLA_INFO_SLAVE_DATA, |data| {
                    closed.write(data);
                    data.flag(FLUSH);
                });
            });
        })
    }
}
