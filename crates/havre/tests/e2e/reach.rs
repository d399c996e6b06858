//! How a daemon is reached: TLS, plain TCP, sockets of a service manager, ssh, contexts.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};

use crate::Test;
use crate::private::{Private, fails, havre};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("reach_tls_needs_the_right_certificates", tls),
    ("reach_streams_end_half_by_half_over_tcp", streams),
    ("reach_ssh_runs_a_program_on_the_other_machine", ssh),
    ("reach_contexts_are_shared_with_docker", contexts),
    ("reach_archives_of_contexts_are_not_trusted", hostile_archives),
];

pub(crate) const ALONE: &[Test] = &[
    ("a05_reach_the_network_needs_keys_or_a_word", a05_open),
    ("a06_reach_web_pages_are_refused", a06_pages),
    ("a06_reach_a_websocket_attaches_over_tls", websocket),
    ("reach_sockets_of_the_service_manager", activation),
    ("reach_dial_stdio_closes_half_by_half", dial),
];

/// An authority and the certificates it signs, as files.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn save(&self, path: &Path) {
        std::fs::write(path, self.params.self_signed(&self.key).unwrap().pem()).unwrap();
    }

    /// `ca.pem`, `cert.pem` and `key.pem` in a folder.
    fn sign(&self, folder: &Path, usage: ExtendedKeyUsagePurpose, expired: bool) {
        std::fs::create_dir_all(folder).unwrap();
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).unwrap();
        self.save(&folder.join("ca.pem"));
        std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

/// A daemon that verifies its clients, with the keys of several in its folder, and its address.
fn secured() -> (Private, String) {
    let folder = Private::folder("{}");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let at = |name: &str| folder.path().join(name);
    ours.sign(&at("server"), ExtendedKeyUsagePurpose::ServerAuth, false);
    ours.sign(&at("good"), ExtendedKeyUsagePurpose::ClientAuth, false);
    ours.sign(&at("expired"), ExtendedKeyUsagePurpose::ClientAuth, true);
    theirs.sign(&at("foreign"), ExtendedKeyUsagePurpose::ClientAuth, false);
    std::fs::create_dir_all(at("distrustful")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(at("good").join(name), at("distrustful").join(name)).unwrap();
    }
    theirs.save(&at("distrustful").join("ca.pem"));
    std::fs::create_dir_all(at("nobody")).unwrap();
    std::fs::copy(at("good/ca.pem"), at("nobody/ca.pem")).unwrap();
    // A foreign client that trusts the daemon: only the daemon refuses.
    std::fs::copy(at("good/ca.pem"), at("foreign/ca.pem")).unwrap();
    let file = |name: &str| at("server").join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let mut command = Command::new(havre());
    let keys = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    command.args(Private::line(
        folder.path(),
        &[&["-H", "SOCKET", "-H", "tcp://127.0.0.1:0"][..], &keys].concat(),
    ));
    let daemon = Private::spawn(folder, command);
    let host = format!("tcp://127.0.0.1:{}", daemon.port());
    (daemon, host)
}

fn tls(_: &World, client: &Client) {
    let (daemon, host) = secured();
    daemon.load(client);
    let with = |keys: &str, args: &[&str]| {
        let keys = daemon.path(keys);
        daemon.at(client, &host, &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", &keys)], args)
    };
    let hello = ["run", "--rm", "--network", "none", "busybox", "echo", "hello"];
    assert_eq!(with("good", &hello).exits(0), "hello");
    with("nobody", &["ps"]).fails(1, "certificate required");
    with("expired", &["ps"]).fails(1, "expired");
    let foreign = with("foreign", &["ps"]);
    assert_eq!(foreign.code, 1, "{foreign:?}");
    assert!(foreign.err.contains("tls: "), "{foreign:?}");
    with("distrustful", &["ps"]).fails(1, "certificate");
    // Flags say the same as the environment; without verification the daemon's certificate does not matter.
    let file = |name: &str| daemon.path(&format!("distrustful/{name}"));
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let ca = file("ca.pem");
    let flags = ["-H", &host, "--tls", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key, "ps", "-q"];
    let mut command = client.command(&flags);
    command.env_remove("DOCKER_HOST");
    crate::world::finish(command.stdin(Stdio::null()).output().unwrap()).exits(0);
    // Who does not speak TLS is told so, on either side.
    daemon.at(client, &host, &[], &["ps"]).fails(1, "Client sent an HTTP request to an HTTPS server");
    assert!(daemon.log().contains("TLS handshake failed"), "{}", daemon.log());
}

fn streams(_: &World, client: &Client) {
    let (daemon, host) = secured();
    daemon.load(client);
    let keys = daemon.path("good");
    let with_input = |args: &[&str], input: &[u8]| {
        let mut command = client.command(args);
        command
            .env("DOCKER_HOST", &host)
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", &keys)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        (output.status.code(), output.stdout)
    };
    let run = ["run", "--rm", "-i", "--network", "none", "busybox"];
    let large = vec![b'x'; 3 << 20];
    // The end of input arrives, and what is said after it comes back whole.
    let counted = with_input(&[&run[..], &["sh", "-c", "wc -c; echo end"]].concat(), &large);
    assert_eq!(counted, (Some(0), format!("{}\nend\n", large.len()).into_bytes()));
    let (code, back) = with_input(&[&run[..], &["cat"]].concat(), &large);
    assert_eq!((code, back.len()), (Some(0), large.len()));
    // A process that reads no more still speaks.
    let deaf = ["sh", "-c", "head -c 5; exec 0<&-; echo; echo late; echo later"];
    assert_eq!(with_input(&[&run[..], &deaf].concat(), &large), (Some(0), b"xxxxx\nlate\nlater\n".to_vec()));
    // So it is for a process that is added.
    let name = client.unique("reach-streams");
    daemon
        .run(client, &["run", "-d", "--name", &name, "--network", "none", "busybox", "sleep", "1000"])
        .exits(0);
    let (code, back) = with_input(&["exec", "-i", &name, "cat"], b"through exec");
    assert_eq!((code, back), (Some(0), b"through exec".to_vec()));
    let (code, _) = with_input(&["exec", "-i", &name, "sh", "-c", "exit 7"], b"");
    assert_eq!(code, Some(7));
}

fn a05_open(_: &World, client: &Client) {
    fails("{}", &["-H", "SOCKET", "-H", "tcp://0.0.0.0:0"]).fails(1, "--tls=false");
    fails("{}", &["-H", "SOCKET", "-H", "tcp://0.0.0.0:0", "--tls"]).fails(1, "--tlsverify=false");
    fails(r#"{"tlsverify":true,"tlscert":"/nonexistent"}"#, &["-H", "SOCKET", "--validate"])
        .fails(1, "could not load X509 key pair");
    let open = Private::start("{}", &["-H", "SOCKET", "-H", "tcp://0.0.0.0:0", "--tls=false"]);
    assert!(open.log().contains("without encryption"), "{}", open.log());
    let told = open.run(client, &["info"]);
    assert!(told.err.contains("is accessible on http://0.0.0.0:0 without encryption"), "{told:?}");
    let group = std::fs::metadata(open.folder.path().join("s")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&group) & 0o777, 0o660);
    fails("{}", &["-H", "SOCKET", "--group", "no-such-group"]).fails(1, "group no-such-group not found");
}

fn a06_pages(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET", "-H", "tcp://127.0.0.1:0"]);
    let ask = |headers: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.port())).unwrap();
        // Refused in the middle of the head, the rest of it may break the connection, even before the answer is read.
        write!(stream, "GET /info HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap_or(());
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .map_or("broken".to_owned(), |_| text.split(' ').nth(1).unwrap_or("broken").to_owned())
    };
    assert_eq!(ask("Host: 127.0.0.1\r\n"), "200");
    assert_eq!(ask("Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n"), "403");
    assert_eq!(ask("Host: evil.example\r\n"), "403");
    // A head that never ends is refused, not kept.
    let endless = "X: ".to_owned() + &"y".repeat(300 * 1024) + "\r\n";
    let refused = ask(&format!("Host: 127.0.0.1\r\n{endless}"));
    assert!(matches!(refused.as_str(), "431" | "broken"), "{refused}");
    assert_eq!(ask("Host: 127.0.0.1\r\n"), "200");
    // Without keys the stream of a container passes too.
    daemon.load(client);
    let host = format!("tcp://127.0.0.1:{}", daemon.port());
    let hello = ["run", "--rm", "--network", "none", "busybox", "echo", "plain"];
    assert_eq!(daemon.at(client, &host, &[], &hello).exits(0), "plain");
}

/// A connection with the keys of a folder.
fn encrypted(daemon: &Private, keys: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| daemon.folder.path().join(keys).join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(file("cert.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(file("key.pem")).unwrap(),
        )
        .unwrap();
    let name = "localhost".try_into().unwrap();
    let client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", daemon.port())).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    rustls::StreamOwned::new(client, stream)
}

fn websocket(_: &World, client: &Client) {
    let (daemon, _) = secured();
    daemon.load(client);
    let script = "read line; echo got $line; exit 3";
    let run = ["run", "-d", "-i", "--name", "ws", "--network", "none", "busybox", "sh", "-c", script];
    daemon.run(client, &run).exits(0);
    let head = |origin: &str| {
        format!(
            "GET /containers/ws/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: localhost\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n{origin}Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut foreign = encrypted(&daemon, "good");
    foreign.write_all(head("Origin: https://evil.example\r\n").as_bytes()).unwrap();
    let mut answer = [0; 12];
    foreign.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    let mut stream = encrypted(&daemon, "good");
    stream.write_all(head("").as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&seen));
    // A message as clients mask them, here with zeros.
    stream.write_all(&[&[0x82, 0x86, 0, 0, 0, 0][..], b"hello\n"].concat()).unwrap();
    let mut message = [0; 2 + 10];
    stream.read_exact(&mut message).unwrap();
    assert_eq!((&message[..2], &message[2..]), (&[0x82, 10][..], &b"got hello\n"[..]));
    let mut end = [0; 4];
    stream.read_exact(&mut end).unwrap();
    assert_eq!(end, [0x88, 2, 0x03, 0xe8], "the stream ends in order");
    assert_eq!(daemon.run(client, &["wait", "ws"]).exits(0), "3");
}

/// A daemon to which a listening socket is handed as a service manager does.
fn activated(which: &str, notify: &Path) -> (Private, std::path::PathBuf) {
    let folder = Private::folder("{}");
    let path = folder.path().join("s");
    let socket: OwnedFd = UnixListener::bind(&path).unwrap().into();
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(havre()).args(Private::line(folder.path(), &["-H", which]));
    command.stdin(Stdio::from(socket)).env("NOTIFY_SOCKET", notify);
    (Private::spawn(folder, command), path)
}

fn activation(_: &World, client: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let count = notified.recv(&mut buffer).expect("a notice");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    for which in ["fd://", "fd://web", "fd://3"] {
        let (mut daemon, socket) = activated(which, &path);
        assert_eq!(next(), "READY=1");
        daemon.run(client, &["ps"]).exits(0);
        daemon.signal(rustix::process::Signal::HUP);
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(next(), "READY=1");
        assert!(daemon.end().success());
        assert_eq!(next(), "STOPPING=1");
        assert!(socket.exists(), "the socket is the manager's");
    }
    fails("{}", &["-H", "fd://"]).fails(1, "no sockets found via socket activation");
}

/// A program that does what ssh would on this machine, and writes down what it was asked.
fn fake_ssh(folder: &Path, client: &Client) -> String {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$*\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec sh -c \"$*\"\n",
        bin.join("asked").display()
    );
    std::fs::write(bin.join("ssh"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join("ssh"), mode).unwrap();
    std::os::unix::fs::symlink(client.program(), bin.join(client.name)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

fn ssh(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let path = fake_ssh(daemon.folder.path(), client);
    let host = format!("ssh://me@far.example:2222{}", daemon.path("s"));
    let run = |args: &[&str], input: &str| {
        let mut command = client.command(args);
        command.env("DOCKER_HOST", &host).env("PATH", &path).env("DOCKER_CONFIG", daemon.path("client"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        crate::world::finish(child.wait_with_output().unwrap())
    };
    assert_eq!(run(&["images", "--format", "{{.Repository}}"], "").exits(0), "busybox");
    let cat = ["run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo end"];
    assert_eq!(run(&cat, "over there\n").exits(0), "over there\nend");
    let asked = std::fs::read_to_string(daemon.folder.path().join("bin/asked")).unwrap();
    let line = asked.lines().next().unwrap();
    assert!(line.starts_with("-o ConnectTimeout=30 -T -l me -p 2222 -- far.example "), "{line}");
    assert!(line.contains(" system dial-stdio"), "{line}");
    // A machine that cannot be reached says why.
    let script = "#!/bin/sh\nread -r request\necho 'Host key verification failed.' >&2\nexit 255\n";
    std::fs::write(daemon.folder.path().join("bin/ssh"), script).unwrap();
    let failed = run(&["ps"], "");
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.err.contains("has exited with exit status 255"), "{failed:?}");
    assert!(failed.err.contains("Host key verification failed."), "{failed:?}");
    daemon.at(client, "ssh://me:secret@h", &[], &["ps"]).fails(1, "plain-text password is not supported");
}

fn dial(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let mut command = client.command(&["system", "dial-stdio"]);
    command.env("DOCKER_HOST", format!("unix://{}", daemon.path("s")));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // The end of our half ends nothing but our half: the answer still comes, and then the end.
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with("HTTP/1.1 200") && text.ends_with("OK"), "{text}");
}

fn contexts(world: &World, client: &Client) {
    let (daemon, host) = secured();
    let others: Vec<&Client> = world.clients().iter().collect();
    let run = |by: &Client, args: &[&str]| daemon.at(by, "", &[("DOCKER_HOST", "")], args);
    let keys = |name: &str| daemon.path(&format!("good/{name}"));
    let docker =
        format!("host={host},ca={},cert={},key={}", keys("ca.pem"), keys("cert.pem"), keys("key.pem"));
    let made = run(client, &["context", "create", "far", "--docker", &docker, "--description", "a b"]);
    assert_eq!(made.err.trim(), "Successfully created context \"far\"");
    assert_eq!(made.exits(0), "far");
    run(client, &["context", "create", "far", "--docker", &docker])
        .fails(1, "context \"far\" already exists");
    run(client, &["context", "create", "x"]).fails(1, "names are validated against regexp");
    run(client, &["context", "create", "default"]).fails(1, "\"default\" is a reserved context name");
    run(client, &["context", "create", "xx", "--docker", "a=b"]).fails(1, "unrecognized config key: a");
    run(client, &["context", "use", "nope"]).fails(1, "context \"nope\": context not found: open ");
    // What one client made, the other one shows, uses, exports and imports.
    for other in &others {
        assert_eq!(run(other, &["--context", "far", "ps", "-q"]).exits(0), "");
        let table = run(other, &["context", "ls"]).exits(0);
        let row = table.lines().find(|line| line.starts_with("far")).expect("a row");
        assert!(row.contains("a b") && row.contains(&host), "{table}");
        let shown = run(other, &["context", "inspect", "far"]).exits(0);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown[0]["Endpoints"]["docker"]["Host"], host.as_str());
        assert_eq!(shown[0]["TLSMaterial"]["docker"], serde_json::json!(["ca.pem", "cert.pem", "key.pem"]));
        let file = daemon.path(&format!("{}.tar", other.name));
        run(client, &["context", "export", "far", &file]).exits(0);
        run(other, &["context", "import", "copy", &file]).exits(0);
        assert_eq!(run(client, &["--context", "copy", "ps", "-q"]).exits(0), "");
        run(client, &["context", "rm", "copy"]).exits(0);
        std::fs::remove_file(&file).unwrap();
    }
    // The one in use, and what comes before it.
    let used = run(client, &["context", "use", "far"]);
    assert_eq!(used.err.trim(), "Current context is now \"far\"");
    for other in &others {
        assert_eq!(run(other, &["context", "show"]).exits(0), "far");
        assert_eq!(run(other, &["ps", "-q"]).exits(0), "");
        run(other, &["context", "rm", "far"])
            .fails(1, "context \"far\" is in use, set -f flag to force remove");
    }
    let hidden = daemon.at(client, "unix:///nonexistent", &[], &["context", "ls"]);
    assert!(hidden.err.contains("Warning: DOCKER_HOST environment variable overrides the active context"));
    daemon.at(client, "unix:///nonexistent", &[], &["ps"]).fails(1, "unix:///nonexistent");
    daemon.at(client, "unix:///nonexistent", &[], &["--context", "far", "ps", "-q"]).exits(0);
    daemon.at(client, "", &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "gone")], &["ps"]).fails(1, "gone");
    run(client, &["context", "update", "far", "--description", "new"]).exits(0);
    let new = run(others[0], &["context", "inspect", "-f", "{{.Metadata.Description}}", "far"]);
    assert_eq!(new.exits(0), "new");
    run(client, &["context", "rm", "-f", "far"]).exits(0);
    assert_eq!(run(others[0], &["context", "show"]).exits(0), "default");
    run(client, &["context", "rm", "far"]).fails(1, "context \"far\" does not exist");
    assert!(
        !Path::new(&daemon.path("client/contexts/tls")).read_dir().is_ok_and(|mut all| all.next().is_some())
    );
}

fn hostile_archives(_: &World, client: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let import = |file: &str| {
        let mut command = client.command(&["context", "import", "evil", file]);
        crate::world::finish(
            command.env("DOCKER_CONFIG", at("client")).stdin(Stdio::null()).output().unwrap(),
        )
    };
    std::fs::write(at("x"), "owned").unwrap();
    std::fs::write(at("meta.json"), "{}").unwrap();
    let tar = |name: &str, args: &[&str]| {
        let status =
            Command::new("tar").arg("-C").arg(folder.path()).arg("-cf").arg(at(name)).args(args).status();
        assert!(status.unwrap().success());
    };
    tar("up.tar", &["-P", "--transform", "s,^x,tls/docker/../../../../x,", "x"]);
    import(&at("up.tar")).fails(1, "tls/docker/../../../../x: unexpected ");
    tar("other.tar", &["x"]);
    import(&at("other.tar")).fails(1, "x: unexpected context file");
    std::fs::write(at("short"), "PK").unwrap();
    assert_eq!(import(&at("short")).code, 1);
    let large = std::fs::File::create(at("large")).unwrap();
    large.set_len(64 << 20).unwrap();
    assert_eq!(import(&at("large")).code, 1);
    assert!(!folder.path().parent().unwrap().join("x").exists());
}
