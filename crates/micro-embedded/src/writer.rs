//! The thread that makes all changes, those that wait together in one commit.
//!
//! A commit waits for the disk. What arrives meanwhile is taken together into the next one, so that
//! many writers share that time; nobody waits for company.

use std::mem;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use micro_store_core::{
    Condition, Error, Operation, Result, check_condition, check_fence, expires_at,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::engine::{Changes, CommitError, Engine, Space, View};
use crate::envelope::{
    Head, Sealed, expiry_place, fence_place, millis, place, read_number, read_token, seal,
    seal_number, seal_token, split_expiry,
};
use crate::store::{Shared, failed, panicked};

/// The layout of the bytes in all spaces.
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

/// Writes the first numbers, if the store is new; answers with a version above which none was given.
pub(crate) fn prepare<E: Engine>(engine: &E) -> Result<u64> {
    if engine.is_new()? {
        let mut changes = Changes::default();
        for (name, number) in [LAYOUT, (VERSION, 0)] {
            changes.put(Space::Numbers, name.to_vec(), seal_number(name, number));
        }
        return match engine.commit(&changes) {
            Ok(()) => Ok(0),
            Err(CommitError::Not(err) | CommitError::Unknown(err)) => Err(err),
        };
    }
    let view = engine.view()?;
    let number = |name: &[u8]| {
        view.get(Space::Numbers, name, |bytes| match bytes {
            Some(bytes) => read_number(name, bytes),
            None => Err(Error::corrupt(
                "the file is no store, or its first table is damaged",
            )),
        })?
    };
    let layout = number(LAYOUT.0)?;
    if layout != LAYOUT.1 {
        return Err(Error::failed_precondition(
            "the store was written by a later version of this program",
        )
        .with_context("layout", layout));
    }
    number(VERSION)
}

/// The thread's state.
pub(crate) struct Writer<E> {
    shared: Arc<Shared<E>>,
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

impl<E: Engine> Writer<E> {
    pub(crate) fn new(shared: Arc<Shared<E>>, version: u64) -> Self {
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
                    "the engine has panicked while the change was made: open the store again and read what is there",
                )
                .with_source(panicked::<E>());
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
        match self.collect(group) {
            Err(err) => Outcome::Not(err),
            Ok((changes, answers)) if changes.is_empty() => Outcome::Done(answers),
            Ok((changes, answers)) => match self.shared.engine.commit(&changes) {
                Ok(()) => Outcome::Done(answers),
                Err(CommitError::Not(err)) => Outcome::Not(err),
                Err(CommitError::Unknown(err)) => Outcome::Unknown(err),
            },
        }
    }

    /// What the jobs change together, and the answer of each for when it is on the disk.
    fn collect(&mut self, group: &mut [Job]) -> Result<(Changes, Vec<Result<Vec<u64>>>)> {
        let shared = Arc::clone(&self.shared);
        let mut pending = Pending::new(shared.engine.view()?);
        let mut answers = Vec::with_capacity(group.len());
        for job in group {
            let operations = mem::take(&mut job.operations);
            answers.push(self.job(&mut pending, operations)?);
        }
        if !pending.changes.is_empty() {
            self.purge(&mut pending, PURGE)?;
        }
        if self.version > self.most {
            self.most = self.version + VERSIONS;
            let bytes = seal_number(VERSION, self.most);
            pending.changes.put(Space::Numbers, VERSION.to_vec(), bytes);
        }
        self.earliest = self.earliest.min(pending.earliest);
        Ok((pending.changes, answers))
    }

    /// Makes a job's changes, after everything about them was checked. The outer error is the end of
    /// the whole group, the inner one the job's own.
    fn job(
        &mut self,
        pending: &mut Pending<impl View>,
        operations: Vec<Operation>,
    ) -> Result<Result<Vec<u64>>> {
        let now = self.shared.clock.wall();
        let mut steps = Vec::with_capacity(operations.len());
        for operation in &operations {
            match pending.check(operation, millis(now))? {
                Ok(step) => steps.push(step),
                Err(err) => return Ok(Err(err)),
            }
        }
        let changes = &mut pending.changes;
        let mut versions = Vec::with_capacity(operations.len());
        for (operation, step) in operations.into_iter().zip(steps) {
            if let Some(fence) = operation.fence() {
                let at = fence_place(operation.scope(), &fence.name);
                let bytes = seal_token(&at, fence.token);
                changes.put(Space::Fences, at, bytes);
            }
            let old = step.found.head();
            if let Some(expiry) = old.and_then(|head| head.expiry) {
                changes.remove(Space::Expiries, expiry_place(expiry, &step.place));
            }
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
                        if let Some(expiry) = head.expiry {
                            let at = expiry_place(expiry, &step.place);
                            changes.put(Space::Expiries, at, Vec::new());
                            pending.earliest = pending.earliest.min(expiry);
                        }
                        let bytes = seal(&step.place, head, &record);
                        changes.put(Space::Records, step.place, bytes);
                    } else if step.found.is_something() {
                        changes.remove(Space::Records, step.place);
                    }
                    versions.push(self.version);
                }
                _ => {
                    // Damaged bytes were a record, too.
                    let existed = match step.found {
                        Found::Nothing => false,
                        Found::Record(head) => head.is_live(millis(now)),
                        Found::Damaged => true,
                    };
                    if step.found.is_something() {
                        changes.remove(Space::Records, step.place);
                    }
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

    fn purge_alone(&mut self) -> Result<usize> {
        let shared = Arc::clone(&self.shared);
        let mut pending = Pending::new(shared.engine.view()?);
        let gone = self.purge(&mut pending, IDLE_PURGE)?;
        let Pending { changes, .. } = pending;
        if !changes.is_empty() {
            match shared.engine.commit(&changes) {
                Ok(()) => {}
                Err(CommitError::Not(err) | CommitError::Unknown(err)) => return Err(err),
            }
        }
        Ok(gone)
    }

    /// Takes out what has expired, at most so many; answers how many.
    fn purge(&mut self, pending: &mut Pending<impl View>, most: usize) -> Result<usize> {
        let now = self.shared.now();
        if now < self.earliest {
            return Ok(0);
        }
        let mut due = Vec::new();
        let mut earliest = u64::MAX;
        pending.view.scan(Space::Expiries, &[], |at, _| {
            let expiry = split_expiry(at).map_or(0, |(expiry, _)| expiry);
            if expiry > now || due.len() == most {
                earliest = expiry;
                return Ok(ControlFlow::Break(()));
            }
            due.push(at.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        self.earliest = earliest;
        let gone = due.len();
        for at in due {
            if let Some((expiry, place)) = split_expiry(&at) {
                // Only the very record that this expiry belongs to.
                let same = pending.look(Space::Records, place, |bytes| {
                    bytes.is_some_and(|bytes| {
                        Sealed::read(place, bytes)
                            .is_ok_and(|sealed| sealed.head.expiry == Some(expiry))
                    })
                })?;
                if same {
                    pending.changes.remove(Space::Records, place.to_vec());
                }
            }
            pending.changes.remove(Space::Expiries, at);
        }
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
    found: Found,
}

/// What is there, expired or not.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    Record(Head),
    Damaged,
}

impl Found {
    fn head(self) -> Option<Head> {
        match self {
            Self::Record(head) => Some(head),
            Self::Nothing | Self::Damaged => None,
        }
    }

    fn is_something(self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// A group that comes together: what is on the disk, and over it what the jobs so far have changed.
struct Pending<V> {
    view: V,
    changes: Changes,
    /// Nothing that they have added expires before this.
    earliest: u64,
}

impl<V: View> Pending<V> {
    fn new(view: V) -> Self {
        Self {
            view,
            changes: Changes::default(),
            earliest: u64::MAX,
        }
    }

    fn look<T>(
        &self,
        space: Space,
        key: &[u8],
        read: impl FnOnce(Option<&[u8]>) -> T,
    ) -> Result<T> {
        match self.changes.get(space, key) {
            Some(changed) => Ok(read(changed)),
            None => self.view.get(space, key, read),
        }
    }

    /// Whether the operation may be made.
    fn check(&self, operation: &Operation, now: u64) -> Result<Result<Step>> {
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
            let passed = self.look(Space::Fences, &at, |bytes| {
                let seen = bytes.map(|bytes| read_token(&at, bytes)).transpose()?;
                check_fence(fence, seen)
            })?;
            if let Err(err) = passed {
                return Ok(Err(err));
            }
        }
        let place = place(operation.scope(), operation.key());
        let found = self.look(Space::Records, &place, |bytes| match bytes {
            Some(bytes) => Sealed::read(&place, bytes).map(|sealed| Found::Record(sealed.head)),
            None => Ok(Found::Nothing),
        })?;
        let found = match found {
            Ok(found) => found,
            // Damaged bytes are written over and deleted like any, or they would stay for ever.
            Err(_) if operation.condition() == Condition::Any => Found::Damaged,
            Err(err) => return Ok(Err(err)),
        };
        let live = found.head().filter(|head| head.is_live(now));
        let held = check_condition(
            operation.condition(),
            operation.key(),
            live.map(|head| head.version),
        );
        Ok(held.map(|()| Step { place, found }))
    }
}
