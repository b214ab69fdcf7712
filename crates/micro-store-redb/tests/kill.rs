//! A process that is killed in the middle of its writes: what it was told is written, is there.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_core::{Random as _, SystemClock, SystemRandom};
use micro_store_core::{
    BatchOptions, ErrorKind, ListOptions, Operation, Record, Scope, Store as _, Table, WriteOptions,
};
use micro_store_redb::{RedbConfig, RedbStore};

/// Names the directory to the child; without it, the test is the parent.
const DIRECTORY: &str = "MICRO_STORE_REDB_KILL";
const WRITERS: u64 = 8;
const ROUNDS: u64 = 6;

fn scope() -> Scope {
    Scope::new("d", "t").expect("the name is good")
}

async fn open(directory: &Path) -> micro_store_core::Result<RedbStore> {
    RedbStore::open(RedbConfig::new(directory), Arc::new(SystemClock)).await
}

/// A writer's key of a round; two parts of one batch.
fn key(round: &str, writer: u64, n: u64, part: &str) -> String {
    format!("{round}/{writer}/{n:06}/{part}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_writers_lose_nothing_that_was_acknowledged() {
    if let Ok(given) = std::env::var(DIRECTORY) {
        let (round, directory) = given.split_once(':').expect("round and directory");
        return write_for_ever(round, Path::new(directory)).await;
    }
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let mut acked: BTreeMap<(String, u64), u64> = BTreeMap::new();
    let mut batches = 0;
    for round in 0..ROUNDS {
        let child = Writers::start(round, &directory);
        child.wait_for_acks(20).await;
        let err = open(&directory).await.expect_err("the child has it");
        assert_eq!(err.kind(), ErrorKind::Locked, "{err:?}");
        let pause = SystemRandom.next_u64() % 150_000;
        tokio::time::sleep(Duration::from_micros(pause)).await;
        for (writer, n) in child.kill() {
            acked.insert((round.to_string(), writer), n);
        }
        let store = open(&directory).await.expect("it opens after a kill");
        batches = 0;
        for ((round, writer), last) in &acked {
            batches += last + 1;
            check(&store, round, *writer, *last).await;
        }
        drop(store);
        while open(&directory).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // That one was dropped just now as well.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        batches > 100,
        "only {batches} batches were acknowledged in {ROUNDS} rounds"
    );
}

/// Everything up to the last acknowledged batch, at most one more, and whole ones only.
async fn check(store: &RedbStore, round: &str, writer: u64, last: u64) {
    let opts = ListOptions::default()
        .with_prefix(format!("{round}/{writer}/"))
        .with_limit(10_000);
    let mut found = Vec::new();
    let mut records = Table::new(Arc::new(store.clone()), scope()).scan(opts);
    while let Some(record) = std::future::poll_fn(|cx| {
        let records = std::pin::Pin::new(&mut records);
        futures_core::Stream::poll_next(records, cx)
    })
    .await
    {
        let record = record.expect("every record can be read");
        assert_eq!(
            record.value,
            record.key.as_bytes(),
            "a value is that of another key"
        );
        found.push(record.key);
    }
    let expected = |upto: u64| -> Vec<String> {
        (0..=upto)
            .flat_map(|n| ["a", "b"].map(|part| key(round, writer, n, part)))
            .collect()
    };
    if found != expected(last) {
        assert_eq!(
            found,
            expected(last + 1),
            "writer {writer} of round {round}, acknowledged to {last}"
        );
    }
}

/// The child: writers that say what was acknowledged, until they are killed.
async fn write_for_ever(round: &str, directory: &Path) {
    let store = open(directory).await.expect("the child opens it");
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (store, round) = (store.clone(), round.to_owned());
        tasks.push(tokio::spawn(async move {
            for n in 0.. {
                let operations = ["a", "b"]
                    .map(|part| {
                        let key = key(&round, writer, n, part);
                        let value = key.clone();
                        Operation::write_with(
                            &scope(),
                            Record::new(key, value),
                            WriteOptions::default(),
                        )
                    })
                    .to_vec();
                let written = store.batch(operations, BatchOptions::default()).await;
                written.expect("the disk works");
                let line = format!("\nack {writer} {n}\n");
                let mut out = std::io::stdout();
                // Written at once: the test's own capture is off.
                out.write_all(line.as_bytes())
                    .and_then(|()| out.flush())
                    .expect("the parent reads");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a writer goes on for ever");
    }
}

struct Writers {
    child: Child,
    /// The last acknowledgement of each writer.
    acked: Arc<Mutex<BTreeMap<u64, u64>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Writers {
    fn start(round: u64, directory: &Path) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args([
                "--exact",
                "killed_writers_lose_nothing_that_was_acknowledged",
                "--nocapture",
            ])
            .env(DIRECTORY, format!("{round}:{}", directory.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let out = child.stdout.take().expect("its output is piped");
        let acked: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
        let seen = Arc::clone(&acked);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let mut words = line.split(' ');
                if words.next() != Some("ack") {
                    continue;
                }
                let mut number = || words.next().and_then(|word| word.parse().ok());
                // The last line may be cut.
                if let (Some(writer), Some(n)) = (number(), number()) {
                    let mut seen = seen.lock().unwrap();
                    let last = seen.entry(writer).or_insert(n);
                    *last = n.max(*last);
                }
            }
        });
        Self {
            child,
            acked,
            reader,
        }
    }

    async fn wait_for_acks(&self, least: u64) {
        let begin = tokio::time::Instant::now();
        while self.acked.lock().unwrap().values().sum::<u64>() < least {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "the child writes nothing"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn kill(mut self) -> BTreeMap<u64, u64> {
        self.child.kill().expect("the child is killed");
        self.child.wait().expect("it has ended");
        self.reader.join().expect("its output is read to the end");
        self.acked.lock().unwrap().clone()
    }
}
