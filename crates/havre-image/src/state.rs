//! What is known of images and names, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use havre_base::{ContainerId, Timestamp};
use havre_oci::image::{Descriptor, ImageConfig, MAX_DOCUMENT};
use havre_oci::{Digest, Reference};
use havre_store::{Content, Snapshots, StoreError};
use serde::{Deserialize, Serialize};

use crate::{Image, ImageError, Images};

/// What the database knows of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_tagged: Option<Timestamp>,
    /// The manifests, and the indexes above them, by which the image came.
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
        Self {
            digest: blob.digest.clone(),
            size: blob.size,
            media_type: blob.media_type.clone(),
            repositories: vec![reference.name()],
        }
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

    pub(crate) fn size(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, Known>,
    pub(crate) tags: BTreeMap<Reference, Digest>,
    /// The layers below each container's writable one.
    pub(crate) writables: HashMap<ContainerId, Vec<Digest>>,
    /// In which form layers are at registries, by diff id.
    pub(crate) blobs: HashMap<Digest, Vec<KnownBlob>>,
    /// What running operations rely on, and how many do.
    pub(crate) pins: HashMap<Digest, usize>,
}

impl State {
    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        self.images.get(id).map(|known| Image { id: known.id.clone(), config: Arc::clone(&known.config) })
    }

    pub(crate) fn names<'a>(&'a self, id: &'a Digest) -> impl Iterator<Item = &'a Reference> {
        self.tags.iter().filter(move |(_, owner)| *owner == id).map(|(name, _)| name)
    }

    /// Names before ids, as Docker looks.
    pub(crate) fn find(&self, text: &str) -> Result<Digest, ImageError> {
        let by_id = |id: Digest| {
            let known = self.images.contains_key(&id);
            known.then(|| id.clone()).ok_or_else(|| ImageError::NotFound(id.to_string()))
        };
        if let Ok(id) = Digest::parse(text) {
            return by_id(id);
        }
        if let Some(id) = Digest::from_hex(text) {
            return by_id(id);
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference {
            if let Some(id) = self.tags.get(reference) {
                return Ok(id.clone());
            }
            if let (Some(digest), Some(_)) = (reference.digest(), reference.tag())
                && let Some(id) = self.tags.get(&reference.at_digest(digest.clone()))
            {
                return Ok(id.clone());
            }
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if (1..64).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            let mut found = self.images.keys().filter(|id| id.hex().starts_with(prefix));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok(id.clone()),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(prefix.into())),
                (None, _) => {}
            }
        }
        Err(match reference {
            Ok(reference) => ImageError::NotFound(reference.familiar()),
            Err(error) => ImageError::Reference(error),
        })
    }

    /// Whether some content is an image's configuration or belongs to it.
    pub(crate) fn content_is_needed(&self, digest: &Digest) -> bool {
        self.pins.contains_key(digest)
            || self.images.contains_key(digest)
            || self.images.values().any(|known| known.record.documents.contains(digest))
    }

    pub(crate) fn layer_is_needed(&self, layer: &Digest) -> bool {
        self.pins.contains_key(layer)
            || self.images.values().any(|known| known.config.rootfs.diff_ids.contains(layer))
            || self.writables.values().any(|layers| layers.contains(layer))
    }
}

/// Keeps layers and configurations from being removed while an operation relies on them.
pub(crate) struct Pins<'a> {
    images: &'a Images,
    held: Mutex<Vec<Digest>>,
}

impl<'a> Pins<'a> {
    pub(crate) const fn new(images: &'a Images) -> Self {
        Self { images, held: Mutex::new(Vec::new()) }
    }

    pub(crate) fn pin(&self, digest: &Digest) {
        *self.images.state().pins.entry(digest.clone()).or_default() += 1;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = self.images.state();
        for digest in self.held.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(count) = state.pins.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(&digest);
                }
            }
        }
    }
}
