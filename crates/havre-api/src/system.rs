//! The daemon about itself: `/version` and `/info`.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use crate::wire::wire;

wire! {
    /// Answer of `GET /version`.
    pub struct VersionResponse {
        omit platform: Option<PlatformName>,
        omit components: Option<Vec<Component>>,
        version: String,
        api_version: String,
        #[serde(rename = "MinAPIVersion")]
        min_api_version: String,
        git_commit: String,
        go_version: String,
        os: String,
        arch: String,
        omit kernel_version: String,
        omit experimental: bool,
        omit build_time: String,
    }

    /// The product's name.
    pub struct PlatformName {
        name: String,
    }

    /// One part of the engine.
    pub struct Component {
        name: String,
        version: String,
        omit details: Option<BTreeMap<String, String>>,
    }

    /// Answer of `GET /info`.
    pub struct InfoResponse {
        #[serde(rename = "ID")]
        id: String,
        containers: i64,
        containers_running: i64,
        containers_paused: i64,
        containers_stopped: i64,
        images: i64,
        driver: String,
        driver_status: Option<Vec<[String; 2]>>,
        omit system_status: Option<Vec<[String; 2]>>,
        plugins: PluginsInfo,
        memory_limit: bool,
        swap_limit: bool,
        omit kernel_memory: bool,
        #[serde(rename = "KernelMemoryTCP")]
        omit kernel_memory_tcp: bool,
        cpu_cfs_period: bool,
        cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        cpu_set: bool,
        pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        ipv4_forwarding: bool,
        /// Before API 1.49 (always true since).
        omit bridge_nf_iptables: Option<bool>,
        omit bridge_nf_ip6tables: Option<bool>,
        debug: bool,
        #[serde(rename = "NFd")]
        n_fd: i64,
        oom_kill_disable: bool,
        #[serde(rename = "NGoroutines")]
        n_goroutines: i64,
        system_time: String,
        logging_driver: String,
        cgroup_driver: String,
        omit cgroup_version: String,
        #[serde(rename = "NEventsListener")]
        n_events_listener: i64,
        kernel_version: String,
        operating_system: String,
        #[serde(rename = "OSVersion")]
        os_version: String,
        #[serde(rename = "OSType")]
        os_type: String,
        architecture: String,
        index_server_address: String,
        registry_config: Option<RegistryConfig>,
        #[serde(rename = "NCPU")]
        n_cpu: i64,
        mem_total: i64,
        generic_resources: Option<Vec<serde_json::Value>>,
        docker_root_dir: String,
        http_proxy: String,
        https_proxy: String,
        no_proxy: String,
        name: String,
        labels: Vec<String>,
        experimental_build: bool,
        server_version: String,
        runtimes: BTreeMap<String, Runtime>,
        default_runtime: String,
        swarm: SwarmInfo,
        live_restore_enabled: bool,
        isolation: String,
        init_binary: String,
        containerd_commit: Commit,
        runc_commit: Commit,
        init_commit: Commit,
        security_options: Vec<String>,
        omit product_license: String,
        omit default_address_pools: Option<Vec<AddressPool>>,
        omit firewall_backend: Option<FirewallInfo>,
        #[serde(rename = "CDISpecDirs")]
        cdi_spec_dirs: Option<Vec<String>>,
        /// Since API 1.50.
        omit discovered_devices: Option<Vec<DeviceInfo>>,
        omit containerd: Option<ContainerdInfo>,
        warnings: Option<Vec<String>>,
    }

    /// A device that containers can be given.
    pub struct DeviceInfo {
        source: String,
        #[serde(rename = "ID")]
        id: String,
    }

    /// Drivers by kind.
    pub struct PluginsInfo {
        volume: Option<Vec<String>>,
        network: Option<Vec<String>>,
        authorization: Option<Vec<String>>,
        log: Option<Vec<String>>,
    }

    /// Registries the daemon knows. Docker writes it through a map, so its fields are in the order of their names.
    pub struct RegistryConfig {
        index_configs: BTreeMap<String, IndexInfo>,
        #[serde(rename = "InsecureRegistryCIDRs")]
        insecure_registry_cidrs: Vec<String>,
        mirrors: Option<Vec<String>>,
    }

    /// One registry.
    pub struct IndexInfo {
        mirrors: Vec<String>,
        name: String,
        official: bool,
        secure: bool,
    }

    /// An OCI runtime.
    pub struct Runtime {
        #[serde(rename = "path")]
        omit path: String,
        #[serde(rename = "runtimeArgs")]
        omit runtime_args: Option<Vec<String>>,
        #[serde(rename = "status")]
        omit status: Option<BTreeMap<String, String>>,
    }

    /// The cluster, as far as this node knows it.
    pub struct SwarmInfo {
        #[serde(rename = "NodeID")]
        node_id: String,
        node_addr: String,
        local_node_state: String,
        control_available: bool,
        error: String,
        remote_managers: Option<Vec<serde_json::Value>>,
        omit nodes: i64,
        omit managers: i64,
        omit cluster: Option<serde_json::Value>,
    }

    /// The source revision of a part.
    pub struct Commit {
        #[serde(rename = "ID")]
        id: String,
    }

    /// Addresses for networks without their own.
    pub struct AddressPool {
        base: String,
        size: i64,
    }

    /// What filters packets.
    pub struct FirewallInfo {
        driver: String,
        omit info: Option<Vec<[String; 2]>>,
    }

    /// An attached containerd.
    pub struct ContainerdInfo {
        omit address: String,
        namespaces: ContainerdNamespaces,
    }

    /// Its namespaces.
    pub struct ContainerdNamespaces {
        containers: String,
        plugins: String,
    }
}
