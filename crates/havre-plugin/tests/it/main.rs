//! Plugins that answer, and those that do not.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::time::Duration;

use havre_plugin::{Folders, Plugin, PluginError};
use havre_testkit::plugin::Scripted;
use serde_json::{Value, json};

fn folders(plugin: &Scripted) -> Folders {
    Folders { sockets: plugin.folder().to_owned(), files: Vec::new() }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn found(plugin: &Scripted) -> Plugin {
    Plugin::find(&folders(plugin), "scripted", "NetworkDriver", PATIENCE).unwrap()
}

fn is_network(method: &str) -> Option<Value> {
    (method == "Plugin.Activate").then(|| json!({"Implements": ["NetworkDriver", "IpamDriver"]}))
}

#[test]
fn a_plugin_is_asked_and_answers() {
    let plugin = Scripted::start("scripted", |method, question| match method {
        "NetworkDriver.Echo" => (200, json!({"Said": question["Word"]}).to_string()),
        "NetworkDriver.Refuse" => (200, json!({"Err": "not today"}).to_string()),
        "IpamDriver.Refuse" => (200, json!({"Error": "no pool"}).to_string()),
        "NetworkDriver.Break" => (500, json!({"Err": "broken"}).to_string()),
        _ => is_network(method).map_or((404, "what?".into()), |value| (200, value.to_string())),
    });
    let client = found(&plugin);
    let answer: Value = client.call("NetworkDriver.Echo", &json!({"Word": "ü"})).unwrap();
    assert_eq!(answer["Said"], "ü");
    let said = |method: &str| client.call::<_, Value>(method, &json!({})).unwrap_err().to_string();
    assert_eq!(said("NetworkDriver.Refuse"), "remote: not today (plugin \"scripted\")");
    assert_eq!(said("IpamDriver.Refuse"), "remote: no pool (plugin \"scripted\")");
    assert!(said("NetworkDriver.Break").ends_with("it answered with status 500: broken"));
    let unknown = client.call::<_, Value>("NetworkDriver.New", &json!({})).unwrap_err();
    assert!(matches!(unknown, PluginError::Unknown { .. }), "{unknown}");
    let volume = Plugin::find(&folders(&plugin), "scripted", "VolumeDriver", PATIENCE).unwrap_err();
    assert!(volume.to_string().contains("does not implement VolumeDriver"), "{volume}");
    assert_eq!(plugin.asked()[..2], ["Plugin.Activate", "NetworkDriver.Echo"]);
}

#[test]
fn what_is_no_answer_is_an_error_that_names_plugin_and_question() {
    let plugin = Scripted::start("scripted", |method, _| match method {
        "X.Garbage" => (200, "{\"a\":".into()),
        "X.Huge" => (200, format!("\"{}\"", "x".repeat(3 << 20))),
        "X.Long" => (500, "line\n".repeat(1000)),
        _ => is_network(method).map_or((404, String::new()), |value| (200, value.to_string())),
    });
    let client = found(&plugin);
    for (method, why) in [
        ("X.Garbage", "its answer cannot be read: EOF"),
        ("X.Huge", "its answer is longer than 1048576 bytes"),
        ("X.Long", "status 500: line line"),
    ] {
        let said = client.call::<_, Value>(method, &json!({})).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains(method) && said.contains("\"scripted\""), "{said}");
        assert!(said.len() < 600, "{} bytes", said.len());
    }
    let (sockets, stopped) = (folders(&plugin), client.clone());
    drop(plugin);
    let said = stopped.call::<_, Value>("X.Any", &json!({})).unwrap_err().to_string();
    assert!(said.contains("X.Any"), "{said}");
    let gone = Plugin::find(&sockets, "scripted", "NetworkDriver", PATIENCE).unwrap_err();
    assert!(matches!(gone, PluginError::NotFound(_)), "{gone}");
}

#[test]
fn a_plugin_that_never_answers_is_waited_for_with_measure() {
    let folder = tempfile::tempdir().unwrap();
    // Connections wait in the queue of a socket that nobody accepts from.
    let _silent = std::os::unix::net::UnixListener::bind(folder.path().join("silent.sock")).unwrap();
    let folders = Folders { sockets: folder.path().to_owned(), files: Vec::new() };
    let error = Plugin::find(&folders, "silent", "NetworkDriver", Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().ends_with("Plugin.Activate: no answer within 0.05 s"), "{error}");
}
