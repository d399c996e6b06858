//! The terminal of a container, from its own devpts.
//!
//! Invariant: both sides come from one open of a file that was verified to be the multiplexer of a devpts
//! below the container's root; no path to a terminal is looked up a second time (CVE-2025-52565).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{RuntimeError, Step};
use crate::fscontext;
use crate::path::{self, Root};

pub(crate) struct Terminal {
    /// The side of whoever reads the output.
    pub(crate) master: OwnedFd,
    /// The side of the program.
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    pub(crate) fn open(root: &Root<'_>, rows: u16, columns: u16) -> Result<Self, RuntimeError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let master = root
            .open(Path::new("/dev/pts/ptmx"), flags)
            .step("open /dev/pts/ptmx of the container for its terminal")?;
        let stat = rustix::fs::fstat(&master).step("examine the terminal")?;
        let genuine = path::is_on(&master, path::DEVPTS_MAGIC).step("examine the terminal")?
            && stat.st_rdev == rustix::fs::makedev(5, 2);
        if !genuine {
            return Err(RuntimeError::invalid("/dev/pts/ptmx of the container", "it is not on a devpts"));
        }
        rustix::pty::unlockpt(&master).step("unlock the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).step("open the terminal")?;
        if rows > 0 && columns > 0 {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&master, size).step("set the size of the terminal")?;
        }
        Ok(Self { master, slave })
    }

    /// Makes the terminal what `/dev/console` is.
    pub(crate) fn bind_console(&self, root: &Root<'_>) -> Result<(), RuntimeError> {
        let at = "bind the terminal at /dev/console";
        let target = root.ensure_target(Path::new("/dev/console"), false).step(at)?;
        let copy = fscontext::copy(&self.slave, false).step(at)?;
        fscontext::attach(copy, target).step(at)
    }

    /// Makes it the controlling terminal of this session.
    pub(crate) fn take(&self) -> io::Result<()> {
        Ok(rustix::process::ioctl_tiocsctty(&self.slave)?)
    }
}
