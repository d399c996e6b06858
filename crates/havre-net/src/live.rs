//! Places and ports of containers that run.
//!
//! Invariants: a place is recorded before its link is made, and given back when it could not be made; ports lead to the
//! place by which the container reaches the world, also when that is another one than before, and stay the same ports of
//! the host. What is taken away carries nothing from the moment on that this returns; the kernel needs tens of
//! milliseconds to forget a link, which nobody waits for.

use std::io;
use std::os::fd::OwnedFd;

use havre_base::{ContainerId, NetworkId};
use havre_sys::netlink::Route;
use ipnet::IpNet;

use crate::Result;
use crate::fabric::Fabric;
use crate::networks::{Endpoint, EndpointSpec, Network};
use crate::ports::{Publication, PublishedPort};
use crate::publish::Taken;
use crate::rate::Rates;
use crate::sandbox::{self, Sandbox, outer_name};
use crate::spec::Driver;

impl Fabric {
    /// Gives a running container, whose namespace this is, a place in one more network. `ports` are all that it publishes.
    pub fn join(
        &self,
        container: &ContainerId,
        name: &str,
        spec: EndpointSpec,
        ports: &[PublishedPort],
        rates: Rates,
        netns: OwnedFd,
    ) -> Result<(Network, Endpoint)> {
        let mut sandbox = Sandbox::of(netns)?;
        self.settle_default(&spec)?;
        let (network, mut endpoint) = self.take_place(container, name, &spec)?;
        let joined = self.plug(&mut sandbox, &network, &mut endpoint).and_then(|()| {
            self.limit(container, rates)?;
            self.lead(&mut sandbox, container)?;
            self.republish(container, ports)
        });
        if let Err(error) = joined {
            self.part(container, &network.id, ports, Some(sandbox.into_fd()))?;
            return Err(error);
        }
        Ok((network, self.place(&endpoint)))
    }

    /// Takes a place of a container away; `netns` is its namespace if it runs.
    pub fn part(
        &self,
        container: &ContainerId,
        network: &NetworkId,
        ports: &[PublishedPort],
        netns: Option<OwnedFd>,
    ) -> Result<Option<Endpoint>> {
        let place = self.networks().of_container(container).into_iter().find(|one| one.network == *network);
        let Some(place) = place else { return Ok(None) };
        if !place.published.is_empty() {
            let network = self.networks().find(network.as_str())?;
            self.lead_ports(&[(&place, &network, &[])])?;
        }
        let mut sandbox = netns.map(Sandbox::of).transpose()?;
        self.cut(&place)?;
        self.unguard(&place.id);
        if let Some(sandbox) = &mut sandbox {
            sandbox.unplug(&place)?;
        }
        self.forget_link(&place)?;
        self.give_back(&place, None);
        if let Some(sandbox) = &mut sandbox {
            self.lead(sandbox, container)?;
            // The ports stay the container's as long as it has a way out.
            self.keep_ports(container, ports, &place.published)?;
        }
        Ok(Some(place))
    }

    /// Takes the host's end of a link from its bridge, whatever the container has made of its own end.
    fn cut(&self, place: &Endpoint) -> Result<()> {
        let name = outer_name(place);
        match self
            .host()
            .change(|changes| changes.set_up(name.as_str(), false).set_master(name.as_str(), None))
        {
            Err(error) if !error.is_absent() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Has the host's end of a link removed behind: the kernel takes tens of milliseconds. What a crash leaves of that the
    /// next start removes.
    fn forget_link(&self, place: &Endpoint) -> Result<()> {
        let name = outer_name(place);
        let index = match self.host().link(name.as_str()) {
            Ok(link) => link.index,
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut behind = Route::open()?;
        let forget = move || match behind.change(|changes| changes.delete_link(index)) {
            Err(error) if !error.is_absent() => tracing::warn!(link = name, %error, "cannot remove a link"),
            _ => {}
        };
        std::thread::Builder::new().name("unplug".into()).spawn(forget)?;
        Ok(())
    }

    /// Leads the container out by the places that it has now.
    fn lead(&self, sandbox: &mut Sandbox, container: &ContainerId) -> Result<()> {
        let places = self.places(container)?;
        sandbox.lead_out(&places.iter().map(|(network, place)| (network, place)).collect::<Vec<_>>())
    }

    fn places(&self, container: &ContainerId) -> Result<Vec<(Network, Endpoint)>> {
        let places = self.networks().of_container(container).into_iter();
        places.map(|place| Ok((self.networks().find(place.network.as_str())?, place))).collect()
    }

    /// A place as it is recorded now.
    fn place(&self, endpoint: &Endpoint) -> Endpoint {
        let now = self.networks().of_container(&endpoint.container);
        now.into_iter().find(|one| one.id == endpoint.id).unwrap_or_else(|| endpoint.clone())
    }

    /// Publishes exactly these ports of a running container; those of the host that it has already stay. When one cannot
    /// be had, all stays as it was.
    pub fn republish(&self, container: &ContainerId, asked: &[PublishedPort]) -> Result<()> {
        self.keep_ports(container, asked, &[])
    }

    fn keep_ports(
        &self,
        container: &ContainerId,
        asked: &[PublishedPort],
        had: &[Publication],
    ) -> Result<()> {
        let mut next = self.choosing();
        let places = self.places(container)?;
        let joined: Vec<(&Network, &Endpoint)> =
            places.iter().map(|(network, place)| (network, place)).collect();
        let had: Vec<Publication> =
            places.iter().flat_map(|(_, place)| &place.published).chain(had).copied().collect();
        let way_out = sandbox::way_out(&joined).filter(|(network, _)| network.spec.driver == Driver::Bridge);
        let Some((network, target)) = way_out else { return Ok(()) };
        let others: Vec<Endpoint> =
            self.networks().all_endpoints().into_iter().filter(|one| one.container != *container).collect();
        let addresses: Vec<_> = target.addresses.iter().map(IpNet::addr).collect();
        let prefers = network.options().host_binding;
        let (kept, new) = split(asked, &had);
        // A program of the host may have come to wait at a port that leads here: it stays ours.
        let mut taken = Taken::now(&others, &[]).besides(self.relay().doors());
        taken.next = *next;
        let mut chosen = taken.choose(&kept, &addresses, prefers)?;
        taken.look(&new);
        chosen.extend(taken.choose(&new, &addresses, prefers)?);
        *next = taken.next;
        let mut changes: Vec<(&Endpoint, &Network, &[Publication])> = Vec::new();
        for (network, place) in &places {
            let ports: &[Publication] = if place.id == target.id { &chosen } else { &[] };
            if place.published != ports {
                changes.push((place, network, ports));
            }
        }
        self.lead_ports(&changes)
    }

    /// Puts what a crash left apart together: links that the container's places do not have are made, and places that it
    /// does not ask for are taken away.
    pub fn mend(
        &self,
        container: &ContainerId,
        name: &str,
        asked: &[EndpointSpec],
        ports: &[PublishedPort],
        rates: Rates,
        netns: &dyn Fn() -> io::Result<OwnedFd>,
    ) -> Result<()> {
        let mut wanted = Vec::new();
        for spec in asked {
            match self.networks().find(&spec.network) {
                Ok(network) => wanted.push((network.id, spec)),
                Err(error) => tracing::warn!(%container, %error, "a running container's network is gone"),
            }
        }
        for place in self.networks().of_container(container) {
            if !wanted.iter().any(|(network, _)| *network == place.network) || !self.is_plugged(&place)? {
                tracing::info!(%container, network = %place.network, "taking a place back that was left by a crash");
                self.part(container, &place.network, ports, Some(netns()?))?;
            }
        }
        let has = self.networks().of_container(container);
        for (network, spec) in wanted {
            if !has.iter().any(|place| place.network == network) {
                tracing::info!(%container, %network, "joining a network that a crash kept a container from");
                self.join(container, name, spec.clone(), ports, rates, netns()?)?;
            }
        }
        self.republish(container, ports)
    }

    fn is_plugged(&self, place: &Endpoint) -> Result<bool> {
        let network = self.networks().find(place.network.as_str())?;
        if network.bridge.is_empty() {
            return Ok(true);
        }
        match self.host().link(outer_name(place).as_str()) {
            // Leaving begins by taking it from its bridge.
            Ok(link) => Ok(link.is_up() && link.master.is_some()),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The ports that are published already, at the ports of the host that they have, and the others.
fn split(asked: &[PublishedPort], had: &[Publication]) -> (Vec<PublishedPort>, Vec<PublishedPort>) {
    let mut left = had.to_vec();
    let (mut kept, mut new) = (Vec::new(), Vec::new());
    for port in asked {
        let is_same = |one: &Publication| {
            let (first, last) = if port.host == (0, 0) { (1, u16::MAX) } else { port.host };
            let address = port.address.filter(|address| !address.is_unspecified());
            one.protocol == port.port.protocol
                && one.to_port == port.port.number
                && (first..=last).contains(&one.port)
                && (address.is_none() || address == one.at)
                && port.address.is_none_or(|address| address.is_ipv6() == one.to.is_ipv6())
        };
        match left.iter().find(|one| is_same(one)).copied() {
            Some(found) => {
                // Of both families.
                left.retain(|one| !(is_same(one) && one.port == found.port));
                kept.push(PublishedPort { host: (found.port, found.port), ..*port });
            }
            None => new.push(*port),
        }
    }
    (kept, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Port, Protocol};

    #[test]
    fn ports_that_are_published_keep_their_ports_of_the_host() {
        let asked =
            |text: &str, host| PublishedPort { port: Port::range(text).unwrap().0, address: None, host };
        let one = |port, to: &str, to_port| Publication {
            protocol: Protocol::Tcp,
            at: None,
            port,
            to: to.parse().unwrap(),
            to_port,
        };
        let had = [one(32768, "10.0.0.2", 80), one(32768, "fd00::2", 80), one(8081, "10.0.0.2", 80)];
        let (kept, new) = split(&[asked("80", (0, 0)), asked("80", (8081, 8081)), asked("81", (0, 0))], &had);
        assert_eq!(kept.iter().map(|port| port.host).collect::<Vec<_>>(), [(32768, 32768), (8081, 8081)]);
        assert_eq!(new, [asked("81", (0, 0))]);
        // Each is kept once.
        let (kept, new) = split(&[asked("80", (8081, 8081)), asked("80", (8081, 8082))], &had);
        assert_eq!((kept.len(), new.len()), (1, 1));
    }
}
