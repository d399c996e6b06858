//! Role `oci`: the runtime under an OCI runtime command line, as containerd, Podman and conformance suites
//! call it.
//!
//! Invariants: one folder a container below `--root`, made by `create` and removed by `delete`, holds
//! everything that is known about it; every change of it happens under its lock and replaces the file whole; a
//! process is recognised by its number and its start time, so that a number used again means nothing. A flag
//! that is not known, or would not be honoured, is an error.

mod arguments;
mod commands;
mod container;
mod features;
mod own;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use havre_base::{Clock, chain};

use arguments::Arguments;

use crate::error::RuntimeError;

/// Runs the role; `arguments` are those behind its name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut global = Global::default();
    match run(arguments, &mut global) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = chain(&error);
            global.log("error", &text);
            // Nobody is left to tell if this fails.
            let _unheard = writeln!(std::io::stderr(), "havre oci: {text}");
            ExitCode::from(match &error {
                RuntimeError::CommandNotFound(_) | RuntimeError::NotExecutable(_) => error.exit_code(),
                _ => 1,
            })
        }
    }
}

fn run(arguments: impl IntoIterator<Item = OsString>, global: &mut Global) -> Result<u8, RuntimeError> {
    let mut arguments = Arguments::new(arguments)?;
    global.parse(&mut arguments)?;
    let command = arguments.next().unwrap_or_else(|| "help".into());
    if ["create", "run", "exec"].contains(&command.as_str()) {
        own::protect()?;
    }
    match command.as_str() {
        "create" => commands::create(global, arguments).map(|()| 0),
        "start" => commands::start(global, arguments).map(|()| 0),
        "run" => commands::run(global, arguments),
        "state" => commands::state(global, arguments).map(|()| 0),
        "kill" => commands::kill(global, arguments).map(|()| 0),
        "delete" => commands::delete(global, arguments).map(|()| 0),
        "exec" => commands::exec(global, arguments),
        "list" => commands::list(global, arguments).map(|()| 0),
        "ps" => commands::ps(global, arguments).map(|()| 0),
        "pause" => commands::pause(global, arguments, true).map(|()| 0),
        "resume" => commands::pause(global, arguments, false).map(|()| 0),
        "features" => print(&features::document()?).map(|()| 0),
        "spec" => commands::spec(arguments).map(|()| 0),
        "--version" | "-v" | "version" => {
            let text = format!(
                "havre version {}\nspec: {}\n",
                env!("CARGO_PKG_VERSION"),
                havre_oci::runtime::VERSION
            );
            print(&text).map(|()| 0)
        }
        "help" | "--help" | "-h" => print(HELP).map(|()| 0),
        other => Err(RuntimeError::unsupported(format!("command {other}"), "see havre oci --help")),
    }
}

const HELP: &str = "\
havre oci [global flags] COMMAND

Commands:
  create [--bundle DIR] [--pid-file FILE] [--console-socket SOCKET] [--preserve-fds N] ID
  start ID
  run [--detach] [flags of create] ID
  exec [--process FILE | --cwd DIR --env NAME=VALUE --user UID[:GID] --tty ...] ID PROGRAM...
  state ID
  kill [--all] ID [SIGNAL]
  delete [--force] ID
  list [--quiet] [--format json|table]
  ps [--format json|table] ID
  pause ID
  resume ID
  features
  spec [--bundle DIR]

Global flags: --root DIR, --log FILE, --log-format text|json, --debug
";

/// Global flags.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: String,
    log: Option<String>,
    json: bool,
}

impl Default for Global {
    fn default() -> Self {
        Self { root: "/run/havre/oci".into(), log: None, json: false }
    }
}

impl Global {
    fn parse(&mut self, arguments: &mut Arguments) -> Result<(), RuntimeError> {
        while let Some(flag) = arguments.flag()? {
            match flag.name.as_str() {
                "root" => self.root = arguments.value(flag)?,
                "log" => self.log = Some(arguments.value(flag)?),
                "log-format" => {
                    self.json = match arguments.value(flag)?.as_str() {
                        "json" => true,
                        "text" => false,
                        other => return Err(RuntimeError::invalid("--log-format", format!("{other:?}"))),
                    }
                }
                // There is nothing more to say than what is said.
                "debug" => arguments.no_value(flag)?,
                "rootless" => match arguments.value(flag)?.as_str() {
                    "false" | "auto" => {}
                    _ => return Err(RuntimeError::unsupported("--rootless", "the runtime runs as root")),
                },
                "systemd-cgroup" => {
                    return Err(RuntimeError::unsupported("--systemd-cgroup", "groups are made directly"));
                }
                "version" | "v" => arguments.push_front("version"),
                "help" | "h" => arguments.push_front("help"),
                other => return Err(RuntimeError::unsupported(format!("--{other}"), "unknown global flag")),
            }
            if arguments.is_pushed() {
                break;
            }
        }
        Ok(())
    }

    /// Writes to the log file, where callers look for the reason of a failure.
    fn log(&self, level: &str, text: &str) {
        let Some(path) = &self.log else { return };
        let now = havre_base::SystemClock.now();
        let line = if self.json {
            serde_json::json!({ "level": level, "msg": text, "time": now.to_string() }).to_string()
        } else {
            format!("time=\"{now}\" level={level} msg={text:?}")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        // The text goes to standard error as well.
        let _unlogged = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<(), RuntimeError> {
    use crate::error::Step;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).step("write to standard output")
}
