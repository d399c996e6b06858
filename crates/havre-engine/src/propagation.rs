//! Whether the mounts of this machine can propagate as a bind mount asks.
//!
//! Invariant: a bind that is to propagate and could not is refused, because the kernel would not say a word.

use std::path::Path;

use crate::EngineError;
use crate::spec::{MountKind, MountSpec};

/// Refuses a bind whose source cannot propagate as asked.
pub(crate) fn check(mount: &MountSpec) -> Result<(), EngineError> {
    let MountKind::Bind { source, propagation, .. } = &mount.kind else { return Ok(()) };
    if !matches!(propagation.as_str(), "shared" | "rshared" | "slave" | "rslave") {
        return Ok(());
    }
    let path = Path::new("/proc/self/mountinfo");
    let table = std::fs::read_to_string(path).map_err(EngineError::io("read", path))?;
    let real = std::fs::canonicalize(source).map_err(EngineError::io("find", source))?;
    refuse(&table, &real, propagation)
}

fn refuse(table: &str, source: &Path, propagation: &str) -> Result<(), EngineError> {
    let Some((point, fields)) = holder(table, source) else { return Ok(()) };
    let has = |word: &str| fields.iter().any(|field| field.starts_with(word));
    let (allowed, wanted) = match propagation.trim_start_matches('r') {
        "shared" => (has("shared:"), "a shared"),
        _ => (has("shared:") || has("master:"), "a shared or slave"),
    };
    if allowed {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "path {} is mounted on {point} but it is not {wanted} mount",
        source.display()
    )))
}

/// The mount that a path is on: its mount point and its optional fields. See `proc_pid_mountinfo(5)`.
fn holder<'a>(table: &'a str, path: &Path) -> Option<(String, Vec<&'a str>)> {
    let mut best: Option<(String, Vec<&str>)> = None;
    for line in table.lines() {
        let mut words = line.split(' ');
        let Some(point) = words.nth(4).map(unescape) else { continue };
        // Of two mounts at one place the later one is on top.
        let longer = best.as_ref().is_none_or(|(known, _)| point.len() >= known.len());
        if longer && path.starts_with(&point) {
            best = Some((point, words.skip(1).take_while(|word| *word != "-").collect()));
        }
    }
    best
}

/// Blanks in names are written as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
23 22 0:5 / /data rw,relatime - tmpfs x rw
24 22 0:6 / /data/with\\040blank rw master:3 - tmpfs x rw
25 22 0:7 / /over rw shared:7 - tmpfs x rw
26 25 0:8 / /over rw - tmpfs x rw
";

    #[test]
    fn a_source_must_be_able_to_propagate() {
        for (path, propagation, ok) in [
            ("/etc", "rshared", true),
            ("/etc", "slave", true),
            ("/data/x", "rshared", false),
            ("/data/x", "rslave", false),
            ("/data/with blank/x", "rslave", true),
            ("/data/with blank", "shared", false),
            ("/database", "shared", true),
            ("/over", "shared", false),
        ] {
            let result = refuse(TABLE, Path::new(path), propagation);
            assert_eq!(result.is_ok(), ok, "{path} {propagation}: {result:?}");
        }
        let error = refuse(TABLE, Path::new("/data/x"), "rshared").unwrap_err();
        assert_eq!(error.to_string(), "path /data/x is mounted on /data but it is not a shared mount");
    }
}
