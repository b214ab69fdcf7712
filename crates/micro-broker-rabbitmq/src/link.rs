//! A connection that comes up by itself and comes back by itself.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::{Runtime, Tokio};
use futures_util::StreamExt as _;
use lapin::uri::{AMQPAuthority, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Event};
use micro_broker_core::{Error, ErrorKind, Random, Result};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::RabbitConfig;
use crate::error::{again, refused};
use crate::stream::{Kit, dial};

/// Between attempts to connect: full jitter up to a bound that doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(4));
/// So often a connection is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// After so long without a word the other side is gone, in seconds.
const HEARTBEAT: u16 = 10;
/// The largest frame. lapin keeps room for 32 in each direction.
const FRAME: u32 = 32 << 10;

/// How a link stands.
#[derive(Clone, Default)]
struct Status {
    connection: Option<Arc<Connection>>,
    problem: Option<Arc<Error>>,
}

/// A connection that is kept up until this is dropped.
pub(crate) struct Link {
    status: watch::Receiver<Status>,
    task: AbortHandle,
}

impl Link {
    /// Begins to connect. Within a tokio runtime.
    pub(crate) fn open(
        name: &'static str,
        config: Arc<RabbitConfig>,
        random: Arc<dyn Random>,
    ) -> Self {
        let (tell, status) = watch::channel(Status::default());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = keep_up(name, &config, &*random, &tell) => {}
                // Nobody is left who would use it.
                () = tell.closed() => {}
            }
        });
        Self {
            status,
            task: task.abort_handle(),
        }
    }

    /// The connection, once it is up; waits for that until `until`.
    ///
    /// # Errors
    ///
    /// At once what waiting does not cure: `Unauthenticated`, `PermissionDenied`, `InvalidArgument`
    /// and such; `Unavailable` when the time is over.
    pub(crate) async fn connection(&self, until: Instant) -> Result<Arc<Connection>> {
        let mut status = self.status.clone();
        let settled = status.wait_for(|status| {
            let is_final = |problem: &Arc<Error>| problem.kind() != ErrorKind::Unavailable;
            status.connection.is_some() || status.problem.as_ref().is_some_and(is_final)
        });
        let _ = timeout_at(until, settled).await;
        let status = self.status.borrow().clone();
        match (status.connection, status.problem) {
            (Some(connection), _) => Ok(connection),
            (None, Some(problem)) => Err(again(&problem)),
            (None, None) => Err(Error::unavailable("RabbitMQ does not answer in time")),
        }
        .map_err(|err| err.with_unprocessed(true))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.borrow();
        f.debug_struct("Link")
            .field("up", &status.connection.is_some())
            .field("problem", &status.problem)
            .finish_non_exhaustive()
    }
}

async fn keep_up(
    name: &'static str,
    config: &RabbitConfig,
    random: &dyn Random,
    tell: &watch::Sender<Status>,
) {
    let mut attempt = 0_u32;
    loop {
        // One server after the other; which one is first does not matter.
        let endpoint = &config.endpoints[attempt as usize % config.endpoints.len()];
        match connect(name, config, endpoint).await {
            Ok(connection) => {
                attempt = 0;
                let connection = Arc::new(connection);
                tell.send_replace(Status {
                    connection: Some(Arc::clone(&connection)),
                    problem: None,
                });
                watch_over(&connection, endpoint).await;
                tell.send_replace(Status::default());
            }
            Err(err) => {
                let err = err.with_context("server", endpoint);
                tracing::warn!(%err, "connecting to RabbitMQ failed");
                tell.send_modify(|status| status.problem = Some(Arc::new(err)));
            }
        }
        attempt = attempt.wrapping_add(1);
        sleep(pause(random, attempt)).await;
    }
}

/// Waits for the end of a connection.
async fn watch_over(connection: &Connection, endpoint: &str) {
    let mut events = Box::pin(connection.events_listener());
    while connection.status().connected() {
        // Not every end is an event.
        match timeout(LOOK, events.next()).await {
            Ok(Some(Event::ConnectionBlocked(why))) => {
                tracing::warn!(
                    why,
                    "RabbitMQ takes no messages: it is short of memory or disk"
                );
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                tracing::info!("RabbitMQ takes messages again");
            }
            Ok(Some(Event::Error(err))) => {
                tracing::warn!(%err, endpoint, "the connection to RabbitMQ is lost");
            }
            Ok(None) => break,
            _ => {}
        }
    }
}

async fn connect(name: &str, config: &RabbitConfig, endpoint: &str) -> Result<Connection> {
    let connecting = async {
        let unreachable = |err| Error::unavailable("RabbitMQ cannot be reached").with_source(err);
        let (io, scissors) = dial(config, endpoint).await.map_err(unreachable)?;
        let io = Mutex::new(Some(io));
        let uri = AMQPUri {
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: config.username.clone(),
                    password: config.password.expose().to_owned(),
                },
                ..AMQPAuthority::default()
            },
            vhost: config.vhost.clone(),
            ..AMQPUri::default()
        };
        let mut uri = uri;
        uri.query.heartbeat = Some(HEARTBEAT);
        uri.query.frame_max = Some(FRAME);
        let hand_over = async move |_, _| {
            let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
            let gone =
                || lapin::Error::from(std::io::Error::from(std::io::ErrorKind::NotConnected));
            io.map(AsyncTcpStream::Plain).ok_or_else(gone)
        };
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = Runtime::new(Kit(Tokio::current()));
        let connected = Connection::connector(uri, runtime, hand_over, properties).await;
        let connected = connected.map_err(refused)?;
        scissors.put_away();
        Ok(connected)
    };
    match timeout(config.connect_timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Error::unavailable("RabbitMQ does not answer in time")),
    }
}

fn pause(random: &dyn Random, attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    let most = PAUSE.0.saturating_mul(doubled).min(PAUSE.1);
    // Full jitter: whoever lost the same server does not come back at the same time.
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.next_u64() % (millis + 1))
}
