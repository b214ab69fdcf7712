//! Who a node is by SPIFFE: one URI name, under an authority that is trusted.

use std::sync::Arc;

use micro_core::Result;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::config::{invalid, provider};

/// Accepts the one node whose certificate carries the expected SPIFFE identity.
#[derive(Debug)]
pub(crate) struct SpiffeVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expect: String,
}

impl SpiffeVerifier {
    pub(crate) fn new(
        webpki: Arc<WebPkiServerVerifier>,
        roots: Arc<RootCertStore>,
        expect: &str,
    ) -> Result<Self> {
        let has_domain = expect
            .strip_prefix("spiffe://")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        if !has_domain {
            return Err(invalid("a SPIFFE identity is 'spiffe://trust-domain/path'")
                .with_context("expect", expect.escape_debug()));
        }
        Ok(Self {
            webpki,
            roots,
            algorithms: provider().signature_verification_algorithms,
            expect: expect.to_owned(),
        })
    }
}

/// What the certificate says instead.
#[derive(Debug)]
struct OtherNode {
    expected: String,
    found: Vec<String>,
}

impl std::fmt::Display for OtherNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}, found {:?}", self.expected, self.found)
    }
}

impl std::error::Error for OtherNode {}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        // X.509-SVID §5.2: exactly one URI name, or it is no SPIFFE identity at all.
        let found = crate::uri_names(end_entity);
        if matches!(&found[..], [only] if *only == self.expect) {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherNode {
            expected: self.expect.clone(),
            found,
        };
        Err(CertificateError::Other(OtherError(Arc::new(other))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
