//! Networks of containers that exist already: joined and left while they run, and for the next start.

use crate::Test;
use crate::networks::{SERVE, fetch, host_port};
use crate::private::Private;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("connect_a running container has a network at once and loses it at once", running),
    ("connect_a stopped container has it at its next start", stopped),
    ("connect_with an address, a name and options", asked),
    ("connect_what cannot be is refused in Dockers words", refused),
    ("connect_published ports follow the way out", ports),
    ("connect_update publishes and withdraws ports of a running container", published),
    ("connect_networks and ports are there after the daemon was killed", killed),
];

/// Runs until it is removed.
const STAY: &[&str] = &["e2e/busybox", "sh", "-c", "echo up; exec sleep 1000"];

/// Starts it with these flags.
fn start(client: &Client, name: &str, flags: &[&str], command: &[&str]) {
    let run = ["run", "-d", "--label", "e2e", "--name", name];
    client.run(&[&run, flags, command].concat()).exits(0);
    client.follow_until(name, "up");
}

/// Whether the container answers there; it may need a moment after it said that it is up.
fn served(port: u16) -> bool {
    (0..500).any(|_| fetch(port).is_some_and(|text| text.contains("served")))
}

fn networks<const N: usize>(client: &Client, names: [&str; N]) -> [String; N] {
    names.map(|name| {
        let name = client.unique(name);
        client.run(&["network", "create", &name]).exits(0);
        name
    })
}

fn remove(client: &Client, containers: &[&str], networks: &[&str]) {
    client.run(&[&["rm", "-f"], containers].concat()).exits(0);
    client.run(&[&["network", "rm"], networks].concat()).exits(0);
}

/// Its interfaces but the loopback one, as the container sees them.
fn interfaces(client: &Client, name: &str) -> Vec<String> {
    let text = client.run(&["exec", name, "ls", "/sys/class/net"]).exits(0);
    text.split_whitespace().filter(|name| name.starts_with("eth")).map(str::to_owned).collect()
}

fn address(client: &Client, name: &str, network: &str) -> String {
    let format =
        format!("{{{{with index .NetworkSettings.Networks {network:?}}}}}{{{{.IPAddress}}}}{{{{end}}}}");
    client.run(&["inspect", "-f", &format, name]).exits(0)
}

fn running(world: &World, client: &Client) {
    let [front, back] = networks(client, ["cfront", "cback"]);
    let (one, web) = (client.unique("cone"), client.unique("cweb"));
    start(client, &one, &["--network", &front], STAY);
    start(client, &web, &["--network", &back], &["e2e/busybox", "sh", "-c", SERVE]);
    assert_eq!(interfaces(client, &one), ["eth0"]);
    let at = address(client, &web, &back);
    let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {at} 80");
    let reach = || client.run(&["exec", &one, "sh", "-c", &get]);
    reach().fails(1, "");
    client.run(&["network", "connect", &back, &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth0", "eth1"]);
    assert!(reach().exits(0).contains("served"));
    assert_ne!(address(client, &one, &back), "");
    let route = "ip route | grep -c ^default; cat /sys/class/net/eth1/operstate";
    assert_eq!(client.run(&["exec", &one, "sh", "-c", route]).exits(0), "1\nup");
    client
        .run(&["network", "connect", &back, &one])
        .fails(1, &format!("endpoint with name {one} already exists in network {back}"));
    client.run(&["network", "rm", &back]).fails(1, "has active endpoints");
    // The next start has both.
    client.run(&["restart", "-t", "0", &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth0", "eth1"]);
    client.run(&["network", "disconnect", &front, &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth1"]);
    assert!(reach().exits(0).contains("served"), "through what is left");
    client.run(&["network", "connect", &front, &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth0", "eth1"], "the name is free again");
    client.run(&["network", "disconnect", &back, &one]).exits(0);
    reach().fails(1, "");
    client
        .run(&["network", "disconnect", &back, &one])
        .fails(1, &format!("is not connected to network {back}"));
    let id = client.run(&["inspect", "-f", "{{.Id}}", &one]).exits(0);
    let (until, filter) = (world.now(), format!("network={back}"));
    let events = [
        "events",
        "--since",
        "1",
        "--until",
        &until,
        "--filter",
        &filter,
        "--filter",
        "event=connect",
        "--filter",
        "event=disconnect",
    ];
    let told =
        client.run(&[&events[..], &["--format", "{{.Action}} {{.Actor.Attributes.container}}"]].concat());
    let own: Vec<String> = told
        .exits(0)
        .lines()
        .filter_map(|line| line.strip_suffix(&format!(" {id}")).map(str::to_owned))
        .collect();
    assert_eq!(own, ["connect", "disconnect", "connect", "disconnect"], "connected, restarted, disconnected");
    remove(client, &[&one, &web], &[&front, &back]);
}

fn stopped(_: &World, client: &Client) {
    let [front, back] = networks(client, ["sfront", "sback"]);
    let one = client.unique("sone");
    let create = ["create", "--label", "e2e", "--name", &one, "--network", &front];
    client.run(&[&create[..], STAY].concat()).exits(0);
    client.run(&["network", "connect", &back, &one]).exits(0);
    client.run(&["start", &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth0", "eth1"]);
    client.run(&["kill", &one]).exits(0);
    client.run(&["network", "disconnect", &back, &one]).exits(0);
    let text = format!("is not connected to the network {back}");
    client.run(&["network", "disconnect", &back, &one]).fails(1, &text);
    client.run(&["start", &one]).exits(0);
    assert_eq!(interfaces(client, &one), ["eth0"]);
    // A container that was taken from its last network joins its first one again.
    client.run(&["network", "disconnect", &front, &one]).exits(0);
    assert!(interfaces(client, &one).is_empty());
    client.run(&["restart", "-t", "0", &one]).exits(0);
    assert_ne!(address(client, &one, &front), "");
    client.run(&["kill", &one]).exits(0);
    // A network that is gone is left with force.
    client.run(&["network", "connect", &back, &one]).exits(0);
    client.run(&["network", "rm", &back]).exits(0);
    client.run(&["network", "disconnect", &back, &one]).fails(1, "not found");
    client.run(&["network", "disconnect", "--force", &back, &one]).exits(0);
    client.run(&["start", &one]).exits(0);
    remove(client, &[&one], &[&front]);
}

fn asked(_: &World, client: &Client) {
    let (name, one) = (client.unique("casked"), client.unique("caone"));
    let at = if client.unique("").contains("docker") { 93 } else { 94 };
    let (four, six) = (format!("10.{at}.0.0/16"), format!("fd{at}::/64"));
    client.run(&["network", "create", "--ipv6", "--subnet", &four, "--subnet", &six, &name]).exits(0);
    start(client, &one, &[], STAY);
    let connect = [
        "network",
        "connect",
        "--alias",
        "second",
        "--gw-priority",
        "5",
        "--ip",
        &format!("10.{at}.7.7"),
        "--ip6",
        &format!("fd{at}::77"),
        &name,
        &one,
    ];
    client.run(&connect).exits(0);
    let format = format!(
        "{{{{with index .NetworkSettings.Networks {name:?}}}}}{{{{.IPAddress}}}} {{{{.GlobalIPv6Address}}}} {{{{.Aliases}}}} {{{{.GwPriority}}}}{{{{end}}}}"
    );
    let shown = client.run(&["inspect", "-f", &format, &one]).exits(0);
    assert_eq!(shown, format!("10.{at}.7.7 fd{at}::77 [second] 5"));
    let route = client.run(&["exec", &one, "ip", "route", "show", "default"]).exits(0);
    assert!(route.contains("dev eth1"), "{route}");
    let taken = ["network", "connect", "--ip", &format!("10.{at}.7.7"), &name, &one];
    client.run(&["network", "disconnect", &name, &one]).exits(0);
    client.run(&taken).exits(0);
    client.run(&["network", "disconnect", &name, &one]).exits(0);
    let ifname = "com.docker.network.endpoint.ifname=own0";
    let linked = format!("{one}:me");
    let more = ["--driver-opt", ifname, "--link", &linked, "--link-local-ip", "169.254.1.1", &name, &one];
    client.run(&[&["network", "connect"], &more[..]].concat()).exits(0);
    remove(client, &[&one], &[&name]);
}

fn refused(_: &World, client: &Client) {
    let [name] = networks(client, ["crefused"]);
    let (one, host, none, shared) =
        (client.unique("rone"), client.unique("rhost"), client.unique("rnone"), client.unique("rshared"));
    start(client, &one, &[], STAY);
    start(client, &host, &["--network", "host"], STAY);
    start(client, &none, &["--network", "none"], STAY);
    start(client, &shared, &["--network", &format!("container:{one}")], STAY);
    let connect = |network: &str, container: &str| client.run(&["network", "connect", network, container]);
    connect("host", &one).fails(
        1,
        "cannot connect container to host network - container must be created in host network mode",
    );
    connect(&name, &host).fails(1, "container sharing network namespace with another container or host cannot be connected to any other network");
    connect(&name, &shared).fails(1, "container sharing network namespace with another container or host");
    connect(&name, &none).fails(
        1,
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
    );
    connect("none", &one).fails(1, "in private (none) mode");
    client
        .run(&["network", "disconnect", "host", &host])
        .fails(1, "container cannot be disconnected from host network or connected to host network");
    connect(&name, "e2e-nobody").fails(1, "No such container: e2e-nobody");
    connect("e2e-nothing", &one).fails(1, "network e2e-nothing not found");
    client
        .run(&["network", "connect", "--ip", "10.0.0.1", "bridge", &none])
        .fails(1, "user specified IP address");
    client.run(&["network", "connect", "--ip", "192.0.2.9", &name, &one]).fails(1, "192.0.2.9");
    // What was refused left nothing.
    assert_eq!(interfaces(client, &one), ["eth0"]);
    client.run(&["restart", "-t", "0", &one]).exits(0);
    remove(client, &[&one, &host, &none, &shared], &[&name]);
}

fn ports(_: &World, client: &Client) {
    let [front, back] = networks(client, ["pfront", "pback"]);
    let web = client.unique("pweb");
    start(client, &web, &["--network", &front, "-p", "127.0.0.1::80"], &["e2e/busybox", "sh", "-c", SERVE]);
    let port = || host_port(&client.run(&["port", &web, "80"]).exits(0));
    let first = port();
    assert!(served(first));
    client.run(&["network", "connect", "--gw-priority", "9", &back, &web]).exits(0);
    assert_eq!(port(), first);
    assert!(served(first), "through the other network");
    client.run(&["network", "disconnect", &back, &web]).exits(0);
    assert_eq!(port(), first);
    assert!(served(first), "through the first one again");
    client.run(&["network", "disconnect", &front, &web]).exits(0);
    assert_eq!(fetch(first), None);
    client.run(&["network", "connect", &back, &web]).exits(0);
    assert!(served(port()));
    remove(client, &[&web], &[&front, &back]);
}

fn published(_: &World, client: &Client) {
    if client.unique("").contains("docker") {
        // Its client does not have these options.
        return;
    }
    let web = client.unique("uweb");
    start(client, &web, &[], &["e2e/busybox", "sh", "-c", SERVE]);
    let pid = client.run(&["inspect", "-f", "{{.State.Pid}}", &web]).exits(0);
    client.run(&["update", "--publish-add", "127.0.0.1::80", &web]).exits(0);
    let first = host_port(&client.run(&["port", &web, "80"]).exits(0));
    assert!(served(first));
    client
        .run(&["update", "--publish-add", "127.0.0.1::80", "--publish-add", "127.0.0.1::81/udp", &web])
        .exits(0);
    assert_eq!(host_port(&client.run(&["port", &web, "80"]).exits(0)), first, "what is there stays");
    let taken = client.unique("utaken");
    start(client, &taken, &[], STAY);
    let same = format!("127.0.0.1:{first}:80");
    client.run(&["update", "--publish-add", &same, &taken]).fails(1, "port is already allocated");
    client.run(&["port", &taken]).exits(0);
    let shown = client.run(&["inspect", "-f", "{{json .HostConfig.PortBindings}}", &taken]).exits(0);
    assert_eq!(shown, "{}", "what was refused is not recorded");
    client.run(&["update", "--publish-rm", "80", &web]).exits(0);
    assert_eq!(fetch(first), None);
    client.run(&["update", "--publish-rm", "80", &web]).fails(1, "port 80/tcp is not published");
    let shown = client
        .run(&["inspect", "-f", "{{range $port, $_ := .NetworkSettings.Ports}}{{$port}} {{end}}", &web])
        .exits(0);
    assert_eq!(shown, "81/udp");
    client.run(&["update", "--publish-add", &same, &web]).exits(0);
    assert!(fetch(first).is_some());
    assert_eq!(client.run(&["inspect", "-f", "{{.State.Pid}}", &web]).exits(0), pid, "without a restart");
    // The next start has them too.
    client.run(&["restart", "-t", "0", &web]).exits(0);
    assert!(served(first));
    client.run(&["update", "--publish-add", "80:x", &web]).fails(125, "x");
    let host = client.unique("uhost");
    start(client, &host, &["--network", "host"], STAY);
    client.run(&["update", "--publish-add", "80", &host]).fails(1, "host network mode");
    client.run(&["rm", "-f", &web, &taken, &host]).exits(0);
}

fn killed(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    for network in ["front", "back"] {
        daemon.run(client, &["network", "create", network]).exits(0);
    }
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "front",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sh",
        "-c",
        SERVE,
    ];
    daemon.run(client, &run).exits(0);
    daemon.run(client, &["network", "connect", "--gw-priority", "3", "back", "web"]).exits(0);
    let port = host_port(&daemon.run(client, &["port", "web", "80"]).exits(0));
    daemon.signal(rustix::process::Signal::KILL);
    daemon.replace(&["-H", "SOCKET"]);
    assert!(served(port));
    assert_eq!(host_port(&daemon.run(client, &["port", "web", "80"]).exits(0)), port);
    daemon.run(client, &["network", "disconnect", "back", "web"]).exits(0);
    assert!(fetch(port).is_some());
    daemon.run(client, &["network", "connect", "back", "web"]).exits(0);
    let listed = daemon.run(client, &["exec", "web", "ls", "/sys/class/net"]).exits(0);
    assert!(listed.contains("eth0") && listed.contains("eth1"), "{listed}");
    daemon.run(client, &["rm", "-f", "web"]).exits(0);
    daemon.run(client, &["network", "rm", "front", "back"]).exits(0);
}
