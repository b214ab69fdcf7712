//! What waits for a group, or for a subscriber without one.

use std::cmp::Ordering as Compared;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_broker_core::{Error, Group, Message, Result};
use micro_broker_delivery::{Keyed, KeyedQueue};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What a message is charged beside its own bytes, about.
const MESSAGE_BYTES: usize = 256;

/// What a message takes.
pub(crate) fn cost(message: &Message) -> usize {
    MESSAGE_BYTES + message.body.len() + message.metadata.size()
}

/// A message that waits.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    pub(crate) offset: Option<u64>,
    /// How often it was given to a handler.
    pub(crate) deliveries: u32,
}

impl Entry {
    pub(crate) fn new(message: Arc<Message>, offset: Option<u64>) -> Self {
        Self {
            message,
            offset,
            deliveries: 0,
        }
    }
}

impl Keyed for Entry {
    fn key(&self) -> Option<&Arc<str>> {
        self.message.key.as_ref()
    }
}

/// The messages of a group.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `None` for that of a subscriber without a group.
    pub(crate) group: Option<Group>,
    inner: Mutex<Inner>,
    /// What the messages take, those being handled included.
    bytes: AtomicUsize,
    /// Told once for each message that may be taken.
    ready: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: KeyedQueue<Entry>,
    later: BinaryHeap<Later>,
    /// Breaks ties among those that are due at once.
    count: u64,
    removed: bool,
}

/// A message that waits for its time.
#[derive(Debug)]
struct Later {
    due: Instant,
    number: u64,
    entry: Entry,
}

impl Ord for Later {
    // The heap's first is the greatest.
    fn cmp(&self, other: &Self) -> Compared {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<Compared> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Compared::Equal
    }
}

impl Eq for Later {}

enum Next {
    Message(Entry),
    /// Nothing until then, or until told.
    Wait(Option<Instant>),
    Removed,
}

impl Queue {
    pub(crate) fn new(group: Option<Group>) -> Self {
        Self {
            group,
            inner: Mutex::default(),
            bytes: AtomicUsize::new(0),
            ready: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many more bytes find room. Only the topic adds, one message at a time.
    pub(crate) fn has_room(&self, cost: usize, max_bytes: usize) -> bool {
        self.bytes.load(Ordering::Relaxed).saturating_add(cost) <= max_bytes
    }

    pub(crate) fn push(&self, entry: Entry, cost: usize) {
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        self.lock().waiting.push(entry);
        self.ready.notify_one();
    }

    /// Takes the next message out.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Ticket> {
        loop {
            match self.next() {
                Next::Message(entry) => {
                    return Ok(Ticket {
                        queue: Arc::clone(self),
                        entry: Some(entry),
                    });
                }
                Next::Removed => return Err(Error::not_found("the group was removed")),
                Next::Wait(None) => self.ready.notified().await,
                Next::Wait(Some(due)) => {
                    tokio::select! {
                        () = self.ready.notified() => {}
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    fn next(&self) -> Next {
        let mut inner = self.lock();
        if inner.removed {
            return Next::Removed;
        }
        // The clock is asked only if something waits for it.
        if !inner.later.is_empty() {
            let now = Instant::now();
            while inner.later.peek().is_some_and(|later| later.due <= now) {
                if let Some(later) = inner.later.pop() {
                    inner.waiting.push(later.entry);
                    // Whoever waited for this moment takes one; the others are for others.
                    self.ready.notify_one();
                }
            }
        }
        match inner.waiting.pop() {
            Some(mut entry) => {
                entry.deliveries += 1;
                // The queue holds one permit at most: who takes a message sees that the next is taken.
                if !inner.waiting.is_empty() {
                    self.ready.notify_one();
                }
                Next::Message(entry)
            }
            None => Next::Wait(inner.later.peek().map(|later| later.due)),
        }
    }

    /// Forgets everything; members get nothing more.
    pub(crate) fn remove(&self) {
        let mut inner = self.lock();
        inner.removed = true;
        inner.waiting = KeyedQueue::new();
        inner.later.clear();
        drop(inner);
        self.ready.notify_waiters();
        // One that is about to wait finds this.
        self.ready.notify_one();
    }

    fn release(&self, inner: &mut Inner, entry: &Entry) {
        if let Some(key) = entry.key()
            && inner.waiting.release(key)
        {
            self.ready.notify_one();
        }
    }
}

/// A message that is out of its queue. Dropped without being settled, it goes back, to be delivered to
/// another at once.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    entry: Option<Entry>,
}

impl Ticket {
    pub(crate) fn entry(&self) -> &Entry {
        self.entry.as_ref().expect("only settling takes it")
    }

    /// The message is done with.
    pub(crate) fn done(mut self) {
        if let Some(entry) = self.entry.take() {
            self.queue
                .bytes
                .fetch_sub(cost(&entry.message), Ordering::Relaxed);
            let mut inner = self.queue.lock();
            self.queue.release(&mut inner, &entry);
        }
    }

    /// The message comes again after so long.
    pub(crate) fn later(mut self, pause: Duration) {
        if let Some(entry) = self.entry.take() {
            let mut inner = self.queue.lock();
            self.queue.release(&mut inner, &entry);
            inner.count += 1;
            let number = inner.count;
            let due = Instant::now() + pause;
            inner.later.push(Later { due, number, entry });
            drop(inner);
            // Somebody has to wait for it, and this member may be about to leave.
            self.queue.ready.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let mut inner = self.queue.lock();
            self.queue.release(&mut inner, &entry);
            inner.waiting.push(entry);
            drop(inner);
            self.queue.ready.notify_one();
        }
    }
}
