//! Help in Docker's form: usage, what it does, aliases, options in columns, examples.

use std::fmt::Write as _;

use super::{Command, Flag, Kind, switch};

/// Help is laid out for this width when the terminal does not say or is wider.
const WIDTH: usize = 80;

const HELP: Flag = switch("help", "Print usage");

/// The whole help text of a command.
pub(crate) fn command_help(command: &Command, program: &str, called: &str) -> String {
    let mut out = format!(
        "Usage:  {}\n\n{}\n",
        command.usage(program, called),
        command.about.replace("NAME completion", &format!("{program} completion"))
    );
    if command.names.len() > 1 {
        let names: Vec<String> = command.names.iter().map(|name| format!("{program} {name}")).collect();
        write!(out, "\nAliases:\n  {}\n", names.join(", ")).ok();
    }
    let mut flags: Vec<&Flag> = command.flags().filter(|flag| !flag.hidden).collect();
    // Where -h is taken, the way to this text is worth a line.
    if flags.iter().any(|flag| flag.short == Some('h')) {
        flags.push(&HELP);
    }
    flags.sort_by_key(|flag| flag.long);
    if !flags.is_empty() {
        write!(out, "\nOptions:\n{}", options(&flags)).ok();
    }
    if !command.examples.is_empty() {
        out.push_str("\nExamples:\n");
        for example in command.examples {
            writeln!(out, "  {program} {example}").ok();
        }
    }
    out
}

/// The options in two columns, the second wrapped.
pub(crate) fn options(flags: &[&Flag]) -> String {
    let left: Vec<String> = flags
        .iter()
        .map(|flag| {
            let short = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
            let word = if flag.kind == Kind::Bool { String::new() } else { format!(" {}", flag.word) };
            format!("  {short}--{}{word}", flag.long)
        })
        .collect();
    let column = left.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for (name, flag) in left.iter().zip(flags) {
        for (index, line) in wrap(flag.help, WIDTH.saturating_sub(column + 5).max(24)).iter().enumerate() {
            let name = if index == 0 { name.as_str() } else { "" };
            writeln!(out, "{name:column$}{line}").ok();
        }
    }
    out
}

/// Breaks a text at spaces; its own line breaks stay.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}
