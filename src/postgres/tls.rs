//! TLS with rustls: the provider is named, so that a second one in the tree cannot make it panic.
//!
//! `sslmode` means what it means to libpq: `prefer` and `require` encrypt without asking who the server is
//! (a fresh Debian server signs for itself), `verify-ca` asks for an authority, `verify-full` for the name too.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Proof;
use crate::error::{Error, Result};

/// The connector for one address; `root_cert` is a PEM file, without it the machine's authorities count.
pub(super) fn connector(proof: Proof, root_cert: Option<&Path>) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let trusting = match proof {
        Proof::Nothing => None,
        Proof::Authority | Proof::Name => Some(trusting(root_cert, &provider)?),
    };
    let verifier = Arc::new(Verifier { trusting, provider: Arc::clone(&provider), proof });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::usage(format!("TLS cannot be set up: {error}")).because(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn trusting(root_cert: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let roots = match root_cert {
        Some(path) => from_file(path)?,
        None => from_machine()?,
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| Error::usage(format!("TLS cannot be set up: {error}")).because(error))
}

fn from_file(path: &Path) -> Result<RootCertStore> {
    let place = path.display();
    let broken = |why: String| {
        Error::usage(format!("the root certificate {place} cannot be used: {why}"))
            .hint("[database] tls_root_cert (or sslrootcert in the URL) names a PEM file with the authority's certificate")
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| broken(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| broken(error.to_string()))?;
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(broken("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn from_machine() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::usage("this machine has no certificate authorities to check the server against")
            .hint("install the package ca-certificates, or set [database] tls_root_cert"));
    }
    Ok(roots)
}

/// Checks as much as [`Proof`] asks for; signatures of the handshake are always checked.
#[derive(Debug)]
struct Verifier {
    trusting: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    proof: Proof,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trusting) = &self.trusting else {
            return Ok(ServerCertVerified::assertion());
        };
        match trusting.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // the name is looked at last: the chain up to the authority is good
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.proof == Proof::Authority => Ok(ServerCertVerified::assertion()),
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
