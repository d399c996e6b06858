//! From words to values: clap splits the line, the checks and the error texts are ours.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};

use super::{Args, Arity, Command, Flag, Kind, nearest};
use crate::failure::Failure;
use crate::format::units;

const HELP: Flag = super::switch("help", "Print usage");
const REST: &str = "\0rest";

pub(super) fn parse(
    command: &Command,
    program: &str,
    called: &str,
    words: Vec<String>,
) -> Result<Option<Args>, Failure> {
    let wrong =
        |message: String| Failure::usage(format!("{message}\n\n{}", see(command, program, called, "Run")));
    let mut parser =
        clap::Command::new("x").no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
    let has = |letter| command.flags().any(|flag| flag.short == Some(letter));
    parser = parser.arg(argument(&if has('h') { HELP } else { HELP.short('h') }));
    for flag in command.flags() {
        parser = parser.arg(argument(flag));
    }
    let mut rest = Arg::new(REST).num_args(0..).action(ArgAction::Append);
    if command.trailing {
        rest = rest.trailing_var_arg(true);
    }
    let mut matches = match parser.arg(rest).try_get_matches_from(words.iter()) {
        Ok(matches) => matches,
        Err(error) => return Err(wrong(explain(command, &error, &words))),
    };
    let help: Option<String> = matches.remove_many::<String>("help").and_then(Iterator::last);
    if help.is_some_and(|value| boolean(&value) != Some(false)) {
        return Ok(None);
    }
    let mut args = Args { called: called.to_owned(), ..Args::default() };
    args.rest = matches.remove_many::<String>(REST).map(Iterator::collect).unwrap_or_default();
    for flag in command.flags() {
        let Some(values) = matches.remove_many::<String>(flag.long) else { continue };
        let values: Vec<String> = values.collect();
        for value in &values {
            if let Err(reason) = check(flag, value) {
                return Err(wrong(format!(
                    "invalid argument \"{value}\" for \"{}\" flag: {reason}",
                    spelled(flag)
                )));
            }
        }
        let values = match flag.kind {
            Kind::Pairs | Kind::Strings => values.iter().flat_map(|value| fields(value)).collect(),
            _ => values,
        };
        args.values.insert(flag.long, values);
    }
    for (old, new) in [("time", "timeout")] {
        if args.given(old) && command.flags().any(|flag| flag.long == new) {
            crate::output::line(&format!("Flag --{old} has been deprecated, use --{new} instead"))?;
        }
    }
    arity(command, program, called, args.rest.len())?;
    Ok(Some(args))
}

/// `Usage: ...` and where to read more.
fn see(command: &Command, program: &str, called: &str, verb: &str) -> String {
    let usage = command.usage(program, called);
    format!("Usage:  {usage}\n\n{verb} '{program} {called} --help' for more information")
}

fn argument(flag: &Flag) -> Arg {
    let mut arg = Arg::new(flag.long).long(flag.long);
    if let Some(letter) = flag.short {
        arg = arg.short(letter);
    }
    if flag.kind == Kind::Bool {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true").action(ArgAction::Append)
    } else {
        arg.num_args(1).allow_hyphen_values(true).action(ArgAction::Append)
    }
}

/// `-m, --memory` or `--cpus`.
fn spelled(flag: &Flag) -> String {
    match flag.short {
        Some(letter) => format!("-{letter}, --{}", flag.long),
        None => format!("--{}", flag.long),
    }
}

fn check(flag: &Flag, value: &str) -> Result<(), String> {
    let number = |function: &str, reason: &str| format!("strconv.{function}: parsing \"{value}\": {reason}");
    match flag.kind {
        Kind::List if flag.long == "label" && (value.is_empty() || value.starts_with('=')) => {
            Err(format!("invalid label '{value}': empty name"))
        }
        Kind::Text | Kind::List => Ok(()),
        Kind::Strings if value.matches('"').count() % 2 == 1 => Err("a quote is not closed".into()),
        Kind::Strings => Ok(()),
        Kind::Bool => boolean(value).map(drop).ok_or_else(|| number("ParseBool", "invalid syntax")),
        Kind::Int => value.parse::<i64>().map(drop).map_err(|error| number("ParseInt", range(&error))),
        Kind::Uint => value.parse::<u64>().map(drop).map_err(|error| number("ParseUint", range(&error))),
        Kind::Decimal => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err(format!("failed to parse {value} as a rational number")),
        },
        Kind::Bytes if value == "-1" && flag.long == "memory-swap" => Ok(()),
        Kind::Bytes if value.starts_with('-') => Err(format!("invalid size: '{value}'")),
        Kind::Bytes => units::parse_bytes(value).map(drop).map_err(|_| format!("invalid size: '{value}'")),
        Kind::Duration => units::parse_duration(value).map(drop),
        Kind::Pairs => match fields(value).into_iter().find(|field| !field.contains('=')) {
            Some(field) => Err(format!("{field} must be formatted as key=value")),
            None => Ok(()),
        },
        Kind::Filter if value.contains('=') => Ok(()),
        Kind::Filter => Err("bad format of filter (expected name=value)".into()),
    }
}

/// The fields of a line of comma separated values; quotes keep commas together.
fn fields(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

pub(super) fn range(error: &std::num::ParseIntError) -> &'static str {
    match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// The spellings that Go reads as a truth value.
pub(super) fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Says in Docker's words what clap found.
fn explain(command: &Command, error: &clap::Error, words: &[String]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let about = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            if let Some(long) = about.strip_prefix("--") {
                let long = long.split('=').next().unwrap_or(long);
                let near = nearest(long, command.flags().map(|flag| flag.long));
                let hint = near.map(|near| format!("\nDid you mean --{near}?")).unwrap_or_default();
                return format!("unknown flag: --{long}{hint}");
            }
            let letter = about.trim_start_matches('-').chars().next().unwrap_or('-');
            let cluster = words
                .iter()
                .find(|word| word.starts_with('-') && !word.starts_with("--") && word.contains(letter));
            // What stood before it in the cluster was understood.
            let cluster = cluster.and_then(|word| Some(&word[word.find(letter)?..]));
            format!(
                "unknown shorthand flag: '{letter}' in -{}",
                cluster.unwrap_or(about.trim_start_matches('-'))
            )
        }
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            let named = about.split([' ', '=']).next().unwrap_or(&about);
            let flag = command.flags().find(|flag| named.strip_prefix("--") == Some(flag.long));
            match (flag, words.last()) {
                (Some(flag), Some(last)) if !last.starts_with("--") && last.starts_with('-') => {
                    format!("flag needs an argument: '{}' in {last}", flag.short.unwrap_or('-'))
                }
                _ => format!("flag needs an argument: {named}"),
            }
        }
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

fn arity(command: &Command, program: &str, called: &str, count: usize) -> Result<(), Failure> {
    let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
    let (wanted, verb) = match command.arity {
        Arity::None if count > 0 => ("accepts no arguments".to_owned(), "Run"),
        Arity::Exactly(n) if count != n => (format!("requires {n} {}", plural(n)), "Run"),
        Arity::AtLeast(n) if count < n => (format!("requires at least {n} {}", plural(n)), "See"),
        Arity::AtMost(n) if count > n => (format!("requires at most {n} {}", plural(n)), "Run"),
        Arity::Between(low, high) if !(low..=high).contains(&count) => {
            (format!("requires at least {low} and at most {high} {}", plural(high)), "Run")
        }
        _ => return Ok(()),
    };
    let see = see(command, program, called, verb);
    Err(Failure::new(1, format!("{program}: '{program} {called}' {wanted}\n\n{see}")))
}
