//! The local time of day, as the C library knows the zone.

/// A point in time in the machine's zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Of the common era.
    pub year: i32,
    /// From 1.
    pub month: i32,
    /// From 1.
    pub day: i32,
    /// From 0, Sunday.
    pub weekday: i32,
    /// From 0, the first of January.
    pub day_of_year: i32,
    /// From 0.
    pub hour: i32,
    /// From 0.
    pub minute: i32,
    /// From 0.
    pub second: i32,
}

/// The local time at `seconds` since the epoch; the epoch itself when the year does not fit.
#[must_use]
pub fn local(seconds: i64) -> Local {
    // SAFETY: all-zero bytes are a valid `tm`: numbers and a pointer that may be null.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to living values of the right types; the result is one of them or null.
    let failed = unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null();
    if failed {
        tm.tm_year = 70;
        tm.tm_mday = 1;
    }
    Local {
        year: tm.tm_year.saturating_add(1900),
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        weekday: tm.tm_wday,
        day_of_year: tm.tm_yday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_its_hours_in_any_zone() {
        let (one, next) = (local(1_700_000_000), local(1_700_000_000 + 86_400));
        assert_eq!((one.year, one.month), (2023, 11));
        assert_eq!((one.minute, one.second, one.hour), (next.minute, next.second, next.hour));
        assert_eq!(next.day_of_year - one.day_of_year, 1);
        assert_eq!(local(i64::MAX).year, 1970);
    }
}
