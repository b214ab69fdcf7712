//! The registry: what is registered here answers for itself.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use micro_core::{Clock, Random};
use micro_nats::Connection;
use micro_nats::async_nats::Client;
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, ErrorKind, Event, EventStream, GetOptions,
    ListOptions, RegisterOptions, Registry, Result, Service, WatchOptions, async_trait,
    check_deregistration, check_name, check_registration,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::directory::{Directory, entries, group};
use crate::wire::{self, Query};
use crate::{NatsRegistryConfig, SCHEME, tasks};

/// So many lookups are under way at most; further ones wait.
const LOOKUPS: usize = 64;
/// So many announcements wait for the connection at most.
const MOST_ORDERS: usize = 4096;

/// A [`Registry`] over NATS. Clones share everything; when the last one is dropped, all that was
/// registered here is taken back.
#[derive(Clone)]
pub struct NatsRegistry(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
}

pub(crate) struct Subjects {
    pub(crate) query: String,
    pub(crate) watch: String,
}

pub(crate) struct Shared {
    pub(crate) connection: Connection,
    pub(crate) config: NatsRegistryConfig,
    pub(crate) subjects: Subjects,
    namespace: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    state: Mutex<State>,
    /// There is something for the keeper to do.
    pub(crate) wake: Notify,
    /// Both subjects are listened to.
    pub(crate) listening: watch::Sender<bool>,
    /// The registry is dropped.
    pub(crate) closing: AtomicBool,
    lookups: Semaphore,
    warned: AtomicBool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) directory: Directory,
    /// What is to be announced, in order.
    pub(crate) orders: VecDeque<Order>,
}

/// Something to announce.
pub(crate) struct Order {
    pub(crate) payloads: Vec<Bytes>,
    /// Whether nodes leave: this is said even if it is late.
    pub(crate) leaves: bool,
    pub(crate) done: Option<oneshot::Sender<Result<()>>>,
}

impl NatsRegistry {
    /// Begins to speak on the subjects of the namespace, with the clock of `env`. The server need
    /// not be there yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings out of range; `FailedPrecondition` outside of a tokio runtime.
    pub fn open(config: NatsRegistryConfig, env: &Env) -> Result<Self> {
        const OPERATION: &str = "registry.open";
        config.check()?;
        let runtime = Handle::try_current().map_err(|err| {
            Error::failed_precondition("open this within a tokio runtime: it needs tasks")
                .with_operation(OPERATION)
                .with_source(err)
        })?;
        // Without echo: what we say ourselves we know before others do.
        let connection = Connection::open(config.nats.clone(), env.random(), false)?;
        let shared = Arc::new(Shared {
            connection,
            subjects: Subjects {
                query: config.subject_of("query", env.namespace())?,
                watch: config.subject_of("watch", env.namespace())?,
            },
            config,
            namespace: env.namespace().to_owned(),
            clock: Arc::clone(env.clock()),
            random: Arc::clone(env.random()),
            state: Mutex::default(),
            wake: Notify::new(),
            listening: watch::Sender::new(false),
            closing: AtomicBool::new(false),
            lookups: Semaphore::new(LOOKUPS),
            warned: AtomicBool::new(false),
        });
        // It ends by itself once this registry is dropped and has said so.
        runtime.spawn(tasks::run(Arc::clone(&shared)));
        Ok(Self(Arc::new(Inner { shared })))
    }

    /// How it was opened.
    #[must_use]
    pub fn config(&self) -> &NatsRegistryConfig {
        &self.0.shared.config
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().directory.end_watches();
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

/// Says where it asks: a client puts it into the error for a service that it cannot find.
impl fmt::Debug for NatsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsRegistry")
            .field("servers", &self.0.shared.config.nats.endpoints)
            .field("subject", &self.0.shared.subjects.query)
            .field("namespace", &self.0.shared.namespace)
            .finish()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.nats.timeout
    }

    /// Waits until the connection is up and both subjects are listened to.
    async fn ready(&self, deadline: Instant) -> Result<Client> {
        let client = self.connection.client(deadline).await?;
        let mut listening = self.listening.subscribe();
        let ready = timeout_at(deadline, listening.wait_for(|listening| *listening)).await;
        match ready {
            Ok(Ok(_)) => Ok(client),
            _ => Err(Error::unavailable(
                "NATS does not let us listen yet; see the log, and the permissions of our user",
            )
            .with_context("subject", &self.subjects.query)),
        }
    }

    /// Whoever fills the subjects with nonsense must not fill our log.
    pub(crate) fn warn_once(&self, message: &'static str) {
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!("{message}");
        } else {
            tracing::warn!("{message}");
        }
    }

    /// Takes back what expired, and lets it be announced.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        let expired = state.directory.expire(self.clock.now());
        if expired.is_empty() {
            return;
        }
        let nodes = expired.into_iter().map(|(key, entry)| (key, entry, 0));
        for service in group(nodes.collect()) {
            state.order("delete", service, None);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until an announcement was made.
    async fn announced(
        &self,
        done: oneshot::Receiver<Result<()>>,
        deadline: Instant,
    ) -> Result<()> {
        self.wake.notify_one();
        match timeout_at(deadline, done).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Error::unavailable("the registry was closed")),
            Err(_) => Err(Error::unavailable(
                "NATS does not answer in time; the call may take effect yet",
            )),
        }
    }

    /// What the others and we know, one entry per version.
    async fn look(&self, query: &Query) -> Result<Vec<Service>> {
        let deadline = self.deadline();
        let client = self.ready(deadline).await?;
        let slow = |_| Error::unavailable("too many lookups are under way; try again");
        let permit = timeout_at(deadline, self.lookups.acquire()).await;
        let _permit = permit.map_err(slow)?;
        // It bounds itself, but for a connection that takes no more.
        let found = timeout_at(
            deadline.max(Instant::now() + self.config.lookup * 11),
            async { self.ask(&client, query).await },
        );
        let found = found
            .await
            .map_err(|_| Error::unavailable("NATS does not answer in time"))??;
        self.sweep();
        let name = match query {
            Query::Get(name) => Some(&**name),
            Query::List => None,
        };
        let mut nodes = found.nodes;
        let own = self.lock().directory.own(name);
        for (key, ..) in &own {
            nodes.remove(key);
        }
        let others = nodes.into_iter().map(|(key, entry)| (key, entry, 0));
        Ok(group(others.chain(own).collect()))
    }

    /// Learns what there is of a service, or of all, so that only changes are reported later.
    async fn learn(&self, client: &Client, only: &Option<String>) -> Result<()> {
        let query = match only {
            Some(name) => Query::Get(name.clone()),
            None => Query::List,
        };
        let mark = self.lock().directory.mark();
        let found = self.ask(client, &query).await?;
        let mut state = self.lock();
        for (key, entry) in found.nodes {
            state.directory.see(&key, entry, Some(mark));
        }
        Ok(())
    }
}

impl State {
    /// Queues an announcement.
    pub(crate) fn order(
        &mut self,
        action: &str,
        service: Service,
        done: Option<oneshot::Sender<Result<()>>>,
    ) {
        let parts = wire::parts(service).into_iter();
        let payloads = parts.filter_map(|part| wire::write(action, Some(part)).ok());
        self.orders.push_back(Order {
            payloads: payloads.collect(),
            leaves: action == "delete",
            done,
        });
    }

    fn check_room(&self) -> Result<()> {
        if self.orders.len() < MOST_ORDERS {
            return Ok(());
        }
        Err(Error::resource_exhausted(
            "too many registrations wait to be announced",
        ))
    }
}

#[async_trait]
impl Registry for NatsRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_ttl(true)
            .with_shared(true)
            .with_loopback(self.0.shared.config.is_here())
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.register";
        let shared = &self.0.shared;
        let register = async {
            check_registration(service)?;
            wire::check_size(service)?;
            let deadline = shared.deadline();
            shared.ready(deadline).await?;
            // A TTL beyond what the clock can count never passes.
            let expires = opts.ttl.and_then(|ttl| shared.clock.now().checked_add(ttl));
            shared.sweep();
            let (sender, done) = oneshot::channel();
            {
                let mut state = shared.lock();
                state.check_room()?;
                let mut action = "create";
                for (key, entry) in entries(service) {
                    if let Some(known) = state.directory.own_entry(&key)
                        && *known != entry
                    {
                        action = "update";
                    }
                    state.directory.put_own(&key, entry, expires);
                }
                state.order(action, service.clone(), Some(sender));
            }
            let announced = shared.announced(done, deadline).await;
            if announced.as_ref().is_err_and(|err| {
                matches!(
                    err.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ResourceExhausted
                )
            }) {
                // Nobody will be told, so it is not registered either.
                let mut state = shared.lock();
                for (key, _) in entries(service) {
                    state.directory.remove_own(&key);
                }
            }
            announced
        };
        register
            .await
            .map_err(|err: Error| err.with_operation(OPERATION))
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        let shared = &self.0.shared;
        let deregister = async {
            check_deregistration(service)?;
            let deadline = shared.deadline();
            let (sender, done) = oneshot::channel();
            {
                let mut state = shared.lock();
                let mut removed = Vec::new();
                for (key, _) in entries(service) {
                    if let Some(entry) = state.directory.remove_own(&key) {
                        removed.push((key, entry, 0));
                    }
                }
                // Each speaks for itself: what others registered is theirs to take back.
                let Some(service) = group(removed).pop() else {
                    return Ok(());
                };
                state.order("delete", service, Some(sender));
            }
            shared.announced(done, deadline).await
        };
        deregister
            .await
            .map_err(|err: Error| err.with_operation(OPERATION))
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let query = Query::Get(name.to_owned());
        let found = self.0.shared.look(&query).await;
        let found = found.map_err(|err| err.with_operation(OPERATION))?;
        if found.is_empty() {
            return Err(Error::not_found("no node of this service answers on NATS")
                .with_operation(OPERATION)
                .with_context("service", name));
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let found = self.0.shared.look(&Query::List).await;
        found.map_err(|err| err.with_operation("registry.list_services"))
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        const OPERATION: &str = "registry.watch";
        let shared = &self.0.shared;
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        }
        let attention = Attention::new(shared, opts.service);
        let learned = async {
            let client = shared.ready(shared.deadline()).await?;
            let epoch = shared.connection.status().borrow().epoch;
            shared.learn(&client, &attention.only).await?;
            Ok(epoch)
        };
        let epoch = learned
            .await
            .map_err(|err: Error| err.with_operation(OPERATION))?;
        let receiver = shared.lock().directory.watch(attention.only.clone());
        // Looked at after the watch began: what happens from now on ends it.
        let status = shared.connection.status();
        let same = status.borrow().up && status.borrow().epoch == epoch;
        if !same {
            return Err(
                Error::unavailable("the connection to NATS was lost meanwhile")
                    .with_operation(OPERATION),
            );
        }
        Ok(Box::pin(Watch {
            receiver: Some(receiver),
            _attention: attention,
        }))
    }
}

/// As long as it is held, what is said about a service is kept.
struct Attention {
    shared: Arc<Shared>,
    only: Option<String>,
}

impl Attention {
    fn new(shared: &Arc<Shared>, only: Option<String>) -> Self {
        shared.lock().directory.attend(&only);
        shared.wake.notify_one();
        Self {
            shared: Arc::clone(shared),
            only,
        }
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.shared.lock().directory.neglect(&self.only);
    }
}

struct Watch {
    receiver: Option<mpsc::Receiver<Event>>,
    _attention: Attention,
}

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(receiver) = &mut self.receiver else {
            return Poll::Ready(None);
        };
        receiver.poll_recv(cx).map(|event| {
            if let Some(event) = event {
                return Some(Ok(event));
            }
            self.receiver = None;
            Some(Err(Error::unavailable(
                "changes may have been missed; list again, then watch again",
            )
            .with_operation("registry.watch")))
        })
    }
}

/// Between a fifth less and a fifth more.
pub(crate) fn jittered(random: &dyn Random, time: Duration) -> Duration {
    time * 4 / 5 + time * u32::try_from(random.next_u64() % 401).unwrap_or(0) / 1000
}
