//! The daemon's options: one table for flags and `daemon.json`.
//!
//! Invariant: an option is used, or ignoring it changes nothing the user asked for, or it is refused
//! with its name. Nothing is accepted and forgotten.

use std::collections::BTreeMap;

/// How an option's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Present or absent, or `=true`, `=false`.
    Bool,
    /// One value.
    One,
    /// Values of several flags, or an array.
    List,
    /// `name=value` of several flags, or an object.
    Map,
}

/// What is done with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Read where the configuration is made.
    Used,
    /// Means nothing here, whatever its value: why.
    Meaningless(&'static str),
    /// Only these values are what is done anyway; others are not built yet.
    Only(&'static [&'static str]),
}

/// One option.
#[derive(Debug)]
pub(crate) struct Opt {
    pub(crate) flag: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) key: &'static str,
    pub(crate) shape: Shape,
    pub(crate) rule: Rule,
    pub(crate) help: &'static str,
}

const fn opt(
    flag: &'static str,
    short: Option<char>,
    key: &'static str,
    shape: Shape,
    rule: Rule,
    help: &'static str,
) -> Opt {
    Opt { flag, short, key, shape, rule, help }
}

use Rule::{Meaningless, Only, Used};
use Shape::{Bool, List, Map, One};

const NO_CONTAINERD: Rule = Meaningless("there is no containerd");
const NO_PULLS: Rule = Only(&[]);
const NO_NETWORKS: Rule = Only(&[]);

/// Every option of dockerd.
pub(crate) const OPTIONS: &[Opt] = &[
    opt("add-runtime", None, "runtimes", Map, Used, "Register an additional OCI compatible runtime"),
    opt(
        "allow-direct-routing",
        None,
        "allow-direct-routing",
        Bool,
        Only(&["false"]),
        "Allow remote access to published ports on container IP addresses",
    ),
    opt(
        "authorization-plugin",
        None,
        "authorization-plugins",
        List,
        Only(&[]),
        "Authorization plugins to load",
    ),
    opt("bip", None, "bip", One, NO_NETWORKS, "IPv4 address for the default bridge"),
    opt("bip6", None, "bip6", One, NO_NETWORKS, "IPv6 address for the default bridge"),
    opt("bridge", Some('b'), "bridge", One, Only(&["none"]), "Attach containers to a network bridge"),
    opt(
        "bridge-accept-fwmark",
        None,
        "bridge-accept-fwmark",
        One,
        NO_NETWORKS,
        "In bridge networks, accept packets with this firewall mark/mask",
    ),
    opt("cdi-spec-dir", None, "cdi-spec-dirs", List, Only(&[]), "CDI specification directories to use"),
    opt("cgroup-parent", None, "cgroup-parent", One, Used, "Set parent cgroup for all containers"),
    opt("config-file", None, "", One, Used, "Daemon configuration file"),
    opt("containerd", None, "containerd", One, NO_CONTAINERD, "containerd grpc address"),
    opt(
        "containerd-namespace",
        None,
        "containerd-namespace",
        One,
        NO_CONTAINERD,
        "Containerd namespace to use",
    ),
    opt(
        "containerd-plugins-namespace",
        None,
        "containerd-plugin-namespace",
        One,
        NO_CONTAINERD,
        "Containerd namespace to use for plugins",
    ),
    opt(
        "cpu-rt-period",
        None,
        "cpu-rt-period",
        One,
        Only(&["0"]),
        "Limit the CPU real-time period in microseconds for the parent cgroup",
    ),
    opt(
        "cpu-rt-runtime",
        None,
        "cpu-rt-runtime",
        One,
        Only(&["0"]),
        "Limit the CPU real-time runtime in microseconds for the parent cgroup",
    ),
    opt("cri-containerd", None, "cri-containerd", Bool, Only(&["false"]), "Start containerd with cri"),
    opt("data-root", None, "data-root", One, Used, "Root directory of persistent state"),
    opt("debug", Some('D'), "debug", Bool, Used, "Enable debug mode"),
    opt(
        "default-address-pool",
        None,
        "default-address-pools",
        List,
        NO_NETWORKS,
        "Default address pools for node specific local networks",
    ),
    opt(
        "default-cgroupns-mode",
        None,
        "default-cgroupns-mode",
        One,
        Only(&["private"]),
        "Default mode for containers cgroup namespace",
    ),
    opt(
        "default-gateway",
        None,
        "default-gateway",
        One,
        NO_NETWORKS,
        "Default gateway IPv4 address for the default bridge network",
    ),
    opt(
        "default-gateway-v6",
        None,
        "default-gateway-v6",
        One,
        NO_NETWORKS,
        "Default gateway IPv6 address for the default bridge network",
    ),
    opt(
        "default-ipc-mode",
        None,
        "default-ipc-mode",
        One,
        Only(&["private"]),
        "Default mode for containers ipc",
    ),
    opt("default-network-opt", None, "default-network-opts", Map, NO_NETWORKS, "Default network options"),
    opt("default-runtime", None, "default-runtime", One, Used, "Default OCI runtime for containers"),
    opt(
        "default-shm-size",
        None,
        "default-shm-size",
        One,
        Only(&["64M", "64m", "64MiB", "67108864"]),
        "Default shm size for containers",
    ),
    opt(
        "default-stop-timeout",
        None,
        "default-stop-timeout",
        One,
        Only(&["10"]),
        "Default container stop timeout in seconds",
    ),
    opt("default-ulimit", None, "default-ulimits", Map, Only(&[]), "Default ulimits for containers"),
    opt("dns", None, "dns", List, Only(&[]), "DNS server to use"),
    opt("dns-opt", None, "dns-opts", List, Only(&[]), "DNS options to use"),
    opt("dns-search", None, "dns-search", List, Only(&[]), "DNS search domains to use"),
    opt(
        "exec-opt",
        None,
        "exec-opts",
        List,
        Only(&["native.cgroupdriver=cgroupfs"]),
        "Runtime execution options",
    ),
    opt("exec-root", None, "exec-root", One, Used, "Root directory for execution state files"),
    opt("experimental", None, "experimental", Bool, Used, "Enable experimental features"),
    opt("feature", None, "features", Map, Only(&[]), "Enable feature in the daemon"),
    opt("firewall-backend", None, "firewall-backend", One, Only(&["nftables"]), "Firewall backend to use"),
    opt("fixed-cidr", None, "fixed-cidr", One, NO_NETWORKS, "IPv4 subnet for the default bridge network"),
    opt(
        "fixed-cidr-v6",
        None,
        "fixed-cidr-v6",
        One,
        NO_NETWORKS,
        "IPv6 subnet for the default bridge network",
    ),
    opt("group", Some('G'), "group", One, Used, "Group for the unix socket"),
    opt("host", Some('H'), "hosts", List, Used, "Daemon socket(s) to connect to"),
    opt(
        "host-gateway-ip",
        None,
        "host-gateway-ips",
        List,
        NO_NETWORKS,
        "IP addresses that the special 'host-gateway' string resolves to",
    ),
    opt("http-proxy", None, "http-proxy", One, NO_PULLS, "HTTP proxy URL to use for outgoing traffic"),
    opt("https-proxy", None, "https-proxy", One, NO_PULLS, "HTTPS proxy URL to use for outgoing traffic"),
    opt(
        "icc",
        None,
        "icc",
        Bool,
        Only(&["true"]),
        "Enable inter-container communication for the default bridge network",
    ),
    opt(
        "init",
        None,
        "init",
        Bool,
        Used,
        "Run an init in the container to forward signals and reap processes",
    ),
    opt("init-path", None, "init-path", One, Only(&[]), "Path to the docker-init binary"),
    opt(
        "insecure-registry",
        None,
        "insecure-registries",
        List,
        NO_PULLS,
        "Enable insecure registry communication",
    ),
    opt(
        "ip",
        None,
        "ip",
        One,
        Only(&["0.0.0.0"]),
        "Host IP for port publishing from the default bridge network",
    ),
    opt(
        "ip-forward",
        None,
        "ip-forward",
        Bool,
        Meaningless("no bridge network is made, so nothing is forwarded"),
        "Enable IP forwarding in system configuration",
    ),
    opt(
        "ip-forward-no-drop",
        None,
        "ip-forward-no-drop",
        Bool,
        Meaningless("the FORWARD policy is never touched"),
        "Do not set the filter-FORWARD policy to DROP when enabling IP forwarding",
    ),
    opt(
        "ip-masq",
        None,
        "ip-masq",
        Bool,
        Meaningless("no bridge network is made"),
        "Enable IP masquerading for the default bridge network",
    ),
    opt(
        "ip6tables",
        None,
        "ip6tables",
        Bool,
        Meaningless("no firewall rule is made"),
        "Enable addition of ip6tables rules",
    ),
    opt(
        "iptables",
        None,
        "iptables",
        Bool,
        Meaningless("no firewall rule is made"),
        "Enable addition of iptables rules",
    ),
    opt(
        "ipv6",
        None,
        "ipv6",
        Bool,
        Only(&["false"]),
        "Enable IPv6 networking for the default bridge network",
    ),
    opt("label", None, "labels", List, Used, "Set key=value labels to the daemon"),
    opt(
        "live-restore",
        None,
        "live-restore",
        Bool,
        Meaningless("containers always survive the daemon"),
        "Keep containers running while the daemon is away",
    ),
    opt("log-driver", None, "log-driver", One, Only(&["json-file"]), "Default driver for container logs"),
    opt("log-format", None, "log-format", One, Used, "Set the logging format (\"text\"|\"json\")"),
    opt(
        "log-level",
        Some('l'),
        "log-level",
        One,
        Used,
        "Set the logging level (\"debug\"|\"info\"|\"warn\"|\"error\"|\"fatal\")",
    ),
    opt("log-opt", None, "log-opts", Map, Only(&[]), "Default log driver options for containers"),
    opt(
        "max-concurrent-downloads",
        None,
        "max-concurrent-downloads",
        One,
        NO_PULLS,
        "Set the max concurrent downloads",
    ),
    opt(
        "max-concurrent-uploads",
        None,
        "max-concurrent-uploads",
        One,
        NO_PULLS,
        "Set the max concurrent uploads",
    ),
    opt(
        "max-download-attempts",
        None,
        "max-download-attempts",
        One,
        NO_PULLS,
        "Set the max download attempts for each pull",
    ),
    opt(
        "metrics-addr",
        None,
        "metrics-addr",
        One,
        Only(&[]),
        "Set default address and port to serve the metrics api on",
    ),
    opt("mtu", None, "mtu", One, NO_NETWORKS, "Set the MTU for the default bridge network"),
    opt(
        "network-control-plane-mtu",
        None,
        "network-control-plane-mtu",
        One,
        NO_NETWORKS,
        "Network Control plane MTU",
    ),
    opt(
        "network-diagnostic-port",
        None,
        "network-diagnostic-port",
        One,
        NO_NETWORKS,
        "TCP port number of the network diagnostic server",
    ),
    opt(
        "no-new-privileges",
        None,
        "no-new-privileges",
        Bool,
        Used,
        "Set no-new-privileges by default for new containers",
    ),
    opt("no-proxy", None, "no-proxy", One, NO_PULLS, "Hosts for which the proxy is skipped"),
    opt(
        "node-generic-resource",
        None,
        "node-generic-resources",
        List,
        Only(&[]),
        "Advertise user-defined resource",
    ),
    opt("nri-opts", None, "nri-opts", Map, Only(&[]), "Node Resource Interface configuration"),
    opt("pidfile", Some('p'), "pidfile", One, Used, "Path to use for daemon PID file"),
    opt(
        "raw-logs",
        None,
        "raw-logs",
        Bool,
        Meaningless("the log has full time stamps and no colours anyway"),
        "Full timestamps without ANSI coloring",
    ),
    opt("registry-mirror", None, "registry-mirrors", List, NO_PULLS, "Preferred registry mirror"),
    opt("restart", None, "", Bool, Only(&["true"]), "Deprecated in favour of restart policies on run"),
    opt("rootless", None, "", Bool, Only(&["false"]), "Enable rootless mode"),
    opt(
        "seccomp-profile",
        None,
        "seccomp-profile",
        One,
        Used,
        "Path to seccomp profile, or \"unconfined\" or \"builtin\"",
    ),
    opt("selinux-enabled", None, "selinux-enabled", Bool, Only(&["false"]), "Enable selinux support"),
    opt(
        "shutdown-timeout",
        None,
        "shutdown-timeout",
        One,
        Meaningless("containers are not stopped with the daemon"),
        "Set the default shutdown timeout",
    ),
    opt("storage-driver", Some('s'), "storage-driver", One, Only(&["overlay2"]), "Storage driver to use"),
    opt("storage-opt", None, "storage-opts", List, Only(&[]), "Storage driver options"),
    opt(
        "swarm-default-advertise-addr",
        None,
        "swarm-default-advertise-addr",
        One,
        Only(&[]),
        "Set default address or interface for swarm advertised address",
    ),
    opt("tls", None, "tls", Bool, Only(&["false"]), "Use TLS; implied by --tlsverify"),
    opt("tlscacert", None, "tlscacert", One, Only(&[]), "Trust certs signed only by this CA"),
    opt("tlscert", None, "tlscert", One, Only(&[]), "Path to TLS certificate file"),
    opt("tlskey", None, "tlskey", One, Only(&[]), "Path to TLS key file"),
    opt("tlsverify", None, "tlsverify", Bool, Only(&["false"]), "Use TLS and verify the remote"),
    opt(
        "userland-proxy",
        None,
        "userland-proxy",
        Bool,
        Meaningless("ports need no user process"),
        "Use userland proxy for loopback traffic",
    ),
    opt(
        "userland-proxy-path",
        None,
        "userland-proxy-path",
        One,
        Meaningless("ports need no user process"),
        "Path to the userland proxy binary",
    ),
    opt("userns-remap", None, "userns-remap", One, Only(&[]), "User/Group setting for user namespaces"),
    opt("validate", None, "", Bool, Used, "Validate daemon configuration and exit"),
    // Keys of daemon.json without a flag.
    opt("", None, "builder", Map, Only(&[]), ""),
    opt("", None, "default-init", One, Only(&[]), ""),
    opt("", None, "min-api-version", One, Only(&["1.24"]), ""),
    opt("", None, "proxies", Map, Only(&[]), ""),
    opt("", None, "resolv-conf", One, Only(&[]), ""),
    opt("", None, "swarm-raft-election-tick", One, Only(&[]), ""),
    opt("", None, "swarm-raft-heartbeat-tick", One, Only(&[]), ""),
];

/// Values by flag name, or by key for keys without a flag.
pub(crate) type Values = BTreeMap<&'static str, Vec<String>>;

/// Why the options cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("unknown flag: {0}\nSee 'dockerd --help'")]
    UnknownFlag(String),
    #[error("flag needs an argument: {0}")]
    NeedsValue(String),
    #[error("unexpected argument: {0}")]
    Unexpected(String),
    #[error("invalid value for {name}: {value:?}: {why}")]
    Invalid { name: String, value: String, why: &'static str },
    #[error("not yet supported: {name}={value}")]
    NotYet { name: String, value: String },
    #[error("{file}: {why}")]
    File { file: String, why: String },
    #[error("the following directives are specified both as a flag and in the configuration file: {0}")]
    Twice(String),
}

/// What a command line asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    Version,
    Run(Values),
}

/// Parses a command line without the program's name.
pub(crate) fn parse_flags(args: &[String]) -> Result<Asked, OptionError> {
    let mut values = Values::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if matches!(arg.as_str(), "--help" | "-h") {
            return Ok(Asked::Help);
        }
        if matches!(arg.as_str(), "--version" | "-v") {
            return Ok(Asked::Version);
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let option = match (name.strip_prefix("--"), name.strip_prefix('-')) {
            (Some(long), _) => OPTIONS.iter().find(|option| !long.is_empty() && option.flag == long),
            (None, Some(short)) => {
                let mut letters = short.chars();
                let letter = letters.next();
                let found = OPTIONS.iter().find(|option| letter.is_some() && option.short == letter);
                // `-Hunix://...` carries its value behind the letter.
                if letters.as_str().is_empty() {
                    found
                } else if let Some(option) = found.filter(|option| option.shape != Bool) {
                    let behind = arg.get(2..).unwrap_or("").trim_start_matches('=');
                    values.entry(option.flag).or_default().push(behind.to_owned());
                    continue;
                } else {
                    None
                }
            }
            (None, None) => return Err(OptionError::Unexpected(arg.clone())),
        };
        let option = option.ok_or_else(|| OptionError::UnknownFlag(name.to_owned()))?;
        let value = match (option.shape, inline) {
            (_, Some(value)) => value,
            (Bool, None) => "true".to_owned(),
            (One | List | Map, None) => {
                rest.next().cloned().ok_or_else(|| OptionError::NeedsValue(name.to_owned()))?
            }
        };
        check(option, &value)?;
        values.entry(option.flag).or_default().push(value);
    }
    Ok(Asked::Run(values))
}

/// Reads `daemon.json`.
pub(crate) fn parse_file(file: &str, text: &str) -> Result<Values, OptionError> {
    let broken = |why: String| OptionError::File { file: file.to_owned(), why };
    if text.trim().is_empty() {
        return Ok(Values::new());
    }
    let map: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    let mut values = Values::new();
    let mut unknown = Vec::new();
    for (key, value) in map {
        match OPTIONS.iter().find(|option| !option.key.is_empty() && option.key == key) {
            None => unknown.push(key),
            Some(option) => {
                let list = file_values(&key, option.shape, &value).map_err(broken)?;
                for value in &list {
                    check(option, value)?;
                }
                let name = if option.flag.is_empty() { option.key } else { option.flag };
                values.insert(name, list);
            }
        }
    }
    if unknown.is_empty() {
        Ok(values)
    } else {
        Err(broken(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )))
    }
}

fn file_values(key: &str, shape: Shape, value: &serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value;
    let plain = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("{key}: unexpected {other}")),
    };
    match (shape, value) {
        (_, Value::Null) => Ok(Vec::new()),
        (Bool, Value::Bool(flag)) => Ok(vec![flag.to_string()]),
        (Bool, other) => Err(format!("{key}: want true or false, got {other}")),
        (One, value) => Ok(vec![plain(value)?]),
        (List, Value::Array(list)) => list.iter().map(plain).collect(),
        (List, other) => Err(format!("{key}: want a list, got {other}")),
        (Map, Value::Object(map)) => Ok(map.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        (Map, other) => Err(format!("{key}: want an object, got {other}")),
    }
}

fn check(option: &Opt, value: &str) -> Result<(), OptionError> {
    let name = if option.flag.is_empty() { option.key.to_owned() } else { format!("--{}", option.flag) };
    if option.shape == Bool && !matches!(value, "true" | "false" | "1" | "0") {
        return Err(OptionError::Invalid { name, value: value.to_owned(), why: "want true or false" });
    }
    match option.rule {
        Used | Meaningless(_) => Ok(()),
        Only(allowed) => {
            let canonical = match (option.shape, value) {
                (Bool, "1") => "true",
                (Bool, "0") => "false",
                (_, other) => other,
            };
            if allowed.contains(&canonical) {
                Ok(())
            } else {
                Err(OptionError::NotYet { name, value: value.to_owned() })
            }
        }
    }
}

/// Joins flags and file; an option in both is an error, as dockerd's.
pub(crate) fn join(flags: Values, file: Values) -> Result<Values, OptionError> {
    let twice: Vec<&str> = flags.keys().filter(|name| file.contains_key(*name)).copied().collect();
    if !twice.is_empty() {
        return Err(OptionError::Twice(twice.join(", ")));
    }
    let mut values = flags;
    values.extend(file);
    Ok(values)
}

/// The help text.
pub(crate) fn help(program: &str) -> String {
    let mut text = format!(
        "\nUsage:  {program} [OPTIONS]\n\nThe engine: runs containers and serves the Engine API.\n\nOptions:\n"
    );
    for option in OPTIONS.iter().filter(|option| !option.flag.is_empty()) {
        let short = option.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
        let kind = match option.shape {
            Bool => "",
            One => " string",
            List => " list",
            Map => " map",
        };
        let left = format!("  {short}--{}{kind}", option.flag);
        let note = match option.rule {
            Used => String::new(),
            Meaningless(why) => format!(" (no effect: {why})"),
            Only([]) => " (not yet supported)".to_owned(),
            Only(values) => format!(" (only {})", values.join(", ")),
        };
        text.push_str(&format!("{left:<44} {}{note}\n", option.help));
    }
    text.push_str("      --help                                 Print usage\n");
    text.push_str("  -v, --version                              Print version information and quit\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Result<Asked, OptionError> {
        parse_flags(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        let Asked::Run(values) =
            flags("-D --host unix:///a -Hunix:///b --data-root=/d --iptables=false --debug=false").unwrap()
        else {
            panic!()
        };
        assert_eq!(values["host"], ["unix:///a", "unix:///b"]);
        assert_eq!(values["data-root"], ["/d"]);
        assert_eq!(values["debug"], ["true", "false"]);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let error = |text| flags(text).unwrap_err().to_string();
        assert_eq!(error("--userns-remap=default"), "not yet supported: --userns-remap=default");
        assert_eq!(error("--storage-driver btrfs"), "not yet supported: --storage-driver=btrfs");
        assert!(error("--nonsense").starts_with("unknown flag: --nonsense"));
        assert!(error("--data-root").starts_with("flag needs an argument"));
        assert!(flags("--storage-driver overlay2 --containerd /x --live-restore").is_ok());
    }

    #[test]
    fn the_file_knows_the_same_options_and_contradictions_are_refused() {
        let file = parse_file("d.json", r#"{"debug":true,"hosts":["unix:///a"],"data-root":"/d"}"#).unwrap();
        assert_eq!(file["host"], ["unix:///a"]);
        let Asked::Run(given) = flags("--data-root /e").unwrap() else { panic!() };
        assert!(join(given, file).unwrap_err().to_string().ends_with("data-root"));
        let unknown = parse_file("d.json", r#"{"debgu":true}"#).unwrap_err().to_string();
        assert!(unknown.contains("debgu"), "{unknown}");
        assert!(parse_file("d.json", r#"{"debug":"yes"}"#).is_err());
        assert!(parse_file("d.json", "{").is_err());
    }

    #[test]
    fn no_option_is_there_twice() {
        let mut names: Vec<_> = OPTIONS.iter().map(|option| (option.flag, option.key)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
    }
}
