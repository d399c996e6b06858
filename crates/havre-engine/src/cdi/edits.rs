//! Applying the edits of one device.
//!
//! Invariant: an edit is applied whole, or the start fails naming the device and what cannot be done.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use havre_oci::runtime::{Device, DeviceKind, DeviceRule, Hook, Hooks, Mount, Spec};

use super::document::{Edits, Node};
use crate::EngineError;

/// Applies edits; returns supplementary groups.
pub(super) fn apply(spec: &mut Spec, edits: &Edits, device: &str) -> Result<Vec<u32>, EngineError> {
    let later = |what: &str| Err(EngineError::NotYet(format!("{what} of CDI device {device}")));
    if edits.intel_rdt.is_some() {
        return later("intelRdt");
    }
    if !edits.net_devices.is_empty() {
        return later("netDevices");
    }
    if let Some(process) = &mut spec.process {
        for entry in &edits.env {
            let name = entry.split('=').next().unwrap_or_default();
            process.env.retain(|known| known.split('=').next() != Some(name));
            process.env.push(entry.clone());
        }
    }
    for node in &edits.device_nodes {
        add_node(spec, node, device)?;
    }
    for mount in &edits.mounts {
        if !mount.container_path.starts_with('/') || mount.host_path.is_empty() {
            return Err(bad(
                device,
                &format!("a mount from {:?} to {:?}", mount.host_path, mount.container_path),
            ));
        }
        spec.mounts.retain(|known| known.destination != mount.container_path);
        spec.mounts.push(Mount {
            destination: mount.container_path.clone(),
            kind: Some(if mount.kind.is_empty() { "bind".into() } else { mount.kind.clone() }),
            source: Some(mount.host_path.clone()),
            options: mount.options.clone(),
            ..Mount::default()
        });
    }
    for hook in &edits.hooks {
        let all = spec.hooks.get_or_insert_with(Hooks::default);
        let list = match hook.hook_name.as_str() {
            "prestart" => &mut all.prestart,
            "createRuntime" => &mut all.create_runtime,
            "createContainer" => &mut all.create_container,
            "startContainer" => &mut all.start_container,
            "poststart" => &mut all.poststart,
            // The supervisor of a container has none.
            "poststop" => return later("the poststop hook"),
            other => return Err(bad(device, &format!("the hook {other:?}"))),
        };
        list.push(Hook {
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        });
    }
    // Root's group gives nothing that a description could mean.
    Ok(edits.additional_gids.iter().copied().filter(|group| *group != 0).collect())
}

fn bad(device: &str, what: &str) -> EngineError {
    EngineError::Invalid(format!("CDI device injection failed: {device} has {what}"))
}

fn add_node(spec: &mut Spec, node: &Node, device: &str) -> Result<(), EngineError> {
    if !node.path.starts_with('/') {
        return Err(bad(device, &format!("a device node at {:?}", node.path)));
    }
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let (kind, major, minor) = match node.kind.as_str() {
        "" => looked_up(host, device)?,
        "p" => (DeviceKind::Fifo, 0, 0),
        "b" | "c" | "u" => {
            let kind = if node.kind == "b" { DeviceKind::Block } else { DeviceKind::Char };
            if node.major == 0 {
                let (found, major, minor) = looked_up(host, device)?;
                if found != kind {
                    return Err(bad(device, &format!("a wrong type for {host}")));
                }
                (kind, major, minor)
            } else {
                (kind, node.major, node.minor)
            }
        }
        other => return Err(bad(device, &format!("a device of type {other:?}"))),
    };
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    if !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad(device, &format!("the permissions {access:?}")));
    }
    let user = spec.process.as_ref().map(|process| process.user.clone()).unwrap_or_default();
    let Some(linux) = &mut spec.linux else { return Ok(()) };
    linux.devices.retain(|known| known.path != node.path);
    linux.devices.push(Device {
        kind,
        path: node.path.clone(),
        major,
        minor,
        file_mode: node.file_mode,
        uid: node.uid.or(Some(user.uid).filter(|uid| *uid > 0)),
        gid: node.gid.or(Some(user.gid).filter(|gid| *gid > 0)),
    });
    if kind != DeviceKind::Fifo {
        linux.resources.get_or_insert_default().devices.push(DeviceRule {
            allow: true,
            kind: Some(kind.as_str().into()),
            major: Some(major),
            minor: Some(minor),
            access: Some(access.into()),
        });
    }
    Ok(())
}

/// What a device node of the host is.
fn looked_up(host: &str, device: &str) -> Result<(DeviceKind, i64, i64), EngineError> {
    let meta = std::fs::metadata(host)
        .map_err(|error| bad(device, &format!("a device node that cannot be looked at: {host}: {error}")))?;
    let (kind, number) = (meta.file_type(), meta.rdev());
    let numbers = (i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number)));
    if kind.is_char_device() {
        Ok((DeviceKind::Char, numbers.0, numbers.1))
    } else if kind.is_block_device() {
        Ok((DeviceKind::Block, numbers.0, numbers.1))
    } else if kind.is_fifo() {
        Ok((DeviceKind::Fifo, 0, 0))
    } else {
        Err(bad(device, &format!("{host}, which is no device node")))
    }
}
