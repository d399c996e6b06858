//! What the administrator decides about registries: mirrors, whom to trust without proof, proxies, where keys are.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::address::{self, DOCKER_HUB, Endpoint};

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// A mirror.
    #[error(
        "invalid mirror: {0:?} is not a valid URI: want https://host[:port][/path], or host=https://... for another registry than Docker Hub"
    )]
    Mirror(String),
    /// A mirror with more than an address.
    #[error("invalid mirror: {0}")]
    MirrorParts(String),
    /// An insecure registry.
    #[error("insecure registry {0} should not contain '://'")]
    Insecure(String),
    /// A token server.
    #[error("invalid token server {0:?}: want registry[:port]=host[:port]")]
    TokenServer(String),
    /// A proxy.
    #[error("invalid proxy {0:?}: want http://[name:password@]host[:port]")]
    Proxy(String),
}

/// Where else a registry's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Of which registry.
    pub(crate) of: String,
    pub(crate) endpoint: Endpoint,
}

impl Mirror {
    /// Reads `https://mirror` (of Docker Hub, as Docker has it) or `registry=https://mirror`.
    pub fn parse(text: &str) -> Result<Self, InvalidSetting> {
        let (of, url) = match text.split_once('=') {
            Some((of, url)) if !of.contains('/') && !of.is_empty() => (of, url),
            _ => (DOCKER_HUB, text),
        };
        let invalid = || InvalidSetting::Mirror(text.into());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let endpoint = Endpoint::of_uri(&uri).ok_or_else(invalid)?;
        if uri.query().is_some() {
            return Err(InvalidSetting::MirrorParts(format!(
                "path, query, or fragment at end of the URI {url:?}"
            )));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(InvalidSetting::MirrorParts(format!("username/password not allowed in URI {url:?}")));
        }
        Ok(Self { of: of.into(), endpoint })
    }
}

/// Where a registry's tokens are, at somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenServer {
    /// Of which registry: as an endpoint has it.
    registry: String,
    server: String,
}

impl TokenServer {
    /// Reads `registry=host`, both with or without a port.
    pub fn parse(text: &str) -> Result<Self, InvalidSetting> {
        let invalid = || InvalidSetting::TokenServer(text.into());
        let (registry, server) = text.split_once('=').ok_or_else(invalid)?;
        let is_place = |text: &str| !text.is_empty() && text.parse::<hyper::http::uri::Authority>().is_ok();
        if !is_place(registry) || !is_place(server) || text.contains('@') {
            return Err(invalid());
        }
        let registry = Endpoint::of_domain(registry, true).authority.to_ascii_lowercase();
        Ok(Self { registry, server: server.to_ascii_lowercase() })
    }

    /// Whether this registry may send its users' keys to that server.
    pub(crate) fn allows(&self, registry: &str, server: &str) -> bool {
        let is = |named: &str, there: &str| {
            named.eq_ignore_ascii_case(there) || named.eq_ignore_ascii_case(address::host(there))
        };
        is(&self.registry, registry) && is(&self.server, server)
    }
}

/// Registries that need no valid certificate, and no TLS either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// By name, with or without a port.
    Host(String),
    /// By address.
    Net(IpAddr, u8),
}

impl Insecure {
    /// Reads `host`, `host:port` or `10.0.0.0/8`.
    pub fn parse(text: &str) -> Result<Self, InvalidSetting> {
        if text.contains("://") {
            return Err(InvalidSetting::Insecure(text.into()));
        }
        if let Some((address, bits)) = text.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u8>())
            && bits <= if address.is_ipv4() { 32 } else { 128 }
        {
            return Ok(Self::Net(address, bits));
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }

    fn covers(&self, authority: &str, host: &str, addresses: &[IpAddr]) -> bool {
        match self {
            Self::Host(name) => name.eq_ignore_ascii_case(authority) || name.eq_ignore_ascii_case(host),
            Self::Net(net, bits) => addresses.iter().any(|address| within(*address, *net, *bits)),
        }
    }
}

fn within(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let prefix = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((a, width), (b, other)) = (prefix(address), prefix(net));
    width == other && (bits == 0 || (a ^ b) >> (128 - u32::from(bits)) == 0)
}

/// Through whom requests go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For http.
    pub http: Option<Proxy>,
    /// For https.
    pub https: Option<Proxy>,
    /// Hosts that are reached directly: names, `.suffixes`, addresses, networks, `*`.
    pub none: Vec<String>,
}

/// A proxy that speaks HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    pub(crate) address: String,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` as everybody writes them; empty is none.
    pub fn parse(http: &str, https: &str, none: &str) -> Result<Self, InvalidSetting> {
        let none = none.split(',').map(|word| word.trim().to_ascii_lowercase());
        Ok(Self {
            http: Proxy::parse(http)?,
            https: Proxy::parse(https)?,
            none: none.filter(|word| !word.is_empty()).collect(),
        })
    }

    /// The proxy for an address, if there is one.
    pub(crate) fn of(&self, secure: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if secure { self.https.as_ref() } else { self.http.as_ref() }?;
        let bare = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let address: Option<IpAddr> = bare.parse().ok();
        // As Go's clients: this machine is never reached through a proxy.
        if bare == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let direct = self.none.iter().any(|word| {
            let (name, wanted) = match word.rsplit_once(':') {
                Some((name, digits)) if !name.contains(':') => (name, digits.parse::<u16>().ok()),
                _ => (word.as_str(), None),
            };
            if wanted.is_some_and(|wanted| wanted != port) {
                return false;
            }
            if let (Some(address), Ok(Insecure::Net(net, bits))) = (address, Insecure::parse(name)) {
                return within(address, net, bits);
            }
            let suffix = name.trim_start_matches("*.").trim_start_matches('.');
            name == "*" || bare == suffix || bare.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        });
        (!direct).then_some(proxy)
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Self>, InvalidSetting> {
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = || InvalidSetting::Proxy(hide_password(text));
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let authority = rest.split('/').next().unwrap_or(rest);
        if rest.contains("://") || authority.is_empty() {
            return Err(invalid());
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let uri: Uri = format!("http://{host}").parse().map_err(|_| invalid())?;
        let name = uri.host().ok_or_else(invalid)?;
        let address = format!("{name}:{}", uri.port_u16().unwrap_or(80));
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            crate::auth::basic(&percent_decoded(name), &percent_decoded(password))
        });
        Ok(Some(Self { address, authorization }))
    }
}

fn hide_password(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, host)| format!("http://xxxxx:xxxxx@{host}"))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, hex(0), hex(1)) {
            bytes.extend(u8::try_from(high * 16 + low));
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Everything that can be decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// Besides loopback, which always is.
    pub insecure: Vec<Insecure>,
    /// Whether loopback is reached without TLS too when nobody named it in `insecure`.
    pub plain_loopback: bool,
    /// Token servers of other owners that get the keys to a registry.
    pub token_servers: Vec<TokenServer>,
    /// Folder with a folder `host:port` of authorities and keys for each registry.
    pub certs: PathBuf,
    /// Through whom requests go.
    pub proxies: Proxies,
    /// What we call ourselves.
    pub agent: String,
    /// How often something that may work later is tried again.
    pub tries: u32,
    /// The wait before the second try; it doubles each time.
    pub pause: Duration,
    /// How long nothing may come before we give up and try again.
    pub silence: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            plain_loopback: true,
            token_servers: Vec::new(),
            certs: "/etc/docker/certs.d".into(),
            proxies: Proxies::default(),
            agent: format!("havre/{}", env!("CARGO_PKG_VERSION")),
            tries: 5,
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Whether a registry may be reached without a valid certificate or without TLS. `addresses` are those of its
    /// name, known only where a network was named.
    pub(crate) fn is_insecure(&self, authority: &str, host: &str, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(IpAddr::is_loopback) || self.is_named(authority, host, addresses)
    }

    /// Whether a registry may be reached without TLS.
    pub(crate) fn is_plain(&self, authority: &str, host: &str, addresses: &[IpAddr]) -> bool {
        let loopback = self.plain_loopback && addresses.iter().any(IpAddr::is_loopback);
        loopback || self.is_named(authority, host, addresses)
    }

    fn is_named(&self, authority: &str, host: &str, addresses: &[IpAddr]) -> bool {
        self.insecure.iter().any(|entry| entry.covers(authority, host, addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_named_by_host_or_network() {
        let settings = Settings {
            insecure: ["10.0.0.0/8", "reg.test:5000", "other"].map(|t| Insecure::parse(t).unwrap()).to_vec(),
            ..Settings::default()
        };
        let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert!(settings.is_insecure("a", "a", &ip("127.9.9.9")));
        assert!(settings.is_insecure("a", "a", &ip("::1")));
        assert!(settings.is_insecure("a", "a", &ip("10.255.0.1")));
        assert!(!settings.is_insecure("a", "a", &ip("11.0.0.1")));
        assert!(settings.is_insecure("REG.test:5000", "reg.test", &[]));
        assert!(!settings.is_insecure("reg.test:5001", "reg.test", &[]));
        assert!(settings.is_insecure("other:1", "other", &[]));
        let strict = Settings { plain_loopback: false, ..settings };
        assert!(strict.is_insecure("a", "a", &ip("::1")) && !strict.is_plain("a", "a", &ip("::1")));
        assert!(strict.is_plain("a", "a", &ip("10.0.0.1")));
        assert!(Insecure::parse("http://x").is_err());
    }

    #[test]
    fn proxies_have_exceptions() {
        let proxies =
            Proxies::parse("http://me:p%40ss@p:3128/", "q", "a.test,.b.test,10.0.0.0/8,c:81").unwrap();
        let at = |secure, host, port| proxies.of(secure, host, port).map(|proxy| proxy.address.clone());
        assert_eq!(at(false, "x", 80).as_deref(), Some("p:3128"));
        assert_eq!(at(true, "x", 443).as_deref(), Some("q:80"));
        for (host, port) in
            [("a.test", 1), ("x.a.test", 1), ("b.test", 1), ("y.b.test", 2), ("10.1.2.3", 3), ("c", 81)]
        {
            assert_eq!(at(false, host, port), None, "{host}");
        }
        assert!(at(false, "c", 82).is_some() && at(false, "xa.test", 80).is_some());
        assert_eq!(at(false, "localhost", 1), None);
        let shown = format!("{proxies:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("bWU6"), "{shown}");
        assert!(Proxies::parse("socks5://x", "", "").is_err());
    }

    #[test]
    fn token_servers_are_allowed_for_their_registry() {
        let allows = |text: &str, registry: &str, server: &str| {
            TokenServer::parse(text).unwrap().allows(registry, server)
        };
        assert!(allows("r.test=a.example", "R.test", "a.example:444"));
        assert!(allows("r.test:5000=a.example:444", "r.test:5000", "a.example:444"));
        assert!(!allows("r.test:5000=a.example:444", "r.test", "a.example:444"));
        assert!(!allows("r.test=a.example:444", "r.test", "a.example"));
        assert!(!allows("r.test=a.example", "r.test", "b.a.example"));
        assert!(allows("docker.io=a.example", "registry-1.docker.io", "a.example"));
        for bad in ["", "r.test", "=a", "r=", "r.test=https://a.example", "r=u@a", "r=a/b", "r=a b"] {
            assert!(TokenServer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mirrors_are_addresses_and_nothing_more() {
        assert_eq!(Mirror::parse("https://m.test").unwrap().of, DOCKER_HUB);
        assert_eq!(Mirror::parse("ghcr.test=http://m.test:1/x/").unwrap().of, "ghcr.test");
        for bad in ["m.test", "ftp://m", "https://u:p@m.test", "https://m.test/?a=b", "https://", ""] {
            assert!(Mirror::parse(bad).is_err(), "{bad}");
        }
    }
}
