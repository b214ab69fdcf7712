//! One call of `publish`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use micro_broker_core::{Context, Error, ErrorKind, Result};
use tokio::time::{Instant, sleep_until};

/// Until when it may take, and whether its message may be with the server.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) deadline: Instant,
    sent: AtomicBool,
}

impl Call {
    /// It takes no longer than the context has left.
    pub(crate) fn new(cx: &Context, timeout: Duration) -> Self {
        let now = Instant::now();
        let time = cx.remaining().map_or(timeout, |left| left.min(timeout));
        Self {
            deadline: now + time,
            sent: AtomicBool::new(false),
        }
    }

    /// Notes whether it may be with the server, and says what was noted before.
    pub(crate) fn set_sent(&self, sent: bool) -> bool {
        self.sent.swap(sent, Ordering::Relaxed)
    }

    /// Does the work of the call until its time is over, and says truly what may have happened.
    pub(crate) async fn run<T>(
        &self,
        cx: &Context,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = tokio::select! {
            biased;
            done = work => done,
            () = cx.cancelled() => Err(Error::cancelled("the call is over")),
            () = sleep_until(self.deadline) => {
                Err(Error::unavailable("NATS does not answer in time"))
            }
        };
        let sent = self.sent.load(Ordering::Relaxed);
        done.map_err(|err| match err.kind() {
            ErrorKind::Cancelled | ErrorKind::Unavailable if sent => Error::outcome_unknown(
                "the message was sent, and the server did not say that it has it",
            )
            .with_source(err),
            ErrorKind::Unavailable => cx.check().err().unwrap_or(err),
            _ => err,
        })
    }
}
