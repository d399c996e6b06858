//! `network create`: subnets, ranges, gateways and reserved addresses are matched with each other here, as Docker's
//! client does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use havre_api::network::{ConfigReference, Ipam, IpamConfig, NetworkCreateRequest};

use crate::App;
use crate::failure::Failure;
use crate::output;
use crate::spec::{Args, Arity, Command, list, strings, switch, text, words};

pub(in crate::commands) const CREATE: Command = Command {
    names: &["network create"],
    arguments: "NETWORK",
    about: "Create a network",
    flags: &[&[
        switch("attachable", "Let containers join a network of services by hand"),
        words("aux-address", "map", "Addresses that are somebody else's (name=address) (default map[])"),
        text("config-from", "The network whose configuration to copy"),
        switch("config-only", "Make a network that only holds a configuration"),
        text("driver", "Driver of the network (default \"bridge\")").short('d'),
        strings("gateway", "IPv4 or IPv6 gateway of a subnet"),
        switch("ingress", "Make the network of a swarm's published ports"),
        switch("internal", "Nothing leads out of the network"),
        strings("ip-range", "Choose the containers' addresses from this part of a subnet"),
        text("ipam-driver", "Driver of the addresses (default \"default\")"),
        words("ipam-opt", "map", "Options of that driver (default map[])"),
        switch("ipv4", "Give IPv4 addresses (default true)"),
        switch("ipv6", "Give IPv6 addresses"),
        list("label", "Set labels (name=value)"),
        words("opt", "map", "Options of the network's driver (default map[])").short('o'),
        text("scope", "Scope of the network"),
        strings("subnet", "Subnet (10.0.0.0/24)"),
    ]],
    arity: Arity::Exactly(1),
    trailing: false,
    examples: &[
        "network create front",
        "network create --subnet 10.9.0.0/24 --gateway 10.9.0.1 --ipv6 back",
        "network create -o com.docker.network.driver.mtu=1400 small",
    ],
    run: create,
};

fn create(app: &App, args: &Args) -> Result<u8, Failure> {
    let request = request(args)?;
    let made = app.block(async { Ok::<_, Failure>(app.client().await?.create_network(&request).await?) })?;
    if !made.warning.is_empty() {
        output::complain(&format!("WARNING: {}", made.warning));
    }
    output::line(&made.id)?;
    Ok(0)
}

fn map(list: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    list.iter().map(pair).collect()
}

fn request(args: &Args) -> Result<NetworkCreateRequest, Failure> {
    let labels = args.list("label");
    let blocks = Blocks {
        subnets: args.list("subnet").to_vec(),
        ranges: args.list("ip-range").to_vec(),
        gateways: args.list("gateway").to_vec(),
        auxiliary: map(args.list("aux-address")),
    };
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let source = args.text("config-from");
    Ok(NetworkCreateRequest {
        name: args.rest.first().cloned().unwrap_or_default(),
        driver: or(args.text("driver"), "bridge"),
        scope: args.text("scope").into(),
        enable_ipv4: args.given("ipv4").then(|| args.on("ipv4")),
        enable_ipv6: args.given("ipv6").then(|| args.on("ipv6")),
        ipam: Some(Ipam {
            driver: or(args.text("ipam-driver"), "default"),
            options: Some(map(args.list("ipam-opt"))),
            config: Some(blocks.matched().map_err(Failure::plain)?),
        }),
        internal: args.on("internal"),
        attachable: args.on("attachable"),
        ingress: args.on("ingress"),
        config_only: args.on("config-only"),
        config_from: (!source.is_empty()).then(|| ConfigReference { network: source.into() }),
        options: Some(map(args.list("opt"))),
        labels: Some(map(labels)),
    })
}

/// What was given, each in its own flags.
struct Blocks {
    subnets: Vec<String>,
    ranges: Vec<String>,
    gateways: Vec<String>,
    auxiliary: BTreeMap<String, String>,
}

impl Blocks {
    /// Puts everything to the subnet that it is in.
    fn matched(self) -> Result<Vec<IpamConfig>, String> {
        let most = self.ranges.len().max(self.gateways.len());
        if self.subnets.len() < most {
            return Err("every ip-range or gateway must have a corresponding subnet".into());
        }
        for (at, one) in self.subnets.iter().enumerate() {
            for other in self.subnets.iter().take(at) {
                if holds(one, other)? || holds(other, one)? {
                    return Err("multiple overlapping subnet configuration is not supported".into());
                }
            }
        }
        let mut blocks: Vec<IpamConfig> = self
            .subnets
            .iter()
            .map(|subnet| IpamConfig { subnet: subnet.clone(), ..IpamConfig::default() })
            .collect();
        for range in self.ranges {
            cidr(&range)?;
            let block =
                home(&mut blocks, &range)?.ok_or_else(|| format!("no matching subnet for range {range}"))?;
            if !block.ip_range.is_empty() {
                let (other, subnet) = (&block.ip_range, &block.subnet);
                return Err(format!(
                    "cannot configure multiple ranges ({range}, {other}) on the same subnet ({subnet})"
                ));
            }
            block.ip_range = range;
        }
        for gateway in self.gateways {
            let block = home(&mut blocks, &gateway)?
                .ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
            if !block.gateway.is_empty() {
                let (other, subnet) = (&block.gateway, &block.subnet);
                return Err(format!(
                    "cannot configure multiple gateways ({gateway}, {other}) for the same subnet ({subnet})"
                ));
            }
            block.gateway = gateway;
        }
        for (name, address) in self.auxiliary {
            let block = home(&mut blocks, &address)?
                .ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
            block.auxiliary_addresses.get_or_insert_default().insert(name, address);
        }
        Ok(blocks)
    }
}

/// The subnet that a text is in.
fn home<'b>(blocks: &'b mut [IpamConfig], text: &str) -> Result<Option<&'b mut IpamConfig>, String> {
    for block in blocks {
        if holds(&block.subnet, text)? {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

/// An address and how many of its bits are the network's.
fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("invalid CIDR address: {text}");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv6() { 128 } else { 32 };
    let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?;
    Ok((address, bits))
}

/// Whether an address, or the first one of a subnet, is in a subnet. What is no address is in none.
fn holds(subnet: &str, text: &str) -> Result<bool, String> {
    let (net, bits) = cidr(subnet).map_err(|why| format!("invalid subnet: {why}"))?;
    let address = if text.contains('/') {
        cidr(text)?.0
    } else {
        match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => return Ok(false),
        }
    };
    let shifted = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()).checked_shr(32 - u32::from(bits)).unwrap_or(0),
        IpAddr::V6(v6) => v6.to_bits().checked_shr(128 - u32::from(bits)).unwrap_or(0),
    };
    Ok(net.is_ipv6() == address.is_ipv6() && shifted(net) == shifted(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<NetworkCreateRequest, String> {
        let words = line.split_whitespace().chain(["n"]).map(str::to_owned).collect();
        let args =
            crate::spec::parse(&CREATE, "havre", "network create", words).map_err(|error| error.message)?;
        request(&args.unwrap()).map_err(|failure| failure.message)
    }

    #[test]
    fn everything_goes_to_the_subnet_it_is_in() {
        let line = "--subnet 10.0.0.0/24,fd00::/64 --gateway fd00::1 --gateway 10.0.0.1 --ip-range 10.0.0.128/25 --aux-address a=10.0.0.5 --ipv6 --ipv4=false -o x=y --label l";
        let request = asked(line).unwrap();
        assert_eq!((request.driver.as_str(), request.name.as_str()), ("bridge", "n"));
        assert_eq!((request.enable_ipv4, request.enable_ipv6), (Some(false), Some(true)));
        let blocks = request.ipam.unwrap().config.unwrap();
        assert_eq!((blocks[0].gateway.as_str(), blocks[1].gateway.as_str()), ("10.0.0.1", "fd00::1"));
        assert_eq!(blocks[0].ip_range, "10.0.0.128/25");
        assert_eq!(blocks[0].auxiliary_addresses.as_ref().unwrap()["a"], "10.0.0.5");
        assert_eq!(
            (request.options.unwrap()["x"].as_str(), request.labels.unwrap()["l"].as_str()),
            ("y", "")
        );
        assert_eq!(asked("").unwrap().enable_ipv4, None);
    }

    #[test]
    fn what_does_not_match_is_told_in_dockers_words() {
        for (line, why) in [
            ("--gateway 10.0.0.1", "every ip-range or gateway must have a corresponding subnet"),
            (
                "--subnet 10.0.0.0/24 --subnet 10.0.0.0/25",
                "multiple overlapping subnet configuration is not supported",
            ),
            ("--subnet 10.0.0.0/24 --gateway 10.1.0.1", "no matching subnet for gateway 10.1.0.1"),
            ("--subnet 10.0.0.0/24 --ip-range 10.1.0.0/25", "no matching subnet for range 10.1.0.0/25"),
            ("--subnet 10.0.0.0/24 --ip-range x", "invalid CIDR address: x"),
            ("--aux-address a", "no matching subnet for aux-address "),
            ("--subnet x --gateway 10.0.0.1", "invalid subnet: invalid CIDR address: x"),
            (
                "--subnet 10.0.0.0/24 --subnet 10.1.0.0/24 --gateway 10.0.0.1 --gateway 10.0.0.2",
                "cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/24)",
            ),
        ] {
            assert_eq!(asked(line).unwrap_err(), why, "{line}");
        }
    }
}
