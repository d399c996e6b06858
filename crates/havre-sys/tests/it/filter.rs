//! Packet filters: what nft shows of them, that they are all or nothing, and what is read back.

use std::os::fd::AsFd as _;
use std::process::Command;

use havre_sys::netlink::NetlinkError;
use havre_sys::nft::{
    Batch, Chain, Data, DataView, Element, Event, Family, Field, Hook, KeyType, Nft, Rule, Set, State,
    Status, Table, Value, Verdict,
};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::world::{PATIENCE, Place};

pub(crate) const TABLE: Table<'_> = Table { family: Family::Inet, name: "havre" };
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Address, protocol, port to address and port.
pub(crate) const PORTS4: Set<'_> = Set {
    name: "ports4",
    key: &[KeyType::V4, KeyType::Protocol, KeyType::Port],
    interval: false,
    data: Some(Data::Values(&[KeyType::V4, KeyType::Port])),
    comment: Some("published"),
};
pub(crate) const PORTS6: Set<'_> = Set {
    name: "ports6",
    key: &[KeyType::V6, KeyType::Protocol, KeyType::Port],
    interval: false,
    data: Some(Data::Values(&[KeyType::V6, KeyType::Port])),
    comment: None,
};

impl Place {
    /// `None`, with the reason told, where this kernel has no packet filter.
    pub(crate) fn nft(&self) -> Option<Nft> {
        let mut nft = Nft::open_in(self.fd()).unwrap();
        match nft.generation() {
            Ok(_) => Some(nft),
            Err(error) => {
                havre_testkit::skip(&format!("no packet filter here: {error}"));
                None
            }
        }
    }

    /// What nft shows, or `None` with the reason told.
    fn shown(&self) -> Option<String> {
        let Ok(output) = self.inside(|| Command::new("nft").args(["list", "ruleset"]).output()) else {
            havre_testkit::skip("there is no nft");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap())
    }
}

/// The values of one element: address, protocol, port.
pub(crate) fn published(address: [u8; 4], protocol: u8, port: u16) -> [Value; 3] {
    [address.into(), Value::Protocol(protocol), Value::Port(port)]
}

fn plain(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { name, key, ..Set::default() }
}

#[test]
fn nft_shows_everything_in_words() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = place.nft() else { return };
    let mut batch = Batch::new();
    batch.create_table(TABLE, Some("of the tests"));
    batch.create_set(TABLE, &PORTS4).create_set(TABLE, &PORTS6);
    batch.create_set(TABLE, &Set { interval: true, ..plain("nets", &[KeyType::V4]) });
    batch.create_set(TABLE, &Set { interval: true, ..plain("nets6", &[KeyType::V6]) });
    batch.create_set(TABLE, &Set { interval: true, ..plain("spans", &[KeyType::Name, KeyType::Port]) });
    batch
        .create_set(TABLE, &plain("links", &[KeyType::Name]))
        .create_set(TABLE, &plain("marks", &[KeyType::Mark]));
    batch.create_set(TABLE, &plain("owners", &[KeyType::Name, KeyType::Mac, KeyType::V4]));
    batch.create_set(
        TABLE,
        &Set { data: Some(Data::Verdict), ..plain("ways", &[KeyType::Name, KeyType::Name]) },
    );
    batch.create_chain(TABLE, &Chain { comment: Some("first"), ..Chain::new("user") });
    batch.create_chain(TABLE, &Chain::nat("pre", Hook::Prerouting, -100));
    batch.create_chain(TABLE, &Chain::nat("post", Hook::Postrouting, 100));
    let mut forward = Chain::filter("forward", Hook::Forward, 0);
    forward.base.as_mut().unwrap().drops = true;
    batch.create_chain(TABLE, &forward);
    batch.create_chain(TABLE, &Chain::filter("raw", Hook::Prerouting, -300));
    batch.add_elements(
        TABLE,
        "ports4",
        &[Element::new(published([192, 0, 2, 1], TCP, 80))
            .to([[10, 0, 0, 2].into(), Value::Port(8080)])
            .comment("web")],
    );
    batch.add_elements(
        TABLE,
        "ports6",
        &[Element::new([
            "fd00::1".parse::<std::net::IpAddr>().unwrap().into(),
            Value::Protocol(UDP),
            Value::Port(53),
        ])
        .to(["fd00::2".parse::<std::net::IpAddr>().unwrap().into(), Value::Port(5353)])],
    );
    batch.add_elements(
        TABLE,
        "nets",
        &[
            Element::network([10, 9, 0, 0].into(), 16),
            Element::network([172, 16, 0, 0].into(), 12),
            Element::range([[10, 1, 0, 5].into()], [[10, 1, 0, 9].into()]),
            Element::network([255, 0, 0, 0].into(), 8),
        ],
    );
    batch.add_elements(TABLE, "nets6", &[Element::network("fd00::".parse().unwrap(), 8)]);
    batch.add_elements(
        TABLE,
        "spans",
        &[Element::range([Value::name("br0"), Value::Port(1)], [Value::name("br0"), Value::Port(1023)])],
    );
    batch.add_elements(TABLE, "links", &[Element::new([Value::name("br0")])]);
    batch.add_elements(TABLE, "marks", &[Element::new([Value::Mark(0x1234)])]);
    batch.add_elements(
        TABLE,
        "owners",
        &[Element::new([Value::name("v1"), Value::Mac([2, 0, 0, 0, 0, 1]), [10, 0, 0, 2].into()])],
    );
    batch.add_elements(
        TABLE,
        "ways",
        &[
            Element::new([Value::name("br0"), Value::name("br1")]).verdict(Verdict::Jump("user".into())),
            Element::new([Value::name("br0"), Value::name("br0")]).verdict(Verdict::Accept),
        ],
    );
    let keys4 = [Field::Destination4, Field::Protocol, Field::DestinationPort];
    let keys6 = [Field::Destination6, Field::Protocol, Field::DestinationPort];
    for rule in [
        Rule::new().to_this_machine().ipv4().redirect_by(Family::Ip, &keys4, "ports4", true),
        Rule::new().ipv6().redirect_by(Family::Ip6, &keys6, "ports6", true),
        Rule::new()
            .not_to_this_machine()
            .ipv4()
            .protocol(TCP)
            .is(Field::DestinationPort, Value::Port(22))
            .redirect_to([10, 0, 0, 3].into(), Some(2222)),
        Rule::new().ipv6().protocol(UDP).redirect_to("fd00::3".parse().unwrap(), Some(2222)),
    ] {
        batch.add_rule(TABLE, "pre", &rule);
    }
    for rule in [
        Rule::new()
            .ipv4()
            .from_network([10, 9, 0, 0].into(), 16)
            .output_not("br0")
            .masquerade()
            .comment("out"),
        Rule::new()
            .ipv4()
            .is(Field::Source4, [10, 0, 0, 2])
            .to_other_network([10, 0, 0, 0].into(), 20)
            .source_to([192, 0, 2, 1].into()),
        Rule::new().ipv6().from_network("fd00::".parse().unwrap(), 64).masquerade(),
    ] {
        batch.add_rule(TABLE, "post", &rule);
    }
    for rule in [
        Rule::new().state(State::ESTABLISHED | State::RELATED).counter().accept(),
        Rule::new().state(State::INVALID).drop(),
        Rule::new().verdict_of(&[Field::InputName, Field::OutputName], "ways"),
        Rule::new().status(Status::DESTINATION_CHANGED).accept(),
        Rule::new().input("br*").within(&[Field::OutputName], "links").jump("user"),
        Rule::new().ipv4().not_within(&[Field::Source4], "nets").log("strange: ").drop(),
        Rule::new().input_not("br0").within(&[Field::Mark], "marks").verdict(&Verdict::Goto("user".into())),
        Rule::new()
            .ipv4()
            .protocol(TCP)
            .is(Field::OriginalDestination4, [192, 0, 2, 1])
            .is(Field::OriginalPort, Value::Port(80))
            .accept(),
        Rule::new().within(&[Field::InputName, Field::DestinationPort], "spans").reject(),
        Rule::new().protocol(TCP).reset(),
        Rule::new().protocol(58).is(Field::Icmp6Type, Value::Icmp6Type(134)).drop(),
        Rule::new().output("v1").faster_than(125_000, 65_536).drop(),
    ] {
        batch.add_rule(TABLE, "forward", &rule);
    }
    batch.add_rule(
        TABLE,
        "raw",
        &Rule::new()
            .ethernet()
            .ipv4()
            .not_within(&[Field::InputName, Field::SourceMac, Field::Source4], "owners")
            .source_is_false()
            .drop(),
    );
    batch.add_rule(TABLE, "raw", &Rule::new().input("lo").set_mark(7).untracked());
    batch.add_rule(TABLE, "user", &Rule::new().verdict(&Verdict::Return));
    nft.apply(batch).unwrap();
    let Some(shown) = place.shown() else { return };
    for line in EXPECTED.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(shown.lines().any(|shown| shown.trim() == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("@ll") && !shown.contains("@nh") && !shown.contains("[invalid"), "{shown}");
    // What nft shows it also takes, and shows again.
    let Some(other) = Place::new() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &shown).unwrap();
    let status = other.inside(|| Command::new("nft").arg("-f").arg(file.path()).status()).unwrap();
    assert!(status.success());
    assert_eq!(other.shown().unwrap(), shown);
}

const EXPECTED: &str = r#"
    comment "of the tests"
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    comment "published"
    elements = { 192.0.2.1 . tcp . 80 comment "web" : 10.0.0.2 . 8080 }
    type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
    elements = { fd00::1 . udp . 53 : fd00::2 . 5353 }
    elements = { 10.1.0.5-10.1.0.9, 10.9.0.0/16,
    172.16.0.0/12, 255.0.0.0/8 }
    elements = { fd00::/8 }
    type ifname . inet_service
    elements = { "br0" . 1-1023 }
    elements = { "br0" }
    elements = { 0x00001234 }
    elements = { "v1" . 02:00:00:00:00:01 . 10.0.0.2 }
    type ifname . ifname : verdict
    comment "first"
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
    fib daddr type != local meta nfproto ipv4 tcp dport 22 dnat ip to 10.0.0.3:2222
    meta nfproto ipv6 meta l4proto udp dnat ip6 to [fd00::3]:2222
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.9.0.0/16 oifname != "br0" masquerade comment "out"
    ip saddr 10.0.0.2 ip daddr != 10.0.0.0/20 snat ip to 192.0.2.1
    ip6 saddr fd00::/64 masquerade
    type filter hook forward priority filter; policy drop;
    ct state established,related counter packets 0 bytes 0 accept
    ct state invalid drop
    iifname . oifname vmap @ways
    ct status dnat accept
    iifname "br*" oifname @links jump user
    ip saddr != @nets log prefix "strange: " drop
    iifname != "br0" meta mark @marks goto user
    iifname . th dport @spans reject
    meta l4proto tcp reject with tcp reset
    icmpv6 type nd-router-advert drop
    oifname "v1" limit rate over 125000 bytes/second burst 64 kbytes drop
    iifname . ether saddr . ip saddr != @owners fib saddr . iif oif missing drop
    iifname "lo" meta mark set 0x00000007 notrack
    return
"#;

fn prepared(place: &Place) -> Option<Nft> {
    let mut nft = place.nft()?;
    let mut batch = Batch::new();
    batch.create_table(TABLE, None).create_set(TABLE, &PORTS4);
    batch.create_chain(TABLE, &Chain::new("one"));
    nft.apply(batch).unwrap();
    Some(nft)
}

fn many(count: u16) -> Vec<Element> {
    (0..count)
        .map(|port| {
            let to = [[10, 0, 0, 2].into(), Value::Port(port)];
            Element::new(published([192, 0, 2, 1], TCP, port)).to(to).comment("of a container")
        })
        .collect()
}

#[test]
fn a_batch_is_carried_out_wholly_or_not_at_all() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = prepared(&place) else { return };
    let before =
        (nft.generation().unwrap(), nft.elements(TABLE, "ports4").unwrap(), nft.rules(TABLE).unwrap());
    let mut batch = Batch::new();
    batch.add_elements(TABLE, "ports4", &many(100)).add_rule(TABLE, "one", &Rule::new().drop());
    batch.delete_chain(TABLE, "nonesuch").delete_set(TABLE, "nor this");
    batch.create_chain(TABLE, &Chain::new("two"));
    let error = nft.apply(batch).unwrap_err();
    assert!(matches!(error, NetlinkError::Refused { index: 3, .. }), "{error}");
    assert!(error.is_absent());
    assert!(
        error.to_string().starts_with("cannot remove chain nonesuch of table havre: No such file"),
        "{error}"
    );
    let after =
        (nft.generation().unwrap(), nft.elements(TABLE, "ports4").unwrap(), nft.rules(TABLE).unwrap());
    assert_eq!(after, before);
    assert_eq!(nft.chains(TABLE).unwrap().len(), 1);
    // The same once more without what was wrong.
    let mut batch = Batch::new();
    batch.add_elements(TABLE, "ports4", &many(100)).add_rule(TABLE, "one", &Rule::new().drop());
    nft.apply(batch).unwrap();
    assert_eq!(nft.elements(TABLE, "ports4").unwrap().len(), 100);
    nft.apply(Batch::new()).unwrap();
    // A rule that does not fit is refused before anything is sent.
    let mut rule = Rule::new();
    for _ in 0..2_000 {
        rule = rule.counter().input("br0");
    }
    let mut batch = Batch::new();
    batch.add_rule(TABLE, "one", &rule);
    assert!(matches!(nft.apply(batch).unwrap_err(), NetlinkError::TooLong { .. }));
}

#[test]
fn a_change_of_somebody_else_is_noticed() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = prepared(&place) else { return };
    let generation = nft.generation().unwrap();
    let mut batch = Batch::since(generation);
    batch.add_rule(TABLE, "one", &Rule::new().accept());
    nft.apply(batch).unwrap();
    let mut batch = Batch::since(generation);
    batch.add_rule(TABLE, "one", &Rule::new().accept());
    let error = nft.apply(batch).unwrap_err();
    assert!(error.is_overtaken(), "{error}");
    assert_eq!(nft.rules(TABLE).unwrap().len(), 1);
}

#[test]
fn ten_thousand_elements_come_and_go_in_one_transaction() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = prepared(&place) else { return };
    let elements = many(10_000);
    let mut batch = Batch::new();
    batch.add_new_elements(TABLE, "ports4", &elements);
    nft.apply(batch).unwrap();
    let mut seen = nft.elements(TABLE, "ports4").unwrap();
    assert_eq!(seen.len(), 10_000);
    seen.sort_by(|one, other| one.key.cmp(&other.key));
    let mut wanted: Vec<_> = elements.iter().map(Element::key_bytes).collect();
    wanted.sort();
    assert!(seen.iter().map(|element| &element.key).eq(&wanted));
    // One that is there, and one that leads elsewhere.
    let mut batch = Batch::new();
    batch.add_new_elements(TABLE, "ports4", &elements[..1]);
    assert!(nft.apply(batch).unwrap_err().already_exists());
    let mut batch = Batch::new();
    batch.add_elements(TABLE, "ports4", &elements[..1]);
    nft.apply(batch).unwrap();
    let elsewhere =
        Element::new(published([192, 0, 2, 1], TCP, 0)).to([[10, 0, 0, 9].into(), Value::Port(1)]);
    let mut batch = Batch::new();
    batch.add_elements(TABLE, "ports4", std::slice::from_ref(&elsewhere));
    assert!(nft.apply(batch).unwrap_err().already_exists());
    // In one transaction it can be led there.
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, "ports4", &elements[..1]).add_elements(TABLE, "ports4", &[elsewhere]);
    batch.delete_elements(TABLE, "ports4", &elements[1..]);
    nft.apply(batch).unwrap();
    let left = nft.elements(TABLE, "ports4").unwrap();
    assert_eq!(left.len(), 1);
    let Some(DataView::Bytes(data)) = &left[0].data else { panic!("{left:?}") };
    let values = Value::read_all(&[KeyType::V4, KeyType::Port], data).unwrap();
    assert_eq!(values, [[10, 0, 0, 9].into(), Value::Port(1)]);
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, "ports4", &elements[5..6]);
    assert!(nft.apply(batch).unwrap_err().is_absent());
    let mut batch = Batch::new();
    batch.flush_set(TABLE, "ports4");
    nft.apply(batch).unwrap();
    assert_eq!(nft.elements(TABLE, "ports4").unwrap(), []);
}

#[test]
fn what_there_is_is_read_back() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = prepared(&place) else { return };
    let mut batch = Batch::new();
    let chain = Chain { comment: Some("entrance"), ..Chain::filter("in", Hook::Input, -5) };
    batch.create_chain(TABLE, &chain);
    batch.create_set(
        TABLE,
        &Set {
            data: Some(Data::Verdict),
            interval: true,
            comment: Some("ways"),
            ..plain("by", &[KeyType::V4])
        },
    );
    let to_one =
        Element::network([10, 9, 0, 0].into(), 16).verdict(Verdict::Jump("one".into())).comment("net");
    batch.add_elements(TABLE, "by", &[to_one]);
    batch.add_rule(TABLE, "in", &Rule::new().counter().accept().comment("second"));
    batch.insert_rule(TABLE, "in", &Rule::new().input("lo").comment("first"));
    batch.add_rule(TABLE, "one", &Rule::new().drop());
    nft.apply(batch).unwrap();

    let tables = nft.tables().unwrap();
    assert_eq!((tables.len(), tables[0].family, tables[0].name.as_str()), (1, Family::Inet, "havre"));
    let chains = nft.chains(TABLE).unwrap();
    let seen = chains.iter().find(|chain| chain.name == "in").unwrap();
    assert_eq!((seen.hook, seen.kind.as_deref(), seen.drops), (Some((1, -5)), Some("filter"), false));
    assert_eq!(seen.comment.as_deref(), Some("entrance"));
    let sets = nft.sets(TABLE).unwrap();
    let seen = sets.iter().find(|set| set.name == "by").unwrap();
    assert_eq!((seen.comment.as_deref(), seen.key_type), (Some("ways"), 7));
    let elements = nft.elements(TABLE, "by").unwrap();
    let seen = elements.iter().find(|element| !element.is_end).unwrap();
    assert_eq!(seen.key, [10, 9, 0, 0]);
    assert_eq!(seen.data, Some(DataView::Verdict(Verdict::Jump("one".into()))));
    assert_eq!(seen.comment.as_deref(), Some("net"));
    assert!(elements.iter().any(|element| element.is_end && element.key == [10, 10, 0, 0]));

    let rules = |nft: &mut Nft| {
        let all = nft.rules(TABLE).unwrap();
        all.into_iter().filter(|rule| rule.chain == "in").collect::<Vec<_>>()
    };
    let seen = rules(&mut nft);
    let comments: Vec<_> = seen.iter().map(|rule| rule.comment.as_deref().unwrap()).collect();
    assert_eq!(comments, ["first", "second"]);
    assert_eq!(seen[1].expressions, ["counter", "immediate"]);
    assert_eq!((seen[0].counter, seen[1].counter), (None, Some((0, 0))));
    let mut batch = Batch::new();
    batch.delete_rule(TABLE, "in", seen[0].handle);
    batch.replace_rule(TABLE, "in", seen[1].handle, &Rule::new().accept().comment("only"));
    nft.apply(batch).unwrap();
    let seen = rules(&mut nft);
    assert_eq!((seen.len(), seen[0].comment.as_deref()), (1, Some("only")));
    let mut batch = Batch::new();
    batch.flush_chain(TABLE, "in").delete_chain(TABLE, "in");
    nft.apply(batch).unwrap();
    assert_eq!(nft.chains(TABLE).unwrap().len(), 1);
    assert_eq!(nft.rules(Table { name: "nonesuch", ..TABLE }).unwrap(), []);
}

#[test]
fn tables_of_others_are_left_as_they_are() {
    let Some(place) = Place::new() else { return };
    let Some(mut nft) = place.nft() else { return };
    let foreign = Table { name: "foreign", ..TABLE };
    let mut batch = Batch::new();
    batch.create_table(foreign, Some("not ours")).create_chain(foreign, &Chain::filter("in", Hook::Input, 0));
    batch.add_rule(foreign, "in", &Rule::new().input("lo").counter().accept());
    nft.apply(batch).unwrap();
    let before = (nft.tables().unwrap(), nft.rules(foreign).unwrap(), place.shown());
    for _ in 0..2 {
        let mut batch = Batch::new();
        batch.clear_table(TABLE).create_table(TABLE, None).create_set(TABLE, &PORTS4);
        batch.create_chain(TABLE, &Chain::nat("pre", Hook::Prerouting, -100));
        let fields = [Field::Destination4, Field::Protocol, Field::DestinationPort];
        batch.add_rule(TABLE, "pre", &Rule::new().ipv4().redirect_by(Family::Ip, &fields, "ports4", true));
        batch.add_elements(TABLE, "ports4", &many(10));
        nft.apply(batch).unwrap();
    }
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    nft.apply(batch).unwrap();
    assert_eq!((nft.tables().unwrap(), nft.rules(foreign).unwrap(), place.shown()), before);
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    assert!(nft.apply(batch).unwrap_err().is_absent());
    let mut batch = Batch::new();
    batch.clear_table(TABLE);
    nft.apply(batch).unwrap();
}

#[test]
fn what_is_changed_and_flushed_is_heard() {
    let Some(place) = Place::new() else { return };
    let Some(mut ears) = place.nft() else { return };
    ears.listen().unwrap();
    let Some(mut nft) = prepared(&place) else { return };
    let mut heard = Vec::new();
    let timeout = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    let mut wait_for = |wanted: &dyn Fn(&Event) -> bool| {
        while !heard.iter().any(wanted) {
            let mut polled = [PollFd::from_borrowed_fd(ears.as_fd(), PollFlags::IN)];
            assert_ne!(rustix::event::poll(&mut polled, Some(&timeout)).unwrap(), 0, "{heard:?}");
            heard.extend(ears.events().unwrap());
        }
    };
    wait_for(&|event| matches!(event, Event::Table(table) if table.name == "havre"));
    let inside = |event: &Event, chain: &str| matches!(event, Event::Inside { table, name, gone: false, .. } if table == "havre" && name == chain);
    wait_for(&|event| inside(event, "one"));
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    nft.apply(batch).unwrap();
    wait_for(&|event| matches!(event, Event::TableGone(table) if table.name == "havre"));
    let generation = nft.generation().unwrap();
    wait_for(&|event| *event == Event::Generation(generation));
}

#[test]
fn own_changes_are_told_from_those_of_others() {
    let Some(place) = Place::new() else { return };
    let Some(mut ears) = place.nft() else { return };
    let Some(mut own) = prepared(&place) else { return };
    let mut other = place.nft().unwrap();
    ears.listen().unwrap();
    let add = |nft: &mut Nft, name: &str| {
        let mut batch = Batch::new();
        batch.create_chain(TABLE, &Chain::new(name));
        nft.apply(batch).unwrap();
    };
    let names = |events: Vec<Event>| -> Vec<String> {
        events
            .into_iter()
            .filter_map(|event| if let Event::Inside { name, .. } = event { Some(name) } else { None })
            .collect()
    };
    add(&mut own, "mine");
    add(&mut other, "theirs");
    assert_eq!(names(ears.events_of_others(own.port()).unwrap()), ["theirs"]);
    ears.hush().unwrap();
    add(&mut other, "unheard");
    ears.listen().unwrap();
    add(&mut other, "heard");
    assert_eq!(names(ears.events_of_others(own.port()).unwrap()), ["heard"]);
}
