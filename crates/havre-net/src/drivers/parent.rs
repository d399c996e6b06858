//! The interface of the host below a macvlan or ipvlan network.
//!
//! It is the administrator's (`eth0`), or one that the network made: the packets of an interface that carry a tag
//! (`eth0.10`, 802.1Q), or one that leads nowhere, where no parent was named. Invariant: only what the network made is
//! brought up, changed or removed, and it stays as long as another network is on it.

use havre_sys::netlink::link::{End, Kind, Link};
use havre_sys::netlink::{NetlinkError, Route};

use super::{alias, ipvlan, macvlan, owner};
use crate::networks::Network;
use crate::options::Options;
use crate::spec::{Driver, NetworkSpec};
use crate::{NetError, Result};

/// Tags have 12 bits, of which the first and the last value mean something else.
const TAGS: std::ops::RangeInclusive<u16> = 1..=4094;

/// The name of the interface below a network.
#[must_use]
pub fn name(network: &Network) -> String {
    let parent = network.options().parent;
    if parent.is_empty() { format!("dm-{}", network.id.short()) } else { parent }
}

/// Whether two networks may be on one interface: the kernel lets one kind of link have it, and one container where it
/// is passed through.
pub(super) fn check<'a>(
    spec: &NetworkSpec,
    options: &Options,
    others: impl IntoIterator<Item = &'a Network>,
) -> Result<()> {
    if options.parent.is_empty() {
        return Ok(());
    }
    let parent = &options.parent;
    let on_it = others.into_iter().filter(|other| {
        matches!(other.spec.driver, Driver::Macvlan | Driver::Ipvlan) && other.options().parent == *parent
    });
    for other in on_it {
        let name = &other.spec.name;
        let why = if spec.driver == Driver::Ipvlan || other.spec.driver == Driver::Ipvlan {
            format!("network {name} is already using parent interface {parent}")
        } else if options.mode == "passthru" {
            format!(
                "cannot use mode passthru, macvlan network {name} is already using parent interface {parent}"
            )
        } else if other.options().mode == "passthru" {
            format!("macvlan network {name} is already using parent interface {parent} in mode passthru")
        } else {
            continue;
        };
        return Err(NetError::Predefined(why));
    }
    Ok(())
}

/// What a container's link in this network is made of, on the link with this number.
#[must_use]
pub fn kind(network: &Network, parent: u32) -> Kind<'static> {
    let options = network.options();
    match network.spec.driver {
        Driver::Ipvlan => ipvlan::kind(&options, parent),
        _ => macvlan::kind(&options, parent),
    }
}

/// Refuses a network whose links this kernel does not have. A link on no parent is never made.
pub fn supported(route: &mut Route, network: &Network) -> Result<()> {
    let probe = End { name: "havre-probe", ..End::default() };
    match route.change(|changes| changes.create_link(&probe, &kind(network, 0))) {
        Err(error @ NetlinkError::NoDriver { .. }) => Err(lacking(network, &error)),
        _ => Ok(()),
    }
}

fn lacking(network: &Network, error: &NetlinkError) -> NetError {
    let (driver, name) = (network.spec.driver.name(), &network.spec.name);
    NetError::Unsupported(format!("cannot make the {driver} network {name}: {error}"))
}

/// Makes good what is missing of the network's parent, in the namespace that `route` is in; its number.
pub fn ensure(route: &mut Route, network: &Network) -> Result<u32> {
    let name = name(network);
    let found = match route.link(name.as_str()) {
        Ok(link) => link,
        Err(error) if error.is_absent() => {
            if network.options().parent.is_empty() {
                make_nowhere(route, network, &name)?;
            } else {
                make_tagged(route, network, &name)?;
            }
            route.link(name.as_str())?
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(master) = found.master {
        occupied(route, network, &found, master)?;
    }
    if owner(found.alias.as_deref()).is_some() && !found.is_up() {
        route.change(|changes| changes.set_up(found.index, true))?;
    }
    Ok(found.index)
}

/// Ports of bridges and bonds have a reader of their packets already.
fn occupied(route: &mut Route, network: &Network, parent: &Link, master: u32) -> Result<()> {
    let Ok(master) = route.link(master) else { return Ok(()) };
    match master.kind.as_deref() {
        Some(kind @ ("bridge" | "bond" | "team")) => Err(NetError::Invalid(format!(
            "parent interface {} of network {} is a port of the {kind} {}: use {} itself as the parent, or an interface of its own",
            parent.name, network.spec.name, master.name, master.name
        ))),
        _ => Ok(()),
    }
}

/// An interface that leads nowhere. Kernels without the one made for that may have the one for redirected packets, which
/// drops whatever is sent.
fn make_nowhere(route: &mut Route, network: &Network, name: &str) -> Result<()> {
    let end = End { name, ..End::default() };
    let mut last = None;
    for kind in [Kind::Dummy, Kind::Ifb] {
        match route.change(|changes| changes.create_link(&end, &kind)) {
            Ok(()) => return adopt(route, network, name),
            Err(error @ NetlinkError::NoDriver { .. }) => last = last.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    match last {
        Some(error) => Err(NetError::Unsupported(format!(
            "cannot make the internal network {}: {error}, or name a parent (-o parent=...)",
            network.spec.name
        ))),
        None => Ok(()),
    }
}

/// The packets of an interface that carry a tag.
fn make_tagged(route: &mut Route, network: &Network, name: &str) -> Result<()> {
    let invalid = |why: String| Err(NetError::Invalid(why));
    let Some((below, tag)) = name.split_once('.') else {
        return invalid(format!(
            "invalid subinterface vlan name {name}, example formatting is eth0.10: the host has no interface {name}"
        ));
    };
    if tag.contains('.') {
        return invalid(format!(
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {name}"
        ));
    }
    let Ok(id) = tag.parse::<u32>() else {
        return invalid(format!(
            "unable to parse a valid vlan id from: {tag} (ex. eth0.10 for vlan 10), and the host has no interface {name}"
        ));
    };
    let Some(id) = u16::try_from(id).ok().filter(|id| TAGS.contains(id)) else {
        return invalid(format!("vlan id must be between 1-4094, received: {id}"));
    };
    let parent = match route.link(below) {
        Ok(link) => link.index,
        Err(error) if error.is_absent() => {
            return invalid(format!("-o parent interface was not found on the host: {below}"));
        }
        Err(error) => return Err(error.into()),
    };
    let end = End { name, ..End::default() };
    match route.change(|changes| changes.create_link(&end, &Kind::Vlan { parent, id })) {
        Ok(()) => adopt(route, network, name),
        Err(error @ NetlinkError::NoDriver { .. }) => Err(lacking(network, &error)),
        Err(error) => Err(error.into()),
    }
}

/// What was just made is the network's.
fn adopt(route: &mut Route, network: &Network, name: &str) -> Result<()> {
    let alias = alias(network);
    let made = route.change(|changes| changes.set_alias(name, &alias).set_up(name, true));
    if made.is_err() {
        // Without its mark nobody would remove it.
        route.change(|changes| changes.delete_link(name))?;
    }
    Ok(made?)
}

/// Removes the parent if it is the network's, or gives it to another network that is on it.
pub(super) fn remove(route: &mut Route, network: &Network, others: &[Network]) -> Result<()> {
    let own = name(network);
    let link = match route.link(own.as_str()) {
        Ok(link) if owner(link.alias.as_deref()).as_ref() == Some(&network.id) => link,
        Ok(_) => return Ok(()),
        Err(error) if error.is_absent() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let heir = others.iter().find(|other| {
        other.id != network.id
            && matches!(other.spec.driver, Driver::Macvlan | Driver::Ipvlan)
            && name(other) == own
    });
    match heir {
        Some(heir) => {
            let alias = alias(heir);
            Ok(route.change(|changes| changes.set_alias(link.index, &alias))?)
        }
        None => super::delete(route, link.index),
    }
}
