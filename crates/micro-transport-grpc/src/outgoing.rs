//! A stream of messages on its way out, at the pace of its reader.

use std::task::{Context as TaskContext, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use micro_core::{Error, Result};
use micro_transport_core::Messages;

use crate::frame;

/// Small messages that are ready together go as one DATA frame up to this size.
const BATCH: usize = 16 << 10;

/// Why nothing more can be sent.
#[derive(Debug)]
pub(crate) enum End {
    /// The stream of messages failed, or held a message that may not be sent.
    Failed(Error),
    /// The peer reset the stream, or the connection is gone.
    Gone,
}

/// Sends messages into an HTTP/2 stream, never more than its window and buffer take.
///
/// What waits here is at most one batch and one message, whatever the reader does.
pub(crate) struct Outgoing {
    messages: Option<Messages>,
    limit: usize,
    /// Framed messages that wait for room.
    batch: BytesMut,
    /// A large message (or the rest of one) behind the batch, which is not copied into it.
    large: Bytes,
    /// An error of the stream, reported once all before it is sent.
    failed: Option<Error>,
}

impl Outgoing {
    /// All messages of a stream.
    pub(crate) fn stream(messages: Messages, limit: usize) -> Self {
        Self {
            messages: Some(messages),
            limit,
            batch: BytesMut::new(),
            large: Bytes::new(),
            failed: None,
        }
    }

    /// One message.
    pub(crate) fn message(message: Bytes) -> Self {
        let mut batch = BytesMut::with_capacity(frame::PREFIX);
        frame::put_prefix(&mut batch, message.len());
        Self {
            messages: None,
            limit: usize::MAX,
            batch,
            large: message,
            failed: None,
        }
    }

    /// Bytes as they are, without a prefix.
    pub(crate) fn bare(bytes: Bytes) -> Self {
        Self {
            messages: None,
            limit: usize::MAX,
            batch: BytesMut::new(),
            large: bytes,
            failed: None,
        }
    }

    /// Whether messages wait for the reader.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.batch.is_empty() || !self.large.is_empty()
    }

    /// Takes what the stream has ready. `Ready` if there is something to send or it is over.
    pub(crate) fn poll_fill(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        while self.large.is_empty() && self.failed.is_none() && self.batch.len() < BATCH {
            let Some(messages) = &mut self.messages else {
                return Poll::Ready(());
            };
            match messages.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(err) = frame::check_out(message.len(), self.limit) {
                        self.fail(err);
                    } else {
                        frame::put_prefix(&mut self.batch, message.len());
                        if message.len() <= frame::COPY {
                            self.batch.put_slice(&message);
                        } else {
                            self.large = message;
                        }
                    }
                }
                Poll::Ready(Some(Err(err))) => self.fail(err),
                Poll::Ready(None) => self.messages = None,
                Poll::Pending if self.batch.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }

    /// Ends the stream with an error behind what it has given so far.
    pub(crate) fn fail(&mut self, err: Error) {
        self.messages = None;
        self.failed = Some(err);
    }

    /// The error of a stream that failed before its first message.
    pub(crate) fn take_early_failure(&mut self) -> Option<Error> {
        if self.is_blocked() {
            return None;
        }
        self.failed.take()
    }

    /// Sends until the stream is over (`Ready`) or must wait.
    ///
    /// Both ends are woken for: new messages, and room in the window.
    pub(crate) fn poll_send(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), End>> {
        loop {
            if self.is_blocked() {
                ready!(self.poll_flush(send, cx))?;
            }
            if let Some(err) = self.failed.take() {
                return Poll::Ready(Err(End::Failed(err)));
            }
            if self.messages.is_none() && !self.is_blocked() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(cx));
        }
    }

    /// Sends what waits, as far as there is room.
    fn poll_flush(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), End>> {
        while self.is_blocked() {
            let wanted = self.batch.len() + self.large.len();
            let mut room = send.capacity();
            if room < wanted {
                send.reserve_capacity(wanted);
                room = send.capacity();
            }
            while room == 0 {
                match ready!(send.poll_capacity(cx)) {
                    Some(Ok(now)) => room = now,
                    Some(Err(_)) | None => return Poll::Ready(Err(End::Gone)),
                }
            }
            let chunk = if self.batch.is_empty() {
                self.large.split_to(room.min(self.large.len()))
            } else {
                self.batch.split_to(room.min(self.batch.len())).freeze()
            };
            if send.send_data(chunk, false).is_err() {
                return Poll::Ready(Err(End::Gone));
            }
        }
        Poll::Ready(Ok(()))
    }
}
