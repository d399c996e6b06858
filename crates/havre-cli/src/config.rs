//! Which daemon is meant, and with which keys: flags, environment, contexts, and the default socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use havre_client::{Endpoint, InvalidEndpoint, Tls};
use serde::Deserialize;

use crate::container::proxies::Proxies;
use crate::contexts::{self, DEFAULT, Meta, Store};
use crate::failure::{Failure, file_error};
use crate::global::Global;

/// The chosen daemon.
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    /// The keys for it; none for a unix socket.
    pub(crate) tls: Option<Tls>,
    /// Whether nobody configured it, so that a daemon may be started there.
    pub(crate) by_default: bool,
}

/// The part of `config.json` that is used here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConfigFile {
    current_context: String,
    pub(crate) detach_keys: String,
    pub(crate) ps_format: String,
    pub(crate) images_format: String,
    pub(crate) stats_format: String,
    pub(crate) networks_format: String,
    /// Sent with every request.
    #[serde(rename = "HttpHeaders")]
    pub(crate) http_headers: BTreeMap<String, String>,
    /// Keys to registries, by their address; passed on as they are.
    pub(crate) auths: BTreeMap<String, serde_json::Value>,
    /// What new containers get, by daemon or `default`.
    pub(crate) proxies: BTreeMap<String, Proxies>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

impl ConfigFile {
    /// Whether keys to registries are with another program.
    pub(crate) fn keeps_keys_elsewhere(&self) -> bool {
        !self.creds_store.is_empty() || !self.cred_helpers.is_empty()
    }

    /// The helper that keeps the keys to a registry, if one does.
    pub(crate) fn helper(&self, key: &str) -> Option<String> {
        let helper = self.cred_helpers.get(key).unwrap_or(&self.creds_store);
        (!helper.is_empty()).then(|| helper.clone())
    }
}

/// The directory of the client's configuration.
pub(crate) fn directory(global: &Global) -> PathBuf {
    if !global.config.is_empty() {
        return PathBuf::from(&global.config);
    }
    match std::env::var_os("DOCKER_CONFIG") {
        Some(path) if !path.is_empty() => path.into(),
        _ => Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".docker"),
    }
}

/// Reads `config.json`; a missing one is empty.
pub(crate) fn file(global: &Global) -> Result<ConfigFile, Failure> {
    let path = directory(global).join("config.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| broken(&path, &error)),
        Err(_) => Ok(ConfigFile::default()),
    }
}

fn broken(path: &Path, error: &serde_json::Error) -> Failure {
    Failure::plain(format!("Error loading config file: {}: {error}", path.display()))
}

/// Makes a context the current one.
pub(crate) fn set_current_context(global: &Global, name: &str) -> Result<(), Failure> {
    let name = if name == DEFAULT { "" } else { name };
    change(global, |all| {
        let before = all.get("currentContext").and_then(serde_json::Value::as_str).unwrap_or("");
        if before == name {
            return;
        }
        if name.is_empty() {
            all.remove("currentContext");
        } else {
            all.insert("currentContext".into(), name.into());
        }
    })
    .map(drop)
}

/// Changes `config.json`; everything else in it stays, and so does the file when nothing changes. Where it is.
pub(crate) fn change(
    global: &Global,
    how: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Result<PathBuf, Failure> {
    let path = directory(global).join("config.json");
    let before = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes)
            .map_err(|error| broken(&path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => serde_json::Map::new(),
        Err(error) => return Err(Failure::plain(file_error("open", &path.to_string_lossy(), &error))),
    };
    let mut all = before.clone();
    how(&mut all);
    if all == before {
        return Ok(path);
    }
    let text = serde_json::Value::Object(all).to_string();
    let text = crate::format::json::indent_with(&text, "", "\t");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A link is followed: the file may be shared.
    let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    replace(&real, text.as_bytes(), 0o600)?;
    Ok(path)
}

/// Replaces a file whole; one that is there keeps its mode.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line has no havre-sys, and what is lost is typed again"
)]
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The half-written copy is nobody's; the first error is the one that matters.
        fs::remove_file(&beside).unwrap_or(());
    }
    written
}

pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Headers that the environment wants in every request: `name=value,name=value`.
pub(crate) fn custom_headers() -> Result<Vec<(String, String)>, Failure> {
    let text = environment("DOCKER_CUSTOM_HEADERS").unwrap_or_default();
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                Ok((name.trim().to_owned(), value.trim_matches('"').to_owned()))
            }
            _ => Err(Failure::plain(format!(
                "failed to parse custom headers from DOCKER_CUSTOM_HEADERS environment variable: {pair:?} is no name=value"
            ))),
        })
        .collect()
}

/// The daemon's address that the environment names.
pub(crate) fn host_variable() -> Option<String> {
    environment("HAVRE_HOST").or_else(|| environment("DOCKER_HOST"))
}

/// The name of the context in force.
pub(crate) fn context_name(global: &Global) -> Result<String, Failure> {
    if !global.context.is_empty() {
        return Ok(global.context.clone());
    }
    if !global.hosts.is_empty() || host_variable().is_some() {
        return Ok(DEFAULT.to_owned());
    }
    let named = match environment("DOCKER_CONTEXT") {
        Some(context) => context,
        None => file(global)?.current_context,
    };
    Ok(if named.is_empty() { DEFAULT.to_owned() } else { named })
}

/// Reads an address; `-H` and DOCKER_HOST accept `host:port` and `/path` too.
pub(crate) fn parse_host(text: &str, encrypted: bool) -> Result<Endpoint, InvalidEndpoint> {
    let text = match text {
        "unix://" => "unix:///var/run/docker.sock".to_owned(),
        path if path.starts_with('/') => format!("unix://{path}"),
        address if !address.contains("://") => format!("tcp://{address}"),
        other => other.to_owned(),
    };
    Endpoint::parse(&text).map(|endpoint| match endpoint {
        // Without a port, keys tell which one is meant.
        Endpoint::Tcp(address) if encrypted && has_no_port(&text) => {
            Endpoint::Tcp(address.trim_end_matches("2375").to_owned() + "2376")
        }
        other => other,
    })
}

fn has_no_port(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.ends_with(']') || authority.rsplit_once(':').is_none_or(|(_, port)| port.is_empty())
}

fn unresolved(why: &str) -> Failure {
    Failure::plain(format!("Failed to initialize: unable to resolve docker endpoint: {why}"))
}

/// Finds the daemon that the user means.
pub(crate) fn target(program: &str, global: &Global) -> Result<Target, Failure> {
    if !global.hosts.is_empty() && !global.context.is_empty() {
        return Err(Failure::plain("conflicting options: cannot specify both --host and --context"));
    }
    let host = match global.hosts.as_slice() {
        [] => host_variable(),
        [host] => Some(host.clone()),
        _ => return Err(unresolved("Specify only one -H")),
    };
    let name = context_name(global)?;
    if name != DEFAULT {
        let store = Store::new(&directory(global));
        let meta = store.get(&name).map_err(|failure| unresolved(&failure.message))?;
        let host = meta.host();
        if host.is_empty() {
            return Err(unresolved(&format!("context {name:?}: no docker endpoint is in it")));
        }
        let tls = store.tls(&meta)?;
        let endpoint = parse_host(host, tls.is_some()).map_err(|error| unresolved(&error.to_string()))?;
        let tls = tls.filter(|_| matches!(endpoint, Endpoint::Tcp(_)));
        return Ok(Target { endpoint, tls, by_default: false });
    }
    // The context named default, by name: what the environment says counts.
    match host {
        None => Ok(Target { endpoint: Endpoint::Unix(default_socket(program)), tls: None, by_default: true }),
        Some(text) => {
            let endpoint =
                parse_host(&text, global.encrypts()).map_err(|error| unresolved(&error.to_string()))?;
            let tls = match endpoint {
                Endpoint::Tcp(_) if global.encrypts() => Some(keys(global)?),
                _ => None,
            };
            Ok(Target { endpoint, tls, by_default: false })
        }
    }
}

/// What the context that is no file says.
pub(crate) fn default_context(program: &str, global: &Global) -> Meta {
    let host = match global.hosts.first() {
        Some(host) => host.clone(),
        None => host_variable().unwrap_or_else(|| Endpoint::Unix(default_socket(program)).to_string()),
    };
    Meta::of_host(DEFAULT, Some(&host), global.encrypts() && !global.verifies())
}

/// The keys that flags and environment name.
fn keys(global: &Global) -> Result<Tls, Failure> {
    let folder = environment("DOCKER_CERT_PATH").map_or_else(|| directory(global), PathBuf::from);
    let path = |asked: &str, name: &str| match asked {
        "" => folder.join(name),
        asked => PathBuf::from(asked),
    };
    let verify = global.verifies();
    let ca = if verify {
        let path = path(&global.tls.ca, "ca.pem");
        Some(contexts::read_key(&path).map_err(|failure| {
            Failure::plain(format!(
                "could not read CA certificate {:?}: {}",
                path.to_string_lossy(),
                failure.message
            ))
        })?)
    } else {
        None
    };
    let (cert, key) = (path(&global.tls.cert, "cert.pem"), path(&global.tls.key, "key.pem"));
    // Keys that nobody named need not be there.
    let named = !global.tls.cert.is_empty() || !global.tls.key.is_empty();
    let identity = if named || (cert.exists() && key.exists()) {
        let read = |path: &Path| {
            contexts::read_key(path).map_err(|failure| {
                Failure::plain(format!("could not load X509 key pair: {}", failure.message))
            })
        };
        Some((read(&cert)?, read(&key)?))
    } else {
        None
    };
    Ok(Tls { insecure: !verify, ca, extra: None, identity })
}

/// Docker's socket under Docker's name, ours otherwise.
pub(crate) fn default_socket(program: &str) -> PathBuf {
    if program == "docker" { "/var/run/docker.sock".into() } else { exec_root().join("havre.sock") }
}

/// Where the daemon keeps what lives until the next boot.
pub(crate) fn exec_root() -> PathBuf {
    environment("HAVRE_EXEC_ROOT").map_or_else(|| "/run/havre".into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_port_get_the_one_that_fits() {
        let shown = |text: &str, encrypted| parse_host(text, encrypted).unwrap().to_string();
        assert_eq!(shown("tcp://h", false), "tcp://h:2375");
        assert_eq!(shown("tcp://h", true), "tcp://h:2376");
        assert_eq!(shown("tcp://h:2375", true), "tcp://h:2375");
        assert_eq!(shown("h:1", true), "tcp://h:1");
        assert_eq!(shown("/run/x", false), "unix:///run/x");
    }

    #[test]
    fn the_current_context_is_written_beside_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let global = Global { config: folder.path().to_string_lossy().into_owned(), ..Global::default() };
        let path = folder.path().join("config.json");
        set_current_context(&global, DEFAULT).unwrap();
        assert!(!path.exists());
        fs::write(&path, r#"{"auths":{},"psFormat":"x"}"#).unwrap();
        set_current_context(&global, "web").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\n\t\"") && text.ends_with("\n}"),
            "as Docker's client indents it: {text}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({"auths": {}, "psFormat": "x", "currentContext": "web"}));
        set_current_context(&global, DEFAULT).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("currentContext"));
    }
}
