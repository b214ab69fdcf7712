//! The task that drives one connection: reads, writes, and probes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use micro_transport_core::Limits;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::{SPEAKS_NOT, State};
use crate::io::{Io, Tap};
use crate::lane::Counters;
use crate::lane::client::{Over, Session};
use crate::time::far;
use crate::turn::Turn;

/// How often the loop turns before other tasks get their turn.
const TURNS: usize = 32;
/// A session that breaks sooner is not tried again for a while: something in between ends streams.
const LASTS: Duration = Duration::from_secs(10);

/// Drives a connection until it is closed, or nobody needs it any more.
pub(crate) struct Driver {
    h2: Connection<Io, Bytes>,
    tap: Arc<Tap>,
    state: Arc<State>,
    gone: watch::Sender<bool>,
    turn: Arc<Turn>,
    waker: Waker,
    /// The fast lane, and whom to tell if it does not last.
    session: Option<(Session, Arc<Counters>, String)>,
    ping: Option<PingPong>,
    pinged: Option<Instant>,
    /// Since when nobody needs the connection.
    leaving: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    keepalive: Duration,
    keepalive_timeout: Duration,
    idle: Duration,
    idle_since: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(
        mut h2: Connection<Io, Bytes>,
        tap: Arc<Tap>,
        state: Arc<State>,
        gone: watch::Sender<bool>,
        limits: &Limits,
        keepalive: Duration,
        session: Option<(Session, Arc<Counters>, String)>,
    ) -> Self {
        let turn = Arc::new(Turn::default());
        let now = Instant::now();
        let first = far(now, keepalive.min(limits.idle));
        Self {
            ping: h2.ping_pong(),
            h2,
            waker: Waker::from(Arc::clone(&turn)),
            turn,
            session,
            tap,
            state,
            gone,
            pinged: None,
            leaving: None,
            timer: Box::pin(tokio::time::sleep_until(first)),
            keepalive,
            keepalive_timeout: limits.keepalive_timeout,
            idle: limits.idle,
            idle_since: Some(now),
        }
    }

    /// Says that no new call can be made.
    fn close(&self) {
        if let Some((session, ..)) = &self.session {
            session.lane.close();
            self.waker.wake_by_ref();
        }
        if self.state.open.swap(false, Ordering::SeqCst) {
            // Fails only if nobody listens.
            let _ = self.gone.send(true);
        }
    }

    /// Calls under way.
    fn active(&self) -> usize {
        let session = self.session.as_ref();
        self.state.active.load(Ordering::SeqCst)
            + session.map_or(0, |(session, ..)| session.lane.in_flight())
    }

    /// Drives the session; when it is over, so is the connection for new calls.
    fn poll_session(&mut self, cx: &mut TaskContext<'_>) {
        let Some((session, counters, address)) = &mut self.session else {
            return;
        };
        let Poll::Ready(over) = session.poll(cx) else {
            // A peer that takes no calls there takes none at all.
            if !session.lane.is_open() && self.state.is_open() {
                self.close();
            }
            return;
        };
        if let Over::Broken(err) = over {
            tracing::debug!(%address, %err, "the session broke");
            if session.began().elapsed() < LASTS {
                counters.set_silent(address, SPEAKS_NOT);
            }
        }
        self.close();
        self.session = None;
    }

    /// Looks at the time. Returns when to look again; `None` ends the connection.
    fn check(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let next = far(now, self.keepalive.min(self.idle));
        let active = self.active();
        // Without a handle nobody waits on the session, whatever its peer still owes.
        if let Some(since) = self.leaving
            && self.state.active.load(Ordering::SeqCst) == 0
        {
            // The peer does not take what is left to send.
            let at = far(since, self.keepalive_timeout);
            return (at > now).then(|| next.min(at));
        }
        if let Some(pinged) = self.pinged {
            let at = far(pinged, self.keepalive_timeout);
            return (at > now).then(|| next.min(at));
        }
        if active == 0 {
            let since = *self.idle_since.get_or_insert(now);
            let at = far(since.max(self.tap.last_read()), self.idle);
            if at > now {
                return Some(next.min(at));
            }
            // Closed first, asked again then: a call that came in between is not lost.
            self.close();
            return (self.active() > 0).then_some(next);
        }
        self.idle_since = None;
        let at = far(self.tap.last_read(), self.keepalive);
        if at > now {
            return Some(next.min(at));
        }
        if let Some(ping) = &mut self.ping
            && ping.send_ping(Ping::opaque()).is_ok()
        {
            self.pinged = Some(now);
            return Some(next.min(far(now, self.keepalive_timeout)));
        }
        Some(next)
    }

    fn poll_time(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.pinged.is_some()
            && let Some(ping) = &mut self.ping
            && ping.poll_pong(cx).is_ready()
        {
            self.pinged = None;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.check() {
                Some(next) => self.timer.as_mut().reset(next),
                None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl Driver {
    fn poll_once(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if let Poll::Ready(ended) = Pin::new(&mut self.h2).poll(cx) {
            if let Err(err) = ended {
                tracing::debug!(%err, "the connection failed");
            }
            return Poll::Ready(());
        }
        if self.tap.is_going_away() && self.state.is_open() {
            self.close();
        }
        if self.tap.is_flooded() {
            tracing::debug!("the peer sends too many frames without work");
            return Poll::Ready(());
        }
        if self.leaving.is_none() && self.state.released.load(Ordering::Acquire) {
            self.close();
            let now = Instant::now();
            self.leaving = Some(now);
            let at = far(now, self.keepalive_timeout);
            if at < self.timer.deadline() {
                self.timer.as_mut().reset(at);
            }
        }
        self.poll_session(cx);
        self.poll_time(cx)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        this.turn.begin(cx);
        this.state.driver.register(&this.waker);
        let waker = this.waker.clone();
        let turn = &mut TaskContext::from_waker(&waker);
        for nth in 1..=TURNS {
            if this.poll_once(turn).is_ready() {
                return Poll::Ready(());
            }
            // What was sent has woken HTTP/2's task, which is this one: write it.
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

/// Whatever ends the driver closes the connection: h2 tells the calls that are left.
impl Drop for Driver {
    fn drop(&mut self) {
        self.close();
    }
}
