//! What a member has taken and not settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use micro_nats::async_nats::{Client, PublishError, Subject};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

/// The server's words for what becomes of a message.
pub(crate) const ACK: &[u8] = b"+ACK";
pub(crate) const NAK: &[u8] = b"-NAK";
pub(crate) const TERM: &[u8] = b"+TERM";
const PROGRESS: &[u8] = b"+WPI";

/// What cannot be told within this time is left to the server, which delivers the message again.
const TELL: Duration = Duration::from_secs(5);

/// Messages that are out, by a number of ours: one may be out twice, if the server took it for lost.
#[derive(Debug, Default)]
pub(crate) struct Hold(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    out: BTreeMap<u64, Out>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Out {
    client: Arc<Client>,
    reply: Subject,
    told: Instant,
}

/// How far a subscriber without a group has come: its consumer may be gone after an outage.
#[derive(Debug, Default)]
struct Place {
    /// Those that were seen and are not settled. The server lets only so many be.
    open: BTreeSet<u64>,
    /// The last one that was seen.
    last: u64,
}

impl Hold {
    /// One that remembers how far it has come.
    pub(crate) fn with_place() -> Self {
        let state = State {
            place: Some(Place::default()),
            ..State::default()
        };
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are out.
    pub(crate) fn len(&self) -> usize {
        self.state().out.len()
    }

    /// Notes that a message was seen; whether it was settled before.
    pub(crate) fn see(&self, seq: u64) -> bool {
        let mut state = self.state();
        let Some(place) = &mut state.place else {
            return false;
        };
        if seq <= place.last {
            return !place.open.contains(&seq);
        }
        place.last = seq;
        place.open.insert(seq);
        false
    }

    /// From where on another consumer has to begin, for a subscriber without a group.
    pub(crate) fn resume(&self) -> Option<u64> {
        let state = self.state();
        let place = state.place.as_ref()?;
        Some(place.open.first().copied().unwrap_or(place.last + 1))
    }

    /// The consumer begins behind this one, in a stream of which nothing was seen.
    pub(crate) fn begin(&self, last: u64) {
        if let Some(place) = &mut self.state().place {
            *place = Place {
                last,
                ..Place::default()
            };
        }
    }

    pub(crate) fn take(self: &Arc<Self>, client: &Arc<Client>, reply: Subject, seq: u64) -> Ticket {
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        let out = Out {
            client: Arc::clone(client),
            reply: reply.clone(),
            told: Instant::now(),
        };
        state.out.insert(number, out);
        drop(state);
        Ticket {
            hold: Arc::clone(self),
            client: Arc::clone(client),
            reply,
            seq,
            number,
            told: false,
        }
    }

    /// Tells the server that what has been out for so long, or was told so long ago, is still being handled.
    pub(crate) async fn beat(&self, every: Duration) {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut state = self.state();
            let old = state.out.values_mut().filter(|out| now - out.told >= every);
            old.map(|out| {
                out.told = now;
                (Arc::clone(&out.client), out.reply.clone())
            })
            .collect()
        };
        for (client, reply) in due {
            // Without a connection there is nobody to tell.
            let _ = client.publish(reply, Bytes::from_static(PROGRESS)).await;
        }
    }
}

/// A message that is out. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Ticket {
    hold: Arc<Hold>,
    client: Arc<Client>,
    reply: Subject,
    pub(crate) seq: u64,
    number: u64,
    told: bool,
}

impl Ticket {
    /// Tells the server what becomes of it: for good, or not.
    pub(crate) async fn tell(mut self, words: Bytes, settled: bool) -> Result<(), PublishError> {
        self.client.publish(self.reply.clone(), words).await?;
        self.told = true;
        if settled && let Some(place) = &mut self.hold.state().place {
            place.open.remove(&self.seq);
        }
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hold.state().out.remove(&self.number);
        // Outside of a runtime the server notices by itself that nobody answers.
        if !self.told
            && let Ok(runtime) = Handle::try_current()
        {
            let (client, reply) = (Arc::clone(&self.client), self.reply.clone());
            runtime.spawn(timeout(TELL, async move {
                client.publish(reply, Bytes::from_static(NAK)).await
            }));
        }
    }
}
