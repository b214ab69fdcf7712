//! What is held until a call is over.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_core::Stream;
use micro_transport_core::{Body, Messages, Response, Result};

/// Holds `what` until the call is over: for one message that is now, for a stream its end, or the
/// moment it is dropped.
pub(crate) fn hold<T: Send + Unpin + 'static>(
    outcome: Result<Response>,
    what: T,
) -> Result<Response> {
    let mut response = outcome?;
    if let Body::Stream(messages) = response.body {
        response.body = Body::Stream(Box::pin(Held {
            messages,
            what: Some(what),
        }));
    }
    Ok(response)
}

struct Held<T> {
    messages: Messages,
    what: Option<T>,
}

impl<T: Unpin> Stream for Held<T> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.messages.as_mut().poll_next(task);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.what = None;
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.messages.size_hint()
    }
}
