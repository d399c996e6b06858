//! What the configuration says about networks: where subnets come from, and what the default network is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use havre_engine::DnsDefaults;
use havre_net::options::Options;
use havre_net::pools::{Pool, Pools};
use havre_net::spec::{BlockSpec, BlockText, Driver, NetworkSpec, blocks};
use ipnet::IpNet;

use crate::DaemonError;

type Result<T> = std::result::Result<T, DaemonError>;

/// The size of packets in the default network, as dockerd's.
const MTU: &str = "1500";

/// What the configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pools: Vec<Pool>,
    /// The default network.
    pub(crate) default: NetworkSpec,
    /// What `host-gateway` stands for; none for the default network's own addresses.
    pub(crate) host_gateways: Vec<IpAddr>,
    /// How containers resolve names that say nothing of it.
    pub(crate) dns: DnsDefaults,
}

fn refuse(why: impl std::fmt::Display) -> DaemonError {
    DaemonError::Config(why.to_string())
}

impl Asked {
    /// Reads the options; `all`, `last` and `said` find values by the name of the flag.
    pub(crate) fn read<'a>(
        all: &impl Fn(&str) -> &'a [String],
        last: &impl Fn(&str) -> Option<String>,
        said: &impl Fn(&str) -> Option<bool>,
    ) -> Result<Self> {
        let pools = all("default-address-pool").iter().map(|text| pool(text)).collect::<Result<_>>()?;
        let ipv6 = said("ipv6").unwrap_or(false);
        let mut subnets = Vec::new();
        subnets.extend(block(last, ["bip", "fixed-cidr", "default-gateway"], "DefaultGatewayIPv4")?);
        let six = block(last, ["bip6", "fixed-cidr-v6", "default-gateway-v6"], "DefaultGatewayIPv6")?;
        // A subnet of a family that is off waits for it, as dockerd's does.
        subnets.extend(six.filter(|_| ipv6));
        let truth = |name: &str| said(name).unwrap_or(true).to_string();
        let binding = last("ip").unwrap_or_else(|| "0.0.0.0".into());
        let mtu = last("mtu").filter(|mtu| mtu != "0").unwrap_or_else(|| MTU.into());
        let options: BTreeMap<String, String> = [
            ("bridge.default_bridge", "true".to_owned()),
            ("bridge.enable_icc", truth("icc")),
            ("bridge.enable_ip_masquerade", truth("ip-masq")),
            ("bridge.host_binding_ipv4", binding),
            ("driver.mtu", mtu),
        ]
        .into_iter()
        .map(|(name, value)| (format!("com.docker.network.{name}"), value))
        .collect();
        Options::parse(&Driver::Bridge, &options).map_err(refuse)?;
        let default = NetworkSpec {
            name: "bridge".into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6,
            internal: false,
            attachable: false,
            blocks: subnets,
            options,
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..NetworkSpec::default()
        };
        let gateway = |text: &String| {
            let address = text.parse::<IpAddr>();
            address.map_err(|_| refuse(format!("invalid host-gateway-ips: {text:?} is no IP address")))
        };
        let host_gateways: Vec<IpAddr> = all("host-gateway-ip")
            .iter()
            .filter(|text| !text.is_empty())
            .map(gateway)
            .collect::<Result<_>>()?;
        if [true, false]
            .iter()
            .any(|ipv6| host_gateways.iter().filter(|one| one.is_ipv6() == *ipv6).count() > 1)
        {
            return Err(refuse("invalid host-gateway-ips: want one IPv4 address, one IPv6 address, or both"));
        }
        let dns = DnsDefaults {
            servers: all("dns").to_vec(),
            search: all("dns-search").to_vec(),
            options: all("dns-opt").to_vec(),
        };
        if let Some(wrong) = dns.servers.iter().find(|text| text.parse::<IpAddr>().is_err()) {
            return Err(refuse(format!("invalid dns: IP address is not correctly formatted: {wrong}")));
        }
        Ok(Self { pools, default, host_gateways, dns })
    }

    /// Where subnets come from; `id` tells this engine from others.
    pub(crate) fn pools(&self, id: &str) -> Pools {
        let digest = havre_oci::Digest::of_bytes(id.as_bytes());
        let mut machine = [0; 5];
        for (place, pair) in machine.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
            let text = std::str::from_utf8(pair).unwrap_or_default();
            *place = u8::from_str_radix(text, 16).unwrap_or_default();
        }
        Pools::new(self.pools.clone(), machine)
    }
}

/// `base=10.0.0.0/8,size=24` of a flag, `{"base":"10.0.0.0/8","size":24}` of the file.
fn pool(text: &str) -> Result<Pool> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        #[serde(alias = "Base")]
        base: String,
        #[serde(alias = "Size")]
        size: u8,
    }
    let wrong = |why: String| refuse(format!("invalid default-address-pools: {text}: {why}"));
    let entry = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?
    } else {
        let (mut base, mut size) = (None, None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("base", value)) => base = Some(value.to_owned()),
                Some(("size", value)) => {
                    size = Some(value.parse().map_err(|_| wrong(format!("size {value:?} is no number")))?);
                }
                _ => return Err(wrong(format!("unexpected {field:?}: want base=SUBNET,size=BITS"))),
            }
        }
        match (base, size) {
            (Some(base), Some(size)) => Entry { base, size },
            _ => return Err(wrong("want base=SUBNET,size=BITS".into())),
        }
    };
    Pool::new(&entry.base, entry.size).map_err(refuse)
}

/// The subnet that the default network's bridge has an address in, the part of it that containers get, and the router
/// they use instead of the bridge.
fn block(
    last: &impl Fn(&str) -> Option<String>,
    [bip, range, router]: [&str; 3],
    router_name: &str,
) -> Result<Option<BlockSpec>> {
    let ipv6 = bip == "bip6";
    let net = |name: &str| {
        let Some(text) = last(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        match text.parse::<IpNet>() {
            Ok(net) if net.addr().is_ipv6() == ipv6 => Ok(Some(net)),
            _ => Err(refuse(format!(
                "invalid {name}: {text:?}: want an IPv{} subnet",
                if ipv6 { 6 } else { 4 }
            ))),
        }
    };
    let (bridge, part) = (net(bip)?, net(range)?.map(|net| net.trunc()));
    let router_address = last(router).filter(|text| !text.is_empty());
    let Some(subnet) = bridge.map(|net| net.trunc()).or(part) else {
        return match router_address {
            None => Ok(None),
            Some(_) => Err(refuse(format!("invalid {router}: it needs a subnet: set {bip} or {range}"))),
        };
    };
    if let Some(net) = bridge.filter(|net| net.addr() == subnet.addr()) {
        return Err(refuse(format!("invalid {bip}: {net} is a subnet: want the bridge's own address in it")));
    }
    let text = BlockText {
        subnet: subnet.to_string(),
        range: part.map(|net| net.to_string()).unwrap_or_default(),
        gateway: bridge.map(|net| net.addr().to_string()).unwrap_or_default(),
        auxiliary: router_address.map(|address| (router_name.to_owned(), address)).into_iter().collect(),
    };
    let block = blocks(&[text]).map_err(|error| refuse(format!("{bip}, {range}, {router}: {error}")))?.pop();
    let bridge_address: Option<IpAddr> = bridge.map(|net| net.addr());
    if let Some(block) = &block
        && block.auxiliary.values().any(|address| Some(*address) == bridge_address)
    {
        return Err(refuse(format!(
            "invalid {router}: it is the bridge's own address, which is the default"
        )));
    }
    Ok(block)
}

/// `bridge=com.docker.network.driver.mtu=1400` of flags, `bridge={...}` of the file.
pub(crate) fn driver_options(texts: &[String]) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for text in texts {
        let wrong = |why: &str| refuse(format!("invalid default-network-opts: {text}: {why}"));
        let (driver, rest) = text.split_once('=').ok_or_else(|| wrong("want DRIVER=OPTION=VALUE"))?;
        let options = found.entry(driver.to_owned()).or_default();
        if rest.starts_with('{') {
            options.extend(
                serde_json::from_str::<BTreeMap<String, String>>(rest)
                    .map_err(|error| wrong(&error.to_string()))?,
            );
        } else {
            let (name, value) = rest.split_once('=').ok_or_else(|| wrong("want DRIVER=OPTION=VALUE"))?;
            options.insert(name.to_owned(), value.to_owned());
        }
    }
    for (driver, options) in &found {
        let driver = Driver::parse(driver)
            .map_err(|error| refuse(format!("invalid default-network-opts: {error}")))?;
        Options::parse(&driver, options)
            .map_err(|error| refuse(format!("invalid default-network-opts: {error}")))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Asked> {
        let values: BTreeMap<String, Vec<String>> =
            pairs.iter().fold(BTreeMap::new(), |mut map, (name, value)| {
                map.entry((*name).to_owned()).or_insert_with(Vec::new).push((*value).to_owned());
                map
            });
        let all = |name: &str| values.get(name).map_or(&[][..], Vec::as_slice);
        let last = |name: &str| all(name).last().cloned();
        Asked::read(&all, &last, &|name| last(name).map(|text| text == "true"))
    }

    #[test]
    fn the_default_network_is_what_the_configuration_says() {
        let asked = read(&[]).unwrap();
        assert_eq!(asked.default.options["com.docker.network.driver.mtu"], "1500");
        assert_eq!(asked.default.options["com.docker.network.bridge.host_binding_ipv4"], "0.0.0.0");
        assert!(asked.default.blocks.is_empty() && !asked.default.ipv6);
        let asked = read(&[
            ("bip", "10.9.0.5/24"),
            ("fixed-cidr", "10.9.0.128/25"),
            ("default-gateway", "10.9.0.9"),
            ("icc", "false"),
            ("ipv6", "true"),
            ("fixed-cidr-v6", "fd09::/64"),
            ("mtu", "1400"),
        ])
        .unwrap();
        let [four, six] = asked.default.blocks.as_slice() else { panic!("{asked:?}") };
        assert_eq!(four.gateway.unwrap().to_string(), "10.9.0.5");
        assert_eq!(
            (four.subnet.unwrap().to_string(), four.range.unwrap().to_string()),
            ("10.9.0.0/24".into(), "10.9.0.128/25".into())
        );
        assert_eq!(four.auxiliary["DefaultGatewayIPv4"].to_string(), "10.9.0.9");
        assert_eq!(six.subnet.unwrap().to_string(), "fd09::/64");
        assert_eq!(asked.default.options["com.docker.network.bridge.enable_icc"], "false");
        for (name, value, why) in [
            ("bip", "x", "invalid bip"),
            ("bip", "10.0.0.0/24", "want the bridge's own address"),
            ("bip", "fd00::1/64", "want an IPv4 subnet"),
            ("default-gateway", "10.0.0.1", "it needs a subnet"),
            ("mtu", "12", "driver.mtu"),
            ("ip", "x", "host_binding_ipv4"),
            ("dns", "x", "IP address is not correctly formatted: x"),
            ("host-gateway-ip", "x", "invalid host-gateway-ips"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(read(&[("bip", "10.0.0.1/24"), ("fixed-cidr", "10.1.0.0/24")]).is_err());
    }

    #[test]
    fn pools_and_options_come_from_flags_and_the_file() {
        let asked = read(&[
            ("default-address-pool", "base=10.9.0.0/16,size=24"),
            ("default-address-pool", r#"{"base":"10.8.0.0/16","size":24}"#),
        ])
        .unwrap();
        assert_eq!(asked.pools.len(), 2);
        assert_eq!(asked.pools("x"), asked.pools("x"));
        assert_ne!(asked.pools("x"), asked.pools("y"));
        for bad in
            ["base=10.0.0.0/8", "size=24", "base=x,size=24", "base=10.0.0.0/8,size=4", "a", r#"{"base":1}"#]
        {
            let error = read(&[("default-address-pool", bad)]).unwrap_err().to_string();
            assert!(error.contains("default-address-pools"), "{error}");
        }
        let texts =
            ["bridge=com.docker.network.driver.mtu=1400", r#"macvlan={"parent":"eth0"}"#].map(str::to_owned);
        let options = driver_options(&texts).unwrap();
        assert_eq!(options["bridge"]["com.docker.network.driver.mtu"], "1400");
        assert_eq!(options["macvlan"]["parent"], "eth0");
        // A name that is none of ours is a plugin's, whose options are its own.
        assert_eq!(driver_options(&["weave=a=b".to_owned()]).unwrap()["weave"]["a"], "b");
        for bad in ["bridge", "bridge=x", "bridge=com.docker.network.driver.mtu=x"] {
            assert!(driver_options(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
