//! Images as registries have them, honest and hostile: any of their documents can be changed before they are put there.

use std::io::Write as _;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use havre_oci::image::media;
use havre_oci::{Digest, Platform};
use havre_store::tar::{Entry, Kind, TarWriter};
use serde_json::{Value, json};

use crate::Layer;
use crate::registry::{FakeRegistry, digest};

/// A change to a document.
type Change = Box<dyn FnOnce(&mut Value)>;

/// An image for a registry.
#[derive(Default)]
pub struct RemoteImage {
    /// Media type, blob, and the digest of the uncompressed layer.
    layers: Vec<(String, Vec<u8>, String)>,
    platform: Option<Platform>,
    config: Vec<Change>,
    manifest: Vec<Change>,
}

impl std::fmt::Debug for RemoteImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteImage").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl RemoteImage {
    /// No layers, for this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer, compressed with gzip.
    pub fn layer(self, tar: &[u8]) -> Result<Self> {
        let diff = digest(tar);
        Ok(self.blob(media::LAYER_GZIP, gzip(tar)?, &diff))
    }

    /// One more layer as it is.
    #[must_use]
    pub fn plain(self, tar: Vec<u8>) -> Self {
        let diff = digest(&tar);
        self.blob(media::LAYER, tar, &diff)
    }

    /// One more layer of which anything may be said.
    #[must_use]
    pub fn blob(mut self, media_type: &str, blob: Vec<u8>, diff_id: &str) -> Self {
        self.layers.push((media_type.into(), blob, diff_id.into()));
        self
    }

    /// For another platform.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Changes the configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Value) + 'static) -> Self {
        self.config.push(Box::new(change));
        self
    }

    /// Changes the manifest.
    #[must_use]
    pub fn manifest(mut self, change: impl FnOnce(&mut Value) + 'static) -> Self {
        self.manifest.push(Box::new(change));
        self
    }

    /// Puts it into a registry; the manifest's digest.
    pub fn put(self, registry: &FakeRegistry, repository: &str, tag: &str) -> Result<String> {
        let text = self.store(registry)?;
        Ok(registry.manifest(repository, tag, media::MANIFEST, text))
    }

    /// Puts all but the manifest into a registry; the manifest.
    pub fn store(self, registry: &FakeRegistry) -> Result<Vec<u8>> {
        let platform = self.platform.unwrap_or_else(Platform::host);
        let diffs: Vec<&String> = self.layers.iter().map(|(_, _, diff)| diff).collect();
        let mut config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": platform.architecture,
            "os": platform.os,
            "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diffs },
            "history": diffs.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        });
        if let Some(variant) = &platform.variant {
            config["variant"] = variant.as_str().into();
        }
        self.config.into_iter().for_each(|change| change(&mut config));
        let config = serde_json::to_vec(&config)?;
        let layers: Vec<Value> = self
            .layers
            .into_iter()
            .map(|(kind, blob, _)| {
                let size = blob.len();
                json!({ "mediaType": kind, "size": size, "digest": registry.blob(blob) })
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": { "mediaType": media::CONFIG, "size": config.len(), "digest": registry.blob(config) },
            "layers": layers,
        });
        self.manifest.into_iter().for_each(|change| change(&mut manifest));
        Ok(serde_json::to_vec(&manifest)?)
    }
}

/// Puts an index of images into a registry, each for a platform; the index's digest.
pub fn put_index(
    registry: &FakeRegistry,
    repository: &str,
    tag: &str,
    images: impl IntoIterator<Item = (Platform, RemoteImage)>,
) -> Result<String> {
    let mut entries = Vec::new();
    for (platform, image) in images {
        let text = image.platform(platform.clone()).store(registry)?;
        let size = text.len();
        let name = digest(&text);
        registry.manifest(repository, &name, media::MANIFEST, text);
        entries.push(json!({
            "mediaType": media::MANIFEST, "size": size, "digest": name, "platform": platform,
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries });
    Ok(registry.manifest(repository, tag, media::INDEX, serde_json::to_vec(&index)?))
}

/// Compressed with gzip.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// So many mebibytes of zeros as a file in a layer, compressed a thousandfold; and the digest of the layer.
pub fn bomb(mebibytes: usize) -> Result<(Vec<u8>, String)> {
    let tar = Layer::new().file("zeros", 0o644, &vec![0; mebibytes << 20])?.finish()?;
    Ok((gzip(&tar)?, Digest::of_bytes(&tar).to_string()))
}

/// A file of so many gibibytes of zeros, compressed as many members of one stream, a thousand times smaller.
pub fn endless(gibibytes: u64) -> Result<Vec<u8>> {
    let entry = Entry { path: b"zeros".to_vec(), mode: 0o644, size: gibibytes << 30, ..Entry::default() };
    let mut head = TarWriter::new(Vec::new());
    head.header(&entry)?;
    let mut stream = gzip(head.content())?;
    let mut member = GzEncoder::new(Vec::new(), Compression::best());
    member.write_all(&vec![0; 1 << 20])?;
    let member = member.finish()?;
    (0..gibibytes << 10).for_each(|_| stream.extend_from_slice(&member));
    Ok(stream)
}

/// A statically linked shell with the usual tools, as a layer.
pub fn shell() -> Result<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox")?;
    let mut layer = Layer::new();
    for folder in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        layer = layer.folder(folder, 0o755)?;
    }
    layer = layer.file("bin/busybox", 0o755, &busybox)?;
    for applet in ["sh", "ls", "cat", "stat", "true", "test", "echo", "wc", "sleep"] {
        layer = layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.finish()
}

/// The id of an attack, what it tries, and the layers that do.
pub type Escape = (&'static str, &'static str, Vec<Vec<u8>>);

/// Layers that try to reach a folder of the host, each under the id of the attack and what it tries. `outside` is an
/// absolute path of a folder with a file `canary`.
pub fn escapes(outside: &str) -> Result<Vec<Escape>> {
    let climb = format!("{}{}", "../".repeat(40), outside.trim_start_matches('/'));
    let absolute = outside.to_owned();
    let file = |path: &str| Layer::new().file(path, 0o644, b"escaped")?.finish();
    let hard = |path: &str, target: &str| {
        let entry = Entry {
            path: path.into(),
            link: target.into(),
            kind: Kind::HardLink,
            mode: 0o644,
            ..Entry::default()
        };
        Layer::new().other(entry)
    };
    let link = |path: &str, target: &str| Layer::new().link(path, target);
    let long = "a/".repeat(2_100) + "x";
    let nul = Entry { path: b"a\0b".to_vec(), mode: 0o644, ..Entry::default() };
    Ok(vec![
        ("I01", "a name that climbs", vec![file(&format!("{climb}/made"))?]),
        ("I01", "a name that climbs behind a dot", vec![file(&format!("./{climb}/made"))?]),
        ("I01", "an absolute name", vec![file(&format!("{absolute}/made"))?]),
        ("I01", "a name with backslashes", vec![file("..\\..\\made")?]),
        ("I01", "a name longer than any path", vec![file(&long)?]),
        ("I01", "a name with a NUL", vec![Layer::new().other(nul)?.finish()?]),
        ("I01", "a name that is no UTF-8", {
            let entry = Entry { path: b"a\xff\xfeb".to_vec(), mode: 0o644, ..Entry::default() };
            vec![Layer::new().other(entry)?.finish()?]
        }),
        (
            "I02",
            "a file through an absolute link",
            vec![link("to", &absolute)?.file("to/made", 0o644, b"escaped")?.finish()?],
        ),
        ("I02", "a file through a link that climbs", {
            vec![link("to", &climb)?.file("to/made", 0o644, b"escaped")?.finish()?]
        }),
        (
            "I02",
            "a file through a link of the layer below",
            vec![link("to", &absolute)?.finish()?, file("to/made")?],
        ),
        ("I03", "a hard link to a file outside", {
            vec![hard("in", &format!("{absolute}/canary"))?.file("in", 0o666, b"escaped")?.finish()?]
        }),
        ("I03", "a hard link that climbs", vec![hard("in", &format!("{climb}/canary"))?.finish()?]),
        ("I03", "a hard link through a link", {
            let layer = link("to", &absolute)?;
            let entry = Entry {
                path: b"in".to_vec(),
                link: b"to/canary".to_vec(),
                kind: Kind::HardLink,
                mode: 0o644,
                ..Entry::default()
            };
            vec![layer.other(entry)?.finish()?]
        }),
        ("I04", "a whiteout through a link", {
            vec![link("to", &absolute)?.file("to/.wh.canary", 0o644, b"")?.finish()?]
        }),
        ("I04", "an opaque folder through a link", {
            vec![link("to", &absolute)?.file("to/.wh..wh..opq", 0o644, b"")?.finish()?]
        }),
        ("I04", "a whiteout that climbs", vec![file(&format!("{climb}/.wh.canary"))?]),
        ("I04", "a whiteout of the folder above", vec![file(".wh...")?]),
    ])
}

/// The digests of what [`put_attested`] put into a registry.
#[derive(Debug, Clone)]
pub struct Attested {
    /// The index that the tag leads to.
    pub index: String,
    /// The image for this machine.
    pub manifest: String,
    /// The manifest of the attestation about it.
    pub attestation: String,
    /// What it says: a document of its own.
    pub statement: String,
}

/// Puts an index of an image for this machine, an attestation about it as BuildKit makes them, and images for other
/// platforms into a registry.
pub fn put_attested(
    registry: &FakeRegistry,
    repository: &str,
    tag: &str,
    image: RemoteImage,
    others: impl IntoIterator<Item = (Platform, RemoteImage)>,
) -> Result<Attested> {
    let host = Platform::host();
    let images = std::iter::once((host.clone(), image)).chain(others);
    let index = put_index(registry, repository, tag, images)?;
    let text = registry.document(repository, &index).unwrap_or_default();
    let mut index: Value = serde_json::from_slice(&text)?;
    let manifest = index["manifests"][0]["digest"].as_str().unwrap_or_default().to_owned();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{ "name": "test", "digest": { "sha256": manifest.trim_start_matches("sha256:") } }],
    });
    let statement = serde_json::to_vec(&statement)?;
    let config =
        br#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let document = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST,
        "config": { "mediaType": media::CONFIG, "size": config.len(), "digest": registry.blob(config.as_slice()) },
        "layers": [{
            "mediaType": "application/vnd.in-toto+json", "size": statement.len(),
            "digest": registry.blob(statement.clone()),
            "annotations": { "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" },
        }],
    }))?;
    let attestation = digest(&document);
    let size = document.len();
    registry.manifest(repository, &attestation, media::MANIFEST, document);
    if let Some(entries) = index["manifests"].as_array_mut() {
        entries.push(json!({
            "mediaType": media::MANIFEST, "size": size, "digest": attestation,
            "annotations": {
                "vnd.docker.reference.digest": manifest, "vnd.docker.reference.type": "attestation-manifest",
            },
            "platform": { "architecture": "unknown", "os": "unknown" },
        }));
    }
    let index = registry.manifest(repository, tag, media::INDEX, serde_json::to_vec_pretty(&index)?);
    Ok(Attested { index, manifest, attestation, statement: digest(&statement) })
}
