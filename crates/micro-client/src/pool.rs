//! The connections to one node.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_core::{Error, Result};
use micro_registry_cache::Resolved;
use micro_registry_core::Node;
use micro_selector_core::{NodeState, Readiness};
use micro_transport_core::{Connection, DialOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::client::Parts;

/// What a pool waits for.
enum Event {
    Closed,
    Wanted,
    Idle,
}

/// A connection with its calls in flight.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) connection: Arc<dyn Connection>,
    in_flight: AtomicU32,
}

/// A connection taken for a call; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Taken(Arc<Member>);

impl Taken {
    fn new(member: &Arc<Member>) -> Self {
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(member))
    }

    pub(crate) fn connection(&self) -> &dyn Connection {
        &*self.0.connection
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections to one node: none while it is idle, then one, then more with the calls in
/// flight. A task of its own connects, connects again with growing pauses, and closes what is idle.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    node: Arc<Node>,
    state: Arc<NodeState>,
    parts: Arc<Parts>,
    /// Told when the node cannot be reached.
    resolved: Option<Arc<Resolved>>,
    start: Start,
    members: ArcSwap<Vec<Arc<Member>>>,
    /// Wakes the task: a call wants a connection, or one more.
    wanted: Notify,
    more: AtomicBool,
    /// Wakes the calls that wait: an attempt to connect has ended.
    attempted: Notify,
    attempts: AtomicU64,
    failure: Mutex<Option<Arc<Error>>>,
    /// Calls taken since the task last looked.
    used: AtomicBool,
}

/// How a pool begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// It connects at once, else when it is first asked.
    pub(crate) eager: bool,
    /// The node joins others that are at work.
    pub(crate) joins: bool,
    /// How long a node that joins or comes back takes less than its share.
    pub(crate) slow: Duration,
}

impl Pool {
    /// A pool without connections.
    pub(crate) fn new(
        node: Arc<Node>,
        state: Arc<NodeState>,
        parts: Arc<Parts>,
        resolved: Option<Arc<Resolved>>,
        start: Start,
    ) -> Self {
        let shared = Arc::new(Shared {
            node,
            state,
            parts,
            resolved,
            start,
            members: ArcSwap::default(),
            wanted: Notify::new(),
            more: AtomicBool::new(false),
            attempted: Notify::new(),
            attempts: AtomicU64::new(0),
            failure: Mutex::default(),
            used: AtomicBool::new(false),
        });
        if start.eager {
            shared.state.set_readiness(Readiness::Connecting);
            shared.wanted.notify_one();
        }
        let task = tokio::spawn(supervise(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Connects in the background if the node is idle: while another one is ready it is not
    /// picked, and would stay idle for ever.
    pub(crate) fn wake(&self) {
        if self.shared.state.readiness() == Readiness::Idle {
            self.shared.wanted.notify_one();
        }
    }

    /// A connection with the fewest calls in flight, if there is one. Never waits.
    pub(crate) fn ready(&self) -> Option<Taken> {
        let members = self.shared.members.load();
        let best = members
            .iter()
            .filter(|member| member.connection.is_open())
            .min_by_key(|member| member.in_flight.load(Ordering::Relaxed))?;
        let taken = Taken::new(best);
        let shared = &self.shared;
        if !shared.used.load(Ordering::Relaxed) {
            shared.used.store(true, Ordering::Relaxed);
        }
        let options = &shared.parts.options;
        let busy = best.in_flight.load(Ordering::Relaxed) as usize > options.calls_per_connection;
        if busy && members.len() < options.connections && !shared.more.swap(true, Ordering::Relaxed)
        {
            shared.wanted.notify_one();
        }
        Some(taken)
    }

    /// A connection, waiting for the attempt to connect that is under way or begins now.
    ///
    /// Bounded by the dial timeout; the caller adds its deadline.
    pub(crate) async fn get(&self) -> Result<Taken> {
        let shared = &self.shared;
        let seen = shared.attempts.load(Ordering::Acquire);
        loop {
            let attempted = shared.attempted.notified();
            if let Some(taken) = self.ready() {
                return Ok(taken);
            }
            if shared.attempts.load(Ordering::Acquire) != seen {
                let failure = shared
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                return Err(unreachable(&shared.node, failure.as_deref()));
            }
            shared.wanted.notify_one();
            attempted.await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Calls in flight hold their connections themselves.
        self.task.abort();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.shared.node.address)
            .field("connections", &self.shared.members.load().len())
            .finish_non_exhaustive()
    }
}

fn unreachable(node: &Node, failure: Option<&Error>) -> Error {
    let why = failure.map_or_else(|| "the connection closed".to_owned(), root_cause);
    let kind = failure.map_or(micro_core::ErrorKind::Unavailable, Error::kind);
    Error::new(kind, format!("the node cannot be reached: {why}"))
        .with_operation("client.connect")
        .with_context("node", &node.id)
        .with_context("address", &node.address)
        .with_unprocessed(true)
}

/// The last of an error's causes: what the operating system says is what helps.
fn root_cause(err: &Error) -> String {
    let mut text = err.message().to_owned();
    let mut cause = std::error::Error::source(err);
    while let Some(err) = cause {
        text = err.to_string();
        cause = err.source();
    }
    text
}

/// Runs the pool's task, also past a panic of the transport: those who wait are told.
async fn supervise(shared: Arc<Shared>) {
    loop {
        let run = AssertUnwindSafe(Arc::clone(&shared).run()).catch_unwind();
        if run.await.is_ok() {
            return;
        }
        tracing::error!(address = shared.node.address, "the transport panicked");
        shared.state.set_readiness(Readiness::Failed);
        shared.finish_attempt(Some(Error::internal("the transport panicked")));
        shared.more.store(false, Ordering::Relaxed);
        tokio::time::sleep(Shared::LONGEST_PAUSE).await;
    }
}

impl Shared {
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    /// So many attempts that no call asked for, and the node is left alone until one does.
    const UNASKED: u32 = 8;
    /// A connection that lasts so long has been worth making.
    const LASTING: Duration = Duration::from_secs(5);

    async fn run(self: Arc<Self>) {
        let mut pause = Self::FIRST_PAUSE;
        let mut unasked = 0;
        let (mut joins, mut failed) = (self.start.joins, false);
        self.wanted.notified().await;
        loop {
            match self.dial().await {
                Ok(member) => {
                    unasked = 0;
                    let began = tokio::time::Instant::now();
                    let mut members = self.open();
                    members.push(member);
                    self.members.store(Arc::new(members));
                    if failed {
                        // What comes back may be another process: what was held against the old
                        // one would keep calls away from it.
                        self.state.forget();
                    }
                    if joins || failed {
                        let now = self.parts.options.clock.now();
                        self.state.slow_start(now, self.start.slow);
                    }
                    (joins, failed) = (false, false);
                    self.state.set_readiness(Readiness::Ready);
                    self.finish_attempt(None);
                    self.more.store(false, Ordering::Relaxed);
                    self.watch().await;
                    if began.elapsed() >= Self::LASTING {
                        pause = Self::FIRST_PAUSE;
                    } else if self.members.load().is_empty() {
                        // A peer that takes connections and closes them is not worth a busy loop.
                        self.pause(&mut pause).await;
                    }
                }
                Err(err) => {
                    tracing::debug!(address = self.node.address, error = %err, "cannot connect");
                    self.members.store(Arc::new(self.open()));
                    let alone = self.members.load().is_empty();
                    if alone {
                        failed = true;
                        self.state.set_readiness(Readiness::Failed);
                        if let Some(resolved) = &self.resolved {
                            resolved.doubt(&self.node.id);
                        }
                    }
                    self.finish_attempt(Some(err));
                    self.more.store(false, Ordering::Relaxed);
                    if !alone {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Self::LONGEST_PAUSE);
                        self.watch().await;
                        continue;
                    }
                    unasked = if self.pause(&mut pause).await {
                        0
                    } else {
                        unasked + 1
                    };
                    if unasked >= Self::UNASKED {
                        self.state.set_readiness(Readiness::Idle);
                        self.wanted.notified().await;
                        unasked = 0;
                    }
                }
            }
        }
    }

    /// Waits before the next attempt: shorter if a call wants it, but never a busy loop. Says
    /// whether a call did.
    async fn pause(&self, pause: &mut Duration) -> bool {
        let random = self.parts.options.random.next_u64() % 1000;
        let jittered = pause.mul_f64(0.5 + random as f64 / 1000.0);
        let shortest = jittered.min(Duration::from_millis(20));
        *pause = (*pause * 2).min(Self::LONGEST_PAUSE);
        tokio::time::sleep(shortest).await;
        tokio::select! {
            biased;
            () = tokio::time::sleep(jittered.saturating_sub(shortest)) => false,
            () = self.wanted.notified() => true,
        }
    }

    /// The connections that take calls.
    fn open(&self) -> Vec<Arc<Member>> {
        self.members
            .load()
            .iter()
            .filter(|member| member.connection.is_open())
            .cloned()
            .collect()
    }

    async fn dial(&self) -> Result<Arc<Member>> {
        let options = &self.parts.options;
        if self.members.load().is_empty() {
            self.state.set_readiness(Readiness::Connecting);
        }
        let mut dial = DialOptions::default()
            .with_timeout(options.dial_timeout)
            .with_limits(options.limits.clone())
            .with_metadata(self.node.metadata.clone());
        dial.tls.clone_from(&options.tls);
        let dialled = self.parts.transport.dial(&self.node.address, dial);
        let connection = match tokio::time::timeout(options.dial_timeout, dialled).await {
            Ok(connection) => connection?,
            Err(_) => {
                return Err(Error::unavailable("connecting took too long")
                    .with_context("timeout", format_args!("{:?}", options.dial_timeout)));
            }
        };
        Ok(Arc::new(Member {
            connection,
            in_flight: AtomicU32::new(0),
        }))
    }

    fn finish_attempt(&self, failure: Option<Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure.map(Arc::new);
        self.attempts.fetch_add(1, Ordering::AcqRel);
        self.attempted.notify_waiters();
    }

    /// Returns when a connection is to be made: one more is wanted, or the last one broke while
    /// the node is in use.
    async fn watch(&self) {
        let idle = self.parts.options.limits.get().idle / 2;
        let every = idle.clamp(Duration::from_millis(10), Duration::from_secs(86_400));
        let mut idle_check = tokio::time::interval(every);
        idle_check.tick().await;
        loop {
            let members = self.members.load_full();
            let mut closed: FuturesUnordered<_> = members
                .iter()
                .map(|member| member.connection.closed())
                .collect();
            let event = tokio::select! {
                biased;
                Some(()) = closed.next() => Event::Closed,
                () = self.wanted.notified() => Event::Wanted,
                _ = idle_check.tick() => Event::Idle,
            };
            // Also the handles here keep a connection open.
            drop(closed);
            drop(members);
            match event {
                Event::Closed => {
                    self.keep_open();
                    if !self.members.load().is_empty() {
                        continue;
                    }
                    if self.used.swap(false, Ordering::Relaxed) {
                        // In use: connect again at once, ahead of the next call.
                        return;
                    }
                    self.state.set_readiness(Readiness::Idle);
                    self.wanted.notified().await;
                    return;
                }
                Event::Wanted => {
                    // A caller may see that a connection is closed before we are told.
                    self.keep_open();
                    if self.more.load(Ordering::Relaxed) || self.members.load().is_empty() {
                        return;
                    }
                }
                Event::Idle => {
                    if !self.used.swap(false, Ordering::Relaxed) && self.shrink() {
                        self.state.set_readiness(Readiness::Idle);
                        self.wanted.notified().await;
                        return;
                    }
                }
            }
        }
    }

    fn keep_open(&self) {
        let open = self.open();
        if open.is_empty() {
            self.state.set_readiness(Readiness::Connecting);
        }
        self.members.store(Arc::new(open));
    }

    /// Closes what no call is on; says whether nothing is left.
    fn shrink(&self) -> bool {
        let members: Vec<_> = self
            .members
            .load()
            .iter()
            .filter(|member| member.in_flight.load(Ordering::Relaxed) > 0)
            .cloned()
            .collect();
        let empty = members.is_empty();
        self.members.store(Arc::new(members));
        empty
    }
}
