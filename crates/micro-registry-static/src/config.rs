//! What the URL says.

use std::path::PathBuf;
use std::time::Duration;

use micro_core::url::{Options, Span, file_path};
use micro_registry_core::{Error, Node, Result, Service, Url, check_registration};

use crate::address;

/// The version of what is listed without one, as go-micro calls it.
pub(crate) const VERSION: &str = "latest";

/// Where the list is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticConfig {
    /// What is listed in the URL itself, or in code.
    pub services: Vec<Service>,
    /// The file to read instead.
    pub file: Option<PathBuf>,
    /// How long the file must have been left alone before it is read: 100 ms. At most 10 s.
    pub debounce: Duration,
    /// How often the file is looked at even if the system says nothing about it: 5 s. From 10 ms
    /// to 1 h.
    pub poll: Duration,
}

impl Default for StaticConfig {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            file: None,
            debounce: Duration::from_millis(100),
            poll: Duration::from_secs(5),
        }
    }
}

impl StaticConfig {
    /// Adds to [`services`](Self::services).
    #[must_use]
    pub fn with_service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Sets [`file`](Self::file).
    #[must_use]
    pub fn with_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Sets [`debounce`](Self::debounce).
    #[must_use]
    pub fn with_debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }

    /// Sets [`poll`](Self::poll).
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Reads `static:?greeter=10.0.0.1:8080&greeter=10.0.0.2:8080`, or
    /// `static:./nodes.json?poll=5s&debounce=100ms`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name or an address that is none, an unknown option, or a value out
    /// of range.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self::default();
        if matches!(url.path(), "" | "/") {
            if url.has_host() {
                return Err(invalid(
                    "list nodes as 'static:?name=host:port', or name a file as 'static:./nodes.json'",
                ));
            }
            config.services = list(url)?;
            return Ok(config);
        }
        config.file = Some(file_path(url)?);
        let mut options = Options::new(url);
        if let Some(Span(debounce)) = options.take("debounce")? {
            config.debounce = debounce;
        }
        if let Some(Span(poll)) = options.take("poll")? {
            config.poll = poll;
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.file.is_some() && !self.services.is_empty() {
            return Err(invalid("the list is in the URL or in a file, not in both"));
        }
        if self.debounce > Duration::from_secs(10) {
            return Err(invalid("the debounce must be at most 10s"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.poll) {
            return Err(invalid("the poll must be between 10ms and 1h"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for service in &self.services {
            check_service(service)?;
            for node in &service.nodes {
                if !seen.insert((&service.name, &service.version, &node.id)) {
                    return Err(invalid("a node is listed twice")
                        .with_context("service", &service.name)
                        .with_context("node", node.id.escape_debug()));
                }
            }
        }
        Ok(())
    }
}

/// Checks what is registered or listed, addresses included.
pub(crate) fn check_service(service: &Service) -> Result<()> {
    check_registration(service)?;
    for node in &service.nodes {
        address::check(&node.address).map_err(|why| {
            Error::invalid_argument(why)
                .with_context("service", &service.name)
                .with_context("address", node.address.escape_debug())
        })?;
    }
    Ok(())
}

/// Every name in the query is a service, and every value its addresses.
fn list(url: &Url) -> Result<Vec<Service>> {
    let mut all: Vec<Service> = Vec::new();
    for (name, addresses) in url.query_pairs() {
        for address in addresses.split(',') {
            let address = address.trim();
            // The same address is the same node, in every program that has the list.
            let node = Node::new(format!("{name}-{address}"), address);
            match all.iter_mut().find(|service| service.name == name) {
                Some(service) => service.nodes.push(node),
                None => all.push(Service::new(&*name, VERSION).with_node(node)),
            }
        }
    }
    let config = StaticConfig {
        services: all,
        ..StaticConfig::default()
    };
    config
        .check()
        .map_err(|err| err.with_operation("registry.open"))?;
    Ok(config.services)
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("registry.open")
}

#[cfg(test)]
mod tests {
    use micro_registry_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<StaticConfig> {
        StaticConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn a_bare_scheme_is_an_empty_list() {
        assert_eq!(config("static").unwrap(), StaticConfig::default());
    }

    #[test]
    fn a_list_stands_in_the_url() {
        let url = "static:?greeter=10.0.0.1:80&greeter=[::1]:81,localhost:82&billing=10.0.0.3:80";
        let services = config(url).unwrap().services;
        let names: Vec<_> = services.iter().map(|service| &*service.name).collect();
        assert_eq!(names, ["greeter", "billing"]);
        let addresses = services[0].nodes.iter().map(|node| &*node.address);
        let addresses: Vec<_> = addresses.collect();
        assert_eq!(addresses, ["10.0.0.1:80", "[::1]:81", "localhost:82"]);
        assert_eq!(services[0].nodes[0].id, "greeter-10.0.0.1:80");
        assert_eq!(services[0].version, "latest");
    }

    #[test]
    fn a_file_has_a_path_and_options() {
        let cwd = std::env::current_dir().unwrap();
        let read = config("static:./nodes.json?poll=1s&debounce=50ms").unwrap();
        let expected = StaticConfig::default()
            .with_file(cwd.join("nodes.json"))
            .with_poll(Duration::from_secs(1))
            .with_debounce(Duration::from_millis(50));
        assert_eq!(read, expected);
        for url in ["static:/etc/nodes.json", "static:///etc/nodes.json"] {
            let file = config(url).unwrap().file;
            assert_eq!(file, Some("/etc/nodes.json".into()), "{url}");
        }
    }

    #[test]
    fn s51_what_is_no_list_is_refused() {
        for url in [
            "static://10.0.0.1:80",
            "static://host/nodes.json",
            "static:?greeter",
            "static:?greeter=",
            "static:?greeter=10.0.0.1",
            "static:?greeter=10.0.0.1:0",
            "static:?greeter=0.0.0.0:80",
            "static:?greeter=a%00b:80",
            "static:?greeter=10.0.0.1:80,",
            "static:?greeter=10.0.0.1:80,10.0.0.1:80",
            "static:?a/b=10.0.0.1:80",
            "static:?=10.0.0.1:80",
            "static:./nodes.json?greeter=10.0.0.1:80",
            "static:./nodes.json?poll=1ms",
            "static:./nodes.json?debounce=1m",
        ] {
            let err = config(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err:?}");
        }
    }
}
