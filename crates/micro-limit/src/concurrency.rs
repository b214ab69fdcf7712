//! So many calls at once.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use micro_core::{Context, Live, Result, SystemRandom, async_trait};
use micro_transport_core::{Middleware, Next, Request, Response};

use crate::bucket::Epoch;
use crate::gate::{Gate, Permit, Waiting};
use crate::gradient::{Gradient, Seen};
use crate::held::hold;
use crate::passes_first;

/// How many calls [`ConcurrencyLimit`] admits at once.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// This many, at least one.
    Fixed(usize),
    /// As many as the latency allows.
    Adaptive(Gradient),
}

/// How many calls [`ConcurrencyLimit`] admits at once, and how others wait.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Concurrency {
    /// How many run.
    pub limit: Limit,
    /// How many more wait. Default: as many as may run.
    pub queue: Option<usize>,
    /// How long a call waits at most, and never beyond its deadline. Default 100 ms.
    pub wait: Duration,
    /// How long it waits at most while there is more work than can be done. Default 3 ms, which
    /// with a timer's millisecond refuses within 5 ms.
    pub target: Duration,
    /// There is more work than can be done when the queue has not been empty for so long. Default
    /// 100 ms.
    pub interval: Duration,
}

impl Concurrency {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            queue: None,
            wait: Duration::from_millis(100),
            target: Duration::from_millis(3),
            interval: Duration::from_millis(100),
        }
    }

    /// This many calls at once.
    #[must_use]
    pub fn fixed(limit: usize) -> Self {
        Self::new(Limit::Fixed(limit))
    }

    /// As many calls at once as the latency allows.
    #[must_use]
    pub fn adaptive(gradient: Gradient) -> Self {
        Self::new(Limit::Adaptive(gradient))
    }

    /// Sets [`queue`](Self::queue).
    #[must_use]
    pub const fn with_queue(mut self, queue: usize) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Sets [`wait`](Self::wait).
    #[must_use]
    pub const fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets [`target`](Self::target).
    #[must_use]
    pub const fn with_target(mut self, target: Duration) -> Self {
        self.target = target;
        self
    }

    /// Sets [`interval`](Self::interval).
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

/// Admits so many calls at once; a few more wait, the rest is refused with `ResourceExhausted`.
///
/// The queue is bounded in length and in time, and knows deadlines: nobody waits for longer than
/// its caller does. First come is first served, until there is more work than can be done; then the
/// newest goes first and the oldest are refused early, so that those who are served are served in
/// time.
///
/// A call holds its place until it is over: one that answers with a stream until the stream ends or
/// is dropped.
pub struct ConcurrencyLimit {
    settings: Live<Concurrency>,
    gate: Arc<Gate>,
    seen: Mutex<Seen>,
    epoch: Epoch,
}

impl ConcurrencyLimit {
    /// Limits all calls together.
    #[must_use]
    pub fn new(settings: impl Into<Live<Concurrency>>) -> Self {
        let settings = settings.into();
        let limit = match settings.get().limit {
            Limit::Fixed(limit) => limit.max(1),
            Limit::Adaptive(rules) => rules.bounded(rules.initial),
        };
        Self {
            settings,
            gate: Arc::new(Gate::new(limit)),
            seen: Mutex::default(),
            epoch: Epoch::new(),
        }
    }

    /// How many calls are admitted at once just now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.gate.limit()
    }

    /// How many are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.gate.in_flight()
    }

    async fn enter(&self, cx: &Context, settings: &Concurrency) -> Result<Permit> {
        let limit = match settings.limit {
            Limit::Fixed(limit) => limit.max(1),
            Limit::Adaptive(rules) => rules.bounded(self.gate.limit()),
        };
        self.gate.set_limit(limit);
        let rules = Waiting {
            most: settings.queue.unwrap_or(limit),
            wait: settings.wait,
            target: settings.target.min(settings.wait),
            interval: settings.interval,
        };
        self.gate.enter(cx, rules).await
    }

    fn sample(&self, rules: &Gradient, start: Instant, now: Instant) {
        // Whoever finds it locked leaves its sample out: others follow soon.
        let Ok(mut seen) = self.seen.try_lock() else {
            return;
        };
        let (in_flight, limit) = (self.gate.in_flight(), self.gate.limit());
        let took = now.saturating_duration_since(start);
        let now = self.epoch.nanos(now);
        let limit = seen.sample(rules, took, in_flight, limit, now, &SystemRandom);
        self.gate.set_limit(limit);
    }
}

#[async_trait]
impl Middleware for ConcurrencyLimit {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        if passes_first(&request.path) {
            return next.run(cx, request).await;
        }
        let settings = *self.settings.get();
        let permit = self.enter(cx, &settings).await?;
        let Limit::Adaptive(rules) = &settings.limit else {
            return hold(next.run(cx, request).await, permit);
        };
        let start = cx.now();
        let outcome = next.run(cx, request).await;
        // A failure may be quick for reasons of its own.
        if outcome.is_ok() {
            self.sample(rules, start, cx.now());
        }
        hold(outcome, permit)
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit")
            .field("settings", &self.settings)
            .field("limit", &self.limit())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
