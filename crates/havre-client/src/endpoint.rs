//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;

/// A text that names no reachable endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not `scheme://address`.
    #[error("unable to parse docker host `{0}`")]
    Malformed(String),
    /// Not the form of an ssh address.
    #[error("ssh host connection is not valid: invalid SSH URL: {0}")]
    Ssh(String),
    /// A scheme that leads nowhere from here.
    #[error("{0}")]
    Unsupported(String),
}

/// The address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// A program on another machine that talks to the daemon there, started over ssh.
    Ssh(Remote),
}

/// Another machine, as ssh knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The user there; ssh's own choice when absent.
    pub user: Option<String>,
    /// The machine, perhaps by a name of ssh's configuration.
    pub host: String,
    /// The port of its ssh server.
    pub port: Option<u16>,
    /// The daemon's socket there; the usual one when absent.
    pub socket: Option<String>,
}

impl Remote {
    fn parse(text: &str, rest: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = |why: &str| InvalidEndpoint::Ssh(why.to_owned());
        if let Some((_, query)) = rest.split_once('?') {
            return Err(invalid(&format!("query parameters are not allowed: \"{query}\"")));
        }
        if let Some((_, fragment)) = rest.split_once('#') {
            return Err(invalid(&format!("fragments are not allowed: \"{fragment}\"")));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => {
                return Err(invalid("plain-text password is not supported"));
            }
            Some((user, address)) => (Some(user.to_owned()), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !address.ends_with(']') => {
                let port = port.parse().map_err(|_| InvalidEndpoint::Malformed(text.to_owned()))?;
                (host, Some(port))
            }
            _ => (address, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(invalid("no host specified"));
        }
        let socket = (path.len() > 1).then(|| path.to_owned());
        Ok(Self { user: user.filter(|user| !user.is_empty()), host: host.to_owned(), port, socket })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or(""))
    }
}

impl Endpoint {
    /// Parses `unix:///path`, `tcp://host:port`, `http://host:port`.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let malformed = || InvalidEndpoint::Malformed(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        match scheme {
            "unix" if rest.is_empty() => Err(malformed()),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" | "http" => {
                let authority = rest.split('/').next().unwrap_or(rest);
                let bracketed = authority.ends_with(']');
                let has_port =
                    !bracketed && authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty());
                match authority {
                    "" => Err(malformed()),
                    _ if has_port => Ok(Self::Tcp(authority.into())),
                    _ => Ok(Self::Tcp(format!("{}:2375", authority.trim_end_matches(':')))),
                }
            }
            "ssh" => Remote::parse(text, rest).map(Self::Ssh),
            "https" => Err(InvalidEndpoint::Unsupported(format!(
                "invalid bind address format: {text} (write tcp:// and add --tlsverify)"
            ))),
            "npipe" => Err(InvalidEndpoint::Unsupported(format!(
                "protocol not available: {text} names a pipe of Windows"
            ))),
            "fd" => Err(malformed()),
            _ => Err(InvalidEndpoint::Unsupported(format!("invalid bind address format: {text}"))),
        }
    }

    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> &str {
        match self {
            Self::Unix(_) | Self::Ssh(_) => "api.moby.localhost",
            Self::Tcp(address) => address,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ssh(remote) => remote.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_as_docker_reads_them() {
        for (text, want) in [
            ("unix:///run/x.sock", Ok(Endpoint::Unix("/run/x.sock".into()))),
            ("tcp://127.0.0.1:2376", Ok(Endpoint::Tcp("127.0.0.1:2376".into()))),
            ("tcp://host", Ok(Endpoint::Tcp("host:2375".into()))),
            ("http://host:1/x", Ok(Endpoint::Tcp("host:1".into()))),
            ("tcp://[::1]", Ok(Endpoint::Tcp("[::1]:2375".into()))),
            ("nonsense", Err(InvalidEndpoint::Malformed("nonsense".into()))),
            ("unix://", Err(InvalidEndpoint::Malformed("unix://".into()))),
        ] {
            assert_eq!(Endpoint::parse(text), want, "{text}");
        }
    }

    #[test]
    fn machines_are_read_as_ssh_knows_them() {
        let remote = |text: &str| match Endpoint::parse(text) {
            Ok(Endpoint::Ssh(remote)) => remote,
            other => panic!("{other:?}"),
        };
        let full = remote("ssh://me@host:2222/run/x.sock");
        assert_eq!((full.user.as_deref(), full.host.as_str(), full.port), (Some("me"), "host", Some(2222)));
        assert_eq!(full.socket.as_deref(), Some("/run/x.sock"));
        assert_eq!(full.to_string(), "ssh://me@host:2222/run/x.sock");
        assert_eq!(remote("ssh://[::1]:22").to_string(), "ssh://[::1]:22");
        assert_eq!((remote("ssh://h/").socket, remote("ssh://h").port), (None, None));
        for (bad, why) in [
            ("ssh://me:secret@host", "plain-text password"),
            ("ssh://host?x=1", "query parameters"),
            ("ssh://", "no host"),
            ("ssh://h:x", "unable to parse"),
        ] {
            let error = Endpoint::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
