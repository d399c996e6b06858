//! `/_ping`, `/version`, `/info`.

use std::collections::BTreeMap;

use havre_api::ApiVersion;
use havre_api::system::{
    Commit, Component, DeviceInfo, IndexInfo, InfoResponse, PlatformName, PluginsInfo, RegistryConfig,
    Runtime, SwarmInfo, VersionResponse,
};
use havre_base::{Clock as _, SystemClock};
use havre_engine::{OWN_RUNTIME, Reloadable};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA};

use crate::Server;
use crate::body::{self, Answer};
use crate::error::Refusal;
use crate::router::Call;
use crate::shows;
use crate::versions::{self, Shape};

type Handled = Result<Answer, Refusal>;

pub(crate) fn ping(head: bool) -> Answer {
    let mut answer = body::text(StatusCode::OK, if head { "" } else { "OK" });
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // The classic builder is what clients shall use.
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    answer
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

pub(crate) fn version(server: &Server) -> Answer {
    let info = server.info();
    let details = BTreeMap::from([
        ("ApiVersion".to_owned(), ApiVersion::CURRENT.to_string()),
        ("MinAPIVersion".to_owned(), info.oldest.to_string()),
        ("Arch".to_owned(), architecture().to_owned()),
        ("BuildTime".to_owned(), String::new()),
        ("Experimental".to_owned(), info.experimental.to_string()),
        ("GitCommit".to_owned(), info.git_commit.clone()),
        ("GoVersion".to_owned(), String::new()),
        ("KernelVersion".to_owned(), kernel()),
        ("Os".to_owned(), "linux".to_owned()),
    ]);
    body::json(&VersionResponse {
        platform: Some(PlatformName { name: "Havre".into() }),
        components: Some(vec![Component {
            name: "Engine".into(),
            version: info.version.clone(),
            details: Some(details),
        }]),
        version: info.version.clone(),
        api_version: ApiVersion::CURRENT.to_string(),
        min_api_version: info.oldest.to_string(),
        git_commit: info.git_commit.clone(),
        os: "linux".into(),
        arch: architecture().into(),
        kernel_version: kernel(),
        experimental: info.experimental,
        ..VersionResponse::default()
    })
}

/// The value of a `KEY=value` line of os-release(5), without quotes.
fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: i64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

pub(crate) fn info(server: &Server, call: &Call) -> Handled {
    let (engine, info) = (&server.engine, server.info());
    let live = engine.settings.live.get();
    let views = engine.containers.list();
    let count = |words: &[&str]| {
        let found = views.iter().filter(|view| words.contains(&view.now.state.word())).count();
        i64::try_from(found).unwrap_or(i64::MAX)
    };
    let (running, paused) = (count(&["running", "restarting"]), count(&["paused"]));
    let total = i64::try_from(views.len()).unwrap_or(i64::MAX);
    let offers = havre_engine::Offers::here();
    let v2 = offers.unified;
    let names = |list: &[&str]| Some(list.iter().map(|name| (*name).to_owned()).collect());
    let apparmor = std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists();
    let images = engine.images.count();
    let folders = &engine.settings.cdi_folders;
    let devices = folders.as_deref().map(havre_engine::discovered_devices).unwrap_or_default();
    let [http, https, no_proxy] = &info.proxies;
    let (networks, hosts): (Vec<String>, Vec<String>) =
        info.insecure_registries.iter().cloned().partition(|entry| entry.contains('/'));
    let index = |name: &str, secure, official| {
        let mirrors = if official { info.mirrors.clone() } else { Vec::new() };
        (name.to_owned(), IndexInfo { name: name.to_owned(), mirrors, secure, official })
    };
    let registries = RegistryConfig {
        // Loopback is trusted by itself.
        insecure_registry_cidrs: ["::1/128", "127.0.0.0/8"]
            .map(str::to_owned)
            .into_iter()
            .chain(networks)
            .collect(),
        index_configs: std::iter::once(index("docker.io", true, true))
            .chain(hosts.iter().map(|host| index(host, false, false)))
            .collect(),
        mirrors: (!info.mirrors.is_empty()).then(|| info.mirrors.clone()),
    };
    let shown = InfoResponse {
        id: info.id.clone(),
        containers: total,
        containers_running: running,
        containers_paused: paused,
        containers_stopped: total - running - paused,
        images: i64::try_from(images).unwrap_or(i64::MAX),
        index_server_address: havre_image::HUB_KEY.to_owned(),
        registry_config: Some(registries),
        driver: engine.images.driver().name().to_owned(),
        driver_status: Some(
            engine.images.driver_status().into_iter().map(|(name, value)| [name, value]).collect(),
        ),
        plugins: PluginsInfo {
            network: names(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            log: names(&["json-file", "none"]),
            ..PluginsInfo::default()
        },
        memory_limit: offers.memory,
        swap_limit: offers.swap,
        cpu_cfs_period: offers.quota,
        cpu_cfs_quota: offers.quota,
        cpu_shares: offers.shares,
        cpu_set: offers.cpuset,
        pids_limit: offers.pids,
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
            .is_ok_and(|text| text.trim() == "1"),
        debug: info.debug,
        n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, |list| i64::try_from(list.count()).unwrap_or(0)),
        oom_kill_disable: offers.memory && !v2,
        system_time: SystemClock.now().to_string(),
        logging_driver: info.defaults.log_driver.clone(),
        n_goroutines: i64::try_from(tokio::runtime::Handle::current().metrics().num_alive_tasks())
            .unwrap_or(i64::MAX),
        http_proxy: http.clone(),
        https_proxy: https.clone(),
        no_proxy: no_proxy.clone(),
        warnings: (!info.warnings.is_empty()).then(|| info.warnings.clone()),
        cgroup_driver: "cgroupfs".into(),
        cgroup_version: if v2 { "2" } else { "1" }.into(),
        kernel_version: kernel(),
        operating_system: os_release("PRETTY_NAME"),
        os_version: os_release("VERSION_ID"),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        n_cpu: std::thread::available_parallelism()
            .map_or(1, |count| i64::try_from(count.get()).unwrap_or(i64::MAX)),
        mem_total: memory_total(),
        docker_root_dir: engine.settings.data_root.to_string_lossy().into_owned(),
        name: host_name(),
        labels: info.labels.clone(),
        experimental_build: info.experimental,
        server_version: info.version.clone(),
        runtimes: runtimes(&live),
        default_runtime: live.default_runtime.clone(),
        swarm: SwarmInfo { local_node_state: "inactive".into(), ..SwarmInfo::default() },
        live_restore_enabled: true,
        init_binary: "havre".into(),
        containerd_commit: Commit::default(),
        security_options: shows::security_options(&engine.settings.seccomp, apparmor),
        cdi_spec_dirs: Some(
            folders.iter().flatten().map(|folder| folder.to_string_lossy().into_owned()).collect(),
        ),
        discovered_devices: (!devices.is_empty())
            .then(|| devices.into_iter().map(|id| DeviceInfo { source: "cdi".into(), id }).collect()),
        ..InfoResponse::default()
    };
    Ok(versions::json(call.version, Shape::Info, &shown))
}

/// Our own runtime, which is no program beside this one, and those of others.
fn runtimes(live: &Reloadable) -> BTreeMap<String, Runtime> {
    let others = live.runtimes.iter().map(|(name, runtime)| {
        let args = (!runtime.args.is_empty()).then(|| runtime.args.clone());
        let path = runtime.path.to_string_lossy().into_owned();
        (name.clone(), Runtime { path, runtime_args: args, ..Runtime::default() })
    });
    others.chain([(OWN_RUNTIME.to_owned(), Runtime::default())]).collect()
}
