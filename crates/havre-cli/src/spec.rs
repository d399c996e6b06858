//! Commands and flags as data, the parsing of a command line against them, and their help.
//!
//! Invariants: only the command that was asked for is built, because every run pays for it; error texts
//! are those of Docker's flag library, because scripts match them.

use std::collections::BTreeMap;

use crate::App;
use crate::failure::Failure;

mod help;
mod parse;

pub(crate) use help::{command_help, options};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true` and `=false`.
    Bool,
    /// Any text.
    Text,
    /// Several texts, one each time it is given.
    List,
    /// A whole number.
    Int,
    /// A whole number that is not negative.
    Uint,
    /// A number with a fraction.
    Decimal,
    /// A size such as `64m`.
    Bytes,
    /// A duration such as `1m30s`.
    Duration,
    /// `name=value`, several times.
    Filter,
    /// `name=value,name=value`, perhaps several times.
    Pairs,
    /// `one,two`, perhaps several times.
    Strings,
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    /// The word that stands for the value in the help.
    pub(crate) word: &'static str,
    pub(crate) help: &'static str,
    pub(crate) hidden: bool,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, word: &'static str, help: &'static str) -> Self {
        Self { long, short: None, kind, word, help, hidden: false }
    }

    /// The same flag with a letter.
    pub(crate) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// The same flag, accepted but not listed.
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
}

pub(crate) const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Bool, "", help)
}
pub(crate) const fn text(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Text, "string", help)
}
pub(crate) const fn list(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::List, "list", help)
}
pub(crate) const fn words(long: &'static str, word: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::List, word, help)
}
pub(crate) const fn strings(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Strings, "strings", help)
}
pub(crate) const fn int(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Int, "int", help)
}
pub(crate) const fn uint(long: &'static str, word: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Uint, word, help)
}
pub(crate) const fn decimal(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Decimal, "decimal", help)
}
pub(crate) const fn bytes(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Bytes, "bytes", help)
}
pub(crate) const fn duration(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Duration, "duration", help)
}
pub(crate) const fn filter(help: &'static str) -> Flag {
    Flag::new("filter", Kind::Filter, "filter", help)
}

pub(crate) const fn pairs(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Pairs, "stringToString", help)
}

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
    Any,
}

/// One command.
pub(crate) struct Command {
    /// Its names, the canonical one first: `container run`, `run`.
    pub(crate) names: &'static [&'static str],
    /// What follows the name in the usage line, without `[OPTIONS]`.
    pub(crate) arguments: &'static str,
    /// What it does: a line for lists, and more below it for its own help.
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) arity: Arity,
    /// Whether options end at the first argument, because the rest is another program's.
    pub(crate) trailing: bool,
    pub(crate) examples: &'static [&'static str],
    pub(crate) run: fn(&App, &Args) -> Result<u8, Failure>,
}

impl Command {
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().flat_map(|group| group.iter())
    }

    /// `havre run [OPTIONS] IMAGE [COMMAND] [ARG...]`.
    pub(crate) fn usage(&self, program: &str, name: &str) -> String {
        let mut line = format!("{program} {name}");
        // Docker's own exceptions.
        let options = match self.names.first() {
            Some(&("context rm" | "manifest create" | "manifest rm" | "network rm")) => false,
            Some(&"context export") => true,
            _ => self.flags().next().is_some(),
        };
        if options {
            line.push_str(" [OPTIONS]");
        }
        if !self.arguments.is_empty() {
            line.push(' ');
            line.push_str(self.arguments);
        }
        line
    }
}

/// The values of one command line.
#[derive(Debug, Default)]
pub(crate) struct Args {
    values: BTreeMap<&'static str, Vec<String>>,
    /// The arguments that are no flags.
    pub(crate) rest: Vec<String>,
    /// The name under which the command was called.
    pub(crate) called: String,
}

impl Args {
    /// Whether a flag was given.
    pub(crate) fn given(&self, flag: &str) -> bool {
        self.values.contains_key(flag)
    }

    /// Whether a switch is on.
    pub(crate) fn on(&self, flag: &str) -> bool {
        self.values
            .get(flag)
            .and_then(|values| values.last())
            .is_some_and(|value| parse::boolean(value) == Some(true))
    }

    /// A switch that is on unless turned off.
    pub(crate) fn on_by_default(&self, flag: &str) -> bool {
        !self.given(flag) || self.on(flag)
    }

    /// The last value of a flag, empty when it was not given.
    pub(crate) fn text(&self, flag: &str) -> &str {
        self.values.get(flag).and_then(|values| values.last()).map_or("", String::as_str)
    }

    /// All values of a flag.
    pub(crate) fn list(&self, flag: &str) -> &[String] {
        self.values.get(flag).map_or(&[], Vec::as_slice)
    }

    /// All values, `None` when there is none.
    pub(crate) fn some_list(&self, flag: &str) -> Option<Vec<String>> {
        let list = self.list(flag);
        (!list.is_empty()).then(|| list.to_vec())
    }

    /// A number; its form was checked while parsing.
    pub(crate) fn number(&self, flag: &str) -> Option<i64> {
        self.values.get(flag)?.last()?.trim().parse().ok()
    }

    /// A size in bytes; its form was checked while parsing.
    pub(crate) fn bytes(&self, flag: &str) -> i64 {
        crate::format::units::parse_bytes(self.text(flag)).unwrap_or(0)
    }

    /// A duration in nanoseconds; its form was checked while parsing.
    pub(crate) fn nanos(&self, flag: &str) -> i64 {
        crate::format::units::parse_duration(self.text(flag)).unwrap_or(0)
    }

    /// The filters given with `--filter`.
    pub(crate) fn filters(&self) -> havre_api::Filters {
        let mut filters = havre_api::Filters::default();
        for text in self.list("filter") {
            if let Some((name, value)) = text.split_once('=') {
                filters.add(&name.trim().to_lowercase(), value.trim());
            }
        }
        filters
    }
}

/// Reads the words behind a command's name. `Ok(None)`: help was asked for.
pub(crate) fn parse(
    command: &Command,
    program: &str,
    called: &str,
    words: Vec<String>,
) -> Result<Option<Args>, Failure> {
    parse::parse(command, program, called, words)
}

/// Why a text is no number, in Go's words.
pub(crate) fn range(error: &std::num::ParseIntError) -> &'static str {
    parse::range(error)
}

/// A spelling that Go reads as a truth value.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    parse::boolean(text)
}

/// The command whose spelling is nearest to `word`, if any is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replace = row[j] + usize::from(x != y);
            let mut best = replace.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_spellings_are_found_and_far_ones_are_not() {
        let names = ["run", "restart", "rm", "images"];
        assert_eq!(nearest("runn", names.into_iter()), Some("run"));
        assert_eq!(nearest("imgaes", names.into_iter()), Some("images"));
        assert_eq!(nearest("xyzzy", names.into_iter()), None);
    }
}
