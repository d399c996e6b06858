//! Versions of the Engine API.

use std::fmt;

/// A version such as 1.44.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// The number before the dot.
    pub major: u16,
    /// The number after the dot.
    pub minor: u16,
}

impl ApiVersion {
    /// The newest version spoken.
    pub const CURRENT: Self = Self::new(1, 56);
    /// The oldest version spoken.
    pub const OLDEST: Self = Self::new(1, 24);

    /// A version from its two numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Parses `1.44` or `v1.44`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let (major, minor) = bare.split_once('.')?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if plain { digits.parse().ok() } else { None }
        };
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_refuse_nonsense() {
        assert!(ApiVersion::parse("1.9") < ApiVersion::parse("v1.24"));
        assert_eq!(ApiVersion::parse("1.56").map(|v| v.to_string()).as_deref(), Some("1.56"));
        for bad in ["", "1", "v", "1.", ".1", "1.+4", "1.99999999", "1.2.3"] {
            assert_eq!(ApiVersion::parse(bad), None, "{bad}");
        }
    }
}
