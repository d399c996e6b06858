//! What a v1 hierarchy wants to be told.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use havre_oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, ThrottleDevice};
use rustix::event::EventfdFlags;
use rustix::fs::{Mode, OFlags};

use super::{Plan, Write, write_file};
use crate::error::{RuntimeError, Step};

pub(super) const NO_SWAP: &str = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.";
pub(super) const NO_WEIGHT: &str =
    "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.";
pub(super) const NO_WEIGHT_DEVICE: &str = "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.";

pub(super) fn plan(resources: &LinuxResources) -> Result<Plan, RuntimeError> {
    let mut plan = Plan::default();
    if !resources.unified.is_empty() {
        return Err(RuntimeError::unsupported("linux.resources.unified", "the controllers are on cgroup v1"));
    }
    if !resources.rdma.is_empty() {
        return Err(RuntimeError::unsupported("linux.resources.rdma", "not enforced by this runtime"));
    }
    if let Some(memory) = &resources.memory {
        plan_memory(memory, &mut plan)?;
    }
    if let Some(cpu) = &resources.cpu {
        plan_cpu(cpu, &mut plan);
    }
    if let Some(pids) = &resources.pids {
        let limit = if pids.limit > 0 { pids.limit.to_string() } else { "max".into() };
        plan.writes.push(Write::new("pids", "pids.max", limit));
    }
    if let Some(block_io) = &resources.block_io {
        plan_block_io(block_io, &mut plan)?;
    }
    for limit in &resources.hugepage_limits {
        let size = super::v2::page_size(&limit.page_size)?;
        plan.writes.push(Write::new("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit.limit));
    }
    if let Some(network) = &resources.network {
        plan.writes.extend(network.class_id.map(|class| Write::new("net_cls", "net_cls.classid", class)));
        plan.writes.extend(network.priorities.iter().map(|one| {
            Write::new("net_prio", "net_prio.ifpriomap", format!("{} {}", one.name, one.priority))
        }));
    }
    Ok(plan)
}

fn plan_memory(memory: &LinuxMemory, plan: &mut Plan) -> Result<(), RuntimeError> {
    if memory.kernel.is_some_and(|limit| limit != 0) {
        return Err(RuntimeError::unsupported(
            "linux.resources.memory.kernel",
            "kernel memory is part of the memory limit since Linux 5.16",
        ));
    }
    if memory.use_hierarchy == Some(false) {
        return Err(RuntimeError::unsupported(
            "linux.resources.memory.useHierarchy",
            "groups below always count",
        ));
    }
    // With `checkBeforeUpdate` a limit below the usage is an error; v1 refuses such a limit by itself.
    let writes = &mut plan.writes;
    let mut push = |file: &str, value: String| writes.push(Write::new("memory", file, value));
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        push("memory.limit_in_bytes", limit.to_string());
    }
    if let Some(limit) = memory.reservation.filter(|limit| *limit != 0) {
        push("memory.soft_limit_in_bytes", limit.to_string());
    }
    if let Some(limit) = memory.kernel_tcp.filter(|limit| *limit != 0) {
        push("memory.kmem.tcp.limit_in_bytes", limit.to_string());
    }
    if let Some(swappiness) = memory.swappiness {
        push("memory.swappiness", swappiness.to_string());
    }
    if memory.disable_oom_killer == Some(true) {
        push("memory.oom_control", "1".into());
    }
    if let Some(limit) = memory.swap.filter(|limit| *limit != 0) {
        writes.push(Write::new("memory", "memory.memsw.limit_in_bytes", limit).or_warn(NO_SWAP));
    }
    Ok(())
}

fn plan_cpu(cpu: &LinuxCpu, plan: &mut Plan) {
    let mut push = |controller: &'static str, file: &str, value: Option<String>| {
        plan.writes.extend(value.map(|value| Write::new(controller, file, value)));
    };
    let text = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    push("cpu", "cpu.shares", text(cpu.shares));
    push("cpu", "cpu.cfs_period_us", text(cpu.period));
    push("cpu", "cpu.cfs_quota_us", cpu.quota.filter(|quota| *quota != 0).map(|quota| quota.to_string()));
    push("cpu", "cpu.cfs_burst_us", cpu.burst.map(|burst| burst.to_string()));
    push("cpu", "cpu.rt_period_us", text(cpu.realtime_period));
    push(
        "cpu",
        "cpu.rt_runtime_us",
        cpu.realtime_runtime.filter(|time| *time != 0).map(|time| time.to_string()),
    );
    push("cpu", "cpu.idle", cpu.idle.map(|idle| idle.to_string()));
    push("cpuset", "cpuset.cpus", cpu.cpus.clone().filter(|cpus| !cpus.is_empty()));
    push("cpuset", "cpuset.mems", cpu.mems.clone().filter(|mems| !mems.is_empty()));
}

fn plan_block_io(block_io: &LinuxBlockIo, plan: &mut Plan) -> Result<(), RuntimeError> {
    let leaf =
        block_io.leaf_weight.is_some() || block_io.weight_device.iter().any(|one| one.leaf_weight.is_some());
    if leaf {
        return Err(RuntimeError::unsupported(
            "linux.resources.blockIO.leafWeight",
            "it went with the CFQ scheduler",
        ));
    }
    if let Some(weight) = block_io.weight.filter(|weight| *weight != 0) {
        plan.writes.push(Write::new("blkio", "blkio.bfq.weight", weight).or_warn(NO_WEIGHT));
    }
    for one in &block_io.weight_device {
        let Some(weight) = one.weight else { continue };
        let value = format!("{}:{} {weight}", one.major, one.minor);
        plan.writes.push(Write::new("blkio", "blkio.bfq.weight_device", value).or_warn(NO_WEIGHT_DEVICE));
    }
    let throttles: [(&[ThrottleDevice], &str); 4] = [
        (&block_io.throttle_read_bps_device, "blkio.throttle.read_bps_device"),
        (&block_io.throttle_write_bps_device, "blkio.throttle.write_bps_device"),
        (&block_io.throttle_read_iops_device, "blkio.throttle.read_iops_device"),
        (&block_io.throttle_write_iops_device, "blkio.throttle.write_iops_device"),
    ];
    for (devices, file) in throttles {
        for one in devices {
            plan.writes.push(Write::new("blkio", file, format!("{}:{} {}", one.major, one.minor, one.rate)));
        }
    }
    Ok(())
}

/// A new cpuset has no CPUs and no memory, and takes no task until it has both.
pub(super) fn inherit_cpuset(parent: &Path, folder: &Path) -> Result<(), RuntimeError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(folder.join(file)).step_with(|| format!("read {file}"))?;
        if own.trim().is_empty() {
            let theirs = fs::read_to_string(parent.join(file)).step_with(|| format!("read {file}"))?;
            write_file(&folder.join(file), theirs.trim()).step_with(|| format!("set {file}"))?;
        }
    }
    Ok(())
}

/// The kernel counts up an eventfd at each shortage of memory.
pub(super) fn oom_watch(folder: &Path) -> io::Result<OwnedFd> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control =
        rustix::fs::open(folder.join("memory.oom_control"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    write_file(&folder.join("cgroup.event_control"), &line)?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use havre_oci::runtime::LinuxPids;

    use super::*;

    fn lines(resources: &LinuxResources) -> Vec<String> {
        plan(resources)
            .unwrap()
            .writes
            .iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect()
    }

    #[test]
    fn every_limit_becomes_a_write() {
        let throttle = ThrottleDevice { major: 8, minor: 0, rate: 1000 };
        let resources = LinuxResources {
            memory: Some(LinuxMemory {
                limit: Some(64),
                swap: Some(128),
                reservation: Some(32),
                swappiness: Some(0),
                disable_oom_killer: Some(true),
                ..LinuxMemory::default()
            }),
            cpu: Some(LinuxCpu {
                shares: Some(512),
                quota: Some(-1),
                period: Some(100_000),
                cpus: Some("0-1".into()),
                idle: Some(1),
                ..LinuxCpu::default()
            }),
            pids: Some(LinuxPids { limit: -1 }),
            block_io: Some(LinuxBlockIo {
                weight: Some(500),
                throttle_write_iops_device: vec![throttle],
                ..LinuxBlockIo::default()
            }),
            ..LinuxResources::default()
        };
        assert_eq!(
            lines(&resources),
            [
                "memory.limit_in_bytes=64",
                "memory.soft_limit_in_bytes=32",
                "memory.swappiness=0",
                "memory.oom_control=1",
                "memory.memsw.limit_in_bytes=128",
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1",
                "cpu.idle=1",
                "cpuset.cpus=0-1",
                "pids.max=max",
                "blkio.bfq.weight=500",
                "blkio.throttle.write_iops_device=8:0 1000",
            ]
        );
    }

    #[test]
    fn what_v1_cannot_do_is_refused() {
        let kernel = LinuxMemory { kernel: Some(1), ..LinuxMemory::default() };
        let unified = [("memory.high".to_owned(), "1".to_owned())].into();
        for resources in [
            LinuxResources { memory: Some(kernel), ..LinuxResources::default() },
            LinuxResources { unified, ..LinuxResources::default() },
        ] {
            assert!(plan(&resources).is_err());
        }
    }
}
