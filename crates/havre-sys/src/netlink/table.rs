//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::family;
use super::message::{CREATE, DUMP, EXCL, Message, Messages, REPLACE};
use super::route::Changes;

/// Length of `struct rtmsg`.
const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const OUT: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const MULTIPATH: u16 = 9;
const TABLE: u16 = 15;
/// Length of `struct rtnexthop`.
const NEXT_HOP: usize = 8;

/// The table in which routes are unless they say otherwise.
pub const MAIN: u32 = 254;
/// The table of this machine's own addresses, which the kernel keeps.
pub const LOCAL: u32 = 255;

/// Scope: everywhere.
pub const SCOPE_UNIVERSE: u8 = 0;
/// Scope: neighbours on the link.
pub const SCOPE_LINK: u8 = 253;
/// Scope: this machine.
pub const SCOPE_HOST: u8 = 254;
/// Scope: none; what is removed may have any.
const SCOPE_NOWHERE: u8 = 255;

/// Type of a route: to a link or gateway.
pub const UNICAST: u8 = 1;
/// Type of a route: an own address.
pub const OWN: u8 = 2;
/// Type of a route: packets vanish.
pub const BLACKHOLE: u8 = 6;
/// Type of a route: the sender is told that nobody is there.
pub const UNREACHABLE: u8 = 7;

/// Who made it: the kernel (`RTPROT_KERNEL`).
pub const BY_KERNEL: u8 = 2;
/// Who made it: an administrator (`RTPROT_STATIC`).
pub const BY_ADMINISTRATOR: u8 = 4;

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where to; all zero with prefix 0 is everywhere.
    pub destination: IpAddr,
    /// How many bits of the destination count.
    pub prefix: u8,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// Through which link. Of several next hops the first is told.
    pub link: Option<u32>,
    /// The address from which one sends.
    pub source: Option<IpAddr>,
    /// The lower the better; the kernel's default where it is not given.
    pub metric: Option<u32>,
    /// In which table.
    pub table: u32,
    /// How far away (`SCOPE_*`).
    pub scope: u8,
    /// What happens to packets ([`UNICAST`] and others).
    pub kind: u8,
    /// Who made it.
    pub protocol: u8,
}

impl RouteEntry {
    /// To a network that is directly at a link.
    #[must_use]
    pub fn to_link(destination: IpAddr, prefix: u8, link: u32) -> Self {
        // IPv6 knows no scopes of routes.
        let scope = if destination.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
        Self {
            destination,
            prefix,
            gateway: None,
            link: Some(link),
            source: None,
            metric: None,
            table: MAIN,
            scope,
            kind: UNICAST,
            protocol: BY_ADMINISTRATOR,
        }
    }

    /// To a network behind a gateway.
    #[must_use]
    pub fn via(destination: IpAddr, prefix: u8, gateway: IpAddr) -> Self {
        let mut route = Self::to_link(destination, prefix, 0);
        (route.gateway, route.link, route.scope) = (Some(gateway), None, SCOPE_UNIVERSE);
        route
    }

    /// To everywhere.
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        Self::via(unspecified(gateway.is_ipv6()), 0, gateway)
    }

    /// Whether it leads everywhere.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }

    fn header(&self, scope: u8) -> [u8; HEADER] {
        let table = u8::try_from(self.table).unwrap_or(0);
        [family(self.destination), self.prefix, 0, 0, table, self.protocol, scope, self.kind, 0, 0, 0, 0]
    }

    fn push(&self, changes: &mut Changes, message: u16, flags: u16, what: String, scope: u8) {
        changes.messages.push(message, flags, what, &self.header(scope), |writer| {
            if self.prefix > 0 {
                writer.ip(DESTINATION, self.destination);
            }
            if let Some(gateway) = self.gateway {
                writer.ip(GATEWAY, gateway);
            }
            if let Some(link) = self.link {
                writer.u32(OUT, link);
            }
            if let Some(source) = self.source {
                writer.ip(SOURCE, source);
            }
            if let Some(metric) = self.metric {
                writer.u32(PRIORITY, metric);
            }
            writer.u32(TABLE, self.table);
        });
    }
}

fn unspecified(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

impl Changes {
    /// Adds a route. It is an error if there is one with the same destination and metric.
    pub fn add_route(&mut self, route: &RouteEntry) -> &mut Self {
        let what = format!("add a route to {}/{}", route.destination, route.prefix);
        route.push(self, libc::RTM_NEWROUTE, CREATE | EXCL, what, route.scope);
        self
    }

    /// Adds a route in the place of one with the same destination and metric.
    pub fn replace_route(&mut self, route: &RouteEntry) -> &mut Self {
        let what = format!("set the route to {}/{}", route.destination, route.prefix);
        route.push(self, libc::RTM_NEWROUTE, CREATE | REPLACE, what, route.scope);
        self
    }

    /// Removes a route.
    pub fn delete_route(&mut self, route: &RouteEntry) -> &mut Self {
        let what = format!("remove the route to {}/{}", route.destination, route.prefix);
        route.push(self, libc::RTM_DELROUTE, 0, what, SCOPE_NOWHERE);
        self
    }
}

pub(super) fn request(v6: bool) -> Messages {
    let mut messages = Messages::new();
    let mut header = [0; HEADER];
    header[0] = family(unspecified(v6));
    messages.push(libc::RTM_GETROUTE, DUMP, "list routes", &header, |_| {});
    messages
}

pub(super) fn lookup(destination: IpAddr) -> Messages {
    let mut messages = Messages::new();
    let mut header = [0; HEADER];
    header[0] = family(destination);
    header[1] = if destination.is_ipv4() { 32 } else { 128 };
    let what = format!("find the route to {destination}");
    messages.push(libc::RTM_GETROUTE, 0, what, &header, |writer| {
        writer.ip(DESTINATION, destination);
    });
    messages
}

pub(super) fn read(message: &Message<'_>) -> Option<RouteEntry> {
    if !matches!(message.kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) {
        return None;
    }
    let [family, prefix, _, _, table, protocol, scope, kind, ..] = *message.header::<HEADER>()?;
    let v6 = match i32::from(family) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let all = message.attributes(HEADER);
    let number = |kind| all.get(kind).and_then(|value| value.u32());
    let address = |kind| all.get(kind).and_then(|value| value.ip());
    let (mut gateway, mut link) = (address(GATEWAY), number(OUT));
    if let Some(hops) = all.get(MULTIPATH).map(|hops| hops.value) {
        link = link.or_else(|| hops.get(4..8)?.try_into().ok().map(u32::from_ne_bytes));
        let inside = super::attribute::Attributes::new(hops.get(NEXT_HOP..).unwrap_or_default());
        gateway = gateway.or_else(|| inside.get(GATEWAY)?.ip());
    }
    Some(RouteEntry {
        destination: address(DESTINATION).unwrap_or_else(|| unspecified(v6)),
        prefix,
        gateway,
        link,
        source: address(SOURCE),
        metric: number(PRIORITY),
        table: number(TABLE).unwrap_or_else(|| table.into()),
        scope,
        kind,
        protocol,
    })
}
