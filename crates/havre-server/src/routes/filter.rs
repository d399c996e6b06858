//! Filters of the container list.

use havre_api::Filters;
use havre_base::ContainerName;
use havre_engine::{Engine, View};
use serde_json::Value;

use crate::error::Refusal;

/// The filters that the list knows, and those that wait for networks, volumes and health checks.
const KNOWN: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// Refuses unknown filters and impossible values.
pub(crate) fn check(filters: &Filters) -> Result<(), Refusal> {
    if let Some(name) = filters.names().find(|name| !KNOWN.contains(name)) {
        return Err(Refusal::invalid(format!("invalid filter '{name}'")));
    }
    if let Some(value) = filters.values("status").find(|value| !STATES.contains(value)) {
        return Err(Refusal::invalid(format!("invalid filter 'status={value}'")));
    }
    for value in filters.values("exited") {
        value
            .parse::<i32>()
            .map_err(|_| Refusal::invalid(format!("invalid filter 'exited={value}': not a number")))?;
    }
    for name in ["publish", "expose"] {
        if let Some(value) = filters.values(name).find(|value| PortRange::parse(value).is_none()) {
            return Err(Refusal::invalid(format!("invalid filter '{name}={value}': not a port or a range")));
        }
    }
    const HEALTH: &[&str] = &["none", "starting", "healthy", "unhealthy"];
    if let Some(value) = filters.values("health").find(|value| !HEALTH.contains(value)) {
        return Err(Refusal::invalid(format!("Unrecognised filter value for health: {value}")));
    }
    if let Some(value) =
        filters.values("is-task").find(|value| !matches!(*value, "true" | "1" | "false" | "0"))
    {
        return Err(Refusal::invalid(format!("invalid filter 'is-task={value}'")));
    }
    Ok(())
}

/// The containers that `before` and `since` name must exist.
pub(crate) fn check_names(engine: &Engine, filters: &Filters) -> Result<(), Refusal> {
    for name in filters.values("before").chain(filters.values("since")) {
        engine.containers.view(name)?;
    }
    Ok(())
}

/// `80`, `80/udp`, `8000-8010/tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortRange {
    first: u16,
    last: u16,
    protocol: String,
}

impl PortRange {
    fn parse(text: &str) -> Option<Self> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let protocol = protocol.to_ascii_lowercase();
        (first <= last && matches!(protocol.as_str(), "tcp" | "udp" | "sctp")).then_some(Self {
            first,
            last,
            protocol,
        })
    }

    fn meets(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

/// The ports that a container's configuration publishes on the host, and those that it exposes.
fn ports(view: &View) -> (Vec<PortRange>, Vec<PortRange>) {
    let asked = |pointer: &str| view.fixed.asked.pointer(pointer).and_then(Value::as_object);
    let (mut published, mut exposed) = (Vec::new(), Vec::new());
    exposed.extend(asked("/Config/ExposedPorts").into_iter().flat_map(|map| map.keys().cloned()));
    for (inside, bindings) in asked("/HostConfig/PortBindings").into_iter().flatten() {
        exposed.push(inside.clone());
        let protocol = inside.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        for binding in bindings.as_array().into_iter().flatten() {
            let port = binding.get("HostPort").and_then(Value::as_str).unwrap_or_default();
            published.push(format!("{port}/{protocol}"));
        }
    }
    let read = |list: Vec<String>| list.iter().filter_map(|text| PortRange::parse(text)).collect();
    (read(published), read(exposed))
}

pub(crate) fn label_matches(view: &View, wanted: &str) -> bool {
    let labels = &view.fixed.merged.labels;
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    }
}

/// Whether a container passes all filters; one value of each filter is enough, labels need all.
pub(crate) fn passes(engine: &Engine, filters: &Filters, view: &View) -> bool {
    let any = |name: &str, test: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(test);
    let created = |text: &str| engine.containers.view(text).ok().map(|other| other.fixed.created);
    any("id", &|value| view.id().as_str().starts_with(value))
        && any("name", &|value| name_matches(&view.now.name, value))
        && filters.values("label").all(|value| label_matches(view, value))
        && any("status", &|value| view.now.state.word() == value)
        && any("exited", &|value| {
            view.now.started_at.is_some()
                && !view.now.state.is_alive()
                && value.parse::<i32>().is_ok_and(|code| code == view.exit_code())
        })
        && any("ancestor", &|value| {
            engine.images.resolve(value).is_ok_and(|image| image.id == view.fixed.image)
        })
        && any("before", &|value| created(value).is_some_and(|at| view.fixed.created < at))
        && any("since", &|value| created(value).is_some_and(|at| view.fixed.created > at))
        && any("network", &|value| {
            let shown = crate::shows::networks(engine, view);
            shown.iter().any(|(name, endpoint)| name == value || endpoint.network_id == value)
        })
        && any("volume", &|value| {
            view.fixed.spec.mounts.iter().any(|mount| {
                mount.target == value
                    || matches!(&mount.kind, havre_engine::spec::MountKind::Bind { source, .. }
                        if source.as_os_str() == value)
            })
        })
        && (!filters.has("publish") && !filters.has("expose") || {
            let (published, exposed) = ports(view);
            let meets = |name: &str, have: &[PortRange]| {
                any(name, &|value| {
                    PortRange::parse(value).is_some_and(|wanted| have.iter().any(|port| port.meets(&wanted)))
                })
            };
            meets("publish", &published) && meets("expose", &exposed)
        })
        && any("health", &|value| value == "none")
        && any("is-task", &|value| matches!(value, "false" | "0"))
        && any("isolation", &|value| value == "default")
}

/// Docker matches names, with and without their slash, by regular expression; a text that is none is taken
/// as it stands.
fn name_matches(name: &ContainerName, wanted: &str) -> bool {
    let slashed = format!("/{name}");
    match regex_lite::Regex::new(wanted) {
        Ok(pattern) => pattern.is_match(name.as_str()) || pattern.is_match(&slashed),
        Err(_) => slashed == wanted || name.as_str() == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_part_or_anchored() {
        let name = ContainerName::parse("web-1").unwrap();
        for (wanted, matches) in [
            ("web", true),
            ("^web$", false),
            ("^/web-1$", true),
            ("1$", true),
            ("^eb", false),
            ("", true),
            ("^/?web-1$", true),
            ("we.*1", true),
        ] {
            assert_eq!(name_matches(&name, wanted), matches, "{wanted}");
        }
    }

    #[test]
    fn ports_meet_in_ranges_of_one_protocol() {
        let port = |text| PortRange::parse(text).unwrap();
        assert!(port("80").meets(&port("79-81/tcp")) && !port("80/udp").meets(&port("80")));
        assert!(!port("78-79").meets(&port("80-90")));
        for bad in ["", "x", "80-70", "80/icmp", "70000"] {
            assert_eq!(PortRange::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn unknown_filters_and_values_are_refused() {
        let check = |text| super::check(&Filters::parse(text).unwrap()).map_err(|refusal| refusal.message);
        assert!(check(r#"{"status":["running"]}"#).is_ok());
        assert_eq!(check(r#"{"nope":["x"]}"#).unwrap_err(), "invalid filter 'nope'");
        assert!(check(r#"{"status":["up"]}"#).is_err() && check(r#"{"exited":["x"]}"#).is_err());
    }
}
