//! From the domain to the wire: what lists and inspections show.

use std::collections::BTreeMap;
use std::path::Path;

use havre_api::container::{
    Config, ContainerInspect, ContainerSummary, MountPoint, State, SummaryHostConfig, SummaryNetworkSettings,
};
use havre_api::host::HostConfig;
use havre_api::image::GraphDriver;
use havre_base::{Clock as _, SystemClock, Timestamp};
use havre_engine::spec::{MountKind, SeccompSpec};
use havre_engine::{Engine, State as Life, View};

mod networks;

pub(crate) use networks::networks;
use networks::{mode, settings, summary_ports};

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

/// A duration as Docker's tables say it.
pub(crate) fn human(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1_800) / 3_600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `Up 3 seconds`, `Exited (0) 2 minutes ago`.
pub(crate) fn status(view: &View) -> String {
    let now = SystemClock.now();
    let ago = |at: Timestamp| human(now.since(at));
    match &view.now.state {
        Life::Created => "Created".into(),
        Life::Running { since, .. } => format!("Up {}", ago(*since)),
        Life::Paused { since, .. } => format!("Up {} (Paused)", ago(*since)),
        Life::Restarting(exit) => format!("Restarting ({}) {} ago", exit.code, ago(exit.at)),
        Life::Exited(exit) => format!("Exited ({}) {} ago", exit.code, ago(exit.at)),
        Life::Removing => "Removal In Progress".into(),
    }
}

fn part<T: serde::de::DeserializeOwned + Default>(view: &View, key: &str) -> T {
    view.fixed.asked.get(key).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

fn mounts(view: &View) -> Vec<MountPoint> {
    view.fixed
        .spec
        .mounts
        .iter()
        .map(|mount| {
            let (kind, source, propagation) = match &mount.kind {
                MountKind::Bind { source, propagation, .. } => {
                    ("bind", source.to_string_lossy().into_owned(), propagation.clone())
                }
                MountKind::Tmpfs { .. } => ("tmpfs", String::new(), String::new()),
            };
            MountPoint {
                kind: kind.into(),
                source,
                destination: mount.target.clone(),
                mode: mount.mode.clone(),
                rw: !mount.read_only,
                propagation,
                ..MountPoint::default()
            }
        })
        .collect()
}

/// The command as lists show it: words with spaces in quotes.
fn command(view: &View) -> String {
    let quote = |word: String| if word.contains(' ') { format!("'{word}'") } else { word };
    view.fixed.merged.args().into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The image as lists show it: the name used at creation while it still means the same image.
fn image_name(engine: &Engine, view: &View) -> String {
    let asked = &view.fixed.spec.image;
    match engine.images.resolve(asked) {
        Ok(image) if image.id == view.fixed.image => asked.clone(),
        _ => view.fixed.image.to_string(),
    }
}

/// One line of the list.
pub(crate) fn summary(engine: &Engine, view: &View) -> ContainerSummary {
    ContainerSummary {
        id: view.id().to_string(),
        names: vec![format!("/{}", view.now.name)],
        image: image_name(engine, view),
        image_id: view.fixed.image.to_string(),
        command: command(view),
        created: view.fixed.created.as_seconds(),
        labels: view.fixed.merged.labels.clone(),
        state: view.now.state.word().into(),
        status: status(view),
        host_config: SummaryHostConfig { network_mode: mode(view), ..SummaryHostConfig::default() },
        ports: summary_ports(engine, view),
        network_settings: SummaryNetworkSettings { networks: networks(engine, view) },
        mounts: mounts(view),
        ..ContainerSummary::default()
    }
}

fn state(view: &View) -> State {
    let now = &view.now;
    let life = &now.state;
    State {
        status: life.word().into(),
        running: life.is_alive() || matches!(life, Life::Restarting(_)),
        paused: matches!(life, Life::Paused { .. }),
        restarting: matches!(life, Life::Restarting(_)),
        oom_killed: now.oom_killed || life.exit().is_some_and(|exit| exit.oom_killed),
        dead: false,
        pid: i64::from(life.pid().unwrap_or(0)),
        exit_code: i64::from(view.exit_code()),
        error: now.start_error.as_ref().map(|(text, _)| text.clone()).unwrap_or_default(),
        started_at: time(now.started_at),
        finished_at: time(now.finished_at),
        ..State::default()
    }
}

/// Everything about one container.
pub(crate) fn inspect(engine: &Engine, view: &View) -> ContainerInspect {
    let fixed = &view.fixed;
    let mut config: Config = part(view, "Config");
    let mut host_config: HostConfig = part(view, "HostConfig");
    if host_config.links.as_ref().is_some_and(|links| !links.is_empty()) {
        host_config.links = Some(networks::links(engine, view));
    }
    let merged = &fixed.merged;
    config.hostname.clone_from(&fixed.hostname);
    config.env = Some(with_path(&merged.env));
    config.cmd.clone_from(&merged.command);
    config.entrypoint.clone_from(&merged.entrypoint);
    config.labels = Some(merged.labels.clone());
    config.working_dir.clone_from(&merged.working_dir);
    config.user.clone_from(&merged.user);
    if !merged.exposed.is_empty() {
        let ports = merged.exposed.iter().map(|port| (port.to_string(), havre_api::Empty {}));
        config.exposed_ports = Some(ports.collect());
    }
    let args = merged.args();
    let (path, rest) =
        args.split_first().map(|(path, rest)| (path.clone(), rest.to_vec())).unwrap_or_default();
    let data = engine.containers.data_dir(view);
    let file = |name: &str| data.join(name).to_string_lossy().into_owned();
    let log = if fixed.spec.log.none {
        String::new()
    } else {
        engine.containers.log_path(view).to_string_lossy().into_owned()
    };
    ContainerInspect {
        id: view.id().to_string(),
        created: fixed.created.to_string(),
        path,
        args: rest,
        state: state(view),
        image: fixed.image.to_string(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: log,
        name: format!("/{}", view.now.name),
        restart_count: i64::from(view.now.restart_count),
        driver: engine.images.driver().name().into(),
        graph_driver: Some(graph_driver(engine, view)),
        platform: "linux".into(),
        app_armor_profile: fixed.spec.security.apparmor.clone().unwrap_or_default(),
        exec_ids: (!view.execs.is_empty()).then(|| view.execs.iter().map(ToString::to_string).collect()),
        host_config,
        mounts: mounts(view),
        config,
        network_settings: settings(engine, view),
        ..ContainerInspect::default()
    }
}

/// Where the files of a container are. What is mounted of them is seen only inside, so there is no merged folder.
fn graph_driver(engine: &Engine, view: &View) -> GraphDriver {
    let driver = engine.images.driver();
    let upper = engine.images.writable_path(view.id());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let lowers = engine.images.lowers(&view.fixed.image).unwrap_or_default();
    let data = driver.mounts().then(|| {
        BTreeMap::from([
            ("ID".to_owned(), view.id().to_string()),
            ("LowerDir".to_owned(), lowers.iter().map(|path| text(path)).collect::<Vec<_>>().join(":")),
            ("UpperDir".to_owned(), text(&upper)),
            ("WorkDir".to_owned(), text(&upper.with_file_name("work"))),
        ])
    });
    GraphDriver { name: driver.name().into(), data }
}

/// Inspection shows the variables a process gets from its configuration, the program path included.
fn with_path(env: &[String]) -> Vec<String> {
    let mut list = env.to_vec();
    if !list.iter().any(|entry| entry.starts_with("PATH=")) {
        list.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    list
}

/// The security options that `/info` names.
pub(crate) fn security_options(seccomp: &SeccompSpec, apparmor: bool) -> Vec<String> {
    let profile = match seccomp {
        SeccompSpec::Default => Some("name=seccomp,profile=builtin"),
        SeccompSpec::Profile(_) => Some("name=seccomp,profile=custom"),
        SeccompSpec::Unconfined => None,
    };
    let apparmor = apparmor.then_some("name=apparmor");
    [apparmor, profile, Some("name=cgroupns")].into_iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 1_000, "2 years"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }
}
