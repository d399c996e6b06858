//! Which ports of the host lead to a container: those that were asked for, or the first free ones.
//!
//! Invariant: a port leads to one container, and not away from a program of the host that waits there.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::listeners::{self, Listener};
use crate::networks::Endpoint;
use crate::ports::{Protocol, Publication, PublishedPort};
use crate::relay::Door;
use crate::{NetError, Result};

/// What is taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    published: HashMap<(Protocol, u16), Vec<Publication>>,
    listening: HashMap<Protocol, HashMap<u16, Vec<Listener>>>,
    /// Where the relay waits: no program of somebody else.
    relayed: Vec<Door>,
    /// Where to look for a port that nobody names: behind the last one, so that one that was just given back is not
    /// somebody else's at once.
    pub(crate) next: u16,
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

impl Taken {
    /// By these places, and by programs of the host as far as the ports asked for need to be looked at.
    pub(crate) fn now(places: &[Endpoint], asked: &[PublishedPort]) -> Self {
        let mut taken = Self::default();
        places.iter().flat_map(|place| &place.published).for_each(|one| taken.take(one));
        taken.look(asked);
        taken
    }

    /// The same, but that these listeners are our own.
    pub(crate) fn besides(self, relayed: Vec<Door>) -> Self {
        Self { relayed, ..self }
    }

    fn take(&mut self, one: &Publication) {
        self.published.entry((one.protocol, one.port)).or_default().push(*one);
    }

    /// Looks at the programs of the host that may have these ports.
    pub(crate) fn look(&mut self, asked: &[PublishedPort]) {
        for port in asked {
            let protocol = port.port.protocol;
            self.listening.entry(protocol).or_insert_with(|| listeners::all(protocol));
        }
    }

    /// Why a port cannot be published.
    fn refusal(&self, wanted: &Publication) -> Option<NetError> {
        let at = SocketAddr::new(wanted.at.unwrap_or_else(|| any(wanted.to)), wanted.port);
        let same = |other: &Publication| {
            other.to.is_ipv6() == wanted.to.is_ipv6()
                && (other.at.is_none() || wanted.at.is_none() || other.at == wanted.at)
        };
        if self.published.get(&(wanted.protocol, wanted.port)).is_some_and(|all| all.iter().any(same)) {
            return Some(NetError::PortAllocated(at));
        }
        let of_port = self.listening.get(&wanted.protocol)?.get(&wanted.port)?;
        let of_family: Vec<Listener> = of_port
            .iter()
            .filter(|one| one.at.is_ipv6() == wanted.to.is_ipv6() || one.at.ip().is_unspecified())
            .filter(|one| {
                !self.relayed.iter().any(|door| door.protocol == wanted.protocol && door.at == one.at)
            })
            .copied()
            .collect();
        let listener = listeners::in_the_way(&of_family, wanted.at)?;
        let by = listener.owner().map(|owner| format!(": {owner} listens there")).unwrap_or_default();
        Some(NetError::PortInUse { wanted: at, by })
    }

    /// Chooses what is asked for a place with these addresses; nothing is taken when something is refused. `prefers` is
    /// the address at which ports are published that name none.
    pub(crate) fn choose(
        &mut self,
        asked: &[PublishedPort],
        addresses: &[IpAddr],
        prefers: Option<IpAddr>,
    ) -> Result<Vec<Publication>> {
        let mut chosen: Vec<Publication> = Vec::new();
        for port in asked {
            match self.choose_one(port, addresses, prefers) {
                Ok(some) => chosen.extend(some),
                Err(error) => {
                    for one in &chosen {
                        self.published
                            .entry((one.protocol, one.port))
                            .or_default()
                            .retain(|other| other != one);
                    }
                    return Err(error);
                }
            }
        }
        Ok(chosen)
    }

    fn choose_one(
        &mut self,
        asked: &PublishedPort,
        addresses: &[IpAddr],
        prefers: Option<IpAddr>,
    ) -> Result<Vec<Publication>> {
        let address = asked.address.filter(|address| !address.is_unspecified());
        // `0.0.0.0` is one family's, nothing is both.
        let family = asked.address.map(|address| address.is_ipv6());
        let to: Vec<IpAddr> =
            addresses.iter().filter(|to| family.is_none_or(|v6| to.is_ipv6() == v6)).copied().collect();
        let with = |port: u16| -> Vec<Publication> {
            let one = |to: &IpAddr| Publication {
                protocol: asked.port.protocol,
                at: address.or_else(|| {
                    prefers.filter(|prefers| {
                        !prefers.is_unspecified()
                            && asked.address.is_none()
                            && prefers.is_ipv6() == to.is_ipv6()
                    })
                }),
                port,
                to: *to,
                to_port: asked.port.number,
            };
            to.iter().map(one).collect()
        };
        let (first, last) = if asked.host == (0, 0) { ephemeral() } else { asked.host };
        let mut why = None;
        let start = if asked.host == (0, 0) { self.next.clamp(first, last) } else { first };
        for port in (start..=last).chain(first..start) {
            let wanted = with(port);
            match wanted.iter().find_map(|one| self.refusal(one)) {
                None => {
                    if asked.host == (0, 0) {
                        self.next = port.wrapping_add(1);
                    }
                    wanted.iter().for_each(|one| self.take(one));
                    return Ok(wanted);
                }
                Some(error) => why = Some(error),
            }
        }
        Err(match why {
            Some(error) if first == last => error,
            _ => NetError::NoPort { first, last },
        })
    }
}

/// The ports that nobody chooses, from the kernel's setting.
fn ephemeral() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse::<u16>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first > 0 && first <= last => (first, last),
        _ => (49_153, 65_535),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Port;

    fn asked(text: &str, address: Option<&str>, host: (u16, u16)) -> PublishedPort {
        PublishedPort {
            port: Port::range(text).unwrap().0,
            address: address.map(|address| address.parse().unwrap()),
            host,
        }
    }

    fn both() -> [IpAddr; 2] {
        ["172.17.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]
    }

    #[test]
    fn ports_are_chosen_once_for_both_families() {
        let mut taken = Taken::default();
        let two = taken.choose(&[asked("80", None, (8080, 8080))], &both(), None).unwrap();
        assert_eq!(
            two.iter().map(|one| (one.at, one.port, one.to_port)).collect::<Vec<_>>(),
            [(None, 8080, 80); 2]
        );
        let error = taken.choose(&[asked("81", Some("127.0.0.1"), (8080, 8080))], &both(), None).unwrap_err();
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:8080 failed: port is already allocated");
        let next = taken.choose(&[asked("81", None, (8080, 8082))], &both(), None).unwrap();
        assert_eq!(next[0].port, 8081);
        let four = taken.choose(&[asked("82", Some("0.0.0.0"), (9000, 9000))], &both(), None).unwrap();
        assert_eq!((four.len(), four[0].at), (1, None));
        let six = taken.choose(&[asked("82", Some("::"), (9000, 9000))], &both(), None).unwrap();
        assert!(six.len() == 1 && six[0].to.is_ipv6());
        assert_eq!(taken.choose(&[asked("80/udp", None, (8080, 8080))], &both(), None).unwrap().len(), 2);
        let own =
            taken.choose(&[asked("80", None, (0, 0))], &both(), Some("127.0.0.1".parse().unwrap())).unwrap();
        assert!(own[0].at.is_some() && own[1].at.is_none() && own[0].port >= ephemeral().0);
        let full = taken.choose(&[asked("80", None, (8080, 8081))], &both(), None).unwrap_err();
        assert!(matches!(full, NetError::NoPort { first: 8080, last: 8081 }), "{full}");
        // What was refused in the middle took nothing.
        let count = |taken: &Taken| taken.published.values().map(Vec::len).sum::<usize>();
        let before = count(&taken);
        let bad = [asked("1", None, (7000, 7000)), asked("1", None, (8080, 8080))];
        assert!(taken.choose(&bad, &both(), None).is_err());
        assert_eq!(count(&taken), before);
    }

    #[test]
    fn n12_who_has_a_port_is_said() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wanted = [asked("80", None, (port, port))];
        let mut taken = Taken::now(&[], &wanted);
        let error = taken.choose(&wanted, &both()[..1], None).unwrap_err().to_string();
        let own = format!("process {} (", std::process::id());
        assert!(error.contains("address already in use") && error.contains(&own), "{error}");
        let elsewhere = [asked("80", Some("127.0.0.9"), (port, port))];
        assert!(taken.choose(&elsewhere, &both()[..1], None).is_ok());
    }
}
