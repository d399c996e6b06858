//! `--network` and what goes with it: aliases and addresses.

use std::collections::BTreeMap;

use havre_api::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

use crate::spec::Args;

/// The network's name in a simple or in a long `--network`.
pub(super) fn name(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    text.split(',').find_map(|field| field.strip_prefix("name=")).map(str::to_owned).ok_or_else(|| {
        format!("invalid argument \"{text}\" for \"--network\" flag: network name/id is not specified")
    })
}

/// Six, eight or twenty bytes in hexadecimal, with colons or dashes between.
fn is_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    matches!(bytes.len(), 6 | 8 | 20)
        && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The endpoints that the flags describe.
pub(super) fn networking(args: &Args, network_mode: &str) -> Result<NetworkingConfig, String> {
    let mut endpoints = BTreeMap::new();
    for text in [args.list("network"), args.list("net")].concat() {
        if text.contains('=') {
            let (name, settings) = endpoint(&text)?;
            endpoints.insert(name, Some(settings));
        } else if endpoints.insert(text.clone(), Some(EndpointSettings::default())).is_some() {
            return Err(format!("network \"{text}\" is specified multiple times"));
        }
    }
    // The flags beside --network belong to the first network.
    let aliases = [args.list("network-alias"), args.list("net-alias")].concat();
    let shared = matches!(network_mode, "default" | "bridge" | "host" | "none");
    if !aliases.is_empty() && (shared || network_mode.starts_with("container:")) {
        return Err("network-scoped aliases are only supported for user-defined networks".into());
    }
    let ipam = EndpointIpamConfig {
        ipv4_address: args.text("ip").into(),
        ipv6_address: args.text("ip6").into(),
        link_local_ips: args.some_list("link-local-ip"),
    };
    let mac = args.text("mac-address");
    if !mac.is_empty() && !is_mac(mac) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    if !aliases.is_empty() || ipam != EndpointIpamConfig::default() || !mac.is_empty() {
        let first = endpoints.entry(network_mode.to_owned()).or_default().get_or_insert_default();
        if !aliases.is_empty() {
            first.aliases.get_or_insert_default().extend(aliases);
        }
        if ipam != EndpointIpamConfig::default() {
            first.ipam_config = Some(ipam);
        }
        first.mac_address = mac.into();
    }
    Ok(NetworkingConfig { endpoints_config: Some(endpoints) })
}

/// `name=net,alias=a,ip=1.2.3.4,driver-opt=k=v`.
fn endpoint(text: &str) -> Result<(String, EndpointSettings), String> {
    let mut settings = EndpointSettings::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            format!("invalid argument \"{text}\" for \"--network\" flag: invalid field {field}: must be a key=value pair")
        })?;
        match key.to_lowercase().as_str() {
            "name" => {}
            "alias" => settings.aliases.get_or_insert_default().push(value.into()),
            "ip" => settings.ipam_config.get_or_insert_default().ipv4_address = value.into(),
            "ip6" => settings.ipam_config.get_or_insert_default().ipv6_address = value.into(),
            "link-local-ip" => {
                settings
                    .ipam_config
                    .get_or_insert_default()
                    .link_local_ips
                    .get_or_insert_default()
                    .push(value.into());
            }
            "mac-address" => settings.mac_address = value.into(),
            "gw-priority" => {
                settings.gw_priority = value.parse().map_err(|_| format!("invalid gw-priority: {value}"))?
            }
            "driver-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                settings.driver_opts.get_or_insert_default().insert(name.into(), value.into());
            }
            other => {
                return Err(format!(
                    "invalid argument \"{text}\" for \"--network\" flag: invalid field key {other}"
                ));
            }
        }
    }
    Ok((name(text)?, settings))
}
