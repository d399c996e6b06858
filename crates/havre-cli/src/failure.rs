//! How a command fails: a message and an exit code.

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

/// The text a user reads for a failed request.
pub(crate) fn describe(error: &ClientError) -> String {
    match error {
        ClientError::Api { message, .. } => format!("Error response from daemon: {message}"),
        ClientError::Connect { endpoint, source }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            format!(
                "permission denied while trying to connect to the Docker daemon socket at {endpoint}: {source}"
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
