//! Attestations: what an index says about one of its manifests, in manifests of their own beside it (BuildKit's form).
//!
//! Invariants: attestations are kept with their image as documents of it, each whole, with all its blobs, or not at all; they go
//! to a registry or into an archive only with what they speak of. They are never needed: an image without them is whole, so one that
//! cannot be had is left out with a warning.
//! Not here: whether they are true.

use std::collections::BTreeSet;

use bytes::Bytes;
use havre_oci::Digest;
use havre_oci::image::{Descriptor, Document, MAX_DOCUMENT, Manifest, media};
use havre_registry::{Fetched, RegistryError, Repository};
use serde_json::Value;

use crate::Images;
use crate::state::Known;

/// What an entry of an index is, and about which manifest.
const KIND: &str = "vnd.docker.reference.type";
const ABOUT: &str = "vnd.docker.reference.digest";

/// Attestations of one image, and their blobs.
const MOST: usize = 16;
const MOST_BLOBS: usize = 64;
/// Bytes of all of them; they are held in memory until the image is kept.
pub(crate) const MOST_BYTES: u64 = 16 << 20;

/// An index, and its entries as they are written.
pub(crate) struct Listing {
    document: Value,
    pub(crate) media_type: String,
    pub(crate) entries: Vec<Descriptor>,
}

impl Listing {
    /// Reads an index; `None` for anything else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let Ok(Document::Index(index)) = Document::parse(bytes) else { return None };
        let document = serde_json::from_slice(bytes).ok()?;
        let media_type = index.media_type.unwrap_or_else(|| media::INDEX.to_owned());
        Some(Self { document, media_type, entries: index.manifests })
    }

    pub(crate) fn lists(&self, manifest: &Digest) -> bool {
        self.entries.iter().any(|entry| entry.digest == *manifest)
    }

    /// The attestations about a manifest.
    pub(crate) fn about(&self, manifest: &Digest) -> Vec<&Descriptor> {
        let about = |entry: &&Descriptor| {
            let note = |name: &str| entry.annotations.get(name).map(String::as_str);
            note(KIND) == Some("attestation-manifest") && note(ABOUT) == Some(manifest.to_string().as_str())
        };
        self.entries.iter().filter(about).take(MOST).collect()
    }

    /// The entries for which it holds, as they are written.
    pub(crate) fn written(&self, wanted: impl Fn(&Digest) -> bool) -> Vec<Value> {
        let all = self.document.get("manifests").and_then(Value::as_array).into_iter().flatten();
        let chosen = all.zip(&self.entries).filter(|(_, entry)| wanted(&entry.digest));
        chosen.map(|(written, _)| written.clone()).collect()
    }

    /// The index with nothing but the entries for which it holds.
    fn only(&self, wanted: impl Fn(&Digest) -> bool) -> Option<Vec<u8>> {
        let mut document = self.document.clone();
        *document.get_mut("manifests")? = Value::Array(self.written(wanted));
        serde_json::to_vec(&document).ok()
    }
}

/// The entry as one about another manifest.
pub(crate) fn about_another(mut written: Value, manifest: &Digest) -> Value {
    if let Some(note) = written.pointer_mut("/annotations/vnd.docker.reference.digest") {
        *note = manifest.to_string().into();
    }
    written
}

/// What a manifest of an attestation consists of, each once.
fn blobs(manifest: &Manifest) -> Vec<&Descriptor> {
    let mut seen = BTreeSet::new();
    let all = std::iter::once(&manifest.config).chain(&manifest.layers);
    all.filter(|blob| seen.insert(&blob.digest)).collect()
}

/// The attestations about the last of these documents, which the one before it lists: their manifests and blobs.
pub(crate) async fn fetch(documents: &[Fetched], repository: &Repository<'_>) -> Vec<Bytes> {
    let [.., index, manifest] = documents else { return Vec::new() };
    let Some(listing) = Listing::parse(&index.bytes) else { return Vec::new() };
    let (mut all, mut left) = (Vec::new(), MOST_BYTES);
    for entry in listing.about(&manifest.digest) {
        match fetch_one(entry, repository, &mut left).await {
            Ok(mut parts) => all.append(&mut parts),
            Err(error) => {
                tracing::warn!(attestation = %entry.digest, about = %manifest.digest, %error, "attestation left out");
            }
        }
    }
    all
}

async fn fetch_one(
    entry: &Descriptor,
    repository: &Repository<'_>,
    left: &mut u64,
) -> Result<Vec<Bytes>, RegistryError> {
    let bad = |why: String| RegistryError::Protocol { url: format!("attestation {}", entry.digest), why };
    let document = repository.manifest(&entry.digest.to_string()).await?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&document.bytes) else {
        return Err(bad("it is no manifest".into()));
    };
    let parts = blobs(&manifest);
    let size = parts.iter().fold(u64::try_from(document.bytes.len()).unwrap_or(u64::MAX), |sum, part| {
        sum.saturating_add(part.size)
    });
    if size > *left || parts.len() > MOST_BLOBS {
        return Err(bad(format!("{size} bytes in {} blobs, more than is kept", parts.len())));
    }
    *left -= size;
    let mut all = vec![document.bytes];
    for part in parts {
        all.push(repository.small_blob(&part.digest, part.size, MOST_BYTES).await?);
    }
    Ok(all)
}

/// An attestation that is here.
pub(crate) struct Attestation {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) text: Vec<u8>,
    pub(crate) blobs: Vec<Digest>,
}

/// An image as an index has it, as far as it is here.
pub(crate) struct Bundle {
    pub(crate) media_type: String,
    /// The index; the one by which the image came, if all of it is here.
    pub(crate) index: Vec<u8>,
    pub(crate) attestations: Vec<Attestation>,
}

/// An index by which an image came, with what it says about one of its manifests.
pub(crate) struct Source {
    /// The index, and the manifest.
    pub(crate) documents: [(Digest, Vec<u8>); 2],
    pub(crate) listing: Listing,
    pub(crate) attestations: Vec<Attestation>,
}

impl Images {
    fn attestation(&self, entry: &Descriptor) -> Option<Attestation> {
        let text = self.content.read(&entry.digest, MAX_DOCUMENT).ok()?;
        let Ok(Document::Manifest(manifest)) = Document::parse(&text) else { return None };
        let blobs: Vec<Digest> = blobs(&manifest).into_iter().map(|blob| blob.digest.clone()).collect();
        let here = blobs.iter().all(|blob| self.content.size(blob).is_some());
        let media_type = match entry.media_type.as_str() {
            "" => media::MANIFEST.to_owned(),
            known => known.to_owned(),
        };
        here.then(|| Attestation { digest: entry.digest.clone(), media_type, text, blobs })
    }

    /// The indexes by which an image came, the newest first.
    fn listings(&self, known: &Known) -> Vec<(Digest, Vec<u8>, Listing)> {
        let documents = known.record.documents.iter().rev();
        let read = |digest: &Digest| {
            let text = self.content.read(digest, MAX_DOCUMENT).ok()?;
            let listing = Listing::parse(&text)?;
            Some((digest.clone(), text, listing))
        };
        documents.filter_map(read).collect()
    }

    /// How a manifest of the image goes to a registry in an index: in the one by which it came if all that one lists is here,
    /// else in one with its attestations; `None` when there is nothing but the manifest.
    pub(crate) fn bundle(&self, known: &Known, manifest: &Digest) -> Option<Bundle> {
        let mut partial = None;
        for (_, text, listing) in self.listings(known) {
            if !listing.lists(manifest) {
                continue;
            }
            let attestations: Vec<Attestation> =
                listing.about(manifest).into_iter().filter_map(|entry| self.attestation(entry)).collect();
            let here = |digest: &Digest| {
                digest == manifest || attestations.iter().any(|attestation| attestation.digest == *digest)
            };
            let media_type = listing.media_type.clone();
            if listing.entries.iter().all(|entry| here(&entry.digest)) {
                return Some(Bundle { media_type, index: text, attestations });
            }
            if partial.is_none() && !attestations.is_empty() {
                let index = listing.only(here)?;
                partial = Some(Bundle { media_type, index, attestations });
            }
        }
        partial
    }

    /// Where the attestations about an image are from; `None` when there are none.
    pub(crate) fn attested(&self, known: &Known) -> Option<Source> {
        let indexes = self.listings(known);
        for document in known.record.documents.iter().rev() {
            let Ok(text) = self.content.read(document, MAX_DOCUMENT) else { continue };
            match Document::parse(&text) {
                Ok(Document::Manifest(manifest)) if manifest.config.digest == known.id => {}
                _ => continue,
            }
            for (digest, index, listing) in &indexes {
                let entries = listing.about(document).into_iter();
                let attestations: Vec<Attestation> =
                    entries.filter_map(|entry| self.attestation(entry)).collect();
                if !attestations.is_empty() {
                    let documents = [(digest.clone(), index.clone()), (document.clone(), text)];
                    return Some(Source { documents, listing: Listing::parse(index)?, attestations });
                }
            }
        }
        None
    }
}

/// The indexes with attestations among documents, and their texts.
pub(crate) fn speaking<'a>(documents: impl Iterator<Item = &'a [u8]>) -> Vec<(&'a [u8], Listing)> {
    let parsed = |text: &'a [u8]| Listing::parse(text).map(|listing| (text, listing));
    let all = documents.filter(|text| text.len() <= usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX));
    // Cheaper than to read all of them: most archives have no attestations.
    let says = all.filter(|text| text.windows(ABOUT.len()).any(|part| part == ABOUT.as_bytes()));
    says.filter_map(parsed).collect()
}

/// By what an image of an archive once came: each manifest of it that an index has, and the texts of the index, the manifest
/// and what the index says about it. `find` gets a document of the archive, verified.
pub(crate) fn in_archive<'a>(
    indexes: &[(&'a [u8], Listing)],
    image: &Digest,
    layers: &[Digest],
    find: &dyn Fn(&Digest) -> Option<&'a [u8]>,
) -> Vec<(Manifest, Vec<&'a [u8]>)> {
    let mut found = Vec::new();
    for (text, listing) in indexes {
        for entry in &listing.entries {
            let Some(manifest_text) = find(&entry.digest) else { continue };
            let Ok(Document::Manifest(manifest)) = Document::parse(manifest_text) else { continue };
            // One of layers as they are here says nothing that an archive would not say again.
            let plain = manifest.layers.iter().map(|layer| &layer.digest).eq(layers);
            if manifest.config.digest != *image || manifest.layers.len() != layers.len() || plain {
                continue;
            }
            let mut parts = Vec::new();
            for about in listing.about(&entry.digest) {
                let one = || {
                    let text = find(&about.digest)?;
                    let Ok(Document::Manifest(manifest)) = Document::parse(text) else { return None };
                    let blobs = blobs(&manifest).into_iter().map(|blob| find(&blob.digest));
                    std::iter::once(Some(text)).chain(blobs).collect::<Option<Vec<_>>>()
                };
                parts.extend(one().into_iter().flatten());
            }
            if !parts.is_empty() {
                found.push((manifest, [vec![*text, manifest_text], parts].concat()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_cut_to_what_is_wanted_and_keeps_its_words() {
        let digest = |byte: u8| Digest::of_bytes(&[byte]);
        let text = format!(
            r#"{{"schemaVersion":2,"x":1,"manifests":[{{"digest":"{}","size":1,"odd":[2]}},{{"digest":"{}","size":2}},
            {{"digest":"{}","size":3,"annotations":{{"{KIND}":"attestation-manifest","{ABOUT}":"{}"}}}}]}}"#,
            digest(1),
            digest(2),
            digest(3),
            digest(1)
        );
        let listing = Listing::parse(text.as_bytes()).unwrap();
        assert_eq!(listing.about(&digest(1)).len(), 1);
        assert!(listing.about(&digest(2)).is_empty() && listing.lists(&digest(2)));
        let cut = listing.only(|entry| *entry != digest(2)).unwrap();
        let cut = String::from_utf8(cut).unwrap();
        assert!(cut.starts_with(r#"{"schemaVersion":2,"x":1,"manifests":[{"digest":"#), "{cut}");
        assert!(cut.contains(r#""odd":[2]"#) && !cut.contains(&digest(2).hex()), "{cut}");
        let moved = about_another(listing.written(|entry| *entry == digest(3)).remove(0), &digest(2));
        assert_eq!(moved["annotations"][ABOUT], digest(2).to_string());
    }
}
