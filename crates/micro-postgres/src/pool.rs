//! Connections that are kept, and attempts that are repeated.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult};
use micro_core::{Error, Random, Result};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::SimpleQueryMessage;

use crate::connection::Wire;
use crate::dial::dial;
use crate::error::{Failure, Fate};
use crate::{Connection, PostgresConfig, Server};

/// Between attempts: full jitter up to a bound that doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(500));

/// A connection that was not used for so long is asked first whether it still works.
const IDLE: Duration = Duration::from_secs(30);

/// What is said to every new connection, in SQL.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Session {
    /// To PostgreSQL.
    pub postgres: &'static str,
    /// To CockroachDB.
    pub cockroach: &'static str,
}

impl Session {
    /// What is said to either.
    #[must_use]
    pub const fn new(postgres: &'static str, cockroach: &'static str) -> Self {
        Self {
            postgres,
            cockroach,
        }
    }
}

/// A bounded number of connections to one database. Clones share them.
///
/// They are made when they are needed, kept, and made anew when they are lost. Each runs in a task of
/// its own, which ends with it.
#[derive(Clone)]
pub struct Pool {
    pool: managed::Pool<Manager>,
    config: Arc<PostgresConfig>,
    random: Arc<dyn Random>,
}

impl Pool {
    /// A pool that has no connection yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `FailedPrecondition` outside of a tokio
    /// runtime.
    pub fn new(config: PostgresConfig, session: Session, random: Arc<dyn Random>) -> Result<Self> {
        config.check()?;
        let endpoints = config.endpoints.join(" ");
        if config.shouts() {
            tracing::warn!(
                servers = %endpoints,
                "the password may go to the database unencrypted: turn on TLS with 'tls=true' or 'ca'"
            );
        }
        let runtime = Handle::try_current().map_err(|err| {
            Error::failed_precondition("open this within a tokio runtime: it needs tasks")
                .with_operation("postgres.open")
                .with_source(err)
        })?;
        let config = Arc::new(config);
        let manager = Manager {
            config: Arc::clone(&config),
            session,
            runtime,
            next: AtomicUsize::new(0),
        };
        // The one that was used last is the warmest, on both sides.
        let pool = managed::Pool::builder(manager)
            .max_size(config.connections)
            .queue_mode(QueueMode::Lifo)
            .build();
        let pool = pool.map_err(|err| {
            Error::internal("the pool cannot be made")
                .with_operation("postgres.open")
                .with_source(err)
        })?;
        Ok(Self {
            pool,
            config,
            random,
        })
    }

    /// How it was opened.
    #[must_use]
    pub fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// A connection, once one is free; waits for that until `deadline`.
    ///
    /// # Errors
    ///
    /// [`Fate::Again`] if no server can be reached just now; [`Fate::Failed`] if none was free in time
    /// (`Unavailable`), the server refuses who we are (`Unauthenticated`), or certificates cannot be
    /// read.
    pub async fn get(&self, deadline: Instant) -> Result<Connection, Failure> {
        let failure = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(wire)) => return Ok(Connection::new(wire)),
            Ok(Err(PoolError::Backend(failure))) => failure,
            Ok(Err(_)) => Failure::failed(Error::unavailable("the pool of connections is closed")),
            Err(_) => Failure::failed(Error::unavailable(
                "no connection to the database became free in time",
            )),
        };
        let servers = self.config.endpoints.join(" ");
        Err(failure.map(|error| error.with_context("servers", servers)))
    }

    /// Makes attempts, each with a connection, until one succeeds or fails for good: within the
    /// `timeout` of the settings a lost one is repeated, and one that met another transaction, with a
    /// jittered pause.
    ///
    /// The last attempt may take the `timeout` once more for each of its statements.
    ///
    /// # Errors
    ///
    /// That of the last attempt; `OutcomeUnknown` if nobody knows what became of it.
    pub async fn attempt<T, F>(&self, mut attempt: impl FnMut(Connection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.config.timeout;
        let mut tries = 0;
        loop {
            let result = match self.get(deadline).await {
                Ok(connection) => attempt(connection).await,
                Err(failure) => Err(failure),
            };
            let failure = match result {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let until = Instant::now() + self.pause(tries);
            if failure.fate() != Fate::Again || until >= deadline {
                return Err(failure.into_error());
            }
            tries += 1;
            tokio::time::sleep_until(until).await;
        }
    }

    fn pause(&self, tries: u32) -> Duration {
        let most = PAUSE
            .0
            .saturating_mul(2_u32.saturating_pow(tries))
            .min(PAUSE.1);
        // Full jitter: those who got into each other's way do not come back at the same time.
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.next_u64() % (micros + 1))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("config", &self.config)
            .field("status", &self.pool.status())
            .finish_non_exhaustive()
    }
}

/// Makes connections for the pool, and looks at those that come back.
pub(crate) struct Manager {
    config: Arc<PostgresConfig>,
    session: Session,
    /// Where their tasks run: a connection outlives the call that made it.
    runtime: Handle,
    /// The endpoint to begin with, so that connections are spread.
    next: AtomicUsize,
}

impl Manager {
    async fn connect(&self, endpoint: &str) -> Result<Wire, Failure> {
        let connect = timeout(self.config.connect, dial(&self.config, endpoint)).await;
        let dialed = connect.unwrap_or_else(|_| {
            let error = Error::unavailable("the database does not answer in time");
            Err(Failure::new(Fate::Again, error))
        })?;
        let task = self.runtime.spawn(async move {
            if let Err(err) = dialed.connection.await {
                tracing::debug!(error = %err, "a connection to the database has ended");
            }
        });
        let wire = Wire::new(
            dialed.client,
            dialed.server,
            task.abort_handle(),
            self.config.timeout,
        );
        self.begin(&wire).await.map_err(Failure::harmless)?;
        Ok(wire)
    }

    /// Says to a new connection what is said to all.
    async fn begin(&self, wire: &Wire) -> Result<(), Failure> {
        let millis = self.config.timeout.as_millis();
        let ours = match wire.server {
            Server::Postgres => self.session.postgres,
            Server::Cockroach => self.session.cockroach,
        };
        // A statement whose caller is gone must not take effect much later, nor a transaction stay.
        let session = format!(
            "SET statement_timeout = {millis}; \
             SET idle_in_transaction_session_timeout = {millis}; {ours}"
        );
        wire.ask(wire.client.batch_execute(&session)).await?;
        let answer = wire
            .ask(wire.client.simple_query("SHOW transaction_read_only"))
            .await?;
        // `get` would panic at what is no text.
        let read_only = answer.iter().any(|message| {
            matches!(message, SimpleQueryMessage::Row(row) if row.try_get(0).ok().flatten() == Some("on"))
        });
        if read_only {
            let error = Error::unavailable("the database is read-only: it is a standby, or set so");
            return Err(Failure::new(Fate::Again, error));
        }
        Ok(())
    }
}

impl managed::Manager for Manager {
    type Type = Wire;
    type Error = Failure;

    /// Tries each server once.
    async fn create(&self) -> Result<Wire, Failure> {
        let endpoints = &self.config.endpoints;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for i in 0..endpoints.len() {
            let endpoint = &endpoints[first.wrapping_add(i) % endpoints.len()];
            match self.connect(endpoint).await {
                Ok(wire) => return Ok(wire),
                // One that refuses us is no worse than one that is not there, if another takes us.
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::failed(Error::internal("there are no servers"))))
    }

    async fn recycle(&self, wire: &mut Wire, metrics: &Metrics) -> RecycleResult<Failure> {
        if !wire.is_usable() {
            return Err(RecycleError::message("it is lost"));
        }
        if metrics.last_used() > IDLE {
            // Whatever stands between may have forgotten it: ask while nothing depends on it.
            let answer = timeout(self.config.connect, wire.client.simple_query("")).await;
            if !matches!(answer, Ok(Ok(_))) {
                return Err(RecycleError::message("it does not answer"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
