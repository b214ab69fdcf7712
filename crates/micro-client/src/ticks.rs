//! Deadlines without a timer for each call.
//!
//! Nearly all calls end long before their deadline, and a timer that is armed and dropped costs as
//! much as sending the call. So a call that waits is only noted, and a task looks now and then who
//! still waits; only those arm a timer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use tokio::runtime::{Handle, Id};

/// How often is looked. A call is woken when it has waited for one to two of these.
const TICK: Duration = Duration::from_millis(10);
/// A call that ends sooner than this arms its timer at once.
pub(crate) const SOON: Duration = Duration::from_millis(30);
/// After so many ticks without a call, looking ends until there is one again.
const QUIET: u32 = 100;

/// The calls of a client that wait.
#[derive(Debug, Default)]
pub(crate) struct Ticks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tick: u64,
    /// Those noted in an even tick and those noted in an odd one.
    noted: [Slots; 2],
    /// Ticks since a call was noted.
    quiet: u32,
    /// The runtime whose task looks.
    looks: Option<Id>,
}

#[derive(Debug, Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Ticks {
    /// Notes a call that begins to wait. `None` if it needs a timer at once, because the task that
    /// looks is another runtime's: nobody can say whether that one gets to run.
    pub(crate) fn note(&self, waker: &Waker) -> Option<Noted<'_>> {
        let runtime = Handle::current();
        let mut state = self.0.lock();
        if state.looks.is_some_and(|id| id != runtime.id()) {
            return None;
        }
        state.quiet = 0;
        let tick = state.tick;
        let slots = state.slots(tick);
        let waker = Some(waker.clone());
        let place = match slots.free.pop() {
            Some(place) => {
                slots.wakers[place] = waker;
                place
            }
            None => {
                slots.wakers.push(waker);
                slots.wakers.len() - 1
            }
        };
        let start = state.looks.replace(runtime.id()).is_none();
        drop(state);
        if start {
            // It ends by itself: soon after the last call, or after the client.
            drop(runtime.spawn(look(Looking(Arc::downgrade(&self.0)))));
        }
        Some(Noted {
            shared: &self.0,
            runtime: runtime.id(),
            tick,
            place,
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those that have waited for a whole tick; says whether to go on.
    fn tick(&self) -> bool {
        let mut state = self.lock();
        let woken = state.advance();
        state.quiet = state.quiet.saturating_add(1);
        if state.quiet >= QUIET {
            state.looks = None;
        }
        let looks = state.looks.is_some();
        drop(state);
        woken.into_iter().flatten().for_each(Waker::wake);
        looks
    }
}

impl State {
    fn slots(&mut self, tick: u64) -> &mut Slots {
        &mut self.noted[usize::from(tick % 2 == 1)]
    }

    /// Begins the next tick, whose calls take the place of those noted before this one: the latter
    /// are to be woken.
    fn advance(&mut self) -> Vec<Option<Waker>> {
        self.tick += 1;
        let tick = self.tick;
        let slots = self.slots(tick);
        slots.free.clear();
        std::mem::take(&mut slots.wakers)
    }
}

/// A call that was noted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Noted<'a> {
    shared: &'a Shared,
    runtime: Id,
    tick: u64,
    place: usize,
}

impl Noted<'_> {
    /// Whether it has waited long enough to need a timer, or has moved to another runtime. If not,
    /// `waker` is whom to wake then.
    pub(crate) fn is_over(&mut self, waker: &Waker) -> bool {
        let mut state = self.shared.lock();
        if state.tick > self.tick + 1 || self.runtime != Handle::current().id() {
            return true;
        }
        if let Some(Some(known)) = state.slots(self.tick).wakers.get_mut(self.place) {
            known.clone_from(waker);
        }
        false
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.tick > self.tick + 1 {
            return;
        }
        let slots = state.slots(self.tick);
        let waker = slots.wakers.get_mut(self.place).and_then(Option::take);
        slots.free.push(self.place);
        drop(state);
        // What a waker does at its end is not ours to know.
        drop(waker);
    }
}

async fn look(mut looking: Looking) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(shared) = looking.0.upgrade() else {
            return;
        };
        if !shared.tick() {
            // Said already, and another task may have begun since.
            looking.0 = Weak::new();
            return;
        }
    }
}

/// If the task is dropped with its runtime, calls on another one must not wait for it.
struct Looking(Weak<Shared>);

impl Drop for Looking {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let mut state = shared.lock();
        state.looks = None;
        let woken = [state.advance(), state.advance()];
        drop(state);
        woken.into_iter().flatten().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_waits_long_is_woken_and_once() {
        let ticks = Ticks::default();
        let (count, waker) = counted();
        let quick = ticks.note(&waker).unwrap();
        let mut slow = ticks.note(&waker).unwrap();
        drop(quick);
        assert!(!slow.is_over(&waker));
        tokio::time::sleep(TICK * 3).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(slow.is_over(&waker));
        // Its place may be another's by now.
        let _other = ticks.note(&waker);
        drop(slow);
        tokio::time::sleep(TICK * 3).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again_and_looking_ends_and_begins_again() {
        let ticks = Ticks::default();
        let (count, waker) = counted();
        for _ in 0..1000 {
            drop(ticks.note(&waker));
        }
        assert_eq!(ticks.0.lock().noted[0].wakers.len(), 1);
        tokio::time::sleep(TICK * (QUIET + 2)).await;
        assert!(ticks.0.lock().looks.is_none());
        assert_eq!(Arc::weak_count(&ticks.0), 0);
        let _slow = ticks.note(&waker);
        tokio::time::sleep(TICK * 3).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_runtime_that_ends_or_rests_leaves_nobody_waiting() {
        let ticks = Ticks::default();
        let (count, waker) = counted();
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap()
        };
        let (first, second) = (runtime(), runtime());
        let mut slow = first.block_on(async { ticks.note(&waker) }).unwrap();
        second.block_on(async {
            assert!(ticks.note(&waker).is_none(), "nobody there looks for it");
            assert!(slow.is_over(&waker));
        });
        drop(first);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        second.block_on(async {
            let _slow = ticks.note(&waker).unwrap();
            tokio::time::sleep(TICK * 3).await;
        });
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
