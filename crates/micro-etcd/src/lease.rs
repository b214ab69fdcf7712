//! Leases: keys that go when nobody asks for them to stay.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Result};

use crate::client::{Client, Rpc};
use crate::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse,
};

const GRANT: Rpc = Rpc {
    path: "/etcdserverpb.Lease/LeaseGrant",
    operation: "etcd.lease_grant",
};
const REVOKE: Rpc = Rpc {
    path: "/etcdserverpb.Lease/LeaseRevoke",
    operation: "etcd.lease_revoke",
};
/// A stream in etcd's words; one question and one answer here.
const KEEP_ALIVE: Rpc = Rpc {
    path: "/etcdserverpb.Lease/LeaseKeepAlive",
    operation: "etcd.lease_keep_alive",
};

/// A lease as etcd granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Its number, never 0.
    pub id: i64,
    /// How long it lives without being kept alive.
    pub ttl: Duration,
}

impl Client {
    /// Asks for a lease that lives so long, rounded up to whole seconds.
    ///
    /// etcd gives no less than its election allows, which is 2 s by default. If the future is
    /// dropped there may be a lease that nobody knows of; it ends with its time.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for more than 9,000,000,000 s, `Unavailable` if etcd does not answer,
    /// `Unauthenticated`.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest {
            ttl: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX),
            id: 0,
        };
        // Twice is as good as once: the other one ends by itself.
        let answer: LeaseGrantResponse = self.call(&GRANT, &request, false).await?;
        if !answer.error.is_empty() || answer.id == 0 {
            return Err(Error::unknown("etcd grants no lease")
                .with_operation(GRANT.operation)
                .with_context("why", answer.error.escape_debug()));
        }
        Ok(Lease {
            id: answer.id,
            ttl: seconds_of(answer.ttl),
        })
    }

    /// Lets a lease live anew, and says for how long; `None` if there is no such lease any more.
    ///
    /// # Errors
    ///
    /// `Unavailable` if etcd does not answer, `Unauthenticated`.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<Option<Duration>> {
        let request = LeaseKeepAliveRequest { id };
        let answer: LeaseKeepAliveResponse = self.call(&KEEP_ALIVE, &request, false).await?;
        Ok((answer.ttl > 0).then(|| seconds_of(answer.ttl)))
    }

    /// Ends a lease, with the keys that go with it; whether it was there.
    ///
    /// # Errors
    ///
    /// `Unavailable` if etcd does not answer, `PermissionDenied` if a key that goes with it is not
    /// ours, `Unauthenticated`.
    pub async fn lease_revoke(&self, id: i64) -> Result<bool> {
        let request = LeaseRevokeRequest { id };
        let revoked: Result<LeaseRevokeResponse> = self.call(&REVOKE, &request, false).await;
        match revoked {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}
