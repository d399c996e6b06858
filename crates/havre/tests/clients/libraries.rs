//! docker-py and dockerode: programs in their languages, run once for each API version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Test;
use crate::raw::port;
use crate::world::World;

pub(crate) const ALL: &[Test] = &[
    ("docker-py lives a container's life in API versions old and new", docker_py),
    ("dockerode lives a container's life in API versions old and new", dockerode),
];

/// The oldest, each side of what changed most, and the newest.
const VERSIONS: [&str; 7] = ["1.24", "1.29", "1.39", "1.41", "1.43", "1.51", "1.56"];

/// Where `cargo xtask test` puts the libraries.
pub(crate) fn installed(what: &str) -> Option<PathBuf> {
    // The folder for temporary files is somewhere below the target folder.
    let above = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().take(4);
    if let Some(path) = above.map(|folder| folder.join("clients").join(what)).find(|path| path.exists()) {
        return Some(path);
    }
    println!("SKIP {what}: not installed; `cargo xtask test` installs it");
    None
}

/// The Python with the libraries.
pub(crate) fn python() -> Option<PathBuf> {
    installed("python/bin/python3")
}

pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a program that says where it is, and shows that when it fails.
pub(crate) fn succeeds(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program that cannot hang.
pub(crate) fn bounded(program: &Path, seconds: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", "5", seconds]).arg(program);
    command
}

fn docker_py(world: &World) {
    let Some(python) = python() else { return };
    let host = format!("unix://{}", world.socket());
    let tcp = format!("tcp://{}", port(world));
    for version in VERSIONS {
        let mut command = bounded(&python, "120");
        let label = format!("py-v{}", version.replace('.', "-"));
        command.arg(source("docker_py.py")).args([&host, &tcp, version, "e2e/busybox", &label]);
        succeeds(command);
    }
}

fn dockerode(world: &World) {
    let Some(modules) = installed("node") else { return };
    for version in VERSIONS {
        let mut command = bounded(Path::new("node"), "120");
        let label = format!("node-v{}", version.replace('.', "-"));
        command.arg(source("dockerode.mjs"));
        command.args([world.socket(), &format!("v{version}"), "e2e/busybox", &label]).arg(&modules);
        succeeds(command);
    }
}
