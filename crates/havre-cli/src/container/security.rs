//! `--security-opt`, `--device`, `--ulimit` and their like: texts with a form of their own.

use havre_api::host::{DeviceMapping, ThrottleDevice, Ulimit, WeightDevice};

use crate::failure::file_error;
use crate::format::units::parse_bytes;

/// The options to send, and whether the masked paths are to be left open.
pub(super) fn options(list: &[String]) -> Result<(Vec<String>, bool), String> {
    let mut open = false;
    let mut options = Vec::new();
    for option in list {
        // Docker accepts `seccomp:x` beside `seccomp=x`.
        let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((name, value)) => (name, value),
            None if option == "no-new-privileges" => {
                options.push(option.clone());
                continue;
            }
            None => return Err(format!("Invalid --security-opt: \"{option}\"")),
        };
        match (name, value) {
            ("systempaths", "unconfined") => open = true,
            ("seccomp", "unconfined" | "builtin") => options.push(option.clone()),
            ("seccomp", path) => {
                let profile = std::fs::read_to_string(path).map_err(|error| {
                    format!("opening seccomp profile ({path}) failed: {}", file_error("open", path, &error))
                })?;
                let profile: Box<serde_json::value::RawValue> =
                    serde_json::from_str(&profile).map_err(|error| {
                        format!("compacting json for seccomp profile ({path}) failed: {error}")
                    })?;
                options.push(format!("seccomp={profile}"));
            }
            _ => options.push(option.clone()),
        }
    }
    Ok((options, open))
}

/// Reads `host[:container[:rwm]]`.
pub(super) fn device(text: &str) -> Result<DeviceMapping, String> {
    let rights = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, permissions] if rights(permissions) => (*host, *host, *permissions),
        [host, container] => (*host, *container, "rwm"),
        [host, container, permissions] if rights(permissions) => (*host, *container, *permissions),
        [_, _, permissions] => return Err(format!("bad mode specified: {permissions}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if host.is_empty() || container.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    Ok(DeviceMapping {
        path_on_host: host.into(),
        path_in_container: container.into(),
        cgroup_permissions: permissions.into(),
    })
}

/// Checks `c 1:3 rwm`.
pub(super) fn device_rule(text: &str) -> Result<(), String> {
    let number = |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let good = match text.split(' ').collect::<Vec<_>>().as_slice() {
        [kind, numbers, rights] => {
            matches!(*kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&rights.len())
                && rights.bytes().all(|b| b"rwm".contains(&b))
        }
        _ => false,
    };
    if good { Ok(()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// Checks that a kernel parameter belongs to a namespace, so that a container may have its own.
pub(super) fn sysctl(text: &str) -> Result<(), String> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match text.split_once('=') {
        Some((name, _))
            if IPC.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.") =>
        {
            Ok(())
        }
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

/// What is added and what is dropped, by the kernel's names and in order; what is added is not dropped.
pub(super) fn capabilities(add: &[String], drop: &[String]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let names = |list: &[String]| -> std::collections::BTreeSet<String> {
        let all = list.iter().map(|name| match name.trim().to_uppercase() {
            name if name == "ALL" || name.starts_with("CAP_") => name,
            name => format!("CAP_{name}"),
        });
        let all: std::collections::BTreeSet<String> = all.collect();
        if all.contains("ALL") { std::iter::once("ALL".to_owned()).collect() } else { all }
    };
    let (add, drop) = (names(add), names(drop));
    let drop: Vec<String> = drop.difference(&add).cloned().collect();
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    (some(add.into_iter().collect()), some(drop))
}

/// Reads `name=soft[:hard]`.
pub(super) fn ulimit(text: &str) -> Result<Ulimit, String> {
    const NAMES: [&str; 16] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
        "as",
    ];
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| -> Result<i64, String> {
        text.parse().map_err(|_| format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.into(), soft, hard })
}

/// Reads `path:rate`; with `bytes` the rate is a size.
pub(super) fn throttle(text: &str, bytes: bool) -> Result<ThrottleDevice, String> {
    let (path, rate) = text.rsplit_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let rate = if bytes {
        parse_bytes(rate).ok().and_then(|rate| u64::try_from(rate).ok())
    } else {
        rate.parse().ok()
    };
    let form = if bytes {
        "The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
    } else {
        "The correct format is <device-path>:<number>. Number must be a positive integer"
    };
    let rate = rate.ok_or_else(|| format!("invalid rate for device: {text}. {form}"))?;
    Ok(ThrottleDevice { path: path.into(), rate })
}

/// Reads `path:weight`.
pub(super) fn weight(text: &str) -> Result<WeightDevice, String> {
    let (path, weight) = text.rsplit_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    match weight.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => {
            Ok(WeightDevice { path: path.into(), weight })
        }
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_rules() {
        let got = device("/dev/a:/dev/b:r").unwrap();
        assert_eq!((got.path_in_container.as_str(), got.cgroup_permissions.as_str()), ("/dev/b", "r"));
        assert_eq!(device("/dev/a:rw").unwrap().path_in_container, "/dev/a");
        assert_eq!(device("/dev/a:/dev/b:x").unwrap_err(), "bad mode specified: x");
        assert!(sysctl("net.ipv4.ip_forward=1").is_ok() && sysctl("kernel.sem=1").is_ok());
        assert!(sysctl("net.ipv4.ip_forward").is_err() && sysctl("kernel.panic=1").is_err());
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (add, drop) = capabilities(&list(&["net_admin", "CAP_CHOWN", "chown"]), &list(&["all"]));
        assert_eq!((add.unwrap(), drop.unwrap()), (list(&["CAP_CHOWN", "CAP_NET_ADMIN"]), list(&["ALL"])));
        assert_eq!(capabilities(&list(&["kill"]), &list(&["KILL"])).1, None);
        assert!(device_rule("c 1:* rwm").is_ok());
        for bad in ["c 1:3", "x 1:3 r", "c 1 r", "c a:b r", "c 1:3 rwmr"] {
            assert!(device_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        let got = ulimit("nofile=10:20").unwrap();
        assert_eq!((got.soft, got.hard), (10, 20));
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        for bad in ["nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-1:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        assert_eq!(throttle("/dev/sda:1mb", true).unwrap().rate, 1_048_576);
        assert!(throttle("/dev/sda:1mb", false).is_err());
        assert!(throttle("sda:1", true).is_err());
        assert!(weight("/dev/sda:5").is_err());
    }

    #[test]
    fn seccomp_profiles_are_sent_by_value() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}").unwrap();
        let list = [
            format!("seccomp={}", file.path().display()),
            "systempaths=unconfined".into(),
            "no-new-privileges".into(),
        ];
        let (options, open) = super::options(&list).unwrap();
        assert!(open);
        assert_eq!(options, ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}", "no-new-privileges"]);
        assert!(super::options(&["nonsense".into()]).is_err());
    }
}
