//! `network explain`: what it says is what then happens.

use serde_json::Value;

use crate::Test;
use crate::private::Private;
use crate::vlans::Namespace;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[("explain_says of packets what becomes of them", explains)];

struct Told(Value);

impl Told {
    fn ask(daemon: &Private, client: &Client, source: &str, target: &str) -> Self {
        let outcome = daemon.run(client, &["network", "explain", "--format", "json", source, target]);
        let told: Value = serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{outcome:?}"));
        assert_eq!(outcome.code == 1, told["Verdict"] == "blocked", "{outcome:?}");
        Self(told)
    }

    #[track_caller]
    fn is(&self, verdict: &str, words: &[&str]) {
        let text = self.0.to_string();
        assert_eq!(self.0["Verdict"], verdict, "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

fn explains(_: &World, client: &Client) {
    let host = Namespace::start();
    let daemon = host.daemon("{}");
    daemon.load(client);
    let run = |args: &[&str]| daemon.run(client, args).exits(0);
    run(&["network", "create", "front"]);
    run(&["network", "create", "back"]);
    run(&["network", "create", "--internal", "inner"]);
    run(&["network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart"]);
    let start = |name: &str, network: &str, rest: &[&str], program: &[&str]| {
        let words = ["run", "-d", "--name", name, "--network", network];
        run(&[&words[..], rest, &["busybox"], program].concat());
    };
    let serve = "mkdir /w && exec httpd -f -p 80 -h /w";
    let (sleep, web) = (&["sleep", "3600"][..], &["sh", "-c", serve][..]);
    start("web", "front", &["-p", "8080:80"], web);
    start("friend", "front", &[], sleep);
    start("stranger", "back", &[], sleep);
    start("hidden", "inner", &[], sleep);
    start("one", "apart", &[], sleep);
    start("two", "apart", &[], sleep);
    let ask = |source: &str, target: &str| Told::ask(&daemon, client, source, target);
    let reaches = |from: &str, to: &str, port: &str| {
        let script = format!("nc -w 2 {to} {port} </dev/null");
        daemon.run(client, &["exec", from, "sh", "-c", &script]).code == 0
    };
    let address = run(&["inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}}", "web"]);
    // Until the program waits.
    assert!((0..2000).any(|_| reaches("friend", &address, "80")));
    ask("friend", "web:80")
        .is("passes", &[&address, "by eth0", "both are ports of the bridge br-", "(httpd) waits at"]);
    ask("friend", "web:81").is("blocked", &["nobody waits at 81/tcp in web"]);
    assert!(!reaches("friend", &address, "81"));
    let told = ask("stranger", &format!("{address}:80"));
    told.is("blocked", &["chain inward drops it"]);
    assert!(!reaches("stranger", &address, "80"));
    ask("host", "web:80").is("passes", &["the host itself reaches its bridge", "waits at"]);
    ask("192.0.2.7", "host:8080").is("passes", &["element 8080/tcp of ports4 leads to", "waits at"]);
    ask("host", "127.0.0.1:8080").is("passes", &["element 8080/tcp of ports4"]);
    ask("host", "127.0.0.1:8081").is("blocked", &["nobody waits at 8081/tcp in the host"]);
    ask("hidden", "198.51.100.1:443").is("blocked", &["hidden has no route to 198.51.100.1"]);
    ask("one", "two").is("blocked", &["are isolated (enable_icc=false)"]);
    let other = run(&["inspect", "-f", "{{.NetworkSettings.Networks.apart.IPAddress}}", "two"]);
    daemon.run(client, &["exec", "one", "ping", "-c", "1", "-W", "1", &other]).fails(1, "");
    // Somebody else's chain is named, and not read.
    host.run(&["nft", "add table inet admin; add chain inet admin closed { type filter hook forward priority 10; policy drop; }"]);
    ask("192.0.2.7", "host:8080").is("unknown", &["chain closed of table inet admin at forward drops"]);
    host.run(&["nft", "delete table inet admin"]);
    // As a table, and what cannot be asked.
    let table = daemon.run(client, &["network", "explain", "friend", "web:80"]).exits(0);
    assert!(table.starts_with("HOP ") && table.ends_with("arrives"), "{table}");
    daemon.run(client, &["network", "explain", "friend", "web:x"]).fails(1, "\"x\" is no port");
    run(&["stop", "-t", "0", "web"]);
    daemon.run(client, &["network", "explain", "friend", "web"]).fails(1, "container web does not run");
}
