//! Archives: every honest form is understood, no hostile one does harm.

use std::io::Write;

use havre_image::ImportSpec;
use havre_oci::image::media;
use havre_oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::{archive, config, nobody, tar, world};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Digest::of_bytes(bytes).hex()
}

/// An OCI layout with one image, layers as given (compressed or not).
fn layout(name: Option<&str>, diffs: &[&[u8]], blobs: &[Vec<u8>], config: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert_eq!(diffs.len(), blobs.len());
    let describe = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of_bytes(bytes), "size": bytes.len()});
    let layers: Vec<_> =
        blobs.iter().map(|blob| describe("application/vnd.oci.image.layer.v1.tar+gzip", blob)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": describe(media::CONFIG, config), "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let mut pointer = describe(media::MANIFEST, &manifest);
    if let Some(name) = name {
        pointer["annotations"] = json!({"io.containerd.image.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [pointer]}).to_string().into_bytes();
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
        (format!("blobs/sha256/{}", hex(&manifest)), manifest),
        (format!("blobs/sha256/{}", hex(config)), config.to_vec()),
    ];
    files.extend(blobs.iter().map(|blob| (format!("blobs/sha256/{}", hex(blob)), blob.clone())));
    files
}

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar(&files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect::<Vec<_>>())
}

#[test]
fn a_docker_archive_loads_in_any_order_and_any_compression() {
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", b"2"), ("c", &[5; 3_000_000])]));
    let plain = archive("app:v1", &[&one, &two], |_| {});
    for packed in [plain.clone(), gzip(&plain), zstd::encode_all(plain.as_slice(), 1).unwrap()] {
        let world = world();
        assert_eq!(world.load(&packed).unwrap(), ["app:v1"]);
        let view = world.images.inspect("app:v1").unwrap();
        assert_eq!(view.id, Digest::of_bytes(&config(&[&one, &two], |_| {})));
        assert_eq!(view.size, 3_000_002);
        assert_eq!(std::fs::read(view.lowers[0].join("b")).unwrap(), b"2", "topmost first");
        assert_eq!(std::fs::read(view.lowers[1].join("a")).unwrap(), b"1");
    }
    // The manifest first, layers last.
    let text = config(&[&one], |_| {});
    let manifest = json!([{"Config": "c.json", "RepoTags": null, "Layers": ["l.tar"]}]).to_string();
    let world = world();
    world
        .load(&tar(&[("manifest.json", manifest.as_bytes()), ("c.json", &text), ("./l.tar", &one)]))
        .unwrap();
    assert!(world.images.resolve(&Digest::of_bytes(&text).to_string()).is_ok());
}

#[test]
fn layers_named_by_links_and_used_twice_load() {
    let layer = tar(&[("a", b"1")]);
    let text = config(&[&layer, &layer], |_| {});
    let manifest = json!([{"Config": "c.json", "RepoTags": ["x:1", "y:2"], "Layers": ["one/layer.tar", "two/layer.tar"]}]).to_string();
    let world = world();
    let files: &[(&str, &[u8])] = &[
        ("one/layer.tar", &layer),
        ("two/layer.tar -> ../one/layer.tar", b""),
        ("c.json", &text),
        ("manifest.json", manifest.as_bytes()),
    ];
    assert_eq!(world.load(&tar(files)).unwrap(), ["x:1", "y:2"]);
}

#[test]
fn an_oci_layout_loads_with_compressed_layers() {
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", b"2")]));
    let text = config(&[&one, &two], |_| {});
    let blobs = [gzip(&one), zstd::encode_all(two.as_slice(), 1).unwrap()];
    let files = layout(Some("docker.io/library/app:v1"), &[&one, &two], &blobs, &text);
    let world = world();
    assert_eq!(world.load(&pack(&files)).unwrap(), ["app:v1"]);
    // Once more: nothing changes.
    let before = world.stored();
    world.load(&pack(&files)).unwrap();
    assert_eq!(world.stored(), before);
}

#[test]
fn an_empty_layer_and_no_layer_are_layers() {
    let empty = vec![0; 1024];
    let world = world();
    world.load(&archive("empty:1", &[&empty], |_| {})).unwrap();
    world.load(&archive("none:1", &[], |_| {})).unwrap();
    for name in ["empty:1", "none:1"] {
        let lowers = world.images.inspect(name).unwrap().lowers;
        assert_eq!(lowers.len(), 1);
        assert_eq!(std::fs::read_dir(&lowers[0]).unwrap().count(), 0);
    }
}

#[test]
fn i08_i13_what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let layer = tar(&[("a", b"1")]);
    let other = tar(&[("a", b"2")]);
    let text = config(&[&layer], |_| {});
    let manifest = |config: &str, tags: &[&str], layers: &[&str]| {
        json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string()
    };
    let with = |manifest: String, layer: &[u8]| {
        tar(&[("l.tar", layer), ("c.json", &text), ("manifest.json", manifest.as_bytes())])
    };
    let blobs = [gzip(&layer)];
    let mut wrong_blob = layout(None, &[&layer], &blobs, &text);
    wrong_blob[4].1 = gzip(&other);
    let mut wrong_config = layout(None, &[&layer], &blobs, &text);
    wrong_config[3].1 = config(&[&layer], |config| config.author = "someone else".into());
    let windows = config(&[&layer], |config| config.os = "windows".into());
    let whole = with(manifest("c.json", &["a:1"], &["l.tar"]), &layer);
    for (bad, says) in [
        (with(manifest("c.json", &["a:1"], &["l.tar"]), &other), "digest"),
        (with(manifest("c.json", &["a:1"], &[]), &layer), "length mismatch: expected 1, got 0"),
        (with(manifest("c.json", &["a:1"], &["x.tar"]), &layer), "missing"),
        (with(manifest("../../../etc/passwd", &["a:1"], &["l.tar"]), &layer), "leads outside"),
        (with(manifest("/etc/passwd", &["a:1"], &["l.tar"]), &layer), "not allowed"),
        (with(manifest("c.json", &["a:1"], &["../l.tar"]), &layer), "leads outside"),
        (with(manifest("c.json", &["../x"], &["l.tar"]), &layer), "invalid tag"),
        (with(manifest("l.tar", &["a:1"], &["l.tar"]), &layer), "missing or too large"),
        (with("{}".into(), &layer), "manifest.json"),
        (with(manifest("c.json", &["a:1"], &["l.tar"]), &layer[..700]), "end of the archive"),
        (tar(&[("c.json", &text)]), "does not contain a manifest.json"),
        (tar(&[("../c.json", &text)]), "leads outside"),
        (
            tar(&[("a -> b", b""), ("b -> a", b""), ("manifest.json", manifest("a", &[], &[]).as_bytes())]),
            "too many links",
        ),
        (tar(&[("manifest.json", &vec![b' '; 5 << 20])]), "does not contain"),
        (pack(&wrong_blob), "digest"),
        (pack(&wrong_config), "digest"),
        (
            tar(&[
                ("l.tar", &layer),
                ("c.json", &windows),
                ("manifest.json", manifest("c.json", &[], &["l.tar"]).as_bytes()),
            ]),
            "operating system",
        ),
        (whole[..whole.len() / 2].to_vec(), "archive"),
        (gzip(&whole)[..200].to_vec(), "archive"),
        (b"nonsense".to_vec(), "archive"),
        (Vec::new(), "does not contain"),
    ] {
        let world = world();
        let error = world.load(&bad).unwrap_err();
        assert!(error.contains(says), "{error} (want {says})");
        assert_eq!(world.stored(), Vec::<String>::new(), "{says}");
        assert_eq!(world.images.count(), 0);
    }
}

#[test]
fn what_was_saved_loads_again_and_is_the_same() {
    let world = world();
    let (one, two) = (tar(&[("a", b"1"), ("dir/b", &[3; 70_000])]), tar(&[("b", b"2")]));
    world.load(&archive("app:v1", &[&one, &two], |_| {})).unwrap();
    world.load(&archive("base:v1", &[&one], |_| {})).unwrap();
    world.images.tag("app:v1", "app:v2").unwrap();
    let names = ["app".to_owned(), "base:v1".to_owned()];
    let mut saved = Vec::new();
    world.images.save(&names, &mut saved).unwrap();
    let mut again = Vec::new();
    world.images.save(&names, &mut again).unwrap();
    assert!(saved == again, "the same bytes");
    let other = crate::world();
    let mut loaded = other.load(&saved).unwrap();
    loaded.sort();
    assert_eq!(loaded, ["app:v1", "app:v2", "base:v1"]);
    assert_eq!(other.images.inspect("app:v1").unwrap().id, world.images.inspect("app:v1").unwrap().id);
    assert_eq!(other.stored(), world.stored());
    assert!(world.images.save(&["nothing".into()], &mut Vec::new()).is_err());
}

#[test]
fn importing_makes_an_image_of_one_layer() {
    let world = world();
    let spec = ImportSpec {
        reference: Some(Reference::parse("rootfs:1").unwrap()),
        message: "by hand".into(),
        changes: vec!["CMD [\"/bin/sh\"]".into(), "ENV A=b".into()],
        platform: Some(Platform::parse("linux/arm64").unwrap()),
    };
    let image = world.images.import(gzip(&tar(&[("bin/sh", b"#!")])).as_slice(), &spec).unwrap();
    assert_eq!(image.config.config.cmd.as_deref().unwrap(), ["/bin/sh"]);
    assert_eq!(image.config.architecture, "arm64");
    assert_eq!(world.images.history("rootfs:1").unwrap()[0].step.comment, "by hand");
    let bad = ImportSpec { changes: vec!["RUN x".into()], ..spec };
    assert_eq!(
        world.images.import(&[][..], &bad).unwrap_err().to_string(),
        "RUN is not a valid change command"
    );
}

#[test]
fn hello_is_made_once_and_again_for_another_program() {
    let world = world();
    let program = world.folder.path().join("program");
    std::fs::write(&program, b"one").unwrap();
    let first = world.images.ensure_hello(&program).unwrap();
    assert_eq!(first.config.config.entrypoint.as_deref().unwrap(), ["/hello"]);
    assert_eq!(world.images.ensure_hello(&program).unwrap().id, first.id);
    let lowers = world.images.lowers(&first.id).unwrap();
    assert_eq!(std::fs::read(lowers[0].join("hello")).unwrap(), b"one");
    std::fs::write(&program, b"another").unwrap();
    let second = world.images.ensure_hello(&program).unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(world.images.count(), 1, "the old one is gone");
    assert_eq!(world.stored().len(), 2);
    // A name of the user's is left alone.
    world.images.remove("hello", true, false, &nobody).unwrap();
    world.load(&archive("hello:latest", &[], |_| {})).unwrap();
    assert!(world.images.ensure_hello(&program).unwrap().config.config.labels.is_empty());
}

/// `cargo test --release -p havre-image --test it -- --ignored --nocapture speed_of_loading`
#[test]
#[ignore = "measures"]
fn speed_of_loading() {
    let world = world();
    let path = havre_testkit::layered_archive(world.folder.path(), 300, 6).unwrap();
    let length = path.metadata().unwrap().len();
    for round in 0..3 {
        let started = std::time::Instant::now();
        world.images.load(std::fs::File::open(&path).unwrap(), &[], &mut |_| {}).unwrap();
        let loaded = started.elapsed();
        let started = std::time::Instant::now();
        let mut sink = std::io::sink();
        world.images.save(&["bench-layers".into()], &mut sink).unwrap();
        let saved = started.elapsed();
        let started = std::time::Instant::now();
        world.images.remove("bench-layers", false, false, &nobody).unwrap();
        let rate = |time: std::time::Duration| u128::from(length) / time.as_micros();
        println!(
            "round {round}: load {loaded:?} ({} MB/s), save {saved:?} ({} MB/s), remove {:?}",
            rate(loaded),
            rate(saved),
            started.elapsed()
        );
    }
    let id = world.images.import(crate::tar(&[("a", b"1")]).as_slice(), &ImportSpec::default()).unwrap().id;
    let started = std::time::Instant::now();
    let containers: Vec<_> = (0..100).map(|_| havre_base::ContainerId::random()).collect();
    for container in &containers {
        world.images.create_writable(container, &id).unwrap();
    }
    println!("create_writable {:?} each", started.elapsed() / 100);
    let started = std::time::Instant::now();
    for container in &containers {
        world.images.remove_writable(container).unwrap();
    }
    println!("remove_writable {:?} each", started.elapsed() / 100);
}
