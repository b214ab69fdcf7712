//! The rest of a call, as a tower service.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use micro_core::{Context, Error, Result};
use micro_transport_core::{Request, Response};
use tower_service::Service;

/// A call on its way through a tower service.
#[derive(Debug)]
pub struct Call {
    /// The call's context.
    pub cx: Context,
    /// The call's request.
    pub request: Request,
    slot: Arc<Slot>,
}

impl Call {
    pub(crate) fn new(cx: Context, request: Request, slot: Arc<Slot>) -> Self {
        Self { cx, request, slot }
    }

    /// A copy to be made again; `None` for a call that sends a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        Some(Self {
            cx: self.cx.clone(),
            request: self.request.try_clone()?,
            slot: Arc::clone(&self.slot),
        })
    }
}

/// The rest of a call, as a tower service: further middleware, then the endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Rest(());

impl Rest {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl Service<Call> for Rest {
    type Response = Response;
    type Error = Error;
    type Future = RestFuture;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> RestFuture {
        let reply = Arc::new(Reply::default());
        call.slot.lock().push(Asked {
            cx: call.cx,
            request: call.request,
            reply: Arc::clone(&reply),
        });
        RestFuture(reply)
    }
}

/// What a layer asked to be run.
pub(crate) struct Asked {
    cx: Context,
    request: Request,
    reply: Arc<Reply>,
}

impl Asked {
    pub(crate) fn into_parts(self) -> (Context, Request, Arc<Reply>) {
        (self.cx, self.request, self.reply)
    }
}

/// Where the tower service leaves what it wants run; the middleware's future takes it from there.
/// Both are polled by one task, so the locks are never waited for.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Vec<Asked>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.lock())
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

#[derive(Default)]
pub(crate) struct Reply(Mutex<State>);

#[derive(Default)]
struct State {
    outcome: Option<Result<Response>>,
    abandoned: bool,
    /// Who waits for the outcome.
    asking: Option<Waker>,
    /// Who runs it, to be told when nobody waits any more.
    running: Option<Waker>,
}

impl Reply {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the rest of the call until it ends or nobody waits for it.
    pub(crate) async fn run(&self, rest: impl Future<Output = Result<Response>>) {
        let mut rest = pin!(rest);
        let outcome = poll_fn(|task| {
            {
                let mut state = self.lock();
                if state.abandoned {
                    return Poll::Ready(None);
                }
                state.running = Some(task.waker().clone());
            }
            rest.as_mut().poll(task).map(Some)
        })
        .await;
        let waker = {
            let mut state = self.lock();
            state.outcome = outcome;
            state.asking.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The answer of [`Rest`]; dropping it drops the call.
#[must_use = "futures do nothing unless polled"]
pub struct RestFuture(Arc<Reply>);

impl Future for RestFuture {
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        state.asking = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Drop for RestFuture {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock();
            state.abandoned = true;
            state.running.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for RestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestFuture")
    }
}
