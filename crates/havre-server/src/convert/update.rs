//! From an update request to the new decision about a container, by Docker's rules.
//!
//! Invariant: every field that is not empty is applied or refused.

use havre_api::host::{HostConfig, PublishChange};
use havre_api::network::{PortBinding, PortMap};
use havre_base::ErrorKind;
use havre_engine::spec::NetworkMode;
use havre_engine::{EngineError, Fixed, Revised, Revision};
use havre_net::ports::PublishedPort;

use super::{endpoints, limits, restart};
use crate::error::Refusal;

/// The change that a request asks for. What is wrong with the request alone is refused at once.
pub(crate) fn revision(wanted: HostConfig, ports: PublishChange) -> Result<Revision, Refusal> {
    refuse_the_rest(&wanted)?;
    for map in [&ports.publish_add, &ports.publish_remove] {
        endpoints::published(&HostConfig { port_bindings: map.clone(), ..HostConfig::default() })?;
    }
    let mut alone = wanted.clone();
    if alone.memory == 0 {
        // Against the limit that there is, not against none.
        (alone.memory_swap, alone.memory_reservation) = (0, 0);
    }
    limits::resources(&alone)?;
    limits::rates(&alone)?;
    if !wanted.restart_policy.name.is_empty() {
        restart(&wanted)?;
    }
    Ok(Box::new(move |fixed| revise(&wanted, &ports, fixed)))
}

fn revise(wanted: &HostConfig, ports: &PublishChange, fixed: &Fixed) -> Result<Revised, EngineError> {
    let mut host: HostConfig = fixed
        .asked
        .get("HostConfig")
        .and_then(|value| serde_json::from_value(value.clone()).ok())
        .unwrap_or_default();
    merge(wanted, &mut host)
        .map_err(|why| EngineError::State(format!("Cannot update container {}: {why}", fixed.id)))?;
    let resources = limits::resources(&host).map_err(refused)?;
    let policy = restart(&host).map_err(refused)?;
    let published = republished(ports, &mut host, fixed)?;
    let rates = limits::rates(&host).map_err(refused)?;
    if !rates.is_none() && fixed.spec.network != NetworkMode::Networks {
        return Err(EngineError::Invalid(limits::NO_RATE.to_owned()));
    }
    let mut asked = fixed.asked.clone();
    if let Some(object) = asked.as_object_mut() {
        let value = serde_json::to_value(&host).map_err(|error| EngineError::Invalid(error.to_string()))?;
        object.insert("HostConfig".into(), value);
    }
    Ok(Revised { resources, restart: policy, published, rates, asked })
}

/// The ports that are to be published, which `host` then names.
fn republished(
    ports: &PublishChange,
    host: &mut HostConfig,
    fixed: &Fixed,
) -> Result<Vec<PublishedPort>, EngineError> {
    if ports.publish_add.is_none() && ports.publish_remove.is_none() {
        return Ok(fixed.spec.published.clone());
    }
    let why = match &fixed.spec.network {
        NetworkMode::Networks => None,
        NetworkMode::Host => Some("Published ports are discarded when using host network mode"),
        NetworkMode::None => Some("a container without a network cannot publish ports"),
        NetworkMode::Container(_) => {
            Some("conflicting options: port publishing and the container type network mode")
        }
    };
    let refuse = |why: String| EngineError::Invalid(format!("Cannot update container {}: {why}", fixed.id));
    if let Some(why) = why {
        return Err(refuse(why.to_owned()));
    }
    let map = host.port_bindings.get_or_insert_default();
    for (inside, bindings) in ports.publish_remove.iter().flatten() {
        take_out(map, inside, bindings.as_deref().unwrap_or_default()).map_err(refuse)?;
    }
    for (inside, bindings) in ports.publish_add.iter().flatten() {
        let list = map.entry(inside.clone()).or_default().get_or_insert_default();
        let any = [PortBinding::default()];
        for binding in bindings.as_deref().filter(|list| !list.is_empty()).unwrap_or(&any) {
            if !list.contains(binding) {
                list.push(binding.clone());
            }
        }
    }
    endpoints::published(host).map_err(refused)
}

/// Takes bindings of a port out; one that is not there is a mistake that is told.
fn take_out(map: &mut PortMap, inside: &str, bindings: &[PortBinding]) -> Result<(), String> {
    let any = [PortBinding::default()];
    for binding in if bindings.is_empty() { &any } else { bindings } {
        let list = map.get_mut(inside).and_then(Option::as_mut);
        let is_meant = |one: &PortBinding| {
            (binding.host_port.is_empty() || one.host_port == binding.host_port)
                && (binding.host_ip.is_empty() || one.host_ip == binding.host_ip)
        };
        let found = list.map_or(0, |list| {
            let before = list.len();
            list.retain(|one| !is_meant(one));
            before - list.len()
        });
        if found == 0 {
            let colon = if binding.host_port.is_empty() { "" } else { ":" };
            return Err(format!("port {}{colon}{inside} is not published", binding.host_port));
        }
    }
    if map.get(inside).is_some_and(|list| list.as_ref().is_none_or(Vec::is_empty)) {
        map.remove(inside);
    }
    Ok(())
}

fn refused(refusal: Refusal) -> EngineError {
    EngineError::Invalid(refusal.message)
}

/// Puts what is set into what is there, unless they contradict each other.
fn merge(wanted: &HostConfig, host: &mut HostConfig) -> Result<(), &'static str> {
    let conflicts = [
        (
            wanted.nano_cpus > 0 && host.cpu_period > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            wanted.nano_cpus > 0 && host.cpu_quota > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            wanted.cpu_period > 0 && host.nano_cpus > 0,
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            wanted.cpu_quota > 0 && host.nano_cpus > 0,
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            wanted.memory != 0
                && wanted.memory_swap == 0
                && host.memory_swap >= 0
                && wanted.memory > host.memory_swap,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
        (
            wanted.oom_kill_disable.is_some_and(|on| on != host.oom_kill_disable.unwrap_or(false)),
            "OomKillDisable cannot be changed",
        ),
    ];
    if let Some((_, why)) = conflicts.iter().find(|(holds, _)| *holds) {
        return Err(why);
    }
    macro_rules! take {
        ($($field:ident),*) => { $(
            if is_set(&wanted.$field) {
                host.$field.clone_from(&wanted.$field);
            }
        )* };
    }
    take!(
        blkio_weight,
        cpu_shares,
        nano_cpus,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        memory,
        memory_swap,
        memory_reservation,
        memory_swappiness,
        pids_limit,
        network_rate_in,
        network_rate_out
    );
    for (new, old) in [
        (&wanted.blkio_device_read_bps, &mut host.blkio_device_read_bps),
        (&wanted.blkio_device_write_bps, &mut host.blkio_device_write_bps),
        (&wanted.blkio_device_read_iops, &mut host.blkio_device_read_iops),
        (&wanted.blkio_device_write_iops, &mut host.blkio_device_write_iops),
    ] {
        // Limits of other devices stay.
        for limit in new.iter().flatten() {
            let list = old.get_or_insert_default();
            list.retain(|have| have.path != limit.path);
            list.push(limit.clone());
        }
    }
    for weight in wanted.blkio_weight_device.iter().flatten() {
        let list = host.blkio_weight_device.get_or_insert_default();
        list.retain(|have| have.path != weight.path);
        list.push(weight.clone());
    }
    if !wanted.restart_policy.name.is_empty() {
        host.restart_policy = wanted.restart_policy.clone();
    }
    Ok(())
}

fn is_set<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// Everything of the host's configuration that an update does not change must be absent.
fn refuse_the_rest(wanted: &HostConfig) -> Result<(), Refusal> {
    let taken = HostConfig::default();
    let rest = HostConfig {
        blkio_weight: 0,
        blkio_weight_device: None,
        blkio_device_read_bps: None,
        blkio_device_write_bps: None,
        blkio_device_read_iops: None,
        blkio_device_write_iops: None,
        cpu_shares: 0,
        nano_cpus: 0,
        cpu_period: 0,
        cpu_quota: 0,
        cpu_realtime_period: 0,
        cpu_realtime_runtime: 0,
        cpuset_cpus: String::new(),
        cpuset_mems: String::new(),
        memory: 0,
        memory_swap: 0,
        memory_reservation: 0,
        memory_swappiness: None,
        oom_kill_disable: None,
        pids_limit: None,
        network_rate_in: None,
        network_rate_out: None,
        restart_policy: taken.restart_policy.clone(),
        ..wanted.clone()
    };
    let value = serde_json::to_value(&rest).unwrap_or_default();
    let plain = serde_json::to_value(&taken).unwrap_or_default();
    let empty = |value: &serde_json::Value| match value {
        serde_json::Value::Array(list) => list.is_empty(),
        serde_json::Value::Object(map) => map.is_empty(),
        value => value.is_null(),
    };
    let differs = value
        .as_object()
        .into_iter()
        .flatten()
        .find(|(name, value)| !empty(value) && plain.get(name.as_str()) != Some(*value));
    match differs {
        None => Ok(()),
        Some((name, _)) => Err(Refusal::new(
            ErrorKind::InvalidParameter,
            format!("{name} cannot be changed after the container was created"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(wanted: HostConfig, mut host: HostConfig) -> Result<HostConfig, String> {
        merge(&wanted, &mut host).map(|()| host).map_err(str::to_owned)
    }

    #[test]
    fn what_is_set_is_taken_and_the_rest_stays() {
        let host =
            HostConfig { memory: 64 << 20, memory_swap: 128 << 20, cpu_shares: 5, ..Default::default() };
        let wanted = HostConfig { memory: 32 << 20, pids_limit: Some(7), ..Default::default() };
        let host = merged(wanted, host).unwrap();
        assert_eq!((host.memory, host.memory_swap, host.cpu_shares), (32 << 20, 128 << 20, 5));
        assert_eq!(host.pids_limit, Some(7));
    }

    #[test]
    fn contradictions_have_docker_s_words() {
        let host = HostConfig { nano_cpus: 1, ..Default::default() };
        let wanted = HostConfig { cpu_period: 1000, ..Default::default() };
        assert!(merged(wanted, host).unwrap_err().starts_with("Conflicting options: CPU Period"));
        let wanted = HostConfig { memory: 64 << 20, ..Default::default() };
        let error = merged(wanted.clone(), HostConfig::default()).unwrap_err();
        assert!(error.starts_with("Memory limit should be smaller"), "{error}");
        let unlimited = HostConfig { memory: 1 << 20, memory_swap: -1, ..Default::default() };
        assert!(merged(wanted, unlimited).is_ok());
    }

    #[test]
    fn what_cannot_change_is_named() {
        let refuse = |wanted: HostConfig| refuse_the_rest(&wanted).map_err(|refusal| refusal.message);
        assert!(refuse(HostConfig { memory: 1, devices: Some(Vec::new()), ..Default::default() }).is_ok());
        let error = refuse(HostConfig { cgroup_parent: "/x".into(), ..Default::default() }).unwrap_err();
        assert_eq!(error, "CgroupParent cannot be changed after the container was created");
        assert!(refuse(HostConfig { init: Some(true), ..Default::default() }).is_err());
    }
}
