//! Names, lists, removal, and what containers stand on.

use std::collections::BTreeMap;

use havre_base::{Classify, ContainerId, ErrorKind};
use havre_image::{ImageUser, ListSpec, PruneSpec, Removed, Writable};
use havre_oci::Digest;

use crate::{World, archive, nobody, tar, world};

/// `base:1` and `app:1` made from the same bottom layer.
fn two_images() -> World {
    let world = world();
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", b"22")]));
    world
        .load(&archive("base:1", &[&one], |config| config.created = Some("2026-01-01T00:00:00Z".into())))
        .unwrap();
    let labelled = |config: &mut havre_oci::image::ImageConfig| {
        config.created = Some("2026-02-01T00:00:00Z".into());
        config.config.labels.insert("tier".into(), "web".into());
    };
    world.load(&archive("app:1", &[&one, &two], labelled)).unwrap();
    world
}

fn id(world: &World, name: &str) -> Digest {
    world.images.resolve(name).unwrap().id
}

#[test]
fn images_are_found_by_name_id_and_beginning_of_id() {
    let world = two_images().restarted();
    let app = id(&world, "app:1");
    for name in [
        "docker.io/library/app:1".to_owned(),
        app.to_string(),
        app.hex(),
        app.short(),
        format!("sha256:{}", &app.hex()[..8]),
    ] {
        assert_eq!(id(&world, &name), app, "{name}");
    }
    let error = world.images.resolve("foo").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        ("No such image: foo:latest", ErrorKind::NotFound)
    );
    assert_eq!(world.images.resolve("app").unwrap_err().to_string(), "No such image: app:latest");
    assert_eq!(world.images.resolve("App").unwrap_err().kind(), ErrorKind::InvalidParameter);
    let missing = Digest::of_bytes(b"missing");
    assert_eq!(
        world.images.resolve(&missing.to_string()).unwrap_err().to_string(),
        format!("No such image: {missing}")
    );
}

#[test]
fn an_ambiguous_beginning_is_an_error() {
    let world = world();
    // Seventeen images: two of them begin with the same digit.
    for n in 0..17 {
        world.load(&archive(&format!("i{n}:1"), &[], |config| config.author = n.to_string())).unwrap();
    }
    let mut firsts: Vec<String> =
        (0..17).map(|n| id(&world, &format!("i{n}:1")).hex()[..1].to_owned()).collect();
    firsts.sort();
    let twice = firsts.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0].clone();
    let error = world.images.resolve(&twice).unwrap_err().to_string();
    assert_eq!(error, format!("multiple IDs found with provided prefix: {twice}"));
}

#[test]
fn a_tag_moves_to_the_image_it_is_given_to() {
    let world = two_images();
    world.images.tag("base:1", "x/y:z").unwrap();
    world.images.tag("app:1", "x/y:z").unwrap();
    let world = world.restarted();
    assert_eq!(id(&world, "x/y:z"), id(&world, "app:1"));
    assert_eq!(world.images.inspect("base:1").unwrap().repo_tags, ["base:1"]);
    for bad in [format!("a@{}", Digest::of_bytes(b"")), "sha256:1".into(), "A".into()] {
        assert!(world.images.tag("base:1", &bad).is_err(), "{bad}");
    }
}

#[test]
fn lists_are_filtered_as_dockers_are() {
    let world = two_images();
    world.images.tag("app:1", "dir/app:2").unwrap();
    let list = |filters: &[(&str, &str)]| -> Vec<String> {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in filters {
            map.entry((*name).into()).or_default().push((*value).into());
        }
        let views = world.images.list(&ListSpec::parse(false, &map).unwrap()).unwrap();
        views.into_iter().map(|view| view.repo_tags.join(" ")).collect()
    };
    assert_eq!(list(&[]), ["app:1 dir/app:2", "base:1"], "newest first");
    assert_eq!(list(&[("label", "tier=web")]), ["app:1 dir/app:2"]);
    assert_eq!(list(&[("label", "tier=db")]), Vec::<String>::new());
    assert_eq!(list(&[("before", "app:1")]), ["base:1"]);
    assert_eq!(list(&[("since", "base:1")]), ["app:1 dir/app:2"]);
    assert_eq!(list(&[("until", "2026-01-15")]), ["base:1"]);
    assert_eq!(list(&[("reference", "*")]), ["app:1", "base:1"]);
    assert_eq!(list(&[("reference", "dir/*:2")]), ["dir/app:2"]);
    assert_eq!(list(&[("dangling", "true")]), Vec::<String>::new());
    assert_eq!(list(&[("dangling", "false")]).len(), 2);
}

#[test]
fn removing_the_last_name_removes_the_image_and_its_own_layers() {
    let world = two_images();
    let app = id(&world, "app:1");
    world.images.tag("app:1", "other:1").unwrap();
    let untagged = |name: &str| Removed::Untagged { name: name.into(), image: app.clone() };
    assert_eq!(world.images.remove("app:1", false, false, &nobody).unwrap(), [untagged("app:1")]);
    let removed = world.images.remove("other:1", false, false, &nobody).unwrap();
    assert_eq!(removed[..2], [untagged("other:1"), Removed::Image(app)]);
    assert!(matches!(removed[2..], [Removed::Layer(_)]), "the shared layer stays: {removed:?}");
    let world = world.restarted();
    assert_eq!(world.images.count(), 1);
    world.images.remove("base:1", false, false, &nobody).unwrap();
    assert_eq!(world.stored(), Vec::<String>::new());
    assert_eq!(
        world.images.remove("base:1", false, false, &nobody).unwrap_err().to_string(),
        "No such image: base:1"
    );
}

#[test]
fn an_id_with_several_names_needs_force() {
    let world = two_images();
    let app = id(&world, "app:1");
    world.images.tag("app:1", "other:1").unwrap();
    let error = world.images.remove(&app.short(), false, false, &nobody).unwrap_err();
    let says = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        app.short()
    );
    assert_eq!((error.to_string(), error.kind()), (says, ErrorKind::Conflict));
    let removed = world.images.remove(&app.short(), true, false, &nobody).unwrap();
    assert_eq!(removed.len(), 4, "{removed:?}");
}

#[test]
fn images_in_use_are_protected_with_dockers_words() {
    let world = two_images();
    let app = id(&world, "app:1");
    let container = ContainerId::random();
    let user = |running| {
        let (app, container) = (app.clone(), container.clone());
        move |image: &Digest| {
            if *image == app { vec![ImageUser { container: container.clone(), running }] } else { vec![] }
        }
    };
    let refused = |name: &str, force, running| {
        world.images.remove(name, force, false, &user(running)).unwrap_err().to_string()
    };
    let (c, i) = (container.short(), app.short());
    assert_eq!(
        refused("app:1", false, false),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container {c} is using its referenced image {i}"
        )
    );
    assert_eq!(
        refused(&i, false, false),
        format!(
            "conflict: unable to delete {i} (must be forced) - image is being used by stopped container {c}"
        )
    );
    assert_eq!(
        refused(&i, true, true),
        format!(
            "conflict: unable to delete {i} (cannot be forced) - image is being used by running container {c}"
        )
    );
    // By name and with force: the name goes, the image stays for the running container.
    assert_eq!(world.images.remove("app:1", true, false, &user(true)).unwrap().len(), 1);
    assert!(world.images.inspect(&i).unwrap().repo_tags.is_empty());
}

#[test]
fn layers_stay_while_a_container_stands_on_them() {
    let world = two_images();
    let app = id(&world, "app:1");
    let container = ContainerId::random();
    let made = world.images.create_writable(&container, &app).unwrap();
    let Writable::Overlay { lowers, .. } = &made else { panic!("{made:?}") };
    assert_eq!(lowers.len(), 2);
    let removed = world.images.remove("app:1", true, false, &nobody).unwrap();
    assert!(!removed.iter().any(|one| matches!(one, Removed::Layer(_))));
    let world = world.restarted();
    world.images.sweep(&|id| *id == container).unwrap();
    assert_eq!(world.images.create_writable(&container, &app).unwrap(), made, "even without its image");
    assert!(lowers.iter().all(|folder| folder.is_dir()));
    world.images.remove_writable(&container).unwrap();
    world.images.remove_writable(&container).unwrap();
    assert!(!lowers[0].exists() && lowers[1].exists(), "what base:1 needs stays");
}

#[test]
fn a_sweep_removes_what_nobody_owns() {
    let world = two_images();
    let (dead, alive) = (ContainerId::random(), ContainerId::random());
    for id in [&dead, &alive] {
        world.images.create_writable(id, &crate::names::id(&world, "base:1")).unwrap();
    }
    let stray = world.folder.path().join("snapshots/containers").join(ContainerId::random().as_str());
    std::fs::create_dir(&stray).unwrap();
    let orphan = world.folder.path().join("snapshots/layers").join(Digest::of_bytes(b"orphan").hex());
    std::fs::create_dir(&orphan).unwrap();
    let before = world.stored().len();
    std::fs::write(world.folder.path().join("content/blobs/sha256").join(Digest::of_bytes(b"x").hex()), "x")
        .unwrap();
    std::fs::write(world.folder.path().join("content/ingest/half"), "x").unwrap();
    let world = world.restarted();
    world.images.sweep(&|id| *id == alive).unwrap();
    assert!(!stray.exists() && !orphan.exists());
    assert_eq!(world.stored().len(), before - 1);
    let left: Vec<_> = std::fs::read_dir(world.folder.path().join("snapshots/containers")).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn an_image_with_a_missing_layer_is_forgotten_at_start() {
    let world = two_images();
    let lower = world.images.inspect("app:1").unwrap().lowers[0].clone();
    std::fs::remove_dir_all(lower.parent().unwrap()).unwrap();
    let world = world.restarted();
    assert!(world.images.resolve("app:1").is_err());
    assert!(world.images.resolve("base:1").is_ok());
}

#[test]
fn history_tells_sizes_newest_first() {
    let world = two_images();
    let lines = world.images.history("app:1").unwrap();
    assert_eq!(lines.iter().map(|line| line.size).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(lines[0].id, Some(id(&world, "app:1")));
    assert_eq!((lines[0].tags.as_slice(), &lines[1].id), (&["app:1".to_owned()][..], &None));
}

#[test]
fn pruning_removes_what_nothing_uses_and_tells_how_much_that_was() {
    let world = two_images();
    let prune = |filters: &[(&str, &str)], users: &dyn Fn(&Digest) -> Vec<ImageUser>| {
        let map = filters.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
        world.images.prune(&PruneSpec::parse(&map.collect()).unwrap(), users).unwrap()
    };
    assert_eq!(prune(&[], &nobody), (Vec::new(), 0), "named images are not dangling");
    world.images.tag("app:1", "other/app:2").unwrap();
    let app = id(&world, "app:1");
    let used = |image: &Digest| {
        let user = ImageUser { container: ContainerId::random(), running: false };
        if *image == app { vec![user] } else { Vec::new() }
    };
    let (removed, _) = prune(&[("dangling", "false"), ("label", "tier=web")], &used);
    assert_eq!(removed, Vec::new(), "a stopped container keeps its image");
    let (removed, freed) = prune(&[("dangling", "false"), ("label", "tier=web")], &nobody);
    let untagged = removed.iter().filter(|one| matches!(one, Removed::Untagged { .. })).count();
    assert_eq!(untagged, 2, "{removed:?}");
    assert!(removed.contains(&Removed::Image(app.clone())) && freed > 0, "{removed:?} {freed}");
    assert!(world.images.resolve("base:1").is_ok() && world.images.resolve("app:1").is_err());
}
