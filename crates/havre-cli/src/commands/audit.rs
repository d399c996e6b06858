//! Docker's table of flags against ours, and ours against the tests that show their effects.
//!
//! Invariant: of the groups below no flag of Docker's is missing unless it is named here, and none is there
//! whose effect no end-to-end test shows unless the table of effects says why.

use std::collections::BTreeMap;
use std::path::Path;

use super::COMMANDS;

/// Docker's, made from its public documents.
const DOCKERS: &str = include_str!("../../../../xtask/data/cli.tsv");
/// Command, flag, and the end-to-end test that shows what the flag does; or `- why not`.
const EFFECTS: &str = include_str!("../../../havre/tests/e2e/flags.tsv");

const GROUPS: &[&str] =
    &["checkpoint", "container", "context", "image", "inspect", "manifest", "network", "system", "version"];

/// Commands that wait for the builder.
const LATER: &[&str] = &["image build"];

/// Flags that wait.
const LATER_FLAGS: &[(&str, &str)] = &[];

/// The rows of Docker's table in our groups: command, flag, status.
fn wanted() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    DOCKERS.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, command, flag, _, status, group, ..] = fields.as_slice() else { return None };
        let ours = command.split(' ').next().is_some_and(|word| GROUPS.contains(&word));
        (*kind == "flag" && *group == "core" && ours && !LATER.contains(command)).then_some((
            *command,
            flag.trim_start_matches("--"),
            *status,
        ))
    })
}

#[test]
fn every_flag_of_docker_is_declared_or_named_as_waiting() {
    let mut missing = Vec::new();
    for (command, flag, _) in wanted().filter(|(_, flag, _)| *flag != "help") {
        let declared = COMMANDS
            .iter()
            .find(|known| known.names.contains(&command))
            .is_some_and(|known| known.flags().any(|known| known.long == flag));
        let waits = LATER_FLAGS.contains(&(command, flag));
        if declared == waits {
            missing.push(format!("{command} --{flag} ({})", if waits { "waits no more" } else { "missing" }));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The texts of the files of end-to-end tests.
fn tests() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../havre/tests/e2e");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

/// The function that a table of tests names.
fn body<'a>(files: &'a [String], test: &str) -> Option<&'a str> {
    let quoted = format!("\"{test}\",");
    files.iter().find_map(|text| {
        let (_, rest) = text.split_once(&quoted)?;
        let function: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let start = text.find(&format!("\nfn {function}("))? + 1;
        let text = &text[start..];
        Some(&text[..text.find("\n}\n").unwrap_or(text.len())])
    })
}

/// Whether a text gives a flag: by its name, or by its letter, which may stand among others.
fn gives(text: &str, command: &str, flag: &str) -> bool {
    let long = format!("--{flag}");
    let spelled = text
        .match_indices(&long)
        .any(|(at, _)| text[at + long.len()..].starts_with(['"', '=', ' ', '\'', '\\']));
    let known = COMMANDS.iter().find(|known| known.names.contains(&command));
    let letter =
        known.and_then(|known| known.flags().find(|known| known.long == flag)).and_then(|known| known.short);
    // The helpers of the tests give these to every container.
    let by_helper = matches!((command, flag), ("container run", "detach" | "label" | "name" | "network"))
        && text.contains("detached(client");
    let by_letter = |letter: char| {
        text.split('"').any(|word| {
            word.strip_prefix('-').is_some_and(|word| !word.starts_with('-') && word.contains(letter))
        })
    };
    spelled || by_helper || letter.is_some_and(by_letter)
}

#[test]
fn every_flag_has_a_test_that_shows_its_effect() {
    let (tests, mut wrong) = (tests(), Vec::new());
    let mut effects = BTreeMap::new();
    for line in EFFECTS.lines() {
        let [command, flag, test] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("no three columns: {line}");
        };
        if effects.insert((command, flag.trim_start_matches("--")), test).is_some() {
            wrong.push(format!("twice: {line}"));
        }
        if test.starts_with("- ") {
            continue;
        }
        match body(&tests, test) {
            None => wrong.push(format!("no such test: {line}")),
            Some(body) if !gives(body, command, flag.trim_start_matches("--")) => {
                wrong.push(format!("the test does not give the flag: {line}"));
            }
            Some(_) => {}
        }
    }
    for (command, flag, status) in wanted() {
        // What both share is declared once, so it is shown once.
        let command = if command == "container create" { "container run" } else { command };
        if status.is_empty() && flag != "help" && !effects.contains_key(&(command, flag)) {
            wrong.push(format!("no row: {command} --{flag}"));
        }
    }
    let known: Vec<(&str, &str)> = wanted().map(|(command, flag, _)| (command, flag)).collect();
    wrong.extend(
        effects.keys().filter(|row| !known.contains(row)).map(|row| format!("no such flag: {row:?}")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
