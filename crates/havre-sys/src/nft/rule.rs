//! Rules: what a packet must be like, and what then happens to it.
//!
//! A rule is read from left to right: `Rule::new().input("br0").state(State::ESTABLISHED).accept()`. The first
//! condition that does not hold ends it.

use super::field::{FIRST, Field, expression, register};
use super::set::Value;
use super::verdict::{State, Status, Verdict};
use super::{Family, drop_it};
use crate::netlink::attribute::Writer;

/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;

/// A rule being written.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    expressions: Vec<u8>,
    too_long: bool,
    comment: Option<String>,
}

impl Rule {
    /// Applies to everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For whoever reads it.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        // Expressions that do not fit make the rule one that does not fit.
        let expressions: &[u8] = if self.too_long { &[0; 1 << 16] } else { &self.expressions };
        writer.bytes(4 | crate::netlink::attribute::NESTED, expressions);
        if let Some(text) = &self.comment {
            writer.bytes(7, &super::comment(0, text));
        }
    }

    fn with(mut self, fill: impl FnOnce(&mut Writer<'_>)) -> Self {
        fill(&mut Writer::new(&mut self.expressions, &mut self.too_long));
        self
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        self.with(|list| {
            expression(list, "cmp", |data| {
                data.u32_be(1, FIRST).u32_be(2, operation);
                data.nest(3, |inner| drop_it(inner.bytes(1, value)));
            });
        })
    }

    fn compare_field(self, field: Field, operation: u32, value: Value) -> Self {
        self.with(|list| field.load(FIRST, list)).compare(operation, &Value::encode(&[value]))
    }

    /// The field has this value.
    #[must_use]
    pub fn is(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare_field(field, EQUAL, value.into())
    }

    /// The field has another value.
    #[must_use]
    pub fn is_not(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare_field(field, DIFFERENT, value.into())
    }

    /// It came by the link of this name; an asterisk at the end stands for anything.
    #[must_use]
    pub fn input(self, name: &str) -> Self {
        self.link(Field::InputName, EQUAL, name)
    }

    /// It did not come by the link of this name.
    #[must_use]
    pub fn input_not(self, name: &str) -> Self {
        self.link(Field::InputName, DIFFERENT, name)
    }

    /// It goes by the link of this name; an asterisk at the end stands for anything.
    #[must_use]
    pub fn output(self, name: &str) -> Self {
        self.link(Field::OutputName, EQUAL, name)
    }

    /// It does not go by the link of this name.
    #[must_use]
    pub fn output_not(self, name: &str) -> Self {
        self.link(Field::OutputName, DIFFERENT, name)
    }

    fn link(self, field: Field, operation: u32, name: &str) -> Self {
        match name.strip_suffix('*') {
            // A name's beginning is compared without what fills it up.
            Some(beginning) => {
                self.with(|list| field.load(FIRST, list)).compare(operation, beginning.as_bytes())
            }
            None => self.compare_field(field, operation, Value::name(name)),
        }
    }

    /// It is IPv4. In tables of both families this comes before fields of IPv4.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.family(IPV4)
    }

    /// It is IPv6. In tables of both families this comes before fields of IPv6.
    #[must_use]
    pub fn ipv6(self) -> Self {
        self.family(IPV6)
    }

    /// It came by a link with hardware addresses. In tables of both families this comes before those.
    #[must_use]
    pub fn ethernet(self) -> Self {
        const ETHERNET: u16 = 1;
        self.with(|list| expression(list, "meta", |data| drop_it(data.u32_be(2, 8).u32_be(1, FIRST))))
            .compare(EQUAL, &ETHERNET.to_ne_bytes())
    }

    fn family(self, number: u8) -> Self {
        self.with(|list| expression(list, "meta", |data| drop_it(data.u32_be(2, 15).u32_be(1, FIRST))))
            .compare(EQUAL, &[number])
    }

    /// Its transport protocol is this (`libc::IPPROTO_*`).
    #[must_use]
    pub fn protocol(self, number: u8) -> Self {
        self.is(Field::Protocol, Value::Protocol(number))
    }

    /// The source address is in this network.
    #[must_use]
    pub fn from_network(self, address: std::net::IpAddr, prefix: u8) -> Self {
        let field = if address.is_ipv4() { Field::Source4 } else { Field::Source6 };
        self.network(field, EQUAL, address, prefix)
    }

    /// The destination address is in this network.
    #[must_use]
    pub fn to_network(self, address: std::net::IpAddr, prefix: u8) -> Self {
        let field = if address.is_ipv4() { Field::Destination4 } else { Field::Destination6 };
        self.network(field, EQUAL, address, prefix)
    }

    /// The destination address is not in this network.
    #[must_use]
    pub fn to_other_network(self, address: std::net::IpAddr, prefix: u8) -> Self {
        let field = if address.is_ipv4() { Field::Destination4 } else { Field::Destination6 };
        self.network(field, DIFFERENT, address, prefix)
    }

    fn network(self, field: Field, operation: u32, address: std::net::IpAddr, prefix: u8) -> Self {
        let bytes = Value::encode(&[address.into()]);
        let mask: Vec<u8> = (0_u32..)
            .zip(&bytes)
            .map(|(at, _)| {
                let bits = u32::from(prefix).saturating_sub(at * 8).min(8);
                u8::MAX.checked_shl(8 - bits).unwrap_or(0)
            })
            .collect();
        let network: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        let rule = self.with(|list| field.load(FIRST, list));
        let rule = if mask.iter().all(|byte| *byte == u8::MAX) { rule } else { rule.masked(&mask) };
        rule.compare(operation, &network)
    }

    /// Keeps only these bits of what was loaded.
    fn masked(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.with(|list| {
            expression(list, "bitwise", |data| {
                data.u32_be(1, FIRST).u32_be(2, FIRST).u32_be(3, length);
                data.nest(4, |inner| drop_it(inner.bytes(1, mask)));
                data.nest(5, |inner| drop_it(inner.bytes(1, &vec![0; mask.len()])));
            });
        })
    }

    /// The connection is in one of these states.
    #[must_use]
    pub fn state(self, states: State) -> Self {
        self.connection_bits(0, states.0, DIFFERENT)
    }

    /// One of these things was done to the connection.
    #[must_use]
    pub fn status(self, status: Status) -> Self {
        self.connection_bits(2, status.0, DIFFERENT)
    }

    /// None of these things was done to the connection.
    #[must_use]
    pub fn status_not(self, status: Status) -> Self {
        self.connection_bits(2, status.0, EQUAL)
    }

    fn connection_bits(self, key: u32, bits: u32, operation: u32) -> Self {
        self.with(|list| expression(list, "ct", |data| drop_it(data.u32_be(2, key).u32_be(1, FIRST))))
            .masked(&bits.to_ne_bytes())
            .compare(operation, &[0; 4])
    }

    /// The destination is an address of this machine.
    #[must_use]
    pub fn to_this_machine(self) -> Self {
        self.destination_type(EQUAL)
    }

    /// The destination is no address of this machine.
    #[must_use]
    pub fn not_to_this_machine(self) -> Self {
        self.destination_type(DIFFERENT)
    }

    fn destination_type(self, operation: u32) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.with(|list| {
            expression(list, "fib", |data| {
                data.u32_be(3, DESTINATION).u32_be(2, ADDRESS_TYPE).u32_be(1, FIRST);
            });
        })
        .compare(operation, &LOCAL.to_ne_bytes())
    }

    /// An answer would not leave by the link by which this came: the source is false.
    #[must_use]
    pub fn source_is_false(self) -> Self {
        const INTERFACE: u32 = 1;
        // Source, link, and only whether there is a route.
        const FLAGS: u32 = 1 | 8 | 32;
        self.with(|list| {
            expression(list, "fib", |data| {
                data.u32_be(3, FLAGS).u32_be(2, INTERFACE).u32_be(1, FIRST);
            });
        })
        .compare(EQUAL, &[0; 4])
    }

    /// Loads several fields side by side, as in a concatenation.
    fn load(self, fields: &[Field]) -> Self {
        self.with(|list| {
            let mut offset = 0;
            for field in fields {
                field.load(register(offset), list);
                offset += field.key_type().length().next_multiple_of(4);
            }
        })
    }

    fn lookup(self, fields: &[Field], set: &str, target: Option<u32>, inverted: bool) -> Self {
        self.load(fields).with(|list| {
            expression(list, "lookup", |data| {
                data.text(1, set).u32_be(2, FIRST);
                if let Some(target) = target {
                    data.u32_be(3, target);
                }
                if inverted {
                    data.u32_be(5, 1);
                }
            });
        })
    }

    /// The fields are in the set.
    #[must_use]
    pub fn within(self, fields: &[Field], set: &str) -> Self {
        self.lookup(fields, set, None, false)
    }

    /// The fields are not in the set.
    #[must_use]
    pub fn not_within(self, fields: &[Field], set: &str) -> Self {
        self.lookup(fields, set, None, true)
    }

    /// The map says something of these fields, whatever it is.
    #[must_use]
    pub fn known_to(self, fields: &[Field], map: &str) -> Self {
        self.lookup(fields, map, Some(FIRST), false)
    }

    /// What happens is what the map says of these fields; if it says nothing, the next rule is asked.
    #[must_use]
    pub fn verdict_of(self, fields: &[Field], map: &str) -> Self {
        self.lookup(fields, map, Some(0), false)
    }

    /// The connection goes where the map says: an address, and a port if the map has one.
    #[must_use]
    pub fn redirect_by(self, family: Family, fields: &[Field], map: &str, with_port: bool) -> Self {
        self.lookup(fields, map, Some(FIRST), false).translate(true, family, with_port)
    }

    /// The connection goes to this address, and port if one is given.
    #[must_use]
    pub fn redirect_to(self, address: std::net::IpAddr, port: Option<u16>) -> Self {
        let family = if address.is_ipv4() { Family::Ip } else { Family::Ip6 };
        self.immediate(0, address.into(), port).translate(true, family, port.is_some())
    }

    /// The connection seems to come from this address.
    #[must_use]
    pub fn source_to(self, address: std::net::IpAddr) -> Self {
        let family = if address.is_ipv4() { Family::Ip } else { Family::Ip6 };
        self.immediate(0, address.into(), None).translate(false, family, false)
    }

    fn immediate(self, offset: usize, value: Value, port: Option<u16>) -> Self {
        let bytes = Value::encode(&[value]);
        let behind = offset + bytes.len();
        let rule = self.with(|list| {
            expression(list, "immediate", |data| {
                data.u32_be(1, register(offset));
                data.nest(2, |inner| drop_it(inner.bytes(1, &bytes)));
            });
        });
        match port {
            Some(port) => rule.immediate(behind, Value::Port(port), None),
            None => rule,
        }
    }

    fn translate(self, destination: bool, family: Family, with_port: bool) -> Self {
        let behind = if family == Family::Ip6 { 16 } else { 4 };
        self.with(|list| {
            expression(list, "nat", |data| {
                data.u32_be(1, u32::from(destination)).u32_be(2, family.number().into()).u32_be(3, FIRST);
                if with_port {
                    data.u32_be(5, register(behind));
                }
            });
        })
    }

    /// The connection seems to come from this machine, from the address of the link by which it goes.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.with(|list| expression(list, "masq", |_| {}))
    }

    /// Packets and bytes are counted.
    #[must_use]
    pub fn counter(self) -> Self {
        self.with(|list| expression(list, "counter", |_| {}))
    }

    /// Told in the kernel's log, behind these words.
    #[must_use]
    pub fn log(self, prefix: &str) -> Self {
        self.with(|list| expression(list, "log", |data| drop_it(data.text(2, prefix))))
    }

    /// Goes on only for what comes faster than this: bytes a second, and bytes at once.
    #[must_use]
    pub fn faster_than(self, rate: u64, burst: u32) -> Self {
        const OVER: u32 = 1;
        self.with(|list| {
            expression(list, "limit", |data| {
                data.u64_be(1, rate).u64_be(2, 1).u32_be(3, burst).u32_be(4, 1).u32_be(5, OVER);
            });
        })
    }

    /// Gives the packet a mark.
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.immediate(0, Value::Mark(mark), None)
            .with(|list| expression(list, "meta", |data| drop_it(data.u32_be(2, 3).u32_be(3, FIRST))))
    }

    /// The connection is not followed.
    #[must_use]
    pub fn untracked(self) -> Self {
        self.with(|list| expression(list, "notrack", |_| {}))
    }

    /// The sender is told that nobody is there: nothing listens at the port.
    #[must_use]
    pub fn reject(self) -> Self {
        const ICMPX: u32 = 2;
        const PORT_UNREACHABLE: u8 = 1;
        self.with(|list| {
            expression(list, "reject", |data| drop_it(data.u32_be(1, ICMPX).u8(2, PORT_UNREACHABLE)))
        })
    }

    /// The sender of TCP is told that nobody is there. The rule must have asked for TCP.
    #[must_use]
    pub fn reset(self) -> Self {
        const RESET: u32 = 1;
        self.with(|list| expression(list, "reject", |data| drop_it(data.u32_be(1, RESET).u8(2, 0))))
    }

    /// It passes.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(&Verdict::Accept)
    }

    /// It is no more.
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(&Verdict::Drop)
    }

    /// Another chain is asked.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(&Verdict::Jump(chain.to_owned()))
    }

    /// This happens.
    #[must_use]
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.with(|list| {
            expression(list, "immediate", |data| {
                data.u32_be(1, 0);
                data.nest(2, |inner| verdict.write(inner));
            });
        })
    }
}
