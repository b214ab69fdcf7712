//! Who a caller is, once that is established.

use std::collections::BTreeMap;

/// Who a caller is, as verified by the server's auth middleware.
///
/// Nothing a peer merely claims ends up here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The account or workload: `"ada"`, `"spiffe://example.org/service/greeter"`.
    pub id: String,
    /// What it is: `"user"`, `"service"`.
    pub kind: String,
    /// Who vouches for it.
    pub issuer: String,
    /// What it may ask for; rules decide what it gets.
    pub scopes: Vec<String>,
    /// Further facts about it.
    pub metadata: BTreeMap<String, String>,
}

impl Identity {
    /// An identity with this id and nothing else.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            ..Self::default()
        }
    }

    /// Sets [`kind`](Self::kind).
    #[must_use]
    pub fn with_kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// Sets [`issuer`](Self::issuer).
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// Adds one of the [`scopes`](Self::scopes).
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }
}
