//! From the wire to the domain: a create request becomes a specification that the engine can keep, or
//! a refusal that names the field.
//!
//! Invariant: every field of the request is used, known to mean nothing on Linux, or refused.

mod endpoints;
mod limits;
mod mounts;
mod networks;
mod security;
mod update;

use std::collections::BTreeMap;

use havre_api::container::{Config, CreateRequest};
use havre_api::host::HostConfig;
use havre_base::{Classify as _, ContainerName, ErrorKind, chain};
use havre_engine::spec::{ContainerSpec, IpcMode, LogSpec, NetworkMode, RestartPolicy, Sharing};
use havre_engine::{Containers, CreateRequest as Wanted, HOST_GATEWAY, OWN_RUNTIME};

use crate::error::Refusal;

pub(crate) use endpoints::endpoint;
pub use limits::is_ulimit;
pub(crate) use limits::parse_bytes;
pub(crate) use networks::{mac_text, network_spec};
pub(crate) use update::revision;

/// The most bytes all variables together may take: what the kernel would refuse anyway (execve(2)).
const MAX_ENV: usize = 1 << 20;
/// The most arguments.
const MAX_ARGS: usize = 32 * 1024;
/// `/dev/shm` unless asked otherwise.
const SHM: i64 = 64 << 20;

/// What the daemon decides for requests that leave it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Size of `/dev/shm`, in bytes.
    pub shm_size: i64,
    /// `private` or `shareable`.
    pub ipc_mode: String,
    /// `private` or `host`; empty decides by the version of control groups.
    pub cgroupns_mode: String,
    /// The log driver.
    pub log_driver: String,
    /// Options of that driver.
    pub log_options: BTreeMap<String, String>,
    /// Options of new networks, by their driver.
    pub network_options: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            shm_size: SHM,
            ipc_mode: "private".into(),
            cgroupns_mode: String::new(),
            log_driver: "json-file".into(),
            log_options: BTreeMap::new(),
            network_options: BTreeMap::new(),
        }
    }
}

impl Defaults {
    /// Fills in what a request leaves open, so that inspection shows it.
    fn apply(&self, host: &mut HostConfig) {
        if host.shm_size == 0 {
            host.shm_size = self.shm_size;
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode.clone_from(&self.ipc_mode);
        }
        if host.cgroupns_mode.is_empty() && !host.privileged {
            host.cgroupns_mode.clone_from(&self.cgroupns_mode);
        }
        let log = &mut host.log_config;
        if log.kind.is_empty() {
            log.kind.clone_from(&self.log_driver);
        }
        // Options belong to a driver: another one's would make no sense.
        if log.kind == self.log_driver {
            let options = log.config.get_or_insert_default();
            for (name, value) in &self.log_options {
                options.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Checks a log driver and its options as a request's are checked; the error is what a user reads.
pub fn check_log(driver: &str, options: &BTreeMap<String, String>) -> Result<(), String> {
    let mut host = HostConfig::default();
    driver.clone_into(&mut host.log_config.kind);
    host.log_config.config = Some(options.clone());
    log(&host).map(drop).map_err(|refusal| refusal.message)
}

/// Values of Go's `strconv.ParseBool`.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Parses `10m`, `1.5G`, `100` as bytes; the error is what a user reads.
pub fn parse_size(what: &str, text: &str) -> Result<u64, String> {
    parse_bytes(what, text).map_err(|refusal| refusal.message)
}

/// A converted request and what the user should be warned of.
pub(crate) struct Converted {
    pub(crate) wanted: Wanted,
    pub(crate) warnings: Vec<String>,
}

/// Converts a create request.
pub(crate) fn create(
    containers: &Containers,
    defaults: &Defaults,
    name: Option<&str>,
    request: CreateRequest,
) -> Result<Converted, Refusal> {
    let CreateRequest { config, host_config, networking_config } = request;
    let mut host = host_config.unwrap_or_default();
    defaults.apply(&mut host);
    let mut warnings = Vec::new();
    let name = match name {
        Some(text) if !text.is_empty() => {
            Some(ContainerName::parse(text).map_err(|error| Refusal::invalid(error.to_string()))?)
        }
        _ => None,
    };
    check_config(&config)?;
    refuse_what_waits(&config, &host)?;
    containers.check_storage_options(host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()))?;
    let networking = endpoints::networking(containers, &config, &host, networking_config, &mut warnings)?;
    let sharing = |mode: &str, what: &str| match mode {
        "" | "private" => Ok(Sharing::Private),
        "host" => Ok(Sharing::Host),
        other => match other.strip_prefix("container:") {
            Some(donor) => Ok(Sharing::Container(donor_of(containers, donor)?)),
            None => Err(Refusal::invalid(format!("invalid {what} mode: {other}"))),
        },
    };
    let ipc = match host.ipc_mode.as_str() {
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        other => match other.strip_prefix("container:") {
            Some(donor) => IpcMode::Container(donor_of(containers, donor)?),
            None => return Err(Refusal::invalid(format!("invalid IPC mode: {other}"))),
        },
    };
    let host_or_own = |mode: &str, what: &str| match mode {
        "" | "private" => Ok(false),
        "host" => Ok(true),
        other => Err(Refusal::invalid(format!("invalid {what} mode: {other}"))),
    };
    let stop_signal = match config.stop_signal.as_str() {
        "" => None,
        text => Some(havre_engine::signal::parse(text)?),
    };
    let shm = match host.shm_size {
        size if size < 0 => return Err(Refusal::invalid("SHM size can not be less than 0")),
        size => size,
    };
    host.shm_size = shm;
    host.runtime = containers.runtime(&host.runtime)?;
    let rates = limits::rates(&host)?;
    if !rates.is_none() && networking.mode != NetworkMode::Networks {
        return Err(Refusal::invalid(limits::NO_RATE));
    }
    let spec = ContainerSpec {
        image: config.image.clone(),
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        env: config.env.clone().unwrap_or_default(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        labels: config.labels.clone().unwrap_or_default(),
        stop_signal,
        stop_timeout: config.stop_timeout,
        auto_remove: host.auto_remove,
        restart: restart(&host)?,
        network: networking.mode,
        endpoints: networking.endpoints,
        home: networking.home,
        published: networking.published,
        exposed: networking.exposed,
        publish_all: host.publish_all_ports,
        pid: sharing(&host.pid_mode, "PID")?,
        ipc,
        uts_host: uts_host(&config, host_or_own(&host.uts_mode, "UTS")?)?,
        cgroupns_host: match host.cgroupns_mode.as_str() {
            "" => host.privileged && !havre_engine::Offers::here().unified,
            mode => host_or_own(mode, "cgroup namespace")?,
        },
        mounts: mounts::mounts(&config, &host)?,
        shm_size: u64::try_from(shm).unwrap_or_default(),
        read_only: host.readonly_rootfs,
        security: security::security(&host)?,
        resources: limits::resources(&host)?,
        rates,
        devices: security::devices(&host)?,
        sysctls: host.sysctls.clone().unwrap_or_default(),
        rlimits: limits::ulimits(&host)?,
        group_add: host.group_add.clone().unwrap_or_default(),
        extra_hosts: extra_hosts(&host)?,
        dns: host.dns.clone().unwrap_or_default(),
        dns_search: host.dns_search.clone().unwrap_or_default(),
        dns_options: host.dns_options.clone().unwrap_or_default(),
        init: host.init,
        oom_score_adj: oom_score(&host)?,
        runtime: (host.runtime != OWN_RUNTIME).then(|| host.runtime.clone()),
        log: log(&host)?,
        cgroup_parent: (!host.cgroup_parent.is_empty()).then(|| host.cgroup_parent.clone()),
        console: console(host.console_size),
        annotations: host.annotations.clone().unwrap_or_default(),
        device_requests: security::device_requests(&host),
    };
    containers.check_modes(&spec)?;
    let asked = asked(&config, host, &spec);
    Ok(Converted { wanted: Wanted { name, spec, asked }, warnings })
}

/// What inspection shows again, with the defaults that Docker fills in.
fn asked(config: &Config, mut host: HostConfig, spec: &ContainerSpec) -> serde_json::Value {
    let fill = |slot: &mut String, value: &str| {
        if slot.is_empty() {
            value.clone_into(slot);
        }
    };
    fill(&mut host.log_config.kind, "json-file");
    host.log_config.config.get_or_insert_default();
    fill(&mut host.restart_policy.name, "no");
    fill(&mut host.ipc_mode, "private");
    fill(&mut host.cgroupns_mode, if spec.cgroupns_host { "host" } else { "private" });
    fill(&mut host.network_mode, "default");
    if host.network_mode == "default" {
        host.network_mode = "bridge".into();
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    let (masked, readonly) = havre_engine::protected_paths(spec);
    host.masked_paths = Some(masked);
    host.readonly_paths = Some(readonly);
    serde_json::json!({ "Config": config, "HostConfig": host })
}

fn check_config(config: &Config) -> Result<(), Refusal> {
    if config.image.is_empty() {
        return Err(Refusal::invalid(
            "config cannot be empty in order to create a container: no Image given",
        ));
    }
    check_env("Env", config.env.as_deref().unwrap_or_default())?;
    for (field, words) in [("Cmd", &config.cmd), ("Entrypoint", &config.entrypoint)] {
        check_words(field, words.as_deref().unwrap_or_default())?;
    }
    check_working_dir(&config.working_dir)?;
    for (field, text) in
        [("Hostname", &config.hostname), ("Domainname", &config.domainname), ("User", &config.user)]
    {
        if text.contains('\0') || text.contains('\n') || text.len() > 253 {
            return Err(Refusal::invalid(format!("invalid {field}: {text:?}")));
        }
    }
    Ok(())
}

/// Refuses variables that a process could not have.
pub(crate) fn check_env(field: &str, env: &[String]) -> Result<(), Refusal> {
    let mut total = 0;
    for entry in env {
        total += entry.len() + 1;
        if entry.starts_with('=') || entry.is_empty() {
            return Err(Refusal::invalid(format!("invalid environment variable: {entry}")));
        }
        if entry.contains('\0') {
            return Err(Refusal::invalid(format!("invalid {field}: {entry:?} contains a zero byte")));
        }
    }
    if total > MAX_ENV {
        return Err(Refusal::invalid(format!("{field} takes {total} bytes, more than {MAX_ENV}")));
    }
    Ok(())
}

/// Refuses arguments that a process could not have.
pub(crate) fn check_words(field: &str, words: &[String]) -> Result<(), Refusal> {
    if words.len() > MAX_ARGS {
        return Err(Refusal::invalid(format!("{field} has {} words, more than {MAX_ARGS}", words.len())));
    }
    match words.iter().find(|word| word.contains('\0')) {
        Some(word) => Err(Refusal::invalid(format!("invalid {field}: {word:?} contains a zero byte"))),
        None => Ok(()),
    }
}

/// A working directory is absolute, or empty.
pub(crate) fn check_working_dir(text: &str) -> Result<(), Refusal> {
    if text.is_empty() || (text.starts_with('/') && !text.contains('\0')) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "the working directory '{text}' is invalid, it needs to be an absolute path"
    )))
}

fn refuse_what_waits(config: &Config, host: &HostConfig) -> Result<(), Refusal> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let health = config.healthcheck.as_ref().and_then(|health| health.test.as_ref());
    let waits: &[(bool, &str)] = &[
        (health.is_some_and(|test| !test.is_empty() && test != &["NONE"]), "health checks (--health-cmd)"),
        (config.volumes.as_ref().is_some_and(|volumes| !volumes.is_empty()), "anonymous volumes (-v /path)"),
        (some(&host.volumes_from), "--volumes-from"),
        (!matches!(host.volume_driver.as_str(), "" | "local"), "--volume-driver"),
        (!host.cgroup.is_empty(), "HostConfig.Cgroup"),
        (host.kernel_memory != 0, "HostConfig.KernelMemory (the kernel dropped it)"),
        (host.kernel_memory_tcp != 0, "HostConfig.KernelMemoryTCP"),
    ];
    if let Some((_, what)) = waits.iter().find(|(asked, _)| *asked) {
        return Err(Refusal::not_yet(what));
    }
    let windows = host.cpu_count != 0
        || host.cpu_percent != 0
        || host.io_maximum_bandwidth != 0
        || host.io_maximum_iops != 0;
    if windows {
        return Err(Refusal::invalid(
            "CpuCount, CpuPercent, IOMaximumBandwidth and IOMaximumIOps are options of Windows containers",
        ));
    }
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(Refusal::invalid(format!(
            "invalid isolation: {:?} - linux only supports 'default'",
            host.isolation
        )));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(Refusal::invalid(format!("invalid user namespace mode: {}", host.userns_mode)));
    }
    Ok(())
}

fn uts_host(config: &Config, shared: bool) -> Result<bool, Refusal> {
    if shared && !config.hostname.is_empty() {
        return Err(Refusal::invalid("conflicting options: hostname and the UTS mode"));
    }
    Ok(shared)
}

/// The container whose namespace is to be shared. Not found is a wrong parameter: clients take the status of
/// what is not there for the image's, and would fetch it.
fn donor_of(containers: &Containers, donor: &str) -> Result<havre_base::ContainerId, Refusal> {
    containers.resolve(donor).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Refusal::invalid(chain(&error)),
        _ => error.into(),
    })
}

fn restart(host: &HostConfig) -> Result<RestartPolicy, Refusal> {
    let policy = &host.restart_policy;
    let count = policy.maximum_retry_count;
    let only_failure = |policy| {
        if count == 0 {
            Ok(policy)
        } else {
            Err(Refusal::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ))
        }
    };
    match policy.name.as_str() {
        "" | "no" => only_failure(RestartPolicy::No),
        "always" => only_failure(RestartPolicy::Always),
        "unless-stopped" => only_failure(RestartPolicy::UnlessStopped),
        "on-failure" => u32::try_from(count)
            .map(|max| RestartPolicy::OnFailure { max })
            .map_err(|_| Refusal::invalid("invalid restart policy: maximum retry count cannot be negative")),
        other => Err(Refusal::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn extra_hosts(host: &HostConfig) -> Result<Vec<(String, String)>, Refusal> {
    host.extra_hosts
        .iter()
        .flatten()
        .map(|entry| {
            let bad = || Refusal::invalid(format!("bad format for add-host: {entry:?}"));
            let (name, address) = entry.split_once([':', '=']).ok_or_else(bad)?;
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            let known = address == HOST_GATEWAY || bare.parse::<std::net::IpAddr>().is_ok();
            if name.is_empty() || name.contains(char::is_whitespace) || !known {
                return Err(Refusal::invalid(format!("invalid IP address in add-host: {address:?}")));
            }
            Ok((name.to_owned(), bare.to_owned()))
        })
        .collect()
}

fn oom_score(host: &HostConfig) -> Result<i32, Refusal> {
    i32::try_from(host.oom_score_adj).ok().filter(|score| (-1000..=1000).contains(score)).ok_or_else(|| {
        Refusal::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ))
    })
}

fn log(host: &HostConfig) -> Result<LogSpec, Refusal> {
    let mut log =
        LogSpec { options: host.log_config.config.clone().unwrap_or_default(), ..LogSpec::default() };
    match host.log_config.kind.as_str() {
        "" | "json-file" => {}
        "none" => log.none = true,
        other => return Err(Refusal::not_yet(&format!("log driver {other}"))),
    }
    let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    for (name, value) in &log.options.clone() {
        match name.as_str() {
            "max-size" => {
                log.max_size = if value == "-1" { 0 } else { parse_bytes("max-size", value)? };
            }
            "max-file" => {
                log.max_file = value.parse().ok().filter(|count| *count > 0).ok_or_else(|| {
                    Refusal::invalid(format!("invalid value for max-file: {value:?} is no number above zero"))
                })?;
            }
            "compress" => {
                log.compress = value
                    .parse()
                    .map_err(|_| Refusal::invalid(format!("invalid value for compress: {value:?}")))?;
            }
            "tag" => {
                havre_engine::check_tag(value)?;
                log.attributes.tag = Some(value.clone());
            }
            "labels" => log.attributes.labels = names(value),
            "env" => log.attributes.env = names(value),
            "labels-regex" | "env-regex" => {
                return Err(Refusal::not_yet(&format!("log option {name} for the json-file driver")));
            }
            "mode" if value == "blocking" => {}
            "mode" | "max-buffer-size" => {
                return Err(Refusal::not_yet(&format!("log option {name}={value}")));
            }
            other => {
                return Err(Refusal::invalid(format!("unknown log opt '{other}' for json-file log driver")));
            }
        }
    }
    Ok(log)
}

/// Rows and columns; Docker's array is height, width.
pub(crate) fn console(size: [u32; 2]) -> (u16, u16) {
    let [rows, columns] = size.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
    (rows, columns)
}

/// `ctrl-p,ctrl-q` as bytes; absent means the default.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>, Refusal> {
    if text.is_empty() {
        return Ok(vec![16, 17]);
    }
    text.split(',')
        .map(|key| {
            let invalid = || Refusal::invalid(format!("Invalid detach keys ({text}) provided"));
            let lower = key.to_ascii_lowercase();
            match (lower.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
                (Some([letter @ b'a'..=b'z']), _) => Ok(letter - b'a' + 1),
                (Some([b'@']), _) => Ok(0),
                (Some([other @ (b'[' | b'\\' | b']' | b'^' | b'_')]), _) => Ok(other - b'[' + 27),
                (None, [byte]) => Ok(*byte),
                _ => Err(invalid()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_writes_them() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-a,x,ctrl-[").unwrap(), [1, b'x', 27]);
        assert!(detach_keys("ctrl-").is_err() && detach_keys("ab").is_err());
    }

    #[test]
    fn restart_policies_are_checked() {
        let with = |name: &str, count| {
            let mut host = HostConfig::default();
            host.restart_policy.name = name.into();
            host.restart_policy.maximum_retry_count = count;
            restart(&host)
        };
        assert_eq!(with("on-failure", 3).unwrap(), RestartPolicy::OnFailure { max: 3 });
        assert_eq!(with("", 0).unwrap(), RestartPolicy::No);
        assert!(
            with("always", 1).is_err() && with("sometimes", 0).is_err() && with("on-failure", -1).is_err()
        );
    }

    #[test]
    fn environment_that_no_process_can_have_is_refused() {
        let check = |entry: &str| check_env("Env", &[entry.to_owned()]);
        assert!(check("A=1").is_ok() && check("A").is_ok());
        assert!(check("=x").is_err() && check("A=\0").is_err() && check(&"A".repeat(2 << 20)).is_err());
    }
}
