//! The client: connections that are used again, and deadlines.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use micro_core::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connect::{Connection, Slots, failed};
use crate::message::Headers;
use crate::stream::Lines;
use crate::{Credentials, HttpConfig, Request, Response};

/// A client of one HTTP API, at one server or several that are as good as each other.
///
/// Clones share their connections. It speaks HTTP/1.1, follows no redirect, keeps no cookie and
/// uses no proxy. Any future may be dropped: the connection is then closed, and the request may or
/// may not have taken effect.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    config: HttpConfig,
    /// Connections without a request, the last used one last.
    idle: Mutex<Vec<Connection>>,
    /// The endpoint that is used, by its place in the list.
    current: AtomicUsize,
    requests: Slots,
    long: Slots,
}

impl HttpClient {
    /// A client; it connects when it is used. Credentials that will go through a network
    /// unencrypted are warned of.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if there is no endpoint, or one that is not `host:port`.
    pub fn new(config: HttpConfig) -> Result<Self> {
        config.check()?;
        if config.credentials != Credentials::None && !config.is_private() {
            tracing::warn!(
                servers = %config.endpoints.join(" "),
                "credentials go to this server unencrypted: turn on TLS with 'ca'"
            );
        }
        Ok(Self(Arc::new(Inner {
            idle: Mutex::new(Vec::new()),
            current: AtomicUsize::new(0),
            requests: Arc::new(Semaphore::new(config.concurrency.max(1))),
            long: Arc::new(Semaphore::new(config.long_requests)),
            config,
        })))
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// `Unavailable` if no server can be reached or the connection breaks, and then
    /// [`is_unprocessed`](Error::is_unprocessed) says whether the request provably never arrived;
    /// `DeadlineExceeded` when the time is over; `ResourceExhausted` for an answer beyond the limit,
    /// or too many long requests; `InvalidArgument` for a request that cannot be written.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        let config = &self.0.config;
        let time = config.timeout + request.long.unwrap_or_default();
        let current = self.endpoint();
        let exchange = async {
            let _turn = self.turn(request).await?;
            let (response, connection) = self.exchange(request).await?;
            let (parts, body) = response.into_parts();
            let endpoint = &config.endpoints[connection.endpoint];
            let body = read(body, config.max_body, endpoint).await?;
            self.keep(connection);
            Ok(Response {
                endpoint: endpoint.as_str().into(),
                status: parts.status.as_u16(),
                headers: Headers::Read(parts.headers),
                body,
            })
        };
        match timeout(time, exchange).await {
            Ok(response) => response,
            Err(_) => Err(self.late(current)),
        }
    }

    /// Sends a request and gives the lines of a successful answer as they come.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and as [`Response::success`] for an answer that is none.
    pub async fn lines(&self, request: &Request) -> Result<Lines> {
        let config = &self.0.config;
        let start = Instant::now();
        let current = self.endpoint();
        let begin = async {
            let turn = self.turn(request).await?;
            let (response, connection) = self.exchange(request).await?;
            let (parts, body) = response.into_parts();
            let endpoint = &config.endpoints[connection.endpoint];
            if parts.status.is_success() {
                let until = start + config.timeout + request.long.unwrap_or_default();
                let limit = config.max_line;
                return Ok(Lines::new(body, connection, endpoint, turn, limit, until));
            }
            let body = read(body, config.max_body, endpoint).await?;
            let response = Response {
                endpoint: endpoint.as_str().into(),
                status: parts.status.as_u16(),
                headers: Headers::Read(parts.headers),
                body,
            };
            Err(match response.success() {
                Err(err) => err,
                Ok(_) => Error::internal("a success is none"),
            })
        };
        match timeout_at(start + config.timeout, begin).await {
            Ok(lines) => lines,
            Err(_) => Err(self.late(current)),
        }
    }

    /// Waits for one's turn; long requests do not wait.
    async fn turn(&self, request: &Request) -> Result<OwnedSemaphorePermit> {
        if request.long.is_some() {
            return Arc::clone(&self.0.long).try_acquire_owned().map_err(|_| {
                Error::resource_exhausted("too many long requests at once")
                    .with_operation("http.request")
                    .with_context("limit", self.0.config.long_requests)
            });
        }
        let turn = Arc::clone(&self.0.requests).acquire_owned().await;
        turn.map_err(|_| Error::internal("the client is closed"))
    }

    /// Sends on a connection that is open already, or else on a new one.
    async fn exchange(&self, request: &Request) -> Result<(http::Response<Incoming>, Connection)> {
        let config = &self.0.config;
        let mut connection = match self.idle().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        loop {
            let endpoint = &config.endpoints[connection.endpoint];
            let built = request.build(endpoint, &config.credentials)?;
            let mut err = match connection.send.try_send_request(built).await {
                Ok(response) => return Ok((response, connection)),
                Err(err) => err,
            };
            let unsent = err.take_message().is_some();
            let again = connection.reused && (unsent || request.is_idempotent());
            let err = failed(err.into_error(), endpoint, unsent);
            if !again {
                if !connection.reused {
                    self.move_on(connection.endpoint);
                }
                return Err(err);
            }
            // Servers close connections that idle, which is no failure; a new one has no such excuse.
            connection = self.connect().await?;
        }
    }

    /// A connection that was used before and can be used again.
    async fn idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.lock().pop()?;
            let fresh = connection.since.elapsed() < self.0.config.idle
                && connection.endpoint == self.endpoint();
            if fresh && connection.is_usable().await {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    /// A new connection to the first server that takes it, beginning with the one in use.
    async fn connect(&self) -> Result<Connection> {
        let config = &self.0.config;
        let mut tries = config.endpoints.len();
        loop {
            let endpoint = self.endpoint();
            match Connection::open(config, endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(err) => {
                    self.move_on(endpoint);
                    tries -= 1;
                    if tries == 0 {
                        return Err(err);
                    }
                }
            }
        }
    }

    fn endpoint(&self) -> usize {
        self.0.current.load(Ordering::Relaxed)
    }

    /// Uses the server behind this one from now on, unless somebody else moved on already.
    fn move_on(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.0.config.endpoints.len();
        let current = &self.0.current;
        let _ = current.compare_exchange(endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn keep(&self, mut connection: Connection) {
        connection.since = Instant::now();
        let mut idle = self.lock();
        if idle.len() < self.0.config.concurrency {
            idle.push(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics under it.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time is over; the server that had it is not asked again if there is another.
    fn late(&self, endpoint: usize) -> Error {
        self.move_on(endpoint);
        Error::deadline_exceeded("the server did not answer in time")
            .with_operation("http.request")
            .with_context("timeout", format!("{:?}", self.0.config.timeout))
    }
}

/// Reads a whole body, within the limit.
async fn read(mut body: Incoming, limit: usize, endpoint: &str) -> Result<Bytes> {
    let too_large = || {
        Error::resource_exhausted("the server's answer is larger than the limit")
            .with_operation("http.request")
            .with_context("limit", limit)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| failed(err, endpoint, false))?;
        if let Ok(data) = frame.into_data() {
            if data.len() > limit - whole.len() {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}
