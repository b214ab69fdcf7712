//! The trait of this crate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;

use crate::{
    Capabilities, DeregisterOptions, Event, GetOptions, ListOptions, RegisterOptions, Result,
    Service, WatchOptions, async_trait,
};

/// Changes seen by a watch; dropping the stream ends the watch.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send + 'static>>;

/// A directory of running services.
///
/// A handle is cheap to share behind [`Arc`]; clones of a backend see the same directory.
/// Futures may be dropped at any await point: a dropped call either took effect or did not, never
/// half, and it takes no effect behind a later call on the same handle. (Work that goes on after
/// the drop, as in `spawn_blocking`, must be put in order with what follows.)
/// Put `#[async_trait]` on the impl.
/// Names are checked by [`check_name`](crate::check_name), and stand within the namespace of
/// the [`Env`](crate::Env) that the backend was opened with: other namespaces are not seen.
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme: `"mdns"`, `"etcd"`.
    fn backend(&self) -> &'static str;

    /// What this backend can do beyond the required behaviour.
    fn capabilities(&self) -> Capabilities;

    /// Adds the nodes of `service`, replacing nodes of that service and version with the same id.
    ///
    /// Registering again refreshes the TTL, or ends it if there is none any more, and announces what
    /// changed: an update names the nodes that were registered. Metadata and endpoints of the
    /// version are those of its last registration, as far as the backend can order registrations of
    /// several programs.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the name is none, or there is no node, or a node lacks id or address;
    /// `Unimplemented` if `opts.ttl` is set and the backend lacks [`Capabilities::ttl`];
    /// `Unavailable` if the registry cannot be reached. `PermissionDenied`, `Unauthenticated` and
    /// these but `Unavailable` end a service's start: trying again would not help.
    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()>;

    /// Removes the nodes of that service and version by their ids; nothing else of `service`
    /// matters. Removing an absent node succeeds.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the name is none or a node lacks its id; `Unavailable` if the registry
    /// cannot be reached.
    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> Result<()>;

    /// Returns one entry per registered version of `name`, each with its nodes.
    ///
    /// # Errors
    ///
    /// `NotFound` if no node of that name is registered; `InvalidArgument` if the name is none;
    /// `Unavailable` if the registry cannot be reached.
    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Service>>;

    /// Returns every service, in no particular order; nodes and endpoints may be left out.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the registry cannot be reached.
    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Service>>;

    /// Reports changes made after this call returns.
    ///
    /// The stream ends, or yields an error and ends, when changes may have been missed: list
    /// again, then watch again. It never skips one silently.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the registry cannot be reached.
    async fn watch(&self, opts: WatchOptions) -> Result<EventStream>;
}

/// Short forms of [`Registry`] calls, for callers.
///
/// Implemented for every registry; it cannot be implemented by hand.
pub trait RegistryExt: Registry {
    /// [`Registry::get_service`] with default options.
    fn get(&self, name: &str) -> impl Future<Output = Result<Vec<Service>>> + Send {
        async { self.get_service(name, GetOptions::default()).await }
    }

    /// [`Registry::list_services`] with default options.
    fn list(&self) -> impl Future<Output = Result<Vec<Service>>> + Send {
        async { self.list_services(ListOptions::default()).await }
    }
}

impl<R: Registry + ?Sized> RegistryExt for R {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<R: Registry + ?Sized> Registry for Arc<R> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        (**self).register(service, opts).await
    }

    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> Result<()> {
        (**self).deregister(service, opts).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Service>> {
        (**self).get_service(name, opts).await
    }

    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Service>> {
        (**self).list_services(opts).await
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        (**self).watch(opts).await
    }
}

// `Registry` must stay usable as a trait object.
const _: fn(&dyn Registry) = |_| ();
