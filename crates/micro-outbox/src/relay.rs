//! Handing messages on.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use micro_broker_core::{Backoff, Broker, PublishOptions, Reach};
use micro_core::{Context, Error, ErrorKind, Result};
use micro_store_core::{BatchOptions, Cursor, ListOptions, Operation, Record};
use tokio::time::sleep;

use crate::Outbox;
use crate::entry::{Entry, MESSAGES, dead};
use crate::lease::Lease;

/// Of so many keys is known which message was the last.
const KNOWN: usize = 10_000;

/// So many failures and no success are enough for a round.
const HOPELESS: usize = 32;

/// A page of a store that nobody else has is published within this time.
const ALONE: Duration = Duration::from_secs(24 * 3600);

/// The pauses after a round that failed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// How a [`Relay`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayOptions {
    /// How often the outbox is looked into; what is committed in this process is handed on at once.
    /// Default 1 s.
    pub poll: Duration,
    /// How many messages are published at once, of different keys. Default 16.
    pub concurrency: usize,
    /// How many messages are read at once, and published before they are removed: as many may be
    /// published twice after a crash. Default 100, at most 5,000.
    pub page: usize,
    /// How long the broker has for one message. Default 30 s.
    pub timeout: Duration,
    /// How long the outbox of a process that died is left alone by others. Default 15 s.
    pub lease: Duration,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            concurrency: 16,
            page: 100,
            timeout: Duration::from_secs(30),
            lease: Duration::from_secs(15),
        }
    }
}

impl RelayOptions {
    /// Sets [`poll`](Self::poll).
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets [`concurrency`](Self::concurrency).
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`page`](Self::page).
    #[must_use]
    pub fn with_page(mut self, page: usize) -> Self {
        self.page = page;
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`lease`](Self::lease).
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }
}

/// Publishes what waits in an outbox, and removes it then.
///
/// Any number of processes may run one: of those that share a store, one is at work at a time.
#[must_use = "a relay does nothing before run or drain"]
pub struct Relay {
    outbox: Outbox,
    broker: Arc<dyn Broker>,
    opts: RelayOptions,
    /// The last message published of each key.
    last: Mutex<HashMap<Arc<str>, String>>,
    lease: Option<Lease>,
    /// Where a round was broken off.
    resume: Option<Cursor>,
}

/// What came of looking through the outbox once.
#[derive(Debug, Default)]
struct Round {
    published: usize,
    failures: usize,
    /// The first of them.
    failure: Option<Error>,
    /// Another relay is at work.
    elsewhere: bool,
}

/// What became of a message.
enum Fate {
    Published,
    /// It never will be.
    Dead(Error),
    /// Not yet, and nothing of its key either.
    Waits(Error),
}

impl Relay {
    pub(crate) fn new(outbox: Outbox, broker: Arc<dyn Broker>, mut opts: RelayOptions) -> Self {
        opts.page = opts.page.clamp(1, 5000);
        opts.concurrency = opts.concurrency.max(1);
        opts.lease = opts.lease.max(Duration::from_millis(100));
        Self {
            outbox,
            broker,
            opts,
            last: Mutex::default(),
            lease: None,
            resume: None,
        }
    }

    /// Publishes what is there and what comes, until the future is dropped. What fails is logged, and
    /// tried again.
    pub async fn run(mut self) -> Infallible {
        let mut failures = 0;
        loop {
            let round = self.round().await;
            let pause = match &round.failure {
                Some(err) => {
                    failures += 1;
                    let pause = BACKOFF.pause(failures, &**self.outbox.0.env.random());
                    tracing::warn!(
                        outbox = %self.outbox.0.table.scope(), %err, ?pause,
                        "messages wait in the outbox"
                    );
                    pause
                }
                None => {
                    failures = 0;
                    self.opts.poll
                }
            };
            if round.failure.is_some() || round.elsewhere {
                sleep(pause).await;
            } else if round.published == 0 {
                tokio::select! {
                    () = self.outbox.0.committed.notified() => {}
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Publishes what is there, and says how many it were.
    ///
    /// # Errors
    ///
    /// What the broker or the store said first; what could be published is.
    /// `Unavailable` while another process is at it.
    pub async fn drain(&mut self) -> Result<usize> {
        let mut published = 0;
        loop {
            let round = self.round().await;
            published += round.published;
            let done = match round {
                Round {
                    failure: Some(err), ..
                } => Err(err),
                Round {
                    elsewhere: true, ..
                } => Err(Error::unavailable(
                    "another process hands these messages on",
                )),
                Round { published: 0, .. } => Ok(published),
                _ => continue,
            };
            self.rest().await;
            return done.map_err(|err| err.with_operation("outbox.drain"));
        }
    }

    /// Lets others work.
    async fn rest(&mut self) {
        if let Some(lease) = self.lease.take()
            && let Err(err) = lease.end(&self.outbox.0).await
        {
            tracing::debug!(%err, "the outbox's lease ends by itself");
        }
    }

    /// Looks through the outbox once.
    async fn round(&mut self) -> Round {
        let mut round = Round::default();
        if let Err(err) = self.look(&mut round).await {
            round.failure = round.failure.or(Some(err));
        }
        round
    }

    async fn look(&mut self, round: &mut Round) -> Result<()> {
        let mut after = self.resume.take();
        // Keys of which a message waits.
        let mut held = HashSet::new();
        loop {
            let Some(until) = self.hold().await? else {
                round.elsewhere = true;
                return Ok(());
            };
            let opts = ListOptions::default()
                .with_prefix(MESSAGES)
                .with_limit(self.opts.page)
                .with_after(after);
            let page = self.outbox.0.table.list(opts).await?;
            self.page(page.records, until, &mut held, round).await?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            if round.published == 0 && round.failures >= HOPELESS {
                self.resume = after;
                return Ok(());
            }
        }
    }

    /// Until when this relay may publish; `None` if another is at it.
    async fn hold(&mut self) -> Result<Option<Instant>> {
        let shared = &self.outbox.0;
        if !shared.table.capabilities().shared {
            return Ok(Some(shared.env.clock().now() + ALONE));
        }
        if let Some(lease) = &mut self.lease
            && lease.renew(shared).await?
        {
            return Ok(Some(lease.until()));
        }
        self.lease = Lease::take(shared, self.opts.lease).await?;
        Ok(self.lease.as_ref().map(Lease::until))
    }

    /// Publishes a page, those of one key one after the other, and removes what was.
    async fn page(
        &self,
        records: Vec<Record>,
        until: Instant,
        held: &mut HashSet<Arc<str>>,
        round: &mut Round,
    ) -> Result<()> {
        let mut chains: Vec<Vec<(Record, Entry)>> = Vec::new();
        let mut of_key: HashMap<Arc<str>, usize> = HashMap::new();
        let mut done = Vec::new();
        for record in records {
            let entry = match Entry::read(&record) {
                Ok(entry) => entry,
                Err(err) => {
                    self.put_aside(record, &err, &mut done);
                    continue;
                }
            };
            let Some(key) = entry.message.key.clone() else {
                chains.push(vec![(record, entry)]);
                continue;
            };
            if held.contains(&key) {
                continue;
            }
            let at = *of_key.entry(key).or_insert_with(|| {
                chains.push(Vec::new());
                chains.len() - 1
            });
            chains[at].push((record, entry));
        }
        let mut chains = stream::iter(chains)
            .map(|chain| async move {
                let mut fates = Vec::with_capacity(chain.len());
                for (record, entry) in chain {
                    let fate = self.publish(&entry, until).await;
                    let waits = matches!(fate, Fate::Waits(_));
                    fates.push((record, entry, fate));
                    if waits {
                        break;
                    }
                }
                fates
            })
            .buffer_unordered(self.opts.concurrency);
        while let Some(fates) = chains.next().await {
            for (record, entry, fate) in fates {
                match fate {
                    Fate::Published => {
                        round.published += 1;
                        done.push(Operation::delete(self.outbox.0.table.scope(), entry.key));
                    }
                    Fate::Dead(err) => self.put_aside(record, &err, &mut done),
                    Fate::Waits(err) => {
                        held.extend(entry.message.key.clone());
                        round.failures += 1;
                        round.failure.get_or_insert(err);
                    }
                }
            }
        }
        if !done.is_empty() {
            let removed = self.outbox.0.table.batch(done, BatchOptions::default());
            removed.await?;
        }
        Ok(())
    }

    fn put_aside(&self, record: Record, err: &Error, done: &mut Vec<Operation>) {
        let scope = self.outbox.0.table.scope();
        tracing::error!(outbox = %scope, key = record.key, %err, "a message is put aside");
        done.push(Operation::delete(scope, &record.key));
        done.push(Operation::write(scope, dead(record, err)));
    }

    async fn publish(&self, entry: &Entry, until: Instant) -> Fate {
        let cx = Context::with_clock(Arc::clone(self.outbox.0.env.clock()))
            .with_timeout(self.opts.timeout)
            .with_deadline(until);
        match self.comes_next(entry).await {
            Ok(true) => {}
            Ok(false) => {
                return Fate::Waits(Error::unavailable("the message before it is not published"));
            }
            Err(err) => return Fate::Waits(err),
        }
        let opts = PublishOptions::default();
        let published = self.broker.publish(&cx, entry.message.clone(), opts).await;
        match published.and_then(|receipt| taken(receipt.reach)) {
            Ok(()) => {
                self.know(entry);
                Fate::Published
            }
            Err(err) if err.kind() == ErrorKind::InvalidArgument => {
                self.know(entry);
                Fate::Dead(err)
            }
            Err(err) => Fate::Waits(err),
        }
    }

    /// Whether the message before it, if there is one, is published. A page is not one moment of the
    /// store, so that it may have a message and not the one before.
    async fn comes_next(&self, entry: &Entry) -> Result<bool> {
        let (Some(key), Some(before)) = (&entry.message.key, &entry.before) else {
            return Ok(true);
        };
        if self.last().get(key) == Some(before) {
            return Ok(true);
        }
        Ok(self.outbox.0.table.find(before).await?.is_none())
    }

    /// The message was the last of its key.
    fn know(&self, entry: &Entry) {
        let Some(key) = &entry.message.key else {
            return;
        };
        let mut last = self.last();
        if last.len() >= KNOWN {
            last.clear();
        }
        last.insert(Arc::clone(key), entry.key.clone());
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Arc<str>, String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a broker that handed a message to handlers itself has nothing left to do.
fn taken(reach: Reach) -> Result<()> {
    match reach {
        Reach::Delivered {
            pending, failed, ..
        } if pending + failed > 0 => Err(Error::unavailable(
            "some subscribers have not handled the message yet",
        )
        .with_context("pending", pending)
        .with_context("failed", failed)),
        _ => Ok(()),
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("outbox", &self.outbox)
            .field("broker", &self.broker.backend())
            .field("opts", &self.opts)
            .finish_non_exhaustive()
    }
}
