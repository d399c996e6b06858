//! What of a packet can be looked at.

use super::set::KeyType;
use crate::netlink::attribute::Writer;

/// The first register, of 16 bytes (`NFT_REG_1`). It is also the first four of those of 4 bytes.
pub(super) const FIRST: u32 = 1;
/// The first register of 4 bytes (`NFT_REG32_00`).
const FIRST_SMALL: u32 = 8;

/// The register that begins `offset` bytes behind the beginning of the first one, as nft numbers it.
pub(super) fn register(offset: usize) -> u32 {
    let word = u32::try_from(offset / 4).unwrap_or(u32::MAX);
    if word.is_multiple_of(4) { FIRST + word / 4 } else { FIRST_SMALL.saturating_add(word) }
}

/// Something of a packet, or of what is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The name of the link by which it came.
    InputName,
    /// The name of the link by which it goes.
    OutputName,
    /// The kind of the link by which it came, such as `bridge`; the condition never holds for devices.
    InputKind,
    /// The kind of the link by which it goes.
    OutputKind,
    /// Its mark.
    Mark,
    /// Its transport protocol, whichever the family.
    Protocol,
    /// Source address of IPv4.
    Source4,
    /// Destination address of IPv4.
    Destination4,
    /// Source address of IPv6.
    Source6,
    /// Destination address of IPv6.
    Destination6,
    /// Source port of TCP, UDP or SCTP.
    SourcePort,
    /// Destination port of TCP, UDP or SCTP.
    DestinationPort,
    /// Type of an ICMPv6 message.
    Icmp6Type,
    /// The address that a neighbour's question or advertisement is about.
    Icmp6Target,
    /// What follows the header of the link, as `ETH_P_*`; in sets like a port.
    EtherType,
    /// Hardware address of the sender.
    SourceMac,
    /// Hardware address that an ARP message says its sender has.
    ArpMac,
    /// Address that an ARP message says its sender has.
    ArpAddress,
    /// The connection's mark.
    ConnectionMark,
    /// Where the connection went before it was redirected, IPv4.
    OriginalDestination4,
    /// Where the connection went before it was redirected, IPv6.
    OriginalDestination6,
    /// To which port the connection went before it was redirected. nft shows it as a port only behind a
    /// condition on the protocol.
    OriginalPort,
}

/// How a field is loaded into a register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Meta(u32),
    Payload(u32, u32),
    Connection(u32, Option<u8>),
}

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const ORIGINAL: Option<u8> = Some(0);

impl Field {
    pub(super) fn source(self) -> Source {
        match self {
            Self::Mark => Source::Meta(3),
            Self::InputName => Source::Meta(6),
            Self::OutputName => Source::Meta(7),
            Self::InputKind => Source::Meta(26),
            Self::OutputKind => Source::Meta(27),
            Self::Protocol => Source::Meta(16),
            Self::Source4 => Source::Payload(NETWORK, 12),
            Self::Destination4 => Source::Payload(NETWORK, 16),
            Self::Source6 => Source::Payload(NETWORK, 8),
            Self::Destination6 => Source::Payload(NETWORK, 24),
            Self::SourcePort | Self::Icmp6Type => Source::Payload(TRANSPORT, 0),
            Self::Icmp6Target => Source::Payload(TRANSPORT, 8),
            Self::EtherType => Source::Meta(1),
            Self::DestinationPort => Source::Payload(TRANSPORT, 2),
            Self::SourceMac => Source::Payload(LINK, 6),
            Self::ArpMac => Source::Payload(NETWORK, 8),
            Self::ArpAddress => Source::Payload(NETWORK, 14),
            Self::ConnectionMark => Source::Connection(3, None),
            Self::OriginalDestination4 => Source::Connection(20, ORIGINAL),
            Self::OriginalDestination6 => Source::Connection(22, ORIGINAL),
            Self::OriginalPort => Source::Connection(12, ORIGINAL),
        }
    }

    /// Of what type it is in sets.
    #[must_use]
    pub fn key_type(self) -> KeyType {
        match self {
            Self::InputName | Self::OutputName | Self::InputKind | Self::OutputKind => KeyType::Name,
            Self::Mark | Self::ConnectionMark => KeyType::Mark,
            Self::Protocol => KeyType::Protocol,
            Self::Source4 | Self::Destination4 | Self::ArpAddress | Self::OriginalDestination4 => KeyType::V4,
            Self::Source6 | Self::Destination6 | Self::OriginalDestination6 | Self::Icmp6Target => {
                KeyType::V6
            }
            Self::SourcePort | Self::DestinationPort | Self::OriginalPort | Self::EtherType => KeyType::Port,
            Self::Icmp6Type => KeyType::Icmp6Type,
            Self::SourceMac | Self::ArpMac => KeyType::Mac,
        }
    }

    /// Writes the expression that loads it into a register.
    pub(super) fn load(self, register: u32, list: &mut Writer<'_>) {
        match self.source() {
            Source::Meta(key) => expression(list, "meta", |data| {
                data.u32_be(2, key).u32_be(1, register);
            }),
            Source::Payload(base, offset) => {
                let length = u32::try_from(self.key_type().length()).unwrap_or(0);
                expression(list, "payload", |data| {
                    data.u32_be(1, register).u32_be(2, base).u32_be(3, offset).u32_be(4, length);
                });
            }
            Source::Connection(key, direction) => expression(list, "ct", |data| {
                data.u32_be(2, key).u32_be(1, register);
                if let Some(direction) = direction {
                    data.u8(3, direction);
                }
            }),
        }
    }
}

/// One expression: its name and what it needs.
pub(super) fn expression(list: &mut Writer<'_>, name: &str, fill: impl FnOnce(&mut Writer<'_>)) {
    list.nest(1, |item| {
        item.text(1, name);
        item.nest(2, fill);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_numbered_by_where_they_begin() {
        let offsets = [0, 4, 8, 12, 16, 20, 32, 48];
        assert_eq!(offsets.map(register), [1, 9, 10, 11, 2, 13, 3, 4]);
    }
}
