//! Pulling from and pushing to registries, through every client.

use std::process::Command;

use havre_oci::Platform;
use havre_testkit::hostile::{RemoteImage, put_index, shell};
use havre_testkit::registry::{FakeRegistry, Reply};
use havre_testkit::{ArchiveBuilder, Layer};

use crate::Test;
use crate::private::Private;
use crate::registries::DebianRegistry;
use crate::world::{Client, Outcome, World, finish};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("registry_images go there and come back", there_and_back),
    ("registry_names with tags and digests", names),
    ("registry_all tags of a repository", all_tags),
    ("registry_images for other platforms", platforms),
    ("registry_run gets what is not here", run),
    ("registry_refusals are said in docker's words", refusals),
    ("registry_what happens is an event", events),
    ("registry_search asks the old index", search),
    ("registry_mirrors are asked first", mirrors),
];

/// Through one client.
pub(crate) const ALONE: &[Test] = &[
    ("registry_distribution says what a name leads to", distribution),
    ("registry_insecure registries are named, also later", insecure),
    ("registry_skopeo and podman agree about digests", others),
];

/// Loads a shell with a file of its own, so that its layers are no other test's; its name.
pub(crate) fn image(world: &World, client: &Client, name: &str) -> String {
    let reference = format!("{}:latest", client.unique(name));
    let own = Layer::new().file("own", 0o644, reference.as_bytes()).unwrap().finish().unwrap();
    let archive = ArchiveBuilder::new()
        .layer(shell().unwrap())
        .layer(own)
        .config(|config| {
            config.env = vec!["PATH=/bin".into()];
            config.cmd = Some(vec!["cat".into(), "/own".into()]);
        })
        .write_to(&reference, world.folder(), &format!("{}.tar", client.unique(name)))
        .unwrap();
    client.run(&["load", "-q", "-i", archive.to_str().unwrap()]).exits(0);
    reference
}

/// `sha256:...` in what a push said.
pub(crate) fn pushed_digest(out: &str) -> String {
    let line = out.lines().find(|line| line.contains(": digest: sha256:")).expect(out);
    line.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap().to_owned()
}

fn run_it(client: &Client, flags: &[&str], image: &str) -> Outcome {
    client.run(&[&["run", "--rm", "--label", "e2e", "--network", "none"], flags, &[image]].concat())
}

fn there_and_back(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "back");
    let (name, other) = (registry.name("shop/web:1.2"), registry.name("store/web:3"));
    client.run(&["tag", &local, &name]).exits(0);
    let out = client.run(&["push", &name]).exits(0);
    assert!(
        out.starts_with(&format!("The push refers to repository [{}]", registry.name("shop/web"))),
        "{out}"
    );
    assert_eq!(out.matches(": Pushed").count(), 2, "{out}");
    assert!(out.contains("\n1.2: digest: sha256:") && out.contains(" size: "), "{out}");
    let digest = pushed_digest(&out);
    let again = client.run(&["push", &name]).exits(0);
    assert_eq!(again.matches(": Layer already exists").count(), 2, "{again}");
    assert_eq!(pushed_digest(&again), digest);
    client.run(&["tag", &local, &other]).exits(0);
    let mounted = client.run(&["push", &other]).exits(0);
    assert_eq!(mounted.matches(": Mounted from shop/web").count(), 2, "{mounted}");
    assert_eq!(pushed_digest(&mounted), digest);
    assert_eq!(client.run(&["push", "-q", &other]).exits(0), other);
    let known = client.run(&["inspect", "-f", "{{json .RepoDigests}}", &local]).exits(0);
    for repository in ["shop/web", "store/web"] {
        assert!(known.contains(&format!("{}@{digest}", registry.name(repository))), "{known}");
    }
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["inspect", &local]).fails(1, "No such");
    let out = client.run(&["pull", &name]).exits(0);
    assert!(out.starts_with("1.2: Pulling from shop/web\n"), "{out}");
    assert_eq!(out.matches(": Pull complete").count() + out.matches(": Already exists").count(), 2, "{out}");
    let end = format!("Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}");
    assert!(out.ends_with(&end), "{out}");
    assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &name]).exits(0), id);
    assert_eq!(run_it(client, &[], &name).exits(0), local);
    let out = client.run(&["pull", &name]).exits(0);
    assert!(out.contains(&format!("Status: Image is up to date for {name}")), "{out}");
    assert_eq!(client.run(&["pull", "-q", &name]).exits(0), name);
    // What came goes on to elsewhere as it is.
    client.run(&["tag", &name, &registry.name("new/place:1")]).exits(0);
    assert_eq!(pushed_digest(&client.run(&["push", &registry.name("new/place:1")]).exits(0)), digest);
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["image", "inspect", &name]).fails(1, "No such image");
}

fn names(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "names");
    let name = registry.name("a/names");
    client.run(&["tag", &local, &format!("{name}:one")]).exits(0);
    let digest = pushed_digest(&client.run(&["push", &format!("{name}:one")]).exits(0));
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    let by_digest = format!("{name}@{digest}");
    for given in [by_digest.clone(), format!("{name}:one@{digest}"), format!("{name}:other@{digest}")] {
        client.run(&["rmi", "-f", &id]).exits(0);
        let out = client.run(&["pull", &given]).exits(0);
        assert!(out.contains(&format!("Digest: {digest}\n")), "{out}");
        assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &by_digest]).exits(0), id);
        // A digest gives no tag.
        assert_eq!(client.run(&["inspect", "-f", "{{json .RepoTags}}", &id]).exits(0), "[]");
        let list = client.run(&["images", "--digests", "--format", "{{.Tag}} {{.Digest}}", &name]).exits(0);
        assert_eq!(list, format!("<none> {digest}"));
    }
    client.run(&["push", &by_digest]).fails(1, "cannot push a digest reference");
    // The digest's name is the last one.
    let out = client.run(&["rmi", &by_digest]).exits(0);
    assert!(
        out.starts_with(&format!("Untagged: {by_digest}")) && out.contains(&format!("Deleted: {id}")),
        "{out}"
    );
    // Pulled by a tag and by its digest: removing the tag removes both names.
    client.run(&["pull", "-q", &format!("{name}:one")]).exits(0);
    let out = client.run(&["rmi", &format!("{name}:one")]).exits(0);
    assert!(
        out.contains(&format!("Untagged: {name}:one")) && out.contains(&format!("Untagged: {by_digest}")),
        "{out}"
    );
    client.run(&["inspect", &id]).fails(1, "No such");
    // Nothing of a pulled image is dangling as long as it has its tag; without it it is.
    client.run(&["pull", "-q", &by_digest]).exits(0);
    client.run(&["image", "prune", "-f"]).exits(0);
    client.run(&["rmi", "-f", &id]);
}

fn all_tags(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let (one, two) = (image(world, client, "all-one"), image(world, client, "all-two"));
    let name = registry.name("many");
    for (local, tag) in [(&one, "1"), (&two, "2"), (&two, "2.0")] {
        client.run(&["tag", local, &format!("{name}:{tag}")]).exits(0);
    }
    let out = client.run(&["push", "-a", &name]).exits(0);
    for tag in ["1", "2", "2.0"] {
        assert!(out.contains(&format!("\n{tag}: digest: sha256:")), "{out}");
    }
    client.run(&["push", "-a", &format!("{name}:1")]).fails(1, "tag can't be used with --all-tags/-a");
    let ids = [&one, &two].map(|name| client.run(&["inspect", "-f", "{{.Id}}", name]).exits(0));
    client.run(&["rmi", "-f", &ids[0], &ids[1]]).exits(0);
    client.run(&["pull", "-a", &format!("{name}:1")]).fails(1, "tag can't be used with --all-tags/-a");
    let out = client.run(&["pull", "-a", &name]).exits(0);
    for tag in ["1", "2", "2.0"] {
        assert!(out.contains(&format!("{tag}: Pulling from many\n")), "{out}");
    }
    assert_eq!(out.matches("Status: ").count(), 1, "{out}");
    assert!(out.ends_with(&format!("Status: Downloaded newer image for {name}\n{name}")), "{out}");
    let out = client.run(&["pull", "-a", &name]).exits(0);
    assert!(out.contains(&format!("Status: Image is up to date for {name}")), "{out}");
    let mut tags = client.run(&["images", "--format", "{{.Tag}}", &name]).exits(0);
    let mut lines: Vec<&str> = tags.lines().collect();
    lines.sort_unstable();
    tags = lines.join(" ");
    assert_eq!(tags, "1 2 2.0");
    client.run(&["rmi", "-f", &ids[0], &ids[1]]).exits(0);
}

pub(crate) fn small(text: &str) -> RemoteImage {
    RemoteImage::new()
        .layer(&Layer::new().file("own", 0o644, text.as_bytes()).unwrap().finish().unwrap())
        .unwrap()
}

fn platforms(_: &World, client: &Client) {
    let registry = FakeRegistry::start().unwrap();
    let parse = |text: &str| Platform::parse(text).unwrap();
    let host = Platform::host();
    let mine = format!("{}/{}", host.os, host.architecture);
    let mut images = vec![(host, small("mine"))];
    for text in ["linux/s390x", "linux/arm/v6", "linux/arm/v7"] {
        images.push((parse(text), small(text)));
    }
    put_index(&registry, "plat", "1", images).unwrap();
    let name = format!("{}/plat:1", registry.host());
    let of = || client.run(&["inspect", "-f", "{{.Os}}/{{.Architecture}}", &name]).exits(0);
    client.run(&["pull", "-q", "--platform", "linux/s390x", &name]).exits(0);
    assert_eq!(of(), "linux/s390x");
    // Without a word it is this machine's, whatever is here.
    client.run(&["pull", "-q", &name]).exits(0);
    assert_eq!(of(), mine);
    client.run(&["pull", "-q", "--platform", "linux/arm/v7", &name]).exits(0);
    assert_eq!(client.run(&["inspect", "-f", "{{.Architecture}}{{.Variant}}", &name]).exits(0), "armv7");
    let missing = client.run(&["pull", "--platform", "linux/riscv64", &name]);
    missing.fails(1, "no matching manifest for linux/riscv64 in the manifest list entries");
    client.run(&["pull", "--platform", "a/b/c/d", &name]).fails(1, "a/b/c/d");
    // An image for one platform only, and another one asked for.
    RemoteImage::new().platform(parse("linux/s390x")).put(&registry, "single", "1").unwrap();
    let single = format!("{}/single:1", registry.host());
    let wrong = client.run(&["pull", "--platform", "linux/arm64", &single]);
    wrong.fails(
        1,
        "was found but its platform (linux/s390x) does not match the specified platform (linux/arm64)",
    );
    client.run(&["rmi", &name]).exits(0);
    client.run(&["image", "prune", "-f"]).exits(0);
}

fn run(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "absent");
    let name = registry.name("run/absent:latest");
    client.run(&["tag", &local, &name]).exits(0);
    client.run(&["push", "-q", &name]).exits(0);
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
    run_it(client, &["--pull", "never"], &name).fails(125, "No such image");
    let ran = run_it(client, &[], &name);
    assert!(ran.err.contains(&format!("Unable to find image '{name}' locally")), "{ran:?}");
    assert!(ran.err.contains("latest: Pulling from run/absent"), "{ran:?}");
    assert_eq!(ran.exits(0), local);
    let ran = run_it(client, &[], &name);
    assert_eq!((ran.out.trim(), ran.err.as_str()), (local.as_str(), ""));
    let ran = run_it(client, &["--pull", "always"], &name);
    assert!(ran.err.contains(&format!("Status: Image is up to date for {name}")), "{ran:?}");
    let ran = run_it(client, &["--pull", "always", "-q"], &name);
    assert_eq!((ran.out.trim(), ran.err.as_str()), (local.as_str(), ""));
    let container = client.unique("from-afar");
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["create", "--name", &container, "--label", "e2e", "--network", "none", &name]).exits(0);
    client.run(&["rm", &container]).exits(0);
    let gone = registry.name("run/nothing");
    run_it(client, &[], &gone).fails(125, &format!("manifest for {gone}:latest not found"));
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn refusals(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "refused");
    let name = registry.name("here");
    client.run(&["tag", &local, &format!("{name}:1")]).exits(0);
    client.run(&["push", "-q", &format!("{name}:1")]).exits(0);
    let unknown = "not found: manifest unknown: manifest unknown";
    client.run(&["pull", &format!("{name}:2")]).fails(1, &format!("manifest for {name}:2 {unknown}"));
    let other = registry.name("no/such");
    client.run(&["pull", &other]).fails(1, &format!("manifest for {other}:latest {unknown}"));
    client.run(&["pull", "-a", &other]).fails(1, &format!("repository {other} not found"));
    client.run(&["push", &other]).fails(1, &format!("An image does not exist locally with the tag: {other}"));
    client.run(&["push", &format!("{name}:2")]).fails(1, &format!("tag does not exist: {name}:2"));
    let digest = format!("sha256:{}", "0".repeat(64));
    client.run(&["pull", &format!("{name}@{digest}")]).fails(1, unknown);
    for nonsense in ["upper/Case", "a b", "http://127.0.0.1/x", "x@sha256:12"] {
        client.run(&["pull", nonsense]).fails(1, "invalid reference format");
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("127.0.0.1:{port}");
    client
        .run(&["pull", &format!("{nobody}/x")])
        .fails(1, &format!("dial tcp {nobody}: connect: connection refused"));
    client.run(&["tag", &local, &format!("{nobody}/x")]).exits(0);
    client.run(&["push", &format!("{nobody}/x")]).fails(1, "connection refused");
    let login = client.command(&["login", "-u", "u", "-p", "p", &nobody]).output().unwrap();
    finish(login).fails(1, "connection refused");
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn events(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "events");
    let name = registry.name("happens:1");
    client.run(&["tag", &local, &name]).exits(0);
    let since = world.now();
    client.run(&["push", "-q", &name]).exits(0);
    client.run(&["pull", "-q", &name]).exits(0);
    let until = world.now();
    let format = "{{.Type}} {{.Action}} {{.Actor.ID}} {{index .Actor.Attributes \"name\"}}";
    let filter = format!("image={name}");
    let args = ["events", "--since", &since, "--until", &until, "--filter", &filter, "--format", format];
    let out = client.run(&args).exits(0);
    let short = registry.name("happens");
    assert_eq!(out, format!("image push {name} {short}\nimage pull {name} {short}"));
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn search(_: &World, client: &Client) {
    let registry = FakeRegistry::start().unwrap();
    registry.lie(|asked| {
        let query = asked.path.strip_prefix("/v1/search?")?;
        assert!(query.contains("q=web"), "{query}");
        let text = r#"{"num_results":3,"query":"web","results":[
            {"name":"a/web","description":"first\nline","star_count":3,"is_official":false,"is_automated":false},
            {"name":"web","description":"","star_count":70,"is_official":true,"is_automated":false},
            {"name":"b/web","description":"a long text that says much more than what there is room for in a column","star_count":1,"is_official":false,"is_automated":true}]}"#;
        Some(Reply::body(200, text).with("Content-Type", "application/json"))
    });
    let term = format!("{}/web", registry.host());
    let out = client.run(&["search", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}", &term]).exits(0);
    assert_eq!(out, "a/web 3 \nweb 70 [OK]\nb/web 1");
    let out = client.run(&["search", &term]).exits(0);
    assert!(out.starts_with("NAME ") && out.contains("first line") && out.contains('…'), "{out}");
    let names = |filter: &str| client.run(&["search", "--filter", filter, "--format", "{{.Name}}", &term]);
    assert_eq!(names("is-official=true").exits(0), "web");
    assert_eq!(names("stars=2").exits(0), "a/web\nweb");
    assert_ne!(names("nonsense=1").code, 0);
    client.run(&["search", "--limit", "101", &term]).fails(1, "outside the range of [1, 100]");
    let plain = FakeRegistry::start().unwrap();
    let refused = client.run(&["search", &format!("{}/web", plain.host())]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

fn mirrors(_: &World, client: &Client) {
    let mirror = FakeRegistry::start().unwrap();
    small("hub").put(&mirror, "library/mirrored", "latest").unwrap();
    let json = format!(r#"{{"registry-mirrors":["http://{}"]}}"#, mirror.host());
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let told =
        |daemon: &Private| daemon.run(client, &["info", "-f", "{{json .RegistryConfig.Mirrors}}"]).exits(0);
    std::fs::write(daemon.folder.path().join("daemon.json"), &json).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("eloaded", 1);
    assert_eq!(told(&daemon), format!("[\"http://{}/\"]", mirror.host()));
    let out = daemon.run(client, &["pull", "mirrored"]).exits(0);
    assert!(out.contains("Pulling from library/mirrored"), "{out}");
    assert!(out.ends_with("docker.io/library/mirrored:latest"), "{out}");
    let names = daemon.run(client, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).exits(0);
    assert_eq!(names, "mirrored:latest");
    assert!(mirror.asked().iter().all(|asked| asked.header("authorization").is_empty()));
}

fn distribution(world: &World, client: &Client) {
    let registry = FakeRegistry::start().unwrap();
    let parse = |text: &str| Platform::parse(text).unwrap();
    let images = ["linux/amd64", "linux/arm/v7"].map(|text| (parse(text), small(text)));
    let index = put_index(&registry, "dist/many", "1", images).unwrap();
    let one = small("one").platform(parse("linux/s390x")).put(&registry, "dist/one", "1").unwrap();
    let ask = |name: &str| {
        let (status, text) = world.api("GET", &format!("/distribution/{}/{name}/json", registry.host()), "");
        (status, serde_json::from_str::<serde_json::Value>(&text).expect(&text))
    };
    let (status, many) = ask("dist/many:1");
    assert_eq!((status, &many["Descriptor"]["digest"]), (200, &index.into()));
    assert_eq!(many["Descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    let all: Vec<_> =
        many["Platforms"].as_array().unwrap().iter().map(|p| p["architecture"].clone()).collect();
    assert_eq!(all, ["amd64", "arm"]);
    let (_, single) = ask("dist/one:1");
    assert_eq!(
        (&single["Descriptor"]["digest"], &single["Platforms"][0]["architecture"]),
        (&one.into(), &"s390x".into())
    );
    let (status, error) = ask("dist/none:1");
    assert!(status == 404 && error["message"].as_str().unwrap().contains("manifest unknown"), "{error}");
    let (status, _) = world.api("GET", "/distribution/UPPER/json", "");
    assert_eq!(status, 400);
    // What the official client's own reading of manifests says of what we push.
    let Some(docker) = world.clients().iter().find(|client| client.name == "docker") else { return };
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "manifest");
    let name = registry.name("manifest:1");
    client.run(&["tag", &local, &name]).exits(0);
    client.run(&["push", "-q", &name]).exits(0);
    let out = docker.run(&["manifest", "inspect", "--insecure", &name]).exits(0);
    let manifest: serde_json::Value = serde_json::from_str(&out).unwrap();
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    assert_eq!(manifest["config"]["digest"], id.as_str());
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    client.run(&["rmi", "-f", &id]).exits(0);
}

/// An address of this machine that is not loopback.
pub(crate) fn outer_address() -> Option<String> {
    // Nothing is sent: the kernel only says which address it would use.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.200:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

fn insecure(_: &World, client: &Client) {
    let Some(address) = outer_address() else {
        println!("SKIP insecure registries: this machine has no address but loopback");
        return;
    };
    let registry = FakeRegistry::at(&address).unwrap();
    small("plain").put(&registry, "plain", "1").unwrap();
    let name = format!("{}/plain:1", registry.host());
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    let refused = daemon.run(client, &["pull", &name]);
    refused.fails(1, "https://");
    assert!(registry.asked().is_empty(), "nothing is asked without encryption");
    for entry in [registry.host(), address.clone(), format!("{address}/24")] {
        let json = format!(r#"{{"insecure-registries":["{entry}"]}}"#);
        std::fs::write(daemon.folder.path().join("daemon.json"), json).unwrap();
        let before = daemon.log().matches("eloaded").count();
        daemon.signal(rustix::process::Signal::HUP);
        daemon.wait_for("eloaded", before + 1);
        daemon.run(client, &["pull", "-q", &name]).exits(0);
        daemon.run(client, &["rmi", &name]).exits(0);
    }
    std::fs::write(daemon.folder.path().join("daemon.json"), "{}").unwrap();
    let before = daemon.log().matches("eloaded").count();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("eloaded", before + 1);
    assert_eq!(daemon.run(client, &["pull", &name]).code, 1);
}

pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout").args(["-k", "5", "60", program]).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn others(world: &World, client: &Client) {
    let installed = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !installed("skopeo") || !installed("podman") {
        println!("SKIP other tools: skopeo or podman is not installed");
        return;
    }
    let Some(registry) = DebianRegistry::plain() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let local = image(world, client, "skopeo");
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    let ours = registry.name("skopeo/ours:1");
    client.run(&["tag", &local, &ours]).exits(0);
    let digest = pushed_digest(&client.run(&["push", &ours]).exits(0));
    let remote = |name: &str| format!("docker://{name}");
    let digest_of = |name: &str| {
        tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &remote(name)])
    };
    let copy = |from: &str, to: &str| {
        tool("skopeo", &["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", from, to])
    };
    // What we pushed is what others see there, and carry elsewhere.
    assert_eq!(digest_of(&ours), digest);
    let layout = format!("oci:{}:1", at("layout"));
    let there = registry.name("skopeo/theirs:1");
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--preserve-digests",
            "--src-tls-verify=false",
            &remote(&ours),
            &format!("dir:{}", at("dir")),
        ],
    );
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("dir:{}", at("dir")),
            &remote(&there),
        ],
    );
    assert_eq!(digest_of(&there), digest);
    client.run(&["rmi", "-f", &id]).exits(0);
    let out = client.run(&["pull", &there]).exits(0);
    assert!(out.contains(&format!("Digest: {digest}")), "{out}");
    assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &there]).exits(0), id);
    // Our archive, read by others, leads to the same image; so does what they write.
    let saved = at("saved.tar");
    client.run(&["save", "-o", &saved, &there]).exits(0);
    let read = registry.name("skopeo/saved:1");
    copy(&format!("docker-archive:{saved}"), &remote(&read));
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["pull", "-q", &read]).exits(0);
    assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &read]).exits(0), id);
    client.run(&["rmi", "-f", &id]).exits(0);
    let written = at("written.tar");
    copy(&remote(&ours), &format!("docker-archive:{written}:{}", local));
    client.run(&["load", "-q", "-i", &written]).exits(0);
    assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0), id);
    // An OCI layout has the other family of media types, so another manifest, and its digest goes round unchanged.
    copy(&remote(&ours), &layout);
    let oci = registry.name("skopeo/oci:1");
    copy(&layout, &remote(&oci));
    let oci_digest = digest_of(&oci);
    let out = client.run(&["pull", &oci]).exits(0);
    assert!(out.contains(&format!("Digest: {oci_digest}")), "{out}");
    let again = registry.name("skopeo/again:1");
    client.run(&["tag", &oci, &again]).exits(0);
    assert_eq!(pushed_digest(&client.run(&["push", &again]).exits(0)), oci_digest);
    let ids = client.run(&["inspect", "-f", "{{.Id}}", &oci]).exits(0);
    assert_eq!(run_it(client, &[], &oci).exits(0), local);
    // Podman reads what we save and push.
    // Its paths must be short.
    let short = tempfile::tempdir().unwrap();
    let below = |name: &str| short.path().join(name).display().to_string();
    let root = ["--root", &below("root"), "--runroot", &below("run"), "--storage-driver", "vfs"];
    let podman = |args: &[&str]| tool("podman", &[&root[..], args].concat());
    podman(&["load", "-q", "-i", &saved]);
    podman(&["pull", "-q", "--tls-verify=false", &ours]);
    let seen = podman(&["image", "inspect", "--format", "{{.Id}}", &ours]);
    assert_eq!(format!("sha256:{seen}"), id);
    podman(&["save", "-q", "--format", "oci-archive", "-o", &at("podman.tar"), &ours]);
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["load", "-q", "-i", &at("podman.tar")]).exits(0);
    podman(&["rmi", "-af"]);
    for name in [&id, &ids] {
        client.run(&["rmi", "-f", name]);
    }
}
