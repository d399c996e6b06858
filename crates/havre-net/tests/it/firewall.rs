//! The table of the packet filter between a host, its containers and a neighbour.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use havre_net::firewall::Firewall;
use havre_net::networks::{Endpoint, Network};
use havre_net::ports::{Protocol, Publication};
use havre_net::sandbox::Sandbox;
use havre_net::spec::NetworkSpec;
use havre_sys::netlink::address::Address;
use havre_sys::netlink::link::{Bridge, End, Kind, Peer};
use havre_sys::netlink::table::RouteEntry;
use havre_sys::nft::{Batch, Chain, Family, Hook, Nft, Rule, Table};

use crate::{Host, asks, inside, on_a_host, spec};

pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const NEIGHBOUR: &str = "192.0.2.2";
/// Long enough for what arrives, and all that is waited for what does not.
const SILENCE: Duration = Duration::from_millis(300);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A neighbour of the host, with routes to its containers.
pub(crate) fn neighbour(host: &mut Host) -> Sandbox {
    let place = Sandbox::create().unwrap();
    let end = End { name: "lan", up: true, ..End::default() };
    let peer = Peer { name: "lan0", netns: Some(place.fd()), ..Peer::default() };
    host.route.change(|changes| changes.create_link(&end, &Kind::Veth(peer))).unwrap();
    let own = host.route.link("lan").unwrap().index;
    host.route.change(|changes| changes.add_address(&Address::new(own, HOST.parse().unwrap(), 24))).unwrap();
    let mut route = havre_sys::netlink::Route::open_in(place.fd()).unwrap();
    let index = route.link("lan0").unwrap().index;
    route
        .change(|changes| {
            changes.add_address(&Address::new(index, NEIGHBOUR.parse().unwrap(), 24)).set_up(index, true);
            changes.add_route(&RouteEntry::via("198.18.0.0".parse().unwrap(), 15, HOST.parse().unwrap()))
        })
        .unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    place
}

/// Answers each connection with where it comes from, for as long as it is held.
pub(crate) struct Server(SocketAddr, Option<std::thread::JoinHandle<()>>, pub(crate) Sandbox);

impl Server {
    pub(crate) fn start(sandbox: Sandbox, address: IpAddr) -> Self {
        let listener = inside(&sandbox, || TcpListener::bind((address, 80)).unwrap());
        let at = listener.local_addr().unwrap();
        let serve = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap().ip();
                let mut word = [0; 3];
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                if stream.read_exact(&mut word).is_ok() && &word == b"end" {
                    return;
                }
                stream.write_all(from.to_string().as_bytes()).unwrap_or(());
            }
        });
        Self(at, Some(serve), sandbox)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let at = self.0;
        inside(&self.2, || TcpStream::connect(at).unwrap().write_all(b"end").unwrap());
        self.1.take().unwrap().join().unwrap();
    }
}

/// What a server says to a connection from here.
pub(crate) fn ask(to: &str, port: u16) -> Option<String> {
    ask_for(to, port, PATIENCE)
}

/// The same where nobody is expected to answer.
pub(crate) fn try_to_ask(to: &str, port: u16) -> Option<String> {
    ask_for(to, port, SILENCE)
}

fn ask_for(to: &str, port: u16, patience: Duration) -> Option<String> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
    stream.write_all(b"who").unwrap_or(());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

pub(crate) fn only4(name: &str) -> NetworkSpec {
    NetworkSpec { ipv6: false, ..spec(name) }
}

fn port(at: Option<&str>, port: u16, to: &Endpoint) -> Publication {
    Publication {
        protocol: Protocol::Tcp,
        at: at.map(|at| at.parse().unwrap()),
        port,
        to: to.addresses[0].addr(),
        to_port: 80,
    }
}

/// A container that serves in a network, with these ports.
fn serve(
    host: &mut Host,
    wall: &Firewall,
    name: &str,
    network: &str,
    ports: &[(Option<&str>, u16)],
) -> (Server, Network, Endpoint) {
    let (sandbox, mut joined) = host.container(name, &[asks(network)]);
    let (network, endpoint) = joined.pop().unwrap();
    let ports: Vec<Publication> = ports.iter().map(|(at, number)| port(*at, *number, &endpoint)).collect();
    wall.publish(&endpoint.id, &network, &ports).unwrap();
    (Server::start(sandbox, endpoint.addresses[0].addr()), network, endpoint)
}

fn network(host: &mut Host, wall: &Firewall, spec: NetworkSpec) {
    let (network, _) = host.networks.create(spec).unwrap();
    wall.assert().unwrap();
    wall.add_network(&network).unwrap();
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_nothing_else_is() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        let lan = neighbour(host);
        network(host, &wall, only4("front"));
        let (server, _, endpoint) =
            serve(host, &wall, "web", "front", &[(None, 8080), (Some("127.0.0.1"), 9090)]);
        let (other, _) = host.container("other", &[asks("front")]);
        let own = endpoint.addresses[0].addr().to_string();
        assert_eq!(inside(&lan, || ask(HOST, 8080)).as_deref(), Some(NEIGHBOUR), "from a neighbour");
        assert_eq!(ask(HOST, 8080).as_deref(), Some(HOST), "from the host by its address");
        assert_eq!(ask("127.0.0.1", 8080).as_deref(), Some("198.18.1.1"), "from the host by loopback");
        assert_eq!(ask("127.0.0.1", 9090).as_deref(), Some("198.18.1.1"));
        assert_eq!(inside(&other, || ask(HOST, 8080)).as_deref(), Some("198.18.1.1"), "by hairpin");
        assert!(inside(&server.2, || ask(HOST, 8080)).is_some(), "by its own hairpin");
        assert_eq!(inside(&other, || ask(&own, 80)).as_deref(), Some("198.18.1.3"), "by the bridge");
        // Published for loopback only; and not at all.
        assert_eq!(inside(&lan, || try_to_ask(HOST, 9090)), None);
        assert_eq!(inside(&lan, || try_to_ask(&own, 80)), None, "n02_a neighbour with a route");
        assert_eq!(inside(&other, || try_to_ask("127.0.0.1", 9090)), None, "each has a loopback of its own");
        // What is published no more is reached no more.
        let network = host.networks.find("front").unwrap();
        wall.publish(&endpoint.id, &network, &[port(None, 8081, &endpoint)]).unwrap();
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None);
        assert!(inside(&lan, || ask(HOST, 8081)).is_some());
        wall.publish(&endpoint.id, &network, &[]).unwrap();
        assert_eq!(try_to_ask("127.0.0.1", 8081), None);
        drop(server);
    });
}

#[test]
fn n02_a_packet_to_loopback_from_a_bridge_is_dropped() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        network(host, &wall, only4("front"));
        let (server, _, _) = serve(host, &wall, "web", "front", &[(Some("127.0.0.1"), 9090)]);
        let (evil, _) = host.container("evil", &[asks("front")]);
        // Its own loopback out of the way, packets to the host's go out by the bridge.
        let mut route = havre_sys::netlink::Route::open_in(evil.fd()).unwrap();
        let local = route.addresses(Some(1)).unwrap();
        route
            .change(|changes| {
                for one in local.iter().filter(|one| one.address.is_ipv4()) {
                    changes.delete_address(one);
                }
                changes.add_route(&RouteEntry::via(
                    "127.0.0.0".parse().unwrap(),
                    8,
                    "198.18.1.1".parse().unwrap(),
                ))
            })
            .unwrap();
        let reached = inside(&evil, || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            try_to_ask("127.0.0.1", 9090)
        });
        assert_eq!(reached, None);
        assert!(ask("127.0.0.1", 9090).is_some());
        drop(server);
    });
}

#[test]
fn networks_are_apart_and_internal_ones_lead_nowhere() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        let lan = neighbour(host);
        for spec in [only4("front"), only4("back"), NetworkSpec { internal: true, ..only4("inner") }] {
            network(host, &wall, spec);
        }
        let outside = Server::start(lan, NEIGHBOUR.parse().unwrap());
        let (web, _, at_web) = serve(host, &wall, "web", "front", &[(None, 8080)]);
        let (safe, _, at_safe) = serve(host, &wall, "safe", "inner", &[(None, 8081)]);
        let (front, _) = host.container("c", &[asks("front")]);
        let (back, _) = host.container("c", &[asks("back")]);
        let (inner, _) = host.container("c", &[asks("inner")]);
        let web_address = at_web.addresses[0].addr().to_string();
        let safe_address = at_safe.addresses[0].addr().to_string();
        assert!(inside(&front, || ask(&web_address, 80)).is_some());
        assert_eq!(inside(&back, || try_to_ask(&web_address, 80)), None, "another network");
        assert!(inside(&back, || ask(HOST, 8080)).is_some(), "a port that everybody reaches");
        assert_eq!(inside(&back, || ask(NEIGHBOUR, 80)).as_deref(), Some(HOST), "with the host's address");
        // Into and out of the internal one.
        assert!(inside(&inner, || ask(&safe_address, 80)).is_some());
        assert_eq!(inside(&front, || try_to_ask(&safe_address, 80)), None);
        assert_eq!(inside(&outside.2, || try_to_ask(HOST, 8081)), None);
        assert_eq!(inside(&outside.2, || try_to_ask(&safe_address, 80)), None);
        let mut route = havre_sys::netlink::Route::open_in(inner.fd()).unwrap();
        let bridge = host.networks.find("inner").unwrap().blocks[0].gateway.unwrap();
        // Even with a way out of its own making.
        route.change(|changes| changes.add_route(&RouteEntry::default_via(bridge))).unwrap();
        assert_eq!(inside(&inner, || try_to_ask(NEIGHBOUR, 80)), None);
        assert_eq!(inside(&inner, || try_to_ask(&web_address, 80)), None);
        drop((web, safe, outside));
    });
}

#[test]
fn n15_bridges_of_others_that_come_later_forward_and_the_machine_does_not() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        let lan = neighbour(host);
        // A bridge that leads out of the machine was there before us; two of another engine come later.
        let far = foreign(host, "lan-br", [203, 0, 113]);
        wall.close_to_others(false, ["lan-br".to_owned()]);
        network(host, &wall, only4("front"));
        let (one, two) = (foreign(host, "docker0", [10, 77, 1]), foreign(host, "br-other", [10, 77, 2]));
        let (web, shop) =
            (Server::start(one, [10, 77, 1, 2].into()), Server::start(two, [10, 77, 2, 2].into()));
        assert_eq!(
            inside(&web.2, || ask("10.77.2.2", 80)).as_deref(),
            Some("10.77.1.2"),
            "from one to another"
        );
        let mut route = havre_sys::netlink::Route::open_in(lan.fd()).unwrap();
        for net in [[10, 77, 1, 0], [203, 0, 113, 0]] {
            let to = RouteEntry::via(net.into(), 24, HOST.parse().unwrap());
            route.change(|changes| changes.add_route(&to)).unwrap();
        }
        assert!(inside(&lan, || ask("10.77.1.2", 80)).is_some(), "from a device to one");
        // Between what leads out nothing passes: the host did not forward before us.
        let far = Server::start(far, [203, 0, 113, 2].into());
        assert_eq!(inside(&lan, || try_to_ask("203.0.113.2", 80)), None);
        let lan = Server::start(lan, NEIGHBOUR.parse().unwrap());
        assert_eq!(inside(&far.2, || try_to_ask(NEIGHBOUR, 80)), None);
        drop((web, shop, far, lan));
    });
}

/// A bridge of somebody else with this network, and a namespace in it whose way out it is.
fn foreign(host: &mut Host, name: &str, [a, b, c]: [u8; 3]) -> Sandbox {
    let place = Sandbox::create().unwrap();
    let bridge = End { name, up: true, ..End::default() };
    host.route.change(|changes| changes.create_link(&bridge, &Kind::Bridge(Bridge::default()))).unwrap();
    let index = host.route.link(name).unwrap().index;
    let outer = format!("p-{name}");
    let end = End { name: &outer, up: true, master: Some(index), ..End::default() };
    let peer = Peer { name: "eth0", netns: Some(place.fd()), ..Peer::default() };
    host.route
        .change(|changes| {
            changes
                .add_address(&Address::new(index, [a, b, c, 1].into(), 24))
                .create_link(&end, &Kind::Veth(peer))
        })
        .unwrap();
    let mut route = havre_sys::netlink::Route::open_in(place.fd()).unwrap();
    let index = route.link("eth0").unwrap().index;
    route
        .change(|changes| {
            changes.add_address(&Address::new(index, [a, b, c, 2].into(), 24)).set_up(index, true);
            changes.add_route(&RouteEntry::default_via([a, b, c, 1].into()))
        })
        .unwrap();
    place
}

#[test]
fn n03_what_somebody_flushed_is_written_again_and_the_administrators_rules_stay() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        let lan = neighbour(host);
        network(host, &wall, only4("front"));
        let (server, _, endpoint) = serve(host, &wall, "web", "front", &[(None, 8080)]);
        let table = Table { family: Family::Inet, name: "havre-test" };
        let mut nft = Nft::open().unwrap();
        // A table of somebody else stays as it is.
        let foreign = Table { family: Family::Inet, name: "foreign" };
        let mut batch = Batch::new();
        batch.create_table(foreign, None).create_chain(foreign, &Chain::filter("f", Hook::Forward, 10));
        nft.apply(batch).unwrap();
        // The administrator refuses the neighbour.
        let mut batch = Batch::new();
        batch.add_rule(table, "user", &Rule::new().from_network(NEIGHBOUR.parse().unwrap(), 32).drop());
        nft.apply(batch).unwrap();
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None, "n01_the administrator's word counts");
        wall.assert().unwrap();
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None);
        let mut batch = Batch::new();
        batch.flush_chain(table, "user");
        nft.apply(batch).unwrap();
        assert!(inside(&lan, || ask(HOST, 8080)).is_some());
        // All is lost, and comes back with the next change or when it is asked for.
        let mut batch = Batch::new();
        batch.delete_table(table);
        nft.apply(batch).unwrap();
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None);
        wall.assert().unwrap();
        assert!(inside(&lan, || ask(HOST, 8080)).is_some());
        let mut batch = Batch::new();
        batch.delete_table(table);
        nft.apply(batch).unwrap();
        let network = host.networks.find("front").unwrap();
        wall.publish(&endpoint.id, &network, &[port(None, 8080, &endpoint), port(None, 8082, &endpoint)])
            .unwrap();
        assert!(inside(&lan, || ask(HOST, 8080)).is_some() && inside(&lan, || ask(HOST, 8082)).is_some());
        wall.remove().unwrap();
        let names: Vec<String> = nft.tables().unwrap().into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["foreign"]);
        assert_eq!(nft.chains(foreign).unwrap().len(), 1);
        drop(server);
    });
}

#[test]
fn n11_all_ports_at_once_are_one_transaction() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        network(host, &wall, only4("front"));
        let (sandbox, mut joined) = host.container("c", &[asks("front")]);
        let (network, endpoint) = joined.pop().unwrap();
        let to = endpoint.addresses[0].addr();
        let ports: Vec<Publication> = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| {
                (1..=u16::MAX).map(move |port| Publication { protocol, at: None, port, to, to_port: port })
            })
            .collect();
        wall.publish(&endpoint.id, &network, &ports).unwrap();
        let server = inside(&sandbox, || UdpSocket::bind((to, 65_535)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", "127.0.0.1:65535").unwrap();
        assert_eq!(server.recv_from(&mut [0; 4]).unwrap().1.ip().to_string(), "198.18.1.1");
        wall.publish(&endpoint.id, &network, &[]).unwrap();
        let table = Table { family: Family::Inet, name: "havre-test" };
        assert!(Nft::open().unwrap().elements(table, "ports4").unwrap().is_empty());
    });
}

#[test]
fn containers_that_may_not_talk_to_each_other_do_not() {
    on_a_host(|host| {
        let wall = Firewall::open("havre-test", false).unwrap();
        wall.close_to_others(false, []);
        let lan = neighbour(host);
        let options = [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())].into();
        network(host, &wall, NetworkSpec { options, ..only4("apart") });
        let (server, _, endpoint) = serve(host, &wall, "web", "apart", &[(None, 8080)]);
        let (other, _) = host.container("other", &[asks("apart")]);
        let own = endpoint.addresses[0].addr().to_string();
        assert_eq!(inside(&other, || try_to_ask(&own, 80)), None);
        assert!(inside(&lan, || ask(HOST, 8080)).is_some());
        drop(server);
    });
}
