//! Requests and answers: connections with their keys and proxies, redirects, bounds on time and size.
//!
//! Invariants: what a redirect leads to gets no keys unless it is the same host; https never becomes http; addresses of
//! this machine and its link are reached only for a registry that is there itself.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use havre_tls::{Connector as Keys, Tls};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::rt::ReadBufCursor;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::address;
use crate::settings::{Proxy, Settings};
use crate::{RegistryError, Result};

/// How many times an answer may send us elsewhere.
const REDIRECTS: usize = 10;
/// For a connection, with its handshakes.
const CONNECT: Duration = Duration::from_secs(15);
/// For the head of an answer: a registry may first look at a large blob.
const HEAD: Duration = Duration::from_secs(90);

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A body of bytes.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, url: String) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, body: Bytes::new() }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Speaks HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) settings: Arc<Settings>,
    /// Reaches every address.
    open: Client<Connector, Body>,
    /// Does not reach the link: for what a registry on this machine names.
    near: Client<Connector, Body>,
    /// Does not reach this machine and its link.
    narrow: Client<Connector, Body>,
}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Whatever the user named.
    All,
    /// Not those of the link, where clouds keep a machine's secrets.
    NotLink,
    /// Nor those of this machine.
    NotMachine,
}

impl Reach {
    fn refuses(self, address: IpAddr) -> bool {
        match self {
            Self::All => false,
            Self::NotLink => is_link(address),
            Self::NotMachine => is_local(address),
        }
    }
}

impl Http {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let keys = Arc::new(Mutex::new(HashMap::new()));
        let client = |reach| {
            let connector = Connector { settings: Arc::clone(&settings), keys: Arc::clone(&keys), reach };
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(60)).build(connector)
        };
        Self {
            open: client(Reach::All),
            near: client(Reach::NotLink),
            narrow: client(Reach::NotMachine),
            settings: Arc::clone(&settings),
        }
    }

    /// Sends a request, following redirects if it only reads.
    pub(crate) async fn send(&self, mut ask: Ask) -> Result<Response<Incoming>> {
        let first = parsed(&ask.url)?;
        let reads = matches!(ask.method, Method::GET | Method::HEAD);
        for _ in 0..=REDIRECTS {
            let uri = parsed(&ask.url)?;
            let body = full(ask.body.clone());
            let answer = self.once(&ask, &uri, &first, body).await?;
            let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved || !reads {
                return Ok(answer);
            }
            let location = text(&answer, &header::LOCATION).unwrap_or_default();
            let next = resolve(&ask.url, location)?;
            let to = parsed(&next)?;
            if uri.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
                let why = "it would leave encryption";
                return Err(RegistryError::Elsewhere { from: ask.url, to: next, why });
            }
            if to.authority() != uri.authority() {
                ask.authorization = None;
            }
            ask.url = next;
        }
        Err(RegistryError::Protocol { url: ask.url, why: format!("more than {REDIRECTS} redirects") })
    }

    /// Sends a request with a body that can be sent once, to where it is said.
    pub(crate) async fn send_body(
        &self,
        ask: &Ask,
        registry: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.once(ask, &parsed(&ask.url)?, &parsed(registry)?, body).await
    }

    async fn once(&self, ask: &Ask, uri: &Uri, first: &Uri, body: Body) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(&ask.method).uri(uri);
        request = request.header(header::USER_AGENT, &self.settings.agent);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &ask.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| {
                RegistryError::Setting("credentials contain characters that cannot be sent".into())
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(body)
            .map_err(|error| RegistryError::Protocol { url: ask.url.clone(), why: error.to_string() })?;
        let client = match first.host() {
            host if host == uri.host() => &self.open,
            Some(host) if names_this_machine(host) => &self.near,
            _ => &self.narrow,
        };
        let failed = |reason: String| RegistryError::Unreachable {
            method: capitalized(ask.method.as_str()),
            url: ask.url.clone(),
            reason,
        };
        // A large body takes as long as it takes; its sender notices when nothing moves.
        let sized = request.body().size_hint().exact().is_some();
        let answer = client.request(request);
        let answer = if sized {
            tokio::time::timeout(HEAD, answer)
                .await
                .map_err(|_| failed("net/http: timeout awaiting response headers".into()))?
        } else {
            answer.await
        };
        answer.map_err(|error| match havre_tls::reason(&error) {
            Some(reason) => failed(reason),
            None => failed(innermost(&error)),
        })
    }
}

fn capitalized(method: &str) -> String {
    let lower = method.to_ascii_lowercase();
    lower.get(..1).unwrap_or_default().to_ascii_uppercase() + lower.get(1..).unwrap_or_default()
}

/// The last cause: those above it say "client error" and "connection error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

pub(crate) fn parsed(url: &str) -> Result<Uri> {
    let bad = |why: &str| RegistryError::Protocol { url: url.to_owned(), why: why.into() };
    let uri: Uri = url.parse().map_err(|_| bad("not a valid address"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(bad("not an address of http or https")),
    }
}

/// An address that an answer names, relative to what was asked.
pub(crate) fn resolve(asked: &str, location: &str) -> Result<String> {
    if location.is_empty() {
        return Err(RegistryError::Protocol {
            url: asked.into(),
            why: "the answer names no Location".into(),
        });
    }
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let base = parsed(asked)?;
    let scheme = base.scheme_str().unwrap_or("https");
    if let Some(rest) = location.strip_prefix("//") {
        return Ok(format!("{scheme}://{rest}"));
    }
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if location.starts_with('/') {
        return Ok(format!("{scheme}://{authority}{location}"));
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{scheme}://{authority}{folder}/{location}"))
}

pub(crate) fn text<'a>(answer: &'a Response<Incoming>, name: &HeaderName) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The next piece of a body; silence longer than allowed is an error.
pub(crate) async fn piece(body: &mut Incoming, silence: Duration) -> io::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(silence, body.frame()).await;
        let frame = frame.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(io::Error::other(innermost(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole body of at most `limit` bytes, within a minute.
pub(crate) async fn whole(
    answer: Response<Incoming>,
    url: &str,
    limit: u64,
    silence: Duration,
) -> Result<Bytes> {
    let mut body = answer.into_body();
    let bad = |why: String| RegistryError::Protocol { url: url.to_owned(), why };
    let read = async {
        let mut bytes = Vec::new();
        while let Some(next) = piece(&mut body, silence).await.map_err(|error| bad(error.to_string()))? {
            bytes.extend_from_slice(&next);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                return Err(bad(format!("the answer is larger than {limit} bytes")));
            }
        }
        Ok(Bytes::from(bytes))
    };
    let read = tokio::time::timeout(Duration::from_secs(60).max(silence), read).await;
    read.map_err(|_| bad("the answer took longer than a minute".into()))?
}

/// What a refusal says.
pub(crate) async fn refusal(answer: Response<Incoming>, url: &str) -> RegistryError {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = answer.status();
    let body = whole(answer, url, 64 << 10, Duration::from_secs(10)).await.unwrap_or_default();
    let said: Option<Errors> = serde_json::from_slice(&body).ok();
    let (code, message) = match said {
        Some(Errors { errors, .. }) if !errors.is_empty() => {
            let texts = errors.iter().map(|one| {
                let code = one.code.to_lowercase().replace('_', " ");
                if code.is_empty() { one.message.clone() } else { format!("{code}: {}", one.message) }
            });
            (errors[0].code.clone(), texts.collect::<Vec<_>>().join("\n"))
        }
        Some(Errors { details, .. }) if !details.is_empty() => (String::new(), details),
        _ => (String::new(), by_status(status, url)),
    };
    // The words of a stranger: no control characters, and not too many of them.
    let message: String = message.chars().filter(|c| !c.is_control() || *c == '\n').take(2_000).collect();
    RegistryError::Refused { status: status.as_u16(), code, message }
}

fn by_status(status: StatusCode, url: &str) -> String {
    let words = status.canonical_reason().unwrap_or("");
    match status.as_u16() {
        429 => format!("toomanyrequests: {words} from {url}; wait, or log in for a higher limit"),
        _ => format!("received unexpected HTTP status: {} {words}", status.as_u16()),
    }
}

/// Addresses of the link: neighbours, and what clouds tell a machine about itself.
fn is_link(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Addresses that strangers must not send us to.
fn is_local(address: IpAddr) -> bool {
    let itself = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified(),
    };
    itself || is_link(address)
}

fn names_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| is_local(address) && !is_link(address))
}

/// Makes connections.
#[derive(Clone)]
struct Connector {
    settings: Arc<Settings>,
    /// By authority.
    keys: Arc<Mutex<HashMap<(String, bool), Keys>>>,
    reach: Reach,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
struct Wire {
    io: TokioIo<Box<dyn Io>>,
    proxied: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connecting = tokio::time::timeout(CONNECT, connector.connect(&uri));
            let late =
                |_| io::Error::other(format!("dial tcp {}: i/o timeout", uri.host().unwrap_or_default()));
            connecting.await.map_err(late)?
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Wire> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (host, secure) = (address::host(authority), uri.scheme_str() == Some("https"));
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if let Some(proxy) = self.settings.proxies.of(secure, host, port) {
            return self.through(proxy, authority, host, port, secure).await;
        }
        let addresses = resolve_host(host, port).await?;
        if addresses.iter().any(|address| self.reach.refuses(address.ip())) {
            return Err(io::Error::other(format!(
                "{host} is an address of this machine or its link: not followed there"
            )));
        }
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let stream = dial(&addresses).await?;
        if !secure {
            return Ok(Wire { io: TokioIo::new(Box::new(stream)), proxied: false });
        }
        let keys = self.keys(authority, self.settings.is_insecure(authority, host, &ips))?;
        let stream = keys.connect(&format!("{host}:{port}"), stream).await?;
        Ok(Wire { io: TokioIo::new(Box::new(stream)), proxied: false })
    }

    async fn through(
        &self,
        proxy: &Proxy,
        authority: &str,
        host: &str,
        port: u16,
        secure: bool,
    ) -> io::Result<Wire> {
        let (name, its_port) = proxy.address.rsplit_once(':').unwrap_or((&proxy.address, "80"));
        let its_port = its_port.parse().map_err(io::Error::other)?;
        let at_proxy = |error: io::Error| io::Error::other(format!("proxyconnect tcp: {error}"));
        let addresses = resolve_host(address::host(name), its_port).await.map_err(at_proxy)?;
        let mut stream = dial(&addresses).await.map_err(at_proxy)?;
        if !secure {
            return Ok(Wire { io: TokioIo::new(Box::new(stream)), proxied: true });
        }
        let host_port =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut head = format!("CONNECT {host_port} HTTP/1.1\r\nHost: {host_port}\r\n");
        if let Some(authorization) = &proxy.authorization {
            head += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head is the registry's.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > 8 << 10 {
                return Err(at_proxy(io::Error::other("the answer has no end")));
            }
            answer.push(stream.read_u8().await.map_err(at_proxy)?);
        }
        let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        if !matches!(status.split(' ').nth(1), Some(code) if code.starts_with('2')) {
            return Err(at_proxy(io::Error::other(status)));
        }
        let keys = self.keys(authority, self.settings.is_insecure(authority, host, &[]))?;
        let stream = keys.connect(&format!("{host}:{port}"), stream).await?;
        Ok(Wire { io: TokioIo::new(Box::new(stream)), proxied: false })
    }

    /// The keys for a registry: read when it is first connected to.
    fn keys(&self, authority: &str, insecure: bool) -> io::Result<Keys> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (authority.to_owned(), insecure);
        if let Some(keys) = known.get(&key) {
            return Ok(keys.clone());
        }
        let mut tls = keys_of(&self.settings.certs.join(authority))?;
        tls.insecure = insecure;
        let keys = tls.connector().map_err(io::Error::other)?;
        known.insert(key, keys.clone());
        Ok(keys)
    }
}

/// Reads a registry's folder of `certs.d`: `*.crt` are authorities, `*.cert` with its `*.key` is our own.
fn keys_of(folder: &Path) -> io::Result<Tls> {
    let mut tls = Tls::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(tls),
        Err(error) => return Err(io::Error::other(format!("open {}: {error}", folder.display()))),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| io::Error::other(format!("open {}: {error}", path.display())))
    };
    for path in &paths {
        match path.extension().and_then(|ext| ext.to_str()) {
            Some("crt") => tls.extra.get_or_insert_default().extend([read(path)?, b"\n".to_vec()].concat()),
            Some("cert") => {
                let key = path.with_extension("key");
                if !paths.contains(&key) {
                    return Err(io::Error::other(format!(
                        "missing key {} for client certificate {}; CA certificates must use the extension .crt",
                        key.display(),
                        path.display()
                    )));
                }
                tls.identity.get_or_insert((read(path)?, read(&key)?));
            }
            Some("key") if !paths.contains(&path.with_extension("cert")) => {
                return Err(io::Error::other(format!(
                    "missing client certificate {} for key {}",
                    path.with_extension("cert").display(),
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// The addresses of a name, those of IPv4 first: many machines have an IPv6 address and no way out by it.
pub(crate) async fn resolve_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await;
    let none = || io::Error::other(format!("dial tcp: lookup {host}: no such host"));
    let mut addresses: Vec<SocketAddr> = found.map_err(|_| none())?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() { Err(none()) } else { Ok(addresses) }
}

async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("dial tcp: no address");
    for address in addresses {
        match tokio::time::timeout(CONNECT / 3, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => {
                failed = io::Error::other(format!("dial tcp {address}: connect: {}", in_words(&error)))
            }
            Err(_) => failed = io::Error::other(format!("dial tcp {address}: i/o timeout")),
        }
    }
    Err(failed)
}

/// Without the number, in small letters, as scripts know it.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let at = |location: &str| resolve("https://r:1/v2/a/blobs/uploads/?x=1", location).unwrap();
        assert_eq!(at("/v2/b?c=d"), "https://r:1/v2/b?c=d");
        assert_eq!(at("https://o/x"), "https://o/x");
        assert_eq!(at("//o/x"), "https://o/x");
        assert_eq!(at("id"), "https://r:1/v2/a/blobs/uploads/id");
        assert!(resolve("https://r/", "").is_err());
        assert!(parsed("file:///etc/passwd").is_err() && parsed("http://").is_err());
    }

    #[test]
    fn keys_come_in_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        assert_eq!(keys_of(&folder.path().join("none")).unwrap(), Tls::default());
        write("a.crt");
        write("b.crt");
        assert_eq!(keys_of(folder.path()).unwrap().extra.unwrap(), b"a.crt\nb.crt\n");
        write("c.key");
        assert!(keys_of(folder.path()).unwrap_err().to_string().contains("missing client certificate"));
        write("c.cert");
        assert_eq!(keys_of(folder.path()).unwrap().identity.unwrap().0, b"c.cert");
        write("d.cert");
        assert!(keys_of(folder.path()).unwrap_err().to_string().contains("missing key"));
    }

    #[test]
    fn neighbours_are_known() {
        for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in ["10.0.0.1", "example.org", "169.254.169.254", "[fe80::1]"] {
            assert!(!names_this_machine(host), "{host}");
        }
        let refused = |reach: Reach| {
            let all = ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "10.0.0.1"];
            all.map(|text| reach.refuses(text.parse().unwrap()))
        };
        assert_eq!(refused(Reach::All), [false; 5]);
        assert_eq!(refused(Reach::NotLink), [false, false, true, true, false]);
        assert_eq!(refused(Reach::NotMachine), [true, true, true, true, false]);
    }
}
