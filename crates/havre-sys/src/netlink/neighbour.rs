//! Which hardware address belongs to which internet address of a link's neighbours.

use std::net::IpAddr;

use super::address::family;
use super::link::Mac;
use super::message::{CREATE, DUMP, Message, Messages, REPLACE};
use super::route::Changes;

/// Length of `struct ndmsg`.
const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const HARDWARE: u16 = 2;

/// State: asked, no answer yet (`NUD_INCOMPLETE`).
pub const INCOMPLETE: u16 = 0x01;
/// State: known to be there (`NUD_REACHABLE`).
pub const REACHABLE: u16 = 0x02;
/// State: nobody answered (`NUD_FAILED`).
pub const FAILED: u16 = 0x20;
/// State: entered in a bridge, never forgotten and never learnt elsewhere (`NUD_NOARP`).
const NO_ARP: u16 = 0x40;
/// It is the link's bridge that is told (`NTF_MASTER`).
const MASTER: u8 = 0x04;
/// State: entered, never asked for (`NUD_PERMANENT`).
pub const PERMANENT: u16 = 0x80;

/// A neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the link at which it is.
    pub index: u32,
    /// Its internet address.
    pub address: IpAddr,
    /// Its hardware address, as far as it is known.
    pub mac: Option<Mac>,
    /// What is known of it ([`REACHABLE`] and others).
    pub state: u16,
}

impl Neighbour {
    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = family(self.address);
        header[4..8].copy_from_slice(&self.index.to_ne_bytes());
        header[8..10].copy_from_slice(&self.state.to_ne_bytes());
        header
    }
}

impl Changes {
    /// Enters a neighbour for good, in the place of what is known.
    pub fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> &mut Self {
        let neighbour = Neighbour { index, address, mac: Some(mac), state: PERMANENT };
        let what = format!("enter neighbour {address} at link number {index}");
        self.messages.push(libc::RTM_NEWNEIGH, CREATE | REPLACE, what, &neighbour.header(), |writer| {
            writer.ip(DESTINATION, address).bytes(HARDWARE, &mac);
        });
        self
    }

    /// Tells the bridge of a port for good that this hardware address is behind the port, wherever it was before. It goes
    /// with the port.
    pub fn set_behind(&mut self, port: u32, mac: Mac) -> &mut Self {
        let mut header = [0; HEADER];
        header[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or(0);
        header[4..8].copy_from_slice(&port.to_ne_bytes());
        header[8..10].copy_from_slice(&NO_ARP.to_ne_bytes());
        header[10] = MASTER;
        let what = format!("enter a hardware address behind the bridge port number {port}");
        self.messages.push(libc::RTM_NEWNEIGH, CREATE | REPLACE, what, &header, |writer| {
            writer.bytes(HARDWARE, &mac);
        });
        self
    }

    /// Forgets a neighbour.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> &mut Self {
        let neighbour = Neighbour { index, address, mac: None, state: 0 };
        let what = format!("forget neighbour {address} at link number {index}");
        self.messages.push(libc::RTM_DELNEIGH, 0, what, &neighbour.header(), |writer| {
            writer.ip(DESTINATION, address);
        });
        self
    }
}

pub(super) fn request() -> Messages {
    let mut messages = Messages::new();
    messages.push(libc::RTM_GETNEIGH, DUMP, "list neighbours", &[0; HEADER], |_| {});
    messages
}

pub(super) fn read(message: &Message<'_>) -> Option<Neighbour> {
    if !matches!(message.kind, libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) {
        return None;
    }
    let [_, _, _, _, i0, i1, i2, i3, s0, s1, ..] = *message.header::<HEADER>()?;
    let all = message.attributes(HEADER);
    Some(Neighbour {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        address: all.get(DESTINATION)?.ip()?,
        mac: all.get(HARDWARE).and_then(|mac| mac.value.try_into().ok()),
        state: u16::from_ne_bytes([s0, s1]),
    })
}
