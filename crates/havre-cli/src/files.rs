//! Files and archives that commands read and write: `--env-file`, `--label-file`, `load -i`, `save -o`.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use havre_client::RequestBody;
use tokio::sync::mpsc;

use crate::failure::{Failure, file_error};

/// Reads `NAME=value` lines. A bare name takes its value from our environment, or vanishes when it has
/// none, or when nothing is to be inherited.
pub(crate) fn variables(path: &str, inherit: bool) -> Result<Vec<String>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::usage(file_error("open", path, &error)))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut variables = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(Failure::usage(format!(
                "env file {path} contains invalid utf8 bytes at line {}",
                index + 1
            )));
        };
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!(
                "invalid env file ({path}): no variable name on line '{line}'"
            )));
        }
        if name.contains(char::is_whitespace) {
            return Err(Failure::usage(format!(
                "invalid env file ({path}): variable '{name}' contains whitespaces"
            )));
        }
        match value {
            Some(value) => variables.push(format!("{name}={value}")),
            None if inherit => {
                if let Ok(value) = std::env::var(name) {
                    variables.push(format!("{name}={value}"));
                }
            }
            None => {}
        }
    }
    Ok(variables)
}

/// Streams a file, or standard input, as a request's body.
pub(crate) fn upload(source: Option<File>) -> io::Result<RequestBody> {
    let (sender, body) = mpsc::channel(4);
    // Ends with the file, or when the request is over and nobody receives.
    std::thread::Builder::new().name("upload".into()).spawn(move || {
        let mut reader: Box<dyn Read> = match source {
            Some(file) => Box::new(file),
            None => Box::new(io::stdin()),
        };
        loop {
            let mut piece = vec![0; 256 * 1024];
            let piece = match reader.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    Ok(Bytes::from(piece))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_have_comments_values_and_bare_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}# c\nA=1=2\n\n  B=x y\r\nNO_SUCH_NAME_SET\nHOME\n").unwrap();
        let path = file.path().to_str().unwrap();
        let home = format!("HOME={}", std::env::var("HOME").unwrap());
        assert_eq!(variables(path, true).unwrap(), ["A=1=2", "B=x y", &home]);
        assert_eq!(variables(path, false).unwrap(), ["A=1=2", "B=x y"]);
        std::fs::write(file.path(), "A B=1\n").unwrap();
        assert!(variables(path, true).is_err());
        std::fs::write(file.path(), "=1\n").unwrap();
        assert!(variables(path, true).is_err());
    }
}
