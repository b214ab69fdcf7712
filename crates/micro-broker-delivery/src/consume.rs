//! Handling whatever a source has.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use micro_broker_core::{
    Error, Message, Result, Stopped, SubscriptionControl, Verdict, async_trait,
};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, coop};
use tokio::time::{Instant, timeout};

use crate::Runner;

/// Where a subscriber's messages come from.
pub trait Source: Send + Sync + 'static {
    /// What a message is settled by. Dropped without that, the message is delivered again.
    type Ticket: Send + Sync + 'static;

    /// The next message. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// Why there will be no more. What passes, as a lost connection, is for the source to sit out.
    fn next(&self) -> impl Future<Output = Result<Taken<Self::Ticket>>> + Send;

    /// Does what becomes of a message.
    ///
    /// # Errors
    ///
    /// Whatever went wrong: it is logged, and the message is delivered again.
    fn settle(
        &self,
        ticket: Self::Ticket,
        verdict: Verdict,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Tells the engine that the message is still being handled.
    fn extend(&self, ticket: &Self::Ticket) -> impl Future<Output = ()> + Send;
}

/// A message that is to be handled.
#[derive(Debug)]
pub struct Taken<T> {
    /// The message.
    pub message: Arc<Message>,
    /// How often it was delivered to the group, with this time.
    pub deliveries: u32,
    /// Its place in the topic, if the engine has one.
    pub offset: Option<u64>,
    /// What it is settled by.
    pub ticket: T,
}

/// Handles what the source has, as many messages at once as the subscriber's options say, until the
/// result is stopped or dropped.
///
/// # Panics
///
/// Outside of a tokio runtime.
#[must_use]
pub fn consume<S: Source>(source: Arc<S>, runner: Runner) -> Consuming {
    let (stop, stopping) = watch::channel(false);
    let (end, ended) = watch::channel(None);
    let concurrency = runner.options().concurrency;
    let shared = Arc::new(Shared {
        source,
        runner,
        taking: Semaphore::new(1),
        slow: AtomicBool::new(false),
        end,
    });
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        workers.spawn(work(Arc::clone(&shared), stopping.clone()));
    }
    Consuming {
        stop,
        ended,
        workers: Mutex::new(workers),
    }
}

/// A handler that takes longer than this without waiting should not keep the others from their work.
const SLOW: Duration = Duration::from_micros(20);

struct Shared<S> {
    source: Arc<S>,
    runner: Runner,
    /// One worker at a time takes messages. It goes on while its handler is done at once, so that quick
    /// handlers cost no switch of tasks; one that waits, or is slow, lets another take.
    taking: Semaphore,
    slow: AtomicBool,
    end: watch::Sender<Option<Arc<Error>>>,
}

async fn work<S: Source>(shared: Arc<Shared<S>>, mut stopping: watch::Receiver<bool>) {
    let mut round = 0_u32;
    loop {
        let Ok(turn) = shared.taking.acquire().await else {
            return;
        };
        let mut turn = Some(turn);
        while turn.is_some() {
            let taken = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopped| *stopped) => return,
                taken = shared.source.next() => taken,
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    shared.end.send_replace(Some(Arc::new(error)));
                    return;
                }
            };
            if shared.slow.load(Ordering::Relaxed) {
                turn = None;
            }
            let mut handling = pin!(shared.handle(taken));
            // Now and then is enough, and the clock is not for free.
            round = round.wrapping_add(1);
            let begin = (round % 8 == 1).then(Instant::now);
            let done = poll_fn(|task| Poll::Ready(handling.as_mut().poll(task).is_ready())).await;
            if let Some(begin) = begin {
                shared.slow.store(begin.elapsed() > SLOW, Ordering::Relaxed);
            }
            if !done {
                turn = None;
                handling.await;
            }
            // However much there is, other tasks have their turn.
            coop::consume_budget().await;
        }
    }
}

impl<S: Source> Shared<S> {
    async fn handle(&self, taken: Taken<S::Ticket>) {
        let Taken {
            message,
            deliveries,
            offset,
            ticket,
        } = taken;
        let extend = || self.source.extend(&ticket);
        let verdict = self
            .runner
            .attempt(message, deliveries, offset, extend)
            .await;
        if let Err(error) = self.source.settle(ticket, verdict).await {
            tracing::warn!(%error, "what became of a message could not be told: it will come again");
        }
    }
}

/// A subscriber that is being served. Dropping it drops its handlers.
#[derive(Debug)]
pub struct Consuming {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<Option<Arc<Error>>>,
    workers: Mutex<JoinSet<()>>,
}

#[async_trait]
impl SubscriptionControl for Consuming {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        self.stop.send_replace(true);
        // Taken out: if this future is dropped, so are they.
        let mut workers =
            std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while workers.join_next().await.is_some() {} };
        let _ = timeout(grace, all).await;
        let unfinished = workers.len();
        workers.shutdown().await;
        Ok(Stopped::new(unfinished))
    }

    async fn ended(&self) -> Error {
        let mut ended = self.ended.clone();
        let found = ended.wait_for(Option::is_some).await;
        match found.as_deref() {
            Ok(Some(error)) => Error::new(error.kind(), error.message().to_owned()),
            _ => Error::cancelled("the subscription was stopped"),
        }
    }
}
