//! Pulls, loads, removals, prunes and repairs in which the daemon is killed: what was acknowledged runs, what broke off goes on from
//! where it was, and nothing is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use havre_testkit::Layer;
use havre_testkit::hostile::{RemoteImage, shell};
use havre_testkit::registry::{FakeRegistry, Reply, digest};

use crate::world::{Random, World};
use crate::{begin, seeded};

/// How often the daemon is killed.
const KILLS: usize = 200;
/// Different images.
const IMAGES: u64 = 6;

/// Bytes that do not compress, the same for the same number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(number + 1);
    (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

fn name(registry: &FakeRegistry, number: u64) -> String {
    format!("{}/killed:{number}", registry.host())
}

/// Puts an image of a shell and two layers into a registry.
fn put(registry: &FakeRegistry, number: u64) {
    let mut image = RemoteImage::new().layer(&shell().unwrap()).unwrap();
    for (file, length) in [("first", 1_500_000), ("second", 300_000)] {
        let content = noise(number * 10 + length as u64, length);
        image = image.plain(Layer::new().file(file, 0o644, &content).unwrap().finish().unwrap());
    }
    image.put(registry, "killed", &number.to_string()).unwrap();
}

/// Of an image that is there everything is there.
fn check(world: &World, name: &str) {
    let list =
        ["run", "--rm", "--pull", "never", "--network", "none", name, "sh", "-c", "cat first second | wc -c"];
    assert_eq!(world.must(&list), "1800000\n", "{name}");
}

pub(crate) fn killed_pulls(world: &Arc<World>) {
    begin(world);
    let mut random = seeded();
    let before = world.stored();
    let registry = FakeRegistry::start().unwrap();
    (0..IMAGES).for_each(|number| put(&registry, number));
    let began = Instant::now();
    world.must(&["pull", &name(&registry, 0)]);
    let longest = u64::try_from(began.elapsed().as_micros()).unwrap() * 3 / 2;
    let saved = world.file("saved.tar");
    world.must(&["save", "-o", &saved, &name(&registry, 0)]);
    let mut acknowledged = 0;
    for turn in 0..KILLS {
        let image = name(&registry, random.below(IMAGES));
        let first = name(&registry, 0);
        let there = |image: &str| !world.must(&["images", "-q", image]).is_empty();
        let here = there(&image);
        let (args, subject, wanted): (Vec<&str>, &str, bool) = match random.below(9) {
            0 => (vec!["load", "-q", "-i", &saved], &first, true),
            1 => (vec!["rmi", &image], &image, false),
            2 => (vec!["image", "prune", "-af"], &image, false),
            // A repair that is interrupted is one more fault, and must not make others.
            3 => (vec!["system", "fsck", "--repair"], &image, here),
            _ => (vec!["pull", "-q", &image], &image, true),
        };
        let done = std::thread::scope(|scope| {
            let command = scope.spawn(|| world.havre(&args));
            world.pause(Duration::from_micros(random.below(longest)));
            world.kill_daemon();
            let answer = command.join().unwrap();
            world.start_daemon();
            answer.code == Some(0)
        });
        if done {
            acknowledged += 1;
            assert_eq!(there(subject), wanted, "{args:?} was acknowledged");
        }
        if there(subject) {
            check(world, subject);
        }
        if turn % 20 == 19 {
            world.must(&["system", "fsck"]);
        }
    }
    println!("{acknowledged} of {KILLS} were acknowledged");
    for number in 0..IMAGES {
        // It can be had in the end, whatever was left of it.
        world.must(&["pull", "-q", &name(&registry, number)]);
        check(world, &name(&registry, number));
        world.must(&["rmi", &name(&registry, number)]);
    }
    world.must(&["image", "prune", "-af"]);
    world.must(&["system", "fsck"]);
    world.must(&["load", "-q", "-i", world.image().to_str().unwrap()]);
    world.settle(&|census| *census == crate::world::Census::default());
    world.kill_daemon();
    world.start_daemon();
    world.await_stored(&before);
}

pub(crate) fn resumed_pull(world: &Arc<World>) {
    begin(world);
    let registry = FakeRegistry::start().unwrap();
    let content = Layer::new().file("large", 0o644, &noise(7, 600_000)).unwrap().finish().unwrap();
    let (blob, length) = (digest(&content), content.len());
    let image = RemoteImage::new().layer(&shell().unwrap()).unwrap().plain(content.clone());
    image.put(&registry, "resumed", "1").unwrap();
    let name = format!("{}/resumed:1", registry.host());
    let is_it = format!("/blobs/{blob}");
    let asked_for = is_it.clone();
    // Half of it comes at once, the rest never.
    registry.lie(move |asked| {
        let drip = Some((length / 2, Duration::from_millis(500)));
        let body = Reply { drip, announced: Some(length as u64), ..Reply::body(200, &content[..length / 2]) };
        asked.path.ends_with(&asked_for).then_some(body)
    });
    let partial = format!("data/content/partial/{}", blob.trim_start_matches("sha256:"));
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| world.havre(&["pull", "-q", &name]));
        let end = Instant::now() + Duration::from_secs(30);
        while world.length(&partial) < length as u64 / 2 {
            assert!(Instant::now() < end, "nothing is kept");
            world.pause(Duration::from_millis(10));
        }
        world.kill_daemon();
        assert_ne!(pull.join().unwrap().code, Some(0));
    });
    world.start_daemon();
    assert_eq!(world.length(&partial), length as u64 / 2, "a start keeps what has come");
    registry.lie(|_| None);
    drop(registry.asked());
    world.must(&["pull", "-q", &name]);
    let asked = registry.asked();
    let ranges: Vec<&str> = asked
        .iter()
        .filter(|asked| asked.path.ends_with(&is_it))
        .map(|asked| asked.header("range"))
        .collect();
    assert_eq!(ranges, [format!("bytes={}-{}", length / 2, length - 1)]);
    let count = ["run", "--rm", "--network", "none", &name, "sh", "-c", "cat large | wc -c"];
    assert_eq!(world.must(&count), "600000\n");
    assert_eq!(world.length(&partial), 0, "what was kept is gone");
    world.must(&["rmi", &name]);
}
