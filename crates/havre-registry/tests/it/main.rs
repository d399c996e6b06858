//! The protocol against a registry that may lie.

#![expect(clippy::unwrap_used, reason = "tests")]

mod downgrade;
mod keys;
mod lies;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use havre_oci::image::media;
use havre_oci::{Digest, Reference};
use havre_registry::{Access, Credentials, Registries, RegistryError, Repository, Settings};
use havre_testkit::registry::{FakeRegistry, Reply};

/// Settings that do not wait long.
fn quick() -> Settings {
    Settings {
        pause: Duration::from_millis(1),
        silence: Duration::from_millis(400),
        certs: "/nonexistent".into(),
        ..Settings::default()
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn at<'a>(registries: &'a Registries, registry: &FakeRegistry, access: Access) -> Repository<'a> {
    let reference = Reference::parse(&format!("{}/a/b:1", registry.host())).unwrap();
    registries.repository(&reference, access, Credentials::Anonymous).await
}

fn told(error: &RegistryError) -> String {
    error.to_string()
}

#[test]
fn documents_and_blobs_come_as_they_are() {
    let registry = FakeRegistry::start().unwrap();
    let manifest = registry.manifest("a/b", "1", media::MANIFEST, "{}");
    let content: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let blob = Digest::parse(&registry.blob(content.clone())).unwrap();
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        let got = repository.manifest("1").await.unwrap();
        assert_eq!(
            (got.media_type.as_str(), got.digest.to_string().as_str()),
            (media::MANIFEST, manifest.as_str())
        );
        assert_eq!(repository.manifest(&manifest).await.unwrap(), got);
        let (digest, kind, length) = repository.describe("1").await.unwrap().unwrap();
        assert_eq!((digest, kind.as_str(), length), (got.digest, media::MANIFEST, 2));
        assert!(repository.manifest("2").await.unwrap_err().is_not_found());
        assert_eq!(told(&repository.manifest("2").await.unwrap_err()), "manifest unknown: manifest unknown");
        assert_eq!(repository.has_blob(&blob).await.unwrap(), Some(200_000));
        assert_eq!(repository.has_blob(&Digest::of_bytes(b"no")).await.unwrap(), None);
        assert_eq!(repository.small_blob(&blob, 200_000, 1 << 20).await.unwrap(), content);
        assert_eq!(repository.tags().await.unwrap(), ["1"]);
    });
}

#[test]
fn i16_a_blob_goes_on_where_it_broke_off() {
    let registry = FakeRegistry::start().unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let blob = Digest::parse(&registry.blob(content.clone())).unwrap();
    let (copy, mut round) = (content.clone(), 0);
    registry.lie(move |asked| {
        if !asked.path.contains("/blobs/") {
            return None;
        }
        round += 1;
        let from = asked.header("range").trim_start_matches("bytes=").split('-').next().unwrap_or("");
        let from: usize = from.parse().unwrap_or(0);
        match round {
            // Breaks off; says that it cannot now; goes silent; does not know ranges; and then does all right.
            1 => Some(Reply { cut: Some(50_000), ..Reply::body(200, copy.clone()) }),
            2 => Some(Reply::status(503).with("Retry-After", "0")),
            3 => Some(Reply {
                cut: Some(20_000),
                ..Reply::body(206, &copy[from..]).with("Content-Range", format!("bytes {from}-299999/300000"))
            }),
            4 => Some(Reply {
                drip: Some((200_000, Duration::from_secs(3))),
                ..Reply::body(200, copy.clone())
            }),
            5 => Some(Reply { cut: Some(100_000), ..Reply::body(200, copy.clone()) }),
            6 => Some(Reply::status(429).with("Retry-After", "35.852µs")),
            _ => None,
        }
    });
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Pull).await;
        assert_eq!(repository.small_blob(&blob, 300_000, 1 << 20).await.unwrap(), content);
        let ranges: Vec<String> =
            registry.asked().iter().map(|asked| asked.header("range").to_owned()).collect();
        assert_eq!(ranges.len(), 7, "{ranges:?}");
        assert_eq!(ranges[1], "bytes=50000-299999");
        assert_eq!(ranges[3], "bytes=70000-299999");
        assert_eq!(ranges[6], "bytes=100000-299999");
        // From some place on, as after a restart.
        let mut rest = repository.blob(&blob, 300_000, 299_998);
        assert_eq!(rest.next().await.unwrap().unwrap(), content[299_998..]);
        assert!(rest.next().await.unwrap().is_none());
    });
}

#[test]
fn mirrors_are_asked_first_and_left_alone_when_they_fail() {
    let (registry, mirror) = (FakeRegistry::start().unwrap(), FakeRegistry::start().unwrap());
    registry.manifest("a/b", "1", media::MANIFEST, "{\"from\":\"registry\"}");
    mirror.manifest("a/b", "1", media::MANIFEST, "{\"from\":\"mirror\"}");
    let setting = format!("{}=http://{}", registry.host(), mirror.host());
    let mirrors = vec![havre_registry::Mirror::parse(&setting).unwrap()];
    let registries = Registries::new(Settings { mirrors, tries: 1, ..quick() });
    run(async {
        let got = at(&registries, &registry, Access::Pull).await.manifest("1").await.unwrap();
        assert_eq!(got.bytes, "{\"from\":\"mirror\"}");
        assert!(registry.asked().is_empty());
        // What is written goes to the registry itself.
        at(&registries, &registry, Access::Push)
            .await
            .put_manifest("2", media::MANIFEST, "{}".into())
            .await
            .unwrap();
        assert!(registry.document("a/b", "2").is_some() && mirror.document("a/b", "2").is_none());
        // What the mirror lacks comes from the registry.
        at(&registries, &registry, Access::Pull).await.manifest("2").await.unwrap();
        drop(mirror.asked());
        mirror.lie(|_| Some(Reply::status(502)));
        for _ in 0..3 {
            let got = at(&registries, &registry, Access::Pull).await.manifest("1").await.unwrap();
            assert_eq!(got.bytes, "{\"from\":\"registry\"}");
        }
        assert_eq!(mirror.asked().len(), 1, "a mirror that fails is left alone for a while");
    });
}

#[test]
fn nobody_there_is_said_in_docker_s_words() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let registries = Arc::new(Registries::new(quick()));
    run(async {
        let reference = Reference::parse(&format!("127.0.0.1:{port}/a/b:1")).unwrap();
        let repository = registries.repository(&reference, Access::Pull, Credentials::Anonymous).await;
        let error = told(&repository.manifest("1").await.unwrap_err());
        assert_eq!(
            error,
            format!(
                "Get \"http://127.0.0.1:{port}/v2/a/b/manifests/1\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    });
}
