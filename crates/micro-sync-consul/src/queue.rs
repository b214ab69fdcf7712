//! The queue of a name: the keys of all who hold it or wait for it, in the order of their creation.

use std::time::Duration;

use micro_consul::{Client, Entered, Pair, Read};
use micro_sync_core::Result;

use crate::lease::ConsulLease;

/// How long a question waits for a change before it is asked again.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Where in the queue one stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// In front: the lock is ours since this index.
    First(u64),
    /// Behind this key, which was last changed at this index.
    Behind(String, u64),
    /// Our key is gone.
    Gone,
}

/// Puts our key into the queue, behind all others.
pub(crate) async fn enter(
    client: &Client,
    keys: &str,
    lease: &ConsulLease,
    value: &str,
) -> Result<Stand> {
    let entered = client.enter(lease.key(), value, lease.session(), keys);
    match entered.await? {
        Entered::In(queue) => Ok(stand(&queue, lease.key())),
        _ => Ok(Stand::Gone),
    }
}

/// Looks where our key stands. An old answer does no harm: those before us only become fewer.
pub(crate) async fn look(client: &Client, keys: &str, key: &str) -> Result<Stand> {
    let queue = client.list(keys, Read::default()).await?.value;
    Ok(stand(&queue, key))
}

/// Whether nobody holds the lock or waits for it.
pub(crate) async fn is_empty(client: &Client, keys: &str) -> Result<bool> {
    let queue = client.list(keys, Read::default()).await?.value;
    Ok(first(&queue).is_none())
}

fn stand(queue: &[Pair], key: &str) -> Stand {
    let Some(ours) = members(queue).find(|pair| pair.key == key) else {
        return Stand::Gone;
    };
    // Only the one before is watched, so that a lock that becomes free wakes one waiter.
    let before = members(queue)
        .filter(|pair| pair.create_index < ours.create_index)
        .max_by_key(|pair| pair.create_index);
    match before {
        Some(before) => Stand::Behind(before.key.clone(), before.modify_index),
        None => Stand::First(ours.create_index),
    }
}

/// A key without a session is nobody's: it would stay for ever.
fn members(queue: &[Pair]) -> impl Iterator<Item = &Pair> {
    queue.iter().filter(|pair| pair.session.is_some())
}

/// The first of the queue.
pub(crate) fn first(queue: &[Pair]) -> Option<&Pair> {
    members(queue).min_by_key(|pair| pair.create_index)
}

/// Waits until a key is gone, or nobody's any more.
pub(crate) async fn gone(client: &Client, key: &str, changed: u64) -> Result<()> {
    let mut index = Some(changed);
    loop {
        let after = index.map(|index| (index, WAIT));
        let seen = client.get(key, Read::default().with_after(after)).await?;
        if seen
            .value
            .as_ref()
            .is_none_or(|pair| pair.session.is_none())
        {
            return Ok(());
        }
        index = seen.follow(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, created: u64, session: bool) -> Pair {
        let session = if session { "\"s\"" } else { "null" };
        let text = format!(
            r#"{{"Key":"{key}","Session":{session},"CreateIndex":{created},"ModifyIndex":{}}}"#,
            created + 1
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn one_stands_behind_the_one_before() {
        let queue = [
            pair("c", 9, true),
            pair("a", 3, true),
            pair("junk", 1, false),
            pair("b", 5, true),
        ];
        assert_eq!(stand(&queue, "a"), Stand::First(3));
        assert_eq!(stand(&queue, "b"), Stand::Behind("a".to_owned(), 4));
        assert_eq!(stand(&queue, "c"), Stand::Behind("b".to_owned(), 6));
        assert_eq!(stand(&queue, "d"), Stand::Gone);
        // Somebody has unlocked it.
        assert_eq!(stand(&queue, "junk"), Stand::Gone);
        assert_eq!(first(&queue).map(|pair| &*pair.key), Some("a"));
    }
}
