//! What a container is asked to be: parsed, complete, free of any wire format's quirks.
//!
//! Invariant: a value of these types is something the engine can do; everything else was refused when
//! the request was parsed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use havre_base::ContainerId;
use havre_net::networks::EndpointSpec;
use havre_net::ports::{Port, PublishedPort};
use havre_oci::runtime::{DeviceRule, Rlimit};
use serde::{Deserialize, Serialize};

pub use crate::cdi::DeviceRequest;

/// A request to create a container, before the image's configuration is merged in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image as the user named it.
    pub image: String,
    /// Replaces the image's entry point. `Some` of nothing clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// `NAME=value` sets, `NAME` removes.
    pub env: Vec<String>,
    /// Docker's user text; empty takes the image's.
    pub user: String,
    /// Absolute, or empty for the image's.
    pub working_dir: String,
    /// Empty for the short id.
    pub hostname: String,
    /// NIS domain name; empty for none.
    pub domainname: String,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Keep standard input open.
    pub open_stdin: bool,
    /// Standard input ends with the first client that fed it.
    pub stdin_once: bool,
    /// User's labels, the image's merged in at creation.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the container to stop; absent takes the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever.
    pub stop_timeout: Option<i64>,
    /// Remove the container when it ends.
    pub auto_remove: bool,
    /// What to do when it ends by itself.
    pub restart: RestartPolicy,
    /// Network.
    pub network: NetworkMode,
    /// Process ids.
    pub pid: Sharing,
    /// Shared memory, semaphores, queues.
    pub ipc: IpcMode,
    /// Host and domain name.
    pub uts_host: bool,
    /// Control group view of the host.
    pub cgroupns_host: bool,
    /// User-given mounts.
    pub mounts: Vec<MountSpec>,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// The root filesystem is read-only.
    pub read_only: bool,
    /// Isolation.
    pub security: Security,
    /// Limits.
    pub resources: Resources,
    /// Devices given to the container.
    pub devices: Vec<DeviceSpec>,
    /// Namespaced kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of processes.
    pub rlimits: Vec<Rlimit>,
    /// Supplementary groups, by name or number.
    pub group_add: Vec<String>,
    /// `HOST:IP` lines for `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers instead of the host's.
    pub dns: Vec<String>,
    /// Search domains instead of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Our reaper as process 1; absent takes the daemon's default.
    pub init: Option<bool>,
    /// Preference of the kernel when it must kill, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Runtime; absent for our own.
    pub runtime: Option<String>,
    /// Where the log goes.
    pub log: LogSpec,
    /// Parent control group instead of the daemon's.
    pub cgroup_parent: Option<String>,
    /// Terminal rows and columns at start.
    pub console: (u16, u16),
    /// Labels for the OCI runtime.
    pub annotations: BTreeMap<String, String>,
    /// Devices that drivers provide.
    #[serde(default)]
    pub device_requests: Vec<DeviceRequest>,
    /// How fast it may receive and send in each of its networks. Only with [`NetworkMode::Networks`].
    #[serde(default)]
    pub rates: havre_net::rate::Rates,
    /// The networks to join, in this order. Only with [`NetworkMode::Networks`].
    #[serde(default)]
    pub endpoints: Vec<EndpointSpec>,
    /// The network that it joins when it is started without any.
    #[serde(default)]
    pub home: String,
    /// Ports to be reached on the host.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Ports that are used, besides the image's: [`crate::Merged`] has all.
    #[serde(default)]
    pub exposed: Vec<Port>,
    /// Publish every exposed port.
    #[serde(default)]
    pub publish_all: bool,
}

/// What to do when a container ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again after a failure, at most so often; zero is without end.
    OnFailure {
        /// How often.
        max: u32,
    },
    /// Start again.
    Always,
    /// Start again unless a user stopped it.
    UnlessStopped,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Only a loopback interface.
    #[default]
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(ContainerId),
    /// Its own, joined to networks.
    Networks,
}

/// Whose process ids a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sharing {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's.
    Container(ContainerId),
}

/// Whose inter-process communication a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IpcMode {
    /// Its own, not joinable.
    #[default]
    Private,
    /// Its own, joinable by others.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(ContainerId),
}

/// A user-given mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path inside.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Not writable.
    pub read_only: bool,
    /// Docker's mode text, as inspection shows it.
    pub mode: String,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A host path.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// Make the source as a folder when it is absent (`-v`), or refuse (`--mount`).
        create: bool,
        /// Mounts below the source come along.
        recursive: bool,
        /// Read-only also applies to mounts below.
        recursive_read_only: RecursiveReadOnly,
        /// `private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`.
        propagation: String,
    },
    /// Memory.
    Tmpfs {
        /// Mount options.
        options: Vec<String>,
    },
}

/// How a read-only bind treats mounts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RecursiveReadOnly {
    /// Where the kernel can.
    #[default]
    Try,
    /// Not.
    Never,
    /// Or fail.
    Force,
}

/// Isolation options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Security {
    /// Everything allowed.
    pub privileged: bool,
    /// Capabilities beyond the default set; `ALL` is every one.
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` is every one.
    pub cap_drop: Vec<String>,
    /// Programs cannot gain privileges by executing.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: SeccompSpec,
    /// AppArmor profile; absent for the default where the kernel has it.
    pub apparmor: Option<String>,
    /// SELinux label options.
    pub selinux: Vec<String>,
    /// Replaces the default masked paths.
    pub masked_paths: Option<Vec<String>>,
    /// Replaces the default read-only paths.
    pub readonly_paths: Option<Vec<String>>,
}

/// System call filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum SeccompSpec {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile as JSON.
    Profile(String),
}

/// Limits, in the units of the Engine API. Zero and absence mean no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes kept under pressure.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes; -1 is no limit of swap.
    pub memory_swap: Option<i64>,
    /// 0 to 100, on cgroup v1.
    pub memory_swappiness: Option<u64>,
    /// Never kill for the memory limit.
    pub oom_kill_disable: bool,
    /// Billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds in each period.
    pub cpu_quota: Option<i64>,
    /// Microseconds of real time in each period.
    pub cpu_rt_runtime: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<u64>,
    /// As `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// As `0,1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is no limit.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Per device weights: path and weight.
    pub blkio_weight_device: Vec<(PathBuf, u16)>,
    /// Per device bytes a second.
    pub read_bps: Vec<(PathBuf, u64)>,
    /// Per device bytes a second.
    pub write_bps: Vec<(PathBuf, u64)>,
    /// Per device operations a second.
    pub read_iops: Vec<(PathBuf, u64)>,
    /// Per device operations a second.
    pub write_iops: Vec<(PathBuf, u64)>,
    /// More rules for devices.
    pub device_rules: Vec<DeviceRule>,
}

/// A device given to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// A device, or a folder of devices.
    pub host: PathBuf,
    /// Where it appears.
    pub container: String,
    /// Some of `rwm`.
    pub access: String,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Nothing is kept.
    pub none: bool,
    /// Docker's options as given, for inspection.
    pub options: BTreeMap<String, String>,
    /// Bytes of one file.
    pub max_size: u64,
    /// Files kept.
    pub max_file: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// What each record says of the container.
    #[serde(default)]
    pub attributes: LogAttributes,
}

/// What each record of a log says of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAttributes {
    /// A text with `{{.Name}}` and the like in it.
    pub tag: Option<String>,
    /// Labels, by name.
    pub labels: Vec<String>,
    /// Variables, by name.
    pub env: Vec<String>,
}

impl Default for LogSpec {
    /// Bounded: a container that talks for ever fills 30 MiB, not the disk.
    fn default() -> Self {
        Self {
            none: false,
            options: BTreeMap::new(),
            max_size: 10 << 20,
            max_file: 3,
            compress: false,
            attributes: LogAttributes::default(),
        }
    }
}

impl ContainerSpec {
    /// The time between the stop signal and SIGKILL; absent waits for ever.
    #[must_use]
    pub fn grace(&self, asked: Option<i64>, default: i64) -> Option<Duration> {
        match asked.or(self.stop_timeout).unwrap_or(default) {
            seconds if seconds < 0 => None,
            seconds => Some(Duration::from_secs(seconds.unsigned_abs())),
        }
    }
}

/// A request to run one more process in a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value` lines added to the container's.
    pub env: Vec<String>,
    /// Docker's user text; empty takes the container's.
    pub user: String,
    /// Absolute; empty takes the container's.
    pub working_dir: String,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// A client feeds standard input.
    pub attach_stdin: bool,
    /// A client gets standard output.
    pub attach_stdout: bool,
    /// A client gets standard error.
    pub attach_stderr: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Detach key bytes; absent takes the default.
    pub detach_keys: Option<Vec<u8>>,
    /// Terminal rows and columns at start.
    pub console: (u16, u16),
}
