//! A client: one connection at a time, replaced when it fails, and calls on it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_core::{Random, Result, Secret};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::EtcdConfig;
use crate::error::{Cure, Failure};
use crate::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use crate::link::{Call, Link, Stream, framed};

/// Full jitter between nothing and this before a lost connection is made again, doubled with each
/// failure up to the longest: those that lost the same member do not come back together.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same, before a call is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// One of etcd's calls.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) path: &'static str,
    /// What our errors call it.
    pub(crate) operation: &'static str,
}

const AUTHENTICATE: Rpc = Rpc {
    path: "/etcdserverpb.Auth/Authenticate",
    operation: "etcd.authenticate",
};

/// A client of one etcd cluster; clones share its connection.
///
/// It connects when it is first used and again whenever the connection fails, to the next member in
/// turn. A call waits for a connection until its time is over. What only reads, and what can be
/// done twice, is tried again until then; what changes something is tried again only if it provably
/// never ran, and fails with `OutcomeUnknown` if it may have.
///
/// Futures may be dropped at any await. A change whose future is dropped may still happen.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    dialing: Mutex<Option<AbortHandle>>,
}

/// What the task that connects works on, too: it keeps no client alive.
struct Shared {
    config: EtcdConfig,
    random: Arc<dyn Random>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Tls>,
    status: watch::Sender<Status>,
    /// Whether the task runs; written and read together with `status`, under this lock.
    running: Mutex<bool>,
    /// The member to try next.
    next: Mutex<usize>,
    /// Attempts since the last good answer.
    failures: AtomicU32,
    ever: AtomicBool,
    token: Mutex<Token>,
    /// One call authenticates, and the others wait for it.
    authenticating: Semaphore,
}

#[derive(Clone, Debug, Default)]
struct Status {
    link: Option<Arc<Link>>,
    problem: Option<Problem>,
}

/// Why there is no connection, for everybody who waits.
#[derive(Clone, Debug)]
struct Problem {
    what: &'static str,
    why: String,
}

#[derive(Clone, Debug, Default)]
enum Token {
    #[default]
    Missing,
    /// A user is configured, and etcd has authentication off.
    Unneeded,
    Known(Arc<Secret>),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", self.config())
            .field("link", &self.shared().status.borrow().link)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.dialing).take() {
            task.abort();
        }
    }
}

impl Client {
    /// A client that is not connected yet. Chance is for pauses and for the first member.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what does not go together, and for certificates that cannot be read.
    pub fn new(config: EtcdConfig, random: Arc<dyn Random>) -> Result<Self> {
        config.check()?;
        let members = config.endpoints.len().max(1) as u64;
        let first = usize::try_from(random.next_u64() % members).unwrap_or_default();
        if config.password.is_some() && !config.wants_tls() && !config.is_loopback() {
            tracing::warn!("the password goes to etcd unencrypted: turn on TLS with 'tls' or 'ca'");
        }
        let shared = Arc::new(Shared {
            #[cfg(feature = "tls")]
            tls: crate::tls::Tls::new(&config)?,
            config,
            random,
            status: watch::Sender::default(),
            running: Mutex::default(),
            next: Mutex::new(first),
            failures: AtomicU32::new(0),
            ever: AtomicBool::new(false),
            token: Mutex::default(),
            authenticating: Semaphore::new(1),
        });
        let inner = Inner {
            shared,
            dialing: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &EtcdConfig {
        &self.shared().config
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.shared().random
    }

    /// The moment at which a call that begins now is over.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config().timeout
    }

    /// Makes a call. `changes` says whether it changes something, and so must not run twice.
    pub(crate) async fn call<A: Message + Default>(
        &self,
        rpc: &'static Rpc,
        request: &impl Message,
        changes: bool,
    ) -> Result<A> {
        let deadline = self.deadline();
        let message = framed(request).map_err(|err| {
            micro_core::Error::invalid_argument("the request cannot be encoded")
                .with_operation(rpc.operation)
                .with_source(err)
        })?;
        let mut renewed = false;
        let mut tries = 0;
        loop {
            let failure = match self.attempt(rpc, message.clone(), changes, deadline).await {
                Ok(answer) => match A::decode(answer) {
                    Ok(answer) => return Ok(answer),
                    Err(_) => Failure::Foreign("the answer is no message of etcd's"),
                },
                Err(failure) => failure,
            };
            let again = match failure.cure() {
                Cure::Token => {
                    self.config().username.is_some() && !std::mem::replace(&mut renewed, true)
                }
                Cure::Again => !changes || failure.is_unprocessed(),
                Cure::None => false,
            };
            let pause = pause(self.random(), RETRY, tries);
            tries += 1;
            if !again || Instant::now() + pause >= deadline {
                return Err(failure.into_error(rpc.operation, changes));
            }
            sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        rpc: &'static Rpc,
        message: bytes::Bytes,
        changes: bool,
        deadline: Instant,
    ) -> Result<bytes::Bytes, Failure> {
        let link = self.link(deadline).await?;
        let token = self.token(&link, deadline).await?;
        let mut left = deadline.saturating_duration_since(Instant::now());
        if !changes {
            // A member that is silent leaves time for another.
            left = left.min(self.config().timeout / 2);
        }
        let call = Call {
            path: rpc.path,
            token: token.as_deref(),
            timeout: Some(left),
        };
        let answer = match timeout(left, link.unary(call, message)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Late),
        };
        match &answer {
            Ok(_) => self.answered(),
            Err(failure) => self.judge(&link, token.as_ref(), failure),
        }
        answer
    }

    /// Opens a stream with one message, once there is a connection.
    pub(crate) async fn stream(
        &self,
        rpc: &'static Rpc,
        request: &impl Message,
    ) -> Result<Stream, Failure> {
        let deadline = self.deadline();
        let message = framed(request).map_err(|err| Failure::link("no request", err))?;
        let link = self.link(deadline).await?;
        let token = self.token(&link, deadline).await?;
        let call = Call {
            path: rpc.path,
            token: token.as_deref(),
            timeout: None,
        };
        let opened = match timeout_at(deadline, link.stream(call, message)).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::Late),
        };
        if let Err(failure) = &opened {
            self.judge(&link, token.as_ref(), failure);
        }
        opened
    }

    /// There was an answer: the next failure is the first again.
    pub(crate) fn answered(&self) {
        self.shared().failures.store(0, Ordering::Relaxed);
    }

    /// What a failure says about the connection and the token that were used.
    fn judge(&self, link: &Link, token: Option<&Arc<Secret>>, failure: &Failure) {
        if failure.blames_link() {
            link.doubt();
        } else if failure.cure() == Cure::Token {
            self.forget(token);
        }
    }

    /// A stream failed after it was opened.
    pub(crate) fn judge_stream(&self, stream: &Stream, failure: &Failure) {
        if failure.blames_link() {
            stream.link.doubt();
        } else if failure.cure() == Cure::Token {
            self.forget_token();
        }
    }

    /// Forgets the token, unless it was replaced meanwhile.
    fn forget(&self, used: Option<&Arc<Secret>>) {
        let mut token = lock(&self.shared().token);
        let same = match (&*token, used) {
            (Token::Known(known), Some(used)) => Arc::ptr_eq(known, used),
            (Token::Unneeded, None) => true,
            _ => false,
        };
        if same {
            *token = Token::Missing;
        }
    }

    pub(crate) fn forget_token(&self) {
        *lock(&self.shared().token) = Token::Missing;
    }

    /// The token to show, if we have a user; asks for one first if there is none yet.
    async fn token(&self, link: &Link, deadline: Instant) -> Result<Option<Arc<Secret>>, Failure> {
        let config = self.config();
        let (Some(name), Some(password)) = (&config.username, &config.password) else {
            return Ok(None);
        };
        let known = || match &*lock(&self.shared().token) {
            Token::Missing => None,
            Token::Unneeded => Some(None),
            Token::Known(token) => Some(Some(Arc::clone(token))),
        };
        if let Some(token) = known() {
            return Ok(token);
        }
        let gate = timeout_at(deadline, self.shared().authenticating.acquire());
        let Ok(Ok(_gate)) = gate.await else {
            return Err(Failure::link(
                "etcd does not authenticate us in time",
                "late",
            ));
        };
        if let Some(token) = known() {
            return Ok(token);
        }
        let request = AuthenticateRequest {
            name: name.clone(),
            password: password.expose().to_owned(),
        };
        let message = framed(&request).map_err(|err| Failure::link("no request", err))?;
        let call = Call {
            path: AUTHENTICATE.path,
            token: None,
            timeout: Some(deadline.saturating_duration_since(Instant::now())),
        };
        let answer = match timeout_at(deadline, link.unary(call, message)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Late),
        };
        let token = match answer {
            Ok(answer) => {
                let answer = AuthenticateResponse::decode(answer)
                    .map_err(|_| Failure::Foreign("the answer is no message of etcd's"))?;
                Some(Arc::new(Secret::new(answer.token)))
            }
            Err(Failure::Status { message, .. }) if message.contains("not enabled") => {
                tracing::warn!("a user is configured for etcd, which has authentication off");
                None
            }
            Err(failure) => {
                if failure.blames_link() {
                    link.doubt();
                }
                // The call itself was not sent.
                return Err(failure.before_the_call());
            }
        };
        *lock(&self.shared().token) = match &token {
            Some(token) => Token::Known(Arc::clone(token)),
            None => Token::Unneeded,
        };
        Ok(token)
    }

    /// A connection, as soon as there is one.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, Failure> {
        let mut status = self.shared().status.subscribe();
        loop {
            if let Some(link) = status.borrow_and_update().usable() {
                return Ok(link);
            }
            self.dial();
            if let Ok(Ok(())) = timeout_at(deadline, status.changed()).await {
                continue;
            }
            let problem = status.borrow().problem.clone();
            return Err(match problem {
                Some(problem) => Failure::link(problem.what, problem.why),
                None => Failure::link("etcd cannot be reached in time", "no answer yet"),
            });
        }
    }

    /// Starts the task that connects, unless it runs.
    fn dial(&self) {
        let shared = self.shared();
        let mut running = lock(&shared.running);
        if *running || shared.status.borrow().usable().is_some() {
            return;
        }
        *running = true;
        let task = tokio::spawn(Arc::clone(shared).connect());
        *lock(&self.inner.dialing) = Some(task.abort_handle());
        drop(running);
    }
}

impl Status {
    fn usable(&self) -> Option<Arc<Link>> {
        self.link
            .as_ref()
            .filter(|link| link.is_usable())
            .map(Arc::clone)
    }
}

impl Shared {
    /// Connects to one member after the other until one is reached or nobody waits any more.
    async fn connect(self: Arc<Self>) {
        let mut running = Running {
            shared: &self,
            ended: false,
        };
        loop {
            let failures = self.failures.fetch_add(1, Ordering::Relaxed);
            // The first connection of all is made at once.
            if failures > 0 || self.ever.load(Ordering::Relaxed) {
                sleep(pause(&*self.random, RECONNECT, failures)).await;
            }
            match self.round().await {
                Ok(link) => {
                    tracing::debug!(endpoint = link.endpoint, "connected to etcd");
                    self.ever.store(true, Ordering::Relaxed);
                    running.end(Status {
                        link: Some(Arc::new(link)),
                        problem: None,
                    });
                    return;
                }
                Err(problem) => {
                    tracing::debug!(why = problem.why, "{}", problem.what);
                    if running.end_if_alone(&problem) {
                        return;
                    }
                }
            }
        }
    }

    /// Tries every member once.
    async fn round(&self) -> Result<Link, Problem> {
        let endpoints = &self.config.endpoints;
        let mut problem = Problem {
            what: "there is no member to connect to",
            why: String::new(),
        };
        for _ in 0..endpoints.len() {
            let endpoint = {
                let mut next = lock(&self.next);
                let endpoint = &endpoints[*next % endpoints.len()];
                *next = (*next + 1) % endpoints.len();
                endpoint
            };
            let failure = match timeout(self.config.connect_timeout, self.open(endpoint)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::link("etcd cannot be reached", "no connection in time"),
            };
            if let Failure::Link { what, why, .. } = failure {
                problem = Problem {
                    what,
                    why: format!("{endpoint}: {why}"),
                };
            }
        }
        Err(problem)
    }

    async fn open(&self, endpoint: &str) -> Result<Link, Failure> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let (config, name) = tls
                .for_endpoint(endpoint)
                .await
                .map_err(|err| Failure::link("TLS with etcd cannot be set up", err))?;
            return Link::open_tls(endpoint, config, name).await;
        }
        Link::open(endpoint).await
    }
}

/// Says that the task runs, however it ends.
struct Running<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl Running<'_> {
    fn end(&mut self, status: Status) {
        let mut running = lock(&self.shared.running);
        *running = false;
        self.ended = true;
        self.shared.status.send_replace(status);
    }

    /// Ends if nobody waits; else tells those who do, and goes on.
    fn end_if_alone(&mut self, problem: &Problem) -> bool {
        let mut running = lock(&self.shared.running);
        let alone = self.shared.status.receiver_count() == 0;
        if alone {
            *running = false;
            self.ended = true;
        }
        // Nobody is woken for it: who waits, waits for a connection.
        self.shared.status.send_if_modified(|status| {
            status.problem = Some(problem.clone());
            false
        });
        alone
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            *lock(&self.shared.running) = false;
        }
    }
}

/// A pause of full jitter, which doubles with the failures.
pub(crate) fn pause(
    random: &dyn Random,
    (first, most): (Duration, Duration),
    failures: u32,
) -> Duration {
    let most = first
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(most);
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random.next_u64() % micros)
}

/// Nothing panics while it holds a lock of ours, so a poisoned one holds whole data.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use micro_core::SeededRandom;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let random = SeededRandom::new(7);
        for (failures, most) in [(0, 100), (1, 200), (3, 800), (9, 5000), (5000, 5000)] {
            let all: Vec<Duration> = (0..200)
                .map(|_| pause(&random, RECONNECT, failures))
                .collect();
            let most = Duration::from_millis(most);
            assert!(all.iter().all(|pause| *pause < most), "{failures}");
            assert!(all.iter().any(|pause| *pause < most / 4), "{failures}");
            assert!(all.iter().any(|pause| *pause > most / 4 * 3), "{failures}");
        }
    }
}
