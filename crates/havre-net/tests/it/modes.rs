//! How containers reach the world and are reached from there, by the options of their network.

use std::net::TcpListener;

use havre_net::networks::Network;
use havre_net::spec::NetworkSpec;
use havre_sys::netlink::address::Address;

use crate::firewall::{HOST, NEIGHBOUR, Server, ask, neighbour, only4, try_to_ask};
use crate::watch::{Watched, until};
use crate::{Host, inside, on_a_host};

fn network(watched: &Watched, name: &str, options: &[(&str, &str)], internal: bool) -> Network {
    let options = options
        .iter()
        .map(|(key, value)| (format!("com.docker.network.{key}"), (*value).to_owned()))
        .collect();
    watched.fabric.create(NetworkSpec { options, internal, ..only4(name) }).unwrap().0
}

/// What of a container in such a network is reached from a neighbour with a route to it: its published port by the host's
/// address, the same and another one by its own address; and as whom the neighbour sees it.
fn seen(options: &[(&str, &str)]) -> ([bool; 3], String) {
    let mut seen = ([false; 3], String::new());
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        // One more address, to be had by an option.
        let index = host.route.link("lan").unwrap().index;
        let second = Address::new(index, "192.0.2.77".parse().unwrap(), 24);
        host.route.change(|changes| changes.add_address(&second)).unwrap();
        let watched = Watched::open(false);
        network(&watched, "front", options, false);
        let (id, server) = watched.serve("front", &[(None, 8080)]);
        let own = watched.fabric.networks().of_container(&id)[0].addresses[0].addr();
        let other = inside(&server.2, || TcpListener::bind((own, 81)).unwrap());
        until("it is up", || ask(&own.to_string(), 80).is_some());
        let own = own.to_string();
        let reached = inside(&lan, || {
            let open = std::net::TcpStream::connect_timeout(
                &format!("{own}:81").parse().unwrap(),
                std::time::Duration::from_millis(300),
            );
            [try_to_ask(HOST, 8080).is_some(), try_to_ask(&own, 80).is_some(), open.is_ok()]
        });
        let outside = Server::start(lan, NEIGHBOUR.parse().unwrap());
        seen = (reached, inside(&server.2, || ask(NEIGHBOUR, 80)).unwrap());
        drop((server, outside, other));
    });
    seen
}

#[test]
fn modes_of_the_gateway_do_what_they_say() {
    if !havre_testkit::is_root() {
        return;
    }
    let (host, own) = (HOST.to_owned(), "198.18.1.2".to_owned());
    assert_eq!(seen(&[]), ([true, false, false], host.clone()), "nat");
    let mode = |mode| [("bridge.gateway_mode_ipv4", mode)];
    assert_eq!(seen(&mode("nat-unprotected")), ([true, true, true], host.clone()));
    assert_eq!(seen(&mode("routed")), ([false, true, false], own.clone()));
    assert_eq!(seen(&[("bridge.enable_ip_masquerade", "false")]), ([true, false, false], own));
    assert_eq!(seen(&[("bridge.trusted_host_interfaces", "lan")]), ([true, true, true], host));
    assert_eq!(seen(&[("host_ipv4", "192.0.2.77")]), ([true, false, false], "192.0.2.77".to_owned()));
}

#[test]
fn an_isolated_network_is_not_reached_by_its_host() {
    on_a_host(|host: &mut Host| {
        let watched = Watched::open(false);
        let made = network(&watched, "apart", &[("bridge.gateway_mode_ipv4", "isolated")], true);
        let (id, server) = watched.serve("apart", &[]);
        let (other, client) = watched.serve("apart", &[]);
        let own = watched.fabric.networks().of_container(&id)[0].addresses[0].addr().to_string();
        assert!(inside(&client.2, || ask(&own, 80)).is_some(), "they reach each other");
        let index = host.route.link(made.bridge.as_str()).unwrap().index;
        assert!(host.route.addresses(Some(index)).unwrap().iter().all(|one| one.address.is_ipv6()));
        assert_eq!(try_to_ask(&own, 80), None);
        drop((server, client));
        watched.fabric.disconnect(&id);
        watched.fabric.disconnect(&other);
    });
}
