//! The caller's side of TLS: keys of a connection, whom it trusts, and why a handshake fails, in words.
//!
//! Invariants: the authorities are those that were given, or the system's; nobody is trusted without a word of the
//! user's (`Tls::insecure`). Nothing here runs for a connection without keys.
//! Not here: what listens, HTTP, and where keys are found.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the authorities that everybody trusts.
const SYSTEM: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// The keys of a connection, as PEM texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether any certificate of the server will do.
    pub insecure: bool,
    /// The authorities to trust; those of the system when absent.
    pub ca: Option<Vec<u8>>,
    /// Authorities to trust besides those.
    pub extra: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKeys(String);

impl Tls {
    /// Reads the keys, ready to connect.
    pub fn connector(&self) -> Result<Connector, InvalidKeys> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| InvalidKeys(error.to_string()))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let bad = |error: &dyn std::fmt::Display| {
                    InvalidKeys(format!("could not load X509 key pair: {error}"))
                };
                let chain = CertificateDer::pem_slice_iter(cert)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| bad(&error))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| bad(&error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| bad(&error))?
            }
        };
        Ok(Connector(TlsConnector::from(Arc::new(config))))
    }

    fn roots(&self) -> Result<RootCertStore, InvalidKeys> {
        let mut roots = RootCertStore::empty();
        let bad = |error: &dyn std::fmt::Display| {
            InvalidKeys(format!("failed to read the CA certificate: {error}"))
        };
        for pem in self.ca.iter().chain(&self.extra) {
            for authority in CertificateDer::pem_slice_iter(pem) {
                roots.add(authority.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
            }
        }
        match &self.ca {
            Some(_) => {
                if roots.is_empty() {
                    return Err(bad(&"there is none in it"));
                }
            }
            None => {
                let pem = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
                // One that cannot be read is trusted by nobody.
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            }
        }
        Ok(roots)
    }
}

/// Keys that were read.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// The handshake with who is at `host:port`.
    pub async fn connect<S>(&self, address: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

/// Accepts every certificate: what `--tls` without `--tlsverify` asks for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What TLS found wrong, if anywhere in the chain of causes it did.
#[must_use]
pub fn reason(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(words(tls));
        }
        // What an I/O error carries is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn words(error: &rustls::Error) -> String {
    use CertificateError as C;
    let certificate = |why: &str| format!("tls: failed to verify certificate: x509: {why}");
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            certificate("certificate signed by unknown authority")
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            certificate("certificate has expired")
        }
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            certificate("certificate is not yet valid")
        }
        rustls::Error::InvalidCertificate(why @ (C::NotValidForName | C::NotValidForNameContext { .. })) => {
            certificate(&format!("certificate is not for this name: {why}"))
        }
        rustls::Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::CertificateRequired => {
                    "certificate required: the server wants a client certificate (--tlscert, --tlskey)"
                }
                AlertDescription::CertificateExpired => "expired certificate: ours is no longer valid",
                AlertDescription::UnknownCA => {
                    "unknown certificate authority: the server does not trust who signed our certificate"
                }
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                    "bad certificate: the server does not accept ours"
                }
                AlertDescription::DecryptError => {
                    "error decrypting message: our certificate is of an authority that the server does not know"
                }
                other => return format!("remote error: tls: {other:?}"),
            };
            format!("remote error: tls: {why}")
        }
        rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".to_owned(),
        other => format!("tls: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_inside_an_io_error() {
        let tls = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let outer = io::Error::other(io::Error::other(tls));
        assert!(reason(&outer).unwrap().starts_with("remote error: tls: certificate required"));
        assert_eq!(reason(&io::Error::other("x")), None);
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let tls = Tls { ca: Some(b"nonsense".to_vec()), ..Tls::default() };
        assert!(tls.connector().is_err());
        let tls = Tls { identity: Some((Vec::new(), Vec::new())), insecure: true, ..Tls::default() };
        assert!(tls.connector().is_err_and(|error| error.to_string().contains("X509 key pair")));
    }
}
