//! Commands, flags, tables, exit codes: Docker's command line.
//!
//! Invariants: everything asked of the daemon goes through `havre-client`; nothing is printed but by
//! this crate; whatever happens, the terminal is left as it was found. Start-up is part of every
//! command's time, so only what the command needs is built.
//! Not here: what the words mean to a container (`havre-engine`) and the wire (`havre-api`).

mod autostart;
mod commands;
mod config;
mod container;
mod contexts;
mod credentials;
mod failure;
mod files;
mod format;
mod global;
mod output;
mod progress;
mod session;
mod signals;
mod spec;
mod suggest;
mod terminal;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use havre_api::ApiVersion;
use havre_client::{Client, ClientError};
use tokio::runtime::Runtime;

pub(crate) use container::environment as container_environment;
use failure::Failure;
use global::Global;

/// The CLI's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every command needs: the name it was called by, the global options, the daemon.
pub(crate) struct App {
    /// `havre`, or `docker` when called so.
    pub(crate) program: String,
    pub(crate) global: Global,
    runtime: Runtime,
    client: OnceCell<Client>,
}

impl App {
    /// Runs a future on the only thread.
    pub(crate) fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The client, made on first use. The daemon is started when nobody listens at the default socket.
    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        self.connect(true).await
    }

    /// The client, without starting a daemon.
    pub(crate) async fn client_if_any(&self) -> Result<&Client, Failure> {
        self.connect(false).await
    }

    async fn connect(&self, may_start: bool) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let target = config::target(&self.program, &self.global)?;
        let (version, fixed) = match std::env::var("DOCKER_API_VERSION") {
            Ok(text) if !text.is_empty() => match ApiVersion::parse(&text) {
                Some(version) => (version, true),
                None => return Err(Failure::plain(format!("invalid API version format: {text}"))),
            },
            _ => (ApiVersion::CURRENT, false),
        };
        let file = config::file(&self.global)?;
        let custom = config::custom_headers()?;
        let headers = file.http_headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut client = Client::new(target.endpoint, version, fixed).called(&self.program).with_headers(
            headers.chain(custom.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
        )?;
        if let Some(tls) = &target.tls {
            client = client.with_tls(tls)?;
        }
        match client.prepare(1).await {
            Err(error)
                if may_start
                    && error.nobody_listens()
                    && target.by_default
                    && autostart::allowed(&self.program) =>
            {
                autostart::start(client.endpoint()).map_err(Failure::plain)?;
                client.prepare(1).await?;
            }
            // Other failures show again, with their message, when the first request is sent.
            Err(ClientError::Connect { .. }) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.client.get_or_init(|| client))
    }
}

/// Runs one command line (`args[0]` is the program's name).
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut words = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    let called = words.next().unwrap_or_default();
    let base = called.rsplit('/').next().unwrap_or_default();
    let program = if base == "docker" { "docker" } else { "havre" };
    let code = match run(program, words.collect()) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(&failure.message);
            }
            failure.code
        }
    };
    ExitCode::from(code)
}

fn run(program: &str, words: Vec<String>) -> Result<u8, Failure> {
    let (global, words) = match global::parse(program, words)? {
        global::Line::Command(global, words) => (global, words),
        global::Line::Done => return Ok(0),
    };
    let (command, called, words) = match commands::find(program, words)? {
        commands::Found::Command(command, called, words) => (command, called, words),
        commands::Found::Done => return Ok(0),
    };
    let Some(args) = spec::parse(command, program, &called, words)? else {
        output::print(&spec::command_help(command, program, &called))?;
        return Ok(0);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::plain(format!("cannot start: {error}")))?;
    let app = App { program: program.to_owned(), global, runtime, client: OnceCell::new() };
    let mut result = (command.run)(&app, &args);
    if let Some(hint) = suggest::near(&app) {
        // Behind what went wrong, wherever that was said.
        match &mut result {
            Err(failure) if !failure.message.is_empty() => failure.message.push_str(&format!("\n{hint}")),
            _ => output::complain(&hint),
        }
    }
    // A thread that still reads the terminal must not be waited for.
    app.runtime.shutdown_background();
    result
}

/// Nanoseconds since the epoch.
fn now_nanos() -> i64 {
    use havre_base::Clock as _;
    havre_base::SystemClock.now().as_nanos()
}

/// Seconds since the epoch.
fn now() -> i64 {
    now_nanos() / 1_000_000_000
}
