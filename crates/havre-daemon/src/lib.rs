//! The daemon: configuration, opening the services in order, signals, shutdown.
//!
//! Invariants: one daemon a data root, held by a lock; it answers only when every container is
//! recovered; it leaves containers running when it ends, however it ends. A reload changes everything it
//! may or nothing.

mod config;
mod hosts;
mod listen;
mod log;
mod networks;
mod notify;
mod options;
mod registries;
mod reload;
mod runtimes;
mod tls;
mod values;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use havre_engine::spec::SeccompSpec;
use havre_engine::{Engine, EngineError, Live, Settings};
use havre_image::{ImageError, Images};
use havre_net::NetError;
use havre_net::fabric::FabricSpec;
use havre_net::networks::Networks;
use havre_net::spec::NetworkSpec;
use havre_registry::Registries;
use havre_server::{Info, Limits, Server};
use havre_store::StoreError;
use havre_store::db::Db;
use havre_sys::lock::Lock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use config::Config;
use listen::Listeners;
use options::{Asked, OptionError, Values};
use reload::Reloader;

/// Set by a command that started the daemon in the background: it reads one line from our standard output.
const AUTOSTARTED: &str = "HAVRE_AUTOSTARTED";

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Options(#[from] OptionError),
    #[error("{0}")]
    Config(String),
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another engine uses the data root {}; stop it or choose another --data-root", .0.display())]
    InUse(PathBuf),
    #[error("the engine needs root; run it with sudo")]
    NotRoot,
    #[error("ended by force")]
    Forced,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl DaemonError {
    fn io<E: Into<io::Error>>(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, source: error.into() }
    }
}

/// Runs the daemon; `args` do not hold the program's name.
pub fn main(args: &[String], as_dockerd: bool) -> ExitCode {
    let program = if as_dockerd { "dockerd" } else { "havre daemon" };
    // What our starter left open (sockets to listen on among it) is ours, and not for the shims, which
    // outlive us.
    if let Err(error) = havre_sys::process::close_on_exec_from(3) {
        complain(&format!(
            "{program}: cannot keep inherited descriptors from the containers' shims: {error}"
        ));
        return ExitCode::FAILURE;
    }
    match run(args, as_dockerd, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = havre_base::chain(&error);
            say_to_starter(&text);
            complain(&format!("{program}: {text}"));
            if matches!(error, DaemonError::Options(OptionError::UnknownFlag(..))) {
                return ExitCode::from(125);
            }
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "why a daemon cannot start belongs on its standard error")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "help and version are this role's output")]
fn print(text: &str) {
    println!("{text}");
}

/// The command that started us in the background waits for one line.
fn say_to_starter(line: &str) {
    use std::io::Write as _;
    if std::env::var_os(AUTOSTARTED).is_some() {
        // A starter that went away needs no answer.
        writeln!(std::io::stdout(), "{line}").unwrap_or(());
        // Nothing else goes there, and its end tells the starter that we are done talking.
        if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
            rustix::stdio::dup2_stdout(&null).unwrap_or(());
        }
    }
}

fn run(args: &[String], as_dockerd: bool, program: &str) -> Result<(), DaemonError> {
    let values = match options::parse_flags(args)? {
        Asked::Help => {
            print(options::help(program).trim_end());
            return Ok(());
        }
        Asked::Version => {
            print(&format!("Havre version {}", env!("CARGO_PKG_VERSION")));
            return Ok(());
        }
        Asked::Run(values) => values,
    };
    let config = Config::load(values.clone(), as_dockerd)?;
    let seccomp = seccomp(&config.seccomp_profile)?;
    if config.validate {
        // The keys too: a daemon that cannot read them does not start.
        config.tls.as_ref().map(tls::Tls::load).transpose()?;
        complain("configuration OK");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    log::start(&config.log_level, config.log_json);
    if std::env::var_os(AUTOSTARTED).is_some() {
        // Outlives the terminal of the command that started us.
        rustix::process::setsid().map(drop).unwrap_or(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(DaemonError::io("start", "the async runtime"))?;
    let result = runtime.block_on(serve(config, seccomp, (values, as_dockerd)));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

fn seccomp(profile: &str) -> Result<SeccompSpec, DaemonError> {
    match profile {
        "" | "builtin" => Ok(SeccompSpec::Default),
        "unconfined" => Ok(SeccompSpec::Unconfined),
        path => std::fs::read_to_string(path)
            .map(SeccompSpec::Profile)
            .map_err(DaemonError::io("read the seccomp profile", path)),
    }
}

/// Makes a folder that only its owner may enter, and repairs one that others may.
fn private_folder(path: &Path, mode: u32) -> Result<(), DaemonError> {
    std::fs::create_dir_all(path).map_err(DaemonError::io("create", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(DaemonError::io("set the permissions of", path))
}

/// `started` is the command line and the name: what a reload joins the changed file with.
async fn serve(config: Config, seccomp: SeccompSpec, started: (Values, bool)) -> Result<(), DaemonError> {
    private_folder(&config.data_root, 0o710)?;
    private_folder(&config.exec_root, 0o711)?;
    private_folder(&config.exec_root.join("containers"), 0o700)?;
    let lock_path = config.data_root.join("lock");
    let _lock = lock(lock_path, &config.data_root).await?;
    check_pid(&config.pidfile)?;
    private_folder(&config.data_root.join("containers"), 0o700)?;
    let state = config.data_root.join("state.db");
    let db = Arc::new(Db::open(&state)?);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o600))
        .map_err(DaemonError::io("set the permissions of", &state))?;
    // Sockets that cannot be opened are found before containers are touched.
    let listeners = Listeners::open(&config).await?;
    let mut files = Files(listeners.paths());
    let registries = Arc::new(Registries::new(config.registries.settings(&config.proxies)?));
    let images =
        Arc::new(Images::open_with(&config.data_root, Arc::clone(&db), registries, config.storage_driver)?);
    images.set_transfers(config.registries.downloads, config.registries.uploads);
    let settings = Settings {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        cgroup_parent: config.parent_group(),
        default_init: config.init,
        no_new_privileges: config.no_new_privileges,
        seccomp,
        rlimits: config.rlimits.clone(),
        time_namespaces: config.features.get("time-namespaces").copied().unwrap_or(true),
        cdi_folders: config.cdi_folders(),
        fabric: FabricSpec {
            table: config.firewall.then(|| config.own_name()),
            by_input: config.by_input,
            mark: config.exec_root.join("forwarding"),
        },
        host_gateways: config.networks.host_gateways.clone(),
        dns: config.networks.dns.clone(),
        live: Live::new(config.live.clone()),
    };
    let id = engine_id(&config.data_root)?;
    let networks = Networks::open(Arc::clone(&db), config.networks.pools(&id), &default_network(&config))?;
    let engine = Arc::new(Engine::open(settings, images, Arc::new(networks), db).await?);
    let server = Server::new(Arc::clone(&engine), info(&config, id), Limits::default());
    let mut signals = Signals::watch()?;
    let mut tasks = JoinSet::new();
    listeners.serve(&server, &mut tasks);
    tasks.spawn(havre_engine::hygiene::keep_below(Arc::clone(&engine)));
    tasks.spawn(havre_engine::networking::watch(Arc::clone(&engine)));
    write_pid(&config.pidfile)?;
    let _pidfile = Files(vec![config.pidfile.clone()]);
    say_to_starter("ready");
    notify::tell("READY=1");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Daemon has completed initialization");
    let exec_root = config.exec_root.clone();
    let mut reloader = Reloader::new(config, started);
    let number = signals.until_end(&mut reloader, &engine, &server, &exec_root).await;
    tracing::info!("Processing signal '{number}': containers keep running");
    notify::tell("STOPPING=1");
    // The sockets first: nobody shall find a daemon that no longer answers.
    files.remove();
    let graceful = async {
        tasks.shutdown().await;
        server.close();
        server.closed().await;
        engine.shutdown().await;
    };
    let patience = reloader.config.shutdown_timeout.map(std::time::Duration::from_secs);
    tokio::select! {
        () = graceful => {}
        () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {
            tracing::warn!("some requests did not end in time; leaving without them");
            engine.shutdown().await;
        }
        () = signals.two_more() => {
            tracing::warn!("Forcing daemon shutdown without cleanup; 3 interrupts received");
            return Err(DaemonError::Forced);
        }
    }
    Ok(())
}

/// The default network as the configuration has it, on a device of this engine's own.
fn default_network(config: &Config) -> NetworkSpec {
    let mut spec = config.networks.default.clone();
    spec.options.insert("com.docker.network.bridge.name".into(), config.default_bridge());
    spec
}

/// Files that are there as long as the daemon is, however it ends.
struct Files(Vec<PathBuf>);

impl Files {
    fn remove(&mut self) {
        self.0.drain(..).for_each(|path| remove_quietly(&path));
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What the server says of a configuration.
fn info(config: &Config, id: String) -> Info {
    Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: String::new(),
        id,
        debug: config.debug,
        experimental: config.experimental,
        labels: config.labels.clone(),
        oldest: config.oldest,
        warnings: config.warnings.clone(),
        proxies: config.proxies.clone().map(|url| values::without_password(&url)),
        // With a slash at the end, as Docker shows them.
        mirrors: config
            .registries
            .mirrors
            .iter()
            .map(|url| format!("{}/", url.trim_end_matches('/')))
            .collect(),
        insecure_registries: config.registries.insecure.clone(),
        defaults: config.defaults.clone(),
    }
}

/// The signals the daemon heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn watch() -> Result<Self, DaemonError> {
        let watch = |kind, name: &'static str| signal(kind).map_err(DaemonError::io("watch for", name));
        Ok(Self {
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
            hangup: watch(SignalKind::hangup(), "SIGHUP")?,
            user: watch(SignalKind::user_defined1(), "SIGUSR1")?,
        })
    }

    /// Reloads and reports until a signal says to end; gives its name.
    async fn until_end(
        &mut self,
        reloader: &mut Reloader,
        engine: &Engine,
        server: &Server,
        exec_root: &Path,
    ) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "terminated",
                _ = self.interrupt.recv() => return "interrupt",
                _ = self.hangup.recv() => reloader.reload(engine, server),
                _ = self.user.recv() => write_report(server, exec_root),
            }
        }
    }

    /// Completes when two more signals said to end.
    async fn two_more(&mut self) {
        for _ in 0..2 {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }
}

/// Writes down what the daemon is busy with, where dockerd does.
fn write_report(server: &Server, exec_root: &Path) {
    use havre_base::Clock as _;
    let time = havre_base::SystemClock.now().to_string().replace(':', "");
    let path = exec_root.join(format!("goroutine-stacks-{time}.log"));
    match std::fs::write(&path, server.report()) {
        Ok(()) => tracing::info!("goroutine stacks written to {}", path.display()),
        Err(error) => tracing::error!(%error, path = %path.display(), "cannot write the report"),
    }
}

/// Takes the lock of the data root. A child that a killed daemon was just starting holds it for a moment
/// longer, until it executes; an engine that lives holds it for good.
async fn lock(path: PathBuf, data_root: &Path) -> Result<Lock, DaemonError> {
    const MOMENT: std::time::Duration = std::time::Duration::from_secs(2);
    let taken = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || Lock::acquire(&path))
    };
    match tokio::time::timeout(MOMENT, taken).await {
        Ok(Ok(lock)) => lock.map_err(DaemonError::io("lock", path)),
        Ok(Err(_)) | Err(_) => Err(DaemonError::InUse(data_root.to_owned())),
    }
}

fn remove_quietly(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove");
    }
}

/// Identifies the engine for the life of its data root.
fn engine_id(data_root: &Path) -> Result<String, DaemonError> {
    let path = data_root.join("engine-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Ok(_) => new_id(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_id(&path),
        Err(error) => Err(DaemonError::io("read", path)(error)),
    }
}

fn new_id(path: &Path) -> Result<String, DaemonError> {
    let id = havre_base::ContainerId::random();
    let hex = id.as_str();
    // The form of a UUID, which is what clients expect.
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or("");
    let id = format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
    havre_sys::durable::replace(path, id.as_bytes()).map_err(DaemonError::io("write", path))?;
    Ok(id)
}

/// A second daemon with the same file is a mistake even if its roots are others.
fn check_pid(path: &Path) -> Result<(), DaemonError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    // A number that another program has by now, be it one of our shims, is no daemon.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let daemon = match words.as_slice() {
        [program, word, ..] => program.rsplit('/').next() == Some("dockerd") || word == "daemon",
        _ => false,
    };
    if daemon && pid != rustix::process::getpid() {
        return Err(DaemonError::Config(format!(
            "process with PID {} is still running; its pid file is {}",
            pid.as_raw_nonzero(),
            path.display()
        )));
    }
    Ok(())
}

fn write_pid(path: &Path) -> Result<(), DaemonError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(DaemonError::io("create", folder))?;
    }
    let text = format!("{}\n", std::process::id());
    havre_sys::durable::replace_with(path, text.as_bytes(), 0o644, havre_sys::durable::Durability::Process)
        .map_err(DaemonError::io("write", path))
}
