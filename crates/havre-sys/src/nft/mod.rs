//! The kernel's packet filter: tables, chains, sets and rules, changed in transactions and read back.
//!
//! Invariants: a [`Batch`] is carried out wholly or not at all; what is written here is shown by `nft list` in
//! words, because types, byte orders and register sizes are those that nft(8) itself uses; tables of others
//! are never named unless the caller names them.
//! Not here: which rules there should be.
//!
//! Sources: nft(8), `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`; numbers of data types and of
//! user data, which are only nft's own: its `datatype.h` and libnftnl's `udata.h`.

mod batch;
mod field;
mod read;
mod rule;
mod set;
mod verdict;

use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink::NETFILTER;

pub use batch::{Base, Batch, Chain, Hook, Priority};
pub use field::Field;
pub use read::{ChainView, DataView, ElementView, Event, RuleView, SetView, TableView};
pub use rule::Rule;
pub use set::{Data, Element, KeyType, Set, Value};
pub use verdict::{State, Status, Verdict};

use crate::netlink::attribute::Writer;
use crate::netlink::message::{DUMP, Message, Messages};
use crate::netlink::socket::Socket;
use crate::netlink::{NetlinkError, Result};

/// Kinds of messages are this plus the number within the packet filter (`NFNL_SUBSYS_NFTABLES << 8`).
const SUBSYSTEM: u16 = 10 << 8;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// How often elements are listed anew because some were told twice.
const ATTEMPTS: usize = 64;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Everything that crosses a bridge.
    Bridge,
    /// Everything that enters or leaves a link.
    Netdev,
}

impl Family {
    const ALL: [(Self, u8); 6] = [
        (Self::Inet, 1),
        (Self::Ip, 2),
        (Self::Arp, 3),
        (Self::Netdev, 5),
        (Self::Bridge, 7),
        (Self::Ip6, 10),
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(family, _)| *family == self).map_or(0, |(_, number)| *number)
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == number).map(|(family, _)| *family)
    }
}

/// A table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Which packets it sees.
    pub family: Family,
    /// What it is called.
    pub name: &'a str,
}

/// `struct nfgenmsg`.
fn header(family: u8) -> [u8; HEADER] {
    [family, 0, 0, 0]
}

/// A socket for the packet filter of one network namespace.
#[derive(Debug)]
pub struct Nft(Socket);

impl Nft {
    /// Of the caller's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self(Socket::open(Some(NETFILTER))?))
    }

    /// Of the namespace `netns`. A thread enters it for as long as opening takes.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        let opened = crate::netns::enter_with(netns, || Ok(Self::open()));
        opened.map_err(NetlinkError::io("enter a network namespace"))?
    }

    /// Carries out all of a batch or nothing.
    pub fn apply(&mut self, batch: Batch) -> Result<()> {
        let Some((mut messages, last)) = batch.finish() else { return Ok(()) };
        self.0.transact_until(&mut messages, last, |_| {})
    }

    /// The number of the present state of the whole packet filter; whoever changes something raises it.
    pub fn generation(&mut self) -> Result<u32> {
        let mut found = None;
        self.0.transact(
            &mut request(read::GET_GENERATION, 0, "ask for the generation", |_| {}),
            |message| {
                found = read::generation(message);
            },
        )?;
        found.ok_or(NetlinkError::Garbled("a generation without its number"))
    }

    /// All tables, also those of others.
    pub fn tables(&mut self) -> Result<Vec<TableView>> {
        self.list(read::GET_TABLE, None, "list tables", |_| {}, read::table)
    }

    /// The chains of a table.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<ChainView>> {
        let all = self.list(read::GET_CHAIN, Some(table.family), "list chains", |_| {}, read::chain)?;
        Ok(all
            .into_iter()
            .filter(|chain| chain.family == table.family && chain.table == table.name)
            .collect())
    }

    /// The rules of a table, in their order within each chain.
    pub fn rules(&mut self, table: Table<'_>) -> Result<Vec<RuleView>> {
        let fill = |writer: &mut Writer<'_>| drop_it(writer.text(1, table.name));
        let all = self.list(read::GET_RULE, Some(table.family), "list rules", fill, read::rule)?;
        Ok(all.into_iter().filter(|rule| rule.family == table.family && rule.table == table.name).collect())
    }

    /// The sets and maps of a table.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<SetView>> {
        let fill = |writer: &mut Writer<'_>| drop_it(writer.text(1, table.name));
        let all = self.list(read::GET_SET, Some(table.family), "list sets", fill, read::set)?;
        Ok(all.into_iter().filter(|set| set.family == table.family && set.table == table.name).collect())
    }

    /// The elements of a set or map.
    ///
    /// While the kernel makes room in a set that has grown, a listing, which it does in parts, may tell some
    /// elements twice and others not at all, though nothing changed: such a listing is done again.
    pub fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Vec<ElementView>> {
        for _ in 0..ATTEMPTS {
            let fill = |writer: &mut Writer<'_>| drop_it(writer.text(1, table.name).text(2, set));
            let family = Some(table.family);
            let lists = self.list(read::GET_ELEMENTS, family, "list elements", fill, read::elements)?;
            let found: Vec<_> = lists.into_iter().flatten().collect();
            let mut keys: Vec<_> = found.iter().map(|element| (&element.key, element.is_end)).collect();
            keys.sort_unstable();
            if keys.is_sorted_by(|one, other| one < other) {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Wants to hear of changes. Such a socket is best used for nothing else.
    pub fn listen(&self) -> Result<()> {
        self.0.join(GROUP)
    }

    /// Wants to hear no more. While anybody listens, the kernel writes a message of its own for each element.
    pub fn hush(&self) -> Result<()> {
        self.0.leave(GROUP)
    }

    /// Whose changes these are, for [`Nft::events_of_others`].
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.0.port()
    }

    /// What has happened since the last call, without waiting. The descriptor is readable when there is more.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        self.events_of(|_| true)
    }

    /// The same, without the changes that the socket with this number made.
    pub fn events_of_others(&mut self, port: u32) -> Result<Vec<Event>> {
        self.events_of(|by| by != port)
    }

    fn events_of(&mut self, wanted: impl Fn(u32) -> bool) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            match self.0.events() {
                Ok(Some(received)) => events.extend(
                    received
                        .filter(|message| wanted(message.port))
                        .filter_map(|message| read::event(&message)),
                ),
                Ok(None) => return Ok(events),
                Err(NetlinkError::Overrun) => events.push(Event::Lost),
                Err(error) => return Err(error),
            }
        }
    }

    fn list<T>(
        &mut self,
        kind: u16,
        family: Option<Family>,
        what: &'static str,
        fill: impl FnOnce(&mut Writer<'_>),
        read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut messages = Messages::new();
        let header = header(family.map_or(0, Family::number));
        messages.push(SUBSYSTEM | kind, DUMP, what, &header, fill);
        self.0.list(&mut messages, read)
    }
}

/// For closures that fill a message and give nothing back.
fn drop_it(_: &mut Writer<'_>) {}

fn request(kind: u16, family: u8, what: &'static str, fill: impl FnOnce(&mut Writer<'_>)) -> Messages {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM | kind, 0, what, &header(family), fill);
    messages
}

impl AsFd for Nft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// User data of nft: kind, length, value. Text ends with a zero byte and is cut where the length cannot tell it.
fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let value = value.get(..value.len().min(253)).unwrap_or_default();
    let length = u8::try_from(value.len()).unwrap_or(0);
    [&[kind, length], value].concat()
}

/// A comment as user data.
fn comment(kind: u8, text: &str) -> Vec<u8> {
    // nft reads comments of up to 128 bytes.
    let mut end = text.len().min(127);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    user_data(kind, &[text.get(..end).unwrap_or_default().as_bytes(), &[0]].concat())
}

/// The comment in user data.
fn comment_in(mut data: &[u8], kind: u8) -> Option<String> {
    loop {
        let (&[found, length], rest) = data.split_first_chunk()?;
        let value = rest.get(..usize::from(length))?;
        if found == kind {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            return Some(String::from_utf8_lossy(value.get(..end)?).into_owned());
        }
        data = rest.get(usize::from(length)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_travel_in_user_data_and_hostile_data_has_none() {
        let mut data = user_data(0, &[1, 0, 0, 0]);
        data.extend(comment(7, "of container 1"));
        assert_eq!(comment_in(&data, 7).as_deref(), Some("of container 1"));
        assert_eq!(comment_in(&data, 9), None);
        let long = comment(0, &"ä".repeat(200));
        assert_eq!(comment_in(&long, 0).unwrap(), "ä".repeat(63));
        for end in 0..data.len() {
            let _whatever = comment_in(&data[..end], 7);
        }
        assert_eq!(comment_in(&[7, 200, 1], 7), None);
    }
}
