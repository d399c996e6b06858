//! Compiled seccomp filters, each in a sealed memfd that every shim can read.
//!
//! Invariant: one profile with one set of capabilities is compiled once in the life of a daemon.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use havre_oci::runtime::LinuxSeccomp;
use havre_runtime::capabilities::CapabilitySet;
use havre_runtime::seccomp;

use crate::EngineError;
use crate::spec::SeccompSpec;

/// Filters kept; a machine rarely has more different ones, and then old ones are compiled again.
const KEPT: usize = 64;

/// A profile and the names of the capabilities that its conditions look at.
type Key = (SeccompSpec, Vec<String>);

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Protects the map; compiling takes a tenth of a millisecond and happens inside.
    compiled: Mutex<HashMap<Key, Arc<OwnedFd>>>,
}

impl Filters {
    /// The filter for a profile and the capabilities that its conditions look at; none when unconfined.
    pub(crate) fn get(
        &self,
        spec: &SeccompSpec,
        caps: CapabilitySet,
    ) -> Result<Option<OwnedFd>, EngineError> {
        if *spec == SeccompSpec::Unconfined {
            return Ok(None);
        }
        let key = (spec.clone(), caps.names());
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = match compiled.get(&key) {
            Some(fd) => Arc::clone(fd),
            None => {
                let Some(profile) = profile(spec, caps)? else { return Ok(None) };
                let fd = Arc::new(compile(&profile)?);
                if compiled.len() >= KEPT {
                    compiled.clear();
                }
                compiled.insert(key, Arc::clone(&fd));
                fd
            }
        };
        let copy = fd.try_clone().map_err(EngineError::io("duplicate", "a seccomp filter"))?;
        Ok(Some(copy))
    }
}

/// The profile as the specification writes it; none when unconfined.
pub(crate) fn profile(spec: &SeccompSpec, caps: CapabilitySet) -> Result<Option<LinuxSeccomp>, EngineError> {
    let profile = match spec {
        SeccompSpec::Unconfined => return Ok(None),
        SeccompSpec::Default => seccomp::docker_default(&caps),
        SeccompSpec::Profile(text) => seccomp::from_docker_json(text, &caps),
    };
    profile.map(Some).map_err(invalid)
}

fn invalid(error: havre_runtime::RuntimeError) -> EngineError {
    EngineError::Invalid(havre_base::chain(&error))
}

fn compile(profile: &LinuxSeccomp) -> Result<OwnedFd, EngineError> {
    let bytes = seccomp::compile(profile).map_err(invalid)?.to_bytes();
    sealed(&bytes).map_err(EngineError::io("make", "a seccomp filter"))
}

fn sealed(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::Write as _;

    use rustix::fs::{MemfdFlags, SealFlags};
    let fd = rustix::fs::memfd_create("havre-seccomp", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file.into())
}
