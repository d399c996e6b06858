//! How a command fails: a message and an exit code.

use std::cell::RefCell;

use havre_base::chain;
use havre_client::ClientError;

/// The message for standard error (empty: everything was said) and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Exit code 1.
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// A wrong command line: exit code 125.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(125, message)
    }

    /// Nothing more to say.
    pub(crate) fn quiet(code: u8) -> Self {
        Self::new(code, "")
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::plain(describe(&error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::quiet(1)
        } else {
            Self::plain(error.to_string())
        }
    }
}

thread_local! {
    /// What the daemon did not find, so that something near can be offered when all is said.
    static MISSING: RefCell<Vec<Missing>> = const { RefCell::new(Vec::new()) };
}

/// An object that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) name: String,
    /// Whether it was looked for among containers, and among images.
    pub(crate) container: bool,
    pub(crate) image: bool,
}

impl Missing {
    /// From an error's text.
    fn parse(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("No such ")?;
        let (kind, name) = rest.split_once(": ")?;
        let (container, image) = match kind {
            "container" => (true, false),
            "image" => (false, true),
            "object" => (true, true),
            _ => return None,
        };
        Some(Self { name: name.lines().next()?.trim().to_owned(), container, image })
    }
}

/// Notes what an error's text says is not there.
pub(crate) fn note_missing(message: &str) {
    if let Some(missing) = Missing::parse(message) {
        MISSING.with_borrow_mut(|list| {
            if !list.contains(&missing) {
                list.push(missing);
            }
        });
    }
}

/// What was noted.
pub(crate) fn missing() -> Vec<Missing> {
    MISSING.take()
}

/// The text a user reads for a failed request.
pub(crate) fn describe(error: &ClientError) -> String {
    match error {
        ClientError::Api { status: 404, message } => {
            note_missing(message);
            format!("Error response from daemon: {message}")
        }
        ClientError::Api { message, .. } => format!("Error response from daemon: {message}"),
        ClientError::Connect { endpoint, source }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            let advice = if endpoint.starts_with("unix://") {
                "\nThe socket belongs to root and a group: run the command as root, or add yourself to the group"
            } else {
                ""
            };
            format!(
                "permission denied while trying to connect to the Docker daemon socket at {endpoint}: {source}{advice}"
            )
        }
        ClientError::Connect { endpoint, .. } => {
            format!("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")
        }
        other => chain(other),
    }
}

/// `open /x: no such file or directory`, as Go says it.
pub(crate) fn file_error(operation: &str, path: &str, error: &std::io::Error) -> String {
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        std::io::ErrorKind::AlreadyExists => "file exists".to_owned(),
        _ => error.to_string(),
    };
    format!("{operation} {path}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_read_from_the_daemons_words() {
        let missing = Missing::parse("No such container: wbe").unwrap();
        assert_eq!((missing.name.as_str(), missing.container, missing.image), ("wbe", true, false));
        assert!(Missing::parse("Error: No such object: x").is_some_and(|missing| missing.image));
        assert!(Missing::parse("No such image: busbox:latest").is_some());
        assert_eq!(Missing::parse("No such exec instance: x"), None);
        note_missing("No such container: a");
        note_missing("No such container: a");
        assert_eq!((super::missing().len(), super::missing().len()), (1, 0));
    }
}
