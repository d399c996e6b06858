//! A transaction: everything in it happens at one moment, or nothing does.

use super::rule::Rule;
use super::set::{Data, Element, Set, byte_order, total_length, type_number};
use super::{SUBSYSTEM, Table, comment, drop_it, header, user_data};
use crate::netlink::attribute::Writer;
use crate::netlink::message::{APPEND, CREATE, EXCL, Messages, REPLACE};

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;
/// An attribute tells its length in 16 bits; elements go on in another message before that is used up.
const LIST: usize = 60_000;

const SET_INTERVAL: u32 = 0x04;
const SET_MAP: u32 = 0x08;
const SET_CONCATENATION: u32 = 0x80;
const VERDICTS: u32 = 0xffff_ff00;

/// Where in a packet's way a chain is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook<'a> {
    /// It has come in.
    Prerouting,
    /// It is for this machine.
    Input,
    /// It is not for this machine.
    Forward,
    /// It is of this machine.
    Output,
    /// It is about to leave.
    Postrouting,
    /// It has come in by this link; for tables of links.
    Ingress(&'a str),
    /// It is about to leave by this link; for tables of links.
    Egress(&'a str),
}

impl Hook<'_> {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting | Self::Ingress(_) => 0,
            Self::Input | Self::Egress(_) => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// In which order the chains of one hook are asked: the lower the earlier.
pub type Priority = i32;

/// What makes a chain one that packets reach by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base<'a> {
    /// Where.
    pub hook: Hook<'a>,
    /// In which order.
    pub priority: Priority,
    /// Whether it may translate addresses. Such a chain sees only the first packet of a connection.
    pub translates: bool,
    /// Whether what reaches its end is dropped.
    pub drops: bool,
}

/// A chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Where packets reach it; otherwise only rules lead to it.
    pub base: Option<Base<'a>>,
    /// For whoever reads it.
    pub comment: Option<&'a str>,
}

impl<'a> Chain<'a> {
    /// To which only rules lead.
    #[must_use]
    pub fn new(name: &'a str) -> Self {
        Self { name, base: None, comment: None }
    }

    /// That packets reach at `hook`, and pass if nothing else is said.
    #[must_use]
    pub fn filter(name: &'a str, hook: Hook<'a>, priority: Priority) -> Self {
        Self { base: Some(Base { hook, priority, translates: false, drops: false }), ..Self::new(name) }
    }

    /// That the first packet of each connection reaches at `hook`, where addresses can be translated.
    #[must_use]
    pub fn nat(name: &'a str, hook: Hook<'a>, priority: Priority) -> Self {
        Self { base: Some(Base { hook, priority, translates: true, drops: false }), ..Self::new(name) }
    }
}

/// Changes that happen at one moment.
#[derive(Debug)]
pub struct Batch {
    messages: Messages,
    sets: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::begin(None)
    }

    /// Nothing yet, and refused (`NetlinkError::is_overtaken`) if anybody has changed anything since this
    /// generation.
    #[must_use]
    pub fn since(generation: u32) -> Self {
        Self::begin(Some(generation))
    }

    fn begin(generation: Option<u32>) -> Self {
        let mut messages = Messages::new();
        messages.push(BEGIN, 0, "change the packet filter", &begin_header(), |writer| {
            if let Some(generation) = generation {
                writer.u32_be(1, generation);
            }
        });
        Self { messages, sets: 0 }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.count() <= 1
    }

    /// The messages with their end, and which of them is the last real one.
    pub(super) fn finish(mut self) -> Option<(Messages, usize)> {
        if self.is_empty() {
            return None;
        }
        let last = self.messages.count() - 1;
        self.messages.push(END, 0, "change the packet filter", &begin_header(), |_| {});
        Some((self.messages, last))
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        what: String,
        table: Table<'_>,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        let header = header(table.family.number());
        self.messages.push(SUBSYSTEM | kind, flags, what, &header, |writer| {
            writer.text(1, table.name);
            fill(writer);
        });
        self
    }

    /// Makes a table, or leaves the one there is as it is.
    pub fn create_table(&mut self, table: Table<'_>, text: Option<&str>) -> &mut Self {
        self.push(NEW_TABLE, CREATE, format!("create table {}", table.name), table, |writer| {
            if let Some(text) = text {
                writer.bytes(6, &comment(0, text));
            }
        })
    }

    /// Removes a table with everything in it. It is an error if there is none.
    pub fn delete_table(&mut self, table: Table<'_>) -> &mut Self {
        self.push(DELETE_TABLE, 0, format!("remove table {}", table.name), table, |_| {})
    }

    /// Removes a table, if there is one, with everything in it.
    pub fn clear_table(&mut self, table: Table<'_>) -> &mut Self {
        self.create_table(table, None).delete_table(table)
    }

    /// Makes a chain, or leaves the one there is as it is except for what happens at its end.
    pub fn create_chain(&mut self, table: Table<'_>, chain: &Chain<'_>) -> &mut Self {
        let what = format!("create chain {} in table {}", chain.name, table.name);
        self.push(NEW_CHAIN, CREATE, what, table, |writer| {
            writer.text(3, chain.name);
            if let Some(base) = chain.base {
                writer.nest(4, |hook| {
                    hook.u32_be(1, base.hook.number()).bytes(2, &base.priority.to_be_bytes());
                    if let Hook::Ingress(link) | Hook::Egress(link) = base.hook {
                        hook.text(3, link);
                    }
                });
                writer.u32_be(5, u32::from(!base.drops));
                writer.text(7, if base.translates { "nat" } else { "filter" });
            }
            if let Some(text) = chain.comment {
                writer.bytes(12, &comment(0, text));
            }
        })
    }

    /// Removes a chain with its rules.
    pub fn delete_chain(&mut self, table: Table<'_>, chain: &str) -> &mut Self {
        let what = format!("remove chain {chain} of table {}", table.name);
        self.push(DELETE_CHAIN, 0, what, table, |writer| drop_it(writer.text(3, chain)))
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) -> &mut Self {
        let what = format!("empty chain {chain} of table {}", table.name);
        self.push(DELETE_RULE, 0, what, table, |writer| drop_it(writer.text(2, chain)))
    }

    /// Makes a set or map, or leaves the one there is as it is.
    pub fn create_set(&mut self, table: Table<'_>, set: &Set<'_>) -> &mut Self {
        self.sets += 1;
        let number = self.sets;
        let what = format!("create set {} in table {}", set.name, table.name);
        self.push(NEW_SET, CREATE, what, table, |writer| write_set(set, number, writer))
    }

    /// Removes a set or map, which no rule may use.
    pub fn delete_set(&mut self, table: Table<'_>, set: &str) -> &mut Self {
        let what = format!("remove set {set} of table {}", table.name);
        self.push(DELETE_SET, 0, what, table, |writer| drop_it(writer.text(2, set)))
    }

    /// Removes everything from a set or map.
    pub fn flush_set(&mut self, table: Table<'_>, set: &str) -> &mut Self {
        let what = format!("empty set {set} of table {}", table.name);
        self.push(DELETE_ELEMENTS, 0, what, table, |writer| drop_it(writer.text(2, set)))
    }

    /// Adds elements; those that are there stay. One that leads elsewhere already is an error.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NEW_ELEMENTS, CREATE, table, set, elements)
    }

    /// Adds elements; one that is there already is an error.
    pub fn add_new_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NEW_ELEMENTS, CREATE | EXCL, table, set, elements)
    }

    /// Removes elements; one that is not there is an error. Where they lead does not matter.
    pub fn delete_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(DELETE_ELEMENTS, 0, table, set, elements)
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: &str,
        elements: &[Element],
    ) -> &mut Self {
        let word = if kind == NEW_ELEMENTS { "add elements to" } else { "remove elements from" };
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            let what = format!("{word} set {set} of table {}", table.name);
            self.push(kind, flags, what, table, |writer| {
                writer.text(2, set);
                writer.nest(3, |list| {
                    let start = list.length();
                    while let Some(element) = rest.next_if(|_| list.length() - start < LIST) {
                        element.write(list);
                    }
                });
            });
        }
        self
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(CREATE | APPEND, table, chain, None, rule)
    }

    /// Adds a rule at the beginning of a chain.
    pub fn insert_rule(&mut self, table: Table<'_>, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(CREATE, table, chain, None, rule)
    }

    /// Puts a rule in the place of the one with this handle.
    pub fn replace_rule(&mut self, table: Table<'_>, chain: &str, handle: u64, rule: &Rule) -> &mut Self {
        self.rule(REPLACE, table, chain, Some(handle), rule)
    }

    /// Removes the rule with this handle.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) -> &mut Self {
        let what = format!("remove rule {handle} of chain {chain} of table {}", table.name);
        self.push(DELETE_RULE, 0, what, table, |writer| drop_it(writer.text(2, chain).u64_be(3, handle)))
    }

    fn rule(
        &mut self,
        flags: u16,
        table: Table<'_>,
        chain: &str,
        handle: Option<u64>,
        rule: &Rule,
    ) -> &mut Self {
        let what = format!("add a rule to chain {chain} of table {}", table.name);
        self.push(NEW_RULE, flags, what, table, |writer| {
            writer.text(2, chain);
            if let Some(handle) = handle {
                writer.u64_be(3, handle);
            }
            rule.write(writer);
        })
    }
}

/// The header of the messages around a batch names whose it is.
fn begin_header() -> [u8; 4] {
    let [_, subsystem] = (SUBSYSTEM >> 8).to_be_bytes();
    [0, 0, 0, subsystem]
}

fn write_set(set: &Set<'_>, number: u32, writer: &mut Writer<'_>) {
    let several = set.key.len() > 1;
    let mut flags = 0;
    for (flag, is_set) in
        [(SET_INTERVAL, set.interval), (SET_MAP, set.data.is_some()), (SET_CONCATENATION, several)]
    {
        flags |= if is_set { flag } else { 0 };
    }
    writer.text(2, set.name).u32_be(3, flags);
    writer.u32_be(4, type_number(set.key)).u32_be(5, total_length(set.key));
    let mut notes = user_data(0, &byte_order(set.key).to_ne_bytes());
    match set.data {
        Some(Data::Verdict) => drop_it(writer.u32_be(6, VERDICTS)),
        Some(Data::Values(parts)) => {
            writer.u32_be(6, type_number(parts)).u32_be(7, total_length(parts));
            notes.extend(user_data(1, &byte_order(parts).to_ne_bytes()));
        }
        None => {}
    }
    if several {
        writer.nest(9, |description| {
            description.nest(2, |parts| {
                for part in set.key {
                    // Of each part its length, as a list of attributes of one attribute.
                    parts.nest(1, |field| {
                        let length = u32::try_from(part.length()).unwrap_or(0);
                        drop_it(field.u32_be(1, length));
                    });
                }
            });
        });
    }
    writer.u32_be(10, number);
    if let Some(text) = set.comment {
        notes.extend(comment(7, text));
    }
    writer.bytes(13, &notes);
}
