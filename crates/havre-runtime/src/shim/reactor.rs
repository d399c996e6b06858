//! A readiness loop over descriptors, keyed by a caller's type.
//!
//! Invariants: a key is registered at most once per descriptor; a descriptor is removed before it is
//! closed; interest is level triggered, so nothing needs to be drained to be seen again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    /// Bytes, a connection or an end of file to read.
    pub(super) read: bool,
    /// Room to write.
    pub(super) write: bool,
}

impl Interest {
    pub(super) const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        if self.read {
            flags |= EventFlags::IN | EventFlags::RDHUP;
        }
        if self.write {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

/// One readiness report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    /// The number given at registration.
    pub(super) token: u64,
    /// Readable, or the other side is gone.
    pub(super) read: bool,
    /// Writable, or the other side is gone.
    pub(super) write: bool,
    /// Both directions are gone.
    pub(super) hangup: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: OwnedFd,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(super) fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    pub(super) fn set(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Forgets a descriptor. One that is not known counts as forgotten.
    pub(super) fn remove(&self, fd: impl AsFd) {
        // ENOENT is the only possible answer for an open descriptor, and then there is nothing to do.
        epoll::delete(&self.epoll, fd).unwrap_or(());
    }

    /// Waits until something is ready.
    pub(super) fn wait(&self, into: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [const { Event { flags: EventFlags::empty(), data: EventData::new_u64(0) } }; 32];
        let count = loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        into.clear();
        for event in events.iter().take(count) {
            let flags = event.flags;
            let hangup = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            into.push(Ready {
                token: event.data.u64(),
                read: hangup || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                write: hangup || flags.contains(EventFlags::OUT),
                hangup,
            });
        }
        Ok(())
    }
}
