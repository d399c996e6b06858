//! What an image was made for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is an invalid platform: want os[/architecture[/variant]]")]
pub struct InvalidPlatform(pub String);

/// Operating system and processor, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows only.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

const fn host_architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else if cfg!(target_arch = "riscv64") {
        "riscv64"
    } else {
        "unknown"
    }
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: host_architecture().into(), variant: None, os_version: None }
    }

    /// Parses `os[/architecture[/variant]]`; one word may also be an architecture alone.
    pub fn parse(text: &str) -> Result<Self, InvalidPlatform> {
        let error = || InvalidPlatform(text.chars().take(100).collect());
        let valid = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.len() <= 64
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| valid(part)) {
            return Err(error());
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            [one @ ("linux" | "windows" | "darwin" | "freebsd")] => (*one, host.architecture.as_str(), None),
            [one] => ("linux", *one, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(error()),
        };
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i486" | "i586" | "i686" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        // The eighth variant is the only 64-bit one there was when the name was given.
        let variant = variant.or(implied).filter(|v| !(architecture == "arm64" && matches!(*v, "8" | "v8")));
        Ok(Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
            os_version: None,
        })
    }

    /// Whether a program for `self` is what `wanted` asks for. A missing variant matches any.
    #[must_use]
    pub fn matches(&self, wanted: &Self) -> bool {
        let plain = |p: &Self| p.variant.clone().filter(|v| !(p.architecture == "arm64" && v == "v8"));
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (plain(wanted).is_none() || plain(self) == plain(wanted))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
            ("Linux/AArch64", "linux/arm64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), expected);
        }
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/a b", "../x"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
