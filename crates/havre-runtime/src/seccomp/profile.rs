//! Docker's form of a profile: rules that hold only for some architectures, capabilities and kernels.

use havre_oci::runtime::{LinuxSeccomp, SeccompAction, SeccompArch, SeccompArg, SeccompFlag, SeccompRule};
use serde::Deserialize;

use crate::capabilities::CapabilitySet;
use crate::error::RuntimeError;

/// Docker's default profile.
const DEFAULT: &str = include_str!("default.json");

/// A profile larger than this is refused before it is parsed.
const MAX_PROFILE: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: SeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<SeccompArch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<SeccompFlag>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: SeccompArch,
    #[serde(default)]
    sub_architectures: Option<Vec<SeccompArch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: SeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<SeccompArg>>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there for the reader of the profile")]
    comment: Option<String>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// What the conditions of a profile are about.
struct Host {
    /// Docker's (that is Go's) word for the architecture.
    arch: &'static str,
    native: SeccompArch,
    kernel: (u32, u32),
}

impl Host {
    fn here() -> Result<Self, RuntimeError> {
        let (arch, native) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", SeccompArch::X86_64),
            "aarch64" => ("arm64", SeccompArch::Aarch64),
            other => {
                return Err(RuntimeError::unsupported(
                    "linux.seccomp",
                    format!("no system call table for {other}"),
                ));
            }
        };
        let uname = rustix::system::uname();
        let kernel = version(&uname.release().to_string_lossy())
            .ok_or_else(|| RuntimeError::unsupported("linux.seccomp", "kernel version is not readable"))?;
        Ok(Self { arch, native, kernel })
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Docker's default profile for a container with these capabilities, on this machine.
pub fn docker_default(caps: &CapabilitySet) -> Result<LinuxSeccomp, RuntimeError> {
    from_docker_json(DEFAULT, caps)
}

/// A profile in Docker's form, or in the specification's, for a container with these capabilities, on
/// this machine.
pub fn from_docker_json(json: &str, caps: &CapabilitySet) -> Result<LinuxSeccomp, RuntimeError> {
    resolve(json, *caps, &Host::here()?)
}

fn resolve(json: &str, caps: CapabilitySet, host: &Host) -> Result<LinuxSeccomp, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("seccomp profile", reason);
    if json.len() > MAX_PROFILE {
        return Err(bad(format!("longer than {MAX_PROFILE} bytes")));
    }
    let profile: Profile = serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
    let architectures =
        match (profile.architectures.unwrap_or_default(), profile.arch_map.unwrap_or_default()) {
            (listed, map) if map.is_empty() => listed,
            (listed, map) if listed.is_empty() => map
                .into_iter()
                .find(|entry| entry.architecture == host.native)
                .map(|entry| {
                    [entry.architecture]
                        .into_iter()
                        .chain(entry.sub_architectures.unwrap_or_default())
                        .collect()
                })
                .unwrap_or_default(),
            _ => return Err(bad("use either 'architectures' or 'archMap'".into())),
        };
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        if !holds(&rule, caps, host)? {
            continue;
        }
        let names = match (rule.name, rule.names.unwrap_or_default()) {
            (Some(name), names) if names.is_empty() => vec![name],
            (None, names) => names,
            _ => return Err(bad("use either 'name' or 'names'".into())),
        };
        syscalls.push(SeccompRule {
            names,
            action: rule.action,
            errno_ret: rule.errno_ret,
            args: rule.args.unwrap_or_default(),
        });
    }
    Ok(LinuxSeccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        listener_path: profile.listener_path.filter(|path| !path.is_empty()),
        listener_metadata: profile.listener_metadata.filter(|data| !data.is_empty()),
        syscalls,
    })
}

fn holds(rule: &Rule, caps: CapabilitySet, host: &Host) -> Result<bool, RuntimeError> {
    let at_least = |text: &Option<String>| -> Result<Option<bool>, RuntimeError> {
        text.as_deref()
            .map(|text| {
                let bad = || RuntimeError::invalid("seccomp profile", format!("minKernel: {text:?}"));
                version(text).map(|wanted| host.kernel >= wanted).ok_or_else(bad)
            })
            .transpose()
    };
    let (includes, excludes) = (&rule.includes, &rule.excludes);
    Ok((includes.arches.is_empty() || includes.arches.iter().any(|arch| arch == host.arch))
        && includes.caps.iter().all(|cap| caps.contains_name(cap))
        && at_least(&includes.min_kernel)?.unwrap_or(true)
        && !excludes.arches.iter().any(|arch| arch == host.arch)
        && !excludes.caps.iter().any(|cap| caps.contains_name(cap))
        && !at_least(&excludes.min_kernel)?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { arch: "amd64", native: SeccompArch::X86_64, kernel: (6, 1) };

    fn names(seccomp: &LinuxSeccomp) -> Vec<&str> {
        seccomp.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).collect()
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let plain = resolve(DEFAULT, CapabilitySet::docker_default(), &HOST).unwrap();
        assert_eq!(plain.architectures, [SeccompArch::X86_64, SeccompArch::X86, SeccompArch::X32]);
        assert!(!names(&plain).contains(&"mount"));
        assert!(!names(&plain).contains(&"set_tls"), "that is for arm");
        let admin = resolve(DEFAULT, CapabilitySet::ALL, &HOST).unwrap();
        assert!(names(&admin).contains(&"mount"));
        let old = Host { kernel: (4, 7), ..HOST };
        let before = resolve(DEFAULT, CapabilitySet::docker_default(), &old).unwrap();
        assert!(names(&plain).contains(&"ptrace") && !names(&before).contains(&"ptrace"));
    }

    #[test]
    fn a_profile_that_says_two_things_is_refused() {
        for text in [
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ERRNO"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_ERRNO","when":{}}]}"#,
            r#"{"defaultAction":"SCMP_ACT_FLY"}"#,
            "[]",
        ] {
            assert!(resolve(text, CapabilitySet::EMPTY, &HOST).is_err(), "{text}");
        }
    }
}
