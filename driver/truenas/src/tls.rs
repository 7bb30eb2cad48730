//! The one place that configures TLS: provider ring, the system's roots and those of the CA file.
//!
//! A fresh appliance has a self-signed certificate that names only `localhost`. When exactly that certificate is in the
//! CA file it is accepted whatever it names, because only the appliance holds its key.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::options::{ConfigError, Options};

/// Builds the configuration of an appliance's connections.
///
/// # Errors
/// [`ConfigError::CaFile`] when the CA file cannot be read or holds no certificate, [`ConfigError::Tls`] when nothing
/// could verify a certificate.
pub(crate) fn config(options: &Options) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError::Tls(e.to_string()))?
        .dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = if options.skip_tls_verify {
        tracing::warn!(
            host = options.url.host_str(),
            "TLS certificates are NOT verified: whoever answers at this address receives the API key; give a CA file instead"
        );
        Arc::new(AcceptAnyCertificate(provider))
    } else {
        let given = options.ca_file.as_deref().map(ca_file).transpose()?.unwrap_or_default();
        let roots = roots(options.ca_file.as_deref(), &given)?;
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| ConfigError::Tls(e.to_string()))?;
        Arc::new(GivenOrAuthorities { given, authorities })
    };
    let mut config = builder.with_custom_certificate_verifier(verifier).with_no_client_auth();
    // One server per configuration: the default keeps 256 sessions.
    config.resumption = Resumption::in_memory_sessions(2);
    Ok(Arc::new(config))
}

fn unusable(path: &Path, why: String) -> ConfigError {
    ConfigError::CaFile { path: path.to_owned(), why }
}

/// The certificates of a PEM file, at least one.
fn ca_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|e| unusable(path, e.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable(path, "it holds no certificate (PEM is expected)".to_owned()));
    }
    Ok(certificates)
}

fn roots(path: Option<&Path>, given: &[CertificateDer<'static>]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in given {
        let added = roots.add(certificate.clone());
        added.map_err(|e| {
            unusable(path.unwrap_or(Path::new("")), format!("a certificate cannot be used: {e}"))
        })?;
    }
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "a system certificate store could not be read");
    }
    let (added, ignored) = roots.add_parsable_certificates(native.certs);
    tracing::debug!(added, ignored, "system certificates loaded");
    if roots.is_empty() {
        return Err(ConfigError::Tls(
            "no certificate to trust: the system has none and no CA file was given".to_owned(),
        ));
    }
    Ok(roots)
}

/// Accepts the given certificates themselves, and those that an authority vouches for under the appliance's name.
#[derive(Debug)]
struct GivenOrAuthorities {
    given: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for GivenOrAuthorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.given.iter().any(|given| given == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Accepts any certificate for any name; still proves that the peer holds the certificate's key.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ApiKey;

    #[test]
    fn an_unusable_ca_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let mut options = Options::new("wss://nas.example".parse().unwrap(), ApiKey::new("1-a").unwrap());
        options.ca_file = Some(path.clone());
        assert!(matches!(config(&options), Err(ConfigError::CaFile { .. })));
        std::fs::write(&path, "no certificate here\n").unwrap();
        let error = config(&options).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("no certificate"), "{error}");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(config(&options), Err(ConfigError::CaFile { .. })));
    }
}
