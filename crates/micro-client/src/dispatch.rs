//! One attempt of a call: resolve, pick, connect, call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use micro_core::{Context, Error, ErrorKind, Result};
use micro_selector_core::{Entry, Outcome, Pick, PickHint};
use micro_transport_core::{Body, Request, Response};

use crate::client::Inner;
use crate::entry::ServiceEntry;
use crate::options::CallOptions;
use crate::pool::Taken;
use crate::stream::Guarded;

/// A failed call counts as one that took this long, or a node that fails at once would look the
/// best and attract every call.
const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// So many failures in a row eject a node for a while.
const FAILURES_TO_EJECT: u32 = 5;

/// How long a node is ejected, give or take a quarter.
const EJECTION: Duration = Duration::from_secs(5);

/// One call: what its attempts share.
pub(crate) struct Dispatch<'a> {
    pub(crate) client: &'a Inner,
    entry: &'a ServiceEntry,
    options: &'a CallOptions,
    /// The nodes tried by earlier attempts, in the set of this revision. No lock in effect: the
    /// attempts of one call seldom meet.
    tried: Mutex<(u64, Vec<usize>)>,
}

impl<'a> Dispatch<'a> {
    pub(crate) fn new(
        client: &'a Inner,
        entry: &'a ServiceEntry,
        options: &'a CallOptions,
    ) -> Self {
        Self {
            client,
            entry,
            options,
            tried: Mutex::default(),
        }
    }

    /// Makes one attempt.
    pub(crate) async fn run(&self, cx: &Context, request: Request) -> Result<Response> {
        let (pick, taken) = self.take(cx).await?;
        let start = cx.now();
        match within(cx, taken.connection().call(cx, request)).await {
            Ok(mut response) => {
                let now = cx.now();
                let latency = now.saturating_duration_since(start);
                if let Body::Stream(messages) = response.body {
                    let guarded = Guarded::new(messages, cx, pick, taken, latency);
                    response.body = Body::Stream(Box::pin(guarded));
                } else {
                    pick.finish(Outcome::Success(latency), now);
                }
                Ok(response)
            }
            Err(err) => {
                let err = of_deadline(cx, err);
                let now = cx.now();
                self.failed(pick, &err, start, now);
                Err(err)
            }
        }
    }

    /// A node and a connection to it, waiting for discovery and for connecting where need be.
    async fn take(&self, cx: &Context) -> Result<(Pick, Taken)> {
        let mut unreachable: Option<Error> = None;
        // A node that cannot be connected to has run nothing: others are tried, whatever the
        // retry policy says.
        for _ in 0..4 {
            let (pick, pool) = match self.pick(cx)? {
                Picked::Ready(pick, taken) => return Ok((pick, taken)),
                Picked::Unconnected(pick, pool) => (pick, pool),
                Picked::Nobody => {
                    let discovery = self
                        .options
                        .discovery
                        .unwrap_or(self.client.options.discovery);
                    // It knows the deadline itself, and says more about it than we could.
                    tokio::select! {
                        biased;
                        known = self.entry.known(self.client, cx, discovery) => known?,
                        () = cx.cancelled() => {
                            return Err(Error::cancelled("the call was cancelled")
                                .with_operation("client.resolve")
                                .with_unprocessed(true));
                        }
                    }
                    continue;
                }
                Picked::AllTried if unreachable.is_some() => break,
                Picked::AllTried => {
                    // An earlier attempt tried them all: time has passed since.
                    let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
                    tried.1.clear();
                    continue;
                }
            };
            match within(cx, pool.get()).await {
                Ok(taken) => return Ok((pick, taken)),
                Err(err) => {
                    let over = matches!(
                        err.kind(),
                        ErrorKind::DeadlineExceeded | ErrorKind::Cancelled
                    );
                    self.note_tried(pick.index());
                    if over && !err.is_unprocessed() {
                        // The caller's own end says nothing of the node.
                        drop(pick);
                        return Err(err.with_unprocessed(true).with_retryable(false));
                    }
                    // Whatever the reason, no call gets through.
                    self.finish(pick, Outcome::Failure(FAILURE_PENALTY), cx.now());
                    unreachable = Some(err);
                }
            }
        }
        Err(unreachable.unwrap_or_else(|| {
            Error::unavailable("the service's nodes went away while the call was made")
                .with_operation("client.resolve")
                .with_unprocessed(true)
        }))
    }

    fn pick(&self, cx: &Context) -> Result<Picked> {
        let built = self.entry.nodes(self.client);
        if built.nodes.is_empty() {
            return Ok(Picked::Nobody);
        }
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.0 != built.revision {
            // Other indexes: whether one of them was tried is not known.
            tried.0 = built.revision;
            tried.1.clear();
        }
        let random = self.client.options.random.next_u64();
        // Idle nodes are not picked while others are ready: one at a time is woken on the way.
        let other = (random >> 32) as usize % built.pools.len();
        if built.nodes[other].weight() > 0 && self.options.admits(&built.nodes[other]) {
            built.pools[other].wake();
        }
        let admits = |entry: &Entry| self.options.admits(entry);
        let filter: Option<&(dyn Fn(&Entry) -> bool + Sync)> = if self.options.filters() {
            Some(&admits)
        } else {
            None
        };
        let hint = PickHint::new(cx.now())
            .with_random(random)
            .with_key(self.options.key)
            .with_tried(&tried.1)
            .with_filter(filter);
        let Some(pick) = self.client.selector.pick(&built.nodes, &hint) else {
            return Err(
                Error::unavailable("no node of the service passes the call's filters")
                    .with_operation("client.pick")
                    .with_context("nodes", built.nodes.len())
                    .with_context("version", self.options.version.as_deref().unwrap_or("any"))
                    .with_unprocessed(true)
                    .with_retryable(false),
            );
        };
        let pool = &built.pools[pick.index()];
        if let Some(taken) = pool.ready() {
            return Ok(Picked::Ready(pick, taken));
        }
        if !tried.1.is_empty()
            && tried.1.contains(&pick.index())
            && tried.1.len() >= built.nodes.len()
        {
            return Ok(Picked::AllTried);
        }
        Ok(Picked::Unconnected(pick, Arc::clone(pool)))
    }

    fn failed(&self, pick: Pick, err: &Error, start: Instant, now: Instant) {
        self.note_tried(pick.index());
        match verdict(err, now.saturating_duration_since(start)) {
            Some(outcome) => self.finish(pick, outcome, now),
            None => drop(pick),
        }
    }

    fn note_tried(&self, index: usize) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if !tried.1.contains(&index) {
            tried.1.push(index);
        }
    }

    fn finish(&self, pick: Pick, outcome: Outcome, now: Instant) {
        let failed = matches!(outcome, Outcome::Failure(_));
        if failed && pick.state().failures() + 1 >= FAILURES_TO_EJECT {
            self.eject(pick.state(), now);
        }
        pick.finish(outcome, now);
    }

    /// Ejects a node, unless half of them are out already: then it is not the nodes (panic
    /// threshold).
    fn eject(&self, state: &micro_selector_core::NodeState, now: Instant) {
        let built = self.entry.nodes(self.client);
        let ejected = built
            .nodes
            .iter()
            .filter(|entry| entry.state().is_ejected(now))
            .count();
        if (ejected + 1) * 2 <= built.nodes.len() {
            let random = self.client.options.random.next_u64() % 1000;
            state.eject(now, EJECTION.mul_f64(0.75 + random as f64 / 2000.0));
        }
    }
}

impl std::fmt::Debug for Dispatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatch")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

enum Picked {
    Ready(Pick, Taken),
    Unconnected(Pick, Arc<crate::pool::Pool>),
    Nobody,
    AllTried,
}

/// What an error says of the node: an answer is an answer, whatever it says to the caller.
pub(crate) fn verdict(err: &Error, took: Duration) -> Option<Outcome> {
    match err.kind() {
        ErrorKind::Cancelled => None,
        ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Internal
        | ErrorKind::Unknown
        | ErrorKind::ResourceExhausted
        | ErrorKind::DataLoss => Some(Outcome::Failure(took.max(FAILURE_PENALTY))),
        _ => Some(Outcome::Success(took)),
    }
}

/// A server whose clock is a little ahead may reset the call at the deadline before our own timer
/// fires: to the caller it is the deadline all the same. (grpc-go does likewise.)
pub(crate) fn of_deadline(cx: &Context, err: Error) -> Error {
    const SLACK: Duration = Duration::from_millis(2);
    let over = cx.remaining().is_some_and(|left| left <= SLACK);
    if over && err.kind() == ErrorKind::Cancelled && !cx.is_cancelled() {
        return Error::deadline_exceeded("the time for the call ran out at the server")
            .with_operation("client.call")
            .with_source(err);
    }
    err
}

/// Runs a future until the context's end.
///
/// Both timer and cancellation are only set up once the future has to wait.
pub(crate) async fn within<T>(cx: &Context, future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    let mut ends = pin!(ended(cx));
    poll_fn(|task| {
        if let Poll::Ready(outcome) = future.as_mut().poll(task) {
            return Poll::Ready(outcome);
        }
        ends.as_mut().poll(task).map(Err)
    })
    .await
}

/// Resolves with the reason when the context is over.
pub(crate) async fn ended(cx: &Context) -> Error {
    let cancelled = cx.cancelled();
    match cx.remaining() {
        None => cancelled.await,
        Some(left) => {
            tokio::select! {
                biased;
                () = cancelled => {}
                () = tokio::time::sleep(left) => {
                    return Error::deadline_exceeded("the time for the call ran out")
                        .with_operation("client.call");
                }
            }
        }
    }
    Error::cancelled("the call was cancelled").with_operation("client.call")
}
