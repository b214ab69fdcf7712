//! A reply's stream with what must happen when it ends.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use micro_core::{Context, Error, Result};
use micro_selector_core::Outcome;
use micro_transport_core::{BoxFuture, Messages};

use crate::dispatch::{Told, ended, of_deadline, verdict};
use crate::pool::Taken;

/// The stream of a reply: it ends with the call's deadline, keeps the connection taken, and tells
/// the pick how it went.
pub(crate) struct Guarded {
    messages: Option<Messages>,
    end: BoxFuture<'static, Error>,
    cx: Context,
    told: Option<Told>,
    taken: Option<Taken>,
    /// The time until the reply began: a stream's length says nothing of its node.
    latency: Duration,
}

impl Guarded {
    pub(crate) fn new(
        messages: Messages,
        cx: &Context,
        told: Told,
        taken: Taken,
        latency: Duration,
    ) -> Self {
        let ends = cx.clone();
        Self {
            messages: Some(messages),
            end: Box::pin(async move { ended(&ends).await }),
            cx: cx.clone(),
            told: Some(told),
            taken: Some(taken),
            latency,
        }
    }

    fn finish(&mut self, error: Option<&Error>) {
        // Dropping the messages tells the other side; dropping the pick alone says nothing.
        self.messages = None;
        self.taken = None;
        let outcome = match error {
            None => Some(Outcome::Success(self.latency)),
            Some(err) => verdict(err, self.latency),
        };
        if let (Some(told), Some(outcome)) = (self.told.take(), outcome) {
            told.finish(outcome, self.cx.now());
        }
    }
}

impl Stream for Guarded {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else {
            return Poll::Ready(None);
        };
        match messages.as_mut().poll_next(task) {
            // Asked for each message: a stream that always has one ready would never get to its end.
            Poll::Ready(Some(Ok(message))) => match self.cx.check() {
                Ok(()) => Poll::Ready(Some(Ok(message))),
                Err(err) => {
                    self.finish(Some(&err));
                    Poll::Ready(Some(Err(err)))
                }
            },
            Poll::Ready(Some(Err(err))) => {
                let err = of_deadline(&self.cx, err);
                self.finish(Some(&err));
                Poll::Ready(Some(Err(err)))
            }
            Poll::Ready(None) => {
                self.finish(None);
                Poll::Ready(None)
            }
            Poll::Pending => match self.end.as_mut().poll(task) {
                Poll::Ready(err) => {
                    self.finish(Some(&err));
                    Poll::Ready(Some(Err(err)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }
}
