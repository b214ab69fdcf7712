//! The thread that makes all changes, those that wait together in one commit.
//!
//! A commit waits for the disk. What arrives meanwhile is taken together into the next one, so that
//! many writers share that time; nobody waits for company.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use micro_store_core::{Error, Operation, Result, check_condition, check_fence, expires_at};
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, WriteTransaction,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::envelope::{
    Head, Sealed, expiry_place, fence_place, millis, place, read_number, read_token, seal,
    seal_number, seal_token, split_expiry,
};
use crate::error::{Failure, failed, panicked};
use crate::store::Shared;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Records, by their places.
pub(crate) const RECORDS: Bytes = TableDefinition::new("records");
/// What expires, by time.
const EXPIRIES: Bytes = TableDefinition::new("expiries");
/// The highest tokens seen.
const FENCES: Bytes = TableDefinition::new("fences");
/// Numbers about the store.
const NUMBERS: Bytes = TableDefinition::new("numbers");

/// The layout of the file.
const LAYOUT: (&[u8], u64) = (b"layout", 1);
/// No version above this was given.
const VERSION: &[u8] = b"version";

/// So many versions are set aside at a time, so that not every commit has to write the last one.
const VERSIONS: u64 = 1 << 20;

/// A commit takes in at most so many operations, and so many bytes.
const GROUP: usize = 4096;
const GROUP_BYTES: usize = 64 << 20;

/// A commit takes out at most so many expired records on the way.
const PURGE: usize = 64;
/// One that was made for it takes out more.
const IDLE_PURGE: usize = 1024;
/// So long after the last change, what has expired is looked for.
const IDLE: Duration = Duration::from_secs(60);
/// So soon it goes on if there was much.
const BUSY: Duration = Duration::from_millis(20);

/// Changes that are made together, or not at all.
pub(crate) struct Job {
    pub(crate) operations: Vec<Operation>,
    /// The versions: of a deletion, 0 if there was nothing.
    pub(crate) reply: oneshot::Sender<Result<Vec<u64>>>,
    /// Its place in the queue.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Job {
    fn bytes(&self) -> usize {
        let bytes = |operation: &Operation| match operation {
            Operation::Write { record, .. } => record.value.len() + record.metadata_bytes(),
            _ => 0,
        };
        self.operations.iter().map(bytes).sum()
    }
}

/// Makes the tables, if the file is new; answers with a version above which none was given.
pub(crate) fn prepare(db: &Database) -> Result<u64, Error> {
    let read = db.begin_read().map_err(Failure::from)?;
    let is_new = read.list_tables().map_err(Failure::from)?.next().is_none();
    drop(read);
    let txn = db.begin_write().map_err(Failure::from)?;
    let version = {
        let mut numbers = txn.open_table(NUMBERS).map_err(Failure::from)?;
        if is_new {
            for (name, number) in [LAYOUT, (VERSION, 0)] {
                let bytes = seal_number(name, number);
                numbers.insert(name, &*bytes).map_err(Failure::from)?;
            }
        }
        let number = |name: &[u8]| match numbers.get(name).map_err(Failure::from)? {
            Some(bytes) => read_number(name, bytes.value()),
            None => Err(Error::corrupt(
                "the file is no store, or its first table is damaged",
            )),
        };
        let layout = number(LAYOUT.0)?;
        if layout != LAYOUT.1 {
            return Err(Error::failed_precondition(
                "the store was written by a later version of this program",
            )
            .with_context("layout", layout));
        }
        number(VERSION)?
    };
    for table in [RECORDS, EXPIRIES, FENCES] {
        txn.open_table(table).map_err(Failure::from)?;
    }
    if is_new {
        txn.commit().map_err(Failure::from)?;
    } else {
        txn.abort().map_err(Failure::from)?;
    }
    Ok(version)
}

/// The thread's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// The last version that was given.
    version: u64,
    /// The highest version that may be given: what the file says.
    most: u64,
    /// Nothing expires before this.
    earliest: u64,
}

/// How a group came out.
enum Outcome {
    /// Each job has its own answer, and what was changed is on the disk.
    Done(Vec<Result<Vec<u64>>>),
    /// Nothing was changed.
    Not(Error),
    /// The commit failed: it may be on the disk or not.
    Unknown(Error),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, version: u64) -> Self {
        Self {
            shared,
            version,
            most: version,
            earliest: 0,
        }
    }

    /// Works until nobody is left who could send a job.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut idle = IDLE;
        loop {
            match jobs.recv_timeout(idle) {
                Ok(first) => {
                    let mut bytes = first.bytes();
                    let mut operations = first.operations.len();
                    let mut group = vec![first];
                    while operations < GROUP
                        && bytes < GROUP_BYTES
                        && let Ok(job) = jobs.try_recv()
                    {
                        bytes += job.bytes();
                        operations += job.operations.len();
                        group.push(job);
                    }
                    self.commit(group);
                    idle = IDLE;
                }
                Err(RecvTimeoutError::Timeout) => idle = self.tidy(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Job>) {
        if self.shared.has_failed() {
            return group.into_iter().for_each(|job| answer(job, Err(failed())));
        }
        let work = catch_unwind(AssertUnwindSafe(|| self.work(&mut group)));
        match work {
            Ok(Outcome::Done(answers)) => {
                for (job, done) in group.into_iter().zip(answers) {
                    answer(job, done);
                }
            }
            Ok(Outcome::Not(err)) => {
                self.shared.fail();
                self.answer_all(group, err);
            }
            Ok(Outcome::Unknown(err)) => {
                self.shared.fail();
                let err = Error::outcome_unknown(
                    "the disk has failed while the change was made: open the store again and read what is there",
                )
                .with_source(err);
                self.answer_all(group, err);
            }
            Err(_) => {
                self.shared.fail();
                // It may have been in the middle of the commit.
                let err = Error::outcome_unknown(
                    "redb has panicked while the change was made: open the store again and read what is there",
                )
                .with_source(panicked());
                self.answer_all(group, err);
            }
        }
    }

    /// The same error to all: the first gets the cause with it.
    fn answer_all(&self, group: Vec<Job>, err: Error) {
        let (kind, text) = (err.kind(), err.message().to_owned());
        let mut first = Some(err);
        for job in group {
            let err = first
                .take()
                .unwrap_or_else(|| Error::new(kind, text.clone()));
            answer(job, Err(err));
        }
    }

    fn work(&mut self, group: &mut [Job]) -> Outcome {
        let prepared = self.begin().and_then(|txn| {
            let mut answers = Vec::with_capacity(group.len());
            let mut changed = false;
            {
                let mut tables = Tables::new(&txn, self.earliest)?;
                for job in group.iter_mut() {
                    let operations = mem::take(&mut job.operations);
                    let done = self.job(&mut tables, operations)?;
                    changed |= done.as_ref().is_ok_and(|versions| !versions.is_empty());
                    answers.push(done);
                }
                if changed {
                    tables.purge(self.shared.now(), PURGE)?;
                }
                if self.version > self.most {
                    self.most = self.version + VERSIONS;
                    let bytes = seal_number(VERSION, self.most);
                    txn.open_table(NUMBERS)?.insert(VERSION, &*bytes)?;
                }
                self.earliest = tables.earliest;
            }
            Ok((txn, answers, changed))
        });
        let (txn, answers, changed) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return Outcome::Not(failure.into()),
        };
        if !changed {
            return match txn.abort() {
                Ok(()) => Outcome::Done(answers),
                Err(err) => Outcome::Not(Failure::from(err).into()),
            };
        }
        match txn.commit() {
            Ok(()) => Outcome::Done(answers),
            Err(err) => Outcome::Unknown(Failure::from(err).into()),
        }
    }

    fn begin(&self) -> Result<WriteTransaction, Failure> {
        let mut txn = self.shared.db.begin_write()?;
        txn.set_two_phase_commit(self.shared.config.two_phase);
        Ok(txn)
    }

    /// Makes a job's changes, after everything about them was checked. The outer error is the end of
    /// the whole group, the inner one the job's own.
    fn job(
        &mut self,
        tables: &mut Tables<'_>,
        operations: Vec<Operation>,
    ) -> Result<Result<Vec<u64>>, Failure> {
        let now = self.shared.clock.wall();
        let mut steps = Vec::with_capacity(operations.len());
        for operation in &operations {
            match tables.check(operation, millis(now))? {
                Ok(step) => steps.push(step),
                Err(err) => return Ok(Err(err)),
            }
        }
        let mut versions = Vec::with_capacity(operations.len());
        for (operation, step) in operations.into_iter().zip(steps) {
            if let Some(fence) = operation.fence() {
                let at = fence_place(operation.scope(), &fence.name);
                let bytes = seal_token(&at, fence.token);
                tables.fences()?.insert(&*at, &*bytes)?;
            }
            if let Some(expiry) = step.old.and_then(|head| head.expiry) {
                let at = expiry_place(expiry, &step.place);
                tables.expiries()?.remove(&*at)?;
            }
            let live = step.old.is_some_and(|head| head.is_live(millis(now)));
            match operation {
                Operation::Write {
                    record, options, ..
                } => {
                    self.version += 1;
                    let head = Head {
                        version: self.version,
                        expiry: expires_at(&record, &options, now).map(millis),
                    };
                    if head.is_live(millis(now)) {
                        let bytes = seal(&step.place, head, &record);
                        tables.records.insert(&*step.place, &*bytes)?;
                        if let Some(expiry) = head.expiry {
                            let at = expiry_place(expiry, &step.place);
                            tables.expiries()?.insert(&*at, &[][..])?;
                            tables.earliest = tables.earliest.min(expiry);
                        }
                    } else {
                        tables.records.remove(&*step.place)?;
                    }
                    versions.push(self.version);
                }
                _ => {
                    let removed = tables.records.remove(&*step.place)?.is_some();
                    // Damaged bytes were a record, too.
                    let existed = removed && (live || step.old.is_none());
                    if existed {
                        self.version += 1;
                    }
                    versions.push(if existed { self.version } else { 0 });
                }
            }
        }
        Ok(Ok(versions))
    }

    /// Takes out what has expired while nobody writes; answers when to look again.
    fn tidy(&mut self) -> Duration {
        if self.shared.has_failed() {
            return IDLE;
        }
        match catch_unwind(AssertUnwindSafe(|| self.purge_alone())) {
            Ok(Ok(gone)) if gone == IDLE_PURGE => BUSY,
            Ok(Ok(_)) => IDLE,
            Ok(Err(_)) | Err(_) => {
                self.shared.fail();
                IDLE
            }
        }
    }

    fn purge_alone(&mut self) -> Result<usize, Failure> {
        let now = self.shared.now();
        if now < self.earliest {
            return Ok(0);
        }
        let txn = self.begin()?;
        let (gone, earliest) = {
            let mut tables = Tables::new(&txn, self.earliest)?;
            (tables.purge(now, IDLE_PURGE)?, tables.earliest)
        };
        if gone > 0 {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        self.earliest = earliest;
        Ok(gone)
    }
}

fn answer(job: Job, done: Result<Vec<u64>>) {
    // Who does not wait any more does not want to know.
    let _ = job.reply.send(done);
    drop(job.permit);
}

/// What an operation will do, once all of its job have been checked.
struct Step {
    place: Vec<u8>,
    /// What is there, expired or not; nothing also if its bytes are damaged.
    old: Option<Head>,
}

type Rows<'txn> = Table<'txn, &'static [u8], &'static [u8]>;

/// The tables, opened when they are needed.
struct Tables<'txn> {
    txn: &'txn WriteTransaction,
    records: Rows<'txn>,
    expiries: Option<Rows<'txn>>,
    fences: Option<Rows<'txn>>,
    earliest: u64,
}

impl<'txn> Tables<'txn> {
    fn new(txn: &'txn WriteTransaction, earliest: u64) -> Result<Self, Failure> {
        Ok(Self {
            txn,
            records: txn.open_table(RECORDS)?,
            expiries: None,
            fences: None,
            earliest,
        })
    }

    fn expiries(&mut self) -> Result<&mut Rows<'txn>, Failure> {
        opened(&mut self.expiries, self.txn, EXPIRIES)
    }

    fn fences(&mut self) -> Result<&mut Rows<'txn>, Failure> {
        opened(&mut self.fences, self.txn, FENCES)
    }

    /// Whether the operation may be made.
    fn check(&mut self, operation: &Operation, now: u64) -> Result<Result<Step>, Failure> {
        if !matches!(
            operation,
            Operation::Write { .. } | Operation::Delete { .. }
        ) {
            return Ok(Err(Error::unimplemented(
                "this store knows no such operation",
            )));
        }
        if let Some(fence) = operation.fence() {
            let at = fence_place(operation.scope(), &fence.name);
            let seen = match self.fences()?.get(&*at)? {
                Some(bytes) => match read_token(&at, bytes.value()) {
                    Ok(token) => Some(token),
                    Err(err) => return Ok(Err(err)),
                },
                None => None,
            };
            if let Err(err) = check_fence(fence, seen) {
                return Ok(Err(err));
            }
        }
        let place = place(operation.scope(), operation.key());
        let there = match self.records.get(&*place)? {
            Some(bytes) => Sealed::read(&place, bytes.value()).map(|sealed| Some(sealed.head)),
            None => Ok(None),
        };
        let unconditional = operation.condition() == micro_store_core::Condition::Any;
        let old = match there {
            Ok(old) => old,
            // Damaged bytes are written over and deleted like any, or they would stay for ever.
            Err(_) if unconditional => None,
            Err(err) => return Ok(Err(err)),
        };
        let live = old.filter(|head| head.is_live(now));
        let held = check_condition(
            operation.condition(),
            operation.key(),
            live.map(|head| head.version),
        );
        Ok(held.map(|()| Step { place, old }))
    }

    /// Takes out what has expired, at most so many; answers how many.
    fn purge(&mut self, now: u64, most: usize) -> Result<usize, Failure> {
        if now < self.earliest {
            return Ok(0);
        }
        let mut due = Vec::new();
        let mut earliest = u64::MAX;
        for entry in self.expiries()?.iter()? {
            let (at, _) = entry?;
            let expiry = split_expiry(at.value()).map_or(0, |(expiry, _)| expiry);
            if expiry > now || due.len() == most {
                earliest = expiry;
                break;
            }
            due.push(at.value().to_vec());
        }
        self.earliest = earliest;
        for at in &due {
            self.expiries()?.remove(&**at)?;
            let Some((expiry, place)) = split_expiry(at) else {
                continue;
            };
            // Only the very record that this expiry belongs to.
            let same = match self.records.get(place)? {
                Some(bytes) => Sealed::read(place, bytes.value())
                    .is_ok_and(|sealed| sealed.head.expiry == Some(expiry)),
                None => false,
            };
            if same {
                self.records.remove(place)?;
            }
        }
        Ok(due.len())
    }
}

fn opened<'a, 'txn>(
    place: &'a mut Option<Rows<'txn>>,
    txn: &'txn WriteTransaction,
    table: Bytes,
) -> Result<&'a mut Rows<'txn>, Failure> {
    Ok(match place {
        Some(rows) => rows,
        None => place.insert(txn.open_table(table)?),
    })
}
