//! Options of the registry's methods.

use std::time::Duration;

/// Options for [`Registry::register`](crate::Registry::register).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// Forget the nodes unless they are registered again within this time.
    ///
    /// A backend that always forgets (mDNS) takes its own time without it.
    pub ttl: Option<Duration>,
}

impl RegisterOptions {
    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// Options for [`Registry::deregister`](crate::Registry::deregister).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeregisterOptions {}

/// Options for [`Registry::get_service`](crate::Registry::get_service).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GetOptions {}

/// Options for [`Registry::list_services`](crate::Registry::list_services).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListOptions {}

/// Options for [`Registry::watch`](crate::Registry::watch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchOptions {
    /// Only this service; every one without it.
    pub service: Option<String>,
}

impl WatchOptions {
    /// Sets [`service`](Self::service).
    #[must_use]
    pub fn with_service(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }
}
