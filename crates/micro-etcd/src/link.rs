//! One connection to one member, and gRPC on it.
//!
//! The `h2` crate directly: of gRPC only a prefix of five bytes and two headers are needed here,
//! and a status is read without trusting who wrote it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, header};
use micro_core::{BoxError, Secret};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::error::Failure;

/// etcd takes more frequent pings, or pings without a call, for an attack
/// (`--grpc-keepalive-min-time` is 5 s).
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a ping may be without an answer before the connection counts as dead.
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// What one stream may send ahead of its reader: what a watch that nobody reads can cost.
const STREAM_WINDOW: u32 = 256 << 10;
/// The largest there is: streams that nobody reads must not hold up the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// etcd's own limit for a request is 1.5 MiB; an answer with many keys may be longer.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;
const MAX_HEADERS: u32 = 64 << 10;
/// Length and compression of a message.
const PREFIX: usize = 5;

/// A connection. Dropping it closes it, and ends the calls on it.
pub(crate) struct Link {
    send: SendRequest<Bytes>,
    pub(crate) endpoint: String,
    secure: bool,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Default)]
struct State {
    closed: AtomicBool,
    /// Not used for new calls any more; those under way may end.
    doubted: AtomicBool,
    streams: AtomicUsize,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.endpoint)
            .field("usable", &self.is_usable())
            .finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What goes with a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// `/etcdserverpb.KV/Range`.
    pub(crate) path: &'static str,
    pub(crate) token: Option<&'a Secret>,
    /// How long the server may work on it; `None` for a watch.
    pub(crate) timeout: Option<Duration>,
}

impl Link {
    /// Connects without TLS.
    pub(crate) async fn open(endpoint: &str) -> Result<Self, Failure> {
        let tcp = tcp(endpoint).await?;
        Self::speak(tcp, endpoint, false).await
    }

    /// Connects with TLS.
    #[cfg(feature = "tls")]
    pub(crate) async fn open_tls(
        endpoint: &str,
        config: Arc<micro_tls::rustls::ClientConfig>,
        name: micro_tls::rustls::pki_types::ServerName<'static>,
    ) -> Result<Self, Failure> {
        const FAILS: &str =
            "TLS with etcd fails; check ca, cert, key and the name in the member's certificate";
        let tcp = tcp(endpoint).await?;
        let tls = tokio_rustls::TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|err| Failure::link(FAILS, err))?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failure::link(FAILS, "it speaks TLS, but no HTTP/2"));
        }
        Self::speak(tls, endpoint, true).await
    }

    async fn speak<S>(io: S, endpoint: &str, secure: bool) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|err| Failure::link("etcd speaks no HTTP/2", err))?;
        let pings = connection.ping_pong();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // It ends with the connection: when the member closes it or is silent, or with the `Link`.
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(err) = ended {
                    tracing::debug!(%err, "a connection to etcd ended");
                },
                () = silence(pings, &shared) => {
                    tracing::debug!("a connection to etcd is silent and is closed");
                }
            }
            shared.closed.store(true, Ordering::Release);
        });
        Ok(Self {
            send,
            endpoint: endpoint.to_owned(),
            secure,
            state,
            task: task.abort_handle(),
        })
    }

    /// Whether new calls may use it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.state.closed.load(Ordering::Acquire) && !self.state.doubted.load(Ordering::Acquire)
    }

    /// New calls shall use another connection.
    pub(crate) fn doubt(&self) {
        self.state.doubted.store(true, Ordering::Release);
    }

    /// Sends one message and waits for one.
    pub(crate) async fn unary(&self, call: Call<'_>, message: Bytes) -> Result<Bytes, Failure> {
        let (response, _send, _open) = self.start(call, message, true).await?;
        let mut receive = Receive::new(response);
        let Some(answer) = receive.message().await? else {
            return Err(Failure::Foreign("the answer has no message"));
        };
        // The status comes behind the message.
        match receive.message().await? {
            None => Ok(answer),
            Some(_) => Err(Failure::Foreign("the answer has two messages")),
        }
    }

    /// Opens a stream with one message.
    pub(crate) async fn stream(
        self: &Arc<Self>,
        call: Call<'_>,
        message: Bytes,
    ) -> Result<Stream, Failure> {
        let (response, send, open) = self.start(call, message, false).await?;
        Ok(Stream {
            receive: Receive::new(response),
            _send: send,
            _open: open,
            link: Arc::clone(self),
        })
    }

    async fn start(
        &self,
        call: Call<'_>,
        message: Bytes,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Open), Failure> {
        const BROKE: &str = "the connection to etcd is gone";
        let mut send = self
            .send
            .clone()
            .ready()
            .await
            .map_err(|err| Failure::link(BROKE, err))?;
        let request = self.request(call)?;
        let (response, mut body) = send
            .send_request(request, false)
            .map_err(|err| Failure::link(BROKE, err))?;
        // Counted before the first wait: from here on the connection is watched.
        let open = Open::new(&self.state);
        body.send_data(message, ends).map_err(Failure::under_way)?;
        Ok((response, body, open))
    }

    fn request(&self, call: Call<'_>) -> Result<Request<()>, Failure> {
        let scheme = if self.secure { "https" } else { "http" };
        let mut request = Request::post(format!("{scheme}://{}{}", self.endpoint, call.path))
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(
                header::USER_AGENT,
                concat!("micro-etcd/", env!("CARGO_PKG_VERSION")),
            )
            // A member that lost its leader says so instead of keeping us waiting.
            .header("hasleader", "true");
        if let Some(timeout) = call.timeout {
            // At most eight digits (gRPC over HTTP/2, "Timeout"); ours are at most five minutes.
            request = request.header("grpc-timeout", format!("{}m", timeout.as_millis().max(1)));
        }
        if let Some(token) = call.token {
            let mut value = HeaderValue::try_from(token.expose())
                .map_err(|_| Failure::Foreign("the token is no header"))?;
            value.set_sensitive(true);
            request = request.header("token", value);
        }
        request
            .body(())
            .map_err(|err| Failure::link("the endpoint is none", err))
    }
}

async fn tcp(endpoint: &str) -> Result<TcpStream, Failure> {
    let tcp = TcpStream::connect(endpoint)
        .await
        .map_err(|err| Failure::link("etcd cannot be reached", err))?;
    // Small messages in both directions: waiting to fill a packet only costs time.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// Ends when the other side does not answer any more, while it should.
async fn silence(pings: Option<h2::PingPong>, state: &State) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(PING_EVERY).await;
        if state.streams.load(Ordering::Acquire) == 0 {
            continue;
        }
        match timeout(PONG_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ended, and its own future says so.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Counts a call that is under way.
struct Open(Arc<State>);

impl Open {
    fn new(state: &Arc<State>) -> Self {
        state.streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An open stream; dropping it ends it.
pub(crate) struct Stream {
    receive: Receive,
    // Our half stays open: a watch ends when it is closed.
    _send: SendStream<Bytes>,
    _open: Open,
    pub(crate) link: Arc<Link>,
}

impl Stream {
    /// The next message; `None` after the last one. Dropping the future loses nothing.
    pub(crate) async fn message(&mut self) -> Result<Option<Bytes>, Failure> {
        self.receive.message().await
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// The receiving half of a call.
struct Receive {
    /// Until the head of the answer is there.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

impl Receive {
    fn new(response: ResponseFuture) -> Self {
        Self {
            response: Some(response),
            body: None,
            buffer: BytesMut::new(),
        }
    }

    async fn message(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(response) = &mut self.response {
            let answered = response.await;
            self.response = None;
            let answer = answered.map_err(Failure::under_way)?;
            check_head(&answer)?;
            self.body = Some(answer.into_body());
        }
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(Ok(chunk)) => {
                    self.buffer.put_slice(&chunk);
                    body.flow_control()
                        .release_capacity(chunk.len())
                        .map_err(Failure::under_way)?;
                }
                Some(Err(err)) => return Err(Failure::under_way(err)),
                None => {
                    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await;
                    self.body = None;
                    let trailers = trailers.map_err(Failure::under_way)?.unwrap_or_default();
                    check_status(&trailers)?;
                    if !self.buffer.is_empty() {
                        return Err(Failure::Foreign("the answer ends within a message"));
                    }
                }
            }
        }
    }
}

/// Takes a whole message out of the buffer.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Failure::Foreign("the answer is compressed, unasked"));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(Failure::TooLong);
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl prost::Message) -> Result<Bytes, BoxError> {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length)?);
    message.encode(&mut buffer)?;
    Ok(buffer.freeze())
}

fn check_head(answer: &http::Response<RecvStream>) -> Result<(), Failure> {
    let grpc = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if answer.status() != http::StatusCode::OK || !grpc {
        return Err(Failure::Foreign("the answer is no gRPC"));
    }
    // An answer that is nothing but a status.
    match answer.headers().contains_key("grpc-status") {
        true => check_status(answer.headers()),
        false => Ok(()),
    }
}

/// Reads a status as gRPC writes it; nothing in it is trusted.
fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let code: Option<u32> = headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let message = headers
                .get("grpc-message")
                .map(|value| percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy())
                .unwrap_or_default();
            Err(Failure::Status {
                code,
                message: message.into_owned(),
            })
        }
        None => Err(Failure::Foreign("the answer has no status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_strange_ones_are_refused() {
        let mut buffer = BytesMut::new();
        for byte in [0, 0, 0, 0, 2, b'h'] {
            buffer.put_u8(byte);
            assert!(take(&mut buffer).unwrap().is_none());
        }
        buffer.put_u8(b'i');
        buffer.put_slice(&[0, 0, 0, 0, 0]);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), "hi");
        assert_eq!(take(&mut buffer).unwrap().unwrap(), "");
        assert!(buffer.is_empty());

        let mut long = BytesMut::from(&[0, 255, 255, 255, 255][..]);
        assert!(matches!(take(&mut long), Err(Failure::TooLong)));
        let mut compressed = BytesMut::from(&[1, 0, 0, 0, 0][..]);
        assert!(matches!(take(&mut compressed), Err(Failure::Foreign(_))));
    }

    #[test]
    fn a_status_is_read_whatever_is_in_it() {
        let status = |code: &str, message: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_str(code).unwrap());
            headers.insert("grpc-message", HeaderValue::from_bytes(message).unwrap());
            check_status(&headers)
        };
        assert!(status("0", b"").is_ok());
        let Err(Failure::Status { code, message }) = status("5", b"a%20b%zz\xff") else {
            panic!("a status other than 0 is a failure");
        };
        assert_eq!((code, &*message), (5, "a b%zz\u{fffd}"));
        assert!(matches!(status("many", b""), Err(Failure::Foreign(_))));
        assert!(matches!(
            check_status(&HeaderMap::new()),
            Err(Failure::Foreign(_))
        ));
    }
}
