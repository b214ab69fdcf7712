//! The registry: a list that others write, and what this program registers over it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use micro_core::Clock;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, EventStream, GetOptions, ListOptions,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_deregistration,
    check_name,
};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::config::check_service;
use crate::directory::Directory;
use crate::file::Source;
use crate::{SCHEME, StaticConfig};

/// How often a watch looks for what expired.
const LOOK: Duration = Duration::from_millis(200);

/// A [`Registry`] from a list. Clones share everything, what is registered included; another
/// handle on the same list does not see that.
#[derive(Clone)]
pub struct StaticRegistry(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Looks after the file; it ends with the last handle.
    task: Option<AbortHandle>,
}

pub(crate) struct Shared {
    config: StaticConfig,
    clock: Arc<dyn Clock>,
    directory: Mutex<Directory>,
}

impl StaticRegistry {
    /// Takes the list, and if it is in a file, looks after that from now on.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings out of range and for a list that cannot be used, saying file
    /// and line; `NotFound` and `PermissionDenied` for a file that cannot be read;
    /// `FailedPrecondition` outside of a tokio runtime.
    pub async fn open(config: StaticConfig, env: &Env) -> Result<Self> {
        const OPERATION: &str = "registry.open";
        config
            .check()
            .map_err(|err| err.with_operation(OPERATION))?;
        let shared = Arc::new(Shared {
            clock: Arc::clone(env.clock()),
            directory: Mutex::default(),
            config,
        });
        shared.now().list(&shared.config.services);
        let mut task = None;
        if let Some(file) = &shared.config.file {
            let runtime = tokio::runtime::Handle::try_current().map_err(|err| {
                Error::failed_precondition("open this within a tokio runtime: it needs a task")
                    .with_operation(OPERATION)
                    .with_source(err)
            })?;
            let mut source = Source::new(file.clone(), &shared.config);
            let services = source
                .first()
                .await
                .map_err(|err| err.with_operation(OPERATION))?;
            shared.now().list(&services);
            let listener = Arc::clone(&shared);
            let keep = async move {
                loop {
                    let services = source.next().await;
                    listener.now().list(&services);
                }
            };
            task = Some(runtime.spawn(keep).abort_handle());
        }
        Ok(Self(Arc::new(Inner { shared, task })))
    }

    /// How it was opened.
    #[must_use]
    pub fn config(&self) -> &StaticConfig {
        &self.0.shared.config
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    /// The directory as of now: what expired is gone, and announced.
    fn now(&self) -> MutexGuard<'_, Directory> {
        // Nothing panics while it holds the lock, so a poisoned one holds whole data.
        let directory = self.directory.lock();
        let mut directory = directory.unwrap_or_else(PoisonError::into_inner);
        directory.expire(self.clock.now());
        directory
    }
}

/// Says where the list is: a client puts it into the error for a service that it cannot find.
impl fmt::Debug for StaticRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StaticRegistry");
        match &self.0.shared.config.file {
            Some(file) => shown.field("file", file),
            None => shown.field("services", &self.0.shared.config.services.len()),
        };
        shown.finish()
    }
}

#[async_trait]
impl Registry for StaticRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        // Not shared: others who have the list do not see what is registered here.
        Capabilities::default().with_ttl(true).with_local(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        check_service(service).map_err(|err| err.with_operation("registry.register"))?;
        let shared = &self.0.shared;
        // A TTL beyond what the clock can count never passes.
        let expires = opts.ttl.and_then(|ttl| shared.clock.now().checked_add(ttl));
        shared.now().register(service, expires);
        Ok(())
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        check_deregistration(service).map_err(|err| err.with_operation(OPERATION))?;
        let listed = self.0.shared.now().deregister(service);
        match listed {
            None => Ok(()),
            Some(id) => Err(Error::failed_precondition(
                "this node was not registered here but is listed; take it out of the list",
            )
            .with_operation(OPERATION)
            .with_context("node", id)),
        }
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let found = self.0.shared.now().get(Some(name));
        if found.is_empty() {
            return Err(Error::not_found("the service is not listed")
                .with_operation(OPERATION)
                .with_context("service", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        Ok(self.0.shared.now().get(None))
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        const OPERATION: &str = "registry.watch";
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        }
        let receiver = self.0.shared.now().watch(opts.service);
        // The watch keeps the registry, so that the file is looked after.
        let start = Some((self.clone(), receiver));
        Ok(Box::pin(stream::unfold(start, async |state| {
            let (registry, mut events) = state?;
            loop {
                match timeout(LOOK, events.recv()).await {
                    Ok(Some(event)) => return Some((Ok(event), Some((registry, events)))),
                    Ok(None) => {
                        let err = Error::unavailable(
                            "the watch fell behind; list again, then watch again",
                        );
                        return Some((Err(err.with_operation(OPERATION)), None));
                    }
                    // Whoever looks notices what expired.
                    Err(_) => drop(registry.0.shared.now()),
                }
            }
        })))
    }
}
