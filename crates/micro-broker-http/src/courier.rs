//! Handing messages on to subscribers.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use micro_broker_core::{Backoff, Context, Env, Error, Message, Random, Result};
use micro_broker_delivery::envelope;
use micro_http::{HttpClient, HttpConfig, Request};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::HttpBrokerConfig;
use crate::peers::{Peer, Peers, Target, TargetName};

/// How often the message was delivered to the group, with this time. Only our publishers say it; it tells
/// the subscriber that this publisher minds the answer.
pub(crate) const DELIVERY: &str = "micro-delivery";
/// After so many milliseconds the message is to come again.
pub(crate) const RETRY_IN: &str = "micro-retry-in";

/// What a message is charged beside its document, about.
const MESSAGE_BYTES: usize = 512;

/// So many members of a group are tried at a time.
const TRIES: usize = 3;

/// Connections to so many peers are kept.
const MAX_CLIENTS: usize = 1024;

/// The pauses before members that could not be reached are tried again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A message as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) topic: String,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) document: Bytes,
}

impl Parcel {
    pub(crate) fn new(message: &Message, topic: String) -> Self {
        Self {
            document: envelope::encode(message, &topic).into(),
            key: message.key.clone(),
            topic,
        }
    }
}

/// Hands messages on, and tries again what was not handled.
pub(crate) struct Courier {
    pub(crate) peers: Peers,
    config: HttpBrokerConfig,
    random: Arc<dyn Random>,
    clients: Mutex<HashMap<String, HttpClient>>,
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
    over: watch::Receiver<bool>,
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
        let mut over = self.over.clone();
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
    pub(crate) fn new(peers: Peers, config: HttpBrokerConfig, env: &Env) -> Self {
        Self {
            peers,
            config,
            random: Arc::clone(env.random()),
            clients: Mutex::default(),
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
        let bytes = parcel.document.len() + MESSAGE_BYTES;
        let add = |taken: usize| {
            let taken = taken.checked_add(bytes)?;
            (taken <= self.config.max_pending).then_some(taken)
        };
        if self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_err()
        {
            return Err(Error::resource_exhausted(
                "too much is under way already: publish more slowly, or give subscribers more members",
            )
            .with_context("max_pending", self.config.max_pending));
        }
        self.parcels.fetch_add(1, Ordering::AcqRel);
        Ok(Room {
            courier: Arc::clone(self),
            bytes,
        })
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
            over: self.over.subscribe(),
            tally,
        }
    }

    /// Tries until a target has the parcel, or is given up.
    async fn hand_on(&self, parcel: &Parcel, target: &Target, retry_for: Duration, tally: &Tally) {
        let mut target = target.clone();
        let (mut deliveries, mut failures) = (1, 0);
        let mut heard = Instant::now();
        let mut first = true;
        loop {
            let answer = self.round(parcel, &target, deliveries).await;
            let pause = match answer {
                Answer::Handled => {
                    tally.acknowledged.fetch_add(1, Ordering::AcqRel);
                    break;
                }
                Answer::Again(pause) => {
                    (deliveries, failures) = (deliveries + 1, 0);
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
            target.peers = self.now(parcel, &target.name).await;
        }
        if first {
            tally.tried();
        }
    }

    /// The members that a target has by now.
    pub(crate) async fn now(&self, parcel: &Parcel, name: &TargetName) -> Vec<Peer> {
        let targets = self.peers.of(&parcel.topic, None).await.unwrap_or_default();
        let found = targets.iter().find(|target| target.name == *name);
        found.map(|target| target.peers.clone()).unwrap_or_default()
    }

    async fn round(&self, parcel: &Parcel, target: &Target, deliveries: u32) -> Answer {
        let mut last = Error::unavailable("no member of the group is there");
        for peer in target
            .order(parcel.key.as_deref(), &*self.random)
            .into_iter()
            .take(TRIES)
        {
            match self.post(parcel, peer, deliveries).await {
                Answer::Elsewhere(error) => last = error,
                answer => return answer,
            }
        }
        Answer::Elsewhere(last)
    }

    async fn post(&self, parcel: &Parcel, peer: &Peer, deliveries: u32) -> Answer {
        let client = match self.client(&peer.address) {
            Ok(client) => client,
            Err(error) => return Answer::Elsewhere(error),
        };
        let request = Request::post("/")
            .query("id", &peer.id)
            .header(DELIVERY, &deliveries.to_string())
            .body("application/json", parcel.document.clone());
        let response = match client.send(&request).await {
            Ok(response) => response,
            Err(error) => {
                self.peers.doubt(&peer.id);
                return Answer::Elsewhere(error);
            }
        };
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

    fn client(&self, address: &str) -> Result<HttpClient> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let config = HttpConfig::new(vec![address.to_owned()])
            .with_timeout(self.config.timeout)
            .with_concurrency(256)
            .with_max_body(64 << 10);
        let client = HttpClient::new(config)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
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
