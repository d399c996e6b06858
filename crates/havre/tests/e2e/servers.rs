//! Servers as people run them: nginx, PostgreSQL and Redis from Debian's packages, installed in containers, committed,
//! pushed, pulled into an engine that has nothing, and run there.

use std::path::PathBuf;

use crate::Test;
use crate::private::Private;
use crate::registries::DebianRegistry;
use crate::world::{Client, World};

/// Once, with the clients in turn.
pub(crate) const ALL: &[Test] = &[("servers from Debian's packages go to another engine and serve", travel)];

pub(crate) struct Server {
    pub(crate) name: &'static str,
    packages: &'static str,
    /// Changes of the commit.
    changes: &'static [&'static str],
    /// Run in the container until it succeeds, and what it prints then.
    ask: &'static str,
    answer: &'static str,
}

/// What is installed is kept as an archive; making it asks the mirror that the Debian image came from.
pub(crate) fn image(client: &Client, server: &Server) -> PathBuf {
    let path = havre_testkit::cache_folder().join(format!("server-{}.tar", server.name));
    if path.exists() {
        return path;
    }
    let container = client.unique(server.name);
    let install = format!(
        "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && \
         apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {} && \
         apt-get clean && rm -rf /var/lib/apt/lists/*",
        server.packages
    );
    let run = ["run", "--name", &container, "--label", "e2e", "--network", "host", "debian:test", "sh", "-c"];
    client.run(&[&run[..], &[&install]].concat()).exits(0);
    let tag = format!("server-{}:1", server.name);
    let changes: Vec<&str> = server.changes.iter().flat_map(|change| ["-c", change]).collect();
    client.run(&[&["commit"], &changes[..], &[&container, &tag]].concat()).exits(0);
    client.run(&["rm", &container]).exits(0);
    let unfinished = path.with_extension(container);
    client.run(&["save", "-o", &unfinished.to_string_lossy(), &tag]).exits(0);
    client.run(&["rmi", &tag]).exits(0);
    rustix::fs::rename(&unfinished, &path).unwrap();
    path
}

fn travel(world: &World, _: &Client) {
    if !world.has_debian() {
        return;
    }
    let Some(registry) = DebianRegistry::plain() else { return };
    let empty = Private::start("{}", &["-H", "SOCKET"]);
    for (server, client) in SERVERS.iter().zip(world.clients().iter().cycle()) {
        let archive = image(client, server);
        client.run(&["load", "-q", "-i", &archive.to_string_lossy()]).exits(0);
        let (local, name) =
            (format!("server-{}:1", server.name), registry.name(&format!("{}:1", server.name)));
        client.run(&["tag", &local, &name]).exits(0);
        client.run(&["push", "-q", &name]).exits(0);
        client.run(&["rmi", &local, &name]).exits(0);
        let run = |args: &[&str]| empty.run(client, args);
        assert_eq!(run(&["images", "-q", &name]).exits(0), "");
        run(&["pull", "-q", &name]).exits(0);
        run(&["run", "-d", "--name", server.name, "--network", "none", &name]).exits(0);
        let patient = format!(
            "for i in $(seq 100); do ( {} ) 2>/tmp/why && exit; sleep 0.1; done; cat /tmp/why",
            server.ask
        );
        let said = run(&["exec", server.name, "bash", "-c", &patient]).exits(0);
        assert!(said.contains(server.answer), "{said:?}: {:?}", run(&["logs", server.name]));
    }
    let run = |args: &[&str]| empty.run(&world.clients()[0], args);
    for server in SERVERS {
        run(&["stop", server.name]).exits(0);
        run(&["rm", server.name]).exits(0);
    }
    run(&["system", "fsck"]).exits(0);
}

pub(crate) const SERVERS: &[Server] = &[
    Server {
        name: "nginx",
        packages: "nginx-light",
        changes: &[r#"CMD ["nginx", "-g", "daemon off;"]"#, "EXPOSE 80", "STOPSIGNAL SIGQUIT"],
        ask: r"exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; grep -a 'Welcome to nginx!' <&3",
        answer: "Welcome to nginx!",
    },
    Server {
        name: "postgresql",
        packages: "postgresql",
        changes: &[
            "USER postgres",
            "CMD exec /usr/lib/postgresql/*/bin/postgres -D /var/lib/postgresql/*/main \
             -c config_file=$(echo /etc/postgresql/*/main/postgresql.conf) \
             -c unix_socket_directories=/tmp -c ssl=off",
            "EXPOSE 5432",
            "STOPSIGNAL SIGINT",
        ],
        ask: "psql -h /tmp -qAt -c 'create table t (n int)' -c 'insert into t values (41)' -c 'select n + 1 from t'",
        answer: "42",
    },
    Server {
        name: "redis",
        packages: "redis-server",
        changes: &["USER redis", "WORKDIR /var/lib/redis", r#"CMD ["redis-server", "--daemonize", "no"]"#],
        ask: "redis-cli set key value >/dev/null && redis-cli get key | grep value",
        answer: "value",
    },
];
