//! `--volume`, `--mount`, `--tmpfs`.

use std::collections::BTreeMap;
use std::path::Path;

use havre_api::host::{BindOptions, DriverConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions};

use crate::format::units::parse_bytes;

/// What one `--volume` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// A new volume at this path.
    Anonymous(String),
    /// `source:target[:options]`, the source made absolute.
    Bind(String),
}

/// Reads one `--volume`.
pub(super) fn volume(text: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    match parts.as_slice() {
        [path] => Ok(Volume::Anonymous((*path).to_owned())),
        [source, rest @ ..] if rest.len() <= 2 => {
            let relative =
                *source == "." || source.starts_with("./") || source.starts_with("../") || *source == "..";
            let home = source.starts_with('~');
            let source = if relative { absolute(source)? } else { (*source).to_owned() };
            if home {
                return Err(format!(
                    "invalid volume specification: '{text}': the shell expands ~, not the engine"
                ));
            }
            Ok(Volume::Bind(format!("{source}:{}", rest.join(":"))))
        }
        _ => Err(format!("invalid spec: {text}: too many colons")),
    }
}

/// The path with the present directory before it, `.` and `..` resolved by name.
fn absolute(path: &str) -> Result<String, String> {
    let here =
        std::env::current_dir().map_err(|error| format!("cannot tell the present directory: {error}"))?;
    let mut clean = std::path::PathBuf::new();
    for part in here.join(Path::new(path)).components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean.to_string_lossy().into_owned())
}

/// Reads one `--tmpfs`.
pub(super) fn tmpfs(text: &str) -> (String, String) {
    match text.split_once(':') {
        Some((path, options)) => (path.into(), options.into()),
        None => (text.into(), String::new()),
    }
}

/// Splits a line of comma separated values; a field may be quoted to hold commas.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    fields.push(field);
    Ok(fields)
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(format!("invalid value for {key}: {value}")),
    }
}

/// Reads one `--mount`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { kind: "volume".into(), ..Mount::default() };
    let mut bind = BindOptions::default();
    let mut volume = VolumeOptions::default();
    let mut driver = DriverConfig::default();
    let mut image = ImageOptions::default();
    let mut tmpfs = TmpfsOptions::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let flag = matches!(
            key.as_str(),
            "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive" | "bind-create-src"
        );
        let text = match value {
            Some(value) => value,
            None if flag => "",
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        let bad = || format!("invalid value for {key}: {text}");
        match key.as_str() {
            "type" => mount.kind = text.to_lowercase(),
            "source" | "src" => {
                mount.source =
                    if text.starts_with("./") || text == "." { absolute(text)? } else { text.into() };
            }
            "target" | "dst" | "destination" => mount.target = text.into(),
            "readonly" | "ro" => mount.read_only = truth(&key, value)?,
            "consistency" => mount.consistency = text.to_lowercase(),
            "bind-propagation" => bind.propagation = text.to_lowercase(),
            "bind-nonrecursive" => bind.non_recursive = truth(&key, value)?,
            "bind-create-src" => bind.create_mountpoint = truth(&key, value)?,
            "bind-recursive" => match text {
                "enabled" => {}
                "disabled" => bind.non_recursive = true,
                "writable" => bind.read_only_non_recursive = true,
                "readonly" => bind.read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                        bad()
                    ));
                }
            },
            "volume-subpath" => volume.subpath = text.into(),
            "volume-nocopy" => volume.no_copy = truth(&key, value)?,
            "volume-label" => insert(&mut volume.labels, text),
            "volume-driver" => driver.name = text.into(),
            "volume-opt" => insert(&mut driver.options, text),
            "image-subpath" => image.subpath = text.into(),
            "tmpfs-size" => tmpfs.size_bytes = parse_bytes(text).map_err(|_| bad())?,
            "tmpfs-mode" => tmpfs.mode = u32::from_str_radix(text, 8).map_err(|_| bad())?,
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.kind.is_empty() {
        return Err("type is required".into());
    }
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    if driver != DriverConfig::default() {
        volume.driver_config = Some(driver);
    }
    let options = [
        ("volume", volume != VolumeOptions::default()),
        ("bind", bind != BindOptions::default()),
        ("image", image != ImageOptions::default()),
        ("tmpfs", tmpfs != TmpfsOptions::default()),
    ];
    for (kind, given) in options {
        if given && mount.kind != kind {
            return Err(format!("cannot mix '{kind}-*' options with mount type '{}'", mount.kind));
        }
    }
    match mount.kind.as_str() {
        "bind" if bind != BindOptions::default() => mount.bind_options = Some(bind),
        "volume" if volume != VolumeOptions::default() => mount.volume_options = Some(volume),
        "image" if image != ImageOptions::default() => mount.image_options = Some(image),
        "tmpfs" if tmpfs != TmpfsOptions::default() => mount.tmpfs_options = Some(tmpfs),
        _ => {}
    }
    Ok(mount)
}

fn insert(map: &mut Option<BTreeMap<String, String>>, text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    map.get_or_insert_default().insert(name.into(), value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_anonymous_or_bound() {
        assert_eq!(volume("/data"), Ok(Volume::Anonymous("/data".into())));
        assert_eq!(volume("/a:/b:ro,z"), Ok(Volume::Bind("/a:/b:ro,z".into())));
        assert_eq!(volume("name:/b"), Ok(Volume::Bind("name:/b".into())));
        let here = std::env::current_dir().unwrap().display().to_string();
        assert_eq!(volume("./x/../y:/b"), Ok(Volume::Bind(format!("{here}/y:/b"))));
        for bad in [":::", "a:", ":b", "a:b:c:d", ""] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_read_docker_keys() {
        let got = mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave").unwrap();
        assert_eq!((got.kind.as_str(), got.source.as_str(), got.target.as_str()), ("bind", "/a", "/b"));
        assert!(got.read_only);
        assert_eq!(got.bind_options.unwrap().propagation, "rslave");
        let got =
            mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1777").unwrap().tmpfs_options.unwrap();
        assert_eq!((got.size_bytes, got.mode), (67_108_864, 0o1777));
        let got = mount("source=v,target=/t,\"volume-opt=o=a,b\"").unwrap().volume_options.unwrap();
        assert_eq!(got.driver_config.unwrap().options.unwrap()["o"], "a,b");
    }

    #[test]
    fn mounts_refuse_what_makes_no_sense() {
        for (text, message) in [
            ("type=foo", "target is required"),
            ("type=bind,target", "invalid field 'target' must be a key=value pair"),
            ("target=/x,color=red", "unexpected key 'color' in 'color=red'"),
            ("type=bind,target=/x,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            ("target=/x,readonly=maybe", "invalid value for readonly: maybe"),
        ] {
            assert_eq!(mount(text).unwrap_err(), message, "{text}");
        }
    }
}
