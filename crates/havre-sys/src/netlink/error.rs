//! Why a request came to nothing.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why a request came to nothing.
#[derive(Debug)]
pub enum NetlinkError {
    /// The kernel refused one message. Messages of links, addresses and routes that came with it were
    /// carried out nevertheless; of a transaction of the packet filter nothing was.
    Refused {
        /// What was asked, to be read after "cannot".
        what: String,
        /// Which message of those sent together.
        index: usize,
        /// The number of the error.
        errno: Errno,
        /// The kernel's own words.
        text: Option<String>,
        /// Where in the message the fault was seen.
        offset: Option<u32>,
    },
    /// This kernel has no driver for such a link, and no module with it.
    NoDriver {
        /// The kind of link.
        kind: &'static str,
    },
    /// What was asked for is not there.
    Absent {
        /// What it is.
        what: String,
    },
    /// A message or an attribute in it is longer than its length field can say.
    TooLong {
        /// What was asked, to be read after "cannot".
        what: String,
    },
    /// More arrived than the socket could hold: something was missed.
    Overrun,
    /// The kernel answered nothing to what it should have answered.
    Unanswered,
    /// What was listed changed all the while.
    Unsteady,
    /// What arrived is no message, or lacks what it must have.
    Garbled(&'static str),
    /// The socket or a namespace failed.
    Io {
        /// What was attempted, to be read after "cannot".
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

impl NetlinkError {
    /// For `map_err`: what failed.
    pub(crate) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }

    /// The number of the error, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::NoDriver { .. } => Some(Errno::OPNOTSUPP),
            Self::Absent { .. } => Some(Errno::NODEV),
            Self::TooLong { .. } => Some(Errno::MSGSIZE),
            Self::Overrun => Some(Errno::NOBUFS),
            Self::Unsteady => Some(Errno::AGAIN),
            Self::Unanswered | Self::Garbled(_) => None,
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw_os_error),
        }
    }

    /// Whether what was to be made is there already.
    #[must_use]
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// Whether what was to be changed or removed is not there. The kernel says it in five ways: a device, a
    /// route, an address and everything else are missing differently.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NXIO)
        )
    }

    /// Whether the kernel was built without it.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT))
    }

    /// Whether an address belongs to another link.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.errno() == Some(Errno::ADDRINUSE)
    }

    /// Whether a transaction of the packet filter was refused because somebody else changed it meanwhile.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.errno().is_some_and(|errno| errno.raw_os_error() == libc::ERESTART)
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { what, errno, text, offset, .. } => {
                write!(f, "cannot {what}: {}", io::Error::from(*errno))?;
                match (text, offset) {
                    (Some(text), _) => write!(f, ": {}", text.trim_end_matches('.')),
                    (None, Some(offset)) => write!(f, ", seen at byte {offset} of the request"),
                    (None, None) => Ok(()),
                }
            }
            Self::NoDriver { kind } => {
                // The one whose module has another name.
                let module = if *kind == "vlan" { "8021q" } else { kind };
                write!(f, "this kernel has no {kind} links: load or build its module {module}")
            }
            Self::Absent { what } => write!(f, "there is no {what}"),
            Self::TooLong { what } => write!(f, "cannot {what}: it does not fit into one request"),
            Self::Overrun => f.write_str("more netlink messages arrived than could be held; some are lost"),
            Self::Unanswered => f.write_str("the kernel did not answer a netlink request"),
            Self::Unsteady => f.write_str("what was to be listed changed during each of several attempts"),
            Self::Garbled(what) => write!(f, "a netlink message cannot be read: {what}"),
            Self::Io { what, .. } => write!(f, "cannot {what}"),
        }
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
