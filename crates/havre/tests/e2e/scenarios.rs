//! What people do with networks, with real servers: a web server that is reached from everywhere, a package tool behind
//! address translation, a database that is found by its name, a chain whose ends do not see each other.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::Test;
use crate::servers::{SERVERS, image};
use crate::world::{Client, World};

pub(crate) const ALL: &[Test] = &[
    ("scenario_nginx is fetched from everywhere it is published to", web),
    ("scenario_the package tool reaches its mirror through address translation", packages),
    ("scenario_a database is reached by its name", database),
    ("scenario_the ends of a chain of networks do not see each other", chain),
];

/// Loads a server's image, or says why not.
fn loaded(world: &World, client: &Client, name: &str) -> Option<String> {
    if !world.has_debian() {
        return None;
    }
    let server = SERVERS.iter().find(|server| server.name == name).unwrap();
    client.run(&["load", "-q", "-i", &image(client, server).to_string_lossy()]).exits(0);
    Some(format!("server-{name}:1"))
}

/// What a web server says; none while nobody listens there.
fn fetch(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

const WELCOME: &str = "Welcome to nginx!";

fn web(world: &World, client: &Client) {
    let Some(image) = loaded(world, client, "nginx") else { return };
    let (front, other, name) = (client.unique("wfront"), client.unique("wother"), client.unique("wnginx"));
    client.run(&["network", "create", "--ipv6", &front]).exits(0);
    client.run(&["network", "create", "--ipv6", &other]).exits(0);
    let run = ["run", "-d", "--label", "e2e", "--name", &name, "--network", &front];
    client.run(&[&run[..], &["-p", "80", "-p", "127.0.0.1::80", &image]].concat()).exits(0);
    let ports: Vec<SocketAddr> =
        client.run(&["port", &name, "80"]).exits(0).lines().map(|line| line.parse().unwrap()).collect();
    let port = |wanted: &str| ports.iter().find(|at| at.ip().to_string() == wanted).unwrap().port();
    let (any, six, own) = (port("0.0.0.0"), port("::"), port("127.0.0.1"));
    let ready = (0..1000)
        .find_map(|_| fetch(SocketAddr::new([127, 0, 0, 1].into(), any)).filter(|text| !text.is_empty()));
    assert!(ready.is_some_and(|text| text.contains(WELCOME)), "on loopback");
    let gateway = |network: &str, at: usize| -> IpAddr {
        let format = format!("{{{{(index .IPAM.Config {at}).Gateway}}}}");
        client.run(&["network", "inspect", "-f", &format, network]).exits(0).parse().unwrap()
    };
    // Addresses of this machine: those that it has in networks are as good as any.
    let (four, of_six) = (gateway(&other, 0), gateway(&other, 1));
    for (what, at) in [
        ("its own port on loopback", SocketAddr::new([127, 0, 0, 1].into(), own)),
        ("an address of the host", SocketAddr::new(four, any)),
        ("its own network's address of the host", SocketAddr::new(gateway(&front, 0), any)),
        ("loopback over IPv6", SocketAddr::new("::1".parse().unwrap(), six)),
        ("an address of the host over IPv6", SocketAddr::new(of_six, six)),
    ] {
        assert!(fetch(at).is_some_and(|text| text.contains(WELCOME)), "{what}: {at}");
    }
    assert_eq!(fetch(SocketAddr::new(four, own)), None, "what is published on loopback is nowhere else");
    // From containers: by name in its network, and by the host's addresses from anywhere, the same network included.
    let seen = |network: &str, url: &str| {
        let run = ["run", "--rm", "--label", "e2e", "--network", network, "e2e/busybox"];
        client.run(&[&run[..], &["wget", "-q", "-T", "5", "-O", "-", url]].concat())
    };
    for (network, url) in [
        (&front, format!("http://{name}/")),
        (&front, format!("http://{four}:{any}/")),
        (&front, format!("http://[{of_six}]:{six}/")),
        (&other, format!("http://{four}:{any}/")),
        (&other, format!("http://[{of_six}]:{six}/")),
    ] {
        assert!(seen(network, &url).exits(0).contains(WELCOME), "{url} from {network}");
    }
    // It reaches itself so too.
    let itself = format!("exec 3<>/dev/tcp/{four}/{any}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    assert!(
        client.run(&["exec", &name, "bash", "-c", &itself]).exits(0).contains(WELCOME),
        "itself by the host"
    );
    // And nobody in another network by its own address.
    let format = format!("{{{{(index .NetworkSettings.Networks {front:?}).IPAddress}}}}");
    let address = client.run(&["inspect", "-f", &format, &name]).exits(0);
    assert_ne!(seen(&other, &format!("http://{address}/")).code, 0);
    client.run(&["rm", "-f", &name]).exits(0);
    client.run(&["network", "rm", &front, &other]).exits(0);
}

fn packages(world: &World, client: &Client) {
    if !world.has_debian() {
        return;
    }
    let net = client.unique("apt");
    client.run(&["network", "create", &net]).exits(0);
    for network in ["bridge", &net] {
        let run = ["run", "--rm", "--label", "e2e", "--network", network, "debian:test"];
        let said = client.run(&[&run[..], &["apt-get", "update"]].concat()).exits(0);
        assert!(said.contains("Reading package lists"), "{network}: {said}");
        assert!(!said.contains("Err:"), "{network}: {said}");
    }
    client.run(&["network", "rm", &net]).exits(0);
}

fn database(world: &World, client: &Client) {
    let Some(image) = loaded(world, client, "postgresql") else { return };
    let (net, name) = (client.unique("dnet"), client.unique("ddb"));
    client.run(&["network", "create", "--internal", &net]).exits(0);
    let serve = "echo 'host all all all trust' >/tmp/hba; exec /usr/lib/postgresql/*/bin/postgres \
                 -D /var/lib/postgresql/*/main -c config_file=$(echo /etc/postgresql/*/main/postgresql.conf) \
                 -c hba_file=/tmp/hba -c unix_socket_directories=/tmp -c ssl=off -c listen_addresses='*'";
    let run = ["run", "-d", "--label", "e2e", "--name", &name, "--network", &net, "--network-alias", "db"];
    client.run(&[&run[..], &[&image, "sh", "-c", serve]].concat()).exits(0);
    for host in [name.as_str(), "db"] {
        let ask = format!(
            "for i in $(seq 100); do psql -h {host} -qAt -c 'select 6 * 7' 2>/tmp/why && exit; sleep 0.1; done; cat /tmp/why; exit 1"
        );
        let run = ["run", "--rm", "--label", "e2e", "--network", &net, &image, "bash", "-c", &ask];
        assert_eq!(client.run(&run).exits(0), "42", "{host}");
    }
    client.run(&["rm", "-f", &name]).exits(0);
    client.run(&["network", "rm", &net]).exits(0);
}

fn chain(_: &World, client: &Client) {
    let [left, right] = ["cleft", "cright"].map(|name| {
        let name = client.unique(name);
        client.run(&["network", "create", &name]).exits(0);
        name
    });
    let start = |name: &str, networks: &[&str]| {
        let name = client.unique(name);
        let networks: Vec<&str> = networks.iter().flat_map(|network| ["--network", network]).collect();
        let run = ["run", "-d", "--label", "e2e", "--name", &name];
        client.run(&[&run[..], &networks, &["e2e/busybox", "sleep", "1000"]].concat()).exits(0);
        name
    };
    let (first, middle, last) =
        (start("cfirst", &[&left]), start("cmiddle", &[&left, &right]), start("clast", &[&right]));
    let ping = |from: &str, to: &str| client.run(&["exec", from, "ping", "-c", "1", "-W", "1", to]).code == 0;
    for (from, to) in [(&first, &middle), (&middle, &first), (&middle, &last), (&last, &middle)] {
        assert!(ping(from, to), "{from} to {to}");
    }
    let address = |name: &str, network: &str| {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        client.run(&["inspect", "-f", &format, name]).exits(0)
    };
    let (of_first, of_last) = (address(&first, &left), address(&last, &right));
    for (from, to) in [(&first, &last), (&first, &of_last), (&last, &first), (&last, &of_first)] {
        assert!(!ping(from, to), "{from} to {to}");
    }
    // Not by the other address of the middle either.
    assert!(!ping(&first, &address(&middle, &right)));
    client.run(&["rm", "-f", &first, &middle, &last]).exits(0);
    client.run(&["network", "rm", &left, &right]).exits(0);
}
