//! Behavior that every [`Store`] shares.
//!
//! # Cases
//!
//! Records:
//!
//! - `the_backend_s_name_is_a_url_scheme`
//! - `a_missing_record_is_not_found`
//! - `a_written_record_is_read_whole`
//! - `a_write_replaces_the_whole_record`
//! - `any_bytes_are_a_value`
//! - `large_records_survive_and_too_large_ones_are_refused`
//! - `s58_hostile_keys_are_keys_and_bad_ones_are_refused`
//! - `deleting_removes_and_says_whether_there_was_something`
//! - `versions_grow_with_every_write`
//! - `versions_grow_over_deletion_and_expiry`
//! - `s55_odd_names_of_tables_are_names`
//! - `s56_similar_tables_are_apart`
//! - `s62_databases_tables_and_keys_do_not_run_together`
//! - `scopes_are_listed_in_order_and_by_pages`
//! - `a_table_s_short_forms_work`
//!
//! Changes on condition, together, and fenced:
//!
//! - `a_condition_holds_or_nothing_happens`
//! - `sixteen_tasks_count_exactly`
//! - `one_of_many_creates`
//! - `changes_survive_what_is_asked_for`
//! - `a_batch_changes_all`
//! - `a_batch_changes_nothing_if_one_condition_fails`
//! - `a_batch_changes_nothing_if_one_fence_is_old`
//! - `a_bad_batch_is_refused`
//! - `nobody_sees_a_part_of_a_batch`
//! - `batches_in_each_other_s_way_come_to_an_end`
//! - `an_old_fence_is_refused`
//! - `a_fence_counts_in_its_database`
//! - `a_change_that_fails_leaves_the_fence`
//! - `a_bad_fence_is_refused`
//!
//! Expiry:
//!
//! - `an_expired_record_is_nowhere`
//! - `a_write_without_a_ttl_stays`
//! - `a_ttl_outweighs_the_record_s_expiry`
//! - `a_record_that_expired_already_is_not_there`
//! - `a_bad_ttl_is_refused`
//! - `expiry_never_removes_a_newer_record`
//! - `ttl_ends_to_the_millisecond`, unless `shared`
//! - `a_jump_of_the_clock_hits_what_expires_and_nothing_else`, unless `shared`
//!
//! Listing:
//!
//! - `s57_listings_equal_a_sorted_map`
//! - `s60_extreme_limits_and_offsets_are_refused_or_exact`
//! - `a_listing_goes_on_behind_its_cursor`
//! - `a_cursor_is_stable_under_changes`
//! - `pages_of_large_values_end_early`
//! - `keys_only_leaves_out_the_rest`
//! - `many_records_are_walked_once`
//!
//! Watching, if `watch`:
//!
//! - `a_watch_reports_changes_in_order`
//! - `a_watch_is_silent_about_others`
//! - `a_watch_reports_no_past`
//! - `a_watch_that_is_not_read_is_told_so`
//! - `a_dropped_watch_disturbs_no_other`
//! - `a_watch_is_refused_where_there_is_none`, if not `watch`
//!
//! Calls and handles:
//!
//! - `a_dropped_call_leaves_the_store_usable`
//! - `a_dropped_batch_is_whole_or_nothing`
//! - `a_dropped_change_takes_no_effect_behind_a_later_one`
//! - `a_dropped_change_has_happened_or_not_when_the_next_returns`
//! - `reopening_finds_everything`, if durable beyond `Memory`
//! - `a_second_handle_is_locked_out`, if `exclusive`
//! - `handles_of_one_place_see_each_other`, unless `exclusive`

mod changes;
mod expiry;
mod handles;
mod listing;
mod records;
mod watching;

use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use micro_core::{Clock, Env, Random as _, SystemClock, SystemRandom};
use micro_store_core::{
    Capabilities, Durability, Error, ErrorKind, ListOptions, ReadOptions, Record, Result, Scope,
    Store, WriteOptions, Written,
};
use tokio::time::{Instant, sleep};

use crate::harness::{Case, run_cases, runtime};

type Backend = Arc<dyn Store>;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is done behind our back has been done after so long.
const BEHIND: Duration = Duration::from_millis(300);

/// Where a case wants a store opened.
///
/// One id is one set of records. Another id is another set, which is empty.
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

    /// A short name for the set of records: lower-case letters, digits and `-`, so that it can be a
    /// directory's name or part of a key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to open with: the clock.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }
}

/// The records of one case, and the way to open them.
struct Site {
    place: Place,
    open: Mutex<Box<dyn FnMut(Place) -> Result<Backend> + Send>>,
}

impl Site {
    async fn try_open(self: &Arc<Self>, env: Env) -> Result<Backend> {
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
            Ok(opened) => opened,
            Err(err) => panic!("opening the backend panicked: {err}"),
        }
    }

    /// A handle with the machine's clock.
    async fn open(self: &Arc<Self>) -> Backend {
        self.open_with(Env::new()).await
    }

    /// A handle. One that was just dropped may still hold the records for a moment.
    async fn open_with(self: &Arc<Self>, env: Env) -> Backend {
        let begin = Instant::now();
        loop {
            match self.try_open(env.clone()).await {
                Ok(backend) => return backend,
                Err(err) if err.kind() == ErrorKind::Locked && begin.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(err) => panic!("the backend does not open: {err:?}"),
            }
        }
    }
}

/// What a case may need of a backend.
#[derive(Clone, Copy, Debug)]
struct Needs {
    watch: bool,
    no_watch: bool,
    exclusive: bool,
    not_exclusive: bool,
    durable: bool,
    /// It counts by the clock that it is opened with.
    our_clock: bool,
}

impl Needs {
    fn of(capabilities: Capabilities) -> Self {
        Self {
            watch: capabilities.watch,
            no_watch: !capabilities.watch,
            exclusive: capabilities.exclusive,
            // What a handle keeps of its own may be late.
            not_exclusive: !capabilities.exclusive && capabilities.staleness.is_zero(),
            durable: capabilities.durability >= Durability::Process,
            our_clock: !capabilities.shared,
        }
    }
}

/// Runs the suite; `open` returns a handle to the records of a [`Place`].
///
/// Cases run side by side, each at a place of its own. What is opened twice at a place meets: it is
/// `Locked` the second time if the backend is [`exclusive`](Capabilities::exclusive), and else sees the
/// same records. A place may be opened again after its handles were dropped.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn(Place) -> Result<Backend> + Clone + Send + 'static,
{
    let open = move |place: Place| runtime().block_on(open(place));
    let capabilities = match open(Place::new()) {
        Ok(backend) => backend.capabilities(),
        Err(err) => panic!("the backend does not open: {err:?}"),
    };
    let cases = [
        records::cases(),
        changes::cases(),
        expiry::cases(),
        listing::cases(),
        watching::cases(),
        handles::cases(),
    ];
    run_cases(
        cases.into_iter().flatten().collect(),
        &Needs::of(capabilities),
        &move || {
            Ok(Arc::new(Site {
                place: Place::new(),
                open: Mutex::new(Box::new(open.clone())),
            }))
        },
    )
}

/// Lists cases that need one handle: `name`, or `name if need`.
macro_rules! on_one_handle {
    ($($name:ident $(if $needs:ident)?),* $(,)?) => {
        vec![$(crate::harness::Case {
            name: stringify!($name),
            applies: |_needs: &super::Needs| true $(&& _needs.$needs)?,
            run: |site: std::sync::Arc<super::Site>| {
                Box::pin(async move { $name(site.open().await).await })
            },
        }),*]
    };
}
use on_one_handle;

type Cases = Vec<Case<Site, Needs>>;

/// A clock that a case moves. It begins at a whole millisecond.
#[derive(Debug)]
struct HandClock {
    start: (std::time::Instant, SystemTime),
    /// In milliseconds.
    gone: AtomicI64,
}

impl HandClock {
    fn new() -> Arc<Self> {
        let wall = SystemClock.wall();
        let since = wall.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.expect("the machine's clock is set").as_millis();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(millis as u64);
        Arc::new(Self {
            start: (SystemClock.now(), wall),
            gone: AtomicI64::new(0),
        })
    }

    fn env(self: &Arc<Self>) -> Env {
        Env::new().with_clock(Arc::clone(self) as _)
    }

    fn jump(&self, millis: i64) {
        self.gone.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> std::time::Instant {
        let gone = self.gone.load(Ordering::SeqCst).max(0);
        self.start.0 + Duration::from_millis(gone.unsigned_abs())
    }

    fn wall(&self) -> SystemTime {
        let gone = self.gone.load(Ordering::SeqCst);
        let by = Duration::from_millis(gone.unsigned_abs());
        if gone < 0 {
            self.start.1 - by
        } else {
            self.start.1 + by
        }
    }
}

fn scope(database: &str, table: &str) -> Scope {
    Scope::new(database, table).expect("the name is good")
}

fn orders() -> Scope {
    scope("shop", "orders")
}

async fn try_read(store: &Backend, scope: &Scope, key: &str) -> Result<Record> {
    store.read(scope, key, ReadOptions::default()).await
}

/// The record, if there is one.
#[track_caller]
fn read<'a>(
    store: &'a Backend,
    scope: &'a Scope,
    key: &'a str,
) -> impl Future<Output = Option<Record>> + Send + 'a {
    let at = std::panic::Location::caller();
    async move {
        match try_read(store, scope, key).await {
            Ok(record) => {
                assert_eq!(record.key, key, "another record was read, at {at}");
                Some(record)
            }
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            Err(err) => panic!("reading {} failed, at {at}: {err:?}", short(key)),
        }
    }
}

/// The value as text, if there is one.
#[track_caller]
fn text<'a>(
    store: &'a Backend,
    scope: &'a Scope,
    key: &'a str,
) -> impl Future<Output = Option<String>> + Send + 'a {
    let record = read(store, scope, key);
    async move {
        let record = record.await?;
        Some(String::from_utf8(record.value.to_vec()).expect("the value is text"))
    }
}

#[track_caller]
fn write<'a>(
    store: &'a Backend,
    scope: &'a Scope,
    record: Record,
    opts: WriteOptions,
) -> impl Future<Output = Written> + Send + 'a {
    let at = std::panic::Location::caller();
    async move {
        match store.write(scope, record, opts).await {
            Ok(written) => written,
            Err(err) => panic!("writing failed, at {at}: {err:?}"),
        }
    }
}

/// Writes text; answers with its version.
#[track_caller]
fn put<'a>(
    store: &'a Backend,
    scope: &'a Scope,
    key: &str,
    value: &str,
) -> impl Future<Output = u64> + Send + 'a {
    let record = Record::new(key, value.to_owned());
    let written = write(store, scope, record, WriteOptions::default());
    async move { written.await.version }
}

/// All keys that match, page by page.
async fn keys(store: &Backend, scope: &Scope, opts: ListOptions) -> Vec<String> {
    let mut opts = opts.with_keys_only(true);
    let mut keys = Vec::new();
    loop {
        let page = store.list(scope, opts.clone()).await;
        let page = page.expect("the records are listed");
        keys.extend(page.records.into_iter().map(|record| record.key));
        match page.next {
            Some(next) => {
                opts.offset = 0;
                opts.after = Some(next);
            }
            None => return keys,
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Err(err) if err.kind() == kind => err,
        Err(err) => panic!("{what} is to fail with {kind:?}; it failed with {err:?}"),
        Ok(done) => panic!("{what} is to fail with {kind:?}; it gave {done:?}"),
    }
}

/// A key for a message.
fn short(key: &str) -> String {
    let begin: String = key.chars().take(40).flat_map(char::escape_debug).collect();
    format!("'{begin}' ({} bytes)", key.len())
}
