//! Watches: Consul's blocking queries, compared with what was known.
//!
//! Each answer is the whole state, so a change is never missed: what came and went between two
//! answers is merged. The rules are those of Consul's documentation of blocking queries: an index
//! that goes back is begun again, and a hot one does not make us ask without pause.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use micro_registry_core::{Error, Event, Result};
use tokio::time::{Instant, sleep_until};

use crate::registry::Shared;
use crate::view::{Change, View};

/// The least time between two questions for one service.
const PAUSE: Duration = Duration::from_millis(50);
/// The least time between two looks at all services, which is a question each.
const LONG_PAUSE: Duration = Duration::from_millis(250);
/// So many services are asked for at once.
const ABREAST: usize = 8;

/// A watch of one service.
pub(crate) struct One {
    shared: Arc<Shared>,
    name: String,
    index: Option<u64>,
    known: View,
    pending: VecDeque<Change>,
    asked: Instant,
}

impl One {
    pub(crate) async fn begin(shared: Arc<Shared>, name: String) -> Result<Self> {
        let asked = Instant::now();
        let seen = shared.look(&name, None).await?;
        Ok(Self {
            shared,
            name,
            index: Some(seen.index),
            known: seen.value,
            pending: VecDeque::new(),
            asked,
        })
    }

    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change.event(&self.name));
            }
            sleep_until(self.asked + PAUSE).await;
            self.asked = Instant::now();
            let after = self.index.map(|index| (index, self.shared.wait()));
            let seen = self.shared.look(&self.name, after).await?;
            self.index = seen.follow(self.index);
            self.pending.extend(self.known.changes(&seen.value));
            self.known = seen.value;
        }
    }
}

/// A watch of all services.
pub(crate) struct All {
    shared: Arc<Shared>,
    /// Of the list of services and of the checks.
    indexes: (Option<u64>, Option<u64>),
    known: BTreeMap<String, View>,
    /// By the name of the service.
    pending: VecDeque<(Arc<str>, Change)>,
    /// When to look again at the earliest.
    pause: Instant,
}

impl All {
    pub(crate) async fn begin(shared: Arc<Shared>) -> Result<Self> {
        let mut watch = Self {
            shared,
            indexes: (None, None),
            known: BTreeMap::new(),
            pending: VecDeque::new(),
            pause: Instant::now(),
        };
        watch.look().await?;
        // What was there before is no change.
        watch.pending.clear();
        Ok(watch)
    }

    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some((name, change)) = self.pending.pop_front() {
                return Ok(change.event(&name));
            }
            sleep_until(self.pause).await;
            if let (Some(services), Some(checks)) = self.indexes {
                let (api, wait) = (&self.shared.api, self.shared.wait());
                tokio::select! {
                    services = api.services(Some((services, wait))) => { services?; }
                    checks = api.checks(Some((checks, wait))) => { checks?; }
                }
            }
            self.look().await?;
        }
    }

    async fn look(&mut self) -> Result<()> {
        let start = Instant::now();
        // The indexes first: what changes while we look is seen the next time.
        let checks = self.shared.api.checks(None).await?;
        let services = self.shared.api.services(None).await?;
        let names: Vec<String> = services
            .value
            .keys()
            .filter_map(|name| self.shared.scope.inner(name))
            .map(str::to_owned)
            .collect();
        let shared = &self.shared;
        let views: BTreeMap<String, View> = stream::iter(names)
            .map(|name| async move {
                let seen = shared.look(&name, None).await?;
                Ok::<_, Error>((name, seen.value))
            })
            .buffer_unordered(ABREAST)
            .try_collect()
            .await?;
        let none = View::default();
        let pending = &mut self.pending;
        let mut tell = |name: &str, changes: Vec<Change>| {
            let name: Arc<str> = name.into();
            let changes = changes.into_iter();
            pending.extend(changes.map(|change| (Arc::clone(&name), change)));
        };
        for (name, was) in &self.known {
            tell(name, was.changes(views.get(name).unwrap_or(&none)));
        }
        for (name, is) in &views {
            if !self.known.contains_key(name) {
                tell(name, none.changes(is));
            }
        }
        self.known = views;
        self.indexes = (
            services.follow(self.indexes.0),
            checks.follow(self.indexes.1),
        );
        // A large Consul that changes all the time is looked at a tenth of the time, at most.
        self.pause = start + LONG_PAUSE.max(start.elapsed() * 10);
        Ok(())
    }
}
