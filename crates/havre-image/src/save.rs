//! Writing images as an archive that both `docker load` and OCI tools read.
//!
//! Invariant: the bytes depend only on the images and names asked for. Layers come out byte for byte as they
//! came in, so their digests hold; attestations stand beside their image in an index of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use havre_oci::image::{Descriptor, Index, MAX_DOCUMENT, Manifest, media};
use havre_oci::{Digest, Reference};
use havre_store::StoreError;
use havre_store::tar::{Entry, Kind, TarWriter};
use serde::{Deserialize, Serialize};

use crate::attested::{MOST_BYTES, Source, about_another};
use crate::index::Pins;
use crate::state::Known;
use crate::{ImageError, Images, Result};

/// A line of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchiveImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) layers: Option<Vec<String>>,
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value).map_err(|e| StoreError::Encode(e.into()))?)
}

impl Images {
    /// Writes the images of these names or ids. A repository without a tag stands for all its tags.
    pub fn save(&self, names: &[String], out: impl Write) -> Result<()> {
        let pins = Pins::new(self);
        let chosen = self.choose(names)?;
        for (known, _) in chosen.values() {
            pins.pin(&known.id);
            known.config.rootfs.diff_ids.iter().for_each(|layer| pins.pin(layer));
            known.record.documents.iter().for_each(|document| pins.pin(document));
        }
        let mut tar = TarWriter::new(std::io::BufWriter::with_capacity(256 << 10, out));
        let failed = ImageError::Save;
        for path in ["blobs/", "blobs/sha256/"] {
            let entry = Entry { path: path.into(), kind: Kind::Directory, mode: 0o755, ..Entry::default() };
            tar.header(&entry).map_err(failed)?;
        }
        let file = |path: &str, size| Entry { path: path.into(), mode: 0o644, size, ..Entry::default() };
        let (mut written, mut manifests, mut lines) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (known, tags) in chosen.values() {
            let mut layers = Vec::new();
            for diff_id in &known.config.rootfs.diff_ids {
                let info =
                    self.snapshots.layer(diff_id).ok_or_else(|| StoreError::Missing(diff_id.clone()))?;
                if written.insert(diff_id.clone()) {
                    tar.header(&file(&blob(diff_id), info.tar_size)).map_err(failed)?;
                    self.snapshots.write_tar(diff_id, tar.content())?;
                    tar.pad(info.tar_size).map_err(failed)?;
                }
                layers.push(descriptor(media::LAYER, diff_id.clone(), info.tar_size));
            }
            let config = self.content.read(&known.id, MAX_DOCUMENT)?;
            let size = u64::try_from(config.len()).unwrap_or(0);
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(media::MANIFEST.into()),
                config: descriptor(media::CONFIG, known.id.clone(), size),
                layers,
                annotations: BTreeMap::new(),
            };
            let manifest = json(&manifest)?;
            let id = Digest::of_bytes(&manifest);
            for (digest, bytes) in [(&known.id, &config), (&id, &manifest)] {
                if written.insert(digest.clone()) {
                    tar.entry(file(&blob(digest), 0), bytes).map_err(failed)?;
                }
            }
            let mut pointer = descriptor(media::MANIFEST, id, u64::try_from(manifest.len()).unwrap_or(0));
            if let Some(source) = self.attested(known) {
                let index = self.attested_index(known, &source, &pointer)?;
                let read = |digest: &Digest| Ok((digest.clone(), self.content.read(digest, MOST_BYTES)?));
                let mut parts: Vec<(Digest, Vec<u8>)> = Vec::new();
                for attestation in source.attestations {
                    parts.push((attestation.digest, attestation.text));
                    parts.extend(attestation.blobs.iter().map(read).collect::<Result<Vec<_>>>()?);
                }
                let size = u64::try_from(index.len()).unwrap_or(0);
                pointer = descriptor(media::INDEX, Digest::of_bytes(&index), size);
                parts.extend(source.documents);
                parts.push((pointer.digest.clone(), index));
                for (digest, bytes) in parts {
                    if written.insert(digest.clone()) {
                        tar.entry(file(&blob(&digest), 0), &bytes).map_err(failed)?;
                    }
                }
            }
            if tags.is_empty() {
                manifests.push(pointer.clone());
            }
            for tag in tags {
                let name = tag.tag().unwrap_or_default();
                pointer.annotations = BTreeMap::from([
                    ("io.containerd.image.name".into(), tag.to_string()),
                    ("org.opencontainers.image.ref.name".into(), name.into()),
                ]);
                manifests.push(pointer.clone());
                let top = known.config.rootfs.diff_ids.last().map(Digest::hex).unwrap_or_default();
                repositories.entry(tag.familiar_name()).or_default().insert(name.into(), top);
            }
            lines.push(ArchiveImage {
                config: blob(&known.id),
                repo_tags: Some(tags.iter().map(Reference::familiar).collect()),
                layers: Some(known.config.rootfs.diff_ids.iter().map(blob).collect()),
            });
        }
        let media_type = Some(media::INDEX.into());
        let index = Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() };
        tar.entry(file("index.json", 0), &json(&index)?).map_err(failed)?;
        tar.entry(file("manifest.json", 0), &json(&lines)?).map_err(failed)?;
        tar.entry(file("oci-layout", 0), br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
        if !repositories.is_empty() {
            tar.entry(file("repositories", 0), &json(&repositories)?).map_err(failed)?;
        }
        tar.finish().and_then(|mut out| out.flush()).map_err(failed)
    }

    /// An index of the image as it is in the archive and its attestations. Those name the manifest by which the image came; that and
    /// its index are kept beside, for who loads the archive to know it again.
    fn attested_index(&self, known: &Known, source: &Source, manifest: &Descriptor) -> Result<Vec<u8>> {
        let image = Descriptor { platform: Some(known.config.platform()), ..manifest.clone() };
        let image = serde_json::to_value(image).map_err(|error| StoreError::Encode(error.into()))?;
        let is_one = |digest: &Digest| source.attestations.iter().any(|one| one.digest == *digest);
        let about = source.listing.written(is_one).into_iter();
        let manifests: Vec<serde_json::Value> =
            std::iter::once(image).chain(about.map(|entry| about_another(entry, &manifest.digest))).collect();
        json(&serde_json::json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests }))
    }

    fn choose(&self, names: &[String]) -> Result<BTreeMap<Digest, (Known, BTreeSet<Reference>)>> {
        let state = self.state();
        let mut chosen: BTreeMap<Digest, (Known, BTreeSet<Reference>)> = BTreeMap::new();
        let mut choose = |id: &Digest, tag: Option<&Reference>| {
            if let Some(known) = state.images().get(id) {
                let entry = chosen.entry(id.clone()).or_insert_with(|| (known.clone(), BTreeSet::new()));
                entry.1.extend(tag.cloned());
            }
        };
        for name in names {
            let reference = Reference::parse(name).ok();
            let mut found = false;
            if let Some(wanted) = reference.as_ref().filter(|_| Reference::is_repository(name)) {
                for (tag, id) in state
                    .tags()
                    .iter()
                    .filter(|(tag, _)| tag.digest().is_none() && tag.name() == wanted.name())
                {
                    choose(id, Some(tag));
                    found = true;
                }
            }
            if !found {
                let id = state.find(name)?;
                let tag =
                    reference.filter(|tag| tag.digest().is_none() && state.tags().get(tag) == Some(&id));
                choose(&id, tag.as_ref());
            }
        }
        Ok(chosen)
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
}
