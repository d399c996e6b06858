//! Why a packet from one container, the host or an address would or would not arrive at another.
//!
//! Here names become namespaces and places; what happens in between is read by `havre-net`. Invariant: nothing is changed.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};
use std::sync::Arc;

use havre_net::explain::{Fate, Hop, Side, verdict};
use havre_net::fabric::Fabric;
use havre_net::ports::{Port, Protocol};
use havre_sys::netlink::Route;
use havre_sys::netlink::table::OWN;
use havre_sys::netns;

use crate::spec::NetworkMode;
use crate::{Containers, Engine, EngineError};

/// The way, hop by hop, and what becomes of the packet.
#[derive(Debug)]
pub struct Explained {
    /// The hops in their order.
    pub hops: Vec<Hop>,
    /// All of it.
    pub fate: Fate,
    /// The same in a sentence.
    pub summary: String,
}

/// How many containers may stand behind one another's networks.
const DEEPEST: usize = 16;

/// Explains the way from `source` to `target`, which are `host`, containers, addresses or names; the target may have a port
/// (`web:80`, `host:5353/udp`).
pub async fn explain(engine: &Arc<Engine>, source: &str, target: &str) -> Result<Explained, EngineError> {
    let engine = Arc::clone(engine);
    let (source, target) = (source.to_owned(), target.to_owned());
    let done = tokio::task::spawn_blocking(move || {
        let names = Names { fabric: &engine.fabric, containers: &engine.containers };
        names.explain(&source, &target)
    });
    done.await.map_err(|_| EngineError::ShuttingDown)?
}

struct Names<'a> {
    fabric: &'a Fabric,
    containers: &'a Containers,
}

impl Names<'_> {
    fn explain(&self, source: &str, target: &str) -> Result<Explained, EngineError> {
        let (name, port) = split(target)?;
        let source = self.side(source)?;
        let mut target = self.side(name)?;
        if target.places.is_empty() && target.address.is_none() {
            target.address = Some(self.own_address(&source));
        }
        let who = |address| self.at(address).ok().filter(|side| !side.places.is_empty());
        let hops = self.fabric.explain(&source, &target, port, &who)?;
        let (fate, summary) = verdict(&hops);
        Ok(Explained { hops, fate, summary })
    }

    /// By which address the host is reached from there.
    fn own_address(&self, source: &Side) -> IpAddr {
        let gateway = source.places.iter().find_map(|(network, _)| {
            network.blocks.iter().find_map(|block| block.gateway).filter(|_| !network.bridge.is_empty())
        });
        gateway.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn side(&self, name: &str) -> Result<Side, EngineError> {
        if name == "host" {
            return host(None);
        }
        if let Ok(address) = name.parse() {
            return self.at(address);
        }
        match self.container(name, DEEPEST) {
            Err(EngineError::NoContainer(_)) => {}
            other => return other,
        }
        let unknown = || EngineError::Invalid(format!("{name:?} is no container, address or name of a host"));
        let found = (name, 0).to_socket_addrs().map_err(|_| unknown())?.next().ok_or_else(unknown)?;
        Ok(Side { name: name.to_owned(), ..self.at(found.ip())? })
    }

    fn container(&self, name: &str, deepest: usize) -> Result<Side, EngineError> {
        let view = self.containers.view(name)?;
        let shown = view.now.name.to_string();
        let Some(pid) = view.now.state.pid() else {
            return Err(EngineError::Invalid(format!("container {shown} does not run: it has no network")));
        };
        match &view.fixed.spec.network {
            NetworkMode::Host => host(None),
            NetworkMode::None => Err(EngineError::Invalid(format!(
                "container {shown} has no network: it runs with --network none"
            ))),
            NetworkMode::Container(_) if deepest == 0 => {
                Err(EngineError::Invalid(format!("container {shown} has the network of too many others")))
            }
            NetworkMode::Container(donor) => self.container(donor.as_str(), deepest - 1),
            NetworkMode::Networks => {
                let networks = self.fabric.networks();
                let mut places = Vec::new();
                for place in networks.of_container(view.id()) {
                    if let Ok(network) = networks.find(place.network.as_str()) {
                        places.push((network, place));
                    }
                }
                places.sort_by(|a, b| a.0.spec.name.cmp(&b.0.spec.name));
                let path = format!("/proc/{pid}/ns/net");
                let netns = std::fs::File::open(&path).map_err(|error| {
                    EngineError::Invalid(format!(
                        "cannot open the network of container {shown} ({path}): {error}"
                    ))
                })?;
                Ok(Side { name: shown, netns: Some(netns.into()), places, address: None })
            }
        }
    }

    /// Who has an address: a container, the host, or somebody in the world.
    fn at(&self, address: IpAddr) -> Result<Side, EngineError> {
        let all = self.fabric.networks().all_endpoints();
        let of = all.iter().find(|place| place.addresses.iter().any(|net| net.addr() == address));
        if let Some(place) = of
            && let Ok(side) = self.container(place.container.as_str(), DEEPEST)
        {
            return Ok(Side { address: Some(address), ..side });
        }
        let route = Route::open().and_then(|mut route| route.route_to(address));
        if route.is_ok_and(|found| found.kind == OWN) {
            return host(Some(address));
        }
        Ok(Side { name: address.to_string(), netns: None, places: Vec::new(), address: Some(address) })
    }
}

fn host(address: Option<IpAddr>) -> Result<Side, EngineError> {
    let netns = netns::current()
        .map_err(|error| EngineError::Invalid(format!("cannot open the host's network: {error}")))?;
    Ok(Side { name: "the host".to_owned(), netns: Some(netns), places: Vec::new(), address })
}

/// What a target's text says: who, and which port with which protocol.
type Target<'a> = (&'a str, Option<(Protocol, u16)>);

/// `web`, `web:80`, `web:53/udp`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]:80`.
fn split(text: &str) -> Result<Target<'_>, EngineError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest
            .split_once(']')
            .ok_or_else(|| EngineError::Invalid(format!("{text:?} has no ']' behind its address")))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, Some(read_port(port)?))),
            None if rest.is_empty() => Ok((address, None)),
            None => Err(EngineError::Invalid(format!("{text:?} has {rest:?} behind its address"))),
        };
    }
    match text.split_once(':') {
        Some((name, port)) if !port.contains(':') => Ok((name, Some(read_port(port)?))),
        _ => Ok((text, None)),
    }
}

fn read_port(text: &str) -> Result<(Protocol, u16), EngineError> {
    match Port::range(text) {
        Some((first, last)) if first == last && first.number != 0 => Ok((first.protocol, first.number)),
        _ => Err(EngineError::Invalid(format!("{text:?} is no port: want 80, 80/tcp or 53/udp"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_ports_or_not() {
        let tcp = |number| Some((Protocol::Tcp, number));
        for (text, wanted) in [
            ("web", ("web", None)),
            ("web:80", ("web", tcp(80))),
            ("host:53/udp", ("host", Some((Protocol::Udp, 53)))),
            ("10.0.0.1:80", ("10.0.0.1", tcp(80))),
            ("fd00::1", ("fd00::1", None)),
            ("[fd00::1]:80", ("fd00::1", tcp(80))),
            ("[fd00::1]", ("fd00::1", None)),
        ] {
            assert_eq!(split(text).unwrap(), wanted, "{text}");
        }
        for text in ["web:", "web:x", "web:0", "web:1-2", "[fd00::1", "[fd00::1]x", "web:70000"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
