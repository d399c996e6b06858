//! Where a plugin listens: a socket in one folder, or a file in others that says it.

use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{PluginError, Result};

/// The most bytes of a file that says where a plugin is.
const LARGEST_FILE: u64 = 64 << 10;

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The folders in which plugins are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// With sockets, `NAME.sock` or `NAME/NAME.sock`.
    pub sockets: PathBuf,
    /// With files, `NAME.spec` and `NAME.json`, in this order.
    pub files: Vec<PathBuf>,
}

impl Default for Folders {
    /// Docker's.
    fn default() -> Self {
        let files = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
        Self { sockets: "/run/docker/plugins".into(), files: files.iter().map(PathBuf::from).collect() }
    }
}

/// What is read of `NAME.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    addr: String,
    #[serde(default, rename = "TLSConfig")]
    tls: Option<serde_json::Value>,
}

/// Names are file names, and no paths.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= 100
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(fits)
}

fn candidates(folder: &Path, name: &str, ending: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{ending}");
    [folder.join(&file), folder.join(name).join(&file)]
}

impl Folders {
    /// Where the plugin of this name listens.
    pub fn find(&self, name: &str) -> Result<Address> {
        let missing = || PluginError::NotFound(name.to_owned());
        if !is_name(name) {
            return Err(missing());
        }
        let is_socket =
            |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if let Some(path) = candidates(&self.sockets, name, "sock").into_iter().find(is_socket) {
            return Ok(Address::Unix(path));
        }
        for folder in &self.files {
            for ending in ["spec", "json"] {
                for path in candidates(folder, name, ending) {
                    if path.is_file() {
                        return read(&path, ending == "json");
                    }
                }
            }
        }
        Err(missing())
    }
}

fn read(path: &Path, json: bool) -> Result<Address> {
    let fault = |why: String| PluginError::File { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
    if length > LARGEST_FILE {
        return Err(fault(format!("{length} bytes are more than {LARGEST_FILE}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    if !json {
        return address(text.trim()).map_err(fault);
    }
    let described: Described = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    if described.tls.is_some_and(|tls| tls != serde_json::json!({}) && !tls.is_null()) {
        return Err(fault("TLSConfig is not yet supported: name an address without TLS".into()));
    }
    address(described.addr.trim()).map_err(fault)
}

fn address(text: &str) -> std::result::Result<Address, String> {
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", rest)) => {
            let address = rest.trim_end_matches('/');
            match address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
                Some((host, Ok(_))) if !host.is_empty() => Ok(Address::Tcp(address.to_owned())),
                _ => Err(format!("{text:?} has no host and port")),
            }
        }
        Some(("https", _)) => Err(format!("{text:?}: TLS is not yet supported, name tcp:// or unix://")),
        _ => Err(format!("{text:?} is no address: want unix:///PATH or tcp://HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_by_their_names_only() {
        let folder = tempfile::tempdir().unwrap();
        let (sockets, files) = (folder.path().join("s"), folder.path().join("f"));
        std::fs::create_dir_all(sockets.join("deep")).unwrap();
        std::fs::create_dir_all(&files).unwrap();
        let folders = Folders { sockets: sockets.clone(), files: vec![files.clone()] };
        let _one = std::os::unix::net::UnixListener::bind(sockets.join("one.sock")).unwrap();
        let _deep = std::os::unix::net::UnixListener::bind(sockets.join("deep/deep.sock")).unwrap();
        std::fs::write(files.join("by-file.spec"), " tcp://127.0.0.1:80\n").unwrap();
        std::fs::write(files.join("described.json"), r#"{"Name":"x","Addr":"unix:///run/x.sock"}"#).unwrap();
        let found = |name: &str| folders.find(name).map(|address| address.to_string());
        assert_eq!(found("one").unwrap(), format!("unix://{}/one.sock", sockets.display()));
        assert_eq!(found("deep").unwrap(), format!("unix://{}/deep/deep.sock", sockets.display()));
        assert_eq!(found("by-file").unwrap(), "tcp://127.0.0.1:80");
        assert_eq!(found("described").unwrap(), "unix:///run/x.sock");
        for name in ["two", "", "..", "../s/one", "/etc/passwd", "one.sock", "a/b", &"n".repeat(101), "o\0ne"]
        {
            assert!(matches!(folders.find(name), Err(PluginError::NotFound(_))), "{name}");
        }
    }

    #[test]
    fn files_that_say_nothing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { sockets: "/nowhere".into(), files: vec![folder.path().to_owned()] };
        for (file, text, why) in [
            ("a.spec", "x", "is no address"),
            ("b.spec", "unix://x", "is no address"),
            ("c.spec", "tcp://x", "no host and port"),
            ("d.spec", "https://x:1", "TLS is not yet supported"),
            ("e.json", "{", "EOF"),
            (
                "f.json",
                r#"{"Addr":"unix:///x","TLSConfig":{"CAFile":"y"}}"#,
                "TLSConfig is not yet supported",
            ),
            ("g.spec", &"x".repeat(70_000), "70000 bytes are more"),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
            let said = folders.find(&file[..1]).unwrap_err().to_string();
            assert!(said.contains(why) && said.contains(file), "{said}");
        }
    }
}
