#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `micro`'s services have a table of their own: `service.store()`. Anywhere else,
//! [`Table::new`] puts an opened [`Store`] and a [`Scope`] together.
//!
//! # The promise
//!
//! - When a write returns, the record survives what its [`Durability`] names.
//! - An error of kind [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) means that the write may have
//!   happened; with any other, it has not. Read the record and compare its version and value.
//! - An expired record is never returned, and its removal never takes a newer one along. The store's
//!   wall clock decides: if it is set back, what had expired and was not removed yet is there again.
//! - A [listing](Store::list) by cursor returns every key that was there the whole time exactly
//!   once, in the order of the keys' bytes.
//!
//! # For implementors
//!
//! Implement [`Store`], a [`Driver`] that opens it by URL, and run the `store` suite of
//! `micro-conformance`. Each method first calls the `check_…` of its name, so that all backends refuse
//! the same; [`check_fence`], [`check_condition`], [`expires_at`] and [`no_record`] are for what is
//! there. Columns or separators keep database, table and key apart, never text put together. Wrappers must forward every method: put
//! `#[deny(clippy::missing_trait_methods)]` on the impl.

mod check;
mod copy;
mod options;
mod record;
mod scope;
mod store;
mod table;

pub use self::check::{
    MAX_BATCH, MAX_BATCH_BYTES, MAX_FENCE, MAX_KEY, MAX_METADATA, MAX_PAGE, MAX_PAGE_BYTES,
    MAX_TTL, MAX_VALUE, check_batch, check_condition, check_delete, check_durability, check_fence,
    check_key, check_list, check_record, check_scopes, check_watch, expires_at, no_record,
};
pub use self::copy::{Checkpoint, Copied, CopyOptions, Existing, copy};
pub use self::options::{
    BatchOptions, Condition, DeleteOptions, ListOptions, ReadOptions, ScopesOptions, WatchOptions,
    WriteOptions,
};
pub use self::record::{
    Change, ChangeKind, Cursor, Deleted, Durability, Operation, Page, Record, Written,
};
pub use self::scope::Scope;
pub use self::store::{Capabilities, ChangeStream, Store};
pub use self::table::{RecordStream, StoreErrorExt, Table};
pub use micro_core::{
    Driver, Drivers, Env, Error, ErrorKind, Fence, FencingToken, Result, Url, async_trait, url,
};
