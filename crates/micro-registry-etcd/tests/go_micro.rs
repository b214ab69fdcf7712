//! go-micro itself, version 2, in the same etcd: each finds, watches and outlives the other.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Etcd, PATIENCE, look, open, skip};
use futures_util::StreamExt as _;
use micro_registry_core::{
    DeregisterOptions, Endpoint, EventKind, Node, RegisterOptions, Registry as _, Service,
    WatchOptions,
};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::timeout;

/// Builds the program, or says why not.
fn build(test: &str) -> Option<PathBuf> {
    let cure = "install Go 1.24 or newer, and let it fetch modules once";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-micro-etcd");
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

/// Reads what the program says until it says this.
async fn says(lines: &mut Lines<BufReader<ChildStdout>>, expected: &str) {
    let mut said = Vec::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let hit = line == expected;
            said.push(line);
            if hit {
                return true;
            }
        }
        false
    };
    let heard = timeout(PATIENCE, read).await;
    assert_eq!(heard, Ok(true), "{expected:?} was to be said: {said:?}");
}

#[tokio::test]
async fn go_micro_v2_and_we_see_each_other() {
    const TEST: &str = "go-micro v2 in etcd";
    let Some(program) = build(TEST) else { return };
    let Some(etcd) = Etcd::start(TEST).await else {
        return;
    };
    let registry = open(&etcd.url());
    let mut events = registry
        .watch(WatchOptions::default().with_service("greeter"))
        .await
        .unwrap();
    let mut child = tokio::process::Command::new(program)
        .arg(format!("127.0.0.1:{}", etcd.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    says(&mut lines, "registered").await;
    let mut next = async || {
        timeout(PATIENCE, events.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    };

    let theirs = next().await;
    assert_eq!(theirs.kind, EventKind::Create);
    assert_eq!(
        (&*theirs.service.version, &*theirs.service.nodes[0].id),
        ("latest", "from-go")
    );
    assert_eq!(theirs.service.endpoints[0].request.kind, "Request");
    assert_eq!(look(&*registry, "greeter").await, [theirs.service]);

    // One node at go-micro's key, and one beside it, for go-micro has the key.
    let ours = Service::new("greeter", "v1")
        .with_endpoint(Endpoint::new("Greeter.Hello"))
        .with_node(Node::new("ours", "10.0.0.1:1").with_metadata("zone", "a"))
        .with_node(Node::new("from-go", "10.0.0.2:1"));
    let opts = || RegisterOptions::default().with_ttl(Duration::from_secs(20));
    registry.register(&ours, opts()).await.unwrap();
    says(
        &mut lines,
        "found latest/from-go@10.0.0.9:80//1 v1/from-go@10.0.0.2:1//1 v1/ours@10.0.0.1:1/a/1",
    )
    .await;
    let mut moved = ours.clone();
    moved.nodes.truncate(1);
    moved.nodes[0].address = "10.0.0.3:1".to_owned();
    registry.register(&moved, opts()).await.unwrap();
    // go-micro's watcher reports only the first event of a batch: here it gets one alone.
    says(&mut lines, "event update v1 ours").await;
    registry
        .deregister(&moved, DeregisterOptions::default())
        .await
        .unwrap();
    says(&mut lines, "event delete v1 ours").await;
    assert_eq!(next().await.service.nodes.len(), 2);
    assert_eq!(next().await.kind, EventKind::Update);
    assert_eq!(next().await.kind, EventKind::Delete);

    drop(child.stdin.take());
    says(&mut lines, "left").await;
    let left = next().await;
    assert_eq!(
        (left.kind, &*left.service.version),
        (EventKind::Delete, "latest")
    );
    let mut rest = ours;
    rest.nodes.remove(0);
    assert_eq!(look(&*registry, "greeter").await, [rest]);
}
