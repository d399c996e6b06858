//! Ports of containers that are reached on the host.
//!
//! Invariant: a range is not empty, and what a client writes as text is parsed here once.
//! Not here: which port of a range is taken; that is known when the container starts.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

impl Protocol {
    /// Its name, as in `80/tcp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol of a name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// A port inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl Port {
    /// `80`, `80/udp`, `8000-8010/tcp`: the first and the last one, the protocol tcp unless it is named.
    #[must_use]
    pub fn range(text: &str) -> Option<(Self, Self)> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Protocol::parse(protocol)?;
        let (first, last) = numbers_of(numbers)?;
        let port = |number| Self { number, protocol };
        Some((port(first), port(last)))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

/// `80` or `80-90`.
#[must_use]
pub fn numbers_of(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |digits: &str| {
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse::<u16>().ok() } else { None }
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// A port of a container that is to be reached on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Inside.
    pub port: Port,
    /// The address of the host; absent for every address, or what the network prefers.
    pub address: Option<IpAddr>,
    /// The ports of the host, one of which is to be taken; 0 and 0 leave the choice to the engine.
    pub host: (u16, u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_shown() {
        let (first, last) = Port::range("8000-8010/UDP").unwrap();
        assert_eq!((first.to_string(), last.to_string()), ("8000/udp".into(), "8010/udp".into()));
        assert_eq!(Port::range("80").unwrap().0.to_string(), "80/tcp");
        for bad in ["", "x", "+1", "70000", "2-1", "80/icmp", "80/", "-"] {
            assert_eq!(Port::range(bad), None, "{bad}");
        }
    }
}
