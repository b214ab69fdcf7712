//! Which of this coordinator's attempts may look, by a word of Redis.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use micro_core::{Random, Result};
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, Effect};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::table::text;

/// So long Redis lets us wait at once.
const WAIT: Duration = Duration::from_secs(5);
/// After so long it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Whoever waits, by the name of the attempt.
#[derive(Debug, Default)]
pub(crate) struct Words {
    waiting: Mutex<HashMap<String, Arc<Notify>>>,
    /// The task that listens, once somebody has waited.
    listener: OnceLock<AbortHandle>,
}

impl Words {
    /// Begins to listen, if nobody has yet.
    pub(crate) fn listen(
        self: &Arc<Self>,
        key: &str,
        connection: &Connection,
        random: &Arc<dyn Random>,
    ) -> Result<()> {
        if self.listener.get().is_some() {
            return Ok(());
        }
        // One that waits in Redis holds up all others of its connection.
        let connection = Connection::open(connection.config().clone(), random)?;
        self.listener.get_or_init(|| {
            let words = Arc::downgrade(self);
            tokio::spawn(listen(words, key.to_owned(), connection)).abort_handle()
        });
        Ok(())
    }

    /// An attempt waits from now on.
    pub(crate) fn expect(&self, owner: &str) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry(owner.to_owned()).or_default())
    }

    /// An attempt is over.
    pub(crate) fn forget(&self, owner: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(owner);
    }

    fn tell(&self, owner: &str) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(owner) {
            notify.notify_one();
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

async fn listen(words: Weak<Words>, key: String, connection: Connection) {
    let mut blpop = cmd("BLPOP");
    blpop.arg(key).arg(WAIT.as_secs());
    loop {
        let heard = async {
            let link = connection.link(connection.deadline()).await?;
            let deadline = Instant::now() + WAIT + connection.config().timeout;
            link.call(&blpop, Effect::Nothing, deadline).await
        };
        match heard.await {
            Ok(Value::Array(parts)) => {
                let Some(words) = words.upgrade() else {
                    return;
                };
                if let Some(owner) = parts.into_iter().nth(1).and_then(text) {
                    words.tell(&owner);
                }
            }
            // Nothing was said.
            Ok(_) => {}
            // Whoever waits looks by itself now and then.
            Err(err) => {
                tracing::debug!(%err, "words of Redis cannot be heard");
                sleep(AGAIN).await;
            }
        }
    }
}
