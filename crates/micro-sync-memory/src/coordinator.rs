//! The coordinator of this crate.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_core::SystemClock;
use micro_sync_core::{
    Capabilities, Clock, Coordinator, ElectOptions, Error, Hold, LeaderStream, Leadership, Lock,
    LockOptions, Result, Tenure, async_trait, check_elect, check_lock, check_name,
};
use tokio::time::timeout;

use crate::seats::{Entry, Held, Seats, Ticket};

/// A coordinator within this process. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryCoordinator {
    seats: Arc<Seats>,
    namespace: Arc<str>,
}

impl MemoryCoordinator {
    /// A coordinator that counts its incarnations by the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            seats: Seats::new(clock),
            namespace: Arc::from(""),
        }
    }

    /// The same coordinator, with names that are apart from those of other namespaces.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            seats: Arc::clone(&self.seats),
            namespace: Arc::from(namespace),
        }
    }

    /// Takes a lock or leadership away from whoever has it, as an outage or an expiry does elsewhere:
    /// for tests. Whether somebody had it.
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn take_away(&self, name: &str) -> bool {
        self.seats.take_away(&self.key(name))
    }

    fn key(&self, name: &str) -> Arc<str> {
        if self.namespace.is_empty() {
            return Arc::from(name);
        }
        // No name has a colon in it.
        Arc::from(format!("{}:{name}", self.namespace))
    }

    async fn wait(&self, name: &str, value: String, wait: Option<Duration>) -> Result<Lock> {
        let key = self.key(name);
        let (ticket, held) = match self.seats.enter(&key, value, true)? {
            Entry::Held(ticket, held) => (ticket, held),
            Entry::Queued(ticket, given) => {
                let given = match wait {
                    Some(wait) => timeout(wait, given).await.map_err(|_| {
                        Error::deadline_exceeded("another holds the lock all the time")
                            .with_context("lock", name)
                    })?,
                    None => given.await,
                };
                let held = given.map_err(|_| Error::internal("a place in the queue is gone"))?;
                (ticket, held)
            }
            Entry::Taken => return Err(Error::internal("it was to wait")),
        };
        Ok(self.lock_of(name, &key, ticket, held))
    }

    fn lock_of(&self, name: &str, key: &Arc<str>, ticket: Ticket, held: Held) -> Lock {
        let (token, tenure) = held;
        let hold = MemoryHold {
            ticket,
            tenure: Arc::clone(&tenure),
        };
        let name = if self.namespace.is_empty() {
            Arc::clone(key)
        } else {
            Arc::from(name)
        };
        Lock::new(name, token, tenure, Box::new(hold))
    }
}

impl Default for MemoryCoordinator {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Coordinator for MemoryCoordinator {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_fair(true)
    }

    async fn lock(&self, name: &str, opts: LockOptions) -> Result<Lock> {
        check_lock(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.lock"))?;
        let lock = self.wait(name, String::new(), opts.wait).await;
        lock.map_err(|err| err.with_operation("sync.lock"))
    }

    async fn try_lock(&self, name: &str, opts: LockOptions) -> Result<Option<Lock>> {
        check_lock(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.try_lock"))?;
        let key = self.key(name);
        Ok(match self.seats.enter(&key, String::new(), false)? {
            Entry::Held(ticket, held) => Some(self.lock_of(name, &key, ticket, held)),
            Entry::Queued(..) | Entry::Taken => None,
        })
    }

    async fn elect(&self, name: &str, opts: ElectOptions) -> Result<Leadership> {
        check_elect(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.elect"))?;
        let lock = self.wait(name, opts.value.clone(), opts.wait).await;
        let lock = lock.map_err(|err| err.with_operation("sync.elect"))?;
        Ok(Leadership::new(lock, opts.value))
    }

    async fn observe(&self, name: &str) -> Result<LeaderStream> {
        check_name(name).map_err(|err| err.with_operation("sync.observe"))?;
        let observer = self.seats.observe(&self.key(name));
        Ok(Box::pin(stream::unfold(observer, async |mut observer| {
            let leader = observer.next().await?;
            Some((Ok(leader), observer))
        })))
    }
}

#[derive(Debug)]
struct MemoryHold {
    ticket: Ticket,
    tenure: Arc<Tenure>,
}

#[async_trait]
impl Hold for MemoryHold {
    async fn verify(&self) -> Result<()> {
        if self.tenure.is_held() {
            return Ok(());
        }
        Err(self.tenure.error())
    }

    async fn release(self: Box<Self>) -> Result<()> {
        if self.ticket.give_back() {
            return Ok(());
        }
        Err(self.tenure.error())
    }
}
