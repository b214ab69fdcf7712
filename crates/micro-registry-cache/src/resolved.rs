//! One service, as its callers see it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use micro_core::{Live, LiveChanges, LiveGuard};
use micro_registry_core::{Error, Result};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::{ResolverOptions, Snapshot};

/// So many doubts are kept between two answers; more say no more.
pub(crate) const MAX_DOUBTS: usize = 64;

/// A service that is being resolved: its nodes now, and whatever comes.
///
/// It is kept up to date as long as somebody holds it and its [`Resolver`](crate::Resolver) lives.
pub struct Resolved {
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: Live<Snapshot>,
    pub(crate) progress: Live<Progress>,
    pub(crate) task: AbortHandle,
    /// Since the resolver began, in milliseconds.
    pub(crate) last_used: AtomicU64,
}

/// What callers and the task of a service have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) backend: &'static str,
    pub(crate) opts: Arc<ResolverOptions>,
    /// Tells the task that somebody waits, or doubts.
    pub(crate) wake: Notify,
    pub(crate) waiting: AtomicUsize,
    pub(crate) doubts: Mutex<BTreeSet<String>>,
}

/// How far the asking has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// How many questions were answered, be it with an error.
    pub(crate) answers: u64,
    pub(crate) last: Option<(Instant, Outcome)>,
    /// The task has ended: no more will come.
    pub(crate) ended: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Some,
    Nobody,
    /// Somebody, but none that is believed; one of them, and why.
    Refused(String),
    Failed(String),
}

impl Resolved {
    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// A number that grows with every snapshot: cheaper than the snapshot to compare. Read it first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.live.version()
    }

    /// What is known now: one atomic load. Do not hold it across an await.
    #[must_use]
    pub fn snapshot(&self) -> LiveGuard<Snapshot> {
        self.live.get()
    }

    /// What is known now, to be kept.
    #[must_use]
    pub fn snapshot_arc(&self) -> Arc<Snapshot> {
        self.live.get_arc()
    }

    /// The snapshots from now on.
    #[must_use]
    pub fn changes(&self) -> LiveChanges<Snapshot> {
        self.live.changes()
    }

    /// Says that a node refused a connection: the registry is asked soon, at most twice a second.
    pub fn doubt(&self, node_id: &str) {
        let mut doubts = self
            .shared
            .doubts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if doubts.len() < MAX_DOUBTS && doubts.insert(node_id.to_owned()) {
            drop(doubts);
            self.shared.wake.notify_one();
        }
    }

    /// Waits until a node is known; returns at once if one is.
    ///
    /// `deadline` is by the options' clock; without one this waits for as long as it takes.
    ///
    /// # Errors
    ///
    /// When the deadline passes: `NotFound` if the registry answers that nobody is there,
    /// `Unavailable` if it answers with errors, `DeadlineExceeded` if it has not answered.
    /// `Unavailable` also if the resolver has ended.
    pub async fn known(&self, deadline: Option<Instant>) -> Result<Arc<Snapshot>> {
        self.wait(deadline, false).await
    }

    /// Like [`known`](Self::known), but takes the registry's first answer, whatever it is.
    ///
    /// An answer of the last [`ResolverOptions::negative_ttl`] is not asked for again.
    ///
    /// # Errors
    ///
    /// As [`known`](Self::known), as soon as the registry has answered so.
    pub async fn first_answer(&self, deadline: Option<Instant>) -> Result<Arc<Snapshot>> {
        self.wait(deadline, true).await
    }

    /// Waits until the registry has answered the question for the whole service, if it never has; returns
    /// what is known then, be it nobody. What a watch told before may be a part: multicast DNS answers
    /// node by node.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the answer was an error and nobody is known, and if the resolver has ended;
    /// `DeadlineExceeded` if there was none by the deadline.
    pub async fn answered(&self, deadline: Option<Instant>) -> Result<Arc<Snapshot>> {
        let clock = &self.shared.opts.clock;
        let start = clock.now();
        let mut changes = self.progress.changes();
        let answered = async {
            loop {
                let now = self.progress.get_arc();
                if let Some((_, outcome)) = &now.last {
                    let snapshot = self.snapshot_arc();
                    return match outcome {
                        Outcome::Failed(_) if snapshot.is_empty() => {
                            Err(self.error(Some(outcome), start))
                        }
                        _ => Ok(snapshot),
                    };
                }
                if now.ended {
                    return Err(self.ended());
                }
                changes.changed().await;
            }
        };
        let Some(deadline) = deadline else {
            return answered.await;
        };
        let left = deadline.saturating_duration_since(start);
        match tokio::time::timeout(left, answered).await {
            Ok(answered) => answered,
            Err(_) => Err(self.error(None, start)),
        }
    }

    /// Whether the registry has ever answered, be it with an error: one atomic load.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.progress.get().last.is_some()
    }

    async fn wait(&self, deadline: Option<Instant>, once: bool) -> Result<Arc<Snapshot>> {
        let snapshot = self.snapshot_arc();
        if !snapshot.is_empty() {
            return Ok(snapshot);
        }
        let clock = &self.shared.opts.clock;
        let start = clock.now();
        // Asked for before the first look: what comes in between is not missed.
        let mut changes = self.progress.changes();
        let answers = self.progress.get().answers;
        let _waiting = Waiting::begin(&self.shared);
        let answered = async {
            loop {
                let now = self.progress.get_arc();
                let snapshot = self.snapshot_arc();
                if !snapshot.is_empty() {
                    return Ok(snapshot);
                }
                if once && let Some((at, outcome)) = &now.last {
                    let age = clock.now().saturating_duration_since(*at);
                    if now.answers > answers || age < self.shared.opts.negative_ttl {
                        return Err(self.error(Some(outcome), start));
                    }
                }
                if now.ended {
                    return Err(self.ended());
                }
                changes.changed().await;
            }
        };
        let Some(deadline) = deadline else {
            return answered.await;
        };
        let left = deadline.saturating_duration_since(start);
        match tokio::time::timeout(left, answered).await {
            Ok(answered) => answered,
            Err(_) => {
                let last = self.progress.get_arc().last.clone();
                Err(self.error(last.as_ref().map(|(_, outcome)| outcome), start))
            }
        }
    }

    fn error(&self, outcome: Option<&Outcome>, start: Instant) -> Error {
        let (err, cause) = match outcome {
            Some(Outcome::Failed(cause)) => (
                Error::unavailable("the registry cannot be asked for this service"),
                Some(cause),
            ),
            Some(Outcome::Refused(cause)) => (
                Error::not_found(
                    "the registry lists nodes of this service, but none that is believed",
                ),
                Some(cause),
            ),
            Some(Outcome::Nobody | Outcome::Some) => (
                Error::not_found(
                    "no node of this service is registered; does it run, with the same registry and namespace?",
                ),
                None,
            ),
            None => (
                Error::deadline_exceeded("the registry has not answered in time"),
                None,
            ),
        };
        let opts = &self.shared.opts;
        let waited = opts.clock.now().saturating_duration_since(start);
        let mut err = err
            .with_operation("resolver.known")
            .with_unprocessed(true)
            .with_context("service", &self.shared.name)
            .with_context("registry", self.shared.backend);
        if !opts.namespace.is_empty() {
            err = err.with_context("namespace", &opts.namespace);
        }
        err = err.with_context("waited", format_args!("{}ms", waited.as_millis()));
        match cause {
            Some(cause) => err.with_context("cause", cause),
            None => err,
        }
    }

    fn ended(&self) -> Error {
        Error::unavailable("the resolver has ended; the program is stopping")
            .with_operation("resolver.known")
            .with_unprocessed(true)
            .with_retryable(false)
            .with_context("service", &self.shared.name)
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    pub(crate) fn used(&self, age: Duration) {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(age, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> Duration {
        Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("name", &self.shared.name)
            .field("snapshot", &*self.live.get())
            .finish_non_exhaustive()
    }
}

/// Somebody waits, so that the task asks more often.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        shared.wake.notify_one();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
