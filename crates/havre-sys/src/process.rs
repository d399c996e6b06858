//! Making processes and becoming programs.
//!
//! Invariants: a child made here never returns into the caller's code; it is known by a pidfd from its
//! first instruction on, so no number can be mistaken for another process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, WaitIdOptions, WaitIdStatus};

use crate::check;

/// Since Linux 5.7; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Kinds of namespaces, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// None.
    pub const NONE: Self = Self(0);
    /// Mounts.
    pub const MOUNT: Self = Self(0x0002_0000);
    /// Control groups.
    pub const CGROUP: Self = Self(0x0200_0000);
    /// Host name.
    pub const UTS: Self = Self(0x0400_0000);
    /// System V IPC and message queues.
    pub const IPC: Self = Self(0x0800_0000);
    /// Users.
    pub const USER: Self = Self(0x1000_0000);
    /// Processes.
    pub const PID: Self = Self(0x2000_0000);
    /// Network.
    pub const NETWORK: Self = Self(0x4000_0000);
    /// Clocks.
    pub const TIME: Self = Self(0x0000_0080);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All but these.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The `CLONE_NEW*` bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// How a child is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spawn<'a> {
    /// New namespaces of the child.
    pub namespaces: Namespaces,
    /// The control group (v2) it starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it becomes a child of the caller's parent.
    pub sibling: bool,
}

/// A child.
#[derive(Debug)]
pub struct Spawned {
    /// Its number in the caller's process namespace.
    pub pid: Pid,
    /// The process itself.
    pub pidfd: OwnedFd,
}

/// Whether this process has one thread only.
pub fn is_single_threaded() -> io::Result<bool> {
    Ok(never_had_threads() || rustix::fs::stat("/proc/self/task")?.st_nlink <= 3)
}

/// What the C library knows without asking the kernel, and still knows where /proc is another's.
#[cfg(target_env = "gnu")]
fn never_had_threads() -> bool {
    unsafe extern "C" {
        // sys/single_threaded.h, since glibc 2.32.
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: the C library defines the variable, and only changes it when this thread makes the first other.
    unsafe { (&raw const __libc_single_threaded).read_volatile() != 0 }
}

#[cfg(not(target_env = "gnu"))]
fn never_had_threads() -> bool {
    false
}

/// Makes a child that runs `child` on a copy of this process's memory and ends with it.
///
/// The calling process must be single threaded (an error otherwise): in the copy, a lock that another
/// thread held would never be released.
pub fn spawn<F>(how: &Spawn<'_>, child: F) -> io::Result<Spawned>
where
    F: FnOnce() -> std::convert::Infallible,
{
    if !is_single_threaded()? {
        return Err(io::Error::other("a process with several threads cannot be copied"));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64 | how.namespaces.bits();
    arguments.pidfd = (&raw mut pidfd).addr() as u64;
    if how.sibling {
        // The kernel wants no exit signal then: the child takes its sibling's.
        arguments.flags |= libc::CLONE_PARENT as u64;
    } else {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = how.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM this is fork: the child gets a copy of the memory and, since this process
    // has one thread, of a consistent state. The arguments outlive the call and have their true size.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        // A panic must not unwind into frames that belong to the caller.
        let _panicked = catch_unwind(AssertUnwindSafe(child));
        exit_now(70);
    }
    // SAFETY: the kernel has stored a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no pid"))?;
    Ok(Spawned { pid, pidfd })
}

/// Makes a child in the plainest way, for where a filter hides clone3. It runs `child` on a copy of this
/// process's memory and ends with it. The calling process must be single threaded (an error otherwise).
pub fn fork<F>(child: F) -> io::Result<Pid>
where
    F: FnOnce() -> std::convert::Infallible,
{
    if !is_single_threaded()? {
        return Err(io::Error::other("a process with several threads cannot be copied"));
    }
    // SAFETY: this process has one thread, so the copy is in a consistent state.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _panicked = catch_unwind(AssertUnwindSafe(child));
        exit_now(70);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("no pid"))
}

/// Ends the process at once: no destructors, no buffers flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Moves the calling thread into new namespaces.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    let flags = libc::c_int::try_from(namespaces.bits()).map_err(io::Error::other)?;
    // SAFETY: only namespaces are unshared, never the descriptor table.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a root and a working folder of its own, which entering a mount namespace needs.
pub fn unshare_folders() -> io::Result<()> {
    // SAFETY: root, working folder and umask are copied; nothing else changes.
    if unsafe { libc::unshare(libc::CLONE_FS) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into the namespace (or, for a pidfd, the namespaces `kinds` of the process)
/// behind `fd`.
pub fn setns(fd: impl AsFd, kinds: Namespaces) -> io::Result<()> {
    let flags = libc::c_int::try_from(kinds.bits()).map_err(io::Error::other)?;
    // SAFETY: only numbers are passed.
    if unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The code a shell would show: the code itself, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    fn of(status: &WaitIdStatus) -> Option<Self> {
        status.exit_status().map(Self::Code).or_else(|| status.terminating_signal().map(Self::Signal))
    }
}

/// Waits for the end of the child behind `pidfd` and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Exit> {
    loop {
        match rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(status) => {
                return status.as_ref().and_then(Exit::of).ok_or_else(|| io::Error::other("no exit status"));
            }
        }
    }
}

/// Reaps the child behind `pidfd` if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    Ok(rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), options)?.as_ref().and_then(Exit::of))
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: marking changes no ownership: what is open stays open in this program.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Closes every descriptor from `first` on but those of `kept`. For a copy of a process that is about to become
/// something else: what owned the others in the original may not be used here any more.
pub fn close_all_but(first: u32, kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    let mut from = first;
    for number in numbers.into_iter().filter(|number| *number >= first).chain([u32::MAX]) {
        if let Some(to) = number.checked_sub(1).filter(|to| *to >= from) {
            // SAFETY: the caller gave up what owned these; nothing in this copy touches them again.
            check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) })?;
        }
        from = from.max(number.saturating_add(1));
    }
    Ok(())
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it. For a thread that may never
/// come back from the kernel: what the others close is closed then. It may not use what was opened before.
pub fn let_go_of_descriptors() -> io::Result<()> {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
    // SAFETY: only this thread's copy of the table is emptied, and its owner was told to use none of it.
    check(unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, CLOSE_RANGE_UNSHARE) })?;
    Ok(())
}

/// Puts a copy of `source` at descriptor `target` (0, 1 or 2), not close-on-exec.
pub fn set_stdio(source: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if !(0..=2).contains(&target) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a standard descriptor"));
    }
    if source.as_raw_fd() == target {
        rustix::io::fcntl_setfd(source, rustix::io::FdFlags::empty())?;
        return Ok(());
    }
    // SAFETY: the standard descriptors have no owner in Rust, so replacing one breaks none.
    if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A descriptor inherited from the program that started this one, which takes its ownership.
/// An error if it is not open. Call it once for a number, before other code could own it.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD only looks whether the number is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // A copy is ours for certain, whoever else may think to own the number.
    // SAFETY: duplicating an open descriptor makes a new one that nobody else knows.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(copy)) }
    }
}

/// As [`inherited`], for a descriptor that programs started later must not inherit in turn.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    let copy = inherited(fd)?;
    // SAFETY: F_SETFD changes a flag of an open number, which no owner of it relies on being unset.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(copy)
}

/// What to execute.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// A path.
    Path(&'a CStr),
    /// An open file.
    Fd(BorrowedFd<'a>),
}

/// Becomes the program. It returns only with the error.
pub fn execute(program: Program<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (fd, path, flags) = match program {
        Program::Path(path) => (libc::AT_FDCWD, path, 0),
        Program::Fd(fd) => (fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH),
    };
    // SAFETY: both tables end with a null pointer, and their strings outlive the call.
    unsafe {
        libc::syscall(libc::SYS_execveat, fd, path.as_ptr(), arguments.as_ptr(), environment.as_ptr(), flags);
    }
    io::Error::last_os_error()
}

/// Sets the resource limit with this number (`RLIMIT_*`) of the process `pid` (0: this one).
/// `u64::MAX` is unlimited.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure outlives the call, which only reads it; no old limit is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

/// The signal with this number, if rustix can name it; real-time signals too.
pub fn signal_from_raw(number: i32) -> Option<rustix::process::Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the kernel's signals are 1 to 64; the value is only passed to the kernel, which checks it.
    rustix::process::Signal::from_named_raw(number)
        .or_else(|| Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_copied() {
        // The test harness has at least two.
        let result = spawn(&Spawn::default(), || exit_now(0));
        assert!(result.is_err());
    }

    #[test]
    fn a_closed_number_is_not_inherited() {
        assert!(inherited(-1).is_err());
        assert!(inherited(1_000_000).is_err());
    }
}
