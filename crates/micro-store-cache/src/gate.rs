//! Who reads and who changes a place at the moment: so that readers share one question, and no answer
//! that a change has overtaken is kept.
//!
//! The rule: an answer is kept, and shared with those who come later, only if no change of its place was
//! begun, was under way or was reported between the question and the answer. While a change is under
//! way, everybody asks for himself.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use micro_store_core::{Change, Error, ErrorKind, Record, Result, Scope};

use crate::kept::{Kept, Known, Place};

/// So many locks share the places.
const SHARDS: usize = 16;

/// A question to the store below, and its answer for everybody who waits for it. Whoever of them is
/// polled drives it; it ends when nobody is left.
pub(crate) type Question = Shared<BoxFuture<'static, Answer>>;

pub(crate) type Answer = Result<Record, Arc<Error>>;

/// What a reader is to do.
pub(crate) enum Way {
    /// It is known by now.
    Known(Known),
    /// Wait for this answer.
    Wait(Question),
    /// Ask the store below alone.
    Alone,
}

/// What is kept, and who may change it.
#[derive(Debug)]
pub(crate) struct Gate {
    kept: Kept,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    /// Those of the calls that are under way.
    places: HashMap<Place, Traffic>,
    asked: u64,
}

/// The calls to a place.
#[derive(Default)]
struct Traffic {
    changes: usize,
    asking: Option<Asking>,
}

struct Asking {
    number: u64,
    since: Instant,
    question: WeakShared<BoxFuture<'static, Answer>>,
}

impl Gate {
    pub(crate) fn new(kept: Kept) -> Self {
        Self {
            kept,
            shards: Default::default(),
            hasher: RandomState::new(),
        }
    }

    /// What may be served without a question.
    pub(crate) fn known(&self, scope: &Scope, key: &str) -> Option<Known> {
        self.kept.get(scope, key)
    }

    /// The way to an answer; `ask` puts the question if nobody has.
    pub(crate) fn way<F>(self: &Arc<Self>, scope: &Scope, key: &str, ask: F) -> Way
    where
        F: FnOnce() -> BoxFuture<'static, Result<Record>>,
    {
        let place = Place::new(scope, key);
        let mut shard = self.lock(&place);
        // An answer may have come since.
        if let Some(known) = self.kept.get(scope, key) {
            return Way::Known(known);
        }
        let Shard { places, asked } = &mut *shard;
        let traffic = places.entry(place.clone()).or_default();
        if traffic.changes > 0 {
            return Way::Alone;
        }
        let now = self.kept.now();
        if let Some(asking) = &traffic.asking
            && self
                .kept
                .until(asking.since)
                .is_none_or(|until| until > now)
            && let Some(question) = asking.question.upgrade()
        {
            return Way::Wait(question);
        }
        *asked += 1;
        let asker = Asker {
            gate: Arc::clone(self),
            place,
            number: *asked,
            since: now,
        };
        let question = ask();
        let question = async move {
            let answer = question.await;
            asker.keep(&answer);
            answer.map_err(Arc::new)
        };
        let question = question.boxed().shared();
        traffic.asking = question.downgrade().map(|weak| Asking {
            number: *asked,
            since: now,
            question: weak,
        });
        Way::Wait(question)
    }

    /// Begins a change of these places; it is under way until the answer is dropped.
    pub(crate) fn change(self: &Arc<Self>, places: Vec<Place>) -> Changing {
        for place in &places {
            let mut shard = self.lock(place);
            let traffic = shard.places.entry(place.clone()).or_default();
            traffic.changes += 1;
            traffic.asking = None;
            self.kept.forget(&place.scope, &place.key);
        }
        Changing {
            gate: Arc::clone(self),
            places,
        }
    }

    /// Takes note of a change that was reported.
    pub(crate) fn changed(&self, scope: &Scope, change: &Change) {
        let place = Place::new(scope, &change.record.key);
        let mut shard = self.lock(&place);
        if let Some(traffic) = shard.places.get_mut(&place) {
            traffic.asking = None;
        }
        let version = change.record.version;
        self.kept.forget_older(scope, &place.key, version);
    }

    /// Takes note that anything may have changed: in this table, or everywhere.
    pub(crate) fn forget(&self, scope: Option<&Scope>) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            for (place, traffic) in &mut shard.places {
                if scope.is_none_or(|scope| *scope == place.scope) {
                    traffic.asking = None;
                }
            }
        }
        // Who asks from now on, asks late enough.
        match scope {
            Some(scope) => self.kept.forget_table(scope),
            None => self.kept.clear(),
        }
    }

    fn lock(&self, place: &Place) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(place) as usize % SHARDS])
    }
}

/// A lock that a panic left behind guards nothing half done.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Changes the traffic of a place, and forgets the place if there is none any more.
    fn update(&mut self, place: &Place, change: impl FnOnce(&mut Traffic)) {
        let Some(traffic) = self.places.get_mut(place) else {
            return;
        };
        change(traffic);
        if traffic.changes == 0 && traffic.asking.is_none() {
            self.places.remove(place);
        }
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("places", &self.places.len())
            .finish_non_exhaustive()
    }
}

/// Who put a question.
struct Asker {
    gate: Arc<Gate>,
    place: Place,
    number: u64,
    since: Instant,
}

impl Asker {
    /// Keeps an answer that nothing has overtaken.
    fn keep(&self, answer: &Result<Record>) {
        let known = match answer {
            Ok(record) => Some(record),
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            Err(_) => return,
        };
        let kept = &self.gate.kept;
        let Some(entry) = kept.entry(&self.place.key, known, self.since) else {
            return;
        };
        let shard = self.gate.lock(&self.place);
        let traffic = shard.places.get(&self.place);
        if traffic.is_some_and(|traffic| self.is(traffic)) {
            kept.put(self.place.clone(), entry);
        }
    }

    /// Whether the place still waits for this question.
    fn is(&self, traffic: &Traffic) -> bool {
        let asking = traffic.asking.as_ref();
        asking.is_some_and(|asking| asking.number == self.number)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut shard = self.gate.lock(&self.place);
        shard.update(&self.place, |traffic| {
            if self.is(traffic) {
                traffic.asking = None;
            }
        });
    }
}

/// A change that is under way. If its caller gives it up, it counts as one made elsewhere from then on.
pub(crate) struct Changing {
    gate: Arc<Gate>,
    places: Vec<Place>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        for place in &self.places {
            let mut shard = self.gate.lock(place);
            shard.update(place, |traffic| traffic.changes -= 1);
        }
    }
}
