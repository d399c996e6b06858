//! Every kind of damage, found and repaired; and what is no damage left alone.

use std::path::{Path, PathBuf};

use havre_base::ContainerId;
use havre_image::{CheckEvent, CheckSpec, Finding, Life, Outcome};
use havre_oci::Digest;
use havre_store::{Batch, Db, Table};

use crate::{World, archive, open, tar, world};

const WEB: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Two layers, the upper one its own, and a document.
fn app() -> (World, Vec<u8>) {
    let world = world();
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", b"22"), ("c -> a", b"")]));
    let archive = archive("app:1", &[&one, &two], |_| {});
    world.load(&archive).unwrap();
    (world, archive)
}

fn container() -> ContainerId {
    ContainerId::parse(WEB).unwrap()
}

fn check_with(world: &World, repair: bool, life: Option<bool>) -> Vec<Finding> {
    let mut found = Vec::new();
    let life = |id: &ContainerId| {
        let running = life.filter(|_| *id == container())?;
        Some(Life { name: "web".into(), running })
    };
    let mut on = |event| {
        if let CheckEvent::Found(finding) = event {
            found.push(finding);
        }
        true
    };
    world.images.fsck(CheckSpec { repair, life: &life, on: &mut on }).unwrap().unwrap();
    found
}

fn check(world: &World, repair: bool) -> Vec<Finding> {
    check_with(world, repair, None)
}

fn brief(found: &[Finding]) -> Vec<(&'static str, bool, bool)> {
    found.iter().map(|one| (one.kind, one.damage, one.outcome == Outcome::Repaired)).collect()
}

fn layer_of(world: &World, index: usize) -> (Digest, PathBuf) {
    let view = world.images.inspect("app:1").unwrap();
    let layer = view.config.rootfs.diff_ids[index].clone();
    let path = world.folder.path().join("snapshots/layers").join(layer.hex());
    (layer, path)
}

/// Found, found again, repaired, and then nothing is wrong; the image comes back by a load.
fn repaired(damage: impl FnOnce(&World, &Path), kinds: &[&str], word: &str) {
    let (world, archive) = app();
    assert_eq!(check(&world, false), []);
    let (_, layer) = layer_of(&world, 1);
    damage(&world, &layer);
    let stored = world.stored();
    let found = check(&world, false);
    assert_eq!(found.iter().map(|one| one.kind).collect::<Vec<_>>(), kinds, "{found:#?}");
    assert!(found.iter().any(|one| one.problem.contains(word)), "{found:#?}");
    assert!(found.iter().all(|one| one.damage && one.outcome == Outcome::Found), "{found:#?}");
    assert_eq!(world.stored(), stored, "a check alone changes nothing");
    let advice = found.iter().find(|one| one.kind == "image").unwrap();
    assert!(advice.object.starts_with("app:1 (") && advice.repair.contains("havre pull app:1"), "{advice:?}");
    assert!(check(&world, true).iter().all(|one| one.outcome == Outcome::Repaired));
    assert_eq!(check(&world, false), []);
    assert!(world.images.resolve("app:1").is_err());
    assert_eq!(world.stored(), Vec::<String>::new());
    let world = world.restarted();
    assert_eq!(world.load(&archive).unwrap(), ["app:1"]);
    assert_eq!(check(&world, false), []);
}

#[test]
fn a_changed_file_of_a_layer_is_found() {
    let change = |_: &World, layer: &Path| std::fs::write(layer.join("fs/b"), b"23").unwrap();
    repaired(change, &["image", "layer"], "has other bytes");
}

#[test]
fn a_missing_file_of_a_layer_is_found() {
    let change = |_: &World, layer: &Path| std::fs::remove_file(layer.join("fs/b")).unwrap();
    repaired(change, &["image", "layer"], "No such file");
}

#[test]
fn a_layer_without_its_record_recipe_or_folder_is_found() {
    let record = |_: &World, layer: &Path| std::fs::remove_file(layer.join("layer.json")).unwrap();
    repaired(record, &["image", "layer"], "is not here");
    let recipe = |_: &World, layer: &Path| std::fs::write(layer.join("recipe"), b"x").unwrap();
    repaired(recipe, &["image", "layer"], "");
    let folder = |_: &World, layer: &Path| std::fs::remove_dir_all(layer).unwrap();
    repaired(folder, &["image", "layer"], "is not here");
}

#[test]
fn a_changed_or_missing_configuration_is_found() {
    let path = |world: &World| {
        let id = world.images.resolve("app:1").unwrap().id;
        world.folder.path().join("content/blobs/sha256").join(id.hex())
    };
    let change = |world: &World, _: &Path| std::fs::write(path(world), b"{}").unwrap();
    repaired(change, &["image", "blob"], "has other bytes");
    let missing = |world: &World, _: &Path| std::fs::remove_file(path(world)).unwrap();
    repaired(missing, &["image", "blob"], "is not here");
}

#[test]
fn what_a_running_container_stands_on_stays_and_a_stopped_one_waits_for_its_image() {
    let (world, archive) = app();
    let image = world.images.resolve("app:1").unwrap().id;
    let writable = world.images.create_writable(&container(), &image).unwrap();
    std::fs::write(writable.folder().join("own"), b"data").unwrap();
    let (_, layer) = layer_of(&world, 0);
    std::fs::write(layer.join("fs/a"), b"2").unwrap();
    let found = check_with(&world, true, Some(true));
    assert_eq!(brief(&found), [("image", true, false), ("layer", true, false)]);
    assert!(
        matches!(&found[0].outcome, Outcome::Kept(why) if why.contains("container web runs")),
        "{found:?}"
    );
    assert_eq!(std::fs::read(layer.join("fs/a")).unwrap(), b"2");
    world.images.resolve("app:1").unwrap();
    let found = check_with(&world, true, Some(false));
    assert_eq!(brief(&found), [("image", true, true), ("layer", true, true)]);
    assert!(found[1].repair.contains("start again when their image is here again: web"), "{found:?}");
    assert!(world.images.resolve("app:1").is_err() && !layer.exists());
    // The gap stays known until the image is back; the container's own files were not touched.
    assert_eq!(brief(&check_with(&world, false, Some(false))), [("layer", true, false)]);
    world.load(&archive).unwrap();
    assert_eq!(check_with(&world, false, Some(false)), []);
    assert_eq!(std::fs::read(layer.join("fs/a")).unwrap(), b"1");
    assert_eq!(std::fs::read(writable.folder().join("own")).unwrap(), b"data");
}

#[test]
fn writable_layers_and_containers_belong_together() {
    let (world, _) = app();
    let image = world.images.resolve("app:1").unwrap().id;
    let writable = world.images.create_writable(&container(), &image).unwrap();
    std::fs::remove_dir_all(writable.folder()).unwrap();
    assert_eq!(brief(&check_with(&world, true, Some(true))), [("container", true, false)]);
    assert_eq!(brief(&check_with(&world, true, Some(false))), [("container", true, true)]);
    assert!(writable.folder().is_dir() && check_with(&world, false, Some(false)).is_empty());
    std::fs::write(writable.folder().join("own"), b"data").unwrap();
    let found = check(&world, false);
    assert_eq!((brief(&found), found[0].bytes), (vec![("leftover", false, false)], 4));
    assert_eq!(brief(&check(&world, true)), [("leftover", false, true)]);
    assert!(!writable.folder().exists() && check(&world, false).is_empty());
}

#[test]
fn leftovers_are_found_and_freed_and_work_that_goes_on_is_not() {
    let (world, _) = app();
    let root = world.folder.path();
    let foreign = [
        "snapshots/tmp/1-old",
        "snapshots/trash/1-old",
        "snapshots/layers/junk",
        "snapshots/containers/junk",
        "content/ingest/1-old",
        "content/blobs/sha256/junk",
    ];
    for path in foreign {
        std::fs::create_dir_all(root.join(path)).unwrap();
        std::fs::write(root.join(path).join("file"), b"12345").unwrap();
    }
    let partial = root.join("content/partial").join(Digest::of_bytes(b"p").hex());
    std::fs::write(&partial, b"123").unwrap();
    let layer = root.join("snapshots/layers").join(Digest::of_bytes(b"l").hex());
    std::fs::create_dir_all(layer.join("fs")).unwrap();
    let blob = root.join("content/blobs/sha256").join(Digest::of_bytes(b"b").hex());
    std::fs::write(&blob, b"b").unwrap();
    let ours = root.join(format!("snapshots/tmp/{}-77", std::process::id()));
    std::fs::create_dir(&ours).unwrap();
    // A download that goes on holds its file.
    let held = std::fs::File::open(&partial).unwrap();
    held.lock_shared().unwrap();
    let kinds = |found: &[Finding]| found.iter().filter(|one| one.kind == "leftover").count();
    assert_eq!(kinds(&check(&world, false)), foreign.len() + 2);
    drop(held);
    let found = check(&world, true);
    assert!(found.iter().all(|one| one.outcome == Outcome::Repaired), "{found:#?}");
    // The layer without a record is first found to be none, and is gone before the leftovers are looked at.
    assert!(foreign.iter().all(|path| !root.join(path).exists()));
    assert!(!partial.exists() && !layer.exists() && !blob.exists() && ours.exists());
    assert_eq!(check(&world, false), []);
    world.images.resolve("app:1").unwrap();
}

#[test]
fn the_database_is_made_to_say_what_is_so() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = std::sync::Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
    let registries = havre_registry::Registries::new(havre_registry::Settings {
        certs: folder.path().into(),
        ..havre_registry::Settings::default()
    });
    let images =
        havre_image::Images::open(folder.path(), std::sync::Arc::clone(&db), registries.into()).unwrap();
    let world = World { folder, images: images.into() };
    world.load(&archive("app:1", &[&tar(&[("a", b"1")])], |_| {})).unwrap();
    let id = world.images.resolve("app:1").unwrap().id;
    let other = Digest::of_bytes(b"none");
    let batch = Batch::new()
        .delete(Table("tags"), "docker.io/library/app:1")
        .put(Table("tags"), "docker.io/library/ghost:1", &other)
        .put(Table("images"), &other.to_string(), &serde_json::json!({}))
        .delete(Table("images"), &id.to_string());
    db.commit(batch).unwrap();
    let found = check(&world, false);
    assert_eq!(brief(&found), vec![("record", true, false); 4], "{found:#?}");
    assert_eq!(brief(&check(&world, true)), vec![("record", true, true); 4]);
    assert_eq!(check(&world, false), []);
    let World { folder, images } = world;
    drop((images, db));
    let images = open(folder.path());
    assert_eq!(images.resolve("app:1").unwrap().id, id);
    assert_eq!(images.count(), 1);
}
