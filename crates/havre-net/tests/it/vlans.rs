//! macvlan and ipvlan on a cable whose other end is a router in a namespace of its own.

use std::os::fd::AsFd as _;

use havre_net::fabric::{Fabric, FabricSpec};
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::netlink::link::{Bridge, End, Kind, Peer};

use super::*;

/// What is at the other end of `wire0`; it has the first address of both subnets.
struct Router {
    sandbox: Sandbox,
}

const V4: &str = "10.81.0.0/24";
const V6: &str = "fd81::/64";

fn router(host: &mut Host) -> Router {
    let sandbox = Sandbox::create().unwrap();
    let peer = Peer { name: "far", netns: Some(sandbox.fd()), ..Peer::default() };
    let near = End { name: "wire0", up: true, ..End::default() };
    host.route.change(|changes| changes.create_link(&near, &Kind::Veth(peer))).unwrap();
    let mut route = Route::open_in(sandbox.fd()).unwrap();
    let index = route.link("far").unwrap().index;
    let mut six = Address::new(index, "fd81::1".parse().unwrap(), 64);
    six.flags = NO_DAD;
    route
        .change(|changes| {
            changes
                .add_address(&Address::new(index, "10.81.0.1".parse().unwrap(), 24))
                .add_address(&six)
                .set_up(index, true)
        })
        .unwrap();
    Router { sandbox }
}

fn vlan(name: &str, driver: Driver, options: &[(&str, &str)]) -> NetworkSpec {
    let text = |subnet: &str| BlockText { subnet: subnet.into(), ..BlockText::default() };
    let mut blocks = blocks(&[text(V4), text(V6)]).unwrap();
    blocks[0].auxiliary.insert("printer".into(), "10.81.0.2".parse().unwrap());
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    NetworkSpec { driver, blocks, options, ..spec(name) }
}

fn address_of(joined: &[(Network, Endpoint)], family: usize) -> IpAddr {
    joined[0].1.addresses[family].addr()
}

/// What arrives first at a socket, and from whom.
fn first(socket: &UdpSocket) -> (Vec<u8>, IpAddr) {
    let mut buffer = [0; 32];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from.ip())
}

#[test]
fn containers_on_a_parent_reach_each_other_and_the_router_but_not_the_host() {
    on_a_host(|host| {
        let router = router(host);
        host.route
            .change(|changes| changes.add_address(&Address::new(wire(), "10.81.0.200".parse().unwrap(), 24)))
            .unwrap();
        host.networks.create(vlan("lan", Driver::Macvlan, &[("parent", "wire0")])).unwrap();
        let (one, first_of) = host.container("one", &[asks("lan")]);
        let (two, second_of) = host.container("two", &[asks("lan")]);
        // The gateway and the printer have theirs.
        assert_eq!(address_of(&first_of, 0), "10.81.0.3".parse::<IpAddr>().unwrap());
        for family in 0..2 {
            let (from, to) = (address_of(&first_of, family), address_of(&second_of, family));
            let (client, server) = (udp(&one, from), udp(&two, to));
            client.send_to(b"question", server.local_addr().unwrap()).unwrap();
            assert_eq!(first(&server), (b"question".to_vec(), from));
            let gateway: IpAddr = if family == 0 { "10.81.0.1" } else { "fd81::1" }.parse().unwrap();
            let outside = udp(&router.sandbox, gateway);
            client.send_to(b"out", outside.local_addr().unwrap()).unwrap();
            assert_eq!(first(&outside), (b"out".to_vec(), from));
            // Somewhere behind it.
            let mut route = Route::open_in(two.fd()).unwrap();
            let far = if family == 0 { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
            assert_eq!(route.route_to(far).unwrap().gateway, Some(gateway));
        }
        // What the host listens for is not reached: the neighbour that answers the second one had time for both.
        let own = UdpSocket::bind("10.81.0.200:0").unwrap();
        own.set_nonblocking(true).unwrap();
        let (client, server) = (udp(&one, address_of(&first_of, 0)), udp(&two, address_of(&second_of, 0)));
        client.send_to(b"host", own.local_addr().unwrap()).unwrap();
        client.send_to(b"two", server.local_addr().unwrap()).unwrap();
        assert_eq!(first(&server).0, b"two");
        assert!(own.recv(&mut [0; 8]).is_err());
    });
}

/// The number of the cable's near end in the calling thread's namespace.
fn wire() -> u32 {
    Route::open().unwrap().link("wire0").unwrap().index
}

#[test]
fn private_containers_reach_the_router_only() {
    on_a_host(|host| {
        let router = router(host);
        let private = [("parent", "wire0"), ("macvlan_mode", "private")];
        host.networks.create(vlan("lan", Driver::Macvlan, &private)).unwrap();
        let (one, first_of) = host.container("one", &[asks("lan")]);
        let (two, second_of) = host.container("two", &[asks("lan")]);
        let outside = udp(&router.sandbox, "10.81.0.1".parse().unwrap());
        let (client, server) = (udp(&one, address_of(&first_of, 0)), udp(&two, address_of(&second_of, 0)));
        server.send_to(b"here", outside.local_addr().unwrap()).unwrap();
        assert_eq!(first(&outside).0, b"here");
        // The kernel asks for the neighbour and gives up; the router is answered.
        client.send_to(b"neighbour", server.local_addr().unwrap()).unwrap();
        client.send_to(b"out", outside.local_addr().unwrap()).unwrap();
        assert_eq!(first(&outside).0, b"out");
        outside.send_to(b"router", server.local_addr().unwrap()).unwrap();
        assert_eq!(first(&server).0, b"router");
    });
}

#[test]
fn networks_without_a_parent_lead_nowhere_and_leave_nothing() {
    on_a_host(|host| {
        host.networks.create(vlan("inner", Driver::Macvlan, &[])).unwrap();
        let network = host.networks.find("inner").unwrap();
        assert_eq!((network.leads_out(), network.blocks[0].gateway), (false, None));
        let (one, first_of) = host.container("one", &[asks("inner")]);
        let (two, second_of) = host.container("two", &[asks("inner")]);
        assert_eq!(address_of(&first_of, 0), "10.81.0.1".parse::<IpAddr>().unwrap());
        for family in 0..2 {
            let (from, to) = (address_of(&first_of, family), address_of(&second_of, family));
            let (client, server) = (udp(&one, from), udp(&two, to));
            client.send_to(b"question", server.local_addr().unwrap()).unwrap();
            assert_eq!(first(&server), (b"question".to_vec(), from));
        }
        let mut route = Route::open_in(one.fd()).unwrap();
        assert!(route.routes().unwrap().iter().all(|route| !route.is_default()));
        let own = parent::name(&network);
        assert!(host.route.link(own.as_str()).unwrap().is_up());
        drivers::remove(&mut host.route, &network, &[]).unwrap();
        assert!(host.route.link(own.as_str()).unwrap_err().is_absent());
        drivers::remove(&mut host.route, &network, &[]).unwrap();
        // As after a crash between record and device.
        parent::ensure(&mut host.route, &network).unwrap();
        drivers::sweep(&mut host.route, &[]).unwrap();
        assert!(host.route.link(own.as_str()).unwrap_err().is_absent());
    });
}

#[test]
fn an_address_is_one_containers_and_free_again_when_it_has_ended() {
    on_a_host(|host| {
        let _router = router(host);
        let (fabric, _folder) = fabric();
        fabric.create(vlan("lan", Driver::Macvlan, &[("parent", "wire0")])).unwrap();
        let asked = EndpointSpec { mac: Some([2, 0, 0, 0, 0, 7]), ..asks("lan") };
        let (one, two) = (ContainerId::random(), ContainerId::random());
        for _ in 0..3 {
            let connected = fabric.connect(&one, "one", std::slice::from_ref(&asked), &[]).unwrap();
            let error = fabric.connect(&two, "two", std::slice::from_ref(&asked), &[]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "container one has the hardware address 02:00:00:00:00:07 on the parent wire0 already"
            );
            // The namespace goes behind this.
            drop(connected);
            fabric.disconnect(&one);
        }
    });
}

/// The same with record and device together.
fn fabric() -> (Fabric, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
    let pool = Pool::new("198.18.0.0/15", 24).unwrap();
    let networks = Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap();
    let spec = FabricSpec { table: None, by_input: false, mark: folder.path().join("mark") };
    (Fabric::open(Arc::new(networks), &spec).unwrap(), folder)
}

#[test]
fn parents_that_cannot_be_are_refused_with_the_reason() {
    on_a_host(|host| {
        let _router = router(host);
        let (fabric, _folder) = fabric();
        host.route
            .change(|changes| {
                let bridge = End { name: "office", ..End::default() };
                changes.create_link(&bridge, &Kind::Bridge(Bridge::default()))
            })
            .unwrap();
        let refused = |options: &[(&str, &str)]| {
            let error = fabric.create(vlan("lan", Driver::Macvlan, options)).unwrap_err();
            assert!(fabric.networks().find("lan").is_err());
            error.to_string()
        };
        for (parent, why) in [
            ("nope", "invalid subinterface vlan name nope, example formatting is eth0.10"),
            ("nope.10", "-o parent interface was not found on the host: nope"),
            ("wire0.0", "vlan id must be between 1-4094, received: 0"),
            ("wire0.4095", "vlan id must be between 1-4094, received: 4095"),
            ("wire0.x", "unable to parse a valid vlan id from: x"),
            ("wire0.1.2", "required interface name format is: name.vlan_id"),
        ] {
            let said = refused(&[("parent", parent)]);
            assert!(said.starts_with(why), "{parent}: {said}");
        }
        let index = host.route.link("office").unwrap().index;
        host.route.change(|changes| changes.set_master("wire0", Some(index))).unwrap();
        let said = refused(&[("parent", "wire0")]);
        assert!(said.contains("wire0 of network lan is a port of the bridge office"), "{said}");
        host.route.change(|changes| changes.set_master("wire0", None)).unwrap();
        // One container only.
        let alone = [("parent", "wire0"), ("macvlan_mode", "passthru")];
        fabric.create(vlan("alone", Driver::Macvlan, &alone)).unwrap();
        let said = refused(&[("parent", "wire0")]);
        assert_eq!(said, "macvlan network alone is already using parent interface wire0 in mode passthru");
        let said = refused(&alone);
        assert!(said.starts_with("cannot use mode passthru, macvlan network alone"), "{said}");
        let one = fabric.connect(&ContainerId::random(), "one", &[asks("alone")], &[]).unwrap();
        let error = fabric.connect(&ContainerId::random(), "two", &[asks("alone")], &[]).unwrap_err();
        assert!(error.to_string().contains("passed through to one only"), "{error}");
        assert_eq!(fabric.networks().all_endpoints().len(), 1);
        drop(one);
    });
}

#[test]
fn tagged_parents_are_made_and_removed_with_the_last_network() {
    on_a_host(|host| {
        let _router = router(host);
        let (fabric, _folder) = fabric();
        let spec = |name: &str, subnet: &str| {
            let text = BlockText { subnet: subnet.into(), ..BlockText::default() };
            let mut spec = vlan(name, Driver::Macvlan, &[("parent", "wire0.10")]);
            (spec.blocks, spec.ipv6) = (blocks(&[text]).unwrap(), false);
            spec
        };
        if let Err(error) = fabric.create(spec("one", "10.82.0.0/24")) {
            let said = error.to_string();
            assert!(said.contains("no vlan links") && said.contains("8021q"), "{said}");
            assert!(fabric.networks().find("one").is_err());
            return havre_testkit::skip(&said);
        }
        fabric.create(spec("two", "10.83.0.0/24")).unwrap();
        assert!(host.route.link("wire0.10").unwrap().is_up());
        fabric.remove("one").unwrap();
        assert!(host.route.link("wire0.10").is_ok());
        fabric.remove("two").unwrap();
        assert!(host.route.link("wire0.10").unwrap_err().is_absent());
        // The administrator's stays.
        let parent = host.route.link("wire0").unwrap().index;
        let own = End { name: "wire0.10", ..End::default() };
        host.route.change(|changes| changes.create_link(&own, &Kind::Vlan { parent, id: 10 })).unwrap();
        fabric.create(spec("one", "10.82.0.0/24")).unwrap();
        fabric.remove("one").unwrap();
        assert!(host.route.link("wire0.10").is_ok());
    });
}

#[test]
fn ipvlan_shares_the_parents_hardware_address_or_says_what_the_kernel_lacks() {
    on_a_host(|host| {
        let router = router(host);
        let (fabric, _folder) = fabric();
        let container = ContainerId::random();
        for mode in ["l2", "l3", "l3s"] {
            let options = [("parent", "wire0"), ("ipvlan_mode", mode)];
            if let Err(error) = fabric.create(vlan("lan", Driver::Ipvlan, &options)) {
                let said = error.to_string();
                assert!(said.contains("no ipvlan links") && said.contains("module ipvlan"), "{said}");
                return havre_testkit::skip(&said);
            }
            let mac = EndpointSpec { mac: Some([2; 6]), ..asks("lan") };
            let error = fabric.connect(&container, "one", &[mac], &[]).unwrap_err().to_string();
            assert_eq!(error, "ipvlan interfaces do not support custom mac address assignment");
            let connected = fabric.connect(&container, "one", &[asks("lan")], &[]).unwrap();
            let mut route = Route::open_in(connected.namespace.as_fd()).unwrap();
            let link = route.link("eth0").unwrap();
            assert_eq!(link.mac, host.route.link("wire0").unwrap().mac);
            let default = route.routes().unwrap().into_iter().find(|route| route.is_default()).unwrap();
            assert_eq!(default.gateway.is_some(), mode == "l2", "{mode}");
            if mode == "l2" {
                let sandbox = Sandbox::of(connected.namespace).unwrap();
                let own = udp(&sandbox, connected.endpoints[0].addresses[0].addr());
                let outside = udp(&router.sandbox, "10.81.0.1".parse().unwrap());
                own.send_to(b"out", outside.local_addr().unwrap()).unwrap();
                assert_eq!(first(&outside).0, b"out");
            }
            fabric.disconnect(&container);
            let error = fabric.create(vlan("other", Driver::Ipvlan, &options)).unwrap_err();
            assert!(error.to_string().contains("already using parent interface wire0"), "{error}");
            fabric.remove("lan").unwrap();
        }
    });
}
