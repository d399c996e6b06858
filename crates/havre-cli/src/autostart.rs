//! Starting a daemon when none listens at the default socket.
//!
//! The child is our own binary in role `daemon`. It inherits a pipe as standard output and writes one
//! line there: `ready` once it listens, or why it cannot. Its log goes to a file. A lock makes several
//! commands that start at once agree on one daemon.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use havre_client::Endpoint;
use rustix::fs::{FlockOperation, flock};

use crate::config::exec_root;
use crate::output::complain;

/// Tells the daemon that it was started in the background and owes a line on standard output.
const AUTOSTARTED: &str = "HAVRE_AUTOSTARTED";

/// Whether a daemon may be started: not under Docker's name, whose socket is not ours.
pub(crate) fn allowed(program: &str) -> bool {
    program == "havre" && std::env::var_os("HAVRE_AUTOSTART").is_none_or(|value| value != "0")
}

/// Starts a daemon and returns once it listens.
pub(crate) fn start(endpoint: &Endpoint) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "No engine listens at {endpoint}, and starting one needs root.\n\
             Run this command as root, or start the engine first: sudo havre daemon"
        ));
    }
    let folder = exec_root();
    let failed =
        |what: &Path, error: std::io::Error| format!("cannot start the engine: {}: {error}", what.display());
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    let lock_path = folder.join("autostart.lock");
    let lock = open(&lock_path).map_err(|error| failed(&lock_path, error))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(&lock_path, error.into()))?;
    if let Endpoint::Unix(path) = endpoint {
        // Somebody else started it while the lock was awaited.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Ok(());
        }
    }
    let (log_path, log) =
        log_file().map_err(|error| format!("cannot start the engine: no log file: {error}"))?;
    complain("No engine is running; starting one in the background.");
    let mut child = Command::new("/proc/self/exe")
        .arg("daemon")
        .env(AUTOSTARTED, "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot start the engine: {error}"))?;
    let Some(stdout) = child.stdout.take() else { return Err("cannot start the engine: no pipe".into()) };
    let mut reader = BufReader::new(stdout);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| format!("cannot start the engine: {error}"))?;
    if line.trim_end() == "ready" {
        return Ok(());
    }
    let mut rest = String::new();
    reader.take(16 * 1024).read_to_string(&mut rest).ok();
    let said = format!("{line}{rest}");
    let reason = if said.trim().is_empty() { "it ended without a word" } else { said.trim() };
    Err(format!("cannot start the engine: {reason}\nIts log is {}", log_path.display()))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// `/var/log/havre/daemon.log`, or beside a private data root.
fn log_file() -> std::io::Result<(PathBuf, File)> {
    let folder = match std::env::var_os("HAVRE_DATA_ROOT") {
        Some(root) if !root.is_empty() => PathBuf::from(root),
        _ => PathBuf::from("/var/log/havre"),
    };
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("daemon.log");
    let file = open(&path)?;
    Ok((path, file))
}
