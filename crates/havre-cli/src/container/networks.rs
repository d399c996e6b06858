//! `--network` and what goes with it: aliases, links and addresses.

use std::collections::BTreeMap;

use havre_api::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

use super::mounts::fields;
use crate::spec::Args;

/// One `--network`.
struct Wanted {
    name: String,
    settings: EndpointSettings,
}

/// Whether a network is somebody's own.
fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// Six, eight or twenty bytes in hexadecimal, with colons or dashes between.
fn is_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    matches!(bytes.len(), 6 | 8 | 20)
        && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What the flags describe: the mode, which is the first network's name, and the endpoints.
pub(super) fn networking(args: &Args) -> Result<(String, NetworkingConfig), String> {
    let mut wanted = Vec::new();
    for text in [args.list("network"), args.list("net")].concat() {
        let one = one(&text)
            .map_err(|reason| format!("invalid argument \"{text}\" for \"--network\" flag: {reason}"))?;
        wanted.push(one);
    }
    // Without a network, what belongs to one belongs to the default one, which is only named if there is anything.
    let named = !wanted.is_empty();
    if !named {
        wanted.push(Wanted { name: "default".into(), settings: EndpointSettings::default() });
    }
    let mode = wanted.first().map(|one| one.name.clone()).unwrap_or_default();
    if let Some(first) = wanted.first_mut() {
        apply(args, first)?;
    }
    let count = wanted.len();
    let own = wanted.iter().filter(|one| is_user_defined(&one.name)).count();
    let mut endpoints = BTreeMap::new();
    for one in wanted {
        check(&one)?;
        let Wanted { name, settings } = one;
        if endpoints.contains_key(&name) {
            return Err(format!("network \"{name}\" is specified multiple times"));
        }
        if named || settings != EndpointSettings::default() {
            endpoints.insert(name, Some(settings));
        }
    }
    if own > 0 && own < count {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes".into(),
        );
    }
    Ok((mode, NetworkingConfig { endpoints_config: Some(endpoints) }))
}

/// The flags beside `--network` belong to the first network.
fn apply(args: &Args, first: &mut Wanted) -> Result<(), String> {
    let aliases = [args.list("network-alias"), args.list("net-alias")].concat();
    let (links, link_local) = (args.list("link"), args.list("link-local-ip"));
    let settings = &mut first.settings;
    let own = settings.ipam_config.clone().unwrap_or_default();
    let twice = [
        (settings.aliases.is_some() && !aliases.is_empty(), "--network-alias and per-network alias"),
        (!own.ipv4_address.is_empty() && args.given("ip"), "--ip and per-network IPv4 address"),
        (!own.ipv6_address.is_empty() && args.given("ip6"), "--ip6 and per-network IPv6 address"),
        (
            !settings.mac_address.is_empty() && args.given("mac-address"),
            "--mac-address and per-network MAC address",
        ),
        (
            own.link_local_ips.is_some() && !link_local.is_empty(),
            "--link-local-ip and per-network link-local IP addresses",
        ),
    ];
    if let Some((_, what)) = twice.iter().find(|(twice, _)| *twice) {
        return Err(format!("conflicting options: cannot specify both {what}"));
    }
    if !aliases.is_empty() {
        settings.aliases = Some(aliases);
    }
    // In the default network a link is the container's.
    if is_user_defined(&first.name) && !links.is_empty() {
        settings.links = Some(links.to_vec());
    }
    let mut ipam = own;
    if args.given("ip") {
        ipam.ipv4_address = args.text("ip").into();
    }
    if args.given("ip6") {
        ipam.ipv6_address = args.text("ip6").into();
    }
    if !link_local.is_empty() {
        ipam.link_local_ips = Some(link_local.to_vec());
    }
    if ipam != EndpointIpamConfig::default() {
        settings.ipam_config = Some(ipam);
    }
    if args.given("mac-address") {
        settings.mac_address = args.text("mac-address").into();
    }
    Ok(())
}

fn check(one: &Wanted) -> Result<(), String> {
    if one.name.trim().is_empty() {
        return Err("no name set for network".into());
    }
    if !is_user_defined(&one.name) && one.settings.aliases.is_some() {
        return Err("network-scoped aliases are only supported for user-defined networks".into());
    }
    let mac = one.settings.mac_address.trim();
    if !mac.is_empty() && !is_mac(mac) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    Ok(())
}

/// Whether a text is a list of `key=value`; everything else is a name.
fn is_long(text: &str) -> bool {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices('=')
        .any(|(at, _)| word(text[..at].chars().next_back()) && word(text[at + 1..].chars().next()))
}

/// `name`, or `name=net,alias=a,ip=1.2.3.4,driver-opt=k=v`, whose letters Docker's client makes small.
fn one(text: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted { name: String::new(), settings: EndpointSettings::default() };
    if !is_long(text) {
        text.clone_into(&mut wanted.name);
        return Ok(wanted);
    }
    let settings = &mut wanted.settings;
    for field in fields(text)? {
        let field = field.to_lowercase();
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "name" => value.clone_into(&mut wanted.name),
            "alias" => settings.aliases.get_or_insert_default().push(value.into()),
            "ip" => settings.ipam_config.get_or_insert_default().ipv4_address = value.into(),
            "ip6" => settings.ipam_config.get_or_insert_default().ipv6_address = value.into(),
            "link-local-ip" => {
                let ipam = settings.ipam_config.get_or_insert_default();
                ipam.link_local_ips.get_or_insert_default().push(value.into());
            }
            "mac-address" => settings.mac_address = value.into(),
            "gw-priority" => {
                settings.gw_priority = value.parse().map_err(|error| {
                    format!("invalid gw-priority ({value}): {}", crate::spec::range(&error))
                })?;
            }
            "driver-opt" => {
                let (name, value) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                settings.driver_opts.get_or_insert_default().insert(name.trim().into(), value.trim().into());
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if wanted.name.is_empty() {
        return Err("network name/id is not specified".into());
    }
    Ok(wanted)
}

/// Checks `container` or `container:alias`.
pub(super) fn link(text: &str) -> Result<(), String> {
    match text.matches(':').count() {
        _ if text.is_empty() => Err("empty string specified for links".into()),
        0 | 1 => Ok(()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<(String, BTreeMap<String, Option<EndpointSettings>>), String> {
        let words = line.split_whitespace().chain(["image"]).map(str::to_owned).collect();
        let args = crate::spec::parse(&crate::commands::RUN, "havre", "run", words);
        let (mode, networking) = networking(&args.map_err(|failure| failure.message)?.unwrap())?;
        Ok((mode, networking.endpoints_config.unwrap_or_default()))
    }

    #[test]
    fn networks_are_read_with_the_flags_beside_them() {
        let line = "--network n --network name=m,alias=a,alias=b,ip=10.0.0.2,gw-priority=-5,driver-opt=K=v --ip 10.0.0.1 --network-alias x --mac-address 02:42:ac:11:00:02 --link a:b";
        let (mode, endpoints) = asked(line).unwrap();
        assert_eq!(mode, "n");
        let (n, m) = (endpoints["n"].as_ref().unwrap(), endpoints["m"].as_ref().unwrap());
        assert_eq!(
            (n.ipam_config.as_ref().unwrap().ipv4_address.as_str(), n.aliases.as_ref().unwrap().len()),
            ("10.0.0.1", 1)
        );
        assert_eq!(
            (n.links.as_ref().unwrap()[0].as_str(), n.mac_address.as_str()),
            ("a:b", "02:42:ac:11:00:02")
        );
        assert_eq!((m.gw_priority, m.aliases.as_ref().unwrap().len()), (-5, 2));
        assert_eq!(m.driver_opts.as_ref().unwrap()["k"], "v");
        let (mode, endpoints) = asked("").unwrap();
        assert!(mode == "default" && endpoints.is_empty());
        assert_eq!(asked("--ip 10.0.0.1").unwrap().1.keys().collect::<Vec<_>>(), ["default"]);
        assert_eq!(asked("--network name=").unwrap().0, "name=");
    }

    #[test]
    fn what_contradicts_itself_is_told_in_dockers_words() {
        for (line, why) in [
            ("--network n --network n", "network \"n\" is specified multiple times"),
            (
                "--network host --network n",
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ),
            ("--network-alias x", "network-scoped aliases are only supported for user-defined networks"),
            (
                "--network name=n,alias=x --network-alias y",
                "conflicting options: cannot specify both --network-alias and per-network alias",
            ),
            (
                "--network name=n,ip=10.0.0.1 --ip 10.0.0.2",
                "conflicting options: cannot specify both --ip and per-network IPv4 address",
            ),
            ("--network name=n,mac-address=x", "x is not a valid mac address"),
            (
                "--network name=n,alias",
                "invalid argument \"name=n,alias\" for \"--network\" flag: invalid field alias",
            ),
            (
                "--network name=n,gw-priority=x",
                "invalid argument \"name=n,gw-priority=x\" for \"--network\" flag: invalid gw-priority (x): invalid syntax",
            ),
            (
                "--network alias=x",
                "invalid argument \"alias=x\" for \"--network\" flag: network name/id is not specified",
            ),
            ("--network n=m", "invalid argument \"n=m\" for \"--network\" flag: invalid field key n"),
        ] {
            assert_eq!(asked(line).unwrap_err(), why, "{line}");
        }
        assert!(link("a:b").is_ok());
        assert_eq!(link("a:b:c").unwrap_err(), "bad format for links: a:b:c");
    }
}
