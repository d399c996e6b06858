//! Which daemon is meant: flags, environment, contexts, and the default socket.

use std::path::{Path, PathBuf};

use havre_client::Endpoint;
use serde::Deserialize;

use crate::failure::Failure;
use crate::global::Global;

/// The chosen daemon.
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
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
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::plain(format!("Error loading config file: {}: {error}", path.display()))
        }),
        Err(_) => Ok(ConfigFile::default()),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Finds the daemon that the user means.
pub(crate) fn target(program: &str, global: &Global) -> Result<Target, Failure> {
    let configured = |text: &str| {
        // `-H` and DOCKER_HOST accept `host:port` and `/path` too.
        let text = match text {
            path if path.starts_with('/') => format!("unix://{path}"),
            address if !address.contains("://") => format!("tcp://{address}"),
            other => other.to_owned(),
        };
        let endpoint = Endpoint::parse(&text).map_err(|error| Failure::plain(error.to_string()))?;
        Ok(Target { endpoint, by_default: false })
    };
    let tls = global.tls || environment("DOCKER_TLS_VERIFY").is_some();
    if tls {
        return Err(Failure::plain("not yet supported: TLS connections"));
    }
    if !global.hosts.is_empty() && !global.context.is_empty() {
        return Err(Failure::plain("conflicting options: cannot specify both --host and --context"));
    }
    match global.hosts.as_slice() {
        [host] => return configured(host),
        [] => {}
        _ => return Err(Failure::plain("Specify only one -H")),
    }
    let context = match &global.context {
        named if !named.is_empty() => named.clone(),
        _ => {
            let host = environment("HAVRE_HOST").or_else(|| environment("DOCKER_HOST"));
            if let Some(host) = host {
                return configured(&host);
            }
            match environment("DOCKER_CONTEXT") {
                Some(context) => context,
                None => file(global)?.current_context,
            }
        }
    };
    if context.is_empty() || context == "default" {
        return Ok(Target { endpoint: Endpoint::Unix(default_socket(program)), by_default: true });
    }
    configured(&context_host(global, &context)?)
}

/// Docker's socket under Docker's name, ours otherwise.
pub(crate) fn default_socket(program: &str) -> PathBuf {
    if program == "docker" { "/var/run/docker.sock".into() } else { exec_root().join("havre.sock") }
}

/// Where the daemon keeps what lives until the next boot.
pub(crate) fn exec_root() -> PathBuf {
    environment("HAVRE_EXEC_ROOT").map_or_else(|| "/run/havre".into(), PathBuf::from)
}

/// The host that a stored context names. Contexts lie in folders named by a digest, so all are read.
fn context_host(global: &Global, name: &str) -> Result<String, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        name: String,
        #[serde(default)]
        endpoints: std::collections::BTreeMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        #[serde(default)]
        host: String,
    }
    let folder = directory(global).join("contexts/meta");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(bytes) = std::fs::read(entry.path().join("meta.json")) else { continue };
        let Ok(meta) = serde_json::from_slice::<Meta>(&bytes) else { continue };
        if meta.name == name {
            let host = meta.endpoints.get("docker").map(|endpoint| endpoint.host.clone()).unwrap_or_default();
            if host.is_empty() {
                return Err(Failure::plain(format!("context \"{name}\" names no docker endpoint")));
            }
            return Ok(host);
        }
    }
    Err(Failure::plain(format!(
        "unable to resolve docker endpoint: context \"{name}\": context not found: no such file or directory"
    )))
}
