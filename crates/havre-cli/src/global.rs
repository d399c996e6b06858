//! The options before the command: which daemon to talk to.

use crate::commands;
use crate::failure::Failure;
use crate::output;
use crate::spec::{self, Arity, Command, Flag, switch, text, words};

/// The global options.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) config: String,
    pub(crate) context: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: bool,
    pub(crate) debug: bool,
}

/// A command line after its global options.
pub(crate) enum Line {
    /// A command follows.
    Command(Global, Vec<String>),
    /// Everything was answered.
    Done,
}

const FLAGS: &[Flag] = &[
    text("config", "Directory of the client's configuration files (default \"~/.docker\")"),
    text("context", "Context whose daemon to use, before DOCKER_HOST and the default context").short('c'),
    switch("debug", "Print more about failures").short('D'),
    words("host", "list", "Socket of the daemon").short('H'),
    text("log-level", "Least severity of messages (debug, info, warn, error, fatal)").short('l'),
    switch("tls", "Encrypt the connection").hidden(),
    text("tlscacert", "Trust certificates signed by this CA only").hidden(),
    text("tlscert", "Certificate file").hidden(),
    text("tlskey", "Key file").hidden(),
    switch("tlsverify", "Encrypt the connection and verify the daemon").hidden(),
    switch("version", "Print the version and quit").short('v'),
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
        return Err(Failure::new(1, format!("unable to parse logging level: {level}")));
    }
    let global = Global {
        config: args.text("config").into(),
        context: args.text("context").into(),
        hosts: args.list("host").to_vec(),
        tls: args.on("tls") || args.on("tlsverify"),
        debug: args.on("debug"),
    };
    Ok(Line::Command(global, args.rest))
}

/// The global flags for the help text.
pub(crate) fn visible_flags() -> Vec<&'static Flag> {
    FLAGS.iter().filter(|flag| !flag.hidden).collect()
}
