//! End to end: one private daemon, and the same expectations through `havre` and through the official
//! `docker` client.
//!
//! Not the standard harness, because every test runs once for each client and the daemon must be ended
//! afterwards. Arguments are substrings of test names. What cannot run says `SKIP` and why.
//! `HAVRE_E2E_HOST=unix:///...` takes a daemon that runs already, to compare expectations with another
//! engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

mod cases;
mod external;
mod terminal;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use world::{Client, World};

/// A test by name.
type Test = (&'static str, fn(&World, &Client));

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in cases::ALL.iter().chain(external::ALL) {
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
    for client in world.clients() {
        for (name, test) in cases::ALL.iter().chain(external::ALL) {
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
