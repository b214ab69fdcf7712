//! Values that are encrypted where they stand.

use std::fmt;
use std::sync::Arc;

use micro_core::{Result, Secret};

/// Opens values that are encrypted at rest: texts that begin with `enc:v1:`.
///
/// `micro-config-file` has one (`seal` feature).
pub trait Unseal: fmt::Debug + Send + Sync + 'static {
    /// The text that was sealed.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` if it was sealed with another key or changed since, `InvalidArgument` if
    /// it is no sealed value. The error holds nothing of the value.
    fn unseal(&self, sealed: &str) -> Result<Secret>;
}

#[deny(clippy::missing_trait_methods)]
impl<U: Unseal + ?Sized> Unseal for Arc<U> {
    fn unseal(&self, sealed: &str) -> Result<Secret> {
        (**self).unseal(sealed)
    }
}

/// Whether a text is a sealed value, of whatever version: `enc:v<number>:…`.
#[must_use]
pub fn is_sealed(text: &str) -> bool {
    text.strip_prefix("enc:v")
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(version, _)| {
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_are_known_by_their_beginning() {
        assert!(is_sealed("enc:v1:abc") && is_sealed("enc:v22:"));
        for text in ["enc:", "enc:v", "enc:v:x", "enc:vx:y", "encoded", "enc:v1"] {
            assert!(!is_sealed(text), "{text}");
        }
    }
}
