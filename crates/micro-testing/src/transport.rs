//! The transport of one host: that of memory, over a network with faults.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_transport_core::{
    Body, Connection, Context, DialOptions, Error, ListenOptions, Listener, Messages, Request,
    Response, Result, Transport, async_trait,
};
use micro_transport_memory::MemoryTransport;
use tokio::time::{Instant, timeout};

use crate::net::{Line, Net};

/// What a client dials with: the host it runs on is known, the other is in the address.
pub(crate) struct FaultTransport {
    inner: MemoryTransport,
    net: Arc<Net>,
    host: Arc<str>,
}

impl FaultTransport {
    pub(crate) fn new(inner: MemoryTransport, net: Arc<Net>, host: Arc<str>) -> Self {
        Self { inner, net, host }
    }
}

impl fmt::Debug for FaultTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultTransport")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for FaultTransport {
    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    async fn dial(&self, address: &str, opts: DialOptions) -> Result<Arc<dyn Connection>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let line = Line {
            net: Arc::clone(&self.net),
            from: Arc::clone(&self.host),
            to: host.into(),
        };
        let limits = opts.limits.get_arc();
        let patience = limits.keepalive.saturating_add(limits.keepalive_timeout);
        let dialled = async {
            line.there().await;
            if line.refuses() {
                return Err(Error::unavailable("connection refused")
                    .with_unprocessed(true)
                    .with_operation("transport.dial")
                    .with_context("address", address));
            }
            let breaks = line.breaks();
            let inner = self.inner.dial(address, opts.clone()).await?;
            line.back().await;
            Ok((inner, breaks))
        };
        let dialled = timeout(opts.timeout, dialled).await.unwrap_or_else(|_| {
            Err(Error::deadline_exceeded("the node does not answer")
                .with_unprocessed(true)
                .with_operation("transport.dial")
                .with_context("address", address))
        });
        match dialled {
            Ok((inner, breaks)) => {
                line.log("connected");
                Ok(Arc::new(FaultConnection {
                    inner,
                    line,
                    breaks,
                    patience,
                    dead: AtomicBool::new(false),
                }))
            }
            Err(err) => {
                line.log(format!("not connected: {}", err.message()));
                Err(err)
            }
        }
    }

    async fn listen(&self, address: &str, opts: ListenOptions) -> Result<Box<dyn Listener>> {
        self.inner.listen(address, opts).await
    }
}

struct FaultConnection {
    inner: Arc<dyn Connection>,
    line: Line,
    /// The breaks before it was made.
    breaks: u64,
    /// After so long a silence the connection is given up, as by the probes of a real one.
    patience: Duration,
    dead: AtomicBool,
}

impl FaultConnection {
    /// Resolves when the connection is lost, be it that nobody says so.
    async fn lost(&self) {
        tokio::select! {
            biased;
            () = self.line.broken(self.breaks) => {}
            () = self.line.silent_for(self.patience) => {}
        }
        self.dead.store(true, Ordering::Relaxed);
    }

    fn gone(&self) -> Error {
        Error::unavailable("the connection broke")
            .with_operation("transport.call")
            .with_context("node", &self.line.to)
    }
}

impl fmt::Debug for FaultConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultConnection")
            .field("from", &self.line.from)
            .field("to", &self.line.to)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Connection for FaultConnection {
    async fn call(&self, cx: &Context, request: Request) -> Result<Response> {
        if !self.is_open() {
            return Err(self.gone().with_unprocessed(true));
        }
        let mut told = Told::begin(&self.line, &request);
        let arrived = AtomicBool::new(false);
        let answered = async {
            self.line.there().await;
            arrived.store(true, Ordering::Relaxed);
            // The answer that was made to fail takes the way back too.
            let outcome = match self.line.arrive() {
                Ok(()) => self.inner.call(cx, request).await,
                Err(err) => Err(err),
            };
            self.line.back().await;
            outcome
        };
        let outcome = tokio::select! {
            biased;
            () = self.lost() => {
                let arrived = arrived.load(Ordering::Relaxed);
                Err(self.gone().with_unprocessed(!arrived))
            }
            outcome = answered => outcome,
        };
        told.end(&outcome);
        let mut response = outcome?;
        if let Body::Stream(messages) = response.body {
            response.body = Body::Stream(guarded(messages, self.line.clone(), self.breaks));
        }
        Ok(response)
    }

    fn is_open(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
            && self.line.breaks() == self.breaks
            && self.inner.is_open()
    }

    async fn closed(&self) {
        tokio::select! {
            biased;
            () = self.lost() => {}
            () = self.inner.closed() => {}
        }
    }
}

/// A streamed reply whose messages wait while nothing gets through, and that breaks with the
/// connection.
fn guarded(messages: Messages, line: Line, breaks: u64) -> Messages {
    let state = Some((messages, line, breaks));
    Box::pin(futures_util::stream::unfold(state, async |state| {
        let (mut messages, line, breaks) = state?;
        let next = {
            let mut next = pin!(async {
                let next = messages.next().await;
                line.back().await;
                next
            });
            tokio::select! {
                biased;
                () = line.broken(breaks) => None,
                next = &mut next => Some(next),
            }
        };
        match next {
            Some(Some(message)) => Some((message, Some((messages, line, breaks)))),
            Some(None) => None,
            None => {
                let err = Error::unavailable("the connection broke")
                    .with_operation("transport.call")
                    .with_context("node", &line.to);
                Some((Err(err), None))
            }
        }
    }))
}

/// Writes into the history how a call ended, also if its caller gave it up.
struct Told<'a> {
    line: &'a Line,
    path: Arc<str>,
    began: Instant,
    over: bool,
}

impl<'a> Told<'a> {
    fn begin(line: &'a Line, request: &Request) -> Self {
        Self {
            line,
            path: Arc::clone(&request.path),
            began: Instant::now(),
            over: false,
        }
    }

    fn end<T>(&mut self, outcome: &Result<T>) {
        self.over = true;
        let took = self.began.elapsed();
        self.line.log(match outcome {
            Ok(_) => format!("{} ok in {took:?}", self.path),
            Err(err) => format!(
                "{} {} in {took:?}: {}",
                self.path,
                err.kind().name(),
                err.message()
            ),
        });
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.over {
            let took = self.began.elapsed();
            self.line
                .log(format!("{} given up after {took:?}", self.path));
        }
    }
}
