//! Not calling what does not answer.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_core::{Context, Error, ErrorKind, Live, Random, Result, SystemRandom, async_trait};
use micro_transport_core::{Middleware, Next, Request, Response};

use crate::bucket::Epoch;
use crate::passes_first;
use crate::table::Table;

/// When a circuit opens and closes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Breaker {
    /// So many failures in a row open it. Default 5, at least 1.
    pub failures: u32,
    /// So large a share of failures opens it, 0 to 1. Default 0.5.
    pub share: f64,
    /// The fewest calls in the window that a share is taken of. Default 20.
    pub volume: u32,
    /// What the share is taken of: the calls of so long, or of half of it. Default 10 s.
    pub window: Duration,
    /// How long it stays open the first time; doubled each time that it opens again without having
    /// closed. A random quarter is added or left out, so that clients do not come back together.
    /// Default 1 s.
    pub pause: Duration,
    /// The longest it stays open. Default 30 s.
    pub longest: Duration,
    /// So many calls that succeed, one after the other, close it. Default 1.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            share: 0.5,
            volume: 20,
            window: Duration::from_secs(10),
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            probes: 1,
        }
    }
}

impl Breaker {
    /// Sets [`failures`](Self::failures).
    #[must_use]
    pub const fn with_failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets [`share`](Self::share) and [`volume`](Self::volume).
    #[must_use]
    pub const fn with_share(mut self, share: f64, volume: u32) -> Self {
        self.share = share;
        self.volume = volume;
        self
    }

    /// Sets [`window`](Self::window).
    #[must_use]
    pub const fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets [`pause`](Self::pause) and [`longest`](Self::longest).
    #[must_use]
    pub const fn with_pause(mut self, first: Duration, longest: Duration) -> Self {
        self.pause = first;
        self.longest = longest;
        self
    }

    /// Sets [`probes`](Self::probes).
    #[must_use]
    pub const fn with_probes(mut self, probes: u32) -> Self {
        self.probes = probes;
        self
    }
}

/// What a circuit is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Circuit {
    /// Each method of each service.
    #[default]
    Method,
    /// Each service.
    Service,
}

/// Refuses calls to what has failed lately, at once and without the wire: for clients.
///
/// A circuit is closed; after too many failures it is open and refuses; after a pause it is half
/// open and lets one call at a time through, whose outcome closes it or opens it again for longer.
///
/// Balancing and ejection already keep calls off single broken nodes: a circuit is for a service that
/// is broken as a whole. It stands outside of retries, so it counts calls and not attempts. Its
/// refusal is `Unavailable`, unprocessed and not retryable: nothing ran, and asking the same circuit
/// again is of no use. A failure is one of the kinds that say something of the service:
/// `Unavailable`, `DeadlineExceeded`, `ResourceExhausted`, `Internal`, `Unknown`, `DataLoss`. A call
/// that is cancelled or dropped says nothing.
///
/// A closed circuit takes no lock for a call that succeeds. At most 1,024 circuits are kept; calls
/// of what there is no room for pass.
pub struct CircuitBreaker {
    settings: Live<Breaker>,
    of: Circuit,
    epoch: Epoch,
    random: Arc<dyn Random>,
    states: Table<State>,
}

const MOST: usize = 1024;

impl CircuitBreaker {
    /// A circuit for each method.
    #[must_use]
    pub fn new(settings: impl Into<Live<Breaker>>) -> Self {
        Self {
            settings: settings.into(),
            of: Circuit::Method,
            epoch: Epoch::new(),
            random: Arc::new(SystemRandom),
            states: Table::new(MOST),
        }
    }

    /// Sets what a circuit is of.
    #[must_use]
    pub fn per(mut self, of: Circuit) -> Self {
        self.of = of;
        self
    }

    /// Sets where chance comes from.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    fn state(&self, request: &Request) -> Option<Arc<State>> {
        let service = request.service.as_deref().unwrap_or("");
        let path = match self.of {
            Circuit::Method => &*request.path,
            // Without the service's name, its contract has to do.
            Circuit::Service if service.is_empty() => request
                .path
                .rsplit_once('/')
                .map_or("", |(contract, _)| contract),
            Circuit::Service => "",
        };
        self.states.get((service, path), State::default)
    }
}

/// One circuit.
#[derive(Debug, Default)]
struct State {
    /// Whether it is not closed: all that a call reads.
    open: AtomicBool,
    failures: AtomicU32,
    /// Calls that succeeded and that failed, in this half of the window and the one before.
    halves: [[AtomicU32; 2]; 2],
    half: AtomicU64,
    inner: Mutex<Inner>,
}

/// What counts while it is not closed.
#[derive(Debug, Default)]
struct Inner {
    /// When a call is let through, in ns.
    until: u64,
    /// How often it has opened since it was closed.
    times: u32,
    /// Whether a call is on its way that will tell.
    probing: bool,
    good: u32,
}

impl State {
    /// Lets a call through, perhaps as a probe, or says how long the circuit stays open.
    fn admit(&self, now: u64) -> Result<bool, Duration> {
        if !self.open.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut inner = self.inner();
        if !self.open.load(Ordering::Acquire) {
            return Ok(false);
        }
        if now < inner.until || inner.probing {
            return Err(Duration::from_nanos(inner.until.saturating_sub(now)));
        }
        inner.probing = true;
        Ok(true)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has ended.
    fn record(&self, rules: &Breaker, good: bool, probe: bool, now: u64, random: &dyn Random) {
        if probe {
            let mut inner = self.inner();
            inner.probing = false;
            if !good {
                self.open(&mut inner, rules, now, random);
            } else {
                inner.good += 1;
                if inner.good >= rules.probes.max(1) {
                    *inner = Inner::default();
                    self.forget();
                    self.open.store(false, Ordering::Release);
                }
            }
            return;
        }
        let half = self.turn(rules, now);
        self.halves[half][usize::from(!good)].fetch_add(1, Ordering::Relaxed);
        if good {
            if self.failures.load(Ordering::Relaxed) > 0 {
                self.failures.store(0, Ordering::Relaxed);
            }
            return;
        }
        let row = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if row < rules.failures.max(1) && !self.too_many(rules) {
            return;
        }
        let mut inner = self.inner();
        // Calls that were under way when it opened say nothing new.
        if !self.open.load(Ordering::Acquire) {
            self.open(&mut inner, rules, now, random);
        }
    }

    fn open(&self, inner: &mut Inner, rules: &Breaker, now: u64, random: &dyn Random) {
        let doubled = rules
            .pause
            .saturating_mul(2_u32.saturating_pow(inner.times));
        let pause = doubled.min(rules.longest);
        let jitter = 0.75 + (random.next_u64() % 1000) as f64 / 2000.0;
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX) as f64 * jitter;
        inner.until = now.saturating_add(pause as u64);
        inner.times = inner.times.saturating_add(1);
        inner.good = 0;
        self.open.store(true, Ordering::Release);
    }

    fn too_many(&self, rules: &Breaker) -> bool {
        let count = |outcome: usize| {
            self.halves.iter().fold(0_u32, |sum, half| {
                sum.saturating_add(half[outcome].load(Ordering::Relaxed))
            })
        };
        let (good, bad) = (count(0), count(1));
        let all = good.saturating_add(bad);
        all >= rules.volume.max(1) && f64::from(bad) >= f64::from(all) * rules.share
    }

    fn turn(&self, rules: &Breaker, now: u64) -> usize {
        let length = (rules.window.as_nanos() / 2).max(1_000_000);
        let at = u64::try_from(u128::from(now) / length).unwrap_or(u64::MAX);
        let before = self.half.fetch_max(at, Ordering::Relaxed);
        if at > before {
            self.clear((at % 2) as usize);
            if at - before > 1 {
                self.clear(((at + 1) % 2) as usize);
            }
        }
        (at.max(before) % 2) as usize
    }

    fn clear(&self, half: usize) {
        for count in &self.halves[half] {
            count.store(0, Ordering::Relaxed);
        }
    }

    fn forget(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.clear(0);
        self.clear(1);
    }
}

/// Gives the probe back if its call is dropped.
struct Probe<'a>(Option<&'a State>);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.inner().probing = false;
        }
    }
}

#[async_trait]
impl Middleware for CircuitBreaker {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        if passes_first(&request.path) {
            return next.run(cx, request).await;
        }
        let Some(state) = self.state(&request) else {
            return next.run(cx, request).await;
        };
        let probe = match state.admit(self.epoch.nanos(cx.now())) {
            Ok(probe) => probe,
            Err(left) => return Err(refused(&request, left)),
        };
        let mut guard = Probe(probe.then_some(&*state));
        let outcome = next.run(cx, request).await;
        let Some(good) = verdict(&outcome) else {
            return outcome;
        };
        guard.0 = None;
        let rules = *self.settings.get();
        let now = self.epoch.nanos(cx.now());
        state.record(&rules, good, probe, now, &*self.random);
        outcome
    }
}

/// What an outcome says of the service: nothing, if the caller gave up.
fn verdict(outcome: &Result<Response>) -> Option<bool> {
    let Err(err) = outcome else {
        return Some(true);
    };
    match err.kind() {
        ErrorKind::Cancelled => None,
        ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::ResourceExhausted
        | ErrorKind::Internal
        | ErrorKind::Unknown
        | ErrorKind::DataLoss => Some(false),
        // An answer is an answer.
        _ => Some(true),
    }
}

fn refused(request: &Request, left: Duration) -> Error {
    Error::unavailable("the circuit is open: the service has failed too often of late")
        .with_operation("limit.circuit")
        .with_context("path", &request.path)
        .with_context("asked_again_in", format_args!("{left:?}"))
        .with_unprocessed(true)
        .with_retryable(false)
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("settings", &self.settings)
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}
