//! What is needed of an async runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, select};

/// The two things a configuration needs of the program's runtime: a task and a timer.
///
/// With tokio: `Runtime::new(tokio::spawn, tokio::time::sleep)`.
#[derive(Clone)]
pub struct Runtime {
    spawn: Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>,
    sleep: Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Runtime {
    /// A runtime of these two functions.
    #[must_use]
    pub fn new<H, S>(
        spawn: impl Fn(BoxFuture<'static, ()>) -> H + Send + Sync + 'static,
        sleep: impl Fn(Duration) -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        Self {
            spawn: Arc::new(move |task| drop(spawn(task))),
            sleep: Arc::new(move |time| sleep(time).boxed()),
        }
    }

    pub(crate) fn spawn(&self, task: BoxFuture<'static, ()>) {
        (self.spawn)(task);
    }

    pub(crate) fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        (self.sleep)(time)
    }

    /// The future's output, or nothing if it takes longer than `time`.
    pub(crate) async fn within<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        let future = std::pin::pin!(future);
        match select(future, self.sleep(time)).await {
            futures_util::future::Either::Left((output, _)) => Some(output),
            futures_util::future::Either::Right(_) => None,
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}
