//! The Dockerfile instructions that `import --change` and `commit --change` accept.

use havre_oci::image::{ContainerConfig, Empty, Healthcheck};

use crate::{ImageError, Result};

/// Applies instructions to a configuration, in order.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    changes
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .try_for_each(|line| one(config, line))
}

fn wrong(text: impl Into<String>) -> ImageError {
    ImageError::Change(text.into())
}

fn one(config: &mut ContainerConfig, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
    let needs = |what: &str| wrong(format!("{word} requires {what}"));
    if rest.is_empty() && !matches!(word.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(needs("at least one argument"));
    }
    match word.as_str() {
        "CMD" => config.cmd = Some(command(rest, config)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest, config));
            // The command was meant for the entry point before.
            config.cmd = None;
        }
        "ENV" => {
            for (key, value) in pairs(rest, true)? {
                let prefix = format!("{key}=");
                config.env.retain(|old| !old.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, true)?),
        "EXPOSE" => {
            for port in words(rest)? {
                for port in ports(&port)? {
                    config.exposed_ports.insert(port, Empty {});
                }
            }
        }
        "USER" => config.user = rest.into(),
        "VOLUME" => {
            let folders = json_words(rest).map_or_else(|| words(rest), Ok)?;
            for folder in folders {
                if folder.trim().is_empty() {
                    return Err(wrong("VOLUME specified can not be an empty string"));
                }
                config.volumes.insert(folder, Empty {});
            }
        }
        "WORKDIR" => {
            let folder = words(rest)?.join(" ");
            config.working_dir = match (folder.starts_with('/'), config.working_dir.trim_end_matches('/')) {
                (true, _) => folder,
                (false, base) => format!("{base}/{folder}"),
            };
        }
        "STOPSIGNAL" => config.stop_signal = rest.into(),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match trigger.as_str() {
                "ONBUILD" => return Err(wrong("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
                "FROM" | "MAINTAINER" => {
                    return Err(wrong(format!("{trigger} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.push(rest.into()),
            }
        }
        _ => return Err(wrong(format!("{word} is not a valid change command"))),
    }
    Ok(())
}

fn json_words(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A list of words as JSON, or a line for the shell.
fn command(text: &str, config: &ContainerConfig) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    json_words(text).unwrap_or_else(|| {
        let shell = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        shell.into_iter().chain([text.to_owned()]).collect()
    })
}

/// Splits at blanks; quotes and backslashes keep blanks inside.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => match characters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => word.get_or_insert_default().push('\\'),
            },
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(wrong(format!("unexpected end of statement while looking for matching quote: {text}")));
    }
    all.extend(word);
    Ok(all)
}

/// `key=value key2="value 2"`, or the old `key value with blanks`.
fn pairs(text: &str, old_form: bool) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if old_form && !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or_else(|| {
            wrong(format!("Syntax error - can't find = in {text:?}. Must be of the form: name=value"))
        })?;
        return Ok(vec![(key.into(), value.trim().into())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(wrong(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// `80`, `80/udp`, `8000-8005`.
fn ports(text: &str) -> Result<Vec<String>> {
    let error = || wrong(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong(format!("invalid proto: {protocol}")));
    }
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (low, high): (u16, u16) = (low.parse().map_err(|_| error())?, high.parse().map_err(|_| error())?);
    if low == 0 || low > high {
        return Err(error());
    }
    Ok((low..=high).map(|port| format!("{port}/{protocol}")).collect())
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) =
            flag.split_once('=').ok_or_else(|| wrong(format!("Missing a value on flag: {flag}")))?;
        let duration = || {
            go_duration(value)
                .filter(|d| *d == 0 || *d >= 1_000_000)
                .ok_or_else(|| wrong(format!("invalid duration {value:?} for --{name}")))
        };
        match name {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => {
                let retries = value.parse().ok().filter(|n| *n >= 0);
                check.retries =
                    retries.ok_or_else(|| wrong(format!("--retries cannot be negative or {value:?}")))?;
            }
            _ => return Err(wrong(format!("Unknown flag: {name}"))),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".into()],
        "NONE" => return Err(wrong("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(wrong("Missing command after HEALTHCHECK CMD")),
        "CMD" => match json_words(command) {
            Some(words) => ["CMD".to_owned()].into_iter().chain(words).collect(),
            None => vec!["CMD-SHELL".into(), command.into()],
        },
        _ => return Err(wrong(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

/// Go's duration, as `1h30m` or `1.5s`, in nanoseconds.
pub fn go_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        rest = after;
        let scale = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000_i64,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(i64::from(digit - b'0').checked_mul(place)?)?;
        }
    }
    (!text.is_empty()).then_some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        apply(&mut config, &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())?;
        Ok(config)
    }

    #[test]
    fn instructions_do_what_they_do_in_a_dockerfile() {
        let config = changed(&[
            "cmd echo hi",
            "ENTRYPOINT [\"/x\", \"y\"]",
            "CMD [\"a\"]",
            r#"ENV A=1 B="two words" C=it\ is"#,
            "ENV A new value",
            "LABEL one=1 two=\"2 2\"",
            "EXPOSE 80 53/udp 90-92",
            "VOLUME /data \"/my data\"",
            "VOLUME [\"/x\"]",
            "WORKDIR /a",
            "WORKDIR b",
            "USER bob:wheel",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl localhost",
            "ONBUILD RUN make",
        ])
        .unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/x", "y"]);
        assert_eq!(config.cmd.unwrap(), ["a"]);
        assert_eq!(config.env, ["B=two words", "C=it is", "A=new value"]);
        assert_eq!(config.labels["two"], "2 2");
        let ports: Vec<_> = config.exposed_ports.keys().map(String::as_str).collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "90/tcp", "91/tcp", "92/tcp"]);
        let volumes: Vec<_> = config.volumes.keys().map(String::as_str).collect();
        assert_eq!(volumes, ["/data", "/my data", "/x"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/a/b", "bob:wheel"));
        let check = config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl localhost"]);
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(config.on_build, ["RUN make"]);
    }

    #[test]
    fn others_are_refused() {
        for bad in [
            "RUN make",
            "FROM x",
            "ENV",
            "ENV =x",
            "LABEL a=1 b",
            "EXPOSE 0",
            "EXPOSE 80/icmp",
            "EXPOSE 90-80",
            "ONBUILD FROM x",
            "ONBUILD ONBUILD RUN x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --x=1 NONE",
            "HEALTHCHECK --interval=1 NONE",
            "LABEL a=\"open",
        ] {
            assert!(changed(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1.5s", Some(1_500_000_000)),
            ("1h2m3s4ms5us6ns", Some(3_723_004_005_006)),
            ("-3m", Some(-180_000_000_000)),
            (".5m", Some(30_000_000_000)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1..5s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(go_duration(text), expected, "{text}");
        }
    }
}
