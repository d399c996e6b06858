//! `manifest`: lists for several platforms, put together by either client, seen by both.

use havre_oci::Platform;
use havre_oci::image::media;
use havre_testkit::hostile::{Attested, put_attested, put_index};
use havre_testkit::registry::FakeRegistry;
use serde_json::Value;

use crate::Test;
use crate::registries::{DebianRegistry, PASSWORD};
use crate::registry::{image, pushed_digest, small, tool};
use crate::registry_keys::Configured;
use crate::world::{Client, World};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("manifest_lists are made here and pushed", lists),
    ("manifest_names of other repositories are taken over", mounts),
    ("manifest_keys and certificates are the user's", keys),
    ("manifest_pushes of one platform send the image alone", single),
];

/// Through one client.
pub(crate) const ALONE: &[Test] = &[
    ("manifest_both clients say the same", same),
    ("manifest_one client goes on with the other's lists", shared),
    ("manifest_attestations go through archives and other tools", attestations),
];

fn platform(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

/// Two images, an index of three others, and their repository.
fn registry() -> (FakeRegistry, String) {
    let registry = FakeRegistry::start().unwrap();
    for (tag, text) in [("amd", "linux/amd64"), ("arm", "linux/arm/v7")] {
        small(tag).platform(platform(text)).put(&registry, "man/web", tag).unwrap();
    }
    let kind = media::DOCKER_MANIFEST;
    let docker = small("docker").platform(platform("linux/s390x"));
    let docker = docker.manifest(move |manifest| manifest["mediaType"] = kind.into());
    registry.manifest("man/web", "docker", kind, docker.store(&registry).unwrap());
    let images = ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|text| (platform(text), small(text)));
    put_index(&registry, "man/web", "all", images).unwrap();
    let name = format!("{}/man/web", registry.host());
    (registry, name)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn lists(_: &World, client: &Client) {
    let (registry, name) = registry();
    let user = Configured::new(client, "{}");
    let [list, amd, arm] = ["list", "amd", "arm"].map(|tag| format!("{name}:{tag}"));
    // Without a word for it nothing goes unencrypted.
    user.run(&["manifest", "inspect", &amd]).fails(1, &format!("no such manifest: {amd}"));
    user.run(&["manifest", "create", &list, &amd]).fails(1, "no such manifest");
    assert!(
        registry.asked().iter().all(|asked| asked.path == "/v2/"),
        "the official client looks whether it is there"
    );
    let one = parsed(&user.run(&["manifest", "inspect", "--insecure", &amd]).exits(0));
    assert_eq!(one["mediaType"], media::MANIFEST);
    let told = parsed(&user.run(&["manifest", "inspect", "--insecure", "--verbose", &arm]).exits(0));
    assert_eq!(told["Ref"], arm.as_str());
    assert_eq!(told["Descriptor"]["platform"]["variant"], "v7");
    let all = parsed(&user.run(&["manifest", "inspect", "--insecure", &format!("{name}:all")]).exits(0));
    assert_eq!(all["manifests"][1]["platform"]["architecture"], "arm64");
    let out = user.run(&["manifest", "create", "--insecure", &list, &amd]).exits(0);
    assert_eq!(out, format!("Created manifest list {list}"));
    let again = user.run(&["manifest", "create", "--insecure", &list, &arm]);
    again.fails(1, "refusing to amend an existing manifest list with no --amend flag");
    user.run(&["manifest", "create", "--insecure", "--amend", &list, &arm]).exits(0);
    let index = format!("{name}:all");
    let wrong = user.run(&["manifest", "create", "--insecure", "-a", &list, &index]);
    wrong.fails(1, &format!("{index} is a manifest list"));
    user.run(&["manifest", "annotate", "--arch", "nope", &list, &arm])
        .fails(1, "unsupported os/arch combination: /nope");
    #[rustfmt::skip]
    user.run(&[
        "manifest", "annotate", "--os", "linux", "--arch", "arm", "--variant", "v6",
        "--os-version", "3", "--os-features", "a,b", "--os-features", "b,c", &list, &arm,
    ])
    .exits(0);
    let told = parsed(&user.run(&["manifest", "inspect", "-v", &list, &arm]).exits(0));
    let expected = serde_json::json!({
        "architecture": "arm", "os": "linux", "os.version": "3", "os.features": ["a", "b", "c"],
        "variant": "v6",
    });
    assert_eq!(told["Descriptor"]["platform"], expected);
    let shown = user.run(&["manifest", "inspect", &list]).exits(0);
    let digest = user.run(&["manifest", "push", "--insecure", &list]).exits(0);
    let stored = registry.document("man/web", "list").unwrap();
    assert_eq!(
        (havre_testkit::registry::digest(&stored), String::from_utf8(stored).unwrap()),
        (digest, shown)
    );
    // What it lists is pulled by its name.
    client.run(&["pull", "-q", "--platform", "linux/amd64", &list]).exits(0);
    assert_eq!(client.run(&["inspect", "-f", "{{.Architecture}}", &list]).exits(0), "amd64");
    client.run(&["rmi", &list]).exits(0);
    user.run(&["manifest", "push", "--insecure", "--purge", &list]).exits(0);
    user.run(&["manifest", "push", &list]).fails(1, &format!("No such manifest: {list}"));
    user.run(&["manifest", "create", "--insecure", &list, &amd]).exits(0);
    user.run(&["manifest", "rm", &list]).exits(0);
    user.run(&["manifest", "rm", &list, "UPPER"]).fails(1, &format!("No such manifest: {list}\ninvalid"));
}

fn mounts(world: &World, client: &Client) {
    let Some(registry) = DebianRegistry::plain() else { return };
    let local = image(world, client, "mounts");
    let (from, list) = (registry.name("from/web:1"), registry.name("to/web:2"));
    client.run(&["tag", &local, &from]).exits(0);
    let digest = pushed_digest(&client.run(&["push", &from]).exits(0));
    let user = Configured::new(client, "{}");
    user.run(&[
        "manifest",
        "create",
        "--insecure",
        &list,
        &format!("{}@{digest}", registry.name("from/web")),
    ])
    .exits(0);
    let out = user.run(&["manifest", "push", "--insecure", &list]).exits(0);
    let first = format!("Pushed ref {}@{digest} with digest: {digest}\nsha256:", registry.name("to/web"));
    assert!(out.starts_with(&first), "{out}");
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
    client.run(&["pull", "-q", &list]).exits(0);
    assert_eq!(client.run(&["inspect", "-f", "{{.Id}}", &list]).exits(0), id);
    client.run(&["rmi", "-f", &id]).exits(0);
}

fn keys(world: &World, client: &Client) {
    let Some(mut registry) = DebianRegistry::locked() else { return };
    let local = image(world, client, "keys");
    let (name, list) = (registry.name("keys/web:1"), registry.name("keys/web:all"));
    client.run(&["tag", &local, &name]).exits(0);
    let user = Configured::new(client, "{}");
    user.run(&["manifest", "inspect", "--insecure", &name]).fails(1, "no basic auth credentials");
    user.login(&registry.host, PASSWORD).exits(0);
    user.run(&["push", &name]).exits(0);
    registry.trust();
    let shown = parsed(&user.run(&["manifest", "inspect", &name]).exits(0));
    assert_eq!(shown["layers"].as_array().unwrap().len(), 2);
    user.run(&["manifest", "inspect", &registry.name("keys/none:1")]).fails(1, "no such manifest");
    user.run(&["manifest", "create", &list, &name]).exits(0);
    // Docker's client does not try TLS on loopback for a push.
    if client.name == "havre" {
        user.run(&["manifest", "push", &list]).exits(0);
        assert!(user.run(&["manifest", "inspect", &list]).exits(0).contains("manifests"));
    }
    let id = client.run(&["inspect", "-f", "{{.Id}}", &local]).exits(0);
    client.run(&["rmi", "-f", &id]).exits(0);
}

/// What both say: command lines in which `NAME` is a repository.
const LINES: &[&str] = &[
    "inspect NAME:amd",
    "inspect --insecure NAME:amd",
    "inspect --insecure -v NAME:docker",
    "inspect --insecure NAME:all",
    "inspect --insecure -v NAME:all",
    "inspect --insecure NAME:none",
    "inspect --insecure NAME",
    "inspect --insecure 127.0.0.1:1/x",
    "inspect UP",
    "inspect",
    "inspect a b c",
    "inspect --nope a",
    "create UP a",
    "create a:1 UP",
    "create a",
    "create --insecure NAME:l NAME:docker NAME:amd NAME:arm",
    "create --insecure NAME:l NAME:amd",
    "create --insecure -a NAME:l NAME:all",
    "create --insecure -a NAME:l NAME:none",
    "annotate NAME:l NAME:arm --arch nope",
    "annotate NAME:l NAME:arm --variant v6 --os-features x,y --os-version 1",
    "annotate NAME:l NAME:none --arch arm",
    "annotate NAME:none NAME:amd --arch arm",
    "annotate UP a",
    "annotate a:1 UP",
    "annotate a",
    "inspect NAME:l",
    "inspect -v NAME:l",
    "inspect NAME:l NAME:amd",
    "inspect -v NAME:l NAME:arm",
    "inspect NAME:l NAME:none",
    "push --insecure NAME:l",
    "push --insecure -p NAME:l",
    "push NAME:l",
    "push UP",
    "push",
    "create --insecure NAME:oci NAME:amd",
    "push NAME:oci",
    "create --insecure localhost:1/x NAME:amd",
    "inspect localhost:1/x",
    "push localhost:1/x",
    "rm NAME:oci",
    "rm NAME:oci UP",
    "rm",
    "nope",
];

fn same(world: &World, _: &Client) {
    let [ours, theirs] = world.clients() else { return };
    let (registry, name) = registry();
    let mut said = [ours, theirs].map(|client| {
        let user = Configured::new(client, "{}");
        let mut said = Vec::new();
        for line in LINES {
            let line = line.replace("NAME", &name);
            let words: Vec<&str> = std::iter::once("manifest").chain(line.split(' ')).collect();
            let outcome = user.run(&words);
            let hint = "\nThe registry does not speak TLS: --insecure talks to it nevertheless";
            let err = outcome.err.replace(hint, "").replace("havre", "docker");
            said.push(format!("{line}\n{}\n{}{err}", outcome.code, outcome.out));
            // What is kept is the same too.
            let folder = user.folder.path().join("manifests");
            let Ok(lists) = std::fs::read_dir(&folder) else { continue };
            let files = lists.flat_map(|list| std::fs::read_dir(list.unwrap().path()).unwrap());
            let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            files.sort();
            for file in files {
                let path = file.strip_prefix(&folder).unwrap().display().to_string();
                said.push(format!("{path}: {}", std::fs::read_to_string(&file).unwrap()));
            }
        }
        (said, registry.document("man/web", "l"))
    });
    let [(ours, our_list), (theirs, their_list)] = &mut said;
    for (ours, theirs) in ours.iter().zip(theirs.iter()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!((ours.len(), our_list), (theirs.len(), their_list));
}

fn shared(world: &World, ours: &Client) {
    let Some(docker) = world.clients().iter().find(|client| client.name == "docker") else { return };
    let (_registry, name) = registry();
    let [list, amd, arm] = ["both", "amd", "arm"].map(|tag| format!("{name}:{tag}"));
    for (first, second) in [(ours, docker), (docker, ours)] {
        // One folder, used by turns.
        let by_second = Configured::new(second, "{}");
        by_second.run(&["manifest", "create", "--insecure", &list, &amd]).exits(0);
        let by_first = Configured { client: first, folder: by_second.folder };
        by_first.run(&["manifest", "create", "--insecure", "--amend", &list, &arm]).exits(0);
        by_first.run(&["manifest", "annotate", "--arch", "arm64", &list, &amd]).exits(0);
        let by_second = Configured { client: second, folder: by_first.folder };
        let shown = parsed(&by_second.run(&["manifest", "inspect", &list]).exits(0));
        assert_eq!(shown["manifests"][0]["platform"]["architecture"], "arm64");
        assert_eq!(shown["manifests"].as_array().unwrap().len(), 2);
        by_second.run(&["manifest", "push", "--insecure", &list]).exits(0);
    }
}

/// An image of this machine with an attestation, in a repository of a registry; its name.
fn attested(registry: &FakeRegistry, client: &Client) -> (String, Attested) {
    let image = small(&client.unique("attested"));
    let others = [(platform("linux/s390x"), small("other"))];
    let put = put_attested(registry, "man/attested", "1", image, others).unwrap();
    (format!("{}/man/attested:1", registry.host()), put)
}

fn single(_: &World, client: &Client) {
    let registry = FakeRegistry::start().unwrap();
    let (name, put) = attested(&registry, client);
    let own = Platform::host();
    let (own, other) = (format!("{}/{}", own.os, own.architecture), "linux/s390x");
    client.run(&["pull", "-q", &name]).exits(0);
    let target = name.replace("attested", "single");
    client.run(&["tag", &name, &target]).exits(0);
    let cut = pushed_digest(&client.run(&["push", &target]).exits(0));
    let index = parsed(&String::from_utf8(registry.document("man/single", &cut).unwrap()).unwrap());
    let listed: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|one| one["digest"].clone()).collect();
    assert_eq!(listed, [put.manifest.as_str(), put.attestation.as_str()]);
    for flags in [&["push"][..], &["push", "-a"]] {
        let target = if flags.len() > 1 { target.trim_end_matches(":1") } else { &target };
        let out = client.run(&[flags, &["--platform", &own, target]].concat()).exits(0);
        assert_eq!(pushed_digest(&out), put.manifest);
        let wrong = client.run(&[flags, &["--platform", other, target]].concat());
        wrong.fails(1, &format!("does not provide the specified platform ({other})"));
    }
    client
        .run(&["push", "--platform", "nonsense", &target])
        .fails(1, "\"nonsense\": unknown operating system");
    let known = client.run(&["inspect", "-f", "{{json .RepoDigests}}", &target]).exits(0);
    assert!(known.contains(&cut) && known.contains(&put.manifest), "{known}");
    client.run(&["rmi", "-f", &client.run(&["inspect", "-f", "{{.Id}}", &name]).exits(0)]).exits(0);
}

fn attestations(world: &World, client: &Client) {
    let installed = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    if !installed("skopeo") {
        println!("SKIP attestations in archives of other tools: skopeo is not installed");
        return;
    }
    let Some(debian) = DebianRegistry::plain() else { return };
    let fake = FakeRegistry::start().unwrap();
    let (name, put) = attested(&fake, client);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let copy = |flags: &[&str], from: &str, to: &str| {
        tool("skopeo", &[&["copy", "-q", insecure[0], insecure[1]], flags, &[from, to]].concat())
    };
    let raw = |name: &str| tool("skopeo", &["inspect", "--raw", "--tls-verify=false", name]);
    // All of it to Debian's registry, and from there through us: the same digests in another repository.
    let (there, here) = (debian.name("att/theirs:1"), debian.name("att/ours:1"));
    copy(&["--all", "--preserve-digests"], &format!("docker://{name}"), &format!("docker://{there}"));
    client.run(&["pull", "-q", &there]).exits(0);
    client.run(&["tag", &there, &here]).exits(0);
    client.run(&["push", "-q", &here]).exits(0);
    let index = parsed(&raw(&format!("docker://{here}")));
    assert_eq!(index["manifests"][0]["digest"], put.manifest.as_str());
    assert_eq!(index["manifests"][1]["digest"], put.attestation.as_str());
    // Our archive: others find the image by the platform, and all of it with --all.
    let saved = at("saved.tar");
    client.run(&["save", "-o", &saved, &there]).exits(0);
    let id = client.run(&["inspect", "-f", "{{.Id}}", &there]).exits(0);
    let config = parsed(&tool("skopeo", &["inspect", "--raw", &format!("docker-archive:{saved}")]));
    assert_eq!(config["config"]["digest"], id.as_str());
    copy(&[], &format!("oci-archive:{saved}"), &format!("docker://{}", debian.name("att/one:1")));
    let one = parsed(&raw(&format!("docker://{}", debian.name("att/one:1"))));
    assert_eq!(one["config"]["digest"], id.as_str());
    copy(&["--all"], &format!("oci-archive:{saved}"), &format!("docker://{}", debian.name("att/all:1")));
    let all = parsed(&raw(&format!("docker://{}", debian.name("att/all:1"))));
    assert_eq!(all["manifests"][1]["digest"], put.attestation.as_str());
    client.run(&["rmi", "-f", &id]).exits(0);
    // Into an empty store and out again without a loss.
    client.run(&["load", "-q", "-i", &saved]).exits(0);
    let again = at("again.tar");
    client.run(&["save", "-o", &again, &there]).exits(0);
    assert!(std::fs::read(&saved).unwrap() == std::fs::read(&again).unwrap(), "another archive");
    client.run(&["rmi", "-f", &id]).exits(0);
    // An archive of theirs has the compressed layers: what was pushed by them is pushed by us.
    let theirs = at("theirs.tar");
    copy(
        &["--all", "--preserve-digests"],
        &format!("docker://{here}"),
        &format!("oci-archive:{theirs}:{here}"),
    );
    client.run(&["load", "-q", "-i", &theirs]).exits(0);
    let before = raw(&format!("docker://{here}"));
    client.run(&["push", "-q", &here]).exits(0);
    assert_eq!(raw(&format!("docker://{here}")), before);
    client.run(&["rmi", "-f", &id]).exits(0);
    assert!(!world.log().contains("attestation left out"));
}
