//! Flows of datagrams that were going elsewhere when their port was published, taken away or given to another container.
//!
//! The kernel goes on sending a flow where its first packet went, for as long as somebody sends: past the container that has
//! the port now. Invariant: after a change of a port, flows that do not go where it leads now are forgotten, so that their
//! next packet is asked about anew. Done behind: nobody waits for a listing of all the connections of a host. Connections of
//! TCP end by themselves, since whoever does not know them refuses them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use havre_sys::conntrack::{Connection, Connections};
use havre_sys::netlink::Route;
use tokio::sync::Notify;

use crate::Result;
use crate::ports::{Protocol, Publication};

const UDP: u8 = 17;

/// Ports that changed.
#[derive(Debug, Default)]
pub struct Stale {
    /// The number, and whether it is IPv6's.
    ports: Mutex<BTreeSet<(u16, bool)>>,
    look: Notify,
}

impl Stale {
    /// Something changed about these ports, and is in force.
    pub(crate) fn mark<'a>(&self, ports: impl IntoIterator<Item = &'a Publication>) {
        let mut some = false;
        // Taken whole by the one who looks.
        let mut marked = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports.into_iter().filter(|port| port.protocol == Protocol::Udp) {
            some |= marked.insert((port.port, port.to.is_ipv6()));
        }
        if some {
            self.look.notify_one();
        }
    }

    /// Ends when ports changed: which.
    pub(crate) async fn next(&self) -> BTreeSet<(u16, bool)> {
        loop {
            let marked = std::mem::take(&mut *self.ports.lock().unwrap_or_else(PoisonError::into_inner));
            if !marked.is_empty() {
                return marked;
            }
            self.look.notified().await;
        }
    }
}

/// Whether a flow goes elsewhere than the port to which it was sent leads now. `own` are the addresses of this host;
/// `by_input` says that only flows of the host itself are translated.
fn is_stale(
    flow: &Connection,
    changed: &BTreeSet<(u16, bool)>,
    published: &[Publication],
    own: &BTreeSet<IpAddr>,
    by_input: bool,
) -> bool {
    let (asked, answers) = (&flow.original, &flow.reply);
    let Some(port) = asked.destination_port.filter(|_| flow.protocol == UDP) else { return false };
    let v6 = asked.destination.is_ipv6();
    if !changed.contains(&(port, v6)) || !own.contains(&asked.destination) {
        return false;
    }
    let goes = (answers.source, answers.source_port);
    let is_here = goes == (asked.destination, Some(port));
    let leads = published.iter().find(|one| {
        one.protocol == Protocol::Udp
            && one.port == port
            && one.to.is_ipv6() == v6
            && one.at.is_none_or(|at| at == asked.destination)
    });
    match leads {
        Some(one) if by_input && !own.contains(&asked.source) => !is_here && one.to != goes.0,
        Some(one) => goes != (one.to, Some(one.to_port)),
        None => !is_here,
    }
}

/// Forgets flows that go elsewhere than the ports that changed lead now; returns how many.
pub(crate) fn forget(
    changed: &BTreeSet<(u16, bool)>,
    published: &[Publication],
    by_input: bool,
) -> Result<usize> {
    let own = Route::open()?.addresses(None)?.into_iter().map(|one| one.address).collect();
    // All of 127.0.0.0/8 is the host's, but nobody else's flows go there.
    Ok(Connections::open()?.forget(|flow| is_stale(flow, changed, published, &own, by_input))?)
}
