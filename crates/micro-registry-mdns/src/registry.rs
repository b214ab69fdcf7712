//! The registry: a directory of what is announced, kept by tasks.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use mdns_sd::{Receiver, ServiceInfo, TxtProperty, UnregisterStatus};
use micro_core::{Clock, Random};
use micro_registry_core::{
    Capabilities, DeregisterOptions, Env, Error, Event, EventStream, GetOptions, ListOptions, Node,
    RegisterOptions, Registry, Result, Service, WatchOptions, async_trait, check_deregistration,
    check_name, check_registration,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::address::{self, Address};
use crate::daemon::Daemon;
use crate::directory::{Announced, Directory};
use crate::txt::Announcement;
use crate::{MdnsConfig, SCHEME, names, tasks};

/// How long a call waits until the daemon has done what it was told.
const DONE: Duration = Duration::from_secs(2);
/// The first answers take so long: who asks waits up to 50 ms, and who answers does, too.
const FIRST: Duration = Duration::from_millis(150);
/// Nothing new for so long: those who wanted to answer have.
const QUIET: Duration = Duration::from_millis(60);
/// So many services are looked after at once.
const MOST_WANTED: usize = 1024;
/// A lookup that finds nobody makes us ask again at most so often, and one that finds somebody so
/// often: an announcement may have been lost.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(25));
/// What we took back ourselves we do not believe others to announce for so long: it is our echo.
const ECHO: Duration = Duration::from_secs(3);

/// A [`Registry`] by multicast DNS. Clones share everything; when the last one is dropped, all that
/// was registered here says goodbye.
#[derive(Clone)]
pub struct MdnsRegistry(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

pub(crate) struct Shared {
    pub(crate) daemon: Daemon,
    pub(crate) config: MdnsConfig,
    pub(crate) namespace: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    runtime: Handle,
    state: Mutex<State>,
    /// Something was heard: lookups that wait look again.
    pub(crate) heard: Notify,
    /// There is something to do for the keeper.
    pub(crate) wake: Notify,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) directory: Directory,
    /// There is one once somebody looks for something.
    pub(crate) ear: Option<Ear>,
    /// The services that somebody looks for.
    pub(crate) wanted: HashMap<String, Wanted>,
    /// What the daemon is to be told, in order.
    pub(crate) orders: Vec<Order>,
    /// When to ask whether an instance is still there.
    pub(crate) checks: HashMap<String, Check>,
    /// Instances that were asked, and when the answer must be there: then the daemon tells anew
    /// which ones it knows.
    pub(crate) asked: HashMap<String, Instant>,
    /// Those of them that it has not told of yet, and until when it may.
    pub(crate) silent: HashMap<String, Instant>,
    /// Those of them that were asked because they were due, and not because of a goodbye.
    pub(crate) checked: HashSet<String>,
    /// Instances that we took back ourselves, until then.
    pub(crate) echoes: HashMap<String, Instant>,
    /// What need not be said twice.
    pub(crate) warned: bool,
}

/// Listening for everything that `micro` announces.
///
/// Each service has a subtype of its own, too, for other tools. It is of no use here: the daemon
/// answers a question for a subtype with the type itself, and takes such an answer for somebody
/// else's unless it asked for the type.
pub(crate) struct Ear {
    pub(crate) started: Instant,
    /// Whether the daemon has begun: what is announced before is not heard.
    pub(crate) open: bool,
    /// When we last asked.
    pub(crate) asked: Instant,
    /// When to ask again because an instance fell silent: it may only have been missed.
    pub(crate) again: Option<Instant>,
    /// Until when those are looked for that fell silent.
    pub(crate) missing_until: Option<Instant>,
    /// Tells the task to ask again.
    ask: Arc<Notify>,
    task: AbortHandle,
}

pub(crate) struct Wanted {
    /// When somebody last looked for it.
    pub(crate) used: Instant,
    /// When an instance of it was last heard of.
    pub(crate) changed: Instant,
}

/// Something for the daemon.
pub(crate) enum Order {
    Announce(Box<ServiceInfo>, Option<oneshot::Sender<()>>),
    Withdraw(String, Option<oneshot::Sender<Receiver<UnregisterStatus>>>),
}

pub(crate) struct Check {
    pub(crate) service: String,
    pub(crate) ttl: Duration,
    pub(crate) at: Instant,
}

impl MdnsRegistry {
    /// Begins to speak multicast DNS, in the namespace and with the clock of `env`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings out of range; `FailedPrecondition` outside of a tokio
    /// runtime; `Unavailable` if the system refuses.
    pub fn open(config: MdnsConfig, env: &Env) -> Result<Self> {
        const OPERATION: &str = "registry.open";
        config.check()?;
        if env.namespace().len() > 200 {
            return Err(Error::invalid_argument(
                "a namespace has at most 200 bytes in multicast DNS",
            )
            .with_operation(OPERATION));
        }
        let runtime = Handle::try_current().map_err(|err| {
            Error::failed_precondition("open this within a tokio runtime: it needs tasks")
                .with_operation(OPERATION)
                .with_source(err)
        })?;
        let shared = Arc::new(Shared {
            daemon: Daemon::start(&config)?,
            config,
            namespace: env.namespace().to_owned(),
            clock: Arc::clone(env.clock()),
            random: Arc::clone(env.random()),
            runtime: runtime.clone(),
            state: Mutex::default(),
            heard: Notify::new(),
            wake: Notify::new(),
        });
        let keeper = runtime.spawn(tasks::keep(Arc::clone(&shared)));
        Ok(Self(Arc::new(Inner {
            shared,
            keeper: keeper.abort_handle(),
        })))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
        let mut state = self.shared.lock();
        if let Some(ear) = state.ear.take() {
            ear.task.abort();
        }
        state.directory.end_watches();
        drop(state);
        self.shared.daemon.stop();
    }
}

/// Says where it listens: a client puts it into the error for a service that it cannot find.
impl fmt::Debug for MdnsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MdnsRegistry")
            .field("port", &self.0.shared.config.port)
            .field(
                "interfaces",
                &format_args!("{}", self.0.shared.config.listened()),
            )
            .field("namespace", &self.0.shared.namespace)
            .finish()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a node: what others will be told, and how.
    fn describe(
        &self,
        service: &Service,
        node: &Node,
        ttl: Option<Duration>,
    ) -> Result<(Announced, ServiceInfo)> {
        let unreachable = || {
            Error::invalid_argument(
                "nobody could reach this address; register 'host:port' with a port, and neither a wildcard, multicast nor link-local address",
            )
            .with_context("node", &node.id)
            .with_context("address", &node.address)
        };
        let address = Address::parse(&node.address)
            .filter(Address::is_sound)
            .ok_or_else(unreachable)?;
        let (addresses, plain) = announced_addresses(&address);
        let instance = names::instance(&self.namespace, &service.name, &service.version, &node.id);
        let announcement = Announcement {
            service: service.name.clone(),
            version: service.version.clone(),
            namespace: self.namespace.clone(),
            id: Some(node.id.clone()),
            ttl: Some(ttl.unwrap_or(self.config.ttl).max(Duration::from_secs(1))),
            address: (!plain).then(|| node.address.clone()),
            node: node.metadata.clone(),
            metadata: service.metadata.clone(),
            endpoints: service.endpoints.clone(),
        };
        let strings = announcement.encode()?;
        let mut info = ServiceInfo::new(
            &names::subtype(&self.namespace, &service.name),
            &instance,
            &names::host(&instance),
            Addresses(&addresses),
            address.port(),
            strings
                .iter()
                .map(|(key, value)| TxtProperty::from((key, value)))
                .collect::<Vec<_>>(),
        )
        .map_err(|err| {
            Error::invalid_argument("multicast DNS cannot announce this")
                .with_context("node", &node.id)
                .with_source(err)
        })?;
        // The name is unique by what it is made of.
        info.set_requires_probe(false);
        if addresses.is_empty() {
            info = info.enable_addr_auto();
        }
        let announced = Announced {
            fullname: info.get_fullname().to_owned(),
            strings,
            addresses,
            port: address.port(),
        };
        Ok((announced, info))
    }

    /// Makes sure that we listen, and remembers who is wanted.
    fn listen(self: &Arc<Self>, state: &mut State, service: Option<&str>) {
        let now = Instant::now();
        if state.ear.is_none() {
            let ask = Arc::new(Notify::new());
            let task = tasks::listen(Arc::clone(self), Arc::clone(&ask));
            state.ear = Some(Ear {
                started: now,
                open: false,
                asked: now,
                again: None,
                missing_until: None,
                ask,
                task: self.runtime.spawn(task).abort_handle(),
            });
        }
        let Some(service) = service else { return };
        if let Some(wanted) = state.wanted.get_mut(service) {
            wanted.used = now;
            return;
        }
        if state.wanted.len() >= MOST_WANTED {
            let oldest = state.wanted.iter().min_by_key(|(_, wanted)| wanted.used);
            if let Some(oldest) = oldest.map(|(service, _)| service.clone()) {
                state.wanted.remove(&oldest);
            }
        }
        let wanted = Wanted {
            used: now,
            changed: now,
        };
        state.wanted.insert(service.to_owned(), wanted);
    }

    async fn ear_is_open(&self) {
        loop {
            let mut heard = std::pin::pin!(self.heard.notified());
            heard.as_mut().enable();
            if self.lock().ear.as_ref().is_none_or(|ear| ear.open) {
                return;
            }
            heard.await;
        }
    }

    /// Waits until those who wanted to answer have, if we only just began to listen.
    async fn settle(&self, service: Option<&str>) {
        loop {
            let mut heard = std::pin::pin!(self.heard.notified());
            heard.as_mut().enable();
            let until = {
                let mut state = self.lock();
                // Ours says nothing of others, who may be silent for a second: they answered somebody
                // else just now (RFC 6762, section 6).
                let known = state.directory.has_others(service);
                let wanted = service.and_then(|service| state.wanted.get(service));
                let changed = wanted.map(|wanted| wanted.changed);
                let Some(ear) = &mut state.ear else { return };
                let last = ear.started + self.config.lookup;
                let until = if known {
                    let quiet = changed.map_or(last, |changed| changed + QUIET);
                    last.min(quiet.max(ear.started + FIRST))
                } else {
                    last
                };
                let now = Instant::now();
                if now >= until {
                    let patience = if known { ASK_AGAIN.1 } else { ASK_AGAIN.0 };
                    if now.duration_since(ear.asked) >= patience {
                        ear.ask_again(now);
                    }
                    return;
                }
                until
            };
            tokio::select! {
                () = heard => {}
                () = sleep_until(until) => {}
            }
        }
    }
}

impl Ear {
    pub(crate) fn ask_again(&mut self, now: Instant) {
        self.asked = now;
        self.again = None;
        self.ask.notify_one();
    }
}

/// The addresses of A and AAAA, and whether they say where the node is.
///
/// Each is announced on its own network only. Loopback stands beside the others, so that
/// programs on one machine meet even where the network swallows multicast; what is on the
/// loopback interface stays on this machine.
fn announced_addresses(address: &Address) -> (Vec<IpAddr>, bool) {
    match address {
        Address::Ip(at) if at.ip() == address::LOOPBACK => (vec![at.ip()], true),
        Address::Ip(at) if at.ip().is_loopback() => (vec![at.ip(), address::LOOPBACK], false),
        Address::Ip(at) if address::is_ours(at.ip()) => (vec![at.ip(), address::LOOPBACK], false),
        _ if address.is_loopback() => (vec![address::LOOPBACK], false),
        // It stands for this machine elsewhere: announced wherever this machine is.
        _ => (Vec::new(), false),
    }
}

struct Addresses<'a>(&'a [IpAddr]);

impl mdns_sd::AsIpAddrs for Addresses<'_> {
    fn as_ip_addrs(&self) -> mdns_sd::Result<std::collections::HashSet<IpAddr>> {
        Ok(self.0.iter().copied().collect())
    }
}

#[async_trait]
impl Registry for MdnsRegistry {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        let interfaces = &self.0.shared.config.interfaces;
        let loopback = |name: &String| match name.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => address::is_loopback_interface(name),
        };
        Capabilities::default()
            .with_ttl(true)
            .with_shared(true)
            .with_local(!interfaces.is_empty() && interfaces.iter().all(loopback))
            // Loopback addresses are believed only if they were heard on a loopback interface.
            .with_loopback(true)
    }

    async fn register(&self, service: &Service, opts: RegisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.register";
        check_registration(service).map_err(|err| err.with_operation(OPERATION))?;
        if opts.ttl == Some(Duration::ZERO) {
            return Err(
                Error::invalid_argument("a TTL of zero forgets the nodes at once")
                    .with_operation(OPERATION)
                    .with_context("service", &service.name),
            );
        }
        let shared = &self.0.shared;
        let described: Vec<_> = service
            .nodes
            .iter()
            .map(|node| shared.describe(service, node, opts.ttl))
            .collect::<Result<_>>()
            .map_err(|err| err.with_operation(OPERATION))?;
        let now = shared.clock.now();
        let expires = opts.ttl.and_then(|ttl| now.checked_add(ttl));
        let mut announced = Vec::new();
        {
            // All of it at once: a call that is dropped while it waits has taken effect.
            let mut state = shared.lock();
            for (node, (told, info)) in service.nodes.iter().zip(described) {
                state.echoes.remove(&told.fullname);
                if state.directory.put_own(service, node, told, expires) {
                    let (done, waits) = oneshot::channel();
                    let order = Order::Announce(Box::new(info), Some(done));
                    state.orders.push(order);
                    announced.push(waits);
                }
            }
        }
        shared.wake.notify_one();
        shared.heard.notify_waiters();
        for done in announced {
            wait_for(done)
                .await
                .map_err(|err| err.with_operation(OPERATION))?;
        }
        Ok(())
    }

    async fn deregister(&self, service: &Service, _opts: DeregisterOptions) -> Result<()> {
        const OPERATION: &str = "registry.deregister";
        check_deregistration(service).map_err(|err| err.with_operation(OPERATION))?;
        let shared = &self.0.shared;
        let mut withdrawn = Vec::new();
        {
            let mut state = shared.lock();
            for node in &service.nodes {
                let key = (
                    service.name.clone(),
                    service.version.clone(),
                    node.id.clone(),
                );
                if let Some(fullname) = state.withdraw(&key) {
                    let (done, waits) = oneshot::channel();
                    state.orders.push(Order::Withdraw(fullname, Some(done)));
                    withdrawn.push(waits);
                }
            }
        }
        shared.wake.notify_one();
        shared.heard.notify_waiters();
        for done in withdrawn {
            let goodbye = wait_for(done)
                .await
                .map_err(|err| err.with_operation(OPERATION))?;
            // It is on its way in any case; the caller may be about to exit.
            let _ = timeout(DONE, goodbye.recv_async()).await;
        }
        Ok(())
    }

    async fn get_service(&self, name: &str, _opts: GetOptions) -> Result<Vec<Service>> {
        const OPERATION: &str = "registry.get_service";
        check_name(name).map_err(|err| err.with_operation(OPERATION))?;
        let shared = &self.0.shared;
        shared.listen(&mut shared.lock(), Some(name));
        shared.settle(Some(name)).await;
        let found = shared.lock().directory.get(Some(name));
        if found.is_empty() {
            return Err(
                Error::not_found("no node of this service answers multicast DNS")
                    .with_operation(OPERATION)
                    .with_context("service", name),
            );
        }
        Ok(found)
    }

    async fn list_services(&self, _opts: ListOptions) -> Result<Vec<Service>> {
        let shared = &self.0.shared;
        shared.listen(&mut shared.lock(), None);
        shared.settle(None).await;
        Ok(shared.lock().directory.get(None))
    }

    async fn watch(&self, opts: WatchOptions) -> Result<EventStream> {
        if let Some(name) = &opts.service {
            check_name(name).map_err(|err| err.with_operation("registry.watch"))?;
        }
        let shared = &self.0.shared;
        let watch = {
            let mut state = shared.lock();
            shared.listen(&mut state, opts.service.as_deref());
            Watch(state.directory.watch(opts.service))
        };
        // Whatever changes from here on is heard.
        timeout(DONE, shared.ear_is_open())
            .await
            .map_err(|_| overloaded().with_operation("registry.watch"))?;
        Ok(Box::pin(watch))
    }
}

impl State {
    /// Takes a node of ours out of the directory; the daemon has still to be told.
    pub(crate) fn withdraw(&mut self, key: &crate::directory::Key) -> Option<String> {
        let fullname = self.directory.remove_own(key)?;
        let now = Instant::now();
        self.echoes.retain(|_, until| *until > now);
        self.echoes.insert(fullname.clone(), now + ECHO);
        Some(fullname)
    }
}

async fn wait_for<T>(done: oneshot::Receiver<T>) -> Result<T> {
    match timeout(DONE, done).await {
        Ok(Ok(done)) => Ok(done),
        _ => Err(overloaded()),
    }
}

fn overloaded() -> Error {
    Error::unavailable("multicast DNS does not get on with its work; is this machine overloaded?")
}

/// Ends when the watcher fell behind, or the registry is gone.
struct Watch(mpsc::Receiver<Event>);

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }
}
