//! Bridges of the host, one for each network of that driver.
//!
//! Invariant: each change is undone by removing the device: addresses and routes go with it.

use std::net::IpAddr;
use std::path::PathBuf;

use havre_sys::netlink::Route;
use havre_sys::netlink::address::{Address, NO_DAD};
use havre_sys::netlink::link::{Bridge, End, Kind};

use super::{alias, owner};
use crate::networks::Network;
use crate::options::GatewayMode;
use crate::{NetError, Result};

/// The addresses that a network's bridge has, with their prefixes.
#[must_use]
pub fn addresses(network: &Network) -> Vec<(IpAddr, u8)> {
    let options = network.options();
    let wanted = |address: &IpAddr| match address {
        IpAddr::V4(_) => !options.inhibit_ipv4 && options.mode4 != GatewayMode::Isolated,
        IpAddr::V6(_) => options.mode6 != GatewayMode::Isolated,
    };
    let gateways =
        network.blocks.iter().filter_map(|block| Some((block.gateway?, block.subnet?.prefix_len())));
    gateways.filter(|(address, _)| wanted(address)).collect()
}

/// Makes the network's bridge as it should be, in the namespace that `route` and the calling thread are in; its number.
pub fn ensure(route: &mut Route, network: &Network) -> Result<u32> {
    let name = network.bridge.as_str();
    let found = match route.link(name) {
        Ok(link) => link,
        Err(error) if error.is_absent() => {
            let mtu = network.options().mtu;
            let end = End { name, mtu: (mtu > 0).then_some(mtu), ..End::default() };
            let alias = alias(&network.id);
            route.change(|changes| {
                changes.create_link(&end, &Kind::Bridge(Bridge::default())).set_alias(name, &alias)
            })?;
            route.link(name)?
        }
        Err(error) => return Err(error.into()),
    };
    if found.kind.as_deref() != Some("bridge") {
        return Err(NetError::Invalid(format!(
            "the device {name} of network {} is there already and is no bridge",
            network.spec.name
        )));
    }
    match owner(found.alias.as_deref()) {
        Some(other) if other != network.id => {
            return Err(NetError::Invalid(format!(
                "the bridge {name} of network {} belongs to network {other}, perhaps of another engine",
                network.spec.name
            )));
        }
        _ => {}
    }
    settle(name, network);
    let there = route.addresses(Some(found.index))?;
    let missing = |(address, prefix): &(IpAddr, u8)| {
        !there.iter().any(|one| one.address == *address && one.prefix == *prefix)
    };
    let missing: Vec<(IpAddr, u8)> = addresses(network).into_iter().filter(missing).collect();
    if !missing.is_empty() || !found.is_up() {
        route.change(|changes| {
            for (address, prefix) in missing {
                let mut address = Address::new(found.index, address, prefix);
                if address.address.is_ipv6() {
                    // Nobody else can have it: the bridge is new.
                    address.flags = NO_DAD;
                }
                changes.add_address(&address);
            }
            changes.set_up(found.index, true)
        })?;
    }
    Ok(found.index)
}

/// Sets what is set in files. A kernel without one of them has nothing to be set.
fn settle(bridge: &str, network: &Network) {
    let set = |family: &str, key: &str, value: &str| {
        let path = PathBuf::from(format!("/proc/sys/net/{family}/conf/{bridge}/{key}"));
        if let Err(error) = std::fs::write(&path, value)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot set a bridge's parameter");
        }
    };
    // Ports that are published on a loopback address are reached through the bridge.
    set("ipv4", "route_localnet", "1");
    set("ipv6", "disable_ipv6", if network.spec.ipv6 { "0" } else { "1" });
    // What containers advertise does not become the host's way out.
    set("ipv6", "accept_ra", "0");
}

/// Removes the network's bridge; an absent one, or one that is not ours, is left.
pub fn remove(route: &mut Route, network: &Network) -> Result<()> {
    match route.link(network.bridge.as_str()) {
        Ok(link) if link.alias.as_deref() == Some(&alias(&network.id)) => super::delete(route, link.index),
        Ok(_) => Ok(()),
        Err(error) if error.is_absent() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The names of bridges that are not ours.
pub fn of_others(route: &mut Route) -> Result<Vec<String>> {
    let foreign = |link: &havre_sys::netlink::link::Link| {
        link.kind.as_deref() == Some("bridge")
            && !link.alias.as_deref().is_some_and(|alias| alias.starts_with(super::MARK))
    };
    Ok(route.links()?.into_iter().filter(foreign).map(|link| link.name).collect())
}
