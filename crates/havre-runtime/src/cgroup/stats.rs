//! What a group uses, read from its files.
//!
//! Invariant: nothing here changes a group. A file that this kernel lacks counts as nothing, so that
//! statistics of a machine without a controller are incomplete and not an error; a group that is gone is
//! an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::{Cgroup, Version};

/// What a group has used and uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The controllers are on cgroup v2, where some figures do not exist.
    pub unified: bool,
    /// Processors.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: PidsUsage,
    /// Block devices.
    pub block_io: BlockIoUsage,
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
    /// By processor, on v1.
    pub per_cpu: Option<Vec<u64>>,
    /// Periods of the bandwidth limit.
    pub periods: u64,
    /// Periods in which the limit was reached.
    pub throttled_periods: u64,
    /// Time that was waited for that.
    pub throttled_time: u64,
}

/// Bytes of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Now.
    pub usage: u64,
    /// The most so far, on v1.
    pub max: u64,
    /// How often the limit was reached.
    pub failures: u64,
    /// The limit; the greatest number for none.
    pub limit: u64,
    /// The lines of `memory.stat`.
    pub stats: BTreeMap<String, u64>,
}

/// Numbers of processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsUsage {
    /// Now.
    pub current: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
}

/// A figure of one device and one kind of operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFigure {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// `Read`, `Write`, ... on v1, `read`, `write` on v2.
    pub operation: String,
    /// The figure.
    pub value: u64,
}

/// Figures of block devices, each list as the kernel orders it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIoUsage {
    /// Bytes moved.
    pub bytes: Vec<DeviceFigure>,
    /// Operations done.
    pub operations: Vec<DeviceFigure>,
    /// Operations waiting.
    pub queued: Vec<DeviceFigure>,
    /// Nanoseconds of service.
    pub service_time: Vec<DeviceFigure>,
    /// Nanoseconds of waiting.
    pub wait_time: Vec<DeviceFigure>,
    /// Operations merged.
    pub merged: Vec<DeviceFigure>,
    /// Milliseconds of the device.
    pub time: Vec<DeviceFigure>,
    /// Sectors moved.
    pub sectors: Vec<DeviceFigure>,
}

impl Cgroup {
    /// What the group uses now.
    pub fn usage(&self) -> io::Result<Usage> {
        if !self.primary().is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(match self.layout.version {
            Version::V1 => self.usage_v1(),
            Version::V2 => self.usage_v2(),
        })
    }

    fn text(&self, controller: &str, file: &str) -> String {
        self.read(controller, file).unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        self.text(controller, file).trim().parse().unwrap_or(0)
    }

    fn usage_v1(&self) -> Usage {
        let throttling = lines(&self.text("cpu", "cpu.stat"));
        let get = |key: &str| throttling.get(key).copied().unwrap_or(0);
        let per_cpu = self.text("cpuacct", "cpuacct.usage_percpu");
        let limit = self.text("pids", "pids.max");
        Usage {
            unified: false,
            cpu: CpuUsage {
                total: self.number("cpuacct", "cpuacct.usage"),
                kernel: self.number("cpuacct", "cpuacct.usage_sys"),
                user: self.number("cpuacct", "cpuacct.usage_user"),
                per_cpu: Some(per_cpu.split_whitespace().filter_map(|word| word.parse().ok()).collect()),
                periods: get("nr_periods"),
                throttled_periods: get("nr_throttled"),
                throttled_time: get("throttled_time"),
            },
            memory: MemoryUsage {
                usage: self.number("memory", "memory.usage_in_bytes"),
                max: self.number("memory", "memory.max_usage_in_bytes"),
                failures: self.number("memory", "memory.failcnt"),
                limit: self.number("memory", "memory.limit_in_bytes"),
                stats: lines(&self.text("memory", "memory.stat")),
            },
            pids: PidsUsage {
                current: self.number("pids", "pids.current"),
                limit: limit.trim().parse().ok(),
            },
            block_io: self.block_io_v1(),
        }
    }

    /// The figures of the scheduler where it counts, else those of the limits, which count always.
    fn block_io_v1(&self) -> BlockIoUsage {
        let read = |names: [&str; 2]| {
            names
                .iter()
                .map(|name| figures(&self.text("blkio", name)))
                .find(|list| !list.is_empty())
                .unwrap_or_default()
        };
        BlockIoUsage {
            bytes: read([
                "blkio.bfq.io_service_bytes_recursive",
                "blkio.throttle.io_service_bytes_recursive",
            ]),
            operations: read(["blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"]),
            queued: read(["blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"]),
            service_time: read(["blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"]),
            wait_time: read(["blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"]),
            merged: read(["blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"]),
            time: read(["blkio.bfq.time_recursive", "blkio.time_recursive"]),
            sectors: read(["blkio.bfq.sectors_recursive", "blkio.sectors_recursive"]),
        }
    }

    fn usage_v2(&self) -> Usage {
        const MICRO: u64 = 1_000;
        let cpu = lines(&self.text("cpu", "cpu.stat"));
        let get = |key: &str| cpu.get(key).copied().unwrap_or(0);
        let time = |key: &str| get(key).saturating_mul(MICRO);
        let limit = self.text("memory", "memory.max");
        let pids = self.text("pids", "pids.max");
        let events = lines(&self.text("memory", "memory.events"));
        Usage {
            unified: true,
            cpu: CpuUsage {
                total: time("usage_usec"),
                kernel: time("system_usec"),
                user: time("user_usec"),
                per_cpu: None,
                periods: get("nr_periods"),
                throttled_periods: get("nr_throttled"),
                throttled_time: time("throttled_usec"),
            },
            memory: MemoryUsage {
                usage: self.number("memory", "memory.current"),
                max: 0,
                failures: events.get("oom").copied().unwrap_or(0),
                limit: limit.trim().parse().unwrap_or(u64::MAX),
                stats: lines(&self.text("memory", "memory.stat")),
            },
            pids: PidsUsage {
                current: self.number("pids", "pids.current"),
                limit: Some(pids.trim().parse().unwrap_or(u64::MAX)),
            },
            block_io: BlockIoUsage {
                bytes: bytes_v2(&self.text("io", "io.stat")),
                ..BlockIoUsage::default()
            },
        }
    }
}

/// Lines of a name and a number.
pub(super) fn lines(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines `8:0 Read 4096` or `8:0 123`; the last line, `Total`, is of no device.
fn figures(text: &str) -> Vec<DeviceFigure> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = device(words.next()?)?;
            let (first, second) = (words.next()?, words.next());
            let (operation, value) = match second {
                Some(value) => (first, value),
                None => ("", first),
            };
            Some(DeviceFigure { major, minor, operation: operation.to_owned(), value: value.parse().ok()? })
        })
        .collect()
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=...`.
fn bytes_v2(text: &str) -> Vec<DeviceFigure> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let pairs: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        for (key, operation) in [("rbytes", "read"), ("wbytes", "write")] {
            let value = pairs.get(key).and_then(|value| value.parse().ok());
            list.extend(value.map(|value| DeviceFigure { major, minor, operation: operation.into(), value }));
        }
    }
    list
}

/// The bytes of memory of the machine.
pub fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_versions_are_read() {
        let v1 = figures("8:0 Read 10\n8:0 Write 20\n254:16 7\nTotal 30\n");
        assert_eq!(v1.len(), 3);
        assert_eq!((v1[1].operation.as_str(), v1[1].value), ("Write", 20));
        assert_eq!((v1[2].major, v1[2].minor, v1[2].value), (254, 16, 7));
        let v2 = bytes_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbad\n");
        assert_eq!(v2.len(), 2);
        assert_eq!((v2[1].operation.as_str(), v2[1].value), ("write", 2));
        assert_eq!(lines("a 1\nb x\nc 3\n").len(), 2);
        assert!(machine_memory() > 0);
    }
}
