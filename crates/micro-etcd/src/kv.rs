//! Keys and values.

use bytes::Bytes;
use micro_core::{Error, ErrorKind, Result};

use crate::client::{Client, Rpc};
use crate::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::etcdserverpb::request_op::Request;
use crate::etcdserverpb::response_op::Response;
use crate::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare as RawCompare, DeleteRangeRequest,
    DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::mvccpb;

/// So many keys are asked for at once by [`Client::scan`], to begin with.
const PAGE: usize = 1024;

const RANGE: Rpc = Rpc {
    path: "/etcdserverpb.KV/Range",
    operation: "etcd.range",
};
const PUT: Rpc = Rpc {
    path: "/etcdserverpb.KV/Put",
    operation: "etcd.put",
};
const DELETE: Rpc = Rpc {
    path: "/etcdserverpb.KV/DeleteRange",
    operation: "etcd.delete",
};
const TXN: Rpc = Rpc {
    path: "/etcdserverpb.KV/Txn",
    operation: "etcd.txn",
};
const COMPACT: Rpc = Rpc {
    path: "/etcdserverpb.KV/Compact",
    operation: "etcd.compact",
};

/// A key with its value and its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty if only keys were asked for.
    pub value: Bytes,
    /// The revision at which the key was last created.
    pub create_revision: i64,
    /// The revision at which the value was last written.
    pub mod_revision: i64,
    /// How often it was written since it was created.
    pub version: i64,
    /// The lease that it goes with; 0 for none.
    pub lease: i64,
}

impl From<mvccpb::KeyValue> for KeyValue {
    fn from(raw: mvccpb::KeyValue) -> Self {
        Self {
            key: raw.key,
            value: raw.value,
            create_revision: raw.create_revision,
            mod_revision: raw.mod_revision,
            version: raw.version,
            lease: raw.lease,
        }
    }
}

/// Where in the cluster's history an answer stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The revision of the whole store.
    pub revision: i64,
    /// The term of its leader.
    pub term: u64,
    /// The cluster.
    pub cluster: u64,
}

impl From<Option<ResponseHeader>> for Position {
    fn from(header: Option<ResponseHeader>) -> Self {
        let header = header.unwrap_or_default();
        Self {
            revision: header.revision,
            term: header.raft_term,
            cluster: header.cluster_id,
        }
    }
}

/// One key, or those between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub(crate) from: Bytes,
    /// Exclusive; empty for `from` alone.
    pub(crate) to: Bytes,
}

impl Keys {
    /// This key alone.
    #[must_use]
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self {
            from: key.into(),
            to: Bytes::new(),
        }
    }

    /// All keys that begin so; every key for an empty prefix.
    ///
    /// ```
    /// use micro_etcd::Keys;
    ///
    /// assert_eq!(Keys::prefix("a/"), Keys::between("a/", "a0"));
    /// ```
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let from = prefix.into();
        let mut to = from.to_vec();
        while let Some(last) = to.pop() {
            if let Some(next) = last.checked_add(1) {
                to.push(next);
                return Self {
                    from,
                    to: to.into(),
                };
            }
        }
        // Nothing comes behind: from there to the end, which etcd writes as a zero.
        Self::between(
            if from.is_empty() {
                Bytes::from_static(&[0])
            } else {
                from
            },
            &[0][..],
        )
    }

    /// From one key to another, without the latter.
    #[must_use]
    pub fn between(from: impl Into<Bytes>, to: impl Into<Bytes>) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
        }
    }
}

/// Options for [`Client::range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeOptions {
    /// At most so many keys; 0 is no limit.
    pub limit: usize,
    /// As of this revision; 0 is the newest.
    pub revision: i64,
    /// Without the values.
    pub keys_only: bool,
    /// What the member that is asked knows, which may be old: it answers without its leader.
    pub serializable: bool,
}

impl RangeOptions {
    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets [`revision`](Self::revision).
    #[must_use]
    pub fn with_revision(mut self, revision: i64) -> Self {
        self.revision = revision;
        self
    }

    /// Sets [`keys_only`](Self::keys_only).
    #[must_use]
    pub fn with_keys_only(mut self, keys_only: bool) -> Self {
        self.keys_only = keys_only;
        self
    }

    /// Sets [`serializable`](Self::serializable).
    #[must_use]
    pub fn with_serializable(mut self, serializable: bool) -> Self {
        self.serializable = serializable;
        self
    }
}

/// What a range found, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Where in the history.
    pub position: Position,
    /// The keys.
    pub entries: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
}

impl From<RangeResponse> for Found {
    fn from(raw: RangeResponse) -> Self {
        Self {
            position: raw.header.into(),
            entries: raw.kvs.into_iter().map(KeyValue::from).collect(),
            more: raw.more,
        }
    }
}

/// What a transaction asks about a key before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare(RawCompare);

impl Compare {
    fn new(key: impl Into<Bytes>, target: CompareTarget, value: TargetUnion) -> Self {
        Self(RawCompare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: key.into(),
            range_end: Bytes::new(),
            target_union: Some(value),
        })
    }

    /// The key was last written at this revision; 0 if it is not there.
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, revision: i64) -> Self {
        Self::new(key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// The key was created at this revision; 0 if it is not there.
    #[must_use]
    pub fn create_revision(key: impl Into<Bytes>, revision: i64) -> Self {
        Self::new(
            key,
            CompareTarget::Create,
            TargetUnion::CreateRevision(revision),
        )
    }

    /// The key has this value. A key that is not there has none.
    #[must_use]
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(key, CompareTarget::Value, TargetUnion::Value(value.into()))
    }

    /// The key goes with this lease; 0 for none.
    #[must_use]
    pub fn lease(key: impl Into<Bytes>, lease: i64) -> Self {
        Self::new(key, CompareTarget::Lease, TargetUnion::Lease(lease))
    }
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op(Request);

impl Op {
    /// Writes a key, with a lease (0 for none).
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> Self {
        Self(Request::RequestPut(PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..PutRequest::default()
        }))
    }

    /// Deletes keys.
    #[must_use]
    pub fn delete(keys: Keys) -> Self {
        Self(Request::RequestDeleteRange(DeleteRangeRequest {
            key: keys.from,
            range_end: keys.to,
            prev_kv: false,
        }))
    }

    /// Reads keys.
    #[must_use]
    pub fn range(keys: Keys, opts: &RangeOptions) -> Self {
        Self(Request::RequestRange(range(keys, opts)))
    }

    fn changes(&self) -> bool {
        !matches!(self.0, Request::RequestRange(_))
    }
}

/// A transaction: if all of `when` holds it does `then`, else `otherwise`, as one step of the
/// history. etcd takes 128 steps by default (`--max-txn-ops`), and one write per key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    when: Vec<Compare>,
    then: Vec<Op>,
    otherwise: Vec<Op>,
}

impl Txn {
    /// One that does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.when.push(compare);
        self
    }

    /// Adds a step for the case that all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds a step for the case that one does not.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }
}

/// What a step of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// It wrote.
    Put,
    /// It deleted so many keys.
    Deleted(u64),
    /// It read.
    Found(Found),
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// Where in the history: the revision of everything that it wrote.
    pub position: Position,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The steps, in order.
    pub done: Vec<Done>,
}

impl Client {
    /// Reads keys.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for a revision that is no longer kept or not there yet, and for all that etcd
    /// answers: `Unavailable` if it does not, `PermissionDenied` and `Unauthenticated`.
    pub async fn range(&self, keys: Keys, opts: &RangeOptions) -> Result<Found> {
        let answer: RangeResponse = self.call(&RANGE, &range(keys, opts), false).await?;
        Ok(answer.into())
    }

    /// Reads one key; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range).
    pub async fn get(&self, key: impl Into<Bytes> + Send) -> Result<Option<KeyValue>> {
        let found = self.range(Keys::one(key), &RangeOptions::default()).await?;
        Ok(found.entries.into_iter().next())
    }

    /// Reads any number of keys as of one revision, page by page, and hands each to `each`.
    ///
    /// No more than a page is held at a time, and long values make the pages shorter. Says where in
    /// the history it read.
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range); `OutOfRange` if that revision was compacted while it was read:
    /// begin again. The first error of `each` ends it.
    pub async fn scan(
        &self,
        keys: Keys,
        mut each: impl FnMut(KeyValue) -> Result<()> + Send,
    ) -> Result<Position> {
        let mut keys = keys;
        let mut opts = RangeOptions::default().with_limit(PAGE);
        let mut position = None;
        loop {
            let found = match self.range(keys.clone(), &opts).await {
                // The answer would be longer than we hold. One value always fits.
                Err(err) if err.kind() == ErrorKind::ResourceExhausted && opts.limit > 1 => {
                    opts.limit = (opts.limit / 8).max(1);
                    continue;
                }
                found => found?,
            };
            opts.limit = (opts.limit * 2).min(PAGE);
            let position = *position.get_or_insert(found.position);
            opts.revision = position.revision;
            let last = found.entries.last().map(|entry| entry.key.clone());
            for entry in found.entries {
                each(entry)?;
            }
            let (true, Some(last)) = (found.more, last) else {
                return Ok(position);
            };
            // The least key behind the last one.
            keys.from = [&last[..], &[0]].concat().into();
        }
    }

    /// Writes a key, with a lease (0 for none).
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such lease, `OutcomeUnknown` if it may have happened, and else as
    /// [`range`](Self::range).
    pub async fn put(
        &self,
        key: impl Into<Bytes> + Send,
        value: impl Into<Bytes> + Send,
        lease: i64,
    ) -> Result<Position> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..PutRequest::default()
        };
        let answer: PutResponse = self.call(&PUT, &request, true).await?;
        Ok(answer.header.into())
    }

    /// Deletes keys and says how many there were.
    ///
    /// # Errors
    ///
    /// `OutcomeUnknown` if it may have happened, and else as [`range`](Self::range).
    pub async fn delete(&self, keys: Keys) -> Result<u64> {
        let request = DeleteRangeRequest {
            key: keys.from,
            range_end: keys.to,
            prev_kv: false,
        };
        let answer: DeleteRangeResponse = self.call(&DELETE, &request, true).await?;
        Ok(u64::try_from(answer.deleted).unwrap_or_default())
    }

    /// Does a transaction.
    ///
    /// # Errors
    ///
    /// `NotFound` if a lease is not there, `InvalidArgument` for too many steps or two writes of
    /// one key, `OutcomeUnknown` if it may have happened, and else as [`range`](Self::range).
    pub async fn txn(&self, txn: Txn) -> Result<Committed> {
        let changes = txn.then.iter().chain(&txn.otherwise).any(Op::changes);
        let ops = |ops: Vec<Op>| {
            let ops = ops.into_iter().map(|op| RequestOp {
                request: Some(op.0),
            });
            ops.collect()
        };
        let request = TxnRequest {
            compare: txn.when.into_iter().map(|compare| compare.0).collect(),
            success: ops(txn.then),
            failure: ops(txn.otherwise),
        };
        let answer: TxnResponse = self.call(&TXN, &request, changes).await?;
        Ok(Committed {
            position: answer.header.into(),
            succeeded: answer.succeeded,
            done: answer
                .responses
                .into_iter()
                .map(done)
                .collect::<Result<_>>()?,
        })
    }

    /// Forgets the history before this revision: watches and reads of it fail from then on.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for a revision that is no longer kept or not there yet, and else as
    /// [`range`](Self::range).
    pub async fn compact(&self, revision: i64) -> Result<()> {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        let _: CompactionResponse = self.call(&COMPACT, &request, true).await?;
        Ok(())
    }
}

fn range(keys: Keys, opts: &RangeOptions) -> RangeRequest {
    RangeRequest {
        key: keys.from,
        range_end: keys.to,
        limit: i64::try_from(opts.limit).unwrap_or(i64::MAX),
        revision: opts.revision,
        keys_only: opts.keys_only,
        serializable: opts.serializable,
        ..RangeRequest::default()
    }
}

fn done(raw: ResponseOp) -> Result<Done> {
    Ok(match raw.response {
        Some(Response::ResponsePut(_)) => Done::Put,
        Some(Response::ResponseDeleteRange(raw)) => {
            Done::Deleted(u64::try_from(raw.deleted).unwrap_or_default())
        }
        Some(Response::ResponseRange(raw)) => Done::Found(raw.into()),
        None => {
            return Err(Error::unknown("etcd did a step that we did not ask for")
                .with_operation(TXN.operation));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        let end = |prefix: &'static [u8]| Keys::prefix(prefix).to.to_vec();
        assert_eq!(end(b"a/"), b"a0");
        assert_eq!(end(b"a\xff"), b"b");
        assert_eq!(end(b"\xff\xff"), b"\0");
        assert_eq!(Keys::prefix(""), Keys::between(&[0][..], &[0][..]));
        assert!(Keys::one("a").to.is_empty());
    }
}
