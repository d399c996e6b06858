//! Error kinds: the one vocabulary between the crates' error enums and the server's status table.

use std::error::Error;

/// What class of failure an error is; `havre-server` maps each to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed or names an impossible value (400).
    InvalidParameter,
    /// The caller is not known (401).
    Unauthorized,
    /// The caller may not do this (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The object's state forbids it (409).
    Conflict,
    /// A bound on size or count was exceeded (413).
    TooLarge,
    /// Already as asked; nothing changed (304).
    NotModified,
    /// Known, but not built yet (501).
    NotImplemented,
    /// Something this depends on is not available now (503).
    Unavailable,
    /// Everything else (500).
    Internal,
}

/// A total classification of an error. Implementations match without a `_` arm, so that a new variant
/// must choose.
pub trait Classify: Error {
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;
}

/// The message of `error` followed by those of its sources, joined by `: `.
///
/// `Display` of our errors never prints the source, so nothing is said twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(chain(&error), "cannot write /x: disk full");
    }
}
