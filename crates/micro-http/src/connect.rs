//! One connection to one server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use micro_core::{BoxError, Error, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::HttpConfig;

/// The headers of an answer have at most so many bytes.
pub(crate) const HEAD: usize = 64 << 10;

/// A server that went without a word is noticed after this time without one, and so many questions
/// at this interval: else a watch of it would be blind for as long as its request may take.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// A connection; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) send: SendRequest<Full<Bytes>>,
    pub(crate) endpoint: usize,
    pub(crate) reused: bool,
    pub(crate) since: Instant,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An answer that nobody reads any more would keep the task waiting.
        self.task.abort();
    }
}

impl Connection {
    /// Whether it can carry another request, once the last one is over.
    pub(crate) async fn is_usable(&mut self) -> bool {
        !self.send.is_closed() && self.send.ready().await.is_ok()
    }

    /// Connects, TLS included, within the time for it.
    pub(crate) async fn open(config: &HttpConfig, endpoint: usize) -> Result<Self> {
        let name = &config.endpoints[endpoint];
        within(config, name, async {
            Self::speak(Stream::open(config, name).await?, endpoint).await
        })
        .await
    }

    async fn speak(stream: Stream, endpoint: usize) -> Result<Self, BoxError> {
        let (send, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with the connection: when the server closes it, or this value is dropped.
        let task = tokio::spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!(%err, "a connection ended");
            }
        });
        Ok(Self {
            send,
            endpoint,
            reused: false,
            since: Instant::now(),
            task: task.abort_handle(),
        })
    }
}

/// A way to a server, encrypted or not.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, TLS included, within the time for it.
    pub(crate) async fn connect(config: &HttpConfig, name: &str) -> Result<Self> {
        within(config, name, Self::open(config, name)).await
    }

    async fn open(config: &HttpConfig, name: &str) -> Result<Self, BoxError> {
        let addresses: Vec<_> = lookup_host(name).await?.collect();
        let tcp = dial(&addresses, config.connect_timeout).await?;
        tcp.set_nodelay(true)?;
        let (time, interval, retries) = KEEPALIVE;
        let keepalive = TcpKeepalive::new()
            .with_time(time)
            .with_interval(interval)
            .with_retries(retries);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        #[cfg(feature = "tls")]
        if let Some(identity) = &config.tls {
            let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let expect = config.server_name.as_deref().unwrap_or(host);
            let rustls = micro_tls::client_config(&identity.get(), expect)?;
            let connector = tokio_rustls::TlsConnector::from(rustls);
            let tls = connector
                .connect(micro_tls::server_name(expect)?, tcp)
                .await?;
            return Ok(Self::Tls(Box::new(tls)));
        }
        Ok(Self::Plain(tcp))
    }
}

/// Calls a method of whatever the stream is.
macro_rules! of {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        of!(self, poll_read(task, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        of!(self, poll_write(task, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of!(self, poll_write_vectored(task, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        of!(self, poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        of!(self, poll_shutdown(task))
    }
}

/// Connects within the time for it; what fails has provably not reached the server.
async fn within<T>(
    config: &HttpConfig,
    name: &str,
    connecting: impl Future<Output = Result<T, BoxError>>,
) -> Result<T> {
    let failed = |message: &'static str| {
        Error::unavailable(message)
            .with_operation("http.connect")
            .with_context("endpoint", name)
            .with_unprocessed(true)
    };
    match timeout(config.connect_timeout, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(err)) => Err(failed("the server cannot be reached").with_source(err)),
        Err(_) => Err(failed("the server cannot be reached in time")),
    }
}

/// Connects to the first address that answers; one that is silent leaves the others their share of
/// the time.
async fn dial(addresses: &[SocketAddr], time: Duration) -> Result<TcpStream, BoxError> {
    let until = Instant::now() + time;
    let mut last = BoxError::from("the name has no address");
    for (at, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(err)) => last = err.into(),
            Err(late) => last = late.into(),
        }
    }
    Err(last)
}

/// What hyper says about a request that got no answer.
pub(crate) fn failed(err: hyper::Error, endpoint: &str, unprocessed: bool) -> Error {
    let error = if err.is_parse() {
        Error::unknown("the server does not answer in HTTP/1.1")
    } else {
        Error::unavailable("the connection broke before the answer was there")
            .with_unprocessed(unprocessed)
    };
    error
        .with_operation("http.request")
        .with_context("endpoint", endpoint)
        .with_source(err)
}

/// A bound on the number of something, shared.
pub(crate) type Slots = Arc<tokio::sync::Semaphore>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (good, bad) = (
            listener.local_addr().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 1)),
        );
        let time = Duration::from_secs(5);
        let tcp = dial(&[bad, bad, good], time).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), good);
        for none in [&[bad, bad][..], &[]] {
            assert!(dial(none, time).await.is_err());
        }
    }
}
