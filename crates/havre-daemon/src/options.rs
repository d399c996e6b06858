//! The daemon's options: one table for flags and `daemon.json`.
//!
//! Invariant: an option is used, or ignoring it changes nothing the user asked for, or it is refused
//! with its name. Nothing is accepted and forgotten.

mod table;

use std::collections::BTreeMap;

/// How an option's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Present or absent, or `=true`, `=false`.
    Bool,
    /// One value.
    One,
    /// One whole number.
    Int,
    /// Values of several flags, or an array.
    List,
    /// `name=value` of several flags, or an object.
    Map,
}

/// What is done with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Read where the configuration is made.
    Used,
    /// Means nothing here, whatever its value: why.
    Meaningless(&'static str),
    /// Only these values are what is done anyway; others are not built yet.
    Only(&'static [&'static str]),
}

/// One option.
#[derive(Debug)]
pub(crate) struct Opt {
    pub(crate) flag: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) key: &'static str,
    pub(crate) shape: Shape,
    pub(crate) rule: Rule,
    pub(crate) help: &'static str,
}

use Rule::{Meaningless, Only, Used};
use Shape::{Bool, Int, List, Map, One};
use table::OPTIONS;

/// Values by flag name, or by key for keys without a flag.
pub(crate) type Values = BTreeMap<&'static str, Vec<String>>;

/// Why the options cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("unknown flag: {0}\nSee 'dockerd --help'")]
    UnknownFlag(String),
    #[error("flag needs an argument: {0}")]
    NeedsValue(String),
    #[error("unexpected argument: {0}")]
    Unexpected(String),
    #[error("invalid value for {name}: {value:?}: {why}")]
    Invalid { name: String, value: String, why: &'static str },
    #[error("not yet supported: {name}={value}")]
    NotYet { name: String, value: String },
    #[error("unable to configure the Docker daemon with file {file}: {why}")]
    File { file: String, why: String },
    #[error("the following directives are specified both as a flag and in the configuration file: {0}")]
    Twice(String),
}

/// What a command line asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    Version,
    Run(Values),
}

/// Parses a command line without the program's name.
pub(crate) fn parse_flags(args: &[String]) -> Result<Asked, OptionError> {
    let mut values = Values::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if matches!(arg.as_str(), "--help" | "-h") {
            return Ok(Asked::Help);
        }
        if matches!(arg.as_str(), "--version" | "-v") {
            return Ok(Asked::Version);
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let option = match (name.strip_prefix("--"), name.strip_prefix('-')) {
            (Some(long), _) => OPTIONS.iter().find(|option| !long.is_empty() && option.flag == long),
            (None, Some(short)) => {
                let mut letters = short.chars();
                let letter = letters.next();
                let found = OPTIONS.iter().find(|option| letter.is_some() && option.short == letter);
                // `-Hunix://...` carries its value behind the letter.
                if letters.as_str().is_empty() {
                    found
                } else if let Some(option) = found.filter(|option| option.shape != Bool) {
                    let behind = arg.get(2..).unwrap_or("").trim_start_matches('=');
                    values.entry(option.flag).or_default().push(behind.to_owned());
                    continue;
                } else {
                    None
                }
            }
            (None, None) => return Err(OptionError::Unexpected(arg.clone())),
        };
        let option = option.ok_or_else(|| OptionError::UnknownFlag(name.to_owned()))?;
        let value = match (option.shape, inline) {
            (_, Some(value)) => value,
            (Bool, None) => "true".to_owned(),
            (One | Int | List | Map, None) => {
                rest.next().cloned().ok_or_else(|| OptionError::NeedsValue(name.to_owned()))?
            }
        };
        check(option, &value)?;
        values.entry(option.flag).or_default().push(value);
    }
    Ok(Asked::Run(values))
}

/// Reads `daemon.json`.
pub(crate) fn parse_file(file: &str, text: &str) -> Result<Values, OptionError> {
    let broken = |why: String| OptionError::File { file: file.to_owned(), why };
    if text.trim().is_empty() {
        return Ok(Values::new());
    }
    let map: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    let mut values = Values::new();
    let mut unknown = Vec::new();
    for (key, value) in map {
        match OPTIONS.iter().find(|option| !option.key.is_empty() && option.key == key) {
            None => unknown.push(key),
            Some(option) => {
                let at = || line_of(text, &key).map(|line| format!(" (line {line})")).unwrap_or_default();
                let list = file_values(&key, option.shape, &value)
                    .map_err(|why| broken(format!("{why}{}", at())))?;
                for value in &list {
                    check(option, value).map_err(|why| broken(format!("{why}{}", at())))?;
                }
                let name = if option.flag.is_empty() { option.key } else { option.flag };
                values.insert(name, list);
            }
        }
    }
    if unknown.is_empty() {
        Ok(values)
    } else {
        Err(broken(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )))
    }
}

/// The line on which a key stands, from one.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let quoted = format!("\"{key}\"");
    let key_at = |(at, found): &(usize, &str)| {
        text.get(at + found.len()..).is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let (at, _) = text.match_indices(&quoted).find(key_at)?;
    text.get(..at).map(|before| before.matches('\n').count() + 1)
}

fn file_values(key: &str, shape: Shape, value: &serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value;
    let plain = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("{key}: unexpected {other}")),
    };
    // An entry with parts of its own (a runtime, an ulimit) stays JSON; a text is itself.
    let entry = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (shape, value) {
        (_, Value::Null) => Ok(Vec::new()),
        (Bool, Value::Bool(flag)) => Ok(vec![flag.to_string()]),
        (Bool, other) => Err(format!("{key}: want true or false, got {other}")),
        (Int, Value::Number(number)) if number.is_i64() => Ok(vec![number.to_string()]),
        (Int, other) => Err(format!("{key}: want a whole number, got {other}")),
        (One, Value::String(_) | Value::Number(_)) => Ok(vec![plain(value)?]),
        (One, other) => Err(format!("{key}: want a text, got {other}")),
        (List, Value::Array(list)) if key == "default-address-pools" => Ok(list.iter().map(entry).collect()),
        (List, Value::Array(list)) => list.iter().map(plain).collect(),
        (List, other) => Err(format!("{key}: want a list, got {other}")),
        (Map, Value::Object(map)) => {
            Ok(map.iter().map(|(name, value)| format!("{name}={}", entry(value))).collect())
        }
        (Map, other) => Err(format!("{key}: want an object, got {other}")),
    }
}

fn check(option: &Opt, value: &str) -> Result<(), OptionError> {
    let name = if option.flag.is_empty() { option.key.to_owned() } else { format!("--{}", option.flag) };
    if option.shape == Bool && !matches!(value, "true" | "false" | "1" | "0") {
        return Err(OptionError::Invalid { name, value: value.to_owned(), why: "want true or false" });
    }
    if option.shape == Int && value.parse::<i64>().is_err() {
        return Err(OptionError::Invalid { name, value: value.to_owned(), why: "want a whole number" });
    }
    match option.rule {
        Used | Meaningless(_) => Ok(()),
        Only(allowed) => {
            let canonical = match (option.shape, value) {
                (Bool, "1") => "true",
                (Bool, "0") => "false",
                (_, other) => other,
            };
            if allowed.contains(&canonical) {
                Ok(())
            } else {
                Err(OptionError::NotYet { name, value: value.to_owned() })
            }
        }
    }
}

/// Joins flags and file; an option in both is an error, as dockerd's.
pub(crate) fn join(flags: Values, file: Values) -> Result<Values, OptionError> {
    let shown = |name: &str, values: &[String]| match OPTIONS.iter().find(|option| option.flag == name) {
        Some(option) if matches!(option.shape, List | Map) => (option.key, format!("{values:?}")),
        _ => ("", values.last().cloned().unwrap_or_default()),
    };
    let twice: Vec<String> = flags
        .iter()
        .filter_map(|(name, given)| {
            let written = file.get(name)?;
            let (key, from_flag) = shown(name, given);
            let (_, from_file) = shown(name, written);
            let name = if key.is_empty() { name } else { key };
            Some(format!("{name}: (from flag: {from_flag}, from file: {from_file})"))
        })
        .collect();
    if !twice.is_empty() {
        return Err(OptionError::Twice(twice.join(", ")));
    }
    let mut values = flags;
    values.extend(file);
    Ok(values)
}

/// The help text.
pub(crate) fn help(program: &str) -> String {
    let mut text = format!(
        "\nUsage:  {program} [OPTIONS]\n\nThe engine: runs containers and serves the Engine API.\n\nOptions:\n"
    );
    for option in OPTIONS.iter().filter(|option| !option.flag.is_empty()) {
        let short = option.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
        let kind = match option.shape {
            Bool => "",
            One => " string",
            Int => " int",
            List => " list",
            Map => " map",
        };
        let left = format!("  {short}--{}{kind}", option.flag);
        let note = match option.rule {
            Used => String::new(),
            Meaningless(why) => format!(" (no effect: {why})"),
            Only([]) => " (not yet supported)".to_owned(),
            Only(values) => format!(" (only {})", values.join(", ")),
        };
        text.push_str(&format!("{left:<44} {}{note}\n", option.help));
    }
    text.push_str("      --help                                 Print usage\n");
    text.push_str("  -v, --version                              Print version information and quit\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Result<Asked, OptionError> {
        parse_flags(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_in_every_spelling() {
        let Asked::Run(values) =
            flags("-D --host unix:///a -Hunix:///b --data-root=/d --iptables=false --debug=false").unwrap()
        else {
            panic!()
        };
        assert_eq!(values["host"], ["unix:///a", "unix:///b"]);
        assert_eq!(values["data-root"], ["/d"]);
        assert_eq!(values["debug"], ["true", "false"]);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let error = |text| flags(text).unwrap_err().to_string();
        assert_eq!(error("--userns-remap=default"), "not yet supported: --userns-remap=default");
        assert!(error("--nonsense").starts_with("unknown flag: --nonsense"));
        assert!(error("--data-root").starts_with("flag needs an argument"));
        assert!(flags("--storage-driver overlay2 --containerd /x --live-restore").is_ok());
    }

    #[test]
    fn the_file_knows_the_same_options_and_contradictions_are_refused() {
        let file = parse_file("d.json", r#"{"debug":true,"hosts":["unix:///a"],"data-root":"/d"}"#).unwrap();
        assert_eq!(file["host"], ["unix:///a"]);
        let Asked::Run(given) = flags("--data-root /e").unwrap() else { panic!() };
        assert_eq!(
            join(given, file).unwrap_err().to_string(),
            "the following directives are specified both as a flag and in the configuration file: data-root: (from flag: /e, from file: /d)"
        );
        let unknown = parse_file("d.json", r#"{"debgu":true}"#).unwrap_err().to_string();
        assert!(unknown.contains("debgu"), "{unknown}");
        let typed = |text| parse_file("d.json", text).unwrap_err().to_string();
        let wrong = typed("{\n  \"labels\": [\"debug\"],\n  \"debug\": \"yes\"\n}");
        assert!(wrong.ends_with("d.json: debug: want true or false, got \"yes\" (line 3)"), "{wrong}");
        assert!(typed(r#"{"shutdown-timeout":"x"}"#).contains("shutdown-timeout: want a whole number"));
        assert!(typed(r#"{"userns-remap":"default"}"#).contains("not yet supported: --userns-remap=default"));
        assert!(parse_file("d.json", "{").is_err());
    }

    #[test]
    fn no_option_is_there_twice() {
        let mut names: Vec<_> = OPTIONS.iter().map(|option| (option.flag, option.key)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
    }
}
