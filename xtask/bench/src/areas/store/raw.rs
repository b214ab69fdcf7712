//! The engines by themselves, at the durability that ours have: each change is on the disk when it
//! returns.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, TableDefinition};

use crate::Result;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");

/// What writes a record durably, and reads one.
pub(super) trait Raw {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Many together.
    fn put_all(&self, keys: &mut dyn Iterator<Item = String>, value: &[u8]) -> Result<()>;
    fn get(&self, key: &[u8]) -> Result<()>;
}

/// redb, with a transaction for each call.
pub(super) struct Redb(Database);

impl Redb {
    pub(super) fn open(folder: &Path) -> Result<Box<dyn Raw>> {
        Ok(Box::new(Self(Database::create(folder.join("raw.redb"))?)))
    }
}

impl Raw for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let txn = self.0.begin_write()?;
        txn.open_table(TABLE)?.insert(key, value)?;
        Ok(txn.commit()?)
    }

    fn put_all(&self, keys: &mut dyn Iterator<Item = String>, value: &[u8]) -> Result<()> {
        let txn = self.0.begin_write()?;
        for key in keys {
            txn.open_table(TABLE)?.insert(key.as_bytes(), value)?;
        }
        Ok(txn.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<()> {
        let rows = self.0.begin_read()?.open_table(TABLE)?;
        let found = rows.get(key)?.ok_or("it was written")?;
        black_box(found.value().to_vec());
        Ok(())
    }
}

/// sled, whose flush survives a power cut only with a sync of its file.
pub(super) struct Sled {
    db: sled::Db,
    log: File,
}

impl Sled {
    pub(super) fn open(folder: &Path) -> Result<Box<dyn Raw>> {
        let path = folder.join("raw.sled");
        let config = sled::Config::new().path(&path).cache_capacity(64 << 20);
        let db = config.flush_every_ms(None).open()?;
        let log = File::open(path.join("db"))?;
        Ok(Box::new(Self { db, log }))
    }
}

impl Raw for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.insert(key, value)?;
        self.db.flush()?;
        Ok(self.log.sync_data()?)
    }

    fn put_all(&self, keys: &mut dyn Iterator<Item = String>, value: &[u8]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for key in keys {
            batch.insert(key.as_bytes(), value);
        }
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        Ok(self.log.sync_data()?)
    }

    fn get(&self, key: &[u8]) -> Result<()> {
        let found = self.db.get(key)?.ok_or("it was written")?;
        black_box(found.to_vec());
        Ok(())
    }
}

/// The least that anything durable takes: a line at the end of a file, synced.
pub(super) struct Append(File);

impl Append {
    pub(super) fn open(folder: &Path) -> Result<Box<dyn Raw>> {
        Ok(Box::new(Self(File::create(folder.join("raw.log"))?)))
    }
}

impl Raw for Append {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut file = &self.0;
        file.write_all(&[key, value].concat())?;
        Ok(file.sync_data()?)
    }

    fn put_all(&self, keys: &mut dyn Iterator<Item = String>, value: &[u8]) -> Result<()> {
        for key in keys {
            (&self.0).write_all(&[key.as_bytes(), value].concat())?;
        }
        Ok(self.0.sync_data()?)
    }

    fn get(&self, _: &[u8]) -> Result<()> {
        Err("a log is not read by key".into())
    }
}
