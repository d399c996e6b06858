//! Mounts of a create request: `Binds`, `Mounts` and `Tmpfs`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use havre_api::container::Config;
use havre_api::host::{HostConfig, Mount};
use havre_engine::spec::{MountKind, MountSpec, RecursiveReadOnly};

use crate::error::Refusal;

const PROPAGATIONS: &[&str] = &["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// All mounts, refusing two at one place.
pub(super) fn mounts(_config: &Config, host: &HostConfig) -> Result<Vec<MountSpec>, Refusal> {
    let mut list = Vec::new();
    for text in host.binds.iter().flatten() {
        list.push(bind(text)?);
    }
    for mount in host.mounts.iter().flatten() {
        list.push(typed(mount)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        list.push(tmpfs(target, options)?);
    }
    let mut seen = BTreeSet::new();
    for mount in &list {
        if !seen.insert(mount.target.clone()) {
            return Err(Refusal::invalid(format!("Duplicate mount point: {}", mount.target)));
        }
    }
    Ok(list)
}

/// An absolute, cleaned path inside the container that is not its root.
fn target(text: &str, whole: &str) -> Result<String, Refusal> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Refusal::invalid(format!(
            "invalid volume specification: '{whole}': invalid mount config: mount path must be absolute"
        )));
    }
    let clean = havre_engine::clean_path(text);
    if clean == "/" {
        return Err(Refusal::invalid(format!(
            "invalid volume specification: '{whole}': invalid specification: destination can't be '/'"
        )));
    }
    Ok(clean)
}

/// `SOURCE:TARGET[:OPTION,...]`.
fn bind(text: &str) -> Result<MountSpec, Refusal> {
    let invalid = |why: &str| Refusal::invalid(format!("invalid volume specification: '{text}'{why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, inside, mode) = match parts.as_slice() {
        [_] => return Err(Refusal::not_yet("anonymous volumes (-v /path)")),
        [source, inside] => (*source, *inside, ""),
        [source, inside, mode] => (*source, *inside, *mode),
        _ => return Err(invalid("")),
    };
    if source.is_empty() || inside.is_empty() {
        return Err(invalid(""));
    }
    if !source.starts_with('/') {
        return Err(Refusal::not_yet(&format!("named volumes ({source}); use an absolute path")));
    }
    let (mut read_only, mut propagation) = (false, "rprivate");
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels mean nothing without SELinux; consistency means nothing on Linux; a bind copies nothing.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" | "default" | "nocopy" => {}
            other if PROPAGATIONS.contains(&other) => propagation = other,
            other => return Err(invalid(&format!(": invalid mode: {other}"))),
        }
    }
    Ok(MountSpec {
        target: target(inside, text)?,
        kind: MountKind::Bind {
            source: PathBuf::from(source),
            create: true,
            recursive: true,
            recursive_read_only: RecursiveReadOnly::Try,
            propagation: propagation.to_owned(),
        },
        read_only,
        mode: mode.to_owned(),
    })
}

fn typed(mount: &Mount) -> Result<MountSpec, Refusal> {
    let bad =
        |why: String| Refusal::invalid(format!("invalid mount config for type \"{}\": {why}", mount.kind));
    if mount.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    let inside = target(&mount.target, &mount.target)?;
    match mount.kind.as_str() {
        "bind" => {
            if !mount.source.starts_with('/') {
                return Err(bad(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if mount.volume_options.is_some() || mount.tmpfs_options.is_some() {
                return Err(bad("field VolumeOptions or TmpfsOptions must not be specified".into()));
            }
            let propagation = match options.propagation.as_str() {
                "" => "rprivate",
                word if PROPAGATIONS.contains(&word) => word,
                other => return Err(bad(format!("invalid propagation mode: {other}"))),
            };
            let recursive_read_only =
                match (options.read_only_non_recursive, options.read_only_force_recursive) {
                    (true, true) => {
                        return Err(bad(
                            "ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other".into(),
                        ));
                    }
                    (true, false) => RecursiveReadOnly::Never,
                    (false, true) => RecursiveReadOnly::Force,
                    (false, false) => RecursiveReadOnly::Try,
                };
            Ok(MountSpec {
                target: inside,
                kind: MountKind::Bind {
                    source: PathBuf::from(&mount.source),
                    create: options.create_mountpoint,
                    recursive: !options.non_recursive,
                    recursive_read_only,
                    propagation: propagation.to_owned(),
                },
                read_only: mount.read_only,
                mode: String::new(),
            })
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return Err(bad("field Source must not be specified".into()));
            }
            let given = mount.tmpfs_options.clone().unwrap_or_default();
            let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
            for words in given.options.iter().flatten() {
                options.push(words.join("="));
            }
            if given.size_bytes < 0 {
                return Err(bad(format!("invalid size: {}", given.size_bytes)));
            }
            if given.size_bytes > 0 {
                options.push(format!("size={}", given.size_bytes));
            }
            options.push(format!("mode={:o}", if given.mode == 0 { 0o1777 } else { given.mode }));
            Ok(MountSpec {
                target: inside,
                kind: MountKind::Tmpfs { options },
                read_only: mount.read_only,
                mode: String::new(),
            })
        }
        "volume" | "image" | "cluster" => Err(Refusal::not_yet(&format!("mounts of type {}", mount.kind))),
        other => Err(Refusal::invalid(format!("mount type unknown: \"{other}\""))),
    }
}

/// `--tmpfs TARGET[:OPTIONS]`, with Docker's safe defaults first.
fn tmpfs(inside: &str, given: &str) -> Result<MountSpec, Refusal> {
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    let mut read_only = false;
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let opposite = match option {
            "suid" => Some("nosuid"),
            "dev" => Some("nodev"),
            "exec" => Some("noexec"),
            "ro" => {
                read_only = true;
                continue;
            }
            "rw" => continue,
            _ => None,
        };
        options.retain(|known| Some(known.as_str()) != opposite && known != option);
        options.push(option.to_owned());
    }
    if !options.iter().any(|option| option.starts_with("mode=")) {
        options.push("mode=1777".into());
    }
    Ok(MountSpec {
        target: target(inside, inside)?,
        kind: MountKind::Tmpfs { options },
        read_only,
        mode: given.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let mount = bind("/a:/b/../c/:ro,rslave").unwrap();
        assert_eq!(mount.target, "/c");
        assert!(mount.read_only);
        assert!(
            matches!(mount.kind, MountKind::Bind { create: true, ref propagation, .. } if propagation == "rslave")
        );
        for (bad, why) in [
            ("/a:/", "destination can't be '/'"),
            ("/a:b", "must be absolute"),
            ("/a:/b:zz", "invalid mode: zz"),
            ("vol:/b", "not yet supported: named volumes"),
            ("/b", "not yet supported: anonymous volumes"),
        ] {
            let message = bind(bad).unwrap_err().message;
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn tmpfs_options_replace_the_defaults() {
        let MountKind::Tmpfs { options } = tmpfs("/t", "exec,size=1m").unwrap().kind else { panic!() };
        assert_eq!(options, ["nosuid", "nodev", "exec", "size=1m", "mode=1777"]);
    }

    #[test]
    fn two_mounts_at_one_place_are_refused() {
        let host =
            HostConfig { binds: Some(vec!["/a:/x".into(), "/b:/x/.".into()]), ..HostConfig::default() };
        let error = mounts(&Config::default(), &host).unwrap_err().message;
        assert_eq!(error, "Duplicate mount point: /x");
    }
}
