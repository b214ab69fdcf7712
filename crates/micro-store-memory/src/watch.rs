//! The changes of a table, for those who watch it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use micro_store_core::{Change, Error, Result};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

#[derive(Debug)]
struct Watcher {
    prefix: String,
    changes: mpsc::Sender<Change>,
}

/// Those who watch a table.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    all: Mutex<Vec<Watcher>>,
    /// How many there are, so that a table without any takes no lock.
    count: AtomicUsize,
}

impl Watchers {
    pub(crate) fn add(&self, prefix: String, buffer: usize) -> Changes {
        let (changes, reader) = mpsc::channel(buffer);
        let mut all = self.lock();
        all.retain(|watcher| !watcher.changes.is_closed());
        all.push(Watcher { prefix, changes });
        self.count.store(all.len(), Ordering::SeqCst);
        Changes {
            reader,
            over: false,
        }
    }

    /// Tells a change. Who has no room left is let go: the channel then ends behind what it holds,
    /// which the reader reports as a gap. Called with the key's shard locked, so that the changes of
    /// a key are told in their order.
    pub(crate) fn tell(&self, change: &Change) {
        let mut all = self.lock();
        all.retain(|watcher| {
            if !change.record.key.starts_with(&watcher.prefix) {
                return true;
            }
            match watcher.changes.try_send(change.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
            }
        });
        self.count.store(all.len(), Ordering::SeqCst);
    }

    /// Whether nobody watches. Who began to watch before the change was begun is seen: adding ends
    /// with the counter, and the change follows it.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watcher reads.
#[derive(Debug)]
pub(crate) struct Changes {
    reader: mpsc::Receiver<Change>,
    over: bool,
}

impl Stream for Changes {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.reader.poll_recv(cx).map(|change| match change {
            Some(change) => Some(Ok(change)),
            None => {
                self.over = true;
                Some(Err(Error::aborted(
                    "the watcher was too slow and has missed changes: list again, then watch again",
                )
                .with_operation("store.watch")))
            }
        })
    }
}
