//! Which of the things that a registry offers is the image that is wanted.

use havre_oci::Platform;
use havre_oci::image::{Descriptor, Document, Index, Manifest, media};
use havre_registry::Fetched;

use crate::{ImageError, Result};

/// Indexes inside each other.
pub(super) const DEEPEST: usize = 4;

/// Refuses what is no image of ours by what the registry calls it.
pub(super) fn check_type(media_type: &str) -> Result<()> {
    match media_type {
        // Some registries do not say; the document does.
        "" | "application/json" | "application/octet-stream" | "text/plain" => Ok(()),
        media::MANIFEST | media::INDEX | media::DOCKER_MANIFEST | media::DOCKER_LIST => Ok(()),
        old if old.contains("distribution.manifest.v1") => Err(ImageError::Pull(
            "the image is in the old format (schema 1), which is not supported any more: build or push it again with a newer client".into(),
        )),
        other => Err(ImageError::Pull(format!("unsupported media type {other}"))),
    }
}

/// Refuses a document that is called one thing and is the other: two readers would take it for two different images.
pub(super) fn check_document(document: &Document, fetched: &Fetched) -> Result<()> {
    let is_index = matches!(document, Document::Index(_));
    let called_index = matches!(fetched.media_type.as_str(), media::INDEX | media::DOCKER_LIST);
    let called_manifest = matches!(fetched.media_type.as_str(), media::MANIFEST | media::DOCKER_MANIFEST);
    if (is_index && called_manifest) || (!is_index && called_index) {
        let what = if is_index { "an index of images" } else { "a manifest" };
        return Err(ImageError::Pull(format!(
            "the registry calls {} {}, but it is {what}",
            fetched.digest, fetched.media_type
        )));
    }
    Ok(())
}

/// Refuses what is an artifact, but no image.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<()> {
    match manifest.config.media_type.as_str() {
        "" | "application/octet-stream" | media::CONFIG | media::DOCKER_CONFIG => {}
        other => {
            return Err(ImageError::Pull(format!(
                "invalid configuration of type {other}: this is no container image"
            )));
        }
    }
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        Some(layer) => Err(ImageError::Pull(format!("unsupported layer of type {}", layer.media_type))),
        None => Ok(()),
    }
}

fn is_layer(media_type: &str) -> bool {
    let known = [
        "",
        "application/octet-stream",
        media::LAYER,
        media::LAYER_GZIP,
        media::LAYER_ZSTD,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        media::DOCKER_LAYER,
        media::DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ];
    known.contains(&media_type)
}

/// The entry of an index for a platform, this machine's by default.
pub(super) fn entry<'a>(index: &'a Index, platform: Option<&Platform>) -> Result<&'a Descriptor> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let fits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.matches(wanted));
    let mut found: Vec<&Descriptor> = index.manifests.iter().filter(fits).collect();
    // Without a word of the user's, one that names no variant runs everywhere.
    found.sort_by_key(|entry| entry.platform.as_ref().is_some_and(|p| p.variant != wanted.variant));
    if let Some(entry) = found.first() {
        return Ok(entry);
    }
    // An index of one image without a platform: there is nothing to choose.
    if let [only] = index.manifests.as_slice()
        && only.platform.is_none()
    {
        return Ok(only);
    }
    Err(ImageError::Missing(format!("no matching manifest for {wanted} in the manifest list entries")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Index {
        let entries: Vec<String> = platforms
            .iter()
            .enumerate()
            .map(|(at, text)| {
                let mut parts = text.split('/');
                let mut part = || parts.next().unwrap_or_default().to_owned();
                let (os, architecture, variant) = (part(), part(), part());
                let digest = havre_oci::Digest::of_bytes(&[u8::try_from(at).unwrap()]);
                format!(
                    r#"{{"digest":"{digest}","size":{at},"platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}}}"#
                )
            })
            .collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match Document::parse(text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!(),
        }
    }

    #[test]
    fn the_entry_for_the_platform_is_taken() {
        let index = index(&["unknown/unknown", "linux/arm/v6", "linux/arm/v7", "linux/s390x"]);
        let of = |text: &str| entry(&index, Some(&Platform::parse(text).unwrap())).map(|entry| entry.size);
        assert_eq!(of("linux/arm/v7").unwrap(), 2);
        assert_eq!(of("linux/s390x").unwrap(), 3);
        let error = of("linux/riscv64").unwrap_err().to_string();
        assert_eq!(error, "no matching manifest for linux/riscv64 in the manifest list entries");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(check_type("application/vnd.docker.distribution.manifest.v1+prettyjws").is_err());
        assert!(check_type("text/html").is_err());
        assert!(is_layer("application/vnd.oci.image.layer.v1.tar+gzip") && !is_layer("application/wasm"));
    }
}
