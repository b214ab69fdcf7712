//! Reading certificates and keys from PEM.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use micro_core::{Error, Result};
use micro_transport_core::TlsIdentity;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::invalid;

/// Where a certificate, its key and the trusted authorities come from, as PEM.
///
/// Each part is a text that holds PEM (it begins with `-----BEGIN`), or the path of a file that
/// does. Reading it again gives what the files hold by then, so a `Live<TlsIdentity>` is kept
/// fresh by calling [`read`](Self::read) whenever they may have changed.
///
/// ```no_run
/// let identity = micro_tls::Pem::new()
///     .with_certificate("/etc/tls/tls.crt", "/etc/tls/tls.key")
///     .with_roots("/etc/tls/ca.crt")
///     .read()?;
/// # Ok::<(), micro_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Pem {
    certificate: Option<String>,
    key: Option<String>,
    roots: Option<String>,
    require_client: bool,
}

impl Pem {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the variables `<prefix>_CERT`, `<prefix>_KEY` and `<prefix>_CA` say (a path, or PEM
    /// itself); `None` if none of them is set. With `<prefix>_CA` a listener demands certificates
    /// of its clients.
    #[must_use]
    pub fn from_env(prefix: &str) -> Option<Self> {
        let get = |name: &str| {
            std::env::var(format!("{prefix}_{name}"))
                .ok()
                .filter(|text| !text.is_empty())
        };
        let pem = Self {
            certificate: get("CERT"),
            key: get("KEY"),
            roots: get("CA"),
            require_client: false,
        };
        if pem.certificate.is_none() && pem.key.is_none() && pem.roots.is_none() {
            return None;
        }
        let require_client = pem.roots.is_some() && pem.certificate.is_some();
        Some(pem.with_require_client(require_client))
    }

    /// The certificate chain, leaf first, and its key.
    #[must_use]
    pub fn with_certificate(
        mut self,
        certificate: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        self.certificate = Some(certificate.into());
        self.key = Some(key.into());
        self
    }

    /// The authorities that peers must come from.
    #[must_use]
    pub fn with_roots(mut self, roots: impl Into<String>) -> Self {
        self.roots = Some(roots.into());
        self
    }

    /// Whether a listener demands a certificate of its clients.
    #[must_use]
    pub fn with_require_client(mut self, require_client: bool) -> Self {
        self.require_client = require_client;
        self
    }

    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no PEM, or a certificate without a key; `NotFound` and
    /// `PermissionDenied` for files.
    pub fn read(&self) -> Result<TlsIdentity> {
        let mut identity = TlsIdentity::new().with_require_client(self.require_client);
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(&load(certificate)?, "certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&load(key)?).map_err(|err| {
                    invalid("there is no private key in the PEM").with_context("why", err)
                })?;
                identity =
                    identity.with_certificate(chain, Bytes::copy_from_slice(key.secret_der()));
            }
            (None, None) => {}
            _ => return Err(invalid("a certificate and its key come together")),
        }
        if let Some(roots) = &self.roots {
            identity = identity.with_roots(certificates(&load(roots)?, "authority")?);
        }
        Ok(identity)
    }
}

/// Paths, but never PEM itself: it may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |part: &Option<String>| {
            part.as_deref().map(|text| {
                if is_pem(text) {
                    "PEM".to_owned()
                } else {
                    text.to_owned()
                }
            })
        };
        f.debug_struct("Pem")
            .field("certificate", &shown(&self.certificate))
            .field("key", &shown(&self.key))
            .field("roots", &shown(&self.roots))
            .field("require_client", &self.require_client)
            .finish()
    }
}

fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN")
}

fn load(text: &str) -> Result<Vec<u8>> {
    if is_pem(text) {
        return Ok(text.as_bytes().to_vec());
    }
    let path = PathBuf::from(text);
    std::fs::read(&path).map_err(|err| {
        Error::from(err)
            .with_operation("tls.read")
            .with_context("path", path.display())
    })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<Bytes>> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|err| {
            invalid("the PEM of a certificate cannot be read")
                .with_context("what", what)
                .with_context("why", err)
        })?;
        all.push(Bytes::copy_from_slice(&certificate));
    }
    if all.is_empty() {
        return Err(invalid("there is no certificate in the PEM").with_context("what", what));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;
    use crate::dev::Authority;

    #[test]
    fn pem_is_read_from_texts_and_files() {
        let authority = Authority::new("test").unwrap();
        let (certificate, key) = authority.issue_pem(&["localhost"]).unwrap();
        let pem = Pem::new()
            .with_certificate(&certificate, &key)
            .with_roots(authority.pem());
        assert!(!format!("{pem:?}").contains("BEGIN"), "{pem:?}");
        let read = pem.read().unwrap();
        assert_eq!((read.chain.len(), read.roots.len()), (1, 1));
        crate::server_config(&read).unwrap();

        let dir = std::env::temp_dir().join(format!("micro-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let pem = Pem::new().with_certificate(file("c", &certificate), file("k", &key));
        assert_eq!(pem.read().unwrap().chain, read.chain);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(pem.read().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_pem_is_refused() {
        let authority = Authority::new("test").unwrap();
        let (certificate, key) = authority.issue_pem(&["localhost"]).unwrap();
        let table = [
            Pem::new().with_certificate(&key, &key),
            Pem::new().with_certificate(&certificate, &certificate),
            Pem::new().with_roots("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"),
            Pem {
                certificate: Some(certificate),
                ..Pem::default()
            },
        ];
        for pem in table {
            let err = pem.read().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err:?}");
        }
    }
}
