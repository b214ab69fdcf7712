//! How long a lock is held, as its holder knows.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use micro_core::{Canceller, Context};

use crate::{Clock, Error};

/// The time in which a lock is held, as far as its holder can know: a backend [renews](Self::renew) and
/// [ends](Self::end) it, and a [`Lock`](crate::Lock) reads it.
///
/// It ends once, by the backend or by the clock, and is over for good then.
pub struct Tenure {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Cancelled when it ends; made for the first who waits for that.
    over: OnceLock<(Context, Canceller)>,
}

#[derive(Debug)]
struct State {
    /// By the clock; `None` is without end.
    until: Option<Instant>,
    /// Why it is over.
    over: Option<&'static str>,
}

impl Tenure {
    /// A tenure until a moment of this clock; `None` lasts until it is [ended](Self::end).
    ///
    /// The moment lies a safety margin before the one at which the backend would give the lock to
    /// somebody else, counted from before the backend was asked.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, until: Option<Instant>) -> Self {
        Self {
            clock,
            state: Mutex::new(State { until, over: None }),
            over: OnceLock::new(),
        }
    }

    /// Lets it last until this moment, if it is not over.
    pub fn renew(&self, until: Instant) {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.is_held(|| now) {
            state.until = Some(until);
        }
    }

    /// Ends it; `why` is a sentence for people. The first one counts.
    pub fn end(&self, why: &'static str) {
        self.lock().over.get_or_insert(why);
        // Whoever comes to wait from now on has made it before looking, and sees that it is over.
        if let Some((_, over)) = self.over.get() {
            over.cancel();
        }
    }

    /// Whether the lock is still held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().is_held(|| self.clock.now())
    }

    /// How long the lock is held even if nothing is heard of the backend any more; zero when it is
    /// over, and [`Duration::MAX`] if it has no end.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.clock.now();
        let state = self.lock();
        match (state.over, state.until) {
            (Some(_), _) => Duration::ZERO,
            (None, None) => Duration::MAX,
            (None, Some(until)) => until.saturating_duration_since(now),
        }
    }

    /// Resolves when it is over, with the error that says why. It may be awaited any number of times, and
    /// dropped at any time.
    ///
    /// Somebody has to look at the clock: it resolves when the backend [ends](Self::end) it, or when
    /// it is polled after its time.
    pub async fn lost(&self) -> Error {
        let (over, _) = self.over.get_or_init(|| Context::new().with_cancel());
        let mut over = pin!(over.cancelled());
        poll_fn(|cx| match over.as_mut().poll(cx) {
            Poll::Pending if self.is_held() => Poll::Pending,
            _ => Poll::Ready(self.error()),
        })
        .await
    }

    /// The error of one who has lost the lock.
    #[must_use]
    pub fn error(&self) -> Error {
        let why = self.lock().over;
        Error::lost(why.unwrap_or("it was not renewed in time"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_held(&self, now: impl FnOnce() -> Instant) -> bool {
        self.over.is_none() && self.until.is_none_or(|until| now() < until)
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Tenure")
            .field("until", &state.until)
            .field("over", &state.over)
            .finish_non_exhaustive()
    }
}
