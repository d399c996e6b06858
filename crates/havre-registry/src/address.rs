//! Names of registries and where they are.

use hyper::Uri;

/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";
/// Under which name clients keep the keys to it.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Where it is.
pub(crate) const HUB_HOST: &str = "registry-1.docker.io";

/// Where a registry, or a mirror of one, answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// Whether by https.
    pub(crate) secure: bool,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// What is before `/v2/`, without a slash at its end.
    pub(crate) prefix: String,
    /// Whether it is not the registry itself: it gets none of its keys.
    pub(crate) mirror: bool,
}

impl Endpoint {
    /// A registry by its domain.
    pub(crate) fn of_domain(domain: &str, secure: bool) -> Self {
        let host = if domain == DOCKER_HUB { HUB_HOST } else { domain };
        Self { secure, authority: host.into(), prefix: String::new(), mirror: false }
    }

    /// A mirror.
    pub(crate) fn of_uri(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str().to_owned();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Some(Self { secure, authority, prefix, mirror: true })
    }

    /// The address of something below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}/v2/{path}", self.authority, self.prefix)
    }

    /// The host without its port.
    pub(crate) fn host(&self) -> &str {
        host(&self.authority)
    }
}

/// The host of `host[:port]`, without an address's brackets.
pub(crate) fn host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether what belongs to a registry may be given to this token server: the same host, or one of the same owner.
pub(crate) fn same_owner(registry: &str, server: &str) -> bool {
    let (a, b) = (host(registry).to_ascii_lowercase(), host(server).to_ascii_lowercase());
    if a == b {
        return true;
    }
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
    let owner = |host: &str| {
        let labels: Vec<&str> = host.rsplit('.').take(2).collect();
        (labels.len() == 2 && !is_address(host)).then(|| labels.join("."))
    };
    owner(&a).is_some() && owner(&a) == owner(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_domains() {
        assert!(same_owner("registry-1.docker.io", "auth.docker.io"));
        assert!(same_owner("127.0.0.1:5000", "127.0.0.1:5001"));
        assert!(same_owner("[::1]:5000", "[::1]:1"));
        assert!(!same_owner("127.0.0.1:5000", "127.1.0.1:5000"));
        assert!(!same_owner("registry.example.org", "example.com"));
        assert!(!same_owner("localhost", "evil.localhost.test"));
        assert!(!same_owner("io", "docker.io"));
    }

    #[test]
    fn addresses_have_a_version_and_maybe_a_prefix() {
        assert_eq!(
            Endpoint::of_domain(DOCKER_HUB, true).url("a/manifests/b"),
            "https://registry-1.docker.io/v2/a/manifests/b"
        );
        let mirror = Endpoint::of_uri(&"http://m:1/hub/".parse().unwrap()).unwrap();
        assert_eq!(mirror.url("x"), "http://m:1/hub/v2/x");
        assert_eq!(host("[::1]:5"), "::1");
    }
}
