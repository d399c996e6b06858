//! User namespaces without a process in them, for idmapped mounts; and the files that map ids.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use crate::process::{self, Namespaces, Spawn};

/// One range: first id inside, first id outside, how many.
pub type Range = (u32, u32, u32);

/// Writes the maps of the process `pid`, which was just made in a user namespace of its own.
pub fn write_maps(pid: rustix::process::Pid, uids: &[Range], gids: &[Range]) -> io::Result<()> {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    if !rustix::process::geteuid().is_root() {
        // Without privileges the kernel takes a group map only after groups were given up.
        write(&format!("{folder}/setgroups"), "deny")?;
    }
    write(&format!("{folder}/uid_map"), &text(uids))?;
    write(&format!("{folder}/gid_map"), &text(gids))
}

fn text(ranges: &[Range]) -> String {
    let mut text = String::new();
    for (inside, outside, size) in ranges {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{inside} {outside} {size}");
    }
    text
}

fn write(path: &str, text: &str) -> io::Result<()> {
    // One write: the kernel takes a map only whole.
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// A user namespace with these maps. The calling process must be single threaded.
pub fn create(uids: &[Range], gids: &[Range]) -> io::Result<OwnedFd> {
    let (ours, theirs) = crate::seqpacket::pair()?;
    let spawned = process::spawn(&Spawn { namespaces: Namespaces::USER, ..Spawn::default() }, move || {
        // Until the parent has what it needs: the end comes when it closes its side.
        let _closed = crate::seqpacket::recv(&theirs);
        process::exit_now(0)
    })?;
    let result = write_maps(spawned.pid, uids, gids).and_then(|()| {
        Ok(rustix::fs::open(
            format!("/proc/{}/ns/user", spawned.pid.as_raw_nonzero()),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?)
    });
    rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL)?;
    process::wait(spawned.pidfd.as_fd())?;
    drop(ours);
    result
}
