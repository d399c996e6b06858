//! Connections that the kernel follows: listed, and forgotten.
//!
//! A connection keeps going where its first packet was sent, also when the rule that sent it there is gone:
//! who takes a published port away, or gives it to another container, has the kernel forget them.
//!
//! Invariant: when [`Connections::forget`] returns, no connection that was there before and is wanted forgotten
//! is there any more. Source: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::net::netlink::NETFILTER;

use crate::netlink::attribute::{Attribute, Attributes, NESTED};
use crate::netlink::message::{DUMP, Message, Messages};
use crate::netlink::socket::Socket;
use crate::netlink::{NetlinkError, Result};

/// `NFNL_SUBSYS_CTNETLINK << 8`, and messages within.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// How many are forgotten in one call.
const TOGETHER: usize = 1_000;
/// How often is looked again for what came meanwhile.
const ATTEMPTS: usize = 8;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// From which port; none where the protocol has no ports.
    pub source_port: Option<u16>,
    /// To which port; none where the protocol has no ports.
    pub destination_port: Option<u16>,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its transport protocol (`IPPROTO_*`).
    pub protocol: u8,
    /// As its first packet came in.
    pub original: Direction,
    /// As an answer comes in: where addresses were translated, from where it really went.
    pub reply: Direction,
    /// `IPS_*`.
    pub status: u32,
    /// Its mark.
    pub mark: u32,
    family: u8,
    /// What tells it from others, as the kernel wrote it.
    name: Vec<(u16, Vec<u8>)>,
}

/// The connections that one network namespace follows.
#[derive(Debug)]
pub struct Connections(Socket);

impl Connections {
    /// Of the caller's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self(Socket::open(Some(NETFILTER))?))
    }

    /// Of the namespace `netns`. A thread enters it for as long as opening takes.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        let opened = crate::netns::enter_with(netns, || Ok(Self::open()));
        opened.map_err(NetlinkError::io("enter a network namespace"))?
    }

    /// All connections, or those that are `wanted`.
    pub fn list(&mut self, wanted: impl Fn(&Connection) -> bool) -> Result<Vec<Connection>> {
        let mut request = Messages::new();
        request.push(GET, DUMP, "list connections", &[0; HEADER], |_| {});
        self.0.list(&mut request, |message| read(message).filter(&wanted))
    }

    /// Forgets the connections that are `wanted`, and tells how many. Their next packet is that of a new one.
    pub fn forget(&mut self, wanted: impl Fn(&Connection) -> bool) -> Result<usize> {
        let mut forgotten = 0;
        for _ in 0..ATTEMPTS {
            let found = self.list(&wanted)?;
            if found.is_empty() {
                break;
            }
            for some in found.chunks(TOGETHER) {
                let mut messages = Messages::new();
                for connection in some {
                    let header = [connection.family, 0, 0, 0];
                    messages.push(DELETE, 0, "forget a connection", &header, |writer| {
                        for (kind, value) in &connection.name {
                            writer.bytes(*kind, value);
                        }
                    });
                }
                match self.0.transact(&mut messages, |_| {}) {
                    // It ended by itself; what else failed is found by looking again.
                    Err(error) if error.is_absent() => {}
                    other => other?,
                }
                forgotten += some.len();
            }
        }
        Ok(forgotten)
    }
}

fn read(message: &Message<'_>) -> Option<Connection> {
    if message.kind != NEW {
        return None;
    }
    let all = message.attributes(HEADER);
    let number = |kind| all.get(kind).and_then(Attribute::u32_be).unwrap_or(0);
    let name = [(ORIGINAL, NESTED), (ID, 0), (ZONE, 0)]
        .into_iter()
        .filter_map(|(kind, nested)| Some((kind | nested, all.get(kind)?.value.to_vec())))
        .collect();
    Some(Connection {
        protocol: all.inside(ORIGINAL).inside(2).get(1)?.u8()?,
        original: direction(all.inside(ORIGINAL))?,
        reply: direction(all.inside(REPLY))?,
        status: number(STATUS),
        mark: number(MARK),
        family: message.header::<HEADER>()?[0],
        name,
    })
}

fn direction(all: Attributes<'_>) -> Option<Direction> {
    let (addresses, ports) = (all.inside(1), all.inside(2));
    let address = |v4, v6| addresses.get(v4).or_else(|| addresses.get(v6))?.ip();
    let port = |kind| ports.get(kind)?.u16_be();
    Some(Direction {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        source_port: port(2),
        destination_port: port(3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute::tests::noise;

    #[test]
    fn hostile_messages_are_passed_over() {
        for seed in 0..4_000_u64 {
            let payload = noise(seed, usize::try_from(seed % 200).unwrap());
            let message = Message { kind: NEW, flags: 0, number: 1, port: 1, payload: &payload };
            let _seen = read(&message);
        }
    }
}
