//! The daemon's configuration, parsed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use havre_engine::ExternalRuntime;

use crate::DaemonError;
use crate::options::{self, Values};
use crate::runtimes;

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(String),
}

/// Everything the daemon is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<Host>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) group: Option<String>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) debug: bool,
    pub(crate) log_level: String,
    pub(crate) log_json: bool,
    pub(crate) experimental: bool,
    pub(crate) init: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_profile: String,
    pub(crate) labels: Vec<String>,
    pub(crate) validate: bool,
    pub(crate) runtimes: BTreeMap<String, ExternalRuntime>,
    pub(crate) default_runtime: String,
}

/// Paths that depend on the name the daemon was called by.
struct Defaults {
    data_root: &'static str,
    exec_root: &'static str,
    socket: &'static str,
    file: &'static str,
}

const HAVRE: Defaults = Defaults {
    data_root: "/var/lib/havre",
    exec_root: "/run/havre",
    socket: "/run/havre/havre.sock",
    file: "/etc/havre/daemon.json",
};
const DOCKERD: Defaults = Defaults {
    data_root: "/var/lib/havre",
    exec_root: "/run/havre",
    socket: "/var/run/docker.sock",
    file: "/etc/docker/daemon.json",
};

impl Config {
    /// From a command line and the file it names.
    pub(crate) fn load(flags: Values, as_dockerd: bool) -> Result<Self, DaemonError> {
        let defaults = if as_dockerd { DOCKERD } else { HAVRE };
        let named = flags.get("config-file").and_then(|values| values.last()).cloned();
        let path = named.clone().unwrap_or_else(|| defaults.file.to_owned());
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => options::parse_file(&path, &text)?,
            // Only a file that was asked for must exist.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Values::new(),
            Err(source) => return Err(DaemonError::Io { what: "read", path: path.into(), source }),
        };
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::make(options::join(flags, file)?, &defaults, environment)
    }

    fn make(
        values: Values,
        defaults: &Defaults,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, DaemonError> {
        let last = |name: &str| values.get(name).and_then(|values| values.last()).cloned();
        let flag = |name: &str| last(name).is_some_and(|value| matches!(value.as_str(), "true" | "1"));
        let root = |name: &str, variable: &str, default: &str| {
            let text = last(name).or_else(|| environment(variable)).unwrap_or_else(|| default.to_owned());
            let path = PathBuf::from(&text);
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(DaemonError::Config(format!("--{name} must be an absolute path, not {text:?}")))
            }
        };
        let data_root = root("data-root", "HAVRE_DATA_ROOT", defaults.data_root)?;
        let exec_root = root("exec-root", "HAVRE_EXEC_ROOT", defaults.exec_root)?;
        let socket = if exec_root == Path::new(defaults.exec_root) {
            PathBuf::from(defaults.socket)
        } else {
            exec_root.join("havre.sock")
        };
        let hosts = match values.get("host") {
            None => vec![Host::Unix(socket)],
            Some(texts) => texts.iter().map(|text| parse_host(text)).collect::<Result<_, _>>()?,
        };
        let debug = flag("debug");
        let log_level = last("log-level").unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned());
        if !["debug", "info", "warn", "error", "fatal"].contains(&log_level.as_str()) {
            return Err(DaemonError::Config(format!("invalid logging level: {log_level}")));
        }
        let log_json = match last("log-format").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => return Err(DaemonError::Config(format!("invalid log format: {other}"))),
        };
        let labels = values.get("label").cloned().unwrap_or_default();
        if let Some(bad) = labels.iter().find(|label| !label.contains('=')) {
            return Err(DaemonError::Config(format!("bad attribute format: {bad}: want key=value")));
        }
        let runtimes = runtimes::all(values.get("add-runtime").map_or(&[], Vec::as_slice))?;
        let default_runtime = runtimes::default(last("default-runtime"), &runtimes)?;
        Ok(Self {
            hosts,
            pidfile: last("pidfile").map_or_else(|| exec_root.join("havre.pid"), PathBuf::from),
            data_root,
            exec_root,
            group: last("group"),
            cgroup_parent: last("cgroup-parent"),
            debug,
            log_level,
            log_json,
            experimental: flag("experimental"),
            init: flag("init"),
            no_new_privileges: flag("no-new-privileges"),
            seccomp_profile: last("seccomp-profile").unwrap_or_else(|| "builtin".to_owned()),
            labels,
            validate: flag("validate"),
            runtimes,
            default_runtime,
        })
    }

    /// The parent of all control groups: engines with roots of their own do not meet.
    pub(crate) fn parent_group(&self) -> String {
        match &self.cgroup_parent {
            Some(parent) => format!("/{}", parent.trim_matches('/')),
            None if self.data_root == Path::new(HAVRE.data_root) => "/havre".to_owned(),
            None => {
                let digest = havre_oci::Digest::of_bytes(self.data_root.as_os_str().as_encoded_bytes());
                format!("/havre/{}", digest.short())
            }
        }
    }
}

fn parse_host(text: &str) -> Result<Host, DaemonError> {
    let refuse = |why: &str| Err(DaemonError::Config(format!("invalid -H value {text:?}: {why}")));
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Host::Unix(PathBuf::from(path))),
        Some(("unix", _)) => refuse("the path of a unix socket must be absolute"),
        Some(("tcp", address)) => {
            // Without TLS only this machine may talk to the engine, which is root.
            let loopback =
                address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
            if loopback {
                Ok(Host::Tcp(address.to_owned()))
            } else {
                refuse(
                    "not yet supported: TCP beyond loopback (needs TLS); use a loopback address with a port, as tcp://127.0.0.1:2375",
                )
            }
        }
        Some(("fd", _)) => refuse("not yet supported: socket activation"),
        _ => refuse("want unix:///path or tcp://127.0.0.1:port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Asked, parse_flags};

    fn make(text: &str) -> Result<Config, DaemonError> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let Asked::Run(values) = parse_flags(&args).unwrap() else { panic!() };
        Config::make(values, &HAVRE, |_| None)
    }

    #[test]
    fn defaults_follow_the_roots() {
        let config = make("").unwrap();
        assert_eq!(config.hosts, [Host::Unix("/run/havre/havre.sock".into())]);
        assert_eq!(config.parent_group(), "/havre");
        let private = make("--data-root /x --exec-root /y").unwrap();
        assert_eq!(private.hosts, [Host::Unix("/y/havre.sock".into())]);
        assert!(private.parent_group().starts_with("/havre/"));
    }

    #[test]
    fn dangerous_and_wrong_values_are_refused() {
        for bad in [
            "-H tcp://0.0.0.0:2375",
            "-H unix://relative",
            "-H nonsense",
            "--data-root relative",
            "--log-level loud",
            "--label x",
            "--default-runtime nothing",
            "--add-runtime x",
        ] {
            assert!(make(bad).is_err(), "{bad}");
        }
        assert!(make("-H tcp://127.0.0.1:0").is_ok());
    }
}
