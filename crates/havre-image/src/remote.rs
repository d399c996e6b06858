//! What a name leads to at its registry, without getting it.

use havre_oci::image::{Document, ImageConfig, MAX_DOCUMENT};
use havre_oci::{Platform, Reference};
use havre_registry::{Access, Credentials, Fetched, RegistryError};

use crate::pull;
use crate::{ImageError, Images, Result};

/// As of a pull; but nobody asks for a password here, so that it is one that is missing can be said.
fn refused(reference: &Reference, error: RegistryError) -> ImageError {
    match pull::refused(reference, error) {
        ImageError::Unproved(message) => RegistryError::Unauthorized(message).into(),
        other => other,
    }
}

/// What is at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The manifest or index that the name leads to.
    pub document: Fetched,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

impl Images {
    /// Asks the registry of a name for what it leads to.
    pub async fn remote(&self, reference: &Reference, credentials: Credentials) -> Result<Remote> {
        let repository = self.registries.repository(reference, Access::Pull, credentials).await;
        let name = reference.digest().map(ToString::to_string);
        let name = name.or_else(|| reference.tag().map(str::to_owned)).unwrap_or_default();
        let document = repository.manifest(&name).await.map_err(|error| refused(reference, error))?;
        let invalid = |source| ImageError::Remote { name: document.digest.to_string(), source };
        let platforms = match Document::parse(&document.bytes).map_err(invalid)? {
            Document::Index(index) => {
                index.manifests.into_iter().filter_map(|entry| entry.platform).collect()
            }
            Document::Manifest(manifest) => {
                let config = &manifest.config;
                let text = repository.small_blob(&config.digest, config.size, MAX_DOCUMENT).await;
                let text = text.map_err(|error| refused(reference, error))?;
                // What is no image has no platform.
                ImageConfig::parse(&text).map(|config| vec![config.platform()]).unwrap_or_default()
            }
        };
        Ok(Remote { document, platforms })
    }
}
