//! Messages that are passed on, as bytes.
//!
//! Invariants: an answer is passed on byte for byte but for its id, the case of its question, its ages and flags that
//! are this hop's, so that what we do not know (new record types, signatures, EDNS options) arrives whole; nothing is
//! passed on whose sections are not walked to the end. Pointers in names lead strictly backwards, so no walk is endless.

use std::time::Duration;

pub(super) const HEADER: usize = 12;
/// Longest name, RFC 1035 2.3.4.
const LONGEST_NAME: usize = 255;
/// A name of that length has no more labels, so no honest one has more pointers.
const MOST_POINTERS: usize = 127;
const OPT: u16 = 41;
const SOA: u16 = 6;
/// No answer is kept longer, whatever it says; negative ones less, RFC 2308 section 5.
const LONGEST_LIFE: u32 = 24 * 3600;
const LONGEST_NEGATIVE: u32 = 3 * 3600;

pub(super) const NO_ERROR: u8 = 0;
pub(super) const FORMAT_ERROR: u8 = 1;
pub(super) const SERVER_FAILURE: u8 = 2;
pub(super) const NAME_ERROR: u8 = 3;
pub(super) const NOT_IMPLEMENTED: u8 = 4;
pub(super) const REFUSED: u8 = 5;

const TRUNCATED: u8 = 0x02;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const CHECKING_DISABLED: u8 = 0x10;
const RESPONSE: u8 = 0x80;

fn u8_at(message: &[u8], at: usize) -> Option<u8> {
    message.get(at).copied()
}

pub(super) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = message.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Whether it is a question and not an answer; `None` where there is not even a header.
pub(super) fn is_question(message: &[u8]) -> Option<bool> {
    if message.len() < HEADER {
        return None;
    }
    Some(u8_at(message, 2)? & RESPONSE == 0)
}

/// What follows the name that begins here.
fn name_end(message: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut lowest, mut length, mut pointers, mut end) = (start, start, 0, 0, None);
    loop {
        let byte = u8_at(message, at)?;
        match byte {
            0 => return Some(end.unwrap_or(at + 1)),
            1..=63 => {
                length += usize::from(byte) + 1;
                at += usize::from(byte) + 1;
                if length >= LONGEST_NAME {
                    return None;
                }
            }
            0xC0..=0xFF => {
                let target = usize::from(u16_at(message, at)? & 0x3FFF);
                end.get_or_insert(at + 2);
                pointers += 1;
                if target >= lowest || pointers > MOST_POINTERS {
                    return None;
                }
                (lowest, at) = (target, target);
            }
            _ => return None,
        }
    }
}

/// The end of the only question, whose name is written out.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    if u16_at(message, 4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    loop {
        match u8_at(message, at)? {
            0 => break,
            length @ 1..=63 => at += usize::from(length) + 1,
            _ => return None,
        }
        if at - HEADER >= LONGEST_NAME {
            return None;
        }
    }
    let end = at + 5;
    (message.len() >= end).then_some(end)
}

/// An answer of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    bytes: Vec<u8>,
    /// Where the ages of its records are.
    ages: Vec<usize>,
    /// Where its question ends.
    question_end: usize,
    /// For how long it holds; zero where it is not to be kept.
    pub(super) life: Duration,
}

impl Answer {
    /// The answer to this question, if it is one and whole.
    pub(super) fn parse(mut bytes: Vec<u8>, question: &[u8]) -> Option<Self> {
        if is_question(&bytes)? || u8_at(&bytes, 2)? & 0x78 != 0 {
            return None;
        }
        let code = u8_at(&bytes, 3)? & 15;
        if u16_at(&bytes, 4)? == 0 && code != NO_ERROR {
            // What some servers say to what they do not understand. The question is put in, so that all are alike.
            let mut whole = bytes.get(..4)?.to_vec();
            whole.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            whole.extend_from_slice(question);
            let question_end = whole.len();
            return Some(Self { bytes: whole, ages: Vec::new(), question_end, life: Duration::ZERO });
        }
        let question_end = question_end(&bytes)?;
        let theirs = bytes.get(HEADER..question_end)?;
        let fixed = question.len().checked_sub(4)?;
        if theirs.len() != question.len()
            || theirs.get(fixed..) != question.get(fixed..)
            || !theirs.get(..fixed)?.eq_ignore_ascii_case(question.get(..fixed)?)
        {
            return None;
        }
        let truncated = u8_at(&bytes, 2)? & TRUNCATED != 0;
        let counts = [u16_at(&bytes, 6)?, u16_at(&bytes, 8)?, u16_at(&bytes, 10)?];
        let (mut at, mut ages, mut life, mut soa) = (question_end, Vec::new(), LONGEST_LIFE, false);
        'sections: for (section, count) in counts.into_iter().enumerate() {
            for _ in 0..count {
                if truncated && at == bytes.len() {
                    break 'sections;
                }
                let fields = name_end(&bytes, at)?;
                let kind = u16_at(&bytes, fields)?;
                let age = u32_at(&bytes, fields + 4)?;
                let data = fields + 10;
                let end = data + usize::from(u16_at(&bytes, fields + 8)?);
                if end > bytes.len() {
                    return None;
                }
                if kind != OPT {
                    ages.push(fields + 4);
                    // RFC 2181 section 8: with the highest bit it counts as none.
                    life = life.min(if age > i32::MAX.unsigned_abs() { 0 } else { age });
                }
                if kind == SOA && section == 1 {
                    let minimum = u32_at(&bytes, end.checked_sub(4).filter(|at| *at >= data)?)?;
                    (soa, life) = (true, life.min(minimum));
                }
                at = end;
            }
        }
        let negative = code == NAME_ERROR || counts.first() == Some(&0);
        if negative {
            life = life.min(LONGEST_NEGATIVE);
        }
        let kept = !truncated && matches!(code, NO_ERROR | NAME_ERROR) && (soa || !negative);
        let life = Duration::from_secs(if kept { life.into() } else { 0 });
        bytes.truncate(at);
        Some(Self { bytes, ages, question_end, life })
    }

    pub(super) fn is_truncated(&self) -> bool {
        u8_at(&self.bytes, 2).is_some_and(|flags| flags & TRUNCATED != 0)
    }

    pub(super) fn code(&self) -> u8 {
        u8_at(&self.bytes, 3).unwrap_or(SERVER_FAILURE) & 15
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.len() + self.ages.len() * size_of::<usize>()
    }

    /// As it is after this time, for this asker's question, and no longer than it takes.
    pub(super) fn render(&self, asked: &[u8], age: Duration, kept: bool, largest: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let passed = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for at in &self.ages {
            let left = u32_at(&bytes, *at).unwrap_or(0).saturating_sub(passed);
            put(&mut bytes, *at, &left.to_be_bytes());
        }
        adopt(&mut bytes, asked, self.question_end);
        if kept && let Some(flags) = bytes.get_mut(2) {
            *flags &= !AUTHORITATIVE;
        }
        if bytes.len() > largest {
            let edns = u16_at(asked, 10) == Some(1);
            bytes.truncate(self.question_end);
            if let Some(flags) = bytes.get_mut(2) {
                *flags |= TRUNCATED;
            }
            put(&mut bytes, 6, &[0; 6]);
            if edns {
                put(&mut bytes, 10, &[0, 1]);
                // The root, OPT, 4,096 bytes, no flags, no options.
                bytes.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        bytes
    }
}

/// Gives an answer the id, the flags and the spelling of its question.
fn adopt(answer: &mut [u8], asked: &[u8], question_end: usize) {
    put(answer, 0, asked.get(..2).unwrap_or(&[0, 0]));
    if let Some(question) = asked.get(HEADER..question_end) {
        put(answer, HEADER, question);
    }
    let wishes = u8_at(asked, 2).unwrap_or(0) & RECURSION_DESIRED;
    if let Some(flags) = answer.get_mut(2) {
        *flags = *flags & !RECURSION_DESIRED | wishes;
    }
    if let Some(flags) = answer.get_mut(3) {
        *flags |= RECURSION_AVAILABLE;
    }
}

/// An answer that says only why there is none; with the question where it can be read.
pub(super) fn failure(asked: &[u8], code: u8) -> Vec<u8> {
    let flags = u8_at(asked, 2).unwrap_or(0);
    let second = u8_at(asked, 3).unwrap_or(0) & CHECKING_DISABLED;
    let mut answer = asked.get(..2).unwrap_or(&[0, 0]).to_vec();
    answer.extend_from_slice(&[flags & 0x79 | RESPONSE, second | RECURSION_AVAILABLE | code]);
    let question = question_end(asked).and_then(|end| asked.get(HEADER..end)).filter(|_| flags & 0x78 == 0);
    answer.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    answer.extend_from_slice(question.unwrap_or_default());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n09_pointers_of_answers_lead_backwards_and_are_few() {
        let mut chain = vec![0];
        for at in 1..400_u16 {
            // Each points to the one before it, the first to the root.
            let before = if at == 1 { 0 } else { at * 2 - 3 };
            chain.extend_from_slice(&(0xC000 | before).to_be_bytes());
        }
        assert_eq!(name_end(&chain, 2 * 127 - 1), Some(2 * 127 + 1));
        assert_eq!(name_end(&chain, 2 * 128 - 1), None);
        for (message, start) in [
            (&[0xC0, 0][..], 0),
            (&[0xC0, 2, 0xC0, 0], 2),
            (&[1, b'a', 0xC0, 0], 0),
            (&[0xC0, 9, 0], 0),
            (&[0xC0], 0),
            (&[0x80, 0], 0),
            (&[63, 0], 0),
            (&[], 0),
        ] {
            assert_eq!(name_end(message, start), None, "{message:?}");
        }
        // Two names that share their end.
        assert_eq!(name_end(&[1, b'a', 0, 1, b'b', 0xC0, 0, 9], 3), Some(7));
    }

    #[test]
    fn failures_say_the_question_where_it_can_be_read() {
        let asked = [9, 8, 1, 0x10, 0, 1, 0, 0, 0, 0, 0, 1, 1, b'a', 0, 0, 1, 0, 1, 0xFF];
        let told = failure(&asked, REFUSED);
        assert_eq!(told, [9, 8, 0x81, 0x95, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]);
        let told = failure(asked.get(..14).unwrap(), FORMAT_ERROR);
        assert_eq!(told, [9, 8, 0x81, 0x91, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
