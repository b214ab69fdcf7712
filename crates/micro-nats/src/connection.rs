//! A connection that comes up by itself, comes back by itself, and says what happened to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ClientError, Event, Request, ServerError, Subscriber};
use futures_util::StreamExt as _;
use micro_core::{Error, ErrorKind, Random, Result};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::NatsConfig;
use crate::error::Problem;

/// Between attempts to connect: full jitter up to a bound that doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(8));

/// What the server complains about is told by another task, so much later at most.
const COMPLAINT: Duration = Duration::from_millis(20);

/// A connection to NATS. Clones share it; when the last one is dropped it ends.
///
/// It needs a tokio runtime.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    config: NatsConfig,
    task: AbortHandle,
}

struct Shared {
    status: watch::Sender<Status>,
    /// How often the server refused us something by permission.
    denials: AtomicU64,
}

/// How a connection stands.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Status {
    client: Option<Client>,
    problem: Option<Problem>,
    /// Whether it is up now.
    pub up: bool,
    /// How often it came up. If this grew, messages may have been missed.
    pub epoch: u64,
    /// How often a subscription of ours was too slow and lost messages.
    pub lost: u64,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("up", &self.up)
            .field("epoch", &self.epoch)
            .field("lost", &self.lost)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins to connect in the background.
    ///
    /// `echo` is whether this connection hears what it publishes itself.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that do not go together; `FailedPrecondition` outside of a
    /// tokio runtime.
    pub fn open(config: NatsConfig, random: &Arc<dyn Random>, echo: bool) -> Result<Self> {
        config.check()?;
        if config.shouts() {
            tracing::warn!(
                servers = %config.endpoints.join(" "),
                "the password or token goes to NATS unencrypted: turn on TLS with 'tls' or 'ca'"
            );
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(|err| {
            Error::failed_precondition("open this within a tokio runtime: it needs tasks")
                .with_operation("nats.open")
                .with_source(err)
        })?;
        let shared = Arc::new(Shared {
            status: watch::Sender::default(),
            denials: AtomicU64::new(0),
        });
        let task = runtime.spawn(connect(
            Arc::clone(&shared),
            config.clone(),
            Arc::clone(random),
            echo,
        ));
        Ok(Self(Arc::new(Inner {
            shared,
            config,
            task: task.abort_handle(),
        })))
    }

    /// How it was opened.
    #[must_use]
    pub fn config(&self) -> &NatsConfig {
        &self.0.config
    }

    /// How it stands, and every change of that.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.shared.status.subscribe()
    }

    /// The client, once the connection is up; waits for that until `deadline`.
    ///
    /// # Errors
    ///
    /// `Unauthenticated` at once if the server refuses who we are; `InvalidArgument`, `NotFound`
    /// and `PermissionDenied` for certificates and credentials that cannot be read; otherwise
    /// `Unavailable` at the deadline.
    pub async fn client(&self, deadline: Instant) -> Result<Client> {
        // The usual case, on the way of every call.
        if let Status {
            up: true,
            client: Some(client),
            ..
        } = &*self.0.shared.status.borrow()
        {
            return Ok(client.clone());
        }
        let mut status = self.status();
        let settled = status.wait_for(|status| {
            (status.up && status.client.is_some())
                || status.problem.as_ref().is_some_and(Problem::is_final)
        });
        let _ = timeout_at(deadline, settled).await;
        let status = self.0.shared.status.borrow().clone();
        match status {
            Status {
                up: true,
                client: Some(client),
                ..
            } => Ok(client),
            Status {
                problem: Some(problem),
                ..
            } => Err(problem.error()),
            _ => {
                Err(Error::unavailable("NATS does not answer in time")
                    .with_operation("nats.connect"))
            }
        }
        .map_err(|err| err.with_context("servers", self.0.config.endpoints.join(" ")))
    }

    /// How often the server refused something by permission so far: to be asked before something
    /// is sent that [`confirm`](Self::confirm) is to confirm.
    #[must_use]
    pub fn denials(&self) -> u64 {
        self.0.shared.denials.load(Ordering::Relaxed)
    }

    /// Ends subscriptions without a loss: when this returns, the server sends nothing more to them, and
    /// all that it did send is there to be read. They are to be dropped then.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there is no answer by `deadline`.
    pub async fn end(
        &self,
        client: &Client,
        subscribers: impl IntoIterator<Item = &mut Subscriber>,
        deadline: Instant,
    ) -> Result<()> {
        // The library's own `drain` forgets a subscription before the server has, and drops what comes in
        // between. A maximum that is longer than the server reads (`parseSize`: nine digits) ends the
        // subscription there at once, and here never. A server that did read it would go on until the
        // subscription is dropped.
        for subscriber in subscribers {
            let ending = subscriber.unsubscribe_after(u64::MAX);
            let ended = timeout_at(deadline, ending).await;
            ended
                .map_err(|_| late())?
                .map_err(|err| gone().with_source(err))?;
        }
        self.confirm(client, self.denials(), false, deadline).await
    }

    /// Waits until the server has processed all that was sent before.
    ///
    /// It is a request to nobody: the server answers it itself, in order. A complaint about what
    /// was sent before is heard beside that, so whoever is `careful` waits a moment for it; needed
    /// once per connection and kind of message, as permissions do not change.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there is no answer by `deadline`; `PermissionDenied` if the server said that
    /// we may not since [`denials`](Self::denials) was asked.
    pub async fn confirm(
        &self,
        client: &Client,
        denials: u64,
        careful: bool,
        deadline: Instant,
    ) -> Result<()> {
        let request = Request::new().timeout(None);
        let answer = timeout_at(deadline, client.send_request(client.new_inbox(), request)).await;
        if careful {
            sleep(COMPLAINT).await;
        }
        if self.denials() != denials {
            return Err(Error::permission_denied(
                "NATS does not permit this to our user; see its permissions for publish and subscribe",
            )
            .with_operation("nats.confirm"));
        }
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) if err.kind() == RequestErrorKind::NoResponders => Ok(()),
            Ok(Err(err)) => Err(gone().with_source(err)),
            Err(_) => Err(late()),
        }
    }
}

fn gone() -> Error {
    Error::unavailable("the connection to NATS is gone").with_operation("nats.confirm")
}

fn late() -> Error {
    Error::unavailable("NATS does not answer in time").with_operation("nats.confirm")
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoints", &self.0.config.endpoints)
            .field("status", &*self.0.shared.status.borrow())
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
        // The library's own task lives as long as a client does; who watches the status has one.
        self.shared.status.send_modify(|status| {
            status.client = None;
            status.up = false;
        });
    }
}

/// Tries until the first connection is made. After that the library reconnects by itself, until its task
/// ends: async-nats 0.51 panics if a header of a message has a carriage return of its own, which anybody can
/// send who may publish where we listen. Then another client is made.
async fn connect(shared: Arc<Shared>, config: NatsConfig, random: Arc<dyn Random>, echo: bool) {
    let mut attempt = 0;
    loop {
        match try_connect(&shared, &config, &random, echo).await {
            Ok((client, mut canary)) => {
                attempt = 0;
                shared.status.send_modify(|status| {
                    status.client = Some(client);
                    status.problem = None;
                });
                // Nobody sends here: it ends with the library's task.
                while canary.next().await.is_some() {}
                let message = "the client of NATS broke off, and is made anew";
                tracing::error!(servers = %config.endpoints.join(" "), "{message}");
                shared.down(ErrorKind::Unavailable, message, "");
                shared.status.send_modify(|status| status.client = None);
            }
            Err(problem) => {
                tracing::warn!(
                    servers = %config.endpoints.join(" "),
                    why = %problem.why,
                    "{}",
                    problem.message
                );
                shared
                    .status
                    .send_modify(|status| status.problem = Some(problem));
            }
        }
        attempt += 1;
        sleep(pause(&*random, attempt)).await;
    }
}

async fn try_connect(
    shared: &Arc<Shared>,
    config: &NatsConfig,
    random: &Arc<dyn Random>,
    echo: bool,
) -> Result<(Client, Subscriber), Problem> {
    let refused =
        |err: Error| Problem::new(err.kind(), "the settings for NATS cannot be used", &err);
    let servers = config.servers().map_err(refused)?;
    let mut options = config.options().await.map_err(refused)?;
    if !echo {
        options = options.no_echo();
    }
    // The library's task keeps this for as long as there is a client, and the client is kept there:
    // whoever was dropped while this connected must not be kept alive by it.
    let listener = Arc::downgrade(shared);
    let random = Arc::clone(random);
    // The library asks for a pause before the first attempt, too.
    let made = Arc::new(AtomicBool::new(false));
    let was_made = Arc::clone(&made);
    let options = options
        .event_callback(move |event| {
            if let Some(listener) = listener.upgrade() {
                listener.hear(event);
            }
            std::future::ready(())
        })
        .reconnect_delay_callback(move |attempt| {
            if was_made.load(Ordering::Relaxed) {
                pause(&*random, attempt)
            } else {
                Duration::ZERO
            }
        });
    let client = options
        .connect(servers)
        .await
        .map_err(|err| Problem::from(&err))?;
    made.store(true, Ordering::Relaxed);
    let canary = client.subscribe(client.new_inbox()).await.map_err(|err| {
        let message = "the connection to NATS is lost";
        Problem::new(ErrorKind::Unavailable, message, &err)
    })?;
    Ok((client, canary))
}

fn pause(random: &dyn Random, attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let most = PAUSE
        .0
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(PAUSE.1);
    // Full jitter: whoever lost the same server does not come back at the same time.
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.next_u64() % (millis + 1))
}

impl Shared {
    fn hear(&self, event: Event) {
        match event {
            Event::Connected => self.status.send_modify(|status| {
                status.up = true;
                status.epoch += 1;
                status.problem = None;
            }),
            Event::Disconnected | Event::Closed => {
                self.down(ErrorKind::Unavailable, "the connection to NATS is lost", "");
            }
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                tracing::warn!("a subscription to NATS is too slow, and loses messages");
                self.status.send_modify(|status| status.lost += 1);
            }
            Event::ServerError(ServerError::AuthorizationViolation) => self.refused(),
            Event::ServerError(ServerError::Other(text)) => {
                if text.to_ascii_lowercase().contains("permissions violation") {
                    self.denials.fetch_add(1, Ordering::Relaxed);
                }
                tracing::warn!(error = %text, "NATS complains");
            }
            Event::ClientError(ClientError::Other(text)) => {
                // All that is left of a failed reconnection is its kind, in words.
                if text.contains("authorization violation") {
                    self.refused();
                } else {
                    tracing::debug!(error = %text, "NATS");
                }
            }
            Event::ClientError(err) => tracing::warn!(error = %err, "NATS"),
            Event::LameDuckMode | Event::Draining => {}
        }
    }

    fn refused(&self) {
        let message = "NATS refuses these credentials; check user, token, creds or nkey";
        self.down(ErrorKind::Unauthenticated, message, "");
    }

    fn down(&self, kind: ErrorKind, message: &'static str, why: &str) {
        self.status.send_modify(|status| {
            status.up = false;
            status.problem = Some(Problem::new(kind, message, &why));
        });
    }
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let random = SeededRandom::new(7);
        for (attempt, most) in [
            (0, 50),
            (1, 50),
            (2, 100),
            (5, 800),
            (9, 8000),
            (5000, 8000),
        ] {
            let all: Vec<Duration> = (0..200).map(|_| pause(&random, attempt)).collect();
            let most = Duration::from_millis(most);
            assert!(all.iter().all(|pause| *pause <= most), "{attempt}");
            assert!(all.iter().any(|pause| *pause < most / 4), "{attempt}");
            assert!(all.iter().any(|pause| *pause > most / 4 * 3), "{attempt}");
        }
    }
}
