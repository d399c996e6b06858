//! Use of resources: `GET /containers/{id}/stats`.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::{empty, nullable};

/// Go's zero time.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// One sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsResponse {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "empty")]
    pub os_type: String,
    #[serde(deserialize_with = "nullable")]
    pub read: String,
    pub cpu_stats: CpuStats,
    pub memory_stats: MemoryStats,
    #[serde(skip_serializing_if = "empty")]
    pub networks: Option<BTreeMap<String, NetworkStats>>,
    pub pids_stats: PidsStats,
    pub blkio_stats: BlkioStats,
    pub num_procs: u32,
    pub storage_stats: StorageStats,
    #[serde(deserialize_with = "nullable")]
    pub preread: String,
    pub precpu_stats: CpuStats,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    pub cpu_usage: CpuUsage,
    #[serde(skip_serializing_if = "empty")]
    pub system_cpu_usage: u64,
    #[serde(skip_serializing_if = "empty")]
    pub online_cpus: u32,
    pub throttling_data: ThrottlingData,
}

/// Nanoseconds of processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub total_usage: u64,
    #[serde(skip_serializing_if = "empty")]
    pub percpu_usage: Option<Vec<u64>>,
    pub usage_in_kernelmode: u64,
    pub usage_in_usermode: u64,
}

/// What the bandwidth limit did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Bytes of memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    #[serde(skip_serializing_if = "empty")]
    pub usage: u64,
    #[serde(skip_serializing_if = "empty")]
    pub max_usage: u64,
    #[serde(skip_serializing_if = "empty")]
    pub stats: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "empty")]
    pub failcnt: u64,
    #[serde(skip_serializing_if = "empty")]
    pub limit: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    #[serde(skip_serializing_if = "empty")]
    pub current: u64,
    #[serde(skip_serializing_if = "empty")]
    pub limit: u64,
}

/// Block devices; `null` where there is nothing to count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    pub io_service_bytes_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_serviced_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_queue_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_service_time_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_wait_time_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_merged_recursive: Option<Vec<BlkioStatEntry>>,
    pub io_time_recursive: Option<Vec<BlkioStatEntry>>,
    pub sectors_recursive: Option<Vec<BlkioStatEntry>>,
}

/// A figure of one device and one kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStatEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

/// What went through an interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Only of Windows containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageStats {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_rests_has_docker_s_empty_answer() {
        let text =
            serde_json::to_string(&StatsResponse { read: NEVER.into(), ..Default::default() }).unwrap();
        assert!(text.contains(r#""memory_stats":{},"pids_stats":{}"#), "{text}");
        assert!(
            text.contains(r#""io_service_bytes_recursive":null"#) && !text.contains("networks"),
            "{text}"
        );
        assert!(text.contains(r#""throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}"#));
        assert!(!text.contains("system_cpu_usage") && !text.contains("online_cpus"), "{text}");
    }
}
