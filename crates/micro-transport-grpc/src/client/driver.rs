//! The task that drives one connection: reads, writes, and probes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use micro_transport_core::Limits;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::State;
use crate::io::{Io, Tap};
use crate::time::far;

/// Drives a connection until it is closed, or nobody needs it any more.
pub(crate) struct Driver {
    h2: Connection<Io, Bytes>,
    tap: Arc<Tap>,
    state: Arc<State>,
    gone: watch::Sender<bool>,
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
    ) -> Self {
        let now = Instant::now();
        let first = far(now, keepalive.min(limits.idle));
        Self {
            ping: h2.ping_pong(),
            h2,
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
        if self.state.open.swap(false, Ordering::SeqCst) {
            // Fails only if nobody listens.
            let _ = self.gone.send(true);
        }
    }

    /// Looks at the time. Returns when to look again; `None` ends the connection.
    fn check(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let next = far(now, self.keepalive.min(self.idle));
        let active = self.state.active.load(Ordering::SeqCst);
        if let Some(since) = self.leaving
            && active == 0
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
            return (self.state.active.load(Ordering::SeqCst) > 0).then_some(next);
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

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        this.state.driver.register(cx.waker());
        if let Poll::Ready(ended) = Pin::new(&mut this.h2).poll(cx) {
            if let Err(err) = ended {
                tracing::debug!(%err, "the connection failed");
            }
            return Poll::Ready(());
        }
        if this.tap.is_going_away() {
            this.close();
        }
        if this.tap.is_flooded() {
            tracing::debug!("the peer sends too many frames without work");
            return Poll::Ready(());
        }
        if this.leaving.is_none() && this.state.released.load(Ordering::Acquire) {
            this.close();
            let now = Instant::now();
            this.leaving = Some(now);
            let at = far(now, this.keepalive_timeout);
            if at < this.timer.deadline() {
                this.timer.as_mut().reset(at);
            }
        }
        this.poll_time(cx)
    }
}

/// Whatever ends the driver closes the connection: h2 tells the calls that are left.
impl Drop for Driver {
    fn drop(&mut self) {
        self.close();
    }
}
