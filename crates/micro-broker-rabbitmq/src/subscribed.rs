//! The handle of a subscriber, and the task that keeps it supplied.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{
    BasicCancelOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use micro_broker_core::{Error, ErrorKind, Result, Stopped, SubscriptionControl, async_trait};
use micro_broker_delivery::Consuming;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::error::is_missing;
use crate::member::{Consumption, Member};

/// After so long something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the end of a subscriber may take beside its handlers.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Take in messages.
    Open,
    /// Take in no more, and give back what no handler has.
    Stopping,
    /// End, and give back all.
    Over,
}

/// Dropping it ends the handlers, and gives back what they had.
pub(crate) struct Subscribed {
    consuming: Consuming,
    member: Arc<Member>,
    phase: watch::Sender<Phase>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Subscribed {
    /// Begins with this consumption.
    pub(crate) fn begin(
        member: Arc<Member>,
        consumption: Consumption,
        consuming: Consuming,
    ) -> Self {
        let (phase, phases) = watch::channel(Phase::Open);
        let task = tokio::spawn(supply(Arc::clone(&member), consumption, phases));
        Self {
            consuming,
            member,
            phase,
            task: Mutex::new(Some(task)),
        }
    }
}

#[async_trait]
impl SubscriptionControl for Subscribed {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        let until = Instant::now() + grace;
        self.phase.send_replace(Phase::Stopping);
        let stopped = self.consuming.stop(grace).await?;
        // Even without any grace left: what is to be tried again should say how often it was.
        let left = until.saturating_duration_since(Instant::now());
        self.member.settling.finish(left.max(FAREWELL / 5)).await;
        self.phase.send_replace(Phase::Over);
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = timeout(FAREWELL, task).await;
        }
        Ok(stopped)
    }

    async fn ended(&self) -> Error {
        self.consuming.ended().await
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.member.settling.abandon();
        // The task ends by itself: it has to give back what this had.
        self.phase.send_replace(Phase::Over);
    }
}

/// Keeps the subscriber supplied, over as many connections as it takes.
async fn supply(member: Arc<Member>, first: Consumption, mut phases: watch::Receiver<Phase>) {
    let mut consumption = Some(first);
    loop {
        let Some(current) = &mut consumption else {
            tokio::select! {
                () = reached(&mut phases, Phase::Stopping) => return,
                begun = begin_again(&member) => consumption = Some(begun),
            }
            continue;
        };
        let why = tokio::select! {
            () = reached(&mut phases, Phase::Stopping) => break,
            why = member.take_in(&mut current.consumer) => why,
        };
        // What it had comes again on another channel.
        member.forget();
        member.settling.abandon();
        if why.is_none() && is_removed(current, &member).await {
            member.end(Error::new(
                ErrorKind::FailedPrecondition,
                "the group was removed",
            ));
            return;
        }
        consumption = None;
    }
    if let Some(consumption) = consumption {
        end(&member, consumption, phases).await;
    }
}

/// Waits for a phase, or one behind it.
async fn reached(phases: &mut watch::Receiver<Phase>, wanted: Phase) {
    // Without the handle it is over.
    let _ = phases.wait_for(|phase| *phase >= wanted).await;
}

/// Consumes on another channel; whoever runs the server may have to do something for that.
async fn begin_again(member: &Member) -> Consumption {
    loop {
        match member.consume(member.engine.until()).await {
            Ok(begun) => return begun,
            Err(error) => {
                tracing::warn!(%error, topic = %member.topic, "a subscriber is without RabbitMQ");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Whether the server ended a consumer because its queue is gone.
async fn is_removed(consumption: &Consumption, member: &Member) -> bool {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let name = member.queue.name.as_str().into();
    let asked = consumption
        .channel
        .queue_declare(name, passive, FieldTable::default());
    matches!(timeout(FAREWELL, asked).await, Ok(Err(err)) if is_missing(&err))
}

/// Takes leave: what no handler has goes to others at once, the rest when the subscriber is over.
async fn end(member: &Member, consumption: Consumption, mut phases: watch::Receiver<Phase>) {
    let Consumption { channel, consumer } = consumption;
    let cancel = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    let _ = timeout(FAREWELL, cancel).await;
    for acker in member.forget() {
        let back = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        if timeout(FAREWELL, acker.nack(back)).await.is_err() {
            break;
        }
    }
    reached(&mut phases, Phase::Over).await;
    if !member.queue.lasting {
        let name = member.queue.name.as_str().into();
        let delete = channel.queue_delete(name, QueueDeleteOptions::default());
        let _ = timeout(FAREWELL, delete).await;
    }
    let _ = timeout(FAREWELL, channel.close(200, "OK".into())).await;
}
