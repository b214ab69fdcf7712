//! How many calls at once, and who waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_core::{Context, Error, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How those who wait are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) most: usize,
    pub(crate) wait: Duration,
    pub(crate) target: Duration,
    pub(crate) interval: Duration,
}

/// Admits a number of calls at once. Taking a place that is free takes no lock and allocates
/// nothing.
///
/// Who finds none free waits in a bounded queue, first come first served. If the queue has not been
/// empty for an interval, there is more work than can be done, and waiting in turn would only make
/// all of it late: then the newest goes first, and who has waited for longer than the target is
/// refused ("adaptive LIFO" and "controlled delay", B. Maurer, "Fail at Scale", ACM Queue 13(8),
/// 2015, after CoDel, RFC 8289).
#[derive(Debug)]
pub(crate) struct Gate {
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    /// The length of the queue.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// Since when it has not been empty for want of work.
    since: Option<Instant>,
    /// When refusals emptied it: that is no want of work.
    emptied: Option<Instant>,
}

/// A call that waits. Dropping it tells it to give up.
#[derive(Debug)]
struct Waiter {
    came: Instant,
    until: Instant,
    rules: Waiting,
    sender: oneshot::Sender<Permit>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Changes the limit. Calls in flight beyond a lower one come to their end; a higher one lets in
    /// those who wait.
    pub(crate) fn set_limit(self: &Arc<Self>, limit: usize) {
        if self.limit.load(Ordering::Relaxed) == limit {
            return;
        }
        if self.limit.swap(limit, Ordering::SeqCst) < limit {
            self.hand_over();
        }
    }

    /// Takes a place, waiting for one if the rules allow.
    pub(crate) async fn enter(self: &Arc<Self>, cx: &Context, rules: Waiting) -> Result<Permit> {
        if self.take_place() {
            return Ok(Permit(Arc::clone(self)));
        }
        let left = cx.remaining().unwrap_or(rules.wait);
        if rules.most == 0 || left.is_zero() {
            return Err(self.refused());
        }
        let Some((mut granted, bound)) = self.enqueue(rules, left) else {
            return Err(self.refused());
        };
        // A place may have become free before we were in the queue.
        self.hand_over();
        tokio::select! {
            biased;
            granted = &mut granted => granted.map_err(|_| self.refused()),
            () = cx.cancelled() => Err(Error::cancelled("the call was cancelled while it waited for its turn")
                .with_operation("limit.concurrency")
                .with_unprocessed(true)),
            () = tokio::time::sleep(bound) => Err(self.refused()),
        }
    }

    fn enqueue(
        &self,
        rules: Waiting,
        left: Duration,
    ) -> Option<(oneshot::Receiver<Permit>, Duration)> {
        let now = Instant::now();
        let mut queue = self.queue();
        queue.sweep(now);
        if queue.waiters.len() >= rules.most {
            // The length may have been of waiters that are gone.
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            return None;
        }
        queue.begin(now, rules);
        let patience = if queue.overloaded(now, rules) {
            rules.target
        } else {
            rules.wait
        };
        let bound = patience.min(left);
        let (sender, receiver) = oneshot::channel();
        queue.waiters.push_back(Waiter {
            came: now,
            until: now + bound,
            rules,
            sender,
        });
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        Some((receiver, bound))
    }

    fn take_place(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |in_flight| {
                (in_flight < limit).then_some(in_flight + 1)
            })
            .is_ok()
    }

    fn release(self: &Arc<Self>) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.hand_over();
    }

    /// Gives free places to those who wait.
    ///
    /// Whoever frees a place looks at `waiting` afterwards, and whoever waits looks at the places
    /// afterwards: one of the two sees the other.
    fn hand_over(self: &Arc<Self>) {
        while self.waiting.load(Ordering::SeqCst) > 0 && self.take_place() {
            let mut place = Some(Permit(Arc::clone(self)));
            let mut queue = self.queue();
            let now = Instant::now();
            while place.is_some() {
                let Some(waiter) = queue.next(now) else {
                    break;
                };
                // It comes back from one who is gone.
                place = place.and_then(|place| waiter.sender.send(place).err());
            }
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            // A place that nobody took frees itself, and then looks for those who came meanwhile:
            // not under the lock.
            drop(queue);
            drop(place);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> Error {
        Error::resource_exhausted("too many calls at once")
            .with_operation("limit.concurrency")
            .with_context("limit", self.limit())
            .with_unprocessed(true)
    }
}

impl Queue {
    /// Whether there is more work than can be done.
    fn overloaded(&self, now: Instant, rules: Waiting) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) > rules.interval)
    }

    /// Refuses those at the front who have waited too long, and forgets those who are gone.
    fn sweep(&mut self, now: Instant) {
        while let Some(oldest) = self.waiters.front() {
            let waited = now.saturating_duration_since(oldest.came);
            let late = self.overloaded(now, oldest.rules) && waited > oldest.rules.target;
            if !late && !oldest.sender.is_closed() && oldest.until > now {
                break;
            }
            self.waiters.pop_front();
        }
        if self.waiters.is_empty() && self.since.is_some() {
            self.emptied.get_or_insert(now);
        }
    }

    /// One more is about to wait.
    fn begin(&mut self, now: Instant, rules: Waiting) {
        let idle = self
            .emptied
            .take()
            .is_some_and(|at| now.saturating_duration_since(at) > rules.interval);
        if idle || self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Whose turn it is.
    fn next(&mut self, now: Instant) -> Option<Waiter> {
        self.sweep(now);
        let Some(newest) = self.waiters.back() else {
            // A place is free, and nobody wants it.
            self.since = None;
            return None;
        };
        let next = if self.overloaded(now, newest.rules) {
            self.waiters.pop_back()
        } else {
            self.waiters.pop_front()
        };
        if self.waiters.is_empty() {
            self.since = None;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Waker};

    use super::*;

    const RULES: Waiting = Waiting {
        most: 4,
        wait: Duration::from_millis(100),
        target: Duration::from_millis(3),
        interval: Duration::from_millis(50),
    };

    async fn pause(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Enters, and says who got in when.
    fn enter(
        gate: &Arc<Gate>,
        name: u32,
        order: &Arc<Mutex<Vec<u32>>>,
    ) -> tokio::task::JoinHandle<bool> {
        let (gate, order) = (Arc::clone(gate), Arc::clone(order));
        tokio::spawn(async move {
            let permit = gate.enter(&Context::new(), RULES).await;
            if permit.is_ok() {
                order.lock().unwrap().push(name);
                pause(1).await;
            }
            permit.is_ok()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_so_many_at_once_and_the_queue_is_bounded() {
        let gate = Arc::new(Gate::new(2));
        let order = Arc::default();
        let calls: Vec<_> = (0..10).map(|i| enter(&gate, i, &order)).collect();
        let mut refused = 0;
        for call in calls {
            refused += u32::from(!call.await.unwrap());
        }
        assert_eq!(refused, 4, "two run, four wait");
        assert_eq!(
            *order.lock().unwrap(),
            [0, 1, 2, 3, 4, 5],
            "first come, first served"
        );
        assert_eq!(
            (gate.in_flight(), gate.waiting.load(Ordering::SeqCst)),
            (0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_nobody_waits_and_waiting_ends() {
        let gate = Arc::new(Gate::new(1));
        let cx = Context::new();
        let held = gate.enter(&cx, RULES).await.unwrap();
        let start = Instant::now();
        let none = Waiting { most: 0, ..RULES };
        let err = gate.enter(&cx, none).await.unwrap_err();
        assert_eq!(err.kind(), micro_core::ErrorKind::ResourceExhausted);
        assert!(err.is_unprocessed() && !err.is_retryable());
        assert_eq!(start.elapsed(), Duration::ZERO);
        gate.enter(&cx, RULES).await.unwrap_err();
        assert!(start.elapsed().abs_diff(RULES.wait) <= Duration::from_millis(1));
        drop(held);
        gate.enter(&cx, none).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_beyond_its_deadline_or_its_cancellation() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(&Context::new(), RULES).await.unwrap();
        let start = Instant::now();
        let cx = Context::new().with_timeout(Duration::from_millis(20));
        gate.enter(&cx, RULES).await.unwrap_err();
        assert!(
            start.elapsed() <= Duration::from_millis(21),
            "{:?}",
            start.elapsed()
        );
        let (cx, canceller) = Context::new().with_cancel();
        let waiting = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter(&cx, RULES).await.unwrap_err().kind() })
        };
        pause(1).await;
        canceller.cancel();
        assert_eq!(waiting.await.unwrap(), micro_core::ErrorKind::Cancelled);
        drop(held);
        assert!(gate.enter(&Context::new(), RULES).await.is_ok());
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn under_overload_the_newest_goes_first_and_the_oldest_is_refused() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(&Context::new(), RULES).await.unwrap();
        let order = Arc::default();
        let stale = enter(&gate, 0, &order);
        pause(60).await;
        // The queue has not been empty for an interval.
        let start = Instant::now();
        let calls: Vec<_> = (1..4).map(|i| enter(&gate, i, &order)).collect();
        pause(1).await;
        assert!(
            !stale.await.unwrap(),
            "it has waited for longer than the target"
        );
        drop(held);
        for call in calls {
            call.await.unwrap();
        }
        assert!(start.elapsed() < Duration::from_millis(5));
        let order = order.lock().unwrap().clone();
        assert_eq!(order[0], 3, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn raising_the_limit_lets_those_in_who_wait_and_lowering_it_is_obeyed() {
        let gate = Arc::new(Gate::new(1));
        let cx = Context::new();
        let held = gate.enter(&cx, RULES).await.unwrap();
        let waiting = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter(&Context::new(), RULES).await })
        };
        pause(1).await;
        gate.set_limit(2);
        let second = waiting.await.unwrap().unwrap();
        gate.set_limit(1);
        drop(held);
        let none = Waiting { most: 0, ..RULES };
        gate.enter(&cx, none).await.unwrap_err();
        drop(second);
        gate.enter(&cx, none).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_at_any_await_leaks_no_place() {
        let gate = Arc::new(Gate::new(1));
        let cx = Context::new();
        let mut task = TaskContext::from_waker(Waker::noop());
        for free_before_drop in [false, true] {
            let held = gate.enter(&cx, RULES).await.unwrap();
            let mut waiting = Box::pin(gate.enter(&cx, RULES));
            assert!(waiting.as_mut().poll(&mut task).is_pending());
            if free_before_drop {
                drop(held);
                assert_eq!(gate.in_flight(), 1, "the place is on its way");
                drop(waiting);
            } else {
                drop(waiting);
                drop(held);
            }
            assert_eq!(gate.in_flight(), 0);
        }
        // The queue is not full of those who are gone.
        let held = gate.enter(&cx, RULES).await.unwrap();
        for _ in 0..100 {
            let mut waiting = Box::pin(gate.enter(&cx, RULES));
            assert!(waiting.as_mut().poll(&mut task).is_pending());
        }
        drop(held);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_and_no_wake_up_is_lost_between_threads() {
        let gate = Arc::new(Gate::new(3));
        let most = Arc::new(AtomicUsize::new(0));
        let rules = Waiting {
            most: 1000,
            wait: Duration::from_secs(30),
            target: Duration::from_secs(30),
            ..RULES
        };
        let mut tasks = tokio::task::JoinSet::new();
        for i in 0..64_u64 {
            let (gate, most) = (Arc::clone(&gate), Arc::clone(&most));
            tasks.spawn(async move {
                for round in 0..200 {
                    let cx = Context::new();
                    let mut enter = Box::pin(gate.enter(&cx, rules));
                    if (i + round) % 7 == 0 {
                        // Polled once and dropped.
                        let mut task = TaskContext::from_waker(Waker::noop());
                        let _ = enter.as_mut().poll(&mut task);
                        continue;
                    }
                    let _permit = enter.await.unwrap();
                    most.fetch_max(gate.in_flight(), Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            });
        }
        let all = tokio::time::timeout(Duration::from_secs(20), tasks.join_all());
        all.await.expect("nobody waits for ever");
        assert_eq!(gate.in_flight(), 0);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
