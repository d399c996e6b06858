//! What a container asks of its host: resources, mounts, ports, namespaces.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use crate::network::PortMap;
use crate::wire::wire;

wire! {
    /// The part of a container's configuration that depends on the host.
    pub struct HostConfig {
        binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: Option<PortMap>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Option<Vec<String>>,
        console_size: [u32; 2],
        omit annotations: Option<BTreeMap<String, String>>,
        words cap_add: Option<Vec<String>>,
        words cap_drop: Option<Vec<String>>,
        cgroupns_mode: String,
        dns: Option<Vec<String>>,
        dns_options: Option<Vec<String>>,
        dns_search: Option<Vec<String>>,
        extra_hosts: Option<Vec<String>>,
        group_add: Option<Vec<String>>,
        ipc_mode: String,
        cgroup: String,
        links: Option<Vec<String>>,
        oom_score_adj: i64,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Option<Vec<String>>,
        omit storage_opt: Option<BTreeMap<String, String>>,
        omit tmpfs: Option<BTreeMap<String, String>>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        omit sysctls: Option<BTreeMap<String, String>>,
        omit runtime: String,
        isolation: String,
        // The resources, inlined as in Docker's JSON; `Resources` has the same fields for `update`.
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<DeviceRequest>>,
        omit kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP")]
        omit kernel_memory_tcp: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        /// Ours: bytes a second that a container may receive in each of its networks; zero is no limit.
        omit network_rate_in: Option<i64>,
        /// Ours: the same for what it sends.
        omit network_rate_out: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        omit mounts: Option<Vec<Mount>>,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        omit init: Option<bool>,
    }

    /// Limits that `update` changes.
    pub struct Resources {
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<DeviceRequest>>,
        omit kernel_memory: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        omit network_rate_in: Option<i64>,
        omit network_rate_out: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        /// Only in `update`; `None` leaves the policy as it is.
        restart_policy: Option<RestartPolicy>,
        /// Only in `update`, and Havre's own: ports to be published besides.
        omit publish_add: Option<PortMap>,
        /// The same of ports that are not to be published any more; a binding without a port of the host means all of them.
        omit publish_remove: Option<PortMap>,
    }

    /// What an update changes of the published ports. Havre's own.
    pub struct PublishChange {
        omit publish_add: Option<PortMap>,
        omit publish_remove: Option<PortMap>,
    }

    /// Where the log goes.
    pub struct LogConfig {
        #[serde(rename = "Type")]
        kind: String,
        config: Option<BTreeMap<String, String>>,
    }

    /// When the daemon starts the container again.
    pub struct RestartPolicy {
        name: String,
        maximum_retry_count: i64,
    }

    /// Share of the disk of one device.
    pub struct WeightDevice {
        path: String,
        weight: u16,
    }

    /// A limit on one device, in bytes or operations a second.
    pub struct ThrottleDevice {
        path: String,
        rate: u64,
    }

    /// A device of the host inside the container.
    pub struct DeviceMapping {
        path_on_host: String,
        path_in_container: String,
        cgroup_permissions: String,
    }

    /// Devices that a driver provides.
    pub struct DeviceRequest {
        driver: String,
        count: i64,
        #[serde(rename = "DeviceIDs")]
        device_ids: Option<Vec<String>>,
        capabilities: Option<Vec<Vec<String>>>,
        options: Option<BTreeMap<String, String>>,
    }

    /// One resource limit of the process.
    pub struct Ulimit {
        name: String,
        hard: i64,
        soft: i64,
    }

    /// A mount as `--mount` describes it.
    pub struct Mount {
        #[serde(rename = "Type")]
        omit kind: String,
        omit source: String,
        omit target: String,
        omit read_only: bool,
        omit consistency: String,
        omit bind_options: Option<BindOptions>,
        omit volume_options: Option<VolumeOptions>,
        omit image_options: Option<ImageOptions>,
        omit tmpfs_options: Option<TmpfsOptions>,
    }

    /// Options of a bind mount.
    pub struct BindOptions {
        omit propagation: String,
        omit non_recursive: bool,
        omit create_mountpoint: bool,
        omit read_only_non_recursive: bool,
        omit read_only_force_recursive: bool,
    }

    /// Options of a volume mount.
    pub struct VolumeOptions {
        omit no_copy: bool,
        omit labels: Option<BTreeMap<String, String>>,
        omit subpath: String,
        omit driver_config: Option<DriverConfig>,
    }

    /// Options of an image mount.
    pub struct ImageOptions {
        omit subpath: String,
    }

    /// Options of a tmpfs mount.
    pub struct TmpfsOptions {
        omit size_bytes: i64,
        omit mode: u32,
        omit options: Option<Vec<Vec<String>>>,
    }

    /// A volume driver and its options.
    pub struct DriverConfig {
        omit name: String,
        omit options: Option<BTreeMap<String, String>>,
    }
}
