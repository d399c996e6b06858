//! The networks of a container: what was asked of them, and what it has where it is joined.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use havre_api::container::PortSummary;
use havre_api::network::{EndpointIpamConfig, EndpointSettings, NetworkSettings, PortBinding, PortMap};
use havre_engine::spec::NetworkMode;
use havre_engine::{Engine, View};
use havre_net::networks::{Endpoint, EndpointSpec, Network};
use havre_net::ports::Port;

use crate::convert::mac_text;

/// The network's name in lists.
pub(super) fn mode(view: &View) -> String {
    let spec = &view.fixed.spec;
    match &spec.network {
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Networks => {
            spec.endpoints.first().map(|first| first.network.clone()).unwrap_or_default()
        }
    }
}

/// The networks of a container, by their names.
pub(crate) fn networks(engine: &Engine, view: &View) -> BTreeMap<String, EndpointSettings> {
    let spec = &view.fixed.spec;
    let shared = |name: &str| {
        let network_id = match engine.networks.find(name) {
            Ok(network) if view.now.state.is_alive() => network.id.to_string(),
            _ => String::new(),
        };
        BTreeMap::from([(name.to_owned(), EndpointSettings { network_id, ..EndpointSettings::default() })])
    };
    match &spec.network {
        NetworkMode::Container(_) => BTreeMap::new(),
        NetworkMode::Host => shared("host"),
        NetworkMode::None => shared("none"),
        NetworkMode::Networks => {
            let mut shown: BTreeMap<String, EndpointSettings> =
                spec.endpoints.iter().map(|asked| (asked.network.clone(), wanted(view, asked))).collect();
            for endpoint in engine.networks.of_container(view.id()) {
                let Ok(network) = engine.networks.find(endpoint.network.as_str()) else { continue };
                // It may have been asked for by its id.
                shown.remove(&endpoint.spec.network);
                shown.insert(network.spec.name.clone(), joined(view, &endpoint, &network));
            }
            shown
        }
    }
}

/// What was asked of a place in a network.
fn wanted(view: &View, asked: &EndpointSpec) -> EndpointSettings {
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    let ipam = EndpointIpamConfig {
        ipv4_address: text(asked.ipv4.map(IpAddr::V4)),
        ipv6_address: text(asked.ipv6.map(IpAddr::V6)),
        link_local_ips: (!asked.link_local.is_empty())
            .then(|| asked.link_local.iter().map(ToString::to_string).collect()),
    };
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    EndpointSettings {
        ipam_config: (ipam != EndpointIpamConfig::default()).then_some(ipam),
        links: some(&asked.links).filter(|_| asked.network != "bridge"),
        aliases: some(&asked.aliases),
        mac_address: asked.mac.map(mac_text).unwrap_or_default(),
        driver_opts: (!asked.options.is_empty()).then(|| asked.options.clone()),
        gw_priority: asked.priority,
        dns_names: names(view, asked),
        ..EndpointSettings::default()
    }
}

/// Links in the default network as Docker shows them: `/other:/own/alias`.
pub(super) fn links(engine: &Engine, view: &View) -> Vec<String> {
    let asked = view.fixed.spec.endpoints.iter().filter(|endpoint| endpoint.network == "bridge");
    let shown = asked.flat_map(|endpoint| &endpoint.links).filter_map(|link| {
        let (container, alias) = link.split_once(':')?;
        let other = engine.containers.view(container).ok()?;
        Some(format!("/{}:/{}/{alias}", other.now.name, view.now.name))
    });
    shown.collect()
}

/// By which names the others in a network find the container. In the default network they do not.
fn names(view: &View, asked: &EndpointSpec) -> Option<Vec<String>> {
    if asked.network == "bridge" {
        return None;
    }
    let own = [view.now.name.to_string()];
    let rest = [view.id().short().to_owned(), view.fixed.hostname.clone()];
    let mut seen = BTreeSet::new();
    let all = own.into_iter().chain(asked.aliases.iter().cloned()).chain(rest);
    Some(all.filter(|name| !name.is_empty() && seen.insert(name.clone())).collect())
}

/// A place that the container has.
fn joined(view: &View, endpoint: &Endpoint, network: &Network) -> EndpointSettings {
    let address = |ipv6: bool| endpoint.addresses.iter().find(|net| net.addr().is_ipv6() == ipv6);
    let gateway = |ipv6: bool| {
        let own = network.blocks.iter().find(|block| {
            block.subnet.is_some_and(|net| {
                net.addr().is_ipv6() == ipv6 && address(ipv6).is_some_and(|own| net.contains(&own.addr()))
            })
        });
        // Nothing leads out of an internal network.
        let found = own.and_then(|block| block.gateway).filter(|_| network.leads_out());
        found.map(|gateway| gateway.to_string()).unwrap_or_default()
    };
    let text = |ipv6: bool| address(ipv6).map(|net| net.addr().to_string()).unwrap_or_default();
    let bits = |ipv6: bool| address(ipv6).map(|net| i64::from(net.prefix_len())).unwrap_or_default();
    EndpointSettings {
        mac_address: mac_text(endpoint.mac),
        network_id: network.id.to_string(),
        endpoint_id: endpoint.id.to_string(),
        gateway: gateway(false),
        ip_address: text(false),
        ip_prefix_len: bits(false),
        ipv6_gateway: gateway(true),
        global_ipv6_address: text(true),
        global_ipv6_prefix_len: bits(true),
        ..wanted(view, &endpoint.spec)
    }
}

/// Networks as an inspection shows them.
pub(super) fn settings(engine: &Engine, view: &View) -> NetworkSettings {
    let networks = Some(networks(engine, view));
    if matches!(view.fixed.spec.network, NetworkMode::Container(_)) {
        return NetworkSettings { networks, ..NetworkSettings::default() };
    }
    let mut shown =
        NetworkSettings { ports: Some(ports(engine, view)), networks, ..NetworkSettings::default() };
    if let (NetworkMode::Networks, Some(pid)) = (&view.fixed.spec.network, view.now.state.pid()) {
        shown.sandbox_id = view.id().to_string();
        shown.sandbox_key = format!("/proc/{pid}/ns/net");
    }
    shown
}

/// The ports of a container that runs in networks: those that are used, and where they are reached on the host.
fn ports(engine: &Engine, view: &View) -> PortMap {
    if view.fixed.spec.network != NetworkMode::Networks || !view.now.state.is_alive() {
        return PortMap::new();
    }
    let mut map: PortMap = view.fixed.merged.exposed.iter().map(|port| (port.to_string(), None)).collect();
    for published in engine.networks.of_container(view.id()).iter().flat_map(|place| &place.published) {
        let any = if published.to.is_ipv6() { "::" } else { "0.0.0.0" };
        let host_ip = published.at.map_or_else(|| any.to_owned(), |at| at.to_string());
        let port = Port { number: published.to_port, protocol: published.protocol };
        let bindings = map.entry(port.to_string()).or_default().get_or_insert_default();
        bindings.push(PortBinding { host_ip, host_port: published.port.to_string() });
    }
    map
}

/// The same as a list shows it.
pub(super) fn summary_ports(engine: &Engine, view: &View) -> Vec<PortSummary> {
    let mut list = Vec::new();
    for (inside, bindings) in ports(engine, view) {
        let Some((port, _)) = Port::range(&inside) else { continue };
        let kind = port.protocol.name().to_owned();
        let bare = PortSummary { private_port: port.number, kind, ..PortSummary::default() };
        match bindings {
            None => list.push(bare),
            Some(bindings) => list.extend(bindings.into_iter().map(|binding| PortSummary {
                ip: binding.host_ip,
                public_port: binding.host_port.parse().unwrap_or_default(),
                ..bare.clone()
            })),
        }
    }
    list
}
