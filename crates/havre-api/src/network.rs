//! Networks, and what a container's configuration and its inspection say about them.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use crate::wire::wire;

/// Container port (`80/tcp`) to the host's addresses; `null` for an exposed port that is not published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

wire! {
    /// Networks to join at creation.
    pub struct NetworkingConfig {
        endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
    }

    /// One address of the host that leads to a container's port.
    pub struct PortBinding {
        #[serde(rename = "HostIp")]
        host_ip: String,
        host_port: String,
    }

    /// One endpoint of a container.
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIpamConfig>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        mac_address: String,
        driver_opts: Option<BTreeMap<String, String>>,
        gw_priority: i64,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
    }

    /// Addresses asked for an endpoint.
    pub struct EndpointIpamConfig {
        #[serde(rename = "IPv4Address")]
        omit ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        omit ipv6_address: String,
        #[serde(rename = "LinkLocalIPs")]
        omit link_local_ips: Option<Vec<String>>,
    }

    /// Networks of a container as `inspect` shows them.
    pub struct NetworkSettings {
        /// Before API 1.52.
        omit bridge: Option<String>,
        #[serde(rename = "SandboxID")]
        sandbox_id: String,
        sandbox_key: String,
        ports: Option<PortMap>,
        /// The fields from here to `mac_address` were dropped in API 1.52.
        omit hairpin_mode: Option<bool>,
        #[serde(rename = "LinkLocalIPv6Address")]
        omit link_local_ipv6_address: Option<String>,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        omit link_local_ipv6_prefix_len: Option<i64>,
        #[serde(rename = "SecondaryIPAddresses")]
        omit secondary_ip_addresses: Option<serde_json::Value>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        omit secondary_ipv6_addresses: Option<serde_json::Value>,
        #[serde(rename = "EndpointID")]
        omit endpoint_id: Option<String>,
        omit gateway: Option<String>,
        #[serde(rename = "GlobalIPv6Address")]
        omit global_ipv6_address: Option<String>,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        omit global_ipv6_prefix_len: Option<i64>,
        #[serde(rename = "IPAddress")]
        omit ip_address: Option<String>,
        #[serde(rename = "IPPrefixLen")]
        omit ip_prefix_len: Option<i64>,
        #[serde(rename = "IPv6Gateway")]
        omit ipv6_gateway: Option<String>,
        omit mac_address: Option<String>,
        networks: Option<BTreeMap<String, EndpointSettings>>,
    }

    /// A network as `GET /networks` lists it.
    pub struct NetworkSummary {
        name: String,
        id: String,
        created: String,
        scope: String,
        driver: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        ipam: Ipam,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_from: ConfigReference,
        config_only: bool,
        /// Of lists dropped in API 1.52.
        omit containers: Option<BTreeMap<String, EndpointResource>>,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
        /// Only inspection has it, since API 1.52.
        omit status: Option<NetworkStatus>,
    }

    /// How addresses of a network are managed.
    pub struct Ipam {
        driver: String,
        options: Option<BTreeMap<String, String>>,
        config: Option<Vec<IpamConfig>>,
    }

    /// One subnet.
    pub struct IpamConfig {
        omit subnet: String,
        #[serde(rename = "IPRange")]
        omit ip_range: String,
        omit gateway: String,
        #[serde(rename = "AuxiliaryAddresses")]
        omit auxiliary_addresses: Option<BTreeMap<String, String>>,
    }

    /// The network whose configuration another one takes.
    pub struct ConfigReference {
        network: String,
    }

    /// A container's place in a network.
    pub struct EndpointResource {
        name: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        mac_address: String,
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
    }

    /// What is used of a network.
    pub struct NetworkStatus {
        #[serde(rename = "IPAM")]
        ipam: IpamStatus,
    }

    /// What is used of a network's addresses.
    pub struct IpamStatus {
        subnets: BTreeMap<String, SubnetStatus>,
    }

    /// What is used of one subnet.
    pub struct SubnetStatus {
        #[serde(rename = "IPsInUse")]
        ips_in_use: u64,
        #[serde(rename = "DynamicIPsAvailable")]
        dynamic_ips_available: u64,
    }

    /// Body of `POST /networks/create`.
    pub struct NetworkCreateRequest {
        name: String,
        driver: String,
        scope: String,
        #[serde(rename = "EnableIPv4")]
        omit enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        omit enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        ipam: Option<Ipam>,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_only: bool,
        config_from: Option<ConfigReference>,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    }

    /// Answer of `POST /networks/create`.
    pub struct NetworkCreateResponse {
        id: String,
        warning: String,
    }

    /// Body of `POST /networks/{id}/connect`.
    pub struct ConnectRequest {
        container: String,
        omit endpoint_config: Option<EndpointSettings>,
    }

    /// Body of `POST /networks/{id}/disconnect`.
    pub struct DisconnectRequest {
        container: String,
        force: bool,
    }

    /// Answer of `POST /networks/prune`.
    pub struct NetworkPruneResponse {
        networks_deleted: Option<Vec<String>>,
    }
}
