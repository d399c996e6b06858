//! What the host's routes already lead to.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The subnets that this namespace has routes to, default routes, loopback and multicast aside.
#[must_use]
pub fn of_host() -> Vec<IpNet> {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let mut nets = four(&read("route"));
    nets.extend(six(&read("ipv6_route")));
    nets
}

/// `/proc/net/route`: hexadecimal numbers in the order of the network, read as the machine's.
fn four(table: &str) -> Vec<IpNet> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
        let to = Ipv4Addr::from(number(words.next())?.to_ne_bytes());
        let mask = Ipv4Addr::from(number(words.nth(5))?.to_ne_bytes());
        let net = Ipv4Net::with_netmask(to, mask).ok()?.trunc();
        (net.prefix_len() > 0 && !to.is_loopback()).then_some(IpNet::V4(net))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// `/proc/net/ipv6_route`: address and prefix length first.
fn six(table: &str) -> Vec<IpNet> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let to = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
        let prefix = u8::from_str_radix(words.next()?, 16).ok()?;
        let net = Ipv6Net::new(to, prefix).ok()?.trunc();
        // Link-local addresses are on every link.
        let common = to.is_loopback() || to.is_multicast() || to.is_unicast_link_local();
        (prefix > 0 && !common).then_some(IpNet::V6(net))
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(four(table), ["10.0.0.0/24".parse::<IpNet>().unwrap()]);
        let table = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        assert_eq!(six(table), ["fd00::/64".parse::<IpNet>().unwrap()]);
        assert!(of_host().iter().all(|net| net.prefix_len() > 0));
    }
}
