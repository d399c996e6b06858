//! The shim's state file: what a daemon reads that was away when the container ended.
//!
//! Invariant: the file is whole at any moment. It survives the process, not the machine: after a
//! restart of the machine no container runs, and the daemon knows that without being told.

use std::io;
use std::path::Path;

use havre_sys::durable::{self, Durability};

use super::protocol::{STATE, Status};

/// Writes the state beside and renames it into place.
pub(super) fn write(run_dir: &Path, status: &Status) -> io::Result<()> {
    let bytes = serde_json::to_vec(status).map_err(io::Error::other)?;
    durable::replace_with(&run_dir.join(STATE), &bytes, 0o600, Durability::Process)
}

/// Reads the state of a shim from its run folder; absent when it never came to run a process.
pub fn read(run_dir: &Path) -> io::Result<Option<Status>> {
    match std::fs::read(run_dir.join(STATE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use havre_base::Timestamp;

    use super::super::protocol::{Exit, VERSION};
    use super::*;

    #[test]
    fn what_was_written_is_read_and_absence_is_no_error() {
        let dir = std::env::temp_dir().join(format!("havre-shim-state-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(read(&dir).unwrap(), None);
        let status = Status {
            version: VERSION,
            shim_pid: 1,
            pid: 2,
            started_at: Timestamp::from_nanos(3),
            exit: Some(Exit {
                code: 137,
                oom_killed: true,
                at: Timestamp::from_nanos(4),
                evidence: Box::default(),
            }),
            execs: Vec::new(),
            oom_kills: 1,
        };
        write(&dir, &status).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(status));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_record_of_an_older_supervisor_is_read() {
        let dir = std::env::temp_dir().join(format!("havre-shim-old-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let old = r#"{"version":1,"shim_pid":1,"pid":2,"started_at":3,"exit":{"code":137,"oom_killed":true,"at":4},"execs":[],"oom_kills":1}"#;
        let at = serde_json::to_string(&Timestamp::from_nanos(4)).unwrap();
        std::fs::write(
            dir.join(STATE),
            old.replace(":3,", &format!(":{at},")).replace(":4}", &format!(":{at}}}")),
        )
        .unwrap();
        let exit = read(&dir).unwrap().unwrap().exit.unwrap();
        assert_eq!((exit.code, *exit.evidence), (137, crate::shim::evidence::Evidence::default()));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
