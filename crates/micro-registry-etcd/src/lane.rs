//! What this handle registered, one service at a time.
//!
//! The calls about one service run one after the other, each to its end even if its caller is gone,
//! so that none takes effect behind a later one. What is still under way in etcd when a call has
//! given up is stopped by what every write depends on: the revision of the key that was read before,
//! and the lease, which a deregistration revokes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use micro_etcd::{Client, Compare, Done, Found, KeyValue, Keys, Op, RangeOptions, Txn};
use micro_registry_core::{Error, ErrorKind, Result, Service};

use crate::layout::{Entry, Identity, Layout};

/// So many nodes are written at once: etcd takes 128 steps (`--max-txn-ops`), and a node may need
/// two.
const CHUNK: usize = 60;
/// Others may write the same keys meanwhile, but not for ever.
const TRIES: usize = 16;

/// What we hold of one service.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    held: BTreeMap<Identity, Held>,
}

/// A node that we registered.
#[derive(Clone, Debug)]
struct Held {
    key: Bytes,
    value: Bytes,
    /// When we wrote it; 0 if we do not know whether we did.
    mod_revision: i64,
    /// 0 for none.
    lease: i64,
    ttl: Option<Duration>,
    /// Leases that it had: what may still be under way must not find them.
    old_leases: BTreeSet<i64>,
}

/// Whom the lane talks to.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) client: &'a Client,
    pub(crate) layout: &'a Layout,
}

/// Where a node is in etcd, and where it is to be.
struct Spot {
    /// The key to write, and the revision that it has.
    key: (Bytes, i64),
    /// An entry of the node at its other key, which is not needed.
    surplus: Option<(Bytes, i64)>,
    /// Whether it is there.
    present: bool,
}

impl Lane {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) async fn register(
        &mut self,
        place: &Place<'_>,
        service: &Service,
        ttl: Option<Duration>,
    ) -> Result<()> {
        // By identity: the last one counts if an id comes twice.
        let mut wanted = BTreeMap::new();
        for node in &service.nodes {
            let value = Layout::value(service, node)?;
            wanted.insert(Identity::new(service, node), value);
        }
        let mut stale: Vec<Identity> = Vec::new();
        for chunk in wanted.keys().collect::<Vec<_>>().chunks(CHUNK) {
            stale.extend(self.refresh(place, chunk, &wanted, ttl).await?);
        }
        for chunk in stale.chunks(CHUNK) {
            self.write(place, chunk, &wanted, ttl).await?;
        }
        let replaced: Vec<Identity> = wanted.into_keys().collect();
        self.revoke_old(place, &replaced).await;
        Ok(())
    }

    /// Keeps alive what is as it should be, and says what is not.
    async fn refresh(
        &self,
        place: &Place<'_>,
        chunk: &[&Identity],
        wanted: &BTreeMap<Identity, Bytes>,
        ttl: Option<Duration>,
    ) -> Result<Vec<Identity>> {
        let alive = chunk.iter().map(|identity| async move {
            let held = self.held.get(*identity).filter(|held| {
                held.mod_revision != 0
                    && held.ttl == ttl
                    && wanted.get(*identity) == Some(&held.value)
            });
            let Some(held) = held else {
                return Ok(None);
            };
            let kept =
                held.lease == 0 || place.client.lease_keep_alive(held.lease).await?.is_some();
            Ok::<_, Error>(kept.then_some(held))
        });
        let alive = try_join_all(alive).await?;
        // A lease that lives does not say that the key does: somebody may have deleted or replaced it.
        let mut txn = Txn::new();
        for held in alive.iter().flatten() {
            txn = txn.when(Compare::mod_revision(held.key.clone(), held.mod_revision));
        }
        let all = |identities: &[&Identity]| identities.iter().map(|one| (*one).clone()).collect();
        if alive.iter().any(Option::is_some) && !place.client.txn(txn).await?.succeeded {
            return Ok(all(chunk));
        }
        let stale = chunk
            .iter()
            .zip(&alive)
            .filter(|(_, alive)| alive.is_none());
        Ok(stale.map(|(identity, _)| (*identity).clone()).collect())
    }

    /// Writes nodes in one step, over whatever is there.
    async fn write(
        &mut self,
        place: &Place<'_>,
        chunk: &[Identity],
        wanted: &BTreeMap<Identity, Bytes>,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let mut anew = false;
        for _ in 0..TRIES {
            let spots = find(place, chunk).await?;
            for (identity, (_, newest)) in chunk.iter().zip(&spots) {
                let ours = Entry::generation_of(&wanted[identity]);
                if let (Some(ours), Some(theirs)) = (ours, newest)
                    && ours < *theirs
                {
                    return Err(Error::new(
                        ErrorKind::FailedPrecondition,
                        "a later program has registered this node: give each program a node id of its own",
                    )
                    .with_context("node", &identity.id));
                }
            }
            let leases = self.leases(place, chunk, ttl, anew).await?;
            let mut txn = Txn::new();
            for ((identity, (spot, _)), lease) in chunk.iter().zip(&spots).zip(leases) {
                let (key, revision) = &spot.key;
                let value = &wanted[identity];
                txn = txn
                    .when(Compare::mod_revision(key.clone(), *revision))
                    .then(Op::put(key.clone(), value.clone(), lease));
                if let Some((surplus, revision)) = &spot.surplus {
                    txn = txn
                        .when(Compare::mod_revision(surplus.clone(), *revision))
                        .then(Op::delete(Keys::one(surplus.clone())));
                }
                // Before it is sent: whatever becomes of it, the lease is known.
                let held = Held {
                    key: key.clone(),
                    value: value.clone(),
                    mod_revision: 0,
                    lease,
                    ttl,
                    old_leases: BTreeSet::new(),
                };
                let old = self.held.insert(identity.clone(), held);
                if let (Some(old), Some(held)) = (old, self.held.get_mut(identity)) {
                    held.old_leases = old.old_leases;
                    if old.lease != lease && old.lease != 0 {
                        held.old_leases.insert(old.lease);
                    }
                }
            }
            match place.client.txn(txn).await {
                Ok(done) if done.succeeded => {
                    for identity in chunk {
                        if let Some(held) = self.held.get_mut(identity) {
                            held.mod_revision = done.position.revision;
                        }
                    }
                    return Ok(());
                }
                // Somebody wrote a key meanwhile.
                Ok(_) => {}
                // The lease ended meanwhile.
                Err(err) if err.kind() == ErrorKind::NotFound => anew = true,
                Err(err) => return Err(err),
            }
        }
        Err(contended())
    }

    /// A lease for each node: the one that it has, if that one may go on.
    async fn leases(
        &self,
        place: &Place<'_>,
        chunk: &[Identity],
        ttl: Option<Duration>,
        anew: bool,
    ) -> Result<Vec<i64>> {
        let leases = chunk.iter().map(|identity| async move {
            let Some(ttl) = ttl else {
                return Ok(0);
            };
            if let Some(held) = self.held.get(identity)
                && !anew
                && held.lease != 0
                && held.ttl == Some(ttl)
                && place.client.lease_keep_alive(held.lease).await?.is_some()
            {
                return Ok(held.lease);
            }
            Ok::<_, Error>(place.client.lease_grant(ttl).await?.id)
        });
        try_join_all(leases).await
    }

    /// Revokes leases that were replaced. If it fails they end by themselves, or with the next call.
    async fn revoke_old(&mut self, place: &Place<'_>, identities: &[Identity]) {
        for identity in identities {
            if let Some(held) = self.held.get_mut(identity)
                && let Err(err) = revoke(place, &mut held.old_leases).await
            {
                tracing::debug!(%err, "a lease that is not needed any more cannot be revoked");
                return;
            }
        }
    }

    pub(crate) async fn deregister(&mut self, place: &Place<'_>, service: &Service) -> Result<()> {
        let identities: BTreeSet<Identity> = service
            .nodes
            .iter()
            .map(|node| Identity::new(service, node))
            .collect();
        let identities: Vec<Identity> = identities.into_iter().collect();
        for chunk in identities.chunks(CHUNK) {
            self.delete(place, chunk).await?;
        }
        for identity in &identities {
            if let Some(held) = self.held.get_mut(identity) {
                held.old_leases
                    .extend((held.lease != 0).then_some(held.lease));
                revoke(place, &mut held.old_leases).await?;
                self.held.remove(identity);
            }
        }
        Ok(())
    }

    async fn delete(&mut self, place: &Place<'_>, chunk: &[Identity]) -> Result<()> {
        for _ in 0..TRIES {
            let mut txn = Txn::new();
            let mut any = false;
            for (identity, (spot, _)) in chunk.iter().zip(find(place, chunk).await?) {
                // What we wrote is ours to delete, whatever somebody has made of it.
                let ours = self
                    .held
                    .get(identity)
                    .is_some_and(|held| held.key == spot.key.0);
                let here = (spot.present || ours && spot.key.1 != 0).then_some(spot.key);
                for (key, revision) in here.into_iter().chain(spot.surplus) {
                    any = true;
                    txn = txn
                        .when(Compare::mod_revision(key.clone(), revision))
                        .then(Op::delete(Keys::one(key)));
                }
            }
            if !any || place.client.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        Err(contended())
    }
}

async fn revoke(place: &Place<'_>, leases: &mut BTreeSet<i64>) -> Result<()> {
    while let Some(lease) = leases.first().copied() {
        place.client.lease_revoke(lease).await?;
        leases.remove(&lease);
    }
    Ok(())
}

fn contended() -> Error {
    Error::unavailable("others write the same keys all the time")
}

/// Where nodes are, or are to be, and the latest generation that is there.
async fn find(place: &Place<'_>, chunk: &[Identity]) -> Result<Vec<(Spot, Option<u64>)>> {
    let mut txn = Txn::new();
    for identity in chunk {
        for key in [place.layout.key(identity), place.layout.other_key(identity)] {
            txn = txn.then(Op::range(Keys::one(key), &RangeOptions::default()));
        }
    }
    let mut done = place.client.txn(txn).await?.done.into_iter();
    let mut next = || match done.next() {
        Some(Done::Found(Found { entries, .. })) => Ok(entries.into_iter().next()),
        _ => Err(Error::unknown("etcd does not answer what it was asked")),
    };
    let mut spots = Vec::with_capacity(chunk.len());
    for identity in chunk {
        spots.push(spot(
            place.layout,
            identity,
            next()?.as_ref(),
            next()?.as_ref(),
        ));
    }
    Ok(spots)
}

fn spot(
    layout: &Layout,
    identity: &Identity,
    first: Option<&KeyValue>,
    other: Option<&KeyValue>,
) -> (Spot, Option<u64>) {
    let entry = |found: Option<&KeyValue>| found.and_then(|found| layout.read(found).ok());
    let revision = |found: Option<&KeyValue>| found.map_or(0, |found| found.mod_revision);
    let (first_entry, other_entry) = (entry(first), entry(other));
    let is_it = |entry: &Option<Entry>| {
        entry
            .as_ref()
            .is_some_and(|entry| entry.identity() == *identity)
    };
    let (at_first, at_other) = (is_it(&first_entry), is_it(&other_entry));
    let generation = [(at_first, &first_entry), (at_other, &other_entry)]
        .into_iter()
        .filter_map(|(it, entry)| it.then(|| entry.as_ref()?.generation()).flatten())
        .max();
    let first_key = (layout.key(identity), revision(first));
    let other_key = (layout.other_key(identity), revision(other));
    // Free, ours, or garbage where nothing but this node belongs.
    let spot = if at_first || first_entry.is_none() && !at_other {
        Spot {
            key: first_key,
            surplus: at_other.then_some(other_key),
            present: at_first,
        }
    } else {
        Spot {
            key: other_key,
            surplus: None,
            present: at_other,
        }
    };
    (spot, generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::found;

    #[test]
    fn a_node_takes_its_key_unless_another_one_has_it() {
        let layout = Layout::new("/r/", "");
        let identity = Identity {
            name: "greeter".to_owned(),
            version: "v1".to_owned(),
            id: "a".to_owned(),
        };
        let value = |version: &str, id: &str| {
            format!(
                r#"{{"name":"greeter","version":"{version}","nodes":[{{"id":"{id}","address":"h:1"}}]}}"#
            )
        };
        let at = |first: Option<&str>, other: Option<&str>| {
            let first = first.map(|value| found("/r/greeter/a", value, 5));
            let other = other.map(|value| found("/r/greeter/a/v1", value, 6));
            let (spot, _) = spot(&layout, &identity, first.as_ref(), other.as_ref());
            (
                String::from_utf8(spot.key.0.to_vec()).unwrap(),
                spot.key.1,
                spot.surplus.is_some(),
                spot.present,
            )
        };
        let (first, other) = ("/r/greeter/a".to_owned(), "/r/greeter/a/v1".to_owned());
        let (ours, v2) = (value("v1", "a"), value("v2", "a"));
        assert_eq!(at(None, None), (first.clone(), 0, false, false));
        assert_eq!(at(Some("garbage"), None), (first.clone(), 5, false, false));
        assert_eq!(at(Some(&ours), None), (first.clone(), 5, false, true));
        assert_eq!(at(Some(&ours), Some(&ours)), (first, 5, true, true));
        assert_eq!(at(Some(&v2), None), (other.clone(), 0, false, false));
        assert_eq!(at(Some(&v2), Some(&ours)), (other.clone(), 6, false, true));
        // It stays where it is, so that watchers see no move.
        assert_eq!(at(None, Some(&ours)), (other, 6, false, true));
    }
}
