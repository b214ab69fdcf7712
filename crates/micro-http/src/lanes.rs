//! Work that is done to its end, in the order in which it was asked for.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;

use micro_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};

/// So many jobs may wait in a lane before callers wait.
const BACKLOG: usize = 256;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does jobs one after the other, per key, whether or not the caller still waits for them.
///
/// A caller that gives up in the middle of a change does not know whether the server took it, and
/// the change may arrive after a later one. So changes are handed over: each is made whole, and
/// none overtakes another of the same key. Jobs must end by themselves: give each request a
/// deadline. The lanes end when this value is dropped, after the jobs they hold.
pub struct Lanes(Vec<mpsc::Sender<Job>>);

impl Lanes {
    /// So many lanes; keys share them. Within a tokio runtime.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        let lane = |_| {
            let (jobs, mut next) = mpsc::channel::<Job>(BACKLOG);
            tokio::spawn(async move {
                while let Some(job) = next.recv().await {
                    // A task of its own: a job that panics does not end the lane.
                    let _ = tokio::spawn(job).await;
                }
            });
            jobs
        };
        Self((0..lanes.max(1)).map(lane).collect())
    }

    /// Does `job` behind all others of the same key, and waits for it.
    ///
    /// Dropped before the job has its place in the lane, it is never done; afterwards it is done
    /// all the same.
    ///
    /// # Errors
    ///
    /// The job's own; `Cancelled` if it panics, or the runtime ends before it.
    pub async fn run<T: Send + 'static>(
        &self,
        key: &str,
        job: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = hasher.finish() as usize % self.0.len();
        let ended = || Error::cancelled("the runtime ended before the work was done");
        let place = self.0[index].reserve().await.map_err(|_| ended())?;
        let (done, wait) = oneshot::channel();
        place.send(Box::pin(async move {
            // Nobody may be waiting any more.
            let _ = done.send(job.await);
        }));
        wait.await.map_err(|_| ended())?
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lanes").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn a_dropped_call_is_done_before_a_later_one() {
        let lanes = Lanes::new(3);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let job = |n: u32| {
            let seen = Arc::clone(&seen);
            async move {
                tokio::task::yield_now().await;
                seen.lock().unwrap().push(n);
                Ok(n)
            }
        };
        for n in 0..20 {
            let mut call = Box::pin(lanes.run("a", job(n)));
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending));
        }
        drop(Box::pin(lanes.run("a", job(99))));
        assert_eq!(lanes.run("a", job(20)).await.unwrap(), 20);
        assert_eq!(*seen.lock().unwrap(), (0..=20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_job_that_panics_fails_alone() {
        let lanes = Lanes::new(1);
        let broken = lanes.run::<()>("a", async { panic!("on purpose") }).await;
        assert_eq!(broken.unwrap_err().kind(), micro_core::ErrorKind::Cancelled);
        assert_eq!(lanes.run("a", async { Ok(1) }).await.unwrap(), 1);
    }
}
