//! What can be chosen about multicast DNS.

use std::time::Duration;

use micro_core::url::{Options, Span};
use micro_registry_core::{Error, Result, Url};

/// The settings of an [`MdnsRegistry`](crate::MdnsRegistry).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MdnsConfig {
    /// The UDP port: 5353. On another one, only those who use it too are heard.
    pub port: u16,
    /// The interfaces to use, by name (`eth0`) or address; all of them if empty, loopback included.
    pub interfaces: Vec<String>,
    /// How long others believe in a node that falls silent, unless its registration says: 30 s.
    pub ttl: Duration,
    /// How long the first lookup of a service waits before it says that there is none: 1.3 s.
    ///
    /// Less is a gamble: whoever answered another's question may not repeat it for a second.
    pub lookup: Duration,
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self {
            port: mdns_sd::MDNS_PORT,
            interfaces: Vec::new(),
            ttl: Duration::from_secs(30),
            lookup: Duration::from_millis(1300),
        }
    }
}

impl MdnsConfig {
    /// Sets [`port`](Self::port).
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The interfaces of this machine that are listened on, with their addresses.
    pub(crate) fn listened(&self) -> String {
        let Ok(all) = if_addrs::get_if_addrs() else {
            return "unknown".to_owned();
        };
        let named = |interface: &if_addrs::Interface| {
            self.interfaces.is_empty()
                || self.interfaces.iter().any(|wanted| {
                    *wanted == interface.name || *wanted == interface.ip().to_string()
                })
        };
        let listened: Vec<String> = all
            .iter()
            .filter(|interface| named(interface))
            .map(|interface| format!("{} {}", interface.name, interface.ip()))
            .collect();
        if listened.is_empty() {
            return "none".to_owned();
        }
        listened.join(", ")
    }

    /// Adds to [`interfaces`](Self::interfaces).
    #[must_use]
    pub fn with_interface(mut self, interface: impl Into<String>) -> Self {
        self.interfaces.push(interface.into());
        self
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets [`lookup`](Self::lookup).
    #[must_use]
    pub fn with_lookup(mut self, lookup: Duration) -> Self {
        self.lookup = lookup;
        self
    }

    /// Reads `mdns:?interface=lo&port=5353&ttl=30s&lookup=1300ms`; `interface` may be repeated.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option or a value out of range.
    pub fn from_url(url: &Url) -> Result<Self> {
        if url.has_host() || !matches!(url.path(), "" | "/") {
            return Err(invalid(
                "multicast DNS has neither host nor path; write 'mdns' or 'mdns:?interface=lo'",
            ));
        }
        let mut options = Options::new(url);
        let mut config = Self::default();
        if let Some(port) = options.take("port")? {
            config.port = port;
        }
        for interface in options.take_all("interface") {
            config.interfaces.push(interface.expose().to_owned());
        }
        if let Some(Span(ttl)) = options.take("ttl")? {
            config.ttl = ttl;
        }
        if let Some(Span(lookup)) = options.take("lookup")? {
            config.lookup = lookup;
        }
        options.finish()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.port == 0 {
            return Err(invalid(
                "the port must be one that all agree on; leave it out for 5353",
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.ttl) {
            return Err(invalid("the ttl must be between 1s and 1h"));
        }
        if self.lookup > Duration::from_secs(60) {
            return Err(invalid("the lookup must be at most 60s"));
        }
        if self.interfaces.iter().any(String::is_empty) {
            return Err(invalid(
                "an interface needs a name or an address; leave the option out for all of them",
            ));
        }
        Ok(())
    }
}

fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("registry.open")
}
