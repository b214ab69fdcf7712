//! What a subscriber owes Redis behind everybody's back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::queue::{BEAT_EVERY, Claim, Outcome, Queue};

/// So much is done before the next look at the clock.
const BATCH: usize = 256;

/// After so long it is tried again, if Redis cannot be told.
const AGAIN: Duration = Duration::from_millis(200);

/// Something that is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Nobody else says what becomes of a message.
    Settle { claim: Claim, outcome: Outcome },
    /// Says that all before it was done.
    Flush(oneshot::Sender<()>),
}

/// Takes tasks. A member has so many at most as it has messages. When the last sender is dropped, the
/// subscriber leaves.
pub(crate) type Care = mpsc::UnboundedSender<Task>;

/// Begins to take care of a subscriber.
pub(crate) fn begin(queue: &Arc<Queue>) -> Care {
    let (care, tasks) = mpsc::unbounded_channel();
    tokio::spawn(take_care(Arc::clone(queue), tasks));
    care
}

async fn take_care(queue: Arc<Queue>, mut tasks: mpsc::UnboundedReceiver<Task>) {
    let mut beat = interval_at(Instant::now() + BEAT_EVERY, BEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = tasks.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    break;
                }
            }
            _ = beat.tick(), if !queue.lasting => {
                if let Err(error) = queue.beat().await {
                    tracing::debug!(%error, "a subscriber could not say that it is there");
                }
            }
        }
        let until = Instant::now() + queue.lease;
        for task in batch.drain(..) {
            match task {
                Task::Settle { claim, outcome } => settle(&queue, &claim, &outcome, until).await,
                // Whoever asked may be gone.
                Task::Flush(done) => drop(done.send(())),
            }
        }
    }
    if let Err(error) = queue.leave().await {
        tracing::debug!(%error, "a subscriber could not say that it leaves");
    }
}

/// Tries until the message's lease has ended by itself.
async fn settle(queue: &Queue, claim: &Claim, outcome: &Outcome, until: Instant) {
    while let Err(error) = queue.settle(claim, outcome).await {
        tracing::debug!(%error, "what becomes of a message could not be told");
        if Instant::now() > until {
            return;
        }
        sleep(AGAIN).await;
    }
}
