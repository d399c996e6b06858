//! Subnets for networks that name none.
//!
//! Invariant: a subnet that is chosen here overlaps nothing that is taken, neither another network's nor a route of the
//! host that was there when it was chosen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{NetError, Result};

/// A block, and how large the subnets cut from it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// What is cut.
    pub base: IpNet,
    /// Prefix length of each piece.
    pub size: u8,
}

impl Pool {
    /// Checks a pool as `default-address-pools` has it.
    pub fn new(base: &str, size: u8) -> Result<Self> {
        let invalid = |why: String| NetError::Invalid(format!("invalid default-address-pools: {why}"));
        let net: IpNet = base.parse().map_err(|_| invalid(format!("base {base:?} is no subnet")))?;
        if net.trunc() != net {
            return Err(invalid(format!("base {base} has bits beyond its prefix: want {}", net.trunc())));
        }
        if size < net.prefix_len() || size > net.max_prefix_len() {
            let least = net.prefix_len();
            return Err(invalid(format!(
                "size {size} of {base} is not between {least} and {}",
                net.max_prefix_len()
            )));
        }
        Ok(Self { base: net, size })
    }
}

const fn v4(a: u8, b: u8, prefix: u8, size: u8) -> Pool {
    // A prefix of a constant is at most 32.
    let net = match Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), prefix) {
        Ok(net) => net,
        Err(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0),
    };
    Pool { base: IpNet::V4(net), size }
}

/// Docker's own, in its order; and behind them room for more networks than it has.
const DEFAULTS: [Pool; 8] = [
    v4(172, 17, 16, 16),
    v4(172, 18, 16, 16),
    v4(172, 19, 16, 16),
    v4(172, 20, 14, 16),
    v4(172, 24, 14, 16),
    v4(172, 28, 14, 16),
    v4(192, 168, 16, 20),
    v4(10, 201, 16, 24),
];

/// Where subnets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    pools: Vec<Pool>,
}

impl Pools {
    /// The administrator's, or the default ones. `machine` tells machines apart: their private IPv6 networks should not be
    /// the same (RFC 4193).
    #[must_use]
    pub fn new(given: Vec<Pool>, machine: [u8; 5]) -> Self {
        let mut pools = if given.is_empty() { DEFAULTS.to_vec() } else { given };
        if !pools.iter().any(|pool| matches!(pool.base, IpNet::V6(_))) {
            let [a, b, c, d, e] = machine.map(u16::from);
            let prefix = Ipv6Addr::new(0xfd00 | a, b << 8 | c, d << 8 | e, 0, 0, 0, 0, 0);
            if let Ok(base) = Ipv6Net::new(prefix, 48) {
                pools.push(Pool { base: IpNet::V6(base), size: 64 });
            }
        }
        Self { pools }
    }

    /// The first subnet that overlaps nothing in `taken`.
    pub fn pick(&self, ipv6: bool, taken: &[IpNet]) -> Result<IpNet> {
        let of_family = self.pools.iter().filter(|pool| matches!(pool.base, IpNet::V6(_)) == ipv6);
        of_family.filter_map(|pool| first_free(pool, taken)).next().ok_or(NetError::NoSubnet)
    }
}

/// Whether two subnets have an address in common.
#[must_use]
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Goes from one subnet to the next, and behind whatever is in the way in one step: a pool may have more pieces than
/// anybody can count.
fn first_free(pool: &Pool, taken: &[IpNet]) -> Option<IpNet> {
    let (start, end) = (number(pool.base.network()), number(pool.base.broadcast()));
    let bits = u32::from(pool.base.max_prefix_len() - pool.size);
    let step = 1_u128.checked_shl(bits)?;
    let mut at = start;
    loop {
        let last = at.checked_add(step - 1).filter(|last| *last <= end)?;
        let in_the_way = taken.iter().filter(|net| same_family(net, &pool.base)).find(|net| {
            let (from, to) = (number(net.network()), number(net.broadcast()));
            from <= last && to >= at
        });
        match in_the_way {
            None => return IpNet::new(address(at, &pool.base), pool.size).ok(),
            Some(net) => {
                let behind = number(net.broadcast()).checked_add(1)?.max(at.checked_add(step)?);
                // To the next piece's beginning.
                at = (behind - start).div_ceil(step).checked_mul(step)?.checked_add(start)?;
            }
        }
    }
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!(a, IpNet::V6(_)) == matches!(b, IpNet::V6(_))
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The number as an address of the subnet's family.
pub(crate) fn address(number: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn subnets_come_in_dockers_order_and_do_not_end_at_thirty_one() {
        let pools = Pools::new(Vec::new(), [1, 2, 3, 4, 5]);
        let mut taken = Vec::new();
        for _ in 0..200 {
            let net = pools.pick(false, &taken).unwrap();
            assert!(taken.iter().all(|other| !overlap(other, &net)), "{net}");
            taken.push(net);
        }
        assert_eq!(taken[..3], nets(&["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"]));
        assert_eq!(taken[14..17], nets(&["172.31.0.0/16", "192.168.0.0/20", "192.168.16.0/20"]));
        assert_eq!(taken[31], nets(&["10.201.0.0/24"])[0]);
        let six = pools.pick(true, &[]).unwrap();
        assert_eq!(six, nets(&["fd01:203:405::/64"])[0]);
        assert_eq!(pools.pick(true, &[six]).unwrap(), nets(&["fd01:203:405:1::/64"])[0]);
    }

    #[test]
    fn routes_of_the_host_are_left_alone() {
        let pools = Pools::new(Vec::new(), [0; 5]);
        let taken = nets(&["172.16.0.0/13", "172.24.5.0/24", "fd00::/8"]);
        assert_eq!(pools.pick(false, &taken).unwrap(), nets(&["172.25.0.0/16"])[0]);
        assert!(matches!(pools.pick(true, &taken), Err(NetError::NoSubnet)));
        let small = Pools::new(vec![Pool::new("10.0.0.0/30", 31).unwrap()], [0; 5]);
        assert_eq!(small.pick(false, &nets(&["10.0.0.0/32"])).unwrap(), nets(&["10.0.0.2/31"])[0]);
        assert!(small.pick(false, &nets(&["10.0.0.1/32", "10.0.0.2/32"])).is_err());
        // All of IPv6 in the smallest pieces ends too.
        let huge = Pools::new(vec![Pool::new("::/0", 128).unwrap()], [0; 5]);
        assert_eq!(huge.pick(true, &nets(&["::/1"])).unwrap(), nets(&["8000::/128"])[0]);
        assert!(huge.pick(true, &nets(&["::/0"])).is_err());
    }

    #[test]
    fn pools_are_checked() {
        for (base, size, why) in [
            ("10.0.0.0/8", 7, "size 7"),
            ("10.0.0.0/8", 33, "size 33"),
            ("10.0.0.1/8", 24, "want 10.0.0.0/8"),
            ("x", 24, "no subnet"),
        ] {
            let error = Pool::new(base, size).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("default-address-pools"), "{error}");
        }
    }
}
