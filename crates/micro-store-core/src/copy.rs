//! Records of one store written into another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    BatchOptions, Condition, Cursor, DeleteOptions, Error, ErrorKind, ListOptions, MAX_PAGE,
    Operation, Record, Result, Scope, ScopesOptions, Store, WriteOptions, check_list,
};

/// So often a page is begun again because others write to the target at the same time.
const TRIES: usize = 16;

/// What becomes of a record that the target has otherwise than the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// It stays: it may be newer.
    #[default]
    Keep,
    /// The source's takes its place.
    Replace,
}

/// Options for [`copy`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Only the tables of this database.
    pub database: Option<String>,
    /// Only this table; it outweighs [`database`](Self::database).
    pub scope: Option<Scope>,
    /// How many records are read at a time: 1 to [`MAX_PAGE`]. Default 500.
    pub page: usize,
    /// What becomes of records that are in the target already, and differ.
    pub existing: Existing,
    /// Whether records are deleted from the target that the source does not have, in those of its
    /// tables that the source lists.
    pub prune: bool,
    /// Where an earlier copying ended.
    pub resume: Option<Checkpoint>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            database: None,
            scope: None,
            page: 500,
            existing: Existing::Keep,
            prune: false,
            resume: None,
        }
    }
}

impl CopyOptions {
    /// Sets [`database`](Self::database).
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Sets [`scope`](Self::scope).
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets [`page`](Self::page).
    #[must_use]
    pub fn with_page(mut self, page: usize) -> Self {
        self.page = page;
        self
    }

    /// Sets [`existing`](Self::existing).
    #[must_use]
    pub fn with_existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Sets [`prune`](Self::prune).
    #[must_use]
    pub fn with_prune(mut self, prune: bool) -> Self {
        self.prune = prune;
        self
    }

    /// Sets [`resume`](Self::resume).
    #[must_use]
    pub fn with_resume(mut self, resume: impl Into<Option<Checkpoint>>) -> Self {
        self.resume = resume.into();
        self
    }
}

/// A place that a copying has come to: everything before it is in the target.
///
/// As text it can be kept in a file and read again. It names a key, so it is as secret as the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    scope: Scope,
    after: Option<Cursor>,
}

impl Checkpoint {
    /// Whether it is one of such a copying.
    fn check(&self, opts: &CopyOptions) -> Result<()> {
        let scope = &self.scope;
        let fits = match (&opts.scope, &opts.database) {
            (Some(only), _) => only == scope,
            (None, Some(database)) => database == scope.database(),
            (None, None) => true,
        };
        if fits {
            return Ok(());
        }
        Err(Error::invalid_argument(
            "the checkpoint is one of another copying: its table is not to be copied by this one",
        )
        .with_operation("store.copy")
        .with_context("table", scope))
    }
}

/// A checkpoint as text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    database: String,
    table: String,
    after: Option<String>,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Text {
            database: self.scope.database().to_owned(),
            table: self.scope.table().to_owned(),
            after: self.after.as_ref().map(|cursor| cursor.key().to_owned()),
        };
        let text = serde_json::to_string(&text).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let none = "this is no checkpoint of a copying";
        let text: Text = serde_json::from_str(text)
            .map_err(|err| Error::invalid_argument(none).with_source(err))?;
        let after = text.after.map(Cursor::after);
        check_list(&ListOptions::default().with_after(after.clone()))?;
        Ok(Self {
            scope: Scope::new(&text.database, &text.table)?,
            after,
        })
    }
}

/// What a [`copy`] has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Records read from the source.
    pub read: u64,
    /// Records written into the target.
    pub written: u64,
    /// Records that the target had already, with the same value, metadata and expiry.
    pub same: u64,
    /// Records that the target has otherwise, and that were left as they are there.
    pub kept: u64,
    /// Records deleted from the target.
    pub deleted: u64,
    /// Where to go on if it ends here; `None` when it is complete.
    pub checkpoint: Option<Checkpoint>,
}

/// Copies records from one store into another, page by page; after each page, `progress` is told what
/// was done so far. An error from there ends the copying.
///
/// Value, metadata and expiry are kept, so a record that expires does so at the same moment. Versions
/// are not: the target gives its own, and who holds a version of the source reads again. Fences are not
/// copied either: locks of that time should have ended before the target is written to.
///
/// A record is written if the target has none of its key, and what is there already stays, unless
/// [`Existing::Replace`] says otherwise. Each page is a batch on condition that the target is as it was
/// read, so nothing that others write there meanwhile is overwritten unseen. Repeating it does no harm.
///
/// While the source is written to, every key that is there the whole time is copied as it was at some
/// moment. So a store moves without a long pause in two passes: one while it is used, and when nobody
/// writes any more a second one, with [`Existing::Replace`] and [`CopyOptions::prune`], that writes only
/// what has changed and deletes what is gone.
///
/// If it ends early or its future is dropped, the last [`Copied::checkpoint`] goes on where it was, in
/// another process if need be; a page that was begun is compared again.
///
/// At any time it holds one page of each store. A table costs one listing of each.
///
/// # Errors
///
/// `InvalidArgument` for a bad page size or database; `Aborted` if others write to the same records of
/// the target all the time; what the stores and `progress` answer.
pub async fn copy<P>(
    from: &dyn Store,
    to: &dyn Store,
    opts: CopyOptions,
    mut progress: P,
) -> Result<Copied>
where
    P: FnMut(&Copied) -> Result<()> + Send,
{
    if !(1..=MAX_PAGE).contains(&opts.page) {
        return Err(
            Error::invalid_argument("a page of a copying has 1 to 10000 records")
                .with_operation("store.copy")
                .with_context("page", opts.page),
        );
    }
    if let Some(checkpoint) = &opts.resume {
        checkpoint.check(&opts)?;
    }
    let mut copied = Copied::default();
    let mut next = match (&opts.resume, &opts.scope) {
        (Some(checkpoint), _) => Some(checkpoint.clone()),
        (None, Some(scope)) => Some(Checkpoint {
            scope: scope.clone(),
            after: None,
        }),
        (None, None) => next_scope(from, &opts, None).await?,
    };
    while let Some(at) = next {
        let page = Page {
            from,
            to,
            opts: &opts,
            at: &at,
        };
        let after = page.copy(&mut copied).await?;
        next = match after {
            Some(cursor) => Some(Checkpoint {
                scope: at.scope,
                after: Some(cursor),
            }),
            None if opts.scope.is_some() => None,
            None => next_scope(from, &opts, Some(at.scope)).await?,
        };
        copied.checkpoint.clone_from(&next);
        progress(&copied)?;
    }
    Ok(copied)
}

/// The beginning of the next table.
async fn next_scope(
    from: &dyn Store,
    opts: &CopyOptions,
    behind: Option<Scope>,
) -> Result<Option<Checkpoint>> {
    let mut list = ScopesOptions::default().with_limit(1).with_after(behind);
    list.database.clone_from(&opts.database);
    let scope = from.scopes(list).await?.into_iter().next();
    Ok(scope.map(|scope| Checkpoint { scope, after: None }))
}

/// A page of a table.
struct Page<'a> {
    from: &'a dyn Store,
    to: &'a dyn Store,
    opts: &'a CopyOptions,
    at: &'a Checkpoint,
}

impl Page<'_> {
    /// Copies it; answers where the next one begins.
    async fn copy(&self, copied: &mut Copied) -> Result<Option<Cursor>> {
        let list = ListOptions::default()
            .with_limit(self.opts.page)
            .with_after(self.at.after.clone());
        let page = self.from.list(&self.at.scope, list).await?;
        let mut tries = 0;
        loop {
            let written = self
                .write(&page.records, page.next.as_ref(), &mut copied.deleted)
                .await;
            match written {
                Ok(done) => {
                    copied.read += page.records.len() as u64;
                    copied.written += done.written;
                    copied.same += done.same;
                    copied.kept += done.kept;
                    return Ok(page.next);
                }
                // Whatever has happened, comparing again shows it.
                Err(err) if tries < TRIES && may_have_changed(&err) => tries += 1,
                Err(err) => return Err(err.with_context("table", &self.at.scope)),
            }
        }
    }

    /// Compares the page with what the target has between its ends, and changes what is to be changed.
    async fn write(
        &self,
        records: &[Record],
        next: Option<&Cursor>,
        deleted: &mut u64,
    ) -> Result<Copied> {
        let scope = &self.at.scope;
        let mut missing: BTreeMap<&str, &Record> = records
            .iter()
            .map(|record| (record.key.as_str(), record))
            .collect();
        let mut done = Copied::default();
        let mut writes = Vec::new();
        let mut list = ListOptions::default()
            .with_limit(self.opts.page)
            .with_after(self.at.after.clone());
        // Without anything to compare or delete, the target need not be looked at.
        let mut over = records.is_empty() && !self.opts.prune;
        while !over {
            let page = self.to.list(scope, list.clone()).await?;
            let mut deletions = Vec::new();
            for there in page.records {
                if next.is_some_and(|end| there.key.as_str() > end.key()) {
                    over = true;
                    break;
                }
                match missing.remove(there.key.as_str()) {
                    Some(record) if is_same(record, &there) => done.same += 1,
                    Some(record) if self.opts.existing == Existing::Replace => {
                        writes.push(write(scope, record, Condition::Version(there.version)));
                    }
                    Some(_) => done.kept += 1,
                    None if self.opts.prune => deletions.push(delete(scope, there)),
                    None => {}
                }
            }
            if !deletions.is_empty() {
                let count = deletions.len() as u64;
                self.to.batch(deletions, BatchOptions::default()).await?;
                *deleted += count;
            }
            over |= page.next.is_none();
            list.after = page.next;
        }
        writes.extend(
            missing
                .values()
                .map(|record| write(scope, record, Condition::Absent)),
        );
        if !writes.is_empty() {
            done.written = writes.len() as u64;
            self.to.batch(writes, BatchOptions::default()).await?;
        }
        Ok(done)
    }
}

fn may_have_changed(err: &Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::Aborted | ErrorKind::AlreadyExists | ErrorKind::OutcomeUnknown
    )
}

/// Whether nothing but the version differs.
fn is_same(one: &Record, other: &Record) -> bool {
    one.value == other.value && one.metadata == other.metadata && one.expiry == other.expiry
}

fn write(scope: &Scope, record: &Record, condition: Condition) -> Operation {
    let opts = WriteOptions::default().with_condition(condition);
    Operation::write_with(scope, record.clone(), opts)
}

fn delete(scope: &Scope, record: Record) -> Operation {
    let opts = DeleteOptions::default().with_condition(Condition::Version(record.version));
    Operation::delete_with(scope, record.key, opts)
}
