//! Reading one record.
//!
//! Our own records take a short path; whatever else is valid JSON with the same fields (other writers,
//! `attrs`) takes the long one. Anything else is no record.

use std::collections::BTreeMap;

use havre_base::Timestamp;
use serde::Deserialize;

use crate::encode::newline;
use crate::{Entry, Stream};

#[derive(Deserialize)]
struct Loose {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Parses `line` (without its newline) into `entry`; false when it is no record.
pub(crate) fn parse(line: &[u8], entry: &mut Entry) -> bool {
    debug_assert!(newline(line).is_none());
    entry.line.clear();
    entry.attributes.clear();
    if short(line, entry).is_some() {
        return true;
    }
    entry.line.clear();
    let Ok(loose) = serde_json::from_slice::<Loose>(line) else { return false };
    let Ok(time) = Timestamp::parse_rfc3339(&loose.time) else { return false };
    entry.time = time;
    entry.attributes = loose.attrs;
    entry.stream = if loose.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    entry.line.extend_from_slice(loose.log.as_bytes());
    true
}

fn short(line: &[u8], entry: &mut Entry) -> Option<()> {
    let mut rest = line.strip_prefix(b"{\"log\":\"")?;
    loop {
        let stop = rest.iter().position(|&b| b == b'"' || b == b'\\')?;
        entry.line.extend_from_slice(rest.get(..stop)?);
        let escape = rest.get(stop + 1..)?;
        if rest.get(stop) == Some(&b'"') {
            rest = escape;
            break;
        }
        let (&kind, after) = escape.split_first()?;
        rest = after;
        match kind {
            b'n' => entry.line.push(b'\n'),
            b'r' => entry.line.push(b'\r'),
            b't' => entry.line.push(b'\t'),
            b'"' | b'\\' | b'/' => entry.line.push(kind),
            b'u' => {
                let digits = std::str::from_utf8(after.get(..4)?).ok()?;
                // A surrogate is no char: the long way knows pairs.
                let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                entry.line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after.get(4..)?;
            }
            _ => return None,
        }
    }
    rest = rest.strip_prefix(b",\"stream\":\"")?;
    (entry.stream, rest) = match rest.strip_prefix(b"stdout") {
        Some(after) => (Stream::Stdout, after),
        None => (Stream::Stderr, rest.strip_prefix(b"stderr")?),
    };
    let time = rest.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
    entry.time = utc(time)?;
    std::str::from_utf8(&entry.line).ok().map(drop)
}

/// `2026-01-02T15:04:05.123456789Z`.
fn utc(text: &[u8]) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to)?
            .iter()
            .try_fold(0_i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|&(at, mark)| text.get(at) != Some(&mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1678..2262).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let nanos = match text.get(19..)? {
        [b'Z'] => 0,
        [b'.', digits @ .., b'Z'] if (1..=9).contains(&digits.len()) => {
            let scale = 10_i64.pow(u32::try_from(9 - digits.len()).ok()?);
            number(20, 20 + digits.len())? * scale
        }
        _ => return None,
    };
    // Civil date to days since the epoch, counting years from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Entry> {
        let mut entry = Entry::default();
        parse(line.as_bytes(), &mut entry).then_some(entry)
    }

    #[test]
    fn the_short_way_and_the_long_way_agree_on_times() {
        for nanos in [0, 1, 951_782_400_120_000_000, 1_795_000_000_123_456_789, -1, 1_709_164_800_000_000_000]
        {
            let time = Timestamp::from_nanos(nanos);
            assert_eq!(utc(time.to_string().as_bytes()), Some(time), "{time}");
        }
        for bad in ["", "2026-01-02T15:04:05", "2026-13-02T15:04:05Z", "2026-01-02T15:04:05.Z"] {
            assert_eq!(utc(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn reads_records_of_other_writers() {
        let entry = read(
            r#"{"log":"\ud83c\udf89\n","stream":"stderr","attrs":{"a":"b"},"time":"2026-01-02T15:04:05+01:00"}"#,
        );
        let entry = entry.unwrap();
        assert_eq!(entry.line, "🎉\n".as_bytes());
        assert_eq!(entry.stream, Stream::Stderr);
        assert_eq!(entry.attributes["a"], "b");
        assert_eq!(entry.time.to_string(), "2026-01-02T14:04:05Z");
    }

    #[test]
    fn refuses_what_is_no_record() {
        for bad in
            ["", "{", "\0\0\0\0", r#"{"log":"x"#, r#"{"log":"x","stream":"stdout","time":"soon"}"#, "[1]"]
        {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
