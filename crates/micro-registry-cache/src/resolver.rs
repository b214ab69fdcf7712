//! The services that are resolved.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use micro_core::{Live, LiveWriter};
use micro_registry_core::{Error, Registry, Result, check_name};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::resolved::Resolved;
use crate::{ResolverOptions, worker};

type Services = HashMap<String, Arc<Resolved>>;

/// Knows the nodes of services, by asking a registry once and listening from then on.
///
/// Clones share everything. When the last one is dropped its tasks end, and what was resolved
/// stays as it was.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

pub(crate) struct Inner {
    registry: Arc<dyn Registry>,
    opts: Arc<ResolverOptions>,
    /// Read without a lock, replaced whole by those who hold `writer`.
    services: Live<Services>,
    writer: Mutex<LiveWriter<Services>>,
    born: Instant,
    /// Dropped with the resolver: the tasks see it and end.
    stop: watch::Sender<()>,
}

impl Resolver {
    /// A resolver over `registry`.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, opts: ResolverOptions) -> Self {
        let (writer, services) = Live::channel(Services::new());
        Self(Arc::new(Inner {
            registry,
            born: opts.clock.now(),
            opts: Arc::new(opts),
            services,
            writer: Mutex::new(writer),
            stop: watch::Sender::new(()),
        }))
    }

    /// The registry that is asked.
    #[must_use]
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.0.registry
    }

    /// The service `name`; the first to ask for it starts its task.
    ///
    /// Nothing is waited for: see [`Resolved::known`]. Keep what is returned: as long as somebody
    /// holds it, it is kept up to date.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the name is none; `FailedPrecondition` outside of a tokio runtime;
    /// `ResourceExhausted` if [`ResolverOptions::max_services`] are in use.
    pub fn service(&self, name: &str) -> Result<Arc<Resolved>> {
        let now = self.0.opts.clock.now();
        if let Some(known) = self.0.services.get().get(name)
            && known.is_running()
        {
            known.used(now.saturating_duration_since(self.0.born));
            return Ok(Arc::clone(known));
        }
        self.start(name, now)
    }

    /// The services that are resolved now.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Resolved>> {
        self.0.services.get().values().map(Arc::clone).collect()
    }

    fn start(&self, name: &str, now: Instant) -> Result<Arc<Resolved>> {
        const OPERATION: &str = "resolver.service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let runtime = Handle::try_current().map_err(|err| {
            Error::failed_precondition(
                "call this within a tokio runtime: the resolver needs a task",
            )
            .with_operation(OPERATION)
            .with_source(err)
        })?;
        let writer = self.0.lock();
        let mut services = Services::clone(&self.0.services.get());
        // Another may have been first, between the look without the lock and this one.
        if let Some(known) = services.get(name)
            && known.is_running()
        {
            return Ok(Arc::clone(known));
        }
        services.remove(name);
        if services.len() >= self.0.opts.max_services {
            let unused = services
                .iter()
                .filter(|(_, known)| self.0.is_unused(known))
                .min_by_key(|(_, known)| known.last_used())
                .map(|(name, _)| name.clone());
            match unused {
                Some(unused) => services.remove(&unused),
                None => {
                    return Err(Error::resource_exhausted(
                        "too many services are in use at once; raise max_services or hold fewer",
                    )
                    .with_operation(OPERATION)
                    .with_context("max_services", self.0.opts.max_services)
                    .with_context("service", name));
                }
            };
        }
        let resolved = worker::start(
            name,
            Arc::clone(&self.0.registry),
            Arc::clone(&self.0.opts),
            Keeper(Arc::downgrade(&self.0)),
            self.0.stop.subscribe(),
            &runtime,
        );
        let resolved = Arc::new(resolved);
        resolved.used(now.saturating_duration_since(self.0.born));
        services.insert(name.to_owned(), Arc::clone(&resolved));
        writer.set(services);
        Ok(resolved)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, LiveWriter<Services>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the map alone holds it. The map itself may be held for a moment, in several
    /// states: then this says no, and the next look decides.
    fn is_unused(&self, known: &Arc<Resolved>) -> bool {
        // One in the published map, one in the caller's copy of it.
        Arc::strong_count(known) <= 2
    }
}

/// A task's way to its resolver, which it does not keep alive.
pub(crate) struct Keeper(Weak<Inner>);

impl Keeper {
    /// Drops the service if nobody holds it and nobody asked for it lately; its task ends then.
    pub(crate) fn forget_if_idle(&self, name: &str) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        let age = inner.opts.clock.now().saturating_duration_since(inner.born);
        let writer = inner.lock();
        let mut services = Services::clone(&inner.services.get());
        let idle = services.get(name).is_some_and(|known| {
            inner.is_unused(known) && age.saturating_sub(known.last_used()) >= inner.opts.idle
        });
        if idle {
            // Whoever just took it out of the old map keeps it, and thereby its task.
            services.remove(name);
            writer.set(services);
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("registry", &self.0.registry)
            .field("services", &self.0.services.get().len())
            .finish_non_exhaustive()
    }
}
