//! The binary on a kernel this machine may not have: cgroup v2 alone, AppArmor, eBPF for devices.
//!
//! One emulated machine runs `machine.sh`, whose lines are the results. The emulator's script is not part
//! of the repository: `HAVRE_VMRUN` names it, or it lies beside the repository in `shared/testbed`. What
//! cannot run says `SKIP` and why.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test binary without the standard harness"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Seconds for the whole machine; emulated processors are about ten times slower.
const LIMIT: &str = "300";
/// Where the machine sees the shared folder.
const SHARE: &str = "/scratch/share";
/// Its script ends with this line.
const END: &str = "ok the end is reached";

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        println!("the binary in an emulated machine: test");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if !wanted.is_empty() && !wanted.iter().any(|part| "vm".contains(part.as_str())) {
        return ExitCode::SUCCESS;
    }
    match emulator() {
        Ok(emulator) => machine(&emulator),
        Err(reason) => {
            println!("SKIP vm: {reason}");
            ExitCode::SUCCESS
        }
    }
}

fn emulator() -> Result<PathBuf, String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testbed/vmrun");
    let script = std::env::var_os("HAVRE_VMRUN").map_or(beside, PathBuf::from);
    if !script.exists() {
        return Err(format!("{} does not exist; HAVRE_VMRUN names the emulator's script", script.display()));
    }
    let qemu = std::env::var("VMRUN_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let found = Command::new(&qemu).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return Err(format!("{qemu} is not installed (Debian: qemu-system-x86)"));
    }
    if !cfg!(target_arch = "x86_64") {
        return Err("the emulated machine is an x86-64".into());
    }
    Ok(script)
}

fn machine(emulator: &Path) -> ExitCode {
    let share = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if let Err(error) = havre_testkit::busybox_archive(share.path()) {
        println!("SKIP vm: {error:#}");
        return ExitCode::SUCCESS;
    }
    std::fs::copy(env!("CARGO_BIN_EXE_havre"), share.path().join("havre")).unwrap();
    std::fs::write(share.path().join("machine.sh"), include_str!("machine.sh")).unwrap();
    let start = Instant::now();
    let output = Command::new(emulator)
        .args(["-m", "1536M", "-t", LIMIT, "-s"])
        // At a place of its own: what lies below /tmp here is not there in the machine.
        .arg(format!("{}:{SHARE}", share.path().display()))
        .args(["-w", "/", "--", "sh"])
        .arg(format!("{SHARE}/machine.sh"))
        .arg(SHARE)
        .stdin(Stdio::null())
        .output()
        .expect("the emulator's script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    // 125: there is no machine, for instance because its kernel cannot be fetched.
    if output.status.code() == Some(125) && text.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("SKIP vm: no machine: {}", said.lines().last().unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
    let mut failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAILED ")).collect();
    if !text.lines().any(|line| line == END) {
        failed.push("FAILED the script's end was not reached");
    }
    println!("test vm: {passed} checks in {} s", start.elapsed().as_secs());
    for line in &failed {
        println!("test {} ... FAILED", line.trim_start_matches("FAILED "));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed", failed.len());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("--- the machine said\n{text}{}", String::from_utf8_lossy(&output.stderr));
    ExitCode::FAILURE
}
