//! A server's life: listen, register, serve; leave the registry, drain, end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use micro_core::{Clock, Error, ErrorKind, Live, LiveWriter, Random, Result};
use micro_registry_core::{
    DeregisterOptions, Node, RegisterOptions, Registry, Service, check_name,
};
use micro_transport_core::{Handler, ListenOptions, Listener, Stop, Transport};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::health::{Health, Stage};
use crate::reflection::{self, Index};
use crate::schema::Catalog;
use crate::{
    Contract, HandlerOptions, Reflection, Routes, ServerHandler, ServerOptions, Stats, advertise,
    models,
};

/// When the program started, in milliseconds since 1970, in a node's metadata.
const GENERATION: &str = "micro-generation";
/// How long one attempt to register or deregister may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How many attempts to register [`Server::start`] waits for; it begins none after [`ATTEMPT`].
const FIRST_ATTEMPTS: u32 = 3;
/// The pause after the first attempt that failed; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long leaving the registry may take when the server ends without a graceful stop.
const HASTY: Duration = Duration::from_secs(1);
/// How long a listener may take to end beyond the time that it was given.
const GRACE: Duration = Duration::from_secs(1);

/// A server that is not running yet.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use micro_codec_core::shape;
/// # use micro_server::{Routes, Server};
/// # async fn run(
/// #     registry: Arc<dyn micro_registry_core::Registry>,
/// #     transport: Arc<dyn micro_transport_core::Transport>,
/// # ) -> micro_core::Result<()> {
/// let echo = Routes::dynamic("Echo").unary(
///     "Say",
///     shape!(String),
///     shape!(String),
///     |_cx, text: String| async move { Ok(text) },
/// );
/// let running = Server::new("echo").handle(echo).start(registry, transport).await?;
/// println!("echo listens on {}", running.address());
/// running.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing before it is started"]
pub struct Server {
    name: String,
    options: ServerOptions,
    routes: Vec<Routes>,
}

impl Server {
    /// A server for the service of this registry name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            options: ServerOptions::default(),
            routes: Vec::new(),
        }
    }

    /// Sets the options.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// Adds a contract with its handlers.
    pub fn handle(mut self, contract: impl Contract) -> Self {
        self.routes.push(contract.routes());
        self
    }

    /// Listens, serves and registers.
    ///
    /// A registry that cannot be reached does not keep the server from running: after three
    /// attempts this returns, [`RunningServer::is_registered`] says no, and the attempts go on
    /// in the background. Dropping the future stops what was started.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name or an option that is wrong; as [`ServerHandler::new`] for the
    /// contracts; as [`Transport::listen`] for the address; and what the registry says if it can
    /// be reached and will never take the registration (`InvalidArgument`, `Unimplemented`,
    /// `PermissionDenied`, `Unauthenticated`). `FailedPrecondition` outside of a tokio runtime.
    pub async fn start(
        self,
        registry: Arc<dyn Registry>,
        transport: Arc<dyn Transport>,
    ) -> Result<RunningServer> {
        let Self {
            name,
            options,
            routes,
        } = self;
        check_name(&name).map_err(|err| err.with_operation("server.start"))?;
        check(&options)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::failed_precondition("a server needs a tokio runtime; use #[tokio::main]")
                .with_operation("server.start")
        })?;
        let names: Vec<_> = routes
            .iter()
            .map(|routes| routes.full_name(&name))
            .collect();
        let health = Health::new(names.iter().map(String::as_str));
        let own = own(&name, names, &routes, &health, options.reflection)?;
        let mut endpoints = models::endpoints(&routes, &Catalog::new(&name, &routes)?);
        endpoints.extend(options.endpoints.iter().cloned());
        let opts = HandlerOptions::default().with_codecs(options.codecs.clone());
        let opts = HandlerOptions {
            middleware: options.middleware.clone(),
            ..opts
        };
        let handler = ServerHandler::with_own(&name, routes, own, opts)?;

        let mut listen = ListenOptions::default()
            .with_limits(options.limits.clone())
            .with_http1(options.http1)
            .with_clock(Arc::clone(&options.clock));
        listen.tls = options.tls.clone();
        listen.posts = options.posts.clone();
        let listener = transport.listen(options.bind(), listen).await?;
        let address = listener.address();
        let advertised = advertise::address(
            &address,
            options.advertise.as_deref(),
            advertise::interfaces,
        )?;
        let node = node(
            &name,
            &options,
            advertised,
            listener.advertise(),
            &*registry,
            &*transport,
        );
        let mut service = Service::new(&name, &options.version).with_node(node);
        service.endpoints = endpoints;
        warn_if_unreachable(&service.nodes[0].address, &*registry);

        let (commands, commanded) = watch::channel(Command::Run);
        let (outcome, ended) = watch::channel(None);
        let (first, started) = oneshot::channel();
        let (stop, stopping) = Live::channel(Stop::Run);
        let shared = Arc::new(Shared {
            address,
            service,
            registered: AtomicBool::new(false),
            handler: Arc::clone(&handler),
            health,
        });
        let propagation = options.propagation(registry.capabilities().shared);
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            registry,
            commands: commanded,
            stop,
            serve: Serve::spawn(listener, handler, stopping),
            propagation,
            stop_timeout: options.stop_timeout,
            ttl: options.register_ttl,
            interval: options.register_interval,
            seen: false,
            ever_registered: false,
            clock: options.clock,
            random: options.random,
        };
        // It ends once `commands` is dropped, or says to, or the listener ends.
        runtime.spawn(async move {
            let ended = supervisor.run(first).await;
            outcome.send_replace(Some(Arc::new(ended)));
        });
        let running = RunningServer {
            shared,
            commands,
            ended,
        };
        match started.await {
            Ok(Ok(())) => {
                let node = running.node();
                // Whoever runs the server says more, and louder.
                tracing::debug!(
                    service = %running.shared.service.name,
                    version = %running.shared.service.version,
                    id = %node.id,
                    listen = %running.address(),
                    advertise = %node.address,
                    registered = running.is_registered(),
                    "serving"
                );
                Ok(running)
            }
            Ok(Err(err)) => Err(err),
            // The supervisor ended before it could say how the start went.
            Err(_) => {
                running.wait().await?;
                Err(Error::cancelled("the runtime shuts down").with_operation("server.start"))
            }
        }
    }
}

/// The services that every server answers: health, and reflection of them all.
pub(crate) fn own(
    name: &str,
    mut names: Vec<String>,
    routes: &[Routes],
    health: &Health,
    reflection: Reflection,
) -> Result<Vec<Routes>> {
    let mut own = vec![health.routes()];
    if reflection == Reflection::Off {
        return Ok(own);
    }
    names.extend(own.iter().map(|own| own.full_name(name)));
    names.extend(reflection::NAMES.map(str::to_owned));
    // Reflection describes itself, so it is there once for its description, and once to answer.
    let described = reflection::routes(&Arc::default(), health, reflection);
    let catalog = Catalog::new(name, routes.iter().chain(&own).chain(&described))?;
    let index = Arc::new(Index::new(catalog, names));
    own.extend(reflection::routes(&index, health, reflection));
    Ok(own)
}

fn check(options: &ServerOptions) -> Result<()> {
    if !options.register_interval.is_zero() && options.register_ttl <= options.register_interval {
        return Err(Error::invalid_argument(
            "register_ttl must be longer than register_interval, or the node is forgotten in between",
        )
        .with_operation("server.start")
        .with_context("register_ttl", format_args!("{:?}", options.register_ttl))
        .with_context(
            "register_interval",
            format_args!("{:?}", options.register_interval),
        ));
    }
    Ok(())
}

fn node(
    name: &str,
    options: &ServerOptions,
    address: String,
    advertised: BTreeMap<String, String>,
    registry: &dyn Registry,
    transport: &dyn Transport,
) -> Node {
    let id = options
        .id
        .clone()
        .unwrap_or_else(|| format!("{name}-{}", uuid(&*options.random)));
    let mut node = Node::new(id, address);
    // go-micro's fleets look at these.
    for (key, value) in [
        ("transport", transport.backend()),
        ("protocol", transport.backend()),
        ("server", transport.backend()),
        ("registry", registry.backend()),
    ] {
        node.metadata.insert(key.to_owned(), value.to_owned());
    }
    // Two programs that are given one id are told apart by it: what the earlier one registered
    // does not replace, nor come back after, what the later one did.
    let since_1970 = options.clock.wall().duration_since(UNIX_EPOCH);
    let generation = since_1970.map_or(0, |since| since.as_millis());
    node.metadata
        .insert(GENERATION.to_owned(), generation.to_string());
    node.metadata.extend(options.metadata.clone());
    // Those who dial must be able to rely on what the transport says.
    node.metadata.extend(advertised);
    node
}

fn uuid(random: &dyn Random) -> uuid::Uuid {
    let bits = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

fn warn_if_unreachable(address: &str, registry: &dyn Registry) {
    let capabilities = registry.capabilities();
    let loopback = address
        .parse::<SocketAddr>()
        .is_ok_and(|socket| socket.ip().to_canonical().is_loopback());
    if loopback && capabilities.shared && !capabilities.local {
        tracing::info!(
            address,
            registry = registry.backend(),
            "only this machine can call a loopback address; set the server's address to open it"
        );
    }
}

/// What somebody wants of a running server. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Command {
    Run,
    Stop,
    StopNow,
}

/// What the handle and the supervisor share.
struct Shared {
    address: String,
    service: Service,
    registered: AtomicBool,
    handler: Arc<ServerHandler>,
    health: Health,
}

/// A server that runs.
///
/// Dropping it closes everything at once; the node leaves the registry in the background, within
/// two seconds, as long as the runtime lives, and by its TTL otherwise. Call
/// [`stop`](Self::stop) to lose no call.
#[must_use = "dropping it ends the server"]
pub struct RunningServer {
    shared: Arc<Shared>,
    commands: watch::Sender<Command>,
    ended: watch::Receiver<Option<Arc<Result<StopReport>>>>,
}

/// How a server ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether the node left the registry. If not, it is forgotten after its TTL.
    pub deregistered: bool,
    /// Whether it was closed without waiting for the calls under way.
    pub forced: bool,
    /// Calls that did not come to their end since the stop began: cut off, or given up.
    pub unfinished: u64,
}

impl RunningServer {
    /// The address bound, with the real port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The node as it is registered.
    #[must_use]
    pub fn node(&self) -> &Node {
        // There is exactly one; see `Server::start`.
        &self.shared.service.nodes[0]
    }

    /// The service as it is registered.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.shared.service
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.node().id
    }

    /// Whether the last attempt to register succeeded.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.shared.registered.load(Ordering::Acquire)
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.handler.stats()
    }

    /// Says to the health service whether services are ready.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Stops without losing a call: readiness fails, the node leaves the registry, calls are
    /// accepted for the propagation delay, peers are told to go away, and what is under way may
    /// end, all within [`stop_timeout`](ServerOptions::stop_timeout).
    ///
    /// Dropping the future does not take the stop back. Called again it waits for the same end.
    ///
    /// # Errors
    ///
    /// What made serving impossible, if that ended the server.
    pub async fn stop(&self) -> Result<StopReport> {
        self.command(Command::Stop);
        self.wait().await
    }

    /// Closes everything at once, also while [`stop`](Self::stop) waits: for a second signal.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub async fn stop_now(&self) -> Result<StopReport> {
        self.command(Command::StopNow);
        self.wait().await
    }

    /// Waits until the server has ended, for whatever reason.
    ///
    /// # Errors
    ///
    /// What made serving impossible, if that ended the server.
    pub async fn wait(&self) -> Result<StopReport> {
        let mut ended = self.ended.clone();
        let Ok(ended) = ended.wait_for(Option::is_some).await else {
            return Err(Error::cancelled("the runtime shuts down").with_operation("server.wait"));
        };
        match ended.as_deref() {
            Some(Ok(report)) => Ok(report.clone()),
            Some(Err(err)) => Err(copy(err)),
            None => Ok(StopReport::default()),
        }
    }

    fn command(&self, command: Command) {
        self.commands.send_if_modified(|known| {
            let further = command > *known;
            *known = (*known).max(command);
            further
        });
    }
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer")
            .field("service", &self.shared.service.name)
            .field("address", &self.shared.address)
            .field("node", self.node())
            .field("registered", &self.is_registered())
            .finish_non_exhaustive()
    }
}

/// Several may wait for the one error.
fn copy(err: &Error) -> Error {
    let copy = Error::new(err.kind(), err.message().to_owned()).with_operation(err.operation());
    err.context()
        .fold(copy, |copy, (key, value)| copy.with_context(key, value))
}

/// The listener's task, which ends with this handle.
struct Serve(JoinHandle<Result<()>>);

impl Serve {
    fn spawn(listener: Box<dyn Listener>, handler: Arc<ServerHandler>, stop: Live<Stop>) -> Self {
        let handler: Arc<dyn Handler> = handler;
        Self(tokio::spawn(listener.serve(handler, stop)))
    }

    /// Waits for its end.
    async fn ended(&mut self) -> Result<()> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(err) => Err(Error::internal("the listener's task panicked")
                .with_operation("server.serve")
                .with_source(err)),
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Owns the listener and the registration from start to end.
struct Supervisor {
    shared: Arc<Shared>,
    registry: Arc<dyn Registry>,
    commands: watch::Receiver<Command>,
    stop: LiveWriter<Stop>,
    serve: Serve,
    propagation: Duration,
    stop_timeout: Duration,
    ttl: Duration,
    interval: Duration,
    /// Whether others may have seen the node in the registry.
    seen: bool,
    ever_registered: bool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why the server no longer just runs.
enum End {
    Asked(Command),
    Served(Result<()>),
    Refused(Error),
}

/// Resolves when somebody wants this much or more; a handle that is gone wants all.
async fn wanted(commands: &mut watch::Receiver<Command>, least: Command) -> Command {
    match commands.wait_for(|command| *command >= least).await {
        Ok(command) => *command,
        Err(_) => Command::StopNow,
    }
}

impl Supervisor {
    async fn run(mut self, first: oneshot::Sender<Result<()>>) -> Result<StopReport> {
        let mut first = Some(first);
        let end = self.keep_registered(&mut first).await;
        let cancelled = |supervisor: &Self| supervisor.shared.handler.stats().cancelled();
        let before = cancelled(&self);
        let mut report = StopReport::default();
        self.shared.health.advance(Stage::Stopping);
        let result = match end {
            End::Asked(Command::StopNow) => {
                report.forced = true;
                self.close(&mut report).await
            }
            End::Asked(_) => self.drain(&mut report).await,
            End::Refused(err) => {
                let closed = self.close(&mut report).await;
                if let Some(first) = first.take() {
                    // Nobody waits any more: then nobody wants to know.
                    let _ = first.send(Err(err));
                    closed
                } else {
                    Err(err)
                }
            }
            End::Served(result) => {
                report.deregistered = self.leave(HASTY).await;
                result.and_then(|()| {
                    Err(Error::unavailable("the listener ended by itself")
                        .with_operation("server.serve"))
                })
            }
        };
        report.unfinished = cancelled(&self).saturating_sub(before);
        if let Err(err) = &result {
            tracing::error!(service = %self.shared.service.name, %err, "the server ended");
        } else {
            tracing::info!(service = %self.shared.service.name, ?report, "the server ended");
        }
        result.map(|()| report)
    }

    /// Registers again and again until something else is to be done.
    async fn keep_registered(&mut self, first: &mut Option<oneshot::Sender<Result<()>>>) -> End {
        let began = self.clock.now();
        let mut failures = 0;
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                command = wanted(&mut self.commands, Command::Stop) => return End::Asked(command),
                result = self.serve.ended() => return End::Served(result),
                () = sleep(pause) => {}
            }
            // From here on it may be known, whether we learn of it or not.
            self.seen = true;
            let mut register = register(&self.registry, &self.shared.service, self.ttl);
            // What is on its way already must not arrive behind the farewell, so an attempt is
            // waited for, whatever happens.
            let result = tokio::select! {
                biased;
                command = wanted(&mut self.commands, Command::Stop) => {
                    if command == Command::StopNow {
                        self.stop.set(Stop::Close);
                    }
                    let mut attempt = pin!(timeout(HASTY, register));
                    tokio::select! {
                        biased;
                        _ = &mut attempt => return End::Asked(command),
                        _ = wanted(&mut self.commands, Command::StopNow) => {}
                    }
                    self.stop.set(Stop::Close);
                    // Whether it got through makes no difference: the farewell follows.
                    let _ = attempt.await;
                    return End::Asked(Command::StopNow);
                }
                result = self.serve.ended() => {
                    let _ = timeout(HASTY, register).await;
                    return End::Served(result);
                }
                result = &mut register => result,
            };
            let registered = result.is_ok();
            let before = self.shared.registered.swap(registered, Ordering::AcqRel);
            match result {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(service = %self.shared.service.name, "registered again");
                    }
                    failures = 0;
                }
                Err(err) if first.is_some() && is_final(&err) => return End::Refused(err),
                Err(err) => {
                    failures += 1;
                    if before || failures == 1 || failures == FIRST_ATTEMPTS {
                        tracing::warn!(
                            service = %self.shared.service.name,
                            registry = self.registry.backend(),
                            ?err,
                            "the service cannot be registered; it runs on, and the attempts too"
                        );
                    }
                }
            }
            let first_success = registered && !self.ever_registered;
            self.ever_registered |= registered;
            let enough = registered
                || failures >= FIRST_ATTEMPTS
                || self.clock.now().saturating_duration_since(began) >= ATTEMPT;
            if enough && let Some(first) = first.take() {
                // If nobody waits any more, `commands` says so.
                let _ = first.send(Ok(()));
            }
            pause = self.pause(failures, first_success);
        }
    }

    /// The time to the next attempt, by chance, so that a fleet started at once, or one that met
    /// the same fault, does not stay in step. What the registry lost is back within the interval.
    fn pause(&self, failures: u32, first: bool) -> Duration {
        let usual = if self.interval.is_zero() {
            Duration::MAX
        } else {
            self.interval
        };
        let pause = match failures.checked_sub(1) {
            None if usual == Duration::MAX => return usual,
            // Those that started together are spread over the interval.
            None if first => return self.share(usual, 10),
            None => return self.share(usual, 80),
            // A registry that is back is found within the interval, at most 10 s.
            Some(doublings) => BACKOFF
                .saturating_mul(1 << doublings.min(10))
                .min(usual)
                .min(Duration::from_secs(10)),
        };
        self.share(pause, 10)
    }

    /// A part of the whole, by chance, but not less than so many percent.
    fn share(&self, whole: Duration, least: u64) -> Duration {
        let percent = least + self.random.next_u64() % (101 - least);
        whole / 100 * u32::try_from(percent).unwrap_or(100)
    }

    /// Closes everything at once.
    async fn close(&mut self, report: &mut StopReport) -> Result<()> {
        self.shared.health.advance(Stage::Ending);
        self.stop.set(Stop::Close);
        let mut serve = pin!(timeout(GRACE, self.serve.ended()));
        let leave = leave(&self.registry, &self.shared, HASTY);
        let (served, left) = tokio::join!(&mut serve, leave);
        report.deregistered = left;
        // What has not ended by itself ends with its task.
        served.unwrap_or(Ok(()))
    }

    async fn leave(&self, within: Duration) -> bool {
        leave(&self.registry, &self.shared, within).await
    }

    /// Leaves the registry, waits until others know, and lets what is under way come to its end.
    async fn drain(&mut self, report: &mut StopReport) -> Result<()> {
        let until = self.clock.now() + self.stop_timeout;
        let seen = self.seen;
        let farewell = async {
            let left = leave(
                &self.registry,
                &self.shared,
                (self.stop_timeout / 2).min(ATTEMPT),
            );
            report.deregistered = left.await;
            if seen {
                sleep(self.propagation).await;
            }
        };
        let mut forced = tokio::select! {
            biased;
            _ = wanted(&mut self.commands, Command::StopNow) => true,
            result = self.serve.ended() => return result,
            () = farewell => false,
        };
        if !forced {
            self.shared.health.advance(Stage::Ending);
            self.stop.set(Stop::Drain { until });
            let left = until.saturating_duration_since(self.clock.now());
            tokio::select! {
                biased;
                result = self.serve.ended() => return result,
                _ = wanted(&mut self.commands, Command::StopNow) => forced = true,
                () = sleep(left + GRACE) => {
                    tracing::warn!("the listener did not end in time and is closed");
                    return Ok(());
                }
            }
        }
        report.forced = forced;
        let left = report.deregistered;
        self.close(report).await?;
        report.deregistered |= left;
        Ok(())
    }
}

fn is_final(err: &Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::InvalidArgument
            | ErrorKind::Unimplemented
            | ErrorKind::PermissionDenied
            | ErrorKind::Unauthenticated
    )
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

fn register<'a>(
    registry: &'a Arc<dyn Registry>,
    service: &'a Service,
    ttl: Duration,
) -> Attempt<'a> {
    let mut opts = RegisterOptions::default();
    if registry.capabilities().ttl {
        opts = opts.with_ttl(ttl);
    }
    Box::pin(async move {
        timeout(ATTEMPT, registry.register(service, opts))
            .await
            .unwrap_or_else(|_| {
                Err(Error::unavailable("the registry does not answer")
                    .with_operation("registry.register"))
            })
    })
}

/// Says whether the node is out of the registry.
async fn leave(registry: &Arc<dyn Registry>, shared: &Shared, within: Duration) -> bool {
    // Also if it is not registered as far as we know: an attempt may have got through unseen. But
    // a registry that never answered is not waited for.
    let within = if shared.registered.load(Ordering::Acquire) {
        within
    } else {
        within.min(HASTY)
    };
    let mut last = None;
    let attempts = async {
        let mut pause = BACKOFF;
        loop {
            let opts = DeregisterOptions::default();
            match registry.deregister(&shared.service, opts).await {
                Ok(()) => return true,
                Err(err) if !err.is_retryable() => {
                    tracing::warn!(
                        ?err,
                        "the service cannot be deregistered; its TTL will do it"
                    );
                    return false;
                }
                Err(err) => {
                    last = Some(err);
                    sleep(pause).await;
                }
            }
            pause *= 2;
        }
    };
    let left = timeout(within, attempts).await.unwrap_or_else(|_| {
        tracing::warn!(
            registry = registry.backend(),
            err = ?last,
            "the registry was not told; if it knows the node, the TTL will end the registration"
        );
        false
    });
    if left {
        shared.registered.store(false, Ordering::Release);
    }
    left
}
