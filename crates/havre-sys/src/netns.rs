//! Network namespaces: made, entered and told apart without the caller's thread ever leaving its own.
//!
//! Invariants: whoever calls stays in the namespace it is in; the thread that enters another one ends with
//! what it was made for, so that no other work is done there by mistake. Source: network_namespaces(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

const OWN: &str = "/proc/thread-self/ns/net";

/// A new network namespace, with nothing but a loopback interface that is down. It exists as long as the
/// descriptor, or something else that refers to it.
pub fn create() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        // SAFETY: only the network namespace of this thread changes; no memory or descriptor is unshared,
        // and the thread ends after the next call.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        open_own()
    })
}

/// The caller's network namespace.
pub fn current() -> io::Result<OwnedFd> {
    open_own()
}

fn open_own() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Runs `work` in the namespace `netns`, on a thread of its own that then ends.
pub fn enter_with<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_a_thread(|| {
        rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
        work()
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(256 * 1024);
        let handle = thread.spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What tells namespaces apart: the number that `/proc/PID/ns/net` shows in brackets. It is used again when
/// the namespace is gone.
pub fn inode(netns: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(netns)?.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_and_entered_while_the_caller_stays() {
        let before = inode(current().unwrap()).unwrap();
        let Ok(made) = create() else {
            // Without root nobody makes one.
            assert!(!rustix::process::geteuid().is_root());
            return;
        };
        let other = inode(&made).unwrap();
        assert_ne!(before, other);
        let seen = enter_with(made.as_fd(), || inode(current()?)).unwrap();
        assert_eq!(seen, other);
        assert_eq!(inode(current().unwrap()).unwrap(), before);
        let failed = enter_with(made.as_fd(), || Err::<(), _>(io::Error::from_raw_os_error(libc::EBUSY)));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
