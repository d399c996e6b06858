//! The networks of a container: where it is to be joined, and which of its ports are to be published.
//!
//! Invariant: what is asked of a network that cannot give it is refused here, in Docker's words.
//! Not here: whether the networks exist; that is known when the container starts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use havre_api::container::Config;
use havre_api::host::HostConfig;
use havre_api::network::{EndpointSettings, NetworkingConfig, PortBinding};
use havre_engine::Containers;
use havre_engine::spec::NetworkMode;
use havre_net::networks::EndpointSpec;
use havre_net::place::PlaceOptions;
use havre_net::ports::{Port, PublishedPort, numbers_of};

use super::donor_of;
use crate::error::Refusal;

/// What a request says about networks.
#[derive(Debug, Default)]
pub(super) struct Networking {
    pub(super) mode: NetworkMode,
    /// In the order of joining: the network that the mode names first.
    pub(super) endpoints: Vec<EndpointSpec>,
    /// The network that the mode names.
    pub(super) home: String,
    pub(super) published: Vec<PublishedPort>,
    pub(super) exposed: Vec<Port>,
}

/// Whether a network is somebody's own.
fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// Reads everything about networks.
pub(super) fn networking(
    containers: &Containers,
    config: &Config,
    host: &HostConfig,
    asked: Option<NetworkingConfig>,
    warnings: &mut Vec<String>,
) -> Result<Networking, Refusal> {
    let mode = match host.network_mode.as_str() {
        "" | "default" => "bridge",
        other => other,
    };
    conflicts(mode, config, host)?;
    let mut settings = BTreeMap::new();
    for (name, endpoint) in asked.and_then(|asked| asked.endpoints_config).unwrap_or_default() {
        let name = if name == "default" || name.is_empty() { "bridge".to_owned() } else { name };
        settings.insert(name, endpoint.unwrap_or_default());
    }
    if !config.mac_address.is_empty() {
        let own = settings.entry(mode.to_owned()).or_default();
        if !own.mac_address.is_empty() && own.mac_address != config.mac_address {
            return Err(Refusal::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
            ));
        }
        own.mac_address.clone_from(&config.mac_address);
    }
    let mut found =
        Networking { published: published(host)?, exposed: exposed(config)?, ..Networking::default() };
    let mut endpoints = BTreeMap::new();
    for (name, settings) in settings {
        let alone = matches!(mode, "host" | "none") || mode.starts_with("container:");
        if name != mode && (alone || matches!(name.as_str(), "host" | "none")) {
            return Err(Refusal::invalid(format!(
                "conflicting options: a container with the network mode {mode} cannot be connected to network {name} too"
            )));
        }
        let asked = endpoint(&name, settings)?;
        for option in PlaceOptions::parse(&asked.options).map(|options| options.unknown).unwrap_or_default() {
            warnings.push(format!("network {name}: endpoint option {option} is not known and has no effect"));
        }
        endpoints.insert(name, asked);
    }
    if config.network_disabled {
        return Ok(found);
    }
    match mode {
        // There is nothing to link with; Docker only looks for the containers.
        "none" => drop(links(containers, host)?),
        "host" => {
            found.mode = NetworkMode::Host;
            if !found.published.is_empty() || host.publish_all_ports {
                warnings.push("Published ports are discarded when using host network mode".into());
                found.published.clear();
            }
            return Ok(found);
        }
        other => match other.strip_prefix("container:") {
            Some(donor) => found.mode = NetworkMode::Container(donor_of(containers, donor)?),
            None => found.mode = NetworkMode::Networks,
        },
    }
    if found.mode == NetworkMode::Networks {
        mode.clone_into(&mut found.home);
        let mut first = endpoints
            .remove(mode)
            .unwrap_or_else(|| EndpointSpec { network: mode.to_owned(), ..EndpointSpec::default() });
        if mode == "bridge" {
            first.links = links(containers, host)?;
        }
        found.endpoints = std::iter::once(first).chain(endpoints.into_values()).collect();
    }
    Ok(found)
}

/// Options that make no sense together.
fn conflicts(mode: &str, config: &Config, host: &HostConfig) -> Result<(), Refusal> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let (shared, of_host) = (mode.starts_with("container:"), mode == "host");
    let published =
        host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    let exposed = config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty());
    if mode == "container:" {
        return Err(Refusal::invalid("invalid network mode: invalid container format container:<name|id>"));
    }
    let rules = [
        (shared && !config.hostname.is_empty(), "hostname and the network mode"),
        (
            shared && some(&host.links),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (
            of_host && some(&host.links),
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
        (shared && some(&host.dns), "dns and the network mode"),
        (shared && some(&host.extra_hosts), "custom host-to-IP mapping and the network mode"),
        ((shared || of_host) && !config.mac_address.is_empty(), "mac-address and the network mode"),
        (shared && published, "port publishing and the container type network mode"),
        (shared && exposed, "port exposing and the container type network mode"),
    ];
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, what)) => Err(Refusal::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// Checks what is asked of one network; all faults are told together.
pub(crate) fn endpoint(name: &str, settings: EndpointSettings) -> Result<EndpointSpec, Refusal> {
    let mut faults = Vec::new();
    let ipam = settings.ipam_config.unwrap_or_default();
    let mut spec = EndpointSpec {
        network: name.to_owned(),
        aliases: settings.aliases.unwrap_or_default(),
        links: settings.links.unwrap_or_default(),
        options: settings.driver_opts.unwrap_or_default(),
        priority: settings.gw_priority,
        ..EndpointSpec::default()
    };
    if !ipam.ipv4_address.is_empty() {
        match ipam.ipv4_address.parse() {
            Ok(address) => spec.ipv4 = Some(address),
            Err(_) => faults.push(format!("invalid IPv4 address: {}", ipam.ipv4_address)),
        }
    }
    if !ipam.ipv6_address.is_empty() {
        match ipam.ipv6_address.parse() {
            Ok(address) => spec.ipv6 = Some(address),
            Err(_) => faults.push(format!("invalid IPv6 address: {}", ipam.ipv6_address)),
        }
    }
    for text in ipam.link_local_ips.iter().flatten().filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(address) => spec.link_local.push(address),
            Err(_) => faults.push(format!("invalid link-local IP address: {text}")),
        }
    }
    if !is_user_defined(name) {
        if spec.ipv4.is_some() || spec.ipv6.is_some() || !spec.link_local.is_empty() {
            faults.push("user specified IP address is supported on user defined networks only".into());
        }
        if !spec.aliases.is_empty() {
            faults.push(
                "network-scoped alias is supported only for containers in user defined networks".into(),
            );
        }
    }
    if !settings.mac_address.is_empty() {
        match mac(&settings.mac_address) {
            Some(mac) => spec.mac = Some(mac),
            None => faults.push(format!("invalid MAC address: {}", settings.mac_address)),
        }
    }
    if let Err(error) = PlaceOptions::parse(&spec.options) {
        faults.push(error.to_string());
    }
    if faults.is_empty() {
        return Ok(spec);
    }
    let faults = faults.join("\n");
    Err(Refusal::invalid(format!("invalid config for network {name}: invalid endpoint settings:\n{faults}")))
}

/// Six bytes in hexadecimal with colons or dashes between.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for place in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *place = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Links in the default network. Their containers must be there.
fn links(containers: &Containers, host: &HostConfig) -> Result<Vec<String>, Refusal> {
    let mut links = Vec::new();
    for text in host.links.iter().flatten() {
        let (name, alias) = text.split_once(':').unwrap_or((text, text));
        if name.is_empty() || alias.contains(':') {
            return Err(Refusal::invalid(format!("bad format for links: {text}")));
        }
        let name = name.trim_start_matches('/');
        let linked = containers
            .view(name)
            .map_err(|error| Refusal::invalid(format!("could not get container for {name}: {error}")))?;
        if linked.fixed.spec.network == NetworkMode::Host {
            return Err(Refusal::invalid(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ));
        }
        // Docker's own form of a link that was read back: `/name:/other/alias`.
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        links.push(format!("{}:{alias}", linked.id()));
    }
    Ok(links)
}

pub(super) fn published(host: &HostConfig) -> Result<Vec<PublishedPort>, Refusal> {
    let wrong = |text: &str| Refusal::invalid(format!("invalid port specification: {text:?}"));
    let mut list = Vec::new();
    for (inside, bindings) in host.port_bindings.iter().flatten() {
        let port = match Port::range(inside) {
            Some((first, last)) if first == last => first,
            _ => return Err(wrong(inside.split('/').next().unwrap_or(inside))),
        };
        let none = [PortBinding::default()];
        let bindings = bindings.as_deref().filter(|list| !list.is_empty()).unwrap_or(&none);
        for binding in bindings {
            let address = match binding.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|_| {
                    Refusal::invalid(format!("invalid IP address in the port specification: {text:?}"))
                })?),
            };
            let ports = binding.host_port.as_str();
            let host =
                if ports.is_empty() { (0, 0) } else { numbers_of(ports).ok_or_else(|| wrong(ports))? };
            list.push(PublishedPort { port, address, host });
        }
    }
    list.sort();
    list.dedup();
    Ok(list)
}

fn exposed(config: &Config) -> Result<Vec<Port>, Refusal> {
    let mut list = Vec::new();
    for text in config.exposed_ports.iter().flatten().map(|(text, _)| text) {
        let (first, last) = Port::range(text)
            .ok_or_else(|| Refusal::invalid(format!("invalid port specification: {text:?}")))?;
        list.extend((first.number..=last.number).map(|number| Port { number, ..first }));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_and_all_faults_are_told() {
        let settings = |json: &str| serde_json::from_str::<EndpointSettings>(json).unwrap();
        let full = r#"{"IPAMConfig":{"IPv4Address":"10.0.0.5","IPv6Address":"fd00::5","LinkLocalIPs":["169.254.1.1"]},"Aliases":["a"],"Links":["x:y"],"MacAddress":"02-42-ac-11-00-02","DriverOpts":{"k":"v"},"GwPriority":-3}"#;
        let spec = endpoint("n", settings(full)).unwrap();
        assert_eq!(
            (spec.ipv4.unwrap().to_string(), spec.mac.unwrap()),
            ("10.0.0.5".into(), [2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(
            (spec.priority, spec.aliases.len(), spec.links.len(), spec.link_local.len()),
            (-3, 1, 1, 1)
        );
        let error = endpoint("bridge", settings(full)).unwrap_err().message;
        assert_eq!(
            error,
            "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only\nnetwork-scoped alias is supported only for containers in user defined networks"
        );
        let wrong = r#"{"IPAMConfig":{"IPv4Address":"fd00::5","IPv6Address":"x","LinkLocalIPs":["y"]},"MacAddress":"02:42"}"#;
        let error = endpoint("n", settings(wrong)).unwrap_err().message;
        for part in [
            "invalid IPv4 address: fd00::5",
            "invalid IPv6 address: x",
            "link-local IP address: y",
            "invalid MAC address: 02:42",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn ports_are_read_or_refused() {
        let host = |json: &str| HostConfig {
            port_bindings: Some(serde_json::from_str(json).unwrap()),
            ..HostConfig::default()
        };
        let list = published(&host(
            r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"},{"HostPort":"8000-8010"}],"53/udp":null}"#,
        ))
        .unwrap();
        let shown: Vec<String> =
            list.iter().map(|port| format!("{} {:?} {:?}", port.port, port.address, port.host)).collect();
        assert_eq!(
            shown,
            ["53/udp None (0, 0)", "80/tcp None (8000, 8010)", "80/tcp Some(127.0.0.1) (8080, 8080)"]
        );
        for bad in
            [r#"{"x/tcp":[]}"#, r#"{"80/foo":[]}"#, r#"{"80/tcp":[{"HostPort":"x"}]}"#, r#"{"80-81/tcp":[]}"#]
        {
            let error = published(&host(bad)).unwrap_err().message;
            assert!(error.starts_with("invalid port specification: "), "{error}");
        }
        let config = Config {
            exposed_ports: Some(serde_json::from_str(r#"{"80-82/udp":{}}"#).unwrap()),
            ..Config::default()
        };
        assert_eq!(exposed(&config).unwrap().len(), 3);
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let with = |mode: &str, config: Config, host: HostConfig| {
            conflicts(mode, &config, &host).err().map(|refusal| refusal.message).unwrap_or_default()
        };
        let one = || Some(vec!["1.1.1.1".to_owned()]);
        let (config, host) = (Config::default, HostConfig::default);
        assert_eq!(
            with("container:x", config(), HostConfig { dns: one(), ..host() }),
            "conflicting options: dns and the network mode"
        );
        assert!(
            with("host", config(), HostConfig { links: one(), ..host() })
                .contains("can't be used with links")
        );
        assert!(
            with("container:x", config(), HostConfig { publish_all_ports: true, ..host() })
                .contains("port publishing")
        );
        assert!(with("host", Config { mac_address: "x".into(), ..config() }, host()).contains("mac-address"));
        assert_eq!(
            with("n", Config { hostname: "h".into(), ..config() }, HostConfig { dns: one(), ..host() }),
            ""
        );
    }
}
