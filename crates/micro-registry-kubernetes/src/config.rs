//! What the URL says.

use std::fmt;
use std::time::Duration;

use micro_core::Secret;
use micro_core::url::{Options, Span};
use micro_registry_core::{Result, Url};

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 7000;

/// How to reach kubernetes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KubernetesConfig {
    /// The servers, as `host:port`; the first one that answers is used.
    pub endpoints: Vec<String>,
    /// Who we are, if the servers ask.
    pub username: Option<String>,
    /// How we prove it.
    pub password: Option<Secret>,
    /// How long one request may take.
    pub timeout: Duration,
}

impl KubernetesConfig {
    /// Reads `kubernetes://user:password@host:port?endpoint=host:port&timeout=5s`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self {
            endpoints: options.endpoints(DEFAULT_PORT)?,
            username: options.username(),
            password: options.password(),
            ..Self::default()
        };
        if let Some(Span(timeout)) = options.take("timeout")? {
            config.timeout = timeout;
        }
        options.finish()?;
        Ok(config)
    }
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            username: None,
            password: None,
            timeout: Duration::from_secs(5),
        }
    }
}

// By hand, so that a field added later is shown only if somebody decides so.
impl fmt::Debug for KubernetesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesConfig")
            .field("endpoints", &self.endpoints)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<KubernetesConfig> {
        KubernetesConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_enough() {
        assert_eq!(config("kubernetes").unwrap(), KubernetesConfig::default());
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        let config = config("kubernetes://me:hunter2@a:1?endpoint=b:2&timeout=250ms").unwrap();
        assert_eq!(config.endpoints, ["a:1", "b:2"]);
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_misspelt_option_is_refused() {
        assert!(config("kubernetes://a?tiemout=1s").is_err());
    }
}
