//! Ids and names of containers and execs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id {0:?}: want 64 lowercase hexadecimal digits")]
pub struct InvalidId(pub String);

/// A name that Docker would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
pub struct InvalidName(pub String);

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn random_hex64() -> Box<str> {
    let mut bytes = [0_u8; 32];
    loop {
        // The kernel's random source fails only before it is seeded at boot; then there is nothing to do but ask again.
        if getrandom::fill(&mut bytes).is_ok() {
            break;
        }
    }
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    text.into()
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses 64 lowercase hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if is_hex64(text) { Ok(Self(text.into())) } else { Err(InvalidId(text.into())) }
            }

            /// A new id from the kernel's random source. Never all digits in its first twelve, because
            /// such a short id would be read as a number by host name rules (as Docker's).
            #[must_use]
            pub fn random() -> Self {
                loop {
                    let text = random_hex64();
                    if text.bytes().take(12).any(|b| !b.is_ascii_digit()) {
                        return Self(text);
                    }
                }
            }

            /// All 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as tables show them.
            #[must_use]
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }
    };
}

hex_id!(
    /// The id of a container.
    ContainerId
);
hex_id!(
    /// The id of a network.
    NetworkId
);
hex_id!(
    /// The id of a container's place in a network.
    EndpointId
);
hex_id!(
    /// The id of one exec in a container.
    ExecId
);

/// A container's name without the leading slash that Docker's API shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(Box<str>);

impl ContainerName {
    /// Parses `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, with or without a leading slash.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let bare = text.strip_prefix('/').unwrap_or(text);
        let mut bytes = bare.bytes();
        let head = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let tail = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if head && tail && (2..=255).contains(&bare.len()) {
            Ok(Self(bare.into()))
        } else {
            Err(InvalidName(text.into()))
        }
    }

    /// The name without a slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ContainerName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_distinct_and_usable_as_host_names() {
        let ids: Vec<_> = (0..100).map(|_| ContainerId::random()).collect();
        for id in &ids {
            assert_eq!(ContainerId::parse(id.as_str()).as_ref(), Ok(id));
            assert!(id.short().bytes().any(|b| !b.is_ascii_digit()));
        }
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn ids_refuse_what_is_not_64_lowercase_hex_digits() {
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_docker_rules() {
        for good in ["web", "/web", "a1", "0_.-x"] {
            assert!(ContainerName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-web", "a b", "a/b", "é1", "a\0b"] {
            assert!(ContainerName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
