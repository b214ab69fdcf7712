//! The coordinator of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_consul::Client;
use micro_lease::Keeper;
use micro_sync_core::{
    Capabilities, Clock, Coordinator, ElectOptions, Env, Error, ErrorKind, Hold as _, LeaderStream,
    Leadership, Lock, LockOptions, Result, async_trait, check_elect, check_lock, check_name,
};
use tokio::time::{sleep, timeout};

use crate::ConsulSyncConfig;
use crate::lease::ConsulLease;
use crate::observer::{Observer, token};
use crate::queue::{self, Stand};

/// The shortest that a session of Consul's can have.
const MIN_TTL: Duration = Duration::from_secs(10);

/// How long to wait before the queue is looked at again, when it could not be.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Locks and leaderships in Consul. Clones share its connection.
#[derive(Clone)]
pub struct ConsulCoordinator {
    client: Client,
    config: Arc<ConsulSyncConfig>,
    clock: Arc<dyn Clock>,
    namespace: Arc<str>,
}

impl ConsulCoordinator {
    /// A coordinator; it connects when it is used.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together.
    pub fn new(config: ConsulSyncConfig) -> Result<Self> {
        Self::open(config, &Env::new())
    }

    /// The same with a program's clock and namespace.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together.
    pub fn open(config: ConsulSyncConfig, env: &Env) -> Result<Self> {
        config.check()?;
        Ok(Self {
            client: Client::new(&config.consul)?,
            config: Arc::new(config),
            clock: Arc::clone(env.clock()),
            namespace: Arc::from(env.namespace()),
        })
    }

    fn keys(&self, name: &str) -> String {
        self.config.keys_of(&self.namespace, name)
    }

    /// Gets a session and puts its key into the queue.
    async fn enter(
        &self,
        keys: &str,
        value: &str,
        ttl: Duration,
    ) -> Result<(Keeper<ConsulLease>, Stand)> {
        let grant = {
            let (client, keys) = (self.client.clone(), keys.to_owned());
            async move {
                let session = client.create_session("micro", ttl).await?;
                Ok(ConsulLease::new(client, session, &keys))
            }
        };
        let keeper = Keeper::begin(Arc::clone(&self.clock), ttl, grant).await?;
        let stand = queue::enter(&self.client, keys, keeper.lease(), value).await?;
        Ok((keeper, stand))
    }

    async fn wait(
        &self,
        name: &str,
        value: &str,
        ttl: Duration,
        wait: Option<Duration>,
    ) -> Result<Lock> {
        let keys = self.keys(name);
        let (keeper, stand) = self.enter(&keys, value, ttl).await?;
        let turn = async {
            tokio::select! {
                biased;
                lost = keeper.tenure().lost() => Err(fallen_out().with_source(lost)),
                turn = self.turn(&keys, keeper.lease(), stand) => turn,
            }
        };
        let turn = match wait {
            Some(wait) => timeout(wait, turn).await,
            None => Ok(turn.await),
        };
        match turn {
            Ok(Ok(created)) => Ok(self.lock_of(name, keeper, created)),
            Ok(Err(err)) => Err(err),
            Err(_) => {
                leave(keeper).await;
                Err(Error::deadline_exceeded(
                    "others hold the lock all the time",
                ))
            }
        }
    }

    /// Waits for one's turn; the index since which the lock is ours.
    async fn turn(&self, keys: &str, lease: &ConsulLease, stand: Stand) -> Result<u64> {
        let mut stand = stand;
        loop {
            let (before, since) = match stand {
                Stand::First(created) => return Ok(created),
                Stand::Behind(before, since) => (before, since),
                Stand::Gone => return Err(fallen_out()),
            };
            patiently(|| queue::gone(&self.client, &before, since)).await?;
            // Who stood before us may have given up: then there is another one before us.
            stand = patiently(|| queue::look(&self.client, keys, lease.key())).await?;
        }
    }

    fn lock_of(&self, name: &str, keeper: Keeper<ConsulLease>, created: u64) -> Lock {
        keeper.lease().hold(created);
        keeper.into_lock(name, token(self.config.epoch, created))
    }
}

impl fmt::Debug for ConsulCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulCoordinator")
            .field("client", &self.client)
            .field("prefix", &self.config.prefix)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Asks again as long as Consul cannot be reached; the caller's session ends that.
async fn patiently<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    loop {
        match ask().await {
            Err(err) if err.kind() == ErrorKind::Unavailable => sleep(LOOK_AGAIN).await,
            answer => return answer,
        }
    }
}

fn fallen_out() -> Error {
    Error::unavailable(
        "the place in the queue is lost: Consul was away, or somebody deleted the key",
    )
}

/// Leaves the queue before the answer, so that whoever comes next does not meet our key. Whether
/// Consul has heard it does not matter: it is told until the session has ended.
async fn leave(keeper: Keeper<ConsulLease>) {
    let _ = Box::new(keeper).release().await;
}

/// Says where an error comes from.
fn at(operation: &'static str, name: &str) -> impl Fn(Error) -> Error {
    move |err| err.with_operation(operation).with_context("lock", name)
}

#[async_trait]
impl Coordinator for ConsulCoordinator {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_shared(true)
            .with_fair(true)
            .with_min_ttl(MIN_TTL)
    }

    async fn lock(&self, name: &str, opts: LockOptions) -> Result<Lock> {
        check_lock(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.lock"))?;
        let lock = self.wait(name, "", opts.ttl, opts.wait).await;
        lock.map_err(at("sync.lock", name))
    }

    async fn try_lock(&self, name: &str, opts: LockOptions) -> Result<Option<Lock>> {
        check_lock(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.try_lock"))?;
        let keys = self.keys(name);
        let tried = async {
            // Whoever asks again and again costs a read each time, and no writes.
            if !queue::is_empty(&self.client, &keys).await? {
                return Ok(None);
            }
            let (keeper, stand) = self.enter(&keys, "", opts.ttl).await?;
            match stand {
                Stand::First(created) => Ok(Some(self.lock_of(name, keeper, created))),
                Stand::Behind(..) => {
                    leave(keeper).await;
                    Ok(None)
                }
                Stand::Gone => Err(fallen_out()),
            }
        };
        tried.await.map_err(at("sync.try_lock", name))
    }

    async fn elect(&self, name: &str, opts: ElectOptions) -> Result<Leadership> {
        check_elect(name, &opts, &self.capabilities())
            .map_err(|err| err.with_operation("sync.elect"))?;
        let lock = self.wait(name, &opts.value, opts.ttl, opts.wait).await;
        let lock = lock.map_err(at("sync.elect", name))?;
        Ok(Leadership::new(lock, opts.value))
    }

    async fn observe(&self, name: &str) -> Result<LeaderStream> {
        check_name(name).map_err(|err| err.with_operation("sync.observe"))?;
        let name = name.to_owned();
        let observer = Observer::begin(self.client.clone(), self.keys(&name), self.config.epoch)
            .await
            .map_err(at("sync.observe", &name))?;
        // The first error is the last item.
        Ok(Box::pin(stream::unfold(
            Some((observer, name)),
            async |state| {
                let (mut observer, name) = state?;
                match observer.next().await {
                    Ok(leader) => Some((Ok(leader), Some((observer, name)))),
                    Err(err) => Some((Err(at("sync.observe", &name)(err)), None)),
                }
            },
        )))
    }
}
