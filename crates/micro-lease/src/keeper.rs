//! The task that keeps a lease alive, and the handle by which it lives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_core::{Clock, Error, FencingToken, Result, async_trait};
use micro_sync_core::{Hold, Lock, Tenure};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::wakeful::Wakeful;
use crate::{Lease, Timings};

/// A lease that is kept alive. Dropping it ends the lease, without waiting.
pub struct Keeper<L> {
    lease: Arc<L>,
    tenure: Arc<Tenure>,
    ttl: Duration,
    /// Tells the task to stop: dropped, to end the lease; sent, to see to it that the sender does.
    stop: oneshot::Sender<oneshot::Receiver<()>>,
}

impl<L: Lease> Keeper<L> {
    /// Gets a lease and keeps it alive.
    ///
    /// `grant` asks the backend; the holder's time is counted from before it. It runs to its end in a
    /// task of its own, so it has to have one; if this future is dropped, a lease that comes of it is
    /// ended.
    ///
    /// # Errors
    ///
    /// Those of `grant`; `Unavailable` if it took longer than the lease lives, or the runtime shuts down.
    pub async fn begin(
        clock: Arc<dyn Clock>,
        ttl: Duration,
        grant: impl Future<Output = Result<L>> + Send + 'static,
    ) -> Result<Self> {
        let (give, given) = oneshot::channel();
        tokio::spawn(keep(clock, Timings::new(ttl), grant, give));
        let keeper = given
            .await
            .map_err(|_| Error::unavailable("the runtime shuts down"))??;
        if keeper.tenure.is_held() {
            return Ok(keeper);
        }
        Err(Error::unavailable(
            "the backend took longer to answer than the lease lives",
        ))
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> &Arc<L> {
        &self.lease
    }

    /// The time in which it is held.
    #[must_use]
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Makes a lock of it.
    pub fn into_lock(self, name: &str, token: FencingToken) -> Lock {
        let tenure = Arc::clone(&self.tenure);
        Lock::new(name, token, tenure, Box::new(self))
    }
}

impl<L: fmt::Debug> fmt::Debug for Keeper<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("lease", &self.lease)
            .field("tenure", &self.tenure)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<L: Lease> Hold for Keeper<L> {
    async fn verify(&self) -> Result<()> {
        if self.lease.verify().await? {
            return Ok(());
        }
        self.tenure.end(TAKEN);
        Err(self.tenure.error())
    }

    async fn release(self: Box<Self>) -> Result<()> {
        let Self {
            lease,
            tenure,
            ttl,
            stop,
        } = *self;
        if Handle::try_current().is_err() {
            // Nothing can be awaited here; the task ends the lease, if its runtime lives.
            return Err(untold());
        }
        let (done, ended) = oneshot::channel();
        // Nothing is renewed any more. If this future is dropped, or the backend cannot be told, `done`
        // is dropped, and the task ends the lease.
        let _ = stop.send(ended);
        match timeout(ttl, lease.end()).await {
            Ok(Ok(there)) => {
                let _ = done.send(());
                if there {
                    return Ok(());
                }
                tenure.end(TAKEN);
                Err(tenure.error())
            }
            Ok(Err(err)) => Err(untold().with_source(err)),
            Err(_) => Err(untold()),
        }
    }
}

const TAKEN: &str = "the backend does not have it as ours any more";

fn untold() -> Error {
    Error::outcome_unknown("the backend may not know it; the lock ends with its time to live")
}

/// Gets the lease, keeps it, ends it.
async fn keep<L: Lease>(
    clock: Arc<dyn Clock>,
    timings: Timings,
    grant: impl Future<Output = Result<L>> + Send,
    give: oneshot::Sender<Result<Keeper<L>>>,
) {
    let clock: Arc<dyn Clock> = Arc::new(Wakeful::new(clock));
    let until = clock.now() + timings.held;
    let lease = match grant.await {
        Ok(lease) => Arc::new(lease),
        Err(err) => {
            // Whoever asked may be gone.
            let _ = give.send(Err(err));
            return;
        }
    };
    let tenure = Arc::new(Tenure::new(Arc::clone(&clock), Some(until)));
    let (stop, mut stopped) = oneshot::channel();
    // If whoever asked is gone, the keeper is dropped here, and that stops us.
    let _ = give.send(Ok(Keeper {
        lease: Arc::clone(&lease),
        tenure: Arc::clone(&tenure),
        ttl: timings.ttl,
        stop,
    }));
    let ended = tokio::select! {
        biased;
        told = &mut stopped => told.ok(),
        () = renew(&*lease, &tenure, &*clock, timings) => {
            tracing::warn!(?lease, why = tenure.error().message(), "a lock is lost");
            None
        }
    };
    let by_itself = Instant::now() + timings.ttl;
    if let Some(ended) = ended
        && ended.await.is_ok()
    {
        return;
    }
    end(&*lease, timings, by_itself).await;
}

/// Renews until it is over.
async fn renew<L: Lease>(lease: &L, tenure: &Tenure, clock: &dyn Clock, timings: Timings) {
    let mut pause = timings.renew;
    loop {
        tokio::select! {
            _ = tenure.lost() => {}
            () = sleep(pause.min(tenure.remaining())) => {}
        }
        if !tenure.is_held() {
            break;
        }
        let until = clock.now() + timings.held;
        match timeout(tenure.remaining(), lease.renew()).await {
            Ok(Ok(true)) => {
                tenure.renew(until);
                pause = timings.renew;
            }
            Ok(Ok(false)) => {
                tenure.end(TAKEN);
                break;
            }
            Ok(Err(err)) => {
                tracing::debug!(?lease, %err, "a lease was not renewed");
                pause = timings.retry;
            }
            Err(_) => {}
        }
    }
    // So that those who wait for it are woken.
    tenure.end("it was not renewed in time");
}

/// Ends the lease, however often it takes, until it has ended by itself.
async fn end<L: Lease>(lease: &L, timings: Timings, by_itself: Instant) {
    while !matches!(timeout(timings.ttl, lease.end()).await, Ok(Ok(_)))
        && Instant::now() < by_itself
    {
        sleep(timings.retry).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::SystemTime;

    use micro_core::ErrorKind;
    use tokio::task::yield_now;

    use super::*;

    const TTL: Duration = Duration::from_secs(12);

    /// Follows tokio's time, which the tests pause.
    #[derive(Debug)]
    struct Paused;

    impl Clock for Paused {
        fn now(&self) -> std::time::Instant {
            Instant::now().into_std()
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    /// A backend that fails as it is told.
    #[derive(Clone, Debug, Default)]
    struct Backend(Arc<State>);

    #[derive(Debug, Default)]
    struct State {
        away: AtomicBool,
        silent: AtomicBool,
        gone: AtomicBool,
        renewed: AtomicUsize,
        asked_to_end: AtomicUsize,
        ended: AtomicUsize,
    }

    impl Backend {
        async fn answer(&self) -> Result<bool> {
            if self.0.silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.0.away.load(Ordering::SeqCst) {
                return Err(Error::unavailable("away"));
            }
            Ok(!self.0.gone.load(Ordering::SeqCst))
        }

        async fn keeper(&self) -> Keeper<Self> {
            let lease = self.clone();
            Keeper::begin(Arc::new(Paused), TTL, async { Ok(lease) })
                .await
                .unwrap()
        }

        fn ended(&self) -> usize {
            self.0.ended.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl Lease for Backend {
        async fn renew(&self) -> Result<bool> {
            self.0.renewed.fetch_add(1, Ordering::SeqCst);
            self.answer().await
        }

        async fn verify(&self) -> Result<bool> {
            self.answer().await
        }

        async fn end(&self) -> Result<bool> {
            self.0.asked_to_end.fetch_add(1, Ordering::SeqCst);
            let there = self.answer().await?;
            self.0.ended.fetch_add(1, Ordering::SeqCst);
            Ok(there)
        }
    }

    fn lock(keeper: Keeper<Backend>) -> Lock {
        keeper.into_lock("books", FencingToken::new(0, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_kept_for_as_long_as_it_is_held() {
        let backend = Backend::default();
        let lock = lock(backend.keeper().await);
        for _ in 0..100 {
            sleep(TTL).await;
            assert!(lock.is_held() && lock.remaining() > TTL / 3);
        }
        // Three times in a time to live, and no more.
        let renewed = backend.0.renewed.load(Ordering::SeqCst);
        assert!((299..=300).contains(&renewed), "{renewed}");
        lock.release().await.unwrap();
        assert_eq!(backend.ended(), 1);
        sleep(TTL * 9).await;
        assert_eq!(backend.0.renewed.load(Ordering::SeqCst), renewed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_who_hears_nothing_gives_up_in_time() {
        for silent in [true, false] {
            let backend = Backend::default();
            let lock = lock(backend.keeper().await);
            let began = Instant::now();
            backend.0.silent.store(silent, Ordering::SeqCst);
            backend.0.away.store(!silent, Ordering::SeqCst);
            let lost = lock.lost().await;
            assert_eq!(lost.kind(), ErrorKind::Lost);
            // By its own clock, a sixth of the time to live before the backend.
            let took = began.elapsed();
            assert!(took <= TTL / 6 * 5 + Duration::from_millis(2), "{took:?}");
            assert!(took >= TTL / 6 * 5 - Duration::from_millis(2), "{took:?}");
            assert!(!lock.is_held());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_is_enough() {
        let backend = Backend::default();
        let lock = lock(backend.keeper().await);
        backend.0.away.store(true, Ordering::SeqCst);
        sleep(TTL / 6 * 5 - Duration::from_secs(1)).await;
        backend.0.away.store(false, Ordering::SeqCst);
        sleep(TTL).await;
        assert!(lock.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_lost_at_the_next_renewal_or_question() {
        let backend = Backend::default();
        let [one, two] = [lock(backend.keeper().await), lock(backend.keeper().await)];
        backend.0.gone.store(true, Ordering::SeqCst);
        assert_eq!(one.verify().await.unwrap_err().kind(), ErrorKind::Lost);
        assert!(!one.is_held() && two.is_held());
        let began = Instant::now();
        two.lost().await;
        assert!(began.elapsed() <= TTL / 3 + Duration::from_millis(2));
        let released = two.release().await.unwrap_err();
        assert_eq!(released.kind(), ErrorKind::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_cannot_be_told_is_tried_again_and_not_for_ever() {
        let backend = Backend::default();
        let lock = lock(backend.keeper().await);
        backend.0.away.store(true, Ordering::SeqCst);
        let err = lock.release().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::OutcomeUnknown);
        sleep(TTL / 2).await;
        backend.0.away.store(false, Ordering::SeqCst);
        sleep(TTL / 10).await;
        assert_eq!(backend.ended(), 1);

        backend.0.away.store(true, Ordering::SeqCst);
        drop(backend.keeper().await);
        sleep(TTL * 2).await;
        let asked = backend.0.asked_to_end.load(Ordering::SeqCst);
        sleep(TTL * 9).await;
        assert_eq!(backend.0.asked_to_end.load(Ordering::SeqCst), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_leaves_nothing() {
        for polls in 0..5 {
            let backend = Backend::default();
            let lease = backend.clone();
            let mut begin = Box::pin(Keeper::begin(Arc::new(Paused), TTL, async {
                yield_now().await;
                yield_now().await;
                Ok(lease)
            }));
            let mut granted = false;
            for _ in 0..polls {
                granted |= futures_poll(begin.as_mut()).await;
                if granted {
                    break;
                }
                yield_now().await;
            }
            drop(begin);
            sleep(TTL).await;
            // Without a poll nothing was begun.
            assert_eq!(backend.ended(), usize::from(polls > 0), "{polls} polls");
            assert_eq!(backend.0.renewed.load(Ordering::SeqCst), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_is_dropped_goes_on() {
        for polls in 0..3 {
            let backend = Backend::default();
            let lock = lock(backend.keeper().await);
            backend.0.silent.store(true, Ordering::SeqCst);
            let mut release = Box::pin(lock.release());
            for _ in 0..polls {
                assert!(!futures_poll(release.as_mut()).await);
                yield_now().await;
            }
            backend.0.silent.store(false, Ordering::SeqCst);
            drop(release);
            sleep(Duration::from_millis(1)).await;
            assert_eq!(backend.ended(), 1, "{polls} polls");
            let renewed = backend.0.renewed.load(Ordering::SeqCst);
            sleep(TTL * 2).await;
            assert_eq!(backend.0.renewed.load(Ordering::SeqCst), renewed);
        }
    }

    async fn futures_poll<F: Future + Unpin>(mut future: F) -> bool {
        std::future::poll_fn(|cx| {
            let ready = std::pin::Pin::new(&mut future).poll(cx).is_ready();
            std::task::Poll::Ready(ready)
        })
        .await
    }
}
