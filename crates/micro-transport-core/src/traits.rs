//! The traits of this crate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use micro_core::{Clock, SystemClock, async_trait};

use crate::{BoxFuture, Context, Limits, Live, Posts, Request, Response, Result, TlsIdentity};

/// A way for calls to travel.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The transport's name, as in its URL scheme and in node metadata: `"grpc"`, `"memory"`.
    fn backend(&self) -> &'static str;

    /// Connects to a node. The result is ready for calls: negotiation is over.
    ///
    /// Dropping the future gives up and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// `Unavailable`, and unprocessed, if the node cannot be reached; `Unauthenticated` if it is
    /// not who it should be; `InvalidArgument` for an address that is none;
    /// `DeadlineExceeded` after [`DialOptions::timeout`].
    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>>;

    /// Binds an address. Connections wait until [`Listener::serve`].
    ///
    /// Port 0 takes any free one; `host:8000-8010` the first free one of a range.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the address is taken, `InvalidArgument` if it is none.
    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>>;
}

/// Options for [`Transport::dial`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DialOptions {
    /// How long connecting may take. Default 5 s.
    pub timeout: Duration,
    /// What a message and a connection may cost.
    pub limits: Live<Limits>,
    /// TLS; plaintext without it.
    pub tls: Option<Live<TlsIdentity>>,
    /// The name that the node's certificate must carry: a DNS name, an IP address or a
    /// `spiffe://` identity. The address's host if there is none.
    pub expect: Option<String>,
    /// What the node's listener advertised; security never comes from here.
    pub metadata: BTreeMap<String, String>,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            limits: Live::default(),
            tls: None,
            expect: None,
            metadata: BTreeMap::new(),
        }
    }
}

impl DialOptions {
    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
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

    /// Sets [`expect`](Self::expect).
    #[must_use]
    pub fn with_expect(mut self, expect: impl Into<String>) -> Self {
        self.expect = Some(expect.into());
        self
    }

    /// Sets [`metadata`](Self::metadata).
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }
}

/// One connection to one node. Dropping the last handle closes it once its calls are over.
#[async_trait]
pub trait Connection: fmt::Debug + Send + Sync + 'static {
    /// Makes a call. The transport sends the context's deadline and attempt along.
    ///
    /// Dropping the future, or a streamed response's body, cancels the call at the other side.
    /// The future ends by the context's deadline and cancellation only if the caller sees to it:
    /// the client does, for all transports alike.
    ///
    /// # Errors
    ///
    /// What the handler failed with; `Unavailable` if the connection broke, and then unprocessed
    /// if the call provably never reached a handler.
    async fn call(&self, cx: &Context, request: Request) -> Result<Response>;

    /// Whether new calls may be made: false once the peer is going away or is gone.
    fn is_open(&self) -> bool;

    /// Resolves when [`is_open`](Self::is_open) has become false. Calls under way may go on.
    async fn closed(&self);
}

/// Options for [`Transport::listen`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// What a peer may cost.
    pub limits: Live<Limits>,
    /// TLS; plaintext without it.
    pub tls: Option<Live<TlsIdentity>>,
    /// Whether HTTP/1.1 is answered too, where the transport can. Default yes.
    pub http1: bool,
    /// What else is answered over HTTP/1.1; a listener that does so [takes](Posts::take) it.
    pub posts: Option<Posts>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            limits: Live::default(),
            tls: None,
            http1: true,
            posts: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl ListenOptions {
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

    /// Sets [`clock`](Self::clock).
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

/// A bound address.
#[async_trait]
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// The address bound, with the real port: `127.0.0.1:41233`.
    fn address(&self) -> String;

    /// What goes into the node's metadata for those who dial it.
    fn advertise(&self) -> BTreeMap<String, String>;

    /// Answers calls until [`Stop`] says to end and all is over.
    ///
    /// The listener **pushes**: it polls the handler's future in place, and moves it to a slot or
    /// task of its own only if it is pending. It drops the future when the caller is gone (after
    /// cancelling its context) or the call's deadline has passed.
    /// Dropping this future closes everything at once.
    ///
    /// # Errors
    ///
    /// What made serving impossible; a peer's mistakes never do.
    async fn serve(self: Box<Self>, handler: Arc<dyn Handler>, stop: Live<Stop>) -> Result<()>;
}

/// How far a listener is to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// Serve.
    #[default]
    Run,
    /// Accept no new connection, tell peers to go away (GOAWAY), finish what is under way until
    /// then, and close.
    Drain {
        /// When to close whatever is left.
        until: Instant,
    },
    /// Close at once.
    Close,
}

/// Answers calls: the server side of a transport.
///
/// The future is `'static`, so that a listener may move it; it never panics on a peer's input.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call.
    fn call(self: Arc<Self>, cx: Context, request: Request)
    -> BoxFuture<'static, Result<Response>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
        (**self).dial(address, opts).await
    }

    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>> {
        (**self).listen(address, opts).await
    }
}

// These must stay usable as trait objects.
const _: fn(&dyn Transport, &dyn Connection, &dyn Listener, &dyn Handler) = |_, _, _, _| ();
