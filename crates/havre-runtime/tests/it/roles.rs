//! What this program is besides the harness: small programs that run beside or inside the containers.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use rustix::fs::{CWD, RenameFlags};

/// Exchanges two paths until its parent is gone.
pub(crate) const SWAPPER: &str = "--as-swapper";
/// Looks into every process that appears.
pub(crate) const SPY: &str = "--as-spy";
/// Keeps a descriptor of its own executable and lets a shell try to write it.
pub(crate) const GRABBER: &str = "--as-grabber";
/// Tries every system call.
pub(crate) const CALLER: &str = "--as-caller";

/// Runs the role that the first argument names, if it names one.
pub(crate) fn main() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let role = arguments.get(1)?;
    match (role.as_str(), &arguments[2..]) {
        (SWAPPER, [one, other]) => swap(one, other),
        (SPY, _) => super::spies::spy(),
        (GRABBER, _) => grab(),
        (CALLER, _) => super::syscalls::call_all(),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn swap(one: &str, other: &str) {
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        for _ in 0..256 {
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
        }
    }
}

fn grab() {
    let own = std::fs::File::open("/proc/self/exe").unwrap();
    // What `dup` makes stays open in the next program.
    let kept = rustix::io::dup(&own).unwrap();
    let script = format!(
        "i=0; while [ $i -lt 40 ]; do \
           echo overwritten 2>/tmp/error >/proc/self/fd/{0} && echo written >> /tmp/grabbed; \
           sleep 0.01; i=$((i+1)); done; cat /tmp/error >> /tmp/grabbed; echo done >> /tmp/grabbed",
        kept.as_raw_fd()
    );
    let error = Command::new("/bin/sh").args(["-c", &script]).exec();
    panic!("{error}");
}

/// A process on another processor that exchanges two paths, as a hostile neighbour would.
pub(crate) struct Swapper(Child);

impl Swapper {
    pub(crate) fn start(one: &Path, other: &Path) -> Self {
        Self(Command::new("/proc/self/exe").arg(SWAPPER).args([one, other]).spawn().unwrap())
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
