//! The socket for links, addresses, routes, neighbours and traffic control.
//!
//! Invariants: the socket belongs to the namespace for which it was opened, wherever its user is; changes
//! that are sent together are carried out in their order, each by itself: where all or nothing is wanted,
//! the caller undoes what went before.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::address::{self, Address};
use super::link::Link;
use super::message::{Message, Messages};
use super::neighbour::{self, Neighbour};
use super::qdisc::{self, Qdisc};
use super::socket::Socket;
use super::table::{self, RouteEntry};
use super::{NetlinkError, Result, link_read};

/// What is to be changed, sent together by [`Route::apply`].
#[derive(Debug, Default)]
pub struct Changes {
    pub(super) messages: Messages,
    /// Which of the messages create which kind of link.
    pub(super) kinds: Vec<(usize, &'static str)>,
}

impl Changes {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or has changed.
    Link(Box<Link>),
    /// A link is gone, or went to another namespace.
    LinkGone(Box<Link>),
    /// An address is new or has changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new.
    Route(RouteEntry),
    /// A route is gone.
    RouteGone(RouteEntry),
    /// More happened than could be held: only a listing tells what is there now.
    Lost,
}

/// A socket for links, addresses, routes, neighbours and traffic control of one network namespace.
#[derive(Debug)]
pub struct Route(Socket);

impl Route {
    /// Of the caller's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self(Socket::open(None)?))
    }

    /// Of the namespace `netns`. A thread enters it for as long as opening takes.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        let opened = crate::netns::enter_with(netns, || Ok(Self::open()));
        opened.map_err(NetlinkError::io("enter a network namespace"))?
    }

    /// Wants to hear of changes of links, addresses and routes. Such a socket is best used for nothing else.
    pub fn listen(&self) -> Result<()> {
        [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ]
        .into_iter()
        .try_for_each(|group| self.0.join(group))
    }

    /// Wants to hear of changes of routes only.
    pub fn listen_to_routes(&self) -> Result<()> {
        [libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE]
            .into_iter()
            .try_for_each(|group| self.0.join(group))
    }

    /// What has happened since the last call, without waiting. The descriptor is readable when there is more.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            match self.0.events() {
                Ok(Some(received)) => events.extend(received.filter_map(|message| event(&message))),
                Ok(None) => return Ok(events),
                Err(NetlinkError::Overrun) => events.push(Event::Lost),
                Err(error) => return Err(error),
            }
        }
    }

    /// Carries out the changes in their order. All are attempted; the error is that of the first that failed.
    pub fn apply(&mut self, changes: &mut Changes) -> Result<()> {
        let done = self.0.transact(&mut changes.messages, |_| {});
        match done {
            Err(NetlinkError::Refused { index, errno: Errno::OPNOTSUPP, text, .. })
                if text.as_deref().is_some_and(|text| text.starts_with("Unknown device type"))
                    && changes.kinds.iter().any(|(at, _)| *at == index) =>
            {
                let kind = changes.kinds.iter().find(|(at, _)| *at == index).map_or("such", |(_, kind)| kind);
                Err(NetlinkError::NoDriver { kind })
            }
            other => other,
        }
    }

    /// Carries out what `fill` asks for.
    pub fn change(&mut self, fill: impl for<'c> FnOnce(&'c mut Changes) -> &'c mut Changes) -> Result<()> {
        let mut changes = Changes::new();
        self.apply(fill(&mut changes))
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.0.list(&mut link_read::request(None), link_read::read)
    }

    /// The link with this name or number.
    pub fn link<'a>(&mut self, link: impl Into<super::link::LinkRef<'a>>) -> Result<Link> {
        let link = link.into();
        let mut found = None;
        let asked = self.0.transact(&mut link_read::request(Some(link)), |message| {
            found = found.take().or_else(|| link_read::read(message));
        });
        match asked {
            Err(error) if error.is_absent() => Err(NetlinkError::Absent { what: link.to_string() }),
            Err(error) => Err(error),
            Ok(()) => found.ok_or_else(|| NetlinkError::Absent { what: link.to_string() }),
        }
    }

    /// All addresses of this namespace's links, or of one.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut found = self.0.list(&mut address::request(index), address::read)?;
        // Old kernels list all.
        found.retain(|address| index.is_none_or(|index| index == address.index));
        Ok(found)
    }

    /// All routes of all tables, of both families, those that the kernel made itself included.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        let mut found = self.0.list(&mut table::request(false), table::read)?;
        found.extend(self.0.list(&mut table::request(true), table::read)?);
        Ok(found)
    }

    /// The way by which this namespace would send to `destination`.
    pub fn route_to(&mut self, destination: std::net::IpAddr) -> Result<RouteEntry> {
        let mut found = None;
        self.0.transact(&mut table::lookup(destination), |message| found = table::read(message))?;
        found.ok_or_else(|| NetlinkError::Absent { what: format!("route to {destination}") })
    }

    /// What is known of neighbours on all links or on one.
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut found = self.0.list(&mut neighbour::request(), neighbour::read)?;
        found.retain(|neighbour| index.is_none_or(|index| index == neighbour.index));
        Ok(found)
    }

    /// The queueing disciplines of a link.
    pub fn qdiscs(&mut self, index: u32) -> Result<Vec<Qdisc>> {
        let mut found = self.0.list(&mut qdisc::request(index), qdisc::read)?;
        found.retain(|qdisc| qdisc.index == index);
        Ok(found)
    }
}

fn event(message: &Message<'_>) -> Option<Event> {
    Some(match message.kind {
        libc::RTM_NEWLINK => Event::Link(Box::new(link_read::read(message)?)),
        libc::RTM_DELLINK => Event::LinkGone(Box::new(link_read::read(message)?)),
        libc::RTM_NEWADDR => Event::Address(address::read(message)?),
        libc::RTM_DELADDR => Event::AddressGone(address::read(message)?),
        libc::RTM_NEWROUTE => Event::Route(table::read(message)?),
        libc::RTM_DELROUTE => Event::RouteGone(table::read(message)?),
        _ => return None,
    })
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::tests::noise;
    use super::*;

    /// Messages of every kind with random bytes behind the header, some of them like attributes.
    #[test]
    fn hostile_messages_are_passed_over() {
        for seed in 0..4_000_u64 {
            let mut payload = noise(seed, usize::try_from(seed % 200).unwrap());
            // Lengths and kinds that are likely make attributes that are read.
            for at in (8..payload.len().saturating_sub(4)).step_by(8) {
                let kind = payload[at] % 60;
                payload[at..at + 4].copy_from_slice(&[8, 0, kind, 0]);
            }
            for kind in 16..100 {
                let message = Message { kind, flags: 0, number: 1, port: 1, payload: &payload };
                let _event = event(&message);
                let _neighbour = neighbour::read(&message);
                let _qdisc = qdisc::read(&message);
            }
        }
    }
}
