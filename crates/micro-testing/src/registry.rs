//! The registry as one host sees it: that of memory, over a network with faults.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Error, EventStream, GetOptions, ListOptions, RegisterOptions,
    Registry, Result, Service, WatchOptions, async_trait,
};
use micro_registry_memory::MemoryRegistry;

use crate::clock::PausedClock;
use crate::net::{Line, Net, REGISTRY};

/// The one directory, which can lose what it knows.
#[derive(Debug)]
pub(crate) struct Directory {
    clock: Arc<PausedClock>,
    now: Mutex<MemoryRegistry>,
}

impl Directory {
    pub(crate) fn new(clock: &Arc<PausedClock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            now: Mutex::new(MemoryRegistry::with_clock(Arc::clone(clock) as _)),
        })
    }

    pub(crate) fn now(&self) -> MemoryRegistry {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// Forgets everything, as a registry that kept nothing on disk and was restarted.
    pub(crate) fn lose(&self) {
        let empty = MemoryRegistry::with_clock(Arc::clone(&self.clock) as _);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = empty;
    }
}

/// What a host speaks to.
pub(crate) struct FaultRegistry {
    directory: Arc<Directory>,
    line: Line,
    /// The program that held it was killed: what it still tries comes to nothing.
    killed: AtomicBool,
}

impl FaultRegistry {
    pub(crate) fn new(directory: &Arc<Directory>, net: &Arc<Net>, host: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            directory: Arc::clone(directory),
            line: Line {
                net: Arc::clone(net),
                from: Arc::clone(host),
                to: REGISTRY.into(),
            },
            killed: AtomicBool::new(false),
        })
    }

    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// Asks the registry something over the network.
    async fn ask<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        ask: impl FnOnce(MemoryRegistry) -> F + Send,
        told: impl FnOnce(&T) -> String + Send,
    ) -> Result<T> {
        let killed = || match self.killed.load(Ordering::Relaxed) {
            true => Err(Error::unavailable("this program was killed").with_retryable(false)),
            false => Ok(()),
        };
        killed()?;
        let breaks = self.line.breaks();
        let answered = async {
            self.line.there().await;
            killed()?;
            if self.line.refuses() {
                return Err(refused());
            }
            self.line.arrive()?;
            let outcome = ask(self.directory.now()).await;
            self.line.back().await;
            outcome
        };
        let outcome = tokio::select! {
            biased;
            () = self.line.broken(breaks) => Err(refused()),
            outcome = answered => outcome,
        };
        self.line.log(match &outcome {
            Ok(answer) => format!("{what} {}", told(answer)),
            Err(err) => format!("{what} {}: {}", err.kind().name(), err.message()),
        });
        outcome
    }
}

fn refused() -> Error {
    Error::unavailable("the registry cannot be reached").with_operation("testing.registry")
}

fn nodes(services: &[Service]) -> String {
    let ids: Vec<&str> = services
        .iter()
        .flat_map(|service| &service.nodes)
        .map(|node| &*node.id)
        .collect();
    format!("[{}]", ids.join(" "))
}

impl fmt::Debug for FaultRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultRegistry")
            .field("host", &self.line.from)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for FaultRegistry {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        // The hosts are meant to be several machines, though all their addresses are our own.
        Capabilities::default()
            .with_ttl(true)
            .with_shared(true)
            .with_local(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        let what = format!("register {}", nodes(std::slice::from_ref(service)));
        let ask = |registry: MemoryRegistry| async move { registry.register(service, opts).await };
        self.ask(&what, ask, |()| "ok".to_owned()).await
    }

    async fn deregister(&self, service: &Service, opts: DeregisterOptions) -> Result<()> {
        let what = format!("deregister {}", nodes(std::slice::from_ref(service)));
        let ask =
            |registry: MemoryRegistry| async move { registry.deregister(service, opts).await };
        self.ask(&what, ask, |()| "ok".to_owned()).await
    }

    async fn get_service(&self, name: &str, opts: GetOptions) -> Result<Vec<Service>> {
        let what = format!("get {name}");
        let ask = |registry: MemoryRegistry| async move { registry.get_service(name, opts).await };
        self.ask(&what, ask, |services| nodes(services)).await
    }

    async fn list_services(&self, opts: ListOptions) -> Result<Vec<Service>> {
        let ask = |registry: MemoryRegistry| async move { registry.list_services(opts).await };
        self.ask("list", ask, |services| nodes(services)).await
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        let what = format!("watch {}", opts.service.as_deref().unwrap_or("all"));
        let breaks = self.line.breaks();
        let ask = |registry: MemoryRegistry| async move { registry.watch(opts).await };
        let events = self.ask(&what, ask, |_| "ok".to_owned()).await?;
        let state = Some((events, self.line.clone(), breaks));
        Ok(Box::pin(futures_util::stream::unfold(
            state,
            async |state| {
                let (mut events, line, breaks) = state?;
                let next = tokio::select! {
                    biased;
                    () = line.broken(breaks) => Err(refused()),
                    next = async {
                        let next = events.next().await;
                        line.back().await;
                        next
                    } => Ok(next),
                };
                match next {
                    Ok(Some(event)) => {
                        if let Ok(event) = &event {
                            let kind = format!("{:?}", event.kind).to_lowercase();
                            let ids = nodes(std::slice::from_ref(&event.service));
                            line.log(format!("hears {kind} {ids}"));
                        }
                        Some((event, Some((events, line, breaks))))
                    }
                    Ok(None) => None,
                    Err(err) => {
                        line.log("the watch broke");
                        Some((Err(err), None))
                    }
                }
            },
        )))
    }
}
