//! go-micro itself, version 2, with its HTTP broker over the same etcd: each gets what the other
//! publishes.

#[path = "../../micro-etcd/tests/common/mod.rs"]
mod etcd;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd::{Etcd, PATIENCE, skip};
use micro_broker_core::{
    Backoff, Broker, Context, Drivers, Env, Error, Group, Message, Reach, SubscribeOptions, Topic,
    handler,
};
use micro_broker_http::HttpDriver;
use micro_registry_core::Registry;
use micro_registry_etcd::EtcdDriver;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Builds the program, or says why not.
fn build(test: &str) -> Option<PathBuf> {
    let cure = "install Go 1.24 or newer, and let it fetch modules once";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-micro-broker");
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

async fn says(lines: &mut Lines<BufReader<ChildStdout>>, expected: &str) {
    let line = timeout(PATIENCE, lines.next_line()).await;
    assert_eq!(
        line.expect("it says something").unwrap().as_deref(),
        Some(expected)
    );
}

#[tokio::test]
async fn go_micro_v2_and_we_share_topics() {
    const TEST: &str = "go-micro v2 with its HTTP broker";
    let Some(program) = build(TEST) else { return };
    let Some(etcd) = Etcd::start(TEST).await else {
        return;
    };
    let registry: Arc<dyn Registry> = micro_registry_core::Drivers::new()
        .with(EtcdDriver::default())
        .open(&etcd.url(), &Env::new())
        .await
        .unwrap();
    let env = Env::new().with(registry);
    let broker = Drivers::<dyn Broker>::new()
        .with(HttpDriver)
        .open("http://127.0.0.1", &env)
        .await
        .unwrap();

    // The first call of each handler fails: go-micro minds no answer, and yet the message comes again.
    let (tell, mut arrived) = mpsc::unbounded_channel();
    let topic = |name| Topic::new(name).unwrap();
    let quick = || {
        let pause = Duration::from_millis(20);
        SubscribeOptions::default().with_backoff(Backoff::new(pause, pause))
    };
    let mut subscriptions = Vec::new();
    for (who, opts) in [
        ("group", quick().with_group(Group::new("rust").unwrap())),
        ("alone", quick()),
    ] {
        let tell = tell.clone();
        let handle = handler(move |_, delivery| {
            tell.send((who, delivery.clone())).unwrap();
            let failed = delivery.deliveries() == 1;
            std::future::ready(if failed {
                Err(Error::internal("no"))
            } else {
                Ok(())
            })
        });
        subscriptions.push(
            broker
                .subscribe(&topic("from.go"), opts, handle)
                .await
                .unwrap(),
        );
    }

    let mut child = tokio::process::Command::new(program)
        .arg(format!("127.0.0.1:{}", etcd.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    says(&mut lines, "ready").await;

    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go-1\n").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (who, delivery) = timeout(PATIENCE, arrived.recv()).await.unwrap().unwrap();
        let message = delivery.message();
        assert_eq!((delivery.id(), &message.body[..]), ("go-1", &b"tea"[..]));
        assert_eq!(message.metadata.get("tenant"), Some("acme"));
        assert_eq!(message.content_type, "text/plain");
        seen.push((who, delivery.deliveries()));
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [("alone", 1), ("alone", 2), ("group", 1), ("group", 2)]
    );

    for (name, who) in [("from.rust", "group"), ("also.from.rust", "alone")] {
        let message = Message::new(topic(name), "coffee")
            .with_id("rust-1")
            .with_content_type("text/plain")
            .with_metadata("tenant", "acme")
            .unwrap();
        let receipt = broker
            .publish(&Context::new(), message, Default::default())
            .await
            .unwrap();
        let Reach::Delivered {
            acknowledged,
            pending,
            failed,
        } = receipt.reach
        else {
            panic!("{receipt:?}");
        };
        assert_eq!((acknowledged, pending, failed), (1, 0, 0));
        says(
            &mut lines,
            &format!("{who} {name} rust-1 acme text/plain coffee"),
        )
        .await;
    }
}
