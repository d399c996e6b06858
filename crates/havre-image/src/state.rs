//! What is known of an image and of its layers at registries.

use std::collections::BTreeSet;
use std::sync::Arc;

use havre_base::Timestamp;
use havre_oci::image::{Descriptor, ImageConfig, MAX_DOCUMENT};
use havre_oci::{Digest, Reference};
use havre_store::{Content, Snapshots, StoreError};
use serde::{Deserialize, Serialize};

use crate::ImageError;

/// What the database knows of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_tagged: Option<Timestamp>,
    /// The manifests, and the indexes above them, by which the image came, and its attestations with their blobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) documents: Vec<Digest>,
}

/// The form in which a layer is at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// Where it is, newest last: `docker.io/library/busybox`.
    pub(crate) repositories: Vec<String>,
}

impl KnownBlob {
    /// How many places are remembered.
    const PLACES: usize = 20;

    pub(crate) fn of(blob: &Descriptor, reference: &Reference) -> Self {
        Self { repositories: vec![reference.name()], ..Self::nowhere(blob) }
    }

    /// A blob of which no registry is known to have it.
    pub(crate) fn nowhere(blob: &Descriptor) -> Self {
        let (digest, media_type) = (blob.digest.clone(), blob.media_type.clone());
        Self { digest, size: blob.size, media_type, repositories: Vec::new() }
    }

    /// Adds what is known of a layer's blob to what was known.
    pub(crate) fn join(known: &mut Vec<Self>, new: Self) {
        let Some(old) = known.iter_mut().find(|old| old.digest == new.digest) else {
            known.push(new);
            return;
        };
        old.repositories.retain(|place| !new.repositories.contains(place));
        old.repositories.extend(new.repositories);
        let surplus = old.repositories.len().saturating_sub(Self::PLACES);
        old.repositories.drain(..surplus);
    }
}

/// An image with its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) id: Digest,
    pub(crate) record: ImageRecord,
    pub(crate) config: Arc<ImageConfig>,
    /// Bytes of the files of each layer.
    pub(crate) sizes: Vec<u64>,
}

impl Known {
    /// Reads an image's configuration and looks for its layers; `None` when something is missing.
    pub(crate) fn read(
        id: Digest,
        record: ImageRecord,
        content: &Content,
        snapshots: &Snapshots,
    ) -> Option<Self> {
        let config = ImageConfig::parse(&content.read(&id, MAX_DOCUMENT).ok()?).ok()?;
        let sizes = config.rootfs.diff_ids.iter().map(|layer| Some(snapshots.layer(layer)?.size));
        Some(Self { id, record, sizes: sizes.collect::<Option<_>>()?, config: Arc::new(config) })
    }

    /// An image whose layers are here.
    pub(crate) fn new(
        id: Digest,
        config: ImageConfig,
        documents: Vec<Digest>,
        snapshots: &Snapshots,
    ) -> Result<Self, ImageError> {
        let size = |layer: &Digest| snapshots.layer(layer).map(|info| info.size);
        let sizes = config.rootfs.diff_ids.iter();
        let sizes = sizes.map(|layer| size(layer).ok_or_else(|| StoreError::Missing(layer.clone())));
        let sizes = sizes.collect::<Result<Vec<u64>, StoreError>>()?;
        let record = ImageRecord { documents, ..ImageRecord::default() };
        Ok(Self { id, record, config: Arc::new(config), sizes })
    }

    /// Takes over what was known of the image before; the documents by which it came last are the last.
    pub(crate) fn joins(&mut self, old: Option<&Self>) {
        let Some(old) = old else { return };
        let mut record = old.record.clone();
        record.documents.retain(|digest| !self.record.documents.contains(digest));
        record.documents.append(&mut self.record.documents);
        self.record = record;
    }

    /// Its configuration and documents.
    pub(crate) fn contents(&self) -> BTreeSet<&Digest> {
        self.record.documents.iter().chain([&self.id]).collect()
    }

    pub(crate) fn size(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
    }
}
