//! Networks and addresses of plugins: what they are asked, what becomes of their answers, and lies.

use std::sync::Mutex;

use havre_net::fabric::{Fabric, FabricSpec};
use havre_net::ports::{Port, Protocol, PublishedPort};
use havre_net::rate::Rates;
use havre_net::spec::Ipam;
use havre_plugin::Folders;
use havre_sys::netlink::link::{Bridge, End, Kind, Peer};
use havre_testkit::plugin::Scripted;
use serde_json::{Value, json};

use super::*;

/// What a plugin answers instead of what it should, by method.
type Answers = Arc<Mutex<BTreeMap<String, Value>>>;

struct World {
    fabric: Fabric,
    plugin: Scripted,
    answers: Answers,
    _folder: tempfile::TempDir,
}

/// A plugin with a bridge of its own, and addresses from 10.85.0.0/24.
fn world(host: &mut Host) -> World {
    let bridge = End { name: "plugged", up: true, ..End::default() };
    host.route.change(|changes| changes.create_link(&bridge, &Kind::Bridge(Bridge::default()))).unwrap();
    let master = host.route.link("plugged").unwrap().index;
    let answers = Answers::default();
    let instead = Arc::clone(&answers);
    let mut next = 2;
    let state = Mutex::new(move |method: &str, question: &Value| {
        if let Some(answer) = instead.lock().unwrap().get(method) {
            return answer.clone();
        }
        let name = |prefix: &str| format!("{prefix}{}", &question["EndpointID"].as_str().unwrap()[..8]);
        match method {
            "Plugin.Activate" => json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
            "NetworkDriver.GetCapabilities" => json!({"Scope": "local", "ConnectivityScope": "global"}),
            "NetworkDriver.CreateEndpoint" => {
                // This thread is in the namespace of the test.
                let (inner, outer) = (name("in"), name("out"));
                let peer = Peer { name: &inner, ..Peer::default() };
                let end = End { name: &outer, up: true, master: Some(master), ..End::default() };
                Route::open()
                    .unwrap()
                    .change(|changes| changes.create_link(&end, &Kind::Veth(peer)))
                    .unwrap();
                json!({"Interface": {"MacAddress": "02:99:00:00:00:01"}})
            }
            "NetworkDriver.Join" => json!({
                "InterfaceName": {"SrcName": name("in"), "DstPrefix": "plug"},
                "Gateway": "10.85.0.1",
                "StaticRoutes": [
                    {"Destination": "192.0.2.0/24", "RouteType": 0, "NextHop": "169.254.1.1"},
                    {"Destination": "169.254.1.1/32", "RouteType": 1},
                ],
            }),
            "NetworkDriver.Leave" => {
                Route::open().unwrap().change(|changes| changes.delete_link(name("out").as_str())).ok();
                json!({})
            }
            "IpamDriver.GetDefaultAddressSpaces" => json!({"LocalDefaultAddressSpace": "here"}),
            "IpamDriver.RequestPool" => json!({"PoolID": "pool-1", "Pool": "10.85.0.0/24", "Data": {}}),
            "IpamDriver.RequestAddress" => {
                let gateway = question["Options"]["RequestAddressType"].is_string();
                let wanted = question["Address"].as_str().unwrap();
                next += 1;
                match wanted {
                    "" if gateway => json!({"Address": "10.85.0.1/24"}),
                    "" => json!({"Address": format!("10.85.0.{next}/24")}),
                    wanted => json!({"Address": format!("{wanted}/24")}),
                }
            }
            _ => json!({}),
        }
    });
    let plugin = Scripted::start("scripted", move |method, question| {
        match (state.lock().unwrap())(method, question) {
            Value::Null => (404, String::new()),
            answer => (200, answer.to_string()),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(&folder.path().join("state.db")).unwrap());
    let pool = Pool::new("198.18.0.0/15", 24).unwrap();
    let networks = Networks::open(db, Pools::new(vec![pool], [1; 5]), &spec("bridge")).unwrap();
    let fabric = FabricSpec { table: None, by_input: false, mark: folder.path().join("mark") };
    let folders = Folders { sockets: plugin.folder().to_owned(), files: Vec::new() };
    let fabric = Fabric::open(Arc::new(networks), &fabric).unwrap().with_plugins(folders);
    World { fabric, plugin, answers, _folder: folder }
}

fn remote(ipam: Ipam) -> NetworkSpec {
    let options = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
    NetworkSpec { driver: Driver::Remote("scripted".into()), ipv6: false, options, ipam, ..spec("far") }
}

impl World {
    /// The questions of one kind.
    fn asked(&self, method: &str) -> Vec<Value> {
        let all = self.plugin.questions().into_iter();
        all.filter(|(asked, _)| asked == method).map(|(_, question)| question).collect()
    }

    fn instead(&self, method: &str, answer: Value) {
        self.answers.lock().unwrap().insert(method.into(), answer);
    }

    fn as_usual(&self) {
        self.answers.lock().unwrap().clear();
    }
}

#[test]
fn a_plugin_makes_a_network_and_the_places_in_it() {
    on_a_host(|host| {
        let world = world(host);
        let (network, _) = world.fabric.create(remote(Ipam::Remote("scripted".into()))).unwrap();
        assert_eq!(network.blocks[0].subnet, Some("10.85.0.0/24".parse().unwrap()));
        assert_eq!(network.blocks[0].gateway, Some("10.85.0.1".parse().unwrap()));
        let made = &world.asked("NetworkDriver.CreateNetwork")[0];
        assert_eq!(made["NetworkID"], network.id.as_str());
        assert_eq!(made["Options"]["com.docker.network.generic"]["colour"], "blue");
        assert_eq!(made["IPv4Data"][0]["Pool"], "10.85.0.0/24");
        assert_eq!(made["IPv4Data"][0]["Gateway"], "10.85.0.1/24");
        let (one, two) = (ContainerId::random(), ContainerId::random());
        let port = PublishedPort {
            port: Port { number: 80, protocol: Protocol::Tcp },
            address: None,
            host: (8080, 8080),
        };
        let connected = world.fabric.connect(&one, "one", &[asks("far")], &[port]).unwrap();
        let first = connected.endpoints[0].clone();
        let sandbox = Sandbox::of(connected.namespace).unwrap();
        let mut route = Route::open_in(sandbox.fd()).unwrap();
        let link = route.link("plug0").unwrap();
        assert_eq!((link.mac, first.mac), (Some([2, 0x99, 0, 0, 0, 1]), [2, 0x99, 0, 0, 0, 1]));
        let own = first.addresses[0].addr();
        assert!(route.addresses(Some(link.index)).unwrap().iter().any(|one| one.address == own));
        let to = |route: &mut Route, far: &str| route.route_to(far.parse().unwrap()).unwrap().gateway;
        assert_eq!(to(&mut route, "198.51.100.1"), Some("10.85.0.1".parse().unwrap()));
        assert_eq!(to(&mut route, "192.0.2.9"), Some("169.254.1.1".parse().unwrap()));
        let joined = &world.asked("NetworkDriver.Join")[0];
        assert!(joined["SandboxKey"].as_str().unwrap().starts_with("/proc/"), "{joined}");
        let mapped = &world.asked("NetworkDriver.ProgramExternalConnectivity")[0]["Options"];
        assert_eq!(mapped["com.docker.network.portmap"][0]["HostPort"], 8080);
        // Another one, which wants an address of its own.
        world.instead("NetworkDriver.CreateEndpoint", json!({}));
        world.instead("NetworkDriver.Join", json!({}));
        let wants = EndpointSpec { ipv4: Some("10.85.0.77".parse().unwrap()), ..asks("far") };
        let other = world.fabric.connect(&two, "two", &[wants], &[]).unwrap();
        assert_eq!(other.endpoints[0].addresses[0].to_string(), "10.85.0.77/24");
        world.as_usual();
        assert!(world.fabric.remove("far").unwrap_err().to_string().contains("active endpoints"));
        world.fabric.disconnect(&one);
        world.fabric.disconnect(&two);
        let released = world.asked("IpamDriver.ReleaseAddress");
        assert!(released.iter().any(|one| one["Address"] == "10.85.0.77" && one["PoolID"] == "pool-1"));
        assert_eq!(world.asked("NetworkDriver.DeleteEndpoint").len(), 2);
        // It stays as long as its plugin wants to keep it.
        world.instead("NetworkDriver.DeleteNetwork", json!({"Err": "in use"}));
        let kept = world.fabric.remove("far").unwrap_err().to_string();
        assert_eq!(kept, "remote: in use (plugin \"scripted\")");
        world.as_usual();
        world.fabric.remove("far").unwrap();
        assert_eq!(world.asked("IpamDriver.ReleasePool")[0]["PoolID"], "pool-1");
        assert!(world.fabric.networks().find("far").is_err());
    });
}

#[test]
fn a_network_of_a_plugin_has_addresses_of_this_engine_where_nobody_else_gives_them() {
    on_a_host(|host| {
        let world = world(host);
        world.instead("NetworkDriver.GetCapabilities", json!({"Scope": "local", "GwAllocChecker": true}));
        world.instead("NetworkDriver.GwAllocCheck", json!({"SkipIPv4": true}));
        let (network, _) = world.fabric.create(remote(Ipam::Own)).unwrap();
        assert_eq!(network.blocks[0].gateway, None);
        assert!(world.asked("IpamDriver.RequestPool").is_empty());
        world.fabric.remove("far").unwrap();
        // Nobody's: the plugin gives them with the interface.
        let (network, _) = world.fabric.create(remote(Ipam::Null)).unwrap();
        assert!(network.blocks.is_empty());
        world.instead("NetworkDriver.CreateEndpoint", json!({"Interface": {"Address": "10.99.0.7/24"}}));
        world.instead("NetworkDriver.Join", json!({}));
        let container = ContainerId::random();
        let connected = world.fabric.connect(&container, "one", &[asks("far")], &[]).unwrap();
        assert_eq!(connected.endpoints[0].addresses[0].to_string(), "10.99.0.7/24");
        assert_eq!(world.fabric.networks().of_container(&container), connected.endpoints);
        // A container that ended unseen is told of at the next start.
        world.fabric.restore(&|_| false);
        assert_eq!(world.asked("NetworkDriver.DeleteEndpoint").len(), 1);
        assert!(world.fabric.networks().all_endpoints().is_empty());
    });
}

#[test]
fn lies_of_plugins_are_named_and_leave_nothing() {
    on_a_host(|host| {
        let world = world(host);
        let own = Ipam::Remote("scripted".into());
        let missing = NetworkSpec { driver: Driver::Remote("weave".into()), ..remote(Ipam::Own) };
        assert_eq!(world.fabric.create(missing).unwrap_err().to_string(), "plugin \"weave\" not found");
        let missing = remote(Ipam::Remote("../scripted".into()));
        assert_eq!(world.fabric.create(missing).unwrap_err().to_string(), "plugin \"../scripted\" not found");
        for (method, answer, why) in [
            ("NetworkDriver.GetCapabilities", json!({"Scope": "moon"}), "got \"moon\""),
            ("NetworkDriver.GetCapabilities", json!({"Scope": "global"}), "not a swarm manager"),
            ("NetworkDriver.CreateNetwork", json!({"Err": "no more"}), "remote: no more"),
            ("NetworkDriver.CreateNetwork", json!([1]), "cannot be read"),
            (
                "IpamDriver.RequestPool",
                json!({"PoolID": "p", "Pool": "x"}),
                "the pool \"x\", which is no subnet",
            ),
            (
                "IpamDriver.RequestPool",
                json!({"PoolID": "p", "Pool": "fd00::/64"}),
                "one for IPv4 was asked for",
            ),
            ("IpamDriver.RequestPool", json!({"PoolID": "p".repeat(5000), "Pool": "x"}), "5000 bytes"),
            ("IpamDriver.RequestAddress", json!({"Address": "10.86.0.1/24"}), "outside of 10.85.0.0/24"),
            ("IpamDriver.RequestAddress", json!({"Address": ""}), "the address \"\", which is none"),
        ] {
            world.instead(method, answer);
            let said = world.fabric.create(remote(own.clone())).unwrap_err().to_string();
            assert!(said.contains(why) && (said.contains("scripted") || said.contains("weave")), "{said}");
            assert!(world.fabric.networks().find("far").is_err());
            world.as_usual();
        }
        let pools = world.asked("IpamDriver.RequestPool").len();
        // The one whose name was too long was not believed to have one.
        assert_eq!(world.asked("IpamDriver.ReleasePool").len(), pools - 1);
        world.fabric.create(remote(own)).unwrap();
        let container = ContainerId::random();
        let before = host.route.links().unwrap().len();
        let created = world.asked("NetworkDriver.CreateEndpoint").len();
        let (join, make) = ("NetworkDriver.Join", "NetworkDriver.CreateEndpoint");
        let name = |name: &str| json!({"InterfaceName": {"SrcName": name, "DstPrefix": "eth"}});
        let lies = [
            (join, name("nope0"), "the interface nope0, which the host does not have"),
            (join, name("../eth0"), "which is no name of one"),
            (join, name(&"x".repeat(100_000)), "which is no name of one"),
            (join, name("lo"), "the interface lo, which is not its own"),
            (join, json!({"Gateway": "x"}), "unable to parse Gateway"),
            (join, json!({"GatewayIPv6": "10.0.0.1"}), "unable to parse Gateway"),
            (join, json!({"StaticRoutes": [{"Destination": "x"}]}), "the route to \"x\""),
            (join, json!({"StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 7}]}), "of type 7"),
            (join, json!({"StaticRoutes": vec![json!({}); 5000]}), "5000 routes"),
            (join, json!({"InterfaceName": {"SrcName": "plugged", "DstPrefix": "a/b"}}), "DstPrefix \"a/b\""),
            (join, json!("text"), "cannot be read"),
            (make, json!({"Interface": {"Address": "10.1.1.1/8"}}), "though it was given"),
            (make, json!({"Interface": {"MacAddress": "02:00"}}), "which is none"),
            ("IpamDriver.RequestAddress", json!({"Address": "10.9.9.9/24"}), "outside of 10.85.0.0/24"),
            ("IpamDriver.RequestAddress", json!({"Address": "10.85.0.1/24"}), "already in use"),
        ];
        for (method, answer, why) in lies {
            world.instead(method, answer);
            let said = world.fabric.connect(&container, "one", &[asks("far")], &[]).unwrap_err().to_string();
            assert!(said.contains(why) && said.len() < 500, "{why}: {said}");
            assert!(world.fabric.networks().all_endpoints().is_empty());
            world.as_usual();
        }
        assert_eq!(host.route.links().unwrap().len(), before);
        let asked = world.asked("NetworkDriver.CreateEndpoint").len() - created;
        assert!(asked > 0 && world.asked("NetworkDriver.DeleteEndpoint").len() >= asked);
    });
}

#[test]
fn rates_are_limited_only_where_the_host_has_an_end() {
    on_a_host(|host| {
        let world = world(host);
        world.fabric.create(remote(Ipam::Own)).unwrap();
        world.fabric.create(spec("near")).unwrap();
        world.instead("NetworkDriver.Join", json!({}));
        let (one, two) = (ContainerId::random(), ContainerId::random());
        let rates = Rates { into: Some(2_000_000), out: Some(1_000_000) };
        let _far = world.fabric.connect(&one, "one", &[asks("far")], &[]).unwrap();
        let error = world.fabric.limit(&one, rates).unwrap_err().to_string();
        assert!(error.contains("container one") && error.contains("driver scripted"), "{error}");
        let near = world.fabric.connect(&two, "two", &[asks("near")], &[]).unwrap();
        if let Err(error) = world.fabric.limit(&two, rates) {
            assert!(error.to_string().contains("sch_tbf"), "{error}");
            return havre_testkit::skip(&error.to_string());
        }
        let outer = host.route.link(outer_name(&near.endpoints[0]).as_str()).unwrap().index;
        let bucket = |host: &mut Host, index: u32| {
            let all = host.route.qdiscs(index).unwrap();
            all.into_iter().find_map(|qdisc| qdisc.bucket).map(|bucket| bucket.rate)
        };
        let queues = |host: &mut Host| {
            let all = host.route.links().unwrap().into_iter();
            all.filter(|link| link.name.starts_with("rate")).map(|link| link.index).collect::<Vec<_>>()
        };
        let queue = queues(host)[0];
        assert_eq!((bucket(host, outer), bucket(host, queue)), (Some(2_000_000), Some(1_000_000)));
        // What goes out and in still arrives.
        let sandbox = Sandbox::of(near.namespace).unwrap();
        let gateway = host_address(&world, "near");
        let (inner, own) =
            (udp(&sandbox, near.endpoints[0].addresses[0].addr()), UdpSocket::bind((gateway, 0)).unwrap());
        inner.send_to(b"out", own.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        let (_, from) = own.recv_from(&mut buffer).unwrap();
        own.send_to(b"in", from).unwrap();
        assert_eq!(inner.recv(&mut buffer).unwrap(), 2);
        assert!(host.route.link(queue).unwrap().counters.tx_packets > 0);
        // Changed, lifted on one side, and gone with the container.
        world.fabric.limit(&two, Rates { into: None, out: Some(500_000) }).unwrap();
        assert_eq!((bucket(host, outer), bucket(host, queue)), (None, Some(500_000)));
        world.fabric.limit(&two, Rates::default()).unwrap();
        assert!(queues(host).is_empty());
        world.fabric.limit(&two, rates).unwrap();
        world.fabric.disconnect(&two);
        assert!(queues(host).is_empty());
        // As after a crash in between.
        let left = End { name: "rateleft", ..End::default() };
        let alias = format!("havre rate {}", near.endpoints[0].id);
        host.route
            .change(|changes| changes.create_link(&left, &Kind::Ifb).set_alias("rateleft", &alias))
            .unwrap();
        world.fabric.restore(&|_| true);
        assert!(queues(host).is_empty());
    });
}

fn host_address(world: &World, network: &str) -> IpAddr {
    world.fabric.networks().find(network).unwrap().blocks[0].gateway.unwrap()
}
