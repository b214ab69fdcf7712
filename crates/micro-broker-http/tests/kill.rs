//! A publisher with an outbox on disk that is killed again and again: every message that it was told is
//! kept arrives, and none that was never published.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::{PATIENCE, env, member, nodes, open, registry, topic};
use micro_broker_core::{Broker as _, Context, Error, Message, Reach, handler};
use micro_broker_http::HttpBrokerConfig;
use micro_core::{Random as _, SystemRandom};
use micro_registry_core::{RegisterOptions, Service};
use micro_store_core::{Drivers, Store};
use micro_store_redb::RedbDriver;
use tokio::time::sleep;

const KILLS: usize = 20;

/// What the parent tells the child: the folder, the subscriber's service as JSON, the round.
const CHILD: &str = "MICRO_TEST_OUTBOX_CHILD";

#[tokio::test]
async fn what_an_outbox_keeps_survives_kills() {
    if let Ok(told) = std::env::var(CHILD) {
        let told: Vec<&str> = told.splitn(3, '\n').collect();
        return child(Path::new(told[0]), told[1], told[2]).await;
    }
    let env = env().await;
    let broker = open(HttpBrokerConfig::default(), &env);
    let arrived = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let noted = Arc::clone(&arrived);
    // A third fails at first, so that there is always something left when the kill comes.
    let handle = handler(move |_, delivery| {
        let text = String::from_utf8_lossy(&delivery.message().body).into_owned();
        let failed = delivery.deliveries() == 1 && SystemRandom.next_u64().is_multiple_of(3);
        if !failed {
            *lock(&noted).entry(text).or_default() += 1;
        }
        std::future::ready(if failed {
            Err(Error::internal("no"))
        } else {
            Ok(())
        })
    });
    let opts = member("g").with_max_deliveries(1000);
    let _subscription = broker
        .subscribe(&topic("orders"), opts, handle)
        .await
        .unwrap();
    let node = nodes(&env).await.remove(0);
    let service = Service::new("micro.http.broker", "g").with_node(node);
    let service = serde_json::to_string(&service).unwrap();
    let folder = tempfile::tempdir().unwrap();

    let mut kept = Vec::new();
    for round in 0..=KILLS {
        // The last one publishes nothing, and hands on what is left.
        let last = round == KILLS;
        let told = format!(
            "{}\n{service}\n{}",
            folder.path().display(),
            if last {
                "last".to_owned()
            } else {
                round.to_string()
            }
        );
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "what_an_outbox_keeps_survives_kills",
                "--nocapture",
            ])
            .env(CHILD, told)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || {
            let mut told = Vec::new();
            while let Some(Ok(line)) = lines.next() {
                if let Some(text) = line.strip_prefix("kept ") {
                    told.push(text.to_owned());
                }
            }
            told
        });
        if last {
            let status = tokio::task::spawn_blocking(move || child.wait())
                .await
                .unwrap()
                .unwrap();
            assert!(status.success(), "the last one fails: {status}");
        } else {
            sleep(Duration::from_millis(120 + SystemRandom.next_u64() % 150)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        kept.extend(reading.join().unwrap());
    }

    let arrived = lock(&arrived);
    let lost: Vec<_> = kept
        .iter()
        .filter(|text| !arrived.contains_key(*text))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} are lost: {lost:?}",
        lost.len(),
        kept.len()
    );
    assert!(kept.len() > KILLS, "only {} were published", kept.len());
    // One whose receipt was on its way may arrive, too; nothing else may.
    for text in arrived.keys() {
        assert!(
            text.split('-').count() == 2
                && text.split('-').all(|part| part.parse::<usize>().is_ok()),
            "{text:?} was never published"
        );
    }
    let twice: u32 = arrived.values().map(|count| count - 1).sum();
    let _ = writeln!(
        std::io::stderr(),
        "figure: broker.http_outbox kills={KILLS} kept={} arrived={} lost=0 twice={twice}",
        kept.len(),
        arrived.len()
    );
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes until it is killed.
async fn child(folder: &Path, service: &str, round: &str) {
    let url = format!("redb:{}", folder.join("store").display());
    let store = Drivers::<dyn Store>::new()
        .with(RedbDriver::default())
        .open(&url, &micro_core::Env::new())
        .await
        .unwrap();
    let env = env().await.with(store);
    let service: Service = serde_json::from_str(service).unwrap();
    registry(&env)
        .register(&service, RegisterOptions::default())
        .await
        .unwrap();
    let broker = open(HttpBrokerConfig::default().with_outbox("events"), &env);
    if round == "last" {
        // It also waits for what is still to be found in the store.
        broker.close(PATIENCE).await.unwrap();
        return;
    }
    for i in 0.. {
        let text = format!("{round}-{i}");
        let message = Message::new(topic("orders"), text.clone());
        let receipt = broker
            .publish(&Context::new(), message, Default::default())
            .await
            .unwrap();
        assert!(matches!(receipt.reach, Reach::Outbox { .. }));
        let mut out = std::io::stdout().lock();
        writeln!(out, "kept {text}").unwrap();
        out.flush().unwrap();
    }
}
