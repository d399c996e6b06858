//! Signals as descriptors, and the dispositions a new program should start with.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset takes any number and refuses bad ones.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        set.assume_init()
    }
}

/// Blocks `signals` in the calling thread, so that a [`signalfd`] of them can report them.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is initialised and only read; no old set is asked for.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Blocks every signal in the calling thread.
pub fn block_all() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the whole set, which is then only read.
    let code = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// A descriptor that is readable while one of `signals` is pending; they must be blocked.
pub fn signalfd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set is initialised; the descriptor returned is new and ours.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The next pending signal of a [`signalfd`], by number; `None` if there is none.
pub fn next(signalfd: impl AsFd) -> io::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    loop {
        // SAFETY: the buffer has the given size and the kernel writes at most that.
        let read = unsafe {
            libc::read(signalfd.as_fd().as_raw_fd(), info.as_mut_ptr().cast::<libc::c_void>(), size)
        };
        if usize::try_from(read) == Ok(size) {
            // SAFETY: the kernel has filled the whole structure.
            let number = unsafe { info.assume_init() }.ssi_signo;
            return i32::try_from(number).map(Some).map_err(io::Error::other);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(None),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Waits for one of `signals`, which must be blocked, and takes it.
pub fn wait(signals: &[Signal]) -> io::Result<i32> {
    let set = set_of(signals);
    wait_set(&set)
}

/// Waits for any signal and takes it; all must be blocked.
pub fn wait_any() -> io::Result<i32> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the whole set.
    let set = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    };
    wait_set(&set)
}

fn wait_set(set: &libc::sigset_t) -> io::Result<i32> {
    loop {
        // SAFETY: the set is initialised; no information structure is asked for.
        let number = unsafe { libc::sigwaitinfo(set, std::ptr::null_mut()) };
        if number > 0 {
            return Ok(number);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Gives every signal its default disposition and unblocks all: what a program expects at its start.
pub fn reset_all() -> io::Result<()> {
    for number in 1..=64 {
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run from a signal. Numbers that
        // cannot be changed (KILL, STOP) are refused, which is what we want.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
        }
    }
    // The C library keeps two signals to itself and leaves them ignored in what posix_spawn made.
    for number in [32_i32, 33] {
        // The kernel's structure has at most four words; all zero is the default disposition.
        let action = [0_u64; 4];
        // SAFETY: the kernel reads the structure and writes nothing; eight is the size of its signal set.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                action.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8_usize,
            );
        }
    }
    let set = set_of(&[]);
    // SAFETY: the set is initialised and only read.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Sends the signal with this number to `pid` (as kill(2): also 0, -1 and negative groups).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of ours.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends the signal with this number to the process of a pidfd; rustix knows only named signals.
pub fn pidfd_kill(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: no information structure is given; the descriptor is open.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}
