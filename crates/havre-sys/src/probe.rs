//! Asks the kernel how it answers a call, for tests of filters.
//!
//! Invariant: the call is made by a child that does nothing else, so whatever it does ends with the child.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, Signal};

use crate::process::{Exit, exit_now, fork, wait};

/// How a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It succeeded.
    Done,
    /// With this error.
    Failed(i32),
    /// A signal ended the caller.
    Killed,
    /// Not within half a second.
    Stuck,
}

/// Makes the call `number` with these arguments in a child. The calling process must be single threaded.
pub fn probe(number: u32, arguments: [u64; 6]) -> io::Result<Answer> {
    let child = fork(|| {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the process is a copy that only ends after the call; no call reaches the memory of another
        // process without a right to it that has nothing to do with safety here.
        let result = unsafe { libc::syscall(libc::c_long::from(number), a, b, c, d, e, f) };
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        exit_now(if result == -1 { errno } else { 0 })
    })?;
    // Nobody else reaps it, so the number is its own until we do.
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    let ended = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? > 0;
    if !ended {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    let exit = wait(pidfd.as_fd())?;
    Ok(match exit {
        _ if !ended => Answer::Stuck,
        Exit::Code(0) => Answer::Done,
        Exit::Code(errno) => Answer::Failed(errno),
        Exit::Signal(_) => Answer::Killed,
    })
}
