//! The listener: accepts connections, counts them, and sees them to their end.

pub(crate) mod call;
pub(crate) mod connection;
mod control;
mod http1;
pub(crate) mod paths;
mod post;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use micro_core::{Clock, Error, Live, Result};
use micro_transport_core::{
    Handler, Limits, ListenOptions, Listener, Peer, PostHandler, Posts, Stop, async_trait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use self::connection::{Driver, Times};
use self::control::{Command, Control};
use self::paths::SlowPaths;
use crate::address;
use crate::headers;
use crate::io::{Io, PREFACE, Raw};
use crate::lane::{self, Counters};
use crate::time::far;

/// What all calls of a connection share.
pub(crate) struct Conn {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) limits: Live<Limits>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) slow: Arc<SlowPaths>,
    pub(crate) counters: Arc<Counters>,
    /// Whether sessions are taken.
    pub(crate) lane: bool,
    /// What else is posted.
    posts: Option<Arc<dyn PostHandler>>,
    names: headers::Names,
    /// How long a stream's reader may take nothing.
    idle: Duration,
}

/// A bound address; see [`GrpcTransport`](crate::GrpcTransport).
pub(crate) struct GrpcListener {
    tcp: TcpListener,
    address: SocketAddr,
    opts: ListenOptions,
    lane: bool,
    posts: Option<Arc<dyn PostHandler>>,
    counters: Arc<Counters>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Acceptor>,
}

impl GrpcListener {
    pub(crate) async fn bind(
        address: &str,
        opts: ListenOptions,
        lane: bool,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        #[cfg(not(feature = "tls"))]
        if opts.tls.is_some() {
            return Err(crate::no_tls("transport.listen"));
        }
        // A configuration that cannot work is refused here, not at the first connection.
        #[cfg(feature = "tls")]
        let tls = match &opts.tls {
            Some(identity) => Some(crate::tls::Acceptor::new(identity.clone(), opts.http1)?),
            None => None,
        };
        let tcp = address::bind(address).await?;
        let address = tcp.local_addr().map_err(Error::from)?;
        let posts = opts.posts.as_ref().filter(|_| opts.http1);
        Ok(Self {
            tcp,
            address,
            posts: posts.map(Posts::take),
            opts,
            lane,
            counters,
            #[cfg(feature = "tls")]
            tls,
        })
    }
}

impl fmt::Debug for GrpcListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcListener")
            .field("address", &self.address)
            .field("tls", &self.opts.tls.is_some())
            .field("http1", &self.opts.http1)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Listener for GrpcListener {
    fn address(&self) -> String {
        self.address.to_string()
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        // The last one tells clients that this is no stranger: see `client::keepalive`.
        let version = env!("CARGO_PKG_VERSION");
        let mut all: BTreeMap<_, _> = [
            ("transport", "grpc"),
            ("protocol", "grpc"),
            (crate::MICRO, version),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if self.lane {
            all.insert(lane::LANE.to_owned(), lane::VERSION.to_owned());
        }
        all
    }

    async fn serve(self: Box<Self>, handler: Arc<dyn Handler>, stop: Live<Stop>) -> Result<()> {
        let clock = Arc::clone(&self.opts.clock);
        let mut changes = stop.changes();
        let mut state = Accepting::new(*self, handler);
        let mut stop = *stop.get();
        loop {
            match stop {
                Stop::Run => {
                    tokio::select! {
                        biased;
                        changed = changes.changed() => stop = *changed,
                        () = state.turn() => {}
                    }
                }
                Stop::Drain { until } => {
                    state.command(Command::Drain);
                    state.listener = None;
                    let left = until.saturating_duration_since(clock.now());
                    let late = tokio::time::sleep_until(far(Instant::now(), left));
                    tokio::select! {
                        biased;
                        changed = changes.changed() => stop = *changed,
                        () = state.all_over() => return Ok(()),
                        () = late => stop = Stop::Close,
                    }
                }
                // `Close`, and whatever is stronger one day.
                _ => {
                    state.listener = None;
                    state.command(Command::Close);
                    // Their tasks look at the command at once; those that cannot are dropped.
                    let patience = tokio::time::sleep(Duration::from_millis(50));
                    tokio::select! {
                        () = state.all_over() => {}
                        () = patience => state.tasks.shutdown().await,
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// A connection that is open.
struct Open {
    control: Arc<Control>,
    from: Option<IpAddr>,
}

struct Accepting {
    listener: Option<GrpcListener>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    open: HashMap<task::Id, Open>,
    per_peer: HashMap<IpAddr, usize>,
    began: Instant,
    /// How long to wait before accepting again, after a failure.
    pause: Duration,
}

/// What all connections share.
struct Shared {
    handler: Arc<dyn Handler>,
    opts: ListenOptions,
    slow: Arc<SlowPaths>,
    lane: bool,
    posts: Option<Arc<dyn PostHandler>>,
    counters: Arc<Counters>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Acceptor>,
}

impl Accepting {
    const FIRST_PAUSE: Duration = Duration::from_millis(5);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    fn new(listener: GrpcListener, handler: Arc<dyn Handler>) -> Self {
        let shared = Shared {
            handler,
            opts: listener.opts.clone(),
            slow: Arc::new(SlowPaths::new()),
            lane: listener.lane,
            posts: listener.posts.clone(),
            counters: Arc::clone(&listener.counters),
            #[cfg(feature = "tls")]
            tls: listener.tls.clone(),
        };
        Self {
            listener: Some(listener),
            shared: Arc::new(shared),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            per_peer: HashMap::new(),
            began: Instant::now(),
            pause: Self::FIRST_PAUSE,
        }
    }

    /// Accepts one connection, or sees one to its end. May be dropped at any await.
    async fn turn(&mut self) {
        let Some(listener) = &self.listener else {
            return std::future::pending().await;
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            accepted = listener.tcp.accept() => match accepted {
                Ok((tcp, from)) => {
                    self.pause = Self::FIRST_PAUSE;
                    self.admit(tcp, from);
                }
                Err(err) if is_the_peers(&err) => {}
                Err(err) => {
                    // Out of descriptors, most likely. They come back as connections end: help it,
                    // and try again a little later.
                    tracing::warn!(%err, pause = ?self.pause, "cannot accept a connection");
                    self.evict();
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
                }
            },
        }
    }

    async fn all_over(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn command(&self, command: Command) {
        for open in self.open.values() {
            open.control.set(command);
        }
    }

    fn ended(&mut self, ended: Result<(task::Id, ()), task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(err) => {
                tracing::error!(%err, "the task of a connection failed");
                err.id()
            }
        };
        if let Some(Open {
            from: Some(from), ..
        }) = self.open.remove(&id)
            && let Some(count) = self.per_peer.get_mut(&from)
        {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&from);
            }
        }
    }

    /// Takes a connection in, or closes it at once if there are too many: whoever was refused knows
    /// it without waiting, and may go to another node.
    fn admit(&mut self, tcp: TcpStream, from: SocketAddr) {
        let limits = self.shared.opts.limits.get();
        let ip = origin(from.ip());
        if let Some(ip) = ip
            && self.per_peer.get(&ip).copied().unwrap_or(0) >= limits.connections_per_peer
        {
            tracing::debug!(%from, "too many connections from this address");
            return;
        }
        if self.open.len() >= limits.connections && !self.evict() {
            tracing::warn!(%from, limit = limits.connections, "too many connections");
            return;
        }
        if let Some(ip) = ip {
            *self.per_peer.entry(ip).or_default() += 1;
        }
        let control = Arc::new(Control::new(self.began));
        let shared = Arc::clone(&self.shared);
        let open = Open {
            control: Arc::clone(&control),
            from: ip,
        };
        let task = self.tasks.spawn(run(tcp, from, shared, control));
        self.open.insert(task.id(), open);
    }

    /// Makes room: asks the connection that has had no call for the longest time to go, first among
    /// those that never had any.
    fn evict(&self) -> bool {
        let longest = self
            .open
            .values()
            .filter_map(|open| Some((open.control.idle_since()?, &open.control)))
            .min_by_key(|(since, _)| *since);
        match longest {
            Some((_, control)) => {
                control.set(Command::Evict);
                true
            }
            None => false,
        }
    }
}

/// Whom a connection counts for; an IPv6 network is one peer. Loopback is not counted.
fn origin(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
        }
        ip => Some(ip),
    }
}

/// Failures of a connection that was gone before it was accepted.
fn is_the_peers(err: &io::Error) -> bool {
    use io::ErrorKind as Io;
    matches!(
        err.kind(),
        Io::ConnectionAborted | Io::ConnectionReset | Io::ConnectionRefused | Io::Interrupted
    )
}

/// What a connection turned out to be.
enum Spoken {
    Http2(Box<Driver>),
    Http1(Io, Arc<Conn>),
}

/// One connection, from the first byte to the last.
async fn run(tcp: TcpStream, from: SocketAddr, shared: Arc<Shared>, control: Arc<Control>) {
    let limits = shared.opts.limits.get_arc();
    let spoken = tokio::select! {
        biased;
        // Nothing was promised to a peer that is still introducing itself.
        _ = control.commanded() => return,
        spoken = tokio::time::timeout(limits.handshake, meet(tcp, from, &shared, &limits, &control)) => spoken,
    };
    match spoken {
        Ok(Ok(Spoken::Http2(driver))) => driver.await,
        Ok(Ok(Spoken::Http1(io, conn))) => http1::serve(io, conn, &control, &limits).await,
        Ok(Err(err)) => tracing::debug!(%from, %err, "the connection did not come about"),
        Err(_) => tracing::debug!(%from, "the handshake took too long"),
    }
}

/// TLS, then the first bytes, which tell HTTP/2 from HTTP/1.1.
async fn meet(
    tcp: TcpStream,
    from: SocketAddr,
    shared: &Shared,
    limits: &Limits,
    control: &Arc<Control>,
) -> Result<Spoken> {
    tcp.set_nodelay(true).map_err(Error::from)?;
    let peer = Peer::from_socket(from);
    #[cfg(feature = "tls")]
    let (mut raw, peer) = match &shared.tls {
        Some(tls) => {
            let (stream, certificates) = tls.accept(tcp).await?;
            (
                Raw::Server(Box::new(stream)),
                peer.with_certificates(certificates),
            )
        }
        None => (Raw::Plain(tcp), peer),
    };
    #[cfg(not(feature = "tls"))]
    let mut raw = Raw::Plain(tcp);
    let conn = Arc::new(Conn {
        handler: Arc::clone(&shared.handler),
        limits: shared.opts.limits.clone(),
        clock: Arc::clone(&shared.opts.clock),
        peer: Arc::new(peer),
        slow: Arc::clone(&shared.slow),
        counters: Arc::clone(&shared.counters),
        lane: shared.lane,
        posts: shared.posts.clone(),
        names: headers::Names::new(),
        idle: limits.idle,
    });
    let (ahead, http2) = sniff(&mut raw).await?;
    if !http2 {
        if !shared.opts.http1 {
            let refusal = b"HTTP/1.1 426 Upgrade Required\r\nconnection: close, upgrade\r\n\
                upgrade: h2c\r\ncontent-length: 0\r\n\r\n";
            let mut io = Io::new(raw, Bytes::new());
            io.write_all(refusal).await.map_err(Error::from)?;
            // Reading lets the refusal arrive before the close.
            let _ = io.shutdown().await;
            return Err(Error::failed_precondition("HTTP/1.1 is switched off"));
        }
        return Ok(Spoken::Http1(Io::new(raw, ahead), conn));
    }
    let (io, tap) = Io::new(raw, ahead).tapped(true);
    let h2 = settings(limits)
        .handshake(io)
        .await
        .map_err(|err| Error::unavailable("the HTTP/2 handshake failed").with_source(err))?;
    let times = Times {
        calls: limits.calls_per_connection,
        header: limits.header_timeout,
        idle: limits.idle,
        keepalive: limits.keepalive,
        keepalive_timeout: limits.keepalive_timeout,
    };
    let driver = Driver::new(h2, tap, conn, Arc::clone(control), times);
    Ok(Spoken::Http2(Box::new(driver)))
}

/// Reads until the bytes are HTTP/2's preface, or cannot become it.
async fn sniff(raw: &mut Raw) -> Result<(Bytes, bool)> {
    let mut buf = [0; PREFACE.len()];
    let mut have = 0;
    while have < buf.len() {
        let n = match raw {
            Raw::Plain(io) => io.read(&mut buf[have..]).await,
            #[cfg(feature = "tls")]
            Raw::Server(io) => io.read(&mut buf[have..]).await,
            #[cfg(feature = "tls")]
            Raw::Client(io) => io.read(&mut buf[have..]).await,
        }
        .map_err(Error::from)?;
        if n == 0 {
            return Err(Error::unavailable("the peer closed without a request"));
        }
        have += n;
        if buf[0] == 0x16 {
            return Err(Error::failed_precondition(
                "the peer speaks TLS, and this listener does not: give it ListenOptions::tls",
            ));
        }
        if buf[..have] != PREFACE[..have] {
            return Ok((Bytes::copy_from_slice(&buf[..have]), false));
        }
    }
    Ok((Bytes::from_static(PREFACE), true))
}

/// HTTP/2's own limits, from ours.
fn settings(limits: &Limits) -> h2::server::Builder {
    const LARGEST_WINDOW: u32 = (1 << 31) - 1;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window.min(LARGEST_WINDOW))
        .initial_connection_window_size(limits.connection_window.min(LARGEST_WINDOW))
        .max_concurrent_streams(u32::try_from(limits.calls_per_connection).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(limits.headers).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(50)
        // Streams that the peer reset before we took them (CVE-2023-44487). Such a call never gets to
        // its handler, so it costs no more than any other. h2's own limit of 20 is soon reached by
        // an honest peer that gives up all its calls just after it sent them, perhaps more than once
        // before this task gets its turn.
        .max_pending_accept_reset_streams(limits.calls_per_connection.saturating_mul(4).max(20))
        // Streams that the peer made us reset (CVE-2025-8671).
        .max_local_error_reset_streams(Some(100));
    builder
}

/// How much of one stream HTTP/2 holds for a slow reader.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_or_an_ipv6_network() {
        let table = [
            ("127.0.0.9", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("10.0.0.1", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
        ];
        for (ip, expected) in table {
            let expected: Option<IpAddr> = expected.map(|ip| ip.parse().unwrap());
            assert_eq!(origin(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
