//! `completion` and what its scripts ask: the words that may stand where the cursor is.
//!
//! The question and the answer are those of Docker's command line: `__complete` with all words before the
//! cursor, the last perhaps empty; a candidate a line, a description behind a tab, and a number that says
//! what else the shell may offer. Nothing here starts an engine.

use std::time::Duration;

use havre_api::Filters;

use super::{COMMANDS, GROUPS, HIDDEN, lookup, summary};
use crate::App;
use crate::config::directory;
use crate::contexts::{DEFAULT, Store};
use crate::failure::Failure;
use crate::format::table::harmless;
use crate::global;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, Kind};

/// Nothing to offer, because asking failed.
const ERROR: u8 = 1;
/// No file names either.
const NO_FILES: u8 = 4;
/// File names, as the shell does without us.
const FILES: u8 = 0;
/// A shell must not wait longer for names.
const PATIENCE: Duration = Duration::from_secs(2);
/// More names help nobody.
const MOST: usize = 200;

macro_rules! shell {
    ($name:ident, $names:literal, $shell:literal, $file:literal, $about:literal, $examples:expr) => {
        pub(super) const $name: Command = Command {
            names: &[$names],
            arguments: "",
            about: concat!("Generate the autocompletion script for ", $shell, $about),
            flags: &[],
            arity: Arity::None,
            trailing: false,
            examples: $examples,
            run: |app, _| {
                output::print(&include_str!($file).replace("PROGRAM", &app.program))?;
                Ok(0)
            },
        };
    };
}

shell!(
    BASH,
    "completion bash",
    "bash",
    "../completion/bash.sh",
    "\n\nThe package bash-completion loads it in every new shell when it lies in its folder:\n\n  completion bash > /etc/bash_completion.d/NAME\n\nFor the current shell only:\n\n  source <(NAME completion bash)",
    &["completion bash > /etc/bash_completion.d/havre"]
);
shell!(
    ZSH,
    "completion zsh",
    "zsh",
    "../completion/zsh.sh",
    "\n\nCompletion must be on (autoload -U compinit; compinit in ~/.zshrc). A new shell loads the script when it\nlies in a folder of $fpath; for the current shell only:\n\n  source <(NAME completion zsh)",
    &["completion zsh > \"${fpath[1]}/_havre\""]
);
shell!(
    FISH,
    "completion fish",
    "fish",
    "../completion/fish.sh",
    "\n\nA new shell loads it from its folder of completions; for the current shell only:\n\n  NAME completion fish | source",
    &["completion fish > ~/.config/fish/completions/havre.fish"]
);

pub(super) const COMPLETE: Command = Command {
    names: &["__complete"],
    arguments: "[WORD...]",
    about: "Print the words that may stand where the cursor is. Called by the scripts of completion.",
    flags: &[],
    arity: Arity::Any,
    trailing: true,
    examples: &[],
    run: complete,
};

/// What may stand at a place.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Words known here, with descriptions.
    Words(Vec<(String, &'static str)>),
    Containers(State),
    Images,
    Networks,
    /// Containers, then images.
    Objects,
    Contexts,
    /// Something of the user's own; file names may help.
    Files,
    Nothing,
}

/// Which containers make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Any,
    Running,
    Stopped,
}

fn complete(app: &App, args: &Args) -> Result<u8, Failure> {
    let (last, before) = match args.rest.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", &[][..]),
    };
    let place = place(before, last);
    let (candidates, directive) = app.block(async {
        // Whatever goes wrong, the shell gets an answer in time.
        tokio::time::timeout(PATIENCE, candidates(app, place)).await.unwrap_or((Vec::new(), ERROR))
    });
    let mut out = String::new();
    for (word, about) in candidates.iter().filter(|(word, _)| word.starts_with(last)).take(MOST) {
        out.push_str(&harmless(word));
        if !about.is_empty() {
            out.push('\t');
            out.push_str(about);
        }
        out.push('\n');
    }
    output::print(&format!("{out}:{directive}\n"))?;
    Ok(0)
}

/// What stands where the cursor is, after the words before it.
fn place(before: &[String], last: &str) -> Place {
    let globals = global::visible_flags();
    let mut words = before.iter();
    let first = loop {
        match words.next() {
            None if last.starts_with('-') => return flags(&globals, last),
            None => return commands(""),
            Some(word) if word.starts_with('-') => {
                if let Some(flag) = wants_value(&globals, word)
                    && words.next().is_none()
                {
                    return value(flag);
                }
            }
            Some(word) => break word,
        }
    };
    let name = match GROUPS.iter().find(|(group, _)| group == first) {
        None if first == "help" => return commands(""),
        None => first.clone(),
        Some((group, _)) => match words.next() {
            None => return commands(group),
            Some(word) => format!("{group} {word}"),
        },
    };
    let Some(command) = lookup(&name) else { return Place::Nothing };
    let own: Vec<&Flag> = command.flags().filter(|flag| !flag.hidden).collect();
    let (mut position, mut only_arguments) = (0, false);
    while let Some(word) = words.next() {
        if !only_arguments && word == "--" {
            only_arguments = true;
        } else if !only_arguments && word.len() > 1 && word.starts_with('-') {
            if let Some(flag) = wants_value(&own, word)
                && words.next().is_none()
            {
                return value(flag);
            }
        } else {
            position += 1;
            only_arguments |= command.trailing;
        }
    }
    if !only_arguments && last.starts_with('-') {
        return flags(&own, last);
    }
    argument(command, position)
}

/// The flag whose value is the next word.
fn wants_value<'f>(flags: &[&'f Flag], word: &str) -> Option<&'f Flag> {
    let flag = match word.strip_prefix("--") {
        Some(long) => flags.iter().find(|flag| flag.long == long),
        None => {
            // The last letter of a group decides; behind one with a value, the rest is the value.
            let mut letters = word.chars().skip(1);
            let found = letters.find_map(|letter| {
                flags.iter().find(|flag| flag.short == Some(letter) && flag.kind != Kind::Bool)
            });
            found.filter(|_| letters.next().is_none())
        }
    };
    flag.copied().filter(|flag| flag.kind != Kind::Bool)
}

fn commands(group: &str) -> Place {
    let prefix = if group.is_empty() { String::new() } else { format!("{group} ") };
    let names = COMMANDS.iter().filter(|command| !command.names.iter().any(|name| HIDDEN.contains(name)));
    let mut words: Vec<(String, &'static str)> = names
        .filter_map(|command| {
            let own = command.names.iter().filter_map(|name| name.strip_prefix(prefix.as_str()));
            let name = own.into_iter().find(|name| !name.contains(' '))?;
            Some((name.to_owned(), summary(command.about)))
        })
        .collect();
    if group.is_empty() {
        words.extend(GROUPS.iter().map(|(name, about)| ((*name).to_owned(), summary(about))));
    }
    words.sort_unstable();
    Place::Words(words)
}

fn flags(flags: &[&Flag], last: &str) -> Place {
    let mut words: Vec<(String, &'static str)> =
        flags.iter().map(|flag| (format!("--{}", flag.long), flag.help)).collect();
    words.push(("--help".to_owned(), "Print usage"));
    if !last.starts_with("--") {
        words.extend(flags.iter().filter_map(|flag| Some((format!("-{}", flag.short?), flag.help))));
    }
    words.sort_unstable();
    Place::Words(words)
}

fn fixed(words: &[&str]) -> Place {
    Place::Words(words.iter().map(|word| ((*word).to_owned(), "")).collect())
}

/// What a flag takes.
fn value(flag: &Flag) -> Place {
    match flag.long {
        "context" | "from" => Place::Contexts,
        "volumes-from" | "link" => Place::Containers(State::Any),
        "restart" => fixed(&["always", "no", "on-failure", "unless-stopped"]),
        "pull" => fixed(&["always", "missing", "never"]),
        "network" | "net" | "config-from" => Place::Networks,
        "log-level" => fixed(&["debug", "error", "fatal", "info", "warn"]),
        "log-driver" => fixed(&["json-file", "none"]),
        "type" => fixed(&["container", "image", "network"]),
        "platform" => fixed(&["linux/amd64", "linux/arm64"]),
        "signal" => fixed(&["SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"]),
        _ => Place::Files,
    }
}

/// What an argument is, by the words of the usage line.
fn argument(command: &Command, position: usize) -> Place {
    let mut words = command.arguments.split(' ').filter(|word| !word.is_empty());
    let last = words.clone().next_back().unwrap_or("");
    let word = match words.nth(position) {
        Some(word) => word,
        None if last.contains("...") && !command.trailing => last,
        None => return if command.trailing { Place::Files } else { Place::Nothing },
    };
    let name = command.names[0];
    let state = match name {
        "container start" => State::Stopped,
        "container stop" | "container kill" | "container exec" | "container attach" | "container pause"
        | "container top" | "container stats" => State::Running,
        _ => State::Any,
    };
    match word.trim_matches(['[', ']', '.']) {
        "CONTAINER" => Place::Containers(state),
        "IMAGE" | "IMAGE[:TAG]" | "SOURCE_IMAGE[:TAG" | "SOURCE_IMAGE[:TAG]" => Place::Images,
        "NETWORK" if name == "network create" => Place::Nothing,
        "NETWORK" => Place::Networks,
        "NAME|ID" => Place::Objects,
        "CONTEXT" if matches!(name, "context create" | "context import") => Place::Nothing,
        "CONTEXT" => Place::Contexts,
        "COMMAND" | "ARG" | "FILE|-" | "file|URL|-" => Place::Files,
        _ => Place::Nothing,
    }
}

async fn candidates(app: &App, place: Place) -> (Vec<(String, &'static str)>, u8) {
    match place {
        Place::Words(words) => (words, NO_FILES),
        Place::Files => (Vec::new(), FILES),
        Place::Nothing => (Vec::new(), NO_FILES),
        Place::Contexts => {
            let list = Store::new(&directory(&app.global)).list();
            let names = list.into_iter().map(|meta| meta.name).chain([DEFAULT.to_owned()]);
            let mut names: Vec<_> = names.map(|name| (name, "")).collect();
            names.sort_unstable();
            (names, NO_FILES)
        }
        Place::Containers(state) => asked(containers(app, state).await),
        Place::Images => asked(images(app).await),
        Place::Networks => asked(networks(app).await),
        Place::Objects => match (containers(app, State::Any).await, images(app).await) {
            (Ok(containers), Ok(images)) => asked(Ok([containers, images].concat())),
            _ => (Vec::new(), ERROR),
        },
    }
}

fn asked(names: Result<Vec<String>, Failure>) -> (Vec<(String, &'static str)>, u8) {
    match names {
        Ok(names) => (names.into_iter().map(|name| (name, "")).collect(), NO_FILES),
        Err(_) => (Vec::new(), ERROR),
    }
}

async fn containers(app: &App, state: State) -> Result<Vec<String>, Failure> {
    let client = app.client_if_any().await?;
    let list = client.list(state != State::Running, 0, false, &Filters::default()).await?;
    let wanted = list.iter().filter(|container| state != State::Stopped || container.state != "running");
    Ok(wanted
        .flat_map(|container| &container.names)
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect())
}

async fn images(app: &App) -> Result<Vec<String>, Failure> {
    let client = app.client_if_any().await?;
    let list = client.images(false, &Filters::default()).await?;
    let tags = list.iter().filter_map(|image| image.repo_tags.as_ref()).flatten();
    Ok(tags.filter(|tag| !tag.starts_with("<none>")).cloned().collect())
}

async fn networks(app: &App) -> Result<Vec<String>, Failure> {
    let client = app.client_if_any().await?;
    let list = client.networks(&Filters::default()).await?;
    Ok(list.into_iter().map(|network| network.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: &str) -> Place {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (last, before) = words.split_last().unwrap();
        place(before, last)
    }

    fn words(line: &str) -> Vec<String> {
        match at(line) {
            Place::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_and_flags_are_known_by_their_place() {
        assert!(words("").contains(&"run".to_owned()) && words("").contains(&"context".to_owned()));
        assert!(words("-D ").contains(&"ps".to_owned()) && words("help ").contains(&"ps".to_owned()));
        assert!(!words("").contains(&"__complete".to_owned()));
        assert!(!words("system ").contains(&"dial-stdio".to_owned()));
        assert!(words("context ").contains(&"use".to_owned()));
        assert!(words("run --n").contains(&"--name".to_owned()));
        assert!(!words("run --").contains(&"-i".to_owned()) && words("run -").contains(&"-i".to_owned()));
        assert!(words("--t").contains(&"--tlsverify".to_owned()));
        assert!(words("run --restart ").contains(&"always".to_owned()));
    }

    #[test]
    fn names_are_asked_for_where_the_usage_line_has_them() {
        for (line, want) in [
            ("start ", Place::Containers(State::Stopped)),
            ("stop -t 3 a ", Place::Containers(State::Running)),
            ("container rm ", Place::Containers(State::Any)),
            ("run ", Place::Images),
            ("run --name x -it ", Place::Images),
            ("run busybox ", Place::Files),
            ("run busybox -", Place::Files),
            ("rmi ", Place::Images),
            ("inspect ", Place::Objects),
            ("context use ", Place::Contexts),
            ("context create ", Place::Nothing),
            ("--context ", Place::Contexts),
            ("rename a ", Place::Nothing),
            ("run --name ", Place::Files),
            ("nonsense ", Place::Nothing),
        ] {
            assert_eq!(at(line), want, "{line}");
        }
    }
}
