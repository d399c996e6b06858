//! Images from registries: from a name to a manifest, a configuration and layers.
//!
//! What a tag leads to is asked once; from there on everything goes by digest. Layers come several at a time, each
//! verified and extracted while it comes; what broke off goes on at the next try.
//!
//! Invariants: an image is recorded when all of it is on disk, whole and verified; a pull that fails or is given up leaves
//! nothing but what helps the next one.

mod choose;
mod layer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use havre_oci::image::{Descriptor, Document, ImageConfig, MAX_DOCUMENT, Manifest};
use havre_oci::{Digest, Platform, Reference};
use havre_registry::{Access, Credentials, Fetched, Repository};
use havre_store::Pending;
use tokio::sync::Semaphore;

use crate::attested;
use crate::index::Pins;
use crate::reports::Reports;
use crate::state::{Known, KnownBlob};
use crate::{ImageError, Images, MAX_LAYERS, Result};

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullSpec {
    /// The image; every tag of its repository when `all_tags`.
    pub reference: Reference,
    /// Every tag.
    pub all_tags: bool,
    /// For which platform; none is this machine's, or whatever there is only one of.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What happens while an image is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// An image begins to come.
    From {
        /// The repository, as users write it.
        repository: String,
        /// Its tag or digest.
        name: String,
    },
    /// Something about a layer; the digest is that of the blob.
    Layer(Digest, Step),
    /// An image is here.
    Done {
        /// Its name.
        reference: Reference,
        /// What the name led to.
        digest: Digest,
        /// Its id.
        image: Digest,
        /// Whether it was not here before.
        newer: bool,
    },
    /// All that was asked for is here.
    End {
        /// As users write it: with its tag, unless it was all of them.
        name: String,
        /// Whether anything was not here before.
        newer: bool,
    },
}

/// What happens to a layer. Bytes are those of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is wanted.
    Wanted,
    /// Others come first.
    Waiting,
    /// It is here already.
    Exists,
    /// It comes, and is extracted meanwhile.
    Downloading {
        /// So many bytes are here.
        have: u64,
        /// Of so many.
        of: u64,
    },
    /// All of it is here.
    Downloaded,
    /// It is extracted; it counts when the image does.
    Complete,
}

impl Reports<PullEvent> {
    async fn step(&self, blob: &Digest, step: Step) {
        self.tell(PullEvent::Layer(blob.clone(), step)).await;
    }
}

/// Blobs that one pull has for itself, for as long as anything of it goes on: a thread that extracts may outlive the pull
/// that was given up.
type Taken = Arc<Vec<tokio::sync::OwnedMutexGuard<()>>>;

/// A small layer takes one part of a place: of those it is the question that takes time, not the content.
const PARTS: usize = 4;
/// Smaller than this is small.
const SMALL: u64 = 1 << 20;

/// What pulls share: how many layers come at the same time, and that each comes once.
#[derive(Debug)]
pub(crate) struct Downloads {
    places: Mutex<Arc<Semaphore>>,
    coming: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Downloads {
    pub(crate) fn new(at_once: usize) -> Self {
        let places = Arc::new(Semaphore::new(at_once.saturating_mul(PARTS)));
        Self { places: Mutex::new(places), coming: Mutex::default() }
    }

    /// How many layers may come at the same time from now on.
    pub(crate) fn allow(&self, at_once: usize) {
        let places = Arc::new(Semaphore::new(at_once.saturating_mul(PARTS)));
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    pub(crate) fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes these blobs for one pull: another that wants them too waits, and finds them here then. In the order of their
    /// digests, so that two pulls never wait for each other.
    async fn take(&self, blobs: &[&Descriptor]) -> Taken {
        let locks: Vec<_> = {
            let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            coming.retain(|_, lock| Arc::strong_count(lock) > 1);
            let mut digests: Vec<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
            digests.sort();
            digests.dedup();
            digests.into_iter().map(|digest| Arc::clone(coming.entry(digest.clone()).or_default())).collect()
        };
        let mut guards = Vec::new();
        for lock in locks {
            guards.push(lock.lock_owned().await);
        }
        Arc::new(guards)
    }
}

/// An image as the registry describes it.
struct Plan {
    manifest: Manifest,
    config: ImageConfig,
    /// The configuration as it came, and its digest: the image's id.
    id: Digest,
    config_text: Bytes,
    /// The manifest, behind the index it was chosen from if there was one.
    documents: Vec<Fetched>,
}

impl Images {
    /// Pulls images. Dropping the future gives it up.
    pub async fn pull(self: &Arc<Self>, spec: &PullSpec, reports: &Reports<PullEvent>) -> Result<()> {
        self.content.remove_old_partials();
        let registries = Arc::clone(&self.registries);
        let repository = registries.repository(&spec.reference, Access::Pull, spec.credentials.clone()).await;
        let (name, newer) = if spec.all_tags {
            let tags = repository.tags().await.map_err(|error| refused(&spec.reference, error))?;
            let mut newer = false;
            for tag in tags {
                newer |= self.pull_one(spec, &spec.reference.at_tag(&tag)?, &repository, reports).await?;
            }
            (spec.reference.familiar_name(), newer)
        } else {
            let newer = self.pull_one(spec, &spec.reference, &repository, reports).await?;
            (spec.reference.familiar(), newer)
        };
        reports.tell(PullEvent::End { name, newer }).await;
        Ok(())
    }

    /// Pulls one image; whether it was not here before.
    async fn pull_one(
        self: &Arc<Self>,
        spec: &PullSpec,
        reference: &Reference,
        repository: &Repository<'_>,
        reports: &Reports<PullEvent>,
    ) -> Result<bool> {
        let by_digest = reference.digest().map(ToString::to_string);
        let name = by_digest.or_else(|| reference.tag().map(str::to_owned)).unwrap_or_default();
        let top = repository.manifest(&name).await.map_err(|error| refused(reference, error))?;
        let digest = top.digest.clone();
        let from = PullEvent::From { repository: familiar_path(reference), name };
        reports.tell(from).await;
        let done = |image: Digest, newer| PullEvent::Done {
            reference: reference.clone(),
            digest: digest.clone(),
            image,
            newer,
        };
        let named = reference.at_digest(digest.clone());
        if let Some(image) = self.known_as(&named, spec.platform.as_ref()) {
            // Its content is here; only the tag may be new or lead elsewhere.
            let (names, newer) = self.names(reference, &named, &image);
            self.set_tags(&mut self.state(), names)?;
            reports.tell(done(image, newer)).await;
            return Ok(newer);
        }
        let plan = self.plan(top, repository, spec.platform.as_ref(), reference).await?;
        let pins = Pins::new(self);
        pins.pin(&plan.id);
        plan.config.rootfs.diff_ids.iter().for_each(|layer| pins.pin(layer));
        let layers: Vec<(&Descriptor, &Digest)> =
            plan.manifest.layers.iter().zip(&plan.config.rootfs.diff_ids).collect();
        for (blob, layer) in &layers {
            let here = self.snapshots.layer(layer).is_some();
            reports.step(&blob.digest, if here { Step::Exists } else { Step::Wanted }).await;
        }
        let missing: Vec<(&Descriptor, &Digest)> = layers
            .iter()
            .enumerate()
            .filter(|(at, (blob, layer))| {
                // The same layer twice comes once; the same blob as two layers cannot be.
                let before = &layers[..*at];
                self.snapshots.layer(layer).is_none() && !before.contains(&(*blob, *layer))
            })
            .map(|(_, layer)| *layer)
            .collect();
        one_layer_each(&missing)?;
        let blobs: Vec<&Descriptor> = missing.iter().map(|(blob, _)| *blob).collect();
        let taken = self.downloads.take(&blobs).await;
        let layers = self.fetch_layers(&missing, &taken, repository, reports);
        let (pending, attested) = tokio::join!(layers, attested::fetch(&plan.documents, repository));
        let pending = match pending {
            Ok(pending) => pending,
            Err(error) => {
                // Only what can go on is worth keeping.
                if !matches!(&error, ImageError::Registry(error) if error.is_interruption()) {
                    for blob in &blobs {
                        self.content.partial(&blob.digest)?.remove()?;
                    }
                }
                return Err(error);
            }
        };
        let (names, newer) = self.names(reference, &named, &plan.id);
        self.keep(&plan, attested, pending, taken, reference, names).await?;
        reports.tell(done(plan.id, newer)).await;
        Ok(newer)
    }

    /// The image that a digest leads to, if all of it is here and it is for the right platform. One for another platform
    /// than this machine's may have been asked for by name; without that name the index has to be looked at again.
    fn known_as(&self, named: &Reference, platform: Option<&Platform>) -> Option<Digest> {
        let state = self.state();
        let id = state.tags().get(named)?;
        let known = state.images().get(id)?;
        let host = Platform::host();
        known.config.platform().matches(platform.unwrap_or(&host)).then(|| id.clone())
    }

    /// The names that a pulled image gets, its own and that of its digest, and whether the one that was asked for leads
    /// elsewhere so far.
    fn names(
        &self,
        reference: &Reference,
        named: &Reference,
        image: &Digest,
    ) -> (Vec<(Reference, Digest)>, bool) {
        let state = self.state();
        let asked = if reference.digest().is_none() { reference } else { named };
        let newer = state.tags().get(asked) != Some(image);
        let names = [named, asked].into_iter().filter(|name| state.tags().get(name) != Some(image));
        (names.map(|name| (name.clone(), image.clone())).collect(), newer)
    }

    async fn plan(
        &self,
        top: Fetched,
        repository: &Repository<'_>,
        platform: Option<&Platform>,
        reference: &Reference,
    ) -> Result<Plan> {
        let mut documents = vec![top];
        let manifest = loop {
            let Some(last) = documents.last() else { break None };
            choose::check_type(&last.media_type)?;
            let parsed = Document::parse(&last.bytes)
                .map_err(|source| ImageError::Remote { name: last.digest.to_string(), source })?;
            choose::check_document(&parsed, last)?;
            match parsed {
                Document::Manifest(manifest) => break Some(manifest),
                Document::Index(_) if documents.len() >= choose::DEEPEST => break None,
                Document::Index(index) => {
                    let next = choose::entry(&index, platform)?;
                    let fetched = repository.manifest(&next.digest.to_string()).await;
                    documents.push(fetched.map_err(|error| refused(reference, error))?);
                }
            }
        };
        let manifest =
            manifest.ok_or_else(|| ImageError::Pull("the index holds nothing but further indexes".into()))?;
        choose::check_manifest(&manifest)?;
        let config = &manifest.config;
        let text = repository
            .small_blob(&config.digest, config.size, MAX_DOCUMENT)
            .await
            .map_err(|error| refused(reference, error))?;
        let parsed = ImageConfig::parse(&text)
            .map_err(|source| ImageError::Remote { name: config.digest.to_string(), source })?;
        let (id, here) = (config.digest.clone(), parsed.platform());
        if here.os != "linux" {
            return Err(ImageError::Platform(here));
        }
        if let Some(wanted) = platform.filter(|wanted| !here.matches(wanted)) {
            return Err(ImageError::Pull(format!(
                "image with reference {} was found but its platform ({here}) does not match the specified platform ({wanted})",
                reference.familiar()
            )));
        }
        let (layers, diff_ids) = (manifest.layers.len(), parsed.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::Pull(format!(
                "the manifest has {layers} layers, the configuration {diff_ids}"
            )));
        }
        if layers > MAX_LAYERS {
            return Err(ImageError::Pull(format!("{layers} layers, more than {MAX_LAYERS}")));
        }
        Ok(Plan { manifest, config: parsed, id, config_text: text, documents })
    }

    /// Gets the layers that are not here, several at a time; the first failure ends it.
    async fn fetch_layers(
        self: &Arc<Self>,
        missing: &[(&Descriptor, &Digest)],
        taken: &Taken,
        repository: &Repository<'_>,
        reports: &Reports<PullEvent>,
    ) -> Result<Vec<Pending>> {
        let places = self.downloads.places();
        let mut work = Vec::new();
        for (blob, layer) in missing {
            let places = Arc::clone(&places);
            work.push(Box::pin(async move {
                // The one who was first has made it meanwhile.
                if self.snapshots.layer(layer).is_some() {
                    reports.step(&blob.digest, Step::Exists).await;
                    return Ok(None);
                }
                let parts = if blob.size < SMALL { 1 } else { PARTS };
                if places.available_permits() < parts {
                    reports.step(&blob.digest, Step::Waiting).await;
                }
                let _place = places.acquire_many(u32::try_from(parts).unwrap_or(1)).await;
                self.fetch_layer(blob, layer, taken, repository, reports).await.map(Some)
            }));
        }
        Ok(all(work).await?.into_iter().flatten().collect())
    }

    /// Whether a blob is known to be that layer: it has just been extracted, or was before. What a manifest says of a
    /// layer that was here already is only its word, and would go into the manifests of images that are pushed.
    fn is_proved(&self, blob: &Descriptor, layer: &Digest, pending: &[Pending]) -> bool {
        let extracted = pending.iter().any(|made| made.info.diff_id == *layer && made.blob.0 == blob.digest);
        let known = || {
            let state = self.state();
            state.blobs.get(layer).is_some_and(|all| all.iter().any(|known| known.digest == blob.digest))
        };
        extracted || known()
    }

    /// Makes the image durable and known, with its attestations.
    async fn keep(
        self: &Arc<Self>,
        plan: &Plan,
        attested: Vec<Bytes>,
        pending: Vec<Pending>,
        taken: Taken,
        reference: &Reference,
        names: Vec<(Reference, Digest)>,
    ) -> Result<()> {
        let images = Arc::clone(self);
        let documents = plan.documents.iter().map(|document| document.bytes.clone());
        let documents: Vec<Bytes> = documents.chain(attested).collect();
        let (id, text, config) = (plan.id.clone(), plan.config_text.clone(), plan.config.clone());
        let blobs: Vec<(Digest, KnownBlob)> = plan
            .manifest
            .layers
            .iter()
            .zip(&plan.config.rootfs.diff_ids)
            .filter(|(blob, layer)| self.is_proved(blob, layer, &pending))
            .map(|(blob, layer)| (layer.clone(), KnownBlob::of(blob, reference)))
            .collect();
        let interrupted: Vec<Digest> =
            plan.manifest.layers.iter().map(|layer| layer.digest.clone()).collect();
        crate::blocking(move || {
            // Of its own: whoever waits for this may go away meanwhile.
            let (_taken, pins) = (taken, Pins::new(&images));
            pins.pin(&id);
            config.rootfs.diff_ids.iter().for_each(|layer| pins.pin(layer));
            // What was kept against an interruption is not written to the disk for nothing.
            for blob in &interrupted {
                images.content.partial(blob)?.remove()?;
            }
            images.snapshots.commit(pending)?;
            images.content.put(&text)?;
            let mut kept = Vec::new();
            for document in &documents {
                kept.push(images.content.put(document)?);
            }
            let known = Known::new(id, config, kept, &images.snapshots)?;
            images.add_pulled(known, blobs, names)
        })
        .await
    }
}

/// Refuses two different layers made of one blob, and one layer made of two: each comes once.
fn one_layer_each(missing: &[(&Descriptor, &Digest)]) -> Result<()> {
    let mut blobs: BTreeMap<&Digest, &Digest> = BTreeMap::new();
    for (blob, layer) in missing {
        if let Some(other) = blobs.insert(&blob.digest, layer) {
            return Err(ImageError::Pull(format!(
                "the blob {} cannot be two layers, {other} and {layer}",
                blob.digest
            )));
        }
    }
    Ok(())
}

/// Waits for all, or for the first failure.
pub(crate) async fn all<T, F: Future<Output = Result<T>> + Unpin>(mut work: Vec<F>) -> Result<Vec<T>> {
    let mut done: Vec<Option<T>> = work.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for (future, slot) in work.iter_mut().zip(&mut done) {
            if slot.is_some() {
                continue;
            }
            match std::pin::Pin::new(future).poll(cx) {
                std::task::Poll::Ready(Ok(value)) => *slot = Some(value),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => waiting = true,
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(())) }
    })
    .await?;
    Ok(done.into_iter().flatten().collect())
}

/// The repository as `Pulling from` has it.
fn familiar_path(reference: &Reference) -> String {
    reference.path().to_owned()
}

/// What the registry said, in the words that Docker's users and their scripts know.
pub(crate) fn refused(reference: &Reference, error: havre_registry::RegistryError) -> ImageError {
    use havre_registry::RegistryError as R;
    let denied = |message: &str| {
        ImageError::Denied(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {message}",
            reference.familiar_name()
        ))
    };
    match &error {
        R::Refused { status: 404, code, message } if code == "MANIFEST_UNKNOWN" || code.is_empty() => {
            ImageError::Missing(format!("manifest for {} not found: {message}", reference.familiar()))
        }
        R::Refused { status: 404, message, .. } => {
            ImageError::Missing(format!("repository {} not found: {message}", reference.familiar_name()))
        }
        R::Refused { code, message, .. } if code == "DENIED" => denied(message),
        R::Unauthorized(message) if reference.domain() == havre_registry::DOCKER_HUB => denied(message),
        R::Unauthorized(message) | R::Refused { status: 401, message, .. } => {
            ImageError::Unproved(message.clone())
        }
        _ => ImageError::Registry(error),
    }
}
