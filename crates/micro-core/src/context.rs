//! What travels with a call.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::{Cancelled, Canceller, Scope};
use crate::{Clock, Error, Identity, Metadata, Result, SystemClock, TraceContext};

/// What travels with a call: deadline, cancellation, metadata, identity and trace.
///
/// It is the first argument of whatever runs on behalf of a call, and cheap to clone.
/// A handler passes its context on to the calls it makes: deadline, cancellation and trace then
/// travel hop by hop. The metadata and credentials that came in do *not*: what goes out is what
/// [`with_metadata`](Self::with_metadata) added, so nobody forwards a caller's token by accident.
///
/// ```
/// use std::time::Duration;
/// use micro_core::Context;
///
/// let cx = Context::new()
///     .with_timeout(Duration::from_secs(1))
///     .with_metadata("x-tenant", "acme")?;
/// assert!(cx.remaining().unwrap() <= Duration::from_secs(1));
/// # Ok::<(), micro_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Context(Arc<Inner>);

#[derive(Clone, Default)]
struct Inner {
    deadline: Option<Instant>,
    /// `None` is the system's clock: no reference count on the hot path.
    clock: Option<Arc<dyn Clock>>,
    scope: Option<Arc<Scope>>,
    identity: Option<Arc<Identity>>,
    trace: Option<TraceContext>,
    outgoing: Metadata,
    /// The scope of the call being served.
    served: Option<Arc<Scope>>,
    attempt: u32,
    received: Option<Arc<OnceLock<Metadata>>>,
}

/// What belongs to the call being served, and is shared by every context made from its own.
#[derive(Debug)]
pub(crate) struct Served {
    metadata: Metadata,
    reply: Mutex<Metadata>,
}

static NOTHING: Metadata = Metadata::new();

impl Context {
    /// A context without deadline: for calls that begin here.
    ///
    /// A client adds its own default deadline to a call that has none.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// A context whose time comes from `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            clock: Some(clock),
            ..Inner::default()
        }))
    }

    /// The context of a call that arrives: for servers.
    ///
    /// `metadata` become [`metadata`](Self::metadata); the canceller is for when the caller is gone.
    #[must_use]
    pub fn serve(clock: Option<Arc<dyn Clock>>, metadata: Metadata) -> (Self, Canceller) {
        let scope = Arc::new(Scope::of(Served {
            metadata,
            reply: Mutex::default(),
        }));
        let cx = Self(Arc::new(Inner {
            clock,
            scope: Some(Arc::clone(&scope)),
            served: Some(Arc::clone(&scope)),
            ..Inner::default()
        }));
        (cx, Canceller(scope))
    }

    fn served(&self) -> Option<&Served> {
        self.0.served.as_ref()?.served.as_ref()
    }

    fn change(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// Ends the call `timeout` from now, or earlier if it already ends earlier.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        // A timeout beyond what the clock can hold is no timeout.
        match self.now().checked_add(timeout) {
            Some(deadline) => self.with_deadline(deadline),
            None => self,
        }
    }

    /// Ends the call at `deadline`, or earlier if it already ends earlier.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        let inner = self.change();
        inner.deadline = Some(inner.deadline.map_or(deadline, |at| at.min(deadline)));
        self
    }

    /// Adds a pair to what is sent with the calls made from here.
    ///
    /// # Errors
    ///
    /// As [`Metadata::insert`].
    pub fn with_metadata(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.change().outgoing.insert(name, value)?;
        Ok(self)
    }

    /// Replaces all that is sent with the calls made from here.
    #[must_use]
    pub fn with_outgoing(mut self, metadata: Metadata) -> Self {
        self.change().outgoing = metadata;
        self
    }

    /// Sets who the caller is. Only the server's auth middleware does this.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.change().identity = Some(Arc::new(identity));
        self
    }

    /// Sets the trace that the call belongs to.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.change().trace = Some(trace);
        self
    }

    /// Says how many attempts came before this one: for retrying middleware and servers.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.change().attempt = attempt;
        self
    }

    /// A context that keeps the metadata of the reply to the next call made with it, and the handle
    /// that reads them.
    ///
    /// ```
    /// # use micro_core::{Context, Metadata};
    /// let (cx, received) = Context::new().with_received();
    /// // … `greeter.hello(&cx, request).await?` …
    /// # cx.receive(|| Metadata::new());
    /// assert!(received.metadata().is_some());
    /// ```
    #[must_use]
    pub fn with_received(mut self) -> (Self, Received) {
        let slot = Arc::default();
        self.change().received = Some(Arc::clone(&slot));
        (self, Received(slot))
    }

    /// Keeps the metadata of a reply, if somebody asked for them: for clients.
    pub fn receive(&self, metadata: impl FnOnce() -> Metadata) {
        if let Some(slot) = &self.0.received {
            // A retried call has several replies; the first one that arrived stands.
            let _ = slot.set(metadata());
        }
    }

    /// A context that can be cancelled on its own, and the handle that does it.
    #[must_use]
    pub fn with_cancel(mut self) -> (Self, Canceller) {
        let scope = Arc::new(Scope::new(self.0.scope.clone()));
        self.change().scope = Some(Arc::clone(&scope));
        (self, Canceller(scope))
    }

    /// When the call ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// How long the call still has: zero when its time is over, `None` without a deadline.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.0
            .deadline
            .map(|deadline| deadline.saturating_duration_since(self.now()))
    }

    /// The time by this context's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.0.clock {
            Some(clock) => clock.now(),
            None => SystemClock.now(),
        }
    }

    /// The metadata that came in with the call being served; empty where none is.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.served().map_or(&NOTHING, |served| &served.metadata)
    }

    /// The metadata that go out with the calls made from here.
    #[must_use]
    pub fn outgoing(&self) -> &Metadata {
        &self.0.outgoing
    }

    /// The reply's metadata, to be set by a handler.
    #[must_use]
    pub fn reply(&self) -> Reply<'_> {
        Reply(self.served())
    }

    /// Who the caller is, if that was verified.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_deref()
    }

    /// The trace that the call belongs to: the one that was set, else the one that came in with the
    /// call being served. One that cannot be read is none, as W3C Trace Context asks (§3.2.2).
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        // Read when asked for: most calls are answered without.
        self.0
            .trace
            .or_else(|| self.metadata().get(TraceContext::HEADER)?.parse().ok())
    }

    /// How many attempts came before this one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether the call was cancelled. A deadline that has passed is not a cancellation.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0
            .scope
            .as_ref()
            .is_some_and(|scope| scope.is_cancelled())
    }

    /// Resolves when the call is cancelled, and never if it cannot be.
    ///
    /// Deadlines do not wake it: the framework drops a handler's future at its deadline.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::new(self.0.scope.as_ref())
    }

    /// Fails if the call is over: ask before expensive work.
    ///
    /// # Errors
    ///
    /// `Cancelled` or `DeadlineExceeded`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::cancelled("the caller gave up"));
        }
        if self
            .0
            .deadline
            .is_some_and(|deadline| deadline <= self.now())
        {
            return Err(Error::deadline_exceeded("the time for the call ran out"));
        }
        Ok(())
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("remaining", &self.remaining())
            .field("cancelled", &self.is_cancelled())
            .field("identity", &self.identity().map(|identity| &identity.id))
            .field("trace", &self.trace())
            .field("metadata", self.metadata())
            .field("outgoing", &self.0.outgoing)
            .field("attempt", &self.0.attempt)
            .finish()
    }
}

/// The metadata of a reply that arrived; made by [`Context::with_received`].
#[derive(Clone, Debug)]
pub struct Received(Arc<OnceLock<Metadata>>);

impl Received {
    /// The metadata ahead of the reply's first message, and for a unary call those behind it too;
    /// `None` before the reply is there.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.0.get()
    }
}

/// The metadata of the reply to the call being served.
///
/// What is set before the reply's first message goes ahead of it; a transport sends what is set
/// later behind the last one (trailers), where it can.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a>(Option<&'a Served>);

impl Reply<'_> {
    /// Sets `name` to one value.
    ///
    /// # Errors
    ///
    /// As [`Metadata::insert`]; `FailedPrecondition` if no call is being served.
    pub fn insert(&self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let Some(served) = self.0 else {
            return Err(Error::failed_precondition(
                "no call is being served, so there is no reply to add metadata to",
            ));
        };
        served
            .reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, value)
    }

    /// Takes what was set so far: for servers.
    #[must_use]
    pub fn take(&self) -> Metadata {
        self.0.map_or_else(Metadata::new, |served| {
            std::mem::take(&mut *served.reply.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, SeededRandom};

    #[test]
    fn a_later_deadline_never_extends_an_earlier_one() {
        let cx = Context::new().with_timeout(Duration::from_secs(1));
        let later = cx.clone().with_timeout(Duration::from_secs(9));
        assert_eq!(later.deadline(), cx.deadline());
        let sooner = cx.with_timeout(Duration::ZERO);
        assert_eq!(sooner.remaining(), Some(Duration::ZERO));
        assert_eq!(
            sooner.check().unwrap_err().kind(),
            ErrorKind::DeadlineExceeded
        );
        assert_eq!(Context::new().with_timeout(Duration::MAX).deadline(), None);
    }

    #[test]
    fn what_came_in_does_not_go_out() {
        let mut metadata = Metadata::new();
        metadata.insert("authorization", "Bearer caller").unwrap();
        let (cx, canceller) = Context::serve(None, metadata);
        assert_eq!(cx.metadata().get("authorization"), Some("Bearer caller"));
        assert!(cx.outgoing().is_empty());
        let derived = cx.clone().with_metadata("x-tenant", "acme").unwrap();
        assert!(cx.outgoing().is_empty());
        assert_eq!(derived.outgoing().len(), 1);
        canceller.cancel();
        assert_eq!(derived.check().unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn the_trace_is_the_one_that_came_in_unless_another_is_set() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (came, expected) in [(text, true), ("00-none", false)] {
            let mut metadata = Metadata::new();
            metadata.insert(TraceContext::HEADER, came).unwrap();
            let (cx, _canceller) = Context::serve(None, metadata);
            assert_eq!(cx.trace().is_some(), expected);
            let other = TraceContext::root(&SeededRandom::new(1));
            assert_eq!(cx.with_trace(other).trace(), Some(other));
        }
    }

    #[test]
    fn every_context_of_a_call_shares_its_reply() {
        let (cx, _canceller) = Context::serve(None, Metadata::new());
        let derived = cx.clone().with_timeout(Duration::from_secs(1));
        derived.reply().insert("x-cost", "3").unwrap();
        assert_eq!(cx.reply().take().get("x-cost"), Some("3"));
        assert!(cx.reply().take().is_empty());
        let err = Context::new().reply().insert("x-cost", "3").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    }
}
