//! The coordinator of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use micro_core::Random;
use micro_lease::Keeper;
use micro_sync_core::{
    Capabilities, Clock, Coordinator, ElectOptions, Env, Error, ErrorKind, LeaderStream,
    Leadership, Lock, LockOptions, Result, async_trait, check_elect, check_lock, check_name,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::RedisSyncConfig;
use crate::lease::RedisLease;
use crate::observer::Observer;
use crate::place::Place;
use crate::table::{Table, Taken};
use crate::words::Words;

/// Less would be gone with a slow answer.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Whoever waits and is not heard of for so long is not waited for.
const ALIVE: Duration = Duration::from_secs(3);

/// So often whoever waits looks by itself, and says so that it is there.
const LOOK: Duration = Duration::from_secs(1);

/// Locks and leaderships in one Redis. Clones share its connection.
#[derive(Clone)]
pub struct RedisCoordinator(Arc<Shared>);

struct Shared {
    table: Arc<Table>,
    words: Arc<Words>,
    config: RedisSyncConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// What the attempts of this one begin with.
    handle: String,
}

impl RedisCoordinator {
    /// A coordinator that begins to connect.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together; `FailedPrecondition` outside of a tokio runtime.
    pub fn new(config: RedisSyncConfig) -> Result<Self> {
        Self::open(config, &Env::new())
    }

    /// The same with a program's clock, chance and namespace.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together; `FailedPrecondition` outside of a tokio runtime.
    pub fn open(config: RedisSyncConfig, env: &Env) -> Result<Self> {
        config.check()?;
        let random = Arc::clone(env.random());
        let table = Table::open(&config, env.namespace(), &random)?;
        Ok(Self(Arc::new(Shared {
            table: Arc::new(table),
            words: Arc::default(),
            config,
            clock: Arc::clone(env.clock()),
            handle: format!("{:016x}", random.next_u64()),
            random,
        })))
    }

    /// An attempt, by a name that nobody else has.
    fn attempt(&self, name: &str) -> Arc<Place> {
        let (random, handle) = (&self.0.random, &self.0.handle);
        let owner = format!(
            "{handle}:{:016x}{:016x}",
            random.next_u64(),
            random.next_u64()
        );
        Arc::new(Place::new(&self.0.table, &self.0.words, name, owner))
    }

    /// Takes the lock, or waits for it as long as `alive`; then the error is of kind `Locked`, and the second
    /// says what there is to wait for.
    async fn take(
        &self,
        place: &Arc<Place>,
        value: &str,
        ttl: Duration,
        alive: Option<Duration>,
    ) -> (Result<Keeper<RedisLease>>, Option<Taken>) {
        let (tell, told) = oneshot::channel();
        let (table, place, value) = (
            Arc::clone(&self.0.table),
            Arc::clone(place),
            value.to_owned(),
        );
        // It has the place: if we go away, what comes of it is forgotten when it has come.
        let grant = async move {
            place.asks();
            let taken = table.take(&place.name, &place.owner, &value, ttl, alive);
            match taken.await.map_err(nothing_held)? {
                Taken::Ours(token) => {
                    place.settled();
                    Ok(RedisLease {
                        table,
                        name: place.name.clone(),
                        owner: place.owner.clone(),
                        token,
                        ttl,
                    })
                }
                other => {
                    if matches!(other, Taken::Held) {
                        place.settled();
                    }
                    let _ = tell.send(other);
                    Err(Error::locked("another holds the lock"))
                }
            }
        };
        let keeper = Keeper::begin(Arc::clone(&self.0.clock), ttl, grant).await;
        (keeper, told.await.ok())
    }

    async fn wait(
        &self,
        name: &str,
        value: &str,
        ttl: Duration,
        wait: Option<Duration>,
    ) -> Result<Lock> {
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let place = self.attempt(name);
        loop {
            let taken = match self.take(&place, value, ttl, Some(ALIVE)).await {
                (Ok(keeper), _) => return Ok(self.lock_of(name, keeper)),
                (Err(err), taken) if err.kind() == ErrorKind::Locked => taken,
                (Err(err), _) => return Err(err),
            };
            self.listen()?;
            let look = match taken {
                // Redis counts in milliseconds.
                Some(Taken::Next(Some(left))) => LOOK.min(left + Duration::from_millis(1)),
                _ => LOOK,
            };
            tokio::select! {
                biased;
                () = &mut over => {
                    return Err(Error::deadline_exceeded("others hold the lock all the time"));
                }
                () = place.turn.notified() => {}
                () = sleep(look) => {}
            }
        }
    }

    fn listen(&self) -> Result<()> {
        let Shared {
            table,
            words,
            random,
            handle,
            ..
        } = &*self.0;
        words.listen(&table.words(handle), &table.connection, random)
    }

    fn lock_of(&self, name: &str, keeper: Keeper<RedisLease>) -> Lock {
        let token = self.0.table.token(keeper.lease().token);
        keeper.into_lock(name, token)
    }
}

impl fmt::Debug for RedisCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCoordinator")
            .field("config", &self.0.config)
            .field("table", &self.0.table)
            .finish_non_exhaustive()
    }
}

/// Whatever has become of it is taken back, or ends by itself.
fn nothing_held(err: Error) -> Error {
    if err.kind() != ErrorKind::OutcomeUnknown {
        return err;
    }
    Error::unavailable("Redis does not answer").with_source(err)
}

/// Says where an error comes from.
fn at(operation: &'static str, name: &str) -> impl Fn(Error) -> Error {
    move |err| err.with_operation(operation).with_context("lock", name)
}

#[async_trait]
impl Coordinator for RedisCoordinator {
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
        let place = self.attempt(name);
        match self.take(&place, "", opts.ttl, None).await.0 {
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
        let table = Arc::clone(&self.0.table);
        let leader = table.leader(name).await.map_err(at("sync.observe", name))?;
        let observer = Observer {
            table,
            name: name.to_owned(),
            random: Arc::clone(&self.0.random),
            poll: self.0.config.poll,
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
