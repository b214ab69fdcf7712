//! Making a call again on another node.

use std::time::Duration;

use micro_core::{Context, Error, ErrorKind, Result, async_trait};
use micro_transport_core::{Endpoint, Request, Response};

use crate::dispatch::Dispatch;

/// Makes a call, and makes it again where that is safe: what stands inside all middleware.
///
/// - A call that provably never ran is made again, at once if another node is left.
/// - An idempotent one that failed in a way that may pass is made again if the budget allows,
///   unless it is itself part of a repetition further up: one retrying hop is enough.
#[derive(Debug)]
pub(crate) struct Retry<'a> {
    pub(crate) dispatch: Dispatch<'a>,
    pub(crate) retries: u32,
    pub(crate) idempotent: bool,
}

#[async_trait]
impl Endpoint for Retry<'_> {
    async fn call(&self, cx: &Context, request: Request) -> Result<Response> {
        self.dispatch.client.budget.deposit();
        let again = if self.retries > 0 {
            request.try_clone()
        } else {
            None
        };
        let mut outcome = self.dispatch.run(cx, request).await;
        let Some(again) = again else {
            return outcome;
        };
        for attempt in 1..=self.retries {
            let Err(err) = &outcome else {
                return outcome;
            };
            if !self.may_repeat(cx, err) {
                return outcome;
            }
            // The first repetition goes to another node at once; later ones give time to recover.
            if attempt > 1 {
                let pause = self.pause(attempt);
                if cx.remaining().is_some_and(|left| left <= pause) {
                    return outcome;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = cx.cancelled() => return outcome,
                }
            }
            let Some(request) = again.try_clone() else {
                return outcome;
            };
            tracing::debug!(path = &*request.path, attempt, error = %err, "calling again");
            outcome = if err.is_unprocessed() {
                // A call that never ran is not a repetition for those further down.
                self.dispatch.run(cx, request).await
            } else {
                let cx = cx.clone().with_attempt(cx.attempt() + attempt);
                self.dispatch.run(&cx, request).await
            };
        }
        outcome
    }
}

impl Retry<'_> {
    fn may_repeat(&self, cx: &Context, err: &Error) -> bool {
        if cx.is_cancelled() || cx.remaining() == Some(Duration::ZERO) {
            return false;
        }
        if err.is_unprocessed() {
            // Nobody to call is no reason to ask again: discovery has waited already.
            return err.is_retryable();
        }
        self.idempotent
            && cx.attempt() == 0
            && err.kind() == ErrorKind::Unavailable
            && self.dispatch.client.budget.withdraw(cx.now())
    }

    /// 20 ms, doubled each time, of which a random half is left out.
    fn pause(&self, attempt: u32) -> Duration {
        let full = Duration::from_millis(10) * 2_u32.pow(attempt.min(6));
        let random = self.dispatch.client.options.random.next_u64() % 1000;
        full.mul_f64(0.5 + random as f64 / 2000.0)
    }
}
