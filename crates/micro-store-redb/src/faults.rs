//! The store on a disk that fails: at a sync, at a write, for want of room, in a power cut, bit by bit.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use micro_core::{Random as _, SeededRandom, SystemClock};
use micro_store_core::{
    BatchOptions, DeleteOptions, Error, ErrorKind, ListOptions, Operation, ReadOptions, Record,
    Result, Scope, Store as _, WriteOptions,
};
use redb::StorageBackend;

use micro_embedded::Closed;

use crate::{Redb, RedbConfig, RedbStore};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// A disk whose writes are safe only after a sync. Clones are the same disk.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is left after a power cut, for sure.
    safe: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Step>,
    /// Writes, syncs and changes of length so far.
    steps: u64,
    /// The step that fails, and every one behind it.
    fails_at: Option<(u64, Fault)>,
}

#[derive(Clone, Debug)]
enum Step {
    Length(usize),
    Write(usize, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Everything fails.
    Broken,
    /// Only growing fails, and what is written into holes.
    Full,
}

impl Step {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(at, data) => {
                if bytes.len() < at + data.len() {
                    bytes.resize(at + data.len(), 0);
                }
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            seen: bytes.clone(),
            safe: bytes,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    fn safe(&self) -> Vec<u8> {
        self.state().safe.clone()
    }

    fn fail_at(&self, step: u64, fault: Fault) {
        self.state().fails_at = Some((step, fault));
    }

    /// What is on the disk after a power cut: what was synced, and of the rest any sectors; few, half
    /// of them, most, or all.
    fn after_power_cut(&self, random: &SeededRandom) -> Vec<u8> {
        let state = self.state();
        let kept = [1, 8, 15, 16][random.next_u64() as usize % 4];
        let survives = || random.next_u64() % 16 < kept;
        let mut bytes = state.safe.clone();
        for step in &state.pending {
            match step {
                Step::Length(_) if survives() => step.apply(&mut bytes),
                Step::Length(_) => {}
                Step::Write(at, data) => {
                    for (nth, sector) in data.chunks(SECTOR).enumerate() {
                        if survives() {
                            let at = at + nth * SECTOR;
                            Step::Write(at, sector.to_vec()).apply(&mut bytes);
                        }
                    }
                }
            }
        }
        bytes
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut state = self.state();
        state.steps += 1;
        match state.fails_at {
            Some((at, Fault::Broken)) if state.steps >= at => {
                return Err(io::Error::other("the disk is broken"));
            }
            Some((at, Fault::Full)) if state.steps >= at => {
                let grows = match &step {
                    Step::Length(length) => *length > state.seen.len(),
                    Step::Write(..) => true,
                };
                if grows {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            _ => {}
        }
        step.apply(&mut state.seen);
        state.pending.push(step);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let at = offset as usize;
        let found = state.seen.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.step(Step::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.steps += 1;
        if let Some((at, Fault::Broken)) = state.fails_at
            && state.steps >= at
        {
            return Err(io::Error::other("the disk is broken"));
        }
        let State { safe, pending, .. } = &mut *state;
        pending.drain(..).for_each(|step| step.apply(safe));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(Step::Write(offset as usize, data.to_vec()))
    }
}

/// A store, and how to wait until it is closed.
#[derive(Debug)]
struct Opened {
    store: RedbStore,
    closed: Closed,
}

impl std::ops::Deref for Opened {
    type Target = RedbStore;

    fn deref(&self) -> &RedbStore {
        &self.store
    }
}

impl Opened {
    /// Drops the store, and waits until its file is free.
    fn close(self) {
        drop(self.store);
        self.closed.wait(Duration::from_secs(10));
    }
}

fn config() -> RedbConfig {
    RedbConfig::new("nowhere")
}

fn open_with(disk: &Disk, config: &RedbConfig) -> Result<Opened> {
    let (store, closed) =
        RedbStore::open_with(|| Redb::on(disk.clone(), config), Arc::new(SystemClock))?;
    Ok(Opened { store, closed })
}

fn open(disk: &Disk) -> Opened {
    open_with(disk, &config()).expect("the store opens")
}

fn scope() -> Scope {
    Scope::new("shop", "orders").expect("the name is good")
}

async fn put(store: &RedbStore, key: &str, value: &str) -> Result<u64> {
    let record = Record::new(key, value.to_owned());
    let written = store.write(&scope(), record, WriteOptions::default()).await;
    written.map(|written| written.version)
}

async fn get(store: &RedbStore, key: &str) -> Result<Option<String>> {
    match store.read(&scope(), key, ReadOptions::default()).await {
        Ok(record) => Ok(Some(String::from_utf8_lossy(&record.value).into_owned())),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// What is on the disk of a store with so many records, once it is closed and in the moment of a crash.
async fn filled(records: usize, config: &RedbConfig) -> [Vec<u8>; 2] {
    let disk = Disk::default();
    let store = open_with(&disk, config).expect("the store opens");
    for chunk in (0..records).collect::<Vec<_>>().chunks(100) {
        let operations = chunk
            .iter()
            .map(|i| Operation::write(&scope(), Record::new(key(*i), value(*i))))
            .collect();
        let written = store.batch(operations, BatchOptions::default()).await;
        written.expect("the disk works");
    }
    let crashed = disk.safe();
    store.close();
    [disk.safe(), crashed]
}

fn key(i: usize) -> String {
    format!("key-{i:05}")
}

fn value(i: usize) -> String {
    format!("value-{i}-").repeat(1 + i % 40)
}

/// fsync fails: the change is of unknown outcome, nothing works any more, and after opening again
/// everything that was acknowledged is there.
#[tokio::test]
async fn f_a_failing_sync_is_no_success_and_ends_the_handle() {
    let mut kinds = std::collections::BTreeMap::new();
    for nth in 1..60 {
        let disk = Disk::default();
        let store = open(&disk);
        put(&store, "before", "1").await.unwrap();
        let begin = disk.state().steps;
        disk.fail_at(begin + nth, Fault::Broken);
        let mut acked = Vec::new();
        let mut failed = None;
        for i in 0..20 {
            match put(&store, &key(i), &value(i)).await {
                Ok(_) => acked.push(i),
                Err(err) => {
                    failed = Some((i, err));
                    break;
                }
            }
        }
        let (failed, err) = failed.expect("the disk fails within twenty changes");
        assert!(
            matches!(
                err.kind(),
                ErrorKind::OutcomeUnknown | ErrorKind::FailedPrecondition
            ),
            "step {nth}: {err:?}"
        );
        *kinds.entry(format!("{:?}", err.kind())).or_insert(0) += 1;
        for refused in [
            put(&store, "later", "x").await.map(drop),
            get(&store, "before").await.map(drop),
            store
                .delete(&scope(), "before", DeleteOptions::default())
                .await
                .map(drop),
            store.list(&scope(), ListOptions::default()).await.map(drop),
        ] {
            let refused = refused.expect_err("nothing works after the disk has failed");
            assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused:?}");
        }
        store.close();
        // With all that was written, and with only what is safe.
        for image in [disk.seen(), disk.safe()] {
            let store = open(&Disk::holding(image));
            assert_eq!(get(&store, "before").await.unwrap().as_deref(), Some("1"));
            for i in &acked {
                assert_eq!(
                    get(&store, &key(*i)).await.unwrap(),
                    Some(value(*i)),
                    "step {nth}"
                );
            }
            let found = get(&store, &key(failed)).await.unwrap();
            match err.kind() {
                ErrorKind::OutcomeUnknown => {
                    assert!(found.is_none_or(|found| found == value(failed)));
                }
                _ => assert_eq!(found, None, "it was said not to have happened: {err:?}"),
            }
            assert_eq!(get(&store, "later").await.unwrap(), None);
            put(&store, "after", "1").await.unwrap();
        }
    }
    assert!(kinds.contains_key("OutcomeUnknown"), "{kinds:?}");
}

/// The disk is full: an error that says so or an unknown outcome, no damage, and all is well again when
/// there is room.
#[tokio::test]
async fn f_a_full_disk_loses_nothing() {
    let mut kinds = std::collections::BTreeMap::new();
    for nth in 1..80 {
        let disk = Disk::default();
        let store = open(&disk);
        put(&store, "before", "1").await.unwrap();
        let begin = disk.state().steps;
        disk.fail_at(begin + nth, Fault::Full);
        let mut acked = Vec::new();
        let mut last = None;
        let large = "x".repeat(50_000);
        for i in 0..40 {
            match put(&store, &key(i), &large).await {
                Ok(_) => acked.push(i),
                Err(err) => {
                    last = Some((i, err));
                    break;
                }
            }
        }
        let (failed, err) = last.expect("the disk is full within forty changes");
        assert!(
            matches!(
                err.kind(),
                ErrorKind::OutcomeUnknown | ErrorKind::ResourceExhausted
            ),
            "step {nth}: {err:?}"
        );
        *kinds.entry(format!("{:?}", err.kind())).or_insert(0) += 1;
        store.close();
        let image = disk.seen();
        let store = open(&Disk::holding(image));
        for i in &acked {
            assert_eq!(
                get(&store, &key(*i)).await.unwrap().as_ref(),
                Some(&large),
                "step {nth}"
            );
        }
        let found = get(&store, &key(failed)).await.unwrap();
        if err.kind() == ErrorKind::ResourceExhausted {
            assert_eq!(found, None, "it was said not to have happened: {err:?}");
        }
        for i in acked {
            store
                .delete(&scope(), &key(i), DeleteOptions::default())
                .await
                .unwrap();
        }
        put(&store, "after", &large).await.unwrap();
        assert_eq!(get(&store, "before").await.unwrap().as_deref(), Some("1"));
    }
    assert!(
        kinds.len() == 2 || kinds.contains_key("OutcomeUnknown"),
        "{kinds:?}"
    );
}

/// A power cut at any moment leaves what was acknowledged, whole batches, and nothing that nobody
/// wrote.
#[tokio::test]
async fn f_a_power_cut_takes_nothing_that_was_acknowledged() {
    const ROUNDS: u64 = 100;
    let (mut all_acked, mut unknown_kept) = (0, 0);
    for seed in 0..ROUNDS {
        let random = SeededRandom::new(seed);
        let disk = Disk::default();
        // The first creation may be cut as well: then there is nothing to lose.
        disk.fail_at(1 + random.next_u64() % 150, Fault::Broken);
        let mut acked: Vec<u64> = Vec::new();
        let mut attempted: Option<u64> = None;
        if let Ok(store) = open_with(&disk, &config()) {
            for round in 0.. {
                let operations = ["a", "b", "c"]
                    .map(|part| {
                        let record = Record::new(format!("{round:04}-{part}"), round.to_string());
                        Operation::write(&scope(), record)
                    })
                    .into_iter()
                    .chain(
                        (round >= 2)
                            .then(|| Operation::delete(&scope(), format!("{:04}-b", round - 2))),
                    )
                    .collect();
                attempted = Some(round);
                match store.batch(operations, BatchOptions::default()).await {
                    Ok(_) => acked.push(round),
                    Err(_) => break,
                }
            }
            store.close();
        }
        let image = disk.after_power_cut(&random);
        let store = match open_with(&Disk::holding(image), &config()) {
            Ok(store) => store,
            Err(err) if acked.is_empty() => {
                // Cut while it was made: typed, and nothing was promised.
                assert_eq!(err.kind(), ErrorKind::Corrupt, "seed {seed}: {err:?}");
                continue;
            }
            Err(err) => panic!(
                "seed {seed}: {} batches were acknowledged: {err:?}",
                acked.len()
            ),
        };
        let page = store
            .list(&scope(), ListOptions::default().with_limit(10_000))
            .await
            .unwrap();
        let found: Vec<String> = page.records.into_iter().map(|record| record.key).collect();
        let last = acked.last().copied();
        let expected = |upto: Option<u64>| -> Vec<String> {
            let rounds = upto.map_or(0, |upto| upto + 1);
            let mut keys = Vec::new();
            for round in 0..rounds {
                for part in ["a", "b", "c"] {
                    if part != "b" || round + 2 >= rounds {
                        keys.push(format!("{round:04}-{part}"));
                    }
                }
            }
            keys
        };
        if found != expected(last) {
            assert_eq!(
                found,
                expected(attempted),
                "seed {seed}: acknowledged up to {last:?}"
            );
            unknown_kept += 1;
        }
        all_acked += acked.len();
        put(&store, "after", "1").await.unwrap();
    }
    // Or the test has tested nothing.
    assert!(
        all_acked > 100 && unknown_kept > 0,
        "{all_acked}, {unknown_kept}"
    );
}

/// A changed bit gives the right value or a typed error. If the file is checked when it is opened, no
/// record seems not to be there either; after a crash, that takes commits in two phases: redb takes a
/// damaged last commit for one that the crash has interrupted.
#[tokio::test]
async fn f_a_changed_bit_is_never_a_wrong_value() {
    const RECORDS: usize = 150;
    let random = SeededRandom::new(7);
    let [closed, crashed] = filled(RECORDS, &config()).await;
    let [_, crashed_in_two_phases] = filled(RECORDS, &config().with_two_phase(true)).await;
    for (image, check, complete) in [
        (&closed, false, false),
        (&crashed, false, false),
        (&closed, true, true),
        (&crashed_in_two_phases, true, true),
    ] {
        let (mut noticed, mut missing) = (0, 0);
        for nth in 0..100 {
            let mut changed = image.clone();
            let at = random.next_u64() as usize % changed.len();
            changed[at] ^= 1 << (random.next_u64() % 8);
            let fine = |err: Error| {
                let kind = err.kind();
                assert!(
                    matches!(kind, ErrorKind::Corrupt | ErrorKind::FailedPrecondition),
                    "flip {nth} at {at}: {err:?}"
                );
                1
            };
            let store = match open_with(&Disk::holding(changed), &config().with_check(check)) {
                Ok(store) => store,
                Err(err) => {
                    noticed += fine(err);
                    continue;
                }
            };
            for i in 0..RECORDS {
                match get(&store, &key(i)).await {
                    Ok(Some(found)) => assert_eq!(found, value(i), "flip {nth} at {at}"),
                    Ok(None) => missing += 1,
                    Err(err) => noticed += fine(err),
                }
            }
            store.close();
        }
        assert!(noticed > 0, "no flip was noticed");
        if complete {
            assert_eq!(missing, 0, "records seem not to be there");
        }
    }
}

/// A file that was cut short, or is another's, is no store; an empty one is a new store.
#[tokio::test]
async fn f_a_truncated_or_foreign_file_is_refused() {
    let [image, _] = filled(300, &config()).await;
    for length in [1, 100, 4096, 5000, image.len() / 2, image.len() - 1] {
        let disk = Disk::holding(image[..length].to_vec());
        match open_with(&disk, &config().with_check(true)) {
            Err(err) => assert_eq!(err.kind(), ErrorKind::Corrupt, "{length} bytes: {err:?}"),
            Ok(store) => {
                for i in 0..300 {
                    if let Ok(found) = get(&store, &key(i)).await {
                        assert_eq!(found, Some(value(i)), "{length} bytes");
                    }
                }
            }
        }
    }
    let foreign = Disk::holding(b"SQLite format 3\0".repeat(1000));
    let err = open_with(&foreign, &config()).expect_err("it is another's");
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
    let empty = open(&Disk::default());
    assert_eq!(get(&empty, "a").await.unwrap(), None);
}

/// The image with a bit of each of these texts changed.
fn damaged(mut image: Vec<u8>, text: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..image.len() - text.len())
        .filter(|at| image[*at..].starts_with(text))
        .collect();
    assert!(!places.is_empty(), "the text is on the disk");
    for at in places {
        image[at] ^= 1;
    }
    image
}

/// A record whose bytes have changed is an error when read, and is written over or deleted like any.
#[tokio::test]
async fn a_damaged_record_can_be_replaced() {
    let disk = Disk::default();
    let store = open(&disk);
    put(&store, "a", "the value that will be changed")
        .await
        .unwrap();
    put(&store, "b", "fine").await.unwrap();
    store.close();
    let image = damaged(disk.safe(), b"the value that will be changed");
    let store = open(&Disk::holding(image));
    let err = get(&store, "a").await.expect_err("its bytes have changed");
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{err:?}");
    assert_eq!(get(&store, "b").await.unwrap().as_deref(), Some("fine"));
    let list = store.list(&scope(), ListOptions::default()).await;
    assert_eq!(
        list.expect_err("a record is damaged").kind(),
        ErrorKind::Corrupt
    );
    let opts = WriteOptions::default().with_condition(micro_store_core::Condition::Absent);
    let result = store.write(&scope(), Record::new("a", "x"), opts).await;
    assert_eq!(result.expect_err("nobody knows").kind(), ErrorKind::Corrupt);
    put(&store, "a", "new").await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap().as_deref(), Some("new"));
}

/// The expiry of a damaged record that was replaced removes nothing: the new one has another.
#[tokio::test]
async fn an_expiry_that_was_left_behind_removes_nothing() {
    let disk = Disk::default();
    let store = open(&disk);
    let soon = WriteOptions::default().with_ttl(Duration::from_millis(100));
    let record = Record::new("a", "the value that will be changed");
    store.write(&scope(), record, soon).await.unwrap();
    store.close();
    let store = open(&Disk::holding(damaged(
        disk.safe(),
        b"the value that will be changed",
    )));
    put(&store, "a", "new").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..3 {
        put(&store, "b", "purges what has expired").await.unwrap();
    }
    assert_eq!(get(&store, "a").await.unwrap().as_deref(), Some("new"));
}

/// Many who wait share a commit: the disk is asked far less often than there are changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_share_a_sync() {
    const WRITERS: usize = 64;
    const EACH: usize = 20;
    let disk = Slow(Disk::default(), Arc::default());
    let (store, _) =
        RedbStore::open_with(|| Redb::on(disk.clone(), &config()), Arc::new(SystemClock)).unwrap();
    let before = *disk.1.lock().unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..EACH {
                    put(&store, &format!("{writer}-{i}"), "value")
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let syncs = *disk.1.lock().unwrap() - before;
    let changes = (WRITERS * EACH) as u64;
    assert!(syncs * 8 < changes, "{syncs} syncs for {changes} changes");
}

/// A disk whose syncs take a millisecond, and are counted.
#[derive(Clone, Debug)]
struct Slow(Disk, Arc<Mutex<u64>>);

impl StorageBackend for Slow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        *self.1.lock().unwrap() += 1;
        std::thread::park_timeout(Duration::from_millis(1));
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
