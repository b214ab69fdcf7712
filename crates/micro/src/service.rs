//! A service: a server and a client with their backends, from start to stop.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use micro_broker_core::Broker;
use micro_codec_core::Codec;
use micro_config_core::{Config, Source, Unseal};
use micro_core::{Env, Error, Live, Result};
use micro_limit::PolicyLimits;
use micro_registry_core::Registry;
use micro_selector_core::Selector;
use micro_server::{Contract, Reflection, Routes, RunningServer, Server, ServerOptions};
use micro_store_core::{Store, Table};
use micro_sync_core::{Coordinator, Leadership};
#[cfg(feature = "broker-http")]
use micro_transport_core::Posts;
use micro_transport_core::{Limits, Middleware, Policies, TlsIdentity, Transport};
use tokio::time::Instant;

use crate::backends::{Backends, Opened, Wishes};
use crate::events::{self, Events, Wanted};
use crate::singleton::{self, Singleton, Singletons};
use crate::{Client, DriverSet, Settings, SingletonOptions};

/// What a broker has at least to hand on what is left.
const SHORTEST: Duration = Duration::from_millis(100);

type Hook = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send>;

/// A service. With nothing configured it listens on a free port of this machine, registers itself
/// by multicast DNS, answers health and reflection, and drains cleanly on SIGTERM and ctrl-c.
///
/// ```no_run
/// # #[micro::service] pub trait Greeter {
/// #     async fn hello(&self, cx: &micro::Context, name: String) -> micro::Result<String>;
/// # }
/// # struct English;
/// # impl Greeter for English {
/// #     async fn hello(&self, _: &micro::Context, name: String) -> micro::Result<String> { Ok(name) }
/// # }
/// # #[tokio::main]
/// # async fn main() -> micro::Result<()> {
/// micro::Service::new("greeter").handle(GreeterServer::new(English)).run().await
/// # }
/// ```
///
/// What code says here is outweighed by the `MICRO_…` variables, and these by flags
/// ([`from_args`](Self::from_args)): see [`SETTINGS`](crate::SETTINGS). Only a backend that is handed
/// in as a value ([`with_registry`](Self::with_registry) and its like) is not.
pub struct Service {
    name: String,
    options: ServerOptions,
    routes: Vec<Routes>,
    pub(crate) subscriptions: Vec<Wanted>,
    wishes: Wishes,
    settings: Option<Settings>,
    args: Option<Vec<std::ffi::OsString>>,
    drivers: Option<DriverSet>,
    backends: OnceLock<Arc<Backends>>,
    singletons: Vec<Singleton>,
    /// Behind a lock only so that a service can be shared: hooks need not be `Sync`.
    hooks: Mutex<Hooks>,
}

#[derive(Default)]
struct Hooks {
    before_start: Vec<Hook>,
    after_start: Vec<Hook>,
    before_stop: Vec<Hook>,
    after_stop: Vec<Hook>,
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name<F, Fut>(mut self, hook: F) -> Self
            where
                F: FnOnce() -> Fut + Send + 'static,
                Fut: Future<Output = Result<()>> + Send + 'static,
            {
                let hooks = self.hooks.get_mut().unwrap_or_else(PoisonError::into_inner);
                hooks.$name.push(Box::new(move || Box::pin(hook())));
                self
            }
        )*
    };
}

impl Service {
    /// A service of this name: letters, digits, `.`, `-` and `_`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            wishes: Wishes {
                name: Some(name.clone()),
                ..Wishes::default()
            },
            name,
            options: ServerOptions::default(),
            routes: Vec::new(),
            subscriptions: Vec::new(),
            settings: None,
            args: None,
            drivers: None,
            backends: OnceLock::new(),
            singletons: Vec::new(),
            hooks: Mutex::default(),
        }
    }

    /// Answers a contract: `.handle(GreeterServer::new(English))`.
    #[must_use]
    pub fn handle(mut self, contract: impl Contract) -> Self {
        self.routes.push(contract.routes());
        self
    }

    /// Answers routes made by hand; see [`Routes::dynamic`].
    #[must_use]
    pub fn routes(mut self, routes: Routes) -> Self {
        self.routes.push(routes);
        self
    }

    /// Sets the version, `latest` by default.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.options.version = version.into();
        self
    }

    /// Sets the node's id, `<name>-<random>` by default.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.options.id = Some(id.into());
        self
    }

    /// Adds a fact to the node's metadata. Never secrets.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets where to listen: `host:port`, a port range `host:8000-8010`, or a host alone.
    ///
    /// Plaintext stays on this machine unless this opens it.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.options.address = Some(address.into());
        self
    }

    /// Sets the address that is registered, if it is not the one bound.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.options.advertise = Some(address.into());
        self
    }

    /// Sets how long a registration lives, and how often it is renewed.
    #[must_use]
    pub fn register(mut self, ttl: Duration, interval: Duration) -> Self {
        self.options.register_ttl = ttl;
        self.options.register_interval = interval;
        self
    }

    /// Sets how long a stop may take in all: leaving discovery, and finishing the calls under way.
    #[must_use]
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.options.stop_timeout = timeout;
        self
    }

    /// Adds middleware around every call answered, inside of what was added before.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.options.middleware.push(Arc::new(middleware));
        self
    }

    /// Adds middleware around every call made, inside of what was added before.
    #[must_use]
    pub fn client_middleware(mut self, middleware: impl Middleware) -> Self {
        self.wishes.client_middleware.push(Arc::new(middleware));
        self
    }

    /// Adds a codec, for calls answered and made.
    #[must_use]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        let codecs = self.wishes.codecs.take().unwrap_or_else(crate::codecs);
        self.wishes.codecs = Some(codecs.with(codec));
        self
    }

    /// Sets timeouts, retries and hedging of calls made, and limits of calls made and answered, by
    /// service and method; they may change while the service runs.
    #[must_use]
    pub fn policies(mut self, policies: impl Into<Live<Policies>>) -> Self {
        self.wishes.policies = Some(policies.into());
        self
    }

    /// Sets the zone that the program runs in: it is announced, and nodes of the same zone are
    /// called first.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.wishes.zone = Some(zone.into());
        self
    }

    /// Sets what a peer may cost, for calls answered and made.
    #[must_use]
    pub fn limits(mut self, limits: impl Into<Live<Limits>>) -> Self {
        self.wishes.limits = limits.into();
        self
    }

    /// Sets the certificate, its key, and whom to trust, for calls answered and made: TLS.
    ///
    /// The service then listens on every interface unless [`address`](Self::address) says otherwise.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<Live<TlsIdentity>>) -> Self {
        self.wishes.tls = Some(identity.into());
        self
    }

    /// Sets who may ask which methods there are.
    #[must_use]
    pub fn reflection(mut self, reflection: Reflection) -> Self {
        self.options.reflection = reflection;
        self
    }

    /// Sets the namespace, which separates fleets.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.wishes.namespace = Some(namespace.into());
        self
    }

    /// Adds a source of configuration by URL: `file:app.toml`, `env:APP`. The later one wins within its
    /// rank; `optional=true` is for one that may be away. `MICRO_CONFIG` replaces them all.
    ///
    /// The map `micro` of the configuration is the framework's own: see
    /// [`SETTINGS`](crate::SETTINGS). The rest is the program's: [`config`](Self::config).
    #[must_use]
    pub fn config_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.config_urls.push(url.into());
        self
    }

    /// Adds a source of configuration: this very one, whatever `MICRO_CONFIG` says.
    #[must_use]
    pub fn with_config_source(mut self, source: impl Source) -> Self {
        self.wishes.config_sources.push(Arc::new(source));
        self
    }

    /// Opens sealed values (`enc:v1:…`) of the configuration with this: `config::file::SealKey` of the
    /// feature `config-seal`, whose key is in a variable or a file.
    #[must_use]
    pub fn config_unseal(mut self, unseal: impl Unseal) -> Self {
        self.wishes.config_unseal = Some(Arc::new(unseal));
        self
    }

    /// Sets the store by URL.
    #[must_use]
    pub fn store_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.store_url = Some(url.into());
        self
    }

    /// Sets the store: this very one, whatever `MICRO_STORE` says.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.wishes.store = Some(store);
        self
    }

    /// Sets who gives locks and leaderships, by URL.
    #[must_use]
    pub fn coordinator_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.coordinator_url = Some(url.into());
        self
    }

    /// Sets who gives locks and leaderships: this very one, whatever `MICRO_SYNC` says.
    ///
    /// It brings its own namespace; [`namespace`](Self::namespace) does not reach it.
    #[must_use]
    pub fn with_coordinator(mut self, coordinator: Arc<dyn Coordinator>) -> Self {
        self.wishes.coordinator = Some(coordinator);
        self
    }

    /// Adds a task that runs on one node of the fleet while the service runs, and on another if that
    /// node fails.
    ///
    /// ```no_run
    /// # async fn close_the_day(_: micro::sync::Fence) -> micro::Result<()> { Ok(()) }
    /// # let _ =
    /// micro::Service::new("ledger").singleton(|leadership| async move {
    ///     loop {
    ///         // What it changes is fenced: a node that has lost without noticing does no harm.
    ///         close_the_day(leadership.fence()).await?;
    ///         tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    ///     }
    /// })
    /// # ;
    /// ```
    ///
    /// The task is begun whenever this node is elected, under the service's name, and dropped where it
    /// stands when the leadership is lost or the service stops. What it has spawned goes on, and
    /// learns the same by [`lost`](crate::sync::Lock::lost) of its copy of the leadership.
    ///
    /// If it fails or panics, that is logged, this node resigns, and campaigns again after a pause (a
    /// second at most, doubled with each failure up to 30 s), and so it does while the backend is
    /// away. If it returns `Ok`, it is done as far as this node goes: the next one has its turn. What
    /// the fleet is to do once, it therefore writes down when it is done, and looks there first.
    ///
    /// Which nodes are a fleet, the coordinator says: with `MICRO_SYNC=memory`, the default, each
    /// process is one.
    #[must_use]
    pub fn singleton<F, Fut>(self, work: F) -> Self
    where
        F: Fn(Arc<Leadership>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.singleton_with(SingletonOptions::default(), work)
    }

    /// [`singleton`](Self::singleton) with a name of its own, or another time to live.
    #[must_use]
    pub fn singleton_with<F, Fut>(mut self, options: SingletonOptions, work: F) -> Self
    where
        F: Fn(Arc<Leadership>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.singletons.push(Singleton::new(options, work));
        self
    }

    /// Sets the broker by URL.
    ///
    /// The default, `http`, finds subscribers through the registry, and receives messages at this
    /// service's own port if that speaks HTTP/1.1, with the service's [`identity`](Self::identity) if it
    /// has one, and at a port of its own otherwise.
    #[must_use]
    pub fn broker_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.broker_url = Some(url.into());
        self
    }

    /// Sets the broker: this very one, whatever `MICRO_BROKER` says. A stop does not close it.
    ///
    /// It brings its own namespace; [`namespace`](Self::namespace) does not reach it.
    #[must_use]
    pub fn with_broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.wishes.broker = Some(broker);
        self
    }

    /// Sets the registry by URL.
    #[must_use]
    pub fn registry_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.registry_url = Some(url.into());
        self
    }

    /// Sets the registry: this very one, whatever `MICRO_REGISTRY` says.
    ///
    /// It brings its own namespace; [`namespace`](Self::namespace) does not reach it.
    #[must_use]
    pub fn with_registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.wishes.registry = Some(registry);
        self
    }

    /// Sets the transport by URL.
    #[must_use]
    pub fn transport_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.transport_url = Some(url.into());
        self
    }

    /// Sets the transport: this very one, whatever `MICRO_TRANSPORT` says.
    #[must_use]
    pub fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.wishes.transport = Some(transport);
        self
    }

    /// Sets the balancing strategy by URL.
    #[must_use]
    pub fn selector_url(mut self, url: impl Into<String>) -> Self {
        self.wishes.selector_url = Some(url.into());
        self
    }

    /// Sets the balancing strategy: this very one, whatever `MICRO_SELECTOR` says.
    #[must_use]
    pub fn with_selector(mut self, selector: Arc<dyn Selector>) -> Self {
        self.wishes.selector = Some(selector);
        self
    }

    /// Sets the drivers, after a stranger's were added: `micro::drivers().with(..)`.
    #[must_use]
    pub fn drivers(mut self, drivers: DriverSet) -> Self {
        self.drivers = Some(drivers);
        self
    }

    /// Sets clock, chance and what is open already.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.wishes.env = env;
        self
    }

    /// Sets the settings, instead of the process's variables.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Reads the program's arguments as flags; they outweigh the variables: those of
    /// [`SETTINGS`](crate::SETTINGS), and `--set path=value` for any key of the configuration. Without
    /// this call nothing is read behind the program's back.
    #[must_use]
    pub fn from_args(self) -> Self {
        self.args(std::env::args_os().skip(1))
    }

    /// Reads these flags; they outweigh the variables.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<std::ffi::OsString>>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    hooks! {
        /// Runs before the service listens; an error ends the start.
        before_start
        /// Runs once the service listens and is registered; an error stops it again.
        after_start
        /// Runs when the service is told to stop, before it leaves discovery.
        before_stop
        /// Runs when the last call has ended.
        after_stop
    }

    /// A client with this service's backends and name: for calls to other services.
    ///
    /// The backends are opened now if they are not yet; settings made on the service afterwards do
    /// not change them.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a setting that cannot be read, and whatever opening a backend says.
    pub async fn client(&self) -> Result<Client> {
        self.backends()?.client().await
    }

    /// The configuration, opened now if it is not yet: that of the sources which `MICRO_CONFIG` names, or
    /// the code.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub async fn config(&self) -> Result<Config> {
        Ok(self.backends()?.opened().await?.config.clone())
    }

    /// This service's own table of the store, opened now if it is not yet: its database is the
    /// namespace.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client), and `InvalidArgument` if the service's name is no name of a table.
    pub async fn store(&self) -> Result<Table> {
        self.backends()?.table(&self.name).await
    }

    /// Who gives locks and leaderships, opened now if it is not yet. Names are within the namespace.
    ///
    /// With nothing configured that is `memory`, whose locks are of this process only.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub async fn coordinator(&self) -> Result<Arc<dyn Coordinator>> {
        self.backends()?.coordinator().await
    }

    /// The registry of this service, opened now if it is not yet.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    pub async fn registry(&self) -> Result<Arc<dyn Registry>> {
        self.backends()?.registry().await
    }

    /// What is to be logged, before anything is read that has something to say.
    #[cfg(feature = "log")]
    fn log_filter(&self) -> Option<String> {
        let flags = self.args.iter().flatten().map(|arg| arg.to_string_lossy());
        let flags: Vec<_> = flags.collect();
        let flag = flags
            .iter()
            .enumerate()
            .find_map(|(at, arg)| match arg.strip_prefix("--log") {
                Some("") => flags.get(at + 1).map(|value| value.to_string()),
                Some(value) => value.strip_prefix('=').map(str::to_owned),
                None => None,
            });
        let filter = flag.or_else(|| match &self.settings {
            Some(settings) => settings.get("MICRO_LOG").map(str::to_owned),
            None => std::env::var("MICRO_LOG").ok(),
        });
        // An empty one is one that is not set.
        filter.filter(|filter| !filter.is_empty())
    }

    pub(crate) fn backends(&self) -> Result<Arc<Backends>> {
        if let Some(backends) = self.backends.get() {
            return Ok(Arc::clone(backends));
        }
        let mut settings = match &self.settings {
            Some(settings) => settings.clone(),
            None => Settings::from_env()?,
        };
        if let Some(args) = &self.args {
            settings = settings.with_args(args.clone())?;
        }
        let drivers = self.drivers.clone().unwrap_or_else(crate::drivers);
        let backends = Backends::new(settings, drivers, self.wishes.clone());
        Ok(Arc::clone(self.backends.get_or_init(|| backends)))
    }

    /// Starts the service and returns a handle with its address.
    ///
    /// # Errors
    ///
    /// Whatever `before_start`, a setting, opening a backend or listening fails with. A registry
    /// that is away does not end the start: the service registers once it is back.
    pub async fn start(self) -> Result<Running> {
        let backends = self.backends()?;
        backends.outside().warn_of_unknown();
        let hooks = self
            .hooks
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for hook in hooks.before_start {
            hook().await?;
        }
        let opened = backends.opened().await?;
        // Limits of calls are not of messages, whose number the broker bounds.
        let middleware = self.options.middleware.clone();
        let events = Events::new(&self.name, Arc::clone(&backends), middleware);
        let subscriptions = self.subscriptions.into_iter();
        let subscriptions = subscriptions.map(|wanted| events.check(wanted));
        let subscriptions = subscriptions.collect::<Result<Vec<_>>>()?;
        let mut options = server_options(&self.name, self.options, &backends.wishes, opened)?;
        options.endpoints = events::endpoints(&subscriptions);
        if !subscriptions.is_empty() {
            backends.broker().await?;
        }
        #[cfg(feature = "broker-http")]
        let posts = Posts::new(Arc::clone(&backends.mount) as _);
        #[cfg(feature = "broker-http")]
        options.posts.replace(posts.clone());
        let registry = backends.registry().await?;
        let transport = backends.transport().await?;
        let mut campaigns = Vec::new();
        if !self.singletons.is_empty() {
            let coordinator = backends.coordinator().await?;
            let random = backends.wishes.env.random();
            campaigns = singleton::campaigns(self.singletons, &self.name, &coordinator, random)?;
        }
        let stop_timeout = options.stop_timeout;
        let mut server = Server::new(&self.name).options(options);
        for routes in self.routes {
            server = server.handle(routes);
        }
        let server = server
            .start(Arc::clone(&registry), Arc::clone(&transport))
            .await?;
        let server = Arc::new(server);
        #[cfg(feature = "broker-http")]
        if posts.are_taken() {
            backends.mount.served_at(&server.node().address);
        }
        tracing::info!(
            service = self.name,
            node = server.id(),
            address = server.address(),
            registry = registry.backend(),
            transport = transport.backend(),
            broker = backends.broker_backend(),
            namespace = opened.namespace(),
            tls = backends.wishes.tls.is_some(),
            auth = false,
            "started"
        );
        let mut running = Running {
            name: self.name,
            server,
            backends,
            events,
            singletons: Singletons::default(),
            stop_timeout,
            stop: Mutex::new((hooks.before_stop, hooks.after_stop)),
        };
        let prepared = async {
            for ready in subscriptions {
                running.events.begin(ready).await?;
            }
            for hook in hooks.after_start {
                hook().await?;
            }
            Ok(())
        };
        if let Err(err) = prepared.await {
            if let Err(err) = running.stop().await {
                tracing::warn!(%err, "the stop of a service that did not start failed, too");
            }
            return Err(err);
        }
        // Last, since hooks may prepare what the tasks need.
        running.singletons = Singletons::start(campaigns, running.server.id(), stop_timeout);
        running.singletons.warn_if_apart(&running.name, registry);
        Ok(running)
    }

    /// Runs the service until SIGTERM or ctrl-c, then stops it: out of discovery, then the calls
    /// under way are finished. A second signal ends it at once.
    ///
    /// Installs a readable log if the program has none (feature `log`, variable `MICRO_LOG`).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start) and [`Running::stop`], and why a subscription is gone for good: that stops
    /// the service, too.
    pub async fn run(self) -> Result<()> {
        #[cfg(feature = "log")]
        let log = crate::log::install(self.log_filter().as_deref());
        // What was said of the configuration before there was a log is said again.
        #[cfg(feature = "log")]
        if let (Some(_), Some(backends)) = (&log, self.backends.get()) {
            for refusal in backends.refusals() {
                tracing::warn!(%refusal, "a source of the configuration is not in force");
            }
        }
        // Before the start: a signal that comes while starting is not lost.
        let mut signals = Signals::new()?;
        let running = tokio::select! {
            running = self.start() => running?,
            () = signals.next() => return Ok(()),
        };
        #[cfg(feature = "log")]
        let _follows = match log {
            Some(log) => Some(log.follow(&running.backends.opened().await?.section)),
            None => None,
        };
        let deaf = tokio::select! {
            () = signals.next() => Ok(()),
            err = running.events.ended() => Err(err),
            ended = running.server.wait() => return ended.map(drop),
        };
        tracing::info!("stopping");
        let server = Arc::clone(&running.server);
        tokio::select! {
            stopped = running.stop() => deaf.and(stopped),
            () = signals.next() => {
                tracing::warn!("a second signal: stopping at once");
                server.stop_now().await.map(drop)
            }
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Flags and variables outweigh what code said.
fn server_options(
    name: &str,
    mut options: ServerOptions,
    wishes: &Wishes,
    opened: &Opened,
) -> Result<ServerOptions> {
    let settings = &opened.settings;
    options.tls.clone_from(&wishes.tls);
    options.limits = opened.limits(&wishes.limits);
    let limits = |policies| PolicyLimits::of_service(name, policies);
    if let Some((_, limits)) = opened.policies(wishes.policies.as_ref(), limits) {
        // Outermost: what is refused should cost nothing else.
        options.middleware.insert(0, limits);
    }
    options.codecs = wishes.codecs.clone().unwrap_or_else(crate::codecs);
    options.clock = Arc::clone(wishes.env.clock());
    options.random = Arc::clone(wishes.env.random());
    if let Some(address) = settings.get("MICRO_SERVER_ADDRESS") {
        options.address = Some(address.to_owned());
    }
    if let Some(address) = &options.address {
        options.address = Some(bind_address(address, options.tls.is_some()));
    }
    if let Some(advertise) = settings.get("MICRO_SERVER_ADVERTISE") {
        options.advertise = Some(advertise.to_owned());
    }
    if let Some(id) = settings.get("MICRO_SERVER_ID") {
        options.id = Some(id.to_owned());
    }
    if let Some(version) = settings.get("MICRO_SERVER_VERSION") {
        version.clone_into(&mut options.version);
    }
    for pair in settings
        .get("MICRO_SERVER_METADATA")
        .into_iter()
        .flat_map(|all| all.split(','))
    {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Error::invalid_argument("MICRO_SERVER_METADATA is key=value, separated by commas")
                .with_context("pair", pair.escape_debug())
        })?;
        options
            .metadata
            .insert(name.trim().to_owned(), value.trim().to_owned());
    }
    if let Some(zone) = opened.zone() {
        let metadata = &mut options.metadata;
        metadata.entry("zone".into()).or_insert_with(|| zone.into());
    }
    if let Some(ttl) = settings.duration("MICRO_REGISTER_TTL")? {
        options.register_ttl = ttl;
    }
    if let Some(interval) = settings.duration("MICRO_REGISTER_INTERVAL")? {
        options.register_interval = interval;
    }
    if let Some(timeout) = settings.duration("MICRO_STOP_TIMEOUT")? {
        options.stop_timeout = timeout;
    }
    Ok(options)
}

/// A host alone gets a free port; ports alone stay on this machine, or, with TLS, are open to the
/// network. Anything else is the transport's to read.
fn bind_address(text: &str, tls: bool) -> String {
    let is_ports = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if is_ports {
        let host = if tls { "0.0.0.0" } else { "127.0.0.1" };
        return format!("{host}:{text}");
    }
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]:0"),
        Ok(std::net::IpAddr::V4(ip)) => format!("{ip}:0"),
        Err(_) if text.starts_with('[') && text.ends_with(']') => format!("{text}:0"),
        // `memory:…` and `host:port` have a colon, a host name has none.
        Err(_) if !text.is_empty() && !text.contains(':') => format!("{text}:0"),
        Err(_) => text.to_owned(),
    }
}

/// A service that was started.
///
/// Dropping it ends it at once: use [`stop`](Self::stop).
pub struct Running {
    name: String,
    server: Arc<RunningServer>,
    backends: Arc<Backends>,
    pub(crate) events: Events,
    singletons: Singletons,
    stop_timeout: Duration,
    /// What runs before and after the stop; see [`Service`] for the lock.
    stop: Mutex<(Vec<Hook>, Vec<Hook>)>,
}

impl Running {
    /// The address bound: `127.0.0.1:41233`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.server.id()
    }

    /// Whether the registry has the node.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.server.is_registered()
    }

    /// A client with this service's backends and name.
    ///
    /// # Errors
    ///
    /// As [`Service::client`].
    pub async fn client(&self) -> Result<Client> {
        self.backends.client().await
    }

    /// The configuration.
    ///
    /// # Errors
    ///
    /// As [`Service::client`].
    pub async fn config(&self) -> Result<Config> {
        Ok(self.backends.opened().await?.config.clone())
    }

    /// This service's own table of the store.
    ///
    /// # Errors
    ///
    /// As [`Service::store`].
    pub async fn store(&self) -> Result<Table> {
        self.backends.table(&self.name).await
    }

    /// Who gives locks and leaderships.
    ///
    /// # Errors
    ///
    /// As [`Service::coordinator`].
    pub async fn coordinator(&self) -> Result<Arc<dyn Coordinator>> {
        self.backends.coordinator().await
    }

    /// The registry of this service.
    ///
    /// # Errors
    ///
    /// As [`Service::client`].
    pub async fn registry(&self) -> Result<Arc<dyn Registry>> {
        self.backends.registry().await
    }

    /// Stops the service: out of discovery, then the calls under way are finished, within the stop
    /// timeout. Meanwhile singletons end where they stand, and resign; subscriptions take no new message
    /// and finish those under way, and what was published is handed on.
    ///
    /// # Errors
    ///
    /// What a hook fails with, and `DeadlineExceeded` if a message of this process was not handed on in
    /// time and is not kept either; the service is stopped all the same.
    pub async fn stop(self) -> Result<()> {
        let (before, after) = self
            .stop
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        for hook in before {
            outcome = outcome.and(hook().await);
        }
        let began = Instant::now();
        let (stopped, (), ()) = tokio::join!(
            self.server.stop(),
            self.events.stop(self.stop_timeout),
            self.singletons.stop()
        );
        outcome = outcome.and(stopped.map(drop));
        for hook in after {
            outcome = outcome.and(hook().await);
        }
        // What was published, by hooks too, and not handled yet has the rest of the time.
        let left = self.stop_timeout.saturating_sub(began.elapsed());
        let handed_on = self.backends.close_broker(left.max(SHORTEST)).await;
        outcome = outcome.and(handed_on);
        // Last: everything before may read it.
        if let Ok(opened) = self.backends.opened().await {
            opened.config.close().await;
        }
        tracing::info!("stopped");
        outcome
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// SIGTERM and ctrl-c.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "the same signature as on Unix")]
    fn new() -> Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a console there is no signal to wait for.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_or_ports_alone_are_completed() {
        for (text, expected) in [
            ("0.0.0.0", "0.0.0.0:0"),
            ("::1", "[::1]:0"),
            ("[::]", "[::]:0"),
            ("localhost", "localhost:0"),
            ("8080", "127.0.0.1:8080"),
            ("8000-8010", "127.0.0.1:8000-8010"),
            (":8080", ":8080"),
            ("10.0.0.1:8000-8010", "10.0.0.1:8000-8010"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(bind_address(text, false), expected, "{text}");
        }
        assert_eq!(bind_address("8080", true), "0.0.0.0:8080");
    }
}
