//! Containers on the real kernel.
//!
//! They need root. The harness is our own and has one thread, because `launch` copies its process; every test
//! cleans up after itself, and the harness looks whether it did.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests; the harness prints results, and clippy knows no tests but those of its own harness"
)]

mod cgroups;
mod conformance;
mod exec;
mod life;
mod races;
mod roles;
mod security;
mod spies;
mod syscalls;
mod world;

use std::panic::catch_unwind;
use std::process::ExitCode;

type Test = (&'static str, fn());

/// As the first argument it makes this program the runtime's command line.
pub(crate) const OCI_ROLE: &str = "--as-oci-runtime";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    // As the shim does: our own binary is the init of containers that ask for one.
    if arguments.next().is_some_and(|name| name == havre_runtime::init::NAME) {
        return havre_runtime::init::main(arguments);
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == OCI_ROLE) {
        return havre_runtime::oci::main(arguments);
    }
    if let Some(code) = roles::main() {
        return code;
    }
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: the runtime's kernel tests need root");
        return ExitCode::SUCCESS;
    }
    if std::fs::metadata(world::BUSYBOX).is_err() {
        println!("SKIP: the runtime's kernel tests need {} (package busybox-static)", world::BUSYBOX);
        return ExitCode::SUCCESS;
    }
    world::enter_own_view();
    let (mut failed, mut passed) = (Vec::new(), 0);
    let all = [
        life::TESTS,
        security::TESTS,
        races::TESTS,
        spies::TESTS,
        syscalls::TESTS,
        exec::TESTS,
        cgroups::TESTS,
        conformance::TESTS,
    ];
    for (name, test) in all.into_iter().flatten() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let before = world::census();
        let result = catch_unwind(test);
        let after = world::census();
        let clean = before == after;
        println!("test {name} ... {}", if result.is_ok() && clean { "ok" } else { "FAILED" });
        if !clean {
            println!("    left behind: before {before:?}, after {after:?}");
        }
        if result.is_ok() && clean { passed += 1 } else { failed.push(name) }
    }
    println!("{passed} passed, {} failed: {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
