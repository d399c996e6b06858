//! `--network-rate-in` and `--network-rate-out`: `10mbit` or `1.25MB/s`.

/// Bytes a second. Bits are counted as `tc` does, `bit`, `kbit`, `mbit`, `gbit` and with an `i` for powers of 1024; bytes
/// are written `B/s`, `kB/s`, `MB/s`, `MiB/s`. Nothing and `0` are no limit.
pub(crate) fn rate(flag: &str, text: &str) -> Result<Option<i64>, String> {
    let wrong = |why: &str| {
        format!(
            "invalid argument \"{text}\" for \"--{flag}\" flag: {why} (10mbit or 1.25MB/s; 0 is no limit)"
        )
    };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    if matches!(trimmed, "0" | "none") {
        return Ok(Some(0));
    }
    let end = trimmed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let (eighths, prefix) = if let Some(prefix) = unit.trim().strip_suffix("B/s") {
        (8, prefix.to_ascii_lowercase())
    } else if let Some(prefix) = unit.trim().to_ascii_lowercase().strip_suffix("bit") {
        (1, prefix.to_owned())
    } else if unit.is_empty() {
        return Err(wrong("a unit is missing"));
    } else {
        return Err(wrong(&format!("unknown unit {:?}", unit.trim())));
    };
    let factor: u64 = match prefix.as_str() {
        "" => 1,
        "k" => 1000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(wrong(&format!("unknown unit {:?}", unit.trim()))),
    };
    let thousandths = thousandths(number).ok_or_else(|| wrong(&format!("{number:?} is no number")))?;
    let bits = thousandths
        .checked_mul(factor)
        .and_then(|bits| bits.checked_mul(eighths))
        .ok_or_else(|| wrong("too large"))?;
    let bytes = bits.div_ceil(8 * 1000);
    i64::try_from(bytes).map(Some).map_err(|_| wrong("too large"))
}

/// A decimal number with at most three places.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || places.len() > 3 {
        return None;
    }
    let places: u64 = format!("{places:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_or_bytes_a_second() {
        for (text, bytes) in [
            ("", None),
            ("0", Some(0)),
            ("none", Some(0)),
            ("8kbit", Some(1000)),
            ("10mbit", Some(1_250_000)),
            ("10Mbit", Some(1_250_000)),
            ("1gbit", Some(125_000_000)),
            ("1.25MB/s", Some(1_250_000)),
            ("1.5 MiB/s", Some(1_572_864)),
            ("2kB/s", Some(2000)),
            ("100B/s", Some(100)),
            ("1bit", Some(1)),
            ("1kibit", Some(128)),
        ] {
            assert_eq!(rate("network-rate-in", text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_could_be_either_is_refused() {
        for (text, why) in [
            ("10", "a unit is missing"),
            ("10mbps", "unknown unit \"mbps\""),
            ("10Mb/s", "unknown unit \"Mb/s\""),
            ("mbit", "\"\" is no number"),
            ("1.2.3mbit", "\"1.2.3\" is no number"),
            ("-1mbit", "unknown unit"),
            ("1.2345mbit", "is no number"),
            ("99999999999999999999mbit", "is no number"),
            ("99999999tbit", "too large"),
        ] {
            let error = rate("network-rate-in", text).unwrap_err();
            assert!(error.contains(why) && error.contains("--network-rate-in"), "{text}: {error}");
        }
    }
}
