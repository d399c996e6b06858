//! Where the daemon listens, and who may reach it there.
//!
//! Invariant: beyond this machine nothing listens without a key that the client must have, unless the
//! administrator spelled it out.

use std::path::PathBuf;

use crate::DaemonError;

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address, `name:port`.
    Tcp(String),
    /// Sockets of the service manager: all, those of a name, or the one of a number.
    Fd(String),
}

/// What was said about TLS, before it is known what follows from it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// `--tls`, if it was given.
    pub(crate) tls: Option<bool>,
    /// `--tlsverify`, if it was given.
    pub(crate) verify: Option<bool>,
}

impl Asked {
    /// Whether connections over TCP are encrypted. Who says anything about verifying wants encryption.
    pub(crate) fn encrypts(self) -> bool {
        self.tls == Some(true) || self.verify.is_some()
    }

    /// Whether clients must prove who they are.
    pub(crate) fn verifies(self) -> bool {
        self.verify == Some(true)
    }

    /// What an administrator must know of an address, or why it is refused.
    pub(crate) fn judge(self, address: &str) -> Result<Option<String>, DaemonError> {
        if self.verifies() {
            return Ok(None);
        }
        if is_loopback(address) || (self.encrypts() && self.verify == Some(false)) || self.tls == Some(false)
        {
            return Ok(Some(if self.encrypts() {
                format!("API is accessible on https://{address} without TLS client verification")
            } else {
                format!("API is accessible on http://{address} without encryption")
            }));
        }
        let (what, flag) = if self.encrypts() {
            ("TLS client verification", "--tlsverify=false")
        } else {
            ("TLS", "--tls=false")
        };
        Err(DaemonError::Config(format!(
            "refusing to listen on tcp://{address} without {what}: whoever reaches this address is root here. Use --tlsverify with --tlscacert, --tlscert and --tlskey, or say {flag} if that is what you want"
        )))
    }
}

/// The advice behind a warning about an open address.
pub(crate) const ADVICE: &str = "\n         Access to the remote API is equivalent to root access on the host. Refer\n         to the 'Docker daemon attack surface' section in the documentation for\n         more information: https://docs.docker.com/go/attack-surface/";

/// Whether only this machine reaches an address.
fn is_loopback(address: &str) -> bool {
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Reads a `-H` value; an address without a port gets Docker's.
pub(crate) fn parse(text: &str, encrypts: bool) -> Result<Host, DaemonError> {
    let refuse = |why: &str| Err(DaemonError::Config(format!("invalid -H value {text:?}: {why}")));
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Host::Unix(PathBuf::from(rest))),
        "unix" => refuse("the path of a unix socket must be absolute"),
        "tcp" => {
            let rest = rest.trim_end_matches('/');
            if rest.contains('/') {
                return refuse("an address has no path");
            }
            let (name, port) = match rest.rsplit_once(':') {
                Some((name, port)) if !rest.ends_with(']') => (name, port),
                _ => (rest, ""),
            };
            let port = match port {
                "" if encrypts => "2376",
                "" => "2375",
                port if port.parse::<u16>().is_ok() => port,
                _ => return refuse("the port is no number from 0 to 65535"),
            };
            // As dockerd: no name means this machine only.
            let name = if name.is_empty() { "127.0.0.1" } else { name };
            Ok(Host::Tcp(format!("{name}:{port}")))
        }
        "fd" => Ok(Host::Fd(rest.to_owned())),
        _ => refuse("want unix:///path, tcp://address:port or fd://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_dockerd_reads_them() {
        let tcp = |text: &str| Host::Tcp(text.into());
        for (text, want) in [
            ("unix:///run/x", Host::Unix("/run/x".into())),
            ("tcp://", tcp("127.0.0.1:2375")),
            ("tcp://:2376", tcp("127.0.0.1:2376")),
            ("tcp://0.0.0.0", tcp("0.0.0.0:2375")),
            ("tcp://[::1]:1", tcp("[::1]:1")),
            ("tcp://[::]", tcp("[::]:2375")),
            ("10.0.0.1:5", tcp("10.0.0.1:5")),
            ("fd://", Host::Fd(String::new())),
            ("fd://web", Host::Fd("web".into())),
        ] {
            assert_eq!(parse(text, false).unwrap(), want, "{text}");
        }
        assert_eq!(parse("tcp://h", true).unwrap(), tcp("h:2376"));
        for bad in ["unix://relative", "npipe:////./pipe/x", "tcp://h:x", "tcp://h:1/path"] {
            assert!(parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a05_the_network_needs_keys_or_the_administrators_word() {
        let asked = |tls, verify| Asked { tls, verify };
        let open = "0.0.0.0:2375";
        assert!(asked(None, None).judge(open).is_err());
        assert!(asked(Some(true), None).judge(open).unwrap_err().to_string().contains("--tlsverify=false"));
        assert_eq!(asked(Some(true), Some(true)).judge(open).unwrap(), None);
        assert!(asked(Some(false), None).judge(open).unwrap().unwrap().contains("without encryption"));
        assert!(asked(None, Some(false)).judge(open).unwrap().unwrap().contains("client verification"));
        assert!(asked(None, None).judge("127.0.0.1:2375").unwrap().is_some());
        assert!(asked(None, None).judge("[::1]:2375").is_ok());
        assert!(asked(None, None).judge("localhost.evil:2375").is_err());
    }
}
