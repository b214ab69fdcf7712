//! A certificate of one's own and whom to trust, without any library's types.

use std::fmt;

use bytes::Bytes;

/// A certificate of one's own, and the authorities that peers must come from: all as DER.
///
/// Held as `Live<TlsIdentity>`, so that certificates can be replaced while running: connections
/// made afterwards use the new one.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsIdentity {
    /// The certificate chain, leaf first. Empty for a client that shows none.
    pub chain: Vec<Bytes>,
    /// The private key of the leaf (PKCS#8, PKCS#1 or SEC1).
    pub key: Bytes,
    /// The authorities that a peer's certificate must come from.
    pub roots: Vec<Bytes>,
    /// Whether a listener demands a certificate of its clients (mutual TLS). Default no.
    pub require_client: bool,
}

impl TlsIdentity {
    /// No certificate, and nobody trusted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the chain, leaf first, and its key.
    #[must_use]
    pub fn with_certificate(mut self, chain: Vec<Bytes>, key: impl Into<Bytes>) -> Self {
        self.chain = chain;
        self.key = key.into();
        self
    }

    /// Sets the authorities to trust.
    #[must_use]
    pub fn with_roots(mut self, roots: Vec<Bytes>) -> Self {
        self.roots = roots;
        self
    }

    /// Demands a certificate of clients.
    #[must_use]
    pub fn with_require_client(mut self, require_client: bool) -> Self {
        self.require_client = require_client;
        self
    }
}

/// Never prints the key.
impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .field("require_client", &self.require_client)
            .finish_non_exhaustive()
    }
}
