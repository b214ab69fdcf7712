//! Messages of a channel, over a connection of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use micro_core::{Error, ErrorKind, Result};
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::Effect;
use crate::RedisConfig;
use crate::dial::{dial, login};
use crate::error::{Problem, refused};

/// So many messages wait for their reader, and so many bytes, in pieces.
const BACKLOG: usize = 4096;
const PIECE: usize = 4 << 10;
const PIECES: usize = (64 << 20) / PIECE;

/// So often the server is asked whether it is still there.
const BEAT: Duration = Duration::from_secs(10);

/// What is published on a channel from now on, in its order.
///
/// Redis keeps nothing for a subscriber who is away, so a subscription does not reconnect: when
/// messages may have been missed, it yields an error and ends. That is `Aborted` if the reader was
/// too slow, and `Unavailable` if the connection was lost.
pub struct Subscription {
    messages: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    /// Why there are no more.
    end: Option<oneshot::Receiver<Error>>,
    task: AbortHandle,
}

impl Subscription {
    /// Subscribes to one channel. When it returns, the server has confirmed it.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if our user may not; `Unavailable` and the others of
    /// [`Connection::link`](crate::Connection::link) without a connection.
    pub async fn open(config: &RedisConfig, channel: &[u8]) -> Result<Self> {
        let begin = async {
            let socket = dial(config).await.map_err(|problem| problem.error())?;
            let made = PubSub::new(&login(config), socket).await;
            let mut made = made.map_err(|err| Problem::from(err).error())?;
            made.subscribe(channel)
                .await
                .map_err(|err| refused(err, Effect::Nothing))?;
            Ok(made.split())
        };
        let (sink, stream) = timeout(config.connect, begin).await.unwrap_or_else(|_| {
            Err(Error::unavailable("Redis does not answer in time")
                .with_operation("redis.subscribe"))
        })?;
        let (queue, messages) = mpsc::channel(BACKLOG);
        let (over, end) = oneshot::channel();
        let patience = config.timeout;
        let task = tokio::spawn(async move {
            // The library's own queue has no bound, so it is emptied at once, whatever the reader does.
            let why = tokio::select! {
                why = pass_on(stream, queue) => why,
                why = watch_over(sink, patience) => why,
            };
            // The queue is dropped by now, so the reader gets what is in it and then this.
            let _ = over.send(why);
        });
        Ok(Self {
            messages,
            end: Some(end),
            task: task.abort_handle(),
        })
    }
}

async fn pass_on(
    mut stream: PubSubStream,
    queue: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
) -> Error {
    let room = Arc::new(Semaphore::new(PIECES));
    let slow = || {
        Error::aborted("the reader of a subscription was too slow and has missed messages")
            .with_operation("redis.subscribe")
    };
    while let Some(message) = stream.next().await {
        let message = Bytes::copy_from_slice(message.get_payload_bytes());
        let pieces = u32::try_from(message.len() / PIECE + 1).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&room).try_acquire_many_owned(pieces) else {
            return slow();
        };
        match queue.try_send((message, permit)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => return slow(),
        }
    }
    Error::unavailable("the connection to Redis is lost").with_operation("redis.subscribe")
}

/// Ends when the server is silent: a connection whose other side vanished does not say so.
async fn watch_over(mut sink: PubSubSink, patience: Duration) -> Error {
    loop {
        sleep(BEAT).await;
        match timeout(patience, sink.ping::<redis::Value>()).await {
            Ok(Ok(_)) => {}
            // It answers, and says that we may not ask.
            Ok(Err(err)) if !err.is_unrecoverable_error() => {}
            _ => {
                return Error::new(ErrorKind::Unavailable, "Redis does not answer in time")
                    .with_operation("redis.subscribe");
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some((message, _room)) = ready!(self.messages.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        let why = ready!(Pin::new(end).poll(cx)).unwrap_or_else(|_| {
            Error::unavailable("the subscription has ended with its runtime")
                .with_operation("redis.subscribe")
        });
        self.end = None;
        Poll::Ready(Some(Err(why)))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
