//! Questions as they come in, and what we answer to them ourselves.
//!
//! Invariants: a question is one query of class IN or ANY in a message that is read to its end; everything else is
//! answered by what is wrong with it, and answers are never answered. A name that is ours is answered by us whatever
//! is asked of it; `localhost` is nobody's name but the asker's own loopback (RFC 6761 section 6.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use havre_base::ContainerId;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::cache::Key;
use super::{Directory, Upstreams, wire};

/// For how long an asker may keep what we answer, in seconds, as Docker says.
const TTL: u32 = 600;
/// What fits into a datagram where nothing else is said, RFC 1035 4.2.1.
const SMALLEST: usize = 512;
/// What fits into a datagram at all.
const LARGEST_UDP: usize = 65_507;
const LARGEST_TCP: usize = 65_535;
/// No honest question is longer, with all options that exist.
pub(super) const LONGEST_QUESTION: usize = 4096;
/// What we say we take.
const OUR_SIZE: u16 = 4096;
/// Our own EDNS record.
const OPT_SIZE: usize = 11;
/// So many names the codec compresses for sure.
const SHORT_NAMES: usize = 100;
/// Flags of a header that change what is answered: recursion desired, authentic data, checking disabled.
const WISHES: u16 = 0x0130;

/// What came.
#[derive(Debug)]
pub(super) enum Came {
    /// Nothing that is answered.
    Noise,
    /// What is wrong with it.
    Wrong(Vec<u8>),
    /// A question.
    Question(Box<Question>),
}

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// As it came.
    pub(super) bytes: Vec<u8>,
    /// The longest answer that the asker takes.
    pub(super) largest: usize,
    /// Whether it came over TCP.
    pub(super) over_tcp: bool,
    /// Where the question itself ends.
    end: usize,
    message: Message,
    name: Name,
    kind: RecordType,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Decision {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Others are asked.
    Forward(Arc<[SocketAddr]>),
}

/// Reads what came.
pub(super) fn read(bytes: &[u8], over_tcp: bool) -> Came {
    let wrong = |code| Came::Wrong(wire::failure(bytes, code));
    match wire::is_question(bytes) {
        Some(true) => {}
        _ => return Came::Noise,
    }
    if bytes.get(2).is_some_and(|flags| flags & 0x78 != 0) {
        return wrong(wire::NOT_IMPLEMENTED);
    }
    let Some(end) = wire::question_end(bytes).filter(|_| bytes.len() <= LONGEST_QUESTION) else {
        return wrong(wire::FORMAT_ERROR);
    };
    let Ok(message) = Message::from_vec(bytes) else { return wrong(wire::FORMAT_ERROR) };
    let Some(query) = message.queries.first() else { return wrong(wire::FORMAT_ERROR) };
    if !message.answers.is_empty() || !message.authorities.is_empty() {
        return wrong(wire::FORMAT_ERROR);
    }
    if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY)
        || matches!(query.query_type, RecordType::AXFR | RecordType::IXFR)
    {
        return wrong(wire::REFUSED);
    }
    let (name, kind) = (query.name.clone(), query.query_type);
    let largest = match (&message.edns, over_tcp) {
        (_, true) => LARGEST_TCP,
        (Some(edns), false) => usize::from(edns.max_payload()).clamp(SMALLEST, LARGEST_UDP),
        (None, false) => SMALLEST,
    };
    let question = Question { bytes: bytes.to_vec(), largest, over_tcp, end, message, name, kind };
    if question.message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        let mut answer = question.response();
        answer.metadata.response_code = ResponseCode::BADVERS;
        return Came::Wrong(question.fit(answer));
    }
    Came::Question(Box::new(question))
}

/// Answers it, or says who does. The number picks the order of several addresses.
pub(super) fn decide(
    directory: &dyn Directory,
    asker: &ContainerId,
    question: &Question,
    number: u64,
) -> Decision {
    if let Some(records) = question.ours(directory, asker, number) {
        let mut answer = question.response();
        answer.answers = records;
        return Decision::Answer(question.fit(answer));
    }
    match directory.upstreams(asker) {
        Upstreams::Servers { single_labels_stay: true, .. }
            if question.name.num_labels() < 2
                && matches!(question.kind, RecordType::A | RecordType::AAAA) =>
        {
            Decision::Answer(question.fit(question.response()))
        }
        Upstreams::Servers { servers, .. } if !servers.is_empty() => Decision::Forward(servers),
        Upstreams::Servers { .. } | Upstreams::Never => {
            Decision::Answer(wire::failure(&question.bytes, wire::SERVER_FAILURE))
        }
    }
}

impl Question {
    /// The question itself, as it came.
    pub(super) fn wire(&self) -> &[u8] {
        self.bytes.get(wire::HEADER..self.end).unwrap_or_default()
    }

    /// What it shares its answers with; `None` where it has options that make it its own.
    pub(super) fn key(&self, servers: &Arc<[SocketAddr]>) -> Option<Key> {
        let edns = self.message.edns.as_ref();
        if edns.is_some_and(|edns| !edns.options().options.is_empty()) || !self.message.additionals.is_empty()
        {
            return None;
        }
        let flags = wire::u16_at(&self.bytes, 2)? & WISHES;
        let edns = edns.map(|edns| u16::from(edns.flags().dnssec_ok) << 15 | edns.flags().z);
        let mut question: Box<[u8]> = self.wire().to_ascii_lowercase().into();
        // The type and class behind the name are numbers, even where they look like letters.
        let fixed = question.len().checked_sub(4)?;
        question.get_mut(fixed..)?.copy_from_slice(self.wire().get(fixed..)?);
        Some(Key { servers: Arc::clone(servers), question, flags, edns })
    }

    /// Our own records; none where the name is ours and has none of the kind, `None` where it is not ours.
    fn ours(&self, directory: &dyn Directory, asker: &ContainerId, number: u64) -> Option<Vec<Record>> {
        let record = |data| Record::from_rdata(self.name.clone(), TTL, data);
        if let (RecordType::PTR, Ok(net)) = (self.kind, self.name.parse_arpa_name()) {
            if net.prefix_len() != net.max_prefix_len() {
                return None;
            }
            let name = directory.name_of(asker, net.addr())?;
            let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
            let name = Name::from_labels(labels).ok()?;
            return Some(vec![record(RData::PTR(PTR(name)))]);
        }
        let addresses = if self.is_localhost() {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            let mut addresses = directory.addresses(asker, &self.text()?)?;
            shuffle(&mut addresses, number);
            addresses
        };
        let wanted = addresses.into_iter().filter_map(|address| match (address, self.kind) {
            (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => Some(record(RData::A(A(v4)))),
            (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => Some(record(RData::AAAA(AAAA(v6)))),
            _ => None,
        });
        Some(wanted.collect())
    }

    fn is_localhost(&self) -> bool {
        self.name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"localhost"))
    }

    /// The name with dots, if it is such that a container can have it.
    fn text(&self) -> Option<String> {
        let mut text = String::new();
        for label in self.name.iter() {
            if label.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b'.') {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(str::from_utf8(label).ok()?);
        }
        (!text.is_empty()).then_some(text)
    }

    /// An answer without records.
    fn response(&self) -> Message {
        let asked = &self.message.metadata;
        let mut answer = Message::response(asked.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.recursion_desired;
        answer.metadata.checking_disabled = asked.checking_disabled;
        answer.metadata.recursion_available = true;
        answer.queries.clone_from(&self.message.queries);
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_SIZE);
            answer.edns = Some(edns);
        }
        answer
    }

    /// As many of its records as the asker takes; over UDP it is told of the others.
    fn fit(&self, mut answer: Message) -> Vec<u8> {
        let most = self.records_that_fit(&answer);
        if answer.answers.len() > most {
            answer.answers.truncate(most);
            answer.metadata.truncation = !self.over_tcp;
        }
        match answer.to_vec() {
            Ok(bytes) if bytes.len() <= self.largest => bytes,
            _ => wire::failure(&self.bytes, wire::SERVER_FAILURE),
        }
    }

    /// How many for sure: all have the name of the question, of which the codec makes a pointer in the first ones.
    fn records_that_fit(&self, answer: &Message) -> usize {
        let data = answer.answers.iter().map(|record| match record.data {
            RData::A(_) => 4,
            RData::AAAA(_) => 16,
            _ => 255,
        });
        let fixed = 10 + data.max().unwrap_or(0);
        let room = self.largest.saturating_sub(self.end + OPT_SIZE);
        let first = room / (fixed + 2);
        if first <= SHORT_NAMES {
            return first;
        }
        let name = self.end - wire::HEADER - 4;
        SHORT_NAMES + (room - SHORT_NAMES * (fixed + 2)) / (fixed + name)
    }
}

/// Each order as likely as any other, by the number.
fn shuffle(addresses: &mut [IpAddr], mut number: u64) {
    for at in (1..addresses.len()).rev() {
        // Splitmix64: spreads numbers that follow each other.
        number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = number;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let other = usize::try_from(mixed % (at as u64 + 1)).unwrap_or(0);
        addresses.swap(at, other);
    }
}
