//! Networks and addresses of a plugin, found where Docker looks for it, through the clients.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use havre_testkit::plugin::Scripted;
use serde_json::{Value, json};

use crate::Test;
use crate::vlans::Namespace;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] =
    &[("plugins_make networks, give addresses and are told of what ends", network)];

/// A plugin that makes pairs of links in a namespace, with addresses from 10.87.0.0/24.
fn plugin(name: &str, host: &Arc<Namespace>) -> Scripted {
    let host = Arc::clone(host);
    let next = Mutex::new(1);
    let socket = PathBuf::from(format!("/run/docker/plugins/{name}.sock"));
    Scripted::at(&socket, move |method, question| {
        let link = |prefix: &str| format!("{prefix}{}", &question["EndpointID"].as_str().unwrap()[..8]);
        let answer = match method {
            "Plugin.Activate" => json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
            "NetworkDriver.GetCapabilities" => json!({"Scope": "local"}),
            "NetworkDriver.CreateEndpoint" => {
                let (near, far) = (link("out"), link("in"));
                host.run(&["ip", "link", "add", &near, "type", "veth", "peer", "name", &far]);
                host.run(&["ip", "address", "add", "10.87.0.1/24", "dev", &near]);
                host.run(&["ip", "link", "set", &near, "up"]);
                json!({})
            }
            "NetworkDriver.Join" => {
                json!({"InterfaceName": {"SrcName": link("in"), "DstPrefix": "plug"}, "Gateway": "10.87.0.1"})
            }
            "IpamDriver.GetDefaultAddressSpaces" => json!({"LocalDefaultAddressSpace": "x"}),
            "IpamDriver.RequestPool" if question["Options"]["full"] == "yes" => {
                json!({"Error": "no pool is left"})
            }
            "IpamDriver.RequestPool" => json!({"PoolID": "p", "Pool": "10.87.0.0/24"}),
            "IpamDriver.RequestAddress" => {
                let mut next = next.lock().unwrap();
                let host = *next;
                *next += 1;
                json!({"Address": format!("10.87.0.{host}/24")})
            }
            _ => json!({}),
        };
        (200, answer.to_string())
    })
}

fn network(_: &World, client: &Client) {
    let host = Arc::new(Namespace::start());
    let name = format!("{}-{}", client.unique("plugin"), std::process::id());
    let plugin = plugin(&name, &host);
    let mut daemon = host.daemon("{}");
    daemon.load(client);
    let create = |rest: &[&str]| {
        let words = ["network", "create", "-d", &name, "--ipam-driver", &name];
        daemon.run(client, &[&words[..], rest].concat())
    };
    create(&["--ipam-opt", "full=yes", "far"]).fails(1, "remote: no pool is left");
    create(&["-o", "colour=blue", "far"]).exits(0);
    let text = daemon.run(client, &["network", "inspect", "far"]).exits(0);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown[0]["Driver"], &shown[0]["IPAM"]["Driver"]), (&json!(name), &json!(name)));
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Gateway"], "10.87.0.1");
    assert_eq!(shown[0]["Options"], json!({"colour": "blue"}));
    let start = ["run", "-d", "--name", "member", "--network", "far", "busybox", "sleep", "3600"];
    daemon.run(client, &start).exits(0);
    let gateway = ["exec", "member", "ping", "-c", "1", "-W", "5", "10.87.0.1"];
    daemon.run(client, &gateway).exits(0);
    let inside = daemon.run(client, &["exec", "member", "ip", "-o", "-4", "address"]).exits(0);
    assert!(inside.contains("plug0") && inside.contains("10.87.0.2/24"), "{inside}");
    daemon.run(client, &["network", "rm", "far"]).fails(1, "has active endpoints");
    // Another daemon knows what was made, and tells of the end.
    host.replace(&mut daemon);
    daemon.run(client, &gateway).exits(0);
    assert!(!plugin.asked().iter().any(|asked| asked == "NetworkDriver.Leave"));
    daemon.run(client, &["rm", "-f", "member"]).exits(0);
    daemon.run(client, &["network", "rm", "far"]).exits(0);
    let asked = plugin.asked();
    for wanted in [
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
        "NetworkDriver.DeleteNetwork",
        "IpamDriver.ReleasePool",
    ] {
        assert!(asked.iter().any(|asked| asked == wanted), "{wanted}: {asked:?}");
    }
    // Without its socket there is no such plugin.
    drop(plugin);
    daemon
        .run(client, &["network", "create", "-d", &name, "far"])
        .fails(1, &format!("plugin \"{name}\" not found"));
}
