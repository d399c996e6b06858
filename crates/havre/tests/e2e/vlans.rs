//! macvlan and ipvlan through the clients: a daemon in a network namespace of its own, with a cable to a router.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::Test;
use crate::private::{Private, havre};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    (
        "vlans_containers on a parent reach each other and the router, with their daemon or without",
        on_a_parent,
    ),
    ("vlans_what cannot be is refused with the reason", refused),
];

/// A network namespace that goes with it.
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep 3600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut said).expect("it says something");
        assert_eq!(said.trim(), "ready");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// What is run in it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n"]).arg(program);
        command
    }

    /// Runs a program and returns what it said.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.command(words[0]).args(&words[1..]).output().expect("nsenter");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// A daemon in it.
    pub(crate) fn daemon(&self, json: &str) -> Private {
        let folder = Private::folder(json);
        let command = self.line(&folder);
        Private::spawn(folder, command)
    }

    fn line(&self, folder: &TempDir) -> Command {
        let mut command = self.command(havre());
        command.args(Private::line(folder.path(), &["-H", "SOCKET"]));
        command
    }

    /// Kills the daemon and starts another one in its place.
    pub(crate) fn replace(&self, daemon: &mut Private) {
        let command = self.line(&daemon.folder);
        daemon.replace_by(command);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A daemon that has nothing but a cable, `wire0`, and 10.84.0.1 at its other end.
struct Machine {
    daemon: Private,
    host: Namespace,
    router: Namespace,
}

impl Machine {
    fn start(client: &Client) -> Self {
        let (host, router) = (Namespace::start(), Namespace::start());
        let peer = ["type", "veth", "peer", "name", "far", "netns", &router.pid()];
        host.run(&[&["ip", "link", "add", "wire0"], &peer[..]].concat());
        host.run(&["ip", "address", "add", "10.84.0.9/24", "dev", "wire0"]);
        host.run(&["ip", "link", "set", "wire0", "up"]);
        router.run(&["ip", "address", "add", "10.84.0.1/24", "dev", "far"]);
        router.run(&["ip", "link", "set", "far", "up"]);
        let daemon = host.daemon("{}");
        daemon.load(client);
        Self { daemon, host, router }
    }
}

const CREATE: &[&str] = &[
    "network",
    "create",
    "--subnet",
    "10.84.0.0/24",
    "--gateway",
    "10.84.0.1",
    "--aux-address",
    "host=10.84.0.2",
];

fn on_a_parent(_: &World, client: &Client) {
    let mut machine = Machine::start(client);
    let create = [CREATE, &["-d", "macvlan", "-o", "parent=wire0", "lan"]].concat();
    machine.daemon.run(client, &create).exits(0);
    let one = ["run", "-d", "--name", "one", "--network", "lan", "-p", "8080:80", "busybox", "sleep", "3600"];
    machine.daemon.run(client, &one).exits(0);
    let two = ["run", "-d", "--name", "two", "--network", "lan", "--mac-address", "02:00:00:00:00:07"];
    machine
        .daemon
        .run(client, &[&two[..], &["--ip", "10.84.0.7", "busybox", "sleep", "3600"]].concat())
        .exits(0);
    let text = machine.daemon.run(client, &["inspect", "one"]).exits(0);
    let shown: Value = serde_json::from_str(&text).unwrap();
    let place = &shown[0]["NetworkSettings"]["Networks"]["lan"];
    assert_eq!((&place["IPAddress"], &place["Gateway"]), (&"10.84.0.3".into(), &"10.84.0.1".into()));
    // As with Docker, a container with an address of its own has no port of the host.
    assert_eq!(machine.daemon.run(client, &["port", "one"]).exits(0), "");
    let from = |machine: &Machine, name: &str, to: &str| {
        machine.daemon.run(client, &["exec", name, "ping", "-c", "1", "-W", "5", to])
    };
    from(&machine, "one", "10.84.0.7").exits(0);
    from(&machine, "one", "10.84.0.1").exits(0);
    machine.router.run(&["busybox", "ping", "-c", "1", "-W", "5", "10.84.0.3"]);
    assert!(machine.router.run(&["ip", "neighbour", "show", "10.84.0.3"]).contains("02:42:0a:54:00:03"));
    let host = ["exec", "one", "ping", "-c", "1", "-W", "1", "10.84.0.9"];
    machine.daemon.run(client, &host).fails(1, "");
    let route = machine.daemon.run(client, &["exec", "one", "ip", "route"]).exits(0);
    assert!(route.contains("default via 10.84.0.1 dev eth0"), "{route}");
    machine.daemon.run(client, &["network", "rm", "lan"]).fails(1, "has active endpoints");
    machine.host.replace(&mut machine.daemon);
    machine.router.run(&["busybox", "ping", "-c", "1", "-W", "5", "10.84.0.3"]);
    machine.daemon.run(client, &["restart", "-t", "0", "one"]).exits(0);
    from(&machine, "two", "10.84.0.3").exits(0);
    machine.daemon.run(client, &["rm", "-f", "one", "two"]).exits(0);
    machine.daemon.run(client, &["network", "rm", "lan"]).exits(0);
    assert!(machine.host.run(&["ip", "-br", "link"]).contains("wire0"));
}

fn refused(_: &World, client: &Client) {
    let machine = Machine::start(client);
    let create = |rest: &[&str]| machine.daemon.run(client, &[CREATE, rest].concat());
    for (options, why) in [
        (&["-d", "macvlan", "-o", "parent=nope", "x"][..], "the host has no interface nope"),
        (&["-d", "macvlan", "-o", "parent=lo", "x"], "loopback interface is not a valid macvlan parent link"),
        (&["-d", "macvlan", "-o", "macvlan_mode=l2", "x"], "requested macvlan mode 'l2' is not valid"),
        (&["-d", "ipvlan", "-o", "ipvlan_mode=l4", "x"], "requested ipvlan mode 'l4' is not valid"),
        (&["-d", "ipvlan", "-o", "ipvlan_flag=x", "x"], "requested ipvlan flag 'x' is not valid"),
    ] {
        create(options).fails(1, why);
    }
    assert_eq!(machine.daemon.run(client, &["network", "ls", "-q", "-f", "type=custom"]).exits(0), "");
    // What nobody named leads nowhere, and goes with its network.
    let before = machine.host.run(&["ip", "-br", "link"]);
    create(&["-d", "macvlan", "inner"]).exits(0);
    let run = |name: &str| {
        let words = ["run", "-d", "--name", name, "--network", "inner", "busybox", "sleep", "3600"];
        machine.daemon.run(client, &words).exits(0)
    };
    run("first");
    run("second");
    machine.daemon.run(client, &["exec", "first", "ping", "-c", "1", "-W", "5", "10.84.0.4"]).exits(0);
    let route = machine.daemon.run(client, &["exec", "first", "ip", "route"]).exits(0);
    assert!(!route.contains("default"), "{route}");
    machine.daemon.run(client, &["rm", "-f", "first", "second"]).exits(0);
    machine.daemon.run(client, &["network", "rm", "inner"]).exits(0);
    assert_eq!(machine.host.run(&["ip", "-br", "link"]), before);
    // Either the kernel has it, or the answer says what is missing.
    let ipvlan = create(&["-d", "ipvlan", "-o", "parent=wire0", "shared"]);
    if ipvlan.code == 0 {
        let run =
            ["run", "--rm", "--network", "shared", "busybox", "ping", "-c", "1", "-W", "5", "10.84.0.1"];
        machine.daemon.run(client, &run).exits(0);
        machine.daemon.run(client, &["network", "rm", "shared"]).exits(0);
    } else {
        ipvlan.fails(1, "this kernel has no ipvlan links: load or build its module ipvlan");
    }
    let tagged = create(&["-d", "macvlan", "-o", "parent=wire0.10", "tagged"]);
    if tagged.code == 0 {
        machine.daemon.run(client, &["network", "rm", "tagged"]).exits(0);
    } else {
        tagged.fails(1, "this kernel has no vlan links: load or build its module 8021q");
    }
    assert_eq!(machine.host.run(&["ip", "-br", "link"]), before);
}
