//! The caller's view of a store: one table.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    BatchOptions, Capabilities, ChangeStream, Condition, DeleteOptions, Deleted, Error, ErrorKind,
    ListOptions, Operation, Page, ReadOptions, Record, Result, Scope, Store, WatchOptions,
    WriteOptions, Written,
};

/// One table of a store, for callers: the store's methods without the scope, and short forms.
///
/// Cheap to clone. Every method is as safe to drop as the store's own.
#[derive(Clone)]
pub struct Table {
    store: Arc<dyn Store>,
    scope: Scope,
}

impl Table {
    /// The table `scope` of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, scope: Scope) -> Self {
        Self { store, scope }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Database and table.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Another table of the same database.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the name does not fit.
    pub fn sibling(&self, table: &str) -> Result<Self> {
        let scope = Scope::new(self.scope.database(), table)?;
        Ok(Self::new(Arc::clone(&self.store), scope))
    }

    /// What the store can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// [`Store::read`] with default options.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no record, and those of [`Store`].
    pub async fn read(&self, key: &str) -> Result<Record> {
        self.store
            .read(&self.scope, key, ReadOptions::default())
            .await
    }

    /// The record, if there is one.
    ///
    /// # Errors
    ///
    /// Those of [`Store`].
    pub async fn find(&self, key: &str) -> Result<Option<Record>> {
        match self.read(key).await {
            Ok(record) => Ok(Some(record)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// The value read as JSON, if there is one.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the value is not the JSON of a `T`, and those of [`Store`].
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.find(key).await? {
            Some(record) => record.json().map(Some),
            None => Ok(None),
        }
    }

    /// [`Store::write`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::write`].
    pub async fn write(&self, record: Record, opts: WriteOptions) -> Result<Written> {
        self.store.write(&self.scope, record, opts).await
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it has no JSON, and those of [`Store::write`].
    pub fn put<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<Written>> + Send + use<'_, T> {
        self.put_with(key, value, WriteOptions::default())
    }

    /// Writes `value` as JSON, with options.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it has no JSON, and those of [`Store::write`].
    pub fn put_with<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        opts: WriteOptions,
    ) -> impl Future<Output = Result<Written>> + Send + use<'_, T> {
        // Before the first await: `value` need not be `Sync`.
        let record = json_of(key, value).map(|json| Record::new(key, json));
        async move { self.write(record?, opts).await }
    }

    /// Changes the value, read and written as JSON: `change` makes of what is there what is to be
    /// there. Metadata and expiry stay.
    ///
    /// Nothing that others write is lost: if somebody was faster, `change` is called again with the
    /// new value. That ends with success, with an error, or when the future is dropped.
    ///
    /// ```
    /// # use micro_store_core::{Result, Table};
    /// async fn visit(visits: &Table) -> Result<u64> {
    ///     visits.update("home", |count| count.unwrap_or(0) + 1).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// `Corrupt` if the value is not the JSON of a `T`, `InvalidArgument` if the new one has no JSON,
    /// and those of [`Store::write`] but for the conflicts.
    pub async fn update<T, F>(&self, key: &str, mut change: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnMut(Option<T>) -> T + Send,
    {
        loop {
            let there = self.find(key).await?;
            let (mut next, condition, old) = match there {
                Some(record) => {
                    let old = record.json()?;
                    let version = Condition::Version(record.version);
                    (record, version, Some(old))
                }
                None => (Record::new(key, ""), Condition::Absent, None),
            };
            let value = change(old);
            next.value = json_of(key, &value)?.into();
            let opts = WriteOptions::default().with_condition(condition);
            match self.write(next, opts).await {
                Ok(_) => return Ok(value),
                Err(err) if err.is_conflict() => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// [`Store::delete`] with default options; whether there was a record.
    ///
    /// # Errors
    ///
    /// Those of [`Store::delete`].
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let deleted = self.delete_with(key, DeleteOptions::default()).await?;
        Ok(deleted.existed)
    }

    /// [`Store::delete`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::delete`].
    pub async fn delete_with(&self, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        self.store.delete(&self.scope, key, opts).await
    }

    /// [`Store::batch`]; the operations name their scopes themselves.
    ///
    /// # Errors
    ///
    /// Those of [`Store::batch`].
    pub async fn batch(
        &self,
        operations: Vec<Operation>,
        opts: BatchOptions,
    ) -> Result<Vec<Written>> {
        self.store.batch(operations, opts).await
    }

    /// [`Store::list`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::list`].
    pub async fn list(&self, opts: ListOptions) -> Result<Page> {
        self.store.list(&self.scope, opts).await
    }

    /// Every record that matches, page after page; `opts.limit` is the size of a page.
    pub fn scan(&self, opts: ListOptions) -> RecordStream {
        RecordStream {
            table: self.clone(),
            opts,
            ready: VecDeque::new(),
            state: Scan::Idle,
        }
    }

    /// [`Store::watch`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::watch`].
    pub async fn watch(&self, opts: WatchOptions) -> Result<ChangeStream> {
        self.store.watch(&self.scope, opts).await
    }
}

fn json_of<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| {
        Error::invalid_argument("the value has no JSON")
            .with_context("key", key.escape_debug())
            .with_source(err)
    })
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("backend", &self.store.backend())
            .field("scope", &self.scope)
            .finish()
    }
}

/// The records of a [scan](Table::scan). It holds one page at a time; after an error it ends.
#[must_use = "a stream does nothing unless it is polled"]
pub struct RecordStream {
    table: Table,
    opts: ListOptions,
    ready: VecDeque<Record>,
    state: Scan,
}

enum Scan {
    Idle,
    Loading(Pin<Box<dyn Future<Output = Result<Page>> + Send>>),
    Over,
}

impl Stream for RecordStream {
    type Item = Result<Record>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(record) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(record)));
            }
            match &mut this.state {
                Scan::Over => return Poll::Ready(None),
                Scan::Idle => {
                    let table = this.table.clone();
                    let opts = this.opts.clone();
                    this.state = Scan::Loading(Box::pin(async move { table.list(opts).await }));
                }
                Scan::Loading(page) => match ready!(page.as_mut().poll(cx)) {
                    Ok(page) => {
                        this.ready = page.records.into();
                        // An offset counts once, from the beginning.
                        this.opts.offset = 0;
                        this.state = match page.next {
                            Some(cursor) => {
                                this.opts.after = Some(cursor);
                                Scan::Idle
                            }
                            None => Scan::Over,
                        };
                    }
                    Err(err) => {
                        this.state = Scan::Over;
                        return Poll::Ready(Some(Err(err)));
                    }
                },
            }
        }
    }
}

impl fmt::Debug for RecordStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStream")
            .field("table", &self.table)
            .field("opts", &self.opts)
            .finish_non_exhaustive()
    }
}

/// What an error of a store means. It cannot be implemented by hand.
pub trait StoreErrorExt: sealed::Sealed {
    /// Whether a condition did not hold: read again and begin anew.
    fn is_conflict(&self) -> bool;
}

impl StoreErrorExt for Error {
    fn is_conflict(&self) -> bool {
        matches!(self.kind(), ErrorKind::Aborted | ErrorKind::AlreadyExists)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Error {}
}
