//! JSON string escaping as Docker's writer does it, eight bytes at a time.
//!
//! Invariant: what is appended is valid UTF-8 and valid inside a JSON string, whatever the input bytes.
//! `<`, `>`, `&`, U+2028 and U+2029 are escaped as Go's encoders do; every invalid byte becomes `\ufffd`.

use std::collections::BTreeMap;

use havre_base::Timestamp;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The high bit of every byte of `word` that is zero; exact for the lowest such byte.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

const fn special_bytes(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    // '"' and '&' differ in bit 2 only, '<' and '>' in bit 1 only.
    let quote_or_and = zero_bytes((word | (ONES * 0x04)) ^ (ONES * 0x26));
    let angle = zero_bytes((word | (ONES * 0x02)) ^ (ONES * 0x3e));
    let backslash = zero_bytes(word ^ (ONES * 0x5c));
    ((control | word) & HIGH) | quote_or_and | angle | backslash
}

fn first(mask: u64) -> usize {
    usize::try_from(mask.trailing_zeros() / 8).unwrap_or(0)
}

fn scan(bytes: &[u8], mask: impl Fn(u64) -> u64, test: impl Fn(u8) -> bool) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = mask(u64::from_le_bytes(*word));
        if found != 0 {
            return index * 8 + first(found);
        }
    }
    words.len() * 8 + rest.iter().position(|&b| test(b)).unwrap_or(rest.len())
}

/// Where the first newline is.
pub(crate) fn newline(bytes: &[u8]) -> Option<usize> {
    let at = scan(bytes, |w| zero_bytes(w ^ (ONES * 0x0a)), |b| b == b'\n');
    (at < bytes.len()).then_some(at)
}

fn plain_prefix(bytes: &[u8]) -> usize {
    scan(bytes, special_bytes, |b| {
        !(0x20..0x80).contains(&b) || matches!(b, b'"' | b'&' | b'<' | b'>' | b'\\')
    })
}

/// How many of the first bytes form one valid character, and zero when they do not.
fn character(bytes: &[u8]) -> usize {
    let width = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return 0,
    };
    bytes.get(..width).filter(|text| std::str::from_utf8(text).is_ok()).map_or(0, <[u8]>::len)
}

/// Appends `bytes` to `out`, escaped.
pub(crate) fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let (plain, rest) = bytes.split_at(plain_prefix(bytes));
        out.extend_from_slice(plain);
        let Some(&byte) = rest.first() else { return };
        let mut used = 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0..0x80 => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            0x80.. => match character(rest) {
                0 => out.extend_from_slice(b"\\ufffd"),
                width => {
                    used = width;
                    match rest.get(..width) {
                        Some([0xe2, 0x80, 0xa8]) => out.extend_from_slice(b"\\u2028"),
                        Some([0xe2, 0x80, 0xa9]) => out.extend_from_slice(b"\\u2029"),
                        Some(text) => out.extend_from_slice(text),
                        None => {}
                    }
                }
            },
        }
        bytes = rest.get(used..).unwrap_or_default();
    }
}

/// Where to cut `bytes`, which are too long for one record, without splitting a character.
pub(crate) fn cut(bytes: &[u8]) -> usize {
    for back in 1..=3_usize.min(bytes.len()) {
        let at = bytes.len() - back;
        match bytes[at] {
            0x80..=0xbf => {}
            0xc2..=0xf4 => {
                let width = if bytes[at] >= 0xf0 {
                    4
                } else if bytes[at] >= 0xe0 {
                    3
                } else {
                    2
                };
                return if width > back && at > 0 { at } else { bytes.len() };
            }
            _ => break,
        }
    }
    bytes.len()
}

/// The end of a record, `","stream":"stdout","time":"…"}` and a newline, of which only the digits that
/// changed since the last record are formatted again.
#[derive(Debug)]
pub(crate) struct Tail {
    text: Vec<u8>,
    prefix: usize,
    second: Option<i64>,
    pub(crate) time: Timestamp,
}

impl Tail {
    pub(crate) fn new(stream: &str, attributes: &BTreeMap<String, String>) -> Self {
        let mut text = format!("\",\"stream\":\"{stream}\",").into_bytes();
        for (index, (name, value)) in attributes.iter().enumerate() {
            text.extend_from_slice(if index == 0 { b"\"attrs\":{\"" } else { b",\"" });
            escape(&mut text, name.as_bytes());
            text.extend_from_slice(b"\":\"");
            escape(&mut text, value.as_bytes());
            text.push(b'"');
        }
        text.extend_from_slice(if attributes.is_empty() { b"\"time\":\"" } else { b"},\"time\":\"" });
        Self { prefix: text.len(), text, second: None, time: Timestamp::default() }
    }

    pub(crate) fn set(&mut self, now: Timestamp) {
        if self.second.is_some() && self.time == now {
            return;
        }
        let second = now.as_seconds();
        if self.second != Some(second) {
            let whole = Timestamp::from_nanos(second.saturating_mul(1_000_000_000)).to_string();
            self.text.truncate(self.prefix);
            self.text.extend_from_slice(whole.trim_end_matches('Z').as_bytes());
            self.second = Some(second);
        } else {
            self.text.truncate(self.prefix + "2026-01-02T15:04:05".len());
        }
        self.time = now;
        let mut rest = now.as_nanos().rem_euclid(1_000_000_000);
        if rest != 0 {
            let mut digits = [b'0'; 9];
            for digit in digits.iter_mut().rev() {
                *digit = HEX[usize::try_from(rest % 10).unwrap_or(0)];
                rest /= 10;
            }
            let kept = digits.iter().rposition(|&d| d != b'0').map_or(0, |last| last + 1);
            self.text.push(b'.');
            self.text.extend_from_slice(&digits[..kept]);
        }
        self.text.extend_from_slice(b"Z\"}\n");
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_gos_encoder_escapes() {
        for (input, expected) in [
            (&b"plain text, longer than a word"[..], "plain text, longer than a word"),
            (b"<a href=\"x\">&amp;\\</a>", r#"\u003ca href=\"x\"\u003e\u0026amp;\\\u003c/a\u003e"#),
            (b"tab\tbell\x07esc\x1b[0m\r\n\0", r"tab\u0009bell\u0007esc\u001b[0m\r\n\u0000"),
            ("\u{2028}\u{2029}\u{2027}".as_bytes(), "\\u2028\\u2029\u{2027}"),
            ("grün 日本 🎉\x7f".as_bytes(), "grün 日本 🎉\x7f"),
            (b"bad \xff\xfe end", r"bad \ufffd\ufffd end"),
            (b"cut \xe6\x97", r"cut \ufffd\ufffd"),
            (b"surrogate \xed\xa0\x80", r"surrogate \ufffd\ufffd\ufffd"),
            (b"overlong \xc0\xaf", r"overlong \ufffd\ufffd"),
        ] {
            assert_eq!(escaped(input), expected);
        }
    }

    #[test]
    fn every_byte_at_every_offset_reads_back_as_itself() {
        for byte in 0..0x80_u8 {
            for offset in 0..17 {
                let mut input = vec![b'x'; 20];
                input[offset] = byte;
                let text = format!("\"{}\"", escaped(&input));
                let back: String = serde_json::from_str(&text).unwrap();
                assert_eq!(back.as_bytes(), input, "{byte:#x} at {offset}");
                assert_eq!(newline(&input), (byte == b'\n').then_some(offset));
            }
        }
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("aé".as_bytes()), 3);
        assert_eq!(cut(&"aé".as_bytes()[..2]), 1);
        assert_eq!(cut(&"a🎉".as_bytes()[..4]), 1);
        assert_eq!(cut("a🎉".as_bytes()), 5);
        assert_eq!(cut(b"\xff\xff\xff"), 3);
        assert_eq!(cut(b"\x80\x80\x80\x80"), 4);
    }

    #[test]
    fn times_print_as_the_clock_prints_them() {
        let mut tail = Tail::new("stderr", &BTreeMap::new());
        for nanos in [0, 1, 120_000_000, 999_999_999, 1_000_000_000, 1_795_000_000_123_456_789, 5] {
            let time = Timestamp::from_nanos(nanos);
            tail.set(time);
            let expected = format!("\",\"stream\":\"stderr\",\"time\":\"{time}\"}}\n");
            assert_eq!(std::str::from_utf8(tail.bytes()).unwrap(), expected);
        }
    }
}
