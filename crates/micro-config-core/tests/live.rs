//! What a configuration promises while its sources change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use micro_config_core::{
    Config, Error, ErrorKind, Layer, LayerStream, Live, Rank, Result, Runtime, Secret, Source,
    SourceState, Unseal, Value, ViewOptions, async_trait,
};
use micro_config_memory::MemorySource;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Runtime::new(tokio::spawn, sleep)
}

fn memory(value: &serde_json::Value) -> MemorySource {
    let source = MemorySource::new();
    source.replace(value).unwrap();
    source
}

async fn start(source: impl Source) -> Config {
    Config::builder()
        .source(source)
        .start(runtime())
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

async fn refused(config: &Config) -> String {
    let status = config.status();
    becomes(&status, "a refusal", |status| {
        status.sources.iter().any(|source| source.refusal.is_some())
    })
    .await;
    config.refusals()[0].to_string()
}

async fn no_refusal(config: &Config) {
    becomes(&config.status(), "no refusal", |status| {
        status.sources.iter().all(|source| source.refusal.is_none())
    })
    .await;
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
struct Http {
    port: u16,
    timeout: Duration,
    retries: Option<u8>,
    peers: Vec<String>,
    mode: Mode,
    labels: BTreeMap<String, u32>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Fast,
    Safe,
    Custom {
        level: u8,
    },
}

impl Default for Http {
    fn default() -> Self {
        Self {
            port: 80,
            timeout: Duration::from_secs(1),
            retries: None,
            peers: Vec::new(),
            mode: Mode::Fast,
            labels: BTreeMap::new(),
        }
    }
}

#[tokio::test]
async fn stronger_sources_win_and_what_they_lose_is_uncovered() {
    let (file, env) = (
        memory(&json!({"http": {"port": 1, "timeout": "2s"}})),
        memory(&json!({})).with_rank(Rank::Env).with_name("env"),
    );
    let config = Config::builder()
        // Added first, and stronger all the same.
        .source(env.clone())
        .source_at(Rank::File, file.clone().with_name("file"), true)
        .defaults(&json!({"http": {"retries": 3}}))
        .unwrap()
        .start(runtime())
        .await
        .unwrap();
    let http = config.live::<Http>("http").unwrap();
    assert_eq!((http.get().port, http.get().retries), (1, Some(3)));
    env.set("http.port", Value::Word("2".to_owned())).unwrap();
    becomes(&http, "port 2", |http| http.port == 2).await;
    let explained = config.explain("http.port");
    assert_eq!(
        explained.to_string(),
        "http.port:\n* env      \"2\"  memory env\n  file     1  memory file"
    );
    env.remove("http.port");
    becomes(&http, "port 1 again", |http| http.port == 1).await;
    file.remove("http.timeout");
    becomes(&http, "the type's own default", |http| {
        http.timeout == Duration::from_secs(1)
    })
    .await;
    assert!(config.explain("none").to_string().contains("no source"));
}

#[test]
fn words_become_what_is_asked_for() {
    let mut layer = Layer::new();
    for (key, word) in [
        ("port", "8080"),
        ("timeout", "250ms"),
        ("retries", "2"),
        ("peers", "a, b,c"),
        ("mode", "safe"),
        ("labels.x", "1"),
    ] {
        layer.set(key, Value::Word(word.to_owned())).unwrap();
    }
    let config = Config::constant(Value::Map(layer.root().clone())).unwrap();
    assert_eq!(
        config.get::<Http>("").unwrap(),
        Http {
            port: 8080,
            timeout: Duration::from_millis(250),
            retries: Some(2),
            peers: vec!["a".into(), "b".into(), "c".into()],
            mode: Mode::Safe,
            labels: BTreeMap::from([("x".to_owned(), 1)]),
        }
    );
    assert!(config.get::<bool>("retries").is_err());
    assert_eq!(config.get::<[String; 3]>("peers").unwrap()[2], "c");
    assert_eq!(config.get::<char>("retries").unwrap(), '2');
}

#[test]
fn typed_text_is_no_number() {
    let config = Config::constant(
        Value::from_serialize(&json!({
            "a": "8080", "mode": {"custom": {"level": 3}}, "d": 1.5, "n": null,
            "list": [{"x": 1}, {"x": "y"}],
        }))
        .unwrap(),
    )
    .unwrap();
    assert!(config.get::<u16>("a").is_err());
    assert_eq!(
        config.get::<Mode>("mode").unwrap(),
        Mode::Custom { level: 3 }
    );
    assert_eq!(
        config.get::<Duration>("d").unwrap(),
        Duration::from_millis(1500)
    );
    assert_eq!(config.get::<Option<u8>>("n").unwrap(), None);
    assert_eq!(config.get_or("none", 7).unwrap(), 7);
    assert_eq!(
        config.get::<u16>("none").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let err = config.get::<Vec<BTreeMap<String, u8>>>("list").unwrap_err();
    assert!(err.to_string().contains("key: list.1.x"), "{err}");
}

#[tokio::test]
async fn what_one_view_refuses_is_refused_for_all() {
    let source = memory(&json!({"a": 1, "b": 1}));
    let config = start(source.clone()).await;
    let a = config.live::<u8>("a").unwrap();
    let b = config.live::<u8>("b").unwrap();
    source.replace(&json!({"a": 2, "b": "x"})).unwrap();
    let refusal = refused(&config).await;
    assert!(
        refusal.contains("memory") && refusal.contains("'b'"),
        "{refusal}"
    );
    assert_eq!((*a.get(), *b.get()), (1, 1));
    assert_eq!(config.get::<u8>("a").unwrap(), 1);
    source.replace(&json!({"a": 3, "b": 3})).unwrap();
    becomes(&b, "3", |b| *b == 3).await;
    assert_eq!(*a.get(), 3);
    no_refusal(&config).await;
}

#[tokio::test]
async fn a_source_that_is_refused_does_not_hold_up_the_others() {
    let (low, high) = (memory(&json!({"a": 1})), memory(&json!({"b": 1})));
    let config = Config::builder()
        .source(low.clone().with_name("low"))
        .source(high.clone().with_rank(Rank::Env).with_name("high"))
        .start(runtime())
        .await
        .unwrap();
    let options = || {
        ViewOptions::<BTreeMap<String, u8>>::new().with_check(|map| match map["a"] == map["b"] {
            true => Ok(()),
            false => Err(Error::invalid_argument("a and b must agree")),
        })
    };
    let both = config.live_with("", options()).unwrap();
    low.set("a", 2).unwrap();
    let refusal = refused(&config).await;
    assert!(refusal.starts_with("memory low"), "{refusal}");
    assert_eq!(both.get()["a"], 1);
    // The other half comes: together they are right.
    high.set("b", 2).unwrap();
    becomes(&both, "2 and 2", |map| map["a"] == 2 && map["b"] == 2).await;
    no_refusal(&config).await;
}

#[tokio::test]
async fn unknown_keys_are_refused_by_a_strict_view() {
    let source = memory(&json!({"http": {"port": 1}}));
    let config = start(source.clone()).await;
    let loose = config.live::<Http>("http").unwrap();
    source.set("http.prot", 2).unwrap();
    source.set("http.port", 2).unwrap();
    becomes(&loose, "2", |http| http.port == 2).await;
    let err = config
        .live_with("http", ViewOptions::<Http>::new().with_strict(true))
        .unwrap_err();
    assert!(err.to_string().contains("key: http.prot"), "{err}");
    source.remove("http.prot");
    becomes(&config.status(), "no typo", |_| {
        config.value("http.prot").is_none()
    })
    .await;
    let strict = config
        .live_with("http", ViewOptions::<Http>::new().with_strict(true))
        .unwrap();
    source.set("http.labels.any", 2).unwrap();
    becomes(&strict, "a label", |http| http.labels.len() == 1).await;
    source.set("http.tiemout", "1s").unwrap();
    assert!(refused(&config).await.contains("http.tiemout"));
}

#[tokio::test(start_paused = true)]
async fn an_optional_source_may_come_later_and_a_required_one_is_waited_for() {
    let (file, remote) = (MemorySource::new(), MemorySource::new());
    remote.fail(ErrorKind::Unavailable, "no connection");
    file.fail(ErrorKind::NotFound, "no file");
    let later = {
        let file = file.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(3)).await;
            file.set("a", 1).unwrap();
        })
    };
    let config = Config::builder()
        .source(file)
        .optional(remote.clone().with_rank(Rank::Remote).with_name("remote"))
        .start(runtime())
        .await
        .unwrap();
    assert!(later.is_finished());
    let a = config.live::<u8>("a").unwrap();
    assert_eq!(*a.get(), 1);
    assert_eq!(config.status().get().sources[0].state, SourceState::Away);
    remote.set("a", 2).unwrap();
    becomes(&a, "2", |a| *a == 2).await;
    // Its last good state serves.
    remote.fail(ErrorKind::Unavailable, "no connection");
    refused(&config).await;
    assert_eq!(*a.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_required_source_that_stays_away_is_an_error() {
    let source = MemorySource::new().with_name("x");
    source.fail(ErrorKind::Unavailable, "no connection");
    let outcome = Config::builder().source(source).start(runtime()).await;
    let err = outcome.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    assert!(err.to_string().contains("source: memory x"), "{err}");
}

/// Never answers.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl Source for Hanging {
    fn backend(&self) -> &'static str {
        "hanging"
    }

    fn describe(&self) -> String {
        "hanging".to_owned()
    }

    fn rank(&self) -> Rank {
        Rank::Remote
    }

    async fn load(&self) -> Result<Layer> {
        std::future::pending().await
    }

    async fn watch(&self) -> Result<LayerStream> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_holds_up_nobody_for_long() {
    let begin = tokio::time::Instant::now();
    let err = Config::builder()
        .source(Hanging)
        .start(runtime())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    for part in ["source: hanging", "waited: 10s"] {
        assert!(err.to_string().contains(part), "{err}");
    }
    assert!(begin.elapsed() <= Duration::from_secs(11));

    let begin = tokio::time::Instant::now();
    let memory = MemorySource::new();
    let builder = Config::builder().source(memory.clone()).optional(Hanging);
    let config = builder.start(runtime()).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(6));
    assert_eq!(config.refusals()[0].source, "hanging");
    memory.set("a", 1).unwrap();
    let a = config.live::<Option<u8>>("a").unwrap();
    becomes(&a, "1", |a| *a == Some(1)).await;
    let begin = tokio::time::Instant::now();
    config.close().await;
    assert!(begin.elapsed() <= Duration::from_secs(1));
}

#[tokio::test]
async fn variables_are_put_into_values_and_not_into_text() {
    let variables = |name: &str| {
        Ok(match name {
            "PORT" => Some("8080".to_owned()),
            "ODD" => Some("\"quoted\": {1}".to_owned()),
            _ => None,
        })
    };
    let source = memory(&json!({
        "port": "${PORT}", "odd": "<${ODD}>", "list": ["${NONE:-x}"], "self": "$${PORT}",
    }));
    let env = MemorySource::new().with_rank(Rank::Env);
    env.set("raw", Value::Word("${PORT}".to_owned())).unwrap();
    let config = Config::builder()
        .source(source.clone())
        .source(env)
        .variables(variables)
        .start(runtime())
        .await
        .unwrap();
    assert_eq!(config.get::<u16>("port").unwrap(), 8080);
    assert_eq!(config.get::<String>("odd").unwrap(), "<\"quoted\": {1}>");
    assert_eq!(config.get::<Vec<String>>("list").unwrap(), ["x"]);
    assert_eq!(config.get::<String>("self").unwrap(), "${PORT}");
    assert_eq!(config.get::<String>("raw").unwrap(), "${PORT}");
    source.set("more", "${UNSET}").unwrap();
    let refusal = refused(&config).await;
    assert!(
        refusal.contains("'more'") && refusal.contains("UNSET"),
        "{refusal}"
    );
}

#[tokio::test]
async fn the_same_view_is_made_once() {
    let config = start(memory(&json!({"a": 1}))).await;
    for _ in 0..20_000 {
        config.live::<u8>("a").unwrap();
    }
    let check = || ViewOptions::<u8>::new().with_check(|_| Ok(()));
    let made = (0..20_000).map_while(|_| config.live_with("a", check()).ok());
    assert_eq!(made.count(), 9_999);
}

#[tokio::test]
async fn f16_a_slow_watcher_blocks_nobody_and_gets_the_newest() {
    let source = memory(&json!({"n": 0}));
    let config = start(source.clone()).await;
    let n = config.live::<u32>("n").unwrap();
    let mut slow = n.changes();
    let quick = {
        let n = n.clone();
        tokio::spawn(async move { becomes(&n, "1000", |n| *n == 1000).await })
    };
    for value in 1..=1000 {
        source.set("n", value).unwrap();
        tokio::task::yield_now().await;
    }
    quick.await.unwrap();
    // The slow one was never polled: it gets the newest at once, and nothing else.
    assert_eq!(*timeout(PATIENCE, slow.changed()).await.unwrap(), 1000);
    let more = timeout(Duration::from_millis(20), slow.changed()).await;
    assert!(more.is_err(), "a backlog: {more:?}");
}

#[tokio::test]
async fn f17_a_panicking_check_does_not_stop_reloads() {
    let source = memory(&json!({"n": 0}));
    let config = start(source.clone()).await;
    let options = ViewOptions::<u32>::new().with_check(|n| {
        assert!(*n != 13, "bad luck");
        Ok(())
    });
    let n = config.live_with("n", options).unwrap();
    source.set("n", 13).unwrap();
    let refusal = refused(&config).await;
    assert!(refusal.contains("panicked"), "{refusal}");
    assert_eq!(*n.get(), 0);
    source.set("n", 14).unwrap();
    becomes(&n, "14", |n| *n == 14).await;
}

/// A source whose stream panics once, ends once, and then works.
#[derive(Debug)]
struct Shaky(MemorySource, AtomicUsize);

#[micro_config_core::async_trait]
impl Source for Shaky {
    fn backend(&self) -> &'static str {
        "shaky"
    }

    fn describe(&self) -> String {
        "shaky".to_owned()
    }

    fn rank(&self) -> Rank {
        Rank::Code
    }

    async fn load(&self) -> Result<Layer> {
        self.0.load().await
    }

    async fn watch(&self) -> Result<micro_config_core::LayerStream> {
        match self.1.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("a bug in a source"),
            1 => Ok(Box::pin(futures_util::stream::empty())),
            2 => Err(Error::unavailable("no connection")),
            _ => self.0.watch().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f17_a_panicking_source_is_opened_again() {
    let source = memory(&json!({"n": 0}));
    let config = start(Shaky(source.clone(), AtomicUsize::new(0))).await;
    let n = config.live::<u32>("n").unwrap();
    source.set("n", 1).unwrap();
    becomes(&n, "1", |n| *n == 1).await;
    no_refusal(&config).await;
}

/// A runtime that counts the tasks that are alive.
fn counted(alive: &Arc<AtomicUsize>) -> Runtime {
    struct Gone(Arc<AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let alive = Arc::clone(alive);
    Runtime::new(
        move |task| {
            alive.fetch_add(1, Ordering::SeqCst);
            let gone = Gone(Arc::clone(&alive));
            tokio::spawn(async move {
                task.await;
                drop(gone);
            })
        },
        sleep,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_a_reload_that_races_the_end_leaves_no_task() {
    let alive = Arc::new(AtomicUsize::new(0));
    for round in 0..200 {
        let source = memory(&json!({"n": 0}));
        let config = Config::builder()
            .source(source.clone())
            .start(counted(&alive))
            .await
            .unwrap();
        let n = config.live::<u32>("n").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let stop = Arc::clone(&stop);
            tokio::task::spawn_blocking(move || {
                let mut value = 0;
                while !stop.load(Ordering::Relaxed) {
                    value += 1;
                    source.set("n", value).unwrap();
                }
            })
        };
        tokio::time::sleep(Duration::from_micros(round * 5)).await;
        if round % 2 == 0 {
            timeout(PATIENCE, config.close()).await.unwrap();
            assert!(config.status().get().closed);
        }
        drop(config);
        stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
        // What was read last stays readable.
        let _ = *n.get();
    }
    let gone = async {
        while alive.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("a task is left");
}

#[test]
fn f18_a_runtime_that_ends_first_takes_the_task_along() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let config = tokio.block_on(start(memory(&json!({"n": 1}))));
    drop(tokio);
    assert_eq!(config.get::<u8>("n").unwrap(), 1);
    assert!(config.status().get().closed);
    drop(config);
}

#[derive(Debug, Deserialize)]
struct Database {
    #[serde(with = "micro_config_core::secret")]
    password: Secret,
    #[serde(default, with = "micro_config_core::secret::optional")]
    other: Option<Secret>,
}

const CANARY: &str = "canary-2f9b";

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn f19_s71_no_message_holds_the_value_of_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let source = memory(&json!({"db": {"password": CANARY, "other": CANARY}, "x": 1}));
    let config = start(source.clone()).await;
    let options = ViewOptions::<Database>::new().with_check(|database| {
        match database.password.expose().len() > 30 {
            // A careless check, which prints what it should not.
            true => Err(Error::invalid_argument(format!(
                "'{}' is too long",
                database.password.expose()
            ))),
            false => Ok(()),
        }
    });
    let database = config.live_with("db", options).unwrap();
    assert_eq!(database.get().password.expose(), CANARY);
    assert_eq!(database.get().other.as_ref().unwrap().expose(), CANARY);
    let mut printed = Vec::new();
    let bad = [
        json!({"db": {"password": format!("{CANARY}-{CANARY}-{CANARY}")}}),
        json!({"db": {"password": [CANARY]}}),
        json!({"db": {"password": {CANARY: CANARY}}}),
        json!({"db": {"password": "x", "other": [CANARY]}}),
        json!({"db": CANARY}),
        json!({"db": {"password": "${CANARY"}, "canary": CANARY}),
    ];
    for value in bad {
        source.replace(&value).unwrap();
        becomes(&config.status(), "refused", |status| {
            let reason = status.sources[0]
                .refusal
                .as_ref()
                .map(|why| why.to_string());
            reason.is_some_and(|reason| !printed.contains(&reason))
        })
        .await;
        printed.push(config.refusals()[0].to_string());
        printed.push(format!("{:?}", config.refusals()));
    }
    assert_eq!(database.get().password.expose(), CANARY);
    let mut layer = Layer::new();
    layer.set("pin", Value::Secret(CANARY.into())).unwrap();
    layer.set("map.pin", Value::Secret(CANARY.into())).unwrap();
    source.replace_layer(layer);
    source.set("db.password", CANARY).unwrap();
    source.set("db.other", CANARY).unwrap();
    no_refusal(&config).await;
    printed.push(format!("{:?}", config.get::<u16>("pin").unwrap_err()));
    printed.push(format!("{:?}", config.get::<Mode>("pin").unwrap_err()));
    printed.push(format!(
        "{:?}",
        config.get::<std::net::IpAddr>("pin").unwrap_err()
    ));
    printed.push(format!(
        "{:?}",
        config.get::<Vec<u8>>("map.pin").unwrap_err()
    ));
    printed.push(format!("{:?}", config.get::<Value>("").unwrap()).replace(
        // Plain text of a plain source: a value that is printed on purpose.
        &format!("Text(\"{CANARY}\")"),
        "",
    ));
    printed.push(format!(
        "{} {} {}",
        config.explain("pin"),
        config.explain("db.other"),
        config.explain(r"d\b.\other")
    ));
    printed.push(format!(
        "{config:?} {:?} {:?}",
        *config.status().get(),
        database
    ));
    for text in &printed {
        assert!(!text.contains(CANARY), "{text}");
    }
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("not taken over"), "{logged}");
    assert!(!logged.contains(CANARY), "{logged}");
}

#[derive(Debug)]
struct Key;

impl Unseal for Key {
    fn unseal(&self, sealed: &str) -> Result<Secret> {
        match sealed.strip_prefix("enc:v1:") {
            Some("wrong") => Err(Error::unauthenticated("sealed with another key")),
            Some("panic") => panic!("a bug"),
            Some(text) => Ok(Secret::new(text)),
            None => Err(Error::invalid_argument("an unknown version")),
        }
    }
}

#[tokio::test]
async fn sealed_values_become_secrets() {
    let source = memory(&json!({"pin": "enc:v1:1234", "n": 1}));
    let without_key = Config::builder()
        .source(source.clone())
        .start(runtime())
        .await;
    let err = without_key.unwrap_err();
    assert!(
        err.to_string().contains("no key") && err.to_string().contains("pin"),
        "{err}"
    );
    let config = Config::builder()
        .source(source.clone())
        .unseal(Key)
        .start(runtime())
        .await
        .unwrap();
    assert_eq!(config.get::<u32>("pin").unwrap(), 1234);
    assert_eq!(config.explain("pin").found[0].value, "***");
    let mut layer = Layer::new();
    layer.set("pin", Value::Secret("enc:v1:77".into())).unwrap();
    source.replace_layer(layer);
    becomes(&config.status(), "a sealed secret", |_| {
        config.get::<u32>("pin").ok() == Some(77)
    })
    .await;
    source.set("pin", "enc:v1:1234").unwrap();
    becomes(&config.status(), "1234 again", |_| {
        config.get::<u32>("pin").ok() == Some(1234)
    })
    .await;
    for (bad, reason) in [("wrong", "another key"), ("panic", "panicked")] {
        source.set("pin", format!("enc:v1:{bad}")).unwrap();
        becomes(&config.status(), reason, |status| {
            let refusal = status.sources[0].refusal.as_ref();
            refusal.is_some_and(|refusal| refusal.reason.contains(reason))
        })
        .await;
        assert_eq!(config.get::<u32>("pin").unwrap(), 1234);
    }
}

#[tokio::test]
async fn s70_what_is_too_large_is_refused() {
    let source = memory(&json!({"n": 1}));
    let config = start(source.clone()).await;
    let many: BTreeMap<String, u8> = (0..1_000_000).map(|n| (format!("k{n}"), 1)).collect();
    source.replace(&many).unwrap();
    assert!(refused(&config).await.contains("too many values"));
    assert_eq!(config.get::<u8>("n").unwrap(), 1);
}
