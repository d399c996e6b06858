//! Image references, with the defaults Docker fills in.
//!
//! Invariant: a `Reference` is complete: it has a registry, a repository, and a tag or a digest. Equal
//! references are equal values, however short they were written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A text that is no reference. The words are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The grammar forbids it.
    #[error("invalid reference format")]
    Format,
    /// Upper-case letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// More than 255 bytes of repository name.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// It would be taken for an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Hexadecimal(String),
}

/// `registry/repository:tag@digest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user wrote; `busybox` becomes `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        if Digest::from_hex(text).is_some() {
            return Err(InvalidReference::Hexadecimal(text.into()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).map_err(|_| InvalidReference::Format)?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Format);
        }
        let (domain, path) = match name.split_once('/') {
            Some((head, path))
                if head.contains(['.', ':']) || head == "localhost" || head != head.to_lowercase() =>
            {
                (if head == "index.docker.io" { DEFAULT_DOMAIN } else { head }, path)
            }
            _ => (DEFAULT_DOMAIN, name),
        };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if path.to_lowercase() != path {
            return Err(InvalidReference::Uppercase(path));
        }
        if !is_domain(domain) || !path.split('/').all(is_component) {
            return Err(InvalidReference::Format);
        }
        if domain.len() + 1 + path.len() > 255 {
            return Err(InvalidReference::TooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { domain: domain.into(), path, tag, digest })
    }

    /// Whether the text names a repository and neither a tag nor a digest.
    #[must_use]
    pub fn is_repository(text: &str) -> bool {
        !text.contains('@') && text.rsplit_once(':').is_none_or(|(_, after)| after.contains('/'))
    }

    /// The registry, `docker.io` by default.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, as `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, complete.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Registry and repository as users write them: `busybox`, `me/app`, `example.org/app`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            let short = self.path.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/'));
            short.unwrap_or(&self.path).to_owned()
        } else {
            self.name()
        }
    }

    /// The whole reference as users write it, always with its tag or digest: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same repository with this tag and no digest.
    pub fn at_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Format);
        }
        Ok(Self { digest: None, tag: Some(tag.into()), ..self.clone() })
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

/// The complete form.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or any number of hyphens.
fn is_component(text: &str) -> bool {
    let mut rest = text;
    loop {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if after.len() == rest.len() {
            return false;
        }
        if after.is_empty() {
            return true;
        }
        rest = match after.as_bytes() {
            [b'_', b'_', ..] => &after[2..],
            [b'.' | b'_', ..] => &after[1..],
            [b'-', ..] => after.trim_start_matches('-'),
            _ => return false,
        };
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(after) = text.strip_prefix('[') {
        let Some((address, port)) = after.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match port.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if port.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_are_completed() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("index.docker.io/me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("host:5000/app", "host:5000/app:latest", "host:5000/app:latest"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("example.org/a__b-c.d:X_1", "example.org/a__b-c.d:X_1", "example.org/a__b-c.d:X_1"),
            ("UPPER/app", "UPPER/app:latest", "UPPER/app:latest"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let text = format!("busybox@sha256:{HEX}");
        let reference = Reference::parse(&text).unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.familiar(), text);
        let both = format!("busybox:1@sha256:{HEX}");
        assert_eq!(Reference::parse(&both).unwrap().familiar(), both);
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let long = "a/".repeat(130) + "a";
        for bad in [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "a:b:c",
            "a@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "é",
            "a/../b",
            "../a",
            ".",
            "a:.x",
            "host:port/a",
            "[::1/a",
            "a\n",
        ] {
            assert_eq!(Reference::parse(bad), Err(InvalidReference::Format), "{bad:?}");
        }
        assert!(matches!(Reference::parse("Busybox"), Err(InvalidReference::Uppercase(_))));
        assert!(matches!(Reference::parse(HEX), Err(InvalidReference::Hexadecimal(_))));
        assert_eq!(Reference::parse(&long), Err(InvalidReference::TooLong));
    }
}
