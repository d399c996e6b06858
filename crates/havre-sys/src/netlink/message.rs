//! Messages: those to be sent together, and those that arrived.
//!
//! Invariants: the length in each header is that of the message; a message that arrived lies wholly within
//! what arrived.

use std::borrow::Cow;

use rustix::io::Errno;

use super::attribute::{Attributes, Writer, align};
use super::{NetlinkError, Result};

/// Length of a message's header.
pub const HEADER: usize = 16;
/// Kind of a message: the answer to a request, good or bad (`NLMSG_ERROR`).
pub const ERROR: u16 = 2;
/// Kind of a message: a listing is complete (`NLMSG_DONE`).
pub const DONE: u16 = 3;
/// Kind of a message: nothing (`NLMSG_NOOP`).
const NOOP: u16 = 1;

/// This is a request.
pub const REQUEST: u16 = 1;
/// An answer is wanted also when all is well.
pub const ACK: u16 = 4;
/// List everything that matches.
pub const DUMP: u16 = 0x300;
/// Replace what is there.
pub const REPLACE: u16 = 0x100;
/// Fail if it is there.
pub const EXCL: u16 = 0x200;
/// Make it if it is not there.
pub const CREATE: u16 = 0x400;
/// Add at the end.
pub const APPEND: u16 = 0x800;
/// In an answer: what was listed changed meanwhile.
const DUMP_INTERRUPTED: u16 = 0x10;
/// In an error: the request is not repeated in it.
const CAPPED: u16 = 0x100;
/// In an error: attributes follow.
const ERROR_ATTRIBUTES: u16 = 0x200;

/// Messages that are sent together, each with what it is for.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where each begins, and what it asks for.
    parts: Vec<(usize, Cow<'static, str>)>,
    too_long: Option<usize>,
}

impl Messages {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message of this kind: the fixed header of its family, then what `fill` writes. `what` completes
    /// the sentence "cannot ...".
    pub fn push(
        &mut self,
        kind: u16,
        flags: u16,
        what: impl Into<Cow<'static, str>>,
        header: &[u8],
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        let mut too_long = false;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        self.bytes.resize(align(self.bytes.len()), 0);
        fill(&mut Writer::new(&mut self.bytes, &mut too_long));
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.put(start, &length.to_ne_bytes()),
            Err(_) => too_long = true,
        }
        if too_long {
            self.too_long.get_or_insert(self.parts.len());
        }
        self.parts.push((start, what.into()));
        self
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// What the message at `index` asks for.
    pub(crate) fn what(&self, index: usize) -> &str {
        self.parts.get(index).map_or("do what was asked", |(_, what)| what)
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// Asks for an answer to the message at `index` also when all is well.
    pub(crate) fn want_answer(&mut self, index: usize) {
        let Some((start, _)) = self.parts.get(index) else { return };
        let at = start + 6;
        if let Some(flags) = self.bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let flags = u16::from_ne_bytes(*flags) | ACK;
            self.put(at, &flags.to_ne_bytes());
        }
    }

    /// The bytes to be sent, with consecutive numbers from `first` on.
    pub(crate) fn numbered(&mut self, first: u32) -> Result<&[u8]> {
        if let Some(index) = self.too_long {
            return Err(NetlinkError::TooLong { what: self.what(index).to_owned() });
        }
        let mut number = first;
        for index in 0..self.parts.len() {
            let Some((start, _)) = self.parts.get(index) else { break };
            self.put(start + 8, &number.to_ne_bytes());
            number = number.wrapping_add(1);
        }
        Ok(&self.bytes)
    }
}

/// A message that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its kind.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The number of the request that it answers.
    pub number: u32,
    /// The socket that it answers.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed header of this length; none where the message is shorter.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes::new(self.payload.get(align(header)..).unwrap_or_default())
    }

    /// The fixed header, if the message is that long.
    #[must_use]
    pub fn header<const N: usize>(&self) -> Option<&'a [u8; N]> {
        self.payload.first_chunk()
    }

    /// Whether what is being listed changed meanwhile.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        // The bit has another meaning where it is not a listing.
        self.kind != ERROR && self.flags & DUMP_INTERRUPTED != 0
    }

    /// Whether it carries nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.kind == NOOP
    }

    /// The answer in an `ERROR` or `DONE`: no error, or which.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        let mut answer = Answer { errno: None, text: None, offset: None };
        if code == 0 || (self.kind == DONE && code > 0) {
            return Some(answer);
        }
        answer.errno =
            Some(Errno::from_raw_os_error(code.checked_neg().filter(|code| (1..4096).contains(code))?));
        if self.flags & ERROR_ATTRIBUTES != 0 {
            // The refused message's header is repeated, and all of it unless the flag says otherwise.
            let repeated = self
                .payload
                .get(4..)
                .and_then(|rest| rest.first_chunk())
                .map(|length| u32::from_ne_bytes(*length));
            let skip = match (self.kind, repeated) {
                (ERROR, Some(length)) if self.flags & CAPPED == 0 => {
                    align(usize::try_from(length).unwrap_or(0).min(self.payload.len()))
                }
                (ERROR, _) => HEADER,
                _ => 0,
            };
            let attributes = Attributes::new(self.payload.get(4 + skip..).unwrap_or_default());
            answer.text = attributes.get(1).and_then(|text| text.text()).map(str::to_owned);
            answer.offset = attributes.get(2).and_then(|offset| offset.u32());
        }
        Some(answer)
    }
}

/// What the kernel says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What went wrong, if anything.
    pub errno: Option<Errno>,
    /// In words.
    pub text: Option<String>,
    /// At which byte of the request.
    pub offset: Option<u32>,
}

/// The messages in what arrived.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a>(&'a [u8]);

impl<'a> Received<'a> {
    /// Reads these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Received<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, n0, n1, n2, n3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let Some(payload) = self.0.get(HEADER..length) else {
            self.0 = &[];
            return None;
        };
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            number: u32::from_ne_bytes([n0, n1, n2, n3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::tests::noise;
    use super::*;

    #[test]
    fn messages_are_numbered_and_read_back() {
        let mut messages = Messages::new();
        messages.push(16, CREATE | EXCL, "make a", &[1, 2, 3, 4], |writer| {
            writer.text(3, "a");
        });
        messages.push(17, 0, "drop b", &[9], |_| {});
        messages.want_answer(1);
        let bytes = messages.numbered(u32::MAX).unwrap().to_vec();
        let read: Vec<_> = Received::new(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].number), (16, CREATE | EXCL | REQUEST, u32::MAX));
        assert_eq!(read[0].header(), Some(&[1, 2, 3, 4]));
        assert_eq!(read[0].attributes(4).get(3).unwrap().text(), Some("a"));
        assert_eq!((read[1].kind, read[1].flags, read[1].number), (17, ACK | REQUEST, 0));
        assert_eq!(read[1].attributes(1).count(), 0);
        assert_eq!(messages.what(1), "drop b");
        assert_eq!((messages.count(), messages.length()), (2, bytes.len()));
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let mut messages = Messages::new();
        messages.push(1, 0, "be small", &[], |_| {});
        messages.push(1, 0, "be large", &[], |writer| {
            writer.bytes(1, &vec![0; 70_000]);
        });
        assert_eq!(
            messages.numbered(1).unwrap_err().to_string(),
            "cannot be large: it does not fit into one request"
        );
    }

    /// What the kernel answers: the error, the refused header, attributes.
    fn refusal(flags: u16, code: i32, repeated: &[u8]) -> Vec<u8> {
        let mut payload = code.to_ne_bytes().to_vec();
        payload.extend_from_slice(&u32::try_from(HEADER + repeated.len()).unwrap().to_ne_bytes());
        payload.extend_from_slice(&[0; 12]);
        if flags & CAPPED == 0 {
            payload.extend_from_slice(repeated);
        }
        let mut too_long = false;
        Writer::new(&mut payload, &mut too_long).text(1, "no such thing").u32(2, 24);
        let mut bytes = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&ERROR.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&payload);
        bytes
    }

    #[test]
    fn refusals_are_read_with_their_words() {
        for flags in [ERROR_ATTRIBUTES, ERROR_ATTRIBUTES | CAPPED] {
            let bytes = refusal(flags, -17, &[7; 8]);
            let answer = Received::new(&bytes).next().unwrap().answer().unwrap();
            assert_eq!(answer.errno, Some(Errno::EXIST));
            assert_eq!(answer.text.as_deref(), Some("no such thing"));
            assert_eq!(answer.offset, Some(24));
        }
        let bytes = refusal(0, 0, &[]);
        assert_eq!(Received::new(&bytes).next().unwrap().answer().unwrap().errno, None);
        // Codes that are no errors are not believed.
        for code in [1, i32::MIN, -5_000] {
            let bytes = refusal(0, code, &[]);
            assert_eq!(Received::new(&bytes).next().unwrap().answer(), None);
        }
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_go_on_for_ever() {
        let good = refusal(ERROR_ATTRIBUTES, -17, &[7; 8]);
        for end in 0..=good.len() {
            for message in Received::new(&good[..end]) {
                let _answer = message.answer();
            }
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                for message in Received::new(&bytes) {
                    let _answer = message.answer();
                    let _attributes = message.attributes(4).count();
                }
            }
        }
        for seed in 0..2_000 {
            let mut bytes = noise(seed, 200);
            bytes[1..4].fill(0);
            assert!(Received::new(&bytes).filter_map(|message| message.answer()).count() <= 200);
        }
    }
}
