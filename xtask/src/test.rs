//! All tests: what they need is installed, what was skipped is listed, the last line counts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;

/// A file or program, and the package that has it.
const NEEDS: &[(&str, &[&str])] = &[
    ("busybox", &["busybox-static"]),
    ("debootstrap", &["debootstrap"]),
    // The official client, by whichever name this release has it alone.
    ("docker", &["docker-cli", "docker.io"]),
    ("cc", &["gcc", "libc6-dev"]),
    // The machine with another kernel.
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    // The external runtime that the end-to-end tests drive.
    ("runc", &["runc"]),
    // A peer that drives our runtime.
    ("podman", &["podman"]),
    // Registries of the tests, the passwords and tokens of those that ask for them, and who else copies images.
    ("docker-registry", &["docker-registry"]),
    ("htpasswd", &["apache2-utils"]),
    ("openssl", &["openssl"]),
    ("skopeo", &["skopeo"]),
    ("tar", &["tar"]),
    // Who shows our packet filters and links in words.
    ("nft", &["nftables"]),
    ("ip", &["iproute2"]),
    // What makes layers that are mounted from files.
    ("mkfs.erofs", &["erofs-utils"]),
    // The languages of other client libraries.
    ("python3", &["python3", "python3-venv"]),
    ("node", &["nodejs"]),
    ("npm", &["npm"]),
    // The shells that run our completion scripts.
    ("zsh", &["zsh"]),
    ("fish", &["fish"]),
];

/// Where the client libraries of other languages are, below the target folder.
const CLIENTS: &str = "target/clients";
/// What they are.
const SOURCES: &str = "crates/havre/tests/clients";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    install()?;
    install_clients();
    // The whole is what the gate runs; a selection is for a person at work.
    if arguments.is_empty() {
        crate::check::run()?;
    }
    process::run(process::cargo().args(["build", "--locked", "--package", "havre"]))?;
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(arguments);
    if !arguments.iter().any(|word| word == "--") {
        cargo.arg("--");
    }
    // What passing tests print is how they say that they were skipped.
    cargo.arg("--show-output").stdout(Stdio::piped());
    println!("$ cargo test --workspace");
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if tally.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    remove_empty_groups();
    for skip in &tally.skips {
        println!("SKIP {skip}");
    }
    for failure in &tally.failures {
        println!("FAILED {failure}");
    }
    let skipped = u64::try_from(tally.skips.len()).unwrap_or(0);
    let passed = tally.passed.saturating_sub(skipped);
    // Harnesses of our own may name a failure without Cargo's summary.
    let failed = tally.failed.max(u64::try_from(tally.failures.len()).unwrap_or(u64::MAX));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if !status.success() || tally.failed > 0 {
        bail!("some tests failed");
    }
    Ok(())
}

/// Engines remove their own groups; the one above them, which they share, goes when nobody is left.
fn remove_empty_groups() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    for root in roots {
        // Absent, or still in use by an engine that is not ours to end.
        std::fs::remove_dir(root.join("havre")).unwrap_or(());
    }
}

/// What the tests' output says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skips: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    /// Takes a line in, and says whether it is worth showing.
    fn line(&mut self, line: &str) -> bool {
        if let Some(skip) = line.strip_prefix("SKIP ") {
            self.skips.push(skip.to_owned());
            return false;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            let number = |word: &str| -> u64 {
                let before = counts.split(word).next().unwrap_or_default();
                before.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0)
            };
            self.passed += number(" passed;");
            self.failed += number(" failed;");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        !(line.is_empty() || line == "running 0 tests" || line.ends_with(" ... ok") || line == "successes:")
    }
}

/// Installs missing packages, if that is possible; tests without them are skipped.
fn install() -> Result<()> {
    let missing: Vec<_> = NEEDS.iter().filter(|(program, _)| process::find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    if !process::is_root() || process::find("apt-get").is_none() {
        println!(
            "test: {} missing and not installable here; tests that need them are skipped",
            names.join(", ")
        );
        return Ok(());
    }
    println!("test: {} missing; installing from the distribution", names.join(", "));
    process::run(apt().arg("update"))?;
    for (program, packages) in missing {
        // The first package that there is; those after it are for other releases.
        let one = *program == "docker";
        let installed = if one {
            packages.iter().any(|package| process::run(apt().args(["install", package])).is_ok())
        } else {
            process::run(apt().arg("install").args(*packages)).is_ok()
        };
        if !installed {
            println!("test: cannot install {program}; tests that need it are skipped");
        }
    }
    Ok(())
}

/// Installs client libraries of other languages, unless those wanted are there; tests without them are
/// skipped.
fn install_clients() {
    for (list, into, how) in [
        ("requirements.txt", "python", python as fn(&Path, &Path) -> Result<()>),
        ("package.json", "node", node),
    ] {
        let (list, into) =
            (process::root().join(SOURCES).join(list), process::root().join(CLIENTS).join(into));
        // The list is copied in last: an installation that was cut short is made again.
        let stamp = into.join("installed");
        if std::fs::read(&stamp).ok() == std::fs::read(&list).ok() {
            continue;
        }
        let installed = how(&list, &into).and_then(|()| Ok(std::fs::copy(&list, &stamp).map(drop)?));
        if let Err(error) = installed {
            println!("test: cannot install the libraries of {}: {error:#}", list.display());
        }
    }
}

fn python(list: &Path, into: &Path) -> Result<()> {
    // Debian has the part that makes environments in a package of its own.
    let whole = process::output(Command::new("python3").args(["-c", "import ensurepip"])).is_ok();
    if !whole && process::is_root() && process::find("apt-get").is_some() {
        process::run(apt().args(["install", "python3-venv"]))?;
    }
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(into))?;
    let pip = into.join("bin/pip");
    process::run(
        Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(list),
    )
}

fn node(list: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    std::fs::copy(list, into.join("package.json"))?;
    process::run(
        Command::new("npm").args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]).arg(into),
    )
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--yes", "--quiet", "--no-install-recommends"]);
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_counts_passed_failed_and_skipped() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b ... FAILED",
            "SKIP c: needs root",
            "test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.line(line);
        }
        let expected =
            Tally { passed: 12, failed: 1, skips: vec!["c: needs root".into()], failures: vec!["b".into()] };
        assert_eq!(tally, expected);
    }
}
