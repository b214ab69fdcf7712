//! go-micro itself, version 2, with its NATS broker on the same server: each gets what the other publishes,
//! and a group may have members of both.

#[path = "../../micro-nats/tests/common/mod.rs"]
mod common;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{PATIENCE, Server, skip};
use micro_broker_core::{Error, Message};
use support::{Inbox, member, open, publish, quick, topic};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

/// Builds the program, or says why not.
fn build(test: &str) -> Option<PathBuf> {
    let cure = "install Go 1.24 or newer, and let it fetch modules once";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-micro-broker-nats");
    let mut go = Command::new("go");
    go.arg("build")
        .arg("-o")
        .arg(&program)
        .arg(".")
        .current_dir(source);
    match go.output() {
        Ok(built) if built.status.success() => return Some(program),
        Ok(built) => {
            let why = String::from_utf8_lossy(&built.stderr);
            let why = why.lines().last().unwrap_or_default().to_owned();
            skip(
                test,
                &format!("the Go program cannot be built: {why}"),
                cure,
            );
        }
        Err(_) => skip(test, "Go is not installed", cure),
    }
    None
}

#[tokio::test]
async fn go_micro_v2_and_we_share_topics_and_groups() {
    const TEST: &str = "go-micro v2 with its NATS broker";
    let Some(program) = build(TEST) else { return };
    let Some(server) = Server::start(TEST, &[]) else {
        return;
    };
    let broker = open(&server, "mode=core");
    // The first call of each handler fails: go-micro minds no answer, and yet the message comes again.
    let fail_once = |delivery: &micro_broker_core::Delivery| match delivery.deliveries() {
        1 => Err(Error::internal("no")),
        _ => Ok(()),
    };
    let mut group = Inbox::answering(&broker, "from.go", member("rust"), fail_once).await;
    let mut alone = Inbox::answering(&broker, "from.go", quick(), fail_once).await;
    let mut shared = Inbox::at(&broker, "from.rust", member("shared")).await;

    let mut child = tokio::process::Command::new(program)
        .arg(server.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = timeout(PATIENCE, lines.next_line()).await;
    assert_eq!(
        ready.expect("it says something").unwrap().as_deref(),
        Some("ready")
    );

    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go-1\n").await.unwrap();
    for inbox in [&mut group, &mut alone] {
        for deliveries in 1..=2 {
            let delivery = inbox.next().await;
            let message = delivery.message();
            assert_eq!((delivery.id(), delivery.deliveries()), ("go-1", deliveries));
            assert_eq!(message.body, "tea");
            assert_eq!(message.metadata.get("tenant"), Some("acme"));
            assert_eq!(message.content_type, "text/plain");
        }
        inbox.silent().await;
    }

    // go-micro subscribes without waiting for the server.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let message = |name: &str, id: usize| {
        Message::new(topic(name), "coffee")
            .with_id(format!("rust-{id}"))
            .with_content_type("text/plain")
            .with_metadata("tenant", "acme")
            .unwrap()
    };
    publish(&broker, message("also.from.rust", 0)).await;
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(
        line.as_deref(),
        Some("alone also.from.rust rust-0 acme text/plain coffee")
    );
    // Each of these goes to one of the two members.
    for id in 1..=40 {
        publish(&broker, message("from.rust", id)).await;
    }
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    while ours.len() + theirs.len() < 40 {
        tokio::select! {
            delivery = shared.next() => {
                ours.insert(delivery.id().to_owned());
            }
            line = lines.next_line() => {
                let line = line.unwrap().unwrap();
                let words: Vec<_> = line.split(' ').collect();
                assert_eq!(words[..2], ["group", "from.rust"]);
                assert_eq!(words[3..], ["acme", "text/plain", "coffee"]);
                theirs.insert(words[2].to_owned());
            }
        }
    }
    assert!(ours.is_disjoint(&theirs) && !ours.is_empty() && !theirs.is_empty());
    shared.silent().await;
}
