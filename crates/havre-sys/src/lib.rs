//! Safe owning handles over the kernel: the only crate with unsafe code.
//!
//! Invariants: every function here is safe to call with any argument; every descriptor made here is
//! close-on-exec and owned; nothing knows about containers. What rustix offers is used as it is and not
//! wrapped again: here is what it lacks (clone3, mount_setattr, seccomp, bpf, signalfd, ...), and the few
//! compositions that everything else must use (`durable::replace`, `seqpacket`, `memfd::sealed_copy`).

#![expect(unsafe_code, reason = "this crate is where it is allowed")]

pub mod bpf;
pub mod btrfs;
pub mod clock;
pub mod conntrack;
pub mod durable;
pub mod erofs;
pub mod interface;
pub mod keyring;
pub mod lock;
pub mod memfd;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod path;
pub mod probe;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod seqpacket;
pub mod signal;
pub mod socket;
pub mod userns;

use std::io;

/// The result of a system call of which only failure matters.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
