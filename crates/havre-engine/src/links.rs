//! Links of the default network: other containers by names of one's own, as lines of `/etc/hosts` and as variables.
//!
//! Invariant: a link names its container by id, so that a new name does not break it.
//! Not here: links in user-defined networks, which are names that the name server knows.

use std::net::IpAddr;

use havre_base::{ContainerId, ContainerName};
use havre_net::ports::{Port, Protocol};

use crate::EngineError;
use crate::launcher::Launcher;
use crate::record::{Fixed, View};

/// A running container that another one is linked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linked {
    alias: String,
    hostname: String,
    name: String,
    pub(crate) addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    env: Vec<String>,
}

/// The links of a container in the default network: container and alias.
fn asked<'a>(launcher: &'a Launcher, fixed: &'a Fixed) -> impl Iterator<Item = (&'a str, &'a str)> {
    let linking = fixed.spec.endpoints.iter().filter(|endpoint| !endpoint.links.is_empty());
    let networks = launcher.fabric.networks();
    let of_default =
        linking.filter(|endpoint| networks.find(&endpoint.network).is_ok_and(|net| net.is_predefined()));
    of_default.flat_map(|endpoint| &endpoint.links).map(|link| link.split_once(':').unwrap_or((link, link)))
}

/// Whom a container is linked to. They must run, and be in the default network.
pub(crate) fn of(
    launcher: &Launcher,
    fixed: &Fixed,
    name: &ContainerName,
) -> Result<Vec<Linked>, EngineError> {
    asked(launcher, fixed)
        .map(|(container, alias)| {
            let handle = launcher.index.find(container)?;
            let view = handle.view.borrow();
            linked(launcher, &view, alias, name)
        })
        .collect()
}

fn linked(
    launcher: &Launcher,
    child: &View,
    alias: &str,
    parent: &ContainerName,
) -> Result<Linked, EngineError> {
    let name = child.now.name.to_string();
    if !child.now.state.is_alive() {
        return Err(EngineError::State(format!(
            "Cannot link to a non running container: /{name} AS /{parent}/{alias}"
        )));
    }
    let networks = launcher.fabric.networks();
    let of_default = |endpoint: &havre_net::networks::Endpoint| {
        networks.find(endpoint.network.as_str()).is_ok_and(|network| network.is_predefined())
    };
    let place = networks.of_container(child.id()).into_iter().find(of_default).ok_or_else(|| {
        EngineError::State(format!("container {} not attached to default bridge network", child.id()))
    })?;
    Ok(Linked {
        alias: alias.to_owned(),
        hostname: child.fixed.hostname.clone(),
        name,
        addresses: place.ips().collect(),
        ports: child.fixed.merged.exposed.clone(),
        env: child.fixed.merged.env.clone(),
    })
}

/// A container of the default network runs, perhaps at another address than before: tells those who are linked to it.
pub(crate) fn tell(launcher: &Launcher, child: &ContainerId) {
    for view in launcher.index.views() {
        if !view.now.state.is_alive() || view.fixed.spec.endpoints.iter().all(|one| one.links.is_empty()) {
            continue;
        }
        for (container, alias) in asked(launcher, &view.fixed) {
            let Ok(handle) = launcher.index.find(container) else { continue };
            let found = handle.view.borrow().clone();
            if found.id() == child
                && let Ok(linked) = linked(launcher, &found, alias, &view.now.name)
            {
                crate::etc::relinked(&launcher.data_dir(view.id()), &linked);
            }
        }
    }
}

impl Linked {
    /// The first of its names in `/etc/hosts`, which stay when it is renamed.
    pub(crate) fn first_names(&self) -> String {
        format!("{} {}", self.alias, self.hostname)
    }

    /// Its names in `/etc/hosts`, in Docker's order.
    pub(crate) fn names(&self) -> String {
        let mut names = self.first_names();
        if self.alias != self.name {
            names.push(' ');
            names.push_str(&self.name);
        }
        names
    }

    /// What the environment says of it, as it is at the start.
    pub(crate) fn variables(&self, parent: &ContainerName) -> Vec<String> {
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let Some(address) =
            self.addresses.iter().find(|one| one.is_ipv4()).or_else(|| self.addresses.first())
        else {
            return Vec::new();
        };
        let mut ports = self.ports.clone();
        ports.sort_by_key(|port| (port.number, port.protocol != Protocol::Tcp));
        let url = |port: &Port| format!("{}://{address}:{}", port.protocol.name(), port.number);
        let of =
            |port: &Port| format!("{prefix}_PORT_{}_{}", port.number, port.protocol.name().to_uppercase());
        let mut env = Vec::new();
        if let Some(first) = ports.first() {
            env.push(format!("{prefix}_PORT={}", url(first)));
        }
        // Ports that follow each other are told as a range besides.
        let together =
            |a: &Port, b: &Port| a.protocol == b.protocol && a.number.checked_add(1) == Some(b.number);
        for run in ports.chunk_by(together).filter(|run| run.len() > 1) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let name = of(first);
            env.push(format!("{name}_START={}", url(first)));
            env.push(format!("{name}_ADDR={address}"));
            env.push(format!("{name}_PROTO={}", first.protocol.name()));
            env.push(format!("{name}_PORT_START={}", first.number));
            env.push(format!("{name}_END={}", url(last)));
            env.push(format!("{name}_PORT_END={}", last.number));
        }
        for port in &ports {
            let name = of(port);
            env.push(format!("{name}={}", url(port)));
            env.push(format!("{name}_ADDR={address}"));
            env.push(format!("{name}_PORT={}", port.number));
            env.push(format!("{name}_PROTO={}", port.protocol.name()));
        }
        env.push(format!("{prefix}_NAME=/{parent}/{}", self.alias));
        for (name, value) in self.env.iter().filter_map(|entry| entry.split_once('=')) {
            // Those say nothing of what it offers.
            if !matches!(name, "HOME" | "PATH") {
                env.push(format!("{prefix}_ENV_{name}={value}"));
            }
        }
        env
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn linked(alias: &str, address: &str) -> Linked {
        Linked {
            alias: alias.into(),
            hostname: "0123456789ab".into(),
            name: "db".into(),
            addresses: vec![address.parse().unwrap()],
            ports: ["8000-8002/tcp", "53/udp", "53/tcp"]
                .iter()
                .flat_map(|text| {
                    let (first, last) = Port::range(text).unwrap();
                    (first.number..=last.number).map(move |number| Port { number, ..first })
                })
                .collect(),
            env: ["PATH=/bin", "HOME=/root", "KEY=a=b", "BARE"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn a_link_is_told_as_docker_tells_it() {
        let link = linked("my-db", "172.17.0.5");
        assert_eq!(link.names(), "my-db 0123456789ab db");
        assert_eq!(linked("db", "172.17.0.5").names(), "db 0123456789ab");
        let variables = link.variables(&ContainerName::parse("web").unwrap());
        let wanted = [
            "MY_DB_PORT=tcp://172.17.0.5:53",
            "MY_DB_PORT_8000_TCP_START=tcp://172.17.0.5:8000",
            "MY_DB_PORT_8000_TCP_ADDR=172.17.0.5",
            "MY_DB_PORT_8000_TCP_PROTO=tcp",
            "MY_DB_PORT_8000_TCP_PORT_START=8000",
            "MY_DB_PORT_8000_TCP_END=tcp://172.17.0.5:8002",
            "MY_DB_PORT_8000_TCP_PORT_END=8002",
            "MY_DB_PORT_53_TCP=tcp://172.17.0.5:53",
            "MY_DB_PORT_53_TCP_ADDR=172.17.0.5",
            "MY_DB_PORT_53_TCP_PORT=53",
            "MY_DB_PORT_53_TCP_PROTO=tcp",
            "MY_DB_PORT_53_UDP=udp://172.17.0.5:53",
        ];
        assert_eq!(variables[..wanted.len()], wanted);
        assert_eq!(variables[variables.len() - 2..], ["MY_DB_NAME=/web/my-db", "MY_DB_ENV_KEY=a=b"]);
    }
}
