//! The commands: their table, how one is found, and the help of the groups.

#[cfg(test)]
mod audit;
mod changes;
mod checkpoint;
mod complete;
mod context;
mod cp;
mod crowd;
mod dial;
mod events;
mod exec;
mod fsck;
mod image_tree;
mod images;
mod inspect;
mod lifecycle;
mod logs;
mod manifest;
mod network;
mod ps;
mod registry;
mod run;
mod stats;
mod system;
mod system_prune;
mod transfer;
mod update;
mod usage;
mod why;

use std::fmt::Write as _;

#[cfg(test)]
pub(crate) use run::RUN;

use crate::failure::Failure;
use crate::global;
use crate::output;
use crate::spec::{self, Command, nearest};

/// What `--format` takes.
pub(crate) const FORMAT_HELP: &str =
    "Print with a Go template: 'table', 'table TEMPLATE', 'json' or 'TEMPLATE'";

/// Why a text names no platform, in Docker's words.
fn no_platform(text: &str) -> Option<String> {
    const SYSTEMS: [&str; 16] = [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "macos",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
    ];
    const PROCESSORS: [&str; 20] = [
        "386", "amd64", "x86_64", "x86-64", "i386", "arm", "armhf", "armel", "arm64", "aarch64", "loong64",
        "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm",
    ];
    let reason = match text.split('/').collect::<Vec<_>>()[..] {
        [one] if !SYSTEMS.contains(&one) && !PROCESSORS.contains(&one) => {
            "unknown operating system or architecture"
        }
        [_] | [_, _] | [_, _, _] => return None,
        _ => "cannot parse platform specifier",
    };
    Some(format!("\"{text}\": {reason}: invalid argument"))
}

/// The platforms that `--platform` names, as the API takes them. Commas separate several.
fn platforms(args: &spec::Args) -> Result<Vec<String>, Failure> {
    let bare = ["rmi", "image rm", "image remove", "inspect", "push"];
    let what = if bare.iter().any(|end| args.called.ends_with(end)) { "" } else { "invalid platform: " };
    let given = args.list("platform").iter().flat_map(|text| text.split(','));
    given
        .map(|text| {
            if let Some(reason) = no_platform(text) {
                return Err(Failure::plain(format!("{what}{reason}")));
            }
            let platform =
                havre_oci::Platform::parse(text).map_err(|error| Failure::plain(format!("{what}{error}")))?;
            serde_json::to_string(&platform).map_err(|error| Failure::plain(error.to_string()))
        })
        .collect()
}

/// Every command that works.
static COMMANDS: &[&Command] = &[
    &run::RUN,
    &exec::EXEC,
    &ps::PS,
    &images::IMAGES,
    &system::VERSION,
    &system::INFO,
    &exec::ATTACH,
    &run::CREATE,
    &changes::COMMIT,
    &cp::CP,
    &changes::DIFF,
    &changes::EXPORT,
    &images::HISTORY,
    &transfer::IMPORT,
    &inspect::INSPECT,
    &lifecycle::KILL,
    &transfer::LOAD,
    &logs::LOGS,
    &lifecycle::PAUSE,
    &lifecycle::PORT,
    &lifecycle::RENAME,
    &lifecycle::RESTART,
    &lifecycle::RM,
    &images::RMI,
    &transfer::SAVE,
    &registry::PULL,
    &registry::PUSH,
    &registry::LOGIN,
    &registry::LOGOUT,
    &registry::SEARCH,
    &run::START,
    &lifecycle::STOP,
    &images::TAG,
    &lifecycle::TOP,
    &lifecycle::UNPAUSE,
    &lifecycle::WAIT,
    &why::WHY,
    &inspect::CONTAINER_INSPECT,
    &inspect::IMAGE_INSPECT,
    &lifecycle::CONTAINER_PRUNE,
    &images::IMAGE_PRUNE,
    &stats::STATS,
    &update::UPDATE,
    &events::EVENTS,
    &usage::DF,
    &fsck::FSCK,
    &system_prune::SYSTEM_PRUNE,
    &checkpoint::CREATE,
    &checkpoint::LS,
    &checkpoint::RM,
    &context::CREATE,
    &context::EXPORT,
    &context::IMPORT,
    &context::INSPECT,
    &context::LS,
    &context::RM,
    &context::SHOW,
    &context::UPDATE,
    &context::USE,
    &complete::BASH,
    &complete::FISH,
    &complete::ZSH,
    &complete::COMPLETE,
    &dial::DIAL_STDIO,
    &manifest::ANNOTATE,
    &manifest::CREATE,
    &manifest::INSPECT,
    &manifest::PUSH,
    &manifest::RM,
    &network::CONNECT,
    &network::CREATE,
    &network::DISCONNECT,
    &network::EXPLAIN,
    &network::LS,
    &network::PRUNE,
    &network::RM,
    &inspect::NETWORK_INSPECT,
];

/// Commands that no list shows: programs call them.
const HIDDEN: &[&str] = &["__complete", "system dial-stdio"];

/// Groups of commands: name and what it is about.
const GROUPS: &[(&str, &str)] = &[
    ("checkpoint", "Manage checkpoints"),
    (
        "completion",
        "Generate the autocompletion script for the specified shell\n\nSee each sub-command's help for how to use the generated script.",
    ),
    ("container", "Manage containers"),
    ("context", "Manage contexts"),
    ("image", "Manage images"),
    (
        "manifest",
        "Manage image manifests and manifest lists\n\nA list is one name for the images of several platforms. It is put together here and then pushed.",
    ),
    ("network", "Manage networks"),
    ("system", "Manage the engine"),
];

/// Commands of Docker's that wait for a later version.
const LATER: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "bake",
    "compose",
    "config",
    "node",
    "plugin",
    "secret",
    "service",
    "stack",
    "swarm",
    "trust",
    "volume",
    "image build",
];

/// The commands that a root help lists first.
const COMMON: [&str; 11] =
    ["run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info"];

/// What a command line names.
pub(crate) enum Found {
    /// A command, the name it was called by, and the words behind it.
    Command(&'static Command, String, Vec<String>),
    /// Everything was answered.
    Done,
}

/// The line of a description that lists show.
fn summary(about: &str) -> &str {
    about.split('\n').next().unwrap_or(about)
}

fn lookup(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.names.contains(&name))
}

/// Finds the command that the first words name.
pub(crate) fn find(program: &str, mut words: Vec<String>) -> Result<Found, Failure> {
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        if words.is_empty() {
            output::print(&root_help(program))?;
            return Ok(Found::Done);
        }
        if words[0] == "help" {
            output::print(&format!("Usage:  {program} help [command]\n\nHelp about the command\n"))?;
            return Ok(Found::Done);
        }
        let known = |name: &str| lookup(name).is_some() || LATER.contains(&name);
        let group = GROUPS.iter().any(|(name, _)| *name == words[0]);
        let topic = match words.get(1) {
            Some(second) if group && !known(&format!("{} {second}", words[0])) => second,
            _ if group || known(&words[0]) => "",
            _ => &words.join(" "),
        };
        if !topic.is_empty() {
            return Err(Failure::plain(format!("unknown help topic: {topic}")));
        }
        words.push("--help".into());
    }
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    if first == complete::COMPLETE.names[0] {
        // Flags among the words are what is asked about.
        return Ok(Found::Command(
            &complete::COMPLETE,
            first,
            [String::from("--")].into_iter().chain(words).collect(),
        ));
    }
    if let Some(command) = lookup(&first) {
        return Ok(Found::Command(command, first, words.collect()));
    }
    if LATER.contains(&first.as_str()) {
        return Err(later(program, &first));
    }
    let Some((group, about)) = GROUPS.iter().find(|(name, _)| *name == first) else {
        let names = COMMANDS.iter().flat_map(|command| command.names.iter().copied());
        return Err(unknown(program, "", &first, names.filter(|name| !name.contains(' '))));
    };
    let Some(second) = words.next() else {
        output::complain(group_help(program, group, about).trim_end());
        return Ok(Found::Done);
    };
    if second == "--help" || second == "-h" {
        output::print(&group_help(program, group, about))?;
        return Ok(Found::Done);
    }
    if second.starts_with('-') {
        return Err(Failure::usage(format!(
            "unknown flag: {second}\n\nUsage:  {program} {group}\n\nRun '{program} {group} --help' for more information"
        )));
    }
    let name = format!("{group} {second}");
    match lookup(&name) {
        Some(command) => Ok(Found::Command(command, name, words.collect())),
        None if LATER.contains(&name.as_str()) => Err(later(program, &name)),
        None => {
            let prefix = format!("{group} ");
            let names = COMMANDS.iter().flat_map(|command| command.names.iter().copied());
            Err(unknown(program, group, &second, names.filter_map(|name| name.strip_prefix(prefix.as_str()))))
        }
    }
}

fn later(program: &str, name: &str) -> Failure {
    Failure::plain(format!("not yet supported: {program} {name}"))
}

fn unknown<'a>(program: &str, group: &str, word: &str, names: impl Iterator<Item = &'a str>) -> Failure {
    let path = if group.is_empty() { program.to_owned() } else { format!("{program} {group}") };
    let mut message = format!("{program}: unknown command: {path} {word}\n");
    if let Some(near) = nearest(word, names) {
        write!(message, "\nDid you mean: {path} {near}\n").ok();
    }
    if !group.is_empty() {
        // Docker's own exception.
        let rest = if group == "manifest" { " COMMAND" } else { "" };
        write!(message, "\nUsage:  {path}{rest}\n").ok();
    }
    write!(message, "\nRun '{path} --help' for more information").ok();
    Failure::plain(message)
}

fn listing(out: &mut String, rows: &[(&str, &str)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(11);
    for (name, about) in rows {
        writeln!(out, "  {name:width$} {about}").ok();
    }
}

fn group_help(program: &str, group: &str, about: &str) -> String {
    let prefix = format!("{group} ");
    let mut rows: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter(|command| !command.names.iter().any(|name| HIDDEN.contains(name)))
        .filter_map(|command| {
            command
                .names
                .iter()
                .find_map(|name| name.strip_prefix(prefix.as_str()))
                .map(|name| (name, summary(command.about)))
        })
        .collect();
    rows.sort_unstable();
    let mut out = format!("Usage:  {program} {group} COMMAND\n\n{about}\n\nCommands:\n");
    listing(&mut out, &rows);
    write!(out, "\nRun '{program} {group} COMMAND --help' for more information on a command.\n").ok();
    out
}

/// The help of the program itself.
pub(crate) fn root_help(program: &str) -> String {
    let mut rows: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter(|command| !command.names.iter().any(|name| HIDDEN.contains(name)))
        .filter_map(|command| {
            command.names.iter().find(|name| !name.contains(' ')).map(|name| (*name, summary(command.about)))
        })
        .collect();
    let mut common = Vec::new();
    for name in COMMON {
        common.extend(rows.iter().position(|row| row.0 == name).map(|index| rows.remove(index)));
    }
    rows.push(("daemon", "Run the engine in the foreground"));
    rows.sort_unstable();
    let mut out =
        format!("Usage:  {program} [OPTIONS] COMMAND\n\nRun and manage containers\n\nCommon Commands:\n");
    listing(&mut out, &common);
    out.push_str("\nManagement Commands:\n");
    let groups: Vec<(&str, &str)> = GROUPS.iter().map(|(name, about)| (*name, summary(about))).collect();
    listing(&mut out, &groups);
    out.push_str("\nCommands:\n");
    listing(&mut out, &rows);
    write!(out, "\nGlobal Options:\n{}", spec::options(&global::visible_flags())).ok();
    write!(out, "\nRun '{program} COMMAND --help' for more information on a command.\n").ok();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn called(line: &str) -> String {
        match find("havre", words(line)) {
            Ok(Found::Command(command, _, _)) => command.names[0].to_owned(),
            Ok(Found::Done) => "done".into(),
            Err(failure) => failure.message.lines().next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn names_and_aliases_lead_to_the_same_command() {
        for (line, name) in [
            ("run x", "container run"),
            ("container run x", "container run"),
            ("container ps", "container ls"),
            ("container list", "container ls"),
            ("ps", "container ls"),
            ("rmi x", "image rm"),
            ("image remove x", "image rm"),
            ("system info", "system info"),
            ("help run", "container run"),
        ] {
            assert_eq!(called(line), name, "{line}");
        }
    }

    #[test]
    fn unknown_and_later_commands_are_told_apart() {
        assert_eq!(called("build ."), "not yet supported: havre build");
        assert_eq!(called("image build ."), "not yet supported: havre image build");
        assert_eq!(called("runn"), "havre: unknown command: havre runn");
        assert_eq!(called("container foo"), "havre: unknown command: havre container foo");
        let Err(failure) = find("havre", words("runn")) else { panic!("found") };
        assert!(failure.message.contains("Did you mean: havre run\n"), "{}", failure.message);
    }

    #[test]
    fn no_flag_is_declared_twice_in_a_command() {
        for command in COMMANDS {
            let mut longs: Vec<_> = command.flags().map(|flag| flag.long).collect();
            let mut shorts: Vec<_> = command.flags().filter_map(|flag| flag.short).collect();
            let counts = (longs.len(), shorts.len());
            longs.sort_unstable();
            longs.dedup();
            shorts.sort_unstable();
            shorts.dedup();
            assert_eq!((longs.len(), shorts.len()), counts, "{}", command.names[0]);
        }
    }
}
