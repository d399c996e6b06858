//! Making an image from the files of a root file system.

use std::io::Read;

use havre_oci::image::{ContainerConfig, History, ImageConfig, RootFs};
use havre_oci::{Digest, Platform, Reference};
use havre_store::{Limits, StoreError};

use crate::index::Pins;
use crate::state::{ImageRecord, Known};
use crate::{Image, ImageError, Images, Result, change};

/// How the image is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportSpec {
    /// Its name.
    pub reference: Option<Reference>,
    /// A note for its history.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// What it is for; this machine when nothing is said.
    pub platform: Option<Platform>,
}

impl Images {
    /// Makes an image of one layer from an archive, compressed or not.
    pub fn import(&self, input: impl Read, spec: &ImportSpec) -> Result<Image> {
        if spec.reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
            return Err(ImageError::TagWithDigest);
        }
        let mut config = ContainerConfig::default();
        change::apply(&mut config, &spec.changes)?;
        let platform = spec.platform.clone().unwrap_or_else(Platform::host);
        if platform.os != "linux" {
            return Err(ImageError::Platform(platform));
        }
        let created = Self::now().to_string();
        let document = ImageConfig {
            created: Some(created.clone()),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            comment: spec.message.clone(),
            config,
            history: vec![History {
                created: Some(created),
                comment: spec.message.clone(),
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        self.add_single(input, document, spec.reference.clone())
    }

    /// Records an image of one layer that is read from `input`.
    pub(crate) fn add_single(
        &self,
        input: impl Read,
        mut document: ImageConfig,
        name: Option<Reference>,
    ) -> Result<Image> {
        let layer = self.snapshots.extract(input, Limits::default())?;
        let pins = Pins::new(self);
        let diff_id = layer.info.diff_id.clone();
        pins.pin(&diff_id);
        let sizes = vec![layer.info.size];
        document.rootfs = RootFs { diff_ids: vec![diff_id], ..RootFs::default() };
        let text = serde_json::to_vec(&document).map_err(|e| StoreError::Encode(e.into()))?;
        let id = Digest::of_bytes(&text);
        pins.pin(&id);
        self.snapshots.commit(vec![layer])?;
        self.content.put(&text)?;
        let known = Known { id: id.clone(), record: ImageRecord::default(), config: document.into(), sizes };
        let tags: Vec<_> = name.into_iter().map(|name| (name, id.clone())).collect();
        self.add(vec![known], Vec::new(), tags)?;
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }
}
