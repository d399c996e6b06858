//! Networks on real devices, each test in a network namespace that plays the host and vanishes with it.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

mod firewall;
mod guard;
mod host_rules;
mod plugins;
mod vlans;
mod watch;

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use havre_base::ContainerId;
use havre_net::drivers::{self, bridge, parent};
use havre_net::networks::{Endpoint, EndpointSpec, Network, Networks};
use havre_net::pools::{Pool, Pools};
use havre_net::sandbox::{Sandbox, outer_name};
use havre_net::spec::{BlockText, Driver, NetworkSpec, blocks};
use havre_store::Db;
use havre_sys::netlink::Route;
use havre_sys::netns;

/// The host of a test.
struct Host {
    networks: Networks,
    route: Route,
    _folder: tempfile::TempDir,
}

/// Runs a test in a namespace of its own; not without root.
fn on_a_host(test: impl FnOnce(&mut Host) + Send) {
    if !havre_testkit::is_root() {
        return;
    }
    let namespace = netns::create().unwrap();
    let run = || {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let networks = Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap();
        let mut route = Route::open().unwrap();
        route.change(|changes| changes.set_up("lo", true)).unwrap();
        test(&mut Host { networks, route, _folder: folder });
        Ok(())
    };
    netns::enter_with(namespace.as_fd(), run).unwrap();
}

fn spec(name: &str) -> NetworkSpec {
    NetworkSpec {
        name: name.into(),
        driver: Driver::Bridge,
        ipv4: true,
        ipv6: true,
        internal: false,
        attachable: false,
        blocks: Vec::new(),
        options: BTreeMap::new(),
        ipam_options: BTreeMap::new(),
        labels: BTreeMap::new(),
        ..NetworkSpec::default()
    }
}

impl Host {
    /// A sandbox in these networks, joined in this order.
    fn container(&mut self, name: &str, networks: &[EndpointSpec]) -> (Sandbox, Vec<(Network, Endpoint)>) {
        let mut sandbox = Sandbox::create().unwrap();
        let id = ContainerId::random();
        let mut joined = Vec::new();
        for spec in networks {
            let (network, endpoint) = self.networks.join(&id, name, spec.clone()).unwrap();
            if network.spec.driver == Driver::Bridge {
                let bridge = bridge::ensure(&mut self.route, &network).unwrap();
                sandbox.plug(&mut self.route, bridge, &network, &endpoint).unwrap();
            } else {
                let on = parent::ensure(&mut self.route, &network).unwrap();
                let kind = parent::kind(&network, on);
                let name = sandbox.plug_on(&mut self.route, &kind, &network, &endpoint).unwrap();
                sandbox.bring_up(&name, &network, &endpoint).unwrap();
            }
            joined.push((network, endpoint));
        }
        let all: Vec<(&Network, &Endpoint)> =
            joined.iter().map(|(network, endpoint)| (network, endpoint)).collect();
        sandbox.lead_out(&all).unwrap();
        (sandbox, joined)
    }
}

fn asks(network: &str) -> EndpointSpec {
    EndpointSpec { network: network.into(), ..EndpointSpec::default() }
}

fn inside<T: Send>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send) -> T {
    netns::enter_with(sandbox.fd(), || Ok(work())).unwrap()
}

fn udp(sandbox: &Sandbox, address: IpAddr) -> UdpSocket {
    let socket = inside(sandbox, || UdpSocket::bind((address, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

#[test]
fn containers_of_a_network_reach_each_other_by_both_families() {
    on_a_host(|host| {
        host.networks.create(spec("front")).unwrap();
        let (one, first) = host.container("one", &[asks("front")]);
        let (two, second) = host.container("two", &[asks("front")]);
        assert_eq!(first[0].1.addresses.len(), 2);
        for family in 0..2 {
            let (from, to) = (first[0].1.addresses[family].addr(), second[0].1.addresses[family].addr());
            let (client, server) = (udp(&one, from), udp(&two, to));
            client.send_to(b"question", server.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            let (length, seen) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], seen.ip()), (&b"question"[..], from));
        }
        // The loopback works too.
        let own = udp(&one, "127.0.0.1".parse().unwrap());
        own.send_to(b"x", own.local_addr().unwrap()).unwrap();
        assert_eq!(own.recv_from(&mut [0; 4]).unwrap().0, 1);
    });
}

#[test]
fn a_bridge_is_made_once_mended_and_removed() {
    on_a_host(|host| {
        let (network, _) = host.networks.create(spec("front")).unwrap();
        let index = bridge::ensure(&mut host.route, &network).unwrap();
        assert_eq!(bridge::ensure(&mut host.route, &network).unwrap(), index);
        let link = host.route.link(network.bridge.as_str()).unwrap();
        assert!(link.is_up() && link.kind.as_deref() == Some("bridge"), "{link:?}");
        let wanted = bridge::addresses(&network);
        let there = |host: &mut Host| {
            let mut there: Vec<(IpAddr, u8)> = host
                .route
                .addresses(Some(index))
                .unwrap()
                .iter()
                .map(|one| (one.address, one.prefix))
                .collect();
            there.retain(|(address, _)| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
            there
        };
        assert_eq!((there(host), wanted.len()), (wanted.clone(), 2));
        // Somebody takes an address away and the bridge down.
        let own = host.route.addresses(Some(index)).unwrap();
        let v4 = own.into_iter().find(|one| one.address.is_ipv4()).unwrap();
        host.route.change(|changes| changes.delete_address(&v4).set_up(index, false)).unwrap();
        bridge::ensure(&mut host.route, &network).unwrap();
        let mut mended = there(host);
        mended.sort();
        let mut sorted = wanted;
        sorted.sort();
        assert_eq!(mended, sorted);
        let accepts =
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", network.bridge));
        assert_eq!(accepts.unwrap().trim(), "0");
        bridge::remove(&mut host.route, &network).unwrap();
        bridge::remove(&mut host.route, &network).unwrap();
        assert!(host.route.link(network.bridge.as_str()).is_err());
    });
}

#[test]
fn n15_devices_of_others_are_neither_used_nor_removed() {
    use havre_sys::netlink::link::{Bridge, End, Kind};
    on_a_host(|host| {
        let (network, _) = host.networks.create(spec("front")).unwrap();
        // A pair of somebody else has the name.
        let end = End { name: &network.bridge, ..End::default() };
        let peer = havre_sys::netlink::link::Peer { name: "other", ..Default::default() };
        host.route.change(|changes| changes.create_link(&end, &Kind::Veth(peer))).unwrap();
        let error = bridge::ensure(&mut host.route, &network).unwrap_err().to_string();
        assert!(error.contains("is no bridge") && error.contains(&network.bridge), "{error}");
        bridge::remove(&mut host.route, &network).unwrap();
        assert!(host.route.link("other").is_ok());
        // Another engine's bridge.
        let (back, _) = host.networks.create(spec("back")).unwrap();
        let end = End { name: &back.bridge, ..End::default() };
        let alias = format!("havre network {}", network.id);
        host.route
            .change(|changes| {
                changes
                    .create_link(&end, &Kind::Bridge(Bridge::default()))
                    .set_alias(back.bridge.as_str(), &alias)
            })
            .unwrap();
        let error = bridge::ensure(&mut host.route, &back).unwrap_err().to_string();
        assert!(error.contains("another engine"), "{error}");
        // Bridges of networks that are gone go, those without our mark stay.
        let end = End { name: "stranger", ..End::default() };
        host.route.change(|changes| changes.create_link(&end, &Kind::Bridge(Bridge::default()))).unwrap();
        host.networks.remove("front").unwrap();
        drivers::sweep(&mut host.route, &host.networks.list()).unwrap();
        assert!(host.route.link(back.bridge.as_str()).is_err());
        assert!(host.route.link("stranger").is_ok() && host.route.link("other").is_ok());
    });
}

#[test]
fn the_way_out_is_that_of_the_first_network_unless_priorities_say_otherwise() {
    on_a_host(|host| {
        for (name, subnet, internal) in
            [("a", "198.18.1.0/24", false), ("b", "198.18.2.0/24", false), ("c", "198.18.3.0/24", true)]
        {
            let text = BlockText { subnet: subnet.into(), ..BlockText::default() };
            let blocks = blocks(&[text]).unwrap();
            host.networks.create(NetworkSpec { blocks, internal, ipv6: false, ..spec(name) }).unwrap();
        }
        let out = |sandbox: &Sandbox| {
            let mut route = Route::open_in(sandbox.fd()).unwrap();
            let defaults: Vec<IpAddr> = route
                .routes()
                .unwrap()
                .into_iter()
                .filter(|route| route.is_default())
                .filter_map(|route| route.gateway)
                .collect();
            defaults
        };
        let (both, _) = host.container("both", &[asks("b"), asks("a")]);
        assert_eq!(out(&both), ["198.18.1.1".parse::<IpAddr>().unwrap()]);
        let first = EndpointSpec { priority: 1, ..asks("b") };
        let (chosen, _) = host.container("chosen", &[asks("a"), first]);
        assert_eq!(out(&chosen), ["198.18.2.1".parse::<IpAddr>().unwrap()]);
        let (within, joined) = host.container("within", &[asks("c")]);
        assert!(out(&within).is_empty(), "an internal network leads nowhere");
        // A network that is left is no way any more.
        let (mut moved, joined_both) = host.container("moved", &[asks("a"), asks("b")]);
        moved.unplug(&joined_both[0].1).unwrap();
        moved.unplug(&joined_both[0].1).unwrap();
        let left: Vec<(&Network, &Endpoint)> =
            joined_both.iter().skip(1).map(|(network, endpoint)| (network, endpoint)).collect();
        moved.lead_out(&left).unwrap();
        assert_eq!(out(&moved), ["198.18.2.1".parse::<IpAddr>().unwrap()]);
        // The host's end goes with the sandbox.
        let outer = outer_name(&joined[0].1);
        assert!(host.route.link(outer.as_str()).is_ok());
        drop(within);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while host.route.link(outer.as_str()).is_ok() {
            assert!(std::time::Instant::now() < end, "{outer} stays");
            std::thread::yield_now();
        }
    });
}

#[test]
fn what_could_not_be_joined_leaves_no_place() {
    use havre_net::fabric::{Fabric, FabricSpec};
    on_a_host(|host| {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let networks = Arc::new(Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap());
        let spec_of = FabricSpec {
            table: Some("havre-test".into()),
            by_input: false,
            mark: folder.path().join("forwarding"),
        };
        let fabric = Fabric::open(Arc::clone(&networks), &spec_of).unwrap();
        fabric.restore(&|_| false);
        let devices = |host: &mut Host| host.route.links().unwrap().len();
        // The loopback: the default bridge waits for its first container.
        assert_eq!(devices(host), 1);
        let (front, _) = fabric.create(spec("front")).unwrap();
        assert_eq!(devices(host), 2);
        let container = ContainerId::random();
        let error = fabric.connect(&container, "c", &[asks("front"), asks("none-such")], &[]).unwrap_err();
        assert!(error.to_string().contains("network none-such not found"), "{error}");
        assert!(networks.of_container(&container).is_empty());
        let connected = fabric.connect(&container, "c", &[asks("front"), asks("bridge")], &[]).unwrap();
        let addresses: Vec<String> =
            connected.endpoints.iter().map(|endpoint| endpoint.addresses[0].to_string()).collect();
        assert_eq!(addresses, ["198.18.1.2/24", "198.18.0.2/24"]);
        assert!(fabric.remove("front").is_err());
        // A second start of the same container finds the first one's places given back.
        let again = fabric.connect(&container, "c", &[asks("front")], &[]).unwrap();
        assert_eq!(again.endpoints[0].addresses[0].to_string(), "198.18.1.2/24");
        fabric.close();
        assert!(host.route.link(front.bridge.as_str()).is_ok(), "somebody is at it");
        fabric.disconnect(&container);
        fabric.remove("front").unwrap();
        fabric.close();
        drop((connected, again));
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while devices(host) > 1 {
            assert!(std::time::Instant::now() < end, "{:?}", host.route.links());
            std::thread::yield_now();
        }
    });
}

#[test]
fn the_default_network_gives_way_to_what_the_host_has_when_it_is_made() {
    use havre_net::fabric::{Fabric, FabricSpec};
    use havre_sys::netlink::address::Address;
    use havre_sys::netlink::link::{End, Kind};
    on_a_host(|host| {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let networks = Arc::new(Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap());
        let mark = folder.path().join("forwarding");
        let spec_of = FabricSpec { table: Some("havre-test".into()), by_input: false, mark };
        let fabric = Fabric::open(Arc::clone(&networks), &spec_of).unwrap();
        fabric.restore(&|_| false);
        let at = |networks: &Networks| networks.find("bridge").unwrap().blocks[0].subnet.unwrap().to_string();
        assert_eq!(at(&networks), "198.18.0.0/24");
        // Another engine comes to use the same.
        let end = End { name: "other0", up: true, ..End::default() };
        host.route.change(|changes| changes.create_link(&end, &Kind::Bridge(Default::default()))).unwrap();
        let other = Address::new(host.route.link("other0").unwrap().index, "198.18.0.1".parse().unwrap(), 24);
        host.route.change(|changes| changes.add_address(&other)).unwrap();
        let container = ContainerId::random();
        let connected = fabric.connect(&container, "c", &[asks("bridge")], &[]).unwrap();
        assert_eq!(connected.endpoints[0].addresses[0].to_string(), "198.18.1.2/24");
        // From then on it stays.
        fabric.disconnect(&container);
        fabric.connect(&container, "c", &[asks("bridge")], &[]).unwrap();
        assert_eq!(at(&networks), "198.18.1.0/24");
        fabric.disconnect(&container);
        fabric.close();
    });
}

#[test]
fn whoever_gets_an_address_does_not_share_it_with_who_had_it() {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use havre_net::fabric::{Fabric, FabricSpec};
    on_a_host(|_| {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let networks = Arc::new(Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap());
        let mark = folder.path().join("forwarding");
        let spec_of = FabricSpec { table: Some("havre-test".into()), mark, by_input: false };
        let fabric = Fabric::open(Arc::clone(&networks), &spec_of).unwrap();
        let serve = |text: &'static str| {
            let id = ContainerId::random();
            let connected = fabric.connect(&id, text, &[asks("bridge")], &[]).unwrap();
            let at = connected.endpoints[0].addresses[0].addr();
            let listener =
                netns::enter_with(connected.namespace.as_fd(), || TcpListener::bind((at, 80))).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    stream.unwrap().write_all(text.as_bytes()).unwrap();
                }
            });
            (id, at, connected)
        };
        let said = |at| {
            let mut stream = std::net::TcpStream::connect((at, 80)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let (first, at, _its_namespace_stays) = serve("first");
        assert_eq!(said(at), "first");
        fabric.disconnect(&first);
        let (second, same, _connected) = serve("second");
        assert_eq!(at, same);
        for _ in 0..20 {
            assert_eq!(said(at), "second");
        }
        fabric.disconnect(&second);
    });
}

#[test]
fn n14_forwarding_leaves_the_hosts_way_out() {
    use havre_net::fabric::{Fabric, FabricSpec};
    use havre_sys::netlink::link::{End, Kind, Peer};
    on_a_host(|host| {
        let end = End { name: "up0", up: true, ..End::default() };
        host.route
            .change(|changes| changes.create_link(&end, &Kind::Veth(Peer { name: "up1", ..Peer::default() })))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let only4 = NetworkSpec { ipv6: false, ..spec("bridge") };
        let networks = Arc::new(Networks::open(db, Pools::new(vec![pool], [1; 5]), &only4).unwrap());
        let spec_of = FabricSpec {
            table: Some("havre-test".into()),
            by_input: false,
            mark: folder.path().join("forwarding"),
        };
        let fabric = Fabric::open(networks, &spec_of).unwrap();
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned();
        assert_eq!(read("ipv6/conf/up0/accept_ra"), "1");
        // A new namespace has what the machine has.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        fabric.restore(&|_| false);
        assert_eq!(read("ipv4/ip_forward"), "0", "nothing without a network that is used");
        fabric.create(NetworkSpec { ipv6: false, ..spec("four") }).unwrap();
        assert_eq!((read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding")), ("1".into(), "0".into()));
        fabric.create(spec("six")).unwrap();
        assert_eq!(read("ipv6/conf/all/forwarding"), "1");
        assert_eq!(read("ipv6/conf/up0/accept_ra"), "2", "the host goes on listening to its routers");
    });
}
