//! What refers to a manifest, at registries that do not keep count themselves (OCI Distribution 1.1, "Referrers Tag Schema").
//!
//! A manifest may name a subject. A registry of version 1.1 says that it has seen that (`OCI-Subject`); for all others the
//! client keeps an index of the referrers under a tag made of the subject's digest.

use havre_oci::Digest;
use havre_oci::image::{MAX_DOCUMENT, media};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::repository::Repository;
use crate::{RegistryError, Result};

/// A manifest that refers to another one.
#[derive(Debug, PartialEq)]
pub(crate) struct Referrer {
    subject: Digest,
    digest: Digest,
    /// As the index has it.
    written: Value,
}

impl Referrer {
    /// Reads a manifest; `None` when it refers to nothing.
    pub(crate) fn of(media_type: &str, digest: &Digest, bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            subject: Target,
            #[serde(default)]
            artifact_type: String,
            #[serde(default)]
            config: Option<Config>,
            #[serde(default)]
            annotations: Option<Value>,
        }
        #[derive(Deserialize)]
        struct Target {
            digest: Digest,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Config {
            #[serde(default)]
            media_type: String,
        }
        let shape: Shape = serde_json::from_slice(bytes).ok()?;
        let mut written = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        let of_config = shape.config.map(|config| config.media_type).unwrap_or_default();
        let kind = if shape.artifact_type.is_empty() { of_config } else { shape.artifact_type };
        if !kind.is_empty() {
            written["artifactType"] = kind.into();
        }
        if let Some(annotations) = shape.annotations.filter(Value::is_object) {
            written["annotations"] = annotations;
        }
        Some(Self { subject: shape.subject.digest, digest: digest.clone(), written })
    }
}

impl Repository<'_> {
    /// Adds a manifest to the index of those that refer to the same one.
    pub(crate) async fn refer(&self, referrer: &Referrer) -> Result<()> {
        let tag = referrer.subject.to_string().replace(':', "-");
        let mut index = match self.manifest(&tag).await {
            Ok(there) => serde_json::from_slice(&there.bytes)
                .ok()
                .filter(|there: &Value| there.get("manifests").is_some_and(Value::is_array)),
            Err(error) if error.is_not_found() => {
                Some(json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [] }))
            }
            Err(error) => return Err(error),
        };
        let Some(Value::Array(all)) = index.as_mut().and_then(|index| index.get_mut("manifests")) else {
            // Somebody else's tag; nothing of it is replaced.
            tracing::warn!(tag, "what refers to a manifest is not noted: the tag for it is no index");
            return Ok(());
        };
        let name = referrer.digest.to_string();
        if all.iter().any(|entry| entry.get("digest").and_then(Value::as_str) == Some(&name)) {
            return Ok(());
        }
        all.push(referrer.written.clone());
        let bytes = serde_json::to_vec(&index).unwrap_or_default();
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_DOCUMENT {
            let why = format!("the index of what refers to {} would be too large", referrer.subject);
            return Err(RegistryError::Protocol { url: tag, why });
        }
        self.put_document(&tag, media::INDEX, &bytes.into()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_with_a_subject_refers_to_it() {
        let (one, other) = (Digest::of_bytes(b"1"), Digest::of_bytes(b"2"));
        let text = format!(
            r#"{{"subject":{{"digest":"{other}"}},"config":{{"mediaType":"a/b"}},"annotations":{{"k":"v"}}}}"#
        );
        let referrer = Referrer::of(media::MANIFEST, &one, text.as_bytes()).unwrap();
        assert_eq!((&referrer.subject, &referrer.written["artifactType"]), (&other, &"a/b".into()));
        assert_eq!(referrer.written["annotations"]["k"], "v");
        assert_eq!(Referrer::of(media::MANIFEST, &one, br#"{"config":{}}"#), None);
    }
}
