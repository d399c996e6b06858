//! What the user's `config.json` and environment decide without a flag.

use crate::Test;
use crate::world::{Client, World, finish};

pub(crate) const ALL: &[Test] = &[
    ("configured_proxies_reach_new_containers", proxies),
    ("configured_formats_are_those_of_lists", formats),
    ("configured_platform_is_asked_for", platform),
];

/// Runs a command with a `config.json`.
fn with(world: &World, client: &Client, json: &str, args: &[&str]) -> crate::world::Outcome {
    let folder = world.folder().join(client.unique("config"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), json).unwrap();
    finish(client.command(args).env("DOCKER_CONFIG", &folder).output().unwrap())
}

fn proxies(world: &World, client: &Client) {
    let json = r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"a,b"},"unix:///else":{"ftpProxy":"x"}}}"#;
    let line = ["run", "--rm", "--network", "none", "-e", "no_proxy=mine", "e2e/busybox", "env"];
    let env = with(world, client, json, &line).exits(0);
    let mut found: Vec<&str> = env.lines().filter(|line| line.to_lowercase().contains("proxy")).collect();
    found.sort_unstable();
    assert_eq!(found, ["HTTP_PROXY=http://p:1", "NO_PROXY=a,b", "http_proxy=http://p:1", "no_proxy=mine"]);
    let own = format!(r#"{{"proxies":{{"default":{{}},"unix://{}":{{"allProxy":"y"}}}}}}"#, world.socket());
    let env = with(world, client, &own, &line).exits(0);
    assert!(env.contains("ALL_PROXY=y\n") && env.contains("all_proxy=y\n"), "{env}");
}

fn formats(world: &World, client: &Client) {
    let name = client.sleeper("formats", &[]);
    let json =
        r#"{"psFormat":"<{{.Names}}>","imagesFormat":"[{{.Repository}}]","statsFormat":"({{.Name}})"}"#;
    let run = |args: &[&str]| with(world, client, json, args).exits(0);
    let filter = format!("name=^{name}$");
    assert_eq!(run(&["ps", "--filter", &filter]), format!("<{name}>"));
    assert_eq!(run(&["ps", "--filter", &filter, "--format", "{{.State}}"]), "running");
    assert_eq!(run(&["images", "e2e/busybox"]), "[e2e/busybox]");
    assert_eq!(run(&["stats", "--no-stream", &name]), format!("({name})"));
    client.remove(&name);
}

fn platform(_: &World, client: &Client) {
    let mut command = client.command(&["run", "--rm", "--pull", "never", "e2e/busybox", "true"]);
    let told = finish(command.env("DOCKER_DEFAULT_PLATFORM", "linux/s390x").output().unwrap());
    assert_eq!(told.code, 125, "{told:?}");
    assert!(told.err.contains("s390x"), "{told:?}");
}
