//! From a `TlsIdentity` to rustls.

use std::sync::Arc;

use micro_core::{Error, Result};
use micro_transport_core::TlsIdentity;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::verify::SpiffeVerifier;

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("tls.config")
}

fn chain(identity: &TlsIdentity) -> Vec<CertificateDer<'static>> {
    identity
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect()
}

fn key(identity: &TlsIdentity) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::try_from(identity.key.to_vec()).map_err(|why| {
        invalid("the private key is none: it is PKCS#8, PKCS#1 or SEC1 as DER")
            .with_context("why", why)
    })
}

fn roots(identity: &TlsIdentity) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for der in &identity.roots {
        roots
            .add(CertificateDer::from(der.to_vec()))
            .map_err(|err| invalid("an authority's certificate cannot be used").with_source(err))?;
    }
    if roots.is_empty() {
        return Err(invalid(
            "no authority is trusted: give TlsIdentity::roots the certificates that peers come from",
        ));
    }
    Ok(Arc::new(roots))
}

/// The configuration of a listener: shows the certificate, and with
/// [`require_client`](TlsIdentity::require_client) demands one of an authority that is trusted.
///
/// ALPN is the caller's to add. There is no early data.
///
/// # Errors
///
/// `InvalidArgument` for certificates and keys that cannot be used or do not belong together.
pub fn server_config(identity: &TlsIdentity) -> Result<Arc<ServerConfig>> {
    if identity.chain.is_empty() {
        return Err(invalid("a listener needs a certificate"));
    }
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|err| invalid("no version of TLS is left").with_source(err))?;
    let builder = if identity.require_client {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
            .build()
            .map_err(|err| invalid("clients cannot be verified").with_source(err))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(chain(identity), key(identity)?)
        .map_err(|err| {
            invalid("the certificate and its key do not go together").with_source(err)
        })?;
    Ok(Arc::new(config))
}

/// The configuration of a client that expects `expect`: a DNS name, an IP address or a
/// `spiffe://` identity.
///
/// ALPN is the caller's to add; [`server_name`] gives the name to connect with.
///
/// # Errors
///
/// As [`server_config`], and for a name that is none.
pub fn client_config(identity: &TlsIdentity, expect: &str) -> Result<Arc<ClientConfig>> {
    let webpki = WebPkiServerVerifier::builder_with_provider(roots(identity)?, provider())
        .build()
        .map_err(|err| invalid("nodes cannot be verified").with_source(err))?;
    let verifier: Arc<dyn ServerCertVerifier> = if is_spiffe(expect) {
        Arc::new(SpiffeVerifier::new(webpki, roots(identity)?, expect)?)
    } else {
        webpki
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|err| invalid("no version of TLS is left").with_source(err))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = if identity.chain.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder
            .with_client_auth_cert(chain(identity), key(identity)?)
            .map_err(|err| {
                invalid("the certificate and its key do not go together").with_source(err)
            })?
    };
    Ok(Arc::new(config))
}

fn is_spiffe(expect: &str) -> bool {
    expect.starts_with("spiffe://")
}

/// The name to connect with. A SPIFFE identity is no DNS name, so none is sent for it.
///
/// # Errors
///
/// `InvalidArgument` if it is neither a DNS name nor an IP address nor a SPIFFE identity.
pub fn server_name(expect: &str) -> Result<ServerName<'static>> {
    let name = if is_spiffe(expect) {
        // Not sent: TLS has no server name for an address, and the verifier does not look at it.
        "0.0.0.0"
    } else {
        expect
    };
    ServerName::try_from(name.to_owned()).map_err(|err| {
        invalid("a node is expected by DNS name, IP address or spiffe:// identity")
            .with_context("expect", expect.escape_debug())
            .with_source(err)
    })
}

/// The URI names in a certificate, such as its SPIFFE identity. Empty if it cannot be read.
#[must_use]
pub fn uri_names(certificate: &[u8]) -> Vec<String> {
    let der = CertificateDer::from(certificate);
    webpki::EndEntityCert::try_from(&der)
        .map(|parsed| parsed.valid_uri_names().map(str::to_owned).collect())
        .unwrap_or_default()
}
