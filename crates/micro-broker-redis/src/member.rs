//! A member of a group, or a subscriber without one.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use micro_broker_core::{
    Error, Message, NackExt as _, Result, Stopped, SubscribeOptions, SubscriptionControl, Verdict,
    after_failure, async_trait,
};
use micro_broker_delivery::{Consuming, Source, Taken};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::care::{Care, Task};
use crate::entry;
use crate::fetch::fetch;
use crate::queue::{Claim, Lent, MARGIN, Outcome, Queue, Settled};

/// What a message is settled by. Dropped before that, it is settled behind our back.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Nothing once it is settled.
    claim: Option<Claim>,
    /// What becomes of it, as far as is known.
    outcome: Outcome,
    care: Care,
    /// The room that it takes.
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    fn claim(&self) -> &Claim {
        self.claim.as_ref().expect("only settling takes it")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            let back = Outcome::Back { handled: true };
            let outcome = std::mem::replace(&mut self.outcome, back);
            // At the end of the runtime nobody listens, and its lease ends by itself.
            let _ = self.care.send(Task::Settle { claim, outcome });
        }
    }
}

/// A message that waits for a handler.
#[derive(Debug)]
pub(crate) struct Arrived {
    ticket: Ticket,
    message: Message,
    /// Why the message is not what its entry says: somebody else has written it.
    unreadable: Option<Error>,
    offset: Option<u64>,
    /// When it was asked for: its lease began later.
    asked: Instant,
}

impl Arrived {
    pub(crate) fn new(
        queue: &Queue,
        lent: Lent,
        asked: Instant,
        care: &Care,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let Lent { claim, fields } = lent;
        let (body, read) = entry::read(queue.topic(), fields);
        let (mut message, unreadable) = match read {
            Ok(message) => (message, None),
            Err(error) => (Message::new(queue.topic().clone(), body), Some(error)),
        };
        message.id.get_or_insert_with(|| Arc::from(&*claim.id));
        let replays = !queue.site().config.retain.is_zero();
        Self {
            offset: entry::offset(&claim.id).filter(|_| replays),
            message,
            unreadable,
            asked,
            ticket: Ticket {
                claim: Some(claim),
                outcome: Outcome::Back { handled: false },
                care: care.clone(),
                _permit: permit,
            },
        }
    }
}

/// Where a subscriber's messages come from.
pub(crate) struct Member {
    queue: Arc<Queue>,
    opts: SubscribeOptions,
    care: Care,
    arriving: Mutex<mpsc::Receiver<Result<Arrived>>>,
    /// It was closed, or somebody was told why there are no more.
    over: AtomicBool,
}

impl Member {
    /// Begins to fetch.
    pub(crate) fn begin(queue: Arc<Queue>, opts: SubscribeOptions, care: Care) -> Result<Self> {
        let site = queue.site();
        let server = site.config.server.clone();
        // One that waits in Redis holds up all others of its connection.
        let waiting = micro_redis::Connection::open(server, site.env.random())?;
        let (out, arriving) = mpsc::channel(opts.concurrency);
        let room = Arc::new(Semaphore::new(opts.concurrency));
        tokio::spawn(fetch(Arc::clone(&queue), room, out, care.clone(), waiting));
        Ok(Self {
            queue,
            opts,
            care,
            arriving: Mutex::new(arriving),
            over: AtomicBool::new(false),
        })
    }

    /// Takes no more, and gives back what no handler was given.
    async fn close(&self) {
        let mut arriving = self.arriving.lock().await;
        self.over.store(true, Ordering::Relaxed);
        arriving.close();
        while arriving.try_recv().is_ok() {}
    }

    /// Waits until Redis has what was given back.
    async fn flush(&self) -> Result<()> {
        let (tell, told) = oneshot::channel();
        let asked = self.care.send(Task::Flush(tell)).is_ok();
        let time = self.queue.site().config.server.timeout;
        if asked && matches!(timeout(time, told).await, Ok(Ok(()))) {
            return Ok(());
        }
        Err(Error::unavailable(
            "Redis could not be told which messages were not handled: they come again when their leases end",
        ))
    }

    /// What cannot be read is a dead letter at once.
    async fn bury(&self, ticket: Ticket, message: &Message, error: Error) {
        tracing::warn!(topic = %message.topic, %error, "a message in Redis cannot be read");
        let verdict = after_failure(
            message,
            self.opts.group.as_ref(),
            &self.opts,
            ticket.claim().deliveries,
            &error.reject(),
            &**self.queue.site().env.random(),
        );
        if let Err(error) = self.settle(ticket, verdict).await {
            tracing::warn!(%error, "it will come again");
        }
    }
}

impl Source for Member {
    type Ticket = Ticket;

    async fn next(&self) -> Result<Taken<Ticket>> {
        loop {
            let arrived = match self.arriving.lock().await.recv().await {
                Some(arrived) => arrived,
                None if self.over.load(Ordering::Relaxed) => pending().await,
                None => Err(Error::internal("fetching messages broke off")),
            };
            let Arrived {
                mut ticket,
                message,
                unreadable,
                offset,
                asked,
            } = arrived.inspect_err(|_| self.over.store(true, Ordering::Relaxed))?;
            // Its lease would end before its handler has to.
            if asked.elapsed() > MARGIN / 2 {
                let extended = self.queue.settle(ticket.claim(), &Outcome::Extend).await;
                if !matches!(extended, Ok(Settled::Fine)) {
                    continue;
                }
            }
            if let Some(error) = unreadable {
                self.bury(ticket, &message, error).await;
                continue;
            }
            ticket.outcome = Outcome::Back { handled: true };
            return Ok(Taken {
                message: Arc::new(message),
                deliveries: ticket.claim().deliveries,
                offset,
                ticket,
            });
        }
    }

    async fn settle(&self, mut ticket: Ticket, verdict: Verdict) -> Result<()> {
        ticket.outcome = match verdict {
            Verdict::Retry(pause) => Outcome::Retry(pause),
            Verdict::Dead(message) => Outcome::Dead(message),
            _ => Outcome::Done,
        };
        let settled = self.queue.settle(ticket.claim(), &ticket.outcome).await?;
        ticket.claim = None;
        match settled {
            Settled::Fine => Ok(()),
            Settled::Late => {
                tracing::debug!(topic = %self.queue.topic(), "a message was settled too late");
                Ok(())
            }
            Settled::Full => Err(Error::resource_exhausted("the dead letters are full")),
        }
    }

    async fn extend(&self, ticket: &Ticket) {
        if let Err(error) = self.queue.settle(ticket.claim(), &Outcome::Extend).await {
            tracing::debug!(%error, "Redis could not be told of progress");
        }
    }
}

/// Dropping it ends the handlers, and gives back what they had.
pub(crate) struct Subscribed {
    pub(crate) consuming: Consuming,
    pub(crate) member: Arc<Member>,
}

#[async_trait]
impl SubscriptionControl for Subscribed {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        // The first takes the workers away from what is closed then.
        let (stopped, ()) = tokio::join!(self.consuming.stop(grace), self.member.close());
        self.member.flush().await?;
        stopped
    }

    async fn ended(&self) -> Error {
        self.consuming.ended().await
    }
}
