//! `system fsck`: damage done to a private daemon's store, told and repaired.

use std::path::{Path, PathBuf};

use crate::Test;
use crate::private::Private;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[("fsck finds damage and repairs it", fsck)];

/// A file of the test image's layer.
fn busybox(daemon: &Private) -> PathBuf {
    let layers = Path::new(&daemon.path("data")).join("snapshots/layers");
    let mut found =
        std::fs::read_dir(layers).unwrap().map(|entry| entry.unwrap().path().join("fs/bin/busybox"));
    found.find(|path| path.exists()).expect("the layer of busybox")
}

fn fsck(_: &World, client: &Client) {
    let daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let run = |args: &[&str]| daemon.run(client, args);
    assert!(run(&["system", "fsck"]).exits(0).ends_with("Nothing is damaged."));
    run(&["run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "600"]).exits(0);
    run(&["run", "--name", "old", "--network", "none", "busybox", "true"]).exits(0);
    let file = busybox(&daemon);
    let whole = std::fs::read(&file).unwrap();
    let stray = Path::new(&daemon.path("data")).join("containers").join("f".repeat(64));
    std::fs::create_dir(&stray).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let permissions = file.metadata().unwrap().permissions();
    // Another file of the same name: what runs has the old one open.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    std::fs::set_permissions(&file, permissions).unwrap();
    let told = run(&["system", "fsck"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.out.contains("busybox:latest (") && told.out.contains("havre pull busybox:latest"),
        "{told:?}"
    );
    assert!(told.out.contains("1 leftovers"), "{told:?}");
    let kept = run(&["system", "fsck", "--repair"]);
    assert_eq!(kept.code, 1, "{kept:?}");
    assert!(kept.out.contains("container web runs on it: stop it and repair again"), "{kept:?}");
    assert!(!stray.exists());
    run(&["rm", "-f", "web"]).exits(0);
    let json = run(&["system", "fsck", "--repair", "--format", "json"]).exits(0);
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["Summary"]["Damaged"], &last["Summary"]["Unrepaired"]),
        (&2.into(), &0.into()),
        "{json}"
    );
    run(&["image", "inspect", "busybox"]).fails(1, "No such image");
    assert_ne!(run(&["start", "old"]).code, 0, "its layer is not here");
    daemon.load(client);
    run(&["start", "-a", "old"]).exits(0);
    assert_eq!(std::fs::read(busybox(&daemon)).unwrap(), whole);
    run(&["system", "fsck"]).exits(0);
    run(&["system", "fsck", "--format", "table"]).fails(1, "unknown format 'table'");
}
