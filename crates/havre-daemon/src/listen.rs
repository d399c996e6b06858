//! Opening the sockets: our own, and those that the service manager opened for us.

use std::net::ToSocketAddrs as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use havre_server::Server;
use rustix::net::AddressFamily;
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::DaemonError;
use crate::config::Config;
use crate::hosts::Host;

/// The first descriptor that a service manager passes.
const FIRST: i32 = 3;

/// An open socket.
enum Socket {
    /// One of ours is removed with the daemon; the service manager's is not.
    Unix(UnixListener, Option<PathBuf>),
    Tcp(TcpListener),
}

/// Everything that listens.
pub(crate) struct Listeners {
    sockets: Vec<Socket>,
    tls: Option<Arc<ServerConfig>>,
}

impl Listeners {
    /// Opens all sockets of the configuration, or none.
    pub(crate) async fn open(config: &Config) -> Result<Self, DaemonError> {
        let tls = config.tls.as_ref().map(crate::tls::Tls::load).transpose()?;
        let mut sockets = Vec::new();
        for host in &config.hosts {
            match host {
                Host::Unix(path) => {
                    let listener = bind_unix(path, config)?;
                    tracing::info!("API listen on {}", path.display());
                    sockets.push(Socket::Unix(listener, Some(path.clone())));
                }
                Host::Tcp(address) => {
                    let listener = bind_tcp(address).await?;
                    tracing::info!("API listen on {}", local(&listener, address));
                    sockets.push(Socket::Tcp(listener));
                }
                Host::Fd(which) => sockets.extend(activated(which)?),
            }
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { sockets, tls })
    }

    /// The sockets of ours in the file system.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let path = |socket: &Socket| match socket {
            Socket::Unix(_, path) => path.clone(),
            Socket::Tcp(_) => None,
        };
        self.sockets.iter().filter_map(path).collect()
    }

    /// Serves all sockets.
    pub(crate) fn serve(self, server: &Server, tasks: &mut JoinSet<()>) {
        for socket in self.sockets {
            match (socket, &self.tls) {
                (Socket::Unix(listener, _), _) => {
                    tasks.spawn(server.clone().serve_unix(listener));
                }
                (Socket::Tcp(listener), None) => drop(tasks.spawn(server.clone().serve_tcp(listener))),
                (Socket::Tcp(listener), Some(tls)) => {
                    tasks.spawn(server.clone().serve_tls(listener, Arc::clone(tls)));
                }
            }
        }
    }
}

fn local(listener: &TcpListener, address: &str) -> String {
    listener.local_addr().map_or_else(|_| address.to_owned(), |address| address.to_string())
}

async fn bind_tcp(address: &str) -> Result<TcpListener, DaemonError> {
    let failed = DaemonError::io("listen on", address);
    // A static program may have no resolver; this name needs none.
    let address = address.replace("localhost:", "127.0.0.1:");
    let resolved = tokio::task::spawn_blocking(move || address.to_socket_addrs()).await;
    let addresses: Vec<_> = match resolved {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(failed(error)),
        Err(error) => return Err(failed(std::io::Error::other(error))),
    };
    TcpListener::bind(addresses.as_slice()).await.map_err(failed)
}

/// The sockets that the service manager passed: all, those of a name, or the one of a number.
fn activated(which: &str) -> Result<Vec<Socket>, DaemonError> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| i64::from(pid) == i64::from(std::process::id()));
    let count = if ours { number("LISTEN_FDS").unwrap_or(0).clamp(0, 1024) } else { 0 };
    if count == 0 {
        return Err(DaemonError::Config(
            "no sockets found via socket activation: make sure the service was started by systemd".into(),
        ));
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut sockets = Vec::new();
    for index in 0..count {
        let fd = FIRST + index;
        let name = usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or("");
        if !(which.is_empty() || which == "*" || which == name || which == fd.to_string()) {
            continue;
        }
        let failed = || DaemonError::io("use the service manager's socket", format!("fd {fd}"));
        let socket = havre_sys::process::adopt(fd).map_err(failed())?;
        tracing::info!("API listen on fd {fd} {name}");
        sockets.push(listener(socket).map_err(failed())?);
    }
    if sockets.is_empty() {
        return Err(DaemonError::Config(format!(
            "could not find a matching socket of the service manager: fd://{which}"
        )));
    }
    Ok(sockets)
}

fn listener(socket: OwnedFd) -> std::io::Result<Socket> {
    match rustix::net::getsockname(&socket)?.address_family() {
        AddressFamily::UNIX => {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(|listener| Socket::Unix(listener, None))
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Socket::Tcp)
        }
        _ => Err(std::io::Error::other("neither a unix nor a TCP socket")),
    }
}

/// Listens on a unix socket for root and the group.
fn bind_unix(path: &Path, config: &Config) -> Result<UnixListener, DaemonError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(DaemonError::io("create", folder))?;
    }
    // The lock on the data root says that no engine of ours listens here; another's answers.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(DaemonError::Config(format!("something already listens on {}", path.display())));
    }
    crate::remove_quietly(path);
    // Nobody else may connect in the moment before the permissions are set.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(DaemonError::io("listen on", path))?;
    if let Some(gid) = group(&config.group, config.group_asked)? {
        std::os::unix::fs::chown(path, Some(0), Some(gid))
            .map_err(DaemonError::io("give to a group", path))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(DaemonError::io("set the permissions of", path))?;
    Ok(listener)
}

/// The group of the socket. One that was asked for must exist; without the usual one it is root's.
fn group(name: &str, asked: bool) -> Result<Option<u32>, DaemonError> {
    if name.is_empty() {
        return Ok(None);
    }
    match name.parse().ok().or_else(|| group_id(name)) {
        Some(gid) => Ok(Some(gid)),
        None if asked => Err(DaemonError::Config(format!("group {name} not found"))),
        None => {
            tracing::warn!("could not change the group of the socket to {name}: group {name} not found");
            Ok(None)
        }
    }
}

/// A group's number from group(5); a static binary has no other resolver.
fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_that_was_asked_for_must_exist() {
        assert_eq!(group("0", true).unwrap(), Some(0));
        assert_eq!(group("root", true).unwrap(), Some(0));
        assert_eq!(group("no-such-group", false).unwrap(), None);
        let error = group("no-such-group", true).unwrap_err().to_string();
        assert_eq!(error, "group no-such-group not found");
    }
}
