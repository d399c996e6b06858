//! Containers: creation, listing, inspection, waiting, update, top.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Empty;
use crate::host::HostConfig;
use crate::image::{Descriptor, GraphDriver};
use crate::network::{EndpointSettings, NetworkSettings, NetworkingConfig};
use crate::wire::wire;

/// Body of `POST /containers/create`: the configuration, with two more members beside its fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    #[serde(flatten)]
    pub config: Config,
    pub host_config: Option<HostConfig>,
    pub networking_config: Option<NetworkingConfig>,
}

wire! {
    /// The part of a container's configuration that does not depend on the host.
    pub struct Config {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        omit exposed_ports: Option<BTreeMap<String, Empty>>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Option<Vec<String>>,
        words cmd: Option<Vec<String>>,
        omit healthcheck: Option<HealthConfig>,
        omit args_escaped: bool,
        image: String,
        volumes: Option<BTreeMap<String, Empty>>,
        working_dir: String,
        words entrypoint: Option<Vec<String>>,
        omit network_disabled: bool,
        omit mac_address: String,
        omit on_build: Option<Vec<String>>,
        labels: Option<BTreeMap<String, String>>,
        omit stop_signal: String,
        omit stop_timeout: Option<i64>,
        omit shell: Option<Vec<String>>,
    }

    /// How health is probed; durations in nanoseconds, zero inherits.
    pub struct HealthConfig {
        omit test: Option<Vec<String>>,
        omit interval: i64,
        omit timeout: i64,
        omit start_period: i64,
        omit start_interval: i64,
        omit retries: i64,
    }

    /// Answer of `POST /containers/create`.
    pub struct CreateResponse {
        id: String,
        warnings: Vec<String>,
    }

    /// One line of `GET /containers/json`.
    pub struct ContainerSummary {
        id: String,
        names: Vec<String>,
        image: String,
        #[serde(rename = "ImageID")]
        image_id: String,
        omit image_manifest_descriptor: Option<Descriptor>,
        command: String,
        created: i64,
        ports: Vec<PortSummary>,
        omit size_rw: Option<i64>,
        omit size_root_fs: Option<i64>,
        labels: BTreeMap<String, String>,
        state: String,
        status: String,
        host_config: SummaryHostConfig,
        network_settings: SummaryNetworkSettings,
        mounts: Vec<MountPoint>,
        /// Since API 1.52.
        omit health: Option<HealthSummary>,
    }

    /// A port of a running container.
    pub struct PortSummary {
        #[serde(rename = "IP")]
        omit ip: String,
        private_port: u16,
        omit public_port: u16,
        #[serde(rename = "Type")]
        kind: String,
    }

    /// The part of the host configuration that a list shows.
    pub struct SummaryHostConfig {
        omit network_mode: String,
        omit annotations: Option<BTreeMap<String, String>>,
    }

    /// The networks that a list shows.
    pub struct SummaryNetworkSettings {
        networks: BTreeMap<String, EndpointSettings>,
    }

    /// The health that a list shows.
    pub struct HealthSummary {
        status: String,
        failing_streak: i64,
    }

    /// A mount of a container as it is.
    pub struct MountPoint {
        #[serde(rename = "Type")]
        omit kind: String,
        omit name: String,
        source: String,
        destination: String,
        omit driver: String,
        mode: String,
        #[serde(rename = "RW")]
        rw: bool,
        propagation: String,
    }

    /// Answer of `GET /containers/{id}/json`.
    pub struct ContainerInspect {
        id: String,
        created: String,
        path: String,
        args: Vec<String>,
        state: State,
        image: String,
        resolv_conf_path: String,
        hostname_path: String,
        hosts_path: String,
        log_path: String,
        name: String,
        restart_count: i64,
        driver: String,
        platform: String,
        mount_label: String,
        process_label: String,
        app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        exec_ids: Option<Vec<String>>,
        host_config: HostConfig,
        omit graph_driver: Option<GraphDriver>,
        omit size_rw: Option<i64>,
        omit size_root_fs: Option<i64>,
        mounts: Vec<MountPoint>,
        config: Config,
        network_settings: NetworkSettings,
        omit image_manifest_descriptor: Option<Descriptor>,
    }

    /// The state of a container as `inspect` shows it.
    pub struct State {
        status: String,
        running: bool,
        paused: bool,
        restarting: bool,
        #[serde(rename = "OOMKilled")]
        oom_killed: bool,
        dead: bool,
        pid: i64,
        exit_code: i64,
        error: String,
        started_at: String,
        finished_at: String,
        omit health: Option<Health>,
    }

    /// The outcome of the last health probes.
    pub struct Health {
        status: String,
        failing_streak: i64,
        log: Option<Vec<HealthcheckResult>>,
    }

    /// One health probe.
    pub struct HealthcheckResult {
        start: String,
        end: String,
        exit_code: i64,
        output: String,
    }

    /// Answer of `POST /containers/{id}/wait`.
    pub struct WaitResponse {
        omit error: Option<WaitError>,
        status_code: i64,
    }

    /// Why waiting ended without an exit.
    pub struct WaitError {
        message: String,
    }

    /// Answer of `POST /containers/{id}/update`.
    pub struct UpdateResponse {
        warnings: Option<Vec<String>>,
    }

    /// Answer of `GET /containers/{id}/top`.
    pub struct TopResponse {
        processes: Vec<Vec<String>>,
        titles: Vec<String>,
    }

    /// Body of `POST /containers/{id}/checkpoints`.
    pub struct CheckpointRequest {
        #[serde(rename = "CheckpointID")]
        checkpoint_id: String,
        checkpoint_dir: String,
        exit: bool,
    }

    /// One entry of `GET /containers/{id}/checkpoints`.
    pub struct Checkpoint {
        name: String,
    }

    /// Answer of `POST /containers/prune`.
    pub struct PruneResponse {
        containers_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }

    /// One entry of `GET /containers/{id}/changes`.
    pub struct Change {
        path: String,
        /// 0 modified, 1 added, 2 deleted.
        kind: u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_absent_and_unknown_fields_are_tolerated() {
        let body = r#"{"Image":"busybox","Cmd":"true","Env":null,"Hostname":null,"New":1,
            "HostConfig":{"Memory":null,"CapAdd":"NET_ADMIN","Binds":null,"RestartPolicy":null,"Future":{}},
            "NetworkingConfig":null}"#;
        let request: CreateRequest = serde_json::from_str(body).unwrap();
        assert_eq!(request.config.image, "busybox");
        assert_eq!(request.config.cmd, Some(vec!["true".into()]));
        let host = request.host_config.unwrap();
        assert_eq!(host.cap_add, Some(vec!["NET_ADMIN".into()]));
        assert_eq!(host.memory, 0);
        assert_eq!(request.networking_config, None);
    }

    #[test]
    fn a_request_survives_the_wire() {
        let mut request = CreateRequest::default();
        request.config.entrypoint = Some(Vec::new());
        request.config.stop_timeout = Some(0);
        request.host_config = Some(HostConfig { init: Some(false), shm_size: 1, ..Default::default() });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<CreateRequest>(&text).unwrap(), request);
    }

    #[test]
    fn lists_print_null_or_empty_as_docker_does() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert!(text.contains(r#""Env":null"#) && text.contains(r#""Volumes":null"#), "{text}");
        assert!(!text.contains("ExposedPorts") && !text.contains("StopSignal"), "{text}");
        let text = serde_json::to_string(&ContainerSummary::default()).unwrap();
        assert!(text.contains(r#""Ports":[]"#) && text.contains(r#""Labels":{}"#), "{text}");
    }
}
