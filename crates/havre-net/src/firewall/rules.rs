//! The chains, sets and rules of the table, the same for every number of networks.

use std::net::{IpAddr, Ipv4Addr};

use havre_sys::nft::{Chain, Data, Family, Field, Hook, KeyType, Rule, Set, State, Status, Value, Verdict};

use KeyType::{Name, Port, Protocol as Proto, V4, V6};

/// Before connections are followed.
const RAW: i32 = -300;
/// Where destinations are changed.
const DESTINATIONS: i32 = -100;
/// Where sources are changed.
const SOURCES: i32 = 100;

const NAMES: &[KeyType] = &[KeyType::Name];
const PAIRS: &[KeyType] = &[KeyType::Name, KeyType::Name];

const fn set(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { name, key, interval: false, data: None, comment: None }
}

const fn ranges(name: &'static str, key: &'static [KeyType]) -> Set<'static> {
    Set { interval: true, ..set(name, key) }
}

const fn map(name: &'static str, key: &'static [KeyType], to: &'static [KeyType]) -> Set<'static> {
    Set { data: Some(Data::Values(to)), ..set(name, key) }
}

pub(super) const SETS: &[Set<'static>] = &[
    set("bridges", NAMES),
    set("outer", NAMES),
    set("internal", NAMES),
    set("same", PAIRS),
    set("trusted", PAIRS),
    ranges("subnets4", &[V4, Name]),
    ranges("subnets6", &[V6, Name]),
    ranges("masqueraded4", &[V4]),
    ranges("masqueraded6", &[V6]),
    ranges("unprotected4", &[V4]),
    ranges("unprotected6", &[V6]),
    set("open4", &[V4, Proto, Port]),
    set("open6", &[V6, Proto, Port]),
    map("ports4", &[Proto, Port], &[V4, Port]),
    map("ports6", &[Proto, Port], &[V6, Port]),
    map("ports4_at", &[V4, Proto, Port], &[V4, Port]),
    map("ports6_at", &[V6, Proto, Port], &[V6, Port]),
];

/// All but the administrator's, which is never emptied.
pub(super) const CHAINS: &[&str] =
    &["ports", "inward", "others", "guard", "prerouting", "input", "output", "postrouting", "forward"];

pub(super) fn chain(name: &'static str) -> Chain<'static> {
    match name {
        "guard" => Chain::filter(name, Hook::Prerouting, RAW),
        "prerouting" => Chain::nat(name, Hook::Prerouting, DESTINATIONS),
        "input" => Chain::filter(name, Hook::Input, 0),
        "output" => Chain::nat(name, Hook::Output, DESTINATIONS),
        "postrouting" => Chain::nat(name, Hook::Postrouting, SOURCES),
        "forward" => Chain::filter(name, Hook::Forward, 0),
        _ => Chain::new(name),
    }
}

pub(super) fn rules(only_ours: [bool; 2], by_input: bool) -> Vec<(&'static str, Rule)> {
    use Field::{
        Destination4, Destination6, DestinationPort, InputName, OutputName, Protocol, Source4, Source6,
    };
    let rule = Rule::new;
    let loopback = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0));
    let mut rules = vec![
        (
            "ports",
            rule().ipv4().redirect_by(
                Family::Ip,
                &[Destination4, Protocol, DestinationPort],
                "ports4_at",
                true,
            ),
        ),
        (
            "ports",
            rule().ipv6().redirect_by(
                Family::Ip6,
                &[Destination6, Protocol, DestinationPort],
                "ports6_at",
                true,
            ),
        ),
        ("ports", rule().ipv4().redirect_by(Family::Ip, &[Protocol, DestinationPort], "ports4", true)),
        ("ports", rule().ipv6().redirect_by(Family::Ip6, &[Protocol, DestinationPort], "ports6", true)),
        ("guard", rule().within(&[InputName], "bridges").to_network(loopback, 8).drop()),
        ("output", rule().to_this_machine().jump("ports")),
        // Answers of a neighbour on the same bridge would not come back this way.
        (
            "postrouting",
            rule()
                .status(Status::DESTINATION_CHANGED)
                .ipv4()
                .within(&[Source4, OutputName], "subnets4")
                .masquerade(),
        ),
        (
            "postrouting",
            rule()
                .status(Status::DESTINATION_CHANGED)
                .ipv6()
                .within(&[Source6, OutputName], "subnets6")
                .masquerade(),
        ),
        ("postrouting", rule().within(&[OutputName], "bridges").from_network(loopback, 8).masquerade()),
        ("postrouting", rule().ipv4().within(&[Source4, OutputName], "subnets4").accept()),
        ("postrouting", rule().ipv6().within(&[Source6, OutputName], "subnets6").accept()),
        ("postrouting", rule().ipv4().within(&[Source4], "masqueraded4").masquerade()),
        ("postrouting", rule().ipv6().within(&[Source6], "masqueraded6").masquerade()),
        ("forward", rule().jump("user")),
        ("forward", rule().state(State::ESTABLISHED | State::RELATED).accept()),
        ("forward", rule().within(&[OutputName], "bridges").jump("inward")),
        ("forward", rule().within(&[InputName], "internal").drop()),
        ("inward", rule().within(&[InputName, OutputName], "same").accept()),
        ("inward", rule().within(&[OutputName], "internal").drop()),
        ("inward", rule().within(&[InputName], "internal").drop()),
        ("inward", rule().status(Status::DESTINATION_CHANGED).accept()),
        ("inward", rule().within(&[InputName, OutputName], "trusted").accept()),
        ("inward", rule().ipv4().within(&[Destination4, Protocol, DestinationPort], "open4").accept()),
        ("inward", rule().ipv6().within(&[Destination6, Protocol, DestinationPort], "open6").accept()),
        ("inward", rule().ipv4().within(&[Destination4], "unprotected4").accept()),
        ("inward", rule().ipv6().within(&[Destination6], "unprotected6").accept()),
        ("inward", rule().drop()),
    ];
    if by_input {
        // What comes from elsewhere is for this machine, and judged as such; the chain `user` is asked here too.
        for (family, fields, map) in [
            (rule().ipv4(), &[Protocol, DestinationPort][..], "ports4"),
            (rule().ipv6(), &[Protocol, DestinationPort], "ports6"),
            (rule().ipv4(), &[Destination4, Protocol, DestinationPort], "ports4_at"),
            (rule().ipv6(), &[Destination6, Protocol, DestinationPort], "ports6_at"),
        ] {
            rules.push(("input", family.known_to(fields, map).jump("user")));
        }
    } else {
        rules.push(("prerouting", rule().to_this_machine().jump("ports")));
    }
    let bridge = Value::name("bridge");
    let other = |kind, name| rule().is(kind, bridge).not_within(&[name], "outer").verdict(&Verdict::Return);
    rules.extend([
        ("others", other(Field::InputKind, InputName)),
        ("others", other(Field::OutputKind, OutputName)),
        ("others", rule().drop()),
    ]);
    let [four, six] = only_ours;
    if four {
        rules.push(("forward", rule().not_within(&[InputName], "bridges").ipv4().jump("others")));
    }
    if six {
        rules.push(("forward", rule().not_within(&[InputName], "bridges").ipv6().jump("others")));
    }
    rules
}
