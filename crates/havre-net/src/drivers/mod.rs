//! What differs between networks of this host: the devices below them and how a container is joined to those.
//!
//! Invariants: a device of ours carries its network's id as its alias, and only such a one is changed or removed; making
//! is `ensure`, which makes good whatever is missing and can be called at any time. Recording who is where is the same for
//! all (`networks.rs`), and so is the container's side (`sandbox.rs`).

pub mod bridge;
pub mod ipvlan;
pub mod macvlan;
pub mod parent;
pub mod remote;

use havre_base::NetworkId;
use havre_sys::netlink::{NetlinkError, Route};

use crate::Result;
use crate::networks::Network;
use crate::options::Options;
use crate::spec::{Driver, NetworkSpec};

/// What devices of ours have as the beginning of their alias.
const MARK: &str = "havre network ";

/// The alias of a network's device.
fn alias(network: &NetworkId) -> String {
    format!("{MARK}{network}")
}

/// Whose device this alias marks.
fn owner(alias: Option<&str>) -> Option<NetworkId> {
    NetworkId::parse(alias?.strip_prefix(MARK)?).ok()
}

/// Refuses what the driver cannot do beside the networks that are there.
pub fn check<'a>(
    spec: &NetworkSpec,
    options: &Options,
    others: impl IntoIterator<Item = &'a Network>,
) -> Result<()> {
    match spec.driver {
        Driver::Macvlan | Driver::Ipvlan => parent::check(spec, options, others),
        Driver::Bridge | Driver::Host | Driver::Null | Driver::Remote(_) => Ok(()),
    }
}

/// Whether the network's subnets have a gateway where none was asked for.
#[must_use]
pub fn wants_gateway(spec: &NetworkSpec, options: &Options) -> bool {
    match spec.driver {
        Driver::Macvlan | Driver::Ipvlan => {
            !spec.internal && !options.parent.is_empty() && !ipvlan::routes_by_link(options)
        }
        Driver::Bridge | Driver::Host | Driver::Null | Driver::Remote(_) => true,
    }
}

/// Removes a network's device; an absent one, or one that is not ours, is left. Where one of the `others` is on it, that
/// one becomes its owner.
pub fn remove(route: &mut Route, network: &Network, others: &[Network]) -> Result<()> {
    match network.spec.driver {
        Driver::Bridge => bridge::remove(route, network),
        Driver::Macvlan | Driver::Ipvlan => parent::remove(route, network, others),
        Driver::Host | Driver::Null | Driver::Remote(_) => Ok(()),
    }
}

/// Removes devices of ours whose networks are not there any more.
pub fn sweep(route: &mut Route, networks: &[Network]) -> Result<()> {
    let own = |id: &NetworkId| {
        networks.iter().any(|network| {
            network.id == *id
                && matches!(network.spec.driver, Driver::Bridge | Driver::Macvlan | Driver::Ipvlan)
        })
    };
    for link in route.links()? {
        if owner(link.alias.as_deref()).is_some_and(|id| !own(&id)) {
            delete(route, link.index)?;
        }
    }
    Ok(())
}

/// Absent counts as removed.
fn delete(route: &mut Route, link: u32) -> Result<()> {
    match route.change(|changes| changes.delete_link(link)) {
        Err(NetlinkError::Absent { .. }) | Ok(()) => Ok(()),
        Err(error) if error.is_absent() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
