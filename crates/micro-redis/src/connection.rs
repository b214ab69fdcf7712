//! A connection that comes up by itself and comes back by itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use micro_core::{Error, ErrorKind, Random, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Value};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::dial::{dial, login};
use crate::error::Problem;
use crate::link::ROOM;
use crate::{Effect, Link, RedisConfig, Script};

/// Between attempts to connect: full jitter up to a bound that doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(8));

/// So many commands wait for the socket; each of them holds its room.
const QUEUE: usize = 256;

/// What a backend makes sure of over each new connection, before anybody else gets it.
pub type Greeting = Arc<dyn Fn(Link) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A connection to Redis. Clones share it; when the last one is dropped it ends.
///
/// It needs a tokio runtime. Commands that block in Redis hold up all others of the same
/// connection: open one of their own for them.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    config: RedisConfig,
    state: Arc<watch::Sender<State>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    problem: Option<Problem>,
}

impl State {
    fn link_after(&self, epoch: u64) -> Option<&Link> {
        let good = |link: &&Link| link.epoch() > epoch && !link.is_distrusted();
        self.link.as_ref().filter(good)
    }
}

impl Connection {
    /// Begins to connect in the background.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `FailedPrecondition` outside of a
    /// tokio runtime.
    pub fn open(config: RedisConfig, random: &Arc<dyn Random>) -> Result<Self> {
        let greeting: Greeting = Arc::new(|_| Box::pin(std::future::ready(Ok(()))));
        Self::open_greeted(config, random, greeting)
    }

    /// As [`open`](Self::open), with something that is done over every connection first. If that
    /// fails, its error is that of the connection, and it is connected again.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_greeted(
        config: RedisConfig,
        random: &Arc<dyn Random>,
        greeting: Greeting,
    ) -> Result<Self> {
        config.check()?;
        if config.shouts() {
            tracing::warn!(
                server = %config.endpoint,
                "the password goes to Redis unencrypted: turn on TLS with 'rediss' or 'ca'"
            );
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(|err| {
            Error::failed_precondition("open this within a tokio runtime: it needs tasks")
                .with_operation("redis.open")
                .with_source(err)
        })?;
        let state = Arc::new(watch::Sender::default());
        let task = runtime.spawn(keep_up(
            config.clone(),
            Arc::clone(&state),
            Arc::clone(random),
            greeting,
        ));
        Ok(Self(Arc::new(Inner {
            config,
            state,
            task: task.abort_handle(),
        })))
    }

    /// How it was opened.
    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    /// When a call must end that begins now.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.0.config.timeout
    }

    /// The link, once it is up; waits for that until `deadline`.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` at once if the server refuses who we are; `InvalidArgument`, `NotFound`
    /// and `PermissionDenied` for certificates that cannot be read; what the greeting says;
    /// otherwise `Unavailable` at the deadline. Nothing has been sent then.
    pub async fn link(&self, deadline: Instant) -> Result<Link> {
        self.link_after(0, deadline).await
    }

    /// The first link that is later than `epoch`.
    async fn link_after(&self, epoch: u64, deadline: Instant) -> Result<Link> {
        if let Some(link) = self.0.state.borrow().link_after(epoch) {
            return Ok(link.clone());
        }
        let mut state = self.0.state.subscribe();
        let settled = state.wait_for(|state| {
            state.link_after(epoch).is_some()
                || state.problem.as_ref().is_some_and(Problem::is_final)
        });
        let _ = timeout_at(deadline, settled).await;
        let state = self.0.state.borrow();
        if let Some(link) = state.link_after(epoch) {
            return Ok(link.clone());
        }
        let silent = || Problem::new(ErrorKind::Unavailable, "Redis does not answer in time", &"");
        let problem = state.problem.clone().unwrap_or_else(silent);
        Err(problem
            .error()
            .with_context("server", &self.0.config.endpoint))
    }

    /// Asks something that changes nothing; if the connection is lost meanwhile, again over the next
    /// one, until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`link`](Self::link) and [`Link::call`].
    pub async fn ask(&self, cmd: &Cmd, deadline: Instant) -> Result<Value> {
        self.ask_again(None, cmd, deadline).await
    }

    /// As [`ask`](Self::ask), of a script that changes nothing.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn ask_script(
        &self,
        script: &Script,
        invocation: &Cmd,
        deadline: Instant,
    ) -> Result<Value> {
        self.ask_again(Some(script), invocation, deadline).await
    }

    async fn ask_again(
        &self,
        script: Option<&Script>,
        cmd: &Cmd,
        deadline: Instant,
    ) -> Result<Value> {
        let mut link = self.link(deadline).await?;
        loop {
            let answer = match script {
                Some(script) => link.run(script, cmd, Effect::Nothing, deadline).await,
                None => link.call(cmd, Effect::Nothing, deadline).await,
            };
            match answer {
                Err(err) if err.kind() == ErrorKind::Unavailable && !err.is_unprocessed() => {
                    link = self
                        .link_after(link.epoch(), deadline)
                        .await
                        .map_err(|_| err)?;
                }
                answer => return answer,
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.0.config.endpoint)
            .field("state", &*self.0.state.borrow())
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, again and again.
async fn keep_up(
    config: RedisConfig,
    state: Arc<watch::Sender<State>>,
    random: Arc<dyn Random>,
    greeting: Greeting,
) {
    let room = Arc::new(Semaphore::new(ROOM));
    let mut epoch = 0;
    let mut attempt = 0;
    loop {
        let up = async {
            let (connection, driver) = connect(&config).await?;
            let link = Link::new(epoch + 1, connection, Arc::clone(&room));
            let greeted = greeting(link.clone()).await;
            greeted.map_err(|err| Problem::of_greeting(&err))?;
            Ok((link, driver))
        };
        let problem = match up.await {
            Ok((link, mut driver)) => {
                // Redis itself has answered, so it is not a server that is down.
                attempt = 0;
                epoch = link.epoch();
                state.send_replace(State {
                    link: Some(link.clone()),
                    problem: None,
                });
                tokio::select! {
                    // Also if it panics: what comes from the other side is its input.
                    _ = &mut driver.0 => {}
                    () = link.distrusted() => {}
                }
                Problem::new(
                    ErrorKind::Unavailable,
                    "the connection to Redis is lost",
                    &"",
                )
            }
            Err(problem) => problem,
        };
        tracing::warn!(
            server = %config.endpoint,
            why = %problem.why,
            "{}",
            problem.message
        );
        state.send_replace(State {
            link: None,
            problem: Some(problem),
        });
        attempt += 1;
        sleep(pause(&*random, attempt)).await;
    }
}

async fn connect(config: &RedisConfig) -> Result<(MultiplexedConnection, Owned), Problem> {
    let connect = async {
        let socket = dial(config).await?;
        let settings = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let login = login(config);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&login, socket, settings).await?;
        let driver = Owned(tokio::spawn(driver));
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg(&config.name);
        for cmd in [name, redis::cmd("PING")] {
            let answer = connection.send_packed_command(&cmd).await?;
            match answer.extract_error() {
                Ok(_) => {}
                // Neither is needed for anything else.
                Err(err) if err.code() == Some("NOPERM") => {}
                // It wants a password, or is still loading what it had.
                Err(err) => return Err(err.into()),
            }
        }
        Ok((connection, driver))
    };
    timeout(config.connect, connect).await.unwrap_or_else(|_| {
        Err(Problem::new(
            ErrorKind::Unavailable,
            "Redis does not answer in time",
            &"",
        ))
    })
}

fn pause(random: &dyn Random, attempt: u32) -> Duration {
    let most = PAUSE
        .0
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)))
        .min(PAUSE.1);
    // Full jitter: whoever lost the same server does not come back at the same time.
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.next_u64() % (millis + 1))
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let random = SeededRandom::new(7);
        for (attempt, most) in [(1, 50), (2, 100), (5, 800), (9, 8000), (u32::MAX, 8000)] {
            let all: Vec<Duration> = (0..200).map(|_| pause(&random, attempt)).collect();
            let most = Duration::from_millis(most);
            assert!(all.iter().all(|pause| *pause <= most), "{attempt}");
            assert!(all.iter().any(|pause| *pause < most / 4), "{attempt}");
            assert!(all.iter().any(|pause| *pause > most / 4 * 3), "{attempt}");
        }
    }
}
