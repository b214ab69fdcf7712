//! A process that is killed again and again, at any point between a commit and the removal of its message:
//! every message of a committed record is published, and none of a record that is not.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{STORED, Scripted, tables, topic};
use micro_broker_core::{Context, Message};
use micro_core::{Env, Random as _, SystemRandom};
use micro_outbox::{Outbox, RelayOptions};
use micro_store_core::{Drivers, ListOptions, Operation, Record, Store, Table};
use micro_store_redb::RedbDriver;

const KILLS: usize = 20;

/// What the parent tells the child: its folder, and its round.
const CHILD: &str = "MICRO_TEST_OUTBOX_KILL_CHILD";

async fn open(folder: &Path) -> (Table, Table) {
    let url = format!("redb:{}", folder.display());
    let store = Drivers::<dyn Store>::new()
        .with(RedbDriver::default())
        .open(&url, &Env::new())
        .await
        .unwrap();
    tables(store, "shop")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_outbox_kill_loses_no_message() {
    if let Ok(told) = std::env::var(CHILD) {
        let (folder, round) = told.split_once('\n').unwrap();
        return child(Path::new(folder), round).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut published = BTreeMap::<String, usize>::new();
    let mut committed = Vec::new();
    let (mut order, mut twice) = (BTreeMap::<String, u64>::new(), 0);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "f_outbox_kill_loses_no_message", "--nocapture"])
            .env(CHILD, format!("{}\n{round}", folder.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(100 + SystemRandom.next_u64() % 200)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            if let Some(name) = line.strip_prefix("committed ") {
                committed.push(name.to_owned());
            } else if let Some(name) = line.strip_prefix("published ") {
                note(name, &mut published, &mut order, &mut twice);
            }
        }
    }
    let (orders, outbox) = open(folder.path()).await;
    let broker = Scripted::new(|_| Ok(STORED));
    let mut relay = Outbox::new(outbox).relay(broker.shared(), RelayOptions::default());
    let left = relay.drain().await.unwrap();
    for name in broker.bodies() {
        note(&name, &mut published, &mut order, &mut twice);
    }
    // What the store has is what counts; who committed may have died before it said so.
    let mut stored = Vec::new();
    let mut after = None;
    loop {
        let opts = ListOptions::default()
            .with_keys_only(true)
            .with_after(after);
        let page = orders.list(opts).await.unwrap();
        stored.extend(page.records.into_iter().map(|record| record.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let lost: Vec<_> = committed
        .iter()
        .chain(&stored)
        .filter(|name| !published.contains_key(*name))
        .collect();
    assert!(lost.is_empty(), "{} are lost: {lost:?}", lost.len());
    stored.sort();
    let phantoms: Vec<_> = published
        .keys()
        .filter(|name| stored.binary_search(name).is_err())
        .collect();
    assert!(phantoms.is_empty(), "never committed: {phantoms:?}");
    assert!(committed.len() > KILLS, "{} commits", committed.len());
    let _ = writeln!(
        std::io::stderr(),
        "figure: outbox kills={KILLS} committed={} stored={} lost=0 phantoms=0 twice={twice} left={left}",
        committed.len(),
        stored.len(),
    );
}

/// Notes a message: of each key, none comes for the first time behind a later one.
fn note(
    name: &str,
    published: &mut BTreeMap<String, usize>,
    order: &mut BTreeMap<String, u64>,
    twice: &mut usize,
) {
    let count = published.entry(name.to_owned()).or_default();
    *count += 1;
    if *count > 1 {
        *twice += 1;
        return;
    }
    let (key, number) = name.rsplit_once('-').unwrap();
    let number: u64 = number.parse().unwrap();
    let last = order.entry(key.to_owned()).or_default();
    assert!(number > *last, "{name} comes behind {last}");
    *last = number;
}

/// Commits and publishes until it is killed.
async fn child(folder: &Path, round: &str) {
    // The harness has begun a line.
    say("", "");
    let (orders, table) = open(folder).await;
    let outbox = Outbox::new(table);
    let broker = Scripted::new(|message| {
        // Told at once: the pipe outlives the kill.
        say("published", std::str::from_utf8(&message.body).unwrap());
        Ok(STORED)
    });
    let opts = RelayOptions::default().with_page(10);
    let relay = tokio::spawn(outbox.relay(broker, opts).run());
    let committing = (0..4).map(|writer| {
        let (orders, outbox) = (orders.clone(), outbox.clone());
        let key = format!("{round}-{writer}");
        tokio::spawn(async move {
            for number in 1.. {
                let name = format!("{key}-{number}");
                let record = Operation::write(orders.scope(), Record::new(&name, "tea"));
                let message = Message::new(topic(), name.clone()).with_key(&*key);
                let cx = Context::new();
                let done = outbox.commit(&cx, vec![record], vec![message]).await;
                done.unwrap();
                say("committed", &name);
            }
        })
    });
    let committing: Vec<_> = committing.collect();
    for task in committing {
        task.await.unwrap();
    }
    relay.await.unwrap();
}

fn say(what: &str, name: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {name}").unwrap();
    out.flush().unwrap();
}
