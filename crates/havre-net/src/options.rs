//! Options of drivers, as `docker network create -o` has them.
//!
//! Invariant: an option of Docker's that is not known is refused; one of somebody else's is kept and has no effect,
//! which its author is told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::drivers::{ipvlan, macvlan};
use crate::spec::Driver;
use crate::{NetError, Result};

/// Of a network or of a container's place in one: whether the container may say only what is true of it.
pub const GUARD: &str = "havre.guard";
/// An interface's name has at most 15 bytes (`IFNAMSIZ`).
const LONGEST_INTERFACE: usize = 15;

/// How containers of a network reach the world and are reached from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayMode {
    /// Their addresses are translated; only published ports are open.
    #[default]
    Nat,
    /// As `Nat`, and what routes to them reaches every port.
    NatUnprotected,
    /// Nothing is translated; only published ports are open.
    Routed,
    /// The bridge itself has no address. Only for internal networks.
    Isolated,
}

impl GatewayMode {
    fn parse(key: &str, value: &str) -> Result<Self> {
        match value {
            "nat" => Ok(Self::Nat),
            "nat-unprotected" => Ok(Self::NatUnprotected),
            "routed" => Ok(Self::Routed),
            "isolated" => Ok(Self::Isolated),
            other => Err(NetError::Invalid(format!(
                "unknown gateway mode {other} ({key}): want nat, nat-unprotected, routed or isolated"
            ))),
        }
    }
}

/// Options, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The bridge's name; chosen when empty.
    pub bridge: String,
    /// Whether what leaves gets the host's address.
    pub masquerade: bool,
    /// Whether containers of the network may talk to each other.
    pub icc: bool,
    /// Where ports are published that name no address.
    pub host_binding: Option<IpAddr>,
    /// The largest packet; 0 is the kernel's choice.
    pub mtu: u32,
    /// How interfaces in containers are named: `eth` with a number.
    pub prefix: String,
    /// The bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// For IPv4.
    pub mode4: GatewayMode,
    /// For IPv6.
    pub mode6: GatewayMode,
    /// What leaves gets this IPv4 address instead of the outgoing interface's.
    pub host_ipv4: Option<IpAddr>,
    /// The same for IPv6.
    pub host_ipv6: Option<IpAddr>,
    /// Interfaces of the host from which containers are reached without published ports.
    pub trusted: Vec<String>,
    /// The host's interface of a macvlan or ipvlan network.
    pub parent: String,
    /// Mode of a macvlan or ipvlan network; the driver's own when empty.
    pub mode: String,
    /// Flag of an ipvlan network; the driver's own when empty.
    pub flag: String,
    /// Whether containers may say on their bridge only what is true of them.
    pub guard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bridge: String::new(),
            masquerade: true,
            icc: true,
            host_binding: None,
            mtu: 0,
            prefix: "eth".into(),
            inhibit_ipv4: false,
            mode4: GatewayMode::default(),
            mode6: GatewayMode::default(),
            host_ipv4: None,
            host_ipv6: None,
            trusted: Vec::new(),
            parent: String::new(),
            mode: String::new(),
            guard: true,
            flag: String::new(),
        }
    }
}

fn invalid(key: &str, value: &str, why: &str) -> NetError {
    NetError::Invalid(format!("invalid value {value:?} for option {key}: {why}"))
}

/// Values of Go's `strconv.ParseBool`.
fn flag(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(key, value, "want true or false")),
    }
}

/// `on` or `off`, or what a flag can be.
pub fn guard(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        other => flag(key, other),
    }
}

fn address(key: &str, value: &str, ipv6: bool) -> Result<Option<IpAddr>> {
    match value.parse::<IpAddr>() {
        _ if value.is_empty() => Ok(None),
        Ok(address) if address.is_ipv6() == ipv6 => Ok(Some(address)),
        _ => Err(invalid(key, value, if ipv6 { "want an IPv6 address" } else { "want an IPv4 address" })),
    }
}

/// Checks the name of an interface, see `dev_valid_name` of the kernel.
pub fn interface(key: &str, value: &str) -> Result<String> {
    let bad = value.is_empty()
        || value.len() > LONGEST_INTERFACE
        || matches!(value, "." | "..")
        || value
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"/:%".contains(&byte));
    if bad {
        return Err(invalid(key, value, "want a name of an interface, at most 15 characters"));
    }
    Ok(value.to_owned())
}

impl Options {
    /// Reads them; also which have no effect.
    pub fn parse(driver: &Driver, given: &BTreeMap<String, String>) -> Result<(Self, Vec<String>)> {
        let mut options = Self::default();
        let mut without_effect = Vec::new();
        for (key, value) in given {
            let known = match driver {
                Driver::Bridge => options.of_bridge(key, value)?,
                Driver::Macvlan => options.of_vlan(key, value, driver, &macvlan::MODES, &[])?,
                Driver::Ipvlan => options.of_vlan(key, value, driver, &ipvlan::MODES, &ipvlan::FLAGS)?,
                // They are the plugin's.
                Driver::Remote(_) => true,
                Driver::Host | Driver::Null => false,
            };
            if !known && key.starts_with("com.docker.network.") {
                return Err(NetError::Unsupported(format!(
                    "option {key} is not known to the {} driver",
                    driver.name()
                )));
            }
            if !known {
                without_effect.push(format!(
                    "option {key} is not known to the {} driver and has no effect",
                    driver.name()
                ));
            }
        }
        Ok((options, without_effect))
    }

    fn of_bridge(&mut self, key: &str, value: &str) -> Result<bool> {
        if key == GUARD {
            self.guard = guard(key, value)?;
            return Ok(true);
        }
        let Some(name) = key.strip_prefix("com.docker.network.") else { return Ok(false) };
        match name {
            "bridge.name" => self.bridge = interface(key, value)?,
            "bridge.enable_ip_masquerade" => self.masquerade = flag(key, value)?,
            "bridge.enable_icc" => self.icc = flag(key, value)?,
            "bridge.inhibit_ipv4" => self.inhibit_ipv4 = flag(key, value)?,
            "bridge.host_binding_ipv4" => self.host_binding = address(key, value, false)?,
            "bridge.gateway_mode_ipv4" => self.mode4 = GatewayMode::parse(key, value)?,
            "bridge.gateway_mode_ipv6" => self.mode6 = GatewayMode::parse(key, value)?,
            "bridge.trusted_host_interfaces" => {
                let names = value.split(':').filter(|name| !name.is_empty());
                self.trusted = names.map(|name| interface(key, name)).collect::<Result<_>>()?;
            }
            "host_ipv4" => self.host_ipv4 = address(key, value, false)?,
            "host_ipv6" => self.host_ipv6 = address(key, value, true)?,
            "container_iface_prefix" => {
                // Room for a number.
                self.prefix = interface(key, value)?;
                if value.len() > LONGEST_INTERFACE - 3 {
                    return Err(invalid(key, value, "want at most 12 characters"));
                }
            }
            "driver.mtu" => {
                let mtu = value.parse::<u32>().ok().filter(|mtu| *mtu == 0 || (68..=65535).contains(mtu));
                self.mtu = mtu.ok_or_else(|| invalid(key, value, "want a number from 68 to 65535"))?;
            }
            // What dockerd writes into the default network; it says nothing more than its name.
            "bridge.default_bridge" => drop(flag(key, value)?),
            // Read where the request is: they decide its families.
            "enable_ipv4" | "enable_ipv6" => drop(flag(key, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn of_vlan(
        &mut self,
        key: &str,
        value: &str,
        driver: &Driver,
        modes: &[&str],
        flags: &[&str],
    ) -> Result<bool> {
        let driver = driver.name();
        let word = |what: &str, words: &[&str]| match words.first() {
            _ if words.contains(&value) => Ok(value.to_owned()),
            Some(default) => Err(NetError::Invalid(format!(
                "requested {driver} {what} '{value}' is not valid, '{default}' {what} is the {driver} driver default: want {}",
                words.join(", ")
            ))),
            None => Ok(String::new()),
        };
        match key {
            "parent" if value.is_empty() => {}
            "parent" if value == "lo" => {
                return Err(NetError::Invalid(format!(
                    "loopback interface is not a valid {driver} parent link"
                )));
            }
            "parent" => self.parent = interface(key, value)?,
            "com.docker.network.driver.mtu"
            | "com.docker.network.container_iface_prefix"
            | "com.docker.network.enable_ipv4"
            | "com.docker.network.enable_ipv6" => return self.of_bridge(key, value),
            _ if key.strip_prefix(driver) == Some("_mode") => self.mode = word("mode", modes)?,
            _ if key.strip_prefix(driver) == Some("_flag") && !flags.is_empty() => {
                self.flag = word("flag", flags)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &Driver, pairs: &[(&str, &str)]) -> Result<(Options, Vec<String>)> {
        let given = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options::parse(driver, &given)
    }

    #[test]
    fn options_of_bridges_are_read_or_refused() {
        let (options, rest) = parse(
            &Driver::Bridge,
            &[
                ("com.docker.network.bridge.name", "br-mine"),
                ("com.docker.network.bridge.enable_icc", "false"),
                ("com.docker.network.driver.mtu", "1400"),
                ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
                ("com.docker.network.bridge.gateway_mode_ipv4", "routed"),
                ("com.docker.network.bridge.trusted_host_interfaces", "eth0:eth1"),
                ("somebody", "else"),
            ],
        )
        .unwrap();
        assert_eq!((options.bridge.as_str(), options.icc, options.mtu), ("br-mine", false, 1400));
        assert_eq!(
            (options.mode4, options.trusted.len(), options.masquerade),
            (GatewayMode::Routed, 2, true)
        );
        assert_eq!(rest, ["option somebody is not known to the bridge driver and has no effect"]);
        for (key, value) in [
            ("com.docker.network.bridge.name", "a/b"),
            ("com.docker.network.bridge.name", "sixteen-letters-"),
            ("com.docker.network.bridge.name", ".."),
            ("com.docker.network.bridge.enable_icc", "yes"),
            ("com.docker.network.driver.mtu", "67"),
            ("com.docker.network.driver.mtu", "-1"),
            ("com.docker.network.bridge.host_binding_ipv4", "::1"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "bridged"),
            ("com.docker.network.container_iface_prefix", "thirteen-long"),
        ] {
            let error = parse(&Driver::Bridge, &[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
        let error = parse(&Driver::Bridge, &[("com.docker.network.windowsshim.dnssuffix", "x")]).unwrap_err();
        assert!(matches!(error, NetError::Unsupported(_)), "{error}");
    }

    #[test]
    fn options_of_vlans_are_their_own() {
        let (options, _) =
            parse(&Driver::Macvlan, &[("parent", "eth0.10"), ("macvlan_mode", "private")]).unwrap();
        assert_eq!((options.parent.as_str(), options.mode.as_str()), ("eth0.10", "private"));
        let error = |driver, key, value| parse(driver, &[(key, value)]).unwrap_err().to_string();
        let said = error(&Driver::Macvlan, "macvlan_mode", "l2");
        let docker = "requested macvlan mode 'l2' is not valid, 'bridge' mode is the macvlan driver default";
        assert!(said.starts_with(docker) && said.contains("passthru"), "{said}");
        let said = error(&Driver::Ipvlan, "ipvlan_flag", "l2");
        assert!(said.starts_with("requested ipvlan flag 'l2' is not valid, 'bridge'"), "{said}");
        let said = error(&Driver::Ipvlan, "parent", "lo");
        assert_eq!(said, "loopback interface is not a valid ipvlan parent link");
        let (options, _) = parse(&Driver::Ipvlan, &[("ipvlan_mode", "l3"), ("ipvlan_flag", "vepa")]).unwrap();
        assert_eq!((options.mode.as_str(), options.flag.as_str()), ("l3", "vepa"));
        assert_eq!(parse(&Driver::Macvlan, &[("macvlan_flag", "x"), ("parent", "")]).unwrap().1.len(), 1);
        let (_, rest) = parse(&Driver::Ipvlan, &[("macvlan_mode", "bridge")]).unwrap();
        assert_eq!(rest.len(), 1);
    }
}
