//! What happens to packets, and what is known of their connections.

use std::ops::BitOr;

use crate::netlink::attribute::Writer;

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes this chain.
    Accept,
    /// It is no more.
    Drop,
    /// The calling chain goes on.
    Return,
    /// Another chain is asked, then this one goes on.
    Jump(String),
    /// Another chain is asked, and this one is left.
    Goto(String),
}

impl Verdict {
    pub(super) fn write(&self, data: &mut Writer<'_>) {
        let (code, chain): (i32, _) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        data.nest(2, |verdict| {
            verdict.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }

    pub(super) fn read(code: i32, chain: Option<&str>) -> Option<Self> {
        Some(match (code, chain) {
            (0, _) => Self::Drop,
            (1, _) => Self::Accept,
            (-5, _) => Self::Return,
            (-3, Some(chain)) => Self::Jump(chain.to_owned()),
            (-4, Some(chain)) => Self::Goto(chain.to_owned()),
            _ => return None,
        })
    }
}

/// States of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub(super) u32);

impl State {
    /// Of no connection that makes sense.
    pub const INVALID: Self = Self(1);
    /// Of one that both sides know.
    pub const ESTABLISHED: Self = Self(2);
    /// New, and announced by another one.
    pub const RELATED: Self = Self(4);
    /// New.
    pub const NEW: Self = Self(8);
    /// Not followed.
    pub const UNTRACKED: Self = Self(64);
}

impl BitOr for State {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What was done to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub(super) u32);

impl Status {
    /// It seems to come from elsewhere.
    pub const SOURCE_CHANGED: Self = Self(0x10);
    /// It was sent elsewhere.
    pub const DESTINATION_CHANGED: Self = Self(0x20);
}
