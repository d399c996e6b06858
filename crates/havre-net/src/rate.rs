//! How fast a container may receive and send.
//!
//! Both limits are at the host's end of its pair of links, where the container cannot lift them. What it receives waits
//! in a token bucket where that end sends. What it sends is received there, and the kernel queues only what is sent: it is
//! redirected to a link of its own, waits in a token bucket there and is received after that. Invariants: what is sent is
//! never redirected to a link without its limit; the link for it carries its endpoint's id and goes with the endpoint.

use havre_base::EndpointId;
use havre_sys::netlink::link::{End, Kind};
use havre_sys::netlink::qdisc::Bucket;
use havre_sys::netlink::redirect::Filter;
use havre_sys::netlink::{NetlinkError, Route};
use serde::{Deserialize, Serialize};

use crate::networks::Endpoint;
use crate::sandbox::outer_name;
use crate::{NetError, Result};

/// What links for this have as the beginning of their alias.
const MARK: &str = "havre rate ";
/// Below this a packet would wait for longer than its sender does.
pub const LEAST: u64 = 1000;

/// Limits of a container in each of its networks, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rates {
    /// What it receives.
    pub into: Option<u64>,
    /// What it sends.
    pub out: Option<u64>,
}

impl Rates {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.into.is_none() && self.out.is_none()
    }
}

/// The link in which what an endpoint sends waits.
fn queue_name(endpoint: &EndpointId) -> String {
    format!("rate{}", endpoint.as_str().get(..7).unwrap_or_default())
}

fn lacking(error: &NetlinkError) -> NetError {
    NetError::Unsupported(format!(
        "cannot limit the rate of a network: {error} (it takes the modules sch_tbf; and for what a container sends sch_ingress, ifb, act_mirred, and cls_matchall or cls_u32)"
    ))
}

/// Makes the limits of a place what is wanted, in the namespace that `route` is in.
pub(crate) fn limit(route: &mut Route, endpoint: &Endpoint, rates: Rates) -> Result<()> {
    let outer = outer_name(endpoint);
    let index = match route.link(outer.as_str()) {
        Ok(link) => link.index,
        // It has ended meanwhile.
        Err(error) if error.is_absent() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match rates.into {
        Some(rate) => {
            let bucket = Bucket::for_rate(rate);
            route.change(|changes| changes.set_limit(index, bucket)).map_err(|error| lacking(&error))?;
        }
        None if route.qdiscs(index)?.iter().any(|qdisc| qdisc.is_root && qdisc.bucket.is_some()) => {
            route.change(|changes| changes.delete_limit(index))?;
        }
        None => {}
    }
    match rates.out {
        Some(rate) => limit_sent(route, endpoint, index, rate),
        None => release_sent(route, endpoint, index),
    }
}

fn limit_sent(route: &mut Route, endpoint: &Endpoint, outer: u32, rate: u64) -> Result<()> {
    let name = queue_name(&endpoint.id);
    let bucket = Bucket::for_rate(rate);
    let (queue, new) = match route.link(name.as_str()) {
        Ok(link) => (link.index, false),
        Err(error) if error.is_absent() => {
            let alias = format!("{MARK}{}", endpoint.id);
            let end = End { name: &name, ..End::default() };
            route
                .change(|changes| {
                    changes
                        .create_link(&end, &Kind::Ifb)
                        .set_alias(name.as_str(), &alias)
                        .set_up(name.as_str(), true)
                })
                .map_err(|error| lacking(&error))?;
            (route.link(name.as_str())?.index, true)
        }
        Err(error) => return Err(error.into()),
    };
    let done = route.change(|changes| changes.set_limit(queue, bucket)).and_then(|()| {
        // It may be missing where this was interrupted before.
        let redirected = route.qdiscs(outer)?.iter().any(|qdisc| qdisc.kind == "ingress");
        if redirected { Ok(()) } else { redirect(route, outer, queue) }
    });
    done.map_err(|error| {
        if new {
            // Nobody else would remove it before the container ends.
            let _gone = route.change(|changes| changes.delete_link(queue));
        }
        lacking(&error)
    })
}

/// By the filter that this kernel has.
fn redirect(route: &mut Route, outer: u32, queue: u32) -> std::result::Result<(), NetlinkError> {
    let done = match route.change(|changes| changes.redirect(outer, queue, Filter::Matchall)) {
        Err(error) if error.is_absent() => {
            route.change(|changes| changes.redirect(outer, queue, Filter::U32))
        }
        other => other,
    };
    if done.is_err() {
        // What would hold the filter may be there without it.
        let _gone = route.change(|changes| changes.stop_redirect(outer));
    }
    done
}

fn release_sent(route: &mut Route, endpoint: &Endpoint, outer: u32) -> Result<()> {
    if route.link(queue_name(&endpoint.id).as_str()).is_ok() {
        route.change(|changes| changes.stop_redirect(outer))?;
        forget(route, endpoint)?;
    }
    Ok(())
}

/// Removes what a place that has ended left; absent counts as removed.
pub(crate) fn forget(route: &mut Route, endpoint: &Endpoint) -> Result<()> {
    match route.change(|changes| changes.delete_link(queue_name(&endpoint.id).as_str())) {
        Err(error) if error.is_absent() => Ok(()),
        other => Ok(other?),
    }
}

/// Removes links for places that are not there any more.
pub(crate) fn sweep(route: &mut Route, endpoints: &[Endpoint]) -> Result<()> {
    for link in route.links()? {
        let of = link.alias.as_deref().and_then(|alias| alias.strip_prefix(MARK));
        let Some(id) = of.and_then(|id| EndpointId::parse(id).ok()) else { continue };
        if !endpoints.iter().any(|endpoint| endpoint.id == id) {
            match route.change(|changes| changes.delete_link(link.index)) {
                Err(error) if !error.is_absent() => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}
