//! Waiting for a log to grow or rotate, without polling.
//!
//! Invariant: a change after `watch` returned makes the handle readable; so watch first, then read to the
//! end, then wait.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::inotify;

use crate::LogError;

/// An inotify handle that is readable when something in the log's folder changed.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// Watches the log at `path`: its growth and its rotation.
pub fn watch(path: &Path) -> Result<Watch, LogError> {
    let open = || -> io::Result<OwnedFd> {
        let handle = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The folder, not the file: it also reports changes of its files, and it survives rotation.
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&handle, folder, events)?;
        Ok(handle)
    };
    open().map(Watch).map_err(|source| LogError::Watch { path: path.into(), source })
}

impl Watch {
    /// Takes away the pending events, so that the handle is readable again only after a new change.
    pub fn drain(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(([], _)) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<Watch> for OwnedFd {
    fn from(watch: Watch) -> Self {
        watch.0
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
