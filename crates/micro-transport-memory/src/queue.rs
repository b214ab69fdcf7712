//! A queue of messages between a producer and a slow reader, bounded in bytes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use micro_transport_core::{Error, Metadata, Result, TrailersSender};

/// What a message costs beside its bytes, as in gRPC's framing: empty ones fill a queue too.
const FRAME: usize = 5;

#[derive(Default)]
struct State {
    messages: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    reading: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct End {
    result: Result<()>,
    trailers: Option<Metadata>,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue that holds `window` bytes, or a single message that is larger.
///
/// `broken` is what the reader gets if the writer goes away before the end.
pub(crate) fn queue(window: usize, broken: fn() -> Error) -> (Writer, Reader) {
    let shared = Arc::new(Mutex::new(State {
        reading: true,
        ..State::default()
    }));
    let writer = Writer {
        shared: Arc::clone(&shared),
        window,
        broken,
    };
    let reader = Reader {
        shared,
        trailers: None,
        ended: false,
    };
    (writer, reader)
}

pub(crate) struct Writer {
    shared: Shared,
    window: usize,
    broken: fn() -> Error,
}

impl Writer {
    /// Ready when a message fits, or nobody reads any more: `false` then.
    pub(crate) fn poll_room(&self, task: &mut TaskContext<'_>) -> Poll<bool> {
        let mut state = lock(&self.shared);
        if !state.reading {
            return Poll::Ready(false);
        }
        if state.bytes < self.window.max(1) {
            return Poll::Ready(true);
        }
        store(&mut state.writer, task);
        Poll::Pending
    }

    /// Ready when nobody reads any more.
    pub(crate) fn poll_closed(&self, task: &mut TaskContext<'_>) -> Poll<()> {
        let mut state = lock(&self.shared);
        if !state.reading {
            return Poll::Ready(());
        }
        store(&mut state.writer, task);
        Poll::Pending
    }

    /// Adds a message; the caller has seen that there is room.
    pub(crate) fn push(&self, message: Bytes) {
        let mut state = lock(&self.shared);
        if !state.reading {
            return;
        }
        state.bytes += message.len() + FRAME;
        state.messages.push_back(message);
        wake(state, |state| &mut state.reader);
    }

    /// Ends the stream, after what was pushed before. Only the first end counts.
    pub(crate) fn end(&self, result: Result<()>, trailers: Option<Metadata>) {
        let mut state = lock(&self.shared);
        if state.end.is_none() {
            state.end = Some(End { result, trailers });
        }
        wake(state, |state| &mut state.reader);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After a proper end this changes nothing.
        self.end(Err((self.broken)()), None);
    }
}

pub(crate) struct Reader {
    shared: Shared,
    trailers: Option<TrailersSender>,
    ended: bool,
}

impl Reader {
    /// Where the trailers go, when the end is read.
    pub(crate) fn with_trailers(mut self, trailers: TrailersSender) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut state = lock(&self.shared);
        if let Some(message) = state.messages.pop_front() {
            state.bytes -= message.len() + FRAME;
            wake(state, |state| &mut state.writer);
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(end) = state.end.take() else {
            store(&mut state.reader, task);
            return Poll::Pending;
        };
        drop(state);
        self.ended = true;
        if let Some(trailers) = self.trailers.take() {
            trailers.send(end.trailers.unwrap_or_default());
        }
        Poll::Ready(end.result.err().map(Err))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.reading = false;
        let messages = std::mem::take(&mut state.messages);
        wake(state, |state| &mut state.writer);
        // Without the lock: a message's owner may be somebody's own type.
        drop(messages);
    }
}

fn store(slot: &mut Option<Waker>, task: &TaskContext<'_>) {
    match slot {
        Some(waker) => waker.clone_from(task.waker()),
        None => *slot = Some(task.waker().clone()),
    }
}

/// Wakes one side without the lock: the waker may run code that comes back here.
fn wake(
    mut state: MutexGuard<'_, State>,
    side: impl for<'a> FnOnce(&'a mut State) -> &'a mut Option<Waker>,
) {
    let waker = side(&mut state).take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use micro_transport_core::{ErrorKind, Trailers};

    use super::*;

    fn task() -> TaskContext<'static> {
        TaskContext::from_waker(Waker::noop())
    }

    fn next(reader: &mut Reader) -> Poll<Option<Result<Bytes>>> {
        Pin::new(reader).poll_next(&mut task())
    }

    #[test]
    fn it_is_bounded_in_bytes_and_takes_one_large_message() {
        let (writer, mut reader) = queue(10, || Error::unavailable("gone"));
        writer.push(Bytes::from_static(&[0; 100]));
        assert!(writer.poll_room(&mut task()).is_pending());
        assert!(matches!(next(&mut reader), Poll::Ready(Some(Ok(_)))));
        let mut empty = 0;
        while writer.poll_room(&mut task()) == Poll::Ready(true) {
            writer.push(Bytes::new());
            empty += 1;
        }
        assert_eq!(empty, 2, "empty messages count too");
        drop(reader);
        assert_eq!(writer.poll_room(&mut task()), Poll::Ready(false));
    }

    #[test]
    fn trailers_come_with_the_end_and_a_lost_writer_is_an_error() {
        let (writer, reader) = queue(10, || Error::unavailable("gone"));
        let (sender, trailers) = Trailers::pending();
        let mut reader = reader.with_trailers(sender);
        writer.push(Bytes::new());
        writer.end(Ok(()), None);
        drop(writer);
        assert!(matches!(next(&mut reader), Poll::Ready(Some(Ok(_)))));
        assert!(trailers.get().is_none());
        assert!(matches!(next(&mut reader), Poll::Ready(None)));
        assert!(trailers.get().is_some_and(Metadata::is_empty));

        let (writer, mut reader) = queue(10, || Error::unavailable("gone"));
        drop(writer);
        let Poll::Ready(Some(Err(err))) = next(&mut reader) else {
            panic!("the loss is told");
        };
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(matches!(next(&mut reader), Poll::Ready(None)));
    }
}
