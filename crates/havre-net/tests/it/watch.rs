//! What others do while the engine runs, and what it does about it.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use havre_base::ContainerId;
use havre_net::fabric::{Fabric, FabricSpec};
use havre_net::networks::{EndpointSpec, Networks};
use havre_net::pools::{Pool, Pools};
use havre_net::ports::{Port, PublishedPort};
use havre_net::sandbox::Sandbox;
use havre_net::spec::{BlockText, NetworkSpec, blocks};
use havre_store::Db;
use havre_sys::nft::{Batch, Chain, Family, Hook, Nft, Rule, Table};
use tokio::sync::oneshot;

use crate::firewall::{HOST, NEIGHBOUR, Server, ask, neighbour, only4, try_to_ask};
use crate::{Host, asks, inside, on_a_host};

pub(crate) const TABLE: Table<'_> = Table { family: Family::Inet, name: "havre-test" };

/// An engine's networks, watched as the daemon does.
pub(crate) struct Watched {
    pub(crate) fabric: Arc<Fabric>,
    end: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
    _folder: tempfile::TempDir,
}

impl Watched {
    pub(crate) fn open(by_input: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
        let pool = Pool::new("198.18.0.0/15", 24).unwrap();
        let networks = Networks::open(db, Pools::new(vec![pool], [1; 5]), &only4("bridge")).unwrap();
        let spec =
            FabricSpec { table: Some(TABLE.name.into()), by_input, mark: folder.path().join("forwarding") };
        let fabric = Arc::new(Fabric::open(Arc::new(networks), &spec).unwrap());
        fabric.restore(&|_| false);
        let (end, ended) = oneshot::channel::<()>();
        let watched = Arc::clone(&fabric);
        // A thread is in the namespace of the one that made it.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = havre_net::watch::watch(watched) => {}
                    _ = ended => {}
                }
            });
        });
        Self { fabric, end: Some((end, thread)), _folder: folder }
    }

    /// A container that serves at port 80, published at these ports.
    pub(crate) fn serve(&self, network: &str, ports: &[(Option<&str>, u16)]) -> (ContainerId, Server) {
        let id = ContainerId::random();
        let asked: Vec<PublishedPort> = ports
            .iter()
            .map(|(at, port)| PublishedPort {
                port: Port::range("80").unwrap().0,
                address: at.map(|at| at.parse().unwrap()),
                host: (*port, *port),
            })
            .collect();
        let connected = self.fabric.connect(&id, "web", &[asks(network)], &asked).unwrap();
        let at = connected.endpoints[0].addresses[0].addr();
        (id, Server::start(Sandbox::of(connected.namespace).unwrap(), at))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.end.take() {
            end.send(()).unwrap_or(());
            thread.join().unwrap();
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// `nft flush ruleset`.
fn flush(nft: &mut Nft) {
    let mut batch = Batch::new();
    for table in nft.tables().unwrap() {
        batch.delete_table(Table { family: table.family, name: &table.name });
    }
    nft.apply(batch).unwrap();
}

fn rules(nft: &mut Nft) -> usize {
    nft.rules(TABLE).unwrap().len()
}

#[test]
fn n02_n03_a_flushed_ruleset_is_written_again_by_the_event() {
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        let watched = Watched::open(false);
        watched.fabric.create(only4("front")).unwrap();
        let (id, server) = watched.serve("front", &[(None, 8080), (Some("127.0.0.1"), 9090)]);
        let mut nft = Nft::open().unwrap();
        let whole = rules(&mut nft);
        let own = watched.fabric.networks().of_container(&id)[0].addresses[0].addr().to_string();
        let check = || {
            until("the ports work again", || ask("127.0.0.1", 9090).is_some());
            assert_eq!(inside(&lan, || try_to_ask(&own, 80)), None, "n02_a neighbour with a route");
            assert_eq!(inside(&lan, || try_to_ask(HOST, 9090)), None);
            assert!(inside(&lan, || ask(HOST, 8080)).is_some());
        };
        check();
        // As `nft flush ruleset` does, twice; the second while the first may still be mended.
        flush(&mut nft);
        flush(&mut nft);
        until("all is written again", || rules(&mut Nft::open().unwrap()) == whole);
        check();
        // Only a chain is emptied, as careless reloads do; only a set.
        let mut batch = Batch::new();
        batch.flush_chain(TABLE, "guard").flush_set(TABLE, "bridges");
        nft.apply(batch).unwrap();
        until("the chain is whole again", || rules(&mut Nft::open().unwrap()) == whole);
        until("the set too", || !Nft::open().unwrap().elements(TABLE, "bridges").unwrap().is_empty());
        // A table of the same name with something else in it, as a saved ruleset of another day restores it.
        let mut batch = Batch::new();
        batch.clear_table(TABLE).create_table(TABLE, None);
        batch.create_chain(TABLE, &Chain::filter("ports", Hook::Forward, 5));
        nft.apply(batch).unwrap();
        until("it is ours again", || rules(&mut Nft::open().unwrap()) == whole);
        check();
        drop(server);
    });
}

#[test]
fn n01_n03_what_the_administrator_does_is_left_alone() {
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        let watched = Watched::open(false);
        watched.fabric.create(only4("front")).unwrap();
        let (_, server) = watched.serve("front", &[(None, 8080)]);
        let mut nft = Nft::open().unwrap();
        let handle = |nft: &mut Nft| {
            let table = nft.tables().unwrap().into_iter().find(|table| table.name == TABLE.name).unwrap();
            (table.handle, nft.rules(TABLE).unwrap().into_iter().map(|rule| rule.handle).collect::<Vec<_>>())
        };
        until("the first writing is done", || {
            let mut nft = Nft::open().unwrap();
            handle(&mut nft) == handle(&mut nft)
        });
        let mut batch = Batch::new();
        batch.add_rule(TABLE, "user", &Rule::new().from_network(NEIGHBOUR.parse().unwrap(), 32).drop());
        nft.apply(batch).unwrap();
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None, "n01_the chain user");
        // Somebody flushes our rules; the administrator's stay with their table.
        let mut batch = Batch::new();
        batch.flush_chain(TABLE, "forward");
        nft.apply(batch).unwrap();
        until("the rules are there", || {
            Nft::open().unwrap().rules(TABLE).unwrap().iter().any(|rule| rule.chain == "forward")
        });
        assert_eq!(inside(&lan, || try_to_ask(HOST, 8080)), None);
        drop(server);
    });
}

#[test]
fn an_engine_that_ends_takes_everything_along_while_containers_leave() {
    on_a_host(|host: &mut Host| {
        let watched = Watched::open(false);
        let fabric = &watched.fabric;
        let id = ContainerId::random();
        let connected = fabric.connect(&id, "c", &[asks("bridge")], &[]).unwrap();
        let leaving = fabric.leaving();
        let closing = std::thread::scope(|scope| {
            let closing = scope.spawn(|| fabric.close());
            fabric.disconnect(&id);
            drop(leaving);
            closing.join()
        });
        closing.unwrap();
        drop(connected);
        assert!(Nft::open().unwrap().tables().unwrap().is_empty());
        until("no link is left", || havre_sys::netlink::Route::open().unwrap().links().unwrap().len() == 1);
        // The table goes with the last network, too.
        let (network, _) = fabric.create(only4("front")).unwrap();
        assert_eq!(Nft::open().unwrap().tables().unwrap().len(), 1);
        fabric.remove(&network.spec.name).unwrap();
        assert!(Nft::open().unwrap().tables().unwrap().is_empty());
        assert_eq!(host.route.links().unwrap().len(), 1);
    });
}

#[test]
fn n13_flows_of_datagrams_follow_the_port() {
    on_a_host(|host: &mut Host| {
        let lan = neighbour(host);
        let watched = Watched::open(false);
        let text = BlockText { subnet: "198.18.1.0/24".into(), ..BlockText::default() };
        let blocks = blocks(&[text]).unwrap();
        watched.fabric.create(NetworkSpec { blocks, ..only4("front") }).unwrap();
        let port =
            PublishedPort { port: Port::range("53/udp").unwrap().0, address: None, host: (5353, 5353) };
        // Each answers with its address, as long as it is held.
        let start = |ipv4: &str| {
            let id = ContainerId::random();
            let spec = EndpointSpec { ipv4: Some(ipv4.parse().unwrap()), ..asks("front") };
            let connected = watched.fabric.connect(&id, "c", &[spec], &[port]).unwrap();
            let sandbox = Sandbox::of(connected.namespace).unwrap();
            let socket = inside(&sandbox, || UdpSocket::bind((ipv4, 53))).unwrap();
            let (own, ended) = (socket.try_clone().unwrap(), Arc::new(AtomicBool::new(false)));
            let stop = Arc::clone(&ended);
            own.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let address = ipv4.to_owned();
            let serving = std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = own.recv_from(&mut [0; 8]) {
                        own.send_to(address.as_bytes(), from).unwrap();
                    }
                }
            });
            (id, sandbox, ended, serving)
        };
        // One client that goes on sending from the same port, whoever answers; one on the host too.
        let clients = [
            (inside(&lan, || UdpSocket::bind((NEIGHBOUR, 4000)).unwrap()), HOST),
            (UdpSocket::bind((HOST, 4001)).unwrap(), HOST),
        ];
        let answered = |(socket, to): &(UdpSocket, &str), by: &str| {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            until(&format!("{by} answers"), || {
                let mut buffer = [0; 32];
                // Refused where nobody listens yet.
                socket.send_to(b"who", (*to, 5353)).unwrap_or(0);
                let answer = socket.recv_from(&mut buffer);
                answer.is_ok_and(|(length, _)| &buffer[..length] == by.as_bytes())
            });
        };
        for (socket, to) in &clients {
            socket.send_to(b"too early", (*to, 5353)).unwrap();
        }
        for address in ["198.18.1.10", "198.18.1.11", "198.18.1.10"] {
            let (id, sandbox, ended, serving) = start(address);
            clients.iter().for_each(|client| answered(client, address));
            watched.fabric.disconnect(&id);
            ended.store(true, Ordering::Relaxed);
            serving.join().unwrap();
            drop(sandbox);
            for (socket, to) in &clients {
                socket.send_to(b"nobody", (*to, 5353)).unwrap_or(0);
            }
        }
    });
}

#[test]
fn a_container_with_an_address_of_one_that_ended_is_reached_at_once() {
    on_a_host(|_| {
        let watched = Watched::open(false);
        watched.fabric.create(only4("front")).unwrap();
        let mut kept = Vec::new();
        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..2 {
            let id = ContainerId::random();
            let connected = watched.fabric.connect(&id, "c", &[asks("front")], &[]).unwrap();
            let sandbox = Sandbox::of(connected.namespace).unwrap();
            let socket = inside(&sandbox, || UdpSocket::bind("198.18.1.2:53")).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            // The kernel brings a port up behind; what is sent before is lost.
            until("it hears the host", || {
                own.send_to(b"x", "198.18.1.2:53").unwrap();
                socket.recv_from(&mut [0; 8]).is_ok()
            });
            // It speaks, so that the bridge knows where it is, and its link stays longer than it.
            socket.send_to(b"x", "198.18.1.1:9").unwrap();
            kept.push((sandbox, socket));
            watched.fabric.disconnect(&id);
        }
    });
}

#[test]
fn n11_many_ports_are_published_while_nobody_listens() {
    on_a_host(|_| {
        let watched = Watched::open(false);
        watched.fabric.create(only4("front")).unwrap();
        let id = ContainerId::random();
        let all = PublishedPort { port: Port::range("80").unwrap().0, address: None, host: (1, 1) };
        let asked: Vec<PublishedPort> =
            (1..=u16::MAX).map(|port| PublishedPort { host: (port, port), ..all }).collect();
        let connected = watched.fabric.connect(&id, "c", &[asks("front")], &asked).unwrap();
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.elements(TABLE, "ports4").unwrap().len(), usize::from(u16::MAX));
        // Somebody else's change meanwhile is not lost, nor is ours taken for somebody else's.
        flush(&mut nft);
        until("all is written again", || {
            Nft::open().unwrap().elements(TABLE, "ports4").is_ok_and(|all| all.len() == usize::from(u16::MAX))
        });
        watched.fabric.disconnect(&id);
        drop(connected);
    });
}
