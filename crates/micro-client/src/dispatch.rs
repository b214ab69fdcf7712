//! One attempt of a call: resolve, pick, connect, call.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use micro_core::{Context, Error, ErrorKind, Random, Result};
use micro_selector_core::{Change, Entry, Nodes, Outcome, Outliers, Pick, PickHint, Readiness};
use micro_transport_core::{Body, BoxFuture, Request, Response};
use tokio::time::Sleep;

use crate::client::Inner;
use crate::entry::{Built, ServiceEntry};
use crate::options::CallOptions;
use crate::pool::Taken;
use crate::stream::Guarded;
use crate::ticks::{Noted, SOON, Ticks};

/// A failed call counts as one that took this long, or a node that fails at once would look the
/// best and attract every call.
const FAILURE_PENALTY: Duration = Duration::from_secs(5);

/// One call: what its attempts share.
pub(crate) struct Dispatch<'a> {
    pub(crate) client: &'a Inner,
    entry: &'a ServiceEntry,
    options: &'a CallOptions,
    /// The nodes tried by earlier attempts, in the set of this revision. No lock in effect: the
    /// attempts of one call seldom meet.
    tried: Mutex<(u64, Vec<usize>)>,
    /// Whether attempts may run at the same time, so that each must know of the others' nodes from
    /// its beginning.
    hedged: bool,
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
            hedged: false,
        }
    }

    /// Says that attempts may run at the same time.
    pub(crate) fn hedged(mut self, hedged: bool) -> Self {
        self.hedged = hedged;
        self
    }

    /// Whether there is a node for this call that no attempt has tried.
    pub(crate) fn has_another(&self) -> bool {
        let built = self.entry.nodes(self.client);
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.0 != built.revision
            || (0..built.nodes.len()).any(|index| {
                let entry = &built.nodes[index];
                !tried.1.contains(&index) && entry.weight() > 0 && self.options.admits(entry)
            })
    }

    /// Makes one attempt.
    pub(crate) async fn run(&self, cx: &Context, request: Request) -> Result<Response> {
        let (pick, taken, start) = self.take(cx).await?;
        if self.hedged {
            self.note_tried(pick.index());
        }
        let mut running = Running {
            pick: Some(pick),
            hedged: self.hedged.then_some((cx, start)),
        };
        let call = taken.connection().call(cx, request);
        let outcome = answered(cx, start, &self.client.ticks, call).await;
        let Some(pick) = running.pick.take() else {
            return outcome;
        };
        match outcome {
            Ok(mut response) => {
                let now = cx.now();
                let latency = now.saturating_duration_since(start);
                if let Body::Stream(messages) = response.body {
                    let told = self.later(pick);
                    let guarded = Guarded::new(messages, cx, told, taken, latency);
                    response.body = Body::Stream(Box::pin(guarded));
                } else {
                    self.finish(pick, Outcome::Success(latency), now);
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

    /// A node, a connection to it, and the time.
    async fn take(&self, cx: &Context) -> Result<(Pick, Taken, Instant)> {
        match self.pick(cx)? {
            Picked::Ready(pick, taken, now) => Ok((pick, taken, now)),
            // Boxed: calls that need not wait must not carry its state.
            other => Box::pin(self.wait(cx, other)).await,
        }
    }

    /// The same, waiting for discovery and for connecting where need be.
    async fn wait(&self, cx: &Context, picked: Picked) -> Result<(Pick, Taken, Instant)> {
        let mut picked = Some(picked);
        let mut unreachable: Option<Error> = None;
        // A node that cannot be connected to has run nothing: others are tried, whatever the
        // retry policy says.
        for _ in 0..4 {
            let now = match picked.take() {
                Some(picked) => picked,
                None => self.pick(cx)?,
            };
            let (pick, pool) = match now {
                Picked::Ready(pick, taken, now) => return Ok((pick, taken, now)),
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
                Ok(taken) => return Ok((pick, taken, cx.now())),
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
                    // No call has failed: its readiness keeps others away until it is back.
                    drop(pick);
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
        if built.near.is_empty() {
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
        let other = (random >> 32) as usize % built.near.len();
        if built.near[other].weight() > 0 && self.options.admits(&built.near[other]) {
            self.entry.pool(self.client, &built, other).wake();
        }
        let admits = |entry: &Entry| self.options.admits(entry);
        let filter: Option<&(dyn Fn(&Entry) -> bool + Sync)> = if self.options.filters() {
            Some(&admits)
        } else {
            None
        };
        let now = cx.now();
        let hint = PickHint::new(now)
            .with_random(random)
            .with_key(self.options.key)
            .with_tried(&tried.1)
            .with_filter(filter);
        let Some(pick) = self.choose(&built, &hint) else {
            return Err(
                Error::unavailable("no node of the service passes the call's filters")
                    .with_operation("client.pick")
                    .with_context("nodes", built.nodes.len())
                    .with_context("version", self.options.version.as_deref().unwrap_or("any"))
                    .with_unprocessed(true)
                    .with_retryable(false),
            );
        };
        let pool = self.entry.pool(self.client, &built, pick.index());
        if let Some(taken) = pool.ready() {
            return Ok(Picked::Ready(pick, taken, now));
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

    /// A node of the own zone, else one of the client's subset, else any.
    fn choose(&self, built: &Built, hint: &PickHint<'_>) -> Option<Pick> {
        let selector = &self.client.selector;
        let good = |pick: &Pick, readiness: &[Readiness]| {
            readiness.contains(&pick.state().readiness())
                && !pick.state().is_ejected(hint.now)
                && !hint.tried.contains(&pick.index())
        };
        let ready = |pick: &Pick| good(pick, &[Readiness::Ready]);
        let own = built
            .own(selector.balance(), hint.now, hint.random)
            .and_then(|own| selector.pick(own, hint));
        if own.as_ref().is_some_and(ready) {
            return own;
        }
        let near = selector.pick(&built.near, hint);
        if near.as_ref().is_some_and(ready) {
            return near;
        }
        if built.near.len() < built.nodes.len() {
            // That is no reason to go elsewhere with this call, but with later ones.
            self.entry.redraw(self.client, hint.now);
        }
        let waits = [Readiness::Idle, Readiness::Connecting];
        if own.as_ref().is_some_and(|own| good(own, &waits)) {
            return own;
        }
        let fair = |near: &Pick| ready(near) || good(near, &waits);
        if hint.filter.is_some() && !near.as_ref().is_some_and(fair) {
            // What the filter wants may be outside of the subset.
            return selector.pick(&built.nodes, hint);
        }
        near
    }

    fn finish(&self, pick: Pick, outcome: Outcome, now: Instant) {
        let built = self.entry.nodes(self.client);
        let random = || self.client.options.random.next_u64();
        let change = built
            .outliers
            .finish(&built.near, pick, outcome, now, random);
        note(self.entry, change);
    }

    /// What tells a pick its outcome once the call itself is gone.
    fn later(&self, pick: Pick) -> Told {
        let built = self.entry.nodes(self.client);
        Told {
            pick,
            near: built.near.clone(),
            outliers: Arc::clone(&built.outliers),
            random: Arc::clone(&self.client.options.random),
        }
    }
}

/// A pick whose call ends later than the attempt that made it: that of a stream.
#[derive(Debug)]
pub(crate) struct Told {
    pick: Pick,
    near: Nodes,
    outliers: Arc<Outliers>,
    random: Arc<dyn Random>,
}

impl Told {
    pub(crate) fn finish(self, outcome: Outcome, now: Instant) {
        let random = || self.random.next_u64();
        self.outliers
            .finish(&self.near, self.pick, outcome, now, random);
    }
}

fn note(entry: &ServiceEntry, change: Change) {
    match change {
        Change::None => {}
        Change::Panic => {
            tracing::warn!(
                ?entry,
                "more than half of the nodes fail: none is left out for a while"
            );
        }
        change => tracing::debug!(?entry, ?change, "a node was left out or came back"),
    }
}

impl std::fmt::Debug for Dispatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatch")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// An attempt under way. If it is dropped because another one was faster, its node is known to take
/// at least so long: or a slow node that is always outrun would never be known to be slow.
struct Running<'a> {
    pick: Option<Pick>,
    hedged: Option<(&'a Context, Instant)>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (Some(pick), Some((cx, start))) = (self.pick.take(), self.hedged) else {
            return;
        };
        let now = cx.now();
        let took = now.saturating_duration_since(start);
        let state = pick.state();
        // It may make the node look slower, never better: it is no success.
        let slower = state.latency(now).is_none_or(|known| took > known);
        if slower && state.failures() == 0 && !state.is_on_probation(now) {
            pick.finish(Outcome::Success(took), now);
        }
    }
}

enum Picked {
    Ready(Pick, Taken, Instant),
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

/// Waits for the answer to a call that began at `now`, until the context's end.
async fn answered(
    cx: &Context,
    now: Instant,
    ticks: &Ticks,
    mut call: BoxFuture<'_, Result<Response>>,
) -> Result<Response> {
    let mut cancelled = pin!(cx.cancelled());
    let mut noted: Option<Noted<'_>> = None;
    // Boxed: only calls that take long carry one.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|task| {
        if let Poll::Ready(outcome) = call.as_mut().poll(task) {
            return Poll::Ready(outcome);
        }
        if cancelled.as_mut().poll(task).is_ready() {
            return Poll::Ready(Err(given_up()));
        }
        let Some(deadline) = cx.deadline() else {
            return Poll::Pending;
        };
        if timer.is_none() {
            let over = match &mut noted {
                Some(noted) => noted.is_over(task.waker()),
                None if deadline < now + SOON => true,
                None => {
                    noted = ticks.note(task.waker());
                    noted.is_none()
                }
            };
            if !over {
                return Poll::Pending;
            }
            let left = deadline.saturating_duration_since(cx.now());
            timer = Some(Box::pin(tokio::time::sleep(left)));
        }
        match &mut timer {
            Some(timer) => timer.as_mut().poll(task).map(|()| Err(out_of_time())),
            None => Poll::Pending,
        }
    })
    .await
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
                () = tokio::time::sleep(left) => return out_of_time(),
            }
        }
    }
    given_up()
}

fn given_up() -> Error {
    Error::cancelled("the call was cancelled").with_operation("client.call")
}

fn out_of_time() -> Error {
    Error::deadline_exceeded("the time for the call ran out").with_operation("client.call")
}
