//! Values of options that have a form of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use havre_api::ApiVersion;
use havre_engine::hygiene::{Mark, Watermarks};
use havre_image::change::go_duration;
use havre_oci::runtime::Rlimit;
use havre_server::Defaults;

use crate::DaemonError;

type Result<T> = std::result::Result<T, DaemonError>;

fn refuse<T>(text: String) -> Result<T> {
    Err(DaemonError::Config(text))
}

/// Labels are `key=value`, and no key has two values.
pub(crate) fn check_labels(labels: &[String]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for label in labels {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return refuse(format!("bad attribute format: {label}"));
        };
        if seen.insert(key, value).is_some_and(|other| other != value) {
            return refuse(format!("conflict labels for {key}={value}"));
        }
    }
    Ok(())
}

/// Whether published ports are judged by the host's rules for its own input.
pub(crate) fn by_input(asked: Option<&str>) -> Result<bool> {
    match asked {
        None | Some("forward") => Ok(false),
        Some("host-input") => Ok(true),
        Some(other) => refuse(format!("invalid publish-policy: {other}: want forward or host-input")),
    }
}

/// The oldest API version to answer.
pub(crate) fn oldest(asked: Option<&str>) -> Result<ApiVersion> {
    let Some(text) = asked else { return Ok(ApiVersion::OLDEST) };
    match ApiVersion::parse(text) {
        Some(version) if version < ApiVersion::OLDEST => {
            refuse(format!("minimum supported API version is {}: {text}", ApiVersion::OLDEST))
        }
        Some(version) if version > ApiVersion::CURRENT => {
            refuse(format!("maximum supported API version is {}: {text}", ApiVersion::CURRENT))
        }
        Some(version) => Ok(version),
        None => refuse(format!("invalid min-api-version: {text}")),
    }
}

/// An entry of `default-ulimits`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Ulimit {
    #[serde(default)]
    name: String,
    soft: i64,
    hard: i64,
}

/// Default limits: `name=soft:hard` of flags, `name={...}` of the file.
pub(crate) fn ulimits(texts: &[String]) -> Result<Vec<Rlimit>> {
    let mut limits = BTreeMap::new();
    for text in texts {
        let bad = |why: &str| DaemonError::Config(format!("invalid ulimit argument: {text}: {why}"));
        let (name, value) = text.split_once('=').ok_or_else(|| bad("want name=soft[:hard]"))?;
        let limit = if value.starts_with('{') {
            serde_json::from_str(value).map_err(|error| bad(&error.to_string()))?
        } else {
            let (soft, hard) = value.split_once(':').unwrap_or((value, value));
            let number = |text: &str| text.parse::<i64>().map_err(|error| bad(&error.to_string()));
            Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? }
        };
        let name = if limit.name.is_empty() { name } else { limit.name.as_str() };
        let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        if soft > hard {
            return Err(bad("the soft limit must be less than or equal to the hard limit"));
        }
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        if !havre_server::is_ulimit(name) {
            return Err(bad("invalid ulimit type"));
        }
        limits.insert(kind.clone(), Rlimit { kind, soft, hard });
    }
    Ok(limits.into_values().collect())
}

/// What may be switched. The names of dockerd's other features mean nothing here, whatever their value,
/// because what they are about does not exist.
const FEATURES: &[(&str, Option<bool>)] = &[
    ("time-namespaces", None),
    ("buildkit", None),
    ("cdi", None),
    ("containerd-snapshotter", Some(false)),
    ("containerd-migration", Some(false)),
    ("embedded-containerd", Some(false)),
    ("swarm-nftables", Some(false)),
];

/// The folders with descriptions of devices. An empty name, as in `--cdi-spec-dir ""`, means none at all.
pub(crate) fn cdi_folders(given: &[String]) -> Vec<PathBuf> {
    match given {
        [] => havre_engine::CDI_FOLDERS.iter().map(PathBuf::from).collect(),
        given => given.iter().filter(|text| !text.is_empty()).map(PathBuf::from).collect(),
    }
}

/// Features by name.
pub(crate) fn features(texts: &[String]) -> Result<BTreeMap<String, bool>> {
    let mut features = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let value = match value {
            "true" | "1" => true,
            "false" | "0" => false,
            other => {
                return refuse(format!(
                    "invalid value for feature {name}: {other:?} is neither true nor false"
                ));
            }
        };
        match FEATURES.iter().find(|(known, _)| *known == name) {
            None => return refuse(format!("unknown feature: {name}")),
            Some((_, Some(only))) if *only != value => {
                return refuse(format!("not yet supported: feature {name}={value}"));
            }
            Some(_) => drop(features.insert(name.to_owned(), value)),
        }
    }
    Ok(features)
}

/// The proxies for HTTP and HTTPS, and what goes around them: flags, else the file's `proxies`, else the
/// environment.
pub(crate) fn proxies(
    last: &impl Fn(&str) -> Option<String>,
    of_file: &[String],
    environment: &impl Fn(&str) -> Option<String>,
) -> Result<[String; 3]> {
    let known = ["http-proxy", "https-proxy", "no-proxy"];
    let mut file = BTreeMap::new();
    for text in of_file {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if !known.contains(&name) {
            return refuse(format!(
                "the following directives don't match any configuration option: proxies.{name}"
            ));
        }
        file.insert(name, value);
    }
    Ok(known.map(|name| {
        let variable = name.replace('-', "_");
        last(name)
            .or_else(|| file.get(name).map(|value| (*value).to_owned()))
            .or_else(|| environment(&variable.to_ascii_uppercase()))
            .or_else(|| environment(&variable))
            .unwrap_or_default()
    }))
}

/// What of a proxy is for everybody who may ask.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rsplit_once('@')) {
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}{}", rest.get(end..).unwrap_or("")),
        None => url.to_owned(),
    }
}

/// `disk-watermarks`: `high` and `low` as percent that are used (`90%`) or bytes that are free (`10GB`), `min-age` as a
/// duration (`1h`).
pub(crate) fn watermarks(texts: &[String]) -> Result<Option<Watermarks>> {
    let name = |key: &str| format!("disk-watermarks.{key}");
    let (mut high, mut low, mut min_age) = (None, None, Duration::from_secs(3600));
    for text in texts {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match key {
            "high" => high = Some(mark(&name(key), value)?),
            "low" => low = Some(mark(&name(key), value)?),
            "min-age" => {
                let nanos = go_duration(value).and_then(|nanos| u64::try_from(nanos).ok());
                let Some(nanos) = nanos else {
                    return refuse(format!("invalid {}: {value:?} is no duration such as 1h", name(key)));
                };
                min_age = Duration::from_nanos(nanos);
            }
            other => {
                return refuse(format!("unknown key {:?}: there are high, low and min-age", name(other)));
            }
        }
    }
    match (high, low) {
        (None, None) if texts.is_empty() => Ok(None),
        (Some(Mark::Used(high)), Some(Mark::Used(low))) if low > high => {
            refuse(format!("disk-watermarks: low ({low}%) is above high ({high}%): removing would never end"))
        }
        (Some(Mark::Free(high)), Some(Mark::Free(low))) if low < high => refuse(format!(
            "disk-watermarks: low ({low} bytes free) leaves less room than high ({high} bytes free)"
        )),
        (Some(high @ Mark::Used(_)), Some(low @ Mark::Used(_)))
        | (Some(high @ Mark::Free(_)), Some(low @ Mark::Free(_))) => {
            Ok(Some(Watermarks { high, low, min_age }))
        }
        (Some(_), Some(_)) => {
            refuse("disk-watermarks: high and low have to be both percent or both bytes".to_owned())
        }
        _ => refuse("disk-watermarks needs high and low, such as \"90%\" and \"80%\"".to_owned()),
    }
}

fn mark(name: &str, value: &str) -> Result<Mark> {
    let percent = value.strip_suffix('%').map(|number| number.trim().parse().ok().filter(|n| *n <= 100));
    let found = match percent {
        Some(percent) => percent.map(Mark::Used),
        None => havre_server::parse_size(name, value).ok().map(Mark::Free),
    };
    match found {
        Some(mark) => Ok(mark),
        None => refuse(format!(
            "invalid {name}: {value:?} is neither percent that are used, such as 90%, nor bytes that are free, such as 10GB"
        )),
    }
}

/// What requests to create a container leave open.
pub(crate) fn defaults(last: &impl Fn(&str) -> Option<String>, log_options: &[String]) -> Result<Defaults> {
    let mut defaults = Defaults::default();
    if let Some(text) = last("default-shm-size") {
        defaults.shm_size = havre_server::parse_size("default-shm-size", &text)
            .ok()
            .and_then(|bytes| i64::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| {
                DaemonError::Config(format!("invalid default-shm-size: invalid size: '{text}'"))
            })?;
    }
    if let Some(mode) = last("default-ipc-mode") {
        if !matches!(mode.as_str(), "private" | "shareable") {
            return refuse(format!("IPC mode \"{mode}\" is not supported as default value"));
        }
        defaults.ipc_mode = mode;
    }
    if let Some(mode) = last("default-cgroupns-mode") {
        if !matches!(mode.as_str(), "private" | "host") {
            return refuse(format!("invalid default cgroup namespace ({mode}): use \"host\" or \"private\""));
        }
        defaults.cgroupns_mode = mode;
    }
    if let Some(driver) = last("log-driver") {
        defaults.log_driver = driver;
    }
    for text in log_options {
        let Some((name, value)) = text.split_once('=') else {
            return refuse(format!("invalid log option {text:?}: want name=value"));
        };
        defaults.log_options.insert(name.to_owned(), value.to_owned());
    }
    havre_server::check_log(&defaults.log_driver, &defaults.log_options)
        .map_err(|error| DaemonError::Config(format!("failed to set log opts: {error}")))?;
    Ok(defaults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn ulimits_come_from_flags_and_the_file() {
        let given = strings(&["nofile=1024:2048", r#"nproc={"Name":"nproc","Soft":-1,"Hard":-1}"#]);
        let limits = ulimits(&given).unwrap();
        assert_eq!(limits[0], Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1024, hard: 2048 });
        assert_eq!((limits[1].soft, limits[1].hard), (u64::MAX, u64::MAX));
        for bad in ["nofile", "nofile=x", "nofile=2:1", "nonsense=1", "nofile={}"] {
            assert!(ulimits(&strings(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn proxies_hide_their_credentials() {
        let none = |_: &str| None;
        let file = strings(&["http-proxy=http://user:secret@proxy:3128/x", "no-proxy=localhost"]);
        let proxies = proxies(&none, &file, &none).unwrap();
        assert_eq!(proxies[0], "http://user:secret@proxy:3128/x");
        assert_eq!(
            proxies.map(|text| without_password(&text)),
            ["http://xxxxx:xxxxx@proxy:3128/x", "", "localhost"]
        );
        assert!(super::proxies(&none, &strings(&["ftp-proxy=x"]), &none).is_err());
    }

    #[test]
    fn watermarks_are_in_order_and_of_one_kind() {
        let read = |texts: &[&str]| watermarks(&strings(texts));
        assert_eq!(read(&[]).unwrap(), None);
        let marks = read(&["high=90%", "low=80%"]).unwrap().unwrap();
        assert_eq!((marks.high, marks.min_age.as_secs()), (Mark::Used(90), 3600));
        let marks = read(&["high=1kb", "low=2kb", "min-age=0s"]).unwrap().unwrap();
        assert_eq!((marks.low, marks.min_age.as_secs()), (Mark::Free(2048), 0));
        for bad in [
            &["high=90%"][..],
            &["high=80%", "low=90%"],
            &["high=2kb", "low=1kb"],
            &["high=90%", "low=1kb"],
            &["high=101%", "low=1%"],
            &["high=x", "low=1%"],
            &["high=90%", "low=80%", "min-age=-1h"],
            &["high=90%", "low=80%", "max-age=1h"],
        ] {
            assert!(read(bad).unwrap_err().to_string().contains("disk-watermarks"), "{bad:?}");
        }
    }

    #[test]
    fn features_are_known_or_refused() {
        assert_eq!(features(&strings(&["buildkit=true", "time-namespaces=false"])).unwrap().len(), 2);
        let later = features(&strings(&["containerd-snapshotter=true"])).unwrap_err();
        assert!(later.to_string().contains("not yet supported"));
        assert!(features(&strings(&["nonsense=true"])).is_err());
    }
}
