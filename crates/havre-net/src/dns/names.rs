//! Names as the recorded networks have them.
//!
//! Invariants: a container sees the names of its own user-defined networks and no others; its links come first, then
//! its networks by their priorities and names, and the first that has the name (with an address of the family) answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use havre_base::ContainerId;

use super::{Directory, HostFile, Upstreams, given};
use crate::networks::{Endpoint, Network, Networks, Recorded};
use crate::spec::Driver;

/// The directory of the networks of this machine.
#[derive(Debug)]
pub struct Names {
    networks: Arc<Networks>,
    host: HostFile,
    /// Protects what containers were given of their own.
    own: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    own: BTreeMap<ContainerId, Own>,
    /// Who calls itself so, in small letters.
    hostnames: BTreeMap<String, BTreeSet<ContainerId>>,
}

#[derive(Debug)]
struct Own {
    hostname: String,
    /// `None` where it was given none.
    servers: Option<Arc<[SocketAddr]>>,
    single_labels_stay: bool,
}

impl Given {
    fn forget(&mut self, container: &ContainerId) {
        let Some(own) = self.own.remove(container) else { return };
        if let Some(all) = self.hostnames.get_mut(&own.hostname) {
            all.remove(container);
            if all.is_empty() {
                self.hostnames.remove(&own.hostname);
            }
        }
    }
}

impl Names {
    /// Names of these networks; other names are asked of the host's servers.
    #[must_use]
    pub fn new(networks: Arc<Networks>, host: HostFile) -> Self {
        Self { networks, host, own: Mutex::default() }
    }

    fn own(&self) -> MutexGuard<'_, Given> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a container was started with: its host name, its `--dns`, if any, and the options of its resolver.
    pub fn set(&self, container: &ContainerId, hostname: &str, servers: &[IpAddr], options: &[String]) {
        let mut ndots =
            options.iter().filter_map(|option| option.strip_prefix("ndots:")?.parse::<u32>().ok());
        let single_labels_stay = ndots.next_back().is_some_and(|dots| dots > 0);
        let dropped = servers.len().saturating_sub(given(servers).len());
        if dropped > 0 {
            tracing::warn!(
                container = container.short(),
                ?servers,
                "only the first three name servers that are not loopback addresses are asked"
            );
        }
        // Those of the host are only asked where none was given, not where none is left.
        let servers = if servers.is_empty() { None } else { Some(given(servers)) };
        let hostname = hostname.to_ascii_lowercase();
        let mut all = self.own();
        all.forget(container);
        all.hostnames.entry(hostname.clone()).or_default().insert(container.clone());
        all.own.insert(container.clone(), Own { hostname, servers, single_labels_stay });
    }

    /// The container is gone.
    pub fn forget(&self, container: &ContainerId) {
        self.own().forget(container);
    }

    /// Whether a container is in a network whose names it sees.
    #[must_use]
    pub fn are_seen_by(&self, container: &ContainerId) -> bool {
        self.networks.look(|recorded| !places(&recorded, container).is_empty())
    }

    /// Whose host name this is.
    fn self_called(&self, name: &str) -> BTreeSet<ContainerId> {
        self.own().hostnames.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default()
    }
}

/// The asker's places in networks whose names it sees, first the one that answers first.
fn places<'a>(recorded: &Recorded<'a>, asker: &ContainerId) -> Vec<(&'a Network, &'a Endpoint)> {
    let mut places: Vec<(&Network, &Endpoint)> = recorded
        .endpoints
        .values()
        .filter(|endpoint| endpoint.container == *asker)
        .filter_map(|endpoint| Some((recorded.networks.get(&endpoint.network)?, endpoint)))
        .filter(|(network, _)| !network.is_predefined())
        .collect();
    places.sort_by(|(one, first), (two, second)| {
        second.spec.priority.cmp(&first.spec.priority).then_with(|| one.spec.name.cmp(&two.spec.name))
    });
    places
}

/// Whether an endpoint has this name in its network; `hosts` are the containers that call themselves so.
fn is_called(endpoint: &Endpoint, name: &str, hosts: &BTreeSet<ContainerId>) -> bool {
    endpoint.name.eq_ignore_ascii_case(name)
        || endpoint.spec.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        || endpoint.container.short().eq_ignore_ascii_case(name)
        || hosts.contains(&endpoint.container)
}

/// Whose name this is by a link of the asker's.
fn linked<'a>(own: &'a Endpoint, name: &str) -> Option<&'a str> {
    own.spec.links.iter().find_map(|link| {
        let (container, alias) = link.split_once(':').unwrap_or((link, link));
        alias.trim_start_matches('/').eq_ignore_ascii_case(name).then(|| container.trim_start_matches('/'))
    })
}

/// A linked container is named as the command line names it: by name, or by an id or its beginning.
fn is_meant(endpoint: &Endpoint, container: &str) -> bool {
    is_called(endpoint, container, &BTreeSet::new())
        || (container.len() >= 12 && endpoint.container.as_str().starts_with(container))
}

impl Directory for Names {
    fn addresses(&self, asker: &ContainerId, name: &str) -> Option<Vec<IpAddr>> {
        self.networks.look(|recorded| {
            let mut found = Found::default();
            for (network, own) in places(&recorded, asker) {
                let suffix = network.spec.name.as_str();
                // `name` and `name.network`.
                let at = name.len().checked_sub(suffix.len() + 1);
                let within = at.and_then(|at| name.split_at_checked(at)).and_then(|(within, rest)| {
                    let rest = rest.strip_prefix('.')?;
                    (rest.eq_ignore_ascii_case(suffix) && !within.is_empty()).then_some(within)
                });
                for name in [Some(name), within].into_iter().flatten() {
                    let hosts = self.self_called(name);
                    let link = linked(own, name);
                    let others =
                        recorded.endpoints.values().filter(|endpoint| endpoint.network == network.id);
                    let called: Vec<&Endpoint> = match link {
                        Some(container) => others.filter(|other| is_meant(other, container)).collect(),
                        None => others.filter(|other| is_called(other, name, &hosts)).collect(),
                    };
                    found.add(&called);
                }
            }
            found.into_addresses()
        })
    }

    fn name_of(&self, asker: &ContainerId, address: IpAddr) -> Option<String> {
        self.networks.look(|recorded| {
            places(&recorded, asker).into_iter().find_map(|(network, _)| {
                let has = |endpoint: &&Endpoint| {
                    endpoint.network == network.id
                        && endpoint.addresses.iter().any(|net| net.addr() == address)
                };
                let endpoint = recorded.endpoints.values().find(has)?;
                Some(format!("{}.{}", endpoint.name, network.spec.name))
            })
        })
    }

    fn upstreams(&self, asker: &ContainerId) -> Upstreams {
        let leads_out = self.networks.look(|recorded| {
            recorded.endpoints.values().filter(|endpoint| endpoint.container == *asker).any(|endpoint| {
                recorded
                    .networks
                    .get(&endpoint.network)
                    .is_some_and(|network| !network.spec.internal && network.spec.driver != Driver::Null)
            })
        });
        if !leads_out {
            return Upstreams::Never;
        }
        let own = self.own();
        let own = own.own.get(asker);
        let servers = own.and_then(|own| own.servers.clone()).unwrap_or_else(|| self.host.servers());
        Upstreams::Servers { servers, single_labels_stay: own.is_some_and(|own| own.single_labels_stay) }
    }
}

/// Addresses of the first network that has any, by family.
#[derive(Debug, Default)]
struct Found {
    known: bool,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Found {
    fn add(&mut self, called: &[&Endpoint]) {
        self.known |= !called.is_empty();
        let addresses = || called.iter().flat_map(|endpoint| &endpoint.addresses).map(ipnet::IpNet::addr);
        if self.v4.is_empty() {
            self.v4.extend(addresses().filter(IpAddr::is_ipv4));
        }
        if self.v6.is_empty() {
            self.v6.extend(addresses().filter(IpAddr::is_ipv6));
        }
    }

    fn into_addresses(mut self) -> Option<Vec<IpAddr>> {
        self.v4.append(&mut self.v6);
        self.known.then_some(self.v4)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::networks::EndpointSpec;
    use crate::pools::{Pool, Pools};
    use crate::spec::NetworkSpec;

    struct World {
        names: Names,
        folder: tempfile::TempDir,
    }

    fn spec(name: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            blocks: Vec::new(),
            options: BTreeMap::new(),
            ipam_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..NetworkSpec::default()
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    impl World {
        /// Networks `front` (both families), `back` (IPv4) and `inner` (internal), in the order of their subnets.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let db = Arc::new(havre_store::Db::open(&folder.path().join("state.db")).unwrap());
            let pool = Pool::new("198.18.0.0/15", 24).unwrap();
            let networks = Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap();
            networks.create(NetworkSpec { ipv6: true, ..spec("front") }).unwrap();
            networks.create(spec("back")).unwrap();
            networks.create(NetworkSpec { internal: true, ..spec("inner") }).unwrap();
            let file = folder.path().join("resolv.conf");
            std::fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
            Self { names: Names::new(Arc::new(networks), HostFile::new(file)), folder }
        }

        fn join(&self, id: &ContainerId, name: &str, spec: EndpointSpec) -> Endpoint {
            self.names.networks.join(id, name, spec).unwrap().1
        }

        fn container(&self, name: &str, networks: &[&str]) -> ContainerId {
            let id = ContainerId::random();
            for network in networks {
                self.join(&id, name, EndpointSpec { network: (*network).into(), ..EndpointSpec::default() });
            }
            id
        }

        fn look(&self, asker: &ContainerId, name: &str) -> Option<Vec<String>> {
            let addresses = self.names.addresses(asker, name)?;
            Some(addresses.iter().map(ToString::to_string).collect())
        }
    }

    /// A directory of so many containers in one network, and one of them.
    pub(in crate::dns) struct Many {
        pub(in crate::dns) directory: Arc<Names>,
        pub(in crate::dns) asker: ContainerId,
        _folder: tempfile::TempDir,
    }

    pub(in crate::dns) fn many(count: usize) -> Many {
        let world = World::new();
        let text = crate::spec::BlockText { subnet: "198.19.0.0/16".into(), ..Default::default() };
        let blocks = crate::spec::blocks(&[text]).unwrap();
        world.names.networks.create(NetworkSpec { blocks, ..spec("wide") }).unwrap();
        let all: Vec<ContainerId> =
            (0..count).map(|at| world.container(&format!("c{at}"), &["wide"])).collect();
        Many { directory: Arc::new(world.names), asker: all[0].clone(), _folder: world.folder }
    }

    #[test]
    fn a_container_sees_the_names_of_its_networks_and_no_others() {
        let world = World::new();
        let web = world.container("web", &["front"]);
        let db = world.container("Db_1", &["front", "back"]);
        let hidden = world.container("hidden", &["back"]);
        let both = |at: u8| Some(vec![format!("198.18.1.{at}"), format!("fd01:101:101::{at}")]);
        assert_eq!(world.look(&web, "web"), both(2));
        for name in ["Db_1", "db_1", "DB_1.FRONT", "db_1.front", &db.short().to_uppercase()] {
            assert_eq!(world.look(&web, name), both(3), "{name}");
        }
        for name in
            ["hidden", "hidden.back", "db_1.back", "nobody", "front", ".front", "web.", "", "web.front.x"]
        {
            assert_eq!(world.look(&web, name), None, "{name}");
        }
        // In both, the first by name answers for its families, the other for what that one has not.
        let asker = world.container("asker", &["front", "back"]);
        assert_eq!(world.look(&asker, "db_1"), Some(strings(&["198.18.2.2", "fd01:101:101::3"])));
        assert_eq!(world.look(&asker, "db_1.front"), both(3));
        assert_eq!(world.look(&asker, "hidden"), Some(strings(&["198.18.2.3"])));
        assert_eq!(world.look(&hidden, "web"), None);
        // Nobody is seen in the default network, nor from it.
        let plain = world.container("plain", &["bridge"]);
        world.container("neighbour", &["bridge"]);
        assert_eq!(world.look(&plain, "neighbour"), None);
        assert_eq!(world.look(&plain, "web"), None);
        // Who leaves is gone at once, who comes is there at once.
        let place = world.names.networks.of_container(&db).remove(0);
        for place in world.names.networks.of_container(&db) {
            world.names.networks.leave(&place.id);
        }
        assert_eq!(place.container, db);
        assert_eq!(world.look(&web, "db_1"), None);
        world.container("db_1", &["front"]);
        assert_eq!(world.look(&web, "db_1"), both(3));
    }

    #[test]
    fn aliases_are_shared_and_links_are_the_askers_own() {
        let world = World::new();
        let with = |aliases: &[&str]| EndpointSpec {
            network: "back".into(),
            aliases: strings(aliases),
            ..EndpointSpec::default()
        };
        let (one, two) = (ContainerId::random(), ContainerId::random());
        world.join(&one, "one", with(&["pool", "db.example.org"]));
        world.join(&two, "two", with(&["Pool"]));
        let linked = |link: String| EndpointSpec { links: vec![link], ..with(&[]) };
        let (third, fourth) = (ContainerId::random(), ContainerId::random());
        world.join(&third, "third", linked("two:one".into()));
        world.join(&fourth, "fourth", linked(format!("/{}:/mate", two.as_str())));
        let mut pool = world.look(&third, "pool").unwrap();
        pool.sort();
        assert_eq!(pool, ["198.18.2.2", "198.18.2.3"]);
        assert_eq!(world.look(&third, "db.example.org.back"), Some(strings(&["198.18.2.2"])));
        // A link hides a name, for its owner.
        assert_eq!(world.look(&third, "one"), Some(strings(&["198.18.2.3"])));
        assert_eq!(world.look(&fourth, "one"), Some(strings(&["198.18.2.2"])));
        assert_eq!(world.look(&fourth, "mate"), Some(strings(&["198.18.2.3"])));
        assert_eq!(world.look(&third, "mate"), None);
        // A name that a container has given itself is its name for the others too, as long as it has it.
        world.names.set(&one, "Own-Host", &[], &[]);
        assert_eq!(world.look(&third, "own-host"), Some(strings(&["198.18.2.2"])));
        world.names.set(&one, "other", &[], &[]);
        assert_eq!(world.look(&third, "own-host"), None);
        world.names.forget(&one);
        assert_eq!(world.look(&third, "other"), None);
        // So is the name that it is given later.
        world.names.networks.rename(&one, "first");
        assert_eq!(world.look(&third, "first"), Some(strings(&["198.18.2.2"])));
        assert_eq!(world.look(&fourth, "one"), None);
    }

    #[test]
    fn addresses_have_the_name_in_the_network_that_both_are_in() {
        let world = World::new();
        let web = world.container("web", &["front"]);
        world.container("db", &["back", "front"]);
        let name = |asker: &ContainerId, text: &str| world.names.name_of(asker, text.parse().unwrap());
        assert_eq!(name(&web, "198.18.1.3").unwrap(), "db.front");
        assert_eq!(name(&web, "fd01:101:101::3").unwrap(), "db.front");
        assert_eq!(name(&web, "198.18.2.2"), None);
        assert_eq!(name(&web, "198.18.1.1"), None);
    }

    #[test]
    fn n04_only_a_network_that_leads_out_has_other_servers() {
        let world = World::new();
        let servers = |asker: &ContainerId| match world.names.upstreams(asker) {
            Upstreams::Servers { servers, single_labels_stay } => {
                (servers.iter().map(ToString::to_string).collect(), single_labels_stay)
            }
            Upstreams::Never => (vec!["never".to_owned()], false),
        };
        let inner = world.container("inner", &["inner"]);
        assert_eq!(servers(&inner), (strings(&["never"]), false));
        world.names.set(&inner, "host", &["192.0.2.1".parse().unwrap()], &[]);
        assert_eq!(servers(&inner), (strings(&["never"]), false));
        let place =
            world.join(&inner, "inner", EndpointSpec { network: "front".into(), ..Default::default() });
        assert_eq!(servers(&inner), (strings(&["192.0.2.1:53"]), false));
        world.names.networks.leave(&place.id);
        assert_eq!(servers(&inner), (strings(&["never"]), false));
        let web = world.container("web", &["front"]);
        assert_eq!(servers(&web), (strings(&["192.0.2.53:53"]), false));
        std::fs::write(world.folder.path().join("resolv.conf"), "nameserver 192.0.2.54\nnameserver ::1\n")
            .unwrap();
        assert_eq!(servers(&web), (strings(&["192.0.2.54:53", "[::1]:53"]), false));
        world.names.set(&web, "host", &[], &strings(&["ndots:2", "timeout:1"]));
        assert_eq!(servers(&web), (strings(&["192.0.2.54:53", "[::1]:53"]), true));
        // What was given is the container's own loopback: not the host's, and not its servers instead.
        world.names.set(&web, "host", &["127.0.0.1".parse().unwrap()], &strings(&["ndots:0"]));
        assert_eq!(servers(&web), (Vec::new(), false));
        world.names.forget(&web);
        assert_eq!(servers(&web).0.len(), 2);
        assert_eq!(servers(&ContainerId::random()).0, ["never"]);
    }
}
