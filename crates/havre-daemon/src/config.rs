//! The daemon's configuration, parsed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use havre_api::ApiVersion;
use havre_engine::Reloadable;
use havre_image::Driver;
use havre_oci::runtime::Rlimit;
use havre_server::Defaults;

use crate::DaemonError;
use crate::hosts::{self, ADVICE, Asked, Host};
use crate::options::{self, OptionError, Values};
use crate::tls::Tls;
use crate::{networks, registries, runtimes, values};

/// Everything the daemon is told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<Host>,
    pub(crate) tls: Option<Tls>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) group: String,
    /// Whether the group was named by somebody, so that it must exist.
    pub(crate) group_asked: bool,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) debug: bool,
    pub(crate) log_level: String,
    pub(crate) log_json: bool,
    pub(crate) experimental: bool,
    pub(crate) init: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp_profile: String,
    /// None leaves the choice to what is there.
    pub(crate) storage_driver: Option<Driver>,
    pub(crate) labels: Vec<String>,
    pub(crate) validate: bool,
    pub(crate) oldest: ApiVersion,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) features: BTreeMap<String, bool>,
    /// Folders with descriptions of devices.
    cdi_dirs: Vec<PathBuf>,
    /// With their credentials.
    pub(crate) proxies: [String; 3],
    pub(crate) registries: registries::Asked,
    pub(crate) networks: networks::Asked,
    /// Whether there is a table of the packet filter.
    pub(crate) firewall: bool,
    /// Whether the host's rules for what is its own judge about published ports.
    pub(crate) by_input: bool,
    /// Seconds for the shutdown; none waits for ever.
    pub(crate) shutdown_timeout: Option<u64>,
    pub(crate) live: Reloadable,
    pub(crate) defaults: Defaults,
    /// What an administrator should know about the addresses.
    pub(crate) warnings: Vec<String>,
}

/// Paths that depend on the name the daemon was called by.
struct Names {
    data_root: &'static str,
    exec_root: &'static str,
    socket: &'static str,
    file: &'static str,
    group: &'static str,
}

const HAVRE: Names = Names {
    data_root: "/var/lib/havre",
    exec_root: "/run/havre",
    socket: "/run/havre/havre.sock",
    file: "/etc/havre/daemon.json",
    group: "havre",
};
const DOCKERD: Names = Names {
    data_root: "/var/lib/havre",
    exec_root: "/run/havre",
    socket: "/var/run/docker.sock",
    file: "/etc/docker/daemon.json",
    group: "docker",
};

impl Config {
    /// From a command line and the file it names.
    pub(crate) fn load(flags: Values, as_dockerd: bool) -> Result<Self, DaemonError> {
        let names = if as_dockerd { DOCKERD } else { HAVRE };
        let named = flags.get("config-file").and_then(|values| values.last()).cloned();
        let path = named.clone().unwrap_or_else(|| names.file.to_owned());
        let in_file = |why: String| OptionError::File { file: path.clone(), why };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => options::parse_file(&path, &text)?,
            // Only a file that was asked for must exist.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Values::new(),
            Err(error) => return Err(in_file(format!("open {path}: {error}")).into()),
        };
        let from_file = !file.is_empty();
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let values = options::join(flags, file).map_err(|error| in_file(error.to_string()))?;
        Self::make(&values, &names, environment).map_err(|error| match error {
            DaemonError::Config(why) if from_file => in_file(why).into(),
            other => other,
        })
    }

    fn make(
        values: &Values,
        names: &Names,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, DaemonError> {
        let refuse = |text: String| Err(DaemonError::Config(text));
        let all = |name: &str| values.get(name).map_or(&[][..], Vec::as_slice);
        let last = |name: &str| all(name).last().cloned();
        let said = |name: &str| last(name).map(|value| matches!(value.as_str(), "true" | "1"));
        let flag = |name: &str| said(name).unwrap_or(false);
        let root = |name: &str, variable: &str, default: &str| {
            let text = last(name).or_else(|| environment(variable)).unwrap_or_else(|| default.to_owned());
            let path = PathBuf::from(&text);
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(DaemonError::Config(format!("--{name} must be an absolute path, not {text:?}")))
            }
        };
        let data_root = root("data-root", "HAVRE_DATA_ROOT", names.data_root)?;
        let exec_root = root("exec-root", "HAVRE_EXEC_ROOT", names.exec_root)?;
        let socket = if exec_root == Path::new(names.exec_root) {
            PathBuf::from(names.socket)
        } else {
            exec_root.join("havre.sock")
        };
        let verify = said("tlsverify").or_else(|| environment("DOCKER_TLS_VERIFY").map(|_| true));
        let asked = Asked { tls: said("tls"), verify };
        if asked.tls == Some(false) && asked.verifies() {
            return refuse("conflicting options: tls is false, but clients are to be verified".into());
        }
        let hosts = match values.get("host") {
            None => vec![Host::Unix(socket)],
            Some(texts) => {
                texts.iter().map(|text| hosts::parse(text, asked.encrypts())).collect::<Result<_, _>>()?
            }
        };
        let mut warnings = Vec::new();
        for host in &hosts {
            if let Host::Tcp(address) = host {
                warnings.extend(asked.judge(address)?.map(|text| format!("WARNING: {text}.{ADVICE}")));
            }
        }
        let debug = flag("debug");
        let log_level = last("log-level").unwrap_or_else(|| "info".to_owned());
        if !["debug", "info", "warn", "warning", "error", "fatal"].contains(&log_level.as_str()) {
            return refuse(format!("invalid logging level: {log_level}"));
        }
        // As dockerd: debug mode is told everything.
        let log_level = if debug { "debug".to_owned() } else { log_level };
        let log_json = match last("log-format").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => return refuse(format!("invalid log format: {other}")),
        };
        let labels = all("label").to_vec();
        values::check_labels(&labels)?;
        let runtimes = runtimes::all(all("add-runtime"))?;
        let default_runtime = runtimes::default(last("default-runtime"), &runtimes)?;
        let number = |name: &str| last(name).and_then(|text| text.parse::<i64>().ok());
        let live = Reloadable {
            runtimes,
            default_runtime,
            stop_timeout: number("default-stop-timeout").unwrap_or(havre_engine::STOP_TIMEOUT),
            watermarks: values::watermarks(all("disk-watermarks"))?,
        };
        let oldest = last("min-api-version").or_else(|| environment("DOCKER_MIN_API_VERSION"));
        let asked_for_group = last("group");
        let proxies = values::proxies(&last, all("proxies"), &environment)?;
        let registries = registries::Asked::read(
            all("registry-mirror"),
            all("insecure-registry"),
            all("registry-token-servers"),
            &number,
        )?;
        // Refused here, so that a validation finds them.
        drop(registries.settings(&proxies)?);
        let networks = networks::Asked::read(&all, &last, &said)?;
        let mut defaults = values::defaults(&last, all("log-opt"))?;
        defaults.network_options = networks::driver_options(all("default-network-opt"))?;
        Ok(Self {
            hosts,
            tls: asked.encrypts().then(|| certificates(asked, &last, &environment)),
            pidfile: last("pidfile").map_or_else(|| exec_root.join("havre.pid"), PathBuf::from),
            data_root,
            exec_root,
            group_asked: asked_for_group.is_some(),
            group: asked_for_group.unwrap_or_else(|| names.group.to_owned()),
            cgroup_parent: last("cgroup-parent"),
            debug,
            log_level,
            log_json,
            experimental: flag("experimental"),
            init: flag("init"),
            no_new_privileges: flag("no-new-privileges"),
            seccomp_profile: last("seccomp-profile").unwrap_or_else(|| "builtin".to_owned()),
            storage_driver: last("storage-driver").map(|name| Driver::parse(&name)).transpose()?,
            labels,
            validate: flag("validate"),
            oldest: values::oldest(oldest.as_deref())?,
            rlimits: values::ulimits(all("default-ulimit"))?,
            features: values::features(all("feature"))?,
            cdi_dirs: values::cdi_folders(all("cdi-spec-dir")),
            proxies,
            registries,
            networks,
            firewall: said("iptables").unwrap_or(true),
            by_input: values::by_input(last("publish-policy").as_deref())?,
            // Docker's: negative waits for ever.
            shutdown_timeout: u64::try_from(number("shutdown-timeout").unwrap_or(15)).ok(),
            live,
            defaults,
            warnings,
        })
    }

    /// The folders with descriptions of devices; none when the feature is off.
    pub(crate) fn cdi_folders(&self) -> Option<Vec<PathBuf>> {
        self.features.get("cdi").copied().unwrap_or(true).then(|| self.cdi_dirs.clone())
    }

    /// What the packet filter's table is called: engines with roots of their own do not meet.
    pub(crate) fn own_name(&self) -> String {
        self.parent_of_root().trim_start_matches('/').replace('/', "-")
    }

    /// The device of the default network.
    pub(crate) fn default_bridge(&self) -> String {
        match self.parent_of_root().strip_prefix("/havre/") {
            None => havre_net::networks::DEFAULT_BRIDGE.to_owned(),
            Some(own) => format!("hv{own}"),
        }
    }

    /// The parent of all control groups: engines with roots of their own do not meet.
    pub(crate) fn parent_group(&self) -> String {
        match &self.cgroup_parent {
            Some(parent) => format!("/{}", parent.trim_matches('/')),
            None => self.parent_of_root(),
        }
    }

    fn parent_of_root(&self) -> String {
        if self.data_root == Path::new(HAVRE.data_root) {
            return "/havre".to_owned();
        }
        let digest = havre_oci::Digest::of_bytes(self.data_root.as_os_str().as_encoded_bytes());
        format!("/havre/{}", digest.short())
    }
}

/// The files of keys and certificates; by default where Docker's client has its own.
fn certificates(
    asked: Asked,
    last: &impl Fn(&str) -> Option<String>,
    environment: &impl Fn(&str) -> Option<String>,
) -> Tls {
    let folder = environment("DOCKER_CERT_PATH").or_else(|| environment("DOCKER_CONFIG")).map_or_else(
        || Path::new(&environment("HOME").unwrap_or_else(|| "/root".into())).join(".docker"),
        PathBuf::from,
    );
    let file = |option: &str, name: &str| last(option).map_or_else(|| folder.join(name), PathBuf::from);
    Tls {
        verify: asked.verifies(),
        ca: file("tlscacert", "ca.pem"),
        cert: file("tlscert", "cert.pem"),
        key: file("tlskey", "key.pem"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Asked, parse_flags};

    fn make(text: &str) -> Result<Config, DaemonError> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let Asked::Run(values) = parse_flags(&args)? else { panic!() };
        Config::make(&values, &HAVRE, |_| None)
    }

    #[test]
    fn defaults_follow_the_roots() {
        let config = make("").unwrap();
        assert_eq!(config.hosts, [Host::Unix("/run/havre/havre.sock".into())]);
        assert_eq!(config.parent_group(), "/havre");
        assert_eq!((config.group.as_str(), config.group_asked), ("havre", false));
        assert_eq!(config.shutdown_timeout, Some(15));
        let private = make("--data-root /x --exec-root /y").unwrap();
        assert_eq!(private.hosts, [Host::Unix("/y/havre.sock".into())]);
        assert!(private.parent_group().starts_with("/havre/"));
    }

    #[test]
    fn dangerous_and_wrong_values_are_refused() {
        for bad in [
            "-H tcp://0.0.0.0:2375",
            "-H unix://relative",
            "-H npipe://nonsense",
            "--data-root relative",
            "--log-level loud",
            "--label x",
            "--label a=1 --label a=2",
            "--default-runtime nothing",
            "--storage-driver aufs",
            "--storage-driver zfs",
            "--add-runtime x",
            "--default-shm-size 64Q",
            "--default-ipc-mode host",
            "--default-cgroupns-mode x",
            "--default-ulimit nofile=2:1",
            "--log-driver nope",
            "--log-opt nope=1",
            "--feature buildkit=perhaps",
            "--shutdown-timeout x",
            "--tls=false --tlsverify",
            "--bip 10.0.0.0/24",
            "--mtu 12",
            "--default-address-pool base=10.0.0.0/8",
            "--default-network-opt bridge=com.docker.network.driver.mtu=x",
        ] {
            assert!(make(bad).is_err(), "{bad}");
        }
        assert_eq!(make("-H tcp://127.0.0.1:0").unwrap().warnings.len(), 1);
        assert_eq!(make("--shutdown-timeout -1").unwrap().shutdown_timeout, None);
    }

    #[test]
    fn keys_are_looked_for_where_docker_has_them() {
        let tls = make("--tlsverify --tlskey /k").unwrap().tls.unwrap();
        assert_eq!((tls.verify, tls.key, tls.ca), (true, "/k".into(), "/root/.docker/ca.pem".into()));
        // Whoever speaks of verifying, even to turn it off, wants encryption.
        assert!(!make("--tlsverify=false").unwrap().tls.unwrap().verify);
        assert!(make("").unwrap().tls.is_none());
    }
}
