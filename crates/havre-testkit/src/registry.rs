//! A registry in this process that can lie: blobs, manifests, uploads and tokens in memory, and any answer replaced by
//! what a test wants. It remembers what it was asked, with which keys.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By name in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body; of an upload that broke off, what came.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Besides the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Wait so long before each piece of so many bytes.
    pub drip: Option<(usize, Duration)>,
    /// A length to announce other than the body's.
    pub announced: Option<u64>,
}

impl Reply {
    /// An answer without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// An answer with one.
    #[must_use]
    pub fn body(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Replaces answers; `None` leaves one as it is.
pub type Lie = Box<dyn FnMut(&Asked) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    lie: Option<Lie>,
    next: u64,
}

/// The registry. It ends with the value.
pub struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for FakeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRegistry").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    havre_oci::Digest::of_bytes(bytes).to_string()
}

impl FakeRegistry {
    /// Listens on a free port of loopback.
    pub fn start() -> std::io::Result<Self> {
        Self::at("127.0.0.1")
    }

    /// Listens on a free port of an address of this machine.
    pub fn at(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::downgrade(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(state) = shared.upgrade() else { return };
                std::thread::spawn(move || serve(stream, address, &state));
            }
        });
        Ok(Self { address, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Has a blob; its digest.
    pub fn blob(&self, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let name = digest(&bytes);
        self.state().blobs.insert(name.clone(), bytes);
        name
    }

    /// Has a manifest under a tag and its digest; the digest.
    pub fn manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> String {
        let bytes = bytes.into();
        let name = digest(&bytes);
        let mut state = self.state();
        for key in [tag, &name] {
            state.manifests.insert((repository.into(), key.into()), (media_type.into(), bytes.clone()));
        }
        name
    }

    /// The content of a blob that it has.
    #[must_use]
    pub fn content(&self, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(digest).cloned()
    }

    /// The content of a manifest that it has.
    #[must_use]
    pub fn document(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        self.state().manifests.get(&(repository.into(), reference.into())).map(|(_, bytes)| bytes.clone())
    }

    /// Lies from now on.
    pub fn lie(&self, lie: impl FnMut(&Asked) -> Option<Reply> + Send + 'static) {
        self.state().lie = Some(Box::new(lie));
    }

    /// What it was asked since the last time.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        // Wakes the listener, which finds that nobody owns the registry any more.
        self.state = Arc::default();
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) {
    // Who begins with TLS hears what other servers without it say.
    if first_byte(&stream) == Some(0x16) {
        stream
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
            .ok();
        return;
    }
    let Ok(reader) = stream.try_clone() else { return };
    let (mut reader, mut writer) = (BufReader::new(reader), stream);
    while let Some(asked) = read(&mut reader, &mut writer) {
        let reply = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.asked.push(asked.clone());
            // The lie may look at anything but us.
            let mut lie = state.lie.take();
            let told = lie.as_mut().and_then(|lie| lie(&asked));
            if state.lie.is_none() {
                state.lie = lie;
            }
            told.unwrap_or_else(|| answer(&mut state, &asked))
        };
        if !write(&mut writer, address, &asked, &reply) {
            return;
        }
    }
}

fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    stream.peek(&mut first).ok().filter(|count| *count == 1).map(|_| first[0])
}

fn read(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let mut asked = Asked { method: words.next()?.into(), path: words.next()?.into(), ..Asked::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let known = asked.headers.entry(name.to_lowercase()).or_default();
        if !known.is_empty() {
            known.push(',');
        }
        known.push_str(value.trim());
    }
    if asked.header("expect").eq_ignore_ascii_case("100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if asked.header("transfer-encoding").contains("chunked") {
        loop {
            let mut size = String::new();
            if reader.read_line(&mut size).ok().filter(|count| *count > 0).is_none() {
                return Some(asked);
            }
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            if reader.read_exact(&mut chunk).is_err() {
                return Some(asked);
            }
            if size == 0 {
                return Some(asked);
            }
            asked.body.extend_from_slice(&chunk[..size]);
        }
    }
    let length: u64 = asked.header("content-length").parse().unwrap_or(0);
    reader.take(length).read_to_end(&mut asked.body).ok()?;
    Some(asked)
}

#[expect(clippy::disallowed_methods, reason = "it plays a registry that is slow")]
fn write(stream: &mut TcpStream, address: SocketAddr, asked: &Asked, reply: &Reply) -> bool {
    let length = reply.announced.unwrap_or(reply.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {}\r\n", value.replace("{host}", &address.to_string()));
    }
    if stream.write_all((head + "\r\n").as_bytes()).is_err() {
        return false;
    }
    if asked.method == "HEAD" {
        return true;
    }
    let body = &reply.body[..reply.cut.unwrap_or(usize::MAX).min(reply.body.len())];
    let (step, wait) = reply.drip.unwrap_or((body.len().max(1), Duration::ZERO));
    for piece in body.chunks(step) {
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        if stream.write_all(piece).is_err() {
            return false;
        }
    }
    reply.cut.is_none() && length == reply.body.len() as u64
}

/// What an honest registry says.
fn answer(state: &mut State, asked: &Asked) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let field = |name: &str| {
        let pair = query.split('&').filter_map(|pair| pair.split_once('='));
        pair.filter(|(key, _)| *key == name).map(|(_, value)| value.replace("%3A", ":")).next()
    };
    let error = |status, code: &str, words: &str| {
        // With a detail, as those that people use: Docker's client reads one without it otherwise.
        Reply::body(
            status,
            format!(r#"{{"errors":[{{"code":"{code}","message":"{words}","detail":{{}}}}]}}"#),
        )
        .with("Content-Type", "application/json")
    };
    let Some(rest) = path.strip_prefix("/v2/") else { return Reply::status(404) };
    if rest.is_empty() {
        return Reply::body(200, "{}");
    }
    let unknown = || error(404, "NAME_UNKNOWN", "repository name not known to registry");
    let parts: Vec<&str> = rest.split('/').collect();
    let Some(at) =
        parts.iter().position(|part| matches!(*part, "manifests" | "blobs" | "tags" | "referrers"))
    else {
        return unknown();
    };
    let (repository, last) = (parts[..at].join("/"), parts[at + 1..].join("/"));
    match (asked.method.as_str(), parts[at], last.as_str()) {
        ("GET" | "HEAD", "manifests", name) => match state.manifests.get(&(repository, name.to_owned())) {
            Some((kind, bytes)) => Reply::body(200, bytes.clone())
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", digest(bytes)),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
        ("PUT", "manifests", name) => {
            let (kind, name_of) = (asked.header("content-type").to_owned(), digest(&asked.body));
            for key in [name, &name_of] {
                let value = (kind.clone(), asked.body.clone());
                state.manifests.insert((repository.clone(), key.to_owned()), value);
            }
            Reply::status(201).with("Docker-Content-Digest", name_of)
        }
        ("GET", "tags", "list") => {
            let mut tags: Vec<String> = state
                .manifests
                .keys()
                .filter(|(name, tag)| *name == repository && !tag.contains(':'))
                .map(|(_, tag)| format!("{tag:?}"))
                .collect();
            tags.sort();
            Reply::body(200, format!(r#"{{"name":{repository:?},"tags":[{}]}}"#, tags.join(",")))
        }
        ("POST", "blobs", "uploads/") => {
            if let Some(mount) = field("mount").filter(|mount| state.blobs.contains_key(mount)) {
                return Reply::status(201).with("Docker-Content-Digest", mount);
            }
            state.next += 1;
            let id = state.next.to_string();
            state.uploads.insert(id.clone(), Vec::new());
            Reply::status(202).with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
        }
        (method, "blobs", name) if name.starts_with("uploads/") => {
            let id = name.trim_start_matches("uploads/").to_owned();
            let Some(upload) = state.uploads.get_mut(&id) else {
                return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
            };
            let place = format!("/v2/{repository}/blobs/uploads/{id}");
            if method == "DELETE" {
                state.uploads.remove(&id);
                return Reply::status(204);
            }
            if matches!(method, "PATCH" | "PUT") {
                upload.extend_from_slice(&asked.body);
            }
            let range = format!("0-{}", upload.len().saturating_sub(1));
            if method != "PUT" {
                let status = if method == "GET" { 204 } else { 202 };
                return Reply::status(status).with("Location", place).with("Range", range);
            }
            let (bytes, wanted) = (state.uploads.remove(&id).unwrap_or_default(), field("digest"));
            let found = digest(&bytes);
            if wanted.as_deref() != Some(&found) {
                return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
            }
            state.blobs.insert(found.clone(), bytes);
            Reply::status(201).with("Docker-Content-Digest", found)
        }
        ("GET" | "HEAD", "blobs", name) => match state.blobs.get(name) {
            Some(bytes) => ranged(bytes, asked.header("range")),
            None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        },
        _ => unknown(),
    }
}

fn ranged(bytes: &[u8], range: &str) -> Reply {
    let start = range.strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    match start.filter(|start| *start < bytes.len()) {
        None => Reply::body(200, bytes),
        Some(start) => Reply::body(206, &bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}
