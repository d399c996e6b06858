//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;

/// A text that names no reachable endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not `scheme://address`.
    #[error("unable to parse docker host `{0}`")]
    Malformed(String),
    /// A scheme that is not built yet.
    #[error("not yet supported: {0}")]
    Unsupported(String),
}

/// The address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`, without encryption.
    Tcp(String),
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
            "ssh" => Err(InvalidEndpoint::Unsupported(format!("ssh connections ({text})"))),
            "https" => Err(InvalidEndpoint::Unsupported(format!("TLS connections ({text})"))),
            "fd" | "npipe" => Err(InvalidEndpoint::Unsupported(text.into())),
            _ => Err(malformed()),
        }
    }

    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> &str {
        match self {
            Self::Unix(_) => "api.moby.localhost",
            Self::Tcp(address) => address,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
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
            ("ssh://h", Err(InvalidEndpoint::Unsupported("ssh connections (ssh://h)".into()))),
            ("nonsense", Err(InvalidEndpoint::Malformed("nonsense".into()))),
            ("unix://", Err(InvalidEndpoint::Malformed("unix://".into()))),
        ] {
            assert_eq!(Endpoint::parse(text), want, "{text}");
        }
    }
}
