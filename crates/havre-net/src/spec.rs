//! What is asked of a network, checked before anything is made.
//!
//! Invariant: every wrong field is told at once, in Docker's words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::pools::overlap;
use crate::{NetError, Result};

/// Names that are not given to networks of users.
pub const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];
const LONGEST_NAME: usize = 255;
/// What is said where a network would need other machines.
pub const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

/// Who makes a network's links.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Driver {
    /// A bridge of the host's.
    #[default]
    Bridge,
    /// The host's own namespace.
    Host,
    /// Only loopback.
    Null,
    /// Addresses of their own on an interface of the host's.
    Macvlan,
    /// As macvlan, with the interface's own hardware address.
    Ipvlan,
    /// A plugin of this name.
    Remote(String),
}

impl Driver {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Remote(name) => name,
        }
    }

    /// The driver of this name; what is not built in is a plugin, which need not be there.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "" | "bridge" => Ok(Self::Bridge),
            "macvlan" => Ok(Self::Macvlan),
            "ipvlan" => Ok(Self::Ipvlan),
            "host" | "null" => {
                Err(NetError::Predefined(format!("only one instance of \"{name}\" network is allowed")))
            }
            "overlay" => Err(NetError::Predefined(NO_SWARM.into())),
            other => Ok(Self::Remote(other.into())),
        }
    }
}

/// A subnet that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockSpec {
    /// The subnet; without one it is chosen.
    pub subnet: Option<IpNet>,
    /// The part that addresses are chosen from.
    pub range: Option<IpNet>,
    /// The bridge's own address.
    pub gateway: Option<IpAddr>,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// What a plugin that gives the addresses calls it.
    #[serde(default)]
    pub pool: String,
}

/// A block as a client writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockText {
    /// Subnet in CIDR notation.
    pub subnet: String,
    /// Range in CIDR notation.
    pub range: String,
    /// Gateway.
    pub gateway: String,
    /// Auxiliary addresses by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// What is asked of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Who makes its links.
    pub driver: Driver,
    /// Whether it has IPv4 addresses.
    pub ipv4: bool,
    /// Whether it has IPv6 addresses.
    pub ipv6: bool,
    /// Nothing leads out.
    pub internal: bool,
    /// Containers beside services may join; without a swarm they always may.
    pub attachable: bool,
    /// Subnets.
    pub blocks: Vec<BlockSpec>,
    /// Options of the driver as they were given.
    pub options: BTreeMap<String, String>,
    /// Options of the address management as they were given.
    pub ipam_options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Who gives the addresses; nothing is this engine itself.
    #[serde(default)]
    pub ipam: Ipam,
    /// It is nothing but a configuration for others.
    #[serde(default)]
    pub config_only: bool,
    /// The network whose configuration it has; empty where it has its own.
    #[serde(default)]
    pub config_from: String,
}

/// Who gives a network's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ipam {
    /// This engine.
    #[default]
    Own,
    /// Nobody: there are none.
    Null,
    /// A plugin of this name.
    Remote(String),
}

impl Ipam {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Own => "default",
            Self::Null => "null",
            Self::Remote(name) => name,
        }
    }

    /// The one of this name; what is not built in is a plugin, which need not be there.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        match name {
            "" | "default" => Self::Own,
            "null" => Self::Null,
            other => Self::Remote(other.into()),
        }
    }
}

impl NetworkSpec {
    /// Checks names, families and options against each other; returns the options and what of them has no effect.
    pub fn check(&self) -> Result<(Options, Vec<String>)> {
        check_name(&self.name)?;
        if !self.ipv4 && !self.ipv6 {
            return Err(NetError::Invalid("IPv4 and IPv6 cannot both be disabled".into()));
        }
        for block in &self.blocks {
            let of_family = |v6: bool| if v6 { self.ipv6 } else { self.ipv4 };
            if let Some(net) = block.subnet.filter(|net| !of_family(matches!(net, IpNet::V6(_)))) {
                let version = if matches!(net, IpNet::V6(_)) { 6 } else { 4 };
                return Err(NetError::Invalid(format!(
                    "the network has no IPv{version}, but the subnet {net}: add --ipv{version}"
                )));
            }
        }
        let subnets: Vec<&IpNet> = self.blocks.iter().filter_map(|block| block.subnet.as_ref()).collect();
        for (at, net) in subnets.iter().enumerate() {
            if let Some(other) = subnets.iter().skip(at + 1).find(|other| overlap(net, other)) {
                return Err(NetError::Overlap {
                    wanted: **net,
                    other: format!("{other} of the same network"),
                });
            }
        }
        if self.config_only {
            // Whoever takes it over has a driver, which reads them.
            return Ok((Options::default(), Vec::new()));
        }
        let of_kernel = matches!(self.driver, Driver::Bridge | Driver::Macvlan | Driver::Ipvlan);
        if of_kernel && self.ipam == Ipam::Null {
            // As Docker's drivers say of pools that hold everything.
            let version = if self.ipv4 { 4 } else { 6 };
            return Err(NetError::Invalid(format!("ipv{version} pool is empty")));
        }
        Options::parse(&self.driver, &self.options)
    }
}

impl NetworkSpec {
    /// Takes over the configuration of another network.
    pub(crate) fn configure(&mut self, from: &Self) {
        (self.ipv4, self.ipv6) = (from.ipv4, from.ipv6);
        (self.blocks, self.options) = (from.blocks.clone(), from.options.clone());
        (self.ipam, self.ipam_options) = (from.ipam.clone(), from.ipam_options.clone());
        for (key, value) in &from.labels {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(NetError::Invalid("invalid name: name is empty".into()));
    }
    if PREDEFINED.contains(&name) {
        return Err(NetError::Predefined(format!("operation is not permitted on predefined {name} network")));
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !first || !rest || name.len() > LONGEST_NAME {
        return Err(NetError::Invalid(format!(
            "invalid network name {name:?}: it begins with a letter or digit, has only [a-zA-Z0-9_.-] behind, and at most {LONGEST_NAME} characters"
        )));
    }
    Ok(())
}

/// Reads the subnets of a request; all faults are told together.
pub fn blocks(texts: &[BlockText]) -> Result<Vec<BlockSpec>> {
    let mut faults = Vec::new();
    let mut blocks: Vec<BlockSpec> = texts.iter().filter_map(|text| block(text, &mut faults)).collect();
    // Docker's client sends them in any order.
    blocks.sort_by_key(|block| block.subnet.is_some_and(|net| net.addr().is_ipv6()));
    if faults.is_empty() {
        Ok(blocks)
    } else {
        Err(NetError::Invalid(format!("invalid network config:\n{}", faults.join("\n"))))
    }
}

const fn version(net: &IpNet) -> u8 {
    if matches!(net, IpNet::V6(_)) { 6 } else { 4 }
}

fn block(text: &BlockText, faults: &mut Vec<String>) -> Option<BlockSpec> {
    if *text == BlockText::default() {
        return None;
    }
    if text.subnet.is_empty() {
        for (what, given) in [("ip-range", &text.range), ("gateway", &text.gateway)] {
            if !given.is_empty() {
                faults.push(format!("invalid {what} {given}: it needs a subnet"));
            }
        }
        for given in text.auxiliary.values() {
            faults.push(format!("invalid auxiliary address {given}: it needs a subnet"));
        }
        return None;
    }
    let subnet = cidr("subnet", &text.subnet, faults)?;
    let range = if text.range.is_empty() { None } else { cidr("ip-range", &text.range, faults) };
    if let Some(range) = range {
        let why = if version(&range) != version(&subnet) {
            Some(format!("parent subnet is an IPv{} block", version(&subnet)))
        } else if range.prefix_len() < subnet.prefix_len() {
            Some(format!("CIDR block is bigger than its parent subnet {subnet}"))
        } else if !subnet.contains(&range) {
            Some(format!("parent subnet {subnet} doesn't contain ip-range"))
        } else {
            None
        };
        faults.extend(why.map(|why| format!("invalid ip-range {range}: {why}")));
    }
    let gateway =
        if text.gateway.is_empty() { None } else { inside("gateway", &text.gateway, &subnet, faults) };
    let mut auxiliary = BTreeMap::new();
    for (name, given) in &text.auxiliary {
        if let Some(address) = inside("auxiliary address", given, &subnet, faults) {
            auxiliary.insert(name.clone(), address);
        }
    }
    Some(BlockSpec { subnet: Some(subnet), range, gateway, auxiliary, pool: String::new() })
}

fn cidr(what: &str, text: &str, faults: &mut Vec<String>) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Err(_) => {
            faults.push(format!("invalid {what} {text}: invalid CIDR block notation"));
            None
        }
        Ok(net) if net.trunc() != net => {
            faults.push(format!("invalid {what} {net}: it should be {}", net.trunc()));
            None
        }
        Ok(net) => Some(net),
    }
}

fn inside(what: &str, text: &str, subnet: &IpNet, faults: &mut Vec<String>) -> Option<IpAddr> {
    let why = match text.parse::<IpAddr>() {
        Err(_) => "invalid address".to_owned(),
        Ok(address) if subnet.contains(&address) => return Some(address),
        Ok(address) if address.is_ipv6() != matches!(subnet, IpNet::V6(_)) => {
            format!("parent subnet is an IPv{} block", version(subnet))
        }
        Ok(_) => format!("parent subnet {subnet} doesn't contain this address"),
    };
    faults.push(format!("invalid {what} {text}: {why}"));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(subnet: &str, range: &str, gateway: &str) -> BlockText {
        BlockText {
            subnet: subnet.into(),
            range: range.into(),
            gateway: gateway.into(),
            ..BlockText::default()
        }
    }

    fn spec(name: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            blocks: Vec::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..NetworkSpec::default()
        }
    }

    #[test]
    fn faults_of_subnets_are_told_together_in_dockers_words() {
        let good = blocks(&[text("10.0.0.0/16", "10.0.1.0/24", "10.0.0.1"), BlockText::default()]).unwrap();
        assert_eq!(good.len(), 1);
        assert_eq!(good[0].gateway, Some("10.0.0.1".parse().unwrap()));
        let faults = blocks(&[
            text("10.0.0.1/16", "", ""),
            text("x", "", ""),
            text("10.1.0.0/24", "10.1.0.0/16", "10.2.0.1"),
            text("10.3.0.0/24", "fd00::/64", "fd00::1"),
            text("10.4.0.0/24", "10.5.0.0/25", "y"),
            text("", "10.6.0.0/25", ""),
        ]);
        let told = faults.unwrap_err().to_string();
        let wanted = [
            "invalid network config:",
            "invalid subnet 10.0.0.1/16: it should be 10.0.0.0/16",
            "invalid subnet x: invalid CIDR block notation",
            "invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.0/24",
            "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain this address",
            "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
            "invalid gateway fd00::1: parent subnet is an IPv4 block",
            "invalid ip-range 10.5.0.0/25: parent subnet 10.4.0.0/24 doesn't contain ip-range",
            "invalid gateway y: invalid address",
            "invalid ip-range 10.6.0.0/25: it needs a subnet",
        ];
        assert_eq!(told.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn names_and_families_are_checked() {
        assert!(spec("front").check().is_ok());
        for name in ["bridge", "host", "none", "default"] {
            let error = spec(name).check().unwrap_err();
            assert_eq!(error.to_string(), format!("operation is not permitted on predefined {name} network"));
        }
        for name in ["", " ", "a/b", "-a", "a b", &"n".repeat(256)] {
            assert!(matches!(spec(name).check(), Err(NetError::Invalid(_))), "{name}");
        }
        assert!(NetworkSpec { ipv4: false, ..spec("a") }.check().is_err());
        let six = blocks(&[text("fd00::/64", "", "")]).unwrap();
        let error = NetworkSpec { blocks: six.clone(), ..spec("a") }.check().unwrap_err().to_string();
        assert!(error.contains("fd00::/64") && error.contains("--ipv6"), "{error}");
        assert!(NetworkSpec { blocks: six, ipv6: true, ..spec("a") }.check().is_ok());
        let twice = blocks(&[text("10.0.0.0/8", "", ""), text("10.1.0.0/16", "", "")]).unwrap();
        assert!(matches!(NetworkSpec { blocks: twice, ..spec("a") }.check(), Err(NetError::Overlap { .. })));
        assert!(Driver::parse("overlay").unwrap_err().to_string().contains("not a swarm manager"));
        assert_eq!(Driver::parse("weave").unwrap(), Driver::Remote("weave".into()));
    }
}
