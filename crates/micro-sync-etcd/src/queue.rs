//! The queue of a name: the keys of all who hold it or wait for it, in the order of their creation.

use bytes::Bytes;
use micro_core::ErrorKind;
use micro_etcd::{
    Client, Committed, Compare, Done, Found, KeyValue, Keys, Op, Position, RangeOptions, Txn,
    WatchEvent,
};
use micro_sync_core::{Error, Result};

use crate::lease::EtcdLease;

/// Coming in is tried so often if nobody knows whether it has happened.
const TRIES: usize = 3;

/// Where in the queue one stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// In front: the lock is ours since this revision.
    First(i64),
    /// Behind this key, as of this position.
    Behind(Bytes, Position),
    /// Our key is gone.
    Gone,
}

/// Puts our key into the queue, behind all others.
pub(crate) async fn enter(
    client: &Client,
    keys: &str,
    lease: &EtcdLease,
    value: &str,
) -> Result<Stand> {
    let mut tries = 1;
    loop {
        // The key is ours alone, so doing it twice changes nothing.
        let txn = Txn::new()
            .when(Compare::create_revision(lease.key().to_owned(), 0))
            .then(Op::put(
                lease.key().to_owned(),
                value.to_owned(),
                lease.id(),
            ))
            .then(all(keys))
            .otherwise(all(keys));
        match client.txn(txn).await {
            Ok(committed) => return Ok(stand(&found(committed)?, lease.key())),
            Err(err) if err.kind() == ErrorKind::OutcomeUnknown && tries < TRIES => tries += 1,
            // Whatever has happened ends with the lease, and that ends now.
            Err(err) if err.kind() == ErrorKind::OutcomeUnknown => {
                return Err(Error::unavailable("etcd does not answer").with_source(err));
            }
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Stand::Gone),
            Err(err) => return Err(err),
        }
    }
}

fn all(keys: &str) -> Op {
    Op::range(Keys::prefix(keys.to_owned()), &keys_only())
}

fn keys_only() -> RangeOptions {
    RangeOptions::default().with_keys_only(true)
}

fn found(committed: Committed) -> Result<Found> {
    let found = committed.done.into_iter().find_map(|done| match done {
        Done::Found(found) => Some(found),
        _ => None,
    });
    let mut found = found.ok_or_else(|| Error::unknown("etcd left out what was asked for"))?;
    // A read within a transaction has no position of its own in all versions.
    found.position = committed.position;
    Ok(found)
}

/// Looks where our key stands.
pub(crate) async fn look(client: &Client, keys: &str, key: &str) -> Result<Stand> {
    let found = client
        .range(Keys::prefix(keys.to_owned()), &keys_only())
        .await?;
    Ok(stand(&found, key))
}

/// Whether nobody holds the lock or waits for it.
pub(crate) async fn is_empty(client: &Client, keys: &str) -> Result<bool> {
    let opts = keys_only().with_limit(1);
    let found = client.range(Keys::prefix(keys.to_owned()), &opts).await?;
    Ok(found.entries.is_empty())
}

fn stand(found: &Found, key: &str) -> Stand {
    let Some(ours) = found.entries.iter().find(|entry| entry.key == key) else {
        return Stand::Gone;
    };
    // Only the one before is watched, so that a lock that becomes free wakes one waiter.
    let before = found
        .entries
        .iter()
        .filter(|entry| entry.create_revision < ours.create_revision)
        .max_by_key(|entry| entry.create_revision);
    match before {
        Some(before) => Stand::Behind(before.key.clone(), found.position),
        None => Stand::First(ours.create_revision),
    }
}

/// The first of the queue.
pub(crate) fn first<'a>(entries: impl Iterator<Item = &'a KeyValue>) -> Option<&'a KeyValue> {
    entries.min_by_key(|entry| entry.create_revision)
}

/// Waits until a key is gone, or until nobody can say any more whether it is.
pub(crate) async fn gone(client: &Client, key: Bytes, since: Position) -> Result<()> {
    let mut watch = client.watch(Keys::one(key), since);
    loop {
        match watch.next().await? {
            WatchEvent::Changes(changes) if changes.iter().any(|change| change.now.is_none()) => {
                return Ok(());
            }
            WatchEvent::Compacted { .. } | WatchEvent::Rewound(_) => return Ok(()),
            _ => {}
        }
    }
}
