//! Attributes: kind, length and value, one after the other and inside one another.
//!
//! Invariants: what a [`Writer`] has written, [`Attributes`] reads back; a length that is wrong ends the reading;
//! a value of another size than asked for is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The attribute holds attributes (`NLA_F_NESTED`).
pub const NESTED: u16 = 1 << 15;
/// The value is in network byte order (`NLA_F_NET_BYTEORDER`).
const NET_ORDER: u16 = 1 << 14;
/// Length of an attribute's header.
const HEADER: usize = 4;

/// Attributes, and messages, begin at multiples of four bytes.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes attributes behind what is there.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    too_long: &'a mut bool,
}

impl<'a> Writer<'a> {
    /// A writer that notes in `too_long` when a length did not fit its field.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, too_long: &'a mut bool) -> Self {
        Self { bytes, too_long }
    }

    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(HEADER + value.len()) else {
            *self.too_long = true;
            return self;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// An attribute that only has to be there.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.bytes(kind, &[])
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Two bytes in this machine's order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in this machine's order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Eight bytes in this machine's order.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Two bytes in network order.
    pub fn u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Four bytes in network order.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Eight bytes in network order.
    pub fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Text with the zero byte that ends it. What follows a zero byte in the text itself is left out.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let value = value.split('\0').next().unwrap_or_default();
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// The 4 or 16 bytes of an address.
    pub fn ip(&mut self, kind: u16, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// An attribute of attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.nest_after(kind, &[], fill)
    }

    /// An attribute of a fixed header and attributes behind it.
    pub fn nest_after(&mut self, kind: u16, header: &[u8], fill: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.bytes.extend_from_slice(header);
        self.bytes.resize(align(self.bytes.len()), 0);
        fill(&mut Writer { bytes: self.bytes, too_long: self.too_long });
        let Ok(length) = u16::try_from(self.bytes.len() - start) else {
            *self.too_long = true;
            return self;
        };
        if let Some(place) = self.bytes.get_mut(start..start + HEADER) {
            place[..2].copy_from_slice(&length.to_ne_bytes());
            place[2..].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        }
        self
    }

    /// How long the message is until here.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }
}

/// Attributes that arrived, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first attribute of this kind.
    #[must_use]
    pub fn get(mut self, kind: u16) -> Option<Attribute<'a>> {
        self.find(|attribute| attribute.kind == kind)
    }

    /// The attributes inside the first of this kind; none where it is missing.
    #[must_use]
    pub fn inside(self, kind: u16) -> Self {
        self.get(kind).map_or(Self(&[]), |attribute| attribute.nested())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?);
        let Some(value) = self.0.get(HEADER..length) else {
            self.0 = &[];
            return None;
        };
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind: kind & !(NESTED | NET_ORDER), value })
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// Which one, without the bits that describe the value.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn array<const N: usize>(self) -> Option<[u8; N]> {
        self.value.try_into().ok()
    }

    /// One byte.
    #[must_use]
    pub fn u8(self) -> Option<u8> {
        self.array().map(u8::from_ne_bytes)
    }

    /// Two bytes in this machine's order.
    #[must_use]
    pub fn u16(self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// Four bytes in this machine's order.
    #[must_use]
    pub fn u32(self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// Four bytes in this machine's order, with a sign.
    #[must_use]
    pub fn i32(self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    /// Eight bytes in this machine's order.
    #[must_use]
    pub fn u64(self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Two bytes in network order.
    #[must_use]
    pub fn u16_be(self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes in network order.
    #[must_use]
    pub fn u32_be(self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes in network order.
    #[must_use]
    pub fn u64_be(self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Text, with or without the zero byte that ends it.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(self.value.get(..end)?).ok()
    }

    /// An address, by its length.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self.value.len() {
            4 => self.array::<4>().map(|octets| Ipv4Addr::from(octets).into()),
            16 => self.array::<16>().map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }

    /// The attributes inside.
    #[must_use]
    pub fn nested(self) -> Attributes<'a> {
        Attributes(self.value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes that look random and are the same in each run (xorshift).
    pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    fn walk(attributes: Attributes<'_>, depth: u8) -> usize {
        let mut seen = 0;
        for attribute in attributes {
            seen += 1;
            let _values = (attribute.u8(), attribute.u16(), attribute.u32(), attribute.u64());
            let _more = (attribute.text(), attribute.ip(), attribute.i32(), attribute.u16_be());
            if depth > 0 {
                seen += walk(attribute.nested(), depth - 1);
            }
        }
        seen
    }

    fn written(fill: impl FnOnce(&mut Writer<'_>)) -> (Vec<u8>, bool) {
        let (mut bytes, mut too_long) = (Vec::new(), false);
        fill(&mut Writer::new(&mut bytes, &mut too_long));
        (bytes, too_long)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (bytes, too_long) = written(|writer| {
            writer.u8(1, 7).u16(2, 300).u32(3, 70_000).u64(4, 1 << 40).text(5, "eth0").flag(6);
            writer.u16_be(7, 80).u32_be(8, 9).u64_be(9, 10).ip(10, [10, 0, 0, 1].into());
            writer.nest(11, |inner| {
                inner.text(1, "with\0tail").nest(2, |_| {});
            });
            writer.nest_after(12, &[1, 2, 3], |inner| {
                inner.u8(1, 1);
            });
        });
        assert!(!too_long);
        assert_eq!(bytes.len() % 4, 0);
        let all = Attributes::new(&bytes);
        assert_eq!(all.count(), 12);
        assert_eq!(all.get(1).unwrap().u8(), Some(7));
        assert_eq!(all.get(2).unwrap().u16(), Some(300));
        assert_eq!(all.get(3).unwrap().u32(), Some(70_000));
        assert_eq!(all.get(3).unwrap().u64(), None);
        assert_eq!(all.get(4).unwrap().u64(), Some(1 << 40));
        assert_eq!(all.get(5).unwrap().text(), Some("eth0"));
        assert_eq!(all.get(6).unwrap().value, b"");
        assert_eq!(all.get(7).unwrap().u16_be(), Some(80));
        assert_eq!(all.get(7).unwrap().value, [0, 80]);
        assert_eq!(all.get(8).unwrap().u32_be(), Some(9));
        assert_eq!(all.get(9).unwrap().u64_be(), Some(10));
        assert_eq!(all.get(10).unwrap().ip(), Some([10, 0, 0, 1].into()));
        assert_eq!(all.inside(11).get(1).unwrap().text(), Some("with"));
        assert_eq!(all.inside(11).get(2).unwrap().nested().count(), 0);
        assert_eq!(all.get(12).unwrap().value[..4], [1, 2, 3, 0]);
        assert!(all.get(13).is_none());
        assert_eq!(all.inside(13).count(), 0);
    }

    #[test]
    fn lengths_that_do_not_fit_are_noticed() {
        assert!(
            written(|writer| {
                writer.bytes(1, &vec![0; 65_532]);
            })
            .1
        );
        assert!(
            !written(|writer| {
                writer.bytes(1, &vec![0; 65_531]);
            })
            .1
        );
        let (_, too_long) = written(|writer| {
            writer.nest(1, |inner| {
                inner.bytes(1, &vec![0; 40_000]).bytes(2, &vec![0; 40_000]);
            });
        });
        assert!(too_long);
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_go_on_for_ever() {
        let (bytes, _) = written(|writer| {
            writer.text(5, "eth0").nest(11, |inner| {
                inner.u32(1, 1).bytes(2, &[1; 9]);
            });
        });
        for end in 0..=bytes.len() {
            walk(Attributes::new(&bytes[..end]), 4);
        }
        for seed in 0..2_000 {
            let bytes = noise(seed, usize::try_from(seed % 300).unwrap());
            assert!(walk(Attributes::new(&bytes), 4) <= 5 * bytes.len());
        }
        // Lengths below that of the header would never advance.
        for length in 0..4_u8 {
            assert_eq!(Attributes::new(&[length, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        }
    }
}
