//! Which of several relays is at work.

use std::time::{Duration, Instant};

use micro_core::Result;
use micro_store_core::{Condition, DeleteOptions, Record, StoreErrorExt as _, WriteOptions};

use crate::outbox::Shared;

const KEY: &str = "l";

/// A lease in the outbox's table. It ends by itself unless it is renewed.
#[derive(Debug)]
pub(crate) struct Lease {
    version: u64,
    /// By our clock; the store's ends later, for it began later.
    until: Instant,
    ttl: Duration,
}

impl Lease {
    /// Until when it holds.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Takes it, if nobody has it.
    pub(crate) async fn take(shared: &Shared, ttl: Duration) -> Result<Option<Self>> {
        Self::write(shared, Condition::Absent, ttl).await
    }

    /// Renews it, if it is time; false if another may have it by now.
    pub(crate) async fn renew(&mut self, shared: &Shared) -> Result<bool> {
        let left = self
            .until
            .saturating_duration_since(shared.env.clock().now());
        if left > self.ttl / 3 * 2 {
            return Ok(true);
        }
        let renewed = Self::write(shared, Condition::Version(self.version), self.ttl).await?;
        let held = renewed.is_some();
        if let Some(renewed) = renewed {
            *self = renewed;
        }
        Ok(held)
    }

    /// Gives it back.
    pub(crate) async fn end(self, shared: &Shared) -> Result<()> {
        let opts = DeleteOptions::default().with_condition(Condition::Version(self.version));
        match shared.table.delete_with(KEY, opts).await {
            Err(err) if !err.is_conflict() => Err(err),
            _ => Ok(()),
        }
    }

    async fn write(shared: &Shared, condition: Condition, ttl: Duration) -> Result<Option<Self>> {
        let until = shared.env.clock().now() + ttl;
        let opts = WriteOptions::default()
            .with_ttl(ttl)
            .with_condition(condition);
        match shared.table.write(Record::new(KEY, ""), opts).await {
            Ok(written) => Ok(Some(Self {
                version: written.version,
                until,
                ttl,
            })),
            Err(err) if err.is_conflict() => Ok(None),
            Err(err) => Err(err),
        }
    }
}
