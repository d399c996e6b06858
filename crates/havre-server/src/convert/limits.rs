//! Limits of a create request.

use std::path::PathBuf;

use havre_api::host::{HostConfig, ThrottleDevice};
use havre_engine::spec::Resources;
use havre_net::rate::{LEAST, Rates};
use havre_oci::runtime::{DeviceRule, Rlimit};

use crate::error::Refusal;

/// What Docker allows at least; a process needs that to start.
const LEAST_MEMORY: i64 = 6 << 20;

/// Names of limits, as `--ulimit` takes them (getrlimit(2)).
const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// Whether a limit of this name exists.
#[must_use]
pub fn is_ulimit(name: &str) -> bool {
    ULIMITS.contains(&name)
}

/// Parses `10m`, `1.5G`, `100` as bytes.
pub(crate) fn parse_bytes(what: &str, text: &str) -> Result<u64, Refusal> {
    let invalid = || Refusal::invalid(format!("invalid value for {what}: invalid size: '{text}'"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 =
        match lower.get(digits.len()..).unwrap_or("").trim_end_matches('b').trim_end_matches('i') {
            "" => 1,
            "k" => 1 << 10,
            "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            _ => return Err(invalid()),
        };
    if let Ok(whole) = digits.trim().parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(invalid);
    }
    let (whole, fraction) = digits.trim().split_once('.').ok_or_else(invalid)?;
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let scale = 10_u64.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let part =
        u128::from(fraction.parse::<u64>().map_err(|_| invalid())?) * u128::from(factor) / u128::from(scale);
    whole
        .checked_mul(factor)
        .and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?))
        .ok_or_else(invalid)
}

/// The ends of the ranges of a list such as `0-2,5`.
fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| text.trim().parse().ok();
    list.trim()
        .split(',')
        .map(|part| match part.split_once('-') {
            Some((first, last)) => {
                Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last)
            }
            None => number(part).map(|one| (one, one)),
        })
        .collect()
}

/// Processors and memory nodes can only be asked for if the machine has them.
fn check_list(what: &str, kind: &str, asked: &str) -> Result<(), Refusal> {
    if asked.is_empty() {
        return Ok(());
    }
    let Some(wanted) = ranges(asked) else {
        let name = if kind == "cpu" { "cpus" } else { "mems" };
        return Err(Refusal::invalid(format!("Invalid value {asked} for cpuset {name}")));
    };
    let online = std::fs::read_to_string(format!("/sys/devices/system/{kind}/online")).unwrap_or_default();
    // A kernel without memory nodes has the one.
    let online = if online.trim().is_empty() { "0" } else { online.trim() };
    let have = ranges(online).unwrap_or_default();
    let there = |(first, last): &(u32, u32)| have.iter().any(|(from, to)| from <= first && last <= to);
    if wanted.iter().all(there) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "Requested {what} are not available - requested {asked}, available: {online}"
    )))
}

/// Where a rate cannot be limited.
pub(super) const NO_RATE: &str = "NetworkRateIn and NetworkRateOut need networks of the container's own: in the host's, none, or another container's network nothing is limited";

/// How fast a container may receive and send.
pub(super) fn rates(host: &HostConfig) -> Result<Rates, Refusal> {
    let rate = |name: &str, given: Option<i64>| match given.map(u64::try_from) {
        None | Some(Ok(0)) => Ok(None),
        Some(Ok(rate)) if rate >= LEAST => Ok(Some(rate)),
        _ => Err(Refusal::invalid(format!(
            "invalid {name} {}: want at least {LEAST} bytes a second, or 0 for no limit",
            given.unwrap_or_default()
        ))),
    };
    Ok(Rates {
        into: rate("NetworkRateIn", host.network_rate_in)?,
        out: rate("NetworkRateOut", host.network_rate_out)?,
    })
}

/// Limits, checked as Docker checks them.
pub(super) fn resources(host: &HostConfig) -> Result<Resources, Refusal> {
    let bad = |text: &str| Err(Refusal::invalid(text));
    if host.memory < 0 {
        return Err(Refusal::invalid(format!("invalid memory limit: {}", host.memory)));
    }
    if host.memory > 0 && host.memory < LEAST_MEMORY {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if let Some(limit) = host.pids_limit.filter(|limit| *limit < -1) {
        return Err(Refusal::invalid(format!(
            "invalid pids limit: {limit}; -1 stands for none, 0 for the default"
        )));
    }
    if host.memory_swap < -1 {
        return bad("Invalid value for memory swap: less than -1, which stands for unlimited swap");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return bad("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_reservation > 0 && host.memory_reservation < LEAST_MEMORY {
        return bad("Minimum memory reservation allowed is 6MB");
    }
    if host.memory_reservation > 0 && host.memory > 0 && host.memory < host.memory_reservation {
        return bad("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    let swappiness = match host.memory_swappiness {
        None | Some(-1) => None,
        Some(value) => Some(u64::try_from(value).ok().filter(|value| *value <= 100).ok_or_else(|| {
            Refusal::invalid(format!("Invalid value: {value}, valid memory swappiness range is 0-100"))
        })?),
    };
    if host.nano_cpus != 0 {
        if host.cpu_period != 0 {
            return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if host.cpu_quota != 0 {
            return bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if host.nano_cpus < 0 || host.nano_cpus > most {
            return Err(Refusal::invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.cpu_shares < 0 {
        return Err(Refusal::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    check_list("CPUs", "cpu", &host.cpuset_cpus)?;
    check_list("memory nodes", "node", &host.cpuset_mems)?;
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return bad("Range of blkio weight is from 10 to 1000");
    }
    let positive = |value: i64| (value > 0).then_some(value);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let throttle = |list: &Option<Vec<ThrottleDevice>>| -> Vec<(PathBuf, u64)> {
        list.iter().flatten().map(|device| (PathBuf::from(&device.path), device.rate)).collect()
    };
    Ok(Resources {
        memory: positive(host.memory),
        memory_reservation: positive(host.memory_reservation),
        memory_swap: (host.memory_swap != 0).then_some(host.memory_swap),
        memory_swappiness: swappiness,
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        nano_cpus: positive(host.nano_cpus),
        cpu_shares: unsigned(host.cpu_shares),
        cpu_period: unsigned(host.cpu_period),
        cpu_quota: (host.cpu_quota != 0).then_some(host.cpu_quota),
        cpu_rt_runtime: positive(host.cpu_realtime_runtime),
        cpu_rt_period: unsigned(host.cpu_realtime_period),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids: host.pids_limit.filter(|limit| *limit != 0),
        blkio_weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        blkio_weight_device: host
            .blkio_weight_device
            .iter()
            .flatten()
            .map(|device| (PathBuf::from(&device.path), device.weight))
            .collect(),
        read_bps: throttle(&host.blkio_device_read_bps),
        write_bps: throttle(&host.blkio_device_write_bps),
        read_iops: throttle(&host.blkio_device_read_iops),
        write_iops: throttle(&host.blkio_device_write_iops),
        device_rules: host
            .device_cgroup_rules
            .iter()
            .flatten()
            .map(|rule| device_rule(rule))
            .collect::<Result<_, _>>()?,
    })
}

/// Parses `c 1:3 rwm`, `a *:* rwm`.
fn device_rule(text: &str) -> Result<DeviceRule, Refusal> {
    let invalid = || Refusal::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words.as_slice() else { return Err(invalid()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(invalid());
    }
    Ok(DeviceRule {
        allow: true,
        kind: Some((*kind).to_owned()),
        major: number(major)?,
        minor: number(minor)?,
        access: Some((*access).to_owned()),
    })
}

/// Limits of processes.
pub(super) fn ulimits(host: &HostConfig) -> Result<Vec<Rlimit>, Refusal> {
    host.ulimits
        .iter()
        .flatten()
        .map(|limit| {
            if !ULIMITS.contains(&limit.name.as_str()) {
                return Err(Refusal::invalid(format!("invalid ulimit type: {}", limit.name)));
            }
            if limit.soft < -1 || limit.hard < -1 {
                return Err(Refusal::invalid(format!(
                    "invalid ulimit {}: {}:{}; -1 stands for unlimited",
                    limit.name, limit.soft, limit.hard
                )));
            }
            let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
            let (soft, hard) = (value(limit.soft), value(limit.hard));
            if soft > hard {
                return Err(Refusal::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            Ok(Rlimit { kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()), soft, hard })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units_and_fractions() {
        for (text, bytes) in
            [("10", 10), ("10k", 10 << 10), ("1.5m", 3 << 19), ("2GB", 2 << 30), ("1 MiB", 1 << 20)]
        {
            assert_eq!(parse_bytes("x", text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1.m", "99999999999999t"] {
            assert!(parse_bytes("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn impossible_limits_are_refused_with_docker_s_words() {
        let with = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            resources(&host).map(drop).map_err(|refusal| refusal.message)
        };
        assert!(with(|_| {}).is_ok());
        assert_eq!(with(|host| host.memory = 4096).unwrap_err(), "Minimum memory limit allowed is 6MB");
        let reserved = with(|host| host.memory_reservation = 4096).unwrap_err();
        assert_eq!(reserved, "Minimum memory reservation allowed is 6MB");
        assert!(with(|host| host.memory_swap = 1 << 30).unwrap_err().starts_with("You should always set"));
        assert!(with(|host| host.nano_cpus = 999_000_000_000).unwrap_err().starts_with("range of CPUs"));
        assert!(with(|host| host.blkio_weight = 5).is_err());
        assert!(with(|host| host.memory_swappiness = Some(101)).is_err());
    }

    #[test]
    fn device_rules_are_read() {
        let rule = device_rule("c 42:* rm").unwrap();
        assert_eq!((rule.major, rule.minor), (Some(42), None));
        for bad in ["", "x 1:1 r", "c 1 r", "c 1:1 z", "c -1:1 r", "c 1:1"] {
            assert!(device_rule(bad).is_err(), "{bad}");
        }
    }
}
