//! The way to a server, encrypted or not, and the runtime that lapin drives it with.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::RabbitConfig;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// What lapin reads and writes. It can be cut: lapin has no deadline of its own for a server that
/// takes the connection and says nothing.
pub(crate) struct Io {
    stream: Pin<Box<dyn Stream>>,
    cut: Arc<Cut>,
}

#[derive(Default)]
struct Cut {
    done: AtomicBool,
    reader: AtomicWaker,
}

/// Cuts the stream when it is dropped.
pub(crate) struct Scissors(Option<Arc<Cut>>);

impl Scissors {
    /// The stream goes on.
    pub(crate) fn put_away(mut self) {
        self.0 = None;
    }
}

impl Drop for Scissors {
    fn drop(&mut self) {
        if let Some(cut) = &self.0 {
            cut.done.store(true, Ordering::Release);
            cut.reader.wake();
        }
    }
}

/// Connects to a server, TLS included.
pub(crate) async fn dial(
    config: &RabbitConfig,
    endpoint: &str,
) -> Result<(Io, Scissors), Box<dyn std::error::Error + Send + Sync>> {
    let tcp = TcpStream::connect(endpoint).await?;
    tcp.set_nodelay(true)?;
    let stream: Pin<Box<dyn Stream>> = match config.wants_tls() {
        #[cfg(feature = "tls")]
        true => Box::pin(tls::connect(config, endpoint, tcp).await?),
        _ => Box::pin(tcp),
    };
    let cut = Arc::<Cut>::default();
    let scissors = Scissors(Some(Arc::clone(&cut)));
    Ok((Io { stream, cut }, scissors))
}

impl futures_io::AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.cut.reader.register(task.waker());
        if self.cut.done.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let mut buffer = ReadBuf::new(bytes);
        ready!(self.stream.as_mut().poll_read(task, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl futures_io::AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(task)
    }

    fn poll_close(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(task)
    }
}

/// Tokio, with our own streams.
#[derive(Clone, Debug)]
pub(crate) struct Kit(pub(crate) Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Io;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static>
    {
        // We make our streams ourselves.
        Err::<Io, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(
        &self,
        time: Duration,
    ) -> impl futures_core::Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Io>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use bytes::Bytes;
    use micro_broker_core::{Error, Result};
    use micro_tls::Pem;
    use micro_tls::rustls::ClientConfig;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use crate::RabbitConfig;

    /// Files are read for every connection, so that new certificates need no restart.
    pub(super) async fn connect(
        config: &RabbitConfig,
        endpoint: &str,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>> {
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let expect = config.server_name.as_deref().unwrap_or(host).to_owned();
        let server = micro_tls::server_name(&expect)?;
        let mut pem = Pem::new();
        if let Some(ca) = &config.ca {
            pem = pem.with_roots(ca);
        }
        if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
            pem = pem.with_certificate(cert, key.expose());
        }
        let platform = config.ca.is_none();
        let made = tokio::task::spawn_blocking(move || make(&pem, platform, &expect)).await;
        let made =
            made.map_err(|err| Error::internal("reading certificates failed").with_source(err))??;
        let connected = TlsConnector::from(made).connect(server, tcp).await;
        connected
            .map_err(|err| Error::unavailable("there is no TLS with RabbitMQ").with_source(err))
    }

    fn make(pem: &Pem, platform: bool, expect: &str) -> Result<Arc<ClientConfig>> {
        let mut identity = pem.read()?;
        if platform {
            let found = rustls_native_certs::load_native_certs();
            let roots = found.certs.iter();
            identity = identity.with_roots(roots.map(|der| Bytes::copy_from_slice(der)).collect());
        }
        micro_tls::client_config(&identity, expect)
    }
}
