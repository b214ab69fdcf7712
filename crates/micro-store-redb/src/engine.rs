//! redb behind the interface that all engines have.

use std::cell::OnceCell;
use std::fmt;
use std::ops::ControlFlow;

use micro_embedded::{Changes, CommitError, Directory, Engine, Space, View};
use micro_store_core::Result;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, StorageBackend,
    TableDefinition, WriteTransaction,
};

use crate::error::Failure;
use crate::{RedbConfig, SCHEME};

/// The file in the directory.
const FILE: &str = "store.redb";
/// One that is being made.
const NEW: &str = "store.redb.new";

/// The engine of a [`RedbStore`](crate::RedbStore).
#[derive(Debug)]
pub struct Redb {
    db: Database,
    two_phase: bool,
}

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn table(space: Space) -> Bytes {
    TableDefinition::new(match space {
        Space::Records => "records",
        Space::Expiries => "expiries",
        Space::Fences => "fences",
        Space::Numbers => "numbers",
    })
}

impl Redb {
    pub(crate) fn on(backend: impl StorageBackend, config: &RedbConfig) -> Result<Self> {
        let db = Builder::new()
            .set_cache_size(config.cache_bytes)
            .set_check_integrity_on_open(config.check)
            .create_with_backend(backend)
            .map_err(Failure::from)?;
        Ok(Self {
            db,
            two_phase: config.two_phase,
        })
    }

    /// An empty one, in its place only when all of it is on the disk: a crash in the middle leaves none,
    /// and not one that does not open. Nothing if somebody else has made one meanwhile.
    fn make(config: &RedbConfig, directory: &Directory) -> Result<Option<Self>> {
        // Until the store has its name, and is locked by redb.
        directory.lock()?;
        if directory.has(FILE)? {
            return Ok(None);
        }
        let file = directory.file(NEW)?;
        let explain = |err| directory.explain(err);
        // What a crash has left.
        file.set_len(0).map_err(explain)?;
        let same = file.try_clone().map_err(explain)?;
        let made = Self::on(FileBackend::new(file).map_err(Failure::from)?, config)?;
        same.sync_all().map_err(explain)?;
        directory.rename(NEW, FILE)?;
        Ok(Some(made))
    }

    /// A transaction with all changes in it.
    fn prepare(&self, changes: &Changes) -> Result<WriteTransaction, Failure> {
        let mut txn = self.db.begin_write()?;
        txn.set_two_phase_commit(self.two_phase);
        // The first commit writes numbers, and makes all tables; hardly any other does.
        let all = changes.of(Space::Numbers).len() > 0;
        for space in Space::ALL {
            if !all && changes.of(space).len() == 0 {
                continue;
            }
            let mut rows = txn.open_table(table(space))?;
            for (key, value) in changes.of(space) {
                match value {
                    Some(value) => rows.insert(&**key, &**value)?,
                    None => rows.remove(&**key)?,
                };
            }
        }
        Ok(txn)
    }
}

impl Engine for Redb {
    const NAME: &'static str = SCHEME;
    const SCHEMES: &'static [&'static str] = &[SCHEME, "file"];
    type Config = RedbConfig;
    type View<'a> = RedbView;

    fn open(config: &RedbConfig) -> Result<Self> {
        let directory = Directory::open(&config.directory)?;
        if !directory.has(FILE)?
            && let Some(made) = Self::make(config, &directory)?
        {
            return Ok(made);
        }
        let file = directory.file(FILE)?;
        Self::on(FileBackend::new(file).map_err(Failure::from)?, config)
    }

    fn is_new(&self) -> Result<bool> {
        let txn = self.db.begin_read().map_err(Failure::from)?;
        Ok(txn.list_tables().map_err(Failure::from)?.next().is_none())
    }

    fn view(&self) -> Result<RedbView> {
        let txn = self.db.begin_read().map_err(Failure::from)?;
        Ok(RedbView {
            txn,
            rows: [const { OnceCell::new() }; Space::ALL.len()],
        })
    }

    fn commit(&self, changes: &Changes) -> Result<(), CommitError> {
        // Dropped before its commit, a transaction is undone.
        let txn = self.prepare(changes);
        let txn = txn.map_err(|failure| CommitError::Not(failure.into()))?;
        let done = txn.commit();
        done.map_err(|err| CommitError::Unknown(Failure::from(err).into()))
    }
}

/// A read transaction, and the tables that were asked for.
pub struct RedbView {
    txn: ReadTransaction,
    rows: [OnceCell<Rows>; Space::ALL.len()],
}

impl fmt::Debug for RedbView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbView").finish_non_exhaustive()
    }
}

impl RedbView {
    fn rows(&self, space: Space) -> Result<&Rows, Failure> {
        let cell = &self.rows[space as usize];
        match cell.get() {
            Some(rows) => Ok(rows),
            None => {
                let rows = self.txn.open_table(table(space))?;
                Ok(cell.get_or_init(|| rows))
            }
        }
    }
}

impl View for RedbView {
    fn get<T>(&self, space: Space, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T> {
        let found = self.rows(space)?.get(key).map_err(Failure::from)?;
        Ok(read(found.as_ref().map(redb::AccessGuard::value)))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let rows = self.rows(space)?;
        for row in rows.range::<&[u8]>(from..).map_err(Failure::from)? {
            let (key, value) = row.map_err(Failure::from)?;
            if visit(key.value(), value.value())?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
