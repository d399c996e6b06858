//! The last words of a container, from its log.
//!
//! Invariant: a bounded end of the log is read, and what is in it is the container's word, not a proof.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes at the end of the log.
const TAIL: u64 = 16 * 1024;
/// Letters of a line that are looked at.
const LINE: usize = 512;

/// The last lines of a log.
pub(super) fn last(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        file.take(TAIL).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    // The first line may be cut; it is no JSON then.
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| Some(line.get("log")?.as_str()?.trim_end().chars().take(LINE).collect()))
        .collect()
}

/// The library that a loader says is missing: the words of glibc and of musl.
pub(super) fn missing_library(line: &str) -> Option<&str> {
    let name = if let Some((_, rest)) = line.split_once(": error while loading shared libraries: ") {
        rest.split_once(": cannot open shared object file").map(|(name, _)| name)
    } else {
        let rest = line.strip_prefix("Error loading shared library ")?;
        rest.split_once(": No such file or directory").map(|(name, _)| name)
    }?;
    (!name.is_empty() && name.len() < 256 && !name.contains(char::is_whitespace)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_understood_and_others_are_not() {
        for (line, library) in [
            (
                "ls: error while loading shared libraries: libx.so.1: cannot open shared object file: No such file or directory",
                Some("libx.so.1"),
            ),
            (
                "Error loading shared library libz.so.1: No such file or directory (needed by /a)",
                Some("libz.so.1"),
            ),
            ("sh: nope: not found", None),
            ("x: error while loading shared libraries: a b: cannot open shared object file", None),
        ] {
            assert_eq!(missing_library(line), library, "{line}");
        }
    }

    #[test]
    fn the_end_of_a_long_log_is_read() {
        let folder = std::env::temp_dir().join(format!("havre-why-words-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("log");
        let line = "{\"log\":\"x\\n\",\"stream\":\"stderr\"}\n".repeat(2_000);
        std::fs::write(&path, format!("{line}{{\"log\":\"last\\n\"}}\n")).unwrap();
        let lines = last(&path);
        assert!(lines.len() < 1_000);
        assert_eq!(lines.last().map(String::as_str), Some("last"));
        assert!(last(&folder.join("none")).is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
