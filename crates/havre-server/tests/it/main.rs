//! Clients that are slow, many or strangers, against a server with small limits.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use havre_api::ApiVersion;
use havre_engine::spec::SeccompSpec;
use havre_engine::{Engine, Live, Settings};
use havre_image::Images;
use havre_net::networks::Networks;
use havre_net::pools::Pools;
use havre_net::spec::{Driver, NetworkSpec};
use havre_server::{Defaults, Info, Limits, Server};
use havre_store::db::Db;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PING: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server on ports of its own, until it is dropped.
struct World {
    plain: SocketAddr,
    tls: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data_root, exec_root) = (folder.path().join("data"), folder.path().join("exec"));
        std::fs::create_dir_all(&data_root).unwrap();
        std::fs::create_dir_all(&exec_root).unwrap();
        let (server_config, client) = keys();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let (plain, tls) = runtime.block_on(async {
            let db = Arc::new(Db::open(&data_root.join("state.db")).unwrap());
            let images = Arc::new(Images::open(&data_root, Arc::clone(&db), Arc::default()).unwrap());
            let settings = Settings {
                fabric: havre_net::fabric::FabricSpec {
                    table: None,
                    by_input: false,
                    mark: PathBuf::from("/nonexistent/mark"),
                },
                cgroup_parent: format!("/havre-test/server-{}", std::process::id()),
                data_root,
                exec_root,
                default_init: false,
                no_new_privileges: false,
                seccomp: SeccompSpec::Default,
                rlimits: Vec::new(),
                time_namespaces: true,
                cdi_folders: None,
                host_gateways: Vec::new(),
                dns: havre_engine::DnsDefaults::default(),
                live: Live::default(),
            };
            let networks = Arc::new(networks(&db));
            let engine = Arc::new(Engine::open(settings, images, networks, db).await.unwrap());
            let server = Server::new(engine, info(), limits);
            let local = SocketAddr::from(([127, 0, 0, 1], 0));
            let plain = tokio::net::TcpListener::bind(local).await.unwrap();
            let tls = tokio::net::TcpListener::bind(local).await.unwrap();
            let addresses = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
            tokio::spawn(server.clone().serve_tcp(plain));
            tokio::spawn(server.serve_tls(tls, server_config));
            addresses
        });
        Self { plain, tls, client, _runtime: runtime, _folder: folder }
    }

    fn plain(&self) -> TcpStream {
        connect(self.plain)
    }

    /// A known client's connection, after its handshake.
    fn known(&self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let client = rustls::ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        rustls::StreamOwned::new(client, connect(self.tls))
    }
}

fn networks(db: &Arc<Db>) -> Networks {
    let default = NetworkSpec {
        name: "bridge".into(),
        driver: Driver::Bridge,
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        blocks: Vec::new(),
        options: Default::default(),
        ipam_options: Default::default(),
        labels: Default::default(),
        ..NetworkSpec::default()
    };
    Networks::open(Arc::clone(db), Pools::new(Vec::new(), [0; 5]), &default).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn info() -> Info {
    Info {
        mirrors: Vec::new(),
        insecure_registries: Vec::new(),
        version: "1".into(),
        git_commit: String::new(),
        id: "test".into(),
        debug: false,
        experimental: false,
        labels: Vec::new(),
        oldest: ApiVersion::new(1, 24),
        warnings: Vec::new(),
        proxies: Default::default(),
        defaults: Defaults {
            shm_size: 1 << 20,
            ipc_mode: "private".into(),
            cgroupns_mode: String::new(),
            log_driver: "json-file".into(),
            log_options: Default::default(),
            network_options: Default::default(),
        },
    }
}

/// Keys of a server that no client is asked for any, and of a client that trusts it.
fn keys() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Limits that are never met.
fn wide() -> Limits {
    Limits { head_time: PATIENCE * 10, handshake_time: PATIENCE * 10, ..Limits::default() }
}

fn ping(stream: &mut (impl io::Read + io::Write)) {
    stream.write_all(PING).unwrap();
    answered(stream);
}

fn answered(stream: &mut impl io::Read) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nOK") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
}

/// Whether the server has hung up; it may say why before.
fn hung_up(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a04_a_head_that_drips_is_cut_off() {
    let world = World::new(Limits { head_time: Duration::from_millis(400), ..wide() });
    let mut drips = world.plain();
    drips.write_all(&PING[..20]).unwrap();
    drips.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let began = std::time::Instant::now();
    // A byte now and then does not buy more time, and the head is never complete.
    let cut = loop {
        assert!(began.elapsed() < PATIENCE, "a request that drips is waited for");
        let mut piece = [0; 256];
        match drips.write_all(b"x").and_then(|()| drips.read(&mut piece)) {
            Ok(0) => break true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break true,
            Ok(_) => {}
        }
    };
    assert!(cut);
    // Neither does one that says nothing, nor one that has been answered and says no more.
    assert!(hung_up(&mut world.plain()));
    let mut idle = world.plain();
    ping(&mut idle);
    assert!(hung_up(&mut idle));
    ping(&mut world.plain());
}

#[test]
fn a04_connections_beyond_the_limit_wait_for_their_turn() {
    let world = World::new(Limits { connections: 3, ..wide() });
    let mut first: Vec<TcpStream> = (0..3).map(|_| world.plain()).collect();
    first.iter_mut().for_each(ping);
    let mut late = world.plain();
    late.write_all(PING).unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    let waits = late.read(&mut byte).unwrap_err();
    assert!(matches!(waits.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{waits}");
    // Those who are in are served on; as one leaves, the next comes in.
    ping(&mut first[0]);
    first.pop();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    answered(&mut late);
}

#[test]
fn a04_strangers_take_no_place_of_known_clients() {
    let limits =
        Limits { connections: 2, handshakes: 4, handshake_time: Duration::from_millis(500), ..wide() };
    let world = World::new(limits);
    // More than may greet at once, silent, speaking something else, or stopping in the middle.
    let mut strangers: Vec<TcpStream> = (0..12).map(|_| connect(world.tls)).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let words: [&[u8]; 3] = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"];
        stranger.write_all(words[number % 3]).unwrap();
    }
    // A known client waits for its turn to greet and is served, and so is a second one beside it.
    let (mut one, mut two) = (world.known(), world.known());
    ping(&mut one);
    ping(&mut two);
    // All strangers are shown the door.
    for stranger in &mut strangers {
        assert!(hung_up(stranger));
    }
    ping(&mut one);
}
