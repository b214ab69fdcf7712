//! Messages that arrive.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use micro_broker_core::{Clock, Message, Topic, Verdict};
use micro_broker_delivery::{Runner, SeenIds, envelope};
use tokio::sync::{Mutex as Turns, Notify, OwnedMutexGuard, Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::frame::{self, Frame};

/// An id that was handled is known for so long, at most so many of a subscriber: a publisher that missed
/// the answer asks again.
const SEEN: (Duration, usize) = (Duration::from_secs(120), 10_000);

/// After so long a message comes again that another member may take at once.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Whatever is to be done with a dead letter.
pub(crate) type Bury = Arc<
    dyn Fn(Message) -> std::pin::Pin<Box<dyn Future<Output = micro_broker_core::Result<()>> + Send>>
        + Send
        + Sync,
>;

/// A request at the subscriber's port, whoever serves the port.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Post {
    /// The subscriber that it is for: the query's `id`.
    pub id: String,
    /// The header `micro-delivery`.
    pub delivery: Option<u32>,
    /// The body.
    pub body: Bytes,
}

impl Post {
    /// A message for this subscriber.
    #[must_use]
    pub fn new(id: impl Into<String>, delivery: Option<u32>, body: impl Into<Bytes>) -> Self {
        Self {
            id: id.into(),
            delivery,
            body: body.into(),
        }
    }
}

/// The answer to a [`Post`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The HTTP status: 200 if the message was handled.
    pub status: u16,
    /// The header `micro-retry-in`: after so long the message is to come again.
    pub retry_in: Option<Duration>,
    /// What became of the message, as plain text. It is the body, as it is: publishers know by it that a
    /// subscriber answers, and no other program that has come to its port.
    pub text: &'static str,
}

impl Reply {
    const HANDLED: Self = Self::of(200, "micro: handled");
    const UNKNOWN: Self = Self::of(404, "micro: no such subscriber");
    const FULL: Self = Self::of(429, "micro: too many messages wait for this subscriber");

    pub(crate) const fn of(status: u16, text: &'static str) -> Self {
        Self {
            status,
            retry_in: None,
            text,
        }
    }

    const fn again(pause: Duration) -> Self {
        Self {
            status: 503,
            retry_in: Some(pause),
            text: "micro: the message was not handled",
        }
    }
}

/// The subscribers of this process, by their ids. Whoever serves the port hands requests to
/// [`receive`](Self::receive).
pub struct Inlet {
    subscribers: RwLock<HashMap<String, Arc<Subscriber>>>,
    max_body: usize,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet")
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

impl Inlet {
    pub(crate) fn new(max_body: usize) -> Self {
        Self {
            subscribers: RwLock::default(),
            max_body,
        }
    }

    /// The largest body of a request, in bytes; what is larger need not be read.
    #[must_use]
    pub fn max_request(&self) -> usize {
        envelope::max_len(self.max_body)
    }

    pub(crate) fn add(&self, id: &str, subscriber: Arc<Subscriber>) {
        let mut subscribers = self
            .subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        subscribers.insert(id.to_owned(), subscriber);
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut subscribers = self
            .subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        subscribers.remove(id);
    }

    /// Hands a message to its subscriber, and waits for its handler.
    pub async fn receive(&self, post: Post) -> Reply {
        if post.body.len() > self.max_request() {
            return Reply::of(413, "micro: the message is too large");
        }
        let subscriber = {
            let subscribers = self
                .subscribers
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            subscribers.get(&post.id).map(Arc::clone)
        };
        let Some(subscriber) = subscriber else {
            return Reply::UNKNOWN;
        };
        match self.read(&post.body, &subscriber) {
            Ok(message) => Subscriber::receive(subscriber, message, post.delivery).await,
            Err(reply) => reply,
        }
    }

    /// The message for this subscriber, in whichever of the two formats it is.
    fn read(&self, body: &Bytes, subscriber: &Subscriber) -> Result<Message, Reply> {
        let none = |_| Reply::of(400, "micro: this is no message");
        let elsewhere = || Reply::of(400, "micro: the message is not of this subscriber's topic");
        let (wire_topic, topic) = (&*subscriber.wire_topic, subscriber.topic.clone());
        let message = if frame::is_frame(body) {
            let frame = Frame::read(body).map_err(none)?;
            if frame.topic() != Some(wire_topic.as_bytes()) {
                return Err(elsewhere());
            }
            frame.into_message(topic)
        } else {
            let document = envelope::decode(body).map_err(none)?;
            if document.topic() != Some(wire_topic) {
                return Err(elsewhere());
            }
            document.into_message(topic)
        };
        let message =
            message.map_err(|_| Reply::of(400, "micro: a header of the message cannot be read"))?;
        if message.body.len() > self.max_body {
            return Err(Reply::of(413, "micro: the message is too large"));
        }
        Ok(message)
    }
}

/// A subscriber, and what it has.
pub(crate) struct Subscriber {
    pub(crate) topic: Topic,
    pub(crate) wire_topic: String,
    pub(crate) runner: Runner,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bury: Bury,
    turns: Semaphore,
    max_waiting: usize,
    /// Messages that wait or are being handled.
    present: AtomicUsize,
    handling: AtomicUsize,
    /// Told when one is done with.
    done: Notify,
    keys: Mutex<HashMap<Arc<str>, Arc<Turns<()>>>>,
    seen: Mutex<SeenIds>,
    over: watch::Sender<bool>,
}

impl Subscriber {
    pub(crate) fn new(
        topic: Topic,
        wire_topic: String,
        runner: Runner,
        clock: Arc<dyn Clock>,
        max_waiting: usize,
        bury: Bury,
    ) -> Self {
        Self {
            turns: Semaphore::new(runner.options().concurrency),
            topic,
            wire_topic,
            runner,
            clock,
            bury,
            max_waiting,
            present: AtomicUsize::new(0),
            handling: AtomicUsize::new(0),
            done: Notify::new(),
            keys: Mutex::default(),
            seen: Mutex::new(SeenIds::new(SEEN.0, SEEN.1)),
            over: watch::Sender::new(false),
        }
    }

    fn seen(&self) -> MutexGuard<'_, SeenIds> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(subscriber: Arc<Self>, message: Message, delivery: Option<u32>) -> Reply {
        let Some(present) = Present::begin(&subscriber) else {
            return Reply::FULL;
        };
        let message = Arc::new(message);
        let Some(delivery) = delivery else {
            // Its publisher minds no answer, as go-micro's: what fails is tried again from here.
            return Self::adopt(subscriber, present, message).await;
        };
        if let Some(id) = &message.id
            && delivery > 1
            && subscriber.seen().contains(id, subscriber.clock.now())
        {
            return Reply::HANDLED;
        }
        match subscriber.attempt(&message, delivery.max(1)).await {
            Some(None) => Reply::HANDLED,
            Some(Some(pause)) => Reply::again(pause),
            None => Reply::again(AT_ONCE),
        }
    }

    /// Handles a message until it is settled; answers once it was tried.
    async fn adopt(subscriber: Arc<Self>, present: Present, message: Arc<Message>) -> Reply {
        let tried = Arc::new(Notify::new());
        let told = Arc::clone(&tried);
        tokio::spawn(async move {
            let _present = present;
            let mut over = subscriber.over.subscribe();
            let mut delivery = 1;
            while let Some(Some(pause)) = subscriber.attempt(&message, delivery).await {
                told.notify_one();
                tokio::select! {
                    () = sleep(pause) => delivery += 1,
                    _ = over.wait_for(|over| *over) => return,
                }
            }
            told.notify_one();
        });
        tried.notified().await;
        Reply::HANDLED
    }

    /// Makes one attempt: `Some(None)` if the message is settled, `Some(Some(pause))` if it is to come
    /// again, and `None` if the subscriber ended.
    async fn attempt(&self, message: &Arc<Message>, delivery: u32) -> Option<Option<Duration>> {
        let mut over = self.over.subscribe();
        let work = async {
            let _key = self.key(message.key.as_ref()).await;
            let _turn = self.turns.acquire().await.ok()?;
            let _handling = Counted::begin(&self.handling);
            let extend = || std::future::ready(());
            let verdict = self
                .runner
                .attempt(Arc::clone(message), delivery, None, extend)
                .await;
            Some(self.settle(message, verdict).await)
        };
        tokio::select! {
            biased;
            settled = work => settled,
            _ = over.wait_for(|over| *over) => None,
        }
    }

    async fn settle(&self, message: &Message, verdict: Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Retry(pause) => return Some(pause),
            Verdict::Dead(dead) => {
                if let Err(error) = (self.bury)(*dead).await {
                    tracing::warn!(topic = %self.topic, %error, "a dead letter cannot be sent yet");
                    return Some(Duration::from_secs(1));
                }
            }
            _ => {}
        }
        if let Some(id) = &message.id {
            self.seen().insert(id, self.clock.now());
        }
        None
    }

    /// The turn of a message among those of its key.
    async fn key(&self, key: Option<&Arc<str>>) -> Option<KeyTurn<'_>> {
        let key = key?;
        let turns = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(keys.entry(Arc::clone(key)).or_default())
        };
        // Whoever gives up waiting leaves no key behind, either.
        let mut turn = KeyTurn {
            subscriber: self,
            key: Arc::clone(key),
            turns: Some(Arc::clone(&turns)),
            guard: None,
        };
        turn.guard = Some(turns.lock_owned().await);
        Some(turn)
    }

    /// Waits until what is here is done with, for at most `grace`; how many handlers are left then. They
    /// end.
    pub(crate) async fn stop(&self, grace: Duration) -> usize {
        let all = async {
            loop {
                let done = self.done.notified();
                if self.present.load(Ordering::Acquire) == 0 {
                    return;
                }
                done.await;
            }
        };
        let _ = timeout(grace, all).await;
        let left = self.handling.load(Ordering::Acquire);
        self.end();
        left
    }

    /// Ends every handler at once.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
    }
}

/// A message that waits or is being handled.
struct Present(Arc<Subscriber>);

impl Present {
    fn begin(subscriber: &Arc<Subscriber>) -> Option<Self> {
        let most = subscriber.max_waiting + subscriber.runner.options().concurrency;
        let add = |present: usize| (present < most).then_some(present + 1);
        let added = subscriber
            .present
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, add);
        added.is_ok().then(|| Self(Arc::clone(subscriber)))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
        self.0.done.notify_waiters();
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The turn of a message among those of its key. The last one takes the key along.
struct KeyTurn<'a> {
    subscriber: &'a Subscriber,
    key: Arc<str>,
    turns: Option<Arc<Turns<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for KeyTurn<'_> {
    fn drop(&mut self) {
        let mut keys = self
            .subscriber
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        self.turns = None;
        // Clones are made under the lock only, so nobody can come to hold one meanwhile.
        if keys
            .get(&self.key)
            .is_some_and(|turns| Arc::strong_count(turns) == 1)
        {
            keys.remove(&self.key);
        }
    }
}
