//! Hostile images and registries that lie, through a pull (family I of the attacks): what is refused is named, the host is
//! as it was, the daemon lives, and nothing half-made is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use havre_oci::Platform;
use havre_oci::image::media;
use havre_testkit::hostile::{RemoteImage, bomb, endless, escapes, gzip, shell};
use havre_testkit::registry::{FakeRegistry, Reply, digest};
use havre_testkit::{Entry, Kind, Layer};
use serde_json::json;

use crate::Test;
use crate::private::Private;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("i01_i02_i03_i04_pulled layers reach nothing outside", outside),
    ("i05_pulled layers do not speak to overlayfs", attributes),
    ("i06_devices of pulled layers are out of reach", devices),
    ("i07_pulled bombs are stopped where they lie", bombs),
    ("i08_documents of registries are bounded", documents),
    ("i10_what is not as announced is refused by digest", mismatches),
    ("i11_documents that are two things are refused", ambiguous),
    ("i12_digests of another repository are not found", elsewhere),
    ("i14_a registry cannot send the daemon to its neighbours", neighbours),
    ("i16_registries that play for time are left", time),
    ("i17_a tag is asked once and what it led to is run", moved),
    ("i18_absurd numbers of layers and entries", numbers),
    ("i19_absurd configurations are refused or harmless", configurations),
    ("i20_images for other machines say so", machines),
];

/// A daemon and a registry of the test's own, and a tree of the host that nobody may touch.
struct Field<'a> {
    daemon: Private,
    registry: FakeRegistry,
    client: &'a Client,
    outside: tempfile::TempDir,
    before: Seen,
    idle: (Mutex<()>, Condvar),
}

/// What must not change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    canaries: BTreeMap<PathBuf, Vec<u8>>,
    mounts: String,
    stored: Vec<PathBuf>,
}

impl<'a> Field<'a> {
    fn open(client: &'a Client) -> Self {
        Self::with(client, FakeRegistry::start().unwrap(), "{}")
    }

    /// One for each form in which layers are kept.
    fn each(client: &'a Client) -> impl Iterator<Item = Self> {
        let drivers = if havre_testkit::mounts_erofs() { &["overlay2", "erofs"][..] } else { &["overlay2"] };
        drivers.iter().map(move |driver| {
            let json = format!(r#"{{"storage-driver":"{driver}"}}"#);
            Self::with(client, FakeRegistry::start().unwrap(), &json)
        })
    }

    fn with(client: &'a Client, registry: FakeRegistry, json: &str) -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("folder")).unwrap();
        for name in ["canary", "folder/canary"] {
            std::fs::write(outside.path().join(name), "bird").unwrap();
        }
        let daemon = Private::start(json, &["-H", "SOCKET"]);
        let before = Seen { canaries: BTreeMap::new(), mounts: String::new(), stored: Vec::new() };
        let mut field =
            Self { daemon, registry, client, outside, before, idle: (Mutex::default(), Condvar::new()) };
        field.before = field.seen();
        field
    }

    fn seen(&self) -> Seen {
        let mut canaries = BTreeMap::new();
        let mut open = vec![self.outside.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    canaries.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        let mut stored = Vec::new();
        let roots = ["content/blobs/sha256", "content/ingest", "content/partial", "snapshots/layers"];
        for root in roots.iter().chain(&["snapshots/tmp", "snapshots/trash", "snapshots/containers"]) {
            let folder = Path::new(&self.daemon.path("data")).join(root);
            stored.extend(std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()));
        }
        stored.sort();
        Seen { canaries, mounts: self.mounts(), stored }
    }

    /// The machine's mounts, without those in temporary folders that are not ours: other tests may run.
    fn mounts(&self) -> String {
        let ours = [self.outside.path(), self.daemon.folder.path()];
        let counts = |line: &&str| {
            let point = Path::new(line.split(' ').nth(4).unwrap_or_default());
            !point.starts_with(std::env::temp_dir()) || ours.iter().any(|folder| point.starts_with(folder))
        };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(counts).collect::<Vec<_>>().join("\n")
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    fn run(&self, args: &[&str]) -> crate::world::Outcome {
        self.daemon.run(self.client, args)
    }

    /// Pulls what must be refused, with these words.
    #[track_caller]
    fn refused(&self, rest: &str, words: &str) {
        self.run(&["pull", &self.name(rest)]).fails(1, words);
        self.unchanged(rest);
    }

    /// Nothing is left of a pull, or of an image that was removed. What is deleted is deleted behind.
    #[track_caller]
    fn unchanged(&self, what: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let now = self.seen();
            if now == self.before {
                break;
            }
            assert!(Instant::now() < end, "{what}: {:#?}\nis not as before: {:#?}", now, self.before);
            let guard = self.idle.0.lock().unwrap();
            drop(self.idle.1.wait_timeout(guard, Duration::from_millis(20)).unwrap());
        }
        self.run(&["version"]).exits(0);
    }

    fn container(&self, rest: &str, script: &str) -> crate::world::Outcome {
        let name = self.name(rest);
        self.run(&["run", "--rm", "--pull", "never", "--network", "none", &name, "sh", "-c", script])
    }

    fn remove(&self, rest: &str) {
        let id = self.run(&["inspect", "-f", "{{.Id}}", &self.name(rest)]).exits(0);
        self.run(&["rmi", "-f", &id]).exits(0);
        self.unchanged(rest);
    }

    fn put(&self, rest: &str, image: RemoteImage) -> String {
        let (repository, tag) = rest.split_once(':').unwrap();
        image.put(&self.registry, repository, tag).unwrap()
    }
}

fn with_shell() -> RemoteImage {
    RemoteImage::new().layer(&shell().unwrap()).unwrap()
}

fn small() -> Vec<u8> {
    Layer::new().file("own", 0o644, b"content").unwrap().finish().unwrap()
}

fn outside(_: &World, client: &Client) {
    Field::each(client).for_each(outside_of);
}

fn outside_of(field: Field<'_>) {
    let outside = field.outside.path().display().to_string();
    for (number, (id, what, layers)) in escapes(&outside).unwrap().into_iter().enumerate() {
        let rest = format!("escape{number}:1");
        let mut image = with_shell();
        for layer in &layers {
            image = image.layer(layer).unwrap();
        }
        field.put(&rest, image);
        let pulled = field.run(&["pull", "-q", &field.name(&rest)]);
        if pulled.code != 0 {
            assert!(pulled.code == 1 && pulled.err.len() > 40, "{id} {what}: {pulled:?}");
            field.unchanged(what);
            continue;
        }
        // What was taken in stayed inside: nothing of the host is to be seen, and nothing there changed.
        let ran = field.container(&rest, "cat in to/canary canary 2>/dev/null; echo end");
        assert!(!ran.out.contains("bird"), "{id} {what}: {ran:?}");
        assert_eq!(ran.exits(0).lines().last(), Some("end"), "{id} {what}");
        field.remove(&rest);
    }
}

fn attributes(_: &World, client: &Client) {
    let field = Field::open(client);
    let names = ["opaque", "redirect", "metacopy", "whiteout", "origin", "nlink", "upper", "impure"];
    let mut xattrs = Vec::new();
    for name in names {
        for family in ["trusted", "user"] {
            xattrs.push((format!("{family}.overlay.{name}").into_bytes(), b"/etc".to_vec()));
        }
    }
    xattrs.push((b"user.kept".to_vec(), b"yes".to_vec()));
    let folder = Entry {
        path: b"marked/".to_vec(),
        kind: Kind::Directory,
        mode: 0o755,
        xattrs: xattrs.clone(),
        ..Entry::default()
    };
    let file = Entry { path: b"marked/file".to_vec(), mode: 0o644, xattrs, ..Entry::default() };
    let layer = Layer::new().other(folder).unwrap().other(file).unwrap().finish().unwrap();
    let diff = digest(&layer);
    field.put("marked:1", with_shell().layer(&layer).unwrap());
    field.run(&["pull", "-q", &field.name("marked:1")]).exits(0);
    let root = Path::new(&field.daemon.path("data"))
        .join("snapshots/layers")
        .join(diff.trim_start_matches("sha256:"));
    for path in ["fs/marked", "fs/marked/file"] {
        let mut list = vec![0; 4096];
        let length = rustix::fs::listxattr(root.join(path), &mut list[..]).unwrap();
        let found: Vec<&[u8]> =
            list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        assert!(
            !found.iter().any(|name| String::from_utf8_lossy(name).contains("overlay")),
            "{path}: {found:?}"
        );
        assert!(found.contains(&&b"user.kept"[..]), "{path}: {found:?}");
    }
    field.remove("marked:1");
}

fn devices(_: &World, client: &Client) {
    Field::each(client).for_each(devices_of);
}

fn devices_of(field: Field<'_>) {
    let node =
        |path: &str, kind, device| Entry { path: path.into(), kind, mode: 0o666, device, ..Entry::default() };
    let layer = Layer::new()
        .other(node("memory", Kind::Character, (1, 1)))
        .and_then(|layer| layer.other(node("disk", Kind::Block, (8, 0))))
        .and_then(Layer::finish)
        .unwrap();
    field.put("nodes:1", with_shell().layer(&layer).unwrap());
    field.run(&["pull", "-q", &field.name("nodes:1")]).exits(0);
    let script = "cat /memory >/dev/null && echo read; cat /disk >/dev/null && echo read; echo end";
    assert_eq!(field.container("nodes:1", script).exits(0), "end");
    // On the host they are behind a folder that nobody else may enter.
    let mode = std::fs::metadata(Path::new(&field.daemon.path("data")).join("snapshots")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o077, 0);
    field.remove("nodes:1");
}

fn bombs(_: &World, client: &Client) {
    Field::each(client).for_each(bombs_of);
}

fn bombs_of(field: Field<'_>) {
    let (zeros, diff) = bomb(8).unwrap();
    // Compressed twice: what comes out once is no archive, and nobody looks further.
    let nested = gzip(&zeros).unwrap();
    field.put("nested:1", RemoteImage::new().blob(media::LAYER_GZIP, nested, &diff));
    field.refused("nested:1", "");
    // A window of two gibibytes (RFC 8878, 3.1.1.1.2: exponent 21, no mantissa).
    let mut window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8];
    window.extend([1, 0, 0]);
    field.put("window:1", RemoteImage::new().blob(media::LAYER_ZSTD, window, &diff));
    field.refused("window:1", "");
    // Ten gibibytes of zeros in ten mebibytes, as many members of one compressed stream.
    let stream = endless(10).unwrap();
    assert!(stream.len() < 12 << 20, "{}", stream.len());
    field.put("huge:1", RemoteImage::new().blob(media::LAYER_GZIP, stream, &diff));
    field.refused("huge:1", "inflates");
    // More than announced never ends up here, however long it goes on.
    let half = zeros.len() / 2;
    field.put(
        "short:1",
        RemoteImage::new()
            .blob(media::LAYER_GZIP, zeros, &diff)
            .manifest(move |manifest| manifest["layers"][0]["size"] = half.into()),
    );
    field.refused("short:1", "bytes, not");
}

fn documents(_: &World, client: &Client) {
    let field = Field::open(client);
    field.registry.manifest("manifest", "1", media::MANIFEST, vec![b' '; 5 << 20]);
    field.refused("manifest:1", "larger than 4194304 bytes");
    // One that does not end: it is not read to its end.
    field.registry.lie(|asked| {
        let endless = asked.path.ends_with("/endless/manifests/1");
        let body = Reply::body(200, vec![b' '; 8 << 20]).with("Content-Type", media::MANIFEST);
        endless.then_some(Reply { announced: Some(1 << 40), ..body })
    });
    field.refused("endless:1", "larger than 4194304 bytes");
    let env: Vec<String> = (0..400_000).map(|number| format!("VARIABLE_{number}=x")).collect();
    field.put("config:1", with_shell().config(move |config| config["config"]["Env"] = json!(env)));
    field.refused("config:1", "more than 4194304");
    field.put("said:1", with_shell().manifest(|manifest| manifest["config"]["size"] = json!(1_u64 << 62)));
    field.refused("said:1", "more than 4194304");
    let entry = json!({ "mediaType": media::INDEX, "size": 2, "digest": digest(b"{}"), "platform": Platform::host() });
    // Indexes inside each other.
    let mut last = entry;
    for depth in 0..8 {
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [last] });
        let text = index.to_string();
        let (size, name) = (text.len(), digest(text.as_bytes()));
        field.registry.manifest("deep", &format!("d{depth}"), media::INDEX, text);
        last =
            json!({ "mediaType": media::INDEX, "size": size, "digest": name, "platform": Platform::host() });
    }
    field.refused("deep:d7", "nothing but further indexes");
}

fn mismatches(_: &World, client: &Client) {
    Field::each(client).for_each(mismatches_of);
}

fn mismatches_of(field: Field<'_>) {
    let (good, other) = (small(), Layer::new().file("own", 0o644, b"evil").unwrap().finish().unwrap());
    // The right blob, but not the layer that the configuration names.
    field.put("diff:1", RemoteImage::new().blob(media::LAYER_GZIP, gzip(&other).unwrap(), &digest(&good)));
    field.refused("diff:1", &digest(&good));
    // Another blob than asked for; a shorter one; one with something behind its end.
    let blob = gzip(&good).unwrap();
    let lies: [(&str, Vec<u8>, &str); 3] = [
        (
            "content",
            {
                let mut bytes = blob.clone();
                let end = bytes.len() - 20;
                bytes[end] ^= 1;
                bytes
            },
            "",
        ),
        ("short", blob[..blob.len() - 1].to_vec(), "bytes, not"),
        ("long", [blob.clone(), b"more".to_vec()].concat(), "bytes, not"),
    ];
    for (name, bytes, words) in lies {
        let wanted = digest(&blob);
        field.put(
            &format!("{name}:1"),
            RemoteImage::new().blob(media::LAYER_GZIP, blob.clone(), &digest(&good)),
        );
        field.registry.lie(move |asked| {
            asked.path.contains(&format!("/{name}/blobs/{wanted}")).then(|| Reply::body(200, bytes.clone()))
        });
        field.refused(&format!("{name}:1"), words);
    }
    // Bytes behind the archive that its digest covers, and a blob that is announced as longer.
    let padded = [blob.clone(), b"more".to_vec()].concat();
    field.registry.lie(|_| None);
    field.put("padded:1", RemoteImage::new().blob(media::LAYER_GZIP, padded, &digest(&good)));
    let pulled = field.run(&["pull", "-q", &field.name("padded:1")]);
    if pulled.code == 0 {
        field.remove("padded:1");
    }
    field.unchanged("padded");
    // A manifest that is not what its digest says.
    let name = field.put("manifest:1", with_shell());
    field.registry.lie(|asked| {
        let other = || Reply::body(200, "{}").with("Content-Type", media::MANIFEST);
        asked.path.contains("/manifest/manifests/").then(other)
    });
    let by_digest = format!("manifest@{name}");
    field.refused(
        &by_digest,
        &format!("manifest verification failed: expected {name}, got {}", digest(b"{}")),
    );
    field.registry.lie(|_| None);
    // Two layers that are one blob, and more layers here than there.
    let two = RemoteImage::new().blob(media::LAYER_GZIP, blob.clone(), &digest(&good));
    field.put("two:1", two.blob(media::LAYER_GZIP, blob.clone(), &digest(&other)));
    field.refused("two:1", "cannot be two layers");
    let image = RemoteImage::new().layer(&good).unwrap();
    field.put("fewer:1", image.manifest(|manifest| manifest["layers"] = json!([])));
    field.refused("fewer:1", "the manifest has 0 layers, the configuration 1");
    // A layer that is here does not make what a manifest says of it true: the image is pushed with the blob that is known.
    let honest = RemoteImage::new().layer(&good).unwrap();
    field.put("honest:1", honest);
    field.run(&["pull", "-q", &field.name("honest:1")]).exits(0);
    let evil = RemoteImage::new().blob(media::LAYER_GZIP, gzip(&other).unwrap(), &digest(&good));
    field.put("poison:1", evil.config(|config| config["author"] = "somebody".into()));
    field.run(&["pull", "-q", &field.name("poison:1")]).exits(0);
    let own = field.name("own:1");
    field.run(&["tag", &field.name("honest:1"), &own]).exits(0);
    field.run(&["push", "-q", &own]).exits(0);
    let manifest: serde_json::Value =
        serde_json::from_slice(&field.registry.document("own", "1").unwrap()).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], digest(&blob));
    for name in ["poison:1", "honest:1"] {
        field
            .run(&["rmi", "-f", &field.run(&["inspect", "-f", "{{.Id}}", &field.name(name)]).exits(0)])
            .exits(0);
    }
    field.unchanged("poison");
}

fn ambiguous(_: &World, client: &Client) {
    let field = Field::open(client);
    field.put("both:1", with_shell().manifest(|manifest| manifest["manifests"] = json!([])));
    field.refused("both:1", "");
    let text = with_shell().store(&field.registry).unwrap();
    field.registry.manifest("called", "1", media::INDEX, text.clone());
    field.refused("called:1", "the registry calls");
    field.put("says:1", with_shell().manifest(|manifest| manifest["mediaType"] = media::INDEX.into()));
    field.refused("says:1", "");
    let index = json!({ "schemaVersion": 2, "manifests": [] });
    field.registry.manifest("index", "1", media::MANIFEST, index.to_string());
    field.refused("index:1", "but it is an index");
    field.registry.manifest("html", "1", "text/html", text);
    field.refused("html:1", "unsupported media type text/html");
    let artifact = |manifest: &mut serde_json::Value| {
        manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    };
    field.put("chart:1", with_shell().manifest(artifact));
    field.refused("chart:1", "this is no container image");
    let old = r#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[],"history":[]}"#;
    field.registry.manifest("old", "1", "application/vnd.docker.distribution.manifest.v1+prettyjws", old);
    field.refused("old:1", "schema 1");
}

fn elsewhere(_: &World, client: &Client) {
    let field = Field::open(client);
    let name = field.put("theirs:1", with_shell());
    field.put("ours:1", RemoteImage::new().layer(&small()).unwrap());
    field.refused(&format!("ours:1@{name}"), "not found: manifest unknown");
    // Nor does it help that the other one is here.
    field.run(&["pull", "-q", &field.name("theirs:1")]).exits(0);
    field.run(&["pull", &field.name(&format!("ours:1@{name}"))]).fails(1, "not found: manifest unknown");
    field.remove("theirs:1");
}

fn neighbours(_: &World, client: &Client) {
    let field = Field::open(client);
    let other = FakeRegistry::start().unwrap();
    // A layer that says where else it is: nobody goes there.
    let url = format!("http://{}/blob", other.host());
    let foreign = RemoteImage::new().layer(&small()).unwrap().manifest(move |manifest| {
        manifest["layers"][0]["mediaType"] =
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        manifest["layers"][0]["urls"] = json!([url]);
        manifest["layers"][0]["digest"] = digest(b"not here").into();
    });
    field.put("foreign:1", foreign);
    field.refused("foreign:1", "");
    assert!(other.asked().is_empty());
    // What clouds tell a machine about itself.
    field.put("link:1", with_shell());
    field.registry.lie(|asked| {
        let to = "http://169.254.169.254/latest/meta-data/";
        asked.path.contains("/blobs/").then(|| Reply::status(307).with("Location", to))
    });
    field.refused("link:1", "not followed there");
    drop(field);
    let Some(address) = crate::registry::outer_address() else {
        println!("SKIP registries elsewhere: this machine has no address but loopback");
        return;
    };
    // A registry that is not on this machine does not lead to what is.
    let json = format!(r#"{{"insecure-registries":["{address}"]}}"#);
    let field = Field::with(client, FakeRegistry::at(&address).unwrap(), &json);
    field.put("inside:1", with_shell());
    for host in [other.host(), other.host().replace("127.0.0.1", "localhost")] {
        field.registry.lie(move |asked| {
            let to = format!("http://{host}{}", asked.path);
            asked.path.contains("/blobs/").then(|| Reply::status(307).with("Location", to))
        });
        field.refused("inside:1", "not followed there");
        assert!(other.asked().is_empty());
    }
    // Nor with the realm of a token server.
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", other.host());
    field.registry.lie(move |_| Some(Reply::status(401).with("WWW-Authenticate", realm.clone())));
    field.refused("inside:1", "not followed there");
    assert!(other.asked().is_empty());
}

fn time(_: &World, client: &Client) {
    let field = Field::open(client);
    field.put("time:1", RemoteImage::new().layer(&small()).unwrap());
    field.registry.lie(|asked| {
        let on = format!("{}x", asked.path);
        asked.path.contains("/blobs/").then(|| Reply::status(302).with("Location", on))
    });
    field.refused("time:1", "more than 10 redirects");
    // A range that was not asked for.
    field.registry.lie(|asked| {
        let reply = || Reply::body(206, "x").with("Content-Range", "bytes 7-8/9");
        asked.path.contains("/blobs/").then(reply)
    });
    field.refused("time:1", "asked for bytes from 0 on");
    // Waits that are no times: they are as if they were not there, and it goes on.
    let mut left = 2;
    field.registry.lie(move |asked| {
        if !asked.path.contains("/blobs/") || left == 0 {
            return None;
        }
        left -= 1;
        let wait = ["-1", "35.852µs", "99999999999999999999999999"][left];
        Some(Reply::status(429).with("Retry-After", wait))
    });
    field.run(&["pull", "-q", &field.name("time:1")]).exits(0);
    field.registry.lie(|_| None);
    field.remove("time:1");
    // A client that has enough ends it.
    let name = field.put("slow:1", RemoteImage::new().plain(small()));
    let content = small();
    field.registry.lie(move |asked| {
        let drip = Some((1, Duration::from_millis(20)));
        let is_layer = asked.path.ends_with(&digest(&content));
        is_layer.then(|| Reply { drip, ..Reply::body(200, content.clone()) })
    });
    let mut command = client.command(&["pull", "-q", &field.name("slow:1")]);
    command.env("DOCKER_HOST", format!("unix://{}", field.daemon.path("s")));
    let mut child = command.spawn().unwrap();
    let blob = digest(&small());
    let asked = || field.registry.asked().iter().any(|asked| asked.path.ends_with(&blob));
    while !asked() {
        let guard = field.idle.0.lock().unwrap();
        drop(field.idle.1.wait_timeout(guard, Duration::from_millis(5)).unwrap());
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    // What has come helps the next pull, which goes on from there.
    field.registry.lie(|_| None);
    field.run(&["pull", "-q", &field.name("slow:1")]).exits(0);
    assert!(name.starts_with("sha256:"));
    field.remove("slow:1");
}

fn moved(_: &World, client: &Client) {
    let field = Field::open(client);
    let image = |text: &'static str| {
        let own = Layer::new().file("own", 0o644, text.as_bytes()).unwrap().finish().unwrap();
        with_shell().layer(&own).unwrap()
    };
    let first = field.put("moved:1", image("first"));
    let text = field.registry.document("moved", "1").unwrap();
    let second = field.put("moved:1", image("second"));
    let mut asked_for_tag = 0;
    field.registry.lie(move |asked| {
        if !asked.path.ends_with("/moved/manifests/1") {
            return None;
        }
        asked_for_tag += 1;
        (asked_for_tag == 1).then(|| Reply::body(200, text.clone()).with("Content-Type", media::MANIFEST))
    });
    let name = field.name("moved:1");
    let ran = field.run(&["run", "--rm", "--network", "none", &name, "cat", "/own"]);
    assert!(ran.err.contains(&format!("Digest: {first}")), "{ran:?}");
    assert_eq!(ran.exits(0), "first");
    let tags: usize =
        field.registry.asked().iter().filter(|asked| asked.path.ends_with("/manifests/1")).count();
    assert_eq!(tags, 1);
    // The next pull sees that it moved, and says so.
    let out = field.run(&["pull", &name]).exits(0);
    assert!(out.contains(&format!("Digest: {second}\nStatus: Downloaded newer image")), "{out}");
    assert_eq!(field.container("moved:1", "cat /own").exits(0), "second");
    field.run(&["image", "prune", "-af"]).exits(0);
    field.unchanged("a tag that moved");
}

fn numbers(_: &World, client: &Client) {
    let field = Field::open(client);
    let tar = small();
    // More layers than a mount takes; none of them is fetched.
    let mut many = RemoteImage::new();
    for number in 0..501 {
        many = many.blob(
            media::LAYER,
            tar.clone(),
            &digest(&[u8::try_from(number % 256).unwrap(), u8::from(number > 255)]),
        );
    }
    field.put("many:1", many);
    drop(field.registry.asked());
    field.refused("many:1", "501 layers, more than 500");
    let blobs = field.registry.asked().iter().filter(|asked| asked.path.contains("/blobs/")).count();
    assert_eq!(blobs, 1, "only the configuration is looked at");
    // A layer of nothing at all.
    let nothing = RemoteImage::new().blob(media::LAYER_GZIP, Vec::new(), &digest(b""));
    field.put("nothing:1", nothing);
    let pulled = field.run(&["pull", "-q", &field.name("nothing:1")]);
    assert!(pulled.code == 0 || pulled.code == 1 && !pulled.err.is_empty(), "{pulled:?}");
    if pulled.code == 0 {
        field.run(&["rmi", &field.name("nothing:1")]).exits(0);
    }
    field.unchanged("a layer of nothing");
    // The same layer many times comes once.
    let mut same = with_shell();
    for _ in 0..5 {
        same = same.layer(&tar).unwrap();
    }
    field.put("same:1", same);
    drop(field.registry.asked());
    field.run(&["pull", "-q", &field.name("same:1")]).exits(0);
    let blob = digest(&gzip(&tar).unwrap());
    let times = field.registry.asked().iter().filter(|asked| asked.path.ends_with(&blob)).count();
    assert_eq!(times, 1);
    assert_eq!(field.container("same:1", "cat /own").exits(0), "content");
    field.remove("same:1");
    // The same name many times: the last one counts.
    let mut layer = Layer::new();
    for number in 0..2_000 {
        layer = layer.file("again", 0o644, number.to_string().as_bytes()).unwrap();
    }
    field.put("again:1", with_shell().layer(&layer.finish().unwrap()).unwrap());
    field.run(&["pull", "-q", &field.name("again:1")]).exits(0);
    assert_eq!(field.container("again:1", "cat /again").exits(0), "1999");
    field.remove("again:1");
}

fn configurations(_: &World, client: &Client) {
    let field = Field::open(client);
    type Change = fn(&mut serde_json::Value);
    let refused: [(&str, Change); 4] = [
        ("history", |config| config["history"] = json!("cyclic")),
        ("rootfs", |config| config["rootfs"]["type"] = "folders".into()),
        ("user", |config| config["config"]["User"] = json!({ "a": 1 })),
        ("digest", |config| config["rootfs"]["diff_ids"][0] = "sha256:../../x".into()),
    ];
    for (name, change) in refused {
        field.put(&format!("{name}:1"), with_shell().config(change));
        field.refused(&format!("{name}:1"), "");
    }
    let negative = |manifest: &mut serde_json::Value| manifest["layers"][0]["size"] = json!(-1);
    field.put("negative:1", with_shell().manifest(negative));
    field.refused("negative:1", "");
    // Absurd, but harmless.
    let harmless: [(&str, Change); 5] = [
        ("year", |config| config["created"] = "9999-12-31T23:59:59Z".into()),
        ("when", |config| config["created"] = "-0001-99-99".into()),
        ("long", |config| config["history"] = (0..20_000).map(|_| json!({ "empty_layer": true })).collect()),
        ("escape", |config| config["author"] = "\u{1b}[2J".into()),
        ("unknown", |config| config["config"]["Surprise"] = json!({ "a": [1, 2] })),
    ];
    for (name, change) in harmless {
        let rest = format!("{name}:1");
        field.put(&rest, with_shell().config(change));
        field.run(&["pull", "-q", &field.name(&rest)]).exits(0);
        for command in ["history", "inspect"] {
            let out = field.run(&[command, &field.name(&rest)]);
            assert!(out.code == 0 && !out.out.contains('\u{1b}'), "{name}: {command}");
        }
        field.run(&["images"]).exits(0);
        assert_eq!(field.container(&rest, "echo runs").exits(0), "runs", "{name}");
        field.remove(&rest);
    }
    // Times of files that no clock shows.
    let file = |path: &str, mtime| Entry { path: path.into(), mode: 0o644, mtime, ..Entry::default() };
    let layer = Layer::new()
        .other(file("future", (253_402_300_799, 0)))
        .and_then(|layer| layer.other(file("past", (-2_000_000_000, 0))))
        .and_then(Layer::finish)
        .unwrap();
    field.put("times:1", with_shell().layer(&layer).unwrap());
    let pulled = field.run(&["pull", "-q", &field.name("times:1")]);
    if pulled.code == 0 {
        assert_eq!(field.container("times:1", "stat -c %n /future /past").exits(0), "/future\n/past");
        field.remove("times:1");
    }
    field.unchanged("times of files");
}

fn machines(_: &World, client: &Client) {
    let field = Field::open(client);
    let other = Platform::parse("linux/s390x").unwrap();
    let host = Platform::host();
    let layer = Layer::new().file("bin/sh", 0o755, b"\x7fELF\x02\x02\x01").unwrap().finish().unwrap();
    field.put("other:1", RemoteImage::new().layer(&layer).unwrap().platform(other));
    field.run(&["pull", "-q", &field.name("other:1")]).exits(0);
    let ran = field.container("other:1", "true");
    let said = format!(
        "platform (linux/s390x) does not match the detected host platform (linux/{}",
        host.architecture
    );
    assert!(ran.code != 0 && ran.err.contains(&said), "{ran:?}");
    field.remove("other:1");
    field.put("windows:1", with_shell().config(|config| config["os"] = "windows".into()));
    field.refused("windows:1", "image operating system \"windows\" cannot be used on this platform");
}
