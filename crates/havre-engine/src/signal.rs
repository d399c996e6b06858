//! Signals by name or number, as Docker reads them.

use crate::EngineError;

/// Names and Linux numbers that x86-64 and aarch64 share (signal(7)).
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];
/// The first and last real-time signal that programs may use (glibc keeps 32 and 33).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Parses `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+1`, `SIGRTMAX-2`.
pub fn parse(text: &str) -> Result<i32, EngineError> {
    let invalid = || EngineError::Invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => (RTMIN, offset),
        (_, Some(offset)) => (RTMAX, offset),
        (None, None) => return Err(invalid()),
    };
    let offset = match offset {
        "" => 0,
        signed if signed.starts_with(['+', '-']) => signed.parse::<i32>().map_err(|_| invalid())?,
        _ => return Err(invalid()),
    };
    base.checked_add(offset).filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(invalid)
}

/// The name of a signal, as `SIGTERM` or `SIGRTMIN+1`.
#[must_use]
pub fn name(signal: i32) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None if (RTMIN..=RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_nonsense_is_refused() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("RTMIN+3", 37), ("SIGRTMAX", 64)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        assert_eq!(
            (name(9), name(34), name(99)),
            ("SIGKILL".into(), "SIGRTMIN+0".into(), "signal 99".into())
        );
        for bad in ["", "0", "65", "-1", "SIGNOPE", "RTMIN-1", "RTMAX+1", "RTMINx"] {
            let error = parse(bad).unwrap_err().to_string();
            assert_eq!(error, format!("invalid signal: {bad}"));
        }
    }
}
