//! Images to registries: what the registry has is named, what another of its repositories has is mounted, the rest is
//! packed, compressed and sent while it is packed.
//!
//! Invariant: an image that came from a registry goes to another one with the same manifest, byte for byte, as long as its
//! layers are there in the same form; so do its attestations, and the index above them if all of it is here. What a name leads to
//! goes last: nobody finds an image that is not whole.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use havre_oci::image::{Descriptor, Document, MAX_DOCUMENT, Manifest, media};
use havre_oci::{Digest, Digester, Platform, Reference};
use havre_registry::{Access, Credentials, RegistryError, Repository, Source};
use havre_store::{Batch, StoreError};
use tokio::sync::{Semaphore, mpsc};

use crate::attested::{self, Bundle};
use crate::gzip::ParallelGzip;
use crate::index::Pins;
use crate::pull::all;
use crate::reports::Reports;
use crate::state::{Known, KnownBlob};
use crate::{BLOBS, ImageError, Images, Result, blocking};

/// Layers sent at the same time, unless the administrator says otherwise: as many as with Docker.
pub(crate) const AT_ONCE: usize = 5;
/// Bytes of a piece on its way.
const PIECE: usize = 128 << 10;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushSpec {
    /// The image by its name and tag; without a tag, all tags of the repository.
    pub reference: Reference,
    /// Every tag.
    pub all_tags: bool,
    /// The image for this platform alone, without the index and the attestations with which it came.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What happens while an image is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// Where it goes.
    To(String),
    /// Something about a layer, by its diff id.
    Layer(Digest, PushStep),
    /// A tag is there.
    Done {
        /// The tag.
        tag: String,
        /// The manifest's digest.
        digest: Digest,
        /// The manifest's length.
        size: u64,
    },
}

/// What happens to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushStep {
    /// It is wanted there.
    Preparing,
    /// Others go first.
    Waiting,
    /// The registry has it.
    Exists,
    /// The registry has taken it over from another of its repositories.
    Mounted(String),
    /// It goes: so many bytes of the uncompressed layer, of so many.
    Pushing(u64, u64),
    /// It is there.
    Pushed,
}

impl Reports<PushEvent> {
    async fn step(&self, layer: &Digest, step: PushStep) {
        self.tell(PushEvent::Layer(layer.clone(), step)).await;
    }
}

impl Images {
    /// Pushes an image, or all tags of a repository.
    pub async fn push(self: &Arc<Self>, spec: &PushSpec, reports: &Reports<PushEvent>) -> Result<()> {
        let mut chosen: Vec<(Reference, Known)> = {
            let state = self.state();
            let wanted = |name: &Reference| {
                if spec.all_tags {
                    name.digest().is_none() && name.name() == spec.reference.name()
                } else {
                    *name == spec.reference
                }
            };
            let found = state.tags().iter().filter(|(name, _)| wanted(name));
            found.filter_map(|(name, id)| Some((name.clone(), state.images().get(id)?.clone()))).collect()
        };
        chosen.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, known) in &chosen {
            let own = known.config.platform();
            if let Some(wanted) = spec.platform.as_ref().filter(|wanted| !own.matches(wanted)) {
                return Err(ImageError::Missing(format!(
                    "image with reference {} was found but does not provide the specified platform ({wanted}): it is {own}",
                    name.familiar()
                )));
            }
        }
        reports.tell(PushEvent::To(spec.reference.name())).await;
        if chosen.is_empty() {
            let name = spec.reference.name();
            let others = self.state().tags().keys().any(|tag| tag.name() == name);
            return Err(if others && !spec.all_tags {
                ImageError::AbsentTag(spec.reference.familiar())
            } else {
                ImageError::Absent(spec.reference.familiar_name())
            });
        }
        let registries = Arc::clone(&self.registries);
        let repository = registries.repository(&spec.reference, Access::Push, spec.credentials.clone()).await;
        for (name, known) in chosen {
            let pins = Pins::new(self);
            pins.pin(&known.id);
            known.config.rootfs.diff_ids.iter().for_each(|layer| pins.pin(layer));
            known.record.documents.iter().for_each(|document| pins.pin(document));
            self.push_one(&name, &known, spec.platform.is_some(), &repository, reports).await?;
        }
        Ok(())
    }

    async fn push_one(
        self: &Arc<Self>,
        name: &Reference,
        known: &Known,
        single: bool,
        repository: &Repository<'_>,
        reports: &Reports<PushEvent>,
    ) -> Result<()> {
        let layers = &known.config.rootfs.diff_ids;
        for layer in layers {
            reports.step(layer, PushStep::Preparing).await;
        }
        let places =
            self.uploads.lock().map_or_else(|e| Arc::clone(&e.into_inner()), |places| Arc::clone(&places));
        let mut work = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            let places: Arc<Semaphore> = Arc::clone(&places);
            let again = layers[..at].contains(layer);
            work.push(Box::pin(async move {
                if again {
                    return Ok(None);
                }
                if places.available_permits() == 0 {
                    reports.step(layer, PushStep::Waiting).await;
                }
                let _place = places.acquire().await;
                let blob = self.push_layer(name, layer, repository, reports).await?;
                Ok(Some((layer.clone(), blob)))
            }));
        }
        let blobs: BTreeMap<Digest, KnownBlob> = all(work).await?.into_iter().flatten().collect();
        let config = self.content.read(&known.id, MAX_DOCUMENT)?;
        if repository.has_blob(&known.id).await.map_err(|error| refused(name, error))?.is_none() {
            repository.put_blob(config.clone().into()).await.map_err(|error| refused(name, error))?;
        }
        let (mut media_type, mut text) = self.manifest_of(known, config.len(), &blobs)?;
        let manifest = Digest::of_bytes(&text);
        if !single && let Some(bundle) = self.bundle(known, &manifest) {
            self.remember(name, known, &text, &manifest, false)?;
            self.push_attestations(&bundle, repository).await.map_err(|error| refused(name, error))?;
            let put = repository.put_manifest(&manifest.to_string(), &media_type, text.into()).await;
            put.map_err(|error| refused(name, error))?;
            (media_type, text) = (bundle.media_type, bundle.index);
        }
        let tag = name.tag().unwrap_or("latest").to_owned();
        let put = repository.put_manifest(&tag, &media_type, text.clone().into()).await;
        let digest = put.map_err(|error| refused(name, error))?;
        self.remember(name, known, &text, &digest, true)?;
        let size = u64::try_from(text.len()).unwrap_or(0);
        reports.tell(PushEvent::Done { tag, digest, size }).await;
        Ok(())
    }

    /// Gets what is said about an image to the registry.
    async fn push_attestations(
        &self,
        bundle: &Bundle,
        repository: &Repository<'_>,
    ) -> std::result::Result<(), RegistryError> {
        let unreadable = |error: StoreError| RegistryError::Source(havre_base::chain(&error));
        for attestation in &bundle.attestations {
            for blob in &attestation.blobs {
                if repository.has_blob(blob).await?.is_none() {
                    let bytes = self.content.read(blob, attested::MOST_BYTES).map_err(unreadable)?;
                    repository.put_blob(bytes.into()).await?;
                }
            }
            let (name, text) = (attestation.digest.to_string(), attestation.text.clone());
            repository.put_manifest(&name, &attestation.media_type, text.into()).await?;
        }
        Ok(())
    }

    /// Gets a layer to the registry by the cheapest way; in which form it is there.
    async fn push_layer(
        self: &Arc<Self>,
        name: &Reference,
        layer: &Digest,
        repository: &Repository<'_>,
        reports: &Reports<PushEvent>,
    ) -> Result<KnownBlob> {
        let known = self.state().blobs.get(layer).cloned().unwrap_or_default();
        let here = name.name();
        for blob in &known {
            let has = repository.has_blob(&blob.digest).await.map_err(|error| refused(name, error))?;
            if has.is_some() {
                reports.step(layer, PushStep::Exists).await;
                return self.learn(layer, KnownBlob { repositories: vec![here], ..blob.clone() });
            }
        }
        let mut places: Vec<(&KnownBlob, &String)> = Vec::new();
        for blob in &known {
            places.extend(blob.repositories.iter().rev().map(|place| (blob, place)));
        }
        for (blob, place) in places {
            let Ok(from) = Reference::parse(place) else { continue };
            if from.domain() != name.domain() || from.path() == name.path() {
                continue;
            }
            // Whether we may is for the registry to say; if not, the layer is sent.
            if repository.mount(&blob.digest, &from).await.unwrap_or(false) {
                reports.step(layer, PushStep::Mounted(from.path().to_owned())).await;
                return self.learn(layer, KnownBlob { repositories: vec![here], ..blob.clone() });
            }
        }
        let info = self.snapshots.layer(layer).ok_or_else(|| StoreError::Missing(layer.clone()))?;
        let packed = Packed {
            images: Arc::clone(self),
            layer: layer.clone(),
            made: Arc::default(),
            reports: reports.clone(),
            of: info.tar_size,
        };
        let made = Arc::clone(&packed.made);
        let result = move || made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing = || RegistryError::Source("the layer was not read to its end".into());
        let whole = result.clone();
        let sent = repository.upload(&packed, || whole().map(|(digest, _)| digest).ok_or_else(missing)).await;
        sent.map_err(|error| refused(name, error))?;
        let (digest, size) = result().ok_or_else(missing)?;
        reports.step(layer, PushStep::Pushed).await;
        let media_type = media::DOCKER_LAYER_GZIP.to_owned();
        self.learn(layer, KnownBlob { digest, size, media_type, repositories: vec![here] })
    }

    /// Remembers in which form a layer is where.
    fn learn(&self, layer: &Digest, blob: KnownBlob) -> Result<KnownBlob> {
        let mut state = self.state();
        let all = state.blobs.entry(layer.clone()).or_default();
        KnownBlob::join(all, blob.clone());
        self.db.enqueue(Batch::new().put(BLOBS, &layer.to_string(), all));
        Ok(blob)
    }

    /// The manifest: the one by which the image came, if it says what is true there too, else one as Docker makes it.
    fn manifest_of(
        &self,
        known: &Known,
        config: usize,
        blobs: &BTreeMap<Digest, KnownBlob>,
    ) -> Result<(String, Vec<u8>)> {
        let layers: Vec<&KnownBlob> =
            known.config.rootfs.diff_ids.iter().filter_map(|layer| blobs.get(layer)).collect();
        for document in &known.record.documents {
            let Ok(text) = self.content.read(document, MAX_DOCUMENT) else { continue };
            let Ok(Document::Manifest(manifest)) = Document::parse(&text) else { continue };
            let same =
                manifest.layers.iter().map(|layer| &layer.digest).eq(layers.iter().map(|blob| &blob.digest));
            if same && manifest.config.digest == known.id {
                let by_type = manifest.media_type.clone().unwrap_or_else(|| media::MANIFEST.to_owned());
                return Ok((by_type, text));
            }
        }
        let docker = layers.iter().all(|blob| form_of(&blob.media_type) != media::LAYER_ZSTD);
        let descriptor = |media_type: &str, digest: &Digest, size| Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
        };
        let typed = |blob: &&KnownBlob| {
            let form = form_of(&blob.media_type);
            let media_type = match (docker, form) {
                (true, media::LAYER) => media::DOCKER_LAYER,
                (true, _) => media::DOCKER_LAYER_GZIP,
                (false, form) => form,
            };
            descriptor(media_type, &blob.digest, blob.size)
        };
        let media_type = if docker { media::DOCKER_MANIFEST } else { media::MANIFEST };
        let config_type = if docker { media::DOCKER_CONFIG } else { media::CONFIG };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            config: descriptor(config_type, &known.id, u64::try_from(config).unwrap_or(0)),
            layers: layers.iter().map(typed).collect(),
            annotations: BTreeMap::new(),
        };
        let text = serde_json::to_vec(&manifest).map_err(|error| StoreError::Encode(error.into()))?;
        Ok((media_type.to_owned(), text))
    }

    /// The image can be found by the digest it has there, if that is where its name leads.
    fn remember(
        &self,
        name: &Reference,
        known: &Known,
        text: &[u8],
        digest: &Digest,
        leads: bool,
    ) -> Result<()> {
        self.content.put(text)?;
        let mut state = self.state();
        let named = name.at_digest(digest.clone());
        state.change_image(&known.id, |image| {
            if !image.record.documents.contains(digest) {
                image.record.documents.push(digest.clone());
            }
        });
        let Some(image) = state.images().get(&known.id).cloned() else { return Ok(()) };
        let named_already = !leads || state.tags().get(&named) == Some(&known.id);
        let names = if named_already { Vec::new() } else { vec![(named, known.id.clone())] };
        self.record(&mut state, vec![image], Vec::new(), names)
    }
}

/// A layer's form, whichever family of names says it.
fn form_of(media_type: &str) -> &'static str {
    if media_type.ends_with("zstd") {
        media::LAYER_ZSTD
    } else if media_type.ends_with("gzip") {
        media::LAYER_GZIP
    } else {
        media::LAYER
    }
}

/// A layer as it is sent: packed and compressed, the same bytes each time.
struct Packed {
    images: Arc<Images>,
    layer: Digest,
    /// Digest and length, once it was packed to its end.
    made: Arc<Mutex<Option<(Digest, u64)>>>,
    reports: Reports<PushEvent>,
    of: u64,
}

impl Source for Packed {
    fn open(&self, at: u64) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
        let (sender, pieces) = mpsc::channel(8);
        let (images, layer, made) = (Arc::clone(&self.images), self.layer.clone(), Arc::clone(&self.made));
        let (reports, of) = (self.reports.clone(), self.of);
        tokio::spawn(blocking(move || {
            let wire = Wire {
                sender: sender.clone(),
                skip: at,
                digester: Digester::new(),
                size: 0,
                piece: Vec::with_capacity(PIECE),
            };
            let gzip = ParallelGzip::new(wire);
            let mut counted = Progress { gzip, done: 0, of, layer: &layer, reports, last: Instant::now() };
            let packed = images.snapshots.write_tar(&layer, &mut counted);
            let ended = packed.map_err(|error| io::Error::other(havre_base::chain(&error))).and_then(|()| {
                let mut wire = counted.gzip.finish()?;
                wire.send()?;
                Ok((wire.digester.finish(), wire.size))
            });
            match ended {
                Ok(result) => {
                    *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    // The announced end.
                    sender.blocking_send(Ok(Bytes::new())).unwrap_or(());
                }
                Err(error) => sender.blocking_send(Err(error)).unwrap_or(()),
            }
            Ok(())
        }));
        Ok(pieces)
    }
}

/// Counts what is packed.
struct Progress<'a> {
    gzip: ParallelGzip<Wire>,
    done: u64,
    of: u64,
    layer: &'a Digest,
    reports: Reports<PushEvent>,
    last: Instant,
}

impl Write for Progress<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.gzip.write(bytes)?;
        self.done += u64::try_from(count).unwrap_or(0);
        let (done, of, layer) = (self.done, self.of, self.layer);
        self.reports
            .progress(&mut self.last, || PushEvent::Layer(layer.clone(), PushStep::Pushing(done, of)));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gzip.flush()
    }
}

/// Digests what is compressed and sends it in pieces, but for what the registry has already.
struct Wire {
    sender: mpsc::Sender<io::Result<Bytes>>,
    skip: u64,
    digester: Digester,
    size: u64,
    piece: Vec<u8>,
}

impl Wire {
    fn send(&mut self) -> io::Result<()> {
        let left_out = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.piece.len());
        self.skip -= u64::try_from(left_out).unwrap_or(0);
        let piece = Bytes::copy_from_slice(self.piece.get(left_out..).unwrap_or_default());
        self.piece.clear();
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digester.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(0);
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the registry said, in Docker's words.
fn refused(name: &Reference, error: RegistryError) -> ImageError {
    match &error {
        RegistryError::Refused { status: 403, code, message } if code != "DENIED" => {
            ImageError::Denied(format!("push to {} denied: {message}", name.familiar_name()))
        }
        _ => ImageError::Registry(error),
    }
}
