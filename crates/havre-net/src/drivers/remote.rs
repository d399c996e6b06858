//! Networks that a plugin makes, by the protocol of Docker's `NetworkDriver`.
//!
//! The plugin makes an interface of the host for a container and says what it is called and how it leads out; the rest of
//! the container's side is done here. Invariants: what a plugin answers is checked before it is believed: only an interface
//! that exists and is not this engine's is moved into a container; whatever it was asked to make, it is asked to remove.
//! Notifications about other machines (`DiscoverNew`, `DiscoverDelete`) belong to a cluster and are not sent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use havre_plugin::{Folders, PATIENCE, Plugin, PluginError};
use havre_sys::netlink::Route;
use havre_sys::netlink::table::RouteEntry;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::owner;
use crate::firewall::number;
use crate::ipam;
use crate::networks::{Endpoint, Network, Way};
use crate::options::interface;
use crate::ports::PublishedPort;
use crate::sandbox::Sandbox;
use crate::spec::{NO_SWARM, NetworkSpec};
use crate::{NetError, Result};

const WHAT: &str = "NetworkDriver";
/// More routes than this are not believed to be meant.
const MOST_ROUTES: usize = 1024;

/// The plugins of this machine, each asked once what it is.
#[derive(Debug, Default)]
pub(crate) struct Plugins {
    folders: Folders,
    patience: Option<Duration>,
    /// By name and kind.
    known: Mutex<BTreeMap<(String, &'static str), Plugin>>,
}

/// A plugin that makes networks.
#[derive(Debug)]
pub(crate) struct Remote(Plugin);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Capabilities {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    connectivity_scope: String,
    #[serde(default)]
    gw_alloc_checker: bool,
}

#[derive(Debug, Deserialize)]
struct GatewayCheck {
    #[serde(default, rename = "SkipIPv4")]
    skip_ipv4: bool,
    #[serde(default, rename = "SkipIPv6")]
    skip_ipv6: bool,
}

#[derive(Debug, Deserialize)]
struct Created {
    #[serde(default, rename = "Interface")]
    interface: Option<Interface>,
}

#[derive(Debug, Default, Deserialize)]
struct Interface {
    #[serde(default, rename = "Address")]
    ipv4: String,
    #[serde(default, rename = "AddressIPv6")]
    ipv6: String,
    #[serde(default, rename = "MacAddress")]
    mac: String,
}

#[derive(Debug, Deserialize)]
struct Joined {
    #[serde(default, rename = "InterfaceName")]
    interface: Option<InterfaceName>,
    #[serde(default, rename = "Gateway")]
    gateway: String,
    #[serde(default, rename = "GatewayIPv6")]
    gateway6: String,
    #[serde(default, rename = "StaticRoutes")]
    routes: Option<Vec<StaticRoute>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InterfaceName {
    #[serde(default)]
    src_name: String,
    #[serde(default)]
    dst_prefix: String,
    #[serde(default)]
    dst_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StaticRoute {
    #[serde(default)]
    destination: String,
    #[serde(default)]
    route_type: i64,
    #[serde(default)]
    next_hop: String,
}

#[derive(Debug, Deserialize)]
struct Nothing {}

impl Plugins {
    pub(crate) fn new(folders: Folders) -> Self {
        Self { folders, ..Self::default() }
    }

    fn get(&self, name: &str, what: &'static str) -> Result<Plugin> {
        let key = (name.to_owned(), what);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A plugin that is gone is not found, whatever is known of it.
        self.folders.find(name)?;
        if let Some(plugin) = known().get(&key) {
            return Ok(plugin.clone());
        }
        let plugin = Plugin::find(&self.folders, name, what, self.patience.unwrap_or(PATIENCE))?;
        known().insert(key, plugin.clone());
        Ok(plugin)
    }

    /// The plugin that makes networks of this driver.
    pub(crate) fn network(&self, name: &str) -> Result<Remote> {
        Ok(Remote(self.get(name, WHAT)?))
    }

    /// The plugin that gives the addresses.
    pub(crate) fn ipam(&self, name: &str) -> Result<ipam::Remote> {
        Ok(ipam::Remote::new(self.get(name, ipam::WHAT)?))
    }
}

/// The options of a network as the protocol has them.
fn options(spec: &NetworkSpec) -> Value {
    let mut options = json!({
        "com.docker.network.enable_ipv4": spec.ipv4,
        "com.docker.network.enable_ipv6": spec.ipv6,
        "com.docker.network.generic": spec.options,
    });
    if spec.internal
        && let Some(map) = options.as_object_mut()
    {
        map.insert("com.docker.network.internal".into(), true.into());
    }
    options
}

/// The options of a place: those of the user, and which ports of the host shall lead to it.
fn endpoint_options(endpoint: &Endpoint, ports: &[PublishedPort]) -> Value {
    let mut map: serde_json::Map<String, Value> =
        endpoint.spec.options.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let mapped: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({
                "Proto": number(port.port.protocol), "IP": "", "Port": port.port.number,
                "HostIP": port.address.map(|address| address.to_string()).unwrap_or_default(),
                "HostPort": port.host.0, "HostPortEnd": port.host.1,
            })
        })
        .collect();
    let exposed: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "Proto": number(port.port.protocol), "Port": port.port.number }))
        .collect();
    map.insert("com.docker.network.portmap".into(), mapped.into());
    map.insert("com.docker.network.endpoint.exposedports".into(), exposed.into());
    map.into()
}

impl Remote {
    /// The same one, each call of which takes no longer than this.
    pub(crate) fn within(self, patience: Option<Duration>) -> Self {
        match patience {
            Some(patience) => Self(self.0.with_patience(patience)),
            None => self,
        }
    }

    fn lie(&self, method: &'static str, why: String) -> NetError {
        NetError::Lie { plugin: self.0.name().to_owned(), method, why }
    }

    /// Whether the plugin can have such a network here, and for which families it wants no gateway.
    pub(crate) fn check(&self, spec: &NetworkSpec) -> Result<[bool; 2]> {
        const METHOD: &str = "NetworkDriver.GetCapabilities";
        let capabilities: Capabilities = self.0.call(METHOD, &json!({}))?;
        let second = Some(&capabilities.connectivity_scope).filter(|scope| !scope.is_empty());
        let scopes = std::iter::once(&capabilities.scope).chain(second);
        if let Some(scope) = scopes.into_iter().find(|scope| !matches!(scope.as_str(), "local" | "global")) {
            let scope: String = scope.chars().take(64).collect();
            let why = format!("invalid capability: expecting 'local' or 'global', got {scope:?}");
            return Err(self.lie(METHOD, why));
        }
        if capabilities.scope == "global" {
            let name = self.0.name();
            return Err(NetError::Predefined(format!(
                "networks of plugin {name:?} span machines: {NO_SWARM}"
            )));
        }
        if !capabilities.gw_alloc_checker {
            return Ok([false; 2]);
        }
        let skip: GatewayCheck =
            self.0.call("NetworkDriver.GwAllocCheck", &json!({ "Options": options(spec) }))?;
        Ok([skip.skip_ipv4, skip.skip_ipv6])
    }

    /// Has the network made.
    pub(crate) fn create_network(&self, network: &Network) -> Result<()> {
        let data = |ipv6: bool| -> Vec<Value> {
            let of_family = network.blocks.iter().filter_map(|block| {
                let net = block.subnet.filter(|net| net.addr().is_ipv6() == ipv6)?;
                let with_prefix = |address: &IpAddr| format!("{address}/{}", net.prefix_len());
                let auxiliary: BTreeMap<&String, String> =
                    block.auxiliary.iter().map(|(name, address)| (name, with_prefix(address))).collect();
                Some(json!({
                    "AddressSpace": "LocalDefault", "Pool": net.to_string(),
                    "Gateway": block.gateway.as_ref().map(with_prefix).unwrap_or_default(),
                    "AuxAddresses": auxiliary,
                }))
            });
            of_family.collect()
        };
        let question = json!({
            "NetworkID": network.id.as_str(), "Options": options(&network.spec),
            "IPv4Data": data(false), "IPv6Data": data(true),
        });
        let Nothing {} = self.0.call("NetworkDriver.CreateNetwork", &question)?;
        Ok(())
    }

    /// Has the network removed.
    pub(crate) fn delete_network(&self, network: &Network) -> Result<()> {
        let question = json!({ "NetworkID": network.id.as_str() });
        let Nothing {} = self.0.call("NetworkDriver.DeleteNetwork", &question)?;
        Ok(())
    }

    /// Has an interface made, moves it into the sandbox and writes into the place what the plugin decided.
    pub(crate) fn plug(
        &self,
        host: &Mutex<Route>,
        sandbox: &mut Sandbox,
        network: &Network,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        self.create_endpoint(network, endpoint)?;
        let plugged = self.join(host, sandbox, network, endpoint);
        if plugged.is_err() {
            self.remove_endpoint(network, endpoint);
        }
        plugged
    }

    fn create_endpoint(&self, network: &Network, endpoint: &mut Endpoint) -> Result<()> {
        const METHOD: &str = "NetworkDriver.CreateEndpoint";
        let own = [false, true]
            .map(|ipv6| endpoint.addresses.iter().find(|net| net.addr().is_ipv6() == ipv6).copied());
        let text = |net: Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
        let has_mac = endpoint.mac != [0; 6];
        let question = json!({
            "NetworkID": network.id.as_str(), "EndpointID": endpoint.id.as_str(),
            "Interface": {
                "Address": text(own[0]), "AddressIPv6": text(own[1]),
                "MacAddress": if has_mac { endpoint.mac.map(|byte| format!("{byte:02x}")).join(":") } else { String::new() },
            },
            "Options": endpoint_options(endpoint, &[]),
        });
        let created: Created = self.0.call(METHOD, &question)?;
        let made = created.interface.unwrap_or_default();
        let decided = (|| {
            for (ipv6, text) in [(false, &made.ipv4), (true, &made.ipv6)] {
                if text.is_empty() {
                    continue;
                }
                let shown: String = text.chars().take(64).collect();
                let net: IpNet = text
                    .parse()
                    .map_err(|_| self.lie(METHOD, format!("the address {shown:?}, which is none")))?;
                match own[usize::from(ipv6)] {
                    Some(own) if own != net => {
                        return Err(self.lie(METHOD, format!("the address {net} though it was given {own}")));
                    }
                    Some(_) => {}
                    None if net.addr().is_ipv6() == ipv6 => endpoint.addresses.push(net),
                    None => return Err(self.lie(METHOD, format!("the address {net} of the other family"))),
                }
            }
            if !made.mac.is_empty() {
                let shown: String = made.mac.chars().take(64).collect();
                let mac = parse_mac(&made.mac).ok_or_else(|| {
                    self.lie(METHOD, format!("the hardware address {shown:?}, which is none"))
                })?;
                if has_mac && mac != endpoint.mac {
                    return Err(
                        self.lie(METHOD, format!("the hardware address {shown} though it was given one"))
                    );
                }
                endpoint.mac = mac;
            }
            Ok(())
        })();
        if decided.is_err() {
            self.remove_endpoint(network, endpoint);
        }
        decided
    }

    fn join(
        &self,
        host: &Mutex<Route>,
        sandbox: &mut Sandbox,
        network: &Network,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        const METHOD: &str = "NetworkDriver.Join";
        // Whoever may enter namespaces opens it as long as this process has it.
        let key = format!("/proc/{}/fd/{}", std::process::id(), sandbox.fd().as_raw_fd());
        let question = json!({
            "NetworkID": network.id.as_str(), "EndpointID": endpoint.id.as_str(),
            "SandboxKey": key, "Options": endpoint_options(endpoint, &[]),
        });
        let joined: Joined = self.0.call(METHOD, &question)?;
        let (routes, mut ways) = self.routes(METHOD, joined.routes.unwrap_or_default())?;
        for (ipv6, text) in [(false, joined.gateway), (true, joined.gateway6)] {
            if text.is_empty() {
                continue;
            }
            match text.parse::<IpAddr>() {
                Ok(gateway) if gateway.is_ipv6() == ipv6 => ways.insert(0, Way::Gateway(gateway)),
                _ => {
                    let text: String = text.chars().take(64).collect();
                    return Err(self.lie(METHOD, format!("unable to parse Gateway {text:?}")));
                }
            }
        }
        let Some(asked) = joined.interface.filter(|name| !name.src_name.is_empty()) else {
            // It made none: the plugin does everything inside by itself.
            endpoint.ways = ways;
            return Ok(());
        };
        let shown: String = asked.src_name.chars().take(64).collect();
        let name = interface("SrcName", &asked.src_name)
            .map_err(|_| self.lie(METHOD, format!("the interface {shown:?}, which is no name of one")))?;
        for (key, text) in [("DstPrefix", &asked.dst_prefix), ("DstName", &asked.dst_name)] {
            if !text.is_empty()
                && interface(key, text).map_or(true, |_| key == "DstPrefix" && text.len() > 12)
            {
                let text: String = text.chars().take(64).collect();
                return Err(self.lie(METHOD, format!("the {key} {text:?}, which is no name of an interface")));
            }
        }
        let inside = sandbox.plugin_name(&asked.dst_name, &asked.dst_prefix)?;
        {
            // Only now: the plugin may take its time.
            let mut route = host.lock().unwrap_or_else(PoisonError::into_inner);
            let link = match route.link(name.as_str()) {
                Ok(link) => link,
                Err(error) if error.is_absent() => {
                    return Err(
                        self.lie(METHOD, format!("the interface {name}, which the host does not have"))
                    );
                }
                Err(error) => return Err(error.into()),
            };
            if name == "lo" || owner(link.alias.as_deref()).is_some() {
                return Err(self.lie(METHOD, format!("the interface {name}, which is not its own")));
            }
            sandbox.take(&mut route, link.index, &inside)?;
        }
        if endpoint.mac == [0; 6] {
            endpoint.mac = sandbox.mac_of(&inside)?;
        } else {
            sandbox.set_mac(&inside, endpoint.mac)?;
        }
        sandbox.bring_up(&inside, network, endpoint)?;
        sandbox.add_routes(&inside, &routes)?;
        endpoint.ways = ways;
        self.look(network, endpoint);
        Ok(())
    }

    /// Routes besides the way out, and the ways out among them.
    fn routes(&self, method: &'static str, given: Vec<StaticRoute>) -> Result<(Vec<RouteEntry>, Vec<Way>)> {
        if given.len() > MOST_ROUTES {
            return Err(self.lie(method, format!("{} routes", given.len())));
        }
        let (mut routes, mut ways) = (Vec::new(), Vec::new());
        for route in given {
            let cut = |text: &str| text.chars().take(64).collect::<String>();
            let net: IpNet = route.destination.parse().map_err(|_| {
                self.lie(method, format!("the route to {:?}, which is no subnet", cut(&route.destination)))
            })?;
            let ipv6 = net.addr().is_ipv6();
            let hop = if route.next_hop.is_empty() {
                None
            } else {
                let hop: IpAddr = route.next_hop.parse().map_err(|_| {
                    self.lie(method, format!("failed to parse nexthop IP {:?}", cut(&route.next_hop)))
                })?;
                Some(hop)
            };
            let fault = || Err(self.lie(method, format!("the route to {net} of type {}", route.route_type)));
            match (route.route_type, hop) {
                (0, Some(hop)) if hop.is_ipv6() != ipv6 => return fault(),
                (0, Some(hop)) if net.prefix_len() == 0 => ways.push(Way::Gateway(hop)),
                (0, Some(hop)) => routes.push(RouteEntry::via(net.network(), net.prefix_len(), hop)),
                (1, _) if net.prefix_len() == 0 => ways.push(Way::Link { ipv6 }),
                (1, _) => routes.push(RouteEntry::to_link(net.network(), net.prefix_len(), 0)),
                _ => return fault(),
            }
        }
        Ok((routes, ways))
    }

    /// What else the plugin knows of a place: the hardware address, where it was not told before.
    fn look(&self, network: &Network, endpoint: &Endpoint) {
        let answer: std::result::Result<Value, _> =
            self.0.call("NetworkDriver.EndpointOperInfo", &ids(network, endpoint));
        match answer {
            Err(PluginError::Unknown { .. }) | Ok(_) => {}
            Err(error) => self.told("EndpointOperInfo", &error),
        }
    }

    /// Tells the plugin that the world is reached through this place, and which ports of the host shall lead to it.
    pub(crate) fn lead_out(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        ports: &[PublishedPort],
    ) -> Result<()> {
        let mut question = ids(network, endpoint);
        if let Some(map) = question.as_object_mut() {
            map.insert("Options".into(), endpoint_options(endpoint, ports));
        }
        match self.0.call("NetworkDriver.ProgramExternalConnectivity", &question) {
            // Not every plugin has it.
            Err(PluginError::Unknown { .. }) => Ok(()),
            other => other.map(|Nothing {}| ()).map_err(NetError::from),
        }
    }

    /// Has a place removed. A plugin that does not is told of in the log: the container is gone.
    pub(crate) fn remove_endpoint(&self, network: &Network, endpoint: &Endpoint) {
        for step in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
            let method = format!("NetworkDriver.{step}");
            let answer: std::result::Result<Nothing, _> = self.0.call(&method, &ids(network, endpoint));
            match answer {
                Ok(Nothing {}) => {}
                Err(PluginError::Unknown { .. }) if step == "RevokeExternalConnectivity" => {}
                Err(error) => self.told(step, &error),
            }
        }
    }

    fn told(&self, step: &str, error: &PluginError) {
        let plugin = self.0.name();
        tracing::warn!(
            plugin,
            step,
            error = havre_base::chain(error),
            "a plugin did not do what it was asked"
        );
    }
}

fn ids(network: &Network, endpoint: &Endpoint) -> Value {
    json!({ "NetworkID": network.id.as_str(), "EndpointID": endpoint.id.as_str() })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
