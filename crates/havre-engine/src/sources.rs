//! Sources of bind mounts: whether they are there, and making those that may be made.
//!
//! Invariant: a file system that never answers (a dead network share, a hung FUSE server) costs one thread and
//! the caller that asked, for a bounded time; nobody else, and not the next engine: such a thread cannot be
//! killed, so it holds none of our descriptors.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::EngineError;
use crate::spec::{MountKind, MountSpec};

/// Longer than a disk needs to spin up.
const WITHIN: Duration = Duration::from_secs(20);
/// Sources that do not answer before no more are asked.
const MOST_STUCK: usize = 64;

/// What is asked of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// That those are there which nobody makes.
    Exist,
    /// That all are there, those that may be made having been made, and propagate as asked.
    Ready,
}

/// Looks at the sources of bind mounts.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Those that have not answered in time, and not since.
    stuck: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Sources {
    /// Looks at the sources of `mounts`.
    pub(crate) async fn look(&self, mounts: &[MountSpec], look: Look) -> Result<(), EngineError> {
        let concerned = |mount: &&MountSpec| match &mount.kind {
            MountKind::Bind { create, .. } => look == Look::Ready || !create,
            MountKind::Tmpfs { .. } => false,
        };
        let mounts: Vec<MountSpec> = mounts.iter().filter(concerned).cloned().collect();
        let paths: Vec<PathBuf> = mounts.iter().filter_map(source).map(Path::to_owned).collect();
        let Some(first) = paths.first().cloned() else { return Ok(()) };
        {
            let stuck = locked(&self.stuck);
            let known = paths.iter().find(|path| stuck.contains(*path));
            if let Some(path) = known.or_else(|| stuck.first().filter(|_| stuck.len() >= MOST_STUCK)) {
                return Err(silent(path));
            }
        }
        let stuck = Arc::clone(&self.stuck);
        let waiting = tokio::task::spawn_blocking(move || {
            wait_for(&stuck, paths, move || {
                havre_sys::process::let_go_of_descriptors().map_err(EngineError::io("examine", &first))?;
                mounts.iter().try_for_each(|mount| examine(mount, look))
            })
        });
        waiting.await.map_err(|_| EngineError::ShuttingDown)?
    }
}

fn locked(stuck: &Mutex<BTreeSet<PathBuf>>) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
    stuck.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` in a thread of its own and waits for it, but not for ever.
fn wait_for(
    stuck: &Arc<Mutex<BTreeSet<PathBuf>>>,
    paths: Vec<PathBuf>,
    work: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
) -> Result<(), EngineError> {
    let first = paths.first().cloned().unwrap_or_default();
    let (told, answer) = std::sync::mpsc::sync_channel(1);
    let done = Arc::new(AtomicBool::new(false));
    let thread = {
        let (stuck, done, paths) = (Arc::clone(stuck), Arc::clone(&done), paths.clone());
        move || {
            let result = work();
            let mut stuck = locked(&stuck);
            done.store(true, Ordering::Relaxed);
            paths.iter().for_each(|path| _ = stuck.remove(path));
            // Nobody may be waiting any more.
            told.send(result).unwrap_or(());
        }
    };
    std::thread::Builder::new()
        .name("bind-sources".into())
        .spawn(thread)
        .map_err(EngineError::io("start a thread to examine", &first))?;
    if let Ok(result) = answer.recv_timeout(WITHIN) {
        return result;
    }
    let mut stuck = locked(stuck);
    if !done.load(Ordering::Relaxed) {
        stuck.extend(paths);
    }
    Err(silent(&first))
}

fn source(mount: &MountSpec) -> Option<&Path> {
    match &mount.kind {
        MountKind::Bind { source, .. } => Some(source),
        MountKind::Tmpfs { .. } => None,
    }
}

fn silent(path: &Path) -> EngineError {
    let why = format!("the file system does not answer within {} seconds", WITHIN.as_secs());
    EngineError::io("examine bind source", path)(io::Error::new(io::ErrorKind::TimedOut, why))
}

/// `-v` makes a missing source; `--mount` refuses it.
fn examine(mount: &MountSpec, look: Look) -> Result<(), EngineError> {
    let MountKind::Bind { source, create, .. } = &mount.kind else { return Ok(()) };
    match std::fs::metadata(source).or_else(|_| std::fs::symlink_metadata(source)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && *create && look == Look::Ready => {
            std::fs::create_dir_all(source).map_err(EngineError::io("create bind source", source))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(EngineError::Invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                source.display()
            )));
        }
        Err(error) => return Err(EngineError::io("look at bind source", source)(error)),
    }
    if look == Look::Ready { crate::propagation::check(mount) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RecursiveReadOnly;

    fn bind(source: &Path, create: bool) -> MountSpec {
        MountSpec {
            target: "/x".into(),
            kind: MountKind::Bind {
                source: source.to_owned(),
                create,
                recursive: true,
                recursive_read_only: RecursiveReadOnly::Try,
                propagation: "rprivate".into(),
            },
            read_only: false,
            mode: String::new(),
        }
    }

    #[test]
    fn missing_sources_are_made_or_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (sources, missing) = (Sources::default(), folder.path().join("a/b"));
        let ask = |create, look| runtime.block_on(sources.look(&[bind(&missing, create)], look));
        let error = ask(false, Look::Exist).unwrap_err().to_string();
        assert!(error.contains("bind source path does not exist"), "{error}");
        ask(true, Look::Exist).unwrap();
        assert!(!missing.exists());
        ask(true, Look::Ready).unwrap();
        assert!(missing.is_dir());
        ask(false, Look::Ready).unwrap();
    }

    #[test]
    fn a_source_that_did_not_answer_is_not_asked_again_before_it_has() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (sources, here) = (Sources::default(), PathBuf::from("/"));
        locked(&sources.stuck).insert(here.clone());
        let ask = || runtime.block_on(sources.look(&[bind(&here, false)], Look::Ready));
        let error = havre_base::chain(&ask().unwrap_err());
        assert!(error.contains("does not answer") && error.contains("bind source /"), "{error}");
        // The thread that hung comes back.
        wait_for(&sources.stuck, vec![here.clone()], || Ok(())).unwrap();
        ask().unwrap();
    }
}
