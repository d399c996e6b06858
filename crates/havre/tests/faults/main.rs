//! Faults: the daemon is killed at random points of container lifecycles and must lose nothing that it
//! acknowledged and leave nothing behind.
//!
//! Workers create, start, exec in, stop and remove containers through `havre`; meanwhile the daemon is
//! killed with SIGKILL and started again, over and over. Each worker remembers what was acknowledged.
//! At the end the engine's answers, processes, control groups and folders are compared with that.
//!
//! `HAVRE_FAULT_SEED` replays a sequence, `HAVRE_FAULT_OPERATIONS` changes its length, `HAVRE_FAULT_DRIVER` chooses the
//! storage driver.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

mod networks;
mod pulls;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
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

/// A test by name.
type Test = (&'static str, fn(&Arc<World>));

const ALL: &[Test] = &[
    ("the_daemon_is_killed_at_random_points", random_points),
    ("x02_a_killed_supervisor_ends_its_container_and_leaves_nothing", killed_supervisor),
    ("x02_a_supervisor_killed_while_the_daemon_is_away_is_noticed", killed_both),
    ("x02_a_stopped_supervisor_holds_up_nobody_else", stopped_supervisor),
    ("a_lost_machine_keeps_what_was_acknowledged_and_applies_restart_policies", lost_machine),
    ("a_commit_in_which_the_daemon_is_killed_is_whole_or_absent", killed_commit),
    ("a_copy_in_which_the_daemon_is_killed_leaves_a_container_that_works", killed_copy),
    ("pulls_loads_and_removals_in_which_the_daemon_is_killed_are_whole_or_absent", pulls::killed_pulls),
    ("a_pull_in_which_the_daemon_is_killed_goes_on_where_it_broke_off", pulls::resumed_pull),
    (
        "networks_in_which_the_daemon_is_killed_are_whole_and_containers_stay_connected",
        networks::killed_networks,
    ),
    ("a_second_engine_on_the_same_data_root_is_refused", second_engine),
    ("a_corrupt_database_is_refused_by_name", corrupt_database),
    ("r21_folders_are_closed_to_others_and_repaired_at_start", r21_private_folders),
    ("r20_no_abstract_socket_is_left_open_to_host_networks", r20_no_abstract_socket),
];

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let world = match World::open() {
            Ok(world) => Arc::new(world),
            Err(reason) => {
                println!("SKIP {name}: {reason}");
                continue;
            }
        };
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&world)));
        if verdict.is_ok() {
            passed += 1;
            println!("test {name} ... ok");
        } else {
            failed += 1;
            world.print_log();
            println!("test {name} ... FAILED");
        }
        world.end();
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A world with a daemon and an image.
fn begin(world: &World) {
    world.start_daemon();
    world.must(&["load", "-i", world.image().to_str().unwrap()]);
}

const FOREVER: &str = "while true; do echo tick; sleep 1; done";

fn run_detached(world: &World, name: &str, more: &[&str]) {
    let first = ["run", "-d", "--name", name, "--network", "none"];
    world.must(&[&first[..], more, &["busybox", "sh", "-c", FOREVER]].concat());
}

fn state(world: &World, name: &str) -> String {
    world.must(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]).trim().to_owned()
}

fn killed_supervisor(world: &Arc<World>) {
    begin(world);
    run_detached(world, "one", &[]);
    run_detached(world, "again", &["--restart", "always"]);
    world.kill_shims();
    assert_eq!(world.must(&["wait", "one"]).trim(), "137");
    assert_eq!(state(world, "one"), "exited 137");
    world.await_state("again", "running");
    world.must(&["rm", "-f", "one", "again"]);
    world.settle(&|census| *census == world::Census::default());
}

fn killed_both(world: &Arc<World>) {
    begin(world);
    run_detached(world, "one", &[]);
    world.kill_daemon();
    world.kill_shims();
    world.start_daemon();
    assert_eq!(state(world, "one"), "exited 255");
    world.settle(&|census| census.shims == 0 && census.groups == 0 && census.run_folders == 0);
    world.must(&["start", "one"]);
    assert_eq!(state(world, "one"), "running 0");
}

fn stopped_supervisor(world: &Arc<World>) {
    begin(world);
    run_detached(world, "stopped", &[]);
    world.signal_shims(Signal::STOP);
    run_detached(world, "other", &[]);
    // Whoever wants something of it is answered in bounded time.
    let refused = world.havre(&["stop", "-t", "0", "stopped"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("did not receive an exit event"),
        "{refused:?}"
    );
    assert_eq!(state(world, "stopped"), "running 0");
    // So is the next daemon, which takes what was recorded.
    world.kill_daemon();
    world.start_daemon();
    assert_eq!((state(world, "stopped"), state(world, "other")), ("running 0".into(), "running 0".into()));
    world.must(&["exec", "other", "true"]);
    world.signal_shims(Signal::CONT);
    // What was asked of it meanwhile it does now.
    assert_eq!(world.must(&["wait", "stopped"]).trim(), "137");
    world.must(&["rm", "-f", "stopped", "other"]);
    world.settle(&|census| *census == world::Census::default());
}

fn lost_machine(world: &Arc<World>) {
    begin(world);
    run_detached(world, "plain", &[]);
    run_detached(world, "always", &["--restart", "always"]);
    run_detached(world, "stopped", &["--restart", "unless-stopped"]);
    run_detached(world, "gone", &["--rm"]);
    world.must(&["stop", "-t", "0", "stopped"]);
    world.lose_machine();
    world.start_daemon();
    assert_eq!(state(world, "plain"), "exited 255");
    world.await_state("always", "running");
    assert!(state(world, "stopped").starts_with("exited"));
    assert_eq!(world.must(&["ps", "-aq", "--filter", "name=gone"]), "", "--rm is kept through a restart");
    assert!(world.must(&["logs", "plain"]).contains("tick"), "the log survives");
    world.must(&["rm", "-f", "plain", "always", "stopped"]);
    world.settle(&|census| *census == world::Census::default());
}

/// Kills the daemon while a command goes on, at a random moment; whether the command was acknowledged.
fn kill_during(world: &Arc<World>, random: &mut Random, longest: Duration, args: &[&str]) -> bool {
    let longest = u64::try_from(longest.as_micros()).unwrap();
    std::thread::scope(|scope| {
        let command = scope.spawn(|| world.havre(args));
        world.pause(Duration::from_micros(random.below(longest)));
        world.kill_daemon();
        let answer = command.join().unwrap();
        world.start_daemon();
        answer.code == Some(0)
    })
}

fn seeded() -> Random {
    let given = std::env::var("HAVRE_FAULT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(world::seed);
    println!("seed {seed}");
    Random::new(seed)
}

/// How often a long operation is interrupted.
const INTERRUPTIONS: usize = 12;

fn killed_commit(world: &Arc<World>) {
    begin(world);
    let mut random = seeded();
    let before = world.stored();
    run_detached(world, "one", &[]);
    world.must(&["exec", "one", "sh", "-c", "head -c 40000000 /dev/urandom >/large; mkdir /d; >/d/file"]);
    let began = Instant::now();
    world.must(&["commit", "one", "made:whole"]);
    let longest = began.elapsed() * 5 / 4;
    let mut whole = 0;
    for round in 0..INTERRUPTIONS {
        let name = format!("made:{round}");
        let done = kill_during(world, &mut random, longest, &["commit", "one", &name]);
        let there = !world.must(&["images", "-q", &name]).is_empty();
        assert!(there || !done, "{name} was acknowledged and is not there");
        if there {
            // Of an image that is there everything is there.
            let list = ["run", "--rm", "--network", "none", &name, "sh", "-c", "wc -c </large; ls /d"];
            assert_eq!(world.must(&list), "40000000\nfile\n");
            world.must(&["rmi", &name]);
            whole += 1;
        }
    }
    println!("{whole} of {INTERRUPTIONS} commits were whole");
    world.must(&["rm", "-f", "one"]);
    world.must(&["rmi", "made:whole"]);
    world.settle(&|census| *census == world::Census::default());
    // A start is what cleans up; after one nothing is there that was not before.
    world.kill_daemon();
    world.start_daemon();
    assert_eq!(world.stored(), before);
}

fn killed_copy(world: &Arc<World>) {
    begin(world);
    let mut random = seeded();
    let tree = world.tree(2_000);
    let tree = tree.to_str().unwrap();
    run_detached(world, "runs", &[]);
    world.must(&["create", "--name", "rests", "--network", "none", "busybox", "true"]);
    let began = Instant::now();
    world.must(&["cp", tree, "rests:/whole"]);
    let longest = began.elapsed() * 5 / 4;
    for round in 0..INTERRUPTIONS {
        let name = if round % 2 == 0 { "runs" } else { "rests" };
        let target = format!("{name}:/in{round}");
        let done = kill_during(world, &mut random, longest, &["cp", tree, &target]);
        if done && name == "runs" {
            let count = format!("ls /in{round} | wc -l");
            assert_eq!(world.must(&["exec", "runs", "sh", "-c", &count]), "2000\n");
        }
        // The container takes the next copy, and no mount of the last one is left.
        world.must(&["cp", "-q", tree, &target]);
        world.settle(&|census| census.mounts == 0);
    }
    world.must(&["start", "-a", "rests"]);
    world.must(&["rm", "-f", "runs", "rests"]);
    world.settle(&|census| *census == world::Census::default());
}

fn second_engine(world: &Arc<World>) {
    begin(world);
    let said = world.daemon_refuses();
    assert!(said.contains("another engine uses the data root"), "{said}");
    world.must(&["version"]);
}

fn corrupt_database(world: &Arc<World>) {
    begin(world);
    world.kill_daemon();
    world.corrupt_database();
    let said = world.daemon_refuses();
    assert!(said.contains("state.db"), "the message does not name the file: {said}");
}

fn r21_private_folders(world: &Arc<World>) {
    begin(world);
    run_detached(world, "one", &[]);
    let folders =
        [("data", 0o710), ("data/containers", 0o700), ("data/snapshots", 0o700), ("data/content", 0o700)];
    world.kill_daemon();
    for (name, _) in folders {
        world.set_mode(name, 0o777);
    }
    world.start_daemon();
    for (name, mode) in folders {
        assert_eq!(world.mode(name), mode, "{name}");
    }
    assert_eq!(world.mode("data/state.db"), 0o600);
    assert_eq!(world.mode("run/containers"), 0o700);
    assert_eq!(world.mode("run/havre.sock"), 0o660);
}

fn r20_no_abstract_socket(world: &Arc<World>) {
    begin(world);
    run_detached(world, "one", &[]);
    let seen = world.must(&["run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix"]);
    let abstracts: Vec<&str> =
        seen.lines().filter(|line| line.contains(" @") && line.contains("havre")).collect();
    assert!(seen.contains("havre.sock"), "the host's sockets are not seen at all");
    assert_eq!(abstracts, Vec::<&str>::new());
}

fn random_points(world: &Arc<World>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HAVRE_FAULT_SEED").unwrap_or_else(world::seed);
    let operations =
        number("HAVRE_FAULT_OPERATIONS").and_then(|n| usize::try_from(n).ok()).unwrap_or(OPERATIONS);
    println!("seed {seed}, {operations} operations");
    begin(world);
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
    println!("{kills} kills");
    verify(world, &known);
    clean_up(world, &known);
}

/// One operation on one container, chosen by what is known of it. False when no daemon took it.
fn operate(world: &World, worker: usize, known: &mut BTreeMap<String, Known>, random: &mut Random) -> bool {
    let name = format!("w{worker}-{}", random.below(5));
    let state = known.get(&name).copied().unwrap_or(Known::Gone);
    let (answer, then) = match (state, random.below(6)) {
        (Known::Gone, 0) => {
            let ran =
                world.havre(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo x; exit 7"]);
            // What comes through is complete: a code that was told is the right one.
            assert!(ran.code != Some(0), "run --rm told a wrong exit code: {ran:?}");
            return !ran.was_refused();
        }
        (Known::Gone, 1) => (
            world.havre(&["create", "--name", &name, "--network", "none", "busybox", "sh", "-c", FOREVER]),
            Known::Resting,
        ),
        (Known::Gone, _) => (
            world.havre(&["run", "-d", "--name", &name, "--network", "none", "busybox", "sh", "-c", FOREVER]),
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
