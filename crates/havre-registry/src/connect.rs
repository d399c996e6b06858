//! Connections to registries: addresses, proxies, and the keys of `certs.d`.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use havre_tls::{Connector as Keys, Tls};
use hyper::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::address;
use crate::settings::{Proxy, Settings};

/// For a connection, with its handshakes.
const CONNECT: Duration = Duration::from_secs(15);

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
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

/// Whether a host is this machine by its very name.
pub(crate) fn names_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| is_local(address) && !is_link(address))
}

/// Keys by authority, and whether they verify nobody: what was read, and what was made of it.
type Known = HashMap<(String, bool), (Tls, Keys)>;

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) settings: Arc<Settings>,
    pub(crate) keys: Arc<Mutex<Known>>,
    pub(crate) reach: Reach,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub(crate) struct Wire {
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

    /// The keys for a registry. Its folder is read for each connection, so that what an administrator puts there counts
    /// at once; what is made of it is kept while it says the same.
    fn keys(&self, authority: &str, insecure: bool) -> io::Result<Keys> {
        let mut tls = keys_of(&self.settings.certs.join(authority))?;
        tls.insecure = insecure;
        let key = (authority.to_owned(), insecure);
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, keys)) = known.get(&key)
            && *read == tls
        {
            return Ok(keys.clone());
        }
        let keys = tls.connector().map_err(io::Error::other)?;
        known.insert(key, (tls, keys.clone()));
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
    fn what_is_put_into_the_folder_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { certs: folder.path().to_owned(), ..Settings::default() };
        let connector = Connector { settings: Arc::new(settings), keys: Arc::default(), reach: Reach::All };
        assert!(connector.keys("a.test", false).is_ok());
        std::fs::create_dir(folder.path().join("a.test")).unwrap();
        std::fs::write(folder.path().join("a.test/a.cert"), "without a key").unwrap();
        assert!(connector.keys("a.test", false).is_err() && connector.keys("b.test", false).is_ok());
        std::fs::remove_file(folder.path().join("a.test/a.cert")).unwrap();
        assert!(connector.keys("a.test", false).is_ok());
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
