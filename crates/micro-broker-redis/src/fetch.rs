//! Fetching messages for a member, as many as it has room for.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use micro_broker_core::{ErrorKind, Result};
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, Effect};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use crate::care::Care;
use crate::member::Arrived;
use crate::queue::{Found, Queue, removed};

/// So many messages are asked for at once.
const BATCH: usize = 64;

/// So often it is looked whether another's lease has ended, or somebody has written to the stream who
/// does not know of us.
const LOOK: Duration = Duration::from_millis(500);

/// After so long it is tried again, if Redis cannot be asked.
const AGAIN: Duration = Duration::from_secs(1);

/// So long Redis lets us wait at once.
const WAIT: Duration = Duration::from_secs(5);

/// Fetches until nobody takes what it has. What it has then goes back.
pub(crate) async fn fetch(
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    out: mpsc::Sender<Result<Arrived>>,
    care: Care,
    connection: Connection,
) {
    let mut waiter = Waiter::new(Arc::clone(&queue), connection);
    let mut number = 0;
    let mut unanswered = None;
    loop {
        let permits = tokio::select! {
            biased;
            () = out.closed() => return,
            permits = free(&room) => permits,
            word = waiter.woken_still() => {
                // We have no room; another may. It looks by itself if it cannot be told.
                if word {
                    let _ = queue.nudge().await;
                }
                continue;
            }
        };
        let asked = Instant::now();
        number += 1;
        // It runs to its end: what was taken would be lent to nobody otherwise.
        let found = queue.take(permits.len(), number, unanswered).await;
        match &found {
            Ok(_) => unanswered = None,
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                unanswered.get_or_insert(number);
            }
            Err(_) => {}
        }
        match found {
            Ok(Found::Messages(all)) => {
                for (lent, permit) in all.into_iter().zip(permits) {
                    let arrived = Arrived::new(&queue, lent, asked, &care, permit);
                    // There is a place for each permit. What nobody takes goes back.
                    let _ = out.send(Ok(arrived)).await;
                }
            }
            Ok(Found::Nothing(due)) => {
                drop(permits);
                let look = sleep(due.map_or(LOOK, |due| due.min(LOOK)));
                tokio::select! {
                    () = out.closed() => return,
                    _ = waiter.woken() => {}
                    () = look => {}
                }
            }
            Ok(Found::Removed) => {
                let _ = out.send(Err(removed(queue.lasting))).await;
                return;
            }
            Ok(Found::Lost) => {
                tracing::warn!(topic = %queue.topic(), "Redis has lost a group, which begins anew");
                // All that is there was published since.
                if let Err(error) = queue.create("0-0").await {
                    tracing::warn!(%error, "a group cannot be made anew");
                    sit_out(&out).await;
                }
            }
            Err(error) => {
                // The connection says by itself what is the matter with it.
                if error.is_retryable() {
                    tracing::debug!(%error, "messages cannot be fetched");
                } else {
                    tracing::warn!(topic = %queue.topic(), %error, "messages cannot be fetched");
                }
                sit_out(&out).await;
            }
        }
    }
}

/// The room for messages that there is, at least for one.
async fn free(room: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let Ok(first) = Arc::clone(room).acquire_owned().await else {
        // It is never closed.
        return pending().await;
    };
    let mut permits = vec![first];
    while permits.len() < BATCH
        && let Ok(next) = Arc::clone(room).try_acquire_owned()
    {
        permits.push(next);
    }
    permits
}

async fn sit_out(out: &mpsc::Sender<Result<Arrived>>) {
    tokio::select! {
        () = out.closed() => {}
        () = sleep(AGAIN) => {}
    }
}

/// Waits for a word that there is something, over a connection of its own.
struct Waiter {
    queue: Arc<Queue>,
    connection: Connection,
    /// Redis has been asked. It goes on while we do other things: one that was given up would take the word
    /// all the same.
    asked: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Waiter {
    fn new(queue: Arc<Queue>, connection: Connection) -> Self {
        Self {
            queue,
            connection,
            asked: None,
        }
    }

    /// Resolves when there is a word, or none for long: whether there is. Dropping the future loses none.
    async fn woken(&mut self) -> bool {
        let ask = || Box::pin(ask(self.connection.clone(), self.queue.word()));
        let word = self.asked.get_or_insert_with(|| ask() as _).await;
        self.asked = None;
        word
    }

    /// As [`woken`](Self::woken), if Redis was asked before; else it never resolves.
    async fn woken_still(&mut self) -> bool {
        match &mut self.asked {
            Some(_) => self.woken().await,
            None => pending().await,
        }
    }
}

async fn ask(connection: Connection, word: String) -> bool {
    let mut blpop = cmd("BLPOP");
    blpop.arg(word).arg(WAIT.as_secs());
    let asked = async {
        let link = connection.link(connection.deadline()).await?;
        let deadline = Instant::now() + WAIT + connection.config().timeout;
        link.call(&blpop, Effect::Nothing, deadline).await
    };
    match asked.await {
        Ok(word) => word != Value::Nil,
        Err(error) => {
            tracing::debug!(%error, "a subscriber cannot wait for messages");
            sleep(AGAIN).await;
            false
        }
    }
}
