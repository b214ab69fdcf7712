//! Where a panic ends: the call that panicked fails, everybody else lives on.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use micro_core::{Error, Result};

/// Runs a future; if it panics, the result is `Internal`.
///
/// It comes pinned, so that a call's state is not held twice: where it was made and here.
pub(crate) async fn barrier<T, F>(path: &str, mut future: Pin<&mut F>) -> Result<T>
where
    F: Future<Output = Result<T>> + Send + ?Sized,
{
    // Unwind safety: the future is never polled again after a panic, and what it shares with
    // others is theirs to protect, as it is where each call has a thread.
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)))
            .unwrap_or_else(|payload| Poll::Ready(Err(panicked(path, &*payload))))
    })
    .await
}

/// Runs a step of a stream; if it panics, the result is `Internal`.
pub(crate) fn step<T>(path: &str, step: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|payload| panicked(path, &*payload))
}

/// The caller learns that there was a panic, and the log learns which: the text of a panic may
/// hold what a stranger should not see.
fn panicked(path: &str, payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message");
    tracing::error!(rpc.path = path, panic = message, "a handler panicked");
    Error::internal("the handler panicked; the server's log says why")
        .with_operation("server.call")
        .with_context("path", path)
}
