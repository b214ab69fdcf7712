//! The framework's own settings, as the configuration says them: at start, and while it runs.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Fleet, Probe as _, ProbeClient, ping, until};
use micro::config::memory::MemorySource;
use micro::config::{Layer, LayerStream, Map, Rank, Source, Value, constant};
use micro::store::WriteOptions;
use micro::{Client, Context, ErrorKind, Limits, Policies, Policy, Service, Settings};

fn map() -> Value {
    Value::Map(Map::from([("x".to_owned(), 1.into())]))
}

fn layer(at: &str, value: Value) -> Layer {
    let mut layer = Layer::new();
    layer.set(at, value).unwrap();
    layer
}

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
    for (at, value, part) in [
        (
            "micro.client_timeout",
            Value::from("soon"),
            "'250ms', '30s'",
        ),
        ("micro.client_timeout", 1.5.into(), "a whole number"),
        ("micro.client_timeout", "0s".into(), "more than 0"),
        ("micro.client_retries", (-1).into(), "0, 1, 2"),
        ("micro.log", "info,=loud=".into(), "what is logged"),
        ("micro.client_tiemout", "1s".into(), "micro.client_timeout?"),
        ("micro.Log", "debug".into(), "micro.log?"),
        ("micro.polices", map(), "micro.policies?"),
        ("micro.limit", map(), "micro.limits?"),
        ("micro.client", map(), "did you mean"),
        ("micro.config", "file:x.toml".into(), "MICRO_CONFIG"),
        ("micro.limits.message_in", 0.into(), "more than 0"),
        ("micro.limits.idle", "0s".into(), "more than 0"),
        ("micro.limits.message_inn", 1.into(), "message_in"),
        ("micro.registry", Value::List(Vec::new()), "a list"),
    ] {
        source.set(at, value).unwrap();
        until(at, || !config.refusals().is_empty()).await;
        let refusal = config.refusals().remove(0);
        assert_eq!(refusal.path.as_deref(), Some(at), "{refusal}");
        assert!(refusal.reason.contains(part), "{refusal}");
        source.remove(at);
        until("it is taken back", || config.refusals().is_empty()).await;
    }
    let policy = "micro.policies.default.timeout";
    source.set(policy, "2 weeks").unwrap();
    until(policy, || !config.refusals().is_empty()).await;
    let refusal = config.refusals().remove(0).to_string();
    assert!(refusal.contains("default.timeout"), "{refusal}");
    for (kind, micro) in [("a list", Value::List(Vec::new())), ("text", "x".into())] {
        source.replace_layer(layer("micro", micro));
        until(kind, || {
            let refusal = config.refusals().into_iter().next();
            refusal.is_some_and(|refusal| refusal.reason.contains(kind))
        })
        .await;
    }
    // Nothing is no setting, and no fault.
    source.replace_layer(layer("micro", Value::Null));
    until("it is nothing", || config.refusals().is_empty()).await;
    source.replace_layer(layer("micro.log", Value::Null));
    until("it is nothing", || config.value("micro.log").is_some()).await;
    assert!(config.refusals().is_empty());
    source.replace_layer(Layer::new());
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
    // It says where the configuration is, and is no part of it.
    assert_eq!(explained("micro.config"), "[]");
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

#[tokio::test]
async fn a_file_is_blamed_for_what_it_says_whatever_variables_say_of_micro() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.toml");
    std::fs::write(
        &path,
        "[micro]\nlog = \"info\"\nclient_timeout = \"soon\"\n",
    )
    .unwrap();
    let from = format!("\tfile:{}\n", path.display());
    let settings = [("MICRO_CONFIG", &*from), ("MICRO_ZONE", "a")];
    let start = |settings: &[(&str, &str)]| {
        let settings = Settings::from_pairs(settings.iter().copied()).unwrap();
        let service = Service::new("greeter").settings(settings);
        async move { service.start().await.unwrap_err().to_string() }
    };
    let text = start(&settings).await;
    for part in ["app.toml", "line 3", "key: micro.client_timeout,"] {
        assert!(text.contains(part), "{text}");
    }
    // A backend that cannot be opened names who asked for it.
    std::fs::write(&path, "[micro]\nregistry = \"nowhere:\"\n").unwrap();
    let text = start(&settings).await;
    for part in ["setting: micro.registry", "app.toml", "line 2"] {
        assert!(text.contains(part), "{text}");
    }
    let text = start(&[("MICRO_REGISTRY", "nowhere:")]).await;
    assert!(text.contains("place: MICRO_REGISTRY"), "{text}");
    // Which URLs are wrong, too.
    let text = start(&[("MICRO_CONFIG", "env:X?optional=yes")]).await;
    assert!(text.contains("setting: MICRO_CONFIG"), "{text}");
}

#[tokio::test]
async fn a_flag_sets_any_key() {
    let service = |args: &[&'static str]| {
        Service::new("greeter")
            .settings(Settings::new())
            .with_config_source(MemorySource::new().with_rank(Rank::Env))
            .args(args.iter().copied())
    };
    let set = service(&[
        "--set",
        "greeting.loud=yes",
        "--set=micro.client_retries=0",
        "--set=greeting.text=a=b",
    ]);
    let config = set.config().await.unwrap();
    assert!(config.get::<bool>("greeting.loud").unwrap());
    assert_eq!(config.get::<String>("greeting.text").unwrap(), "a=b");
    let found = config.explain("greeting.loud").found.remove(0);
    assert_eq!(
        (found.rank, found.place.as_deref()),
        (Rank::Flags, Some("--set"))
    );
    for args in [
        &["--set"][..],
        &["--set", "hunter2"],
        &["--set", "=hunter2"],
        &["--set", "a=hunter2", "--set=a.b=hunter2"],
        &["--set", "micro.client_timeout=hunter2"],
        &["--set", "micro.hunter=hunter2"],
    ] {
        let err = service(args).config().await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{args:?}");
        assert!(!format!("{err} {err:?}").contains("hunter2"), "{err:?}");
    }
}

#[test]
fn s71_no_password_of_a_variable_is_shown_not_even_of_one_that_is_no_url() {
    for text in [
        "etcd://me:hunter2@a:1",
        "file:a.toml\tetcd://me:hunter2@a:1\nenv:A",
        "etcd://me:hunter2@a:port",
        "etcd//me:hunter2@a",
        "me:hunter2@a",
        "etcd://a?password=hunter2",
    ] {
        for variable in ["MICRO_CONFIG", "MICRO_REGISTRY"] {
            let settings = Settings::from_pairs([(variable, text)]).unwrap();
            let service = Service::new("x").settings(settings.clone());
            let shown = format!("{settings:?} {service:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

/// On one thread nothing runs between the calls here: what follows the policies has not been polled.
#[tokio::test]
async fn what_code_changes_right_after_the_start_is_not_lost() {
    let fleet = Fleet::new();
    let (node, _) = fleet.start("slow", "a").await;
    let (policies, live) = micro::Live::channel(Policies::new());
    let (limits, live_limits) = micro::Live::channel(Limits::default());
    let client = fleet
        .service("tester")
        .policies(live)
        .limits(live_limits)
        .with_config_source(MemorySource::new())
        .client()
        .await
        .unwrap();
    let short = Policy::new().with_timeout(Duration::from_millis(20));
    policies.set(Policies::new().with_default(short));
    limits.set(Limits::default().with_message_out(1_000));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let probe = ProbeClient::new(client, "slow");
    let err = probe.left(&Context::new(), ping("", 200)).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    policies.set(Policies::new());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let long = ping(&"x".repeat(10_000), 0);
    let err = probe.left(&Context::new(), long).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_while_calls_are_made_end_with_the_last() {
    let fleet = Fleet::new();
    let (node, _) = fleet.start("slow", "a").await;
    let source = MemorySource::new();
    let client = fleet
        .service("tester")
        .with_config_source(source.clone())
        .client()
        .await
        .unwrap();
    let probe = ProbeClient::new(client, "slow");
    let changing = tokio::spawn(async move {
        for n in 0..1_000 {
            // None of these is short enough to matter, and some are refused.
            let timeout = match n % 10 {
                0 => "soon".to_owned(),
                n => format!("{}s", 60 + n),
            };
            source.set("micro.client_timeout", timeout).unwrap();
            tokio::task::yield_now().await;
        }
        source.set("micro.client_timeout", "20ms").unwrap();
    });
    let mut calls = 0;
    while !changing.is_finished() {
        // The last one may be in force before its writer is known to have ended.
        let outcome = probe.left(&Context::new(), ping("", 0)).await;
        assert!(outcome.is_ok() || changing.is_finished(), "{outcome:?}");
        calls += 1;
    }
    changing.await.unwrap();
    assert!(calls > 0);
    let mut last = Ok(ping("", 0));
    for _ in 0..100 {
        last = probe.left(&Context::new(), ping("", 200)).await;
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    node.stop().await.unwrap();
}

/// Says nothing, and counts who still has it.
#[derive(Debug)]
#[expect(dead_code, reason = "what counts is that it is there")]
struct Held(Arc<()>);

#[micro::config::async_trait]
impl Source for Held {
    fn backend(&self) -> &'static str {
        "held"
    }

    fn describe(&self) -> String {
        "held".to_owned()
    }

    fn rank(&self) -> Rank {
        Rank::Code
    }

    async fn load(&self) -> micro::Result<Layer> {
        Ok(Layer::new())
    }

    async fn watch(&self) -> micro::Result<LayerStream> {
        Ok(constant(Layer::new()))
    }
}

#[tokio::test]
async fn what_follows_the_configuration_lives_as_long_as_a_client_and_no_longer() {
    let fleet = Fleet::new();
    let held = Arc::new(());
    let service = fleet
        .service("tester")
        .with_config_source(Held(Arc::clone(&held)));
    let client = service.client().await.unwrap();
    drop(service);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(Arc::strong_count(&held) > 1, "the client still follows it");
    let clone = client.clone();
    drop(client);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(Arc::strong_count(&held) > 1, "so does its clone");
    drop(clone);
    until("nobody follows it", || Arc::strong_count(&held) == 1).await;

    // A service that is stopped leaves nothing behind either.
    let (node, _) = fleet
        .start_with("greeter", "a", |service| {
            service.with_config_source(Held(Arc::clone(&held)))
        })
        .await;
    assert!(Arc::strong_count(&held) > 1);
    node.stop().await.unwrap();
    until("the service is gone", || Arc::strong_count(&held) == 1).await;
}

#[test]
fn what_was_said_before_there_was_a_log_is_said_again() {
    const CHILD: &str = "MICRO_TEST_SETTINGS_CHILD";
    if let Some(url) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let service = Service::new("greeter")
            .registry_url("memory")
            .config_url(url.to_str().unwrap());
        let run = async {
            // Before `run`, which installs the log: the usual way to get at a view.
            service.config().await.unwrap();
            tokio::time::timeout(Duration::from_secs(1), service.run()).await
        };
        assert!(
            runtime.block_on(run).is_err(),
            "it runs until it is told to end"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("app.toml")).unwrap();
    let test = "what_was_said_before_there_was_a_log_is_said_again";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(
            CHILD,
            format!("file:{}?optional=true", dir.path().display()),
        )
        .env("MICRO_CONFG", "file:x")
        .env("MICRO_LOG", "")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for part in [
        "did you mean MICRO_CONFIG?",
        "a link leads nowhere",
        "INFO started",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
}

#[test]
fn without_a_runtime_it_is_said_what_is_missing() {
    let service = Service::new("greeter").settings(Settings::new());
    let mut config = std::pin::pin!(service.config());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(outcome) = config.as_mut().poll(&mut cx) else {
        panic!("there is nothing to wait for");
    };
    let err = outcome.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(err.to_string().contains("tokio"), "{err}");
}

#[cfg(feature = "config-seal")]
#[tokio::test]
async fn sealed_values_are_opened_by_the_key_that_the_service_was_given() {
    use micro::config::file::SealKey;
    let key = SealKey::generate().unwrap();
    let source = MemorySource::new();
    let sealed = key.seal("hunter2").unwrap();
    source.set("db.password", sealed).unwrap();
    let service = || {
        Service::new("greeter")
            .settings(Settings::new())
            .with_config_source(source.clone())
    };
    let with_key = service().config_unseal(key);
    let config = with_key.config().await.unwrap();
    assert_eq!(config.get::<String>("db.password").unwrap(), "hunter2");
    let shown = format!("{} {with_key:?}", config.explain("db.password"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        service().config().await.is_err(),
        "without it, it does not start"
    );
}
