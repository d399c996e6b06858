//! What is kept of a container between two calls.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use havre_oci::runtime::{Spec, State, Status};
use havre_sys::durable::{self, Durability};
use havre_sys::lock::Lock;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::Global;
use crate::cgroup::Cgroup;
use crate::error::{RuntimeError, Step};

/// The state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    /// 1; a newer one is refused.
    pub(crate) format: u32,
    pub(crate) state: State,
    /// When the process started, in the kernel's ticks since it did.
    pub(crate) start_time: u64,
    pub(crate) cgroup: String,
    pub(crate) created: String,
}

/// A container's folder, locked.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// The folder of a new container.
    pub(crate) fn create(global: &Global, id: &str) -> Result<Self, RuntimeError> {
        let root = Path::new(&global.root);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .step_with(|| format!("make {}", global.root))?;
        let path = root.join(id);
        match fs::DirBuilder::new().mode(0o711).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::State(format!("container with id {id} already exists")));
            }
            other => other.step_with(|| format!("make {}", path.display()))?,
        }
        Self::lock(path)
    }

    /// The folder of an existing container.
    pub(crate) fn open(global: &Global, id: &str) -> Result<Self, RuntimeError> {
        let path = Path::new(&global.root).join(id);
        if !path.is_dir() {
            return Err(RuntimeError::NoSuchContainer(id.to_owned()));
        }
        Self::lock(path)
    }

    fn lock(path: PathBuf) -> Result<Self, RuntimeError> {
        let lock = Lock::acquire(&path.join("lock")).step_with(|| format!("lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn gate(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    pub(crate) fn save(&self, saved: &Saved) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(saved).map_err(io::Error::from).step("write the state")?;
        durable::replace_with(&self.path.join("state.json"), &bytes, 0o600, Durability::Process)
            .step("write the state")
    }

    pub(crate) fn save_spec(&self, spec: &Spec) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(spec).map_err(io::Error::from).step("write the spec")?;
        durable::replace_with(&self.path.join("config.json"), &bytes, 0o600, Durability::Process)
            .step("write the spec")
    }

    pub(crate) fn spec(&self) -> Result<Spec, RuntimeError> {
        read_spec(&self.path.join("config.json"))
    }

    /// The state, as it is now. `None`: `create` did not come to its end.
    pub(crate) fn load(&self) -> Result<Option<Saved>, RuntimeError> {
        let bytes = match fs::read(self.path.join("state.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.step("read the state")?,
        };
        let mut saved: Saved =
            serde_json::from_slice(&bytes).map_err(io::Error::from).step("read the state")?;
        if saved.format != 1 {
            return Err(RuntimeError::State(format!(
                "state of format {} is of a newer version",
                saved.format
            )));
        }
        if !saved.is_alive() {
            saved.state.status = Status::Stopped;
            saved.state.pid = None;
        }
        Ok(Some(saved))
    }

    pub(crate) fn remove(self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.step_with(|| format!("remove {}", self.path.display())),
        }
    }
}

impl Saved {
    fn is_alive(&self) -> bool {
        self.state.pid.is_some_and(|pid| start_time(pid) == Some(self.start_time))
    }

    pub(crate) fn cgroup(&self) -> Result<Cgroup, RuntimeError> {
        Cgroup::open(&self.cgroup)
    }

    /// The process, which is the one that was started.
    pub(crate) fn process(&self) -> Result<(Pid, OwnedFd), RuntimeError> {
        let gone = || RuntimeError::State(format!("container {} is not running", self.state.id));
        let pid = self.state.pid.and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
        // The number may have been used again before, but not since.
        if self.is_alive() { Ok((pid, pidfd)) } else { Err(gone()) }
    }
}

/// When a process started; `None` if it has ended, reaped or not.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

pub(crate) fn read_spec(path: &Path) -> Result<Spec, RuntimeError> {
    let bytes = fs::read(path).step_with(|| format!("read {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&bytes)
        .map_err(|error| RuntimeError::invalid(path.display().to_string(), error.to_string()))?;
    let supported = spec.oci_version.starts_with("1.") && spec.oci_version.split('.').count() >= 3;
    if !supported {
        return Err(RuntimeError::unsupported("ociVersion", format!("{:?}", spec.oci_version)));
    }
    Ok(spec)
}
