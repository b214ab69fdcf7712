//! The changes of a table, as the scripts publish them.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream};
use micro_redis::Subscription;
use micro_store_core::{Change, ChangeKind, ChangeStream, Error, ErrorKind, Record, Result, Scope};
use tokio::time::{MissedTickBehavior, interval};

use crate::RedisStore;
use crate::envelope::{self, damaged};

/// So often what has expired is taken out while somebody watches, so that it is told even if nobody
/// changes anything.
const TIDY: Duration = Duration::from_secs(10);

pub(crate) fn changes(
    store: RedisStore,
    scope: Scope,
    prefix: String,
    messages: Subscription,
) -> ChangeStream {
    let mut tidy = interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((messages, tidy));
    Box::pin(stream::unfold(state, move |state| {
        let (store, scope, prefix) = (store.clone(), scope.clone(), prefix.clone());
        async move {
            let (mut messages, mut tidy) = state?;
            loop {
                let message = tokio::select! {
                    message = messages.next() => message?,
                    _ = tidy.tick() => {
                        store.tidy(&scope, Vec::new()).await;
                        continue;
                    }
                };
                match message.and_then(read) {
                    Ok(change) if !change.record.key.starts_with(&prefix) => {}
                    Ok(change) => return Some((Ok(change), Some((messages, tidy)))),
                    Err(err) => return Some((Err(missed(err)), None)),
                }
            }
        }
    }))
}

fn missed(err: Error) -> Error {
    let message = match err.kind() {
        ErrorKind::Aborted => {
            "the watcher was too slow and has missed changes: list again, then watch again"
        }
        ErrorKind::Unavailable => {
            "the connection to Redis is lost, and changes may have been missed: list again, then watch again"
        }
        _ => return err.with_operation("store.watch"),
    };
    Error::new(err.kind(), message)
        .with_operation("store.watch")
        .with_source(err)
}

/// Reads a message: a letter, the key, and the record or the version of its removal.
fn read(mut message: Bytes) -> Result<Change> {
    if message.is_empty() {
        return Err(damaged());
    }
    let kind = message.get_u8();
    let key = envelope::text(&mut message)?;
    match kind {
        b'w' => {
            let record = envelope::open(&key, message, false)?;
            Ok(Change::new(ChangeKind::Written, record))
        }
        b'd' => {
            let version = envelope::number(&message)?;
            let record = Record::new(key, Bytes::new()).with_version(version);
            Ok(Change::new(ChangeKind::Deleted, record))
        }
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_messages_are_changes_or_errors() {
        let record = envelope::seal(&Record::new("k", "tea").with_metadata("m", "1"));
        let written = [b"w\0\0\0\x01k10000000000000007000000001234567", &*record].concat();
        let deleted = b"d\0\0\0\x01k0000000000000009";
        let change = read(Bytes::from(written.clone())).unwrap();
        assert_eq!(
            (change.kind, change.record.version),
            (ChangeKind::Written, 7)
        );
        let change = read(Bytes::from_static(deleted)).unwrap();
        assert_eq!(
            (change.kind, change.record.version),
            (ChangeKind::Deleted, 9)
        );
        micro_conformance::mutation::run(&[&written, deleted], |bytes| {
            let _ = read(Bytes::copy_from_slice(bytes));
        });
    }
}
