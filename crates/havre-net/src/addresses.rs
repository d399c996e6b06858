//! Addresses of one subnet: which are given, which is next.
//!
//! Invariant: an address is given to one at a time, is inside the subnet, and is neither its first nor (IPv4) its last.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::pools::{address, number};
use crate::{NetError, Result};

/// A subnet with what is given of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    subnet: IpNet,
    /// The part that addresses are chosen from.
    range: IpNet,
    given: BTreeSet<u128>,
}

impl Block {
    /// A subnet of which `range`, or all, is given out.
    #[must_use]
    pub fn new(subnet: IpNet, range: Option<IpNet>) -> Self {
        Self { subnet, range: range.unwrap_or(subnet), given: BTreeSet::new() }
    }

    /// The subnet.
    #[must_use]
    pub const fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The first and the last address that can be given. Subnets of one or two addresses have nothing to spare
    /// (RFC 3021).
    fn bounds(&self, net: &IpNet) -> (u128, u128) {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        let (of_subnet, end) = (number(self.subnet.network()), number(self.subnet.broadcast()));
        if self.subnet.max_prefix_len() - self.subnet.prefix_len() < 2 {
            return (first, last);
        }
        let last = if matches!(net, IpNet::V4(_)) && last == end { last - 1 } else { last };
        (if first == of_subnet { first + 1 } else { first }, last)
    }

    /// Gives the lowest free address of the range.
    pub fn lowest(&mut self) -> Option<IpAddr> {
        let (first, last) = self.bounds(&self.range);
        let mut free = first;
        for given in self.given.range(first..=last) {
            if *given > free {
                break;
            }
            free = given.checked_add(1)?;
        }
        if free > last {
            return None;
        }
        self.given.insert(free);
        Some(address(free, &self.subnet))
    }

    /// Gives a certain address, also outside the range.
    pub fn take(&mut self, wanted: IpAddr) -> Result<()> {
        if !self.subnet.contains(&wanted) {
            return Err(NetError::AddressOutside(wanted));
        }
        let (first, last) = self.bounds(&self.subnet);
        let value = number(wanted);
        if value < first || value > last {
            return Err(NetError::Invalid(format!(
                "invalid address {wanted}: it is the network or broadcast address of {}",
                self.subnet
            )));
        }
        if self.given.insert(value) { Ok(()) } else { Err(NetError::AddressTaken(wanted)) }
    }

    /// Takes an address back; one that was not given is nothing.
    pub fn give_back(&mut self, given: IpAddr) {
        if self.subnet.contains(&given) {
            self.given.remove(&number(given));
        }
    }

    /// How many addresses nobody else gets: those that are given, and the ends of the subnet.
    #[must_use]
    pub fn used(&self) -> u64 {
        let (first, last) = self.bounds(&self.subnet);
        let ends = (first - number(self.subnet.network())) + (number(self.subnet.broadcast()) - last);
        u64::try_from(ends)
            .unwrap_or(u64::MAX)
            .saturating_add(u64::try_from(self.given.len()).unwrap_or(u64::MAX))
    }

    /// How many are left of the range.
    #[must_use]
    pub fn left(&self) -> u64 {
        let (first, last) = self.bounds(&self.range);
        let given = u128::try_from(self.given.range(first..=last).count()).unwrap_or(u128::MAX);
        // All of IPv6 has one more than a number can say.
        u64::try_from((last - first).saturating_add(1).saturating_sub(given)).unwrap_or(u64::MAX)
    }

    /// How many are given.
    #[must_use]
    pub fn count(&self) -> usize {
        self.given.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(subnet: &str, range: Option<&str>) -> Block {
        Block::new(subnet.parse().unwrap(), range.map(|range| range.parse().unwrap()))
    }

    fn all(block: &mut Block) -> Vec<String> {
        std::iter::from_fn(|| block.lowest()).map(|address| address.to_string()).collect()
    }

    #[test]
    fn the_lowest_free_one_is_next() {
        let mut block = block("172.17.0.0/16", None);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        block.take(address("172.17.0.1")).unwrap();
        assert_eq!(block.lowest(), Some(address("172.17.0.2")));
        assert_eq!(block.lowest(), Some(address("172.17.0.3")));
        block.give_back(address("172.17.0.2"));
        assert_eq!(block.lowest(), Some(address("172.17.0.2")));
        assert!(matches!(block.take(address("172.17.0.3")), Err(NetError::AddressTaken(_))));
        assert!(matches!(block.take(address("172.18.0.3")), Err(NetError::AddressOutside(_))));
        for edge in ["172.17.0.0", "172.17.255.255"] {
            assert!(block.take(address(edge)).unwrap_err().to_string().contains("broadcast"));
        }
        assert_eq!((block.count(), block.used(), block.left()), (3, 5, 65_531));
    }

    #[test]
    fn ends_of_subnets_are_left_out_where_there_are_any() {
        assert_eq!(all(&mut block("10.0.0.0/30", None)), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(all(&mut block("10.0.0.0/31", None)), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(all(&mut block("10.0.0.7/32", None)), ["10.0.0.7"]);
        assert_eq!(
            all(&mut block("10.0.0.0/24", Some("10.0.0.252/30"))),
            ["10.0.0.252", "10.0.0.253", "10.0.0.254"]
        );
        assert_eq!(all(&mut block("10.0.0.0/24", Some("10.0.0.4/31"))), ["10.0.0.4", "10.0.0.5"]);
        assert_eq!(all(&mut block("fd00::/126", None)), ["fd00::1", "fd00::2", "fd00::3"]);
        let mut wide = block("fd00::/8", None);
        assert_eq!(wide.lowest().unwrap().to_string(), "fd00::1");
    }
}
