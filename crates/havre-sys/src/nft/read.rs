//! Tables, chains, sets, elements and rules as the kernel tells them.

use super::verdict::Verdict;
use super::{Family, HEADER, SUBSYSTEM, comment_in};
use crate::netlink::attribute::{Attribute, Attributes};
use crate::netlink::message::Message;

pub(super) const GET_TABLE: u16 = 1;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const GET_RULE: u16 = 7;
pub(super) const GET_SET: u16 = 10;
pub(super) const GET_ELEMENTS: u16 = 13;
pub(super) const GET_GENERATION: u16 = 16;

const TABLE: u16 = SUBSYSTEM;
const TABLE_GONE: u16 = SUBSYSTEM | 2;
const CHAIN: u16 = SUBSYSTEM | 3;
const CHAIN_GONE: u16 = SUBSYSTEM | 5;
const RULE: u16 = SUBSYSTEM | 6;
const RULE_GONE: u16 = SUBSYSTEM | 8;
const SET: u16 = SUBSYSTEM | 9;
const SET_GONE: u16 = SUBSYSTEM | 11;
const ELEMENTS: u16 = SUBSYSTEM | 12;
const ELEMENTS_GONE: u16 = SUBSYSTEM | 14;
const GENERATION: u16 = SUBSYSTEM | 15;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A table is new or has changed.
    Table(TableView),
    /// A table is gone.
    TableGone(TableView),
    /// Something inside this table is new, or has changed, or is gone.
    Inside {
        /// Which packets the table sees.
        family: Family,
        /// Its name.
        table: String,
        /// The chain (also of a rule) or the set (also of an element).
        name: String,
        /// Whether it is gone.
        gone: bool,
    },
    /// A transaction is complete; this is the number of the state after it.
    Generation(u32),
    /// More happened than could be held: only a listing tells what is there now.
    Lost,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableView {
    /// Which packets it sees.
    pub family: Family,
    /// What it is called.
    pub name: String,
    /// Its number.
    pub handle: u64,
    /// Whether it does nothing (1), or belongs to a process (2).
    pub flags: u32,
    /// How many chains, sets and other things are in it.
    pub uses: u32,
    /// What its maker wrote.
    pub comment: Option<String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainView {
    /// Which packets its table sees.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// What it is called.
    pub name: String,
    /// Its number.
    pub handle: u64,
    /// Where packets reach it and in which order: number of the hook, priority.
    pub hook: Option<(u32, i32)>,
    /// `filter`, `nat` or `route`, where packets reach it.
    pub kind: Option<String>,
    /// Whether what reaches its end is dropped.
    pub drops: bool,
    /// What its maker wrote.
    pub comment: Option<String>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleView {
    /// Which packets its table sees.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// The name of its chain.
    pub chain: String,
    /// Its number, by which it is replaced and removed.
    pub handle: u64,
    /// What its maker wrote.
    pub comment: Option<String>,
    /// Packets and bytes, if it counts them.
    pub counter: Option<(u64, u64)>,
    /// The names of its expressions, in their order.
    pub expressions: Vec<String>,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetView {
    /// Which packets its table sees.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// What it is called.
    pub name: String,
    /// Its number.
    pub handle: u64,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// The number of its key's type in nft, six bits for each part.
    pub key_type: u32,
    /// What its maker wrote.
    pub comment: Option<String>,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementView {
    /// Its key.
    pub key: Vec<u8>,
    /// The end of a range of several parts, included.
    pub key_end: Option<Vec<u8>>,
    /// Whether it is not an element but says that the range before it ends here, not included.
    pub is_end: bool,
    /// Where it leads.
    pub data: Option<DataView>,
    /// What its maker wrote.
    pub comment: Option<String>,
}

/// Where an element leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataView {
    /// What happens to the packet.
    Verdict(Verdict),
    /// Values, to be read by `Value::read_all`.
    Bytes(Vec<u8>),
}

fn text(all: Attributes<'_>, kind: u16) -> Option<String> {
    all.get(kind)?.text().map(str::to_owned)
}

fn number(all: Attributes<'_>, kind: u16) -> Option<u32> {
    all.get(kind)?.u32_be()
}

fn handle(all: Attributes<'_>, kind: u16) -> u64 {
    all.get(kind).and_then(Attribute::u64_be).unwrap_or(0)
}

fn note(all: Attributes<'_>, kind: u16, what: u8) -> Option<String> {
    comment_in(all.get(kind)?.value, what)
}

/// The family and the attributes of a message of one of these kinds.
fn parts<'a>(message: &Message<'a>, kinds: [u16; 2]) -> Option<(Family, Attributes<'a>)> {
    let family = Family::from_number(message.header::<HEADER>()?[0])?;
    kinds.contains(&message.kind).then(|| (family, message.attributes(HEADER)))
}

pub(super) fn generation(message: &Message<'_>) -> Option<u32> {
    (message.kind == GENERATION).then(|| number(message.attributes(HEADER), 1))?
}

pub(super) fn table(message: &Message<'_>) -> Option<TableView> {
    let (family, all) = parts(message, [TABLE, TABLE_GONE])?;
    Some(TableView {
        family,
        name: text(all, 1)?,
        handle: handle(all, 4),
        flags: number(all, 2).unwrap_or(0),
        uses: number(all, 3).unwrap_or(0),
        comment: note(all, 6, 0),
    })
}

pub(super) fn chain(message: &Message<'_>) -> Option<ChainView> {
    let (family, all) = parts(message, [CHAIN, CHAIN_GONE])?;
    let hook = all.inside(4);
    Some(ChainView {
        family,
        table: text(all, 1)?,
        name: text(all, 3)?,
        handle: handle(all, 2),
        hook: number(hook, 1).zip(number(hook, 2).map(u32::cast_signed)),
        kind: text(all, 7),
        drops: number(all, 5) == Some(0),
        comment: note(all, 12, 0),
    })
}

pub(super) fn rule(message: &Message<'_>) -> Option<RuleView> {
    let (family, all) = parts(message, [RULE, RULE_GONE])?;
    let mut expressions = Vec::new();
    let mut counter = None;
    for item in all.inside(4) {
        let name = text(item.nested(), 1)?;
        if name == "counter" {
            let data = item.nested().inside(2);
            counter = Some((handle(data, 2), handle(data, 1)));
        }
        expressions.push(name);
    }
    Some(RuleView {
        family,
        table: text(all, 1)?,
        chain: text(all, 2)?,
        handle: handle(all, 3),
        comment: note(all, 7, 0),
        counter,
        expressions,
    })
}

pub(super) fn set(message: &Message<'_>) -> Option<SetView> {
    let (family, all) = parts(message, [SET, SET_GONE])?;
    Some(SetView {
        family,
        table: text(all, 1)?,
        name: text(all, 2)?,
        handle: handle(all, 16),
        flags: number(all, 3).unwrap_or(0),
        key_type: number(all, 4).unwrap_or(0),
        comment: note(all, 13, 7),
    })
}

pub(super) fn elements(message: &Message<'_>) -> Option<Vec<ElementView>> {
    let (_, all) = parts(message, [ELEMENTS, ELEMENTS_GONE])?;
    Some(all.inside(3).filter_map(element).collect())
}

fn element(item: Attribute<'_>) -> Option<ElementView> {
    let all = item.nested();
    let value = |kind| all.inside(kind).get(1).map(|value| value.value.to_vec());
    let verdict = all.inside(2).inside(2);
    let code = number(verdict, 1).map(u32::cast_signed);
    let chain = verdict.get(2).and_then(Attribute::text);
    let led = code.and_then(|code| Verdict::read(code, chain)).map(DataView::Verdict);
    Some(ElementView {
        key: value(1)?,
        key_end: value(10),
        is_end: number(all, 3).unwrap_or(0) & 1 != 0,
        data: led.or_else(|| value(2).map(DataView::Bytes)),
        comment: note(all, 6, 0),
    })
}

pub(super) fn event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        TABLE => table(message).map(Event::Table),
        TABLE_GONE => table(message).map(Event::TableGone),
        GENERATION => generation(message).map(Event::Generation),
        kind if kind & 0xff00 == SUBSYSTEM => {
            let family = Family::from_number(message.header::<HEADER>()?[0])?;
            let gone = matches!(kind, CHAIN_GONE | RULE_GONE | SET_GONE | ELEMENTS_GONE);
            let all = message.attributes(HEADER);
            // A chain has another number in front of its name.
            let name = text(all, if matches!(kind, CHAIN | CHAIN_GONE) { 3 } else { 2 }).unwrap_or_default();
            Some(Event::Inside { family, table: text(all, 1)?, name, gone })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute::tests::noise;

    #[test]
    fn hostile_messages_are_passed_over() {
        for seed in 0..4_000_u64 {
            let mut payload = noise(seed, usize::try_from(seed % 200).unwrap());
            if let Some(family) = payload.first_mut() {
                *family = 1;
            }
            for at in (4..payload.len().saturating_sub(4)).step_by(8) {
                let kind = payload[at] % 20;
                payload[at..at + 4].copy_from_slice(&[8, 0, kind, 0]);
            }
            for kind in SUBSYSTEM..SUBSYSTEM | 20 {
                let message = Message { kind, flags: 0, number: 1, port: 1, payload: &payload };
                let _seen = (event(&message), generation(&message), table(&message), chain(&message));
                let _seen = (rule(&message), set(&message), elements(&message));
            }
        }
    }
}
