//! Living beside rules of others that drop what they do not know: dockerd's, whose chain FORWARD drops everything at its end.
//!
//! A packet passes only if every table lets it. Where dockerd made the chain FORWARD drop (it has a chain DOCKER-USER
//! then), rules for our bridges are added at its end: behind DOCKER-USER and whatever else the administrator has there,
//! whose word therefore counts. They say only that this chain has nothing against it; our own table still decides.
//! Where somebody else drops, it is his decision, and told.
//!
//! Invariant: in tables of others only rules with our comment are added and removed, and only at the end of that chain.

use std::collections::{BTreeMap, BTreeSet};

use havre_sys::nft::{Batch, ChainView, Family, Nft, Rule, RuleView, Table};

use crate::Result;

const FORWARD: &str = "FORWARD";
const DOCKER_USER: &str = "DOCKER-USER";
/// `NF_INET_FORWARD`.
const HOOK: u32 = 2;

/// What our rules in tables of others have as the beginning of their comment.
fn mark(own: &str) -> String {
    format!("{own}: ")
}

/// A rule as `iptables -A FORWARD -i BRIDGE -j ACCEPT` makes it.
fn rule(bridge: &str, inward: bool, own: &str) -> (String, Rule) {
    let comment = format!("{}{} {bridge}", mark(own), if inward { "to" } else { "from" });
    let rule = if inward { Rule::new().output(bridge) } else { Rule::new().input(bridge) };
    (comment.clone(), rule.counter().accept().comment(&comment))
}

/// Makes the rules in tables of others as they have to be for these bridges, and returns which chains drop everything that
/// they do not know, ours included.
pub(super) fn settle(nft: &mut Nft, own: &str, bridges: &BTreeSet<&str>) -> Result<Vec<String>> {
    let mut closed = Vec::new();
    for table in nft.tables()? {
        let view = Table { family: table.family, name: &table.name };
        if !matches!(table.family, Family::Inet | Family::Ip | Family::Ip6) || table.name == own {
            continue;
        }
        let chains = nft.chains(view)?;
        let drops: Vec<&ChainView> = chains
            .iter()
            .filter(|chain| chain.drops && chain.hook.is_some_and(|(hook, _)| hook == HOOK))
            .collect();
        let dockers = chains.iter().any(|chain| chain.name == DOCKER_USER);
        // As iptables has them.
        let usual = view.name == "filter"
            && table.family != Family::Inet
            && chains.iter().any(|chain| chain.name == FORWARD);
        if usual {
            let wanted = dockers && drops.iter().any(|chain| chain.name == FORWARD);
            let none = BTreeSet::new();
            mend(nft, view, own, if wanted { bridges } else { &none })?;
        }
        if !bridges.is_empty() {
            let family = match table.family {
                Family::Ip => "ip",
                Family::Ip6 => "ip6",
                _ => "inet",
            };
            let named = |chain: &&ChainView| format!("{family} {} {}", table.name, chain.name);
            closed
                .extend(drops.iter().filter(|chain| !(usual && dockers && chain.name == FORWARD)).map(named));
        }
    }
    Ok(closed)
}

/// Adds what is missing at the end of the chain, and removes what is there for bridges that are not.
fn mend(nft: &mut Nft, table: Table<'_>, own: &str, bridges: &BTreeSet<&str>) -> Result<()> {
    let mut wanted: BTreeMap<String, Rule> =
        bridges.iter().flat_map(|bridge| [rule(bridge, false, own), rule(bridge, true, own)]).collect();
    let mut batch = Batch::new();
    let mark = mark(own);
    let ours = |rule: &RuleView| rule.comment.as_ref().is_some_and(|comment| comment.starts_with(&mark));
    for found in nft.rules(table)?.into_iter().filter(ours) {
        let known = found.chain == FORWARD
            && found.comment.as_ref().is_some_and(|comment| wanted.remove(comment).is_some());
        if !known {
            batch.delete_rule(table, &found.chain, found.handle);
        }
    }
    for rule in wanted.values() {
        batch.add_rule(table, FORWARD, rule);
    }
    match nft.apply(batch) {
        // Changed meanwhile, which is heard.
        Err(error) if error.is_absent() => Ok(()),
        other => Ok(other?),
    }
}
