//! Attestations stay with their image on every way it goes.

use havre_oci::Platform;
use havre_oci::image::media;
use havre_store::tar::TarReader;
use havre_testkit::hostile::{Attested, RemoteImage, put_attested};
use havre_testkit::registry::{FakeRegistry, Reply, digest};
use serde_json::Value;

use crate::transfers::{named, pull, push, push_with, run, two_layers};
use crate::{World, nobody, tar, world};

fn other() -> (Platform, RemoteImage) {
    let layer = tar(&[("other", b"x")]);
    (Platform::parse("linux/s390x").unwrap(), RemoteImage::new().layer(&layer).unwrap())
}

/// An index in a registry, pulled.
fn pulled(others: Option<(Platform, RemoteImage)>) -> (FakeRegistry, World, Attested) {
    let registry = FakeRegistry::start().unwrap();
    let put = put_attested(&registry, "a/b", "1", two_layers().0, others).unwrap();
    let world = world();
    run(pull(&world, &named(&registry, "a/b:1"))).unwrap();
    (registry, world, put)
}

fn stored(world: &World, name: &str) -> bool {
    world.stored().contains(&name.trim_start_matches("sha256:").to_owned())
}

fn listed(registry: &FakeRegistry, repository: &str, tag: &str) -> Vec<String> {
    let text = registry.document(repository, tag).unwrap();
    let index: Value = serde_json::from_slice(&text).unwrap();
    let all = index["manifests"].as_array().cloned().unwrap_or_default();
    all.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

/// The names and contents of an archive.
fn unpacked(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = TarReader::new(archive, false);
    let mut all = Vec::new();
    while let Some(entry) = tar.next_entry().unwrap() {
        let content = tar.content(1 << 30).unwrap();
        all.push((String::from_utf8(entry.path).unwrap(), content));
    }
    all
}

#[test]
fn they_come_and_go_on_with_the_index() {
    let (registry, world, put) = pulled(None);
    let name = named(&registry, "a/b:1").familiar();
    for part in [&put.index, &put.manifest, &put.attestation, &put.statement] {
        assert!(stored(&world, part), "{part}");
    }
    let world = world.restarted();
    for (target, all) in [("c:2", true), ("c:single", false)] {
        let target = named(&registry, target);
        world.images.tag(&name, &target.familiar()).unwrap();
        run(push_with(&world, &target, !all)).unwrap();
        let pushed = digest(&registry.document("c", target.tag().unwrap()).unwrap());
        assert_eq!(&pushed, if all { &put.index } else { &put.manifest }, "{target}");
        let known = world.images.inspect(&name).unwrap().repo_digests;
        assert!(known.contains(&format!("{}@{pushed}", target.familiar_name())), "{known:?}");
    }
    assert!(
        registry.document("c", &put.attestation).is_some() && registry.document("c", &put.manifest).is_some()
    );
    // Where the layers go in another form the manifest is another one, of which nobody said anything.
    let elsewhere = FakeRegistry::start().unwrap();
    let target = named(&elsewhere, "d:1");
    world.images.tag(&name, &target.familiar()).unwrap();
    run(push(&world, &target)).unwrap();
    assert!(elsewhere.document("d", &put.attestation).is_none());
    let id = world.images.inspect(&name).unwrap().id.to_string();
    world.images.remove(&id, true, false, &nobody).unwrap();
    assert!(world.stored().is_empty(), "{:?}", world.stored());
}

#[test]
fn an_index_of_more_platforms_is_cut_to_what_is_here() {
    let (registry, world, put) = pulled(Some(other()));
    let target = named(&registry, "c:1");
    world.images.tag(&named(&registry, "a/b:1").familiar(), &target.familiar()).unwrap();
    run(push(&world, &target)).unwrap();
    assert_eq!(listed(&registry, "c", "1"), [put.manifest.clone(), put.attestation]);
    assert_eq!(listed(&registry, "a/b", "1").len(), 3);
    let pushed = digest(&registry.document("c", "1").unwrap());
    // The same again, and the same index from there.
    run(push(&world, &target)).unwrap();
    assert_eq!(digest(&registry.document("c", "1").unwrap()), pushed);
}

#[test]
fn an_index_of_one_image_goes_on_as_it_is_and_one_of_several_without_words_does_not() {
    let registry = FakeRegistry::start().unwrap();
    let world = world();
    let host = Platform::host();
    let one =
        havre_testkit::hostile::put_index(&registry, "one", "1", [(host.clone(), two_layers().0)]).unwrap();
    let two = [(host, two_layers().0), other()];
    havre_testkit::hostile::put_index(&registry, "two", "1", two).unwrap();
    for repository in ["one", "two"] {
        let (from, to) =
            (named(&registry, &format!("{repository}:1")), named(&registry, &format!("to/{repository}:1")));
        run(pull(&world, &from)).unwrap();
        world.images.tag(&from.familiar(), &to.familiar()).unwrap();
        run(push(&world, &to)).unwrap();
        let id = world.images.inspect(&from.familiar()).unwrap().id.to_string();
        world.images.remove(&id, true, false, &nobody).unwrap();
    }
    assert_eq!(digest(&registry.document("to/one", "1").unwrap()), one);
    assert!(registry.document("to/two", "1").is_some() && listed(&registry, "to/two", "1").is_empty());
}

#[test]
fn an_image_comes_without_what_cannot_be_had() {
    for (case, status) in [("absent", 404), ("false", 200), ("huge", 0)] {
        let registry = FakeRegistry::start().unwrap();
        let put = put_attested(&registry, "a/b", "1", two_layers().0, None).unwrap();
        let (attestation, statement) = (put.attestation.clone(), put.statement.clone());
        registry.lie(move |asked| {
            let wanted = asked.path.ends_with(if status == 200 { &statement } else { &attestation });
            (wanted && status != 0).then(|| Reply::body(status, "no"))
        });
        if status == 0 {
            let mut index: Value = serde_json::from_slice(&registry.document("a/b", "1").unwrap()).unwrap();
            let mut document: Value =
                serde_json::from_slice(&registry.document("a/b", &put.attestation).unwrap()).unwrap();
            document["layers"][0]["size"] = 50_000_000_u64.into();
            let huge = registry.manifest("a/b", "huge", media::MANIFEST, document.to_string());
            index["manifests"][1]["digest"] = huge.into();
            registry.manifest("a/b", "1", media::INDEX, index.to_string());
        }
        let world = world();
        run(pull(&world, &named(&registry, "a/b:1"))).unwrap();
        assert!(!stored(&world, &put.attestation) && !stored(&world, &put.statement), "{case}");
        // What is too much is not even asked for.
        let asked = registry.asked().iter().any(|asked| asked.path.ends_with(&put.statement));
        assert_eq!(asked, status == 200, "{case}");
    }
}

#[test]
fn an_archive_has_them_and_gives_them_back() {
    let (registry, world, put) = pulled(Some(other()));
    let name = named(&registry, "a/b:1").familiar();
    let mut archive = Vec::new();
    world.images.save(std::slice::from_ref(&name), &mut archive).unwrap();
    let parts = unpacked(&archive);
    let part = |wanted: &str| {
        let found = parts.iter().find(|(path, _)| path.ends_with(wanted.trim_start_matches("sha256:")));
        serde_json::from_slice::<Value>(&found.unwrap_or_else(|| panic!("no {wanted}")).1).unwrap()
    };
    // As other tools read it: the name leads to an index of an image and of what is said about that.
    let top = part("index.json");
    assert_eq!(top["manifests"][0]["mediaType"], media::INDEX);
    assert_eq!(top["manifests"][0]["annotations"]["io.containerd.image.name"], name);
    let index = part(top["manifests"][0]["digest"].as_str().unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(index["manifests"][0]["platform"]["os"], "linux");
    assert_eq!(index["manifests"][1]["digest"], put.attestation.as_str());
    let about = &index["manifests"][1]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(about, &index["manifests"][0]["digest"]);
    part(&put.statement);
    // Into an empty store, and out of it again: the same.
    let again = crate::world();
    again.load(&archive).unwrap();
    for digest in [&put.index, &put.manifest, &put.attestation, &put.statement] {
        assert!(stored(&again, digest), "{digest}");
    }
    let mut twice = Vec::new();
    again.images.save(&[name], &mut twice).unwrap();
    assert!(archive == twice);
}

#[test]
fn an_archive_of_others_leads_to_the_index_it_came_from() {
    let registry = FakeRegistry::start().unwrap();
    let put = put_attested(&registry, "a/b", "1", two_layers().0, None).unwrap();
    // The registry's content as an OCI layout.
    let name = named(&registry, "a/b:1");
    let top = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media::INDEX, "digest": put.index, "size": 1,
        "annotations": {"io.containerd.image.name": name.to_string()},
    }]});
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    files.push(("index.json".to_owned(), top.to_string().into_bytes()));
    let path = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
    let mut keep = |text: Vec<u8>| files.push((path(&digest(&text)), text));
    keep(registry.document("a/b", &put.index).unwrap());
    for one in [&put.manifest, &put.attestation] {
        let text = registry.document("a/b", one).unwrap();
        let manifest: Value = serde_json::from_slice(&text).unwrap();
        let blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        blobs.for_each(|blob| keep(registry.content(blob["digest"].as_str().unwrap()).unwrap()));
        keep(text);
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, text)| (path.as_str(), text.as_slice())).collect();
    let world = world();
    world.load(&tar(&files)).unwrap();
    // The layers were just seen to be those blobs, so the registry's are named, and all stays as it was.
    run(push(&world, &name)).unwrap();
    assert_eq!(digest(&registry.document("a/b", "1").unwrap()), put.index);
    assert!(registry.asked().iter().all(|asked| asked.method != "PATCH"));
    let known = world.images.inspect(&name.familiar()).unwrap().repo_digests;
    assert_eq!(known, [format!("{}@{}", name.familiar_name(), put.index)]);
}
