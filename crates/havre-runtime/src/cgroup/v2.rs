//! What the v2 hierarchy wants to be told.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use havre_oci::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use rustix::fs::inotify;

use super::v1::{NO_SWAP, NO_WEIGHT, NO_WEIGHT_DEVICE};
use super::{Plan, Write, write_file};
use crate::error::{RuntimeError, Step};

const NO_SWAPPINESS: &str = "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.";
const NO_OOM_DISABLE: &str = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";

pub(super) fn plan(resources: &LinuxResources) -> Result<Plan, RuntimeError> {
    let mut plan = Plan::default();
    if resources.network.is_some() {
        return Err(RuntimeError::unsupported("linux.resources.network", "cgroup v2 has no network classes"));
    }
    if !resources.rdma.is_empty() {
        return Err(RuntimeError::unsupported("linux.resources.rdma", "not enforced by this runtime"));
    }
    if let Some(memory) = &resources.memory {
        plan_memory(memory, &mut plan)?;
    }
    if let Some(cpu) = &resources.cpu {
        plan_cpu(cpu, &mut plan)?;
    }
    if let Some(pids) = &resources.pids {
        plan.writes.push(Write::new("pids", "pids.max", maximum(pids.limit, |limit| limit > 0)));
    }
    if let Some(block_io) = &resources.block_io {
        plan_block_io(block_io, &mut plan)?;
    }
    for limit in &resources.hugepage_limits {
        let size = page_size(&limit.page_size)?;
        plan.writes.push(Write::new("hugetlb", format!("hugetlb.{size}.max"), limit.limit));
    }
    for (file, value) in &resources.unified {
        let plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !plain || !file.contains('.') || file.starts_with('.') || file.starts_with("cgroup.") {
            return Err(RuntimeError::invalid("linux.resources.unified", format!("{file:?} is not a limit")));
        }
        plan.writes.push(Write::new("unified", file.clone(), value));
    }
    Ok(plan)
}

fn maximum(limit: i64, is_limit: impl Fn(i64) -> bool) -> String {
    if is_limit(limit) { limit.to_string() } else { "max".into() }
}

/// The name that the kernel gives huge pages of a size.
pub(super) fn page_size(text: &str) -> Result<&str, RuntimeError> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'B']);
    let good = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && ["KB", "MB", "GB"].contains(&&text[digits.len()..]);
    if good {
        Ok(text)
    } else {
        Err(RuntimeError::invalid("linux.resources.hugepageLimits.pageSize", format!("{text:?}")))
    }
}

fn plan_memory(memory: &LinuxMemory, plan: &mut Plan) -> Result<(), RuntimeError> {
    if memory.kernel.is_some_and(|limit| limit != 0) || memory.kernel_tcp.is_some_and(|limit| limit != 0) {
        return Err(RuntimeError::unsupported(
            "linux.resources.memory.kernel",
            "cgroup v2 has no such limit",
        ));
    }
    if memory.use_hierarchy == Some(false) {
        return Err(RuntimeError::unsupported(
            "linux.resources.memory.useHierarchy",
            "groups below always count",
        ));
    }
    if memory.check_before_update == Some(true) {
        return Err(RuntimeError::unsupported(
            "linux.resources.memory.checkBeforeUpdate",
            "not on cgroup v2",
        ));
    }
    let limit = memory.limit.filter(|limit| *limit != 0);
    if let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
        // The specification's limit is of memory and swap together, the kernel's of swap alone.
        let alone = match (swap, limit) {
            (..0, _) => "max".to_owned(),
            (swap, Some(limit @ 0..)) if swap >= limit => (swap - limit).to_string(),
            _ => {
                return Err(RuntimeError::invalid(
                    "linux.resources.memory.swap",
                    "must be at least the memory limit, which must be set",
                ));
            }
        };
        plan.writes.push(Write::new("memory", "memory.swap.max", alone).or_warn(NO_SWAP));
    }
    if let Some(limit) = limit {
        plan.writes.push(Write::new("memory", "memory.max", maximum(limit, |limit| limit > 0)));
    }
    if let Some(limit) = memory.reservation.filter(|limit| *limit != 0) {
        plan.writes.push(Write::new("memory", "memory.low", maximum(limit, |limit| limit > 0)));
    }
    plan.warnings.extend(memory.swappiness.map(|_| NO_SWAPPINESS.to_owned()));
    if memory.disable_oom_killer == Some(true) {
        plan.warnings.push(NO_OOM_DISABLE.to_owned());
    }
    Ok(())
}

fn plan_cpu(cpu: &LinuxCpu, plan: &mut Plan) -> Result<(), RuntimeError> {
    if cpu.realtime_period.is_some_and(|time| time != 0) || cpu.realtime_runtime.is_some_and(|time| time != 0)
    {
        return Err(RuntimeError::unsupported(
            "linux.resources.cpu.realtimeRuntime",
            "cgroup v2 has no such limit",
        ));
    }
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        // 2..262144 to 1..10000, linearly, as the systems that convert it have done since v2 exists.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        plan.writes.push(Write::new("cpu", "cpu.weight", weight));
    }
    let (quota, period) = (cpu.quota.filter(|quota| *quota != 0), cpu.period.filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota = maximum(quota.unwrap_or(-1), |quota| quota > 0);
        plan.writes.push(Write::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    plan.writes.extend(cpu.burst.map(|burst| Write::new("cpu", "cpu.max.burst", burst)));
    plan.writes.extend(cpu.idle.map(|idle| Write::new("cpu", "cpu.idle", idle)));
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        plan.writes
            .extend(list.iter().filter(|list| !list.is_empty()).map(|list| Write::new("cpuset", file, list)));
    }
    Ok(())
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
        plan.writes.push(Write::new("io", "io.bfq.weight", weight).or_warn(NO_WEIGHT));
    }
    for one in &block_io.weight_device {
        let Some(weight) = one.weight else { continue };
        let value = format!("{}:{} {weight}", one.major, one.minor);
        plan.writes.push(Write::new("io", "io.bfq.weight", value).or_warn(NO_WEIGHT_DEVICE));
    }
    let throttles = [
        (&block_io.throttle_read_bps_device, "rbps"),
        (&block_io.throttle_write_bps_device, "wbps"),
        (&block_io.throttle_read_iops_device, "riops"),
        (&block_io.throttle_write_iops_device, "wiops"),
    ];
    for (devices, key) in throttles {
        for one in devices {
            let rate = if one.rate == 0 { "max".to_owned() } else { one.rate.to_string() };
            plan.writes.push(Write::new("io", "io.max", format!("{}:{} {key}={rate}", one.major, one.minor)));
        }
    }
    Ok(())
}

/// Gives the groups below `folder` every controller that there is.
pub(super) fn enable_controllers(folder: &Path) -> Result<(), RuntimeError> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).step_with(|| format!("read {file}"));
    let (there, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let missing: Vec<String> = there
        .split_whitespace()
        .filter(|name| !enabled.split_whitespace().any(|known| known == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let file = folder.join("cgroup.subtree_control");
    if write_file(&file, &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for name in missing {
        // One that cannot be enabled (cpu beside real-time tasks) is missed by whoever sets its limit.
        let _unavailable = write_file(&file, &name);
    }
    Ok(())
}

/// A descriptor that is readable after the file has changed.
pub(super) fn watch(file: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, file, inotify::WatchFlags::MODIFY)?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
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
    fn memory_and_swap_are_told_apart() {
        let memory = |limit, swap| LinuxResources {
            memory: Some(LinuxMemory { limit, swap, ..LinuxMemory::default() }),
            ..LinuxResources::default()
        };
        assert_eq!(lines(&memory(Some(100), Some(150))), ["memory.swap.max=50", "memory.max=100"]);
        assert_eq!(lines(&memory(Some(100), Some(-1))), ["memory.swap.max=max", "memory.max=100"]);
        assert_eq!(lines(&memory(Some(-1), None)), ["memory.max=max"]);
        assert!(plan(&memory(Some(100), Some(50))).is_err());
        assert!(plan(&memory(None, Some(50))).is_err());
    }

    #[test]
    fn shares_become_weights_and_quotas_become_one_line() {
        let cpu = |cpu| LinuxResources { cpu: Some(cpu), ..LinuxResources::default() };
        for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(
                lines(&cpu(LinuxCpu { shares: Some(shares), ..LinuxCpu::default() })),
                [format!("cpu.weight={weight}")]
            );
        }
        let half = LinuxCpu { quota: Some(50_000), period: Some(100_000), ..LinuxCpu::default() };
        assert_eq!(lines(&cpu(half)), ["cpu.max=50000 100000"]);
        assert_eq!(lines(&cpu(LinuxCpu { quota: Some(-1), ..LinuxCpu::default() })), ["cpu.max=max 100000"]);
    }

    #[test]
    fn unified_names_only_limits() {
        for name in ["memory.high", "io.weight"] {
            let unified = [(name.to_owned(), "1".to_owned())].into();
            assert!(plan(&LinuxResources { unified, ..LinuxResources::default() }).is_ok());
        }
        for name in ["../x.y", "cgroup.procs", "memory", ".hidden", "a/b.c"] {
            let unified = [(name.to_owned(), "1".to_owned())].into();
            assert!(plan(&LinuxResources { unified, ..LinuxResources::default() }).is_err(), "{name}");
        }
    }
}
