//! Requests of older versions: what they could not say is not heard, what they took for granted is said.

use havre_api::ApiVersion;
use havre_api::container::CreateRequest;
use havre_api::host::HostConfig;

use super::before;

/// Reads a create request as its version meant it.
pub(crate) fn create_request(version: ApiVersion, request: &mut CreateRequest) {
    if version >= before(42)
        && let Some(host) = &mut request.host_config
    {
        // The field means nothing since.
        host.kernel_memory = 0;
    }
    if version >= before(52) {
        // An endpoint has an address; a container as a whole has none since.
        request.config.mac_address.clear();
    }
    if version < before(44)
        && let Some(health) = &mut request.config.healthcheck
    {
        health.start_interval = 0;
    }
    host_config(version, request.host_config.get_or_insert_default());
}

fn host_config(version: ApiVersion, host: &mut HostConfig) {
    for mount in host.mounts.iter_mut().flatten() {
        if version < before(46)
            && let Some(options) = &mut mount.tmpfs_options
        {
            options.options = None;
        }
        if version < before(45)
            && let Some(options) = &mut mount.volume_options
        {
            options.subpath.clear();
        }
        let Some(bind) = &mut mount.bind_options else { continue };
        if version < before(44) {
            // Read-only was not recursive then.
            bind.read_only_non_recursive = mount.read_only;
            bind.read_only_force_recursive = false;
        }
        if version < before(42) {
            bind.create_mountpoint = false;
        }
        if version < before(40) {
            bind.non_recursive = false;
        }
    }
    if version < before(44) {
        for mount in host.mounts.iter_mut().flatten() {
            if mount.kind == "bind" && mount.read_only && mount.bind_options.is_none() {
                mount.bind_options = Some(havre_api::host::BindOptions {
                    read_only_non_recursive: true,
                    ..Default::default()
                });
            }
        }
    }
    if version < before(43) {
        host.annotations = None;
    }
    if version < before(42) {
        host.console_size = [0, 0];
    }
    if version < before(41) && host.cgroupns_mode.is_empty() && !havre_engine::Offers::here().unified {
        host.cgroupns_mode = "host".into();
    }
    if version < before(40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".into();
    }
    if version < before(25) {
        // The client removed the container then.
        host.auto_remove = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(minor: u16, host: &str) -> HostConfig {
        let mut request: CreateRequest = serde_json::from_str(&format!("{{\"HostConfig\":{host}}}")).unwrap();
        create_request(ApiVersion::new(1, minor), &mut request);
        request.host_config.unwrap()
    }

    #[test]
    fn defaults_of_old_versions_are_spelled_out() {
        assert_eq!(read(39, "{}").ipc_mode, "shareable");
        assert_eq!(read(40, "{}").ipc_mode, "");
        assert!(!read(24, r#"{"AutoRemove":true}"#).auto_remove);
        assert!(read(25, r#"{"AutoRemove":true}"#).auto_remove);
        assert_eq!(read(41, r#"{"KernelMemory":5}"#).kernel_memory, 5);
        assert_eq!(read(42, r#"{"KernelMemory":5}"#).kernel_memory, 0);
    }

    #[test]
    fn read_only_binds_of_old_versions_are_not_recursive() {
        let mount = r#"{"Mounts":[{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}]}"#;
        let options = |minor| read(minor, mount).mounts.unwrap()[0].bind_options.clone();
        assert!(options(43).unwrap().read_only_non_recursive);
        assert_eq!(options(44), None);
    }
}
