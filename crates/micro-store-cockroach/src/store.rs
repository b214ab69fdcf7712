//! The store: changes go one by one or in a transaction, reads are repeated until they succeed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use micro_postgres::tokio_postgres::types::ToSql;
use micro_postgres::{Connection, Failure, Pool, Query, Server, Session};
use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, DeleteOptions, Deleted, Durability, Env, Error,
    Fence, ListOptions, Operation, Page, ReadOptions, Record, Result, Scope, ScopesOptions, Store,
    WatchOptions, WriteOptions, Written, async_trait, check_batch, check_delete, check_durability,
    check_fence, check_key, check_list, check_record, check_scopes, check_watch,
};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::order::Order;
use crate::statements::{COCKROACH, FENCE, POSTGRES, PURGE};
use crate::step::Step;
use crate::{CockroachConfig, SCHEME, read, schema};

/// A record that has expired or was deleted stays for so long, in milliseconds: longer than any statement
/// runs, so that a write that is under way meanwhile finds its version and takes a higher one.
const GRACE: i64 = 120_000;

/// So many are removed in one statement.
const PURGE_AT_ONCE: i64 = 1000;

/// A store in CockroachDB or PostgreSQL; clones share its connections.
#[derive(Clone)]
pub struct CockroachStore(Arc<Inner>);

struct Inner {
    pool: Pool,
    order: Arc<Order>,
    server: Server,
    durability: Durability,
    purge: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.purge.abort();
    }
}

impl CockroachStore {
    /// Connects, and makes the tables if they are not there: `micro_records`, `micro_fences` and the
    /// sequence `micro_versions`, in the first schema of the search path. Any number of processes may
    /// do so at once.
    ///
    /// It needs a tokio runtime, which its connections live on.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `Unavailable` if no server is there
    /// within the `timeout`; `Unauthenticated` if it refuses who we are; `PermissionDenied` if the
    /// tables are not there and we may not make them; `FailedPrecondition` if they have another layout,
    /// or there is no such database.
    pub async fn open(config: CockroachConfig, env: &Env) -> Result<Self> {
        let opened = async {
            config.check()?;
            let session = Session::new(POSTGRES, COCKROACH);
            let random = Arc::clone(env.random());
            let pool = Pool::new(config.database.clone(), session, Arc::clone(&random))?;
            let (server, durability) = schema::prepare(&pool).await?;
            if durability < Durability::Power {
                tracing::warn!(
                    servers = %config.database.endpoints.join(" "),
                    "fsync is off in this database: what is written does not survive a power cut"
                );
            }
            let jitter = move || random.next_u64() % 1024;
            let purge = tokio::spawn(purge(pool.clone(), config.purge, jitter));
            Ok(Self(Arc::new(Inner {
                pool,
                order: Arc::new(Order::new(Handle::current())),
                server,
                durability,
                purge: purge.abort_handle(),
            })))
        };
        opened
            .await
            .map_err(|err: Error| err.with_operation("store.open"))
    }

    /// Makes changes, all or none.
    async fn change(&self, operations: Vec<Operation>) -> Result<Vec<u64>> {
        let steps = operations.into_iter().map(Step::new);
        let steps: Arc<[Step]> = steps.collect::<Result<Vec<_>>>()?.into();
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        // What was sent ends by itself in this time.
        let longest = self.0.pool.config().timeout * 2;
        timeout(longest, self.0.order.settled())
            .await
            .map_err(|_| {
                Error::unavailable("a change that was dropped is still under way; try later")
            })?;
        self.0
            .pool
            .attempt(|connection| self.0.order.finish(make(connection, Arc::clone(&steps))))
            .await
    }

    fn check_durability(&self, asked: Option<Durability>) -> Result<()> {
        check_durability(asked, self.0.durability)
    }
}

/// Makes changes once.
async fn make(connection: Connection, steps: Arc<[Step]>) -> Result<Vec<u64>, Failure> {
    if let [step] = &*steps
        && step.fence().is_none()
    {
        // A statement by itself is a transaction, and needs no more than one round trip.
        let columns = step.columns();
        let rows = connection.query(&columns.query()).await?;
        return match step.outcome(&rows) {
            Ok(version) => Ok(vec![version]),
            Err(err) => Err(Failure::failed(err)),
        };
    }
    // All who change several rows lock them in the same order: fences, then records.
    let mut fences: Vec<(&str, &Fence)> = steps
        .iter()
        .filter_map(|step| Some((step.database(), step.fence()?)))
        .collect();
    fences.sort_by(|one, other| one.1.name.cmp(&other.1.name));
    fences.dedup_by(|one, other| one.1.name == other.1.name);
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by(|&one, &other| {
        steps[one]
            .place()
            .order()
            .cmp(&steps[other].place().order())
    });
    let tokens: Vec<_> = fences
        .iter()
        .map(|(database, fence)| {
            let token = [
                fence.token.epoch.to_be_bytes(),
                fence.token.seq.to_be_bytes(),
            ]
            .concat();
            (database.as_bytes(), fence.name.as_bytes(), token)
        })
        .collect();
    let columns: Vec<_> = steps.iter().map(Step::columns).collect();
    let mut queries = Vec::with_capacity(tokens.len() + columns.len());
    for (database, name, token) in &tokens {
        let params: Vec<&(dyn ToSql + Sync)> = vec![database, name, token];
        queries.push(Query::new(FENCE, params));
    }
    queries.extend(order.iter().map(|&i| columns[i].query()));
    let mut answers = connection.begin(&queries).await?;
    let by_order = answers.split_off(tokens.len());
    let mut lost: Vec<&str> = Vec::new();
    for ((_, fence), rows) in fences.iter().zip(&answers) {
        if rows.is_empty() {
            lost.push(&fence.name);
        }
    }
    let mut rows = vec![None; steps.len()];
    for (i, answer) in order.into_iter().zip(&by_order) {
        rows[i] = Some(answer);
    }
    let mut versions = Vec::with_capacity(steps.len());
    for (step, rows) in steps.iter().zip(rows) {
        let held = match step.fence() {
            Some(fence) if lost.contains(&&*fence.name) => Err(stale(fence)),
            _ => step.outcome(rows.map_or(&[], Vec::as_slice)),
        };
        match held {
            Ok(version) => versions.push(version),
            Err(err) => {
                connection.rollback().await;
                return Err(Failure::failed(err));
            }
        }
    }
    connection.commit().await?;
    Ok(versions)
}

/// The error for a lock of which a higher token was seen.
fn stale(fence: &Fence) -> Error {
    let seen = micro_store_core::FencingToken::new(u64::MAX, u64::MAX);
    check_fence(fence, Some(seen))
        .err()
        .unwrap_or_else(|| Error::lost("the lock is lost"))
}

/// Removes what is over, for good, now and then.
async fn purge(pool: Pool, every: Duration, jitter: impl Fn() -> u64 + Send) {
    loop {
        // Between half and one and a half, so that the handles of a fleet do not come together.
        sleep(every.mul_f64(0.5 + jitter() as f64 / 1024.0)).await;
        loop {
            let removed = pool.attempt(|connection: Connection| async move {
                let query = Query::new(PURGE, vec![&GRACE, &PURGE_AT_ONCE]);
                connection.change(&query).await.map_err(Failure::harmless)
            });
            match removed.await {
                Ok(removed) if removed >= PURGE_AT_ONCE.unsigned_abs() => {}
                Ok(_) => break,
                Err(err) => {
                    tracing::debug!(error = %err, "expired records stay for now");
                    break;
                }
            }
        }
    }
}

impl fmt::Debug for CockroachStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CockroachStore")
            .field("pool", &self.0.pool)
            .field("server", &self.0.server)
            .field("durability", &self.0.durability)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for CockroachStore {
    fn backend(&self) -> &'static str {
        match self.0.server {
            Server::Cockroach => SCHEME,
            _ => "postgres",
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.0.durability).with_shared(true)
    }

    async fn read(&self, scope: &Scope, key: &str, _opts: ReadOptions) -> Result<Record> {
        let read = async {
            check_key(key)?;
            read::read(&self.0.pool, scope, key).await
        };
        read.await.map_err(|err| err.with_operation("store.read"))
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        let write = async {
            check_record(&record, &opts)?;
            self.check_durability(opts.durability)?;
            let operation = Operation::write_with(scope, record, opts);
            self.change(vec![operation]).await
        };
        let versions = write
            .await
            .map_err(|err| err.with_operation("store.write"))?;
        let version = versions.first().copied().unwrap_or_default();
        Ok(Written::new(version, self.0.durability))
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        let delete = async {
            check_delete(key, &opts)?;
            self.check_durability(opts.durability)?;
            let operation = Operation::delete_with(scope, key, opts);
            self.change(vec![operation]).await
        };
        let versions = delete
            .await
            .map_err(|err| err.with_operation("store.delete"))?;
        let existed = versions.first().is_some_and(|version| *version > 0);
        Ok(Deleted::new(existed, self.0.durability))
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        let batch = async {
            check_batch(&operations)?;
            let asked = operations.iter().map(Operation::durability).max().flatten();
            self.check_durability(opts.durability.max(asked))?;
            self.change(operations).await
        };
        let versions = batch
            .await
            .map_err(|err| err.with_operation("store.batch"))?;
        Ok(versions
            .into_iter()
            .map(|version| Written::new(version, self.0.durability))
            .collect())
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        let list = async {
            check_list(&opts)?;
            read::list(&self.0.pool, scope, &opts).await
        };
        list.await.map_err(|err| err.with_operation("store.list"))
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        let scopes = async {
            check_scopes(&opts)?;
            read::scopes(&self.0.pool, &opts).await
        };
        scopes
            .await
            .map_err(|err| err.with_operation("store.scopes"))
    }

    async fn watch(&self, _scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        check_watch(&opts)?;
        Err(
            Error::unimplemented("a store in a database has no watches: it could miss changes")
                .with_operation("store.watch"),
        )
    }
}
