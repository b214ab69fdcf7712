//! Watching: what was read, and then every change of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_etcd::{Keys, Position, Watch, WatchEvent};
use micro_registry_core::{Event, EventStream, Result};
use tokio::time::sleep;

use crate::registry::Shared;
use crate::view::View;

/// Full jitter before everything is read anew, doubled with each failure: a fleet that lost the same
/// history does not ask for all of it at once.
const REREAD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

struct Watcher {
    shared: Arc<Shared>,
    keys: Keys,
    view: View,
    watch: Watch,
    ready: VecDeque<Event>,
}

/// Reads everything, and reports changes from there. What happens before the stream is read for the
/// first time is not missed: etcd keeps it.
pub(crate) async fn open(shared: Arc<Shared>, keys: Keys) -> Result<EventStream> {
    let (view, position) = shared.load(&keys).await?;
    let watch = shared.client().watch(keys.clone(), position);
    let watcher = Watcher {
        shared,
        keys,
        view,
        watch,
        ready: VecDeque::new(),
    };
    Ok(Box::pin(stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(event) => Some((Ok(event), Some(watcher))),
            Err(err) => Some((Err(err.with_operation("registry.watch")), None)),
        }
    })))
}

impl Watcher {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match self.watch.next().await? {
                WatchEvent::Changes(changes) => self.ready.extend(self.view.apply(changes)),
                WatchEvent::Compacted { revision } => {
                    tracing::debug!(
                        revision,
                        "changes were compacted away; everything is read anew"
                    );
                    self.reread().await?;
                }
                WatchEvent::Rewound(Position { revision, .. }) => {
                    tracing::warn!(
                        revision,
                        "etcd's history is another one; everything is read anew"
                    );
                    self.reread().await?;
                }
                _ => {}
            }
        }
    }

    /// Reads everything anew, finds out what changed, and watches from there.
    async fn reread(&mut self) -> Result<()> {
        let mut most = REREAD.0;
        loop {
            sleep(part(self.shared.random().next_u64(), most)).await;
            most = (most * 2).min(REREAD.1);
            match self.shared.load(&self.keys).await {
                Ok((view, position)) => {
                    self.ready.extend(self.view.replace(view));
                    self.watch = self.shared.client().watch(self.keys.clone(), position);
                    return Ok(());
                }
                Err(err) if err.is_retryable() => {}
                Err(err) => return Err(err),
            }
        }
    }
}

/// A part of the whole, by chance.
fn part(chance: u64, whole: Duration) -> Duration {
    let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(chance % micros)
}
