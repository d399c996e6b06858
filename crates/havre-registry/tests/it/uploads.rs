//! Content on its way to a registry.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use havre_oci::image::media;
use havre_oci::{Digest, Reference};
use havre_registry::{Access, Credentials, Registries, Settings, Source};
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

/// Takes an upload's beginning and then nothing more.
fn deaf() -> (String, std::thread::JoinHandle<usize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let serve = std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            // A greeting of TLS has no such end, but begins with a byte that no text has.
            while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&22) {
                let mut byte = [0];
                if std::io::Read::read(&mut stream, &mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            if head.first() == Some(&22) {
                continue;
            }
            let head = String::from_utf8(head).unwrap();
            let answer = match head.split(' ').next().unwrap_or_default() {
                "PATCH" => {
                    // Nothing of the body is read, and the connection stays.
                    held.push(stream);
                    continue;
                }
                "POST" => "HTTP/1.1 202 Accepted\r\nLocation: /v2/b/blobs/uploads/1\r\n",
                "DELETE" => return held.len(),
                _ => "HTTP/1.1 200 OK\r\n",
            };
            let whole = format!("{answer}Connection: close\r\nContent-Length: 0\r\n\r\n");
            std::io::Write::write_all(&mut stream, whole.as_bytes()).unwrap();
        }
        held.len()
    });
    (host, serve)
}

#[test]
fn an_upload_that_nobody_takes_is_given_up() {
    let (host, serve) = deaf();
    let settings = Settings { silence: Duration::from_millis(100), tries: 2, ..quick() };
    let registries = Registries::new(settings);
    run(async {
        let reference = Reference::parse(&format!("{host}/b:1")).unwrap();
        let repository = registries.repository(&reference, Access::Push, Credentials::default()).await;
        let content = vec![7_u8; 64 << 20];
        let error = repository.upload(&Text(content, true), || Ok(Digest::of_bytes(b""))).await.unwrap_err();
        assert!(havre_base::chain(&error).contains("nothing was sent or answered"), "{error:?}");
    });
    let mut stream = std::net::TcpStream::connect(&host).unwrap();
    std::io::Write::write_all(&mut stream, b"DELETE / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(serve.join().unwrap(), 2);
}

#[test]
fn what_refers_to_a_manifest_is_noted_where_the_registry_does_not() {
    let registry = FakeRegistry::start().unwrap();
    let subject = Digest::of_bytes(b"subject");
    let text = |n: u8| {
        Bytes::from(format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b"}},"subject":{{"digest":"{subject}"}},"n":{n}}}"#
        ))
    };
    let tag = subject.to_string().replace(':', "-");
    let noted = || {
        let index: serde_json::Value =
            serde_json::from_slice(&registry.document("a/b", &tag).unwrap_or_default()).unwrap_or_default();
        index["manifests"].as_array().map_or(0, Vec::len)
    };
    let registries = Registries::new(quick());
    run(async {
        let repository = at(&registries, &registry, Access::Push).await;
        for (n, expected) in [(1, 1), (2, 2), (1, 2)] {
            let name = Digest::of_bytes(&text(n)).to_string();
            repository.put_manifest(&name, media::MANIFEST, text(n)).await.unwrap();
            assert_eq!(noted(), expected);
        }
        // One that counts itself is left alone, and so is a tag that is something else.
        registry
            .lie(|asked| (asked.method == "PUT").then(|| Reply::status(201).with("OCI-Subject", "sha256:x")));
        repository.put_manifest("3", media::MANIFEST, text(3)).await.unwrap();
        registry.lie(|_| None);
        assert_eq!(noted(), 2);
        registry.manifest("a/b", &tag, media::MANIFEST, "{}");
        repository.put_manifest("4", media::MANIFEST, text(4)).await.unwrap();
        assert_eq!(registry.document("a/b", &tag).unwrap(), b"{}");
    });
}
