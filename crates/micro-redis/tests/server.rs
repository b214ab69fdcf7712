//! Connections to a real Redis.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use micro_core::{Error, ErrorKind, Random, Secret, SystemRandom};
use micro_redis::redis::{Value, cmd};
use micro_redis::{
    Connection, Effect, Facts, Greeting, RedisConfig, Script, Subscription, Survives,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that `cargo xtask services` started; without it, the test is skipped.
fn server(variable: &str, name: &str) -> Option<RedisConfig> {
    if let Ok(url) = std::env::var(variable) {
        let url = micro_core::url::resolve(&url).unwrap();
        return Some(RedisConfig::from_url(&url).unwrap());
    }
    let (test, reason) = ("micro-redis server", format!("{variable} is not set"));
    let cure = format!("cargo xtask services up {name}");
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}; {cure}");
    if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
        let mut options = std::fs::OpenOptions::new();
        let mut log = options.append(true).create(true).open(log).unwrap();
        writeln!(log, "{test}\t{reason}\t{cure}").unwrap();
    }
    None
}

fn plain() -> Option<RedisConfig> {
    server("MICRO_TEST_REDIS_URL", "redis")
}

fn tls() -> Option<RedisConfig> {
    server("MICRO_TEST_REDIS_TLS_URL", "redis_tls")
}

fn random() -> Arc<dyn Random> {
    Arc::new(SystemRandom)
}

/// A name that nobody else uses.
fn fresh() -> String {
    format!("{{t{:016x}}}:k", SystemRandom.next_u64())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(200)
}

/// Ends this connection at the server, by another one.
async fn kill(config: &RedisConfig, connection: &Connection) {
    let link = connection.link(Instant::now() + PATIENCE).await.unwrap();
    let mut own = cmd("CLIENT");
    own.arg("ID");
    let id = link.call(&own, Effect::Nothing, soon()).await;
    let Value::Int(id) = id.unwrap() else {
        panic!("a client has a number");
    };
    let other = Connection::open(config.clone(), &random()).unwrap();
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(id);
    other.ask(&kill, other.deadline()).await.unwrap();
}

#[tokio::test]
async fn what_changes_survive_is_what_the_server_says() {
    // One without a log, and one whose log is left to the system.
    for (config, survives) in [(plain(), Survives::Nothing), (tls(), Survives::Process)] {
        let Some(config) = config else { continue };
        let connection = Connection::open(config, &random()).unwrap();
        let link = connection.link(connection.deadline()).await.unwrap();
        let facts = Facts::ask(&link, connection.deadline()).await.unwrap();
        assert_eq!(
            (facts.epoch, facts.survives),
            (link.epoch(), Some(survives))
        );
    }
}

#[tokio::test]
async fn a_connection_comes_back_and_says_that_it_is_another() {
    let Some(config) = plain() else { return };
    let connection = Connection::open(config.clone(), &random()).unwrap();
    let first = connection.link(connection.deadline()).await.unwrap();
    kill(&config, &connection).await;
    let answer = connection.ask(&cmd("PING"), connection.deadline()).await;
    assert_eq!(answer.unwrap(), Value::SimpleString("PONG".into()));
    let second = connection.link(connection.deadline()).await.unwrap();
    assert!(second.epoch() > first.epoch());
    // A link that broke stays so.
    let err = first.call(&cmd("PING"), Effect::Nothing, soon()).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::Unavailable);
    let err = first.call(&cmd("PING"), Effect::Change, soon()).await;
    assert_eq!(err.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
}

#[tokio::test]
async fn an_answer_that_is_late_costs_the_connection() {
    let Some(config) = plain() else { return };
    let connection = Connection::open(config, &random()).unwrap();
    for (effect, kind) in [
        (Effect::Nothing, ErrorKind::Unavailable),
        (Effect::Change, ErrorKind::OutcomeUnknown),
    ] {
        let link = connection.link(connection.deadline()).await.unwrap();
        let mut wait = cmd("BLPOP");
        wait.arg(fresh()).arg(0);
        let err = link.call(&wait, effect, soon()).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(!err.is_unprocessed());
        let next = connection.link(connection.deadline()).await.unwrap();
        assert!(next.epoch() > link.epoch());
        let answer = connection.ask(&cmd("PING"), connection.deadline()).await;
        answer.unwrap();
    }
}

#[tokio::test]
async fn what_was_never_sent_says_so() {
    // Nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = micro_core::url::resolve(&format!("redis://127.0.0.1:{port}")).unwrap();
    let config = RedisConfig::from_url(&url).unwrap();
    let connection = Connection::open(config, &random()).unwrap();
    let err = connection.link(soon()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    assert!(err.is_unprocessed() && err.is_retryable(), "{err:?}");
}

#[tokio::test]
async fn a_greeting_is_done_before_anybody_gets_the_link() {
    let Some(config) = plain() else { return };
    let key = fresh();
    let greeted = key.clone();
    let greeting: Greeting = Arc::new(move |link| {
        let mut greet = cmd("SET");
        greet.arg(&greeted).arg("hello").arg("PX").arg(10_000);
        Box::pin(async move { link.call(&greet, Effect::Change, soon()).await.map(drop) })
    });
    let connection = Connection::open_greeted(config.clone(), &random(), greeting).unwrap();
    let mut get = cmd("GET");
    get.arg(&key);
    let answer = connection.ask(&get, connection.deadline()).await;
    assert_eq!(answer.unwrap(), Value::BulkString("hello".into()));
    let refusing: Greeting = Arc::new(|_| {
        let err = Error::failed_precondition("not this one").with_context("why", "no");
        Box::pin(std::future::ready(Err(err)))
    });
    let connection = Connection::open_greeted(config, &random(), refusing).unwrap();
    let begin = Instant::now();
    let err = connection.link(begin + PATIENCE).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err:?}");
    assert!(err.to_string().contains("not this one") && err.to_string().contains("why: no"));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn scripts_run_whether_redis_knows_them_or_not() {
    let Some(config) = plain() else { return };
    let connection = Connection::open(config, &random()).unwrap();
    let link = connection.link(connection.deadline()).await.unwrap();
    // Unknown to any server, since it has never been run before.
    let text = format!("return ARGV[1] .. '{}'", fresh());
    let script = Script::new(Box::leak(text.into_boxed_str()));
    for _ in 0..2 {
        let mut invocation = script.invocation();
        invocation.arg(0).arg("a\0");
        let answer = link.run(&script, &invocation, Effect::Change, connection.deadline());
        let Value::BulkString(answer) = answer.await.unwrap() else {
            panic!("the script gives text");
        };
        assert!(answer.starts_with(b"a\0{t"));
    }
    let script = Script::new("return redis.call('NONSENSE')");
    for (effect, kind) in [
        (Effect::Nothing, ErrorKind::Internal),
        (Effect::Change, ErrorKind::OutcomeUnknown),
    ] {
        let mut invocation = script.invocation();
        invocation.arg(0);
        let answer = link.run(&script, &invocation, effect, connection.deadline());
        assert_eq!(answer.await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn many_calls_share_a_connection_and_dropped_ones_disturb_nobody() {
    let Some(config) = plain() else { return };
    let connection = Connection::open(config, &random()).unwrap();
    let calls: Vec<_> = (0..2000)
        .map(|i| {
            let connection = connection.clone();
            tokio::spawn(async move {
                let mut echo = cmd("ECHO");
                echo.arg(i);
                let answer = connection.ask(&echo, connection.deadline());
                if i % 3 == 0 {
                    // Some are dropped on the way.
                    let _ = timeout(Duration::from_micros(i), answer).await;
                } else {
                    let expected = Value::BulkString(i.to_string().into());
                    assert_eq!(answer.await.unwrap(), expected);
                }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("each gets its own answer");
    }
    let link = connection.link(connection.deadline()).await.unwrap();
    assert_eq!(link.epoch(), 1, "all of them over the first connection");
}

#[tokio::test]
async fn a_connection_that_nobody_has_is_closed() {
    let Some(mut config) = plain() else { return };
    config.name = format!("n{:016x}", SystemRandom.next_u64());
    let watcher = Connection::open(plain().unwrap(), &random()).unwrap();
    let name = config.name.clone();
    let listed = async || {
        let mut list = cmd("CLIENT");
        list.arg("LIST");
        match watcher.ask(&list, watcher.deadline()).await.unwrap() {
            Value::BulkString(list) => String::from_utf8_lossy(&list).contains(&name),
            other => panic!("{other:?}"),
        }
    };
    let connection = Connection::open(config, &random()).unwrap();
    connection.link(connection.deadline()).await.unwrap();
    assert!(listed().await);
    drop(connection);
    let begin = Instant::now();
    while listed().await {
        assert!(begin.elapsed() < PATIENCE, "it is still there");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_subscription_tells_its_reader_when_it_was_too_slow() {
    const MESSAGE: usize = 4 << 20;
    let Some(config) = plain() else { return };
    let channel = fresh();
    let connection = Connection::open(config.clone(), &random()).unwrap();
    let publish = async |message: &[u8]| {
        let mut publish = cmd("PUBLISH");
        publish.arg(&channel).arg(message);
        connection.ask(&publish, connection.deadline()).await
    };
    let mut quick = Subscription::open(&config, channel.as_bytes())
        .await
        .unwrap();
    let mut slow = Subscription::open(&config, channel.as_bytes())
        .await
        .unwrap();
    // More than the 64 MiB that may wait, each read before the next by one of them. Slowly enough for
    // Redis, which cuts off who does not take what it sends.
    for i in 0..20_u8 {
        let message = vec![i; MESSAGE];
        publish(&message).await.unwrap();
        let got = timeout(PATIENCE, quick.next()).await.unwrap();
        assert!(got.unwrap().unwrap() == message);
        sleep(Duration::from_millis(20)).await;
    }
    let mut got = 0;
    let err = loop {
        match timeout(PATIENCE, slow.next()).await.unwrap().unwrap() {
            Ok(message) => assert!(message.len() == MESSAGE && message[0] == got),
            Err(err) => break err,
        }
        got += 1;
    };
    assert_eq!(err.kind(), ErrorKind::Aborted, "{err:?}");
    assert!((10..20).contains(&got), "{got} messages had room");
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_subscription_notices_a_server_that_has_fallen_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = RedisConfig::default();
    config.endpoint = listener.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
        socket.write_all(confirmed).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut messages = Subscription::open(&config, b"c").await.unwrap();
    let begin = Instant::now();
    // From now on, time passes when nothing else happens.
    tokio::time::pause();
    let err = messages.next().await.unwrap().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    let waited = begin.elapsed();
    assert!(
        waited >= Duration::from_secs(10) && waited <= Duration::from_secs(17),
        "{waited:?}"
    );
    assert!(messages.next().await.is_none());
    silent.abort();
}

#[tokio::test]
async fn tls_and_the_password_are_checked_on_both_sides() {
    let Some(config) = tls() else { return };
    let connection = Connection::open(config.clone(), &random()).unwrap();
    connection.link(connection.deadline()).await.unwrap();

    let mut wrong = config.clone();
    wrong.password = Some(Secret::new("hunter3"));
    let connection = Connection::open(wrong, &random()).unwrap();
    let err = connection.link(connection.deadline()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
    assert!(!format!("{err:?}{connection:?}").contains("hunter3"));

    let mut nobody = config.clone();
    (nobody.username, nobody.password) = (None, None);
    let connection = Connection::open(nobody, &random()).unwrap();
    let err = connection.link(connection.deadline()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");

    // An authority that has nothing to do with the server.
    let mut stranger = config.clone();
    let authority = micro_tls::dev::Authority::new("stranger").unwrap();
    stranger.ca = Some(authority.pem().to_owned());
    let connection = Connection::open(stranger, &random()).unwrap();
    let err = connection.link(soon()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    assert!(err.to_string().contains("TLS with Redis fails"), "{err:?}");

    let mut missing = config;
    missing.ca = Some("/nowhere/ca.crt".to_owned());
    let connection = Connection::open(missing, &random()).unwrap();
    let err = connection.link(connection.deadline()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
}
