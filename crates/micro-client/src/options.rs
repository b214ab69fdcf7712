//! How a client works, and how one call is made.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_codec_core::{Codec, Codecs};
use micro_core::{Clock, Live, Random, SystemClock, SystemRandom};
use micro_selector_core::Entry;
use micro_transport_core::{HedgePolicy, Limits, Middleware, Policies, TlsIdentity};

/// What a call does while no node of its service is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discovery {
    /// It fails at once.
    FailFast,
    /// It waits so long at most, and not beyond its deadline. The default is 2 s, so that the
    /// order in which services start does not matter.
    WaitFor(Duration),
    /// It waits until its deadline.
    WaitForReady,
}

impl Default for Discovery {
    fn default() -> Self {
        Self::WaitFor(Duration::from_secs(2))
    }
}

/// How a [`Client`](crate::Client) works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The name of the calling service, sent as `micro-from-service`. Default none.
    pub name: Option<String>,
    /// The namespace, named in errors. The registry is opened within it.
    pub namespace: String,
    /// The time of a call that brings no deadline; streams have none by default. Default 30 s.
    pub timeout: Duration,
    /// The most repetitions of a call, 10 at most, each on another node while there is one: of calls that
    /// provably never ran, and, within the budget, of idempotent ones that failed. Default 2.
    ///
    /// The budget is 20 % of the calls and 10 a second, shared with hedges and by all services.
    pub retries: u32,
    /// What differs per service and method: timeout, retries, hedging. Read once per call, and
    /// stronger than the two above; default none, which costs nothing.
    ///
    /// The limits in it are kept by `micro-limit`'s `PolicyLimits`, as middleware of the same value.
    pub policies: Option<Live<Policies>>,
    /// What a call does while no node of its service is known.
    pub discovery: Discovery,
    /// How long connecting to a node may take. Default 5 s.
    pub dial_timeout: Duration,
    /// The most connections to one node. Default 4.
    pub connections: usize,
    /// The calls in flight on each connection of a node that make the client open another one.
    /// Default 32.
    pub calls_per_connection: usize,
    /// What messages and connections may cost.
    pub limits: Live<Limits>,
    /// TLS; plaintext without it.
    pub tls: Option<Live<TlsIdentity>>,
    /// The codecs known.
    pub codecs: Codecs,
    /// What stands around every call, outermost first.
    pub middleware: Vec<Arc<dyn Middleware>>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub random: Arc<dyn Random>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            name: None,
            namespace: String::new(),
            timeout: Duration::from_secs(30),
            retries: 2,
            policies: None,
            discovery: Discovery::default(),
            dial_timeout: Duration::from_secs(5),
            connections: 4,
            calls_per_connection: 32,
            limits: Live::default(),
            tls: None,
            codecs: Codecs::new(),
            middleware: Vec::new(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

impl ClientOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets [`namespace`](Self::namespace).
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`retries`](Self::retries).
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets [`policies`](Self::policies).
    #[must_use]
    pub fn with_policies(mut self, policies: impl Into<Live<Policies>>) -> Self {
        self.policies = Some(policies.into());
        self
    }

    /// Sets [`discovery`](Self::discovery).
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Sets [`dial_timeout`](Self::dial_timeout).
    #[must_use]
    pub fn with_dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// Sets [`connections`](Self::connections), at least one.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Sets [`calls_per_connection`](Self::calls_per_connection), at least one.
    #[must_use]
    pub fn with_calls_per_connection(mut self, calls: usize) -> Self {
        self.calls_per_connection = calls.max(1);
        self
    }

    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn with_limits(mut self, limits: impl Into<Live<Limits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, tls: impl Into<Live<TlsIdentity>>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// Adds a codec.
    #[must_use]
    pub fn with_codec(mut self, codec: impl Codec) -> Self {
        self.codecs = self.codecs.with(codec);
        self
    }

    /// Sets the codecs known.
    #[must_use]
    pub fn with_codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Adds middleware, inside of what was added before.
    #[must_use]
    pub fn with_middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Sets where time comes from.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets where chance comes from.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }
}

pub(crate) type NodeFilter = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// How a call is made, where it differs from the client's way.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The time for the call. The context's deadline counts if it is earlier.
    pub timeout: Option<Duration>,
    /// The content type, instead of the one that the message types suggest.
    pub content_type: Option<Cow<'static, str>>,
    /// The node's address, `host:port`, instead of discovery.
    pub address: Option<Arc<str>>,
    /// Only nodes of this version.
    pub version: Option<Arc<str>>,
    /// The most repetitions, instead of the client's.
    pub retries: Option<u32>,
    /// Whether the call may be repeated though it may have run.
    pub idempotent: Option<bool>,
    /// When the call, if it is idempotent, is made on a second node as well, instead of what the
    /// policies say.
    pub hedge: Option<HedgePolicy>,
    /// Calls of the same key keep to one node, if the selector can.
    pub key: Option<u64>,
    /// What the call does while no node is known, instead of the client's way.
    pub discovery: Option<Discovery>,
    pub(crate) filter: Option<NodeFilter>,
}

impl CallOptions {
    /// The client's way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`content_type`](Self::content_type).
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets [`address`](Self::address).
    #[must_use]
    pub fn with_address(mut self, address: impl Into<Arc<str>>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets [`version`](Self::version).
    #[must_use]
    pub fn with_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets [`retries`](Self::retries).
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Sets [`idempotent`](Self::idempotent).
    #[must_use]
    pub fn with_idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// Sets [`hedge`](Self::hedge).
    #[must_use]
    pub fn with_hedge(mut self, hedge: HedgePolicy) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn with_key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets [`discovery`](Self::discovery).
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// Takes only nodes for which `filter` returns true, in addition to earlier filters.
    #[must_use]
    pub fn with_filter(mut self, filter: impl Fn(&Entry) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(match self.filter.take() {
            Some(earlier) => Arc::new(move |entry| earlier(entry) && filter(entry)),
            None => Arc::new(filter),
        });
        self
    }

    /// Takes only nodes whose metadata say `name` = `value`.
    #[must_use]
    pub fn with_label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.with_filter(move |entry| entry.node().metadata.get(&name) == Some(&value))
    }

    /// Takes only nodes that were registered with this endpoint, `Greeter.Hello`: for methods that
    /// not every version has. A node that lists none is left out.
    #[must_use]
    pub fn with_endpoint(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with_filter(move |entry| entry.has_endpoint(&name))
    }

    pub(crate) fn admits(&self, entry: &Entry) -> bool {
        self.version
            .as_deref()
            .is_none_or(|version| entry.version() == version)
            && self.filter.as_ref().is_none_or(|filter| filter(entry))
    }

    pub(crate) fn filters(&self) -> bool {
        self.version.is_some() || self.filter.is_some()
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions")
            .field("timeout", &self.timeout)
            .field("content_type", &self.content_type)
            .field("address", &self.address)
            .field("version", &self.version)
            .field("retries", &self.retries)
            .field("idempotent", &self.idempotent)
            .field("hedge", &self.hedge)
            .field("key", &self.key)
            .field("filter", &self.filter.is_some())
            .finish_non_exhaustive()
    }
}
