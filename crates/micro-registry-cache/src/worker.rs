//! The task of one service: it alone asks the registry, and writes what callers read.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::StreamExt as _;
use micro_core::{Live, LiveWriter};
use micro_registry_core::{
    Error, ErrorKind, Event, EventStream, GetOptions, Registry, Result, Service, WatchOptions,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::resolved::{MAX_DOUBTS, Outcome, Progress, Resolved, Shared};
use crate::resolver::Keeper;
use crate::table::{Believed, Refused, Table, Taken};
use crate::{Freshness, ResolverOptions, Snapshot};

/// The registry is asked at most so often for doubts and confirmations.
const SOON: Duration = Duration::from_millis(500);
/// The first question waits so long for the watch, which should be open before.
const WATCH_FIRST: Duration = Duration::from_millis(250);
/// While nobody is known: full jitter between nothing and this, doubled with each failure.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest if somebody waits.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The longest if nobody does.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// The watch is opened within this time once an answer says that the registry is there again.
const REOPEN_SOON: Duration = Duration::from_secs(1);
/// After a panic of the registry.
const PANIC_PAUSE: Duration = Duration::from_secs(10);
/// A watch that lived so long was a good one: the next failure is the first again.
const GOOD_WATCH: Duration = Duration::from_secs(10);
/// A deletion that the registry then denied is asked about once more within this time.
const DENIED: Duration = Duration::from_secs(2);
/// So long nothing more is said about what was left out.
const QUIET: Duration = Duration::from_secs(60);
/// Nothing is repeated faster than this, whatever the options say.
const SHORTEST: Duration = Duration::from_millis(20);
/// So many events are taken at once before readers see them.
const BATCH: usize = 256;
/// So many events are remembered while a question is under way; beyond, it is put again.
const MAX_SINCE: usize = 4096;

/// Starts the task of a service.
pub(crate) fn start(
    name: &str,
    registry: Arc<dyn Registry>,
    opts: Arc<ResolverOptions>,
    keeper: Keeper,
    mut stop: watch::Receiver<()>,
    runtime: &Handle,
) -> Resolved {
    let shared = Arc::new(Shared {
        name: name.to_owned(),
        backend: registry.backend(),
        opts,
        wake: Notify::new(),
        waiting: 0.into(),
        doubts: std::sync::Mutex::default(),
    });
    let (writer, live) = Live::channel(Snapshot::unknown());
    let (sender, progress) = Live::channel(Progress::default());
    let mut seat = Seat {
        shared: Arc::clone(&shared),
        registry,
        keeper,
        writer,
        live: live.clone(),
        progress: sender,
    };
    let task = runtime.spawn(async move {
        // A registry that panics takes this attempt with it, not the service.
        let run = async {
            while AssertUnwindSafe(Worker::new(&mut seat).run())
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!(service = seat.shared.name, "the registry panicked");
                tokio::time::sleep(PANIC_PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = run => {}
            // The sender is dropped with the resolver.
            _ = stop.changed() => {}
        }
    });
    Resolved {
        shared,
        live,
        progress,
        task: task.abort_handle(),
        last_used: 0.into(),
    }
}

/// What outlives an attempt of the worker.
struct Seat {
    shared: Arc<Shared>,
    registry: Arc<dyn Registry>,
    keeper: Keeper,
    writer: LiveWriter<Snapshot>,
    live: Live<Snapshot>,
    progress: LiveWriter<Progress>,
}

impl Seat {
    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = Progress::clone(&self.progress.live().get());
        change(&mut progress);
        self.progress.set(progress);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tell(|progress| progress.ended = true);
    }
}

struct Worker<'a> {
    seat: &'a mut Seat,
    opts: Arc<ResolverOptions>,
    table: Table,

    opening: Option<BoxFuture<'static, Result<EventStream>>>,
    events: Option<EventStream>,
    /// When the watch was opened, or is to be.
    watch_at: Instant,
    watch_failures: u32,

    asking: Option<BoxFuture<'static, Result<Vec<Service>>>>,
    /// When the registry was asked last.
    asked: Option<Instant>,
    ask_at: Instant,
    ask_failures: u32,
    /// The events since the question under way was put.
    since: Vec<Event>,
    /// The doubts that the next answer settles.
    doubted: BTreeSet<String>,
    /// It was put too early to be believed.
    too_early: bool,
    /// So many answers in a row went on listing what was doubted.
    doubts_in_vain: u32,
    /// When it may be said again that something was left out.
    warn_at: Instant,

    /// When the registry last confirmed what is known.
    confirmed: Option<std::time::Instant>,
    idle_at: Instant,
}

/// What the worker waited for.
enum Happened {
    Opened(Result<EventStream>),
    Answered(Result<Vec<Service>>),
    Event(Option<Result<Event>>),
    Time,
}

impl<'a> Worker<'a> {
    fn new(seat: &'a mut Seat) -> Self {
        let opts = Arc::clone(&seat.shared.opts);
        let can = seat.registry.capabilities();
        let loopback = can.local || can.loopback || !can.shared;
        let table = Table::new(&seat.shared.name, loopback, &seat.live.get().services);
        // Something is known if an attempt before this one panicked.
        let confirmed = match &seat.live.get().freshness {
            Freshness::Unknown => None,
            Freshness::Fresh => Some(opts.clock.now()),
            Freshness::Stale { since, .. } => Some(*since),
        };
        let now = Instant::now();
        Self {
            seat,
            table,
            opening: None,
            events: None,
            watch_at: now,
            watch_failures: 0,
            asking: None,
            asked: None,
            ask_at: now + WATCH_FIRST,
            ask_failures: 0,
            since: Vec::new(),
            doubted: BTreeSet::new(),
            too_early: false,
            doubts_in_vain: 0,
            warn_at: now,
            confirmed,
            idle_at: now + look_for_idleness(&opts),
            opts,
        }
    }

    async fn run(mut self) {
        loop {
            self.begin_what_is_due();
            match self.next().await {
                Happened::Opened(Ok(events)) => self.opened(events),
                Happened::Opened(Err(err)) => self.watch_failed(Some(&err)),
                Happened::Answered(Ok(answer)) => self.answered(&answer),
                // A registry says that nobody is there by an error, which is an answer.
                Happened::Answered(Err(err)) if err.kind() == ErrorKind::NotFound => {
                    self.answered(&[]);
                }
                Happened::Answered(Err(err)) => self.ask_failed(&err),
                Happened::Event(Some(Ok(event))) => self.changed(event),
                Happened::Event(Some(Err(err))) => self.watch_failed(Some(&err)),
                Happened::Event(None) => self.watch_failed(None),
                Happened::Time => {}
            }
        }
    }

    /// Puts the questions whose time has come.
    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        self.heed_callers();
        if now >= self.idle_at {
            self.idle_at = now + look_for_idleness(&self.opts);
            self.seat.keeper.forget_if_idle(&self.seat.shared.name);
        }
        if self.events.is_none() && self.opening.is_none() && now >= self.watch_at {
            let registry = Arc::clone(&self.seat.registry);
            let opts = WatchOptions::default().with_service(&self.seat.shared.name);
            let limit = self.opts.request_timeout;
            self.opening = Some(within(limit, async move { registry.watch(opts).await }).boxed());
        }
        if self.asking.is_none() && now >= self.ask_at {
            let registry = Arc::clone(&self.seat.registry);
            let name = self.seat.shared.name.clone();
            let limit = self.opts.request_timeout;
            let ask = async move { registry.get_service(&name, GetOptions::default()).await };
            self.asking = Some(within(limit, ask).boxed());
            self.asked = Some(now);
            self.since.clear();
            self.too_early = false;
            // Those that come from here on are about what this answer says.
            let doubted = std::mem::take(&mut *self.doubts());
            // With those of a question that was not answered.
            if self.doubted.len() < MAX_DOUBTS {
                self.doubted.extend(doubted);
            }
        }
    }

    /// Asks sooner if somebody waits or doubts.
    fn heed_callers(&mut self) {
        if !self.doubts().is_empty() {
            // A dead node that the registry goes on listing is asked about less and less.
            self.ask_within(SOON * (1 << self.doubts_in_vain.min(5)));
        }
        if self.is_waited_for() {
            self.ask_within(self.opts.negative_ttl.max(SHORTEST));
            if self.ask_failures > 0 {
                // Somebody came while the pauses were long already.
                self.ask_at = self.ask_at.min(Instant::now() + LONGEST_WAIT);
            }
        }
    }

    /// Whether somebody waits for the first node.
    fn is_waited_for(&self) -> bool {
        self.table.is_empty() && self.seat.shared.waiting.load(Ordering::Acquire) > 0
    }

    fn doubts(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.seat
            .shared
            .doubts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks so long after the last question, unless it is time before.
    fn ask_within(&mut self, span: Duration) {
        // A registry in trouble is not asked more often for that.
        if self.ask_failures == 0 {
            let soon = self.asked.map_or(self.ask_at, |asked| asked + span);
            self.ask_at = self.ask_at.min(soon);
        }
    }

    /// Waits for whatever comes first.
    async fn next(&mut self) -> Happened {
        let mut due = self.idle_at;
        if self.asking.is_none() {
            due = due.min(self.ask_at);
        }
        if self.events.is_none() && self.opening.is_none() {
            due = due.min(self.watch_at);
        }
        // Events stand last: however many there are, the others get their turn.
        tokio::select! {
            biased;
            opened = pending_or(&mut self.opening) => {
                self.opening = None;
                Happened::Opened(opened)
            }
            answer = pending_or(&mut self.asking) => {
                self.asking = None;
                Happened::Answered(answer)
            }
            () = self.seat.shared.wake.notified() => Happened::Time,
            () = sleep_until(due) => Happened::Time,
            event = async {
                match &mut self.events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            } => Happened::Event(event),
        }
    }

    fn opened(&mut self, events: EventStream) {
        let now = Instant::now();
        self.events = Some(events);
        self.watch_at = now;
        // What happened before is known by asking from here on, also if the last questions failed:
        // the registry is there again.
        self.too_early = true;
        self.ask_at = now;
    }

    fn watch_failed(&mut self, err: Option<&Error>) {
        let now = Instant::now();
        if self.events.take().is_some() && now.duration_since(self.watch_at) >= GOOD_WATCH {
            self.watch_failures = 0;
        }
        self.watch_failures = self.watch_failures.saturating_add(1);
        // Questions go on meanwhile, so nothing is known later for it than by a refresh.
        let span = self.opts.ttl.saturating_mul(3) / 2;
        self.watch_at = now + self.backoff(self.watch_failures, span);
        tracing::debug!(
            service = self.seat.shared.name,
            failures = self.watch_failures,
            err = err.map(tracing::field::display),
            "the watch ended; it is opened again"
        );
        // The first question waited for it. Later, as long as it stays away, asking has to do.
        if self.asked.is_none() {
            self.ask_at = now;
        } else if self.ask_failures == 0 {
            self.ask_at = self.ask_at.min(self.watch_at + WATCH_FIRST);
        }
    }

    /// Takes an event, and those that are there already.
    fn changed(&mut self, event: Event) {
        let mut next = Some(event);
        let mut taken = 0;
        while let Some(event) = next.take() {
            if self.table.apply(&event, self.opts.clock.now()) == Believed::AskFirst {
                self.too_early = true;
                self.ask_within(SOON);
            } else if self.asking.is_some() {
                if self.since.len() < MAX_SINCE {
                    self.since.push(event);
                } else {
                    self.too_early = true;
                }
            }
            taken += 1;
            if taken == BATCH {
                break;
            }
            let more = self.events.as_mut().map(|events| events.next());
            match more.and_then(FutureExt::now_or_never) {
                None => {}
                Some(Some(Ok(event))) => next = Some(event),
                Some(Some(Err(err))) => self.watch_failed(Some(&err)),
                Some(None) => self.watch_failed(None),
            }
        }
        self.warn();
        self.publish(None);
    }

    /// Says that something was left out, and what; whoever fills a registry with nonsense does not
    /// fill a log.
    fn warn(&mut self) -> Option<Refused> {
        let now = Instant::now();
        let refused = self.table.take_refused()?;
        if now >= self.warn_at {
            self.warn_at = now + QUIET;
            tracing::warn!(
                service = self.seat.shared.name,
                registry = self.seat.shared.backend,
                node = refused.node,
                why = refused.why,
                "the registry lists what is not believed; it is left out"
            );
        }
        Some(refused)
    }

    fn answered(&mut self, answer: &[Service]) {
        if std::mem::take(&mut self.ask_failures) > 0 {
            let soon = self.opts.jitter(REOPEN_SOON, 0.0);
            self.watch_at = self.watch_at.min(Instant::now() + soon);
        }
        // Something came meanwhile that this answer cannot know of. Readers that know nobody at
        // all need not wait for the next one.
        let again = self
            .asked
            .filter(|_| self.too_early)
            .map(|asked| asked + SOON);
        if let Some(again) = again
            && !self.table.is_empty()
        {
            self.ask_at = again;
            return;
        }
        let revision = self.seat.live.get().revision;
        let clock = Arc::clone(&self.opts.clock);
        let taken = self.table.answer(
            answer,
            &self.since,
            &self.doubted,
            self.opts.empty_grace,
            clock.now(),
        );
        let doubted = !std::mem::take(&mut self.doubted).is_empty();
        self.since.clear();
        // Those that began together are spread over the whole time at once.
        let from = if self.confirmed.is_none() { 0.1 } else { 0.8 };
        let ttl = self.opts.jitter(self.opts.ttl, from).max(SHORTEST);
        let (wait, cause) = match taken {
            Taken::Whole => (ttl, None),
            Taken::Empty => (
                ttl.min(self.opts.empty_grace / 4).max(SOON),
                Some("the registry suddenly lists no node at all"),
            ),
            Taken::Shrunken => (
                self.opts.negative_ttl.max(SOON),
                Some("the registry suddenly lists less than half of the nodes"),
            ),
        };
        self.ask_at = again.unwrap_or_else(|| Instant::now() + wait);
        if self.table.take_denied() {
            // What it reports and what it lists differ: the list may be behind.
            let soon = self.opts.jitter(DENIED, 0.5);
            self.ask_at = self.ask_at.min(Instant::now() + soon);
        }
        let refused = self.warn();
        match cause {
            None => {
                self.confirmed = Some(clock.now());
                self.publish(Some(Freshness::Fresh));
            }
            Some(cause) => self.stale(cause.to_owned()),
        }
        self.doubts_in_vain = match self.seat.live.get().revision == revision {
            true if doubted => self.doubts_in_vain.saturating_add(1),
            _ => 0,
        };
        self.report(match refused {
            _ if !self.table.is_empty() => Outcome::Some,
            Some(refused) => Outcome::Refused(format!("{}: {}", refused.node, refused.why)),
            None => Outcome::Nobody,
        });
    }

    fn ask_failed(&mut self, err: &Error) {
        self.ask_failures = self.ask_failures.saturating_add(1);
        self.ask_at = Instant::now() + self.backoff(self.ask_failures, self.opts.ttl);
        self.stale(err.to_string());
        self.report(Outcome::Failed(err.to_string()));
    }

    /// Full jitter: clients that lost a registry together do not come back together.
    ///
    /// Whoever knows nodes is in no hurry, and takes a moment of the whole `span`: a registry that
    /// restarts meets its whole fleet. Nodes that refuse connections are asked about as ever.
    fn backoff(&self, failures: u32, span: Duration) -> Duration {
        let longest = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = match (self.table.is_empty(), self.is_waited_for()) {
            (false, _) => span,
            (true, true) => longest.min(LONGEST_WAIT),
            (true, false) => longest.min(LONGEST_BACKOFF),
        };
        self.opts.jitter(longest, 0.0).max(SHORTEST)
    }

    fn stale(&mut self, cause: String) {
        match self.confirmed {
            Some(since) => {
                if matches!(self.seat.live.get().freshness, Freshness::Fresh) {
                    tracing::warn!(
                        service = self.seat.shared.name,
                        cause,
                        "the registry cannot confirm what is known; it is kept"
                    );
                }
                self.publish(Some(Freshness::Stale { since, cause }));
            }
            None => self.publish(None),
        }
    }

    /// Shows readers what is known, if it is anything new.
    fn publish(&mut self, freshness: Option<Freshness>) {
        let old = self.seat.live.get_arc();
        let freshness = freshness.unwrap_or_else(|| old.freshness.clone());
        let services = self.table.services();
        let changed = services != old.services;
        if !changed && freshness == old.freshness {
            return;
        }
        self.seat.writer.set(Snapshot {
            revision: old.revision + u64::from(changed),
            // The same ones: what readers hold stays what it is.
            services: if changed {
                services
            } else {
                Arc::clone(&old.services)
            },
            freshness,
        });
        // Those who wait for the first node look again.
        self.seat.tell(|_| {});
    }

    fn report(&self, outcome: Outcome) {
        let now = self.opts.clock.now();
        self.seat.tell(|progress| {
            progress.answers += 1;
            progress.last = Some((now, outcome));
        });
    }
}

/// How often it is looked whether anybody still needs the service.
fn look_for_idleness(opts: &ResolverOptions) -> Duration {
    (opts.idle / 2).clamp(Duration::from_millis(100), Duration::from_secs(3600))
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(Error::deadline_exceeded("the registry does not answer")
            .with_context("waited", format_args!("{}ms", limit.as_millis())))
    })
}

async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
