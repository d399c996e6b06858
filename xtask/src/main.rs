//! The one door to every chore: `cargo xtask <chore>`.
//!
//! Invariant: what the gate runs is what a person runs; a chore that cannot do its work says so and fails.

#![expect(clippy::print_stdout, reason = "chores speak to the terminal")]

mod attacks;
mod bench;
mod check;
mod coverage;
mod engine;
mod layers;
mod process;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <chore>

  check                 format, lints, layers, attacks, documentation
  test [ARGS]           install what the tests need, check, build, run all tests, list what was skipped
  layers                which crate may use which
  attacks               which rows of the list of attacks hold, which wait, and for what
  bench [--quick] [NAMES]  beside Docker of the distribution, as ratios (root)
  coverage              of Docker's API and command line (root)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("check") => check::run(),
        Some("test") => test::run(rest),
        Some("layers") => layers::run(),
        Some("attacks") => attacks::run(),
        Some("bench") => bench::run(rest),
        // Run by `bench` where a container is.
        Some(bench::names::ASK) => {
            bench::names::ask(rest.first().map_or("", String::as_str)).map(|rate| println!("{rate}"))
        }
        Some("coverage") => coverage::run(),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(anyhow::anyhow!("no chore is called {other:?}\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
