//! Internet addresses of links.

use std::net::IpAddr;

use super::message::{CREATE, DUMP, Message, Messages, REPLACE};
use super::route::Changes;

/// Length of `struct ifaddrmsg`.
const HEADER: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;

/// Flag: do not ask whether somebody has the IPv6 address already (`IFA_F_NODAD`).
pub const NO_DAD: u32 = 0x02;
/// Flag: no route to the address's network comes with it (`IFA_F_NOPREFIXROUTE`).
pub const NO_PREFIX_ROUTE: u32 = 0x200;
/// Flag: it is not yet known whether the address is free (`IFA_F_TENTATIVE`).
pub const TENTATIVE: u32 = 0x40;
/// Flag: the address stays until it is removed (`IFA_F_PERMANENT`).
pub const PERMANENT: u32 = 0x80;

/// `AF_INET` or `AF_INET6` as the headers have it.
pub(super) fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// `NO_DAD` and others of this module.
    pub flags: u32,
    /// How far it is known (`RT_SCOPE_*`); for a new one this is what the kernel chooses.
    pub scope: u8,
}

impl Address {
    /// A new address, without flags.
    #[must_use]
    pub fn new(index: u32, address: IpAddr, prefix: u8) -> Self {
        Self { index, address, prefix, flags: 0, scope: 0 }
    }

    fn header(&self) -> [u8; HEADER] {
        let [i0, i1, i2, i3] = self.index.to_ne_bytes();
        [family(self.address), self.prefix, 0, self.scope, i0, i1, i2, i3]
    }

    /// The broadcast address of its network, where one is used: not in the smallest ones.
    fn broadcast(&self) -> Option<[u8; 4]> {
        match self.address {
            IpAddr::V4(address) if self.prefix < 31 => {
                let hosts = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Some((u32::from(address) | hosts).to_be_bytes())
            }
            _ => None,
        }
    }
}

impl Changes {
    /// Adds an address; one that is there gets these flags.
    pub fn add_address(&mut self, address: &Address) -> &mut Self {
        let what =
            format!("add address {}/{} to link number {}", address.address, address.prefix, address.index);
        self.messages.push(libc::RTM_NEWADDR, CREATE | REPLACE, what, &address.header(), |writer| {
            writer.ip(LOCAL, address.address).ip(ADDRESS, address.address);
            if let Some(broadcast) = address.broadcast() {
                writer.bytes(BROADCAST, &broadcast);
            }
            if address.flags != 0 {
                writer.u32(FLAGS, address.flags);
            }
        });
        self
    }

    /// Removes an address.
    pub fn delete_address(&mut self, address: &Address) -> &mut Self {
        let what = format!(
            "remove address {}/{} from link number {}",
            address.address, address.prefix, address.index
        );
        self.messages.push(libc::RTM_DELADDR, 0, what, &address.header(), |writer| {
            writer.ip(LOCAL, address.address).ip(ADDRESS, address.address);
        });
        self
    }
}

pub(super) fn request(index: Option<u32>) -> Messages {
    let mut messages = Messages::new();
    let [i0, i1, i2, i3] = index.unwrap_or(0).to_ne_bytes();
    messages.push(libc::RTM_GETADDR, DUMP, "list addresses", &[0, 0, 0, 0, i0, i1, i2, i3], |_| {});
    messages
}

pub(super) fn read(message: &Message<'_>) -> Option<Address> {
    if !matches!(message.kind, libc::RTM_NEWADDR | libc::RTM_DELADDR) {
        return None;
    }
    let [_, prefix, flags, scope, i0, i1, i2, i3] = *message.header::<HEADER>()?;
    let all = message.attributes(HEADER);
    // With another end the address is that end's, and the local one is ours; IPv6 has no other.
    let address = all.get(LOCAL).or_else(|| all.get(ADDRESS))?.ip()?;
    let flags = all.get(FLAGS).and_then(|flags| flags.u32()).unwrap_or_else(|| flags.into());
    Some(Address { index: u32::from_ne_bytes([i0, i1, i2, i3]), address, prefix, flags, scope })
}
