//! Faults: the daemon is killed at random points of container lifecycles and must lose nothing that it
//! acknowledged and leave nothing behind.
//!
//! Workers create, start, exec in, stop and remove containers through `havre`; meanwhile the daemon is
//! killed with SIGKILL and started again, over and over. Each worker remembers what was acknowledged.
//! At the end the engine's answers, processes, control groups and folders are compared with that.
//!
//! `HAVRE_FAULT_SEED` replays a sequence, `HAVRE_FAULT_OPERATIONS` changes its length.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use world::{Random, World};

const WORKERS: usize = 3;
const OPERATIONS: usize = 500;

/// What a worker knows of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Acknowledged: it exists and does not run.
    Resting,
    /// Acknowledged: it runs.
    Running,
    /// Acknowledged: it is gone.
    Gone,
    /// The daemon died before it answered.
    Unsure,
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        println!("the_daemon_is_killed_at_random_points: test");
        return ExitCode::SUCCESS;
    }
    let world = match World::open() {
        Ok(world) => Arc::new(world),
        Err(reason) => {
            println!("SKIP faults: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HAVRE_FAULT_SEED").unwrap_or_else(world::seed);
    let operations =
        number("HAVRE_FAULT_OPERATIONS").and_then(|n| usize::try_from(n).ok()).unwrap_or(OPERATIONS);
    println!("seed {seed}, {operations} operations");
    let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&world, seed, operations)));
    world.end();
    match verdict {
        Ok(kills) => {
            println!("test the_daemon_is_killed_at_random_points ... ok ({kills} kills)");
            println!("\ntest result: ok. 1 passed; 0 failed");
            ExitCode::SUCCESS
        }
        Err(_) => {
            world.print_log();
            println!("test the_daemon_is_killed_at_random_points ... FAILED (seed {seed})");
            println!("\ntest result: FAILED. 0 passed; 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run(world: &Arc<World>, seed: u64, operations: usize) -> usize {
    world.start_daemon();
    world.must(&["load", "-i", world.image().to_str().unwrap()]);
    let done = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let (world, done) = (Arc::clone(world), Arc::clone(&done));
            let mut random = Random::new(seed.wrapping_add(number as u64 + 1));
            std::thread::spawn(move || {
                let mut known = BTreeMap::new();
                while done.load(Ordering::Relaxed) < operations {
                    if operate(&world, number, &mut known, &mut random) {
                        done.fetch_add(1, Ordering::Relaxed);
                    } else {
                        world.await_daemon();
                    }
                }
                known
            })
        })
        .collect();
    let mut random = Random::new(seed);
    let mut kills = 0;
    while done.load(Ordering::Relaxed) < operations {
        // Longer than a start takes, so that operations do happen; never in step with them.
        world.pause(Duration::from_micros(5_000 + random.below(120_000)));
        world.kill_daemon();
        kills += 1;
        world.start_daemon();
    }
    let mut known = BTreeMap::new();
    for worker in workers {
        known.extend(worker.join().expect("a worker failed"));
    }
    verify(world, &known);
    clean_up(world, &known);
    kills
}

/// One operation on one container, chosen by what is known of it. False when no daemon took it.
fn operate(world: &World, worker: usize, known: &mut BTreeMap<String, Known>, random: &mut Random) -> bool {
    let name = format!("w{worker}-{}", random.below(5));
    let state = known.get(&name).copied().unwrap_or(Known::Gone);
    let forever = "while true; do echo tick; sleep 1; done";
    let (answer, then) = match (state, random.below(6)) {
        (Known::Gone, 0) => {
            let ran =
                world.havre(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo x; exit 7"]);
            // What comes through is complete: a code that was told is the right one.
            assert!(ran.code != Some(0), "run --rm told a wrong exit code: {ran:?}");
            return !ran.was_refused();
        }
        (Known::Gone, 1) => (
            world.havre(&["create", "--name", &name, "--network", "none", "busybox", "sh", "-c", forever]),
            Known::Resting,
        ),
        (Known::Gone, _) => (
            world.havre(&["run", "-d", "--name", &name, "--network", "none", "busybox", "sh", "-c", forever]),
            Known::Running,
        ),
        (Known::Resting, 0 | 1) => (world.havre(&["rm", &name]), Known::Gone),
        (Known::Resting, _) => (world.havre(&["start", &name]), Known::Running),
        (Known::Running, 0 | 1) => {
            let exec = world.havre(&["exec", &name, "sh", "-c", "echo out; exit 5"]);
            if exec.code == Some(5) {
                assert_eq!(exec.stdout, "out\n", "an exec that ended well lost its output");
            }
            return !exec.was_refused();
        }
        (Known::Running, 2) => (world.havre(&["rm", "-f", &name]), Known::Gone),
        (Known::Running, 3) => (world.havre(&["kill", &name]), Known::Resting),
        (Known::Running, _) => (world.havre(&["stop", "-t", "0", &name]), Known::Resting),
        (Known::Unsure, _) => (world.havre(&["rm", "-f", &name]), Known::Gone),
    };
    if answer.was_refused() {
        return false;
    }
    known.insert(name, if answer.code == Some(0) { then } else { Known::Unsure });
    true
}

/// Compares the engine's and the machine's state with what was acknowledged.
fn verify(world: &World, known: &BTreeMap<String, Known>) {
    let listed: BTreeMap<String, String> = world
        .must(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect();
    for (name, state) in known {
        let seen = listed.get(name).map(String::as_str);
        match state {
            Known::Running => assert_eq!(seen, Some("running"), "{name} was acknowledged as running"),
            Known::Resting => {
                assert!(
                    matches!(seen, Some("created" | "exited")),
                    "{name} was acknowledged as resting: {seen:?}"
                );
            }
            Known::Gone => assert_eq!(seen, None, "{name} was acknowledged as removed"),
            Known::Unsure => {}
        }
    }
    let running: Vec<&String> =
        listed.iter().filter(|(_, state)| *state == "running").map(|(name, _)| name).collect();
    for name in &running {
        let alive = world.havre(&["exec", name, "true"]);
        assert_eq!(alive.code, Some(0), "{name} is said to run: {alive:?}");
        assert!(world.must(&["logs", name]).contains("tick"), "{name} has no log");
    }
    world.settle(&|census| {
        census.shims == running.len()
            && census.groups == running.len()
            && census.run_folders == running.len()
            && census.data_folders <= listed.len()
            && census.mounts == 0
    });
}

/// After everything is removed, nothing is left.
fn clean_up(world: &World, known: &BTreeMap<String, Known>) {
    let began = Instant::now();
    for name in world.must(&["ps", "-aq"]).lines() {
        world.must(&["rm", "-f", name]);
    }
    println!("{} containers, removed in {:?}", known.len(), began.elapsed());
    world.settle(&|census| *census == world::Census::default());
}
