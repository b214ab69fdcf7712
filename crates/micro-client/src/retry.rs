//! Making a call again, or twice at the same time, on another node.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use micro_core::{Context, Error, ErrorKind, Result, async_trait};
use micro_transport_core::{
    BoxFuture, BudgetPolicy, Endpoint, ErrorExt as _, HedgeDelay, HedgePolicy, Request, Response,
    RetryPolicy,
};

use crate::budget::Grant;
use crate::dispatch::Dispatch;
use crate::latency::Latencies;

/// The most repetitions, and the most hedges, whatever is asked for.
const MOST: u32 = 10;

/// What a call may do beyond its first attempt: the policies and the call's own options, laid over
/// each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The most repetitions.
    pub(crate) retries: u32,
    pub(crate) backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) idempotent: bool,
    pub(crate) budget: BudgetPolicy,
    /// `None` if the call is not hedged.
    pub(crate) hedge: Option<HedgeDelay>,
    /// The most hedges.
    pub(crate) hedges: u32,
}

impl Plan {
    pub(crate) fn new(retries: u32, retry: RetryPolicy, idempotent: bool) -> Self {
        let span = |value: Option<Duration>, default: u64| {
            value
                .unwrap_or(Duration::from_millis(default))
                .clamp(Duration::from_micros(1), Duration::from_secs(60))
        };
        Self {
            retries: retries.min(MOST),
            backoff: span(retry.backoff, 20),
            max_backoff: span(retry.max_backoff, 1000),
            idempotent,
            budget: BudgetPolicy::default(),
            hedge: None,
            hedges: 0,
        }
    }

    /// Hedges the call, if it is idempotent and not itself a repetition.
    pub(crate) fn hedged(mut self, cx: &Context, hedge: HedgePolicy) -> Self {
        if self.idempotent && cx.attempt() == 0 {
            self.hedges = hedge.attempts.unwrap_or(2).clamp(1, 5) - 1;
            self.hedge = hedge.delay.filter(|_| self.hedges > 0);
        }
        self
    }
}

/// Makes a call with as many attempts as it takes and may have: what stands inside all middleware,
/// and not among it, because attempts must know which nodes the others have tried.
///
/// - A call that provably never ran is made again, at once if another node is left.
/// - An idempotent one that failed in a way that may pass is made again if the budget allows,
///   unless it is itself part of a repetition further up, or a hop further down has repeated it:
///   one retrying hop is enough.
/// - A server that asks for a pause gets exactly that one; one that forbids another attempt gets
///   none (gRFC A6).
/// - An idempotent one that takes long is made on another node as well, if the policy says so and
///   the budget allows; the first answer counts and the other call is dropped, which cancels it.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    pub(crate) dispatch: Dispatch<'a>,
    pub(crate) plan: Plan,
    /// What a percentile is told from.
    pub(crate) latencies: Option<Arc<Latencies>>,
}

/// What comes after a failed attempt.
enum Next<'a> {
    /// Nothing.
    Over,
    /// Nothing, and nobody further up should try either.
    GivenUp,
    /// Another attempt, after a pause.
    Again(Option<Grant<'a>>, Duration),
}

#[async_trait]
impl Endpoint for Attempts<'_> {
    async fn call(&self, cx: &Context, mut request: Request) -> Result<Response> {
        // For middleware, and that is behind us: not to be copied with each attempt.
        request.service = None;
        if cx.attempt() == 0 {
            // Only first attempts count: a storm of repetitions must not pay for more of them.
            self.dispatch.client.budget.deposit(self.plan.budget);
        }
        let again = if self.plan.retries > 0 || self.plan.hedge.is_some() {
            request.try_clone()
        } else {
            None
        };
        let spare = self
            .plan
            .hedge
            .and_then(|delay| Some((delay, again.as_ref()?.try_clone()?)));
        // What is seldom is boxed: calls that succeed at once must not carry its state.
        let outcome = match spare {
            Some((delay, spare)) => Box::pin(self.hedged(cx, request, spare, delay)).await,
            None => self.dispatch.run(cx, request).await,
        };
        match (outcome, again) {
            (Err(err), Some(again)) => Box::pin(self.again(cx, err, again)).await,
            (outcome, _) => outcome,
        }
    }
}

impl<'a> Attempts<'a> {
    /// More attempts at a call that has failed.
    async fn again(&self, cx: &Context, mut err: Error, again: Request) -> Result<Response> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (grant, pause) = match self.next(cx, &err, attempt) {
                Next::Over => return Err(err),
                Next::GivenUp => return Err(err.with_retried()),
                Next::Again(grant, pause) => (grant, pause),
            };
            if !pause.is_zero() {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = cx.cancelled() => return Err(err),
                }
            }
            let Some(request) = again.try_clone() else {
                return Err(err);
            };
            tracing::debug!(path = &*request.path, attempt, error = %err, "calling again");
            let outcome = match grant {
                // A call that never ran is not a repetition for those further down.
                None => self.dispatch.run(cx, request).await,
                Some(grant) => {
                    grant.spend();
                    let cx = cx.clone().with_attempt(cx.attempt() + attempt);
                    self.dispatch.run(&cx, request).await
                }
            };
            match outcome {
                Ok(response) => return Ok(response),
                Err(failed) => err = failed,
            }
        }
    }

    fn next(&self, cx: &Context, err: &Error, attempt: u32) -> Next<'a> {
        let left = cx.remaining();
        if cx.is_cancelled() || left == Some(Duration::ZERO) {
            return Next::Over;
        }
        let pause = self.pause(err, attempt);
        let in_time = left.is_none_or(|left| left > pause);
        if err.is_unprocessed() {
            // Nobody to call is no reason to ask again: discovery has waited already.
            let again = err.is_retryable() && attempt <= self.plan.retries && in_time;
            return if again {
                Next::Again(None, pause)
            } else {
                Next::Over
            };
        }
        if !self.plan.idempotent || cx.attempt() > 0 || err.was_retried() || !may_pass(err) {
            return Next::Over;
        }
        if attempt > self.plan.retries {
            return Next::GivenUp;
        }
        if !in_time {
            return Next::Over;
        }
        match self.withdraw(cx) {
            Some(grant) => Next::Again(Some(grant), pause),
            None => Next::GivenUp,
        }
    }

    fn withdraw(&self, cx: &Context) -> Option<Grant<'a>> {
        let budget = &self.dispatch.client.budget;
        budget.withdraw(self.plan.budget, cx.now())
    }

    /// What the server asks for. Else none before the first repetition, which goes to another node;
    /// later ones give time to recover: the backoff, doubled each time, of which a random half is
    /// left out.
    fn pause(&self, err: &Error, attempt: u32) -> Duration {
        if let Some(delay) = err.retry_after() {
            return delay;
        }
        if attempt == 1 {
            return Duration::ZERO;
        }
        let doubled = 2_u32.saturating_pow(attempt - 2);
        let full = self.plan.backoff.saturating_mul(doubled);
        let random = self.dispatch.client.options.random.next_u64() % 1000;
        full.min(self.plan.max_backoff)
            .mul_f64(0.5 + random as f64 / 2000.0)
    }

    /// The first attempt, and more of them on other nodes while none has answered.
    async fn hedged(
        &self,
        cx: &Context,
        request: Request,
        again: Request,
        delay: HedgeDelay,
    ) -> Result<Response> {
        let start = cx.now();
        let outcome = match self.delay(cx, delay) {
            Some(delay) => self.race(cx, request, again, delay).await,
            None => self.dispatch.run(cx, request).await,
        };
        if let (Some(latencies), Ok(_)) = (&self.latencies, &outcome) {
            let now = cx.now();
            latencies.record(now.saturating_duration_since(start), now);
        }
        outcome
    }

    fn delay(&self, cx: &Context, delay: HedgeDelay) -> Option<Duration> {
        let percent = match delay {
            HedgeDelay::After(delay) => {
                return Some(delay.clamp(Duration::from_millis(1), Duration::from_secs(60)));
            }
            HedgeDelay::P95 => 95,
            // What is added later is no reason to hedge more.
            _ => 99,
        };
        let known = self.latencies.as_ref()?;
        // A timer is no finer than this.
        let delay = known.percentile(percent, cx.now())?;
        Some(delay.max(Duration::from_millis(1)))
    }

    async fn race(
        &self,
        cx: &Context,
        request: Request,
        again: Request,
        delay: Duration,
    ) -> Result<Response> {
        let first: BoxFuture<'_, _> = Box::pin(self.dispatch.run(cx, request));
        let mut running = FuturesUnordered::from_iter([first]);
        let mut hedges = self.plan.hedges;
        let mut timer = std::pin::pin!(tokio::time::sleep(delay));
        loop {
            tokio::select! {
                biased;
                Some(outcome) = running.next() => {
                    let Err(err) = outcome else {
                        return outcome;
                    };
                    // An answer is an answer, though it is an error; else the others go on.
                    if running.is_empty() || !(err.is_unprocessed() || may_pass(&err)) {
                        return Err(err);
                    }
                    // Who is asked to wait does not begin another one meanwhile.
                    if err.retry_after().is_some() {
                        hedges = 0;
                    }
                }
                () = &mut timer, if hedges > 0 => {
                    hedges -= 1;
                    timer.as_mut().reset(tokio::time::Instant::now() + delay);
                    // A second call to the same node would only make it slower.
                    if !self.dispatch.has_another() {
                        hedges = 0;
                    } else if let Some(request) = again.try_clone()
                        && let Some(grant) = self.withdraw(cx)
                    {
                        tracing::debug!(path = &*request.path, "hedging");
                        grant.spend();
                        let cx = cx.clone().with_attempt(cx.attempt() + 1);
                        running.push(Box::pin(async move { self.dispatch.run(&cx, request).await }));
                    }
                }
            }
        }
    }
}

/// Whether the same call may succeed elsewhere or later. A server that asks to be called again
/// after a while says so; one that forbids it has the last word.
fn may_pass(err: &Error) -> bool {
    match err.kind() {
        ErrorKind::Unavailable => err.is_retryable(),
        ErrorKind::ResourceExhausted => err.retry_after().is_some(),
        _ => false,
    }
}
