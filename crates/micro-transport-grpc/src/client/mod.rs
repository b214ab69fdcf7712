//! Connections to nodes.

pub(crate) mod call;
mod driver;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::client::SendRequest;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use micro_core::{Context, Error, Live, Result};
use micro_transport_core::{
    BoxFuture, Connection, DialOptions, Limits, Request, Response, async_trait,
};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::Instant;

use self::driver::Driver;
use crate::address;
use crate::error;
use crate::headers;
use crate::io::{Io, Raw, Tap};
use crate::known::Known;
use crate::lane::client::{Lane, LaneCall, Session};
use crate::lane::{self, Counters};

/// A connection; see [`GrpcTransport`](crate::GrpcTransport).
pub(crate) struct GrpcConnection {
    sender: SendRequest<Bytes>,
    pub(crate) limits: Live<Limits>,
    pub(crate) target: Target,
    uris: Known<Arc<str>, Uri>,
    names: headers::Names,
    pub(crate) state: Arc<State>,
    /// The fast lane, if the peer speaks it.
    lane: Option<Arc<Lane>>,
    /// The largest message that travels there.
    lane_message: usize,
    pub(crate) counters: Arc<Counters>,
    closed: watch::Receiver<bool>,
}

/// The parts that every request of a connection has in common, made once.
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    pub(crate) user_agent: HeaderValue,
    /// The same as metadata: name and value.
    pub(crate) agent: (Bytes, Bytes),
}

/// What the connection's handles share with its driver.
#[derive(Debug)]
pub(crate) struct State {
    open: AtomicBool,
    /// Calls under way: who asks for silence to be probed.
    active: AtomicUsize,
    /// Whether the handle is gone: no new call can come.
    released: AtomicBool,
    driver: AtomicWaker,
}

impl State {
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Active(Arc<State>);

impl Active {
    fn new(state: &Arc<State>) -> Self {
        state.active.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl GrpcConnection {
    /// Connects and negotiates within the options' time.
    pub(crate) async fn dial(
        address: &str,
        opts: DialOptions,
        lane: bool,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        #[cfg(not(feature = "tls"))]
        if opts.tls.is_some() {
            return Err(crate::no_tls("transport.dial"));
        }
        let (host, port) =
            address::host_and_port(address).map_err(|err| err.with_operation("transport.dial"))?;
        let limit = opts.timeout;
        match tokio::time::timeout(
            limit,
            Self::connect(address, host, port, opts, lane, counters),
        )
        .await
        {
            Ok(done) => done,
            Err(_) => Err(Error::deadline_exceeded("connecting took too long")
                .with_operation("transport.dial")
                .with_unprocessed(true)
                .with_context("address", address)
                .with_context("timeout_ms", limit.as_millis())),
        }
    }

    async fn connect(
        address: &str,
        host: &str,
        port: u16,
        opts: DialOptions,
        lane: bool,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let tcp = tcp(address, host, port, &opts).await?;
        tcp.set_nodelay(true)
            .map_err(|err| error::dial(err, address))?;
        #[cfg(feature = "tls")]
        let (raw, scheme) = match &opts.tls {
            Some(identity) => {
                let expect = opts.expect.as_deref().unwrap_or(host);
                let stream = crate::tls::connect(tcp, &identity.get_arc(), expect)
                    .await
                    .map_err(|err| {
                        err.with_operation("transport.dial")
                            .with_context("address", address)
                    })?;
                (Raw::Client(Box::new(stream)), Scheme::HTTPS)
            }
            None => (Raw::Plain(tcp), Scheme::HTTP),
        };
        #[cfg(not(feature = "tls"))]
        let (raw, scheme) = (Raw::Plain(tcp), Scheme::HTTP);
        let (io, tap) = Io::new(raw, Bytes::new()).tapped(false);
        let limits = opts.limits.get_arc();
        let failed = |err: h2::Error| not_http2(err, &tap, address);
        let (sender, mut h2) = settings(&limits).handshake(io).await.map_err(failed)?;
        // Ready means that the peer has spoken: its SETTINGS are here, and with them its limits.
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut h2).poll(cx) {
            std::task::Poll::Ready(ended) => {
                let err = ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into());
                std::task::Poll::Ready(Err(not_http2(err, &tap, address)))
            }
            std::task::Poll::Pending if tap.has_settings() => std::task::Poll::Ready(Ok(())),
            std::task::Poll::Pending => std::task::Poll::Pending,
        })
        .await?;
        let keepalive = keepalive(&limits, opts.metadata.contains_key(crate::MICRO));
        let (gone, closed) = watch::channel(false);
        let state = Arc::new(State {
            open: AtomicBool::new(!tap.is_going_away()),
            active: AtomicUsize::new(0),
            released: AtomicBool::new(false),
            driver: AtomicWaker::new(),
        });
        let target = Target::new(address, scheme)?;
        let announced = opts.metadata.get(lane::LANE).map(String::as_str);
        let session = if lane
            && announced == Some(lane::VERSION)
            && limits.lane_message > 0
            // One for the session, and one for what does not travel there.
            && h2.max_concurrent_send_streams() > 1
            && !counters.is_silent(address)
        {
            let opening = Session::open(&sender, &mut h2, &target, &opts.limits);
            match tokio::time::timeout(CONFIRMED_WITHIN.min(opts.timeout / 2), opening).await {
                Ok(Ok(Some(session))) => {
                    Counters::add(&counters.sessions, 1);
                    Some(session)
                }
                Ok(Ok(None)) | Err(_) => {
                    tracing::debug!(%address, "the peer does not speak the fast lane");
                    counters.set_silent(address, SPEAKS_NOT);
                    None
                }
                Ok(Err(err)) => {
                    counters.set_silent(address, BROKE);
                    return Err(not_http2(err, &tap, address));
                }
            }
        } else {
            None
        };
        let lane = session.as_ref().map(|session| Arc::clone(&session.lane));
        let lane_message = limits.lane_message;
        let driver = Driver::new(
            h2,
            tap,
            Arc::clone(&state),
            gone,
            &limits,
            keepalive,
            session.map(|session| (session, Arc::clone(&counters), address.to_owned())),
        );
        // The task ends by itself: with the connection, or when handle and calls are gone.
        drop(tokio::spawn(driver));
        Ok(Self {
            sender,
            limits: opts.limits,
            target,
            uris: Known::new(),
            names: headers::Names::new(),
            state,
            lane,
            lane_message,
            counters,
            closed,
        })
    }
}

/// How long a peer that announces the fast lane may take to confirm it: one round trip, or never,
/// if something in between does not pass streams on.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

/// How long a peer that does not speak it is left alone.
pub(crate) const SPEAKS_NOT: Duration = Duration::from_secs(600);
/// The same for one whose connection broke: mostly it is just being restarted.
const BROKE: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("grpc-rust-micro/", env!("CARGO_PKG_VERSION"));

impl Target {
    fn new(address: &str, scheme: Scheme) -> Result<Self> {
        Ok(Self {
            address: address.to_owned(),
            scheme,
            authority: Authority::try_from(address).map_err(|err| {
                Error::invalid_argument("the address is no authority")
                    .with_context("address", address.escape_debug())
                    .with_source(err)
            })?,
            user_agent: HeaderValue::from_static(USER_AGENT),
            agent: (
                Bytes::from_static(b"user-agent"),
                Bytes::from_static(USER_AGENT.as_bytes()),
            ),
        })
    }
}

/// Tries the addresses of a host one after the other, each with its share of the time.
async fn tcp(address: &str, host: &str, port: u16, opts: &DialOptions) -> Result<TcpStream> {
    let until = Instant::now() + opts.timeout.min(Duration::from_secs(86_400));
    let found: Vec<SocketAddr> = lookup_host((host, port))
        .await
        .map_err(|err| error::dial(err, address))?
        .collect();
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for (tried, at) in found.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - tried).unwrap_or(1);
        match tokio::time::timeout(share, TcpStream::connect(at)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(err)) => last = err,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(error::dial(last, address))
}

/// A negotiation that failed: what does the other side speak?
fn not_http2(err: h2::Error, tap: &Tap, address: &str) -> Error {
    // With TLS 1.3 a refused certificate is heard of only here.
    #[cfg(feature = "tls")]
    if let Some((kind, message)) = tap.tls_failure() {
        return Error::new(kind, message)
            .with_operation("transport.dial")
            .with_unprocessed(true)
            .with_context("address", address)
            .with_source(err);
    }
    let message = match tap.first() {
        [b'H', b'T', b'T', b'P', b'/', b'1', ..] => {
            "the peer speaks HTTP/1.1, not gRPC: is this the right port?"
        }
        [0x15 | 0x16, 0x03, ..] => "the peer speaks TLS: give DialOptions::tls",
        [0, 0, _, 7, ..] => "the peer is going away",
        [0, 0, 0, 0, 0, 0, 0, 0] => {
            "the peer closed the connection at once: it may be full or stopping, or it demands TLS"
        }
        _ => "the peer does not speak HTTP/2: is this the right port?",
    };
    Error::unavailable(message)
        .with_operation("transport.dial")
        .with_unprocessed(true)
        .with_context("address", address)
        .with_source(err)
}

/// How often a silent server is probed. grpc-go closes a connection that is probed more often than
/// every five minutes (gRFC A8), so a stranger is left alone unless the limits say otherwise.
fn keepalive(limits: &Limits, is_micro: bool) -> Duration {
    const STRANGER: Duration = Duration::from_secs(310);
    if is_micro || limits.keepalive != Limits::default().keepalive {
        limits.keepalive
    } else {
        STRANGER
    }
}

fn settings(limits: &Limits) -> h2::client::Builder {
    const LARGEST_WINDOW: u32 = (1 << 31) - 1;
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.stream_window.min(LARGEST_WINDOW))
        .initial_connection_window_size(limits.connection_window.min(LARGEST_WINDOW))
        .max_header_list_size(u32::try_from(limits.headers).unwrap_or(u32::MAX))
        .max_send_buffer_size(crate::server::SEND_BUFFER)
        .max_concurrent_reset_streams(1000)
        .max_local_error_reset_streams(Some(100));
    builder
}

impl fmt::Debug for GrpcConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcConnection")
            .field("address", &self.target.address)
            .field("open", &self.state.is_open())
            .field("calls", &self.state.active.load(Ordering::Relaxed))
            .field("lane", &self.lane.as_ref().map(|lane| lane.in_flight()))
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Connection for GrpcConnection {
    // Written out, so that each way is boxed in its own size, and only once.
    fn call<'a, 'b, 'c>(
        &'a self,
        cx: &'b Context,
        request: Request,
    ) -> BoxFuture<'c, Result<Response>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        match &self.lane {
            Some(lane) if lane.takes(&request, self.lane_message) => {
                Box::pin(LaneCall::new(self, lane, cx, request))
            }
            _ => Box::pin(call::call(self, cx, request)),
        }
    }

    fn is_open(&self) -> bool {
        self.state.is_open()
    }

    async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the driver is gone, which is as closed as it gets.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// The last handle is gone: no more calls; those under way are finished by the driver.
impl Drop for GrpcConnection {
    fn drop(&mut self) {
        self.state.released.store(true, Ordering::Release);
        self.state.driver.wake();
    }
}
