//! Watches of the tables that are read, so that changes made elsewhere are seen soon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_store_core::{ErrorKind, Scope, Store, WatchOptions};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::gate::Gate;

/// The pauses before a watch that broke is begun again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The tables that are watched, each by a task that ends with this.
#[derive(Debug)]
pub(crate) struct Followed {
    most: usize,
    tables: Mutex<HashMap<Scope, AbortHandle>>,
}

impl Followed {
    /// At most so many tables.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            tables: Mutex::default(),
        }
    }

    /// Has a table watched from now on, if there is room for one more, and a runtime.
    pub(crate) fn begin(&self, scope: &Scope, below: &Arc<dyn Store>, gate: &Arc<Gate>) {
        if self.most == 0 {
            return;
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.len() == self.most || tables.contains_key(scope) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let task = follow(scope.clone(), Arc::clone(below), Arc::clone(gate));
        tables.insert(scope.clone(), runtime.spawn(task).abort_handle());
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let tables = self
            .tables
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for task in tables.values() {
            task.abort();
        }
    }
}

async fn follow(scope: Scope, below: Arc<dyn Store>, gate: Arc<Gate>) {
    let mut pause = PAUSES.0;
    loop {
        match below.watch(&scope, WatchOptions::default()).await {
            Ok(mut changes) => {
                // What was read before may have changed before the watch began.
                gate.forget(Some(&scope));
                pause = PAUSES.0;
                let why = loop {
                    match changes.next().await {
                        Some(Ok(change)) => gate.changed(&scope, &change),
                        Some(Err(err)) => break Some(err),
                        None => break None,
                    }
                };
                gate.forget(Some(&scope));
                tracing::debug!(%scope, ?why, "a watch has ended; it is begun again");
            }
            Err(err) if err.kind() == ErrorKind::Unimplemented => return,
            Err(err) => tracing::debug!(%scope, %err, "a table cannot be watched; tried again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
