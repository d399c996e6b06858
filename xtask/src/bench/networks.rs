//! Networks. Both engines live in one network namespace of their own, so that what a peer does to the packet filter
//! stays there; servers and their clients are threads of this program in the containers' namespaces, the same for both.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use havre_sys::netns;
use serde_json::{Value, json};

use super::{API, timed};
use crate::engine::Engine;
use crate::process;

/// An address of the host that is not a loopback one.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// How long requests and bytes are counted.
const COUNTED: Duration = Duration::from_secs(2);
const CLIENTS: usize = 4;
/// As much is sent at once.
const PIECE: usize = 128 << 10;

/// Runs `work` in a namespace of its own with an address beside the loopback one.
pub(super) fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let space = netns::create()?;
    let inside = || {
        let prepared = ip(&["link", "set", "lo", "up"])
            .and_then(|()| ip(&["address", "add", &format!("{HOST}/32"), "dev", "lo"]));
        // On a thread with an ordinary stack.
        let done = prepared.and_then(|()| {
            std::thread::scope(|scope| {
                scope.spawn(work).join().unwrap_or_else(|_| bail!("a measure panicked"))
            })
        });
        Ok(done)
    };
    netns::enter_with(space.as_fd(), inside)?
}

fn ip(words: &[&str]) -> Result<()> {
    process::output(Command::new("ip").args(words)).map(drop)
}

/// A container that waits.
fn start(engine: &Engine, name: &str, flags: &[&str]) -> Result<()> {
    engine
        .client(&[&["run", "-d", "--name", name], flags, &["busybox", "sleep", "100000"]].concat())
        .map(drop)
}

fn inspect(engine: &Engine, name: &str) -> Result<Value> {
    let text = engine.connect()?.call("GET", &format!("{API}/containers/{name}/json"), None)?;
    Ok(serde_json::from_str(&text)?)
}

/// The namespace of a container, and its first address.
fn space(engine: &Engine, name: &str) -> Result<(OwnedFd, IpAddr)> {
    let shown = inspect(engine, name)?;
    let pid = shown["State"]["Pid"].as_i64().context("no process")?;
    let networks = shown["NetworkSettings"]["Networks"].as_object().context("no networks")?;
    let address = networks.values().find_map(|one| one["IPAddress"].as_str()?.parse().ok());
    let file = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    Ok((file.into(), address.context("no address")?))
}

/// Runs `work` in a namespace.
fn inside<T: Send>(space: &OwnedFd, work: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
    Ok(netns::enter_with(space.as_fd(), work)?)
}

pub(super) fn run(engine: &Engine, _: &Path) -> Result<f64> {
    timed(engine, &["run", "--rm", "busybox", "true"])
}

fn with_network(engine: &Engine) -> Result<()> {
    if engine.client(&["inspect", "bench-net"]).is_err() {
        engine.client(&["network", "create", "bench-net-one"])?;
        start(engine, "bench-net", &[])?;
    }
    Ok(())
}

fn asks(engine: &Engine, action: &str) -> Result<f64> {
    let mut api = engine.connect()?;
    let began = Instant::now();
    let body = json!({ "Container": "bench-net" });
    api.call("POST", &format!("{API}/networks/bench-net-one/{action}"), Some(&body))?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

pub(super) fn connect(engine: &Engine, _: &Path) -> Result<f64> {
    with_network(engine)?;
    let taken = asks(engine, "connect");
    asks(engine, "disconnect")?;
    taken
}

pub(super) fn disconnect(engine: &Engine, _: &Path) -> Result<f64> {
    with_network(engine)?;
    asks(engine, "connect")?;
    asks(engine, "disconnect")
}

/// Starts a container with so many published ports.
fn with_ports(engine: &Engine, name: &str, first: u16, count: u16) -> Result<f64> {
    let range = format!("{first}-{}", first + (count - 1));
    let create = ["create", "--name", name, "-p", &format!("{range}:{range}"), "busybox", "sleep", "100000"];
    engine.client(&create)?;
    timed(engine, &["start", name])
}

pub(super) fn thousand_ports(engine: &Engine, _: &Path) -> Result<f64> {
    let taken = with_ports(engine, "bench-ports", 20_000, 1_000);
    engine.client(&["rm", "-f", "bench-ports"])?;
    taken
}

pub(super) fn ten_thousand_ports(engine: &Engine, _: &Path) -> Result<f64> {
    if engine.name == "docker" {
        bail!("not tried: it starts a process for each port and each family");
    }
    let taken = with_ports(engine, "bench-ports", 20_000, 10_000);
    engine.client(&["rm", "-f", "bench-ports"])?;
    taken
}

/// A start while a thousand ports of another container are published.
pub(super) fn run_beside_ports(engine: &Engine, folder: &Path) -> Result<f64> {
    if engine.client(&["inspect", "bench-many-ports"]).is_err() {
        with_ports(engine, "bench-many-ports", 30_000, 1_000)?;
    }
    run(engine, folder)
}

/// Removes what the measure above has left.
pub(super) fn without_ports(engine: &Engine) {
    let _gone = engine.client(&["rm", "-f", "bench-many-ports"]);
}

pub(super) fn two_hundred(engine: &Engine, _: &Path) -> Result<f64> {
    let mut api = engine.connect()?;
    let began = Instant::now();
    let mut made = Ok(0.0);
    for number in 0..200 {
        let body = json!({ "Name": format!("bench-two-{number}") });
        if let Err(error) = api.call("POST", &format!("{API}/networks/create"), Some(&body)) {
            made = Err(error.context(format!("network {number} of 200")));
            break;
        }
        made = Ok(began.elapsed().as_secs_f64() * 1e3);
    }
    for number in 0..200 {
        api.send("DELETE", &format!("{API}/networks/bench-two-{number}"), None)?;
    }
    made
}

/// Answers connections in a container's namespace until told to stop.
fn serve(listener: &TcpListener, over: &AtomicBool) -> std::io::Result<()> {
    let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    while !over.load(Ordering::Relaxed) {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 512];
        // One that goes away is no failure of the server's.
        let _answered = stream.read(&mut request).and_then(|_| stream.write_all(answer));
    }
    Ok(())
}

fn request(at: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    if text.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Requests a second through a published port, at an address of the host.
fn requests(engine: &Engine, host: Ipv4Addr) -> Result<f64> {
    let name = "bench-web";
    if engine.client(&["inspect", name]).is_err() {
        start(engine, name, &["-p", "8088:8088"])?;
    }
    let (space, address) = space(engine, name)?;
    let listener = inside(&space, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8088)))?;
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (at, began) = (SocketAddr::from((host, 8088)), Instant::now());
    let counted = std::thread::scope(|scope| {
        let servers: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| serve(&listener, &over))).collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> std::io::Result<()> {
                    while began.elapsed() < COUNTED {
                        request(at)?;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        let taken = began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        // One that waits needs one more connection to see that it is over.
        let inner = SocketAddr::from((address, 8088));
        for server in servers {
            while !server.is_finished() {
                let _woken = TcpStream::connect_timeout(&inner, Duration::from_millis(100));
            }
        }
        for end in ended {
            end.map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        anyhow::Ok(taken)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(answered.load(Ordering::Relaxed) as f64 / counted)
}

pub(super) fn requests_loopback(engine: &Engine, _: &Path) -> Result<f64> {
    requests(engine, Ipv4Addr::LOCALHOST)
}

pub(super) fn requests_host(engine: &Engine, _: &Path) -> Result<f64> {
    requests(engine, HOST)
}

/// MB a second from one namespace to another.
fn throughput(from: &OwnedFd, to: &OwnedFd, address: IpAddr) -> Result<f64> {
    let listener = inside(to, || TcpListener::bind((address, 0)))?;
    let at = listener.local_addr()?;
    let mut sender = inside(from, || TcpStream::connect(at))?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let (mut piece, mut all) = (vec![0; PIECE], 0);
            loop {
                match stream.read(&mut piece)? {
                    0 => return Ok(all),
                    length => all += length as u64,
                }
            }
        });
        let (piece, began) = (vec![7; PIECE], Instant::now());
        while began.elapsed() < COUNTED {
            sender.write_all(&piece)?;
        }
        sender.shutdown(std::net::Shutdown::Both)?;
        let all = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(all as f64 / 1e6 / began.elapsed().as_secs_f64())
    })
}

pub(super) fn between_containers(engine: &Engine, _: &Path) -> Result<f64> {
    if engine.client(&["inspect", "bench-left"]).is_err() {
        engine.client(&["network", "create", "bench-pair"])?;
        start(engine, "bench-left", &["--network", "bench-pair"])?;
        start(engine, "bench-right", &["--network", "bench-pair"])?;
    }
    let ((from, _), (to, address)) = (space(engine, "bench-left")?, space(engine, "bench-right")?);
    throughput(&from, &to, address)
}

/// The same through a bridge that nobody looks after.
pub(super) fn between_bare(_: &Path) -> Result<f64> {
    let (from, to) = (netns::create()?, netns::create()?);
    ip(&["link", "add", "bare0", "type", "bridge"])?;
    let made = (|| {
        ip(&["link", "set", "bare0", "up"])?;
        for (number, space) in [(1, &from), (2, &to)] {
            let outer = format!("bare-veth{number}");
            ip(&[
                "link",
                "add",
                &outer,
                "master",
                "bare0",
                "up",
                "type",
                "veth",
                "peer",
                "name",
                &format!("bare-in{number}"),
            ])?;
            // A descriptor of ours, by the name that the program can open.
            let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(space));
            ip(&["link", "set", &format!("bare-in{number}"), "netns", &path])?;
            inside(space, || {
                let set = |words: &[&str]| ip(words).map_err(std::io::Error::other);
                set(&[
                    "address",
                    "add",
                    &format!("10.201.0.{number}/24"),
                    "dev",
                    &format!("bare-in{number}"),
                ])?;
                set(&["link", "set", &format!("bare-in{number}"), "up"])
            })?;
        }
        throughput(&from, &to, Ipv4Addr::new(10, 201, 0, 2).into())
    })();
    ip(&["link", "delete", "bare0"])?;
    made
}
