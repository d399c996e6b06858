//! Sets and maps: their types, and what is in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::drop_it;
use super::verdict::Verdict;
use crate::netlink::attribute::Writer;

/// The type of a key, of one of its parts, or of the data of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// A hardware address.
    Mac,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// A mark.
    Mark,
    /// A type of ICMPv6 messages.
    Icmp6Type,
    /// The name of a link.
    Name,
}

impl KeyType {
    /// Its number in nft.
    const fn number(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Icmp6Type => 29,
            Self::Name => 41,
        }
    }

    /// How many bytes it has.
    pub(super) const fn length(self) -> usize {
        match self {
            Self::Protocol | Self::Icmp6Type => 1,
            Self::Port => 2,
            Self::V4 | Self::Mark => 4,
            Self::Mac => 6,
            Self::V6 | Self::Name => 16,
        }
    }

    /// Whether it is in this machine's byte order.
    const fn is_host_order(self) -> bool {
        matches!(self, Self::Mark | Self::Name)
    }
}

/// Parts of a concatenation begin at multiples of four bytes.
const fn padded(length: usize) -> usize {
    (length + 3) & !3
}

/// The number of a concatenation has six bits for each part.
pub(super) fn type_number(parts: &[KeyType]) -> u32 {
    parts.iter().fold(0, |number, part| (number << 6) | part.number())
}

/// How long a key or datum of these parts is.
pub(super) fn total_length(parts: &[KeyType]) -> u32 {
    let length = match parts {
        [one] => one.length(),
        several => several.iter().map(|part| padded(part.length())).sum(),
    };
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// One (host) or two (network) as nft notes byte orders; zero for concatenations, whose parts know it.
pub(super) fn byte_order(parts: &[KeyType]) -> u32 {
    match parts {
        [one] if one.is_host_order() => 1,
        [_] => 2,
        _ => 0,
    }
}

/// A value of a key, of one of its parts, or of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// An address of either family.
    Address(IpAddr),
    /// A hardware address.
    Mac([u8; 6]),
    /// A transport protocol.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// A mark.
    Mark(u32),
    /// A type of ICMPv6 messages.
    Icmp6Type(u8),
    /// The name of a link, filled up with zeros.
    Name([u8; 16]),
}

impl Value {
    /// The name of a link. What is behind the 15th byte cannot be part of one and is left out.
    #[must_use]
    pub fn name(name: &str) -> Self {
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().take(15).zip(name.bytes()) {
            *place = byte;
        }
        Self::Name(bytes)
    }

    pub(super) fn write(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => bytes.extend(address.octets()),
            Self::Address(IpAddr::V6(address)) => bytes.extend(address.octets()),
            Self::Mac(address) => bytes.extend(address),
            Self::Protocol(number) | Self::Icmp6Type(number) => bytes.push(number),
            Self::Port(port) => bytes.extend(port.to_be_bytes()),
            Self::Mark(mark) => bytes.extend(mark.to_ne_bytes()),
            Self::Name(name) => bytes.extend(name),
        }
    }

    fn read(kind: KeyType, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            KeyType::V4 => Self::Address(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
            KeyType::V6 => Self::Address(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
            KeyType::Mac => Self::Mac(*bytes.first_chunk()?),
            KeyType::Protocol => Self::Protocol(*bytes.first()?),
            KeyType::Port => Self::Port(u16::from_be_bytes(*bytes.first_chunk()?)),
            KeyType::Mark => Self::Mark(u32::from_ne_bytes(*bytes.first_chunk()?)),
            KeyType::Icmp6Type => Self::Icmp6Type(*bytes.first()?),
            KeyType::Name => Self::Name(*bytes.first_chunk()?),
        })
    }

    /// The parts of a key or of data that was read.
    #[must_use]
    pub fn read_all(parts: &[KeyType], mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            values.push(Self::read(*part, bytes)?);
            bytes = bytes.get(padded(part.length()).min(bytes.len())..)?;
        }
        Some(values)
    }

    /// As the kernel has them: one as it is, several each filled up to four bytes.
    pub(super) fn encode(values: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        for value in values {
            value.write(&mut bytes);
            if values.len() > 1 {
                bytes.resize(padded(bytes.len()), 0);
            }
        }
        bytes
    }
}

impl<T: Into<IpAddr>> From<T> for Value {
    fn from(address: T) -> Self {
        Self::Address(address.into())
    }
}

/// What a map leads to.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// What happens to the packet.
    Verdict,
    /// Values of these types, as for the target of a redirection.
    Values(&'a [KeyType]),
}

/// A set, or a map if it has data.
#[derive(Debug, Clone, Copy, Default)]
pub struct Set<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The parts of its keys.
    pub key: &'a [KeyType],
    /// Whether keys may be ranges. Ranges may not overlap.
    pub interval: bool,
    /// What its keys lead to.
    pub data: Option<Data<'a>>,
    /// For whoever reads it.
    pub comment: Option<&'a str>,
}

/// What is in a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub(super) key: Vec<Value>,
    pub(super) end: Option<Vec<Value>>,
    pub(super) data: Option<Target>,
    pub(super) comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Verdict(Verdict),
    Values(Vec<Value>),
}

impl Element {
    /// A key of these parts.
    #[must_use]
    pub fn new(key: impl Into<Vec<Value>>) -> Self {
        Self { key: key.into(), end: None, data: None, comment: None }
    }

    /// All keys from one to another, both included. Of several parts each is such a range.
    #[must_use]
    pub fn range(first: impl Into<Vec<Value>>, last: impl Into<Vec<Value>>) -> Self {
        Self { end: Some(last.into()), ..Self::new(first) }
    }

    /// All addresses of a network; bits behind the prefix do not matter.
    #[must_use]
    pub fn network(address: IpAddr, prefix: u8) -> Self {
        let (first, last): (IpAddr, IpAddr) = match address {
            IpAddr::V4(address) => {
                let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let bits = u32::from(address);
                (Ipv4Addr::from(bits & !hosts).into(), Ipv4Addr::from(bits | hosts).into())
            }
            IpAddr::V6(address) => {
                let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let bits = u128::from(address);
                (Ipv6Addr::from(bits & !hosts).into(), Ipv6Addr::from(bits | hosts).into())
            }
        };
        Self::range([first.into()], [last.into()])
    }

    /// It leads to these values.
    #[must_use]
    pub fn to(mut self, data: impl Into<Vec<Value>>) -> Self {
        self.data = Some(Target::Values(data.into()));
        self
    }

    /// It leads to this verdict.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.data = Some(Target::Verdict(verdict));
        self
    }

    /// For whoever reads it.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    /// The key as the kernel has it, to be compared with what was read.
    #[must_use]
    pub fn key_bytes(&self) -> Vec<u8> {
        Value::encode(&self.key)
    }

    /// Writes it as one item of a list, or as two where a range is told by its ends.
    pub(super) fn write(&self, list: &mut Writer<'_>) {
        let several = self.key.len() > 1;
        list.nest(1, |item| {
            item.nest(1, |key| drop_it(key.bytes(1, &Value::encode(&self.key))));
            if let (Some(end), true) = (&self.end, several) {
                item.nest(10, |key| drop_it(key.bytes(1, &Value::encode(end))));
            }
            match &self.data {
                Some(Target::Verdict(verdict)) => drop_it(item.nest(2, |data| verdict.write(data))),
                Some(Target::Values(values)) => {
                    drop_it(item.nest(2, |data| drop_it(data.bytes(1, &Value::encode(values)))));
                }
                None => {}
            }
            if let Some(text) = &self.comment {
                item.bytes(6, &super::comment(0, text));
            }
        });
        // One beyond the last; where there is none the range goes on to the end of all.
        if let Some(beyond) = self.end.as_ref().filter(|_| !several).and_then(|end| after(Value::encode(end)))
        {
            list.nest(1, |item| {
                item.nest(1, |key| drop_it(key.bytes(1, &beyond)));
                item.u32_be(3, 1);
            });
        }
    }
}

fn after(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(bytes);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_are_numbered_padded_and_read_back() {
        let parts = [KeyType::V4, KeyType::Protocol, KeyType::Port];
        assert_eq!(type_number(&parts), (7 << 12) | (12 << 6) | 13);
        assert_eq!((total_length(&parts), total_length(&[KeyType::Port])), (12, 2));
        let values = [Value::from([10, 0, 0, 1]), Value::Protocol(6), Value::Port(80)];
        let bytes = Value::encode(&values);
        assert_eq!(bytes, [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(Value::read_all(&parts, &bytes).unwrap(), values);
        assert_eq!(Value::encode(&[Value::Port(80)]), [0, 80]);
        assert_eq!(Value::read_all(&[KeyType::Port], &[0, 80]).unwrap(), [Value::Port(80)]);
        for end in 0..9 {
            assert_eq!(Value::read_all(&parts, &bytes[..end]), None);
        }
        assert_eq!(Value::name("a-name-that-is-too-long"), Value::name("a-name-that-is-"));
    }

    #[test]
    fn networks_are_ranges_of_all_their_addresses() {
        let both = |element: Element| (element.key, element.end.unwrap());
        let (first, last) = both(Element::network([10, 1, 2, 3].into(), 8));
        assert_eq!((first, last), (vec![[10, 0, 0, 0].into()], vec![[10, 255, 255, 255].into()]));
        let (first, last) = both(Element::network([10, 1, 2, 3].into(), 32));
        assert_eq!(first, last);
        let (first, last) = both(Element::network("::1".parse().unwrap(), 0));
        assert_eq!(first, [Value::from(Ipv6Addr::UNSPECIFIED)]);
        assert_eq!(after(Value::encode(&last)), None);
        assert_eq!(after(vec![1, 255]), Some(vec![2, 0]));
    }
}
