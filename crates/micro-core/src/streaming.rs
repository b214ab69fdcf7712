//! A stream of messages, the same type on both sides of a call.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use futures_core::Stream;

use crate::{Error, Result};

/// A stream of messages, in either direction, on either side of a call.
///
/// Dropping it ends the stream and tells the other side.
///
/// ```
/// use micro_core::Streaming;
///
/// # futures_executor(async {
/// let mut numbers = Streaming::from_iter([1, 2]);
/// assert_eq!(numbers.next().await.unwrap()?, 1);
/// assert_eq!(numbers.next().await.unwrap()?, 2);
/// assert!(numbers.next().await.is_none());
/// # Ok::<(), micro_core::Error>(())
/// # });
/// # fn futures_executor(f: impl Future<Output = micro_core::Result<()>>) {
/// #     let mut f = std::pin::pin!(f);
/// #     let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
/// #     assert!(f.as_mut().poll(&mut cx).is_ready());
/// # }
/// ```
pub struct Streaming<T>(Pin<Box<dyn Stream<Item = Result<T>> + Send + 'static>>);

impl<T> Streaming<T> {
    /// Wraps any stream of results.
    #[must_use]
    pub fn new(stream: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next message, or `None` at the end. Dropping the future loses no message.
    ///
    /// # Errors
    ///
    /// Whatever ended the stream early; nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<T>> {
        poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }

    /// Reads to the end.
    ///
    /// # Errors
    ///
    /// The first error of the stream; `ResourceExhausted` if there are more than `limit` messages.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await {
            let item = item?;
            if all.len() == limit {
                return Err(Error::resource_exhausted(
                    "the stream has more messages than were asked for",
                )
                .with_context("limit", limit));
            }
            all.push(item);
        }
        Ok(all)
    }
}

impl<T: Send + 'static> Streaming<T> {
    /// A stream of the messages that [`StreamSender::send`] is given.
    ///
    /// At most `capacity` of them (at least one) wait; a sender then waits too.
    #[must_use]
    pub fn channel(capacity: usize) -> (StreamSender<T>, Self) {
        let shared = Arc::new(Mutex::new(Channel {
            queue: VecDeque::new(),
            capacity: capacity.max(1),
            senders: 1,
            receiving: true,
            receiver: None,
            waiting: Vec::new(),
        }));
        (
            StreamSender(Arc::clone(&shared)),
            Self::new(ChannelReceiver(shared)),
        )
    }
}

impl<T: Send + 'static> FromIterator<T> for Streaming<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        // Collected first: the iterator need not be `Send + 'static`, the stream must be.
        Self::new(Items(items.into_iter().collect()))
    }
}

impl<T> Stream for Streaming<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<T>>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streaming")
    }
}

/// A stream of what is there already.
struct Items<T>(VecDeque<T>);

// The items are never pinned: they are moved out.
impl<T> Unpin for Items<T> {}

impl<T> Stream for Items<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<T>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

struct Channel<T> {
    queue: VecDeque<Result<T>>,
    capacity: usize,
    senders: usize,
    receiving: bool,
    receiver: Option<Waker>,
    waiting: Vec<Waker>,
}

type Shared<T> = Arc<Mutex<Channel<T>>>;

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, Channel<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Feeds a [`Streaming`]; made by [`Streaming::channel`]. The stream ends when the last clone is dropped.
pub struct StreamSender<T>(Shared<T>);

impl<T> StreamSender<T> {
    /// Sends a message, waiting while the stream is full.
    ///
    /// A future that is dropped before it is ready has sent nothing.
    ///
    /// # Errors
    ///
    /// `Cancelled` if nobody reads the stream any more.
    pub async fn send(&self, message: T) -> Result<()> {
        self.push(Ok(message)).await
    }

    /// Ends the stream with an error, after what was sent before.
    ///
    /// # Errors
    ///
    /// `Cancelled` if nobody reads the stream any more.
    pub async fn fail(self, error: Error) -> Result<()> {
        self.push(Err(error)).await
    }

    /// Resolves when nobody reads the stream any more.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            let mut channel = lock(&self.0);
            if !channel.receiving {
                return Poll::Ready(());
            }
            wait(&mut channel.waiting, cx);
            Poll::Pending
        })
        .await;
    }

    async fn push(&self, item: Result<T>) -> Result<()> {
        let mut item = Some(item);
        poll_fn(|cx| {
            let mut channel = lock(&self.0);
            if !channel.receiving {
                return Poll::Ready(Err(Error::cancelled("nobody reads the stream any more")));
            }
            if channel.queue.len() >= channel.capacity {
                wait(&mut channel.waiting, cx);
                return Poll::Pending;
            }
            channel.queue.extend(item.take());
            let receiver = channel.receiver.take();
            drop(channel);
            if let Some(waker) = receiver {
                waker.wake();
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

fn wait(waiting: &mut Vec<Waker>, cx: &TaskContext<'_>) {
    if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

impl<T> Clone for StreamSender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for StreamSender<T> {
    fn drop(&mut self) {
        let mut channel = lock(&self.0);
        channel.senders -= 1;
        let receiver = if channel.senders == 0 {
            channel.receiver.take()
        } else {
            None
        };
        drop(channel);
        if let Some(waker) = receiver {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for StreamSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamSender")
    }
}

struct ChannelReceiver<T>(Shared<T>);

impl<T> Stream for ChannelReceiver<T> {
    type Item = Result<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<T>>> {
        let mut channel = lock(&self.0);
        if let Some(item) = channel.queue.pop_front() {
            let waiting = std::mem::take(&mut channel.waiting);
            drop(channel);
            waiting.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(item));
        }
        if channel.senders == 0 {
            return Poll::Ready(None);
        }
        channel.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for ChannelReceiver<T> {
    fn drop(&mut self) {
        let mut channel = lock(&self.0);
        channel.receiving = false;
        channel.queue.clear();
        let waiting = std::mem::take(&mut channel.waiting);
        drop(channel);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::ErrorKind;

    fn poll<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut TaskContext::from_waker(Waker::noop()))
    }

    fn ready<F: Future>(future: F) -> F::Output {
        match poll(future) {
            Poll::Ready(out) => out,
            Poll::Pending => panic!("the future is pending"),
        }
    }

    #[test]
    fn a_full_channel_makes_the_sender_wait() {
        let (sender, mut stream) = Streaming::channel(1);
        ready(sender.send(1)).unwrap();
        assert!(poll(sender.send(2)).is_pending());
        assert_eq!(ready(stream.next()).unwrap().unwrap(), 1);
        ready(sender.clone().send(2)).unwrap();
        assert_eq!(ready(stream.next()).unwrap().unwrap(), 2);
        ready(sender.fail(Error::internal("late"))).unwrap();
        assert_eq!(
            ready(stream.next()).unwrap().unwrap_err().kind(),
            ErrorKind::Internal
        );
    }

    #[test]
    fn the_end_and_the_reader_s_leaving_are_seen() {
        let (sender, mut stream) = Streaming::channel(4);
        ready(sender.send(1)).unwrap();
        drop(sender);
        assert!(ready(stream.next()).is_some());
        assert!(ready(stream.next()).is_none());

        let (sender, stream) = Streaming::<u8>::channel(4);
        assert!(poll(sender.closed()).is_pending());
        drop(stream);
        ready(sender.closed());
        assert_eq!(
            ready(sender.send(1)).unwrap_err().kind(),
            ErrorKind::Cancelled
        );
    }

    #[test]
    fn collecting_is_bounded() {
        let err = ready(Streaming::from_iter(0..10).collect(9)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(
            ready(Streaming::from_iter(0..10).collect(10))
                .unwrap()
                .len(),
            10
        );
    }
}
