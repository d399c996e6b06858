//! Image documents: descriptors, manifests, indexes, configurations, in the OCI and the Docker form.
//!
//! Invariants: nothing larger than `MAX_DOCUMENT` is parsed; a document that could be read as a manifest
//! and as an index is neither (CVE-2021-41190); `null` and an absent field are the same.

use std::collections::BTreeMap;

use havre_base::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Platform};

/// Largest manifest, index or configuration that is read.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Media types of the documents and layers.
pub mod media {
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed with Zstandard.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's uncompressed layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer compressed with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's manifest, second schema.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
}

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Not the JSON we want.
    #[error("invalid {what}")]
    Json {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        #[source]
        source: serde_json::Error,
    },
    /// Larger than `MAX_DOCUMENT`.
    #[error("{what} of {size} bytes is larger than {MAX_DOCUMENT}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        size: u64,
    },
    /// Both a manifest and an index.
    #[error("ambiguous document: both a manifest and an index")]
    Ambiguous,
    /// Anything else.
    #[error("invalid {what}: {why}")]
    Content {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        why: &'static str,
    },
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Docker accepts a single string where a list of words is meant.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(from)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// Keys whose values mean nothing, as Docker writes sets: `{"80/tcp":{}}`.
pub type Set = BTreeMap<String, Empty>;

/// `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// Points to some content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For which platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image for one platform: a configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// The media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the bottom one first.
    #[serde(deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Images, or more indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// The media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What is in it.
    #[serde(deserialize_with = "or_default")]
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index, whichever it is.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            layers: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = parse("manifest", bytes)?;
        match (shape.config.is_some() || shape.layers.is_some(), shape.manifests.is_some()) {
            (true, true) => Err(InvalidDocument::Ambiguous),
            (false, true) => {
                let index: Index = parse("image index", bytes)?;
                match index.media_type.as_deref() {
                    None | Some(media::INDEX | media::DOCKER_LIST) => Ok(Self::Index(index)),
                    Some(_) => Err(InvalidDocument::Ambiguous),
                }
            }
            _ => {
                let manifest: Manifest = parse("manifest", bytes)?;
                match manifest.media_type.as_deref() {
                    Some(media::INDEX | media::DOCKER_LIST) => Err(InvalidDocument::Ambiguous),
                    _ => Ok(Self::Manifest(manifest)),
                }
            }
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, InvalidDocument> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > MAX_DOCUMENT {
        return Err(InvalidDocument::TooLarge { what, size });
    }
    serde_json::from_slice(bytes).map_err(|source| InvalidDocument::Json { what, source })
}

/// What an image is and how its containers start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339; as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By whom.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Processor.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Of Windows images.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Note of `commit` and `import`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Which Docker made it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// How containers start.
    #[serde(default, deserialize_with = "or_default")]
    pub config: ContainerConfig,
    /// The layers.
    pub rootfs: RootFs,
    /// How it came to be, oldest first.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        let config: Self = parse("image configuration", bytes)?;
        if config.rootfs.kind != "layers" {
            return Err(InvalidDocument::Content {
                what: "image configuration",
                why: "rootfs type is not \"layers\"",
            });
        }
        if config.config.onbuild_is_chained() {
            return Err(InvalidDocument::Content { what: "image configuration", why: "chained ONBUILD" });
        }
        Ok(config)
    }

    /// When it was made, if that is a time at all.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.created.as_deref()?).ok()
    }

    /// What it was made for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: if self.os.is_empty() { "linux".into() } else { self.os.clone() },
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
            os_version: self.os_version.clone(),
        }
    }
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, the bottom one first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One step in the making of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Note.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// It made no layer.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// How a container of an image starts: the OCI fields and those Docker adds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: Set,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's fixed words.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command's replaceable words.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Folders that get volumes.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: Set,
    /// Where the command starts.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What asks it to stop.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds until it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How its health is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images made from this one.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// What runs the shell forms of instructions.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Windows only.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

impl ContainerConfig {
    fn onbuild_is_chained(&self) -> bool {
        self.on_build
            .iter()
            .any(|line| line.trim_start().get(..8).is_some_and(|word| word.eq_ignore_ascii_case("ONBUILD ")))
    }
}

/// A health probe; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", ...]`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between probes.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one probe.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between probes while it starts.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_absent_fields() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"Entrypoint":"/x","Labels":null,
            "ExposedPorts":{"80/tcp":{}},"Hostname":"ignored"},"rootfs":{"type":"layers","diff_ids":null},"history":null,"created":"9999-12-31T00:00:00Z"}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.entrypoint, Some(vec!["/x".to_owned()]));
        assert_eq!(config.config.cmd, None);
        assert_eq!(config.created_at(), None, "a time out of range is no time");
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&again).unwrap(), config);
    }

    #[test]
    fn a_document_that_is_two_things_is_refused() {
        let digest = Digest::of_bytes(b"");
        let manifest = format!(r#""config":{{"mediaType":"","digest":"{digest}","size":0}},"layers":[]"#);
        let parse = |text: String| Document::parse(text.as_bytes());
        assert!(matches!(parse(format!(r#"{{"schemaVersion":2,{manifest}}}"#)), Ok(Document::Manifest(_))));
        assert!(matches!(parse(r#"{"schemaVersion":2,"manifests":[]}"#.into()), Ok(Document::Index(_))));
        for bad in [
            format!(r#"{{"schemaVersion":2,"manifests":[],{manifest}}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}",{manifest}}}"#, media::INDEX),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::MANIFEST),
        ] {
            assert!(matches!(parse(bad), Err(InvalidDocument::Ambiguous)));
        }
        assert!(parse("[]".into()).is_err());
    }

    #[test]
    fn large_documents_are_not_parsed() {
        let text = vec![b' '; 5 << 20];
        assert!(matches!(Document::parse(&text), Err(InvalidDocument::TooLarge { .. })));
        assert!(matches!(ImageConfig::parse(&text), Err(InvalidDocument::TooLarge { .. })));
    }
}
