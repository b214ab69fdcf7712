//! Behavior that every [`Coordinator`] shares.
//!
//! # Cases
//!
//! Locks:
//!
//! - `the_backend_s_name_is_a_url_scheme`
//! - `a_free_lock_is_had_and_one_that_is_held_is_not`
//! - `names_are_apart`
//! - `namespaces_are_apart`
//! - `bad_names_are_refused_everywhere`
//! - `a_bad_ttl_is_refused`
//! - `work_under_a_lock_is_done`
//! - `tokens_only_grow`
//! - `at_most_one_holds_it_at_a_time`
//! - `locks_and_leaderships_of_a_name_exclude_each_other`
//! - `a_wall_clock_that_jumps_changes_nothing`
//! - `a_lock_is_kept_for_as_long_as_it_is_held`, if `shared`
//!
//! Waiting:
//!
//! - `a_lock_passes_to_who_waits`
//! - `waiting_has_an_end_and_leaves_nothing`
//! - `who_waits_is_served_in_turn`, if `fair`
//! - `a_crowd_is_served_one_by_one`
//! - `whoever_is_dropped_holds_nothing`
//! - `aborted_tasks_leave_the_lock_free`
//! - `handles_of_one_place_exclude_each_other`
//!
//! Losing:
//!
//! - `one_who_slept_beyond_the_ttl_knows_it`, if `shared`
//! - `a_lock_that_is_taken_away_is_lost`, with a [`Thief`]
//! - `work_ends_with_the_lock`, with a thief
//! - `s63_who_has_lost_a_lock_cannot_let_go_of_another_s`, with a thief
//! - `s64_an_old_token_is_refused`, with a thief
//!
//! Leading:
//!
//! - `a_candidate_is_elected_and_resigns`
//! - `a_bad_value_is_refused`
//! - `an_observer_sees_who_leads`
//! - `an_observer_sees_the_newest_and_never_an_older`
//! - `a_dropped_observer_disturbs_nobody`
//! - `an_observer_sees_a_leadership_that_is_taken_away`, with a thief

mod leading;
mod locking;
mod losing;
mod waiting;

use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use micro_core::{Clock, Env, Random as _, SystemClock, SystemRandom};
use micro_sync_core::{
    Capabilities, Coordinator, ErrorKind, FencingToken, Lock, LockOptions, Result, async_trait,
};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Case, run_cases, runtime};

type Backend = Arc<dyn Coordinator>;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is done behind our back has been done after so long.
const BEHIND: Duration = Duration::from_millis(300);
/// A time to live that lasts longer than any case.
const LONG: Duration = Duration::from_secs(60);

/// Where a case wants a coordinator opened.
///
/// One id is one set of names. Another id is another set, of which none is held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    id: Arc<str>,
    env: Env,
}

impl Place {
    /// A place where nothing was opened, in this run or an earlier one.
    fn new() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| SystemRandom.next_u64());
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            id: Arc::from(format!("t{:08x}-{count}", *RUN >> 32)),
            env: Env::new(),
        }
    }

    /// A short name for the set of names: lower-case letters, digits and `-`, so that it can be part of
    /// a key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to open with: the clock and the namespace.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

/// Takes locks away from those who hold them.
#[async_trait]
pub trait Thief: Send + Sync + 'static {
    /// Takes the lock, or the leadership, from whoever holds it, as if its time had ended for the
    /// backend, and behind the back of the holder. Of the coordinator's namespace.
    async fn take(&self, name: &str) -> Result<()>;
}

/// A coordinator, and what a case may need besides.
#[derive(Clone)]
pub struct Subject {
    coordinator: Backend,
    thief: Option<Arc<dyn Thief>>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject")
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// A coordinator.
    #[must_use]
    pub fn new(coordinator: Arc<dyn Coordinator>) -> Self {
        Self {
            coordinator,
            thief: None,
        }
    }

    /// Adds who takes its locks away.
    #[must_use]
    pub fn with_thief(mut self, thief: impl Thief) -> Self {
        self.thief = Some(Arc::new(thief));
        self
    }

    async fn take(&self, name: &str) {
        let thief = self.thief.as_ref().expect("the case needs a thief");
        thief.take(name).await.expect("the lock is taken away");
    }
}

/// The names of one case, and the way to open them.
struct Site {
    place: Place,
    open: Mutex<Box<dyn FnMut(Place) -> Result<Subject> + Send>>,
}

impl Site {
    /// A handle.
    async fn subject(self: &Arc<Self>, env: Env) -> Subject {
        let site = Arc::clone(self);
        // On a thread of its own: the future of a stranger's closure need not be `Send`.
        let opened = tokio::task::spawn_blocking(move || {
            let place = Place {
                env,
                ..site.place.clone()
            };
            let mut open = site.open.lock().unwrap_or_else(PoisonError::into_inner);
            open(place)
        });
        match opened.await {
            Ok(Ok(subject)) => subject,
            Ok(Err(err)) => panic!("the backend does not open: {err:?}"),
            Err(err) => panic!("opening the backend panicked: {err}"),
        }
    }

    async fn open(self: &Arc<Self>, env: Env) -> Backend {
        self.subject(env).await.coordinator
    }
}

/// What a case may need of a backend.
#[derive(Clone, Copy, Debug)]
struct Needs {
    shared: bool,
    fair: bool,
    thief: bool,
}

/// Runs the suite; `open` returns a handle to the names of a [`Place`].
///
/// Cases run side by side, each at a place of its own. What is opened twice at a place, meets.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn(Place) -> Result<Subject> + Clone + Send + 'static,
{
    let open = move |place: Place| runtime().block_on(open(place));
    let needs = match open(Place::new()) {
        Ok(subject) => {
            let Capabilities { shared, fair, .. } = subject.coordinator.capabilities();
            Needs {
                shared,
                fair,
                thief: subject.thief.is_some(),
            }
        }
        Err(err) => panic!("the backend does not open: {err:?}"),
    };
    let cases = [
        locking::cases(),
        waiting::cases(),
        losing::cases(),
        leading::cases(),
    ];
    run_cases(cases.into_iter().flatten().collect(), &needs, &move || {
        Ok(Arc::new(Site {
            place: Place::new(),
            open: Mutex::new(Box::new(open.clone())),
        }))
    })
}

/// Lists cases that need one handle: `name`, or `name if need`.
macro_rules! on_one_handle {
    ($($name:ident $(if $needs:ident)?),* $(,)?) => {
        vec![$(crate::harness::Case {
            name: stringify!($name),
            applies: |_needs: &super::Needs| true $(&& _needs.$needs)?,
            run: |site: std::sync::Arc<super::Site>| {
                Box::pin(async move { $name(site.subject(micro_core::Env::new()).await).await })
            },
        }),*]
    };
}
use on_one_handle;

type Cases = Vec<Case<Site, Needs>>;

/// A clock that a case moves.
#[derive(Debug)]
struct HandClock {
    /// The machine's clock runs on below, by so much ahead, in milliseconds.
    ahead: AtomicU64,
    wall: AtomicI64,
}

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ahead: AtomicU64::new(0),
            wall: AtomicI64::new(0),
        })
    }

    fn env(self: &Arc<Self>) -> Env {
        Env::new().with_clock(Arc::clone(self) as _)
    }

    /// As if the process had slept.
    fn sleep(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("no case sleeps so long");
        self.ahead.fetch_add(millis, Ordering::SeqCst);
    }

    /// As if somebody had set the clock of the machine.
    fn set_wall(&self, seconds: i64) {
        self.wall.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> std::time::Instant {
        SystemClock.now() + Duration::from_millis(self.ahead.load(Ordering::SeqCst))
    }

    fn wall(&self) -> SystemTime {
        let set = self.wall.load(Ordering::SeqCst);
        let by = Duration::from_secs(set.unsigned_abs());
        if set < 0 {
            SystemClock.wall() - by
        } else {
            SystemClock.wall() + by
        }
    }
}

/// What is changed under locks, and keeps the rule of fences.
#[derive(Debug, Default)]
struct Register(Mutex<FencingToken>);

impl Register {
    fn write(&self, lock: &Lock) -> Result<()> {
        let mut highest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.fence().token < *highest {
            return Err(micro_core::Error::lost("a later holder has written"));
        }
        *highest = lock.fence().token;
        Ok(())
    }
}

/// Options with a time to live that does not matter.
fn opts() -> LockOptions {
    LockOptions::default().with_ttl(LONG)
}

async fn lock(coordinator: &Backend, name: &str) -> Lock {
    let lock = timeout(PATIENCE, coordinator.lock(name, opts())).await;
    let lock = lock.unwrap_or_else(|_| panic!("{name} is not to be had"));
    lock.unwrap_or_else(|err| panic!("{name} is not to be had: {err:?}"))
}

async fn try_lock(coordinator: &Backend, name: &str) -> Option<Lock> {
    match coordinator.try_lock(name, opts()).await {
        Ok(lock) => lock,
        Err(err) => panic!("{name} cannot be tried: {err:?}"),
    }
}

/// Waits until the lock is free: who lets go by dropping does not wait for it.
async fn free(coordinator: &Backend, name: &str) -> Lock {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = try_lock(coordinator, name).await {
            return lock;
        }
        assert!(Instant::now() < until, "{name} does not become free");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Something fails, with this kind.
#[track_caller]
fn refused<T>(outcome: Result<T>, kind: ErrorKind, what: &str) {
    match outcome {
        Ok(_) => panic!("{what} succeeds, and {kind:?} was expected"),
        Err(err) => assert_eq!(err.kind(), kind, "{what}: {err:?}"),
    }
}
