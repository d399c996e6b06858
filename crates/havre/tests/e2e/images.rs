//! Local images: platforms asked for, and pruning.

use havre_testkit::{ArchiveBuilder, Layer};

use crate::Test;
use crate::world::{Client, World};

/// Through every client.
pub(crate) const ALL: &[Test] = &[
    ("image prune removes what is unused and wanted", prune),
    ("another platform of an image is not found", platforms),
    ("images as a tree", tree),
];

/// Loads a small image with a label.
fn load(world: &World, client: &Client, name: &str, label: &str) -> String {
    let reference = format!("{}:latest", client.unique(name));
    let layer = Layer::new().file("own", 0o644, reference.as_bytes()).unwrap().finish().unwrap();
    let archive = ArchiveBuilder::new()
        .layer(layer)
        .config(|config| drop(config.labels.insert(label.into(), "yes".into())))
        .write_to(&reference, world.folder(), &format!("{name}.tar"))
        .unwrap();
    client.run(&["load", "-q", "-i", archive.to_str().unwrap()]).exits(0);
    reference
}

fn prune(world: &World, client: &Client) {
    let label = client.unique("prune");
    let filter = format!("label={label}");
    let image = load(world, client, "pruned", &label);
    let out = client.run(&["image", "prune", "-f", "--filter", &filter]).exits(0);
    assert_eq!(out, "Total reclaimed space: 0B", "a named image is not dangling");
    // A container that never ran keeps its image.
    let name = client.unique("keeper");
    client.run(&["create", "--name", &name, "--label", "e2e", "--network", "none", &image, "x"]).exits(0);
    let out = client.run(&["image", "prune", "-af", "--filter", &filter]).exits(0);
    assert_eq!(out, "Total reclaimed space: 0B");
    client.run(&["rm", &name]).exits(0);
    let other = format!("label!={label}");
    client.run(&["image", "prune", "-af", "--filter", &filter, "--filter", &other]).exits(0);
    client.run(&["image", "inspect", "-f", "ok", &image]).exits(0);
    let out = client.run(&["image", "prune", "-af", "--filter", &filter]).exits(0);
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("Deleted Images:"));
    assert_eq!(lines.next(), Some(format!("untagged: {image}").as_str()));
    assert!(lines.next().is_some_and(|line| line.starts_with("deleted: sha256:")), "{out}");
    assert!(out.contains("Total reclaimed space: ") && !out.contains("space: 0B"), "{out}");
    client.run(&["image", "inspect", &image]).fails(1, "No such image");
    let wrong = client.run(&["image", "prune", "-f", "--filter", "until=whenever"]);
    wrong.fails(1, "until");
    let asked = client.run(&["image", "prune"]);
    assert!(asked.out.contains("WARNING! This will remove all dangling images."), "{asked:?}");
}

fn platforms(world: &World, client: &Client) {
    let image = "e2e/busybox";
    let own = client.run(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", image]).exits(0);
    let other = if own.ends_with("arm64") { "linux/amd64" } else { "linux/arm64" };
    let missing = "does not provide the specified platform";
    client.run(&["image", "inspect", "--platform", &own, "-f", "ok", image]).exits(0);
    client.run(&["image", "inspect", "--platform", other, image]).fails(1, missing);
    client.run(&["history", "--platform", &own, image]).exits(0);
    client.run(&["history", "--platform", other, image]).fails(1, missing);
    let archive = world.folder().join("platform.tar");
    let path = archive.to_str().unwrap();
    client.run(&["save", "--platform", other, "-o", path, image]).fails(1, missing);
    client.run(&["save", "--platform", &own, "-o", path, image]).exits(0);
    let wrong = client.run(&["load", "--platform", other, "-i", path]);
    assert!(wrong.code != 0 && wrong.err.contains(other), "{wrong:?}");
    client.run(&["load", "-q", "--platform", &own, "-i", path]).exits(0);
}

fn tree(_: &World, client: &Client) {
    if client.name != "havre" {
        // The official client draws it for terminals only.
        return;
    }
    let out = client.run(&["images", "--tree"]).exits(0);
    assert!(out.starts_with("IMAGE ") && out.contains("e2e/busybox:latest"), "{out}");
    client.run(&["images", "--tree", "--quiet"]).fails(1, "--quiet is not yet supported with --tree");
}
