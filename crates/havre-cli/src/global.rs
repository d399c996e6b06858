//! The options before the command: which daemon to talk to.

use crate::commands;
use crate::config;
use crate::failure::Failure;
use crate::output;
use crate::spec::{self, Arity, Command, Flag, switch, text, words};

/// The global options.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) config: String,
    pub(crate) context: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: TlsFlags,
    pub(crate) debug: bool,
}

/// What the flags say about keys.
#[derive(Debug, Default)]
pub(crate) struct TlsFlags {
    /// `--tls` was given.
    on: bool,
    /// `--tlsverify`, if it was given.
    verify: Option<bool>,
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Global {
    /// Whether connections over TCP are encrypted. Who says anything about verifying wants encryption.
    pub(crate) fn encrypts(&self) -> bool {
        self.tls.on || self.tls.verify.is_some() || config::environment("DOCKER_TLS_VERIFY").is_some()
    }

    /// Whether the daemon must prove who it is.
    pub(crate) fn verifies(&self) -> bool {
        self.tls.verify.unwrap_or_else(|| config::environment("DOCKER_TLS_VERIFY").is_some())
    }
}

/// A command line after its global options.
pub(crate) enum Line {
    /// A command follows.
    Command(Global, Vec<String>),
    /// Everything was answered.
    Done,
}

const FLAGS: &[Flag] = &[
    text("config", "Location of client config files (default \"~/.docker\")"),
    text(
        "context",
        "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with \"context use\")",
    )
    .short('c'),
    switch("debug", "Enable debug mode").short('D'),
    words("host", "string", "Daemon socket to connect to").short('H'),
    text(
        "log-level",
        "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\") (default \"info\")",
    )
    .short('l'),
    switch("tls", "Use TLS; implied by --tlsverify"),
    text("tlscacert", "Trust certs signed only by this CA (default \"~/.docker/ca.pem\")"),
    text("tlscert", "Path to TLS certificate file (default \"~/.docker/cert.pem\")"),
    text("tlskey", "Path to TLS key file (default \"~/.docker/key.pem\")"),
    switch("tlsverify", "Use TLS and verify the remote"),
    switch("version", "Print version information and quit").short('v'),
];

/// The root as a command, so that its options parse like all others.
pub(crate) const ROOT: Command = Command {
    names: &[""],
    arguments: "COMMAND [ARG...]",
    about: "Run and manage containers",
    flags: &[FLAGS],
    arity: Arity::Any,
    trailing: true,
    examples: &[],
    run: |_, _| Ok(0),
};

/// Reads the global options.
pub(crate) fn parse(program: &str, words: Vec<String>) -> Result<Line, Failure> {
    // Nearly every command line starts with the command itself.
    if words.first().is_some_and(|word| !word.starts_with('-')) {
        return Ok(Line::Command(Global::default(), words));
    }
    let parsed = spec::parse(&ROOT, program, "", words).map_err(|failure| Failure {
        message: failure.message.replace(&format!("{program}  "), &format!("{program} ")),
        ..failure
    })?;
    let Some(args) = parsed else {
        output::print(&commands::root_help(program))?;
        return Ok(Line::Done);
    };
    if args.on("version") {
        let name = if program == "docker" { "Docker" } else { "Havre" };
        output::line(&format!(
            "{name} version {}, build {}",
            crate::VERSION,
            option_env!("HAVRE_COMMIT").unwrap_or("unknown")
        ))?;
        return Ok(Line::Done);
    }
    if args.rest.is_empty() {
        output::print(&commands::root_help(program))?;
        return Ok(Line::Done);
    }
    let level = args.text("log-level");
    if !matches!(level, "" | "debug" | "info" | "warn" | "warning" | "error" | "fatal" | "panic" | "trace") {
        return Err(Failure::new(1, format!("Unable to parse logging level: {level}")));
    }
    let global = Global {
        config: args.text("config").into(),
        context: args.text("context").into(),
        hosts: args.list("host").to_vec(),
        tls: TlsFlags {
            on: args.on("tls"),
            verify: args.given("tlsverify").then(|| args.on("tlsverify")),
            ca: args.text("tlscacert").into(),
            cert: args.text("tlscert").into(),
            key: args.text("tlskey").into(),
        },
        debug: args.on("debug"),
    };
    Ok(Line::Command(global, args.rest))
}

/// The global flags for the help text.
pub(crate) fn visible_flags() -> Vec<&'static Flag> {
    FLAGS.iter().filter(|flag| !flag.hidden).collect()
}
