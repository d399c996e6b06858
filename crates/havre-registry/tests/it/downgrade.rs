//! A registry behind TLS that would have the rest without it (attack I14).

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use havre_oci::Reference;
use havre_registry::{Access, Credentials, Registries, RegistryError};
use havre_testkit::registry::FakeRegistry;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{quick, run, told};

/// Answers every request behind TLS with `answer`, to which it adds the end of a head.
fn secure(answer: String) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    // Ends with the test's process: it waits for connections and holds nothing.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let whole = format!("{answer}Connection: close\r\nContent-Length: 0\r\n\r\n");
            // Whoever went away does not want it.
            stream.write_all(whole.as_bytes()).unwrap_or(());
            stream.conn.send_close_notify();
            stream.flush().unwrap_or(());
        }
    });
    host
}

fn password() -> Credentials {
    Credentials::Password { user: "me".into(), password: "geheim".into() }
}

fn refused(host: &str) -> String {
    let registries = Registries::new(quick());
    run(async {
        let reference = Reference::parse(&format!("{host}/a/b:1")).unwrap();
        let repository = registries.repository(&reference, Access::Pull, password()).await;
        let error = repository.manifest("1").await.unwrap_err();
        assert!(matches!(error, RegistryError::Elsewhere { .. }), "{error:?}");
        told(&error)
    })
}

#[test]
fn i14_a_redirect_out_of_encryption_is_not_followed() {
    let plain = FakeRegistry::start().unwrap();
    let to = format!("http://{}/v2/a/b/manifests/1", plain.host());
    for status in ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let host = secure(format!("HTTP/1.1 {status}\r\nLocation: {to}\r\n"));
        let error = refused(&host);
        assert!(error.contains(&to) && error.contains("it would leave encryption"), "{error}");
    }
    assert!(plain.asked().is_empty());
}

#[test]
fn i14_a_token_server_without_encryption_gets_no_password() {
    let plain = FakeRegistry::start().unwrap();
    let realm = format!("http://{}/token", plain.host());
    let host = secure(format!(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n"
    ));
    let error = refused(&host);
    assert!(error.contains(&realm) && error.contains("credentials would leave encryption"), "{error}");
    assert!(plain.asked().is_empty());
}
