//! Publishing: one task per broker, with one channel, in whose order messages go out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use micro_broker_core::{Context, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::error::{again, failed};
use crate::link::Link;
use crate::topology::{Names, make_exchange};

/// What unconfirmed messages may take, in KiB; each counts for one more.
const IN_FLIGHT: u32 = 64 << 10;
/// So many may stand in line for the task.
const LINE: usize = 1024;

/// Where a message goes.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// To all queues of a topic.
    Topic(String),
    /// To this queue alone.
    Queue(String),
}

/// Publishes messages, and hears what became of them. The task ends when this is dropped and what it had
/// is answered for.
pub(crate) struct Publisher {
    line: mpsc::Sender<Order>,
    room: Arc<Semaphore>,
    timeout: Duration,
}

struct Order {
    to: To,
    properties: BasicProperties,
    body: Bytes,
    until: Instant,
    claim: Arc<Claim>,
    answer: oneshot::Sender<Result<()>>,
    _room: OwnedSemaphorePermit,
}

/// Who has the message: as long as nobody has sent it, it can be taken back.
#[derive(Default)]
struct Claim(AtomicU8);

const SENT: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl Claim {
    /// Whether nobody had it, and this one has it now.
    fn take(&self, by: u8) -> bool {
        let claimed = self
            .0
            .compare_exchange(0, by, Ordering::AcqRel, Ordering::Acquire);
        claimed.is_ok()
    }
}

/// Takes the message back if whoever published it goes away.
struct TakeBack(Arc<Claim>);

impl Drop for TakeBack {
    fn drop(&mut self) {
        self.0.take(TAKEN_BACK);
    }
}

impl Publisher {
    /// Within a tokio runtime.
    pub(crate) fn start(link: Link, names: Names, timeout: Duration) -> Self {
        let (line, orders) = mpsc::channel(LINE);
        tokio::spawn(run(link, names, orders));
        Self {
            line,
            room: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
            timeout,
        }
    }

    /// Publishes a message, and waits until RabbitMQ has it in every queue that it goes to.
    ///
    /// # Errors
    ///
    /// `OutcomeUnknown` if it may be in some; with all others it is in none: `ResourceExhausted` if too
    /// many are on their way, `Unavailable`, what connecting says, and what ends the context.
    pub(crate) async fn publish(
        &self,
        cx: &Context,
        to: To,
        properties: BasicProperties,
        body: Bytes,
    ) -> Result<()> {
        let time = cx.remaining().unwrap_or(self.timeout).min(self.timeout);
        let begin = Instant::now();
        let take_back = TakeBack(Arc::default());
        let handing_over = async {
            let cost = u32::try_from(body.len() >> 10).unwrap_or(IN_FLIGHT) + 1;
            let room = Arc::clone(&self.room).acquire_many_owned(cost.min(IN_FLIGHT));
            let room = room.await.map_err(|_| gone())?;
            let (answer, answered) = oneshot::channel();
            let order = Order {
                to,
                properties,
                body,
                // A moment before the time is over: why there is no connection is worth telling.
                until: begin + self.timeout - self.timeout / 20,
                claim: Arc::clone(&take_back.0),
                answer,
                _room: room,
            };
            self.line.send(order).await.map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(lost()))
        };
        tokio::select! {
            biased;
            done = handing_over => return done,
            () = cx.cancelled() => {}
            () = sleep_until(begin + time) => {}
        }
        if !take_back.0.take(TAKEN_BACK) {
            return Err(Error::outcome_unknown(
                "RabbitMQ did not confirm the message in time; it may keep it yet",
            ));
        }
        cx.check()?;
        if time < self.timeout {
            return Err(Error::deadline_exceeded("the time for the call ran out"));
        }
        Err(Error::resource_exhausted(
            "too many messages wait for RabbitMQ to take and confirm them",
        )
        .with_retryable(true)
        .with_unprocessed(true))
    }

    /// Waits until nothing is on its way; if that takes too long, how many messages are, about.
    pub(crate) async fn flush(&self, grace: Duration) -> std::result::Result<(), usize> {
        match timeout(grace, self.room.acquire_many(IN_FLIGHT)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(IN_FLIGHT as usize - self.room.available_permits()),
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("room", &self.room.available_permits())
            .finish_non_exhaustive()
    }
}

fn gone() -> Error {
    Error::unavailable("the runtime shuts down").with_unprocessed(true)
}

fn lost() -> Error {
    Error::outcome_unknown("the connection to RabbitMQ was lost before it confirmed the message")
}

async fn run(link: Link, names: Names, mut orders: mpsc::Receiver<Order>) {
    let mut channel: Option<Channel> = None;
    let mut flights = FuturesUnordered::new();
    loop {
        let order = tokio::select! {
            Some(()) = flights.next(), if !flights.is_empty() => continue,
            order = orders.recv() => order,
        };
        let Some(order) = order else { break };
        let up = match channel
            .take()
            .filter(|channel| channel.status().connected())
        {
            Some(up) => up,
            // Those in flight on the old one have failed already.
            None => match open(&link, &names, order.until).await {
                Ok(up) => up,
                Err(err) => {
                    let _ = order.answer.send(Err(again(&err).with_unprocessed(true)));
                    continue;
                }
            },
        };
        flights.push(fly(up.clone(), names.exchange().into(), order));
        channel = Some(up);
    }
    while flights.next().await.is_some() {}
}

/// A channel that confirms, with the exchange in place.
async fn open(link: &Link, names: &Names, until: Instant) -> Result<Channel> {
    let opening = async {
        let connection = link.connection(until).await?;
        make_exchange(&connection, names).await?;
        let channel = connection.create_channel().await.map_err(failed)?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        confirming.await.map_err(failed)?;
        Ok(channel)
    };
    match timeout_at(until, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::unavailable("RabbitMQ does not answer in time")),
    }
}

/// Takes one message to its end. It is polled by one task only: lapin counts its confirmations in the order
/// of the first polls.
async fn fly(channel: Channel, exchange: ShortString, order: Order) {
    if !order.claim.take(SENT) {
        return;
    }
    let (exchange, key) = match order.to {
        To::Topic(topic) => (exchange, topic),
        To::Queue(queue) => (ShortString::default(), queue),
    };
    let published = async {
        let confirmation = channel.basic_publish(
            exchange,
            key.into(),
            BasicPublishOptions::default(),
            &order.body,
            order.properties,
        );
        confirmation.await?.await
    };
    let answer = match published.await {
        Ok(Confirmation::Ack(_)) => Ok(()),
        // It does not say which of the queues refused, and the others have the message.
        Ok(_) => Err(Error::outcome_unknown(
            "a queue in RabbitMQ is full, or failed: its group does not get the message, others may",
        )
        .with_retryable(true)),
        Err(err) => Err(lost().with_source(err)),
    };
    let _ = order.answer.send(answer);
}
