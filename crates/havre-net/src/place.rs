//! Options of a container's place in a network.
//!
//! Invariant: a setting names the interface by a word of its own, so that it can only be one of that interface.

use std::collections::BTreeMap;

use crate::{NetError, Result};

const PREFIX: &str = "com.docker.network.";
const NAME: &str = "com.docker.network.endpoint.ifname";
const SETTINGS: &str = "com.docker.network.endpoint.sysctls";
/// Stands for the interface in settings.
const INTERFACE: &str = "IFNAME";

/// What is asked of the interface of a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaceOptions {
    /// Its name in the container.
    pub name: Option<String>,
    /// Kernel settings: the parts of their names, and their values.
    settings: Vec<(Vec<String>, String)>,
    /// Options that are nobody's here.
    pub unknown: Vec<String>,
}

fn wrong(why: String) -> NetError {
    NetError::Invalid(why)
}

impl PlaceOptions {
    /// Reads them. Unknown ones that bear Docker's name are refused, others are told.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut found = Self::default();
        for (key, value) in options {
            match key.as_str() {
                NAME => found.name = Some(interface(value)?),
                SETTINGS => {
                    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
                    found.settings = texts.map(setting).collect::<Result<_>>()?;
                }
                other if other.starts_with(PREFIX) => {
                    return Err(wrong(format!(
                        "unknown endpoint option {other}: known are {NAME}, {SETTINGS}"
                    )));
                }
                other => found.unknown.push(other.to_owned()),
            }
        }
        Ok(found)
    }

    /// The files of the settings of an interface of this name, and what is written to them.
    pub fn files(&self, name: &str) -> impl Iterator<Item = (String, &str)> {
        self.settings.iter().map(move |(parts, value)| {
            let parts = parts.iter().map(|part| if is_interface(part) { name } else { part });
            (format!("/proc/sys/{}", parts.collect::<Vec<_>>().join("/")), value.as_str())
        })
    }
}

/// A name that the kernel takes for a link, and nobody has.
fn interface(text: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    if text.is_empty()
        || text.len() > 15
        || !text.bytes().all(plain)
        || matches!(text, "." | ".." | "lo" | "all" | "default")
    {
        return Err(wrong(format!("invalid {NAME}: {text:?}: want up to 15 letters and digits, as eth5")));
    }
    Ok(text.to_owned())
}

/// Docker's client sends all options in small letters.
fn is_interface(part: &str) -> bool {
    part.eq_ignore_ascii_case(INTERFACE)
}

/// `net.ipv4.conf.IFNAME.log_martians=1`
fn setting(text: &str) -> Result<(Vec<String>, String)> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| wrong(format!("invalid {SETTINGS}: {text:?}: want net.X.Y.{INTERFACE}.Z=VALUE")))?;
    let parts: Vec<String> = name.trim().split('.').map(str::to_owned).collect();
    let plain = |part: &String| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    match parts.as_slice() {
        [net, _, _, interface, _] if net == "net" && is_interface(interface) && parts.iter().all(plain) => {
            Ok((parts, value.trim().to_owned()))
        }
        _ => Err(wrong(format!(
            "unrecognised network interface sysctl '{name}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.{INTERFACE}.Z=V'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Result<PlaceOptions> {
        PlaceOptions::parse(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn settings_are_those_of_the_interface_and_of_nothing_else() {
        let options =
            read(SETTINGS, "net.ipv4.conf.ifname.log_martians=1, net.ipv6.neigh.IFNAME.mcast_solicit=0")
                .unwrap();
        let files: Vec<_> = options.files("eth3").collect();
        assert_eq!(
            files,
            [
                ("/proc/sys/net/ipv4/conf/eth3/log_martians".to_owned(), "1"),
                ("/proc/sys/net/ipv6/neigh/eth3/mcast_solicit".to_owned(), "0")
            ]
        );
        for bad in [
            "net.ipv4.conf.eth0.log_martians=1",
            "net.ipv4.conf.all.IFNAME=1",
            "net.ipv4.IFNAME.all.x=1",
            "net.ipv4.ip_forward=1",
            "kernel.x.y.IFNAME.z=1",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.ipv4/..conf.IFNAME.x=1",
            "net.ipv4..IFNAME.x=1",
        ] {
            read(SETTINGS, bad).unwrap_err();
        }
        assert_eq!(read(NAME, "lan0").unwrap().name.unwrap(), "lan0");
        for bad in ["", "lo", "..", "a/b", "a b", "0123456789abcdef"] {
            read(NAME, bad).unwrap_err();
        }
        assert_eq!(read("mine", "1").unwrap().unknown, ["mine"]);
        assert!(
            read("com.docker.network.endpoint.nope", "1")
                .unwrap_err()
                .to_string()
                .contains("unknown endpoint option")
        );
    }
}
