//! Links, addresses, routes, neighbours and limits, as the kernel then tells them.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use havre_sys::netlink::address::{Address, NO_DAD, NO_PREFIX_ROUTE};
use havre_sys::netlink::link::{Bridge, End, Ipvlan, Kind, Macvlan, Peer, Reach, Vxlan};
use havre_sys::netlink::port::Port;
use havre_sys::netlink::qdisc::Bucket;
use havre_sys::netlink::redirect::Filter;
use havre_sys::netlink::table::{self, RouteEntry};
use havre_sys::netlink::{Changes, Event, NetlinkError, Route};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::world::{PATIENCE, Place, at_link, bridge, exchange, plug};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn two_namespaces_at_a_bridge_reach_each_other_in_both_families() {
    let (Some(router), Some(one), Some(two)) = (Place::new(), Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[("10.9.0.1", 24), ("fd09::1", 64)]);
    plug(&router, br, "v1", &one, &[("10.9.0.2", 24), ("fd09::2", 64)], &["10.9.0.1", "fd09::1"]);
    plug(&router, br, "v2", &two, &[("10.9.0.3", 24), ("fd09::3", 64)], &["10.9.0.1", "fd09::1"]);
    for (any, target) in [("0.0.0.0:0", "10.9.0.3:99"), ("[::]:0", "[fd09::3]:99")] {
        let from = exchange(&one.udp(any), &two.udp(target), target);
        assert!([ip("10.9.0.2"), ip("fd09::2")].contains(&from.ip()));
    }
    let inside = one.route().link("eth0").unwrap();
    let outside = router.route().link("v1").unwrap();
    assert!(inside.is_up() && inside.is_running() && outside.is_up());
    assert_eq!((outside.kind.as_deref(), outside.master), (Some("veth"), Some(br)));
    assert_eq!(outside.peer, Some(inside.index));
    assert!(outside.peer_netns.is_some());
    assert!(outside.counters.rx_packets > 0 && outside.counters.tx_bytes > 0);
    assert_eq!(one.route().route_to(ip("192.0.2.1")).unwrap().gateway, Some(ip("10.9.0.1")));
    // One end takes the other with it.
    one.route().change(|changes| changes.delete_link("eth0")).unwrap();
    assert!(router.route().link("v1").unwrap_err().is_absent());
}

#[test]
fn one_message_makes_a_pair_with_everything_it_needs() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[]);
    let mut route = router.route();
    let (mac, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let outside = End {
        name: "v1",
        index: Some(77),
        mac: Some(mac),
        mtu: Some(1400),
        up: true,
        master: Some(br),
        netns: None,
    };
    let inside =
        Peer { name: "eth7", index: Some(99), mac: Some(other), mtu: Some(1300), netns: Some(place.fd()) };
    let port = Port {
        hairpin: Some(true),
        isolated: Some(true),
        learning: Some(false),
        neigh_suppress: Some(true),
        ..Port::default()
    };
    let mut changes = Changes::new();
    changes.create_link(&outside, &Kind::Veth(inside)).set_alias("v1", "havre:test").set_port("v1", port);
    route.apply(&mut changes).unwrap();
    let seen = route.link(77).unwrap();
    assert_eq!((seen.name.as_str(), seen.mac, seen.mtu, seen.master), ("v1", Some(mac), 1400, Some(br)));
    assert_eq!(seen.alias.as_deref(), Some("havre:test"));
    let seen_port = seen.port.unwrap();
    assert_eq!(
        (seen_port.hairpin, seen_port.isolated, seen_port.learning),
        (Some(true), Some(true), Some(false))
    );
    assert_eq!(
        (seen_port.neigh_suppress, seen_port.multicast_flood, seen_port.guard),
        (Some(true), Some(true), Some(false))
    );
    let mut far = place.route();
    far.change(|changes| changes.set_up("eth7", true)).unwrap();
    let seen = far.link("eth7").unwrap();
    assert_eq!((seen.index, seen.mac, seen.mtu, seen.peer), (99, Some(other), 1300, Some(77)));
    assert!(seen.is_running());
    // Again: refused, in words.
    let error = route.change(|changes| changes.create_link(&outside, &Kind::Veth(inside))).unwrap_err();
    assert!(error.already_exists(), "{error}");
    assert!(error.to_string().starts_with("cannot create veth link v1: File exists"), "{error}");
}

#[test]
fn links_are_changed_moved_and_removed() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[]);
    let mut route = router.route();
    let end = End { name: "a", ..End::default() };
    let peer = Peer { name: "b", ..Peer::default() };
    route.change(|changes| changes.create_link(&end, &Kind::Veth(peer))).unwrap();
    let index = route.link("a").unwrap().index;
    let mac = [2, 1, 2, 3, 4, 5];
    route
        .change(|changes| {
            changes
                .rename(index, "c")
                .set_mac(index, mac)
                .set_mtu("c", 1234)
                .set_master("c", Some(br))
                .set_up("c", true)
        })
        .unwrap();
    let seen = route.link("c").unwrap();
    assert_eq!(
        (seen.index, seen.mac, seen.mtu, seen.master, seen.is_up()),
        (index, Some(mac), 1234, Some(br), true)
    );
    assert_eq!(seen.peer_netns, None);
    route
        .change(|changes| changes.set_master("c", None).set_up(index, false).move_to("b", place.fd()))
        .unwrap();
    let seen = route.link(index).unwrap();
    assert_eq!((seen.master, seen.is_up(), seen.port), (None, false, None));
    assert!(place.route().links().unwrap().iter().any(|link| link.name == "b"));
    route.change(|changes| changes.delete_link(index).delete_link("br")).unwrap();
    assert!(route.links().unwrap().iter().all(|link| !["a", "b", "c", "br"].contains(&link.name.as_str())));
    assert!(!place.route().links().unwrap().iter().any(|link| link.name == "b"));
}

#[test]
fn a_change_that_fails_is_named_and_the_others_are_carried_out() {
    let Some(place) = Place::new() else { return };
    let mut route = place.route();
    let error = route
        .change(|changes| {
            changes.set_mtu("lo", 1500).set_mtu("nonesuch", 1500).delete_link(4711).set_mtu("lo", 1600)
        })
        .unwrap_err();
    assert!(matches!(error, NetlinkError::Refused { index: 1, .. }), "{error}");
    assert!(error.is_absent());
    assert!(
        error.to_string().starts_with("cannot set the MTU 1500 for link nonesuch: No such device"),
        "{error}"
    );
    assert_eq!(route.link("lo").unwrap().mtu, 1600);
    assert_eq!(route.link("nonesuch").unwrap_err().to_string(), "there is no link nonesuch");
    assert!(route.link(4711).unwrap_err().is_absent());
    // The kernel's own words come along.
    let entry = RouteEntry::default_via(ip("192.0.2.1"));
    let error = route.change(|changes| changes.add_route(&entry)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot add a route to 0.0.0.0/0: Network is unreachable (os error 101): \
         Nexthop has invalid gateway"
    );
    route.change(|changes| changes).unwrap();
    // Names that no interface can have do not reach another one.
    for name in ["a-name-that-is-too-long", ""] {
        assert!(route.link(name).is_err());
    }
}

#[test]
fn links_upon_others_work_or_say_which_driver_lacks() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let parent = bridge(&router, "br", &[("10.9.0.1", 24)]);
    let mut route = router.route();
    let kinds = [
        Kind::Macvlan { parent, mode: Macvlan::Bridge },
        Kind::Macvlan { parent, mode: Macvlan::Vepa },
        Kind::Macvlan { parent, mode: Macvlan::Private },
        Kind::Ipvlan { parent, mode: Ipvlan::L2, reach: Reach::Bridge },
        Kind::Ipvlan { parent, mode: Ipvlan::L3, reach: Reach::Private },
        Kind::Ipvlan { parent, mode: Ipvlan::L3s, reach: Reach::Vepa },
        Kind::Vlan { parent, id: 12 },
        Kind::Vxlan(Vxlan {
            id: 4097,
            port: 4789,
            local: Some(ip("10.9.0.1")),
            remote: None,
            parent: None,
            ttl: Some(9),
            learning: false,
            proxy: true,
        }),
        Kind::Vxlan(Vxlan {
            id: 4098,
            port: 4789,
            local: Some(ip("fd00::1")),
            remote: Some(ip("fd00::2")),
            parent: None,
            ttl: None,
            learning: true,
            proxy: false,
        }),
        Kind::Dummy,
        Kind::Ifb,
    ];
    for kind in kinds {
        let end = End { name: "made", up: false, netns: Some(place.fd()), ..End::default() };
        match route.change(|changes| changes.create_link(&end, &kind)) {
            Ok(()) => {
                let seen = place.route().link("made").unwrap();
                assert_eq!(seen.kind.as_deref(), Some(kind.name()));
                place.route().change(|changes| changes.delete_link(seen.index)).unwrap();
            }
            Err(error @ NetlinkError::NoDriver { kind: told }) => {
                assert_eq!(told, kind.name());
                assert!(error.to_string().contains(told), "{error}");
                havre_testkit::skip(&format!("{error}"));
            }
            Err(error) => panic!("{kind:?}: {error}"),
        }
    }
    // Alone on its parent.
    let end = End { name: "alone", ..End::default() };
    route
        .change(|changes| changes.create_link(&end, &Kind::Macvlan { parent, mode: Macvlan::Passthru }))
        .unwrap();
    let error = route
        .change(|changes| {
            changes
                .create_link(&End { name: "second", ..end }, &Kind::Macvlan { parent, mode: Macvlan::Bridge })
        })
        .unwrap_err();
    assert!(matches!(error, NetlinkError::Refused { .. }), "{error}");
}

#[test]
fn addresses_routes_and_neighbours_are_read_back_and_removed() {
    let Some(place) = Place::new() else { return };
    let br = bridge(&place, "br", &[]);
    let mut route = place.route();
    let plain = Address::new(br, ip("10.9.0.1"), 24);
    let quiet = Address { flags: NO_PREFIX_ROUTE, ..Address::new(br, ip("10.8.0.1"), 16) };
    let six = Address { flags: NO_DAD | NO_PREFIX_ROUTE, ..Address::new(br, ip("fd09::1"), 64) };
    route
        .change(|changes| {
            changes.add_address(&plain).add_address(&quiet).add_address(&six).add_address(&plain)
        })
        .unwrap();
    let seen = route.addresses(Some(br)).unwrap();
    for wanted in [plain, quiet, six] {
        let found = seen.iter().find(|seen| seen.address == wanted.address).unwrap();
        assert_eq!(
            (found.prefix, found.index, found.flags & wanted.flags),
            (wanted.prefix, br, wanted.flags)
        );
    }
    let routes = route.routes().unwrap();
    let to = |routes: &[RouteEntry], text: &str| {
        routes.iter().any(|route| route.destination == ip(text) && route.table == table::MAIN)
    };
    assert!(to(&routes, "10.9.0.0") && !to(&routes, "10.8.0.0") && !to(&routes, "fd09::"));

    let entries = [
        RouteEntry { source: Some(ip("10.8.0.1")), ..RouteEntry::to_link(ip("10.8.0.0"), 16, br) },
        RouteEntry { metric: Some(77), ..RouteEntry::via(ip("192.0.2.0"), 24, ip("10.9.0.2")) },
        RouteEntry { table: 4711, link: Some(br), ..RouteEntry::default_via(ip("10.9.0.2")) },
        RouteEntry {
            kind: table::UNREACHABLE,
            link: None,
            scope: table::SCOPE_UNIVERSE,
            ..RouteEntry::to_link(ip("198.51.100.0"), 24, 0)
        },
        RouteEntry::to_link(ip("fd09::"), 64, br),
        RouteEntry { metric: Some(5), ..RouteEntry::default_via(ip("10.9.0.2")) },
    ];
    let default6 = RouteEntry { link: Some(br), ..RouteEntry::default_via(ip("fd09::9")) };
    let mut changes = Changes::new();
    entries.iter().chain([&default6]).for_each(|entry| {
        changes.add_route(entry);
    });
    route.apply(&mut changes).unwrap();
    let routes = route.routes().unwrap();
    for entry in entries.iter().chain([&default6]) {
        let found = routes
            .iter()
            .find(|seen| {
                (seen.destination, seen.prefix, seen.table) == (entry.destination, entry.prefix, entry.table)
            })
            .unwrap_or_else(|| panic!("{entry:?}"));
        assert_eq!((found.gateway, found.kind), (entry.gateway, entry.kind));
        assert_eq!(found.source, entry.source);
        assert!(entry.metric.is_none() || found.metric == entry.metric);
    }
    assert_eq!(route.route_to(ip("192.0.2.7")).unwrap().gateway, Some(ip("10.9.0.2")));
    assert_eq!(route.route_to(ip("10.9.0.1")).unwrap().kind, table::OWN);
    assert!(route.change(|changes| changes.add_route(&entries[1])).unwrap_err().already_exists());
    route.change(|changes| changes.replace_route(&entries[1])).unwrap();
    let mut changes = Changes::new();
    entries.iter().chain([&default6]).for_each(|entry| {
        changes.delete_route(entry);
    });
    route.apply(&mut changes).unwrap();
    assert!(!route.routes().unwrap().iter().any(RouteEntry::is_default));
    assert!(route.change(|changes| changes.delete_route(&entries[1])).unwrap_err().is_absent());

    let mac = [2, 0, 0, 0, 0, 9];
    route
        .change(|changes| {
            changes.add_neighbour(br, ip("10.9.0.9"), mac).add_neighbour(br, ip("fd09::9"), mac)
        })
        .unwrap();
    let known = route.neighbours(Some(br)).unwrap();
    for address in ["10.9.0.9", "fd09::9"] {
        assert!(known.iter().any(|seen| seen.address == ip(address) && seen.mac == Some(mac)));
    }
    route
        .change(|changes| {
            changes.delete_neighbour(br, ip("10.9.0.9")).delete_neighbour(br, ip("fd09::9"));
            changes.delete_address(&plain).delete_address(&six)
        })
        .unwrap();
    assert!(!route.neighbours(Some(br)).unwrap().iter().any(|seen| seen.mac == Some(mac)));
    assert!(
        !route
            .addresses(Some(br))
            .unwrap()
            .iter()
            .any(|seen| [plain.address, six.address].contains(&seen.address))
    );
    let gone = route.change(|changes| changes.delete_address(&plain)).unwrap_err();
    assert!(gone.is_absent(), "{gone}");
}

#[test]
fn a_link_sends_no_faster_than_told() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[("10.9.0.1", 24)]);
    plug(&router, br, "v1", &place, &[("10.9.0.2", 24)], &[]);
    let mut route = router.route();
    let index = route.link("v1").unwrap().index;
    let root = |route: &mut Route| route.qdiscs(index).unwrap().into_iter().find(|qdisc| qdisc.is_root);
    assert!(root(&mut route).is_none_or(|qdisc| qdisc.bucket.is_none()));
    for rate in [1_000, 125_000, 12_500_000, 6_000_000_000] {
        let bucket = Bucket::for_rate(rate);
        route.change(|changes| changes.set_limit(index, bucket)).unwrap();
        let seen = root(&mut route).unwrap().bucket.unwrap();
        assert_eq!((seen.rate, seen.queue), (rate, bucket.queue));
        // Ticks of 64 ns are its precision.
        let precision = u32::try_from(rate * 64 / 1_000_000_000).unwrap() + 1;
        assert!(seen.burst.abs_diff(bucket.burst) <= precision, "{seen:?} {bucket:?}");
    }
    // Behind a full bucket nothing waits: of 100 packets most are dropped.
    route
        .change(|changes| changes.set_limit(index, Bucket { rate: 1_000, burst: 5_000, queue: 5_000 }))
        .unwrap();
    let (sender, receiver) = (router.udp("10.9.0.1:0"), place.udp("10.9.0.2:99"));
    for _ in 0..100 {
        // A refusal for want of room is what is wanted.
        let _dropped = sender.send_to(&[0; 1000], "10.9.0.2:99");
    }
    route.change(|changes| changes.delete_limit(index)).unwrap();
    assert!(root(&mut route).is_none_or(|qdisc| qdisc.bucket.is_none()));
    sender.send_to(b"end", "10.9.0.2:99").unwrap();
    let mut buffer = [0; 2000];
    let mut arrived = 0;
    while receiver.recv(&mut buffer).unwrap() != 3 {
        arrived += 1;
    }
    assert!((1..50).contains(&arrived), "{arrived}");
    assert!(route.change(|changes| changes.delete_limit(index)).unwrap_err().errno().is_some());
}

#[test]
fn what_happens_to_links_addresses_and_routes_is_heard() {
    let Some(place) = Place::new() else { return };
    let mut ears = place.route();
    ears.listen().unwrap();
    assert_eq!(ears.events().unwrap(), []);
    let br = bridge(&place, "br", &[("10.9.0.1", 24)]);
    let mut route = place.route();
    route
        .change(|changes| {
            changes.add_route(&RouteEntry::to_link(ip("192.0.2.0"), 24, br));
            changes.delete_address(&at_link(br, &("10.9.0.1", 24))).delete_link(br)
        })
        .unwrap();
    let mut heard = Vec::new();
    let wanted: [fn(&Event) -> bool; 5] = [
        |event| matches!(event, Event::Link(link) if link.name == "br"),
        |event| matches!(event, Event::LinkGone(link) if link.name == "br"),
        |event| matches!(event, Event::Address(address) if address.address == ip("10.9.0.1")),
        |event| matches!(event, Event::AddressGone(address) if address.address == ip("10.9.0.1")),
        |event| matches!(event, Event::Route(route) if route.destination == ip("192.0.2.0")),
    ];
    let timeout = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    while !wanted.iter().all(|wanted| heard.iter().any(wanted)) {
        let mut polled = [PollFd::from_borrowed_fd(ears.as_fd(), PollFlags::IN)];
        assert_ne!(rustix::event::poll(&mut polled, Some(&timeout)).unwrap(), 0, "{heard:?}");
        heard.extend(ears.events().unwrap());
    }
}

#[test]
fn hundreds_of_changes_go_in_one_call() {
    let Some(place) = Place::new() else { return };
    let br = bridge(&place, "br", &[]);
    let mut route = place.route();
    let mut changes = Changes::new();
    for number in 0..2_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        changes.add_address(&Address::new(br, [10, 9, high, low].into(), 32));
    }
    route.apply(&mut changes).unwrap();
    assert_eq!(
        route.addresses(Some(br)).unwrap().iter().filter(|address| address.prefix == 32).count(),
        2_000
    );
    // All fail, and the first is told.
    let mut changes = Changes::new();
    for index in 5_000..7_000 {
        changes.delete_link(index);
    }
    let error = route.apply(&mut changes).unwrap_err();
    assert!(matches!(error, NetlinkError::Refused { index: 0, .. } | NetlinkError::Overrun), "{error}");
    assert_eq!(route.link(br).unwrap().name, "br");
}

#[test]
fn a_bridge_has_the_settings_that_were_asked_for() {
    let Some(place) = Place::new() else { return };
    let end = End { name: "br", mac: Some([2, 0, 0, 0, 0, 3]), mtu: Some(1450), up: true, ..End::default() };
    let kind = Kind::Bridge(Bridge { ageing: 30, multicast_snooping: false });
    place.route().change(|changes| changes.create_link(&end, &kind)).unwrap();
    let read = |name: &str| {
        place.inside(|| {
            // The files are those of the namespace in which sysfs was mounted, so the program asks.
            std::process::Command::new("ip").args(["-details", "link", "show", "dev", name]).output()
        })
    };
    let Ok(output) = read("br") else { return havre_testkit::skip("there is no ip") };
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "forward_delay 0 ",
        "ageing_time 3000 ",
        "stp_state 0 ",
        "mcast_snooping 0 ",
        "mtu 1450 ",
        "02:00:00:00:00:03",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_group_is_removed_and_nothing_else() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[]);
    let mut route = router.route();
    let mut changes = Changes::new();
    for number in 0..20 {
        let (name, peer) = (format!("v{number}"), format!("p{number}"));
        let end = End { name: &name, master: Some(br), ..End::default() };
        let peer = Peer { name: &peer, netns: Some(place.fd()), ..Peer::default() };
        changes.create_link(&end, &Kind::Veth(peer));
        if number < 19 {
            changes.set_group(name.as_str(), 77);
        }
    }
    route.apply(&mut changes).unwrap();
    assert_eq!(place.route().links().unwrap().iter().filter(|link| link.peer.is_some()).count(), 20);
    route.change(|changes| changes.delete_group(77)).unwrap();
    let left = |route: &mut Route| {
        let links = route.links().unwrap().into_iter();
        links.filter(|link| link.kind.as_deref() == Some("veth")).map(|link| link.name).collect::<Vec<_>>()
    };
    assert_eq!(left(&mut route), ["v19"]);
    assert_eq!(left(&mut place.route()), ["p19"]);
    assert!(route.change(|changes| changes.delete_group(77)).unwrap_err().is_absent());
    assert!(route.change(|changes| changes.delete_group(0)).is_err());
    assert_eq!(left(&mut route), ["v19"]);
}

#[test]
fn what_a_link_receives_is_queued_where_another_sends() {
    let (Some(router), Some(place)) = (Place::new(), Place::new()) else { return };
    let br = bridge(&router, "br", &[("10.9.0.1", 24)]);
    plug(&router, br, "v1", &place, &[("10.9.0.2", 24)], &[]);
    let mut route = router.route();
    let from = route.link("v1").unwrap().index;
    if let Err(error @ NetlinkError::NoDriver { .. }) = route
        .change(|changes| changes.create_link(&End { name: "queue", up: true, ..End::default() }, &Kind::Ifb))
    {
        return havre_testkit::skip(&error.to_string());
    }
    let to = route.link("queue").unwrap().index;
    let filters: Vec<Filter> = [Filter::Matchall, Filter::U32]
        .into_iter()
        .filter(|filter| match route.change(|changes| changes.redirect(from, to, *filter)) {
            Ok(()) => {
                // Two kinds are not there at once.
                route.change(|changes| changes.stop_redirect(from)).unwrap();
                true
            }
            Err(error) => {
                assert!(error.is_absent(), "{filter:?}: {error}");
                havre_testkit::skip(&format!("{filter:?}: {error}"));
                false
            }
        })
        .collect();
    assert!(!filters.is_empty());
    for filter in filters {
        let _fresh = route.change(|changes| changes.stop_redirect(from));
        route.change(|changes| changes.redirect(from, to, filter)).unwrap();
        let before = route.link("queue").unwrap().counters.tx_packets;
        exchange(&place.udp("0.0.0.0:0"), &router.udp("10.9.0.1:99"), "10.9.0.1:99");
        assert!(route.link("queue").unwrap().counters.tx_packets > before);
        let told = router.tc(&["-j", "filter", "show", "dev", "v1", "ingress"]);
        if let Some(told) = told {
            assert!(
                told.contains("\"mirred_action\":\"redirect\"") && told.contains("\"to_dev\":\"queue\""),
                "{told}"
            );
        }
        route.change(|changes| changes.stop_redirect(from)).unwrap();
        let before = route.link("queue").unwrap().counters.tx_packets;
        exchange(&place.udp("0.0.0.0:0"), &router.udp("10.9.0.1:99"), "10.9.0.1:99");
        assert_eq!(route.link("queue").unwrap().counters.tx_packets, before);
    }
    assert!(route.change(|changes| changes.stop_redirect(from)).is_err());
}
