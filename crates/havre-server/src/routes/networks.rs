//! `/networks/...`.

use std::collections::BTreeMap;

use havre_api::network::{
    ConfigReference, ConnectRequest, DisconnectRequest, EndpointResource, Ipam, IpamConfig, IpamStatus,
    NetworkCreateResponse, NetworkPruneResponse, NetworkStatus, NetworkSummary, SubnetStatus,
};
use havre_api::{ApiVersion, Filters};
use havre_base::{Clock as _, ErrorKind, SystemClock};
use havre_engine::{Engine, networking};
use havre_net::networks::{Endpoint, Network};
use hyper::StatusCode;

use crate::Server;
use crate::body::{self, Answer};
use crate::convert;
use crate::error::Refusal;
use crate::router::{Call, no_content};
use crate::versions::{self, Shape};

type Handled = Result<Answer, Refusal>;

/// The filters that the list knows.
const KNOWN: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Before it, lists showed who is in each network.
const BARE_LISTS: ApiVersion = ApiVersion::new(1, 28);

fn filters(call: &Call, known: &[&str]) -> Result<Filters, Refusal> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    if let Some(name) = filters.names().find(|name| !known.contains(name)) {
        return Err(Refusal::invalid(format!("invalid filter '{name}'")));
    }
    Ok(filters)
}

/// The one truth value of a filter.
fn truth(filters: &Filters, name: &str) -> Result<Option<bool>, Refusal> {
    let values: Vec<&str> = filters.values(name).collect();
    let wrong = || Err(Refusal::invalid(format!("invalid filter '{name}=[{}]'", values.join(" "))));
    match values.as_slice() {
        [] if !filters.has(name) => Ok(None),
        ["1" | "true"] => Ok(Some(true)),
        ["0" | "false"] => Ok(Some(false)),
        _ => wrong(),
    }
}

/// Exact, or by regular expression, as Docker's filters of names.
fn matches(own: &str, wanted: &str) -> bool {
    own == wanted || regex_lite::Regex::new(wanted).is_ok_and(|pattern| pattern.is_match(own))
}

fn labelled(network: &Network, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => network.spec.labels.get(key).is_some_and(|own| own == value),
        None => network.spec.labels.contains_key(wanted),
    }
}

/// Which networks a list shows.
struct Chosen {
    filters: Filters,
    dangling: Option<bool>,
}

impl Chosen {
    fn read(filters: Filters) -> Result<Self, Refusal> {
        let dangling = truth(&filters, "dangling")?;
        if let Some(value) = filters.values("type").find(|value| !matches!(*value, "custom" | "builtin")) {
            return Err(Refusal::invalid(format!("invalid filter: 'type'='{value}'")));
        }
        Ok(Self { filters, dangling })
    }

    fn holds(&self, network: &Network, in_use: bool) -> bool {
        let filters = &self.filters;
        let any =
            |name: &str, test: &dyn Fn(&str) -> bool| !filters.has(name) || filters.values(name).any(test);
        any("name", &|value| matches(&network.spec.name, value))
            && any("id", &|value| {
                network.id.as_str().starts_with(value) || matches(network.id.as_str(), value)
            })
            && any("driver", &|value| network.spec.driver.name() == value)
            && any("scope", &|value| value == "local")
            && any("type", &|value| (value == "builtin") == network.is_predefined())
            && filters.values("label").all(|value| labelled(network, value))
            && self.dangling.is_none_or(|dangling| dangling != (network.is_predefined() || in_use))
    }
}

pub(crate) fn list(server: &Server, call: &Call) -> Handled {
    let chosen = Chosen::read(filters(call, KNOWN)?)?;
    let engine = &server.engine;
    let mut rows = Vec::new();
    for network in engine.networks.list() {
        let inside = engine.networks.endpoints(&network.id);
        if chosen.holds(&network, !inside.is_empty()) {
            let mut row = summary(&network);
            row.containers = (call.version < BARE_LISTS).then(|| containers(engine, &inside));
            rows.push(row);
        }
    }
    Ok(versions::json(call.version, Shape::NetworkList, &rows))
}

pub(crate) fn inspect(server: &Server, call: &Call, id: &str) -> Handled {
    if let Some(text) = call.query.get("verbose").filter(|text| !text.is_empty())
        && convert::truth(text).is_none()
    {
        return Err(Refusal::invalid(format!(
            "invalid value for verbose: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
        )));
    }
    let engine = &server.engine;
    let missing = || Refusal::new(ErrorKind::NotFound, format!("network {id} not found"));
    // Here `default` is a name as any other.
    if id == "default" {
        return Err(missing());
    }
    let network = engine.networks.find(id)?;
    // All networks are of this machine.
    if call.query.get("scope").is_some_and(|scope| !matches!(scope, "" | "local")) {
        return Err(missing());
    }
    let mut shown = summary(&network);
    shown.containers = Some(containers(engine, &engine.networks.endpoints(&network.id)));
    let subnets = engine.networks.usage(&network.id).into_iter().map(|(subnet, used, left)| {
        (subnet.to_string(), SubnetStatus { ips_in_use: used, dynamic_ips_available: left })
    });
    shown.status = Some(NetworkStatus { ipam: IpamStatus { subnets: subnets.collect() } });
    let mut answer = versions::value(call.version, Shape::Network, &shown);
    // Docker shows it also when nobody is in it.
    if let Some(object) = answer.as_object_mut() {
        object.entry("Containers").or_insert_with(|| serde_json::json!({}));
    }
    Ok(body::json(&answer))
}

/// What Docker shows of a network, without who is in it.
fn summary(network: &Network) -> NetworkSummary {
    let spec = &network.spec;
    let block = |block: &havre_net::spec::BlockSpec| IpamConfig {
        subnet: block.subnet.map(|net| net.to_string()).unwrap_or_default(),
        ip_range: block.range.map(|net| net.to_string()).unwrap_or_default(),
        gateway: block.gateway.map(|address| address.to_string()).unwrap_or_default(),
        auxiliary_addresses: (!block.auxiliary.is_empty()).then(|| {
            block.auxiliary.iter().map(|(name, address)| (name.clone(), address.to_string())).collect()
        }),
    };
    let blocks: Vec<IpamConfig> = network.blocks.iter().map(block).collect();
    let mut options = spec.options.clone();
    if network.is_predefined() && !network.bridge.is_empty() {
        options.insert("com.docker.network.bridge.name".into(), network.bridge.clone());
    }
    NetworkSummary {
        name: spec.name.clone(),
        id: network.id.to_string(),
        created: network.created.to_string(),
        scope: "local".into(),
        driver: spec.driver.name().into(),
        enable_ipv4: spec.ipv4,
        enable_ipv6: spec.ipv6,
        ipam: Ipam {
            driver: spec.ipam.name().into(),
            options: (!network.is_predefined()).then(|| spec.ipam_options.clone()),
            config: (!blocks.is_empty()).then_some(blocks),
        },
        internal: spec.internal,
        attachable: spec.attachable,
        config_only: spec.config_only,
        config_from: ConfigReference { network: spec.config_from.clone() },
        options: Some(options),
        labels: Some(spec.labels.clone()),
        ..NetworkSummary::default()
    }
}

/// Who is in a network, by the ids of the containers.
fn containers(engine: &Engine, inside: &[Endpoint]) -> BTreeMap<String, EndpointResource> {
    let resource = |endpoint: &Endpoint| {
        let address = |ipv6: bool| {
            let own = endpoint.addresses.iter().find(|net| net.addr().is_ipv6() == ipv6);
            own.map(ToString::to_string).unwrap_or_default()
        };
        // It may have another name since it joined.
        let name = match engine.containers.view(endpoint.container.as_str()) {
            Ok(view) => view.now.name.to_string(),
            Err(_) => endpoint.name.clone(),
        };
        let shown = EndpointResource {
            name,
            endpoint_id: endpoint.id.to_string(),
            mac_address: convert::mac_text(endpoint.mac),
            ipv4_address: address(false),
            ipv6_address: address(true),
        };
        (endpoint.container.to_string(), shown)
    };
    inside.iter().map(resource).collect()
}

pub(crate) async fn create(server: &Server, call: Call) -> Handled {
    let request = body::read_json(call.request.into_body(), false).await?;
    let spec = convert::network_spec(&server.info().defaults, request)?;
    let (network, warnings) = networking::create(&server.engine, spec).await?;
    let answer = NetworkCreateResponse { id: network.id.to_string(), warning: warnings.join("\n") };
    Ok(body::json_bytes(StatusCode::CREATED, &answer))
}

pub(crate) async fn remove(server: &Server, id: &str) -> Handled {
    networking::remove(&server.engine, id).await?;
    Ok(no_content())
}

pub(crate) async fn prune(server: &Server, call: &Call) -> Handled {
    let filters = filters(call, &["label", "label!", "until"])?;
    let until = match filters.values("until").collect::<Vec<_>>().as_slice() {
        [] => None,
        [one] => Some(havre_image::point_in_time(one, SystemClock.now()).ok_or_else(|| {
            Refusal::invalid(format!("failed to parse value as time or duration: \"{one}\""))
        })?),
        _ => return Err(Refusal::invalid("more than one until filter specified")),
    };
    let removed = networking::prune(&server.engine, |network| {
        until.is_none_or(|until| network.created < until)
            && filters.values("label").all(|wanted| labelled(network, wanted))
            && !filters.values("label!").any(|wanted| labelled(network, wanted))
    });
    let removed = removed.await?;
    Ok(body::json(&NetworkPruneResponse { networks_deleted: (!removed.is_empty()).then_some(removed) }))
}

/// Joins a container, running or not.
pub(crate) async fn connect(server: &Server, call: Call, id: &str) -> Handled {
    let wanted: ConnectRequest = body::read_json(call.request.into_body(), false).await?;
    let network = server.engine.networks.find(id)?;
    let spec = convert::endpoint(&network.spec.name, wanted.endpoint_config.unwrap_or_default())?;
    server.engine.containers.connect(&wanted.container, spec).await?;
    Ok(body::empty(StatusCode::OK))
}

/// Takes a container out.
pub(crate) async fn disconnect(server: &Server, call: Call, id: &str) -> Handled {
    let wanted: DisconnectRequest = body::read_json(call.request.into_body(), false).await?;
    server.engine.containers.disconnect(&wanted.container, id, wanted.force).await?;
    Ok(body::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use havre_base::{NetworkId, Timestamp};
    use havre_net::spec::{Driver, NetworkSpec};

    use super::*;

    fn network(name: &str) -> Network {
        let spec = NetworkSpec {
            name: name.into(),
            driver: if name == "host" { Driver::Host } else { Driver::Bridge },
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            blocks: Vec::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..NetworkSpec::default()
        };
        let (id, created) = (NetworkId::random(), Timestamp::from_nanos(0));
        Network { id, created, spec, blocks: Vec::new(), bridge: String::new() }
    }

    #[test]
    fn filters_choose_and_nonsense_is_refused() {
        let chosen = |text: &str| Chosen::read(Filters::parse(text).unwrap());
        let front = network("front-1");
        for (text, holds, in_use) in [
            (r#"{"name":["ront"]}"#, true, false),
            (r#"{"name":["^ront"]}"#, false, false),
            (r#"{"driver":["bridge"],"scope":["local"]}"#, true, false),
            (r#"{"driver":["brid"]}"#, false, false),
            (r#"{"scope":["swarm"]}"#, false, false),
            (r#"{"type":["custom"]}"#, true, false),
            (r#"{"type":["builtin"]}"#, false, false),
            (r#"{"label":["a=b","a"]}"#, true, false),
            (r#"{"label":["a=c"]}"#, false, false),
            (r#"{"dangling":["true"]}"#, true, false),
            (r#"{"dangling":["true"]}"#, false, true),
            (r#"{"dangling":["0"]}"#, true, true),
        ] {
            assert_eq!(chosen(text).unwrap().holds(&front, in_use), holds, "{text} {in_use}");
        }
        assert!(!chosen(r#"{"dangling":["true"]}"#).unwrap().holds(&network("host"), false));
        let refused = |text: &str| chosen(text).err().map(|refusal| refusal.message).unwrap_or_default();
        assert_eq!(refused(r#"{"type":["x"]}"#), "invalid filter: 'type'='x'");
        assert_eq!(refused(r#"{"dangling":["x"]}"#), "invalid filter 'dangling=[x]'");
    }
}
