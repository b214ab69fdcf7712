//! A connection that was borrowed from the pool.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool::managed::Object;
use futures_util::TryStreamExt as _;
use micro_core::Error;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::error::{Failure, Fate};
use crate::pool::Manager;

/// The server gives up a statement by itself after the `timeout`; its answer may be so much later.
const GRACE: Duration = Duration::from_millis(500);

/// What is read of one answer at most, in bytes.
const MOST: usize = 64 << 20;

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Server {
    /// PostgreSQL, or what passes for it.
    Postgres,
    /// CockroachDB.
    Cockroach,
}

/// A statement and its parameters.
#[derive(Debug)]
pub struct Query<'a> {
    sql: &'static str,
    params: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Query<'a> {
    /// A statement that stands in the program, so that nothing from outside is ever a part of one,
    /// and the values for its `$1`, `$2` and so on.
    #[must_use]
    pub fn new(sql: &'static str, params: Vec<&'a (dyn ToSql + Sync)>) -> Self {
        Self { sql, params }
    }
}

/// A connection to the server as the pool keeps it.
pub(crate) struct Wire {
    pub(crate) client: Client,
    pub(crate) server: Server,
    task: AbortHandle,
    /// How long to wait for an answer.
    limit: Duration,
    prepared: Mutex<HashMap<&'static str, Statement>>,
    /// It must not be used again.
    spoilt: AtomicBool,
}

impl Wire {
    pub(crate) fn new(
        client: Client,
        server: Server,
        task: AbortHandle,
        statement_timeout: Duration,
    ) -> Self {
        Self {
            client,
            server,
            task,
            limit: statement_timeout + GRACE,
            prepared: Mutex::default(),
            spoilt: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.spoilt.load(Ordering::Relaxed)
    }

    /// Ends the connection at once: whatever is under way on it gets no answer any more.
    fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
        self.task.abort();
    }

    /// Waits for the server, but not for ever. Nothing is sent on a connection that is closed already.
    pub(crate) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        if !self.is_usable() {
            let error = Error::unavailable("the connection to the database is lost");
            return Err(Failure::new(Fate::Again, error));
        }
        let failure = match timeout(self.limit, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(err)) => Failure::of(err),
            Err(_) => {
                let error = Error::unavailable("the database does not answer in time");
                Failure::lost(error)
            }
        };
        let stale = failure
            .code()
            .is_some_and(|code| matches!(code.code(), "25006" | "0A000" | "26000"));
        if failure.fate() == Fate::Unknown || stale {
            self.spoil();
        }
        Err(failure)
    }

    async fn prepare(&self, sql: &'static str) -> Result<Statement, Failure> {
        let known = self
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(sql)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let statement = self.ask(self.client.prepare(sql)).await;
        let statement = statement.map_err(Failure::harmless)?;
        self.prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sql, statement.clone());
        Ok(statement)
    }

    /// All rows, unless they are more than anybody asked for.
    async fn rows(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Vec<Row>>, tokio_postgres::Error> {
        let params = params.iter().copied();
        let mut stream = pin!(self.client.query_raw(statement, params).await?);
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some(row) = stream.try_next().await? {
            bytes += row.raw_size_bytes();
            if bytes > MOST {
                return Ok(None);
            }
            rows.push(row);
        }
        Ok(Some(rows))
    }

    fn all(&self, rows: Option<Vec<Row>>) -> Result<Vec<Row>, Failure> {
        rows.ok_or_else(|| {
            self.spoil();
            Failure::lost(Error::resource_exhausted(
                "the database answers with more than 64 MiB",
            ))
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Without the client, the task ends by itself and in good order; a stream that was left in
        // the middle, or a server that does not answer, must not keep it.
        if !self.is_usable() {
            self.task.abort();
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("server", &self.server)
            .field("usable", &self.is_usable())
            .finish_non_exhaustive()
    }
}

/// A connection of the [pool](crate::Pool), which gets it back when this is dropped; if a transaction
/// is open then, the connection is closed, and the server undoes it.
///
/// Any method may be dropped at any await. What was sent is not called back: the server goes on with
/// it, and the next who gets the connection waits behind it.
#[must_use = "dropped, it goes back to the pool"]
pub struct Connection {
    wire: Option<Object<Manager>>,
    /// Whether a transaction is open.
    open: AtomicBool,
}

impl Connection {
    pub(crate) fn new(wire: Object<Manager>) -> Self {
        Self {
            wire: Some(wire),
            open: AtomicBool::new(false),
        }
    }

    fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("it is taken by drop alone")
    }

    /// Which database this is.
    #[must_use]
    pub fn server(&self) -> Server {
        self.wire().server
    }

    /// Has the server look at a statement ahead of its use, once per connection.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` for a table or column that is not there; as [`query`](Self::query).
    pub async fn prepare(&self, sql: &'static str) -> Result<(), Failure> {
        self.wire().prepare(sql).await.map(drop)
    }

    /// Runs a statement by itself: when this returns, what it changed is committed.
    ///
    /// # Errors
    ///
    /// A [`Failure`] says what became of it.
    pub async fn query(&self, query: &Query<'_>) -> Result<Vec<Row>, Failure> {
        let wire = self.wire();
        let statement = wire.prepare(query.sql).await?;
        wire.all(wire.ask(wire.rows(&statement, &query.params)).await?)
    }

    /// As [`query`](Self::query), for a statement that returns no rows; answers how many it changed.
    ///
    /// # Errors
    ///
    /// A [`Failure`] says what became of it.
    pub async fn change(&self, query: &Query<'_>) -> Result<u64, Failure> {
        let wire = self.wire();
        let statement = wire.prepare(query.sql).await?;
        wire.ask(wire.client.execute(&statement, &query.params))
            .await
    }

    /// Runs statements of a constant text that have no parameters, such as those that make tables.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn run(&self, sql: &'static str) -> Result<(), Failure> {
        self.wire().ask(self.wire().client.batch_execute(sql)).await
    }

    /// Begins a transaction and runs statements in it: they are sent at once, one after the other,
    /// and the rows of each are returned. End it by [`commit`](Self::commit) or
    /// [`rollback`](Self::rollback).
    ///
    /// # Errors
    ///
    /// Nothing has happened then, whatever it is: [`Fate::Failed`] or [`Fate::Again`]. The transaction
    /// is over.
    pub async fn begin(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        let rows = self.try_begin(queries).await;
        match rows {
            Ok(rows) => Ok(rows),
            Err(failure) => {
                self.rollback().await;
                Err(failure.harmless())
            }
        }
    }

    async fn try_begin(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        let wire = self.wire();
        let mut statements = Vec::with_capacity(queries.len());
        for query in queries {
            statements.push(wire.prepare(query.sql).await?);
        }
        self.open.store(true, Ordering::Relaxed);
        // Not together with the rest: if it failed, each of them would be committed by itself.
        wire.ask(wire.client.batch_execute("BEGIN")).await?;
        let mut answers: Vec<_> = queries
            .iter()
            .zip(&statements)
            .map(|(query, statement)| Sent::Not(Box::pin(wire.rows(statement, &query.params))))
            .collect();
        // A request is sent when its future is polled for the first time.
        poll_fn(|cx| {
            for answer in &mut answers {
                answer.poll(cx);
            }
            Poll::Ready(())
        })
        .await;
        // Answers come in the order of the requests.
        let mut rows = Vec::with_capacity(answers.len());
        for mut answer in answers {
            let answer = poll_fn(|cx| answer.take(cx));
            rows.push(wire.all(wire.ask(answer).await?)?);
        }
        Ok(rows)
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// A [`Failure`] says what became of the transaction; it is over.
    pub async fn commit(&self) -> Result<(), Failure> {
        let wire = self.wire();
        match wire.ask(wire.client.batch_execute("COMMIT")).await {
            Ok(()) => {
                self.open.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(failure) => {
                // CockroachDB keeps a failed transaction open.
                self.rollback().await;
                Err(failure)
            }
        }
    }

    /// Undoes the transaction. If the server cannot be told, the connection is closed, which does it
    /// as well.
    pub async fn rollback(&self) {
        let wire = self.wire();
        if wire.is_usable() && self.open.load(Ordering::Relaxed) {
            match wire.ask(wire.client.batch_execute("ROLLBACK")).await {
                Ok(()) => self.open.store(false, Ordering::Relaxed),
                Err(_) => wire.spoil(),
            }
        }
    }
}

/// A request, before and after it was sent.
enum Sent<F: Future> {
    Not(Pin<Box<F>>),
    Answered(Option<F::Output>),
}

impl<F: Future> Sent<F> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::Not(future) = self
            && let Poll::Ready(answer) = future.as_mut().poll(cx)
        {
            *self = Self::Answered(Some(answer));
        }
    }

    fn take(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.poll(cx);
        match self {
            Self::Answered(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            Self::Not(_) => Poll::Pending,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take()
            && self.open.load(Ordering::Relaxed)
        {
            wire.spoil();
            drop(Object::take(wire));
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wire", &self.wire())
            .field("open", &self.open)
            .finish()
    }
}
