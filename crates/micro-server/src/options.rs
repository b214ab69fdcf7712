//! Options of a server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use micro_codec_core::{Codec, Codecs};
use micro_core::{Clock, Live, Random, SystemClock, SystemRandom};
use micro_registry_core::Endpoint;
use micro_transport_core::{Limits, Middleware, Posts, TlsIdentity};

/// Options for a [`Server`](crate::Server).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The version that is registered. Default `"latest"`.
    pub version: String,
    /// The node's id, unique among all nodes of the service. Default `<name>-<uuid>`.
    pub id: Option<String>,
    /// Where to listen: `host:port`, `host:0` for a free port, `host:8000-8010` for the first
    /// free one of a range.
    ///
    /// Default: a free port of the loopback interface, or, with [`tls`](Self::tls), of every
    /// interface. Plaintext reaches the network only if this says so.
    pub address: Option<String>,
    /// What is registered in place of the bound address: a host, or a host and a port.
    pub advertise: Option<String>,
    /// Facts about the node. Never secrets.
    pub metadata: BTreeMap<String, String>,
    /// The registry forgets the node unless it is registered again within this time. Default
    /// 30 s; a registry without TTLs is not given one.
    pub register_ttl: Duration,
    /// How often to register again, less up to a fifth, and the first time less up to nine tenths:
    /// it refreshes the TTL and brings back a registration that was lost. Default 10 s.
    pub register_interval: Duration,
    /// How long [`RunningServer::stop`](crate::RunningServer::stop) may take in all. Default 10 s.
    ///
    /// A tenth of it, at most 1 s, is the propagation delay: the time between leaving the
    /// registry and refusing new calls, in which clients learn of it. With a registry that no
    /// other process sees it is at most 50 ms. The rest is for the calls under way.
    pub stop_timeout: Duration,
    /// What a peer may cost.
    pub limits: Live<Limits>,
    /// TLS; plaintext without it.
    pub tls: Option<Live<TlsIdentity>>,
    /// Whether HTTP/1.1 is answered too, where the transport can. Default yes.
    pub http1: bool,
    /// What else is answered over HTTP/1.1, if the transport [takes](Posts::take) it.
    pub posts: Option<Posts>,
    /// What is registered as endpoints beside the methods of the contracts: subscriptions.
    pub endpoints: Vec<Endpoint>,
    /// What stands around every call, outermost first.
    pub middleware: Vec<Arc<dyn Middleware>>,
    /// The codecs known. Raw bytes always are.
    pub codecs: Codecs,
    /// Who may ask which methods and messages there are.
    pub reflection: Reflection,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub random: Arc<dyn Random>,
}

/// Who may use the reflection service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reflection {
    /// Everybody whom the middleware lets through: for servers with auth.
    On,
    /// Peers on this machine only; others get `PermissionDenied`.
    #[default]
    LocalOnly,
    /// Nobody: the service is not there.
    Off,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            version: "latest".to_owned(),
            id: None,
            address: None,
            advertise: None,
            metadata: BTreeMap::new(),
            register_ttl: Duration::from_secs(30),
            register_interval: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(10),
            limits: Live::default(),
            tls: None,
            http1: true,
            posts: None,
            endpoints: Vec::new(),
            middleware: Vec::new(),
            codecs: Codecs::new(),
            reflection: Reflection::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

impl ServerOptions {
    /// Sets [`version`](Self::version).
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets [`id`](Self::id).
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets [`address`](Self::address).
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets [`advertise`](Self::advertise).
    #[must_use]
    pub fn with_advertise(mut self, advertise: impl Into<String>) -> Self {
        self.advertise = Some(advertise.into());
        self
    }

    /// Adds one of the [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets [`register_ttl`](Self::register_ttl).
    #[must_use]
    pub fn with_register_ttl(mut self, ttl: Duration) -> Self {
        self.register_ttl = ttl;
        self
    }

    /// Sets [`register_interval`](Self::register_interval).
    #[must_use]
    pub fn with_register_interval(mut self, interval: Duration) -> Self {
        self.register_interval = interval;
        self
    }

    /// Sets [`stop_timeout`](Self::stop_timeout).
    #[must_use]
    pub fn with_stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
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

    /// Sets [`http1`](Self::http1).
    #[must_use]
    pub fn with_http1(mut self, http1: bool) -> Self {
        self.http1 = http1;
        self
    }

    /// Sets [`posts`](Self::posts).
    #[must_use]
    pub fn with_posts(mut self, posts: Posts) -> Self {
        self.posts = Some(posts);
        self
    }

    /// Adds one of the [`endpoints`](Self::endpoints).
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds [`middleware`](Self::middleware), inside of what is there.
    #[must_use]
    pub fn with_middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }

    /// Adds one of the [`codecs`](Self::codecs).
    #[must_use]
    pub fn with_codec(mut self, codec: impl Codec) -> Self {
        self.codecs = self.codecs.with(codec);
        self
    }

    /// Sets [`codecs`](Self::codecs).
    #[must_use]
    pub fn with_codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Sets [`reflection`](Self::reflection).
    #[must_use]
    pub fn with_reflection(mut self, reflection: Reflection) -> Self {
        self.reflection = reflection;
        self
    }

    /// Sets [`clock`](Self::clock).
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets [`random`](Self::random).
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// The time between leaving the registry and refusing new calls.
    pub(crate) fn propagation(&self, shared: bool) -> Duration {
        let most = if shared { 1000 } else { 50 };
        (self.stop_timeout / 10).min(Duration::from_millis(most))
    }

    /// Where to listen.
    pub(crate) fn bind(&self) -> &str {
        match (&self.address, &self.tls) {
            (Some(address), _) => address,
            (None, None) => "127.0.0.1:0",
            (None, Some(_)) => "0.0.0.0:0",
        }
    }
}
