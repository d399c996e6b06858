//! ipvlan: containers with internet addresses of their own on an interface of the host, and with its hardware address.
//!
//! In the modes `l3` and `l3s` the host's routes decide about their packets, so they have no gateway: everything goes out
//! by the link.

use havre_sys::netlink::link::{Ipvlan, Kind, Reach};

use crate::options::Options;

/// The modes; the first is the default.
pub(crate) const MODES: [&str; 3] = ["l2", "l3", "l3s"];
/// The flags; the first is the default.
pub(crate) const FLAGS: [&str; 3] = ["bridge", "private", "vepa"];

/// Whether everything goes out by the link itself, without a gateway. Modes of other drivers have other names.
#[must_use]
pub fn routes_by_link(options: &Options) -> bool {
    matches!(options.mode.as_str(), "l3" | "l3s")
}

/// What a container's link is made of, on the link with this number.
pub(crate) fn kind(options: &Options, parent: u32) -> Kind<'static> {
    let mode = match options.mode.as_str() {
        "l3" => Ipvlan::L3,
        "l3s" => Ipvlan::L3s,
        _ => Ipvlan::L2,
    };
    let reach = match options.flag.as_str() {
        "private" => Reach::Private,
        "vepa" => Reach::Vepa,
        _ => Reach::Bridge,
    };
    Kind::Ipvlan { parent, mode, reach }
}
