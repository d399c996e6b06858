//! Filters of the container list.

use havre_api::Filters;
use havre_base::ContainerName;
use havre_engine::{Engine, View};

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
        if filters.has(name) {
            return Err(Refusal::not_yet(&format!("filter {name}")));
        }
    }
    Ok(())
}

fn label_matches(view: &View, wanted: &str) -> bool {
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
        && any("network", &|value| match &view.fixed.spec.network {
            havre_engine::spec::NetworkMode::Host => value == "host",
            havre_engine::spec::NetworkMode::None => value == "none",
            havre_engine::spec::NetworkMode::Container(_) => false,
        })
        && any("volume", &|value| {
            view.fixed.spec.mounts.iter().any(|mount| {
                mount.target == value
                    || matches!(&mount.kind, havre_engine::spec::MountKind::Bind { source, .. }
                        if source.as_os_str() == value)
            })
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
    fn unknown_filters_and_values_are_refused() {
        let check = |text| super::check(&Filters::parse(text).unwrap()).map_err(|refusal| refusal.message);
        assert!(check(r#"{"status":["running"]}"#).is_ok());
        assert_eq!(check(r#"{"nope":["x"]}"#).unwrap_err(), "invalid filter 'nope'");
        assert!(check(r#"{"status":["up"]}"#).is_err() && check(r#"{"exited":["x"]}"#).is_err());
    }
}
