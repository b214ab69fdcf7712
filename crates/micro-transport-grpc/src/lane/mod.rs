//! The fast lane: small unary calls between micro peers on one long-lived stream.
//!
//! A call is a slot and some bytes: no stream of its own, no header blocks, no task. What is ready
//! is written together, and nobody waits for more. The stream is an ordinary gRPC method of the same
//! connection, `proto/micro/session/v1/session.proto`.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::HeaderName;
use tokio::time::Instant;

use crate::LaneStats;

/// The name in a node's metadata that says: this listener takes sessions, of that version.
pub(crate) const LANE: &str = "lane";
pub(crate) const VERSION: &str = "1";

pub(crate) const SERVICE: &str = "/micro.session.v1.Session/";
pub(crate) const OPEN: &str = "/micro.session.v1.Session/Open";
pub(crate) const TAKE: &str = "/micro.session.v1.Session/Take";
/// The number of the answer that is taken.
pub(crate) const TAKE_HEADER: HeaderName = HeaderName::from_static("micro-session-take");

/// Counted by everything that a transport opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) plain: AtomicU64,
    pub(crate) served: AtomicU64,
    pub(crate) served_plain: AtomicU64,
    /// Peers that announced the lane and did not speak it: until when they are not asked again.
    silent: Mutex<HashMap<String, Instant>>,
}

impl Counters {
    const MOST_SILENT: usize = 256;

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> LaneStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LaneStats {
            sessions: get(&self.sessions),
            refused: get(&self.refused),
            calls: get(&self.calls),
            plain_calls: get(&self.plain),
            served: get(&self.served),
            served_plain: get(&self.served_plain),
        }
    }

    pub(crate) fn is_silent(&self, address: &str) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match silent.get(address) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                silent.remove(address);
                false
            }
            None => false,
        }
    }

    pub(crate) fn set_silent(&self, address: &str, leave_alone: Duration) {
        Self::add(&self.refused, 1);
        let now = Instant::now();
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.len() >= Self::MOST_SILENT {
            silent.retain(|_, until| *until > now);
        }
        if silent.len() < Self::MOST_SILENT {
            silent.insert(address.to_owned(), now + leave_alone);
        }
    }
}

/// The stream can send no more.
#[derive(Debug)]
pub(crate) struct Gone;

/// Sends what waits in `out`, as far as there is room.
pub(crate) fn poll_flush(
    out: &mut BytesMut,
    send: &mut SendStream<Bytes>,
    cx: &mut TaskContext<'_>,
) -> Poll<Result<(), Gone>> {
    while !out.is_empty() {
        let mut room = send.capacity();
        if room < out.len() {
            send.reserve_capacity(out.len());
            room = send.capacity();
        }
        while room == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(now)) => room = now,
                Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
            }
        }
        let chunk = out.split_to(room.min(out.len())).freeze();
        if send.send_data(chunk, false).is_err() {
            return Poll::Ready(Err(Gone));
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn peers_are_left_alone_for_a_while_and_not_without_bound() {
        let counters = Counters::default();
        let minute = Duration::from_secs(60);
        for i in 0..1000 {
            counters.set_silent(&format!("host:{i}"), minute);
        }
        assert_eq!(counters.silent.lock().unwrap().len(), Counters::MOST_SILENT);
        assert!(counters.is_silent("host:0") && !counters.is_silent("host:999"));
        tokio::time::advance(minute).await;
        counters.set_silent("host:999", minute);
        assert!(counters.is_silent("host:999") && !counters.is_silent("host:0"));
        assert_eq!(counters.silent.lock().unwrap().len(), 1);
        assert_eq!(counters.stats().refused, 1001);
    }
}
