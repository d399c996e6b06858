//! The OCI runtime specification's documents, for Linux.
//!
//! Invariants: a field that this build does not know is an error, so nothing that was asked can be lost
//! without a word; what is absent stays absent when written again. Sections of other platforms
//! (`windows`, `solaris`, `vm`, `zos`, `freebsd`) are unknown fields. Parsing checks shapes only: what
//! a field means, and whether the kernel can do it, is decided where it is enforced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the specification that is written.
pub const VERSION: &str = "1.2.1";

fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Structures of a document: `required` fields must be present, `optional` ones are left out when they
/// hold their default.
macro_rules! document {
    ($(
        $(#[doc = $about:literal])*
        $name:ident {
            $(required { $($(#[$rattr:meta])* $rfield:ident: $rtype:ty,)* })?
            $(optional { $($(#[$oattr:meta])* $ofield:ident: $otype:ty,)* })?
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($($(#[$rattr])* pub $rfield: $rtype,)*)?
            $($(
                $(#[$oattr])*
                #[serde(default, skip_serializing_if = "empty")]
                pub $ofield: $otype,
            )*)?
        }
    )*};
}

/// Closed sets of words.
macro_rules! words {
    ($(
        $(#[doc = $about:literal])*
        $name:ident { $first:ident = $ftext:literal, $($variant:ident = $text:literal,)* }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            #[doc = concat!("`", $ftext, "`")]
            #[default]
            #[serde(rename = $ftext)]
            $first,
            $(
                #[doc = concat!("`", $text, "`")]
                #[serde(rename = $text)]
                $variant,
            )*
        }

        impl $name {
            /// Every value, in the order of the specification.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant),*];

            /// The word of the specification.
            pub const fn as_str(self) -> &'static str {
                match self { Self::$first => $ftext, $(Self::$variant => $text),* }
            }
        }
    )*};
}

document! {
    /// `config.json`: one container.
    Spec {
        required {
            /// Version of the specification the document keeps to.
            oci_version: String,
        }
        optional {
            /// The process to start.
            process: Option<Process>,
            /// The root file system.
            root: Option<Root>,
            /// Host name; needs a UTS namespace of its own.
            hostname: Option<String>,
            /// NIS domain name; needs a UTS namespace of its own.
            domainname: Option<String>,
            /// Mounts, in order, besides the root.
            mounts: Vec<Mount>,
            /// Programs run at points of the life cycle.
            hooks: Option<Hooks>,
            /// Free data.
            annotations: BTreeMap<String, String>,
            /// What only Linux has.
            linux: Option<Linux>,
        }
    }

    /// The root file system.
    Root {
        required {
            /// Folder of the root, relative to the bundle or absolute.
            path: String,
        }
        optional {
            /// Whether the root is read-only inside.
            readonly: bool,
        }
    }

    /// One mount.
    Mount {
        required {
            /// Where, as an absolute path inside the container.
            destination: String,
        }
        optional {
            /// File system type.
            #[serde(rename = "type")]
            kind: Option<String>,
            /// What: a path, a device, or a name.
            source: Option<String>,
            /// Options, as mount(8) has them.
            options: Vec<String>,
            /// User ids of an idmapped mount.
            uid_mappings: Vec<IdMapping>,
            /// Group ids of an idmapped mount.
            gid_mappings: Vec<IdMapping>,
        }
    }

    /// One process in the container.
    Process {
        required {
            /// Working directory, absolute.
            cwd: String,
            /// User and groups; root when absent.
            #[serde(default)]
            user: User,
        }
        optional {
            /// Whether it gets a terminal.
            terminal: bool,
            /// Size of the terminal at the start.
            console_size: Option<ConsoleSize>,
            /// Program and arguments.
            args: Vec<String>,
            /// Command line of Windows: an error here.
            command_line: Option<String>,
            /// Environment, `NAME=value`.
            env: Vec<String>,
            /// The five capability sets.
            capabilities: Option<LinuxCapabilities>,
            /// Resource limits.
            rlimits: Vec<Rlimit>,
            /// Whether execve can no longer give privileges.
            no_new_privileges: bool,
            /// AppArmor profile.
            apparmor_profile: Option<String>,
            /// Adjustment of the badness for the OOM killer.
            oom_score_adj: Option<i32>,
            /// SELinux label.
            selinux_label: Option<String>,
            /// Scheduling of block I/O.
            io_priority: Option<IoPriority>,
            /// Scheduling of the CPU.
            scheduler: Option<Scheduler>,
            /// CPU affinity of an exec'd process.
            #[serde(rename = "execCPUAffinity")]
            exec_cpu_affinity: Option<CpuAffinity>,
        }
    }

    /// Size of a terminal in characters.
    ConsoleSize {
        required {
            /// Rows.
            height: u64,
            /// Columns.
            width: u64,
        }
    }

    /// One resource limit.
    Rlimit {
        required {
            /// `RLIMIT_...`.
            #[serde(rename = "type")]
            kind: String,
            /// The ceiling.
            hard: u64,
            /// The limit in force.
            soft: u64,
        }
    }

    /// The five capability sets, by names such as `CAP_CHOWN`.
    LinuxCapabilities {
        optional {
            /// Upper bound of what execve can give.
            bounding: Vec<String>,
            /// In force.
            effective: Vec<String>,
            /// Kept over execve of a file that inherits.
            inheritable: Vec<String>,
            /// What may become effective.
            permitted: Vec<String>,
            /// Kept over execve of a plain file.
            ambient: Vec<String>,
        }
    }

    /// Scheduling of block I/O.
    IoPriority {
        required {
            /// Class.
            class: IoPriorityClass,
        }
        optional {
            /// 0 (first) to 7.
            priority: i32,
        }
    }

    /// Scheduling of the CPU (sched_setattr).
    Scheduler {
        required {
            /// Policy.
            policy: SchedulerPolicy,
        }
        optional {
            /// Niceness, for the time-sharing policies.
            nice: i32,
            /// Static priority, for the real-time policies.
            priority: i32,
            /// Flags.
            flags: Vec<SchedulerFlag>,
            /// Deadline policy: run time in nanoseconds.
            runtime: u64,
            /// Deadline policy: deadline in nanoseconds.
            deadline: u64,
            /// Deadline policy: period in nanoseconds.
            period: u64,
        }
    }

    /// CPU affinity of an exec'd process.
    CpuAffinity {
        optional {
            /// While the runtime joins the cgroup.
            initial: Option<String>,
            /// Afterwards.
            #[serde(rename = "final")]
            last: Option<String>,
        }
    }

    /// Programs run at points of the life cycle.
    Hooks {
        optional {
            /// Before start, in the runtime's namespace (deprecated by the specification).
            prestart: Vec<Hook>,
            /// While creating, after the namespaces, in the runtime's namespace.
            create_runtime: Vec<Hook>,
            /// While creating, in the container's namespaces, before pivot_root.
            create_container: Vec<Hook>,
            /// Just before the user's process, inside the container.
            start_container: Vec<Hook>,
            /// After the user's process has started.
            poststart: Vec<Hook>,
            /// After the container was deleted.
            poststop: Vec<Hook>,
        }
    }

    /// One program of a hook.
    Hook {
        required {
            /// Absolute path.
            path: String,
        }
        optional {
            /// Arguments, the program's name first.
            args: Vec<String>,
            /// Environment.
            env: Vec<String>,
            /// Seconds until it is ended.
            timeout: Option<i64>,
        }
    }

    /// What only Linux has.
    Linux {
        optional {
            /// User ids of the user namespace.
            uid_mappings: Vec<IdMapping>,
            /// Group ids of the user namespace.
            gid_mappings: Vec<IdMapping>,
            /// Kernel parameters.
            sysctl: BTreeMap<String, String>,
            /// Limits.
            resources: Option<LinuxResources>,
            /// The control group.
            cgroups_path: Option<String>,
            /// Namespaces, new or joined.
            namespaces: Vec<Namespace>,
            /// Device nodes to make.
            devices: Vec<Device>,
            /// Network devices to move in, by their name on the host.
            net_devices: BTreeMap<String, NetDevice>,
            /// System call filter.
            seccomp: Option<LinuxSeccomp>,
            /// Propagation of the root: private, slave, shared, unbindable (and r-forms).
            rootfs_propagation: Option<String>,
            /// Paths that cannot be read inside.
            masked_paths: Vec<String>,
            /// Paths that cannot be written inside.
            readonly_paths: Vec<String>,
            /// SELinux label of the mounts.
            mount_label: Option<String>,
            /// Cache and memory bandwidth classes of Intel processors.
            intel_rdt: Option<IntelRdt>,
            /// NUMA memory policy.
            memory_policy: Option<MemoryPolicy>,
            /// Execution domain.
            personality: Option<Personality>,
            /// Clock offsets of a time namespace: `monotonic`, `boottime`.
            time_offsets: BTreeMap<String, TimeOffset>,
        }
    }

    /// One range of ids.
    IdMapping {
        required {
            /// First id inside.
            #[serde(rename = "containerID")]
            container_id: u32,
            /// First id outside.
            #[serde(rename = "hostID")]
            host_id: u32,
            /// How many.
            size: u32,
        }
    }

    /// One namespace.
    Namespace {
        required {
            /// Kind.
            #[serde(rename = "type")]
            kind: NamespaceKind,
        }
        optional {
            /// The namespace to join; absent: a new one.
            path: Option<String>,
        }
    }

    /// A network device to move in.
    NetDevice {
        optional {
            /// Its name inside.
            name: Option<String>,
        }
    }

    /// A clock offset.
    TimeOffset {
        optional {
            /// Seconds.
            secs: i64,
            /// Nanoseconds.
            nanosecs: u32,
        }
    }

    /// A device node.
    Device {
        required {
            /// Kind.
            #[serde(rename = "type")]
            kind: DeviceKind,
            /// Path inside.
            path: String,
        }
        optional {
            /// Major number.
            major: i64,
            /// Minor number.
            minor: i64,
            /// Permission bits.
            file_mode: Option<u32>,
            /// Owner.
            uid: Option<u32>,
            /// Group.
            gid: Option<u32>,
        }
    }

    /// Limits.
    LinuxResources {
        optional {
            /// Control files of cgroup v2 and their contents.
            unified: BTreeMap<String, String>,
            /// Device rules, in order.
            devices: Vec<DeviceRule>,
            /// Memory.
            memory: Option<LinuxMemory>,
            /// CPU time.
            cpu: Option<LinuxCpu>,
            /// Number of tasks.
            pids: Option<LinuxPids>,
            /// Block devices.
            #[serde(rename = "blockIO")]
            block_io: Option<LinuxBlockIo>,
            /// Huge pages.
            hugepage_limits: Vec<HugepageLimit>,
            /// Network classes of cgroup v1.
            network: Option<LinuxNetwork>,
            /// RDMA devices.
            rdma: BTreeMap<String, Rdma>,
        }
    }

    /// Whether a class of devices may be used.
    DeviceRule {
        required {
            /// Allow or deny.
            allow: bool,
        }
        optional {
            /// `a`, `b` or `c`; absent: all.
            #[serde(rename = "type")]
            kind: Option<String>,
            /// Major number; absent: all.
            major: Option<i64>,
            /// Minor number; absent: all.
            minor: Option<i64>,
            /// Any of `r`, `w`, `m`.
            access: Option<String>,
        }
    }

    /// Limits of memory, in bytes; -1 is unlimited.
    LinuxMemory {
        optional {
            /// Hard limit.
            limit: Option<i64>,
            /// Soft limit.
            reservation: Option<i64>,
            /// Memory and swap together.
            swap: Option<i64>,
            /// Kernel memory (no longer in the kernel).
            kernel: Option<i64>,
            /// TCP buffers (cgroup v1).
            #[serde(rename = "kernelTCP")]
            kernel_tcp: Option<i64>,
            /// Inclination to swap, 0 to 100 (cgroup v1).
            swappiness: Option<u64>,
            /// Whether tasks wait instead of being killed (cgroup v1).
            #[serde(rename = "disableOOMKiller")]
            disable_oom_killer: Option<bool>,
            /// Whether children count (always so now).
            use_hierarchy: Option<bool>,
            /// Whether a limit below the usage is refused.
            check_before_update: Option<bool>,
        }
    }

    /// Limits of CPU time.
    LinuxCpu {
        optional {
            /// Weight, 2 to 262144.
            shares: Option<u64>,
            /// Microseconds a period; negative: unlimited.
            quota: Option<i64>,
            /// What may be saved up, in microseconds.
            burst: Option<u64>,
            /// Period in microseconds.
            period: Option<u64>,
            /// Microseconds a period for real-time tasks (cgroup v1).
            realtime_runtime: Option<i64>,
            /// Period for real-time tasks in microseconds (cgroup v1).
            realtime_period: Option<u64>,
            /// CPUs, as a list.
            cpus: Option<String>,
            /// Memory nodes, as a list.
            mems: Option<String>,
            /// 1: only when nobody else wants the CPU.
            idle: Option<i64>,
        }
    }

    /// Limit of the number of tasks.
    LinuxPids {
        required {
            /// How many; 0 and below: unlimited.
            limit: i64,
        }
    }

    /// Limits of block devices.
    LinuxBlockIo {
        optional {
            /// Weight, 10 to 1000.
            weight: Option<u16>,
            /// Weight of the group's own tasks (CFQ; no longer in the kernel).
            leaf_weight: Option<u16>,
            /// Weights by device.
            weight_device: Vec<WeightDevice>,
            /// Bytes read a second.
            throttle_read_bps_device: Vec<ThrottleDevice>,
            /// Bytes written a second.
            throttle_write_bps_device: Vec<ThrottleDevice>,
            /// Reads a second.
            #[serde(rename = "throttleReadIOPSDevice")]
            throttle_read_iops_device: Vec<ThrottleDevice>,
            /// Writes a second.
            #[serde(rename = "throttleWriteIOPSDevice")]
            throttle_write_iops_device: Vec<ThrottleDevice>,
        }
    }

    /// The weight of one device.
    WeightDevice {
        required {
            /// Major number.
            major: i64,
            /// Minor number.
            minor: i64,
        }
        optional {
            /// Weight, 10 to 1000.
            weight: Option<u16>,
            /// Weight of the group's own tasks.
            leaf_weight: Option<u16>,
        }
    }

    /// A rate for one device.
    ThrottleDevice {
        required {
            /// Major number.
            major: i64,
            /// Minor number.
            minor: i64,
        }
        optional {
            /// Bytes or operations a second.
            rate: u64,
        }
    }

    /// A limit of huge pages of one size.
    HugepageLimit {
        required {
            /// Size, such as `2MB`.
            page_size: String,
            /// Bytes.
            limit: u64,
        }
    }

    /// Network classes of cgroup v1.
    LinuxNetwork {
        optional {
            /// Class of the packets.
            #[serde(rename = "classID")]
            class_id: Option<u32>,
            /// Priorities by interface.
            priorities: Vec<InterfacePriority>,
        }
    }

    /// The priority of one interface.
    InterfacePriority {
        required {
            /// Interface.
            name: String,
            /// Priority.
            priority: u32,
        }
    }

    /// Limits of one RDMA device.
    Rdma {
        optional {
            /// Handles.
            hca_handles: Option<u32>,
            /// Objects.
            hca_objects: Option<u32>,
        }
    }

    /// System call filter.
    LinuxSeccomp {
        required {
            /// What happens to a call no rule names.
            default_action: SeccompAction,
        }
        optional {
            /// Error number of the default action, where it takes one.
            default_errno_ret: Option<u32>,
            /// Architectures whose calls are admitted.
            architectures: Vec<SeccompArch>,
            /// Flags of the filter.
            flags: Vec<SeccompFlag>,
            /// Socket that receives the descriptor for notifications.
            listener_path: Option<String>,
            /// Data for that socket.
            listener_metadata: Option<String>,
            /// Rules.
            syscalls: Vec<SeccompRule>,
        }
    }

    /// One rule of a filter.
    SeccompRule {
        required {
            /// Calls by name; one that the architecture lacks is skipped.
            names: Vec<String>,
            /// What happens.
            action: SeccompAction,
        }
        optional {
            /// Error number, where the action takes one.
            errno_ret: Option<u32>,
            /// Conditions, all of which must hold.
            args: Vec<SeccompArg>,
        }
    }

    /// A condition on one argument.
    SeccompArg {
        required {
            /// Which argument, 0 to 5.
            index: u32,
            /// Value; the mask for `SCMP_CMP_MASKED_EQ`.
            value: u64,
            /// Comparison.
            op: SeccompOperator,
        }
        optional {
            /// The value after masking.
            value_two: u64,
        }
    }

    /// Cache and memory bandwidth classes of Intel processors.
    IntelRdt {
        optional {
            /// Class.
            #[serde(rename = "closID")]
            clos_id: Option<String>,
            /// Lines of the schemata file.
            schemata: Vec<String>,
            /// L3 cache line.
            l3_cache_schema: Option<String>,
            /// Memory bandwidth line.
            mem_bw_schema: Option<String>,
            /// Whether usage is measured.
            enable_monitoring: bool,
        }
    }

    /// NUMA memory policy.
    MemoryPolicy {
        optional {
            /// Mode, `MPOL_...`.
            mode: String,
            /// Nodes, as a list.
            nodes: String,
            /// Flags, `MPOL_F_...`.
            flags: Vec<String>,
        }
    }

    /// Execution domain.
    Personality {
        required {
            /// Domain.
            domain: PersonalityDomain,
        }
        optional {
            /// Flags; none is defined.
            flags: Vec<String>,
        }
    }

    /// What `state` prints and hooks read.
    State {
        required {
            /// Version of the specification.
            oci_version: String,
            /// The container's id.
            id: String,
            /// Where it is in its life.
            status: Status,
            /// Folder of the bundle.
            bundle: String,
        }
        optional {
            /// Process id of the container's init, on the host.
            pid: Option<i32>,
            /// Free data.
            annotations: BTreeMap<String, String>,
        }
    }
}

/// User and groups of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// File mode creation mask.
    #[serde(skip_serializing_if = "empty")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(skip_serializing_if = "empty")]
    pub additional_gids: Vec<u32>,
    /// Name, for platforms that have no numbers: an error here.
    #[serde(skip_serializing_if = "empty")]
    pub username: Option<String>,
}

words! {
    /// Kinds of namespaces.
    NamespaceKind {
        Mount = "mount", Pid = "pid", Network = "network", Uts = "uts", Ipc = "ipc", User = "user",
        Cgroup = "cgroup", Time = "time",
    }

    /// Kinds of device nodes.
    DeviceKind { Char = "c", Block = "b", Unbuffered = "u", Fifo = "p", }

    /// Classes of I/O priority.
    IoPriorityClass {
        BestEffort = "IOPRIO_CLASS_BE", RealTime = "IOPRIO_CLASS_RT", Idle = "IOPRIO_CLASS_IDLE",
    }

    /// Scheduling policies.
    SchedulerPolicy {
        Other = "SCHED_OTHER", Fifo = "SCHED_FIFO", RoundRobin = "SCHED_RR", Batch = "SCHED_BATCH",
        Iso = "SCHED_ISO", Idle = "SCHED_IDLE", Deadline = "SCHED_DEADLINE",
    }

    /// Flags of a scheduling policy.
    SchedulerFlag {
        ResetOnFork = "SCHED_FLAG_RESET_ON_FORK", Reclaim = "SCHED_FLAG_RECLAIM",
        DeadlineOverrun = "SCHED_FLAG_DL_OVERRUN", KeepPolicy = "SCHED_FLAG_KEEP_POLICY",
        KeepParams = "SCHED_FLAG_KEEP_PARAMS", UtilClampMin = "SCHED_FLAG_UTIL_CLAMP_MIN",
        UtilClampMax = "SCHED_FLAG_UTIL_CLAMP_MAX",
    }

    /// What a filter does with a call.
    SeccompAction {
        Errno = "SCMP_ACT_ERRNO", Allow = "SCMP_ACT_ALLOW", Kill = "SCMP_ACT_KILL",
        KillProcess = "SCMP_ACT_KILL_PROCESS", KillThread = "SCMP_ACT_KILL_THREAD", Trap = "SCMP_ACT_TRAP",
        Trace = "SCMP_ACT_TRACE", Log = "SCMP_ACT_LOG", Notify = "SCMP_ACT_NOTIFY",
    }

    /// Comparisons of a filter.
    SeccompOperator {
        Equal = "SCMP_CMP_EQ", NotEqual = "SCMP_CMP_NE", Less = "SCMP_CMP_LT", LessOrEqual = "SCMP_CMP_LE",
        GreaterOrEqual = "SCMP_CMP_GE", Greater = "SCMP_CMP_GT", MaskedEqual = "SCMP_CMP_MASKED_EQ",
    }

    /// Flags of a filter.
    SeccompFlag {
        Tsync = "SECCOMP_FILTER_FLAG_TSYNC", Log = "SECCOMP_FILTER_FLAG_LOG",
        SpecAllow = "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        WaitKillable = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    }

    /// Architectures of system calls.
    SeccompArch {
        X86_64 = "SCMP_ARCH_X86_64", X86 = "SCMP_ARCH_X86", X32 = "SCMP_ARCH_X32", Arm = "SCMP_ARCH_ARM",
        Aarch64 = "SCMP_ARCH_AARCH64", Loongarch64 = "SCMP_ARCH_LOONGARCH64", M68k = "SCMP_ARCH_M68K",
        Mips = "SCMP_ARCH_MIPS", Mips64 = "SCMP_ARCH_MIPS64", Mips64n32 = "SCMP_ARCH_MIPS64N32",
        Mipsel = "SCMP_ARCH_MIPSEL", Mipsel64 = "SCMP_ARCH_MIPSEL64", Mipsel64n32 = "SCMP_ARCH_MIPSEL64N32",
        Ppc = "SCMP_ARCH_PPC", Ppc64 = "SCMP_ARCH_PPC64", Ppc64le = "SCMP_ARCH_PPC64LE",
        S390 = "SCMP_ARCH_S390", S390x = "SCMP_ARCH_S390X", Sh = "SCMP_ARCH_SH", Sheb = "SCMP_ARCH_SHEB",
        Parisc = "SCMP_ARCH_PARISC", Parisc64 = "SCMP_ARCH_PARISC64", Riscv64 = "SCMP_ARCH_RISCV64",
    }

    /// Execution domains.
    PersonalityDomain { Linux = "LINUX", Linux32 = "LINUX32", }

    /// Where a container is in its life.
    Status { Creating = "creating", Created = "created", Running = "running", Stopped = "stopped", }
}

impl Namespace {
    /// A new namespace of `kind`.
    pub fn new(kind: NamespaceKind) -> Self {
        Self { kind, path: None }
    }

    /// The namespace at `path`.
    pub fn join(kind: NamespaceKind, path: impl Into<String>) -> Self {
        Self { kind, path: Some(path.into()) }
    }
}

impl Linux {
    /// The namespace of `kind`, if the container has its own or joins one.
    pub fn namespace(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_an_error_at_every_depth() {
        for text in [
            r#"{"ociVersion":"1.2.1","windows":{}}"#,
            r#"{"ociVersion":"1.2.1","vm":{}}"#,
            r#"{"ociVersion":"1.2.1","linux":{"landlock":{}}}"#,
            r#"{"ociVersion":"1.2.1","process":{"cwd":"/","user":{"uid":0,"gid":0,"shell":"sh"}}}"#,
            r#"{"ociVersion":"1.2.1","linux":{"resources":{"memory":{"limits":1}}}}"#,
            r#"{"ociVersion":"1.2.1","linux":{"namespaces":[{"type":"cpu"}]}}"#,
        ] {
            assert!(serde_json::from_str::<Spec>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_absent_stays_absent() {
        let text = r#"{"ociVersion":"1.2.1","process":{"cwd":"/","user":{"uid":0,"gid":0},"args":["sh"]},"root":{"path":"rootfs"},"linux":{"resources":{"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":10}]}},"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        let linux = spec.linux.as_ref().unwrap();
        assert_eq!(linux.namespace(NamespaceKind::Network).unwrap().path.as_deref(), Some("/run/netns/x"));
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }
}
