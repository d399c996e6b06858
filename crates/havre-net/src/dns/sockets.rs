//! Where an asker reaches the server: sockets in its namespace, and a table that leads port 53 to them.
//!
//! Invariants: nothing listens at port 53 itself, so that a container may have a name server of its own at all its
//! addresses; the table is changed in one step, so that a question finds the old sockets or the new ones.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};

use havre_sys::netns;
use havre_sys::nft::{Batch, Chain, Family, Field, Hook, Nft, Rule, Table, Value};

use crate::Result;

/// Where the server is, for those who ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const TABLE: Table<'_> = Table { family: Family::Ip, name: "havre_dns" };
const CHAIN: &str = "output";
const PORT: u16 = 53;
/// Between what the container itself may have before and behind (`NF_IP_PRI_NAT_DST`).
const DESTINATIONS: i32 = -100;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The sockets by which one asker is served.
#[derive(Debug)]
pub struct Sockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

impl Sockets {
    /// Opens them in a namespace, and leads there what is sent to [`ADDRESS`]. Those that were there before are not
    /// reached any more.
    pub fn open(namespace: BorrowedFd<'_>) -> Result<Self> {
        let (sockets, nft) = netns::enter_with(namespace, || {
            let udp = UdpSocket::bind((ADDRESS, 0))?;
            let tcp = TcpListener::bind((ADDRESS, 0))?;
            Ok((Self { udp, tcp }, Nft::open()))
        })?;
        let mut batch = Batch::new();
        let output = Chain::nat(CHAIN, Hook::Output, DESTINATIONS);
        batch
            .create_table(TABLE, Some("names of containers"))
            .create_chain(TABLE, &output)
            .flush_chain(TABLE, CHAIN);
        // Answers come back by the connection's own translation.
        for (protocol, port) in
            [(UDP, sockets.udp.local_addr()?.port()), (TCP, sockets.tcp.local_addr()?.port())]
        {
            let rule = Rule::new()
                .is(Field::Destination4, ADDRESS)
                .protocol(protocol)
                .is(Field::DestinationPort, Value::Port(PORT))
                .redirect_to(IpAddr::V4(ADDRESS), Some(port));
            batch.add_rule(TABLE, CHAIN, &rule);
        }
        nft?.apply(batch)?;
        Ok(sockets)
    }

    /// For somebody who keeps them open while nobody serves: questions wait in them meanwhile.
    pub fn keep(&self) -> Result<Vec<OwnedFd>> {
        Ok(vec![self.udp.try_clone()?.into(), self.tcp.try_clone()?.into()])
    }

    /// Those that somebody has kept; none if these are no two such sockets.
    #[must_use]
    pub fn kept(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [udp, tcp] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
        let sockets = Self { udp: udp.into(), tcp: tcp.into() };
        let ours = |address: std::io::Result<std::net::SocketAddr>| {
            address.is_ok_and(|address| address.ip() == IpAddr::V4(ADDRESS))
        };
        (ours(sockets.udp.local_addr()) && ours(sockets.tcp.local_addr())).then_some(sockets)
    }
}
