//! Networks in which the daemon is killed: what was acknowledged is there, nothing else is, and containers that run keep
//! their connections all the time.
//!
//! The engine has a network namespace of its own, so that whatever is in it is the engine's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use havre_sys::netlink::Route;
use havre_sys::netns;
use havre_sys::nft::{Family, Nft, Table};

use crate::world::{Answer, PATIENCE, Random, World};
use crate::{begin, seeded};

const WORKERS: usize = 3;
const OPERATIONS: usize = 300;
const SERVE: &str = "mkdir -p /w && echo served >/w/index.html && exec httpd -f -p 80 -h /w";
/// Of the kernel's packet filter, the sets whose elements are containers' ports.
const PORTS: &[&str] = &["ports4", "ports4_at", "open4"];

/// What is known of something; none after an answer that did not come.
type Known<T> = Option<T>;

/// What one worker was told. Nobody else touches what is its.
#[derive(Default)]
struct Model {
    /// Whether a network is there.
    networks: BTreeMap<String, Known<bool>>,
    /// The networks of a container that runs, and whether its port is published; none within is a container that is gone.
    containers: BTreeMap<String, Known<Option<(BTreeSet<String>, bool)>>>,
}

/// How a command ended.
#[derive(PartialEq, Eq)]
enum End {
    Done,
    /// The engine said no: nothing has changed.
    Denied,
    /// No daemon was there.
    Nobody,
    /// It died meanwhile.
    Lost,
}

fn end(answer: &Answer) -> End {
    match answer {
        answer if answer.code == Some(0) => End::Done,
        answer if answer.was_refused() => End::Nobody,
        answer if answer.stderr.contains("Error response from daemon") => End::Denied,
        _ => End::Lost,
    }
}

/// The first line of what a web server says at this port of the namespace.
fn fetch(space: &OwnedFd, port: u16) -> std::io::Result<String> {
    netns::enter_with(space.as_fd(), || {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.lines().last().unwrap_or_default().to_owned())
    })
}

pub(crate) fn killed_networks(world: &Arc<World>) {
    let space = Arc::new(netns::create().unwrap());
    Route::open_in(space.as_fd()).unwrap().change(|changes| changes.set_up("lo", true)).unwrap();
    world.live_in(space.try_clone().unwrap());
    let seed = seeded().below(u64::MAX >> 33);
    begin(world);
    world.must(&["network", "create", "keep"]);
    let run = ["run", "-d", "--name", "keeper", "--network", "keep", "-p", "127.0.0.1:8080:80", "busybox"];
    world.must(&[&run[..], &["sh", "-c", SERVE]].concat());
    let began = Instant::now();
    while fetch(&space, 8080).is_err() {
        assert!(began.elapsed() < PATIENCE, "the container does not serve");
    }
    let (done, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = {
        let (space, over) = (Arc::clone(&space), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut fetched = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(fetch(&space, 8080).expect("a running container is not reached"), "served");
                fetched += 1;
            }
            fetched
        })
    };
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let (world, done) = (Arc::clone(world), Arc::clone(&done));
            let mut random = Random::new(seed + number as u64 + 1);
            std::thread::spawn(move || {
                let mut model = Model::default();
                while done.load(Ordering::Relaxed) < OPERATIONS {
                    if operate(&world, number, &mut model, &mut random) {
                        done.fetch_add(1, Ordering::Relaxed);
                    } else {
                        world.await_daemon();
                    }
                }
                model
            })
        })
        .collect();
    let (mut random, mut kills) = (Random::new(seed), 0);
    while done.load(Ordering::Relaxed) < OPERATIONS && workers.iter().any(|worker| !worker.is_finished()) {
        world.pause(Duration::from_micros(5_000 + random.below(150_000)));
        world.kill_daemon();
        kills += 1;
        world.start_daemon();
    }
    let models: Vec<Model> =
        workers.into_iter().map(|worker| worker.join().expect("a worker failed")).collect();
    over.store(true, Ordering::Relaxed);
    let fetched: u64 = watcher.join().expect("the connection was lost");
    println!("{kills} kills, {fetched} fetches");
    // One more, so that everything is as the next start makes it.
    world.kill_daemon();
    world.start_daemon();
    models.iter().for_each(|model| verify(world, model));
    everything_is_somebodys(world, &space);
    clean_up(world, &space);
}

/// One operation. False when no daemon took it.
fn operate(world: &World, worker: usize, model: &mut Model, random: &mut Random) -> bool {
    let network = format!("n{worker}-{}", random.below(3));
    let container = format!("c{worker}-{}", random.below(3));
    let there = model.networks.get(&network).copied().unwrap_or(Some(false));
    let runs = model.containers.get(&container).cloned().unwrap_or(Some(None));
    let (answer, network_then, container_then);
    match (there, runs) {
        // What is not known is found out by removing it.
        (_, None) => {
            answer = world.havre(&["rm", "-f", &container]);
            (network_then, container_then) = (None, Some(Some(None)));
        }
        (None, _) => {
            answer = world.havre(&["network", "rm", "-f", &network]);
            (network_then, container_then) = (Some(Some(false)), None);
            let used = answer.stderr.contains("active endpoints");
            if used {
                model.networks.insert(network, Some(true));
                return true;
            }
        }
        (Some(false), _) => {
            answer = world.havre(&["network", "create", &network]);
            (network_then, container_then) = (Some(Some(true)), None);
        }
        (Some(true), Some(None)) => {
            let run = ["run", "-d", "--name", &container, "--network", &network, "busybox", "sleep", "1000"];
            answer = world.havre(&run);
            (network_then, container_then) =
                (None, Some(Some(Some((BTreeSet::from([network.clone()]), false)))));
        }
        (Some(true), Some(Some((mut own, published)))) => match random.below(5) {
            0 => {
                answer = world.havre(&["rm", "-f", &container]);
                (network_then, container_then) = (None, Some(Some(None)));
            }
            1 => {
                let flag = if published { "--publish-rm" } else { "--publish-add" };
                answer = world.havre(&["update", flag, "127.0.0.1::80", &container]);
                (network_then, container_then) = (None, Some(Some(Some((own, !published)))));
            }
            2 if !own.contains(&network) && random.below(2) == 0 => {
                answer = world.havre(&["network", "rm", &network]);
                // Another container of this worker may be in it.
                if answer.stderr.contains("active endpoints") {
                    return true;
                }
                (network_then, container_then) = (Some(Some(false)), None);
            }
            _ if own.remove(&network) => {
                answer = world.havre(&["network", "disconnect", &network, &container]);
                (network_then, container_then) = (None, Some(Some(Some((own, published)))));
            }
            _ => {
                answer = world.havre(&["network", "connect", &network, &container]);
                own.insert(network.clone());
                (network_then, container_then) = (None, Some(Some(Some((own, published)))));
            }
        },
    }
    let end = end(&answer);
    assert!(end != End::Denied, "what was acknowledged is not there: {answer:?}");
    if end == End::Nobody {
        return false;
    }
    let known = end == End::Done;
    if let Some(then) = network_then {
        model.networks.insert(network, then.filter(|_| known));
    }
    if let Some(then) = container_then {
        model.containers.insert(container, then.filter(|_| known));
    }
    true
}

/// Compares what was acknowledged with what the engine says and with what the containers have.
fn verify(world: &World, model: &Model) {
    let names = world.must(&["network", "ls", "--format", "{{.Name}}"]);
    let listed: BTreeSet<&str> = names.lines().collect();
    for (name, known) in &model.networks {
        if let Some(there) = known {
            assert_eq!(listed.contains(name.as_str()), *there, "{name}");
        }
    }
    for (name, known) in &model.containers {
        let Some(known) = known else { continue };
        let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
        let shown = world.havre(&["inspect", "-f", format, name]);
        let Some((own, published)) = known else {
            assert_ne!(shown.code, Some(0), "{name} was acknowledged as removed");
            continue;
        };
        let seen: BTreeSet<String> = shown.stdout.split_whitespace().map(str::to_owned).collect();
        assert_eq!(&seen, own, "the networks of {name}");
        let devices = world.must(&["exec", name, "ls", "/sys/class/net"]);
        assert_eq!(devices.split_whitespace().count(), own.len() + 1, "the devices of {name}: {devices}");
        let ports = world.must(&["port", name]);
        let reachable = *published && !own.is_empty();
        assert_eq!(!ports.trim().is_empty(), reachable, "the ports of {name}: {ports}");
    }
}

/// The names of links, but the loopback one.
fn links(space: &OwnedFd) -> BTreeSet<String> {
    let all = Route::open_in(space.as_fd()).unwrap().links().unwrap();
    all.into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
}

/// How many ports lead somewhere.
fn led(space: &OwnedFd) -> usize {
    let mut nft = Nft::open_in(space.as_fd()).unwrap();
    let tables = nft.tables().unwrap();
    let inet = tables.iter().find(|table| table.name.starts_with("havre-"));
    let Some(name) = inet.map(|table| table.name.clone()) else { return 0 };
    let table = Table { family: Family::Inet, name: &name };
    PORTS.iter().map(|set| nft.elements(table, set).unwrap().len()).sum()
}

/// Every link, port and place is a container's that runs, or a network's.
fn everything_is_somebodys(world: &World, space: &OwnedFd) {
    let networks = world.must(&["network", "ls", "-q", "--filter", "driver=bridge"]).lines().count();
    let (mut joined, mut published) = (0, 0);
    for id in world.must(&["ps", "-q"]).lines() {
        let format = "{{len .NetworkSettings.Networks}}";
        joined += world.must(&["inspect", "-f", format, id]).trim().parse::<usize>().unwrap();
        published += world.must(&["port", id]).lines().count();
    }
    let ids = world.must(&["network", "ls", "-q"]);
    let places: usize = ids
        .lines()
        .map(|id| {
            world
                .must(&["network", "inspect", "-f", "{{len .Containers}}", id])
                .trim()
                .parse::<usize>()
                .unwrap()
        })
        .sum();
    assert_eq!(places, joined, "places in networks");
    // The default network has a bridge only while somebody is in it.
    let expected = networks - 1 + joined;
    settle(&|| links(space).len() == expected, &|| format!("{expected} links are not {:?}", links(space)));
    assert_eq!(led(space), published, "published ports");
}

fn settle(expected: &dyn Fn() -> bool, otherwise: &dyn Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !expected() {
        assert!(Instant::now() < end, "{}", otherwise());
        std::thread::yield_now();
    }
}

/// After everything is removed and the engine has ended, nothing is left.
fn clean_up(world: &World, space: &OwnedFd) {
    for id in world.must(&["ps", "-aq"]).lines() {
        world.must(&["rm", "-f", id]);
    }
    for id in world.must(&["network", "ls", "-q", "--filter", "type=custom"]).lines() {
        world.must(&["network", "rm", id]);
    }
    world.end();
    settle(&|| links(space).is_empty(), &|| format!("links are left: {:?}", links(space)));
    let tables = Nft::open_in(space.as_fd()).unwrap().tables().unwrap();
    assert!(tables.is_empty(), "tables are left: {tables:?}");
}
