//! One connection, while it lasts: many calls at a time over one socket.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use micro_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::Script;
use crate::error::{late, lost, refused};

/// What is under way takes so much room at most, in pieces; who comes later waits.
pub(crate) const ROOM: usize = 4096;
/// What a piece holds, in bytes: 256 MiB of commands are under way at most, and 4,096 of them.
const PIECE: usize = 64 << 10;

/// What a command does, and so what it means if its answer never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changes nothing: without an answer, the call is `Unavailable`.
    Nothing,
    /// It changes something: without an answer, the call is `OutcomeUnknown`.
    Change,
}

/// One connection to Redis. Clones are the same; a link that broke stays so.
///
/// Commands reach Redis in the order in which they were begun. One whose future is dropped is sent in
/// that order as well, or never.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    epoch: u64,
    connection: MultiplexedConnection,
    room: Arc<Semaphore>,
    distrusted: AtomicBool,
    /// Wakes who connects anew.
    given_up: Notify,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("epoch", &self.0.epoch)
            .finish_non_exhaustive()
    }
}

/// A call that has no answer to give.
enum Failure {
    Refused(RedisError),
    Other(Error),
}

impl Failure {
    fn into_error(self, effect: Effect) -> Error {
        match self {
            Self::Refused(err) => refused(err, effect),
            Self::Other(err) => err,
        }
    }
}

impl Link {
    pub(crate) fn new(epoch: u64, connection: MultiplexedConnection, room: Arc<Semaphore>) -> Self {
        Self(Arc::new(Inner {
            epoch,
            connection,
            room,
            distrusted: AtomicBool::new(false),
            given_up: Notify::new(),
        }))
    }

    /// Whether an answer did not come in time.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.0.distrusted.load(Ordering::Relaxed)
    }

    /// Returns when that happens.
    pub(crate) async fn distrusted(&self) {
        self.0.given_up.notified().await;
    }

    /// Which link of its [`Connection`](crate::Connection) it is: the first is 1, the next 2.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Sends a command and waits for its answer, until `deadline` at most.
    ///
    /// An answer that is too late costs the connection: those behind it would wait for it, too.
    ///
    /// # Errors
    ///
    /// `Unavailable` or, for a change that may have happened, `OutcomeUnknown` if there is no
    /// answer; otherwise as Redis says: `Unauthenticated`, `PermissionDenied`, `ResourceExhausted` if
    /// it is full, `FailedPrecondition` if it is a replica or of a cluster or cannot write to its disk,
    /// `Corrupt` for a key of another type, `Internal` for anything else that it says to a
    /// command without effect. With all but `OutcomeUnknown`, a single command has not happened.
    pub async fn call(&self, cmd: &Cmd, effect: Effect, deadline: Instant) -> Result<Value> {
        let answer = self.send(cmd, effect, deadline).await;
        answer.map_err(|failure| failure.into_error(effect))
    }

    /// Runs a script, as [`call`](Self::call) does a command.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call). A script that was refused may have made its first changes: put what can
    /// be refused before them.
    pub async fn run(
        &self,
        script: &Script,
        invocation: &Cmd,
        effect: Effect,
        deadline: Instant,
    ) -> Result<Value> {
        match self.send(invocation, effect, deadline).await {
            // It has not run, so it runs once all the same.
            Err(Failure::Refused(err))
                if err.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                self.call(&script.by_text(invocation), effect, deadline)
                    .await
            }
            answer => answer.map_err(|failure| failure.into_error(effect)),
        }
    }

    async fn send(&self, cmd: &Cmd, effect: Effect, deadline: Instant) -> Result<Value, Failure> {
        let room = timeout_at(deadline, self.0.room.acquire_many(pieces(cmd))).await;
        let Ok(Ok(_room)) = room else {
            let full = Error::unavailable("too many calls wait for Redis")
                .with_operation("redis.call")
                .with_unprocessed(true);
            return Err(Failure::Other(full));
        };
        let mut connection = self.0.connection.clone();
        match timeout_at(deadline, connection.send_packed_command(cmd)).await {
            Ok(Ok(answer)) => answer.extract_error().map_err(Failure::Refused),
            Ok(Err(err)) if err.is_unrecoverable_error() => {
                Err(Failure::Other(lost(effect).with_source(err)))
            }
            Ok(Err(err)) => Err(Failure::Refused(err)),
            Err(_) => {
                self.0.distrusted.store(true, Ordering::Relaxed);
                self.0.given_up.notify_one();
                Err(Failure::Other(late(effect)))
            }
        }
    }
}

/// The room that a command takes: one that is larger than all of it takes all.
fn pieces(cmd: &Cmd) -> u32 {
    let length = |arg: Arg<&[u8]>| match arg {
        Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    };
    let bytes: usize = cmd.args_iter().map(length).sum();
    u32::try_from((bytes / PIECE + 1).min(ROOM)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_command_takes_more_room_and_never_more_than_there_is() {
        let of = |bytes: usize| pieces(redis::cmd("SET").arg("k").arg(vec![0_u8; bytes]));
        assert_eq!((of(0), of(PIECE), of(10 * PIECE)), (1, 2, 11));
        assert_eq!(of(ROOM * PIECE), 4096);
    }
}
