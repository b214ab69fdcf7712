//! What can be chosen about this registry.

use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_nats::NatsConfig;
use micro_registry_core::{Error, Result, Url};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The settings of a [`NatsRegistry`](crate::NatsRegistry).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsRegistryConfig {
    /// How to reach NATS.
    pub nats: NatsConfig,
    /// What the subjects begin with: `micro.nats`, as in go-micro.
    pub subject: String,
    /// How long a lookup collects answers, at least: 100 ms, as in go-micro. From 10 ms to 10 s.
    pub lookup: Duration,
    /// How often a watched service is asked whether all of it is still there: 30 s, give or take a
    /// fifth. From 100 ms to 1 h.
    pub refresh: Duration,
    /// Whether a loopback address is one of this machine, so that the resolver calls it. Default: if
    /// all servers named are on loopback themselves. Say no if such a server belongs to a cluster of
    /// several machines, or is a leaf node of one.
    pub loopback: Option<bool>,
}

impl Default for NatsRegistryConfig {
    fn default() -> Self {
        Self {
            nats: NatsConfig::default(),
            subject: "micro.nats".to_owned(),
            lookup: Duration::from_millis(100),
            refresh: Duration::from_secs(30),
            loopback: None,
        }
    }
}

impl NatsRegistryConfig {
    /// Sets [`nats`](Self::nats).
    #[must_use]
    pub fn with_nats(mut self, nats: NatsConfig) -> Self {
        self.nats = nats;
        self
    }

    /// Sets [`subject`](Self::subject).
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Sets [`lookup`](Self::lookup).
    #[must_use]
    pub fn with_lookup(mut self, lookup: Duration) -> Self {
        self.lookup = lookup;
        self
    }

    /// Sets [`refresh`](Self::refresh).
    #[must_use]
    pub fn with_refresh(mut self, refresh: Duration) -> Self {
        self.refresh = refresh;
        self
    }

    /// Sets [`loopback`](Self::loopback).
    #[must_use]
    pub fn with_loopback(mut self, loopback: bool) -> Self {
        self.loopback = Some(loopback);
        self
    }

    /// Reads `nats://host:4222?subject=micro.nats&lookup=100ms&refresh=30s&loopback=false`, and what
    /// `micro-nats` understands.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option or a value out of range.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::default().with_nats(NatsConfig::take(url, &mut options)?);
        if let Some(subject) = options.take("subject")? {
            config.subject = subject;
        }
        if let Some(Span(lookup)) = options.take("lookup")? {
            config.lookup = lookup;
        }
        if let Some(Span(refresh)) = options.take("refresh")? {
            config.refresh = refresh;
        }
        config.loopback = options.take("loopback")?;
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let token = |token: &str| {
            !token.is_empty()
                && token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if self.subject.len() > 200 || !self.subject.split('.').all(token) {
            return Err(invalid(
                "a subject is made of letters, digits, '-' and '_', and of dots between them",
            ));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&self.lookup) {
            return Err(invalid("the lookup must be between 10ms and 10s"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.refresh) {
            return Err(invalid("the refresh must be between 100ms and 1h"));
        }
        Ok(())
    }

    /// Whether a loopback address is one of this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.loopback.unwrap_or_else(|| self.nats.is_loopback())
    }

    /// The subject for `what` in a namespace. The default one adds nothing, so that go-micro is met.
    pub(crate) fn subject_of(&self, what: &str, namespace: &str) -> Result<String> {
        // Whatever a namespace contains stays within one token: no dots, wildcards or spaces.
        const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
        if namespace.len() > 200 {
            return Err(invalid("a namespace has at most 200 bytes on NATS"));
        }
        let subject = &self.subject;
        Ok(if namespace.is_empty() {
            format!("{subject}.{what}")
        } else {
            format!("{subject}.{what}.{}", utf8_percent_encode(namespace, TOKEN))
        })
    }
}

fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("registry.open")
}

#[cfg(test)]
mod tests {
    use micro_registry_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<NatsRegistryConfig> {
        NatsRegistryConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_everything() {
        assert_eq!(config("nats").unwrap(), NatsRegistryConfig::default());
        let config = config("nats://h:1?subject=a.b-c&lookup=1s&refresh=5s&timeout=2s").unwrap();
        assert_eq!(config.nats.endpoints, ["h:1"]);
        assert_eq!(config.nats.timeout, Duration::from_secs(2));
        let expected = NatsRegistryConfig::default()
            .with_subject("a.b-c")
            .with_lookup(Duration::from_secs(1))
            .with_refresh(Duration::from_secs(5))
            .with_nats(config.nats.clone());
        assert_eq!(config, expected);
    }

    #[test]
    fn s51_loopback_is_here_only_if_every_server_is() {
        for (url, here) in [
            ("nats", true),
            ("nats://localhost", true),
            ("nats://[::1]", true),
            ("nats://127.0.0.1?endpoint=10.0.0.1", false),
            ("nats://nats.example", false),
            ("nats://127.0.0.1?loopback=false", false),
            ("nats://10.0.0.1?loopback=true", true),
        ] {
            assert_eq!(config(url).unwrap().is_here(), here, "{url}");
        }
    }

    #[test]
    fn what_is_misspelt_or_out_of_range_is_refused() {
        for url in [
            "nats://h?subjekt=a",
            "nats://h?subject=",
            "nats://h?subject=a..b",
            "nats://h?subject=a.*",
            "nats://h?subject=%3E",
            "nats://h?subject=a%20b",
            "nats://h?subject=$SYS",
            "nats://h?lookup=1ms",
            "nats://h?lookup=1m",
            "nats://h?refresh=1ms",
            "nats://h?refresh=2h",
            "nats://h?loopback=perhaps",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }

    #[test]
    fn a_namespace_is_one_token() {
        let config = NatsRegistryConfig::default();
        let subject = |namespace| config.subject_of("query", namespace).unwrap();
        assert_eq!(subject(""), "micro.nats.query");
        assert_eq!(subject("staging-2"), "micro.nats.query.staging-2");
        assert_eq!(subject("a.b"), "micro.nats.query.a%2Eb");
        assert_eq!(subject("> *"), "micro.nats.query.%3E%20%2A");
        assert!(config.subject_of("query", &"n".repeat(201)).is_err());
    }
}
