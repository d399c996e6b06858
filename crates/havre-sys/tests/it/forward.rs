//! Packets that really go where the filter sends them.

use std::net::{IpAddr, SocketAddr};

use havre_sys::conntrack::Connections;
use havre_sys::netlink::table::RouteEntry;
use havre_sys::nft::{Batch, Chain, Element, Family, Field, Hook, Nft, Rule, Table, Value};

use crate::filter::{PORTS4, PORTS6, TABLE, UDP, published};
use crate::world::{Place, bridge, exchange, plug};

/// A router between a client outside (192.0.2.9) and a server inside (10.9.0.2), with the router's addresses
/// 192.0.2.1 and 10.9.0.1; in IPv6 fd01::9, fd09::2, fd01::1 and fd09::1. Neither of the two knows a way to the other's network but the router.
struct World {
    router: Place,
    client: Place,
    server: Place,
    nft: Nft,
}

fn world() -> Option<World> {
    let (router, client, server) = (Place::new()?, Place::new()?, Place::new()?);
    let inner = bridge(&router, "inner", &[("10.9.0.1", 24), ("fd09::1", 64)]);
    let outer = bridge(&router, "outer", &[("192.0.2.1", 24), ("fd01::1", 64)]);
    plug(&router, inner, "v1", &server, &[("10.9.0.2", 24), ("fd09::2", 64)], &["10.9.0.1", "fd09::1"]);
    plug(&router, outer, "v2", &client, &[("192.0.2.9", 24), ("fd01::9", 64)], &[]);
    router
        .inside(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .unwrap();
    let nft = router.nft()?;
    Some(World { router, client, server, nft })
}

impl World {
    /// Redirection of what the map says, and masquerading of what leaves the inner network.
    fn rules(&mut self, masquerade: bool) {
        let fields = [Field::Destination4, Field::Protocol, Field::DestinationPort];
        let mut batch = Batch::new();
        batch.create_table(TABLE, None).create_set(TABLE, &PORTS4);
        batch.create_chain(TABLE, &Chain::nat("pre", Hook::Prerouting, -100));
        batch.create_chain(TABLE, &Chain::nat("post", Hook::Postrouting, 100));
        let redirect = Rule::new().to_this_machine().ipv4().counter();
        batch.add_rule(TABLE, "pre", &redirect.redirect_by(Family::Ip, &fields, "ports4", true));
        if masquerade {
            let leaves = Rule::new().ipv4().from_network([10, 9, 0, 0].into(), 24).output_not("inner");
            batch.add_rule(TABLE, "post", &leaves.counter().masquerade());
        }
        self.nft.apply(batch).unwrap();
    }

    fn publish(&mut self, port: u16, to: u16) -> Element {
        let target = [[10, 9, 0, 2].into(), Value::Port(to)];
        let element = Element::new(published([192, 0, 2, 1], UDP, port)).to(target);
        let mut batch = Batch::new();
        batch.add_elements(TABLE, "ports4", std::slice::from_ref(&element));
        self.nft.apply(batch).unwrap();
        element
    }
}

#[test]
fn a_published_port_leads_inside_and_answers_seem_to_come_from_it() {
    let Some(mut world) = world() else { return };
    world.rules(false);
    world.publish(8080, 80);
    let (client, server) = (world.client.udp("0.0.0.0:0"), world.server.udp("0.0.0.0:80"));
    // `exchange` sees to it that the answer comes from whom was asked.
    let seen = exchange(&client, &server, "192.0.2.1:8080");
    assert_eq!(seen.ip(), IpAddr::from([192, 0, 2, 9]));
    let rules = world.nft.rules(TABLE).unwrap();
    assert!(rules.iter().any(|rule| rule.counter.is_some_and(|(packets, _)| packets > 0)));
}

#[test]
fn a_published_port_leads_inside_in_ipv6_too() {
    let Some(mut world) = world() else { return };
    world.rules(false);
    let fields = [Field::Destination6, Field::Protocol, Field::DestinationPort];
    let six = |text: &str| Value::from(text.parse::<IpAddr>().unwrap());
    let mut batch = Batch::new();
    batch.create_set(TABLE, &PORTS6);
    let element = Element::new([six("fd01::1"), Value::Protocol(UDP), Value::Port(8080)]);
    batch.add_elements(TABLE, PORTS6.name, &[element.to([six("fd09::2"), Value::Port(80)])]);
    let redirect = Rule::new().to_this_machine().ipv6();
    batch.add_rule(TABLE, "pre", &redirect.redirect_by(Family::Ip6, &fields, PORTS6.name, true));
    world.nft.apply(batch).unwrap();
    let (client, server) = (world.client.udp("[::]:0"), world.server.udp("[::]:80"));
    let seen = exchange(&client, &server, "[fd01::1]:8080");
    assert_eq!(seen.ip(), "fd01::9".parse::<IpAddr>().unwrap());
    let mut connections = Connections::open_in(world.router.fd()).unwrap();
    let inside: IpAddr = "fd09::2".parse().unwrap();
    let found = connections.forget(|connection| connection.reply.source == inside).unwrap();
    assert_eq!(found, 1);
}

#[test]
fn what_leaves_seems_to_come_from_the_router() {
    let Some(mut world) = world() else { return };
    world.rules(true);
    let (client, server) = (world.server.udp("0.0.0.0:0"), world.client.udp("0.0.0.0:53"));
    // The server outside has no way to 10.9.0.0/24: it can only answer the router.
    let seen = exchange(&client, &server, "192.0.2.9:53");
    assert_eq!(seen.ip(), IpAddr::from([192, 0, 2, 1]));
}

#[test]
fn without_the_table_everything_is_as_before() {
    let Some(mut world) = world() else { return };
    let back = RouteEntry::via([10, 9, 0, 0].into(), 24, [192, 0, 2, 1].into());
    world.client.route().change(|changes| changes.add_route(&back)).unwrap();
    let plain = |world: &World| {
        let (client, server) = (world.client.udp("0.0.0.0:0"), world.server.udp("0.0.0.0:0"));
        let target = SocketAddr::from(([10, 9, 0, 2], server.local_addr().unwrap().port()));
        exchange(&client, &server, &target.to_string()).ip()
    };
    let before = plain(&world);
    world.rules(true);
    // Everything that is forwarded is dropped: nothing arrives, which a packet on another way proves.
    let mut batch = Batch::new();
    batch.create_chain(TABLE, &Chain::filter("forward", Hook::Forward, 0));
    batch.add_rule(TABLE, "forward", &Rule::new().counter().comment("all").drop());
    world.nft.apply(batch).unwrap();
    let (client, server) = (world.client.udp("0.0.0.0:0"), world.server.udp("10.9.0.2:99"));
    client.send_to(b"lost", "10.9.0.2:99").unwrap();
    let router = world.router.udp("10.9.0.1:0");
    let count = |world: &mut World| {
        let rules = world.nft.rules(TABLE).unwrap();
        rules.into_iter().find(|rule| rule.comment.as_deref() == Some("all")).unwrap().counter.unwrap().0
    };
    assert_eq!(count(&mut world), 1);
    router.send_to(b"here", "10.9.0.2:99").unwrap();
    let mut buffer = [0; 16];
    let length = server.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"here");
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    world.nft.apply(batch).unwrap();
    assert_eq!(plain(&world), before);
}

#[test]
fn a_port_taken_away_no_longer_leads_inside_once_its_connections_are_forgotten() {
    let Some(mut world) = world() else { return };
    world.rules(false);
    let element = world.publish(8080, 80);
    let (client, first) = (world.client.udp("0.0.0.0:0"), world.server.udp("0.0.0.0:80"));
    exchange(&client, &first, "192.0.2.1:8080");
    let mut connections = Connections::open_in(world.router.fd()).unwrap();
    let is_ours = |connection: &havre_sys::conntrack::Connection| {
        connection.protocol == UDP && connection.original.destination_port == Some(8080)
    };
    let seen = connections.list(is_ours).unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].original.destination, IpAddr::from([192, 0, 2, 1]));
    assert_eq!((seen[0].reply.source, seen[0].reply.source_port), ([10, 9, 0, 2].into(), Some(80)));
    // It leads elsewhere, yet the connection goes where it went.
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, "ports4", &[element]);
    world.nft.apply(batch).unwrap();
    world.publish(8080, 81);
    let second = world.server.udp("0.0.0.0:81");
    exchange(&client, &first, "192.0.2.1:8080");
    assert_eq!(connections.forget(is_ours).unwrap(), 1);
    assert_eq!(connections.list(is_ours).unwrap(), []);
    exchange(&client, &second, "192.0.2.1:8080");
    assert_eq!(connections.forget(|connection| connection.original.destination_port == Some(1)).unwrap(), 0);
}

#[test]
fn what_comes_too_fast_is_dropped_where_the_sender_cannot_change_it() {
    let Some(mut world) = world() else { return };
    let links = Table { family: Family::Netdev, name: "speeds" };
    let mut batch = Batch::new();
    batch.create_table(links, None).create_chain(links, &Chain::filter("v1", Hook::Ingress("v1"), 0));
    let slow = Rule::new().faster_than(1_000, 10_000).counter().comment("slow").drop();
    batch.add_rule(links, "v1", &slow);
    world.nft.apply(batch).unwrap();
    let (sender, receiver) = (world.server.udp("0.0.0.0:0"), world.router.udp("10.9.0.1:99"));
    for _ in 0..100 {
        sender.send_to(&[0; 1000], "10.9.0.1:99").unwrap();
    }
    let rules = world.nft.rules(links).unwrap();
    let (dropped, _) = rules[0].counter.unwrap();
    assert!(dropped > 50, "{dropped}");
    let mut batch = Batch::new();
    batch.delete_table(links);
    world.nft.apply(batch).unwrap();
    sender.send_to(b"end", "10.9.0.1:99").unwrap();
    let mut buffer = [0; 2000];
    let mut arrived = 0;
    while receiver.recv(&mut buffer).unwrap() != 3 {
        arrived += 1;
    }
    assert!(arrived < 50, "{arrived}");
}
