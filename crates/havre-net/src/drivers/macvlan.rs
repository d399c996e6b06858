//! macvlan: containers with hardware addresses of their own on an interface of the host.
//!
//! The host itself does not reach them by that interface, and they do not reach the host: the kernel separates both.

use havre_sys::netlink::link::{Kind, Macvlan};

use crate::options::Options;

/// The modes; the first is the default.
pub(crate) const MODES: [&str; 4] = ["bridge", "private", "vepa", "passthru"];

/// How containers of a network reach each other.
#[must_use]
pub fn mode(options: &Options) -> Macvlan {
    match options.mode.as_str() {
        "private" => Macvlan::Private,
        "vepa" => Macvlan::Vepa,
        "passthru" => Macvlan::Passthru,
        _ => Macvlan::Bridge,
    }
}

/// What a container's link is made of, on the link with this number.
pub(crate) fn kind(options: &Options, parent: u32) -> Kind<'static> {
    Kind::Macvlan { parent, mode: mode(options) }
}
