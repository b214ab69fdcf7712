//! A member of a group, or a subscriber without one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use micro_broker_core::{
    Context, Error, Group, Handler, Message, NackExt as _, Result, Start, Stopped,
    SubscribeOptions, Subscription, SubscriptionControl, Topic, Verdict, after_failure,
    async_trait, new_id,
};
use micro_broker_delivery::{Consuming, Runner, Source, Taken, consume};
use micro_core::Env;
use micro_nats::async_nats::{self, Client};
use micro_nats::publish_failed;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::jetstream::consumer::{begin, removed};
use crate::jetstream::feed::{Arrived, Feed, Instead, nak_in};
use crate::jetstream::hold::{ACK, Hold, NAK, TERM, Ticket};
use crate::jetstream::quarantine;
use crate::jetstream::streams::Streams;
use crate::jetstream::wire;
use crate::names;

/// After so long a dead letter that found no room is tried again.
const NO_ROOM: Duration = Duration::from_secs(1);
/// Between looks at a server that is not ready.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
/// If requests are lost again after such a time, a message may be what breaks the connection: it comes again
/// after a lease.
const AGAIN_AND_AGAIN: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(90);
/// Leaving takes so long at most.
const LEAVE: Duration = Duration::from_secs(5);

/// Makes the consumer, and begins.
pub(crate) async fn subscribe(
    streams: &Arc<Streams>,
    topic: &Topic,
    opts: SubscribeOptions,
    handler: Arc<dyn Handler>,
    env: &Env,
) -> Result<Subscription> {
    let group = opts.group.clone();
    let (name, hold) = match &group {
        Some(group) => (names::consumer(group), Hold::default()),
        None => {
            let name = new_id(env.clock().wall(), &**env.random());
            (name.to_string(), Hold::with_place())
        }
    };
    let member = Arc::new(Member {
        streams: Arc::clone(streams),
        topic: topic.clone(),
        name,
        opts: opts.clone(),
        hold: Arc::new(hold),
        lease: AtomicU64::new(0),
        created: Mutex::default(),
        first: AtomicU64::new(0),
        feed: tokio::sync::Mutex::default(),
        beating: Mutex::default(),
        left: AtomicBool::new(false),
    });
    let deadline = streams.deadline();
    let client = streams.connection.client(deadline).await?;
    // From here on: dropped, it takes its consumer along.
    let leaving = Leaving(Arc::clone(&member));
    streams.ensure(&client, topic, deadline).await?;
    let begin = begin(opts.start);
    let made = match member.make(&client, &begin, deadline).await {
        // Somebody removed the stream.
        Err(fault) if fault.is_no_stream() => {
            streams.forget(topic);
            streams.ensure(&client, topic, deadline).await?;
            member.make(&client, &begin, deadline).await?
        }
        made => made?,
    };
    *member.created() = streams.info(&client, topic, deadline).await?.created;
    if let (true, Start::Offset(first)) = (made, opts.start) {
        member.first.store(first, Ordering::Relaxed);
    }
    let feed = member.listen(client).await?;
    member.feed.lock().await.feed = Some(feed);
    let beating = tokio::spawn(beat(Arc::clone(&member))).abort_handle();
    *member
        .beating
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(beating);
    let consuming = consume(Arc::clone(&member), Runner::new(handler, opts, env));
    Ok(Subscription::new(
        topic.clone(),
        group,
        Subscribed { consuming, leaving },
    ))
}

async fn beat(member: Arc<Member>) {
    loop {
        let every = member.lease() / 3;
        sleep(every / 2).await;
        member.hold.beat(every / 2).await;
    }
}

pub(super) struct Member {
    pub(super) streams: Arc<Streams>,
    pub(super) topic: Topic,
    /// The consumer's name.
    pub(super) name: String,
    pub(super) opts: SubscribeOptions,
    pub(super) hold: Arc<Hold>,
    /// What the server waits for, in milliseconds.
    pub(super) lease: AtomicU64,
    /// When the stream was made.
    pub(super) created: Mutex<String>,
    /// The first that is wanted: the server begins earlier, if that is not there yet.
    first: AtomicU64,
    feed: tokio::sync::Mutex<Place>,
    beating: Mutex<Option<AbortHandle>>,
    left: AtomicBool,
}

/// Where messages come from.
#[derive(Default)]
struct Place {
    feed: Option<Feed>,
    /// When requests were lost the last time.
    lost: Option<Instant>,
}

impl Member {
    pub(super) fn group(&self) -> Option<&Group> {
        self.opts.group.as_ref()
    }

    /// Subscribes to what is sent to this member alone.
    async fn listen(&self, client: Client) -> Result<Feed> {
        let status = self.streams.connection.status();
        let reply: async_nats::Subject = client.new_inbox().into();
        let inbox = client
            .subscribe(reply.clone())
            .await
            .map_err(|err| Error::unavailable("the connection to NATS is gone").with_source(err))?;
        let stream = self.streams.names.stream(&self.topic);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", self.name);
        Ok(Feed::new(client, inbox, reply, subject.into(), status))
    }

    /// What is to be handled, if what came is.
    async fn open(&self, client: &Arc<Client>, arrived: Arrived) -> Option<Taken<Ticket>> {
        let Arrived {
            message,
            reply,
            seq,
            deliveries,
        } = arrived;
        let ticket = self.hold.take(client, reply, seq);
        let verdict = if self.hold.see(seq) || seq < self.first.load(Ordering::Relaxed) {
            Verdict::Ack
        } else {
            let body = message.payload.clone();
            match wire::read(self.topic.clone(), message.headers.as_ref(), body) {
                Ok(message) => {
                    return Some(Taken {
                        message: Arc::new(message),
                        deliveries,
                        offset: Some(seq),
                        ticket,
                    });
                }
                Err(err) => self.unreadable(message.payload, deliveries, err),
            }
        };
        if let Err(err) = self.settle(ticket, verdict).await {
            tracing::warn!(topic = %self.topic, seq, error = %err, "a message will come again");
        }
        None
    }

    /// What becomes of what is no message of ours.
    fn unreadable(&self, body: Bytes, deliveries: u32, err: Error) -> Verdict {
        tracing::warn!(topic = %self.topic, error = %err, "a message cannot be read");
        let env = &self.streams.env;
        let (clock, random) = (env.clock(), &**env.random());
        let id = new_id(clock.wall(), random);
        let unread = Message::new(self.topic.clone(), body).with_id(id);
        let (group, err) = (self.group(), err.reject());
        after_failure(&unread, group, &self.opts, deliveries, &err, random)
    }

    async fn tell(&self, ticket: Ticket, words: Bytes, settled: bool) -> Result<()> {
        ticket.tell(words, settled).await.map_err(publish_failed)
    }

    /// Takes away what the connection cannot bear, so that it does not break again.
    async fn clear_away(&self) {
        let clearing = async {
            let client = self.recover().await?;
            let (streams, topic) = (&*self.streams, &self.topic);
            let deadline = streams.deadline();
            let info = streams
                .consumer(&client, topic, &self.name, deadline)
                .await?;
            for found in quarantine::find(streams, &client, topic, &info, deadline).await? {
                let seq = found.seq;
                if let Verdict::Dead(letter) = self.unreadable(found.body.into(), 1, found.error) {
                    self.bury(&letter, seq).await?;
                }
                quarantine::delete(streams, &client, topic, seq, deadline).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(err) = clearing.await {
            tracing::warn!(topic = %self.topic, error = %err, "what broke the connection may come again");
        }
    }

    /// Publishes a dead letter, once for each message of a group.
    async fn bury(&self, letter: &Message, seq: u64) -> Result<()> {
        let stream = self.streams.names.stream(&self.topic);
        let msg_id = format!("{stream}/{}/{seq}", self.name);
        let buried = self.streams.publish(&Context::new(), letter, &msg_id).await;
        buried.map(drop)
    }

    /// Gives back what was not handled.
    async fn leave(&self) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if let Some(beating) = &*self.beating.lock().unwrap_or_else(PoisonError::into_inner) {
            beating.abort();
        }
        let deadline = Instant::now() + LEAVE;
        let feed = timeout_at(deadline, self.feed.lock()).await.ok();
        let feed = feed.and_then(|mut place| place.feed.take());
        let client = match &feed {
            Some(feed) => Arc::clone(&feed.client),
            None => Arc::new(self.streams.connection.client(deadline).await?),
        };
        let connection = &self.streams.connection;
        if let Some(mut feed) = feed {
            for reply in feed.end(connection, deadline).await? {
                let given = client.publish(reply, Bytes::from_static(NAK)).await;
                given.map_err(publish_failed)?;
            }
        }
        if self.group().is_none() {
            let removed = self
                .streams
                .remove_consumer(&client, &self.topic, &self.name, deadline);
            removed.await?;
        }
        Ok(())
    }
}

impl Source for Member {
    type Ticket = Ticket;

    async fn next(&self) -> Result<Taken<Ticket>> {
        let mut place = self.feed.lock().await;
        let Place { feed: place, lost } = &mut *place;
        loop {
            let Some(feed) = place.as_mut() else {
                let client = self.recover().await?;
                match self.listen(client).await {
                    Ok(feed) => *place = Some(feed),
                    Err(_) => sleep(AGAIN).await,
                }
                continue;
            };
            // Whoever asks here is free, so there is always room for one.
            let room = self.opts.concurrency.saturating_sub(self.hold.len());
            feed.ask(room.max(1)).await;
            match feed.next().await {
                Ok(arrived) => {
                    if let Some(taken) = self.open(&feed.client, arrived).await {
                        return Ok(taken);
                    }
                }
                Err(Instead::Over) => {}
                Err(Instead::Removed) if self.group().is_some() => return Err(removed()),
                Err(Instead::Removed) => drop(self.recover().await?),
                Err(Instead::Lost) => {
                    drop(self.recover().await?);
                    let now = Instant::now();
                    let before = lost.replace(now).map(|before| now - before);
                    if before.is_some_and(|time| AGAIN_AND_AGAIN.contains(&time)) {
                        self.clear_away().await;
                    }
                    sleep(AGAIN).await;
                }
                Err(Instead::Closed) => {
                    *place = None;
                    self.clear_away().await;
                }
            }
        }
    }

    async fn settle(&self, ticket: Ticket, verdict: Verdict) -> Result<()> {
        match verdict {
            Verdict::Ack => self.tell(ticket, Bytes::from_static(ACK), true).await,
            Verdict::Retry(pause) => self.tell(ticket, nak_in(pause), false).await,
            Verdict::Dead(letter) => match self.bury(&letter, ticket.seq).await {
                Ok(()) => self.tell(ticket, Bytes::from_static(TERM), true).await,
                Err(err) => {
                    self.tell(ticket, nak_in(NO_ROOM), false).await?;
                    Err(err)
                }
            },
            _ => self.tell(ticket, Bytes::from_static(TERM), true).await,
        }
    }

    /// What is out is told of anyway.
    async fn extend(&self, _ticket: &Ticket) {}
}

/// Dropping it ends the handlers, and gives back what they had.
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
        // Without a runtime, the server notices by itself.
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
