//! Requests that a web page made, not a user: refused where no key or permission says who asks.
//!
//! A browser reaches every port of its machine, also under a name that a hostile server chose (DNS
//! rebinding), and sends along where the page came from. Docker's clients do neither.

use hyper::Request;
use hyper::StatusCode;
use hyper::header::{HOST, HeaderValue, ORIGIN};

use crate::Transport;
use crate::error::Refusal;

/// Refuses what a browser sends over plain TCP.
pub(crate) fn check<B>(transport: Transport, request: &Request<B>) -> Result<(), Refusal> {
    let Transport::Tcp(peer) = transport else { return Ok(()) };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    if let Some(origin) = request.headers().get(ORIGIN) {
        return Err(refusal(format!("requests of web pages ({}) are refused without TLS", text(origin))));
    }
    match request.headers().get(HOST) {
        // From elsewhere the daemon is called by whatever name it has there.
        Some(host) if peer.ip().is_loopback() && !is_address(&text(host)) => Err(refusal(format!(
            "the Host header names {}: without TLS only addresses and localhost are answered",
            text(host)
        ))),
        _ => Ok(()),
    }
}

fn refusal(message: String) -> Refusal {
    Refusal { status: StatusCode::FORBIDDEN, message }
}

/// An address with or without a port, or a name that always means this machine.
fn is_address(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let bare = match host.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((name, _)) if name.contains(':') && !name.ends_with(']') => host,
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    // What clients call a daemon whose name does not matter.
    matches!(bare, "" | "localhost" | "docker" | "api.moby.localhost")
        || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_somebody_chose_are_no_addresses() {
        for good in ["127.0.0.1:2375", "127.0.0.1", "localhost:1", "[::1]:2375", "::1", "docker", ""] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["evil.example", "evil.example:2375", "127.0.0.1.evil.example", "localhost.evil:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn web_pages_are_refused_without_tls_only() {
        let request = |name: &str, value: &str| Request::builder().header(name, value).body(()).unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        for (name, value) in [("Origin", "http://evil"), ("Host", "evil.example")] {
            let request = request(name, value);
            let refused = check(Transport::Tcp(peer), &request).unwrap_err();
            assert_eq!(refused.status, StatusCode::FORBIDDEN);
            assert!(
                check(Transport::Tls(peer), &request).is_ok() && check(Transport::Unix, &request).is_ok()
            );
        }
        assert!(check(Transport::Tcp(peer), &request("Host", "127.0.0.1:2375")).is_ok());
        let elsewhere = Transport::Tcp("192.0.2.1:1".parse().unwrap());
        assert!(check(elsewhere, &request("Host", "docker.example:2375")).is_ok());
    }
}
