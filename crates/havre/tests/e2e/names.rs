//! Names in networks: who finds whom by which name, who is asked about other names, and what containers are told of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::Test;
use crate::asking::{self, A, AAAA, FAILED, FINE, OUTSIDE, Upstream, ask, ask_tcp, pid};
use crate::private::Private;
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("names_containers find each other by every name they have", found),
    ("names_follow stop, start, rename, connect and disconnect", follow),
    ("names_an alias is shared in turns", turns),
    ("names_links are the askers own", links),
    ("names_links in the default network are lines and variables", default_links),
    ("names_n04_an internal network never asks anybody else", internal),
    ("names_other names are passed on over UDP and TCP", forwarded),
    ("names_n09_floods and noise of one container cost another one nothing", floods),
    ("names_questions wait for the next daemon", kept),
    ("names_files say what they must and keep what the container wrote", files),
    ("names_the host has a name if it is asked for", host),
    ("names_a shared network has its owners files", shared),
    ("names_interfaces have the name, settings and addresses that were asked for", interfaces),
];

/// Runs until it is removed.
const STAY: &[&str] = &["sleep", "1000"];

/// A network and containers in it, removed at the end.
struct Net<'a> {
    client: &'a Client,
    name: String,
    containers: std::cell::RefCell<Vec<String>>,
}

impl<'a> Net<'a> {
    fn new(client: &'a Client, name: &str, flags: &[&str]) -> Self {
        let name = client.unique(name);
        client.run(&[&["network", "create"], flags, &[&name]].concat()).exits(0);
        Self { client, name, containers: std::cell::RefCell::default() }
    }

    /// Starts a container that stays, and returns its name.
    fn start(&self, name: &str, flags: &[&str]) -> String {
        let name = self.client.unique(name);
        let run = ["run", "-d", "--label", "e2e", "--name", &name, "--network", &self.name];
        self.containers.borrow_mut().push(name.clone());
        self.client.run(&[&run[..], flags, &["e2e/busybox"], STAY].concat()).exits(0);
        name
    }

    /// The host's address in it.
    fn gateway(&self) -> String {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        self.client.run(&["network", "inspect", "-f", format, &self.name]).exits(0)
    }

    fn addresses(&self, container: &str) -> Vec<IpAddr> {
        let format = format!(
            "{{{{with index .NetworkSettings.Networks {:?}}}}}{{{{.IPAddress}}}} {{{{.GlobalIPv6Address}}}}{{{{end}}}}",
            self.name
        );
        let text = self.client.run(&["inspect", "-f", &format, container]).exits(0);
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        let containers = self.containers.borrow();
        let names: Vec<&str> = containers.iter().map(String::as_str).collect();
        if !names.is_empty() {
            self.client.run(&[&["rm", "-f"], &names[..]].concat());
        }
        self.client.run(&["network", "rm", &self.name]);
    }
}

/// All addresses of a name as a container sees them; none where there is no such name.
fn look(pid: &str, name: &str) -> Option<BTreeSet<IpAddr>> {
    let (four, six) = (ask(pid, name, A), ask(pid, name, AAAA));
    assert_eq!(four.code, six.code, "{name}");
    let all = four.addresses.into_iter().chain(six.addresses).collect();
    (four.code == FINE).then_some(all)
}

/// A name outside that only this client's tests ask for: answers are kept for all containers.
fn own(client: &Client, name: &str) -> String {
    format!("{name}.{}.example.org", client.unique("x"))
}

fn exec(client: &Client, container: &str, script: &str) -> String {
    client.run(&["exec", container, "sh", "-c", script]).exits(0)
}

fn found(_: &World, client: &Client) {
    let net = Net::new(client, "nfound", &["--ipv6"]);
    let other = Net::new(client, "nother", &[]);
    let web = net.start("nweb", &["--network-alias", "Shop", "--hostname", "own-host"]);
    let asker = net.start("nasker", &[]);
    let hidden = other.start("nhidden", &[]);
    let at: BTreeSet<IpAddr> = net.addresses(&web).into_iter().collect();
    assert_eq!(at.len(), 2, "{at:?}");
    let id = client.run(&["inspect", "-f", "{{.Id}}", &web]).exits(0);
    let within = format!("{web}.{}", net.name);
    let inside = pid(client, &asker);
    for name in [web.as_str(), &web.to_uppercase(), &id[..12], "shop", "own-host", &within] {
        assert_eq!(look(&inside, name).as_ref(), Some(&at), "{name}");
    }
    // Names of others are not ours, and nobody out there knows them.
    for name in [hidden.as_str(), &format!("{hidden}.{}", other.name)] {
        assert_ne!(ask(&inside, name, A).code, FINE, "{name}");
    }
    // As programs do it.
    let four = at.iter().find(|address| address.is_ipv4()).unwrap().to_string();
    let said = exec(client, &asker, &format!("nslookup {web}"));
    assert!(at.iter().all(|address| said.contains(&format!("Address: {address}"))), "{said}");
    assert!(said.contains("127.0.0.11:53"), "answers come from the port that was asked: {said}");
    let said = exec(client, &asker, &format!("nslookup {four}"));
    assert!(said.contains(&format!("name = {web}.{}", net.name)), "{said}");
    exec(client, &asker, &format!("ping -c 1 -W 5 {web} >/dev/null && ping -c 1 -W 5 -6 {web} >/dev/null"));
    // Its own name leads to itself, whoever is asked.
    assert_eq!(look(&pid(client, &web), &web), Some(at));
    let names = format!("{{{{json (index .NetworkSettings.Networks {:?}).DNSNames}}}}", net.name);
    let names = client.run(&["inspect", "-f", &names, &web]).exits(0);
    assert_eq!(names, format!(r#"["{web}","Shop","{}","own-host"]"#, &id[..12]));
    // The default network has no names, as with Docker.
    let plain =
        client.run(&["run", "--rm", "--label", "e2e", "e2e/busybox", "cat", "/etc/resolv.conf"]).exits(0);
    assert!(!plain.contains("127.0.0.11"), "{plain}");
}

fn follow(_: &World, client: &Client) {
    let net = Net::new(client, "nfollow", &[]);
    let later = Net::new(client, "nlater", &[]);
    let (web, asker) = (net.start("fweb", &["--network-alias", "fshop"]), net.start("fasker", &[]));
    let inside = pid(client, &asker);
    let there = |name: &str| ask(&inside, name, A).addresses;
    let at = net.addresses(&web);
    assert_eq!((there(&web), there("fshop")), (at.clone(), at.clone()));
    client.run(&["stop", "-t", "0", &web]).exits(0);
    assert_eq!((there(&web), there("fshop")), (vec![], vec![]), "it does not run");
    client.run(&["start", &web]).exits(0);
    assert_eq!(there(&web), net.addresses(&web));
    let new = client.unique("frenamed");
    client.run(&["rename", &web, &new]).exits(0);
    assert_eq!((there(&web), there(&new)), (vec![], net.addresses(&new)));
    client.run(&["network", "disconnect", &net.name, &new]).exits(0);
    assert_eq!(there(&new), Vec::<IpAddr>::new());
    client.run(&["network", "connect", "--alias", "fagain", &net.name, &new]).exits(0);
    assert_eq!((there("fagain"), there("fshop")), (net.addresses(&new), vec![]));
    // A network that comes later brings its names, to a container without any too.
    let plain = client.unique("fplain");
    let run = ["run", "-d", "--label", "e2e", "--name", &plain, "e2e/busybox"];
    client.run(&[&run[..], STAY].concat()).exits(0);
    later.containers.borrow_mut().push(plain.clone());
    assert!(!exec(client, &plain, "cat /etc/resolv.conf").contains("127.0.0.11"));
    client.run(&["network", "connect", &later.name, &plain]).exits(0);
    assert!(exec(client, &plain, "cat /etc/resolv.conf").contains("\nnameserver 127.0.0.11\n"));
    client.run(&["network", "connect", &later.name, &asker]).exits(0);
    assert_eq!(ask(&pid(client, &plain), &asker, A).addresses, later.addresses(&asker));
    assert_eq!(there(&plain), later.addresses(&plain));
    client.run(&["network", "disconnect", &later.name, &asker]).exits(0);
    assert_eq!(there(&plain), Vec::<IpAddr>::new());
    client.run(&["rm", "-f", &new]).exits(0);
}

fn turns(_: &World, client: &Client) {
    let net = Net::new(client, "nturns", &[]);
    for name in ["tone", "ttwo", "tthree"] {
        net.start(name, &["--network-alias", "pool"]);
    }
    let inside = pid(client, &net.start("tasker", &[]));
    let answers: Vec<Vec<IpAddr>> = (0..30).map(|_| ask(&inside, "pool", A).addresses).collect();
    assert!(answers.iter().all(|all| all.len() == 3), "{answers:?}");
    let first: BTreeSet<IpAddr> = answers.iter().map(|all| all[0]).collect();
    assert_eq!(first.len(), 3, "{first:?}");
}

fn links(_: &World, client: &Client) {
    let net = Net::new(client, "nlinks", &[]);
    let db = net.start("ldb", &[]);
    let web = net.start("lweb", &["--link", &format!("{db}:store"), "--link", &db]);
    let (at, web_pid, db_pid) = (net.addresses(&db), pid(client, &web), pid(client, &db));
    assert_eq!(ask(&web_pid, "store", A).addresses, at);
    assert_eq!(ask(&web_pid, &db, A).addresses, at);
    assert_eq!(ask(&db_pid, "store", A).addresses, Vec::<IpAddr>::new());
    let shown = format!("{{{{json (index .NetworkSettings.Networks {:?}).Links}}}}", net.name);
    assert_eq!(client.run(&["inspect", "-f", &shown, &web]).exits(0), format!(r#"["{db}:store","{db}"]"#));
}

fn default_links(_: &World, client: &Client) {
    let (db, web) = (client.unique("dldb"), client.unique("dlweb"));
    let run = |name: &str, flags: &[&str]| {
        let run = ["run", "-d", "--label", "e2e", "--name", name];
        client.run(&[&run[..], flags, &["e2e/busybox"], STAY].concat()).exits(0);
    };
    let address =
        || client.run(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", &db]).exits(0);
    run(&db, &["--expose", "5432", "-e", "KEY=value", "--hostname", "dbhost"]);
    run(&web, &["--link", &format!("{db}:my-db")]);
    let hosts = || exec(client, &web, "cat /etc/hosts");
    let line = |address: &str| format!("{address}\tmy-db dbhost {db}\n");
    let before = address();
    assert!(format!("{}\n", hosts()).contains(&line(&before)), "{}", hosts());
    exec(client, &web, "ping -c 1 -W 5 my-db");
    let env = exec(client, &web, "env");
    for wanted in [
        format!("MY_DB_PORT=tcp://{before}:5432"),
        format!("MY_DB_PORT_5432_TCP_ADDR={before}"),
        format!("MY_DB_NAME=/{web}/my-db"),
        "MY_DB_ENV_KEY=value".into(),
    ] {
        assert!(env.lines().any(|line| line == wanted), "{wanted} in {env}");
    }
    let shown = client.run(&["inspect", "-f", "{{json .HostConfig.Links}}", &web]).exits(0);
    assert_eq!(shown, format!(r#"["/{db}:/{web}/my-db"]"#));
    // Where it comes back, somebody else has its place meanwhile.
    client.run(&["stop", "-t", "0", &db]).exits(0);
    let other = client.unique("dlother");
    run(&other, &[]);
    client.run(&["start", &db]).exits(0);
    let after = address();
    assert_ne!(before, after);
    // It is told behind the start.
    let told = (0..1000).any(|_| {
        let text = format!("{}\n", hosts());
        text.contains(&line(&after)) && !text.contains(&line(&before))
    });
    assert!(told, "{}", hosts());
    client.run(&["stop", "-t", "0", &db, &web]).exits(0);
    client
        .run(&["start", &web])
        .fails(1, &format!("Cannot link to a non running container: /{db} AS /{web}/my-db"));
    client
        .run(&["run", "--rm", "--link", "e2e-nobody", "e2e/busybox"])
        .fails(125, "could not get container for e2e-nobody");
    client.run(&["rm", "-f", &db, &web, &other]).exits(0);
}

fn internal(_: &World, client: &Client) {
    let (out, inner) = (Net::new(client, "nout", &[]), Net::new(client, "ninner", &["--internal"]));
    let upstream = Upstream::at(&out.gateway());
    let dns = out.gateway();
    let alone = inner.start("ialone", &["--dns", &dns]);
    let mate = inner.start("imate", &[]);
    let inside = pid(client, &alone);
    assert_eq!(ask(&inside, &mate, A).addresses, inner.addresses(&mate));
    for name in ["example.org", "imate.example.org", "x", "1.0.0.10.in-addr.arpa", "ialone.nout"] {
        assert_eq!(ask(&inside, name, A).code, FAILED, "{name}");
    }
    assert_eq!(ask_tcp(&inside, &["secret.example.org"])[0].code, FAILED);
    assert_eq!(upstream.asked(), (0, 0));
    // With a network that leads out it may, and without it may not again.
    client.run(&["network", "connect", &out.name, &alone]).exits(0);
    let (one, two) = (own(client, "one"), own(client, "two"));
    assert_eq!(ask(&inside, &one, A).addresses, [IpAddr::V4(OUTSIDE)]);
    assert_eq!(upstream.asked().0, 1);
    client.run(&["network", "disconnect", &out.name, &alone]).exits(0);
    assert_eq!(ask(&inside, &two, A).code, FAILED);
    // Nor is an answer given that was kept.
    assert_eq!(ask(&inside, &one, A).code, FAILED);
    assert_eq!(upstream.asked().0, 1);
}

fn forwarded(_: &World, client: &Client) {
    let net = Net::new(client, "nforward", &[]);
    let gateway = net.gateway();
    let upstream = Upstream::at(&gateway);
    let inside = pid(client, &net.start("oasker", &["--dns", &gateway]));
    let outside = [IpAddr::V4(OUTSIDE)];
    let (www, big) = (own(client, "www"), own(client, "big"));
    assert_eq!(ask(&inside, &www, A).addresses, outside);
    assert_eq!(upstream.asked(), (1, 0));
    // Kept, for everybody who asks the same servers.
    let second = pid(client, &net.start("osecond", &["--dns", &gateway]));
    assert_eq!(ask(&second, &www.to_uppercase(), A).addresses, outside);
    assert_eq!(upstream.asked(), (1, 0));
    // What is too long comes over TCP, to whoever asks over it.
    let cut = ask(&inside, &big, A);
    assert!(cut.cut && cut.code == FINE, "{cut:?}");
    let answers = ask_tcp(&inside, &[&big, &www, "nobody.nowhere"]);
    let long = answers.iter().map(|answer| answer.addresses.len()).max();
    assert_eq!(long, Some(300));
    assert!(upstream.asked().1 > 0, "{:?}", upstream.asked());
    // A name without a dot is somebody's there too, unless it was asked for otherwise.
    assert_eq!(ask(&inside, &client.unique("single"), A).addresses, outside);
    let dots = pid(client, &net.start("odots", &["--dns", &gateway, "--dns-opt", "ndots:2"]));
    assert_eq!(ask(&dots, &client.unique("another"), A).addresses, Vec::<IpAddr>::new());
    // The server itself, or the container's own loopback, is never asked on the host.
    let looped = pid(client, &net.start("oloop", &["--dns", "127.0.0.11", "--dns", "127.0.0.1"]));
    assert_eq!(ask(&looped, &www, A).code, FAILED);
}

fn floods(_: &World, client: &Client) {
    let net = Net::new(client, "nfloods", &[]);
    let gateway = net.gateway();
    let upstream = Upstream::at(&gateway);
    let (bad, good) = (net.start("bbad", &["--dns", &gateway]), net.start("bgood", &["--dns", &gateway]));
    let (bad, inside) = (pid(client, &bad), pid(client, &good));
    let socket = asking::asker(&bad);
    // So many at once that nobody answers: the most go on, the rest is refused at once.
    for number in 0..400 {
        socket.send(&asking::question(number, &format!("silent{number}.example.org"), A)).unwrap();
    }
    let refused = (0..200).map(|_| asking::next(&socket)).filter(|answer| answer.code == FAILED).count();
    assert_eq!(refused, 200);
    let streams: Vec<std::net::TcpStream> = asking::within(&bad, || {
        (0..64).filter_map(|_| std::net::TcpStream::connect("127.0.0.11:53").ok()).collect()
    });
    for noise in [
        vec![],
        vec![0xff; 700],
        vec![0; 11],
        [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat(),
    ] {
        socket.send(&noise).unwrap();
    }
    assert_eq!(ask(&inside, &good, A).addresses, net.addresses(&good));
    let fine = own(client, "fine");
    assert_eq!(ask(&inside, &fine, A).addresses, [IpAddr::V4(OUTSIDE)]);
    assert_eq!(ask_tcp(&inside, &[&fine])[0].addresses, [IpAddr::V4(OUTSIDE)]);
    // Those that went on were asked a second time at most.
    assert!(upstream.asked().0 < 2 * 128 + 10, "{:?}", upstream.asked());
    drop(streams);
}

fn kept(_: &World, client: &Client) {
    let mut daemon = Private::start("{}", &["-H", "SOCKET"]);
    daemon.load(client);
    let run = |daemon: &Private, args: &[&str]| daemon.run(client, args).exits(0);
    run(&daemon, &["network", "create", "front"]);
    run(&daemon, &["network", "create", "back"]);
    let start = |daemon: &Private, name: &str| {
        run(daemon, &["run", "-d", "--name", name, "--network", "front", "busybox", "sleep", "1000"])
    };
    start(&daemon, "web");
    start(&daemon, "asker");
    run(&daemon, &["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]);
    run(&daemon, &["network", "connect", "back", "plain"]);
    let inside = |daemon: &Private, name: &str| run(daemon, &["inspect", "-f", "{{.State.Pid}}", name]);
    let (asker, plain) = (inside(&daemon, "asker"), inside(&daemon, "plain"));
    let at = ask(&asker, "web", A).addresses;
    assert_eq!(at.len(), 1);
    daemon.signal(rustix::process::Signal::KILL);
    // Asked while nobody is there, answered by the next one, on the same socket.
    let (socket, other) = (asking::asker(&asker), asking::asker(&plain));
    socket.send(&asking::question(41, "web", A)).unwrap();
    other.send(&asking::question(42, "plain", A)).unwrap();
    let stream = std::thread::spawn({
        let asker = asker.clone();
        move || ask_tcp(&asker, &["web"])
    });
    daemon.replace(&["-H", "SOCKET"]);
    let said = asking::next(&socket);
    assert_eq!((said.number, &said.addresses), (41, &at));
    let said = asking::next(&other);
    assert_eq!((said.number, said.addresses.len()), (42, 1));
    assert_eq!(stream.join().unwrap()[0].addresses, at);
    // And from then on as ever.
    start(&daemon, "late");
    assert_eq!(ask(&asker, "late", A).addresses.len(), 1);
    run(&daemon, &["rm", "-f", "web"]);
    assert_eq!(ask(&asker, "web", A).addresses.len(), 0);
    // An orderly end is no different.
    daemon.end();
    let socket = asking::asker(&asker);
    socket.send(&asking::question(43, "late", A)).unwrap();
    daemon.restart(&["-H", "SOCKET"]);
    assert_eq!(asking::next(&socket).addresses.len(), 1);
}

fn files(_: &World, client: &Client) {
    let (net, second) = (Net::new(client, "netc", &[]), Net::new(client, "netc2", &["--ipv6"]));
    let name = net.start(
        "etc",
        &[
            "--hostname",
            "deep",
            "--domainname",
            "example.org",
            "--add-host",
            "given:10.0.0.1",
            "--dns-search",
            "example.net",
        ],
    );
    let own = net.addresses(&name)[0];
    let hosts = exec(client, &name, "cat /etc/hosts");
    assert!(hosts.contains(&format!("{own}\tdeep.example.org deep")), "{hosts}");
    assert!(hosts.contains("10.0.0.1\tgiven\n"), "{hosts}");
    assert_eq!(exec(client, &name, "hostname; cat /etc/hostname"), "deep\ndeep");
    let resolv = exec(client, &name, "cat /etc/resolv.conf");
    for wanted in [
        "nameserver 127.0.0.11\n",
        "search example.net\n",
        "ndots:0",
        "# Based on host file: '/etc/resolv.conf' (internal resolver)\n",
        "# ExtServers: [host(",
        "# Overrides: [search]\n",
        "# Option ndots from: internal\n",
    ] {
        assert!(resolv.contains(wanted), "{wanted:?} in {resolv}");
    }
    // What it writes stays, and so does the file: it is mounted.
    exec(client, &name, "echo '10.9.9.9 mine' >>/etc/hosts; ls -i /etc/hosts /etc/resolv.conf >/tmp/inodes");
    client.run(&["network", "connect", &second.name, &name]).exits(0);
    let all: Vec<String> =
        second.addresses(&name).iter().map(|address| format!("{address}\tdeep.example.org deep")).collect();
    assert_eq!(all.len(), 2);
    let hosts = exec(client, &name, "cat /etc/hosts");
    assert!(all.iter().all(|line| hosts.contains(line)) && hosts.contains("10.9.9.9 mine\n"), "{hosts}");
    exec(client, &name, "ls -i /etc/hosts /etc/resolv.conf | cmp - /tmp/inodes");
    client.run(&["network", "disconnect", &net.name, &name]).exits(0);
    let hosts = exec(client, &name, "cat /etc/hosts");
    assert!(!hosts.contains(&format!("{own}\t")) && hosts.contains("10.9.9.9 mine"), "{hosts}");
    // It cannot put anything else in the place of its files, and what it makes of them is its own affair.
    exec(
        client,
        &name,
        "! ln -sf /tmp/x /etc/hosts 2>/dev/null; echo 'nameserver 10.1.1.1' >/etc/resolv.conf; \
         dd if=/dev/zero of=/etc/hosts bs=1M count=2 2>/dev/null",
    );
    client.run(&["network", "connect", &net.name, &name]).exits(0);
    assert_eq!(
        exec(client, &name, "cat /etc/resolv.conf; wc -c </etc/hosts"),
        "nameserver 10.1.1.1\n2097152"
    );
    // The next start writes them anew.
    client.run(&["restart", "-t", "0", &name]).exits(0);
    assert!(exec(client, &name, "cat /etc/resolv.conf").contains("nameserver 127.0.0.11"));
    assert_eq!(exec(client, &name, "grep -c deep.example.org /etc/hosts"), "3");
    second.containers.borrow_mut().push(name);
}

fn host(_: &World, client: &Client) {
    let net = Net::new(client, "nhost", &[]);
    let name = net.start("hone", &["--add-host", "outside:host-gateway", "--add-host", "six:fd00::6"]);
    let gateway =
        client.run(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]).exits(0);
    let hosts = exec(client, &name, "cat /etc/hosts");
    assert!(hosts.contains(&format!("{gateway}\toutside\n")) && hosts.contains("fd00::6\tsix\n"), "{hosts}");
    exec(client, &name, "ping -c 1 -W 5 outside");
    let shown = client.run(&["inspect", "-f", "{{json .HostConfig.ExtraHosts}}", &name]).exits(0);
    assert_eq!(shown, r#"["outside:host-gateway","six:fd00::6"]"#);
    let json = r#"{"host-gateway-ips":["192.0.2.7","2001:db8::7"],"dns":["192.0.2.53"],"dns-search":["example.net"],
        "dns-opts":["timeout:3"]}"#;
    let daemon = Private::start(json, &["-H", "SOCKET"]);
    daemon.load(client);
    let run =
        ["run", "--rm", "--network", "none", "--add-host", "x:host-gateway", "busybox", "cat", "/etc/hosts"];
    let hosts = daemon.run(client, &run).exits(0);
    assert!(hosts.contains("192.0.2.7\tx\n2001:db8::7\tx"), "{hosts}");
    let run = ["run", "--rm", "--dns-opt", "ndots:3", "busybox", "cat", "/etc/resolv.conf"];
    let said = daemon.run(client, &run).exits(0);
    assert!(said.contains("nameserver 192.0.2.53\nsearch example.net\noptions ndots:3\n"), "{said}");
}

fn shared(_: &World, client: &Client) {
    let net = Net::new(client, "nshared", &[]);
    let owner = net.start("sowner", &["--hostname", "owner", "--add-host", "given:10.0.0.1"]);
    let joined = client.unique("sjoined");
    let mode = format!("container:{owner}");
    let run =
        ["run", "--rm", "--label", "e2e", "--name", &joined, "--network", &mode, "e2e/busybox", "sh", "-c"];
    let script = format!("cat /etc/hosts /etc/resolv.conf /etc/hostname; nslookup {owner}");
    let seen = client.run(&[&run[..], &[&script]].concat()).exits(0);
    for wanted in ["10.0.0.1\tgiven\n", "\towner\n", "nameserver 127.0.0.11\n", &format!("Name:\t{owner}\n")]
    {
        assert!(seen.contains(wanted), "{wanted:?} in {seen}");
    }
}

fn interfaces(_: &World, client: &Client) {
    let net = Net::new(client, "nplaces", &[]);
    let spec = format!(
        "name={},driver-opt=com.docker.network.endpoint.ifname=lan7,link-local-ip=169.254.7.7,\
         \"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.shared_media=0\"",
        net.name
    );
    let name = client.unique("pone");
    let run = ["run", "-d", "--label", "e2e", "--name", &name, "--network", &spec, "e2e/busybox"];
    client.run(&[&run[..], STAY].concat()).exits(0);
    net.containers.borrow_mut().push(name.clone());
    let seen = exec(
        client,
        &name,
        "cat /proc/sys/net/ipv4/conf/lan7/log_martians /proc/sys/net/ipv4/conf/lan7/shared_media; ip -4 addr show lan7",
    );
    assert!(seen.starts_with("1\n0\n") && seen.contains("inet 169.254.7.7/16"), "{seen}");
    let wrong = |option: &str, why: &str| {
        let spec = format!("name={},\"driver-opt=com.docker.network.endpoint.{option}\"", net.name);
        client.run(&["run", "--rm", "--network", &spec, "e2e/busybox"]).fails(125, why);
    };
    wrong("ifname=a/b", "invalid com.docker.network.endpoint.ifname");
    wrong("sysctls=net.ipv4.conf.eth0.log_martians=1", "unrecognised network interface sysctl");
    wrong("nope=1", "unknown endpoint option");
    wrong("sysctls=net.ipv4.conf.IFNAME.nope=1", "cannot write");
}
