//! Bad days: an etcd that is killed, compacted, or back with nothing.

mod common;

use std::time::Duration;

use common::{Etcd, PATIENCE, source, with_option};
use micro_config_core::{Config, ErrorKind, Live, Runtime};
use tokio::time::timeout;

async fn start(url: &str) -> Config {
    Config::builder()
        .source(source(&with_option(url, "timeout", "1s")))
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await
        .unwrap()
}

async fn becomes<T: Send + Sync>(
    live: &Live<T>,
    wanted: &str,
    accept: impl Fn(&T) -> bool + Send + Sync,
) {
    let mut changes = live.changes();
    let waiting = async {
        while !accept(&live.get()) {
            changes.changed().await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("it did not come: {wanted}");
    }
}

async fn put(etcd: &Etcd, key: &str, value: &str) {
    let client = etcd.client();
    let key = format!("/micro/config/{key}");
    client.put(key, value.to_owned(), 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_killed_compacted_and_started_again_the_final_value_arrives() {
    let Some(mut etcd) = Etcd::start("config: etcd killed").await else {
        return;
    };
    put(&etcd, "n", "0").await;
    // The configuration goes through a cable of its own, which is cut.
    let mut cable = common::Proxy::start(etcd.port()).await;
    let config = start(&cable.url()).await;
    let n = config.live::<u32>("n").unwrap();
    put(&etcd, "n", "1").await;
    becomes(&n, "1", |n| *n == 1).await;
    for round in 1..=3_u32 {
        cable.cut();
        // While nobody of ours listens: many changes, all but the last compacted away.
        for step in 0..20 {
            put(&etcd, "n", &(round * 100 + step).to_string()).await;
        }
        let client = etcd.client();
        let now = client.get("/micro/config/n").await.unwrap().unwrap();
        client.compact(now.mod_revision).await.unwrap();
        etcd.kill();
        assert!(*n.get() < round * 100);
        etcd.run().await;
        cable.open().await;
        let last = round * 100 + 19;
        becomes(&n, "the final value", |n| *n == last).await;
        put(&etcd, "n", &(last + 1).to_string()).await;
        becomes(&n, "a change after it", |n| *n == last + 1).await;
    }
    config.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_without_its_data_the_last_good_stays() {
    let Some(mut etcd) = Etcd::start("config: etcd wiped").await else {
        return;
    };
    // A history that is longer than that of the new one will be.
    for n in 0..20 {
        put(&etcd, "n", &n.to_string()).await;
    }
    let config = start(&etcd.url()).await;
    let n = config.live::<u32>("n").unwrap();
    put(&etcd, "n", "20").await;
    becomes(&n, "20", |n| *n == 20).await;
    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    becomes(&config.status(), "the loss is reported", |status| {
        let refusal = status.sources[0].refusal.as_ref();
        refusal.is_some_and(|refusal| refusal.kind == ErrorKind::NotFound)
    })
    .await;
    assert_eq!(*n.get(), 20);
    put(&etcd, "n", "21").await;
    becomes(&n, "21", |n| *n == 21).await;
    config.close().await;
}

#[tokio::test]
async fn values_are_json_or_words_and_keys_are_paths() {
    let Some(etcd) = Etcd::start("config: etcd values").await else {
        return;
    };
    put(&etcd, "http", r#"{"port": 1, "host": "a"}"#).await;
    put(&etcd, "http/port", "8080").await;
    put(&etcd, "http/timeout", "250ms").await;
    let config = start(&etcd.url()).await;
    assert_eq!(config.get::<u16>("http.port").unwrap(), 8080);
    assert_eq!(config.get::<String>("http.host").unwrap(), "a");
    assert_eq!(
        config.get::<Duration>("http.timeout").unwrap(),
        Duration::from_millis(250)
    );
    let place = config.explain("http.port").found[0].place.clone();
    assert_eq!(place.as_deref(), Some("/micro/config/http/port"));
    put(&etcd, "http/bad", "{\"a\": canary").await;
    becomes(&config.status(), "the refusal", |status| {
        status.sources[0].refusal.is_some()
    })
    .await;
    let refusal = config.refusals()[0].to_string();
    assert!(refusal.contains("/micro/config/http/bad"), "{refusal}");
    assert!(!refusal.contains("canary"), "{refusal}");
    config.close().await;
}
