//! Answers that are not true.

use std::time::Duration;

use havre_oci::Digest;
use havre_oci::image::{MAX_DOCUMENT, media};
use havre_registry::{Access, Registries, RegistryError};
use havre_testkit::registry::{FakeRegistry, Reply};

use crate::{at, quick, run, told};

#[test]
fn i10_documents_that_are_not_what_they_are_called_are_refused() {
    let registry = FakeRegistry::start().unwrap();
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        registry.lie(|_| Some(Reply::body(200, "{}").with("Content-Type", media::MANIFEST)));
        let other = Digest::of_bytes(b"other").to_string();
        let error = repository.manifest(&other).await.unwrap_err();
        let found = Digest::of_bytes(b"{}").to_string();
        assert!(told(&error).contains(&other) && told(&error).contains(&found), "both digests: {error}");
        let liar = other.clone();
        registry.lie(move |_| Some(Reply::body(200, "{}").with("Docker-Content-Digest", liar.clone())));
        assert!(matches!(repository.manifest("1").await, Err(RegistryError::Mismatch { .. })));
    });
}

#[test]
fn i10_blobs_that_are_too_short_too_long_or_another_are_refused() {
    let registry = FakeRegistry::start().unwrap();
    let registries = Registries::new(quick());
    let blob = Digest::of_bytes(b"0123456789");
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        let refused = async |reply: Reply, words: &str| {
            registry.lie(move |_| Some(reply.clone()));
            let error = told(&repository.small_blob(&blob, 10, 100).await.unwrap_err());
            assert!(error.contains(words), "{words}: {error}");
        };
        refused(Reply::body(200, "01234567890"), "has 11 bytes, not 10").await;
        refused(Reply::body(200, "0123"), "has 4 bytes, not 10").await;
        refused(Reply { cut: Some(0), ..Reply::body(200, "0123456789") }, "5 times").await;
        refused(Reply::body(200, "9876543210"), "verification failed").await;
        refused(Reply::body(206, "89").with("Content-Range", "bytes 8-9/10"), "asked for bytes from 0 on")
            .await;
        let error = told(&repository.small_blob(&blob, 1 << 40, 100).await.unwrap_err());
        assert!(error.contains("more than 100"), "{error}");
    });
}

#[test]
fn i08_a_document_without_end_is_not_read() {
    let registry = FakeRegistry::start().unwrap();
    registry.lie(|_| {
        let endless = vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap_or(0) + 1];
        Some(Reply::body(200, endless))
    });
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        let error = told(&repository.manifest("1").await.unwrap_err());
        assert!(error.contains("larger than"), "{error}");
    });
}

#[test]
fn i16_who_never_answers_is_given_up() {
    let registry = FakeRegistry::start().unwrap();
    registry.lie(|_| Some(Reply::status(503)));
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        let error = told(&repository.manifest("1").await.unwrap_err());
        assert!(error.contains("503"), "{error}");
        assert_eq!(registry.asked().len(), 5);
        let words = "\u{1b}]0;x\u{7} evil";
        registry.lie(move |_| {
            let text = serde_json_text(words);
            Some(Reply::body(403, format!(r#"{{"errors":[{{"code":"DENIED","message":{text}}}]}}"#)))
        });
        let error = told(&repository.manifest("1").await.unwrap_err());
        assert_eq!(error, "denied: ]0;x evil", "no control characters of a stranger");
    });
}

fn serde_json_text(text: &str) -> String {
    let escaped: String = text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    format!("\"{escaped}\"")
}

#[test]
fn pages_of_tags_end() {
    let registry = FakeRegistry::start().unwrap();
    registry.lie(|asked| {
        let page = Reply::body(200, r#"{"tags":["a","b"]}"#);
        Some(match asked.path.as_str() {
            "/v2/a/b/tags/list" => page.with("Link", "</v2/a/b/tags/list?last=b>; rel=\"next\""),
            "/v2/a/b/tags/list?last=b" => {
                page.with("Link", "<http://localhost:1/v2/a/b/tags/list>; rel=\"next\"")
            }
            _ => Reply::status(404),
        })
    });
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        assert!(matches!(repository.tags().await, Err(RegistryError::Elsewhere { .. })));
        registry.lie(|_| {
            let page = Reply::body(200, r#"{"tags":["a"]}"#);
            Some(page.with("Link", "</v2/a/b/tags/list?last=a>; rel=\"next\""))
        });
        assert!(told(&repository.tags().await.unwrap_err()).contains("has no end"));
    });
}

#[test]
fn i16_a_blob_that_drips_is_given_up() {
    let registry = FakeRegistry::start().unwrap();
    let content = vec![7; 100_000];
    let blob = Digest::parse(&registry.blob(content.clone())).unwrap();
    registry.lie(move |asked| {
        // Never silent for as long as would be noticed, and never done.
        let drip = Some((10, Duration::from_millis(50)));
        asked.path.contains("/blobs/").then(|| Reply { drip, ..Reply::body(200, content.clone()) })
    });
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        let error = repository.small_blob(&blob, 100_000, 1 << 20).await.unwrap_err();
        assert!(told(&error).contains("hardly anything comes any more"), "{error}");
        assert!(error.is_interruption(), "what has come is good");
    });
}
