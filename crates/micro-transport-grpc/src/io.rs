//! The byte stream under a connection, and what can be told from watching its frames.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a client begins HTTP/2 with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// TCP, with TLS around it or not.
#[derive(Debug)]
pub(crate) enum Raw {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    #[cfg(feature = "tls")]
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($raw:expr, $io:ident => $do:expr) => {
        match $raw {
            Raw::Plain($io) => $do,
            #[cfg(feature = "tls")]
            Raw::Server($io) => $do,
            #[cfg(feature = "tls")]
            Raw::Client($io) => $do,
        }
    };
}

/// A connection's bytes: those read ahead first, and all of them shown to a [`Tap`].
#[derive(Debug)]
pub(crate) struct Io {
    raw: Raw,
    ahead: Bytes,
    tap: Option<(Arc<Tap>, Parser)>,
}

impl Io {
    /// A connection from which `ahead` was read already.
    pub(crate) fn new(raw: Raw, ahead: Bytes) -> Self {
        Self {
            raw,
            ahead,
            tap: None,
        }
    }

    /// Watches the frames that come in; a server's connection begins with the preface.
    pub(crate) fn tapped(mut self, server: bool) -> (Self, Arc<Tap>) {
        let tap = Arc::new(Tap::new());
        let skip = if server { PREFACE.len() } else { 0 };
        let parser = Parser {
            skip: u32::try_from(skip).unwrap_or(0),
            ..Parser::default()
        };
        self.tap = Some((Arc::clone(&tap), parser));
        (self, tap)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((tap, _)) = &this.tap
            && tap.is_flooded()
        {
            // Whoever drives the connection closes it now; nothing more is read until then.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.ahead.has_remaining() {
            let n = this.ahead.remaining().min(buf.remaining());
            buf.put_slice(&this.ahead[..n]);
            this.ahead.advance(n);
        } else {
            let read = each!(&mut this.raw, io => Pin::new(io).poll_read(cx, buf));
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(err)) => {
                    // h2 keeps only the text of an error.
                    #[cfg(feature = "tls")]
                    if let (Some((tap, _)), Some(why)) = (&this.tap, crate::tls::classify(&err)) {
                        let _ = tap.tls_failure.set(why);
                    }
                    return Poll::Ready(Err(err));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some((tap, parser)) = &mut this.tap {
            parser.feed(&buf.filled()[before..], tap);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = each!(&mut self.raw, io => Pin::new(io).poll_write(cx, buf));
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = each!(&mut self.raw, io => Pin::new(io).poll_write_vectored(cx, bufs));
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.raw, io => io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.raw, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.raw, io => Pin::new(io).poll_shutdown(cx))
    }
}

impl Io {
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        // More than a few acknowledgements: work, not noise.
        if let (Some((tap, _)), Poll::Ready(Ok(n))) = (&self.tap, written)
            && *n >= 64
        {
            tap.credit();
        }
    }
}

/// What was seen of the frames that came in.
///
/// Written by the reads and read by the driver of the same connection, which are one task: the
/// atomics only make it `Sync`.
#[derive(Debug)]
pub(crate) struct Tap {
    began: Instant,
    /// Milliseconds after `began` of the last read.
    last_read: AtomicU64,
    /// Whether SETTINGS came.
    settings: AtomicBool,
    /// Whether a GOAWAY came.
    going_away: AtomicBool,
    /// Frames so far.
    frames: AtomicU32,
    /// Whether a header block (or a frame's head) has begun and not ended.
    partial: AtomicBool,
    /// The first bytes, to tell what the peer speaks if it is not HTTP/2.
    first: AtomicU64,
    /// How many more frames may come that are not work.
    allowance: AtomicU32,
    refilled: AtomicU64,
    #[cfg(feature = "tls")]
    tls_failure: std::sync::OnceLock<(micro_core::ErrorKind, &'static str)>,
}

impl Tap {
    /// How many PING, SETTINGS, PRIORITY and unknown frames a peer may send at once. Each frame that
    /// carries a call, and each write that answers one, gives some back; so does time.
    const ALLOWANCE: u32 = 2000;
    const PER_SECOND: u64 = 100;

    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_read: AtomicU64::new(0),
            settings: AtomicBool::new(false),
            going_away: AtomicBool::new(false),
            frames: AtomicU32::new(0),
            partial: AtomicBool::new(false),
            first: AtomicU64::new(0),
            allowance: AtomicU32::new(Self::ALLOWANCE),
            refilled: AtomicU64::new(0),
            #[cfg(feature = "tls")]
            tls_failure: std::sync::OnceLock::new(),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the peer was last heard of.
    pub(crate) fn last_read(&self) -> Instant {
        self.began + Duration::from_millis(self.last_read.load(Ordering::Relaxed))
    }

    pub(crate) fn has_settings(&self) -> bool {
        self.settings.load(Ordering::Relaxed)
    }

    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    /// How many frames have come, if one has begun that should not take long.
    pub(crate) fn partial(&self) -> Option<u32> {
        self.partial
            .load(Ordering::Relaxed)
            .then(|| self.frames.load(Ordering::Relaxed))
    }

    /// Whether the peer sends more frames without work than anybody needs.
    pub(crate) fn is_flooded(&self) -> bool {
        self.allowance.load(Ordering::Relaxed) == 0
    }

    /// The first eight bytes that came, zeros behind them.
    pub(crate) fn first(&self) -> [u8; 8] {
        self.first.load(Ordering::Relaxed).to_be_bytes()
    }

    /// Why TLS failed, if it did after its handshake.
    #[cfg(feature = "tls")]
    pub(crate) fn tls_failure(&self) -> Option<(micro_core::ErrorKind, &'static str)> {
        self.tls_failure.get().copied()
    }

    fn credit(&self) {
        let left = self.allowance.load(Ordering::Relaxed);
        if left > 0 && left < Self::ALLOWANCE {
            self.allowance
                .store((left + 2).min(Self::ALLOWANCE), Ordering::Relaxed);
        }
    }

    fn noise(&self) {
        let mut left = self.allowance.load(Ordering::Relaxed);
        if left < Self::ALLOWANCE / 2 {
            let now = self.millis();
            let since = now.saturating_sub(self.refilled.load(Ordering::Relaxed));
            let more = since * Self::PER_SECOND / 1000;
            if more > 0 {
                self.refilled.store(now, Ordering::Relaxed);
                left = left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            }
        }
        self.allowance.store(
            left.min(Self::ALLOWANCE).saturating_sub(1),
            Ordering::Relaxed,
        );
    }
}

/// Follows frame heads through the bytes; payloads are skipped.
#[derive(Debug, Default)]
struct Parser {
    /// Bytes of a payload that are still to come.
    skip: u32,
    head: [u8; 9],
    have: usize,
    /// Whether the payload being skipped is part of a header block, and whether one is open.
    in_headers: bool,
    open_headers: bool,
    first: usize,
}

impl Parser {
    fn feed(&mut self, mut bytes: &[u8], tap: &Tap) {
        if bytes.is_empty() {
            return;
        }
        tap.last_read.store(tap.millis(), Ordering::Relaxed);
        if self.first < 8 {
            let mut first = tap.first();
            let n = bytes.len().min(8 - self.first);
            first[self.first..self.first + n].copy_from_slice(&bytes[..n]);
            self.first += n;
            tap.first
                .store(u64::from_be_bytes(first), Ordering::Relaxed);
        }
        loop {
            let n = (self.skip as usize).min(bytes.len());
            bytes = &bytes[n..];
            self.skip -= u32::try_from(n).unwrap_or(self.skip);
            if self.skip > 0 {
                break;
            }
            self.in_headers = false;
            let n = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have < self.head.len() {
                break;
            }
            self.have = 0;
            self.frame(tap);
        }
        let partial = self.have > 0 || self.in_headers || self.open_headers;
        tap.partial.store(partial, Ordering::Relaxed);
    }

    fn frame(&mut self, tap: &Tap) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]);
        tap.frames.store(
            tap.frames.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        match kind {
            // HEADERS and CONTINUATION, with END_HEADERS or without.
            1 | 9 => {
                self.in_headers = self.skip > 0;
                self.open_headers = flags & 0x4 == 0;
                tap.credit();
            }
            // DATA; h2 counts the empty ones.
            0 => tap.credit(),
            // RST_STREAM, WINDOW_UPDATE: h2 bounds the former, the latter belong to work.
            3 | 8 => {}
            4 => {
                tap.settings.store(true, Ordering::Relaxed);
                tap.noise();
            }
            7 => tap.going_away.store(true, Ordering::Relaxed),
            // PRIORITY, PUSH_PROMISE, PING, and what nobody knows.
            _ => tap.noise(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(len: u8, kind: u8, flags: u8) -> Vec<u8> {
        vec![0, 0, len, kind, flags, 0, 0, 0, 0]
    }

    #[tokio::test]
    async fn frames_are_seen_at_every_cut() {
        let mut wire = PREFACE.to_vec();
        wire.extend(head(6, 4, 0));
        wire.extend([0; 6]);
        wire.extend(head(3, 1, 0));
        wire.extend([0; 3]);
        wire.extend(head(0, 9, 4));
        wire.extend(head(8, 7, 0));
        wire.extend([0; 8]);
        for step in 1..wire.len() {
            let tap = Tap::new();
            let mut parser = Parser {
                skip: 24,
                ..Parser::default()
            };
            for chunk in wire.chunks(step) {
                parser.feed(chunk, &tap);
            }
            assert!(tap.has_settings() && tap.is_going_away());
            assert_eq!(tap.frames.load(Ordering::Relaxed), 4);
            assert_eq!(tap.partial(), None, "step {step}");
            assert_eq!(&tap.first(), &PREFACE[..8]);
        }
    }

    #[tokio::test]
    async fn an_open_header_block_is_partial() {
        let tap = Tap::new();
        let mut parser = Parser::default();
        parser.feed(&head(0, 1, 0), &tap);
        assert!(tap.partial().is_some());
        parser.feed(&head(2, 9, 4), &tap);
        assert!(tap.partial().is_some());
        parser.feed(&[0, 0], &tap);
        assert!(tap.partial().is_none());
        // A payload that is no header block may take its time.
        parser.feed(&head(200, 0, 0), &tap);
        assert!(tap.partial().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_noise_without_work_is_a_flood() {
        let ping = head(0, 6, 0);
        let tap = Tap::new();
        let mut parser = Parser::default();
        for _ in 0..10_000 {
            parser.feed(&ping, &tap);
            parser.feed(&head(0, 0, 0), &tap);
        }
        assert!(!tap.is_flooded());
        for _ in 0..100 {
            tokio::time::advance(Duration::from_secs(10)).await;
            for _ in 0..1000 {
                parser.feed(&ping, &tap);
            }
        }
        assert!(!tap.is_flooded());
        for _ in 0..2000 {
            parser.feed(&ping, &tap);
        }
        assert!(tap.is_flooded());
    }
}
