//! Handing messages on to subscribers.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use micro_broker_core::{Backoff, Context, Env, Error, Message, Random, Result};
use micro_broker_delivery::envelope;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::frame;
use crate::peers::{self, Peer, Peers, Target, TargetName};

/// How often the message was delivered to the group, with this time. Only our publishers say it; it tells
/// the subscriber that this publisher minds the answer.
pub(crate) const DELIVERY: &str = "micro-delivery";
/// What our subscribers say begins with this.
pub(crate) const OURS: &str = "micro: ";
/// After so many milliseconds the message is to come again.
pub(crate) const RETRY_IN: &str = "micro-retry-in";

/// What a message is charged beside its body and its headers, about.
const MESSAGE_BYTES: usize = 1024;

/// The pauses before members that could not be reached are tried again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A message as it travels, in the form that its subscriber takes.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) message: Message,
    /// The name of its topic on the wire.
    pub(crate) topic: String,
    /// Each is written when the first subscriber takes it.
    frame: OnceLock<[Bytes; 2]>,
    document: OnceLock<[Bytes; 1]>,
}

impl Parcel {
    pub(crate) fn new(message: Message, topic: String) -> Self {
        Self {
            message,
            topic,
            frame: OnceLock::new(),
            document: OnceLock::new(),
        }
    }

    fn body(&self, framed: bool) -> &[Bytes] {
        let (message, topic) = (&self.message, &*self.topic);
        if framed {
            let frame = || [frame::head(message, topic), message.body.clone()];
            return self.frame.get_or_init(frame);
        }
        let document = || [envelope::encode(message, topic).into()];
        self.document.get_or_init(document)
    }

    /// What it takes in memory, about; go-micro's document comes on top, if it is needed.
    fn bytes(&self) -> usize {
        self.message.body.len() + self.message.metadata.size() + MESSAGE_BYTES
    }
}

/// Hands messages on, and tries again what was not handled.
pub(crate) struct Courier {
    pub(crate) peers: Peers,
    random: Arc<dyn Random>,
    max_pending: usize,
    /// What parcels under way take.
    bytes: AtomicUsize,
    parcels: AtomicUsize,
    /// Told when the last parcel is settled.
    idle: Notify,
    /// Whether the broker is gone: then all of it ends.
    pub(crate) over: watch::Sender<bool>,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier")
            .field("parcels", &self.parcels.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// What one try came to.
enum Answer {
    Handled,
    /// It was not, and comes again after so long.
    Again(Duration),
    /// Another member may be able to take it.
    Elsewhere(Error),
    /// It never will be.
    Never(Error),
}

/// How far a message has got with its targets.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: AtomicU32,
    pub(crate) failed: AtomicU32,
    /// Targets whose first try is not over.
    unknown: AtomicUsize,
    known: Notify,
}

impl Tally {
    fn tried(&self) {
        if self.unknown.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.known.notify_one();
        }
    }
}

/// A parcel under way. Dropped before its end, it goes on in a task.
pub(crate) struct Sending {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    courier: Arc<Courier>,
    tally: Arc<Tally>,
}

impl Sending {
    /// Waits until every target was tried once, or for so long, or until the call is over.
    pub(crate) async fn wait(mut self, cx: &Context, longest: Duration) -> Arc<Tally> {
        let longest = cx.remaining().map_or(longest, |left| left.min(longest));
        if let Some(work) = &mut self.work {
            tokio::select! {
                biased;
                () = work => self.work = None,
                () = self.tally.known.notified() => {}
                () = sleep(longest) => {}
                () = cx.cancelled() => {}
            }
        }
        Arc::clone(&self.tally)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) else {
            return;
        };
        let mut over = self.courier.over.subscribe();
        runtime.spawn(async move {
            tokio::select! {
                () = work => {}
                _ = over.wait_for(|over| *over) => {}
            }
        });
    }
}

/// Room that a parcel takes until it is settled.
pub(crate) struct Room {
    courier: Arc<Courier>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.courier.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.courier.parcels.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.courier.idle.notify_waiters();
        }
    }
}

impl Courier {
    pub(crate) fn new(peers: Peers, max_pending: usize, env: &Env) -> Self {
        Self {
            peers,
            random: Arc::clone(env.random()),
            max_pending,
            bytes: AtomicUsize::new(0),
            parcels: AtomicUsize::new(0),
            idle: Notify::new(),
            over: watch::Sender::new(false),
        }
    }

    /// Room for a parcel.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` if there is none.
    pub(crate) fn room(self: &Arc<Self>, parcel: &Parcel) -> Result<Room> {
        let bytes = parcel.bytes();
        let add = |taken: usize| {
            let taken = taken.checked_add(bytes)?;
            (taken <= self.max_pending).then_some(taken)
        };
        if self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_err()
        {
            return Err(Error::resource_exhausted(
                "too much is under way already: publish more slowly, or give subscribers more members",
            )
            .with_context("max_pending", self.max_pending));
        }
        let mut room = self.busy();
        room.bytes = bytes;
        Ok(room)
    }

    /// Hands a parcel to its targets; `settled` runs once each of them has it, or is given up.
    ///
    /// The work is done by who waits for the result, as long as somebody does, and then by a task that
    /// ends with it or with the broker.
    pub(crate) fn send<R>(
        self: &Arc<Self>,
        parcel: Parcel,
        room: Room,
        targets: Arc<Vec<Target>>,
        retry_for: Duration,
        settled: impl FnOnce() -> R + Send + 'static,
    ) -> Sending
    where
        R: Future<Output = ()> + Send,
    {
        let tally = Arc::new(Tally {
            unknown: AtomicUsize::new(targets.len()),
            ..Tally::default()
        });
        let (courier, told) = (Arc::clone(self), Arc::clone(&tally));
        let work = async move {
            let _room = room;
            match &targets[..] {
                [target] => courier.hand_on(&parcel, target, retry_for, &told).await,
                targets => {
                    let each = |target| courier.hand_on(&parcel, target, retry_for, &told);
                    join_all(targets.iter().map(each)).await;
                }
            }
            settled().await;
        };
        Sending {
            work: Some(Box::pin(work)),
            courier: Arc::clone(self),
            tally,
        }
    }

    /// Tries until a target has the parcel, or is given up.
    async fn hand_on(&self, parcel: &Parcel, target: &Target, retry_for: Duration, tally: &Tally) {
        // The members that the target has by now, once they were asked for again.
        let mut now: Option<Vec<Arc<Peer>>> = None;
        let (mut deliveries, mut failures) = (1, 0);
        let mut heard = Instant::now();
        let mut first = true;
        loop {
            let peers = now.as_deref().unwrap_or(&target.peers);
            let answer = self.round(parcel, peers, &mut deliveries).await;
            let pause = match answer {
                Answer::Handled => {
                    tally.acknowledged.fetch_add(1, Ordering::AcqRel);
                    break;
                }
                Answer::Again(pause) => {
                    (deliveries, failures) = (deliveries.saturating_add(1), 0);
                    heard = Instant::now();
                    pause
                }
                Answer::Elsewhere(error) if heard.elapsed() < retry_for => {
                    tracing::debug!(topic = parcel.topic, target = ?target.name, %error, "a message waits for its subscriber");
                    failures += 1;
                    BACKOFF.pause(failures, &*self.random)
                }
                Answer::Elsewhere(error) | Answer::Never(error) => {
                    tracing::warn!(topic = parcel.topic, target = ?target.name, %error, "a message does not reach its subscriber and is given up");
                    tally.failed.fetch_add(1, Ordering::AcqRel);
                    break;
                }
            };
            if std::mem::take(&mut first) {
                tally.tried();
            }
            sleep(pause).await;
            now = Some(self.now(&parcel.topic, &target.name).await);
        }
        if first {
            tally.tried();
        }
    }

    /// The members that a target has by now.
    pub(crate) async fn now(&self, topic: &str, name: &TargetName) -> Vec<Arc<Peer>> {
        let targets = self.peers.of(topic, None).await.unwrap_or_default();
        let found = targets.iter().find(|target| target.name == *name);
        found.map(|target| target.peers.clone()).unwrap_or_default()
    }

    async fn round(&self, parcel: &Parcel, peers: &[Arc<Peer>], deliveries: &mut u32) -> Answer {
        let mut last = Error::unavailable("no member of the group is there");
        for peer in peers::order(peers, parcel.message.key.as_deref(), &*self.random) {
            match self.post(parcel, peer, deliveries).await {
                Answer::Elsewhere(error) => last = error,
                answer => return answer,
            }
        }
        Answer::Elsewhere(last)
    }

    async fn post(&self, parcel: &Parcel, peer: &Peer, deliveries: &mut u32) -> Answer {
        let delivery = [(DELIVERY, u64::from(*deliveries))];
        let sent = peer
            .line
            .poster
            .send(&peer.head, &delivery, parcel.body(peer.framed));
        let response = match sent.await {
            Ok(response) => response,
            Err(error) => {
                peer.line.failed();
                self.peers.doubt(&peer.id);
                // It may have been delivered: the next time is another one, and whoever has handled it
                // says so.
                if !error.is_unprocessed() {
                    *deliveries = deliveries.saturating_add(1);
                }
                return Answer::Elsewhere(error);
            }
        };
        if peer.framed && !response.body().starts_with(OURS.as_bytes()) {
            // It has ended, the registry does not know yet, and another program has its port: whatever
            // that one says, the message was not handled.
            peer.line.failed();
            self.peers.doubt(&peer.id);
            let error = Error::unavailable("somebody else answers at the subscriber's address");
            return Answer::Elsewhere(error.with_context("status", response.status()));
        }
        if response.status() == 200 {
            return Answer::Handled;
        }
        let again = response.header(RETRY_IN).and_then(|text| text.parse().ok());
        if let (503, Some(millis)) = (response.status(), again) {
            // A subscriber that says more than an hour is not believed.
            return Answer::Again(Duration::from_millis(millis).min(Duration::from_secs(3600)));
        }
        match (response.status(), response.success()) {
            (_, Ok(_)) => Answer::Handled,
            (400 | 401 | 403 | 413, Err(error)) => Answer::Never(error),
            (_, Err(error)) => {
                self.peers.doubt(&peer.id);
                Answer::Elsewhere(error)
            }
        }
    }

    /// Something is under way until this is dropped: [`drained`](Self::drained) waits for it.
    pub(crate) fn busy(self: &Arc<Self>) -> Room {
        self.parcels.fetch_add(1, Ordering::AcqRel);
        Room {
            courier: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` after `grace`.
    pub(crate) async fn drained(&self, grace: Duration) -> Result<()> {
        let all = async {
            loop {
                let idle = self.idle.notified();
                if self.parcels.load(Ordering::Acquire) == 0 {
                    return;
                }
                idle.await;
            }
        };
        timeout(grace, all).await.map_err(|_| {
            Error::deadline_exceeded("messages are not handled yet")
                .with_operation("broker.close")
                .with_context("messages", self.parcels.load(Ordering::Acquire))
        })
    }
}
