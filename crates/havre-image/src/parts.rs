//! The parts of an archive of images, and the images that its documents describe.
//!
//! Invariants: names inside the archive are only ever looked up among its parts; a document is what the digest by which it is
//! called says.

use std::collections::BTreeMap;

use havre_oci::image::{Descriptor, Document, Index, Manifest};
use havre_oci::{Digest, Platform, Reference};
use havre_store::{Pending, StoreError};

use crate::save::ArchiveImage;
use crate::state::KnownBlob;
use crate::{ImageError, Result};

/// A part of the archive.
pub(crate) enum Part {
    Document(Vec<u8>),
    /// A layer that was extracted, with the digest and length it has in the archive.
    Layer(Option<Pending>, Digest, (Digest, u64)),
    /// A layer that we have.
    Present(Digest),
    /// What looked like a layer and is none.
    Broken(StoreError),
    /// Another name of a part.
    Link(String),
}

/// An image as the archive describes it.
pub(crate) struct Candidate {
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
    pub(crate) names: Vec<Reference>,
    /// What the manifest says of each layer, in an OCI layout.
    pub(crate) announced: Vec<Descriptor>,
}

pub(crate) fn invalid(why: impl Into<String>) -> ImageError {
    ImageError::Archive(why.into())
}

/// The digest by which a path of an OCI layout is called.
pub(crate) fn named_digest(path: &str) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256/")?)
}

/// `name`, seen from `folder`, as a path inside the archive.
pub(crate) fn inside(folder: &str, name: &[u8]) -> Result<String> {
    let shown = String::from_utf8_lossy(name.get(..200).unwrap_or(name)).into_owned();
    let name = std::str::from_utf8(name).map_err(|_| invalid(format!("name {shown:?} is not UTF-8")))?;
    if name.len() > 4096 || name.starts_with('/') || name.contains('\0') {
        return Err(invalid(format!("name {shown:?} is not allowed")));
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(|| invalid(format!("name {shown:?} leads outside")))?),
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The part a path finally means.
pub(crate) fn follow(parts: &BTreeMap<String, Part>, path: &str) -> Result<String> {
    let mut path = inside("", path.as_bytes())?;
    for _ in 0..16 {
        match parts.get(&path) {
            Some(Part::Link(target)) => path.clone_from(target),
            _ => return Ok(path),
        }
    }
    Err(invalid(format!("too many links at {path:?}")))
}

pub(crate) fn document<'a>(parts: &'a BTreeMap<String, Part>, path: &str) -> Result<&'a [u8]> {
    let path = follow(parts, path)?;
    let Some(Part::Document(bytes)) = parts.get(&path) else {
        return Err(invalid(format!("document {path:?} is missing or too large")));
    };
    if let Some(expected) = named_digest(&path) {
        let found = Digest::of_bytes(bytes);
        if found != expected {
            return Err(StoreError::Mismatch { what: "document", expected, found }.into());
        }
    }
    Ok(bytes)
}

pub(crate) fn docker_images(parts: &BTreeMap<String, Part>) -> Result<Vec<Candidate>> {
    let lines: Vec<ArchiveImage> = serde_json::from_slice(document(parts, "manifest.json")?)
        .map_err(|e| invalid(format!("manifest.json: {e}")))?;
    let candidate = |line: ArchiveImage| {
        let names =
            line.repo_tags.unwrap_or_default().into_iter().map(|text| match Reference::parse(&text) {
                Ok(name) if name.digest().is_none() => Ok(name),
                Ok(_) | Err(_) => Err(invalid(format!("invalid tag {text:?}"))),
            });
        let names = names.collect::<Result<_>>()?;
        Ok(Candidate {
            config: line.config,
            layers: line.layers.unwrap_or_default(),
            names,
            announced: Vec::new(),
        })
    };
    lines.into_iter().map(candidate).collect()
}

/// The blobs of a manifest that were just seen to be the layers it says they are.
pub(crate) fn proved(
    parts: &BTreeMap<String, Part>,
    manifest: &Manifest,
    layers: &[Digest],
) -> Vec<(Digest, KnownBlob)> {
    let seen = |blob: &Descriptor, layer: &Digest| {
        let part = parts.get(&blob_path(&blob.digest));
        matches!(part, Some(Part::Layer(_, diff_id, (digest, _))) if diff_id == layer && *digest == blob.digest)
    };
    let pairs = manifest.layers.iter().zip(layers).filter(|(blob, layer)| seen(blob, layer));
    pairs.map(|(blob, layer)| (layer.clone(), KnownBlob::nowhere(blob))).collect()
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(crate) fn oci_images(parts: &BTreeMap<String, Part>, platforms: &[Platform]) -> Result<Vec<Candidate>> {
    let bytes = document(parts, "index.json")?;
    let parse = |name: &str, bytes: &[u8]| {
        Document::parse(bytes).map_err(|source| ImageError::Document { name: name.into(), source })
    };
    let Document::Index(index) = parse("index.json", bytes)? else {
        return Err(invalid("index.json is no index"));
    };
    let mut images: Vec<Candidate> = Vec::new();
    for entry in &index.manifests {
        let host = [Platform::host()];
        let wanted = if platforms.is_empty() { &host[..] } else { platforms };
        for platform in wanted {
            let Some(manifest) = choose(parts, entry, &parse, platform, 0)? else { continue };
            let config = blob_path(&manifest.config.digest);
            let name = image_name(entry)?;
            match images.iter_mut().find(|image| image.config == config) {
                Some(image) => image.names.extend(name),
                None => images.push(Candidate {
                    config,
                    layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
                    names: name.into_iter().collect(),
                    announced: manifest.layers,
                }),
            }
        }
    }
    if images.is_empty() {
        return Err(invalid("no image for this platform"));
    }
    Ok(images)
}

type Parse<'a> = &'a dyn Fn(&str, &[u8]) -> Result<Document>;

/// The image an index entry means on a platform.
fn choose(
    parts: &BTreeMap<String, Part>,
    entry: &Descriptor,
    parse: Parse<'_>,
    platform: &Platform,
    depth: u32,
) -> Result<Option<Manifest>> {
    if depth > 4 {
        return Err(invalid("too many indexes inside each other"));
    }
    let path = blob_path(&entry.digest);
    if !parts.contains_key(&path) {
        // Archives of one platform keep the index of all.
        return Ok(None);
    }
    match parse(&path, document(parts, &path)?)? {
        Document::Manifest(manifest) => Ok(Some(manifest)),
        Document::Index(Index { manifests, .. }) => {
            let fits = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|p| p.matches(platform));
            for entry in manifests
                .iter()
                .filter(|entry| !entry.annotations.contains_key("vnd.docker.reference.type"))
                .filter(fits)
            {
                if let Some(manifest) = choose(parts, entry, parse, platform, depth + 1)? {
                    return Ok(Some(manifest));
                }
            }
            Ok(None)
        }
    }
}

/// The name an index entry carries, if it is more than a tag.
fn image_name(entry: &Descriptor) -> Result<Option<Reference>> {
    let text = match entry.annotations.get("io.containerd.image.name") {
        Some(name) => name,
        None => match entry.annotations.get("org.opencontainers.image.ref.name") {
            Some(name) if name.contains(['/', ':']) => name,
            _ => return Ok(None),
        },
    };
    Ok(Some(Reference::parse(text)?).filter(|name| name.digest().is_none()))
}
