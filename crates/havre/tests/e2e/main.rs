//! End to end: one private daemon, and the same expectations through `havre` and through the official
//! `docker` client; what is the engine's alone runs once.
//!
//! Not the standard harness, because every test runs once for each client and the daemon must be ended
//! afterwards. Arguments are substrings of test names. What cannot run says `SKIP` and why.
//! `HAVRE_E2E_HOST=unix:///...` takes a daemon that runs already, to compare expectations with another
//! engine; `HAVRE_E2E_DRIVER` chooses the storage driver of the one that is started.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

mod api;
mod asking;
mod cases;
mod configured;
mod confinement;
mod connect;
mod debian;
mod drivers;
mod effects;
mod endings;
mod equal;
mod explain;
mod external;
mod files;
mod files_hostile;
mod firewall;
mod flags;
mod fsck;
mod hostile;
mod images;
mod limits;
mod live;
mod manifest;
mod names;
mod networks;
mod plugins;
mod private;
mod rates;
mod reach;
mod registries;
mod registry;
mod registry_hostile;
mod registry_keys;
mod run;
mod scenarios;
mod servers;
mod silent;
mod teach;
mod terminal;
mod vlans;
mod why;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use world::{Client, World};

/// A test by name.
type Test = (&'static str, fn(&World, &Client));

/// What every client is held to.
fn through_every_client() -> impl Iterator<Item = &'static Test> {
    cases::ALL
        .iter()
        .chain(images::ALL)
        .chain(files::ALL)
        .chain(flags::ALL)
        .chain(effects::ALL)
        .chain(live::ALL)
        .chain(external::ALL)
        .chain(debian::ALL)
        .chain(reach::ALL)
        .chain(run::ALL)
        .chain(configured::ALL)
        .chain(registry::ALL)
        .chain(registry_keys::ALL)
        .chain(manifest::ALL)
        .chain(networks::ALL)
        .chain(names::ALL)
        .chain(scenarios::ALL)
        .chain(connect::ALL)
        .chain(firewall::ALL)
        .chain(vlans::ALL)
        .chain(plugins::ALL)
}

/// What is the engine's alone, so that one client is enough.
fn through_one_client() -> impl Iterator<Item = &'static Test> {
    limits::ALL
        .iter()
        .chain(live::API)
        .chain(confinement::ALL)
        .chain(hostile::ALL)
        .chain(files_hostile::ALL)
        .chain(reach::ALONE)
        .chain(run::ALONE)
        .chain(why::ALL)
        .chain(silent::ALL)
        .chain(endings::ALL)
        .chain(teach::ALL)
        .chain(equal::ALL)
        .chain(registry::ALONE)
        .chain(registry_keys::ALONE)
        .chain(manifest::ALONE)
        .chain(registry_hostile::ALL)
        .chain(fsck::ALL)
        .chain(servers::ALL)
        .chain(drivers::ALL)
        .chain(rates::ALL)
        .chain(explain::ALL)
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in through_every_client().chain(through_one_client()) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let world = match World::open() {
        Ok(world) => world,
        Err(reason) => {
            println!("SKIP e2e: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let mut failed = Vec::new();
    let mut passed = 0;
    for (index, client) in world.clients().iter().enumerate() {
        let alone: &mut dyn Iterator<Item = &Test> =
            if index == 0 { &mut through_one_client() } else { &mut std::iter::empty() };
        for (name, test) in through_every_client().chain(alone) {
            let name = format!("{} {name}", client.name);
            if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
                continue;
            }
            let start = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| test(&world, client))) {
                Ok(()) => {
                    passed += 1;
                    println!("test {name} ... ok ({} ms)", start.elapsed().as_millis());
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name);
                }
            }
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if !failed.is_empty() {
        world.print_log();
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
