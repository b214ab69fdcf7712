//! The store: one script for each change, one command for each read.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use micro_core::Random;
use micro_redis::redis::{Value, cmd};
use micro_redis::{Connection, Effect, Greeting, Link, Script, Subscription};
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, Durability, Error,
    ListOptions, Operation, Page, ReadOptions, Record, Result, Scope, ScopesOptions, Store,
    WatchOptions, WriteOptions, Written, async_trait, check_batch, check_delete, check_durability,
    check_key, check_list, check_record, check_scopes, check_watch, no_record,
};
use tokio::time::Instant;

use crate::change::{self, CHANGE, Maker};
use crate::envelope;
use crate::facts::Facts;
use crate::list::{Filling, LIST, Stretch};
use crate::names::{Names, behind, scope_entry, scope_of};
use crate::{RedisStoreConfig, SCHEME, watch};

static TIDY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/prelude.lua"),
        include_str!("lua/tidy.lua")
    ))
});

/// So many expired records are taken out by a script that does nothing else.
const PURGE: usize = 256;

/// A store in Redis; clones share a connection.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    config: RedisStoreConfig,
    connection: Connection,
    names: Names,
    /// Tells this handle's changes from those of others.
    handle: String,
    facts: KnownFacts,
}

/// What is known of the server, once it was asked.
type KnownFacts = Arc<Mutex<Option<Facts>>>;

/// Asks the server over each connection: after a reconnection it may be another one, or be set up
/// in another way.
fn greeting(config: RedisStoreConfig, names: Names, known: KnownFacts) -> Greeting {
    let common = Arc::new((config, names, known));
    Arc::new(move |link| {
        let common = Arc::clone(&common);
        Box::pin(async move {
            let (config, names, known) = &*common;
            let deadline = Instant::now() + config.server.timeout;
            let facts = Facts::ask(&link, config, names, deadline).await?;
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let before = known.replace(facts).map(|before| before.durability);
            if before != Some(facts.durability) {
                tracing::info!(
                    server = %config.server.endpoint,
                    survive = ?facts.durability,
                    "what changes in this Redis survive, as it is set up"
                );
            }
            Ok(())
        })
    })
}

impl RedisStore {
    /// Opens the store, and asks the server how it is set up.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `Unavailable` if the server cannot be
    /// reached; `Unauthenticated` and `PermissionDenied` if it refuses us, or something that we need;
    /// `FailedPrecondition` if it is a replica, or of a cluster, or drops records when it is full;
    /// outside of a tokio runtime, too.
    pub async fn open(config: RedisStoreConfig, random: &Arc<dyn Random>) -> Result<Self> {
        config
            .check()
            .map_err(|err| err.with_operation("store.open"))?;
        let names = Names::new(&config.prefix);
        let facts = Arc::new(Mutex::new(None));
        let greeting = greeting(config.clone(), names.clone(), Arc::clone(&facts));
        let open = async {
            let server = config.server.clone();
            let connection = Connection::open_greeted(server, random, greeting)?;
            let deadline = Instant::now() + config.server.connect;
            connection.link(deadline).await?;
            Ok(connection)
        };
        let connection = open
            .await
            .map_err(|err: Error| err.with_operation("store.open"))?;
        let handle = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        Ok(Self(Arc::new(Inner {
            config,
            connection,
            names,
            handle,
            facts,
        })))
    }

    /// What changes over a link survive; over none in particular, over the newest.
    fn durability(&self, link: Option<&Link>) -> Durability {
        let facts = self.0.facts.lock().unwrap_or_else(PoisonError::into_inner);
        match &*facts {
            Some(facts) if link.is_none_or(|link| link.epoch() == facts.epoch) => facts.durability,
            _ => Durability::Memory,
        }
    }

    /// Makes changes, all or none; answers with their versions and what they survive.
    async fn change(
        &self,
        operations: &[Operation],
        asked: Option<Durability>,
    ) -> Result<(Vec<u64>, Durability)> {
        let deadline = self.0.connection.deadline();
        let link = self.0.connection.link(deadline).await?;
        let durability = self.durability(Some(&link));
        check_durability(asked, durability)?;
        if operations.is_empty() {
            return Ok((Vec::new(), durability));
        }
        let maker = Maker {
            handle: &self.0.handle,
            epoch: link.epoch(),
        };
        let invocation = change::invocation(&self.0.names, maker, operations);
        let answer = link
            .run(&CHANGE, &invocation, Effect::Change, deadline)
            .await?;
        Ok((change::answer(answer, operations)?, durability))
    }

    /// Takes out what has expired in a database, and these places of a table if they are empty. It is no
    /// harm if that fails: somebody else will do it.
    pub(crate) async fn tidy(&self, scope: &Scope, gone: Vec<Vec<u8>>) {
        let mut invocation = TIDY.invocation();
        invocation
            .arg(1)
            .arg(self.0.names.version())
            .arg(self.0.names.root())
            .arg(scope.database())
            .arg(PURGE)
            .arg(scope.table())
            .arg(gone);
        let tidy = async {
            let deadline = self.0.connection.deadline();
            let link = self.0.connection.link(deadline).await?;
            link.run(&TIDY, &invocation, Effect::Change, deadline).await
        };
        if let Err(err) = tidy.await {
            tracing::debug!(%err, "what has expired in Redis was not taken out");
        }
    }

    async fn find(&self, scope: &Scope, key: &str) -> Result<Record> {
        check_key(key)?;
        let mut get = cmd("GET");
        get.arg(self.0.names.record(scope, key));
        let deadline = self.0.connection.deadline();
        match self.0.connection.ask(&get, deadline).await? {
            Value::BulkString(bytes) => envelope::open(key, Bytes::from(bytes), false),
            Value::Nil => Err(no_record(scope, key)),
            _ => Err(envelope::damaged()),
        }
    }

    async fn page(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        check_list(&opts)?;
        let mut filling = Filling::new(opts);
        loop {
            let invocation = filling.invocation(&self.0.names, scope);
            let deadline = self.0.connection.deadline();
            let answer = self
                .0
                .connection
                .ask_script(&LIST, &invocation, deadline)
                .await?;
            let stretch = filling.take(answer)?;
            if !filling.gone.is_empty() {
                self.tidy(scope, std::mem::take(&mut filling.gone)).await;
            }
            if stretch == Stretch::Done {
                return Ok(filling.page());
            }
        }
    }

    async fn tables(&self, opts: &ScopesOptions) -> Result<Vec<Scope>> {
        check_scopes(opts)?;
        let after = opts
            .after
            .as_ref()
            .map(|after| format!("({}", scope_entry(after)));
        let mut range = (b"-".to_vec(), b"+".to_vec());
        if let Some(database) = &opts.database {
            let prefix = format!("{database} ");
            let end = behind(&prefix).unwrap_or_default();
            range = (format!("[{prefix}").into(), [b"(", &*end].concat());
        }
        if let Some(after) = after
            && (range.0 == b"-" || after.as_bytes()[1..] > range.0[1..])
        {
            range.0 = after.into();
        }
        let mut list = cmd("ZRANGEBYLEX");
        list.arg(self.0.names.scopes())
            .arg(range.0)
            .arg(range.1)
            .arg("LIMIT")
            .arg(0)
            .arg(opts.limit);
        let deadline = self.0.connection.deadline();
        let Value::Array(entries) = self.0.connection.ask(&list, deadline).await? else {
            return Err(envelope::damaged());
        };
        entries
            .into_iter()
            .map(|entry| match entry {
                Value::BulkString(entry) => scope_of(&entry),
                _ => Err(envelope::damaged()),
            })
            .collect()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("config", &self.0.config)
            .field("connection", &self.0.connection)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedisStore {
    fn backend(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.durability(None))
            .with_watch(true)
            .with_shared(true)
    }

    async fn read(&self, scope: &Scope, key: &str, _opts: ReadOptions) -> Result<Record> {
        self.find(scope, key)
            .await
            .map_err(|err| err.with_operation("store.read"))
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        let write = async {
            check_record(&record, &opts)?;
            let asked = opts.durability;
            let operation = Operation::write_with(scope, record, opts);
            self.change(&[operation], asked).await
        };
        let (versions, durability) = write
            .await
            .map_err(|err| err.with_operation("store.write"))?;
        let version = versions.first().copied().unwrap_or_default();
        Ok(Written::new(version, durability))
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        let delete = async {
            check_delete(key, &opts)?;
            let asked = opts.durability;
            let operation = Operation::delete_with(scope, key, opts);
            self.change(&[operation], asked).await
        };
        let (versions, durability) = delete
            .await
            .map_err(|err| err.with_operation("store.delete"))?;
        let existed = versions.first().is_some_and(|version| *version > 0);
        Ok(Deleted::new(existed, durability))
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        let batch = async {
            check_batch(&operations)?;
            let asked = operations.iter().map(Operation::durability).max().flatten();
            self.change(&operations, opts.durability.max(asked)).await
        };
        let (versions, durability) = batch
            .await
            .map_err(|err| err.with_operation("store.batch"))?;
        Ok(versions
            .into_iter()
            .map(|version| Written::new(version, durability))
            .collect())
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        self.page(scope, opts)
            .await
            .map_err(|err| err.with_operation("store.list"))
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        self.tables(&opts)
            .await
            .map_err(|err| err.with_operation("store.scopes"))
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        let watch = async {
            check_watch(&opts)?;
            let channel = self.0.names.channel(scope);
            Subscription::open(&self.0.config.server, channel.as_bytes()).await
        };
        let messages = watch
            .await
            .map_err(|err| err.with_operation("store.watch"))?;
        Ok(watch::changes(
            self.clone(),
            scope.clone(),
            opts.prefix,
            messages,
        ))
    }
}
