//! A member of a group, or a subscriber without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::SelectAll;
use futures_util::{FutureExt as _, StreamExt as _};
use micro_broker_core::{
    Context, Error, Handler, Message, NackExt as _, Result, Stopped, SubscribeOptions,
    Subscription, SubscriptionControl, Topic, Verdict, after_failure, async_trait, new_id,
    wire_name,
};
use micro_broker_delivery::{Consuming, Runner, Source, Taken, consume, envelope};
use micro_nats::async_nats::{self, Client, HeaderMap, Subscriber};
use micro_nats::publish_failed;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::plain::Plain;
use crate::plain::later::{Held, Later};

/// So many messages wait to be handled again; with more, no new ones are taken.
const MOST_LATER: usize = 4096;
/// After so long a dead letter that could not be published is tried again.
const NO_ROOM: Duration = Duration::from_secs(1);
/// Between attempts to listen.
const AGAIN: Duration = Duration::from_millis(200);
/// Leaving takes so long at most.
const LEAVE: Duration = Duration::from_secs(5);

/// How often what is handed to another member was delivered.
const DELIVERIES: &str = "micro-deliveries";

/// Subscribes, and begins.
pub(crate) async fn subscribe(
    plain: &Arc<Plain>,
    topic: &Topic,
    opts: SubscribeOptions,
    handler: Arc<dyn Handler>,
) -> Result<Subscription> {
    let group = opts.group.clone();
    let names = &plain.names;
    let member = Arc::new(Member {
        plain: Arc::clone(plain),
        topic: topic.clone(),
        subject: names.plain(topic),
        back: group.as_ref().map(|group| names.back(topic, group)),
        opts: opts.clone(),
        later: Later::default(),
        feed: tokio::sync::Mutex::default(),
        left: AtomicBool::new(false),
    });
    let deadline = plain.deadline();
    let client = plain.connection.client(deadline).await?;
    let denials = plain.connection.denials();
    let feed = member.listen(client).await?;
    // Once the server knows of it, it gets what is published.
    let confirmed = plain
        .connection
        .confirm(&feed.client, denials, true, deadline);
    confirmed.await?;
    *member.feed.lock().await = Some(feed);
    let leaving = Leaving(Arc::clone(&member));
    let taking = Arc::new(Taking(Arc::clone(&member)));
    let consuming = consume(taking, Runner::new(handler, opts, &plain.env));
    Ok(Subscription::new(
        topic.clone(),
        group,
        Subscribed { consuming, leaving },
    ))
}

struct Member {
    plain: Arc<Plain>,
    topic: Topic,
    subject: String,
    /// Where the group's members hand on what they had when they leave.
    back: Option<String>,
    opts: SubscribeOptions,
    later: Later,
    feed: tokio::sync::Mutex<Option<Feed>>,
    left: AtomicBool,
}

struct Feed {
    client: Client,
    inbox: SelectAll<Subscriber>,
}

impl Member {
    async fn listen(&self, client: Client) -> Result<Feed> {
        let gone = |err| Error::unavailable("the connection to NATS is gone").with_source(err);
        let mut inbox = SelectAll::new();
        match &self.opts.group {
            Some(group) => {
                for subject in std::iter::once(&self.subject).chain(&self.back) {
                    let subscribing =
                        client.queue_subscribe(subject.clone(), group.as_str().to_owned());
                    inbox.push(subscribing.await.map_err(gone)?);
                }
            }
            None => inbox.push(client.subscribe(self.subject.clone()).await.map_err(gone)?),
        }
        Ok(Feed { client, inbox })
    }

    /// Listens again on a connection that was made anew.
    async fn recover(&self) -> Result<Feed> {
        let client = self.plain.connection.client(self.plain.deadline()).await?;
        self.listen(client).await
    }

    /// The message, or its dead letter if it cannot be read.
    fn read(&self, message: async_nats::Message) -> Result<Held, Verdict> {
        let deliveries = message.headers.as_ref().and_then(deliveries).unwrap_or(0);
        let read = envelope::decode(&message.payload)
            .and_then(|envelope| envelope.into_message(self.topic.clone()));
        match read {
            Ok(message) => Ok(Held {
                message: Arc::new(message),
                deliveries,
            }),
            Err(err) => {
                tracing::warn!(topic = %self.topic, error = %err, "a message cannot be read");
                let (clock, random) = (self.plain.env.clock(), &**self.plain.env.random());
                let id = new_id(clock.wall(), random);
                let unread = Message::new(self.topic.clone(), message.payload).with_id(id);
                let (group, err) = (self.opts.group.as_ref(), err.reject());
                Err(after_failure(&unread, group, &self.opts, 1, &err, random))
            }
        }
    }

    async fn bury(&self, letter: &Message) -> Result<()> {
        self.plain.publish(&Context::new(), letter).await
    }

    fn taken(self: &Arc<Self>, held: Held) -> Taken<Ticket> {
        let deliveries = held.deliveries.saturating_add(1);
        let message = Arc::clone(&held.message);
        let held = Held { deliveries, ..held };
        Taken {
            message,
            deliveries,
            offset: None,
            ticket: Ticket {
                member: Arc::clone(self),
                held: Some(held),
            },
        }
    }

    /// Hands a message to another member of the group.
    async fn hand_on(&self, held: Held) -> Result<()> {
        let Some(back) = &self.back else {
            return Ok(());
        };
        let client = self.plain.connection.client(self.plain.deadline()).await?;
        let topic = wire_name(self.plain.env.namespace(), &self.topic);
        let payload = envelope::encode(&held.message, &topic);
        let mut headers = HeaderMap::new();
        headers.insert(DELIVERIES, held.deliveries.to_string());
        let handing = client.publish_with_headers(back.clone(), headers, payload.into());
        handing.await.map_err(publish_failed)
    }

    /// Hands on what was not handled.
    async fn leave(&self) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let deadline = Instant::now() + LEAVE;
        let feed = timeout_at(deadline, self.feed.lock()).await.ok();
        let feed = feed.and_then(|mut feed| feed.take());
        let mut left = self.later.take_all();
        if let Some(mut feed) = feed {
            // After that nothing more comes, neither from others nor of what we hand on.
            let connection = &self.plain.connection;
            let ending = connection.end(&feed.client, feed.inbox.iter_mut(), deadline);
            ending.await?;
            while let Some(Some(message)) = feed.inbox.next().now_or_never() {
                left.extend(self.read(message).ok());
            }
        }
        for held in left {
            self.hand_on(held).await?;
        }
        Ok(())
    }
}

fn deliveries(headers: &HeaderMap) -> Option<u32> {
    headers.get(DELIVERIES)?.as_str().parse().ok()
}

/// What a member takes messages by.
#[derive(Clone)]
struct Taking(Arc<Member>);

impl Source for Taking {
    type Ticket = Ticket;

    async fn next(&self) -> Result<Taken<Ticket>> {
        let member = &self.0;
        let mut place = member.feed.lock().await;
        loop {
            let Some(feed) = place.as_mut() else {
                match member.recover().await {
                    Ok(feed) => *place = Some(feed),
                    Err(err) if err.is_retryable() => sleep(AGAIN).await,
                    Err(err) => return Err(err),
                }
                continue;
            };
            let (held, due, count) = member.later.take(Instant::now());
            if let Some(held) = held {
                return Ok(member.taken(held));
            }
            let due_then = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                message = feed.inbox.next(), if count < MOST_LATER => message,
                () = member.later.more.notified() => continue,
                () = due_then => continue,
            };
            let Some(message) = message else {
                *place = None;
                continue;
            };
            match member.read(message) {
                Ok(held) => return Ok(member.taken(held)),
                Err(Verdict::Dead(letter)) => {
                    if let Err(err) = member.bury(&letter).await {
                        tracing::warn!(topic = %letter.topic, error = %err, "a dead letter is lost");
                    }
                }
                Err(_) => {}
            }
        }
    }

    async fn settle(&self, mut ticket: Ticket, verdict: Verdict) -> Result<()> {
        let later = &self.0.later;
        match verdict {
            Verdict::Retry(pause) => {
                if let Some(held) = ticket.held.take() {
                    later.put(Instant::now() + pause, held);
                }
            }
            Verdict::Dead(letter) => {
                let buried = self.0.bury(&letter).await;
                let held = ticket.held.take();
                if let (Err(err), Some(held)) = (buried, held) {
                    later.put(Instant::now() + NO_ROOM, held);
                    return Err(err);
                }
            }
            _ => ticket.held = None,
        }
        Ok(())
    }

    /// Nobody else waits for it.
    async fn extend(&self, _ticket: &Ticket) {}
}

/// A message that is out. Dropped, it is handed to another member.
struct Ticket {
    member: Arc<Member>,
    held: Option<Held>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(held) = self.held.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let member = Arc::clone(&self.member);
            runtime.spawn(timeout(LEAVE, async move { member.hand_on(held).await }));
        }
    }
}

/// Dropping it ends the handlers, and hands on what they had.
struct Subscribed {
    consuming: Consuming,
    leaving: Leaving,
}

#[async_trait]
impl SubscriptionControl for Subscribed {
    async fn stop(&self, grace: Duration) -> Result<Stopped> {
        let stopped = self.consuming.stop(grace).await?;
        self.leaving.0.leave().await?;
        Ok(stopped)
    }

    async fn ended(&self) -> Error {
        self.consuming.ended().await
    }
}

/// Leaves in the background, if nobody waited for it.
struct Leaving(Arc<Member>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let member = Arc::clone(&self.0);
        if !member.left.load(Ordering::Acquire)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(LEAVE, async move {
                if let Err(err) = member.leave().await {
                    tracing::debug!(error = %err, "NATS could not be told that a subscriber left");
                }
            }));
        }
    }
}
