//! Content on its way to a registry.

use std::io;

use bytes::Bytes;
use havre_oci::image::media;
use havre_oci::{Digest, Reference};
use havre_registry::{Access, Registries, Source};
use havre_testkit::registry::{FakeRegistry, Reply};
use tokio::sync::mpsc;

use crate::{at, quick, run};

struct Text(Vec<u8>, bool);

impl Source for Text {
    fn open(&self, at: u64) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
        let (sender, pieces) = mpsc::channel(8);
        let rest = self.0[usize::try_from(at).unwrap()..].to_vec();
        let whole = self.1;
        std::thread::spawn(move || {
            for piece in rest.chunks(10_000) {
                if sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).is_err() {
                    return;
                }
            }
            if whole {
                sender.blocking_send(Ok(Bytes::new())).unwrap_or(());
            }
        });
        Ok(pieces)
    }
}

#[test]
fn uploads_go_on_where_they_broke_off() {
    let registry = FakeRegistry::start().unwrap();
    let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let digest = Digest::of_bytes(&content);
    let mut patches = 0;
    registry.lie(move |asked| {
        if asked.method != "PATCH" {
            return None;
        }
        patches += 1;
        // The first one is refused for now, without having been taken.
        (patches == 1).then(|| Reply::status(503))
    });
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Push).await;
        let source = Text(content.clone(), true);
        repository.upload(&source, || Ok(digest.clone())).await.unwrap();
        assert_eq!(registry.content(&digest.to_string()).unwrap(), content);
        // A source that breaks off is no content.
        let half = Text(b"half".to_vec(), false);
        assert!(repository.upload(&half, || Ok(Digest::of_bytes(b"half"))).await.is_err());
        assert!(registry.content(&Digest::of_bytes(b"half").to_string()).is_none());
        let small = repository.put_blob(Bytes::from_static(b"small")).await.unwrap();
        assert_eq!(registry.content(&small.to_string()).unwrap(), b"small");
        assert!(
            repository
                .mount(&small, &Reference::parse(&format!("{}/c:1", registry.host())).unwrap())
                .await
                .unwrap()
        );
        let absent = Digest::of_bytes(b"absent");
        assert!(
            !repository
                .mount(&absent, &Reference::parse(&format!("{}/c:1", registry.host())).unwrap())
                .await
                .unwrap()
        );
        let name = repository.put_manifest("1", media::MANIFEST, "{}".into()).await.unwrap();
        assert_eq!(name, Digest::of_bytes(b"{}"));
    });
}
