//! Reads a [`Secret`] out of the configuration: `#[serde(with = "micro_config_core::secret")]`.
//!
//! ```
//! use micro_config_core::{Config, Secret};
//!
//! #[derive(serde::Deserialize)]
//! struct Database {
//!     #[serde(with = "micro_config_core::secret")]
//!     password: Secret,
//! }
//! ```
//!
//! What was read in this way is from then on hidden by [`Config::explain`](crate::Config::explain)
//! and in the reasons of refusals, whichever source it stands in.

use std::fmt;

use micro_core::Secret;
use serde::de::{Deserializer, Visitor};

/// Our own reader knows this name; to others it is a newtype around text.
pub(crate) const SECRET_NAME: &str = "$micro::Secret";

/// Reads a secret: text, from any source.
///
/// # Errors
///
/// The deserializer's, if it is no text.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    deserializer.deserialize_newtype_struct(SECRET_NAME, SecretVisitor)
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text to be kept secret")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Secret, D::Error> {
        inner.deserialize_str(self)
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }
}

/// The same for an optional secret: `#[serde(default, with = "micro_config_core::secret::optional")]`.
pub mod optional {
    use super::{Deserializer, Secret, fmt};
    use serde::de::Visitor;

    /// Reads a secret that may be absent.
    ///
    /// # Errors
    ///
    /// The deserializer's, if it is there and no text.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        deserializer.deserialize_option(OptionVisitor)
    }

    struct OptionVisitor;

    impl<'de> Visitor<'de> for OptionVisitor {
        type Value = Option<Secret>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text to be kept secret, or nothing")
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
            super::deserialize(inner).map(Some)
        }
    }
}
