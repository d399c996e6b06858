//! What the daemon decides for all containers, and the part of it that a reload may change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use havre_net::fabric::FabricSpec;
use havre_oci::runtime::Rlimit;
use havre_runtime::shim::protocol::ExternalRuntime;

use crate::EngineError;
use crate::hygiene::Watermarks;
use crate::spec::{ContainerSpec, SeccompSpec};

/// The name of our own runtime.
pub const OWN_RUNTIME: &str = "havre";
/// Seconds between the stop signal and SIGKILL unless somebody says otherwise.
pub const STOP_TIMEOUT: i64 = 10;

/// What the daemon decides for all containers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Persistent state.
    pub data_root: PathBuf,
    /// State that a restart of the machine may lose.
    pub exec_root: PathBuf,
    /// Parent control group, as `/havre`.
    pub cgroup_parent: String,
    /// Our own reaper as process 1 unless a container says otherwise.
    pub default_init: bool,
    /// `no-new-privileges` unless a container says otherwise.
    pub no_new_privileges: bool,
    /// The profile of containers that name none.
    pub seccomp: SeccompSpec,
    /// Limits of containers that do not set the same ones.
    pub rlimits: Vec<Rlimit>,
    /// Whether a container gets a time namespace where the kernel has them.
    pub time_namespaces: bool,
    /// Folders with descriptions of devices (CDI); none turns that driver off.
    pub cdi_folders: Option<Vec<PathBuf>>,
    /// How networks are made on this host.
    pub fabric: FabricSpec,
    /// What `host-gateway` stands for; none for the addresses of the default network's bridge.
    pub host_gateways: Vec<IpAddr>,
    /// How containers resolve names that say nothing of it.
    pub dns: DnsDefaults,
    /// What may change while the daemon runs.
    pub live: Live,
}

/// How containers resolve names that say nothing of it; what is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsDefaults {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

impl DnsDefaults {
    /// What a container asks for: each part its own, or the default.
    #[must_use]
    pub fn of(&self, spec: &ContainerSpec) -> Self {
        let or = |own: &[String], other: &[String]| if own.is_empty() { other } else { own }.to_vec();
        Self {
            servers: or(&spec.dns, &self.servers),
            search: or(&spec.dns_search, &self.search),
            options: or(&spec.dns_options, &self.options),
        }
    }
}

/// What a reload of the configuration may change.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// OCI runtimes of others, by name. Ours is not among them.
    pub runtimes: BTreeMap<String, ExternalRuntime>,
    /// The runtime of containers that name none: [`OWN_RUNTIME`], or one of `runtimes`.
    pub default_runtime: String,
    /// Seconds between the stop signal and SIGKILL of containers that say nothing; negative waits for ever.
    pub stop_timeout: i64,
    /// When the disk of the data root is too full.
    pub watermarks: Option<Watermarks>,
}

impl Default for Reloadable {
    fn default() -> Self {
        Self {
            runtimes: BTreeMap::new(),
            default_runtime: OWN_RUNTIME.to_owned(),
            stop_timeout: STOP_TIMEOUT,
            watermarks: None,
        }
    }
}

/// One value that all holders see; it is replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<RwLock<Arc<Reloadable>>>);

impl Live {
    /// Starts with a value.
    #[must_use]
    pub fn new(value: Reloadable) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value in force.
    #[must_use]
    pub fn get(&self) -> Arc<Reloadable> {
        // A value is replaced whole, so a panic cannot leave half of one.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another value in force.
    pub fn set(&self, value: Reloadable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl Reloadable {
    /// Whom a container's runtime is; none for our own.
    pub(crate) fn runtime(&self, name: Option<&str>) -> Result<Option<&ExternalRuntime>, EngineError> {
        match name {
            None => Ok(None),
            Some(name) => match self.runtimes.get(name) {
                Some(runtime) => Ok(Some(runtime)),
                None if name.starts_with("io.containerd.") => Err(EngineError::Invalid(format!(
                    "unknown or invalid runtime name: {name}: it names a program of containerd, which is not used here; register the OCI runtime itself with --add-runtime"
                ))),
                None => Err(EngineError::Invalid(format!("unknown or invalid runtime name: {name}"))),
            },
        }
    }
}

/// The limits of a container: its own, then the daemon's of other kinds.
pub(crate) fn limits(own: &[Rlimit], defaults: &[Rlimit]) -> Vec<Rlimit> {
    let missing = defaults.iter().filter(|limit| own.iter().all(|own| own.kind != limit.kind));
    own.iter().chain(missing).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_own_limit_hides_the_daemons() {
        let limit = |kind: &str, soft| Rlimit { kind: kind.into(), soft, hard: soft };
        let merged = limits(&[limit("A", 1)], &[limit("A", 2), limit("B", 3)]);
        assert_eq!(merged, [limit("A", 1), limit("B", 3)]);
    }

    #[test]
    fn every_holder_sees_what_was_set() {
        let live = Live::default();
        let other = live.clone();
        live.set(Reloadable { stop_timeout: 3, ..Reloadable::default() });
        assert_eq!(other.get().stop_timeout, 3);
    }
}
