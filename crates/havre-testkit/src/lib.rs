//! What tests and benchmarks share: images made on the spot, and a way to say that a test was skipped.
//!
//! Invariants: nothing is fetched except by the distribution's own package tools; the same input gives the
//! same archive, so image ids are stable within a machine.
//! Not here: the daemon. A test starts its own.

pub mod hostile;
pub mod image;
pub mod plugin;
pub mod registry;

use std::path::PathBuf;

pub use image::{ArchiveBuilder, Entry, Kind, Layer, busybox_archive, debian_archive, layered_archive};

/// Where expensive fixtures are kept between runs: `HAVRE_TEST_CACHE`, or a folder of the build.
#[must_use]
pub fn cache_folder() -> PathBuf {
    std::env::var_os("HAVRE_TEST_CACHE").map_or_else(
        || {
            let build = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            build
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"))
                .join("fixtures")
        },
        PathBuf::from,
    )
}

/// Says that the present test is not run, and why. The test driver lists these lines.
#[expect(clippy::print_stdout, reason = "this is how a test speaks to its driver")]
pub fn skip(why: &str) {
    let thread = std::thread::current();
    println!("SKIP {}: {why}", thread.name().unwrap_or("?"));
}

/// Whether the process is root; says SKIP when it is not.
#[must_use]
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root =
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        skip("needs root");
    }
    root
}

/// Whether layers can be mounted here as they are; says why not.
#[must_use]
pub fn mounts_erofs() -> bool {
    let can = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|folder| {
        let selected = havre_store::Driver::select(folder.path(), Some(havre_store::Driver::Erofs));
        selected.map_err(|error| error.to_string())
    });
    if let Err(why) = &can {
        skip(why);
    }
    can.is_ok()
}
