//! The daemon's certificate and the authority whose clients it accepts.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::DaemonError;

/// How connections over TCP are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whether a client must prove who it is by a certificate of `ca`.
    pub(crate) verify: bool,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, DaemonError> {
        let refuse = |why: String| DaemonError::Config(why);
        let pair = |why: &dyn std::fmt::Display| {
            refuse(format!(
                "invalid TLS configuration: could not load X509 key pair (cert: {}, key: {}): {why}",
                self.cert.display(),
                self.key.display()
            ))
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| pair(&error))?;
        if chain.is_empty() {
            return Err(pair(&"no certificate is in the file"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| pair(&error))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| pair(&error))?;
        let builder = if self.verify {
            let ca = |why: &dyn std::fmt::Display| {
                refuse(format!(
                    "invalid TLS configuration: could not read CA certificate {:?}: {why}",
                    self.ca.display().to_string()
                ))
            };
            let mut roots = RootCertStore::empty();
            let authorities = CertificateDer::pem_file_iter(&self.ca).map_err(|error| ca(&error))?;
            for authority in authorities {
                let authority = authority.map_err(|error| ca(&error))?;
                roots.add(authority).map_err(|error| ca(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| ca(&error))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| pair(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
