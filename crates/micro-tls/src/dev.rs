//! Certificates made up on the spot, for tests and first steps.

use std::fmt;

use bytes::Bytes;
use micro_core::{Error, Result};
use micro_transport_core::TlsIdentity;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// An authority in memory. Whoever trusts it trusts whatever this process issues.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn failed(err: rcgen::Error) -> Error {
    Error::invalid_argument("the certificate cannot be made").with_source(err)
}

impl Authority {
    /// A new authority with a key of its own.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name that no certificate can carry.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
        Ok(Self { issuer })
    }

    /// The authority's own certificate, as DER: for [`TlsIdentity::roots`].
    #[must_use]
    pub fn root(&self) -> Bytes {
        Bytes::copy_from_slice(self.issuer.der())
    }

    /// The authority's own certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names (DNS names, IP addresses, URIs), good for either side, that
    /// trusts this authority alone.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name that no certificate can carry.
    pub fn issue(&self, names: &[&str]) -> Result<TlsIdentity> {
        let (certificate, key) = self.make(names)?;
        Ok(TlsIdentity::new()
            .with_certificate(
                vec![Bytes::copy_from_slice(certificate.der())],
                key.serialize_der(),
            )
            .with_roots(vec![self.root()]))
    }

    /// As [`issue`](Self::issue): the certificate and the key as PEM.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    pub fn issue_pem(&self, names: &[&str]) -> Result<(String, String)> {
        let (certificate, key) = self.make(names)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn make(&self, names: &[&str]) -> Result<(rcgen::Certificate, KeyPair)> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "micro dev");
        for name in names {
            params.subject_alt_names.push(if name.contains("://") {
                SanType::URI((*name).try_into().map_err(failed)?)
            } else if let Ok(ip) = name.parse() {
                SanType::IpAddress(ip)
            } else {
                SanType::DnsName((*name).try_into().map_err(failed)?)
            });
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate, key))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    #[test]
    fn configurations_are_made_or_refused() {
        let authority = Authority::new("test").unwrap();
        let good = authority.issue(&["localhost", "127.0.0.1"]).unwrap();
        crate::server_config(&good).unwrap();
        for expect in ["localhost", "127.0.0.1", "::1", "spiffe://test/a"] {
            crate::client_config(&good, expect).unwrap();
            crate::server_name(expect).unwrap();
        }
        let other = authority.issue(&["localhost"]).unwrap();
        let refused = [
            TlsIdentity::new(),
            good.clone().with_certificate(good.chain.clone(), other.key),
            good.clone().with_certificate(good.chain.clone(), &b"x"[..]),
            good.clone()
                .with_certificate(vec![Bytes::from_static(b"x")], good.key.clone()),
            good.clone()
                .with_roots(vec![Bytes::from_static(b"x")])
                .with_require_client(true),
            good.clone().with_roots(vec![]).with_require_client(true),
        ];
        for identity in refused {
            let err = crate::server_config(&identity).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
        }
        for expect in ["spiffe://", "spiffe:///x"] {
            let err = crate::client_config(&good, expect).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{expect}");
        }
        assert!(crate::server_name("a b").is_err());
    }

    #[test]
    fn uri_names_are_read_from_the_leaf() {
        let authority = Authority::new("test").unwrap();
        let identity = authority.issue(&["localhost", "spiffe://test/a"]).unwrap();
        assert_eq!(crate::uri_names(&identity.chain[0]), ["spiffe://test/a"]);
        assert!(crate::uri_names(b"nonsense").is_empty());
    }
}
