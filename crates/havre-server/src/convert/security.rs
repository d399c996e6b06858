//! Isolation options and devices of a create request.

use std::path::PathBuf;

use havre_api::host::HostConfig;
use havre_engine::spec::{DeviceRequest, DeviceSpec, SeccompSpec, Security};

use crate::error::Refusal;

/// `--security-opt`, capabilities, privileged, protected paths.
pub(super) fn security(host: &HostConfig) -> Result<Security, Refusal> {
    let mut security = Security {
        privileged: host.privileged,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        ..Security::default()
    };
    for option in host.security_opt.iter().flatten() {
        let invalid = || Refusal::invalid(format!("invalid --security-opt: {option:?}"));
        if option == "no-new-privileges" {
            security.no_new_privileges = true;
            continue;
        }
        let (key, value) = option.split_once(['=', ':']).ok_or_else(invalid)?;
        match key {
            "no-new-privileges" => security.no_new_privileges = value.parse().map_err(|_| invalid())?,
            "seccomp" => {
                security.seccomp = match value {
                    "unconfined" => SeccompSpec::Unconfined,
                    "builtin" | "" => SeccompSpec::Default,
                    profile => SeccompSpec::Profile(profile.to_owned()),
                };
            }
            "apparmor" => security.apparmor = Some(value.to_owned()),
            "label" => security.selinux.push(value.to_owned()),
            "systempaths" if value == "unconfined" => {
                security.masked_paths = Some(Vec::new());
                security.readonly_paths = Some(Vec::new());
            }
            "writable-cgroups" => return Err(Refusal::not_yet("--security-opt writable-cgroups")),
            _ => return Err(invalid()),
        }
    }
    Ok(security)
}

/// `--device`.
pub(super) fn devices(host: &HostConfig) -> Result<Vec<DeviceSpec>, Refusal> {
    host.devices
        .iter()
        .flatten()
        .map(|device| {
            let access =
                if device.cgroup_permissions.is_empty() { "rwm" } else { &device.cgroup_permissions };
            if !access.chars().all(|c| "rwm".contains(c)) {
                return Err(Refusal::invalid(format!("invalid device mode: {access}")));
            }
            let host = PathBuf::from(&device.path_on_host);
            let inside = if device.path_in_container.is_empty() {
                &device.path_on_host
            } else {
                &device.path_in_container
            };
            if !host.is_absolute() || !inside.starts_with('/') {
                return Err(Refusal::invalid(format!("{inside} is not an absolute path")));
            }
            Ok(DeviceSpec { host, container: inside.clone(), access: access.to_owned() })
        })
        .collect()
}

/// `--gpus`, and `--device` with the name of a described device. Which driver has them is seen at start.
pub(super) fn device_requests(host: &HostConfig) -> Vec<DeviceRequest> {
    let each = host.device_requests.iter().flatten();
    each.map(|request| DeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        ids: request.device_ids.clone().unwrap_or_default(),
        capabilities: request.capabilities.clone().unwrap_or_default(),
        options: request.options.clone().unwrap_or_default(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(option: &str) -> Result<Security, Refusal> {
        security(&HostConfig { security_opt: Some(vec![option.into()]), ..HostConfig::default() })
    }

    #[test]
    fn options_are_read_in_both_spellings() {
        assert!(with("no-new-privileges").unwrap().no_new_privileges);
        assert!(with("no-new-privileges:true").unwrap().no_new_privileges);
        assert!(!with("no-new-privileges=false").unwrap().no_new_privileges);
        assert_eq!(with("seccomp=unconfined").unwrap().seccomp, SeccompSpec::Unconfined);
        assert_eq!(with("systempaths=unconfined").unwrap().masked_paths, Some(Vec::new()));
        for bad in ["nonsense", "a=b", "no-new-privileges=maybe"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
