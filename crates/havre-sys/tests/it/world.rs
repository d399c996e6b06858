//! Namespaces with links between them, which vanish with their last descriptor.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use havre_sys::netlink::Route;
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::netlink::link::{Bridge, End, Kind, Peer};
use havre_sys::netlink::table::RouteEntry;
use havre_sys::netns;

/// How long something that must arrive is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace of its own, with the loopback up.
#[derive(Debug)]
pub(crate) struct Place(OwnedFd);

impl Place {
    /// `None`, with the reason told, where it cannot be made.
    pub(crate) fn new() -> Option<Self> {
        if !havre_testkit::is_root() {
            return None;
        }
        let place = match netns::create() {
            Ok(made) => Self(made),
            Err(error) => {
                havre_testkit::skip(&format!("no network namespaces here: {error}"));
                return None;
            }
        };
        place.route().change(|changes| changes.set_up("lo", true)).unwrap();
        Some(place)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn route(&self) -> Route {
        Route::open_in(self.fd()).unwrap()
    }

    /// Does something inside.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send,
    ) -> std::io::Result<T> {
        netns::enter_with(self.fd(), work)
    }

    /// What tc(8) says inside; none where it is not installed.
    pub(crate) fn tc(&self, words: &[&str]) -> Option<String> {
        let said = self.inside(|| std::process::Command::new("tc").args(words).output()).ok()?;
        Some(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// A socket inside, at any port of any address unless told otherwise.
    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// A bridge in `router` with this name and addresses.
pub(crate) fn bridge(router: &Place, name: &str, addresses: &[(&str, u8)]) -> u32 {
    let mut route = router.route();
    route
        .change(|changes| {
            let end = End { name, up: true, ..End::default() };
            changes.create_link(&end, &Kind::Bridge(Bridge::default()))
        })
        .unwrap();
    let index = route.link(name).unwrap().index;
    route
        .change(|changes| {
            addresses.iter().fold(changes, |changes, at| changes.add_address(&at_link(index, at)))
        })
        .unwrap();
    index
}

pub(crate) fn at_link(index: u32, (address, prefix): &(&str, u8)) -> Address {
    let mut address = Address::new(index, address.parse().unwrap(), *prefix);
    if address.address.is_ipv6() {
        address.flags = NO_DAD;
    }
    address
}

/// A pair between the bridge of `router` and `place`, where it is `eth0` with these addresses and gateways.
pub(crate) fn plug(
    router: &Place,
    bridge: u32,
    name: &str,
    place: &Place,
    addresses: &[(&str, u8)],
    gateways: &[&str],
) -> u32 {
    let outside = End { name, master: Some(bridge), up: true, ..End::default() };
    let inside = Peer { name: "eth0", netns: Some(place.fd()), ..Peer::default() };
    router.route().change(|changes| changes.create_link(&outside, &Kind::Veth(inside))).unwrap();
    let mut route = place.route();
    let index = route.link("eth0").unwrap().index;
    route
        .change(|changes| {
            changes.set_up(index, true);
            for at in addresses {
                changes.add_address(&at_link(index, at));
            }
            for gateway in gateways {
                changes.add_route(&RouteEntry::default_via(gateway.parse::<IpAddr>().unwrap()));
            }
            changes
        })
        .unwrap();
    index
}

/// Sends a question to `target` and tells what came back, and from where the other side saw it come.
pub(crate) fn exchange(client: &UdpSocket, server: &UdpSocket, target: &str) -> std::net::SocketAddr {
    client.send_to(b"question", target).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", from).unwrap();
    let (length, back) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
    assert_eq!(back, target.parse().unwrap());
    from
}
