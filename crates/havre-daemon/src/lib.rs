//! The daemon: configuration, opening the services in order, signals, shutdown.
//!
//! Invariants: one daemon a data root, held by a lock; it listens only when every container is
//! recovered; it leaves containers running when it ends, however it ends.

mod config;
mod options;
mod runtimes;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use havre_engine::spec::SeccompSpec;
use havre_engine::{Engine, EngineError, Settings};
use havre_image::{ImageError, Images};
use havre_server::{Info, Server};
use havre_store::StoreError;
use havre_store::db::Db;
use havre_sys::lock::Lock;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use config::{Config, Host};
use options::{Asked, OptionError};

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
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
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
    match run(args, as_dockerd, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = havre_base::chain(&error);
            say_to_starter(&text);
            complain(&format!("{program}: {text}"));
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
    let config = Config::load(values, as_dockerd)?;
    let seccomp = seccomp(&config.seccomp_profile)?;
    if config.validate {
        print("configuration OK");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    start_log(&config);
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
    let result = runtime.block_on(serve(&config, seccomp));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

fn start_log(config: &Config) {
    use tracing::level_filters::LevelFilter;
    let level = match config.log_level.as_str() {
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(std::io::stderr);
    if config.log_json { builder.json().init() } else { builder.init() }
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

async fn serve(config: &Config, seccomp: SeccompSpec) -> Result<(), DaemonError> {
    private_folder(&config.data_root, 0o710)?;
    private_folder(&config.exec_root, 0o711)?;
    private_folder(&config.exec_root.join("containers"), 0o700)?;
    let lock_path = config.data_root.join("lock");
    let _lock = lock(lock_path, &config.data_root).await?;
    private_folder(&config.data_root.join("containers"), 0o700)?;
    let state = config.data_root.join("state.db");
    let db = Arc::new(Db::open(&state)?);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o600))
        .map_err(DaemonError::io("set the permissions of", &state))?;
    let images = Arc::new(Images::open(&config.data_root, Arc::clone(&db))?);
    let settings = Settings {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        cgroup_parent: config.parent_group(),
        default_init: config.init,
        no_new_privileges: config.no_new_privileges,
        seccomp,
        runtimes: config.runtimes.clone(),
        default_runtime: config.default_runtime.clone(),
    };
    let engine = Arc::new(Engine::open(settings, images, db).await?);
    let info = Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: String::new(),
        id: engine_id(&config.data_root)?,
        debug: config.debug,
        experimental: config.experimental,
        labels: config.labels.clone(),
        storage_driver: "overlay2".to_owned(),
    };
    let server = Server::new(Arc::clone(&engine), info);
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::io("watch for", "SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::io("watch for", "SIGINT"))?;
    let mut listeners = JoinSet::new();
    for host in &config.hosts {
        match host {
            Host::Unix(path) => {
                let listener = bind_unix(path, config.group.as_deref())?;
                listeners.spawn(server.clone().serve_unix(listener));
                tracing::info!(socket = %path.display(), "API listens");
            }
            Host::Tcp(address) => {
                let listener =
                    TcpListener::bind(address).await.map_err(DaemonError::io("listen on", address))?;
                tracing::warn!(
                    address,
                    "API listens on TCP without TLS: every process of this machine is root by it"
                );
                listeners.spawn(server.clone().serve_tcp(listener));
            }
        }
    }
    write_pid(&config.pidfile)?;
    say_to_starter("ready");
    tracing::info!("ready");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: leaving; containers keep running"),
        _ = interrupt.recv() => tracing::info!("SIGINT: leaving; containers keep running"),
    }
    listeners.shutdown().await;
    engine.shutdown().await;
    for host in &config.hosts {
        if let Host::Unix(path) = host {
            remove_quietly(path);
        }
    }
    remove_quietly(&config.pidfile);
    Ok(())
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

/// Listens on a unix socket for root and the group.
fn bind_unix(path: &Path, group: Option<&str>) -> Result<UnixListener, DaemonError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(DaemonError::io("create", folder))?;
    }
    // The lock on the data root says that no engine of ours listens here; another's answers.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(DaemonError::Config(format!("something already listens on {}", path.display())));
    }
    remove_quietly(path);
    // Nobody else may connect in the moment before the permissions are set.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(DaemonError::io("listen on", path))?;
    let gid = match group {
        None => group_id("havre").or_else(|| group_id("docker")),
        Some(text) => {
            let gid = text.parse().ok().or_else(|| group_id(text));
            Some(gid.ok_or_else(|| DaemonError::Config(format!("group {text} not found")))?)
        }
    };
    if let Some(gid) = gid {
        std::os::unix::fs::chown(path, Some(0), Some(gid))
            .map_err(DaemonError::io("give to a group", path))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(DaemonError::io("set the permissions of", path))?;
    Ok(listener)
}

/// A group's number from group(5); a static binary has no other resolver.
fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

fn write_pid(path: &Path) -> Result<(), DaemonError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(DaemonError::io("create", folder))?;
    }
    let text = format!("{}\n", std::process::id());
    havre_sys::durable::replace_with(path, text.as_bytes(), 0o644, havre_sys::durable::Durability::Process)
        .map_err(DaemonError::io("write", path))
}
