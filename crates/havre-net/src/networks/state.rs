//! What is known of networks in memory, and how addresses are given in it.
//!
//! Invariant: an address of a network's subnets that somebody has is taken in its block.

use std::collections::BTreeMap;
use std::net::IpAddr;

use havre_base::{EndpointId, NetworkId};
use ipnet::IpNet;

use super::records::{Endpoint, Network};
use crate::addresses::Block;
use crate::pools::overlap;
use crate::spec::{BlockSpec, Ipam, NetworkSpec};
use crate::{NetError, Result, routes};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: BTreeMap<NetworkId, Network>,
    pub(super) endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Of each network, its subnets in the order of its record.
    pub(super) blocks: BTreeMap<NetworkId, Vec<Block>>,
}

/// An address of a family, if the network has it.
pub(super) fn choose(
    network: &Network,
    given: &mut [Block],
    ipv6: bool,
    wanted: Option<IpAddr>,
) -> Result<Option<IpNet>> {
    let mut of_family: Vec<&mut Block> =
        given.iter_mut().filter(|block| block.subnet().addr().is_ipv6() == ipv6).collect();
    let with_prefix = |address: IpAddr, block: &Block| IpNet::new(address, block.subnet().prefix_len()).ok();
    if let Some(wanted) = wanted {
        let asked = |block: &&BlockSpec| block.subnet.is_some_and(|net| net.contains(&wanted));
        if network.spec.name == "bridge" && network.is_predefined() {
            return Err(NetError::Invalid(
                "user specified IP address is supported on user defined networks only".into(),
            ));
        }
        if !network.blocks.iter().any(|block| asked(&block)) {
            return Err(NetError::AddressOutside(wanted));
        }
        if !network.spec.blocks.iter().any(|block| asked(&block)) {
            return Err(NetError::Invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
                    .into(),
            ));
        }
        for block in of_family {
            if block.subnet().contains(&wanted) {
                block.take(wanted)?;
                return Ok(with_prefix(wanted, block));
            }
        }
        return Err(NetError::AddressOutside(wanted));
    }
    let Some(pool) = of_family.first().map(|block| block.subnet()) else { return Ok(None) };
    for block in &mut of_family {
        if let Some(address) = block.lowest() {
            return Ok(with_prefix(address, block));
        }
    }
    let version = if ipv6 { 6 } else { 4 };
    Err(NetError::NoAddress { version, name: network.spec.name.clone(), pool })
}

/// Locally administered, and the same for the same address, so that neighbours need not learn anew.
pub(super) fn mac_of(addresses: &[IpNet]) -> [u8; 6] {
    match addresses.first().map(IpNet::addr) {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x42, a, b, c, d]
        }
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0x43, a, b, c, d]
        }
        None => random_mac(),
    }
}

/// Locally administered.
pub(crate) fn random_mac() -> [u8; 6] {
    let random = EndpointId::random();
    let byte = |at: usize| random.as_str().get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
    let mut mac = [0x02, 0x44, 0, 0, 0, 0];
    for (at, place) in mac.iter_mut().skip(2).enumerate() {
        *place = byte(at * 2).unwrap_or(1);
    }
    mac
}

impl State {
    pub(super) fn insert(&mut self, network: Network) {
        let mut blocks = Vec::new();
        for spec in &network.blocks {
            let Some(subnet) = spec.subnet else { continue };
            let mut block = Block::new(subnet, spec.range);
            for address in spec.gateway.iter().chain(spec.auxiliary.values()) {
                // Checked when it was made; twice the same is one.
                block.take(*address).unwrap_or(());
            }
            blocks.push(block);
        }
        self.blocks.insert(network.id.clone(), blocks);
        self.networks.insert(network.id.clone(), network);
    }

    pub(super) fn restore(&mut self, endpoint: Endpoint) {
        for block in self.blocks.get_mut(&endpoint.network).into_iter().flatten() {
            let subnet = block.subnet();
            for net in endpoint.addresses.iter().filter(|net| subnet.contains(&net.addr())) {
                block.take(net.addr()).unwrap_or_else(|error| {
                    tracing::warn!(endpoint = %endpoint.id, %error, "an address is recorded twice");
                });
            }
        }
        self.endpoints.insert(endpoint.id.clone(), endpoint);
    }

    pub(super) fn find(&self, name: &str) -> Result<&Network> {
        // `default` is what a request calls the default network.
        let name = if name == "default" { "bridge" } else { name };
        if let Ok(id) = NetworkId::parse(name)
            && let Some(network) = self.networks.get(&id)
        {
            return Ok(network);
        }
        if let Some(network) = self.networks.values().find(|network| network.spec.name == name) {
            return Ok(network);
        }
        let mut found = self.networks.values().filter(|network| network.id.as_str().starts_with(name));
        match (found.next(), found.count()) {
            (Some(network), 0) if !name.is_empty() => Ok(network),
            (Some(_), more) if !name.is_empty() => {
                Err(NetError::Ambiguous { name: name.into(), count: more + 1, by: "ID prefix" })
            }
            _ => Err(NetError::NotFound(name.into())),
        }
    }

    /// The network whose configuration another one asks for.
    pub(super) fn configuration(&self, spec: &NetworkSpec) -> Result<Option<&Network>> {
        if spec.config_from.is_empty() {
            return Ok(None);
        }
        let found = self
            .networks
            .values()
            .find(|network| network.spec.config_only && network.spec.name == spec.config_from);
        found.map(Some).ok_or_else(|| NetError::NoConfiguration(spec.config_from.clone()))
    }

    /// What no other network may overlap; with the host's routes where nobody chose.
    pub(super) fn taken(&self, routes: bool) -> Vec<IpNet> {
        let mut taken: Vec<IpNet> = self.subnets().map(|(net, _)| net).collect();
        if routes {
            taken.extend(routes::of_host());
        }
        taken
    }

    pub(super) fn check_free(&self, wanted: &IpNet) -> Result<()> {
        match self.subnets().find(|(net, _)| overlap(net, wanted)) {
            Some((other, network)) => {
                let other = format!("{other} of network {}", network.spec.name);
                Err(NetError::Overlap { wanted: *wanted, other })
            }
            None => Ok(()),
        }
    }

    /// The subnets that this engine gave; what plugins give is in spaces of their own.
    pub(super) fn subnets(&self) -> impl Iterator<Item = (IpNet, &Network)> {
        let own = self
            .networks
            .values()
            .filter(|network| network.spec.ipam == Ipam::Own && !network.spec.config_only);
        own.flat_map(|network| network.blocks.iter().filter_map(move |block| Some((block.subnet?, network))))
    }
}
