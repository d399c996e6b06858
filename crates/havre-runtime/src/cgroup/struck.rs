//! Which limits a group ran into: what its counters say before it is removed.

use serde::{Deserialize, Serialize};

use super::stats::lines;
use super::{Cgroup, Version};

/// What the kernel shows for "no limit" on v1, less what it rounds to.
const BOUNDLESS: u64 = 1 << 62;

/// Limits of a group, and how often each was hit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Struck {
    /// The group, below each hierarchy.
    pub group: String,
    /// Bytes of memory allowed.
    pub memory_limit: Option<u64>,
    /// The most bytes used at once, where the kernel counts it.
    pub memory_peak: Option<u64>,
    /// How often memory had to be reclaimed because of the limit.
    pub memory_hits: u64,
    /// Processes killed because nothing could be reclaimed.
    pub oom_kills: u64,
    /// Processes and threads allowed.
    pub pids_limit: Option<u64>,
    /// How often a new process or thread was refused.
    pub pids_refused: u64,
    /// Periods of the processor limit.
    pub cpu_periods: u64,
    /// Periods in which the group was held back.
    pub cpu_throttled: u64,
    /// For how long, in nanoseconds.
    pub cpu_throttled_nanos: u64,
}

impl Cgroup {
    /// Which limits the group ran into so far.
    #[must_use]
    pub fn struck(&self) -> Struck {
        let v1 = self.layout.version == Version::V1;
        let text = |controller, file| self.read(controller, file).unwrap_or_default();
        let number = |controller, file| text(controller, file).trim().parse::<u64>().ok();
        let limit = |controller, file| number(controller, file).filter(|bytes| *bytes < BOUNDLESS);
        let cpu = lines(&text("cpu", "cpu.stat"));
        let pids = lines(&text("pids", "pids.events"));
        let get = |map: &std::collections::BTreeMap<String, u64>, key: &str| {
            map.get(key).copied().unwrap_or_default()
        };
        let memory = |v1_file, v2_file| limit("memory", if v1 { v1_file } else { v2_file });
        let hits = match v1 {
            true => {
                let plain = number("memory", "memory.failcnt").unwrap_or(0);
                plain.max(number("memory", "memory.memsw.failcnt").unwrap_or(0))
            }
            false => get(&lines(&text("memory", "memory.events")), "max"),
        };
        Struck {
            group: self.path.clone(),
            memory_limit: memory("memory.limit_in_bytes", "memory.max"),
            memory_peak: memory("memory.max_usage_in_bytes", "memory.peak"),
            memory_hits: hits,
            oom_kills: self.oom_kills(),
            pids_limit: limit("pids", "pids.max"),
            pids_refused: get(&pids, "max"),
            cpu_periods: get(&cpu, "nr_periods"),
            cpu_throttled: get(&cpu, "nr_throttled"),
            cpu_throttled_nanos: match v1 {
                true => get(&cpu, "throttled_time"),
                false => get(&cpu, "throttled_usec").saturating_mul(1_000),
            },
        }
    }
}
