//! Reading archives of images: `docker save`'s, OCI layouts, and those that are both.
//!
//! The archive is read once, from a stream, and its parts may come in any order: what looks like a layer is
//! extracted at once, before it is known whether an image needs it, by up to two threads; everything small is
//! kept in memory within bounds; the rest is skipped. Only at the end are images put together from the parts.
//!
//! Invariants: names inside the archive are only ever looked up among its parts, never on disk; every part is
//! checked against the digest by which it is called; what no image needs is dropped.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use havre_oci::image::{ImageConfig, MAX_DOCUMENT};
use havre_oci::{Digest, Platform, Reference};
use havre_store::stream::{Compression, Plain};
use havre_store::tar::{Entry, Kind, TarReader};
use havre_store::{ArchiveError, Limits, Pending, Snapshots, StoreError};

use crate::attested::{self, MOST_BYTES};
use crate::index::Pins;
use crate::parts::{
    Candidate, Part, blob_path, docker_images, document, follow, inside, invalid, named_digest, oci_images,
    proved,
};
use crate::state::{ImageRecord, Known};
use crate::{ImageError, Images, MAX_LAYERS, Result};

/// All documents of an archive together.
const MAX_DOCUMENTS: u64 = 64 << 20;
/// Layers extracted at the same time.
const PARALLEL: usize = 2;
/// Pieces of a layer that wait for its thread.
const WAITING: usize = 8;

/// What happens while an archive is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// A layer was extracted.
    Layer {
        /// Its digest.
        diff_id: Digest,
        /// Bytes of its files.
        size: u64,
    },
    /// An image is there.
    Loaded(Loaded),
}

/// An image of a loaded archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub image: Digest,
    /// The names it was given.
    pub names: Vec<Reference>,
}

impl Images {
    /// Loads all images of an archive, compressed or not, and gives them their names.
    /// `platforms` are those wanted; none means what the archive has for this machine.
    pub fn load(
        &self,
        input: impl Read,
        platforms: &[Platform],
        on: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>> {
        let pins = Pins::new(self);
        let plain = Plain::new(input, false).map_err(ArchiveError::stream)?;
        let mut parts = std::thread::scope(|scope| {
            let running = Vec::new();
            Collector {
                images: self,
                scope,
                pins: &pins,
                parts: BTreeMap::new(),
                running,
                documents: 0,
                on: &mut *on,
            }
            .collect(TarReader::new(plain, false))
        })?;
        let candidates = if parts.contains_key("manifest.json") {
            docker_images(&parts)?
        } else if parts.contains_key("index.json") {
            oci_images(&parts, platforms)?
        } else {
            return Err(invalid("does not contain a manifest.json"));
        };
        let mut found = Vec::new();
        for candidate in candidates {
            let config = document(&parts, &candidate.config)?.to_vec();
            let parsed = self.verify(&mut parts, &candidate, &config)?;
            if !platforms.is_empty() && !platforms.iter().any(|wanted| parsed.platform().matches(wanted)) {
                continue;
            }
            found.push((candidate.names, config, parsed));
        }
        if found.is_empty()
            && let Some(wanted) = platforms.first()
        {
            return Err(invalid(format!("no image for platform {wanted}")));
        }
        self.store(parts, found, &pins, on)
    }

    /// Whether the candidate's parts are all there and are what they should be.
    fn verify(
        &self,
        parts: &mut BTreeMap<String, Part>,
        candidate: &Candidate,
        config: &[u8],
    ) -> Result<ImageConfig> {
        let parsed = ImageConfig::parse(config)
            .map_err(|source| ImageError::Document { name: candidate.config.clone(), source })?;
        if parsed.platform().os != "linux" {
            return Err(ImageError::Platform(parsed.platform()));
        }
        let wanted = &parsed.rootfs.diff_ids;
        if wanted.len() != candidate.layers.len() {
            let (a, b) = (wanted.len(), candidate.layers.len());
            return Err(invalid(format!("layers length mismatch: expected {a}, got {b}")));
        }
        if wanted.len() > MAX_LAYERS {
            return Err(invalid(format!("{} layers, more than {MAX_LAYERS}", wanted.len())));
        }
        for (index, (path, expected)) in candidate.layers.iter().zip(wanted).enumerate() {
            let path = follow(parts, path)?;
            if let Some(Part::Document(bytes)) = parts.get(&path) {
                // An empty layer does not look like one.
                let part = finished(self.snapshots.extract(bytes.as_slice(), Limits::default()));
                parts.insert(path.clone(), part);
            }
            let (diff_id, blob) = match parts.get(&path) {
                Some(Part::Layer(_, diff_id, blob)) => (diff_id, Some(blob)),
                Some(Part::Present(diff_id)) => (diff_id, None),
                Some(Part::Broken(error)) => return Err(error.clone().into()),
                Some(Part::Document(_) | Part::Link(_)) | None => {
                    return Err(invalid(format!("layer {path:?} is missing")));
                }
            };
            let mismatch = |found: &Digest, expected: &Digest| -> Result<()> {
                if found == expected {
                    return Ok(());
                }
                let (expected, found) = (expected.clone(), found.clone());
                Err(StoreError::Mismatch { what: "layer", expected, found }.into())
            };
            mismatch(diff_id, expected)?;
            if let Some((digest, length)) = blob {
                if let Some(named) = named_digest(&path) {
                    mismatch(digest, &named)?;
                }
                if let Some(announced) = candidate.announced.get(index) {
                    mismatch(digest, &announced.digest)?;
                    if announced.size != *length {
                        return Err(invalid(format!(
                            "layer {digest} has {length} bytes, not {}",
                            announced.size
                        )));
                    }
                }
            }
        }
        Ok(parsed)
    }

    /// Makes the images durable and known.
    fn store(
        &self,
        mut parts: BTreeMap<String, Part>,
        found: Vec<(Vec<Reference>, Vec<u8>, ImageConfig)>,
        pins: &Pins<'_>,
        on: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>> {
        let mut layers = Vec::new();
        for part in parts.values_mut() {
            if let Part::Layer(pending, diff_id, _) = part
                && found.iter().any(|(_, _, config)| config.rootfs.diff_ids.contains(diff_id))
            {
                pins.pin(diff_id);
                layers.extend(pending.take());
            }
        }
        self.snapshots.commit(layers)?;
        let (mut images, mut blobs, mut tags, mut loaded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let speaking = attested::speaking(parts.iter().filter_map(|(path, part)| match part {
            Part::Document(_) if named_digest(path).is_some() => document(&parts, path).ok(),
            _ => None,
        }));
        let find = |digest: &Digest| document(&parts, &blob_path(digest)).ok();
        for (names, text, config) in found {
            let id = Digest::of_bytes(&text);
            pins.pin(&id);
            self.content.put(&text)?;
            let size = |layer: &Digest| self.snapshots.layer(layer).map(|info| info.size);
            let sizes =
                config.rootfs.diff_ids.iter().map(|layer| {
                    size(layer).ok_or_else(|| ImageError::from(StoreError::Missing(layer.clone())))
                });
            let sizes = sizes.collect::<Result<Vec<u64>>>()?;
            let mut documents = Vec::new();
            for (manifest, texts) in attested::in_archive(&speaking, &id, &config.rootfs.diff_ids, &find) {
                blobs.extend(proved(&parts, &manifest, &config.rootfs.diff_ids));
                for text in texts {
                    let digest = Digest::of_bytes(text);
                    pins.pin(&digest);
                    self.content.put(text)?;
                    if !documents.contains(&digest) {
                        documents.push(digest);
                    }
                }
            }
            images.push(Known {
                id: id.clone(),
                record: ImageRecord { documents, ..ImageRecord::default() },
                config: config.into(),
                sizes,
            });
            tags.extend(names.iter().map(|name| (name.clone(), id.clone())));
            loaded.push(Loaded { image: id, names });
        }
        self.add(images, blobs, tags)?;
        loaded.iter().for_each(|image| on(LoadEvent::Loaded(image.clone())));
        Ok(loaded)
    }
}

/// Reads the parts of an archive.
struct Collector<'scope, 'env, 'a> {
    images: &'env Images,
    scope: &'scope Scope<'scope, 'env>,
    pins: &'a Pins<'env>,
    parts: BTreeMap<String, Part>,
    running: Vec<(String, ScopedJoinHandle<'scope, std::result::Result<Pending, StoreError>>)>,
    documents: u64,
    on: &'a mut dyn FnMut(LoadEvent),
}

impl<'env> Collector<'_, 'env, '_> {
    fn collect<R: Read>(mut self, mut tar: TarReader<R>) -> Result<BTreeMap<String, Part>> {
        while let Some(entry) = tar.next_entry()? {
            let path = inside("", &entry.path)?;
            match entry.kind {
                Kind::File => self.file(&mut tar, &entry, path)?,
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = inside(folder, &entry.link)?;
                    self.parts.insert(path, Part::Link(target));
                }
                Kind::HardLink => {
                    let target = inside("", &entry.link)?;
                    self.parts.insert(path, Part::Link(target));
                }
                Kind::Directory | Kind::Character | Kind::Block | Kind::Fifo | Kind::Other => {}
            }
            if self.parts.len() > 200_000 {
                return Err(ArchiveError::Limit { what: "entries", limit: 200_000 }.into());
            }
        }
        while !self.running.is_empty() {
            self.join_oldest();
        }
        // The sender may be a client that waits until everything is read.
        tar.rest(|_| Ok(()))?;
        Ok(self.parts)
    }

    fn file<R: Read>(&mut self, tar: &mut TarReader<R>, entry: &Entry, path: String) -> Result<()> {
        if let Some(digest) = named_digest(&path) {
            // An uncompressed layer is called by the name we keep it under.
            self.pins.pin(&digest);
            if self.images.snapshots.layer(&digest).is_some() {
                self.parts.insert(path, Part::Present(digest));
                return Ok(());
            }
        }
        let mut head = Vec::new();
        while head.len() < 512 {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                break;
            }
            head.extend_from_slice(chunk);
        }
        if looks_like_a_layer(&head) {
            return self.layer(tar, path, head);
        }
        let too_much = |size: u64| self.documents.saturating_add(size) > MAX_DOCUMENTS;
        // What an attestation says may be longer than a document.
        let statement = named_digest(&path).is_some() && entry.size <= MOST_BYTES && !too_much(entry.size);
        if entry.size > MAX_DOCUMENT && !statement {
            // Nothing we could use. If an image says otherwise, its absence will be told.
            self.parts.remove(&path);
            return Ok(());
        }
        self.documents += entry.size;
        if self.documents > MAX_DOCUMENTS {
            return Err(ArchiveError::Limit { what: "bytes of documents", limit: MAX_DOCUMENTS }.into());
        }
        head.extend(tar.content(MOST_BYTES)?);
        self.parts.insert(path, Part::Document(head));
        Ok(())
    }

    /// Gives the layer to a thread and feeds it.
    fn layer<R: Read>(&mut self, tar: &mut TarReader<R>, path: String, head: Vec<u8>) -> Result<()> {
        if self.running.len() >= PARALLEL {
            self.join_oldest();
        }
        let (feed, pieces) = sync_channel(WAITING);
        let snapshots: &'env Snapshots = &self.images.snapshots;
        let extract =
            move || snapshots.extract(Pieces { pieces, piece: Vec::new(), at: 0 }, Limits::default());
        let thread = std::thread::Builder::new().name("layer".into()).stack_size(512 << 10);
        let handle = thread
            .spawn_scoped(self.scope, extract)
            .map_err(|e| invalid(format!("cannot start a thread: {e}")))?;
        self.running.push((path, handle));
        feed_all(tar, &feed, head)
    }

    fn join_oldest(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let (path, handle) = self.running.remove(0);
        let part = handle.join().map_or_else(
            |_| {
                let panicked = io::Error::other("the extraction of a layer panicked");
                Part::Broken(ArchiveError::stream(panicked).into())
            },
            finished,
        );
        if let Part::Layer(Some(layer), ..) = &part {
            (self.on)(LoadEvent::Layer { diff_id: layer.info.diff_id.clone(), size: layer.info.size });
        }
        self.parts.insert(path, part);
    }
}

fn finished(result: std::result::Result<Pending, StoreError>) -> Part {
    match result {
        Ok(layer) => {
            let (diff_id, blob) = (layer.info.diff_id.clone(), layer.blob.clone());
            Part::Layer(Some(layer), diff_id, blob)
        }
        Err(error) => Part::Broken(error),
    }
}

fn feed_all<R: Read>(tar: &mut TarReader<R>, feed: &SyncSender<Vec<u8>>, head: Vec<u8>) -> Result<()> {
    let mut piece = head;
    while !piece.is_empty() {
        if feed.send(piece).is_err() {
            // The thread has found an error; what is left is skipped with the next header.
            return Ok(());
        }
        piece = tar.chunk()?.to_vec();
    }
    Ok(())
}

/// Reads what another thread sends.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

fn looks_like_a_layer(head: &[u8]) -> bool {
    Compression::detect(head) != Compression::None || is_tar_header(head)
}

fn is_tar_header(head: &[u8]) -> bool {
    let Some(header) = head.get(..512) else { return false };
    let digits = header.get(148..156).unwrap_or_default();
    let text: String = digits.iter().map(|&b| char::from(b)).filter(|c| ('0'..='7').contains(c)).collect();
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, &b)| if (148..156).contains(&at) { 32 } else { u32::from(b) })
        .sum();
    u32::from_str_radix(&text, 8) == Ok(sum)
}
