//! What a container says that is not true of it, and who hears it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use havre_base::ContainerId;
use havre_net::fabric::Fabric;
use havre_net::networks::{Endpoint, EndpointSpec};
use havre_net::sandbox::Sandbox;
use havre_net::spec::NetworkSpec;
use havre_sys::netlink::Route;
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::nft::{Family, Nft, Table};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::firewall::PATIENCE;
use crate::watch::{TABLE, Watched, until};
use crate::{asks, inside, on_a_host, spec};

const SILENCE: Duration = Duration::from_millis(300);
const GUARD: Table<'_> = Table { family: Family::Bridge, name: TABLE.name };
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A container, its place and its id.
struct Guest {
    sandbox: Sandbox,
    place: Endpoint,
    id: ContainerId,
}

impl Guest {
    fn join(fabric: &Fabric, spec: EndpointSpec) -> Self {
        let id = ContainerId::random();
        let mut connected = fabric.connect(&id, "c", &[spec], &[]).unwrap();
        let place = connected.endpoints.pop().unwrap();
        Self { sandbox: Sandbox::of(connected.namespace).unwrap(), place, id }
    }

    fn address(&self, ipv6: bool) -> IpAddr {
        self.place.addresses.iter().map(|net| net.addr()).find(|ip| ip.is_ipv6() == ipv6).unwrap()
    }

    fn udp(&self, at: IpAddr, port: u16) -> UdpSocket {
        let socket = inside(&self.sandbox, || UdpSocket::bind((at, port))).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket
    }

    fn route(&self) -> Route {
        Route::open_in(self.sandbox.fd()).unwrap()
    }

    fn index(&self) -> u32 {
        self.route().link("eth0").unwrap().index
    }

    /// Takes an address of somebody else.
    fn take(&self, address: IpAddr) {
        let mut address = Address::new(self.index(), address, if address.is_ipv4() { 32 } else { 128 });
        if address.address.is_ipv6() {
            address.flags = NO_DAD;
        }
        self.route().change(|changes| changes.add_address(&address)).unwrap();
    }

    fn icmp6(&self) -> OwnedFd {
        let socket = inside(&self.sandbox, || {
            let flags = SocketFlags::CLOEXEC;
            rustix::net::socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))
                .unwrap()
        });
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(SILENCE)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        socket
    }

    /// Sends a message to all of the link.
    fn says(&self, message: &[u8]) {
        let to = SocketAddrV6::new(ALL_NODES, 0, 0, self.index());
        rustix::net::sendto(self.icmp6(), message, SendFlags::empty(), &to).unwrap();
    }
}

/// Whether a message that begins like this is heard.
fn hears(socket: &OwnedFd, beginning: &[u8]) -> bool {
    let mut buffer = [0; 1500];
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) if buffer[..length].starts_with(beginning) => return true,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return false;
            }
        }
    }
}

/// Whether a datagram arrives from this address.
fn arrives(at: &UdpSocket, from: IpAddr) -> bool {
    let mut buffer = [0; 64];
    loop {
        match at.recv_from(&mut buffer) {
            Ok((_, seen)) if seen.ip() == from => return true,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return false;
            }
        }
    }
}

/// Which of the attacks succeed in a network with or without the guard.
fn attacks(fabric: &Fabric, network: &str) -> Vec<&'static str> {
    let (victim, evil, third) = (
        Guest::join(fabric, asks(network)),
        Guest::join(fabric, asks(network)),
        Guest::join(fabric, asks(network)),
    );
    let mut succeeded = Vec::new();
    let ears = victim.icmp6();
    // What is true is heard first, by both families.
    for ipv6 in [false, true] {
        let at = victim.udp(victim.address(ipv6), 5000);
        at.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = evil.udp(evil.address(ipv6), 0);
        from.send_to(b"x", at.local_addr().unwrap()).unwrap();
        assert!(arrives(&at, evil.address(ipv6)));
    }
    let advertisement = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    evil.says(&advertisement);
    if hears(&ears, &[134]) {
        succeeded.push("n05 router advertisement");
    }
    let IpAddr::V6(of_third) = third.address(true) else { unreachable!() };
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0], &of_third.octets()[..], &of_third.octets()[..]].concat();
    evil.says(&redirect);
    if hears(&ears, &[137]) {
        succeeded.push("redirect");
    }
    let lie = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &of_third.octets()[..], &[2, 1], &evil.place.mac[..]].concat();
    evil.says(&lie);
    if hears(&ears, &[136]) {
        succeeded.push("neighbour advertisement");
    }
    // An answer of a DHCP server.
    let at = victim.udp("0.0.0.0".parse().unwrap(), 68);
    evil.udp(evil.address(false), 67).send_to(b"offer", "198.18.255.255:68").unwrap_or(0);
    evil.udp(evil.address(false), 67).send_to(b"offer", (victim.address(false), 68)).unwrap();
    if arrives(&at, evil.address(false)) {
        succeeded.push("dhcp");
    }
    // Addresses of somebody else, which begins with ARP or a neighbour's question.
    for (ipv6, name) in [(false, "ipv4"), (true, "ipv6")] {
        let at = victim.udp(victim.address(ipv6), 5001);
        evil.take(third.address(ipv6));
        evil.route().change(|changes| changes.delete_neighbour(evil.index(), victim.address(ipv6))).unwrap();
        evil.udp(third.address(ipv6), 0).send_to(b"x", at.local_addr().unwrap()).unwrap();
        if arrives(&at, third.address(ipv6)) {
            succeeded.push(name);
        }
        let mut route = victim.route();
        let known = route.neighbours(None).unwrap();
        if known.iter().any(|one| one.address == third.address(ipv6) && one.mac == Some(evil.place.mac)) {
            succeeded.push(if ipv6 { "neighbour discovery" } else { "arp" });
        }
    }
    // Another hardware address.
    let mut route = evil.route();
    let at = victim.udp(victim.address(false), 5002);
    route.change(|changes| changes.set_mac(evil.index(), [2, 0, 0, 0, 0, 9])).unwrap();
    evil.udp(evil.address(false), 0).send_to(b"x", at.local_addr().unwrap()).unwrap();
    if arrives(&at, evil.address(false)) {
        succeeded.push("hardware address");
    }
    for one in [&victim, &evil, &third] {
        fabric.disconnect(&one.id);
    }
    succeeded
}

#[test]
fn n05_n06_containers_are_not_heard_when_they_pretend_to_be_somebody_else() {
    on_a_host(|_| {
        let watched = Watched::open(false);
        let fabric = &watched.fabric;
        fabric.create(spec("safe")).unwrap();
        let options = [("havre.guard".to_owned(), "off".to_owned())].into();
        fabric.create(NetworkSpec { options, ..spec("open") }).unwrap();
        assert_eq!(attacks(fabric, "safe"), Vec::<&str>::new());
        // The same is heard where the administrator wants it to be, so that it was the guard that dropped it.
        let all = [
            "n05 router advertisement",
            "redirect",
            "neighbour advertisement",
            "dhcp",
            "ipv4",
            "arp",
            "ipv6",
            "neighbour discovery",
            "hardware address",
        ];
        assert_eq!(attacks(fabric, "open"), all);
    });
}

#[test]
fn n03_the_guard_has_a_fixed_number_of_rules_and_goes_and_comes_with_the_places() {
    on_a_host(|_| {
        let watched = Watched::open(false);
        let fabric = &watched.fabric;
        fabric.create(spec("front")).unwrap();
        let own =
            EndpointSpec { options: [("havre.guard".to_owned(), "off".to_owned())].into(), ..asks("front") };
        let bad =
            EndpointSpec { options: [("havre.guard".to_owned(), "of".to_owned())].into(), ..asks("front") };
        let error = fabric.connect(&ContainerId::random(), "c", &[bad], &[]).unwrap_err().to_string();
        assert!(error.contains("havre.guard") && error.contains("\"of\""), "{error}");
        let mut nft = Nft::open().unwrap();
        let free = Guest::join(fabric, own);
        assert!(nft.rules(GUARD).unwrap().is_empty());
        let one = Guest::join(fabric, asks("front"));
        let rules = nft.rules(GUARD).unwrap().len();
        let two = Guest::join(fabric, asks("front"));
        assert!(rules > 10 && nft.rules(GUARD).unwrap().len() == rules);
        let links = |nft: &mut Nft| nft.elements(GUARD, "links").unwrap().len();
        assert_eq!((links(&mut nft), nft.elements(GUARD, "addresses6").unwrap().len()), (2, 4));
        // Somebody else removes it.
        let mut batch = havre_sys::nft::Batch::new();
        batch.delete_table(GUARD);
        nft.apply(batch).unwrap();
        until("it is there again", || Nft::open().unwrap().rules(GUARD).unwrap().len() == rules);
        // A container that leaves while the other one runs.
        fabric.disconnect(&one.id);
        assert_eq!(links(&mut nft), 1);
        // Only what is true of its own place counts, after all that.
        let at = two.udp(two.address(false), 5000);
        let from = free.udp(free.address(false), 0);
        from.send_to(b"x", at.local_addr().unwrap()).unwrap();
        assert!(arrives(&at, free.address(false)));
        from.send_to(b"x", SocketAddr::new(two.address(false), 5000)).unwrap();
        fabric.disconnect(&two.id);
        fabric.disconnect(&free.id);
        fabric.remove("front").unwrap();
        assert!(nft.tables().unwrap().is_empty());
    });
}
