//! A place in the queue of a name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::table::Table;
use crate::words::Words;

/// One attempt to get a lock, while it may stand in the queue. Whoever asks Redis on its behalf has a clone of
/// its `Arc`; when the last is dropped, Redis is told to forget it.
#[derive(Debug)]
pub(crate) struct Place {
    table: Arc<Table>,
    words: Arc<Words>,
    pub(crate) name: String,
    pub(crate) owner: String,
    /// Told when it may be our turn.
    pub(crate) turn: Arc<Notify>,
    /// Whether there is something to forget.
    asked: AtomicBool,
}

impl Place {
    pub(crate) fn new(table: &Arc<Table>, words: &Arc<Words>, name: &str, owner: String) -> Self {
        Self {
            table: Arc::clone(table),
            words: Arc::clone(words),
            name: name.to_owned(),
            turn: words.expect(&owner),
            owner,
            asked: AtomicBool::new(false),
        }
    }

    /// From now on there may be something.
    pub(crate) fn asks(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// What there is from now on is a lease's, or nothing.
    pub(crate) fn settled(&self) {
        self.asked.store(false, Ordering::Release);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.words.forget(&self.owner);
        if !*self.asked.get_mut() {
            return;
        }
        // Without a runtime, it ends by itself.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let table = Arc::clone(&self.table);
        let (name, owner) = (self.name.clone(), self.owner.clone());
        runtime.spawn(async move {
            if let Err(err) = table.leave(&name, &owner, None).await {
                tracing::debug!(%err, "Redis could not be told that nobody waits any more");
            }
        });
    }
}
