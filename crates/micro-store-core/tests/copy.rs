//! Copying a store into another, ended wherever it can be.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use micro_store_core::{
    BatchOptions, Capabilities, ChangeStream, Checkpoint, Copied, CopyOptions, DeleteOptions,
    Deleted, Error, ErrorKind, Existing, Fence, FencingToken, ListOptions, Operation, Page,
    ReadOptions, Record, Result, Scope, ScopesOptions, Store, WatchOptions, WriteOptions, Written,
    async_trait, copy,
};
use micro_store_memory::MemoryStore;

fn scope(database: &str, table: &str) -> Scope {
    Scope::new(database, table).expect("the name is good")
}

async fn put(store: &dyn Store, scope: &Scope, record: Record) {
    let written = store.write(scope, record, WriteOptions::default()).await;
    written.expect("it is written");
}

type Everything = BTreeMap<(String, String), Record>;

/// Everything of a store but the versions.
async fn everything(store: &dyn Store) -> Everything {
    let mut all = Everything::new();
    for scope in store.scopes(ScopesOptions::default()).await.unwrap() {
        let opts = ListOptions::default().with_limit(10_000);
        for record in store.list(&scope, opts).await.unwrap().records {
            let key = (scope.to_string(), record.key.clone());
            all.insert(key, record.with_version(0));
        }
    }
    all
}

/// Three tables of two databases: 40 records, of which some expire and some have odd keys.
async fn source() -> MemoryStore {
    let store = MemoryStore::new();
    let later = SystemTime::UNIX_EPOCH + Duration::from_millis(33_333_333_333_333);
    for (at, (database, table)) in [("a", "x"), ("a", "y"), ("b", "x")].iter().enumerate() {
        for i in 0..10 + at * 3 {
            let record = Record::new(format!("k-{i:02}"), format!("{table}{i}"))
                .with_metadata("n", i.to_string());
            let record = match i % 3 {
                0 => record.with_expiry(later),
                _ => record,
            };
            put(&store, &scope(database, table), record).await;
        }
    }
    for key in [
        "\0",
        "%\"'\\",
        "\u{10ffff}",
        &"x".repeat(4096),
        "{\"after\":1}",
    ] {
        put(&store, &scope("b", "x"), Record::new(key, "odd")).await;
    }
    store
}

fn pages_of_four() -> CopyOptions {
    CopyOptions::default().with_page(4)
}

async fn copy_all(from: &dyn Store, to: &dyn Store, opts: CopyOptions) -> Copied {
    copy(from, to, opts, |_| Ok(()))
        .await
        .expect("it is copied")
}

#[tokio::test]
async fn everything_is_copied_and_a_second_time_nothing() {
    let (from, to) = (source().await, MemoryStore::new());
    let expected = everything(&from).await;
    let copied = copy_all(&from, &to, pages_of_four()).await;
    assert_eq!(everything(&to).await, expected);
    assert_eq!((copied.read, copied.written), (44, 44));
    assert_eq!((copied.same, copied.kept, copied.deleted), (0, 0, 0));
    assert_eq!(copied.checkpoint, None);
    let again = copy_all(&from, &to, CopyOptions::default()).await;
    assert_eq!((again.read, again.written, again.same), (44, 0, 44));
    let replaced = CopyOptions::default()
        .with_existing(Existing::Replace)
        .with_prune(true);
    let again = copy_all(&from, &to, replaced).await;
    assert_eq!((again.written, again.same, again.deleted), (0, 44, 0));
    // Into itself, it changes nothing.
    let itself = copy_all(&from, &from, pages_of_four()).await;
    assert_eq!((itself.written, itself.same), (0, 44));
    let empty = MemoryStore::new();
    assert_eq!(
        copy_all(&empty, &to, pages_of_four()).await,
        Copied::default()
    );
}

#[tokio::test]
async fn one_database_or_one_table_is_copied() {
    let from = source().await;
    let expected = everything(&from).await;
    let to = MemoryStore::new();
    copy_all(&from, &to, pages_of_four().with_database("a")).await;
    let of_a = |all: &Everything| -> Everything {
        let all = all.clone().into_iter();
        all.filter(|((scope, _), _)| scope.starts_with("a/"))
            .collect()
    };
    assert_eq!(everything(&to).await, of_a(&expected));
    let to = MemoryStore::new();
    let copied = copy_all(&from, &to, pages_of_four().with_scope(scope("a", "y"))).await;
    assert_eq!(copied.read, 13);
    let copied = everything(&to).await;
    assert_eq!(copied.len(), 13);
    assert!(copied.keys().all(|(scope, _)| scope == "a/y"));
}

/// It is ended behind every page, and goes on in what could be another process.
#[tokio::test]
async fn it_goes_on_wherever_it_was_ended() {
    let from = source().await;
    let expected = everything(&from).await;
    let mut pages = 0;
    let to = MemoryStore::new();
    let counted = copy(&from, &to, pages_of_four(), |_| {
        pages += 1;
        Ok(())
    });
    counted.await.unwrap();
    assert!(pages > 10, "{pages} pages");
    for end in 1..=pages {
        let to = MemoryStore::new();
        let mut seen = 0;
        let mut kept = None;
        let ended = copy(&from, &to, pages_of_four(), |copied| {
            seen += 1;
            kept = copied.checkpoint.as_ref().map(Checkpoint::to_string);
            match seen == end {
                true => Err(Error::cancelled("killed")),
                false => Ok(()),
            }
        });
        let err = ended.await.unwrap_err();
        assert_eq!(
            (err.kind(), err.message()),
            (ErrorKind::Cancelled, "killed")
        );
        let Some(kept) = kept else {
            assert_eq!(end, pages, "it is complete behind the last page only");
            continue;
        };
        let before = everything(&to).await.len() as u64;
        let resume: Checkpoint = kept.parse().unwrap();
        assert_eq!(resume.to_string(), kept);
        let copied = copy_all(&from, &to, pages_of_four().with_resume(resume)).await;
        assert_eq!(everything(&to).await, expected, "ended behind page {end}");
        assert_eq!(
            (copied.same, copied.written),
            (0, 44 - before),
            "page {end}"
        );
    }
}

/// It is ended at every await, and goes on at the last checkpoint that was kept.
#[test]
fn it_goes_on_wherever_it_was_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let from = Troubled::new(runtime.block_on(source()), true);
    let expected = runtime.block_on(everything(&from.store));
    for polls in 1.. {
        let to = Troubled::new(MemoryStore::new(), true);
        let mut kept = None;
        let done = {
            let keep = |copied: &Copied| {
                kept = copied.checkpoint.as_ref().map(Checkpoint::to_string);
                Ok(())
            };
            let mut copying = pin!(copy(&from, &to, pages_of_four(), keep));
            let mut cx = Context::from_waker(Waker::noop());
            (0..polls).any(|_| copying.as_mut().poll(&mut cx).is_ready())
        };
        if done {
            assert!(polls > 50, "it was dropped {polls} times");
            return;
        }
        let resume: Option<Checkpoint> = kept.map(|kept| kept.parse().unwrap());
        let opts = pages_of_four().with_resume(resume);
        let copied = runtime.block_on(copy_all(&from, &to, opts));
        let found = runtime.block_on(everything(&to.store));
        assert!(found == expected, "dropped after {polls} polls");
        // At most the page that was begun is compared again.
        assert!(copied.same <= 4, "{copied:?} after {polls} polls");
    }
}

#[tokio::test]
async fn what_is_in_the_target_stays_unless_it_is_to_be_replaced() {
    let (from, to) = (source().await, MemoryStore::new());
    let table = scope("a", "x");
    put(&to, &table, Record::new("k-01", "newer")).await;
    put(&to, &table, Record::new("k-015", "extra")).await;
    put(&to, &table, Record::new("zz", "extra")).await;
    put(&to, &scope("a", "only-there"), Record::new("k", "extra")).await;
    // The same value is not the same record.
    put(&to, &table, Record::new("k-02", "x2")).await;
    let copied = copy_all(&from, &to, pages_of_four()).await;
    assert_eq!((copied.written, copied.kept, copied.same), (42, 2, 0));
    let text = async |key: &str| {
        let record = to.read(&table, key, ReadOptions::default()).await;
        record.ok().map(|record| record.value)
    };
    assert_eq!(text("k-01").await.unwrap(), "newer");
    assert_eq!(text("zz").await.unwrap(), "extra");
    let replace = pages_of_four().with_existing(Existing::Replace);
    let copied = copy_all(&from, &to, replace.clone()).await;
    assert_eq!((copied.written, copied.kept, copied.same), (2, 0, 42));
    assert_eq!(text("k-01").await.unwrap(), "x1");
    assert_eq!(text("zz").await.unwrap(), "extra");
    let copied = copy_all(&from, &to, replace.with_prune(true)).await;
    assert_eq!((copied.written, copied.same, copied.deleted), (0, 44, 2));
    let mut expected = everything(&from).await;
    // A table that the source does not list is none of its business.
    let extra = Record::new("k", "extra");
    expected.insert(("a/only-there".to_owned(), "k".to_owned()), extra);
    assert_eq!(everything(&to).await, expected);
}

/// The second pass of a move: what was changed, added, deleted and has expired since.
#[tokio::test]
async fn a_second_pass_brings_what_has_changed() {
    let (from, to) = (source().await, MemoryStore::new());
    copy_all(&from, &to, pages_of_four()).await;
    let table = scope("b", "x");
    put(&from, &table, Record::new("k-03", "changed")).await;
    put(&from, &table, Record::new("k-035", "added")).await;
    for key in ["k-04", "k-15", "\0"] {
        let deleted = from.delete(&table, key, DeleteOptions::default()).await;
        assert!(deleted.unwrap().existed);
    }
    let past = Record::new("k-05", "x").with_expiry(SystemTime::UNIX_EPOCH);
    put(&from, &table, past).await;
    let second = pages_of_four()
        .with_existing(Existing::Replace)
        .with_prune(true);
    let copied = copy_all(&from, &to, second).await;
    assert_eq!((copied.written, copied.deleted), (2, 4), "{copied:?}");
    assert_eq!(everything(&to).await, everything(&from).await);
}

/// Between comparing and writing, others write to the target.
#[tokio::test]
async fn nothing_is_overwritten_unseen() {
    let from = source().await;
    let table = scope("a", "x");
    for existing in [Existing::Keep, Existing::Replace] {
        let to = Troubled::new(MemoryStore::new(), false);
        to.meddle(Record::new("k-02", "theirs"));
        to.meddle(Record::new("k-02", "theirs again"));
        let copied = copy_all(&from, &to, pages_of_four().with_existing(existing)).await;
        let found = to.store.read(&table, "k-02", ReadOptions::default()).await;
        let found = found.unwrap().value;
        match existing {
            Existing::Keep => {
                assert_eq!((copied.written, copied.kept), (43, 1));
                assert_eq!(found, "theirs again");
            }
            _ => {
                // Seen, and replaced as was asked for.
                assert_eq!((copied.written, copied.kept), (44, 0));
                assert_eq!(found, "x2");
            }
        }
    }
    // For ever, and it says so.
    let to = Troubled::new(MemoryStore::new(), false);
    for i in 0..1000 {
        to.meddle(Record::new("k-02", i.to_string()));
    }
    let replace = pages_of_four().with_existing(Existing::Replace);
    let err = copy(&from, &to, replace, |_| Ok(())).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Aborted, "{err}");
    assert!(err.to_string().contains("table: a/x"), "{err}");
}

#[tokio::test]
async fn fences_and_versions_stay_behind() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    let table = scope("a", "x");
    let fence = |seq| Fence::new("lock", FencingToken::new(1, seq));
    for seq in 1..=9 {
        let opts = WriteOptions::default().with_fence(fence(seq));
        from.write(&table, Record::new("k", "1"), opts)
            .await
            .unwrap();
    }
    copy_all(&from, &to, pages_of_four()).await;
    let opts = WriteOptions::default().with_fence(fence(1));
    let written = to.write(&table, Record::new("k", "2"), opts).await;
    assert_eq!(written.unwrap().version, 2);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let (from, to) = (source().await, MemoryStore::new());
    let at: Checkpoint = r#"{"database":"a","table":"x","after":"k-03"}"#.parse().unwrap();
    for opts in [
        CopyOptions::default().with_page(0),
        CopyOptions::default().with_page(10_001),
        CopyOptions::default().with_database("x; DROP TABLE"),
        pages_of_four().with_database("b").with_resume(at.clone()),
        pages_of_four().with_scope(scope("a", "y")).with_resume(at),
    ] {
        let copied = copy(&from, &to, opts.clone(), |_| Ok(())).await;
        let err = copied.expect_err("it is refused");
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{opts:?}: {err}");
    }
    assert_eq!(everything(&to).await, Everything::new());
    let long = format!(
        r#"{{"database":"a","table":"x","after":"{}"}}"#,
        "x".repeat(5000)
    );
    for text in [
        "",
        "{}",
        "null",
        r#"{"database":"../x","table":"x","after":null}"#,
        r#"{"database":"a","table":"x","after":7}"#,
        r#"{"database":"a","table":"x","after":null,"more":1}"#,
        &long,
    ] {
        let parsed: Result<Checkpoint> = text.parse();
        let err = parsed.expect_err("it is no checkpoint");
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{text}: {err}");
    }
}

/// A store in which calls take their time, and into which others write just before a batch.
#[derive(Debug)]
struct Troubled {
    store: MemoryStore,
    slow: bool,
    meddling: Mutex<VecDeque<Record>>,
}

impl Troubled {
    fn new(store: MemoryStore, slow: bool) -> Self {
        Self {
            store,
            slow,
            meddling: Mutex::default(),
        }
    }

    /// Another writes this before the next batch, or the one behind it.
    fn meddle(&self, record: Record) {
        self.meddling().push_back(record);
    }

    fn meddling(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.meddling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready the second time it is polled, before something happens and behind it.
    async fn pause(&self) {
        let mut pause = self.slow;
        std::future::poll_fn(|cx| match std::mem::take(&mut pause) {
            true => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
    }

    async fn slowly<T>(&self, call: impl Future<Output = T> + Send) -> T {
        self.pause().await;
        let done = call.await;
        self.pause().await;
        done
    }
}

#[async_trait]
impl Store for Troubled {
    fn backend(&self) -> &'static str {
        self.store.backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn read(&self, scope: &Scope, key: &str, opts: ReadOptions) -> Result<Record> {
        self.slowly(self.store.read(scope, key, opts)).await
    }

    async fn write(&self, scope: &Scope, record: Record, opts: WriteOptions) -> Result<Written> {
        self.slowly(self.store.write(scope, record, opts)).await
    }

    async fn delete(&self, scope: &Scope, key: &str, opts: DeleteOptions) -> Result<Deleted> {
        self.slowly(self.store.delete(scope, key, opts)).await
    }

    async fn batch(&self, operations: Vec<Operation>, opts: BatchOptions) -> Result<Vec<Written>> {
        let theirs = self.meddling().pop_front();
        if let Some(theirs) = theirs {
            put(&self.store, &scope("a", "x"), theirs).await;
        }
        self.slowly(self.store.batch(operations, opts)).await
    }

    async fn list(&self, scope: &Scope, opts: ListOptions) -> Result<Page> {
        self.slowly(self.store.list(scope, opts)).await
    }

    async fn scopes(&self, opts: ScopesOptions) -> Result<Vec<Scope>> {
        self.slowly(self.store.scopes(opts)).await
    }

    async fn watch(&self, scope: &Scope, opts: WatchOptions) -> Result<ChangeStream> {
        self.slowly(self.store.watch(scope, opts)).await
    }
}
