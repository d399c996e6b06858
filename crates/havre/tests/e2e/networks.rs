//! Networks: what is recorded of them, and what is refused until containers are joined to them.

use serde_json::Value;

use crate::Test;
use crate::private::Private;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("networks_are_made_listed_inspected_and_removed", life),
    ("networks_have_what_was_asked_of_them", asked),
    ("networks_that_cannot_be_are_refused_in_dockers_words", refused),
    ("networks_are_filtered_and_pruned", filtered),
    ("networks_tell_of_themselves", events),
    ("networks_of_the_daemon_come_from_its_configuration", configured),
    ("networks_take over configurations", configurations),
    ("networks_containers reach each other, the host and what is published", joined),
    ("networks_running containers keep their connections without the daemon", kept),
    ("networks_of_a_container_are_kept_as_they_were_asked", of_container),
];

/// The one document that an inspection prints.
fn inspected(client: &Client, name: &str) -> Value {
    let text = client.run(&["network", "inspect", name]).exits(0);
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{text}");
    list[0].clone()
}

fn life(_: &World, client: &Client) {
    let name = client.unique("life");
    let id = client.run(&["network", "create", &name]).exits(0);
    assert_eq!(id.len(), 64, "{id}");
    let filter = format!("name=^{name}$");
    let list =
        |flags: &[&str]| client.run(&[&["network", "ls", "--filter", &filter], flags].concat()).exits(0);
    let table = list(&[]);
    assert!(
        table.starts_with("NETWORK ID     NAME") && table.contains(&format!("{}   {name}", &id[..12])),
        "{table}"
    );
    assert_eq!(list(&["--quiet"]), id[..12]);
    assert_eq!(list(&["-q", "--no-trunc"]), id);
    assert_eq!(
        list(&["--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}"]),
        format!("{name} bridge local false")
    );
    for by in [name.as_str(), id.as_str(), &id[..12]] {
        assert_eq!(client.run(&["network", "inspect", "--format", "{{.Id}}", "--verbose", by]).exits(0), id);
    }
    assert_eq!(client.run(&["inspect", "--format", "{{.Driver}}", &name]).exits(0), "bridge");
    client.run(&["network", "create", &name]).fails(1, &format!("network with name {name} already exists"));
    assert_eq!(client.run(&["network", "rm", &name]).exits(0), name);
    let gone = format!("network {name} not found");
    client.run(&["network", "rm", &name]).fails(1, &gone);
    client.run(&["network", "inspect", &name]).fails(1, &gone);
    client.run(&["network", "rm", "--force", &name]).exits(0);
    let names = client
        .run(&["network", "ls", "--filter", "type=builtin", "--format", "{{.Name}} {{.Driver}}"])
        .exits(0);
    assert_eq!(names, "bridge bridge\nhost host\nnone null");
}

fn asked(_: &World, client: &Client) {
    // Each client has networks of its own, which do not overlap.
    let (name, at) = (client.unique("asked"), if client.unique("").contains("docker") { 71 } else { 72 });
    let net = |rest: &str| format!("10.{at}.{rest}");
    let create = [
        "network",
        "create",
        "--driver",
        "bridge",
        "--subnet",
        &net("0.0/16"),
        "--ip-range",
        &net("8.0/24"),
        "--gateway",
        &net("8.1"),
        "--aux-address",
        &format!("router={}", net("8.2")),
        "--subnet",
        &format!("fd{at}::/64"),
        "--ipv6",
        "--ipv4=true",
        "--internal",
        "--attachable",
        "--label",
        "one=1",
        "--opt",
        "com.docker.network.driver.mtu=1400",
        "--ipam-driver",
        "default",
        "--ipam-opt",
        "x=y",
        "--scope",
        "local",
        &name,
    ];
    client.run(&create).exits(0);
    let shown = inspected(client, &name);
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], net("0.0/16"));
    assert_eq!(shown["IPAM"]["Config"][0]["IPRange"], net("8.0/24"));
    assert_eq!(shown["IPAM"]["Config"][0]["Gateway"], net("8.1"));
    assert_eq!(shown["IPAM"]["Config"][0]["AuxiliaryAddresses"]["router"], net("8.2"));
    assert_eq!(shown["IPAM"]["Config"][1]["Subnet"], format!("fd{at}::/64"));
    assert_eq!(shown["IPAM"]["Options"]["x"], "y");
    assert_eq!(shown["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(shown["Labels"]["one"], "1");
    for flag in ["Internal", "Attachable", "EnableIPv4", "EnableIPv6"] {
        assert_eq!(shown[flag], true, "{flag}: {shown}");
    }
    assert_eq!((&shown["Scope"], &shown["Containers"]), (&Value::from("local"), &serde_json::json!({})));
    client.run(&["network", "rm", &name]).exits(0);
}

fn refused(_: &World, client: &Client) {
    let name = client.unique("refused");
    for (flags, why) in [
        (&["--driver", "overlay"][..], "This node is not a swarm manager"),
        (&["--driver", "nope"], "plugin \"nope\" not found"),
        (&["--driver", "host"], "only one instance of \"host\" network is allowed"),
        (&["--ipam-driver", "nope"], "plugin \"nope\" not found"),
        (&["--scope", "swarm"], "This node is not a swarm manager"),
        (&["--ingress"], "Ingress network can only be global scope network"),
        (&["--config-only", "--internal"], "configuration network can only contain network specific fields"),
        (&["--config-from", "e2e-none"], "configuration network \"e2e-none\" does not exist"),
        (
            &["--config-from", "x", "--subnet", "10.73.0.0/24"],
            "user specified configurations are not supported",
        ),
        (&["--ipv4=false"], "IPv4 and IPv6 cannot both be disabled"),
        (&["--subnet", "10.73.0.1/24"], "invalid subnet 10.73.0.1/24: it should be 10.73.0.0/24"),
        (&["--opt", "com.docker.network.driver.mtu=x"], "com.docker.network.driver.mtu"),
        (&["--gateway", "10.73.0.1"], "every ip-range or gateway must have a corresponding subnet"),
    ] {
        client.run(&[&["network", "create"], flags, &[&name]].concat()).fails(1, why);
    }
    client
        .run(&["network", "create", "host"])
        .fails(1, "operation is not permitted on predefined host network");
    client
        .run(&["network", "rm", "bridge"])
        .fails(1, "bridge is a pre-defined network and cannot be removed");
    client.run(&["network", "ls", "--filter", "nope=x"]).fails(1, "invalid filter 'nope'");
    client.run(&["network", "ls", "--filter", "type=x"]).fails(1, "invalid filter: 'type'='x'");
    client.run(&["network", "prune", "-f", "--filter", "nope=x"]).fails(1, "invalid filter 'nope'");
    client.run(&["network", "inspect", &name]).fails(1, &format!("network {name} not found"));
}

fn filtered(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let run = |args: &[&str]| daemon.run(client, args);
    for (name, label) in [("net2", "a=b"), ("net10", "a=c"), ("other", "d")] {
        run(&["network", "create", "--label", label, name]).exits(0);
    }
    let names = |filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        run(&[&["network", "ls", "--format", "{{.Name}}"], &filters[..]].concat()).exits(0).replace('\n', " ")
    };
    assert_eq!(names(&[]), "bridge host net2 net10 none other");
    assert_eq!(names(&["name=^net"]), "net2 net10");
    assert_eq!(names(&["label=a"]), "net2 net10");
    assert_eq!(names(&["label=a=c"]), "net10");
    assert_eq!(names(&["dangling=true"]), "net2 net10 other");
    assert_eq!(names(&["dangling=false"]), "bridge host none");
    assert_eq!(names(&["driver=null"]), "none");
    assert_eq!(names(&["type=custom", "name=other"]), "other");
    assert_eq!(names(&["scope=swarm"]), "");
    assert_eq!(
        run(&["network", "prune", "--force", "--filter", "label=a=b"]).exits(0),
        "Deleted Networks:\nnet2"
    );
    assert_eq!(run(&["network", "prune", "--force", "--filter", "until=1h"]).exits(0), "");
    let rest = run(&["network", "prune", "--force", "--filter", "label!=d"]).exits(0);
    assert_eq!(rest, "Deleted Networks:\nnet10");
    let pruned = run(&["system", "prune", "-f"]).exits(0);
    assert!(pruned.starts_with("Deleted Networks:\nother\n"), "{pruned}");
    assert_eq!(names(&["type=custom"]), "");
}

fn events(world: &World, client: &Client) {
    let name = client.unique("events");
    let id = client.run(&["network", "create", &name]).exits(0);
    client.run(&["network", "rm", &name]).exits(0);
    let format = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}} {{.Actor.ID}}";
    let filter = format!("network={name}");
    // Durations are cut to seconds by the official client.
    let until = world.now();
    let args = [
        "events",
        "--since",
        "1",
        "--until",
        &until,
        "--filter",
        "type=network",
        "--filter",
        &filter,
        "--format",
        format,
    ];
    let told = client.run(&args).exits(0);
    assert_eq!(told, format!("create {name} bridge {id}\ndestroy {name} bridge {id}"));
}

fn configured(_: &World, client: &Client) {
    let json = r#"{"bip":"10.74.0.5/24","fixed-cidr":"10.74.0.128/25","mtu":1400,"icc":false,
        "default-address-pools":[{"base":"10.75.0.0/16","size":28}],
        "default-network-opts":{"bridge":{"com.docker.network.driver.mtu":"1300"}}}"#;
    let mut daemon = Private::start(json, &["-H", "SOCKET"]);
    let one = |daemon: &Private, name: &str| -> Value {
        let text = daemon.run(client, &["network", "inspect", name]).exits(0);
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    };
    let bridge = one(&daemon, "bridge");
    let block =
        serde_json::json!({"Subnet": "10.74.0.0/24", "IPRange": "10.74.0.128/25", "Gateway": "10.74.0.5"});
    assert_eq!(bridge["IPAM"]["Config"], serde_json::json!([block]));
    assert_eq!(bridge["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(bridge["Options"]["com.docker.network.bridge.enable_icc"], "false");
    daemon.run(client, &["network", "create", "one"]).exits(0);
    let own = one(&daemon, "one");
    assert_eq!(own["IPAM"]["Config"][0]["Subnet"], "10.75.0.0/28");
    assert_eq!(own["Options"]["com.docker.network.driver.mtu"], "1300");
    // What was made stays as it is; it is there again with the next daemon.
    daemon.replace(&["-H", "SOCKET"]);
    assert_eq!(one(&daemon, "one"), own);
    assert_eq!(one(&daemon, "bridge"), bridge);
}

fn configurations(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let run = |args: &[&str]| daemon.run(client, args);
    let one = |name: &str| -> Value {
        let text = run(&["network", "inspect", name]).exits(0);
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    };
    let create = ["network", "create", "--config-only", "--subnet", "10.86.0.0/24", "--gateway", "10.86.0.9"];
    let rest = ["--label", "who=all", "-o", "com.docker.network.driver.mtu=1300", "plan"];
    run(&[&create[..], &rest].concat()).exits(0);
    let plan = one("plan");
    assert_eq!((&plan["ConfigOnly"], &plan["Driver"]), (&true.into(), &"null".into()));
    assert_eq!(plan["IPAM"]["Config"][0]["Subnet"], "10.86.0.0/24");
    run(&["network", "create", "--config-from", "plan", "--internal", "one"]).exits(0);
    let made = one("one");
    assert_eq!(made["ConfigFrom"], serde_json::json!({"Network": "plan"}));
    assert_eq!((&made["Driver"], &made["Internal"]), (&"bridge".into(), &true.into()));
    assert_eq!(made["IPAM"]["Config"][0]["Gateway"], "10.86.0.9");
    assert_eq!(made["Options"]["com.docker.network.driver.mtu"], "1300");
    assert_eq!(made["Labels"]["who"], "all");
    // Its addresses are taken now; those of the plan alone were not.
    run(&["network", "create", "--config-from", "plan", "two"]).fails(1, "Pool overlaps with other one");
    run(&["network", "rm", "plan"]).fails(1, "configuration network \"plan\" is in use");
    run(&["network", "create", "--config-only", "--config-from", "plan", "x"])
        .fails(1, "a configuration network cannot depend on another configuration network");
    daemon.load(client);
    let inside = ["run", "--rm", "--network", "plan", "busybox", "true"];
    run(&inside).fails(125, "cannot create endpoint on configuration-only network");
    run(&["network", "prune", "-f"]).exits(0);
    assert_eq!(
        run(&["network", "ls", "-q", "--filter", "type=custom", "--format", "{{.Name}}"]).exits(0),
        "plan"
    );
    run(&["network", "rm", "plan"]).exits(0);
}

fn of_container(_: &World, client: &Client) {
    let (name, other, container) = (client.unique("of"), client.unique("of-other"), client.unique("member"));
    for network in [&name, &other] {
        client.run(&["network", "create", network]).exits(0);
    }
    let second = format!("name={other},alias=second,gw-priority=7,driver-opt=k=v");
    let create = [
        "create",
        "--name",
        &container,
        "--label",
        "e2e",
        "--network",
        &name,
        "--network",
        &second,
        "--network-alias",
        "first",
        "--mac-address",
        "02:42:ac:11:00:09",
        "--ip",
        "10.76.0.9",
        "--ip6",
        "fd76::9",
        "--link-local-ip",
        "169.254.7.7",
        "--link",
        "x:y",
        "--publish",
        "127.0.0.1:8080:80",
        "--publish-all",
        "--expose",
        "9000",
        "e2e/busybox",
        "true",
    ];
    client.run(&create).exits(0);
    let text = client.run(&["inspect", &container]).exits(0);
    let shown = serde_json::from_str::<Value>(&text).unwrap()[0].clone();
    let networks = &shown["NetworkSettings"]["Networks"];
    let (first, second) = (&networks[&name], &networks[&other]);
    assert_eq!(first["Aliases"], serde_json::json!(["first"]));
    assert_eq!(first["Links"], serde_json::json!(["x:y"]));
    assert_eq!(first["MacAddress"], "02:42:ac:11:00:09");
    assert_eq!(first["IPAMConfig"]["IPv4Address"], "10.76.0.9");
    assert_eq!(first["IPAMConfig"]["IPv6Address"], "fd76::9");
    assert_eq!(first["IPAMConfig"]["LinkLocalIPs"][0], "169.254.7.7");
    assert_eq!(second["GwPriority"], 7);
    assert_eq!(second["DriverOpts"]["k"], "v");
    let names = second["DNSNames"].as_array().unwrap();
    assert!(names[0] == container.as_str() && names[1] == "second", "{names:?}");
    assert_eq!(shown["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
    assert_eq!(shown["NetworkSettings"]["Ports"], serde_json::json!({}));
    let filter = format!("network={name}");
    let found =
        client.run(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}} {{.Networks}}"]).exits(0);
    assert!(
        found == format!("{container} {name},{other}") || found == format!("{container} {other},{name}"),
        "{found}"
    );
    let wrong = |flags: &[&str]| {
        client.run(&[&["create", "--label", "e2e", "--network", &name], flags, &["e2e/busybox"]].concat())
    };
    wrong(&["--ip", "x"]).fails(1, "invalid IPv4 address: x");
    wrong(&["--network", "host"])
        .fails(125, "cannot attach both user-defined and non-user-defined network-modes");
    client.run(&["rm", &container]).exits(0);
    client.run(&["network", "rm", &name, &other]).exits(0);
}

/// What a web server says; none while nobody listens.
pub(crate) fn fetch(port: u16) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

pub(crate) const SERVE: &str =
    "mkdir -p /w && echo served >/w/index.html && echo up && exec httpd -f -p 80 -h /w";

/// The port of the host that leads to a container's port 80.
pub(crate) fn host_port(said: &str) -> u16 {
    let first = said.lines().next().unwrap();
    first.strip_prefix("127.0.0.1:").unwrap().parse().unwrap()
}

fn joined(_: &World, client: &Client) {
    let (name, web) = (client.unique("front"), client.unique("web"));
    client.run(&["network", "create", &name]).exits(0);
    let run = |network: &str, script: &str| {
        client.run(&[
            "run",
            "--rm",
            "--label",
            "e2e",
            "--network",
            network,
            "e2e/busybox",
            "sh",
            "-c",
            script,
        ])
    };
    let start = ["run", "-d", "--label", "e2e", "--name", &web, "--network", &name, "-p", "127.0.0.1::80"];
    client.run(&[&start[..], &["e2e/busybox", "sh", "-c", SERVE]].concat()).exits(0);
    client.follow_until(&web, "up");
    let port = host_port(&client.run(&["port", &web, "80"]).exits(0));
    assert!(fetch(port).is_some_and(|text| text.contains("served")), "through the published port");
    let listed = client.run(&["ps", "--filter", &format!("name={web}"), "--format", "{{.Ports}}"]).exits(0);
    assert_eq!(listed, format!("127.0.0.1:{port}->80/tcp"));
    let address = format!("{{{{(index .NetworkSettings.Networks {name:?}).IPAddress}}}}");
    let address = client.run(&["inspect", "-f", &address, &web]).exits(0);
    let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80");
    assert!(run(&name, &get).exits(0).contains("served"), "from the same network");
    let inside =
        client.run(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", &name]).exits(0);
    assert_eq!(inside, web);
    client.run(&["network", "rm", &name]).fails(1, "has active endpoints");
    // The default network is another one.
    let apart =
        run("bridge", &format!("nc -w 1 {address} 80 </dev/null; ip route | wc -l; grep -c . /etc/hosts"));
    assert!(apart.exits(0).starts_with("2\n"));
    // Somebody else cannot have the port.
    let taken =
        ["run", "--rm", "--label", "e2e", "-p", &format!("127.0.0.1:{port}:80"), "e2e/busybox", "true"];
    client.run(&taken).fails(125, "port is already allocated");
    client.run(&["restart", "-t", "0", &web]).exits(0);
    client.run(&["rm", "-f", &web]).exits(0);
    assert_eq!(fetch(port), None);
    client.run(&["network", "rm", &name]).exits(0);
}

fn kept(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let start = ["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sh", "-c", SERVE];
    daemon.run(client, &start).exits(0);
    let port = host_port(&daemon.run(client, &["port", "web", "80"]).exits(0));
    let patient = || (0..500).find_map(|_| fetch(port).filter(|text| text.contains("served")));
    assert!(patient().is_some());
    daemon.signal(rustix::process::Signal::KILL);
    assert!(fetch(port).is_some(), "while nobody is there");
    daemon.replace(&["-H", "SOCKET"]);
    assert!(fetch(port).is_some(), "with the next one");
    assert_eq!(host_port(&daemon.run(client, &["port", "web", "80"]).exits(0)), port);
    let other = ["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), "busybox", "true"];
    daemon.run(client, &other).fails(125, "port is already allocated");
    daemon.run(client, &["rm", "-f", "web"]).exits(0);
    assert_eq!(fetch(port), None);
}
