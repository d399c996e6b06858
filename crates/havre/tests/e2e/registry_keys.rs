//! Who asks a registry: passwords, helpers, tokens, and what those hear who are refused.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use havre_testkit::registry::{FakeRegistry, Reply};

use crate::Test;
use crate::private::Private;
use crate::registries::{DebianRegistry, PASSWORD, Tokens, USER};
use crate::registry::image;
use crate::world::{Client, Outcome, World, finish};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("registry_passwords and certificates", passwords),
    ("registry_credential helpers keep what login gets", helpers),
    ("registry_a token server stands before it", tokens),
    ("registry_who is not believed hears it and is asked nothing", unbelieved),
];

/// Through one client.
pub(crate) const ALONE: &[Test] = &[("registry_token servers of others are named", strangers)];

/// A client with a `config.json` of its own.
pub(crate) struct Configured<'a> {
    pub(crate) client: &'a Client,
    pub(crate) folder: tempfile::TempDir,
}

impl<'a> Configured<'a> {
    pub(crate) fn new(client: &'a Client, json: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        Self { client, folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.client.command(args);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("DOCKER_CONFIG", self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().display()));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        finish(self.command(args).stdin(std::process::Stdio::null()).output().unwrap())
    }

    pub(crate) fn login(&self, host: &str, password: &str) -> Outcome {
        let mut command = self.command(&["login", "-u", USER, "--password-stdin", host]);
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).ok();
        finish(child.wait_with_output().unwrap())
    }

    fn kept(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("config.json")).unwrap()).unwrap()
    }
}

fn passwords(world: &World, client: &Client) {
    let Some(mut registry) = DebianRegistry::locked() else { return };
    let local = image(world, client, "locked");
    let name = registry.name("locked/web:1");
    client.run(&["tag", &local, &name]).exits(0);
    let user = Configured::new(client, "{}");
    // The certificate does not matter on this machine, who asks does.
    for trusted in [false, true] {
        if trusted {
            registry.trust();
        }
        user.run(&["pull", &name]).fails(1, "no basic auth credentials");
        user.run(&["push", &name]).fails(1, "no basic auth credentials");
        let wrong = user.login(&registry.host, "wrong");
        wrong.fails(1, "401 Unauthorized");
        let done = user.login(&registry.host, PASSWORD);
        assert!(done.exits(0).contains("Login Succeeded"));
        assert!(user.kept()["auths"][&registry.host]["auth"].is_string(), "{}", user.kept());
        assert!(user.run(&["login", &registry.host]).exits(0).contains("Login Succeeded"));
        user.run(&["push", &name]).exits(0);
        user.run(&["pull", &name]).exits(0);
        let out = user.run(&["logout", &registry.host]).exits(0);
        assert!(out.contains(&format!("Removing login credentials for {}", registry.host)), "{out}");
        assert!(user.kept()["auths"].get(&registry.host).is_none(), "{}", user.kept());
        user.run(&["pull", &name]).fails(1, "no basic auth credentials");
    }
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
}

/// Keeps one secret in a file beside itself.
const HELPER: &str = r#"#!/bin/sh
kept=$(dirname "$0")/kept
case $1 in
get) server=$(cat); [ -s "$kept" ] && grep -q "$server" "$kept" && exec cat "$kept"
     echo "credentials not found in native keychain"; exit 1;;
store) cat >"$kept";;
erase) cat >/dev/null; rm -f "$kept";;
list) echo "{}";;
esac
"#;

fn helpers(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::locked() else { return };
    let local = image(world, client, "helped");
    let name = registry.name("helped/web:1");
    client.run(&["tag", &local, &name]).exits(0);
    for json in [
        r#"{"credsStore":"test"}"#.to_owned(),
        format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.host),
    ] {
        let user = Configured::new(client, &json);
        let helper = user.folder.path().join("docker-credential-test");
        std::fs::write(&helper, HELPER).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        user.run(&["push", &name]).fails(1, "no basic auth credentials");
        user.login(&registry.host, PASSWORD).exits(0);
        let kept = std::fs::read_to_string(user.folder.path().join("kept")).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({ "ServerURL": registry.host, "Username": USER, "Secret": PASSWORD })
        );
        assert!(!user.kept().to_string().contains("auth\""), "{}", user.kept());
        user.run(&["push", &name]).exits(0);
        user.run(&["pull", &name]).exits(0);
        user.run(&["logout", &registry.host]).exits(0);
        user.run(&["pull", &name]).fails(1, "no basic auth credentials");
    }
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn tokens(world: &World, client: &Client) {
    let Some(tokens) = Tokens::new().map(Arc::new) else { return };
    let server = Arc::clone(&tokens).serve();
    let Some(registry) = DebianRegistry::behind(&server.host(), &tokens) else { return };
    let local = image(world, client, "tokens");
    let (open, closed, third) =
        (registry.name("open/web:1"), registry.name("closed/web:1"), registry.name("third/web:1"));
    for name in [&open, &closed, &third] {
        client.run(&["tag", &local, name]).exits(0);
    }
    let user = Configured::new(client, "{}");
    assert_ne!(user.run(&["push", &open]).code, 0);
    user.login(&registry.host, "wrong").fails(1, "incorrect username or password");
    user.login(&registry.host, PASSWORD).exits(0);
    // The password is not kept, as the server gave something that stands for it.
    let kept = user.kept()["auths"][&registry.host].clone();
    assert_eq!(kept["identitytoken"], "stands-for-anna", "{kept}");
    user.run(&["push", &open]).exits(0);
    user.run(&["push", &closed]).exits(0);
    // A mount asks for the right to read the other repository too.
    let out = user.run(&["push", &third]).exits(0);
    assert!(out.contains("Mounted from "), "{out}");
    assert!(!server.asked().iter().any(|asked| asked.path.contains(PASSWORD)));
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["pull", "-q", &open]).exits(0);
    let request = format!("/images/create?fromImage={}&tag=1", registry.name("closed/web"));
    let (status, text) = world.api("POST", &request, "");
    let denied = "repository does not exist or may require 'docker login': denied: requested access to the resource is denied";
    assert!(status == 404 && text.contains(denied), "{status} {text}");
    // Nobody is asked for a password.
    let nobody = Configured::new(client, "{}");
    let out = nobody.run(&["pull", &closed]);
    assert!(!out.out.contains("Username"), "{out:?}");
    out.fails(1, &format!("pull access denied for {}, {denied}", registry.name("closed/web")));
    client.run(&["tag", "e2e/busybox", &closed]).exits(0);
    nobody.run(&["push", &closed]).fails(1, "denied: requested access to the resource is denied");
    client.run(&["rmi", &closed]).exits(0);
    user.run(&["pull", "-q", &closed]).exits(0);
    user.run(&["logout", &registry.host]).exits(0);
    assert!(user.kept()["auths"].get(&registry.host).is_none(), "{}", user.kept());
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn unbelieved(world: &World, client: &Client) {
    let registry = FakeRegistry::start().unwrap();
    let realm = format!("http://{}/token", registry.host());
    // Everybody gets a token, which is worth nothing; who comes with keys gets none.
    registry.lie(move |asked| {
        if asked.path.starts_with("/token") {
            let text = r#"{"errors":[{"code":"DENIED","message":"tokens are not for you"}]}"#;
            let known = !asked.header("authorization").is_empty();
            return Some(if known { Reply::body(403, text) } else { Reply::body(200, r#"{"token":"t"}"#) });
        }
        let text = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#;
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        Some(Reply::body(401, text).with("WWW-Authenticate", challenge))
    });
    let name = format!("{}/un/believed:1", registry.host());
    let nobody = Configured::new(client, "{}");
    let out = nobody.run(&["pull", &name]);
    assert!(!out.out.contains("Username"), "{out:?}");
    out.fails(1, "unauthorized: who are you");
    let request = format!("/images/create?fromImage={}/un/believed&tag=1", registry.host());
    let (status, text) = world.api("POST", &request, "");
    assert!(status == 500 && text.contains("unauthorized: who are you"), "{status} {text}");
    let auth =
        format!(r#"{{"username":"{USER}","password":"{PASSWORD}","serveraddress":"{}"}}"#, registry.host());
    let (status, text) = world.api("POST", "/auth", &auth);
    assert!(status == 401 && text.contains("denied: tokens are not for you"), "{status} {text}");
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let user =
        Configured::new(client, &format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host()));
    let repository = name.trim_end_matches(":1");
    user.run(&["pull", &name]).fails(
        1,
        &format!("pull access denied for {repository}, repository does not exist or may require 'docker login': denied: tokens are not for you"),
    );
    client.run(&["tag", "e2e/busybox", &name]).exits(0);
    user.run(&["push", &name]).fails(1, "denied: tokens are not for you");
    client.run(&["rmi", &name]).exits(0);
}

fn strangers(world: &World, client: &Client) {
    let Some(tokens) = Tokens::new().map(Arc::new) else { return };
    let server = Arc::clone(&tokens).serve();
    // Another name of this machine is another host.
    let elsewhere = server.host().replace("127.0.0.1", "localhost");
    let Some(registry) = DebianRegistry::behind(&elsewhere, &tokens) else { return };
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let name = registry.name("closed/web:1");
    let archive = world.folder().join("strangers.tar");
    world.clients()[0].run(&["save", "-o", archive.to_str().unwrap(), "e2e/busybox"]).exits(0);
    daemon.run(client, &["load", "-q", "-i", archive.to_str().unwrap()]).exits(0);
    daemon.run(client, &["tag", "e2e/busybox", &name]).exits(0);
    let keys = Configured::new(client, "{}");
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let json = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host);
    std::fs::write(keys.folder.path().join("config.json"), json).unwrap();
    let folder = keys.folder.path().to_str().unwrap();
    let socket = format!("unix://{}", daemon.path("s"));
    let run = |args: &[&str]| daemon.at(client, &socket, &[("DOCKER_CONFIG", folder)], args);
    let setting = format!(r#""registry-token-servers": ["{}={elsewhere}"]"#, registry.host);
    run(&["push", &name]).fails(1, &setting);
    run(&["pull", &name]).fails(1, &setting);
    run(&["login", "-u", USER, "-p", PASSWORD, &registry.host]).fails(1, &setting);
    // What they may get without keys is asked for as nobody.
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_empty()));
    std::fs::write(daemon.folder.path().join("daemon.json"), format!("{{{setting}}}")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("eloaded", 1);
    run(&["push", "-q", &name]).exits(0);
    run(&["pull", "-q", &name]).exits(0);
    let inspect = ["manifest", "inspect", "--insecure", &name];
    let variable = format!("HAVRE_REGISTRY_TOKEN_SERVERS={}={elsewhere}", registry.host);
    run(&inspect).fails(1, &variable);
    let (variable, value) = variable.split_once('=').unwrap();
    let env = [("DOCKER_CONFIG", folder), (variable, value)];
    daemon.at(client, &socket, &env, &inspect).exits(0);
}
