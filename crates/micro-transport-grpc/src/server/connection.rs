//! An HTTP/2 connection of a listener: one task drives it and polls its calls in place.
//!
//! Requests that came together are taken together, their handlers polled one after the other, and
//! the answers that are ready leave in one write. A call that waits stays here as a slot.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use micro_core::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::Conn;
use super::call::{Begun, Call, Ended};
use super::control::{Command, Control};
use super::paths::Paths;
use crate::io::{Io, Tap};
use crate::lane::server::Session;
use crate::lane::{self, Counters};
use crate::time::far;
use crate::turn::Turn;

/// How many requests are taken before their handlers run.
const BATCH: usize = 64;
/// How many sessions a connection may have, one after the other.
const MOST_SESSIONS: u32 = 8;
/// How often the loop turns before other tasks get their turn.
const TURNS: usize = 32;

/// Drives one connection to its end.
pub(crate) struct Driver {
    h2: Connection<Io, Bytes>,
    tap: Arc<Tap>,
    conn: Arc<Conn>,
    control: Arc<Control>,
    turn: Arc<Turn>,
    waker: Waker,
    fresh: Vec<(Request<RecvStream>, SendResponse<Bytes>)>,
    paths: Paths,
    calls: FuturesUnordered<Call>,
    /// Calls whose handlers compute for long; dropping the set ends them.
    tasks: JoinSet<Ended>,
    patience: Patience,
    /// The fast lane; at most one, and no other after one that broke the rules.
    session: Option<Session>,
    sessions: u32,
    draining: bool,
    /// Whether HTTP/2 knows that no call is to come.
    told: bool,
    closing: bool,
    /// Idle for too long, and the peer of the session was asked to go: when it has to.
    leaving: Option<Instant>,
    ping: Option<PingPong>,
    pinged: Option<Instant>,
    /// A header block that has begun: after how many frames it was seen first, and when.
    partial: Option<(u32, Instant)>,
    idle_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    limits: Times,
}

/// How many calls a peer may give up just after it sent them (CVE-2023-44487, "rapid reset").
///
/// Honest peers do it, even thousands at once; nobody does it without end and has no other calls.
#[derive(Debug)]
pub(crate) struct Patience {
    left: usize,
    most: usize,
    refilled: Instant,
}

impl Patience {
    /// For a connection of so many calls at once: 10,240 for the default of 256, and 1,024 more
    /// each second.
    fn new(calls: usize) -> Self {
        let most = calls.max(1).saturating_mul(40);
        Self {
            left: most,
            most,
            refilled: Instant::now(),
        }
    }

    pub(crate) fn count(&mut self, ended: Ended) {
        match ended {
            Ended::Answered => self.left = self.left.saturating_add(1).min(self.most),
            Ended::GivenUp => {}
            Ended::GivenUpEarly => {
                self.left = self.left.saturating_sub(1);
                if self.left > self.most / 2 {
                    return;
                }
                let now = Instant::now();
                let passed = now.duration_since(self.refilled).as_millis();
                let more = usize::try_from(passed)
                    .unwrap_or(usize::MAX)
                    .saturating_mul(self.most)
                    / 10_000;
                if more > 0 {
                    self.refilled = now;
                    self.left = self.left.saturating_add(more).min(self.most);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// What is read once per connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) calls: usize,
    pub(crate) header: std::time::Duration,
    pub(crate) idle: std::time::Duration,
    pub(crate) keepalive: std::time::Duration,
    pub(crate) keepalive_timeout: std::time::Duration,
}

impl Driver {
    pub(crate) fn new(
        mut h2: Connection<Io, Bytes>,
        tap: Arc<Tap>,
        conn: Arc<Conn>,
        control: Arc<Control>,
        limits: Times,
    ) -> Self {
        let turn = Arc::new(Turn::default());
        let now = Instant::now();
        let first = limits.keepalive.min(limits.idle);
        Self {
            ping: h2.ping_pong(),
            h2,
            tap,
            conn,
            control,
            waker: Waker::from(Arc::clone(&turn)),
            turn,
            fresh: Vec::new(),
            paths: Paths::default(),
            calls: FuturesUnordered::new(),
            tasks: JoinSet::new(),
            patience: Patience::new(limits.calls),
            session: None,
            sessions: 0,
            draining: false,
            told: false,
            closing: false,
            leaving: None,
            pinged: None,
            partial: None,
            idle_since: Some(now),
            timer: Box::pin(tokio::time::sleep_until(far(now, first))),
            limits,
        }
    }

    fn active(&self) -> usize {
        let session = self.session.as_ref().map_or(0, Session::active);
        self.calls.len() + self.tasks.len() + session
    }

    /// Takes requests that have come; `Ready` if the connection is over.
    fn poll_accept(&mut self) -> Poll<()> {
        let cx = &mut TaskContext::from_waker(&self.waker);
        while self.fresh.len() < BATCH {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(request))) => self.fresh.push(request),
                Poll::Ready(Some(Err(err))) => {
                    tracing::debug!(peer = %self.conn.peer.address, %err, "the connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        // There may be more: they are taken after these.
        self.waker.wake_by_ref();
        Poll::Pending
    }

    /// Begins the calls that were taken, in their order.
    fn begin_calls(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        self.busy();
        // Its own, since a call about the session needs all of `self`.
        let waker = self.waker.clone();
        let cx = &mut TaskContext::from_waker(&waker);
        let now = self.conn.clock.now();
        let mut fresh = std::mem::take(&mut self.fresh);
        for (request, respond) in fresh.drain(..) {
            if self.conn.lane && request.uri().path().starts_with(lane::SERVICE) {
                self.lane(request, respond);
                continue;
            }
            Counters::add(&self.conn.counters.served_plain, 1);
            let path = self.paths.get(request.uri().path());
            match Call::begin(&self.conn, path, request, respond, now, cx) {
                Begun::Over(ended) => self.patience.count(ended),
                Begun::Waits(call) if call.is_slow() => {
                    self.tasks.spawn(call);
                }
                Begun::Waits(call) => self.calls.push(call),
            }
        }
        self.fresh = fresh;
    }

    /// There are calls, whether they wait or not.
    fn busy(&mut self) {
        self.control.set_served();
        if self.idle_since.is_some() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// A call that is about the session.
    fn lane(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let cx = &mut TaskContext::from_waker(&self.waker);
        let is_grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| crate::headers::codec_of(value.as_bytes()).is_some());
        if !is_grpc || request.method() != http::Method::POST {
            let err = Error::invalid_argument("a session is opened by gRPC");
            Call::refuse(respond, &err);
            return;
        }
        if request.uri().path() == lane::OPEN {
            if self.sessions >= MOST_SESSIONS || self.session.is_some() || self.draining {
                let err = Error::resource_exhausted("a connection has one session")
                    .with_unprocessed(true);
                Call::refuse(respond, &err);
                return;
            }
            self.sessions += 1;
            self.session = Session::begin(&self.conn, request.into_body(), respond);
            return;
        }
        let number = request
            .headers()
            .get(lane::TAKE_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if request.uri().path() != lane::TAKE {
            Call::refuse(respond, &Error::unimplemented("no such method"));
            return;
        }
        let parked = match (&mut self.session, number) {
            (Some(session), Some(number)) => session.take(number),
            _ => None,
        };
        let Some(parked) = parked else {
            // For the caller it is as if the connection had broken.
            let err = Error::unavailable("no answer waits under this number any more");
            Call::refuse(respond, &err);
            return;
        };
        match parked.answer(respond, cx) {
            Ok(Begun::Over(ended)) => self.patience.count(ended),
            Ok(Begun::Waits(call)) => self.calls.push(call),
            Err(err) => tracing::debug!(%err, "an answer cannot be given"),
        }
    }

    /// Polls the session.
    fn poll_session(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let cx = &mut TaskContext::from_waker(&self.waker);
        if self.draining {
            session.go_away();
        }
        let over = session.poll(&mut self.paths, &mut self.patience, cx);
        if session.has_worked() {
            self.busy();
        }
        if over.is_ready() {
            self.session = None;
        }
    }

    /// Polls the calls that were woken.
    fn poll_calls(&mut self) {
        let cx = &mut TaskContext::from_waker(&self.waker);
        while !self.calls.is_empty() {
            let Poll::Ready(Some(ended)) = self.calls.poll_next_unpin(cx) else {
                break;
            };
            self.patience.count(ended);
        }
        while !self.tasks.is_empty() {
            let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) else {
                break;
            };
            self.patience.count(ended.unwrap_or(Ended::Answered));
        }
    }

    /// Follows what the listener says; `Ready` if the connection is to close at once.
    fn obey(&mut self) -> Poll<()> {
        match self.control.command() {
            Command::Run => {}
            Command::Drain => self.draining = true,
            // One that is idle may go; one that has calls again by now stays.
            Command::Evict => {
                if self.active() == 0 && !self.closing {
                    self.shut(Reason::NO_ERROR);
                }
            }
            Command::Close => return Poll::Ready(()),
        }
        Poll::Pending
    }

    /// Tells HTTP/2 that no call is to come, as soon as the session has none: an answer that has to
    /// be taken is a call of HTTP/2, which a peer does not begin any more then.
    fn tell(&mut self) {
        let busy = self.session.as_ref().is_some_and(|s| s.active() > 0);
        if self.draining && !self.told && !busy {
            self.told = true;
            self.h2.graceful_shutdown();
            self.waker.wake_by_ref();
        }
    }

    /// The connection is idle. The peer of a session is asked to end it, so that a call which it
    /// makes just now is refused and not lost.
    fn part(&mut self) {
        if self.session.is_none() || self.leaving.is_some() {
            self.shut(Reason::NO_ERROR);
            return;
        }
        let at = far(Instant::now(), self.limits.keepalive_timeout);
        self.draining = true;
        self.leaving = Some(at);
        self.timer.as_mut().reset(at);
        self.waker.wake_by_ref();
    }

    /// Notes when the last call ended and whether a header block hangs.
    fn note(&mut self) {
        let active = self.active();
        self.control.set_active(active);
        match (active, self.idle_since) {
            (0, None) => {
                let now = Instant::now();
                self.idle_since = Some(now);
                self.control.set_idle();
            }
            (0, Some(_)) => {}
            (_, Some(_)) => self.idle_since = None,
            (_, None) => {}
        }
        match (self.tap.partial(), self.partial) {
            (None, None) => {}
            (None, Some(_)) => self.partial = None,
            (Some(frames), Some((seen, _))) if frames == seen => {}
            (Some(frames), _) => {
                let now = Instant::now();
                self.partial = Some((frames, now));
                let at = far(now, self.limits.header);
                if at < self.timer.deadline() {
                    self.timer.as_mut().reset(at);
                }
            }
        }
    }

    /// Looks at the time: hanging headers, silence, idleness. Returns when to look again, or why
    /// the connection is to close, `None` for idleness.
    fn check(&mut self) -> Result<Instant, Option<Reason>> {
        let now = Instant::now();
        let limits = &self.limits;
        let mut next = far(now, limits.keepalive.min(limits.idle));
        if let Some((_, since)) = self.partial {
            let at = far(since, limits.header);
            if at <= now {
                tracing::debug!(peer = %self.conn.peer.address, "a header block took too long");
                return Err(Some(Reason::ENHANCE_YOUR_CALM));
            }
            next = next.min(at);
        }
        if let Some(since) = self.idle_since {
            let at = self.leaving.unwrap_or_else(|| far(since, limits.idle));
            if at <= now {
                return Err(None);
            }
            return Ok(next.min(at));
        }
        if let Some(pinged) = self.pinged {
            let at = far(pinged, limits.keepalive_timeout);
            if at <= now {
                tracing::debug!(peer = %self.conn.peer.address, "the peer does not answer");
                return Err(Some(Reason::NO_ERROR));
            }
            return Ok(next.min(at));
        }
        let at = far(self.tap.last_read(), limits.keepalive);
        if at > now {
            return Ok(next.min(at));
        }
        if let Some(ping) = &mut self.ping
            && ping.send_ping(Ping::opaque()).is_ok()
        {
            self.pinged = Some(now);
            next = next.min(far(now, limits.keepalive_timeout));
        }
        Ok(next)
    }

    fn poll_timer(&mut self) {
        let cx = &mut TaskContext::from_waker(&self.waker);
        if self.pinged.is_some()
            && let Some(ping) = &mut self.ping
            && ping.poll_pong(cx).is_ready()
        {
            self.pinged = None;
        }
        while self
            .timer
            .as_mut()
            .poll(&mut TaskContext::from_waker(&self.waker))
            .is_ready()
        {
            if self.closing {
                // The peer does not even take the reason.
                self.control.set(Command::Close);
                return;
            }
            match self.check() {
                Ok(next) => self.timer.as_mut().reset(next),
                Err(None) => self.part(),
                Err(Some(reason)) => self.shut(reason),
            }
        }
    }

    /// Says why, and closes as soon as that is written.
    fn shut(&mut self, reason: Reason) {
        self.closing = true;
        self.h2.abrupt_shutdown(reason);
        let patience = far(Instant::now(), self.limits.keepalive_timeout);
        self.timer.as_mut().reset(patience);
        self.waker.wake_by_ref();
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        this.turn.begin(cx);
        this.control.register(&this.waker);
        for nth in 1..=TURNS {
            if this.obey().is_ready() || this.poll_accept().is_ready() {
                return Poll::Ready(());
            }
            if this.tap.is_flooded() && !this.closing {
                tracing::debug!(peer = %this.conn.peer.address, "too many frames without work");
                this.shut(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            this.begin_calls();
            this.poll_session();
            this.poll_calls();
            this.tell();
            if this.patience.is_over() && !this.closing {
                tracing::debug!(peer = %this.conn.peer.address, "too many calls are given up at once");
                this.shut(Reason::ENHANCE_YOUR_CALM);
            }
            this.poll_timer();
            this.note();
            // Whatever was answered has woken h2's task, which is this one: write it.
            if !this.turn.again() {
                break;
            }
            if nth == TURNS || !tokio::task::coop::has_budget_remaining() {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if this.turn.end() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Whatever calls are left lose their connection: h2 first tells their streams.
impl Drop for Driver {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.calls.clear();
        self.session = None;
    }
}
