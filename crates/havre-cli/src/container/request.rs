//! The request that the flags describe.

use std::collections::BTreeMap;

use havre_api::Empty;
use havre_api::container::{Config, CreateRequest, HealthConfig};
use havre_api::host::{DeviceMapping, HostConfig, LogConfig, Mount, RestartPolicy};

use super::mounts::{self, Volume};
use super::rates::rate;
use super::{devices, networks, ports, security};
use crate::files;
use crate::spec::Args;

/// A container to create.
pub(crate) struct Creation {
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) request: CreateRequest,
}

/// Builds the request; `detached` says that nobody will attach, `size` is that of our terminal.
pub(crate) fn creation(args: &Args, detached: bool, size: Option<(u16, u16)>) -> Result<Creation, String> {
    // Without the flag nothing is verified either; only its denial asks for something.
    if args.given("disable-content-trust") && !args.on("disable-content-trust") {
        return Err("not yet supported: --disable-content-trust=false".into());
    }
    let (network_mode, networking) = networks::networking(args)?;
    let host = HostConfig { network_mode, ..host_config(args, size)? };
    let config = config(args, detached, host.port_bindings.iter().flat_map(|map| map.keys()))?;
    Ok(Creation {
        name: args.text("name").into(),
        platform: args.text("platform").into(),
        request: CreateRequest { config, host_config: Some(host), networking_config: Some(networking) },
    })
}

fn config<'a>(
    args: &Args,
    detached: bool,
    published: impl Iterator<Item = &'a String>,
) -> Result<Config, String> {
    let (mut stdin, mut stdout, mut stderr) = (false, false, false);
    for stream in args.list("attach") {
        match stream.to_lowercase().as_str() {
            "stdin" => stdin = true,
            "stdout" => stdout = true,
            "stderr" => stderr = true,
            _ => {
                return Err(format!(
                    "invalid argument \"{stream}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                ));
            }
        }
    }
    let interactive = args.on("interactive");
    if !args.given("attach") && !detached {
        (stdin, stdout, stderr) = (interactive, true, true);
    }
    let mut exposed: BTreeMap<String, Empty> = published.map(|port| (port.clone(), Empty {})).collect();
    for text in args.list("expose") {
        exposed.extend(ports::expose(text)?.into_iter().map(|port| (port, Empty {})));
    }
    let mut volumes = BTreeMap::new();
    for text in args.list("volume") {
        if let Volume::Anonymous(path) = mounts::volume(text)? {
            volumes.insert(path, Empty {});
        }
    }
    let mut env = Vec::new();
    for path in args.list("env-file") {
        env.extend(files::variables(path, true).map_err(|failure| failure.message)?);
    }
    env.extend(environment(args.list("env"))?);
    let mut labels = BTreeMap::new();
    for path in args.list("label-file") {
        pairs(&mut labels, &files::variables(path, false).map_err(|failure| failure.message)?);
    }
    pairs(&mut labels, args.list("label"));
    let (image, command) =
        args.rest.split_first().map_or((String::new(), Vec::new()), |(i, c)| (i.clone(), c.to_vec()));
    Ok(Config {
        hostname: args.text("hostname").into(),
        domainname: args.text("domainname").into(),
        user: args.text("user").into(),
        attach_stdin: stdin,
        attach_stdout: stdout,
        attach_stderr: stderr,
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        tty: args.on("tty"),
        open_stdin: interactive,
        stdin_once: interactive && stdin,
        env: Some(env),
        cmd: (!command.is_empty()).then_some(command),
        healthcheck: health(args)?,
        image,
        volumes: Some(volumes),
        working_dir: args.text("workdir").into(),
        entrypoint: args.given("entrypoint").then(|| vec![args.text("entrypoint").to_owned()]),
        mac_address: args.text("mac-address").into(),
        labels: Some(labels),
        stop_signal: args.text("stop-signal").into(),
        stop_timeout: args.number("stop-timeout"),
        ..Config::default()
    })
}

/// `NAME=value`, or a bare name whose value is ours; one we do not have is removed from the image's.
pub(crate) fn environment(list: &[String]) -> Result<Vec<String>, String> {
    list.iter()
        .map(|text| match text.split_once('=') {
            Some(("", _)) => Err(format!(
                "invalid argument \"{text}\" for \"-e, --env\" flag: invalid environment variable: {text}"
            )),
            Some(_) => Ok(text.clone()),
            None if text.is_empty() => {
                Err("invalid argument \"\" for \"-e, --env\" flag: invalid environment variable: ".into())
            }
            None => Ok(std::env::var(text).map_or_else(|_| text.clone(), |value| format!("{text}={value}"))),
        })
        .collect()
}

fn pairs(map: &mut BTreeMap<String, String>, list: &[String]) {
    for text in list {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        map.insert(name.into(), value.into());
    }
}

fn some_pairs(list: &[String]) -> Option<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    pairs(&mut map, list);
    (!map.is_empty()).then_some(map)
}

fn health(args: &Args) -> Result<Option<HealthConfig>, String> {
    let details = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
        "health-retries",
    ];
    let given = details.iter().any(|flag| args.given(flag));
    if args.on("no-healthcheck") {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }));
    }
    if !given {
        return Ok(None);
    }
    for flag in &details[1..] {
        if args.text(flag).starts_with('-') {
            return Err(format!("--{flag} cannot be negative"));
        }
    }
    let command = args.text("health-cmd");
    Ok(Some(HealthConfig {
        test: (!command.is_empty()).then(|| vec!["CMD-SHELL".into(), command.into()]),
        interval: args.nanos("health-interval"),
        timeout: args.nanos("health-timeout"),
        start_period: args.nanos("health-start-period"),
        start_interval: args.nanos("health-start-interval"),
        retries: args.number("health-retries").unwrap_or(0),
    }))
}

pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let maximum_retry_count = match count {
        None => 0,
        Some(count) => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    if name.is_empty() && count.is_some() {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    Ok(RestartPolicy { name: if name.is_empty() { "no".into() } else { name.into() }, maximum_retry_count })
}

/// Reads every value of a flag, or says which was wrong.
fn each<T>(
    args: &Args,
    flag: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let list = args.list(flag);
    let wrong = |text: &str, reason: String| match reason.starts_with("invalid argument ") {
        true => reason,
        false => format!("invalid argument \"{text}\" for \"--{flag}\" flag: {reason}"),
    };
    let values: Result<Vec<T>, String> =
        list.iter().map(|text| read(text).map_err(|reason| wrong(text, reason))).collect();
    values.map(|values| (!values.is_empty()).then_some(values))
}

fn host_config(args: &Args, size: Option<(u16, u16)>) -> Result<HostConfig, String> {
    let restart_policy = restart(args.text("restart"))?;
    let auto_remove = args.on("rm");
    if auto_remove && restart_policy.name != "no" {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    let mut binds = Vec::new();
    for text in args.list("volume") {
        if let Volume::Bind(bind) = mounts::volume(text)?
            && !binds.contains(&bind)
        {
            binds.push(bind);
        }
    }
    let mount_list: Option<Vec<Mount>> = each(args, "mount", mounts::mount)?;
    let tmpfs: BTreeMap<String, String> = args.list("tmpfs").iter().map(|text| mounts::tmpfs(text)).collect();
    let mut port_bindings = BTreeMap::new();
    for text in args.list("publish") {
        ports::publish(text, &mut port_bindings)?;
    }
    let (security_opt, open_paths) = security::options(args.list("security-opt"))?;
    each(args, "device-cgroup-rule", security::device_rule)?;
    each(args, "sysctl", security::sysctl)?;
    each(args, "dns", |text| match text.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    })?;
    each(args, "dns-search", |text| match is_domain(text.trim()) {
        true => Ok(()),
        false => Err(format!("{text} is not a valid domain")),
    })?;
    each(args, "link", networks::link)?;
    check_modes(args)?;
    let (cap_add, cap_drop) = security::capabilities(args.list("cap-add"), args.list("cap-drop"));
    let (described, nodes): (Vec<&String>, Vec<&String>) =
        args.list("device").iter().partition(|text| devices::is_described(text));
    let nodes: Vec<DeviceMapping> =
        nodes.into_iter().map(|text| security::device(text)).collect::<Result<_, _>>()?;
    if args.list("storage-opt").iter().any(|option| !option.contains('=')) {
        return Err("invalid storage option".into());
    }
    let log_config = LogConfig {
        kind: args.text("log-driver").into(),
        config: Some(some_pairs(args.list("log-opt")).unwrap_or_default()),
    };
    if log_config.kind == "none" && args.given("log-opt") {
        return Err("invalid logging opts for driver none".into());
    }
    let number = |flag: &str| args.number(flag).unwrap_or(0);
    let throttles = |flag: &str, bytes: bool| {
        each(args, flag, |text| security::throttle(text, bytes)).map(|list| Some(list.unwrap_or_default()))
    };
    let size = size.filter(|_| args.on("tty")).unwrap_or((0, 0));
    let dns_options: Vec<String> = [args.list("dns-option"), args.list("dns-opt")].concat();
    Ok(HostConfig {
        binds: (!binds.is_empty()).then_some(binds),
        container_id_file: args.text("cidfile").into(),
        log_config,
        port_bindings: Some(port_bindings),
        restart_policy,
        auto_remove,
        volume_driver: args.text("volume-driver").into(),
        volumes_from: args.some_list("volumes-from"),
        console_size: [size.0.into(), size.1.into()],
        annotations: some_pairs(args.list("annotation")),
        cap_add,
        cap_drop,
        cgroupns_mode: args.text("cgroupns").into(),
        dns: Some(args.list("dns").to_vec()),
        dns_options: Some(dns_options),
        dns_search: Some(args.list("dns-search").to_vec()),
        extra_hosts: each(args, "add-host", extra_host)?,
        group_add: args.some_list("group-add"),
        ipc_mode: args.text("ipc").into(),
        links: args.some_list("link"),
        oom_score_adj: number("oom-score-adj"),
        pid_mode: args.text("pid").into(),
        privileged: args.on("privileged"),
        publish_all_ports: args.on("publish-all"),
        readonly_rootfs: args.on("read-only"),
        security_opt: (!security_opt.is_empty()).then_some(security_opt),
        storage_opt: some_pairs(args.list("storage-opt")),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        uts_mode: args.text("uts").into(),
        userns_mode: args.text("userns").into(),
        shm_size: args.bytes("shm-size"),
        sysctls: some_pairs(args.list("sysctl")),
        runtime: args.text("runtime").into(),
        isolation: args.text("isolation").into(),
        cpu_shares: number("cpu-shares"),
        memory: args.bytes("memory"),
        nano_cpus: nano_cpus(args.text("cpus"))?,
        cgroup_parent: args.text("cgroup-parent").into(),
        blkio_weight: u16::try_from(number("blkio-weight")).map_err(|_| {
            format!(
                "invalid argument \"{0}\" for \"--blkio-weight\" flag: strconv.ParseUint: parsing \"{0}\": value out of range",
                args.text("blkio-weight")
            )
        })?,
        // Lists and zeros as Docker's client sends them: an inspection shows what was sent.
        blkio_weight_device: Some(each(args, "blkio-weight-device", security::weight)?.unwrap_or_default()),
        blkio_device_read_bps: throttles("device-read-bps", true)?,
        blkio_device_write_bps: throttles("device-write-bps", true)?,
        blkio_device_read_iops: throttles("device-read-iops", false)?,
        blkio_device_write_iops: throttles("device-write-iops", false)?,
        cpu_period: number("cpu-period"),
        cpu_quota: number("cpu-quota"),
        cpu_realtime_period: number("cpu-rt-period"),
        cpu_realtime_runtime: number("cpu-rt-runtime"),
        cpuset_cpus: args.text("cpuset-cpus").into(),
        cpuset_mems: args.text("cpuset-mems").into(),
        devices: Some(nodes),
        device_requests: devices::requests(args, &described)?,
        device_cgroup_rules: args.some_list("device-cgroup-rule"),
        kernel_memory: args.bytes("kernel-memory"),
        memory_reservation: args.bytes("memory-reservation"),
        memory_swap: args.bytes("memory-swap"),
        memory_swappiness: Some(args.number("memory-swappiness").unwrap_or(-1)),
        oom_kill_disable: Some(args.on("oom-kill-disable")),
        pids_limit: Some(number("pids-limit")),
        network_rate_in: rate("network-rate-in", args.text("network-rate-in"))?,
        network_rate_out: rate("network-rate-out", args.text("network-rate-out"))?,
        ulimits: Some(each(args, "ulimit", security::ulimit)?.unwrap_or_default()),
        cpu_count: number("cpu-count"),
        cpu_percent: number("cpu-percent"),
        io_maximum_iops: u64::try_from(number("io-maxiops")).unwrap_or(0),
        io_maximum_bandwidth: u64::try_from(args.bytes("io-maxbandwidth")).unwrap_or(0),
        mounts: mount_list,
        masked_paths: open_paths.then(Vec::new),
        readonly_paths: open_paths.then(Vec::new),
        init: args.given("init").then(|| args.on("init")),
        ..HostConfig::default()
    })
}

/// Words of letters, digits and dashes with dots between, or a single dot for none.
fn is_domain(text: &str) -> bool {
    let word = |word: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !word.is_empty() && word.bytes().all(inner) && !word.starts_with('-') && !word.ends_with('-')
    };
    text == "." || text.strip_suffix('.').unwrap_or(text).split('.').all(word)
}

/// What Docker's client checks itself.
fn check_modes(args: &Args) -> Result<(), String> {
    let donor = |text: &str| text.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let one_of = |flag: &str, words: &[&str]| args.text(flag).is_empty() || words.contains(&args.text(flag));
    for (flag, words, name) in [
        ("pid", &["host"][..], "PID"),
        ("uts", &["host"], "UTS"),
        ("userns", &["host"], "USER"),
        ("cgroupns", &["host", "private"], "CGROUP"),
    ] {
        let joins = flag == "pid" && donor(args.text(flag));
        if !one_of(flag, words) && !joins {
            return Err(format!("--{flag}: invalid {name} mode"));
        }
    }
    match args.number("memory-swappiness") {
        Some(value) if !(-1..=100).contains(&value) => {
            Err(format!("invalid value: {value}. Valid memory swappiness range is 0-100"))
        }
        _ => Ok(()),
    }
}

/// `1.5` CPUs in billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 {
        return Err(format!("invalid argument \"{text}\" for \"--cpus\" flag: value is too precise"));
    }
    let wrong = || {
        format!(
            "invalid argument \"{text}\" for \"--cpus\" flag: failed to parse {text} as a rational number"
        )
    };
    // Negative is the daemon's to refuse.
    let (sign, whole) = whole.strip_prefix('-').map_or((1, whole), |whole| (-1, whole));
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let nanos = whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(fraction));
    nanos.map(|nanos| nanos * sign).ok_or_else(wrong)
}

/// `host:ip`, `host=ip` or `host:host-gateway`.
fn extra_host(text: &str) -> Result<String, String> {
    let wrong = || {
        format!("invalid argument \"{text}\" for \"--add-host\" flag: bad format for add-host: \"{text}\"")
    };
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(wrong)?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() {
        return Err(wrong());
    }
    if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!(
            "invalid argument \"{text}\" for \"--add-host\" flag: invalid IP address in add-host: \"{address}\""
        ));
    }
    Ok(format!("{name}:{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands;

    fn request(line: &[&str]) -> Result<Creation, String> {
        let words = line.iter().map(|word| (*word).to_owned()).collect();
        let args =
            crate::spec::parse(&commands::RUN, "havre", "run", words).map_err(|failure| failure.message)?;
        creation(&args.unwrap(), false, Some((24, 80)))
    }

    #[test]
    fn flags_end_at_the_image() {
        let got =
            request(&["-it", "--rm", "-m", "64m", "--memory-swap", "-1", "busybox", "ls", "-l", "--", "-x"])
                .unwrap();
        let host = got.request.host_config.unwrap();
        let config = got.request.config;
        assert_eq!(config.cmd.unwrap(), ["ls", "-l", "--", "-x"]);
        assert!(
            config.tty && config.open_stdin && config.stdin_once && config.attach_stdin && host.auto_remove
        );
        assert_eq!((host.memory, host.memory_swap, host.console_size), (67_108_864, -1, [24, 80]));
    }

    #[test]
    fn values_arrive_where_docker_puts_them() {
        let got = request(&[
            "--entrypoint",
            "",
            "-e",
            "A=1",
            "-v",
            "/a:/b",
            "-v",
            "/anon",
            "-p",
            "80:80",
            "--cpus",
            "0.5",
            "--init=false",
            "--restart",
            "on-failure:3",
            "--network",
            "host",
            "--no-healthcheck",
            "--label",
            "x",
            "--stop-timeout",
            "0",
            "--oom-kill-disable=false",
            "--pids-limit",
            "-1",
            "i",
        ])
        .unwrap();
        let (config, host) = (got.request.config, got.request.host_config.unwrap());
        assert_eq!(config.entrypoint.unwrap(), [""]);
        assert_eq!(config.env.unwrap(), ["A=1"]);
        assert!(config.volumes.unwrap().contains_key("/anon"));
        assert_eq!(host.binds.unwrap(), ["/a:/b"]);
        assert!(
            host.port_bindings.unwrap().contains_key("80/tcp")
                && config.exposed_ports.unwrap().contains_key("80/tcp")
        );
        assert_eq!((host.nano_cpus, host.init, host.pids_limit), (500_000_000, Some(false), Some(-1)));
        assert_eq!(
            (host.restart_policy.name.as_str(), host.restart_policy.maximum_retry_count),
            ("on-failure", 3)
        );
        assert_eq!(host.network_mode, "host");
        assert_eq!(config.healthcheck.unwrap().test.unwrap(), ["NONE"]);
        assert_eq!(config.labels.unwrap()["x"], "");
        assert_eq!((config.stop_timeout, host.oom_kill_disable), (Some(0), Some(false)));
        assert_eq!(config.cmd, None);
    }

    #[test]
    fn wrong_lines_say_what_docker_says() {
        for (line, message) in [
            (&["--foo", "i"][..], "unknown flag: --foo"),
            (&["-Z", "i"], "unknown shorthand flag: 'Z' in -Z"),
            (&["-itZ", "i"], "unknown shorthand flag: 'Z' in -Z"),
            (&["-m", "abc", "i"], "invalid argument \"abc\" for \"-m, --memory\" flag: invalid size: 'abc'"),
            (
                &["-c", "x", "i"],
                "invalid argument \"x\" for \"-c, --cpu-shares\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                &["-d=maybe", "i"],
                "invalid argument \"maybe\" for \"-d, --detach\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (&["--name"], "flag needs an argument: --name"),
            (&["-m"], "flag needs an argument: 'm' in -m"),
            (&[], "havre: 'havre run' requires at least 1 argument"),
            (
                &["--rm", "--restart", "always", "i"],
                "conflicting options: cannot specify both --restart and --rm",
            ),
            (&["-v", ":::", "i"], "invalid spec: :::: empty section between colons"),
            (&["-p", "abc", "i"], "invalid containerPort: abc"),
            (
                &["--gpus", "x", "i"],
                "invalid argument \"x\" for \"--gpus\" flag: invalid count (x): value must be either \"all\" or an integer: invalid syntax",
            ),
            (&["--userns", "x", "i"], "--userns: invalid USER mode"),
            (&["--pid", "container:", "i"], "--pid: invalid PID mode"),
            (&["--disable-content-trust=false", "i"], "not yet supported: --disable-content-trust=false"),
        ] {
            let got = request(line).err().unwrap_or_default();
            assert_eq!(got.lines().next().unwrap_or_default(), message, "{line:?}");
        }
    }
}
