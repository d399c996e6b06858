//! Rules of the host's administrator and of other engines, beside ours.

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use havre_base::ContainerId;
use havre_net::ports::{Port, PublishedPort};
use havre_net::sandbox::Sandbox;
use havre_sys::nft::{Family, Nft, Table};

use crate::firewall::{HOST, NEIGHBOUR, PATIENCE, ask, neighbour, only4, try_to_ask};
use crate::watch::{TABLE, Watched, until};
use crate::{Host, asks, inside, on_a_host};

/// How a layout is made.
enum By {
    Nft(&'static str),
    Iptables(&'static str),
}

/// What the administrator refuses, how, and with which policies it is refused for published ports: those that the host's
/// rules for forwarding judge, those that its rules for its own input judge.
const LAYOUTS: &[(&str, By, [bool; 2])] = &[
    (
        "input drops what it does not know",
        By::Nft(
            "table inet filter { chain input { type filter hook input priority 0; policy drop; \
             iif lo accept; ct state established,related accept; tcp dport 22 accept; }; }",
        ),
        [false, true],
    ),
    (
        "a port is dropped in input",
        By::Nft(
            "table ip filter { chain input { type filter hook input priority 0; \
             tcp dport 8080 drop; }; }",
        ),
        [false, true],
    ),
    ("iptables drops a port in INPUT", By::Iptables("-A INPUT -p tcp --dport 8080 -j DROP"), [false, true]),
    (
        "as ufw: chains of its own behind a policy",
        By::Iptables(
            "-N ufw-before-input\n-N ufw-user-input\n-A INPUT -j ufw-before-input\n\
             -A ufw-before-input -i lo -j ACCEPT\n\
             -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A ufw-before-input -j ufw-user-input\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n\
             -P INPUT DROP",
        ),
        [false, true],
    ),
    (
        "as firewalld: zones by links, rejected at the end, behind us",
        By::Nft(
            "table inet firewalld { chain filter_INPUT { type filter hook input priority 10; \
             ct state { established, related } accept; iifname \"lo\" accept; \
             iifname \"lan\" goto filter_IN_public; reject; }; \
             chain filter_IN_public { tcp dport 22 accept; reject with icmpx admin-prohibited; }; }",
        ),
        [false, true],
    ),
    (
        "input long before us",
        By::Nft(
            "table inet early { chain input { type filter hook input priority -190; \
             ip saddr 192.0.2.2 tcp dport 8080 drop; }; }",
        ),
        [false, true],
    ),
    (
        "input by link",
        By::Nft(
            "table ip links { chain input { type filter hook input priority 0; \
             iifname \"lan\" ct state new drop; }; }",
        ),
        [false, true],
    ),
    (
        "everything of the neighbour, before connections are followed",
        By::Nft(
            "table ip raw { chain prerouting { type filter hook prerouting priority -300; \
             ip saddr 192.0.2.2 drop; }; }",
        ),
        [true, true],
    ),
    (
        "forwarding from a link, behind us",
        By::Nft(
            "table inet filter { chain forward { type filter hook forward priority 50; \
             iifname \"lan\" ct state new drop; }; }",
        ),
        [true, false],
    ),
    (
        "forwarding drops what it does not know, before us",
        By::Nft(
            "table inet filter { chain forward { type filter hook forward priority -10; policy drop; \
             ct state established,related accept; }; }",
        ),
        [true, false],
    ),
    (
        "the neighbour in DOCKER-USER",
        By::Iptables(
            "-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 192.0.2.2 -j DROP\n\
             -A DOCKER-USER -j RETURN\n-P FORWARD DROP",
        ),
        [true, false],
    ),
    (
        "the neighbour in our chain user",
        By::Nft("table inet havre-test { chain user { ip saddr 192.0.2.2 drop; }; }"),
        [true, true],
    ),
];

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()) || {
        havre_testkit::skip(&format!("{program} is not installed"));
        false
    }
}

fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

fn iptables(lines: &str) {
    for line in lines.lines() {
        let status = Command::new("iptables-nft").args(line.split_whitespace()).status().unwrap();
        assert!(status.success(), "{line}");
    }
}

fn listed() -> String {
    let output = Command::new("iptables-nft").args(["-S", "FORWARD"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn n01_what_the_host_refuses_is_refused_in_twelve_layouts() {
    assert_eq!(LAYOUTS.len(), 12);
    for (name, by, refused) in LAYOUTS {
        for (by_input, refused) in [false, true].into_iter().zip(refused) {
            on_a_host(|host: &mut Host| {
                if !is_there("nft") || !is_there("iptables-nft") {
                    return;
                }
                let lan = neighbour(host);
                let watched = Watched::open(by_input);
                watched.fabric.create(only4("front")).unwrap();
                let (_, server) = watched.serve("front", &[(None, 8080)]);
                assert!(inside(&lan, || ask(HOST, 8080)).is_some(), "{name}");
                match by {
                    By::Nft(script) => nft(script),
                    By::Iptables(lines) => iptables(lines),
                }
                let reached = inside(&lan, || try_to_ask(HOST, 8080));
                assert_eq!(reached.is_none(), *refused, "{name}, judged by input: {by_input}");
                // Whoever is on the host reaches it whatever comes from elsewhere.
                assert!(ask("127.0.0.1", 8080).is_some(), "{name}");
                drop(server);
            });
        }
    }
}

#[test]
fn published_ports_are_what_the_hosts_input_says() {
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        let watched = Watched::open(true);
        watched.fabric.create(only4("front")).unwrap();
        let (id, server) =
            watched.serve("front", &[(None, 8080), (Some("127.0.0.1"), 9090), (Some(HOST), 8081)]);
        let bridge = "198.18.1.1";
        assert_eq!(inside(&lan, || ask(HOST, 8080)).as_deref(), Some(bridge), "by the relay");
        assert_eq!(inside(&lan, || ask(HOST, 8081)).as_deref(), Some(bridge));
        assert_eq!(inside(&lan, || try_to_ask(HOST, 9090)), None);
        for (at, port) in
            [("127.0.0.1", 8080), ("127.0.0.1", 9090), (HOST, 8080), (HOST, 8081), ("::1", 8080)]
        {
            assert!(ask(at, port).is_some(), "{at} {port}");
        }
        // A hundred connections at once, and a port that is taken over while it is open.
        let many: Vec<_> = (0..100).map(|_| std::thread::spawn(|| ask(HOST, 8080))).collect();
        assert!(many.into_iter().all(|one| one.join().unwrap().is_some()));
        let ports = |text: &str, host| {
            vec![PublishedPort { port: Port::range(text).unwrap().0, address: None, host: (host, host) }]
        };
        watched.fabric.republish(&id, &ports("80", 8090)).unwrap();
        assert!(inside(&lan, || ask(HOST, 8090)).is_some());
        until("the old door is closed", || inside(&lan, || try_to_ask(HOST, 8080)).is_none());
        watched.fabric.disconnect(&id);
        until("all doors are closed", || watched.fabric.relay().doors().is_empty());
        let (_, again) = watched.serve("front", &[(None, 8090)]);
        assert!(inside(&lan, || ask(HOST, 8090)).is_some());
        drop((server, again));
    });
}

#[test]
fn datagrams_are_relayed_and_answered() {
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        let watched = Watched::open(true);
        watched.fabric.create(only4("front")).unwrap();
        let id = ContainerId::random();
        let asked =
            PublishedPort { port: Port::range("53/udp").unwrap().0, address: None, host: (5353, 5353) };
        let connected = watched.fabric.connect(&id, "c", &[asks("front")], &[asked]).unwrap();
        let sandbox = Sandbox::of(connected.namespace).unwrap();
        let server =
            inside(&sandbox, || UdpSocket::bind((connected.endpoints[0].addresses[0].addr(), 53)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let echo = |client: &UdpSocket, to: &str| {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 8];
            for word in [&b"one"[..], b"two"] {
                client.send_to(word, to).unwrap();
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..length], from).unwrap();
                let (length, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (word, to.parse().unwrap()));
            }
        };
        echo(&inside(&lan, || UdpSocket::bind((NEIGHBOUR, 0)).unwrap()), &format!("{HOST}:5353"));
        echo(&UdpSocket::bind("[::1]:0").unwrap(), "[::1]:5353");
        echo(&UdpSocket::bind("127.0.0.1:0").unwrap(), "127.0.0.1:5353");
        watched.fabric.disconnect(&id);
    });
}

#[test]
fn dockerds_policy_does_not_cut_containers_off_and_its_rules_stay() {
    on_a_host(|host: &mut Host| {
        if !is_there("iptables-nft") {
            return;
        }
        let lan = neighbour(host);
        let watched = Watched::open(false);
        let (network, _) = watched.fabric.create(only4("front")).unwrap();
        let (id, server) = watched.serve("front", &[(None, 8080)]);
        // dockerd comes later.
        iptables(
            "-N DOCKER-USER\n-N DOCKER-FORWARD\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n\
             -A DOCKER-USER -j RETURN",
        );
        let before = listed();
        iptables("-P FORWARD DROP");
        until("our bridge may forward", || {
            listed().lines().filter(|line| line.contains(&network.bridge)).count() == 2
        });
        assert!(inside(&lan, || ask(HOST, 8080)).is_some());
        let out = inside(&server.2, || UdpSocket::bind("0.0.0.0:0").unwrap());
        let there = inside(&lan, || UdpSocket::bind((NEIGHBOUR, 0)).unwrap());
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        out.send_to(b"x", there.local_addr().unwrap()).unwrap();
        assert_eq!(there.recv_from(&mut [0; 4]).unwrap().1.ip().to_string(), HOST, "with the host's address");
        // The administrator's word comes first.
        iptables(&format!("-I DOCKER-USER -s {NEIGHBOUR} -j DROP"));
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None);
        iptables(&format!("-D DOCKER-USER -s {NEIGHBOUR} -j DROP"));
        // It restarts and makes its chain anew.
        iptables("-F FORWARD\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD");
        until("our bridge may forward again", || listed().contains(&network.bridge));
        drop(server);
        watched.fabric.disconnect(&id);
        watched.fabric.remove("front").unwrap();
        iptables("-P FORWARD ACCEPT");
        assert_eq!(listed(), before, "nothing of ours is left");
        let filter = Table { family: Family::Ip, name: "filter" };
        let mut kernel = Nft::open().unwrap();
        assert!(kernel.rules(filter).unwrap().iter().all(|rule| rule.comment.is_none()));
        assert!(kernel.rules(TABLE).unwrap().is_empty());
    });
}
