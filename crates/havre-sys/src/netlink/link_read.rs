//! Links as the kernel describes them.

use super::link::{Counters, Link, LinkRef};
use super::message::{DUMP, Message, Messages};
use super::port::Port;

/// Length of `struct ifinfomsg`.
pub(super) const HEADER: usize = 16;

/// `struct ifinfomsg`: which link, and which flags are set to what.
pub(super) fn header(index: u32, flags: u32, change: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The request for one link or all.
pub(super) fn request(link: Option<LinkRef<'_>>) -> Messages {
    let mut messages = Messages::new();
    match link {
        None => messages.push(libc::RTM_GETLINK, DUMP, "list links", &header(0, 0, 0), |_| {}),
        Some(LinkRef::Index(index)) => messages.push(
            libc::RTM_GETLINK,
            0,
            format!("look at link number {index}"),
            &header(index, 0, 0),
            |_| {},
        ),
        Some(LinkRef::Name(name)) => {
            let what = format!("look at link {name}");
            messages.push(libc::RTM_GETLINK, 0, what, &header(0, 0, 0), |writer| {
                writer.text(libc::IFLA_IFNAME, name);
            })
        }
    };
    messages
}

/// A link out of a message.
pub(super) fn read(message: &Message<'_>) -> Option<Link> {
    if !matches!(message.kind, libc::RTM_NEWLINK | libc::RTM_DELLINK) {
        return None;
    }
    let [family, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *message.header::<HEADER>()?;
    // Bridges send messages of their own about their ports, which say less.
    if family != 0 {
        return None;
    }
    let all = message.attributes(HEADER);
    let number = |kind| all.get(kind).and_then(|value| value.u32());
    let text = |kind| all.get(kind).and_then(|value| value.text()).map(str::to_owned);
    let info = all.inside(libc::IFLA_LINKINFO);
    let is_port = info.get(libc::IFLA_INFO_SLAVE_KIND).and_then(|kind| kind.text()) == Some("bridge");
    Some(Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: text(libc::IFLA_IFNAME)?,
        kind: info.get(libc::IFLA_INFO_KIND).and_then(|kind| kind.text()).map(str::to_owned),
        mac: all.get(libc::IFLA_ADDRESS).and_then(|mac| mac.value.try_into().ok()),
        mtu: number(libc::IFLA_MTU).unwrap_or(0),
        flags: u32::from_ne_bytes([f0, f1, f2, f3]),
        operstate: all.get(libc::IFLA_OPERSTATE).and_then(|state| state.u8()).unwrap_or(0),
        master: number(libc::IFLA_MASTER).filter(|index| *index != 0),
        peer: number(libc::IFLA_LINK).filter(|index| *index != 0),
        peer_netns: all.get(libc::IFLA_LINK_NETNSID).and_then(|id| id.i32()),
        alias: text(libc::IFLA_IFALIAS).filter(|alias| !alias.is_empty()),
        port: is_port.then(|| Port::read(info.inside(libc::IFLA_INFO_SLAVE_DATA))),
        counters: all.get(libc::IFLA_STATS64).map(|stats| counters(stats.value)).unwrap_or_default(),
    })
}

/// The first eight numbers of `struct rtnl_link_stats64`.
fn counters(value: &[u8]) -> Counters {
    let mut numbers =
        value.chunks_exact(8).map(|chunk| chunk.try_into().map(u64::from_ne_bytes).unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    Counters {
        rx_packets: next(),
        tx_packets: next(),
        rx_bytes: next(),
        tx_bytes: next(),
        rx_errors: next(),
        tx_errors: next(),
        rx_dropped: next(),
        tx_dropped: next(),
    }
}
