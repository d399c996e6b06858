//! How fast containers receive and send: limited, seen, changed and lifted while they run.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Test;
use crate::private::Private;
use crate::vlans::Namespace;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("rates_hold what a container receives and sends, and are changed while it runs", limited),
    ("rates_that cannot be are refused", refused),
];

/// The rates and counters of the token buckets in a namespace: bytes a second, bytes that passed, times it waited.
fn buckets(host: &Namespace) -> Vec<(u64, u64, u64)> {
    let told: Value = serde_json::from_str(&host.run(&["tc", "-s", "-j", "qdisc", "show"])).unwrap();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let all = told.as_array().unwrap().iter().filter(|qdisc| qdisc["kind"] == "tbf");
    let mut found: Vec<_> = all
        .map(|qdisc| {
            (number(&qdisc["options"]["rate"]), number(&qdisc["bytes"]), number(&qdisc["overlimits"]))
        })
        .collect();
    found.sort_unstable();
    found
}

/// A program that whoever connects to a port of the host speaks with.
fn server(host: &Namespace, port: &str, program: &[&str]) -> Child {
    let mut command = host.command("busybox");
    command.args(["nc", "-l", "-p", port, "-e"]).args(program);
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn limited(_: &World, client: &Client) {
    let host = Namespace::start();
    let mut daemon = host.daemon("{}");
    daemon.load(client);
    let start = ["run", "-d", "--name", "slow", "--network-rate-in", "3MB/s", "--network-rate-out", "16mbit"];
    let started = daemon.run(client, &[&start[..], &["busybox", "sleep", "3600"]].concat());
    if started.code != 0 && started.err.contains("sch_tbf") {
        return havre_testkit::skip(&started.err);
    }
    started.exits(0);
    let shown = |daemon: &Private| {
        let format = "{{.HostConfig.NetworkRateIn}} {{.HostConfig.NetworkRateOut}}";
        daemon.run(client, &["inspect", "-f", format, "slow"]).exits(0)
    };
    assert_eq!(shown(&daemon), "3000000 2000000");
    let rates = |host: &Namespace| buckets(host).iter().map(|(rate, ..)| *rate).collect::<Vec<_>>();
    assert_eq!(rates(&host), [2_000_000, 3_000_000]);
    let gateway = daemon
        .run(client, &["inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", "slow"])
        .exits(0);
    // 8 MB through 2 MB/s, of which 40 kB may go at once, take three seconds at least; the server may not wait yet.
    let mut reader = server(&host, "9000", &["busybox", "wc", "-c"]);
    let send =
        format!("until dd if=/dev/zero bs=1M count=8 2>/dev/null | nc {gateway} 9000; do sleep 0.1; done");
    let begun = Instant::now();
    assert_eq!(daemon.run(client, &["exec", "slow", "sh", "-c", &send]).exits(0), "8388608");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    reader.wait().unwrap();
    let mut writer = server(&host, "9001", &["dd", "if=/dev/zero", "bs=1M", "count=8"]);
    let fetch =
        format!("while n=$(nc {gateway} 9001 </dev/null | wc -c); [ $n = 0 ]; do sleep 0.1; done; echo $n");
    let begun = Instant::now();
    assert_eq!(daemon.run(client, &["exec", "slow", "sh", "-c", &fetch]).exits(0), "8388608");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    writer.wait().unwrap();
    for (rate, bytes, waited) in buckets(&host) {
        assert!(bytes >= 8_388_608 && waited > 0, "{rate}: {bytes} bytes, waited {waited} times");
    }
    // Kept by the kernel without the daemon, by the next one, and for the container's next run.
    host.replace(&mut daemon);
    assert_eq!(rates(&host), [2_000_000, 3_000_000]);
    daemon.run(client, &["update", "--network-rate-out", "80mbit", "slow"]).exits(0);
    assert_eq!(rates(&host), [3_000_000, 10_000_000]);
    daemon.run(client, &["restart", "-t", "0", "slow"]).exits(0);
    assert_eq!(shown(&daemon), "3000000 10000000");
    assert_eq!(rates(&host), [3_000_000, 10_000_000]);
    daemon.run(client, &["update", "--memory", "64m", "--memory-swap", "64m", "slow"]).exits(0);
    assert_eq!(shown(&daemon), "3000000 10000000");
    daemon.run(client, &["update", "--network-rate-in", "0", "--network-rate-out", "none", "slow"]).exits(0);
    assert!(rates(&host).is_empty());
    assert_eq!(shown(&daemon), "0 0");
    daemon.run(client, &["update", "--network-rate-out", "1mbit", "slow"]).exits(0);
    assert_eq!(rates(&host), [125_000]);
    daemon.run(client, &["rm", "-f", "slow"]).exits(0);
    let inside =
        || daemon.run(client, &["network", "inspect", "-f", "{{len .Containers}}", "bridge"]).exits(0);
    // It is given back behind the answer.
    assert!((0..2000).any(|_| inside() == "0"));
    assert!(rates(&host).is_empty());
    assert!(!host.run(&["ip", "-br", "link"]).contains("rate"));
}

fn refused(_: &World, client: &Client) {
    let run = |flags: &[&str]| {
        client.run(&[&["run", "--rm", "--label", "e2e"], flags, &["e2e/busybox", "true"]].concat())
    };
    run(&["--network-rate-in", "10mbps"]).fails(125, "unknown unit \"mbps\"");
    run(&["--network-rate-in", "10"]).fails(125, "a unit is missing");
    run(&["--network-rate-out", "7B/s"]).fails(125, "want at least 1000 bytes a second");
    for network in ["host", "none"] {
        run(&["--network", network, "--network-rate-in", "1mbit"])
            .fails(125, "need networks of the container's own");
    }
    let name = client.unique("rated");
    let create = ["create", "--name", &name, "--label", "e2e", "--network", "none", "e2e/busybox", "true"];
    client.run(&create).exits(0);
    client
        .run(&["update", "--network-rate-in", "1mbit", &name])
        .fails(1, "need networks of the container's own");
    client.run(&["rm", &name]).exits(0);
    let vlan = client.unique("rated-vlan");
    client.run(&["network", "create", "-d", "macvlan", "--subnet", "10.88.0.0/24", &vlan]).exits(0);
    run(&["--network", &vlan, "--network-rate-in", "1mbit"]).fails(125, "which only bridge networks have");
    client.run(&["network", "rm", &vlan]).exits(0);
}
