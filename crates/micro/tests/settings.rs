//! The framework's own settings, as the configuration says them: at start, and while it runs.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Fleet, Probe as _, ProbeClient, ping, until};
use micro::config::memory::MemorySource;
use micro::store::WriteOptions;
use micro::{Client, Context, ErrorKind, Policies, Policy, Service, Settings};

fn policies(attempts: u32) -> Policies {
    Policies::new().with_default(Policy::new().with_attempts(attempts))
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_change_while_calls_are_made() {
    let fleet = Fleet::new();
    let (node, _) = fleet.start("slow", "a").await;
    let source = MemorySource::new();
    source.set("micro.client_timeout", "50ms").unwrap();
    let client = fleet
        .service("tester")
        // What code says of retries stays, whatever is said of timeouts.
        .policies(policies(1))
        .with_config_source(source.clone())
        .client()
        .await
        .unwrap();
    let probe = ProbeClient::new(client, "slow");
    let cx = Context::new();
    let err = probe.left(&cx, ping("", 300)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded, "{err:?}");

    source.set("micro.client_timeout", "10s").unwrap();
    let mut longer = false;
    for _ in 0..50 {
        longer = longer || probe.left(&cx, ping("", 300)).await.is_ok();
        if longer {
            break;
        }
    }
    assert!(longer, "the longer timeout takes effect");

    // More particular than the general timeout.
    let timeout = "micro.policies.services.slow.methods.Probe\\.Left.timeout";
    source.set(timeout, "50ms").unwrap();
    let mut refused = false;
    for _ in 0..50 {
        refused = probe.left(&cx, ping("", 300)).await.is_err();
        if refused {
            break;
        }
    }
    assert!(refused, "the policy takes effect");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_the_last_good_stays() {
    let source = MemorySource::new();
    source.set("micro.register_ttl", "20s").unwrap();
    let service = Service::new("greeter")
        .settings(Settings::new())
        .registry_url("memory")
        .with_config_source(source.clone());
    let config = service.config().await.unwrap();
    for (key, value, part) in [
        ("micro.client_timeout", "soon", "MICRO_CLIENT_TIMEOUT"),
        ("micro.log", "info,=loud=", "what is logged"),
        ("micro.client_tiemout", "1s", "micro.client_timeout"),
        (
            "micro.policies.default.timeout",
            "2 weeks",
            "default.timeout",
        ),
    ] {
        source.set(key, value).unwrap();
        let mut reason = String::new();
        until(key, || {
            let refusal = config.refusals().into_iter().next();
            reason = refusal.map_or(String::new(), |refusal| refusal.to_string());
            reason.contains(part)
        })
        .await;
        source.remove(key);
        until("it is taken back", || config.refusals().is_empty()).await;
    }
    // A program does not begin with it.
    source.set("micro.client_tiemout", "1s").unwrap();
    let err = Service::new("greeter")
        .settings(Settings::new())
        .with_config_source(source)
        .start()
        .await
        .unwrap_err();
    let text = format!("{err} {err:?}");
    assert!(
        text.contains("did you mean micro.client_timeout?"),
        "{text}"
    );
}

#[tokio::test]
async fn flags_outweigh_variables_and_these_the_configuration_and_this_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.toml");
    let text = "greeting = \"Good morning\"\n[micro]\nregistry = \"memory\"\nzone = \"file\"\nclient_retries = 1\nnamespace = \"file\"\n";
    std::fs::write(&path, text).unwrap();
    let from = format!(
        "file://{} file:./not-there.toml?optional=true",
        path.display()
    );
    let settings = Settings::from_pairs([
        ("MICRO_CONFIG", from.as_str()),
        ("MICRO_ZONE", "variable"),
        ("MICRO_CLIENT_RETRIES", "2"),
    ])
    .unwrap();
    let service = Service::new("greeter")
        .settings(settings)
        .args(["--client-retries=3"])
        .namespace("code")
        .zone("code")
        .registry_url("nowhere:")
        .config_url("nowhere:");
    let config = service.config().await.unwrap();
    assert_eq!(config.get::<String>("greeting").unwrap(), "Good morning");
    assert_eq!(service.registry().await.unwrap().backend(), "memory");
    assert_eq!(service.store().await.unwrap().scope().database(), "file");
    let explained = |at: &str| {
        let found = config.explain(at).found;
        let found: Vec<_> = found.into_iter().map(|one| (one.rank, one.value)).collect();
        format!("{found:?}")
    };
    assert_eq!(
        explained("micro.client_retries"),
        r#"[(Flags, "\"3\""), (Env, "\"2\""), (File, "1")]"#
    );
    assert_eq!(
        explained("micro.zone"),
        r#"[(Env, "\"variable\""), (File, "\"file\"")]"#
    );
    // A URL may hold a password.
    assert_eq!(explained("micro.registry"), r#"[(File, "***")]"#);
    assert!(!explained("micro").contains("not-there"), "nor here");
}

#[tokio::test]
async fn a_password_in_a_variable_is_not_explained() {
    let settings = Settings::from_pairs([
        ("MICRO_REGISTRY", "memory"),
        ("MICRO_STORE", "memory:?secret=hunter2"),
    ])
    .unwrap();
    let service = Service::new("greeter").settings(settings);
    let config = service.config().await.unwrap();
    for at in ["", "micro", "micro.store"] {
        let shown = format!("{} {config:?}", config.explain(at));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let err = service.store().await.unwrap_err();
    assert!(!format!("{err} {err:?}").contains("hunter2"), "{err:?}");
}

#[tokio::test]
async fn each_service_has_a_table_of_its_own() {
    let drivers = micro::drivers();
    let service = |name: &str, namespace: &str| {
        Service::new(name)
            .settings(Settings::new())
            .drivers(drivers.clone())
            .namespace(namespace)
    };
    let (orders, stock) = (service("orders", ""), service("stock", ""));
    let table = orders.store().await.unwrap();
    table.put("a", &1).await.unwrap();
    assert_eq!(table.scope().to_string(), "micro/orders");
    assert_eq!(stock.store().await.unwrap().find("a").await.unwrap(), None);
    let again = service("orders", "").store().await.unwrap();
    assert_eq!(again.get::<u32>("a").await.unwrap(), Some(1));
    let other = service("orders", "dev").store().await.unwrap();
    assert_eq!(other.get::<u32>("a").await.unwrap(), None);
    let handed = Service::new("orders")
        .settings(Settings::from_pairs([("MICRO_STORE", "nowhere:")]).unwrap())
        .with_store(Arc::clone(table.store()))
        .store()
        .await
        .unwrap();
    let record = micro::store::Record::new("b", "2");
    handed.write(record, WriteOptions::default()).await.unwrap();
    assert_eq!(table.get::<u32>("b").await.unwrap(), Some(2));
}

#[tokio::test]
async fn limits_change_while_calls_are_made() {
    let fleet = Fleet::new();
    let source = MemorySource::new();
    let followed = source.clone();
    let (node, _) = fleet
        .start_with("small", "a", |service| service.with_config_source(followed))
        .await;
    let probe = fleet.probe("small").await;
    let long = ping(&"x".repeat(100_000), 0);
    probe.left(&Context::new(), long.clone()).await.unwrap();
    source.set("micro.limits.message_in", 50_000).unwrap();
    let mut refused = None;
    for _ in 0..500 {
        match probe.left(&Context::new(), long.clone()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(err) => {
                refused = Some(err.kind());
                break;
            }
        }
    }
    assert_eq!(refused, Some(ErrorKind::ResourceExhausted));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_follows_its_configuration_for_as_long_as_it_lives() {
    let fleet = Fleet::new();
    let (node, _) = fleet.start("slow", "a").await;
    let source = MemorySource::new();
    let client = Client::builder()
        .settings(Settings::new())
        .with_registry(Arc::clone(&fleet.registry))
        .with_config_source(source.clone())
        .build()
        .await
        .unwrap();
    let probe = ProbeClient::new(client, "slow");
    probe.left(&Context::new(), ping("", 100)).await.unwrap();
    source.set("micro.client_timeout", "10ms").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let err = probe.left(&Context::new(), ping("", 100)).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    node.stop().await.unwrap();
}
