//! Contexts: daemons by name, kept where and as Docker's client keeps them, so that both share them.
//!
//! Invariants: a context is `contexts/meta/<digest of its name>/meta.json` below the configuration's folder,
//! its keys are `contexts/tls/<digest>/<endpoint>/*`, readable by the owner only; what is in the file and
//! unknown here is kept.

pub(crate) mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use havre_client::Tls;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, file_error};

/// The context that is no file: what flags and environment say.
pub(crate) const DEFAULT: &str = "default";
/// The endpoint that matters.
const DOCKER: &str = "docker";
/// The largest file of keys.
const MAX_FILE: u64 = 1 << 20;

/// What a context says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Meta {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
    #[serde(default)]
    pub(crate) endpoints: BTreeMap<String, Map<String, Value>>,
}

/// Files of keys, by endpoint and name.
pub(crate) type Keys = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

impl Meta {
    /// A context of a daemon.
    pub(crate) fn of_host(name: &str, host: Option<&str>, insecure: bool) -> Self {
        let mut endpoint = Map::new();
        if let Some(host) = host {
            endpoint.insert("Host".into(), host.into());
        }
        endpoint.insert("SkipTLSVerify".into(), insecure.into());
        Self {
            name: name.to_owned(),
            endpoints: BTreeMap::from([(DOCKER.to_owned(), endpoint)]),
            ..Self::default()
        }
    }

    pub(crate) fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn describe(&mut self, description: &str) {
        if description.is_empty() {
            self.metadata.remove("Description");
        } else {
            self.metadata.insert("Description".into(), json!(description));
        }
    }

    /// The daemon's address, empty when it has none.
    pub(crate) fn host(&self) -> &str {
        let endpoint = self.endpoints.get(DOCKER);
        endpoint.and_then(|endpoint| endpoint.get("Host")).and_then(Value::as_str).unwrap_or("")
    }

    fn insecure(&self) -> bool {
        let endpoint = self.endpoints.get(DOCKER);
        endpoint.and_then(|endpoint| endpoint.get("SkipTLSVerify")).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Takes over another context's daemon.
    pub(crate) fn set_endpoint(&mut self, other: &Self) {
        self.endpoints
            .extend(other.endpoints.get(DOCKER).map(|endpoint| (DOCKER.to_owned(), endpoint.clone())));
    }
}

/// The keys of a daemon's endpoint.
pub(crate) fn docker_keys(keys: BTreeMap<String, Vec<u8>>) -> Keys {
    if keys.is_empty() { Keys::new() } else { Keys::from([(DOCKER.to_owned(), keys)]) }
}

/// The folder of contexts.
pub(crate) struct Store(PathBuf);

impl Store {
    /// The store below the configuration's folder.
    pub(crate) fn new(configuration: &Path) -> Self {
        Self(configuration.join("contexts"))
    }

    fn digest(name: &str) -> String {
        havre_oci::Digest::of_bytes(name.as_bytes()).hex()
    }

    /// The folder of a context's description.
    pub(crate) fn meta_folder(&self, name: &str) -> PathBuf {
        self.0.join("meta").join(Self::digest(name))
    }

    /// The folder of a context's keys.
    pub(crate) fn tls_folder(&self, name: &str) -> PathBuf {
        self.0.join("tls").join(Self::digest(name))
    }

    /// All contexts, by name. What cannot be read is none.
    pub(crate) fn list(&self) -> Vec<Meta> {
        let entries = fs::read_dir(self.0.join("meta")).into_iter().flatten().flatten();
        let mut list: Vec<Meta> = entries
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path().join("meta.json")).ok()?).ok())
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// A context by its name.
    pub(crate) fn get(&self, name: &str) -> Result<Meta, Failure> {
        let path = self.meta_folder(name).join("meta.json");
        let bytes = fs::read(&path).map_err(|error| {
            Failure::plain(format!(
                "context {name:?}: context not found: {}",
                file_error("open", &path.to_string_lossy(), &error)
            ))
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::plain(format!("context {name:?}: {}: {error}", path.display())))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.meta_folder(name).join("meta.json").exists()
    }

    /// The keys of a context.
    pub(crate) fn keys(&self, name: &str) -> Result<Keys, Failure> {
        let mut keys = Keys::new();
        for endpoint in fs::read_dir(self.tls_folder(name)).into_iter().flatten().flatten() {
            let files = keys.entry(endpoint.file_name().to_string_lossy().into_owned()).or_default();
            for file in fs::read_dir(endpoint.path()).into_iter().flatten().flatten() {
                files.insert(file.file_name().to_string_lossy().into_owned(), read_key(&file.path())?);
            }
        }
        Ok(keys)
    }

    /// The names of the files of keys, by endpoint.
    pub(crate) fn key_names(&self, name: &str) -> BTreeMap<String, Vec<String>> {
        let names = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        let folder = self.tls_folder(name);
        names(folder.clone())
            .into_iter()
            .map(|endpoint| (endpoint.clone(), names(folder.join(endpoint))))
            .collect()
    }

    /// The keys with which a context's daemon is reached; none when it has none.
    pub(crate) fn tls(&self, meta: &Meta) -> Result<Option<Tls>, Failure> {
        let mut files = self.keys(&meta.name)?.remove(DOCKER).unwrap_or_default();
        if files.is_empty() && !meta.insecure() {
            return Ok(None);
        }
        let identity = match (files.remove("cert.pem"), files.remove("key.pem")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => None,
        };
        Ok(Some(Tls { insecure: meta.insecure(), ca: files.remove("ca.pem"), extra: None, identity }))
    }

    /// Writes a context; `None` leaves its keys as they are.
    pub(crate) fn put(&self, meta: &Meta, keys: Option<&Keys>) -> Result<(), Failure> {
        if let Some(keys) = keys {
            let folder = self.tls_folder(&meta.name);
            remove(&folder)?;
            for (endpoint, files) in keys {
                let folder = folder.join(endpoint);
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
                for (name, bytes) in files {
                    let mut options = fs::OpenOptions::new();
                    options.write(true).create(true).truncate(true).mode(0o600);
                    options.open(folder.join(name))?.write_all(bytes)?;
                }
            }
        }
        let folder = self.meta_folder(&meta.name);
        fs::create_dir_all(&folder)?;
        let text = serde_json::to_vec(meta).map_err(|error| Failure::plain(error.to_string()))?;
        crate::config::replace(&folder.join("meta.json"), &text, 0o644)?;
        Ok(())
    }

    /// Removes a context and its keys.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        remove(&self.meta_folder(name))?;
        remove(&self.tls_folder(name))?;
        Ok(())
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a file of keys.
pub(crate) fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.to_string_lossy();
    let failed = |error: io::Error| Failure::plain(file_error("open", &shown, &error));
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE + 1), &mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::plain(format!("{shown} is too large for a certificate or a key")));
    }
    Ok(bytes)
}

/// Refuses names that Docker refuses.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    match name {
        "" => Err(Failure::plain("context name cannot be empty")),
        DEFAULT => Err(Failure::plain("\"default\" is a reserved context name")),
        _ if name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(inner) =>
        {
            Ok(())
        }
        _ => Err(Failure::plain(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_in_the_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let text = r#"{"Name":"web","Metadata":{"Other":1},"Endpoints":{"kubernetes":{"X":2},"docker":{"Host":"unix:///a","SkipTLSVerify":true}}}"#;
        let mut meta: Meta = serde_json::from_str(text).unwrap();
        meta.describe("new");
        store.put(&meta, Some(&docker_keys(BTreeMap::from([("ca.pem".into(), b"CA".to_vec())])))).unwrap();
        let read = store.get("web").unwrap();
        assert_eq!((read.metadata["Other"].as_i64(), read.description()), (Some(1), "new"));
        assert_eq!(read.endpoints["kubernetes"]["X"], 2);
        let tls = store.tls(&read).unwrap().unwrap();
        assert_eq!((tls.insecure, tls.ca.as_deref()), (true, Some(&b"CA"[..])));
        store.remove("web").unwrap();
        assert!(!store.exists("web") && store.list().is_empty());
    }

    #[test]
    fn names_are_those_docker_takes() {
        assert!(check_name("ab").is_ok() && check_name("a.b+c_d-e").is_ok());
        for bad in ["", "a", "default", "../x", "-ab", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
