//! The task that follows the sources.
//!
//! It is the only one that changes a configuration, so a change is never built on an older one.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_core::{Env, Error, ErrorKind, Random, Result};

use crate::builder::is_absence;
use crate::config::Shared;
use crate::expand::{Variables, expand};
use crate::snapshot::{Origin, Snapshot, scrub};
use crate::source::LayerStream;
use crate::view::{Rejection, describe};
use crate::{
    Layer, Limits, Rank, Refusal, Runtime, Source, SourceState, SourceStatus, Status, Unseal,
    Value, is_sealed,
};

/// Growing pauses with jitter, so that a fleet does not ask in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The next pause: between half of it and all of it.
    pub(crate) fn next(&mut self, random: &dyn Random) -> Duration {
        let full = Self::FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        let chance = (random.next_u64() >> 32) as f64 / f64::from(u32::MAX);
        half + half.mul_f64(chance)
    }
}

pub(crate) fn too_slow(limit: Duration) -> Error {
    Error::deadline_exceeded("the source did not answer in time")
        .with_context("limit", format_args!("{limit:?}"))
}

/// What a future gives, with a panic as an error.
pub(crate) async fn unpanicked<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::internal("the source panicked")))
}

/// What happens to a layer before it is merged.
#[derive(Clone)]
pub(crate) struct Preparation {
    pub(crate) limits: Limits,
    pub(crate) unseal: Option<Arc<dyn Unseal>>,
    pub(crate) variables: Option<Arc<Variables>>,
}

impl Preparation {
    /// Opens sealed values and puts variables in.
    pub(crate) fn prepare(&self, mut layer: Layer, rank: Rank) -> Result<Layer> {
        layer.check(&self.limits)?;
        // What comes from the environment or a shell has had its variables put in by the shell.
        let variables = self.variables.as_ref().filter(|_| rank < Rank::Env);
        let places = layer.clone();
        layer.map_texts(&mut |at, text| {
            let named = |err: Error| {
                let err = err.with_context("key", at);
                match places.place(at) {
                    Some(place) => err.with_context("place", place),
                    None => err,
                }
            };
            if is_sealed(text) {
                let unseal = self.unseal.as_ref().ok_or_else(|| {
                    named(Error::failed_precondition(
                        "this value is sealed, and the program has no key for it",
                    ))
                })?;
                return unseal
                    .unseal(text.trim())
                    .map(|secret| Some(Value::Secret(secret)))
                    .map_err(named);
            }
            match variables {
                Some(variables) => expand(text, &**variables)
                    .map(|text| text.map(Value::Word))
                    .map_err(named),
                None => Ok(None),
            }
        })?;
        Ok(layer)
    }
}

/// A source and what is known of it.
pub(crate) struct Slot {
    source: Arc<dyn Source>,
    origin: Arc<Origin>,
    /// What is in force.
    good: Option<Arc<Layer>>,
    /// What it says, and what the views refused.
    candidate: Option<Arc<Layer>>,
    state: SourceState,
    refusal: Option<Refusal>,
    taken: Option<SystemTime>,
}

impl Slot {
    pub(crate) fn new(source: Arc<dyn Source>, rank: Rank, required: bool) -> Self {
        let name = source.describe();
        Self {
            source,
            origin: Arc::new(Origin {
                name,
                rank,
                required,
            }),
            good: None,
            candidate: None,
            state: SourceState::Absent,
            refusal: None,
            taken: None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.origin.name
    }

    pub(crate) fn begin(&mut self, layer: Layer, wall: SystemTime) {
        self.good = Some(Arc::new(layer));
        self.state = SourceState::Ready;
        self.taken = Some(wall);
    }

    /// Notes that the source is not there, or that what it says is not fit.
    pub(crate) fn fail(&mut self, err: &Error, secrets: &[String], wall: SystemTime) {
        self.candidate = None;
        let fact = |name| {
            err.context()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let state = match (is_absence(err.kind()), &self.good) {
            (true, None) if err.kind() == ErrorKind::NotFound => SourceState::Absent,
            (true, _) => SourceState::Away,
            (false, _) => SourceState::Refused,
        };
        // A refusal has its source, key and place besides.
        let is_said = |name: &str, value: &str| match name {
            "key" | "place" => true,
            "file" => self.name().ends_with(value),
            _ => false,
        };
        let reason = scrub(describe(err, is_said), secrets);
        self.refuse(
            state,
            err.kind(),
            (fact("key"), fact("place")),
            reason,
            wall,
        );
    }

    fn refuse(
        &mut self,
        state: SourceState,
        kind: ErrorKind,
        (path, place): (Option<String>, Option<String>),
        reason: String,
        wall: SystemTime,
    ) {
        self.state = state;
        if let Some(known) = &mut self.refusal
            && known.reason == reason
            && known.path == path
            && known.place == place
        {
            known.count += 1;
            return;
        }
        let refusal = Refusal {
            source: self.origin.name.clone(),
            path,
            place,
            kind,
            reason,
            since: wall,
            count: 1,
        };
        // Said once, not with every attempt. An optional source that never was there is no news.
        if state == SourceState::Absent && !self.origin.required {
            tracing::debug!(
                source = self.origin.name,
                reason = refusal.reason,
                "an optional source is absent"
            );
        } else {
            let instead = match self.good {
                Some(_) => "the last good one stays in force",
                None => "what other sources say is in force",
            };
            tracing::warn!(
                source = self.origin.name,
                key = refusal.path,
                place = refusal.place,
                reason = refusal.reason,
                "the configuration was not taken over; {instead}"
            );
        }
        self.refusal = Some(refusal);
    }

    fn accept(&mut self, layer: Arc<Layer>, wall: SystemTime) {
        if self.refusal.take().is_some() {
            tracing::info!(source = self.origin.name, "the source is in force again");
        }
        self.good = Some(layer);
        self.candidate = None;
        self.state = SourceState::Ready;
        self.taken = Some(wall);
    }

    fn status(&self) -> SourceStatus {
        let note = self.good.as_ref().and_then(|layer| layer.note());
        SourceStatus {
            name: self.origin.name.clone(),
            rank: self.origin.rank,
            required: self.origin.required,
            state: self.state,
            note: note.map(str::to_owned),
            // An optional source that is simply not there is nothing refused.
            refusal: self
                .refusal
                .clone()
                .filter(|_| self.state != SourceState::Absent || self.origin.required),
            taken: self.taken,
        }
    }
}

fn layers(slots: &[Slot], with: &[usize]) -> Vec<(Arc<Origin>, Option<Arc<Layer>>)> {
    slots
        .iter()
        .enumerate()
        .map(|(index, slot)| {
            let layer = match with.contains(&index) {
                true => slot.candidate.clone(),
                false => slot.good.clone(),
            };
            (Arc::clone(&slot.origin), layer)
        })
        .collect()
}

fn status(slots: &[Slot], version: u64) -> Status {
    Status {
        version,
        sources: slots.iter().rev().map(Slot::status).collect(),
        closed: false,
    }
}

/// What holds after the first reading.
pub(crate) fn first_state(slots: &[Slot]) -> (Snapshot, Status) {
    (Snapshot::new(1, layers(slots, &[])), status(slots, 1))
}

/// One source's watch.
struct Feed {
    index: usize,
    source: Arc<dyn Source>,
    stream: Option<LayerStream>,
    backoff: Backoff,
}

/// What a source has said.
enum Event {
    Layer(Result<Layer>),
    /// It cannot be watched just now.
    Lost(Error),
    /// The watch is over, as watches are now and then.
    Ended,
}

pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) preparation: Preparation,
    pub(crate) env: Env,
    pub(crate) runtime: Runtime,
    pub(crate) load_timeout: Duration,
}

impl Keeper {
    /// Runs until the last handle is dropped.
    pub(crate) fn run(mut self) -> impl Future<Output = ()> + Send {
        // However this ends, even before it is polled, those who wait for its end hear of it.
        let end = Ending(Arc::clone(&self.shared));
        async move {
            let stopped = std::pin::pin!(end.0.stop.stopped());
            let following = std::pin::pin!(self.follow());
            select(stopped, following).await;
        }
    }

    async fn follow(&mut self) {
        let mut steps: FuturesUnordered<BoxFuture<'static, (usize, Option<Feed>, Event)>> =
            FuturesUnordered::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let feed = Feed {
                index,
                source: Arc::clone(&slot.source),
                stream: None,
                backoff: Backoff::default(),
            };
            steps.push(self.step(feed, false));
        }
        while let Some((index, feed, event)) = steps.next().await {
            match event {
                Event::Layer(outcome) => self.heard(index, outcome),
                Event::Lost(err) => self.lost(index, &err),
                Event::Ended => tracing::debug!(
                    source = self.slots[index].name(),
                    "the watch ended; it is opened again"
                ),
            }
            let pause = feed.as_ref().is_none_or(|feed| feed.stream.is_none());
            let feed = feed.unwrap_or_else(|| Feed {
                index,
                source: Arc::clone(&self.slots[index].source),
                stream: None,
                backoff: Backoff {
                    // What panicked is left alone for a while.
                    failures: 4,
                },
            });
            steps.push(self.step(feed, pause));
            yield_now().await;
        }
        // Without sources nothing changes, but the views live as long as the handles.
        std::future::pending::<()>().await;
    }

    /// The next thing that a source says.
    fn step(&self, feed: Feed, pause: bool) -> BoxFuture<'static, (usize, Option<Feed>, Event)> {
        let runtime = self.runtime.clone();
        let random = Arc::clone(self.env.random());
        let limit = self.load_timeout;
        let index = feed.index;
        let step = async move {
            let mut feed = feed;
            if pause {
                runtime.sleep(feed.backoff.next(&*random)).await;
            }
            let mut stream = match feed.stream.take() {
                Some(stream) => stream,
                None => match runtime.within(limit, feed.source.watch()).await {
                    Some(Ok(stream)) => stream,
                    Some(Err(err)) => return (index, Some(feed), Event::Lost(err)),
                    None => return (index, Some(feed), Event::Lost(too_slow(limit))),
                },
            };
            match stream.next().await {
                Some(outcome) => {
                    feed.backoff = Backoff::default();
                    feed.stream = Some(stream);
                    (index, Some(feed), Event::Layer(outcome))
                }
                None => (index, Some(feed), Event::Ended),
            }
        };
        async move {
            match AssertUnwindSafe(step).catch_unwind().await {
                Ok(done) => done,
                Err(_) => {
                    let err = Error::internal("the source panicked");
                    (index, None, Event::Lost(err))
                }
            }
        }
        .boxed()
    }

    /// A source cannot be watched: what it said last stays in force, and it is asked again.
    fn lost(&mut self, index: usize, err: &Error) {
        let wall = self.env.clock().wall();
        let secrets = self.secrets();
        let slot = &mut self.slots[index];
        slot.fail(err, &secrets, wall);
        if !is_absence(err.kind()) {
            slot.state = SourceState::Away;
        }
        self.tell();
    }

    fn heard(&mut self, index: usize, outcome: Result<Layer>) {
        let rank = self.slots[index].origin.rank;
        let wall = self.env.clock().wall();
        let preparation = self.preparation.clone();
        let prepared = outcome.and_then(|layer| {
            // An unsealer is a stranger's code.
            std::panic::catch_unwind(AssertUnwindSafe(|| preparation.prepare(layer, rank)))
                .unwrap_or_else(|_| Err(Error::internal("unsealing a value panicked")))
        });
        let layer = match prepared {
            Ok(layer) => Arc::new(layer),
            Err(err) => {
                let secrets = self.secrets();
                self.slots[index].fail(&err, &secrets, wall);
                self.tell();
                return;
            }
        };
        if self.slots[index].good.as_deref() == Some(&*layer) {
            // The same values, perhaps at other places.
            self.slots[index].accept(layer, wall);
            let version = self.shared.snapshot.get().version;
            let snapshot = Snapshot::new(version, layers(&self.slots, &[]));
            self.shared.writer.set(snapshot);
        } else {
            self.slots[index].candidate = Some(layer);
            self.try_candidates(index);
        }
        self.tell();
    }

    /// Takes over what the views accept: the new state first, then what was refused before it.
    fn try_candidates(&mut self, newest: usize) {
        let others = (0..self.slots.len()).filter(|index| *index != newest);
        let order: Vec<usize> = std::iter::once(newest).chain(others).collect();
        loop {
            let mut progress = false;
            for &index in &order {
                if self.slots[index].candidate.is_some() {
                    progress |= self.attempt(&[index]).is_ok();
                }
            }
            if !progress {
                break;
            }
        }
        let left: Vec<usize> = order
            .into_iter()
            .filter(|index| self.slots[*index].candidate.is_some())
            .collect();
        // Two sources may be changed in step, each of which is wrong without the other.
        if left.len() > 1 {
            let _ = self.attempt(&left);
        }
    }

    /// Takes these candidates over if every view can read the result.
    fn attempt(&mut self, with: &[usize]) -> Result<(), ()> {
        let old = self.shared.snapshot.get_arc();
        let wall = self.env.clock().wall();
        let new = Snapshot::new(old.version + 1, layers(&self.slots, with));
        loop {
            let views = self.shared.views().clone();
            let mut secrets = BTreeSet::new();
            let mut commits = Vec::new();
            let mut rejection = None;
            for view in &views {
                match view.prepare(&old.tree, &new.tree, &mut secrets) {
                    Ok(commit) => commits.extend(commit),
                    Err(found) => {
                        rejection = Some(found);
                        break;
                    }
                }
            }
            self.shared.secrets().append(&mut secrets);
            if let Some(rejection) = rejection {
                if let [index] = with {
                    self.reject(*index, &new, rejection, wall);
                }
                return Err(());
            }
            let now = self.shared.views();
            if now.len() != views.len() {
                // A view was made meanwhile, of the old state: it has a say as well.
                drop(now);
                continue;
            }
            self.shared.writer.set(new);
            for commit in commits {
                commit();
            }
            drop(now);
            break;
        }
        for &index in with {
            if let Some(layer) = self.slots[index].candidate.take() {
                self.slots[index].accept(layer, wall);
            }
        }
        Ok(())
    }

    fn reject(&mut self, index: usize, new: &Snapshot, rejection: Rejection, wall: SystemTime) {
        let secrets = new.secret_texts(&self.shared.secrets());
        let mut reason = scrub(rejection.reason, &secrets);
        let mut place = None;
        if let Some((origin, at)) = new.source_of(&rejection.path) {
            place = at.map(str::to_owned);
            if origin.name != self.slots[index].name() {
                // What it took away has uncovered what is wrong elsewhere.
                reason = format!("{reason} (the value is in {})", origin.name);
            }
        }
        self.slots[index].refuse(
            SourceState::Refused,
            ErrorKind::InvalidArgument,
            (Some(rejection.path), place),
            reason,
            wall,
        );
    }

    fn secrets(&self) -> Vec<String> {
        let paths = self.shared.secrets().clone();
        self.shared.snapshot.get().secret_texts(&paths)
    }

    fn tell(&self) {
        let version = self.shared.snapshot.get().version;
        self.shared.status.set(status(&self.slots, version));
    }
}

/// Says that the task is gone.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut status = Status::clone(&self.0.status.live().get());
        status.closed = true;
        self.0.status.set(status);
    }
}

/// A source that always has something to say must not keep the others from being heard.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
