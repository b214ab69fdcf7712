//! What a URL says.

use micro_config_core::{Error, Result};
use micro_core::Url;
use micro_core::url::Options;

/// The options of an [`EnvSource`](crate::EnvSource).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvConfig {
    /// What the names of variables begin with, before a `_`; empty for all variables.
    pub prefix: String,
    /// What separates the levels of a key: `__` by default.
    pub separator: String,
}

impl EnvConfig {
    /// These options with a prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets what separates the levels of a key.
    #[must_use]
    pub fn with_separator(mut self, separator: impl Into<String>) -> Self {
        self.separator = separator.into();
        self
    }

    /// Reads `env:<prefix>?separator=<text>`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown or cannot be read.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::default().with_prefix(url.path());
        if let Some(separator) = options.take("separator")? {
            config.separator = separator;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let is_name = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !is_name(&self.prefix) {
            return Err(Error::invalid_argument(
                "the prefix of variables is made of letters, digits and '_'",
            )
            .with_context("prefix", self.prefix.escape_debug()));
        }
        if self.separator.is_empty() || !is_name(&self.separator) {
            return Err(Error::invalid_argument(
                "the separator is made of letters, digits and '_', such as '__'",
            )
            .with_context("separator", self.separator.escape_debug()));
        }
        Ok(())
    }
}

impl Default for EnvConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            separator: "__".to_owned(),
        }
    }
}
