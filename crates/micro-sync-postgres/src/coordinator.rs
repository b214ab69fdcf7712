//! The coordinator of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_core::Random;
use micro_lease::Keeper;
use micro_postgres::Pool;
use micro_sync_core::{
    Capabilities, Clock, Coordinator, ElectOptions, Env, Error, ErrorKind, LeaderStream,
    Leadership, Lock, LockOptions, Result, async_trait, check_elect, check_lock, check_name,
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, sleep_until};

use crate::PostgresSyncConfig;
use crate::doors::{Door, Doors};
use crate::observer::Observer;
use crate::row::Row;
use crate::table::{self, Key};

/// Less would be gone with a slow answer.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Locks and leaderships in a table. Clones share its connections.
#[derive(Clone)]
pub struct PostgresCoordinator(Arc<Shared>);

struct Shared {
    pool: Pool,
    config: PostgresSyncConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    namespace: String,
    /// Whether the table is known to be there.
    ready: OnceCell<()>,
    doors: Doors,
}

impl PostgresCoordinator {
    /// A coordinator that is not connected yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together; `FailedPrecondition` outside of a tokio runtime.
    pub fn new(config: PostgresSyncConfig) -> Result<Self> {
        Self::open(config, &Env::new())
    }

    /// The same with a program's clock, chance and namespace.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together; `FailedPrecondition` outside of a tokio runtime.
    pub fn open(config: PostgresSyncConfig, env: &Env) -> Result<Self> {
        config.check()?;
        let random = Arc::clone(env.random());
        let pool = Pool::new(config.postgres.clone(), table::SESSION, Arc::clone(&random))?;
        Ok(Self(Arc::new(Shared {
            pool,
            config,
            clock: Arc::clone(env.clock()),
            random,
            namespace: env.namespace().to_owned(),
            ready: OnceCell::new(),
            doors: Doors::default(),
        })))
    }

    fn key(&self, name: &str) -> Arc<Key> {
        Arc::new(Key {
            namespace: self.0.namespace.clone(),
            name: name.to_owned(),
        })
    }

    /// The connections, once the table is there.
    async fn pool(&self) -> Result<&Pool> {
        let pool = &self.0.pool;
        self.0
            .ready
            .get_or_try_init(|| table::prepare(pool))
            .await?;
        Ok(pool)
    }

    fn pauses(&self) -> Pauses {
        Pauses {
            random: Arc::clone(&self.0.random),
            mean: self.0.config.poll,
        }
    }

    /// Takes the row. An error of kind `Locked` says that another has it.
    async fn take(
        &self,
        key: &Arc<Key>,
        door: &Arc<Door>,
        value: &str,
        ttl: Duration,
    ) -> Result<Keeper<Row>> {
        let pool = self.pool().await?.clone();
        let (key, door, value) = (Arc::clone(key), Arc::clone(door), value.to_owned());
        let random = &self.0.random;
        let owner = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        let grant = async move {
            let taken = table::take(&pool, &key, &owner, &value, ttl.as_secs_f64()).await?;
            let token = taken.ok_or_else(|| Error::locked("another holds the lock"))?;
            Ok(Row {
                pool,
                key,
                token,
                owner,
                ttl,
                door,
            })
        };
        Keeper::begin(Arc::clone(&self.0.clock), ttl, grant).await
    }

    async fn wait(
        &self,
        name: &str,
        value: &str,
        ttl: Duration,
        wait: Option<Duration>,
    ) -> Result<Lock> {
        let key = self.key(name);
        let door = self.0.doors.of(&key);
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let late = || Error::deadline_exceeded("others hold the lock all the time");
        let pauses = self.pauses();
        let _turn = tokio::select! {
            biased;
            turn = door.turn.lock() => turn,
            () = &mut over => return Err(late()),
        };
        loop {
            match self.take(&key, &door, value, ttl).await {
                Ok(keeper) => return Ok(self.lock_of(name, keeper)),
                Err(err) if err.kind() == ErrorKind::Locked => {}
                Err(err) => return Err(err),
            }
            tokio::select! {
                biased;
                () = &mut over => return Err(late()),
                () = door.freed.notified() => {}
                () = pauses.pause() => {}
            }
        }
    }

    fn lock_of(&self, name: &str, keeper: Keeper<Row>) -> Lock {
        let token = table::token(self.0.config.epoch, keeper.lease().token);
        keeper.into_lock(name, token)
    }
}

impl fmt::Debug for PostgresCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresCoordinator")
            .field("config", &self.0.config)
            .field("namespace", &self.0.namespace)
            .finish_non_exhaustive()
    }
}

/// Pauses between one look and the next, jittered: those who wait for one name do not ask together.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    random: Arc<dyn Random>,
    mean: Duration,
}

impl Pauses {
    pub(crate) async fn pause(&self) {
        let micros = u64::try_from(self.mean.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let micros = micros / 2 + self.random.next_u64() % micros;
        sleep(Duration::from_micros(micros)).await;
    }
}

/// Says where an error comes from.
fn at(operation: &'static str, name: &str) -> impl Fn(Error) -> Error {
    move |err| err.with_operation(operation).with_context("lock", name)
}

#[async_trait]
impl Coordinator for PostgresCoordinator {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
            .with_shared(true)
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
        let key = self.key(name);
        let door = self.0.doors.of(&key);
        match self.take(&key, &door, "", opts.ttl).await {
            Ok(keeper) => Ok(Some(self.lock_of(name, keeper))),
            Err(err) if err.kind() == ErrorKind::Locked => Ok(None),
            Err(err) => Err(at("sync.try_lock", name)(err)),
        }
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
        let at = at("sync.observe", name);
        let pool = self.pool().await.map_err(&at)?;
        let key = self.key(name);
        let epoch = self.0.config.epoch;
        let leader = table::leader(pool, &key, epoch).await.map_err(&at)?;
        let observer = Observer {
            pool: pool.clone(),
            key,
            epoch,
            pauses: self.pauses(),
            leader,
            told: false,
        };
        // The first error is the last item.
        Ok(Box::pin(stream::unfold(Some(observer), async |observer| {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(err) => Some((Err(err.with_operation("sync.observe")), None)),
            }
        })))
    }
}
