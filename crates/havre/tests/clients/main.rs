//! Client libraries against one private daemon: docker-py, dockerode and bollard each live a container's whole
//! life, in old API versions too, and go to a registry and back; the API is spoken by hand, badly; and requests are made from its definition.
//!
//! Not the standard harness, because the daemon is shared and must be ended afterwards. Arguments are
//! substrings of test names. What cannot run says `SKIP` and why. The programs' libraries are installed by
//! `cargo xtask test` below the target folder.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

mod hostile;
mod libraries;
mod raw;
#[path = "../e2e/registries.rs"]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod registries;
mod registry;
mod rust;
#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use world::World;

/// A test by name.
type Test = (&'static str, fn(&World));

fn all() -> impl Iterator<Item = &'static Test> {
    libraries::ALL.iter().chain(rust::ALL).chain(registry::ALL).chain(hostile::ALL)
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in all() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let world = match World::open() {
        Ok(world) => world,
        Err(reason) => {
            println!("SKIP clients: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in all() {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let start = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| test(&world))).is_ok() {
            passed += 1;
            println!("test {name} ... ok ({} ms)", start.elapsed().as_millis());
        } else {
            println!("test {name} ... FAILED");
            failed.push(*name);
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    world.print_log();
    ExitCode::FAILURE
}
