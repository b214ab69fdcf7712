//! Options of the store's methods.

use std::time::Duration;

use crate::{Cursor, Durability, Fence, Scope};

/// What must hold for a write or a deletion to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Nothing.
    #[default]
    Any,
    /// There is no record, or it has expired.
    Absent,
    /// The record is there and has this version.
    Version(u64),
}

/// Options for [`Store::read`](crate::Store::read).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOptions {}

/// Options for [`Store::write`](crate::Store::write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteOptions {
    /// The record expires after this time, counted by the store; it outweighs
    /// [`Record::expiry`](crate::Record::expiry). More than zero, at most
    /// [`MAX_TTL`](crate::MAX_TTL).
    pub ttl: Option<Duration>,
    /// What must hold.
    pub condition: Condition,
    /// The lock that the writer holds: refused if a higher token of that name was seen. Its name has
    /// 1 to [`MAX_FENCE`](crate::MAX_FENCE) bytes.
    pub fence: Option<Fence>,
    /// The least that the write must survive; the store's usual level without it. It may get more.
    pub durability: Option<Durability>,
}

impl WriteOptions {
    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets [`condition`](Self::condition).
    #[must_use]
    pub fn with_condition(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Sets [`fence`](Self::fence).
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}

/// Options for [`Store::delete`](crate::Store::delete).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// What must hold. [`Condition::Absent`] is refused: there would be nothing to delete.
    pub condition: Condition,
    /// The lock that the caller holds: refused if a higher token of that name was seen.
    pub fence: Option<Fence>,
    /// The least that the deletion must survive; the store's usual level without it.
    pub durability: Option<Durability>,
}

impl DeleteOptions {
    /// Sets [`condition`](Self::condition).
    #[must_use]
    pub fn with_condition(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Sets [`fence`](Self::fence).
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}

/// Options for [`Store::batch`](crate::Store::batch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// The least that the batch must survive; the store's usual level without it. An operation of it
    /// may ask for more, and then all of them get it.
    pub durability: Option<Durability>,
}

impl BatchOptions {
    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}

/// Options for [`Store::list`](crate::Store::list).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListOptions {
    /// Only keys that begin so, byte for byte.
    pub prefix: String,
    /// Only keys that end so, byte for byte.
    pub suffix: String,
    /// The most records of the page: 1 to [`MAX_PAGE`](crate::MAX_PAGE). Default 1,000. A page of
    /// large values ends earlier ([`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES));
    /// [`Page::next`](crate::Page::next) says whether anything follows.
    pub limit: usize,
    /// Where to go on.
    pub after: Option<Cursor>,
    /// How many matching records behind the cursor are passed over first. The store visits them all,
    /// and what is written meanwhile shifts them: cursors have neither.
    pub offset: u64,
    /// Whether values and metadata are left out.
    pub keys_only: bool,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            suffix: String::new(),
            limit: 1000,
            after: None,
            offset: 0,
            keys_only: false,
        }
    }
}

impl ListOptions {
    /// Sets [`prefix`](Self::prefix).
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets [`suffix`](Self::suffix).
    #[must_use]
    pub fn with_suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        self
    }

    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets [`after`](Self::after).
    #[must_use]
    pub fn with_after(mut self, after: impl Into<Option<Cursor>>) -> Self {
        self.after = after.into();
        self
    }

    /// Sets [`offset`](Self::offset).
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Sets [`keys_only`](Self::keys_only).
    #[must_use]
    pub fn with_keys_only(mut self, keys_only: bool) -> Self {
        self.keys_only = keys_only;
        self
    }
}

/// Options for [`Store::scopes`](crate::Store::scopes).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopesOptions {
    /// Only the tables of this database.
    pub database: Option<String>,
    /// Only what comes behind this one.
    pub after: Option<Scope>,
    /// The most to list: 1 to [`MAX_PAGE`](crate::MAX_PAGE). Default 1,000.
    pub limit: usize,
}

impl Default for ScopesOptions {
    fn default() -> Self {
        Self {
            database: None,
            after: None,
            limit: 1000,
        }
    }
}

impl ScopesOptions {
    /// Sets [`database`](Self::database).
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Sets [`after`](Self::after).
    #[must_use]
    pub fn with_after(mut self, after: impl Into<Option<Scope>>) -> Self {
        self.after = after.into();
        self
    }

    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// Options for [`Store::watch`](crate::Store::watch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchOptions {
    /// Only keys that begin so, byte for byte.
    pub prefix: String,
}

impl WatchOptions {
    /// Sets [`prefix`](Self::prefix).
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}
