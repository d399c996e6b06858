//! Lists of manifests that are being put together: a folder a list, a file a manifest, below `manifests` in the folder of
//! `config.json`.
//!
//! Invariant: names and content of the files are those of Docker's client (28), so that either client goes on with what
//! the other began.

use std::fs;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use havre_oci::{Digest, Reference};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::App;
use crate::config;
use crate::failure::{Failure, file_error};

/// What a manifest is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) os: String,
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub(super) os_version: String,
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(super) os_features: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Points to a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Runs>,
}

/// A manifest of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where it is.
    #[serde(rename = "Ref")]
    pub(super) reference: Reference,
    #[serde(rename = "Descriptor")]
    pub(super) descriptor: Described,
    /// The document byte for byte, in base64.
    #[serde(rename = "Raw", default, deserialize_with = "or_default")]
    raw: String,
    /// The document once more, to be read by people; one of the two.
    #[serde(rename = "SchemaV2Manifest", default, skip_serializing_if = "Option::is_none")]
    docker: Option<Value>,
    #[serde(rename = "OCIManifest", default, skip_serializing_if = "Option::is_none")]
    oci: Option<Value>,
}

impl Entry {
    /// A manifest as a registry has it.
    pub(super) fn new(reference: Reference, descriptor: Described, bytes: &[u8]) -> Result<Self, Failure> {
        let shown: Value = serde_json::from_slice(bytes)
            .map_err(|error| Failure::plain(format!("invalid manifest {}: {error}", descriptor.digest)))?;
        let oci = descriptor.media_type == havre_oci::image::media::MANIFEST;
        let (docker, oci) = if oci { (None, Some(shown)) } else { (Some(shown), None) };
        Ok(Self { reference, descriptor, raw: BASE64.encode(bytes), docker, oci })
    }

    pub(super) fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Whether the document itself was kept; older clients did not.
    pub(super) const fn has_document(&self) -> bool {
        !self.raw.is_empty()
    }

    /// The document, byte for byte.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let bytes = BASE64.decode(&self.raw).unwrap_or_default();
        if Digest::of_bytes(&bytes) == self.descriptor.digest {
            return Ok(bytes);
        }
        Err(Failure::plain(format!(
            "the local copy of manifest {} is not whole: add it again with 'manifest create --amend'",
            self.reference
        )))
    }

    /// The document as JSON.
    pub(super) fn document(&self) -> Result<String, Failure> {
        if self.has_document()
            && let Ok(text) = String::from_utf8(self.bytes()?)
        {
            return Ok(text);
        }
        match self.docker.as_ref().or(self.oci.as_ref()) {
            Some(document) => Ok(document.to_string()),
            None => Err(Failure::plain(format!("{} has no payload", self.reference))),
        }
    }
}

/// There is no such list, or no such manifest in it.
pub(super) fn absent(reference: &Reference) -> Failure {
    Failure::plain(format!("No such manifest: {reference}"))
}

/// All lists of the user.
pub(super) struct Lists {
    root: PathBuf,
}

/// A reference as the name of a file. It has a slash, so this is never `.` or `..`.
fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

impl Lists {
    pub(super) fn of(app: &App) -> Self {
        Self { root: config::directory(&app.global).join("manifests") }
    }

    fn folder(&self, list: &Reference) -> PathBuf {
        self.root.join(file_name(list))
    }

    fn read(path: &std::path::Path) -> Result<Option<Entry>, Failure> {
        let shown = path.to_string_lossy();
        match fs::read_to_string(path) {
            Ok(text) => Entry::read(&text)
                .map(Some)
                .map_err(|error| Failure::plain(format!("invalid manifest file {shown}: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::plain(file_error("open", &shown, &error))),
        }
    }

    /// One manifest of a list.
    pub(super) fn get(&self, list: &Reference, wanted: &Reference) -> Result<Option<Entry>, Failure> {
        Self::read(&self.folder(list).join(file_name(wanted)))
    }

    /// All manifests of a list, by the names of their files; `None` when there is no such list.
    pub(super) fn all(&self, list: &Reference) -> Result<Option<Vec<Entry>>, Failure> {
        let folder = self.folder(list);
        let files = match fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::plain(file_error("open", &folder.to_string_lossy(), &error))),
        };
        let mut paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>, io::Error>>()?;
        paths.sort();
        let entries = paths.iter().filter_map(|path| Self::read(path).transpose());
        entries.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Keeps a manifest in a list, which is made if there is none.
    pub(super) fn save(&self, list: &Reference, name: &Reference, entry: &Entry) -> Result<(), Failure> {
        let folder = self.folder(list);
        let failed = |error: io::Error| Failure::plain(file_error("open", &folder.to_string_lossy(), &error));
        fs::create_dir_all(&folder).map_err(failed)?;
        let text = super::escaped(&super::json(entry)?);
        config::replace(&folder.join(file_name(name)), text.as_bytes(), 0o644).map_err(failed)
    }

    /// Forgets a list.
    pub(super) fn remove(&self, list: &Reference) -> Result<(), Failure> {
        let folder = self.folder(list);
        fs::remove_dir_all(&folder)
            .map_err(|error| Failure::plain(file_error("remove", &folder.to_string_lossy(), &error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_by_dockers_client() {
        let of = |text: &str| file_name(&Reference::parse(text).unwrap());
        assert_eq!(of("busybox"), "docker.io_library_busybox-latest");
        assert_eq!(of("127.0.0.1:5000/a/b_c:1.2"), "127.0.0.1-5000_a_b_c-1.2");
        let digest = "0".repeat(64);
        assert_eq!(of(&format!("r.test/x@sha256:{digest}")), format!("r.test_x@sha256-{digest}"));
    }

    #[test]
    fn a_changed_copy_of_a_manifest_is_not_pushed() {
        let bytes = br#"{"schemaVersion":2}"#;
        let descriptor = Described {
            media_type: havre_oci::image::media::MANIFEST.into(),
            digest: Digest::of_bytes(bytes),
            size: 19,
            platform: None,
        };
        let entry = Entry::new(Reference::parse("r.test/a").unwrap(), descriptor, bytes).unwrap();
        let again = Entry::read(&serde_json::to_string(&entry).unwrap()).unwrap();
        assert_eq!(again.bytes().unwrap(), bytes);
        let other = Entry { raw: BASE64.encode("{}"), ..again };
        assert!(other.bytes().is_err());
    }
}
