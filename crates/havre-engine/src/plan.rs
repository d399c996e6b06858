//! From a container's record to the OCI specification that runs it. Pure but for looking at device
//! nodes.
//!
//! Invariant: everything that can be refused is refused here, before the kernel is touched.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use havre_oci::runtime::{
    Device, DeviceKind, DeviceRule, Linux, LinuxBlockIo, LinuxCapabilities, LinuxCpu, LinuxMemory, LinuxPids,
    LinuxResources, Mount, Namespace, NamespaceKind, Process, Root, Spec, ThrottleDevice, WeightDevice,
};
use havre_runtime::capabilities;

use crate::EngineError;
use crate::merged::Merged;
use crate::spec::{
    ContainerSpec, IpcMode, MountKind, MountSpec, NetworkMode, RecursiveReadOnly, Resources, Sharing,
};

/// What planning needs to know about the machine and about other containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The kernel has time namespaces.
    pub(crate) time_namespace: bool,
    /// The host's name, for containers with the host's UTS namespace.
    pub(crate) host_name: String,
    /// First processes of the containers whose namespaces are joined.
    pub(crate) pids: BTreeMap<String, i32>,
    /// The kernel has AppArmor and the default profile is loaded.
    pub(crate) apparmor_default: bool,
    /// The kernel enforces AppArmor.
    pub(crate) apparmor: bool,
}

/// Paths nobody inside may read.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Paths nobody inside may write.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked and read-only paths in force, as inspection shows them.
pub fn protected_paths(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let all = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    if spec.security.privileged {
        return (Vec::new(), Vec::new());
    }
    (
        spec.security.masked_paths.clone().unwrap_or_else(|| all(MASKED)),
        spec.security.readonly_paths.clone().unwrap_or_else(|| all(READ_ONLY)),
    )
}

/// The files of the container's folder that are mounted into it.
#[derive(Debug, Clone)]
pub(crate) struct EtcFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// Plans the specification.
pub(crate) fn plan_spec(
    spec: &ContainerSpec,
    merged: &Merged,
    hostname: &str,
    files: &EtcFiles,
    facts: &Facts,
) -> Result<Spec, EngineError> {
    let caps = capability_names(spec)?;
    let labels = selinux(spec)?;
    let (masked_paths, readonly_paths) = protected_paths(spec);
    let process = Process {
        terminal: spec.tty,
        cwd: if merged.working_dir.is_empty() { "/".to_owned() } else { merged.working_dir.clone() },
        args: merged.args(),
        env: merged.environment(hostname, spec.tty),
        capabilities: Some(LinuxCapabilities {
            bounding: caps.clone(),
            effective: caps.clone(),
            permitted: caps,
            ..LinuxCapabilities::default()
        }),
        rlimits: spec.rlimits.clone(),
        no_new_privileges: spec.security.no_new_privileges,
        apparmor_profile: apparmor(spec, facts)?,
        oom_score_adj: Some(spec.oom_score_adj),
        selinux_label: labels.as_ref().map(|labels| labels.process.clone()),
        ..Process::default()
    };
    let (devices, device_rules) = devices(spec)?;
    let mut resources = plan_resources(&spec.resources)?;
    resources.devices = device_rules;
    let linux = Linux {
        namespaces: namespaces(spec, facts)?,
        resources: Some(resources),
        devices,
        masked_paths,
        readonly_paths,
        sysctl: sysctls(spec)?,
        mount_label: labels.map(|labels| labels.mounts),
        rootfs_propagation: propagation(&spec.mounts),
        ..Linux::default()
    };
    Ok(Spec {
        oci_version: havre_oci::runtime::VERSION.to_owned(),
        process: Some(process),
        root: Some(Root { path: "rootfs".into(), readonly: spec.read_only }),
        hostname: (!spec.uts_host).then(|| hostname.to_owned()),
        domainname: (!spec.uts_host && !spec.domainname.is_empty()).then(|| spec.domainname.clone()),
        mounts: mounts(spec, files, facts)?,
        annotations: spec.annotations.clone(),
        linux: Some(linux),
        ..Spec::default()
    })
}

/// Refuses what only our own runtime does.
pub(crate) fn check_external(spec: &Spec, init: bool) -> Result<(), EngineError> {
    if init {
        return Err(EngineError::NotYet("--init with an external runtime".into()));
    }
    // The root is mounted in a namespace of the supervisor, from which nothing propagates to the host.
    let shared =
        |mount: &&Mount| mount.options.iter().any(|option| matches!(option.as_str(), "shared" | "rshared"));
    // The donor's mount is of another namespace, where only our own runtime reaches it.
    let donors = |mount: &&Mount| {
        let source = mount.source.as_deref().unwrap_or_default();
        source.starts_with("/proc/") && source.ends_with("/root/dev/shm")
    };
    if spec.mounts.iter().any(|mount| donors(&mount)) {
        return Err(EngineError::NotYet("--ipc container:X with an external runtime".into()));
    }
    match spec.mounts.iter().find(shared) {
        None => Ok(()),
        Some(mount) => Err(EngineError::NotYet(format!(
            "shared propagation of {} with an external runtime",
            mount.destination
        ))),
    }
}

/// The capabilities of the first process, as `CAP_...` names.
pub(crate) fn capability_names(spec: &ContainerSpec) -> Result<Vec<String>, EngineError> {
    let security = &spec.security;
    let set = capabilities::docker_set(&security.cap_add, &security.cap_drop, security.privileged)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok(set.names())
}

/// The AppArmor profile of a container's processes, of execs too: a privileged exec keeps it, as in Docker.
pub(crate) fn apparmor(spec: &ContainerSpec, facts: &Facts) -> Result<Option<String>, EngineError> {
    match spec.security.apparmor.as_deref() {
        None if facts.apparmor_default && !spec.security.privileged => Ok(Some("docker-default".into())),
        None | Some("unconfined") => Ok(None),
        Some(profile) if facts.apparmor => Ok(Some(profile.to_owned())),
        Some(profile) => Err(EngineError::Invalid(format!(
            "apparmor={profile}: AppArmor is not enabled in this kernel; leave the option out or boot a kernel with AppArmor"
        ))),
    }
}

/// The labels of a container: of its processes, and of the file systems made for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) process: String,
    pub(crate) mounts: String,
}

/// Reads `--security-opt label=user:U|role:R|type:T|level:L|filetype:F|disable`. Without the option there is
/// no label, as with a dockerd that was not told `--selinux-enabled`.
pub(crate) fn selinux(spec: &ContainerSpec) -> Result<Option<Labels>, EngineError> {
    let options = &spec.security.selinux;
    let labels = read_labels(options)?;
    match (labels, options.first()) {
        (Some(_), Some(option)) if !Path::new("/sys/fs/selinux/enforce").exists() => {
            Err(EngineError::Invalid(format!(
                "label={option}: SELinux is not enabled in this kernel; leave the option out"
            )))
        }
        (Some(labels), _) => {
            for label in [&labels.process, &labels.mounts] {
                check_label(label)?;
            }
            Ok(Some(labels))
        }
        (None, _) => Ok(None),
    }
}

/// Asks the kernel whether the loaded policy knows a label (selinuxfs, file `context`).
fn check_label(label: &str) -> Result<(), EngineError> {
    let asked = std::fs::OpenOptions::new()
        .write(true)
        .open("/sys/fs/selinux/context")
        .and_then(|mut file| std::io::Write::write_all(&mut file, format!("{label}\0").as_bytes()));
    asked.map_err(|error| {
        EngineError::Invalid(format!("the loaded SELinux policy does not know the label {label}: {error}"))
    })
}

/// Fills the given parts into the labels that policies have for containers.
fn read_labels(options: &[String]) -> Result<Option<Labels>, EngineError> {
    if options.is_empty() || options.iter().any(|option| option == "disable") {
        return Ok(None);
    }
    let (mut user, mut role, mut kind, mut level) = ("system_u", "system_r", "container_t", "s0");
    let mut files = "container_file_t";
    for option in options {
        let bad = || {
            EngineError::Invalid(format!(
                "invalid label option {option:?}: want user:, role:, type:, level:, filetype: or disable"
            ))
        };
        let (part, value) = option.split_once(':').ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.,:-".contains(c);
        if value.is_empty() || !value.chars().all(plain) || (part != "level" && value.contains(':')) {
            return Err(bad());
        }
        match part {
            "user" => user = value,
            "role" => role = value,
            "type" => kind = value,
            "level" => level = value,
            "filetype" => files = value,
            _ => return Err(bad()),
        }
    }
    Ok(Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        mounts: format!("{user}:object_r:{files}:{level}"),
    }))
}

fn not_running(kind: &str, id: &str) -> EngineError {
    EngineError::State(format!("cannot join the {kind} namespace of container {id}: it is not running"))
}

fn namespaces(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<Namespace>, EngineError> {
    use NamespaceKind as K;
    let join = |kind: K, file: &str, id: &str| {
        let pid = facts.pids.get(id).ok_or_else(|| not_running(kind.as_str(), id))?;
        Ok::<_, EngineError>(Namespace::join(kind, format!("/proc/{pid}/ns/{file}")))
    };
    let mut list = vec![Namespace::new(K::Mount)];
    match &spec.network {
        NetworkMode::None | NetworkMode::Networks => list.push(Namespace::new(K::Network)),
        NetworkMode::Host => {}
        NetworkMode::Container(id) => list.push(join(K::Network, "net", id.as_str())?),
    }
    match &spec.pid {
        Sharing::Private => list.push(Namespace::new(K::Pid)),
        Sharing::Host => {}
        Sharing::Container(id) => list.push(join(K::Pid, "pid", id.as_str())?),
    }
    match &spec.ipc {
        IpcMode::Private | IpcMode::Shareable | IpcMode::None => list.push(Namespace::new(K::Ipc)),
        IpcMode::Host => {}
        IpcMode::Container(id) => list.push(join(K::Ipc, "ipc", id.as_str())?),
    }
    if !spec.uts_host {
        match &spec.network {
            // Containers that share a network share its name, as Docker's.
            NetworkMode::Container(id) => list.push(join(K::Uts, "uts", id.as_str())?),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Networks => {
                list.push(Namespace::new(K::Uts));
            }
        }
    }
    if !spec.cgroupns_host {
        list.push(Namespace::new(K::Cgroup));
    }
    // A joined process namespace already has its clocks.
    if facts.time_namespace && !matches!(spec.pid, Sharing::Container(_)) {
        list.push(Namespace::new(K::Time));
    }
    Ok(list)
}

fn mount(kind: &str, target: &str, options: &[&str]) -> Mount {
    Mount {
        destination: target.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(kind.to_owned()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn mounts(spec: &ContainerSpec, files: &EtcFiles, facts: &Facts) -> Result<Vec<Mount>, EngineError> {
    let privileged = spec.security.privileged;
    let mut list = Vec::new();
    let given = |path: &str| spec.mounts.iter().any(|mount| mount.target == path);
    let safe = ["nosuid", "noexec", "nodev"];
    let access = if privileged { "rw" } else { "ro" };
    if !given("/proc") {
        list.push(mount("proc", "/proc", &safe));
    }
    list.push(mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    list.push(mount(
        "devpts",
        "/dev/pts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ));
    if !given("/sys") {
        list.push(mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]));
        list.push(mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
    }
    list.push(mount("mqueue", "/dev/mqueue", &safe));
    match &spec.ipc {
        IpcMode::None => {}
        IpcMode::Host => list.push(bind("/dev/shm", Path::new("/dev/shm"), &["rbind", "rprivate"])),
        IpcMode::Private | IpcMode::Shareable if !given("/dev/shm") => {
            let size = format!("size={}", spec.shm_size);
            list.push(mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
        IpcMode::Container(id) => {
            let pid = facts.pids.get(id.as_str()).ok_or_else(|| not_running("ipc", id.as_str()))?;
            let shared = format!("/proc/{pid}/root/dev/shm");
            list.push(bind("/dev/shm", Path::new(&shared), &["rbind", "rprivate"]));
        }
        IpcMode::Private | IpcMode::Shareable => {}
    }
    for (target, source) in [
        ("/etc/resolv.conf", &files.resolv_conf),
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
    ] {
        if !given(target) {
            list.push(bind(target, source, &["rbind", "rprivate"]));
        }
    }
    let mut user: Vec<&MountSpec> = spec.mounts.iter().collect();
    // A mount below another comes after it.
    user.sort_by_key(|mount| mount.target.matches('/').count());
    list.extend(user.into_iter().map(user_mount));
    Ok(list)
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        destination: target.to_owned(),
        kind: Some("bind".into()),
        source: Some(source.to_string_lossy().into_owned()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn user_mount(spec: &MountSpec) -> Mount {
    match &spec.kind {
        MountKind::Bind { source, recursive, recursive_read_only, propagation, .. } => {
            let mut options = vec![if *recursive { "rbind" } else { "bind" }];
            options.push(propagation);
            if spec.read_only {
                options.push("ro");
                match recursive_read_only {
                    RecursiveReadOnly::Try | RecursiveReadOnly::Force if *recursive => options.push("rro"),
                    RecursiveReadOnly::Try | RecursiveReadOnly::Never | RecursiveReadOnly::Force => {}
                }
            }
            bind(&spec.target, source, &options)
        }
        MountKind::Tmpfs { options } => {
            let mut mount = mount("tmpfs", &spec.target, &[]);
            mount.options.clone_from(options);
            if spec.read_only {
                mount.options.push("ro".into());
            }
            mount
        }
    }
}

/// A bind that propagates back to the host needs a root that does.
fn propagation(mounts: &[MountSpec]) -> Option<String> {
    let has = |word: &str| {
        mounts.iter().any(|mount| {
            matches!(&mount.kind, MountKind::Bind { propagation, .. } if propagation.trim_start_matches('r') == word)
        })
    };
    if has("shared") {
        Some("shared".into())
    } else if has("slave") {
        Some("rslave".into())
    } else {
        None
    }
}

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: Some(kind.into()), major, minor, access: Some(access.into()) }
}

/// Device nodes to make, and the rules that say which may be used.
fn devices(spec: &ContainerSpec) -> Result<(Vec<Device>, Vec<DeviceRule>), EngineError> {
    let mut nodes = Vec::new();
    if spec.security.privileged {
        collect(Path::new("/dev"), "/dev", &mut nodes)?;
        return Ok((nodes, vec![rule(true, "a", None, None, "rwm")]));
    }
    let mut rules = vec![rule(false, "a", None, None, "rwm")];
    // Nodes may be made, which alone opens nothing; then Docker's list of harmless devices:
    // null, zero, full, random, urandom, tty, console, ptmx and terminals.
    rules.push(rule(true, "c", None, None, "m"));
    rules.push(rule(true, "b", None, None, "m"));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, "c", Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, "c", Some(136), None, "rwm"));
    for device in &spec.devices {
        let first = nodes.len();
        collect(&device.host, &device.container, &mut nodes)?;
        for node in nodes.iter().skip(first) {
            rules.push(rule(true, node.kind.as_str(), Some(node.major), Some(node.minor), &device.access));
        }
    }
    rules.extend(spec.resources.device_rules.iter().cloned());
    Ok((nodes, rules))
}

/// Adds the device at `host`, or all devices in the folder `host`.
fn collect(host: &Path, target: &str, into: &mut Vec<Device>) -> Result<(), EngineError> {
    let path = host.display();
    let meta = std::fs::metadata(host).map_err(|error| {
        EngineError::Invalid(format!(
            "error gathering device information while adding custom device \"{path}\": {error}"
        ))
    })?;
    let kind = meta.file_type();
    if kind.is_dir() {
        let entries = std::fs::read_dir(host).map_err(EngineError::io("list", host))?;
        for entry in entries.flatten() {
            let kind = entry.file_type().map_err(EngineError::io("look at", entry.path()))?;
            let skip = matches!(
                entry.file_name().to_str(),
                Some("pts" | "ptmx" | "shm" | "fd" | "mqueue" | "console") | None
            );
            if !skip && (kind.is_dir() || kind.is_char_device() || kind.is_block_device()) {
                let below =
                    format!("{}/{}", target.trim_end_matches('/'), entry.file_name().to_string_lossy());
                collect(&entry.path(), &below, into)?;
            }
        }
        return Ok(());
    }
    let kind = if kind.is_char_device() {
        DeviceKind::Char
    } else if kind.is_block_device() {
        DeviceKind::Block
    } else {
        return Err(EngineError::Invalid(format!(
            "error gathering device information while adding custom device \"{path}\": not a device node"
        )));
    };
    let device = meta.rdev();
    into.push(Device {
        kind,
        path: target.to_owned(),
        major: i64::from(rustix::fs::major(device)),
        minor: i64::from(rustix::fs::minor(device)),
        file_mode: Some(meta.mode() & 0o7777),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
    });
    Ok(())
}

/// Converts limits. Docker's own derived values are applied: twice the memory as memory plus swap,
/// quota from fractions of processors.
pub(crate) fn plan_resources(asked: &Resources) -> Result<LinuxResources, EngineError> {
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    let limit = positive(asked.memory);
    let memory = LinuxMemory {
        limit,
        reservation: positive(asked.memory_reservation),
        swap: match (asked.memory_swap, limit) {
            (Some(swap), _) if swap != 0 => Some(swap),
            (_, Some(limit)) => Some(limit.saturating_mul(2)),
            _ => None,
        },
        swappiness: asked.memory_swappiness,
        disable_oom_killer: asked.oom_kill_disable.then_some(true),
        ..LinuxMemory::default()
    };
    let mut cpu = LinuxCpu {
        shares: asked.cpu_shares.filter(|shares| *shares > 0),
        quota: asked.cpu_quota.filter(|quota| *quota != 0),
        period: asked.cpu_period.filter(|period| *period > 0),
        realtime_runtime: asked.cpu_rt_runtime.filter(|runtime| *runtime != 0),
        realtime_period: asked.cpu_rt_period.filter(|period| *period > 0),
        cpus: asked.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty()),
        mems: asked.cpuset_mems.clone().filter(|mems| !mems.is_empty()),
        ..LinuxCpu::default()
    };
    if let Some(nanos) = positive(asked.nano_cpus) {
        const PERIOD: i64 = 100_000;
        cpu.period = u64::try_from(PERIOD).ok();
        cpu.quota = Some(nanos.saturating_mul(PERIOD) / 1_000_000_000);
    }
    let throttle = |list: &[(PathBuf, u64)]| {
        list.iter()
            .map(|(path, rate)| {
                block_device(path).map(|(major, minor)| ThrottleDevice { major, minor, rate: *rate })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let block_io = LinuxBlockIo {
        weight: asked.blkio_weight.filter(|weight| *weight > 0),
        weight_device: asked
            .blkio_weight_device
            .iter()
            .map(|(path, weight)| {
                block_device(path).map(|(major, minor)| WeightDevice {
                    major,
                    minor,
                    weight: Some(*weight),
                    ..WeightDevice::default()
                })
            })
            .collect::<Result<Vec<_>, _>>()?,
        throttle_read_bps_device: throttle(&asked.read_bps)?,
        throttle_write_bps_device: throttle(&asked.write_bps)?,
        throttle_read_iops_device: throttle(&asked.read_iops)?,
        throttle_write_iops_device: throttle(&asked.write_iops)?,
        ..LinuxBlockIo::default()
    };
    Ok(LinuxResources {
        memory: (memory != LinuxMemory::default()).then_some(memory),
        cpu: (cpu != LinuxCpu::default()).then_some(cpu),
        pids: asked.pids.filter(|limit| *limit != 0).map(|limit| LinuxPids { limit }),
        block_io: (block_io != LinuxBlockIo::default()).then_some(block_io),
        ..LinuxResources::default()
    })
}

fn block_device(path: &Path) -> Result<(i64, i64), EngineError> {
    let meta = std::fs::metadata(path)
        .map_err(|error| EngineError::Invalid(format!("invalid block device {}: {error}", path.display())))?;
    if !meta.file_type().is_block_device() {
        return Err(EngineError::Invalid(format!("{} is not a block device", path.display())));
    }
    let device = meta.rdev();
    Ok((i64::from(rustix::fs::major(device)), i64::from(rustix::fs::minor(device))))
}

/// Lets through only settings that belong to a namespace the container owns.
fn sysctls(spec: &ContainerSpec) -> Result<BTreeMap<String, String>, EngineError> {
    for name in spec.sysctls.keys() {
        let ipc = matches!(
            name.as_str(),
            "kernel.msgmax"
                | "kernel.msgmnb"
                | "kernel.msgmni"
                | "kernel.sem"
                | "kernel.shmall"
                | "kernel.shmmax"
                | "kernel.shmmni"
                | "kernel.shm_rmid_forced"
        ) || name.starts_with("fs.mqueue.");
        let refused =
            |why: &str| Err(EngineError::Invalid(format!("sysctl \"{name}\" is not allowed: {why}")));
        if ipc {
            if matches!(spec.ipc, IpcMode::Host) {
                return refused("the container uses the host's IPC namespace");
            }
        } else if name.starts_with("net.") {
            if spec.network == NetworkMode::Host {
                return refused("the container uses the host's network namespace");
            }
        } else if name == "kernel.domainname" {
            if spec.uts_host {
                return refused("the container uses the host's UTS namespace");
            }
        } else {
            return refused("it is not in a separate kernel namespace");
        }
    }
    let mut all = spec.sysctls.clone();
    if spec.network == NetworkMode::None {
        // What Docker gives in a network of the container's own: low ports and `ping` need no capability there.
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
        {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(spec: &ContainerSpec) -> Merged {
        let image =
            havre_oci::image::ContainerConfig { cmd: Some(vec!["true".into()]), ..Default::default() };
        Merged::new(spec, &image).unwrap()
    }

    fn plan(spec: &ContainerSpec) -> Result<Spec, EngineError> {
        let files = EtcFiles {
            hosts: "/c/hosts".into(),
            hostname: "/c/hostname".into(),
            resolv_conf: "/c/resolv".into(),
        };
        let facts = Facts { time_namespace: true, host_name: "host".into(), ..Facts::default() };
        plan_spec(spec, &merged(spec), "abc", &files, &facts)
    }

    fn kinds(spec: &Spec) -> Vec<&'static str> {
        spec.linux.as_ref().unwrap().namespaces.iter().map(|namespace| namespace.kind.as_str()).collect()
    }

    #[test]
    fn a_plain_container_gets_every_namespace_but_user() {
        let spec = plan(&ContainerSpec::default()).unwrap();
        assert_eq!(kinds(&spec), ["mount", "network", "pid", "ipc", "uts", "cgroup", "time"]);
        assert_eq!(spec.linux.unwrap().masked_paths.len(), MASKED.len());
        assert_eq!(spec.hostname.as_deref(), Some("abc"));
    }

    #[test]
    fn host_modes_leave_namespaces_out() {
        let spec = ContainerSpec {
            network: NetworkMode::Host,
            pid: Sharing::Host,
            ipc: IpcMode::Host,
            uts_host: true,
            cgroupns_host: true,
            ..ContainerSpec::default()
        };
        let spec = plan(&spec).unwrap();
        assert_eq!(kinds(&spec), ["mount", "time"]);
        assert_eq!(spec.hostname, None);
    }

    #[test]
    fn limits_take_docker_s_derived_values() {
        let asked = Resources { memory: Some(1 << 20), nano_cpus: Some(500_000_000), ..Resources::default() };
        let planned = plan_resources(&asked).unwrap();
        assert_eq!(planned.memory.unwrap().swap, Some(2 << 20));
        let cpu = planned.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(50_000), Some(100_000)));
        assert_eq!(planned.pids, None);
    }

    #[test]
    fn settings_of_the_host_are_refused() {
        let with = |name: &str, network| ContainerSpec {
            sysctls: BTreeMap::from([(name.to_owned(), "1".to_owned())]),
            network,
            ..ContainerSpec::default()
        };
        assert!(plan(&with("net.core.somaxconn", NetworkMode::None)).is_ok());
        for (name, network) in
            [("net.core.somaxconn", NetworkMode::Host), ("kernel.panic", NetworkMode::None)]
        {
            let error = plan(&with(name, network)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("sysctl \"{name}\" is not allowed")), "{error}");
        }
    }

    #[test]
    fn a_joined_namespace_needs_a_running_container() {
        let other = havre_base::ContainerId::random();
        let spec = ContainerSpec { network: NetworkMode::Container(other), ..ContainerSpec::default() };
        assert!(plan(&spec).unwrap_err().to_string().contains("not running"));
    }

    #[test]
    fn what_an_external_runtime_cannot_do_is_refused() {
        let mut spec = plan(&ContainerSpec::default()).unwrap();
        assert!(check_external(&spec, false).is_ok());
        assert!(check_external(&spec, true).is_err());
        spec.mounts.push(bind("/m", Path::new("/x"), &["rbind", "rshared"]));
        assert!(check_external(&spec, false).unwrap_err().to_string().contains("/m"));
    }

    #[test]
    fn labels_take_the_given_parts() {
        let read = |options: &[&str]| {
            read_labels(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["type:x_t", "disable"]).unwrap(), None);
        let labels = read(&["type:x_t", "level:s0:c1,c2"]).unwrap().unwrap();
        assert_eq!(labels.process, "system_u:system_r:x_t:s0:c1,c2");
        assert_eq!(labels.mounts, "system_u:object_r:container_file_t:s0:c1,c2");
        for bad in ["type", "type:", "colour:red", "type:a b", "user:a:b"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_denied_first() {
        let spec = plan(&ContainerSpec::default()).unwrap();
        let rules = spec.linux.unwrap().resources.unwrap().devices;
        assert!(!rules[0].allow && rules[0].kind.as_deref() == Some("a"));
        assert!(rules.iter().skip(1).all(|rule| rule.allow));
    }
}
