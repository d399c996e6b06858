//! Addresses that a plugin gives, by the protocol of Docker's `IpamDriver`.
//!
//! Invariants: a pool or an address that was asked for and is not used is given back; what a plugin answers is checked
//! before it is believed: an address is inside its pool, a pool of the family that was asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use havre_plugin::{Plugin, PluginError};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;

use crate::networks::{EndpointSpec, Network};
use crate::spec::{BlockSpec, NetworkSpec};
use crate::{NetError, Result};

/// What the protocol calls such a plugin.
pub(crate) const WHAT: &str = "IpamDriver";
/// The longest name of a pool that is kept.
const LONGEST_POOL: usize = 1024;
const GATEWAY: &str = "com.docker.network.gateway";
const MAC: &str = "com.docker.network.endpoint.macaddress";

/// A plugin that gives addresses.
#[derive(Debug)]
pub(crate) struct Remote(Plugin);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spaces {
    #[serde(default)]
    local_default_address_space: String,
}

#[derive(Debug, Deserialize)]
struct Capabilities {
    #[serde(default, rename = "RequiresMACAddress")]
    requires_mac: bool,
}

#[derive(Debug, Deserialize)]
struct Pool {
    #[serde(default, rename = "PoolID")]
    id: String,
    #[serde(default, rename = "Pool")]
    subnet: String,
    #[serde(default, rename = "Data")]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    #[serde(default)]
    address: String,
}

#[derive(Debug, Deserialize)]
struct Nothing {}

impl Remote {
    pub(crate) fn new(plugin: Plugin) -> Self {
        Self(plugin)
    }

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

    /// The subnets of a network that is to be made, each with its gateway.
    pub(crate) fn pools(&self, spec: &NetworkSpec, no_gateway: [bool; 2]) -> Result<Vec<BlockSpec>> {
        let spaces: Spaces = self.0.call("IpamDriver.GetDefaultAddressSpaces", &json!({}))?;
        let mut made = Vec::new();
        let done = (|| {
            for (ipv6, asked) in families(spec, &spec.blocks) {
                let space = &spaces.local_default_address_space;
                made.push(self.pool(space, ipv6, &asked, spec)?);
                if let Some(block) = made.last_mut() {
                    self.reserve(block, &asked, no_gateway[usize::from(ipv6)])?;
                }
            }
            Ok(())
        })();
        match done {
            Ok(()) => Ok(made),
            Err(error) => {
                self.release_pools(&made);
                Err(error)
            }
        }
    }

    fn pool(&self, space: &str, ipv6: bool, asked: &BlockSpec, spec: &NetworkSpec) -> Result<BlockSpec> {
        const METHOD: &str = "IpamDriver.RequestPool";
        let text = |net: Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
        let question = json!({
            "AddressSpace": space, "Pool": text(asked.subnet), "SubPool": text(asked.range),
            "Options": spec.ipam_options, "V6": ipv6,
        });
        let pool: Pool = self.0.call(METHOD, &question)?;
        if pool.id.len() > LONGEST_POOL {
            return Err(self.lie(METHOD, format!("a PoolID of {} bytes", pool.id.len())));
        }
        let mut block = BlockSpec { pool: pool.id, range: asked.range, ..BlockSpec::default() };
        let checked = (|| {
            let net: IpNet = pool.subnet.parse().map_err(|_| {
                self.lie(METHOD, format!("the pool {:?}, which is no subnet", cut(&pool.subnet)))
            })?;
            if net.addr().is_ipv6() != ipv6 {
                let version = if ipv6 { 6 } else { 4 };
                return Err(
                    self.lie(METHOD, format!("the pool {net} where one for IPv{version} was asked for"))
                );
            }
            let gateway = pool.data.unwrap_or_default().remove(GATEWAY).filter(|text| !text.is_empty());
            let gateway = gateway.map(|text| self.inside(METHOD, &text, &net)).transpose()?;
            Ok((net.trunc(), gateway.map(|gateway| gateway.addr())))
        })();
        match checked {
            Ok((net, gateway)) => {
                (block.subnet, block.gateway) = (Some(net), gateway);
                Ok(block)
            }
            Err(error) => {
                self.release_pools(std::slice::from_ref(&block));
                Err(error)
            }
        }
    }

    /// The addresses of a subnet that are no container's.
    fn reserve(&self, block: &mut BlockSpec, asked: &BlockSpec, no_gateway: bool) -> Result<()> {
        if asked.gateway.is_some() || (block.gateway.is_none() && !no_gateway) {
            let options = json!({ "RequestAddressType": GATEWAY });
            block.gateway = Some(self.address(block, asked.gateway, &options)?.addr());
        }
        for (name, wanted) in &asked.auxiliary {
            let address = self.address(block, Some(*wanted), &json!({}))?;
            block.auxiliary.insert(name.clone(), address.addr());
        }
        Ok(())
    }

    fn address(
        &self,
        block: &BlockSpec,
        wanted: Option<IpAddr>,
        options: &serde_json::Value,
    ) -> Result<IpNet> {
        const METHOD: &str = "IpamDriver.RequestAddress";
        let question = json!({
            "PoolID": block.pool, "Address": wanted.map(|address| address.to_string()).unwrap_or_default(),
            "Options": options,
        });
        let answer: Address = self.0.call(METHOD, &question)?;
        let subnet = block.subnet.unwrap_or_default();
        let given = self.inside(METHOD, &answer.address, &subnet)?;
        match wanted {
            Some(wanted) if wanted != given.addr() => {
                self.release(block, given.addr());
                Err(self.lie(METHOD, format!("the address {given} where {wanted} was asked for")))
            }
            _ => Ok(given),
        }
    }

    /// An address with a prefix, or without, that must be in a subnet.
    fn inside(&self, method: &'static str, text: &str, subnet: &IpNet) -> Result<IpNet> {
        let bare = |address: IpAddr| IpNet::new(address, subnet.prefix_len()).ok();
        let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse().ok().and_then(bare));
        match parsed {
            Some(net) if subnet.contains(&net.addr()) => Ok(net),
            Some(net) => Err(self.lie(method, format!("the address {net}, which is outside of {subnet}"))),
            None => Err(self.lie(method, format!("the address {:?}, which is none", cut(text)))),
        }
    }

    /// The addresses of a container that joins.
    pub(crate) fn addresses(&self, network: &Network, spec: &mut EndpointSpec) -> Result<Vec<IpNet>> {
        let capabilities: Capabilities = match self.0.call("IpamDriver.GetCapabilities", &json!({})) {
            Err(PluginError::Unknown { .. }) => Capabilities { requires_mac: false },
            other => other?,
        };
        let mut options = BTreeMap::new();
        if capabilities.requires_mac {
            let mac = *spec.mac.get_or_insert_with(crate::networks::random_mac);
            options.insert(MAC, mac.map(|byte| format!("{byte:02x}")).join(":"));
        }
        let mut given = Vec::new();
        for (ipv6, wanted) in [(false, spec.ipv4.map(IpAddr::V4)), (true, spec.ipv6.map(IpAddr::V6))] {
            let of_family = |block: &&BlockSpec| {
                block.subnet.is_some_and(|net| {
                    net.addr().is_ipv6() == ipv6 && wanted.is_none_or(|wanted| net.contains(&wanted))
                })
            };
            let mut failed = wanted.map(NetError::AddressOutside);
            // The first pool that has one.
            for block in network.blocks.iter().filter(of_family) {
                match self.address(block, wanted, &json!(options)) {
                    Ok(address) => {
                        given.push(address);
                        failed = None;
                        break;
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                self.release_addresses(network, &given);
                return Err(error);
            }
        }
        Ok(given)
    }

    /// Gives addresses of a container back. A plugin that does not take them is told of in the log.
    pub(crate) fn release_addresses(&self, network: &Network, addresses: &[IpNet]) {
        for net in addresses {
            let of = |block: &&BlockSpec| block.subnet.is_some_and(|subnet| subnet.contains(&net.addr()));
            if let Some(block) = network.blocks.iter().find(of) {
                self.release(block, net.addr());
            }
        }
    }

    fn release(&self, block: &BlockSpec, address: IpAddr) {
        let question = json!({ "PoolID": block.pool, "Address": address.to_string() });
        self.told(self.0.call("IpamDriver.ReleaseAddress", &question));
    }

    /// Gives subnets back, with the addresses that are no container's.
    pub(crate) fn release_pools(&self, blocks: &[BlockSpec]) {
        for block in blocks {
            for address in block.gateway.iter().chain(block.auxiliary.values()) {
                self.release(block, *address);
            }
            self.told(self.0.call("IpamDriver.ReleasePool", &json!({ "PoolID": block.pool })));
        }
    }

    fn told(&self, answer: std::result::Result<Nothing, PluginError>) {
        if let Err(error) = answer {
            tracing::warn!(
                plugin = self.0.name(),
                error = havre_base::chain(&error),
                "a plugin keeps addresses"
            );
        }
    }
}

/// What is to be asked for: what was named, and one of each family that was not.
fn families(spec: &NetworkSpec, named: &[BlockSpec]) -> Vec<(bool, BlockSpec)> {
    let family = |block: &BlockSpec| block.subnet.is_some_and(|net| net.addr().is_ipv6());
    let mut all: Vec<(bool, BlockSpec)> = named.iter().map(|block| (family(block), block.clone())).collect();
    for (ipv6, wanted) in [(false, spec.ipv4), (true, spec.ipv6)] {
        if wanted && !all.iter().any(|(of, _)| *of == ipv6) {
            all.push((ipv6, BlockSpec::default()));
        }
    }
    all
}

/// A text of a plugin's as it can stand in a line.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
