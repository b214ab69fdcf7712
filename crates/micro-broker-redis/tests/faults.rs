//! Bad days: servers and members that end, room that runs out, entries of others.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use micro_broker_core::{
    Backoff, Broker as _, Context, Delivery, Durability, Env, Error, ErrorKind, Group, Message,
    Reach, Receipt, Result, Start, SubscribeOptions, Subscription, Topic, handler,
};
use micro_broker_redis::{RedisBroker, RedisBrokerConfig};
use micro_core::{Clock as _, Random, SeededRandom, SystemClock, SystemRandom};
use micro_redis::redis::{Cmd, Value, cmd};
use micro_redis::{Connection, RedisConfig};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use common::Redis;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// With a log that is synced before each answer.
const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

async fn try_open(url: &str) -> Result<RedisBroker> {
    let config = RedisBrokerConfig::from_url(&micro_core::url::resolve(url)?)?;
    RedisBroker::open(config, &Env::new()).await
}

/// Opens a broker; a server that was just started is waited for.
async fn open(url: &str) -> RedisBroker {
    let begin = Instant::now();
    loop {
        match try_open(url).await {
            Ok(broker) => return broker,
            Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Says something to a server behind the broker's back.
struct Operator(Connection);

impl Operator {
    fn of(server: &Redis) -> Self {
        let url = micro_core::url::resolve(&server.url()).unwrap();
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        Self(Connection::open(RedisConfig::from_url(&url).unwrap(), &random).unwrap())
    }

    async fn say(&self, words: &[&str]) -> Value {
        let mut command: Cmd = cmd(words[0]);
        command.arg(&words[1..]);
        self.0.ask(&command, self.0.deadline()).await.unwrap()
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn member(group: &str) -> SubscribeOptions {
    SubscribeOptions::default()
        .with_group(Group::new(group).unwrap())
        .with_backoff(Backoff::new(
            Duration::from_millis(20),
            Duration::from_millis(100),
        ))
}

async fn say(broker: &RedisBroker, name: &str, text: &str) -> Result<Receipt> {
    let message = Message::new(topic(name), text.to_owned());
    broker
        .publish(&Context::new(), message, Default::default())
        .await
}

struct Inbox {
    arrived: mpsc::UnboundedReceiver<Delivery>,
    _subscription: Subscription,
}

impl Inbox {
    async fn at(broker: &RedisBroker, name: &str, opts: SubscribeOptions) -> Self {
        let (tell, arrived) = mpsc::unbounded_channel();
        let handle = handler(move |_, delivery| {
            let _ = tell.send(delivery);
            std::future::ready(Ok(()))
        });
        let subscribed = broker.subscribe(&topic(name), opts, handle).await;
        Self {
            arrived,
            _subscription: subscribed.unwrap(),
        }
    }

    #[track_caller]
    fn next(&mut self) -> impl Future<Output = Delivery> + '_ {
        let at = std::panic::Location::caller();
        async move {
            let next = timeout(PATIENCE, self.arrived.recv()).await;
            next.unwrap_or_else(|_| panic!("nothing arrived, at {at}"))
                .unwrap()
        }
    }
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message().body).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often, if nobody says otherwise: campaigns take longer than tests.
fn number(variable: &str, usual: usize) -> usize {
    let said = std::env::var(variable).ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_what_was_acknowledged_is_delivered_whenever_the_server_is_killed() {
    const PUBLISHERS: usize = 4;
    const MEMBERS: usize = 4;
    let rounds = number("MICRO_REDIS_KILLS", 8);
    let Some(mut redis) = Redis::start("faults", SAFE) else {
        return;
    };
    let seed = SystemRandom.next_u64();
    let random = SeededRandom::new(seed);
    let broker = open(&format!("{}?timeout=2s", redis.url())).await;
    assert_eq!(broker.capabilities().durability, Durability::Power);
    // How often each was handled.
    let handled = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        let handled = Arc::clone(&handled);
        let handle = handler(move |_, delivery| {
            *lock(&handled).entry(delivery.id().to_owned()).or_default() += 1;
            std::future::ready(Ok(()))
        });
        // The usual deadline is longer than we wait: nobody waits for a lease to end.
        let opts = member("g").with_max_deliveries(1000);
        members.push(broker.subscribe(&topic("t"), opts, handle).await.unwrap());
    }
    let (mut acked, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..rounds {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let broker = broker.clone();
                tokio::spawn(async move {
                    let mut acked = Vec::new();
                    for i in 0.. {
                        let id = format!("{round}-{publisher}-{i}");
                        let key = format!("k{}", i % 16);
                        let message = Message::new(topic("t"), "x").with_id(&*id).with_key(key);
                        let cx = Context::new();
                        match broker.publish(&cx, message, Default::default()).await {
                            Ok(receipt) => {
                                let Reach::Stored { durability, .. } = receipt.reach else {
                                    panic!("{receipt:?}");
                                };
                                assert_eq!(durability, Durability::Power);
                                acked.push(id);
                            }
                            Err(err) => {
                                let unknown = err.kind() == ErrorKind::OutcomeUnknown;
                                assert!(unknown || err.is_unprocessed(), "{err:?}");
                                return (acked, unknown.then_some(id));
                            }
                        }
                    }
                    unreachable!("it is killed")
                })
            })
            .collect();
        sleep(Duration::from_millis(100 + random.next_u64() % 200)).await;
        redis.kill();
        for publisher in publishers {
            let (told, not) = publisher.await.expect("a publisher knows what happened");
            acked.extend(told);
            unknown.extend(not);
        }
        redis.restart();
        let begin = Instant::now();
        while say(&broker, "other", "x").await.is_err() {
            assert!(begin.elapsed() < PATIENCE, "round {round}, seed {seed}");
        }
    }
    let begin = Instant::now();
    let missing = || {
        let handled = lock(&handled);
        acked.iter().filter(|id| !handled.contains_key(*id)).count()
    };
    while missing() > 0 {
        assert!(
            begin.elapsed() < PATIENCE,
            "{} of {} are lost, seed {seed}",
            missing(),
            acked.len()
        );
        sleep(Duration::from_millis(50)).await;
    }
    let handled = lock(&handled);
    let known = |id: &String| acked.contains(id) || unknown.contains(id);
    assert!(handled.keys().all(known), "there are phantoms");
    let again: usize = handled.values().map(|times| times - 1).sum();
    common::figure(&format!(
        "kills={rounds} acked={} lost=0 unknown={} delivered={} again={again} phantoms=0 seed={seed}",
        acked.len(),
        unknown.len(),
        handled.len()
    ));
    assert!(acked.len() > rounds * PUBLISHERS);
}

#[test]
fn f4_what_a_crashed_member_had_goes_to_another_and_its_key_waits() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let deadline = Duration::from_millis(700);
    let opts = || member("g").with_ack_deadline(deadline).with_concurrency(4);
    // It is gone at once, as a process that is killed: nothing is told to Redis.
    let crashing = runtime();
    let begun = Arc::new(Notify::new());
    let told = Arc::clone(&begun);
    let url = redis.url();
    let subscription = crashing.block_on(async {
        let broker = open(&url).await;
        let stuck = handler(move |_, _| {
            told.notify_one();
            std::future::pending()
        });
        let subscription = broker.subscribe(&topic("t"), opts(), stuck).await.unwrap();
        let keyed = |text: &str| Message::new(topic("t"), text.to_owned()).with_key("k");
        for text in ["first", "second"] {
            broker
                .publish(&Context::new(), keyed(text), Default::default())
                .await
                .unwrap();
        }
        begun.notified().await;
        subscription
    });
    crashing.shutdown_background();
    let crashed = SystemClock.now();
    drop(subscription);
    runtime().block_on(async {
        let broker = open(&url).await;
        let mut inbox = Inbox::at(&broker, "t", opts()).await;
        let first = inbox.next().await;
        assert_eq!((text(&first), first.deliveries()), ("first", 2));
        assert!(crashed.elapsed() < deadline + Duration::from_secs(1));
        let second = inbox.next().await;
        assert_eq!((text(&second), second.deliveries()), ("second", 1));
    });
}

#[tokio::test]
async fn s69_whoever_settles_an_older_delivery_is_not_heard() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&redis.url()).await;
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, released) = (Arc::clone(&begun), Arc::clone(&go));
    let handle = handler(move |_, _| {
        let (told, released) = (Arc::clone(&told), Arc::clone(&released));
        async move {
            told.notify_one();
            released.notified().await;
            Ok(())
        }
    });
    let slow = broker
        .subscribe(&topic("t"), member("g"), handle)
        .await
        .unwrap();
    let _other = Inbox::at(&broker, "t", member("h")).await;
    let offset = say(&broker, "t", "x").await.unwrap().offset.unwrap();
    begun.notified().await;
    // It is delivered to another meanwhile.
    let id = format!("{}-{}", offset >> 20, offset & 0xf_ffff);
    let operator = Operator::of(&redis);
    operator
        .say(&["XCLAIM", "{micro-broker}:s::t", "g", "micro", "0", &id])
        .await;
    go.notify_one();
    sleep(Duration::from_millis(200)).await;
    let pending = operator
        .say(&["XPENDING", "{micro-broker}:s::t", "g"])
        .await;
    let Value::Array(parts) = pending else {
        panic!("{pending:?}");
    };
    assert_eq!(parts[0], Value::Int(1), "it was acknowledged");
    drop(slow);
}

#[tokio::test]
async fn a_full_topic_refuses_until_its_slowest_group_has_handled() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&format!("{}?max_messages=40", redis.url())).await;
    let quick = Inbox::at(&broker, "t", member("quick")).await;
    let slow = Inbox::at(&broker, "t", member("slow")).await;
    drop(slow);
    sleep(Duration::from_millis(200)).await;
    for i in 0..40 {
        say(&broker, "t", &i.to_string()).await.unwrap();
    }
    let err = say(&broker, "t", "too much").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    assert!(format!("{err:?}").contains("slow"), "{err:?}");
    say(&broker, "other", "x").await.unwrap();
    let mut slow = Inbox::at(&broker, "t", member("slow").with_concurrency(1)).await;
    for i in 0..40 {
        assert_eq!(text(&slow.next().await), i.to_string());
    }
    // What is retained makes room for what is new, and what is new is not lost.
    sleep(Duration::from_millis(200)).await;
    for i in 40..200 {
        say(&broker, "t", &i.to_string()).await.unwrap();
        assert_eq!(text(&slow.next().await), i.to_string());
        sleep(Duration::from_millis(2)).await;
    }
    let from = SubscribeOptions::default()
        .with_start(Start::Oldest)
        .with_concurrency(1);
    let mut again = Inbox::at(&broker, "t", from).await;
    let oldest: usize = text(&again.next().await).parse().unwrap();
    assert!((100..200).contains(&oldest), "{oldest}");
    drop(quick);
}

#[tokio::test]
async fn a_full_redis_refuses_messages_and_lets_handle() {
    let args = ["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"];
    let Some(redis) = Redis::start("faults", &args) else {
        return;
    };
    let broker = open(&format!("{}?retain=0s", redis.url())).await;
    drop(Inbox::at(&broker, "t", member("g")).await);
    sleep(Duration::from_millis(200)).await;
    let large = "x".repeat(200_000);
    let mut published = 0;
    let err = loop {
        match say(&broker, "t", &large).await {
            Ok(_) => published += 1,
            Err(err) => break err,
        }
        assert!(published < 100, "it is never full");
    };
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    // Its members come to it all the same, and one that fails has its dead letters.
    let (tell, mut arrived) = mpsc::unbounded_channel();
    let handle = handler(move |_, _| {
        let _ = tell.send(());
        std::future::ready(Err(Error::internal("no")))
    });
    let opts = member("g").with_max_deliveries(2);
    let _members = broker.subscribe(&topic("t"), opts, handle).await.unwrap();
    for _ in 0..2 * published {
        timeout(PATIENCE, arrived.recv()).await.unwrap().unwrap();
    }
    let begin = Instant::now();
    while let Err(err) = say(&broker, "t", "again").await {
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
        assert!(begin.elapsed() < PATIENCE, "it stays full");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn members_go_on_when_redis_has_lost_everything() {
    let Some(mut redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&redis.url()).await;
    assert_eq!(broker.capabilities().durability, Durability::Memory);
    let mut grouped = Inbox::at(&broker, "t", member("g")).await;
    let mut alone = Inbox::at(&broker, "t", SubscribeOptions::default()).await;
    say(&broker, "t", "before").await.unwrap();
    assert_eq!(text(&grouped.next().await), "before");
    assert_eq!(text(&alone.next().await), "before");
    redis.kill();
    redis.restart();
    let begin = Instant::now();
    while say(&broker, "t", "after").await.is_err() {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert_eq!(text(&grouped.next().await), "after");
    assert_eq!(text(&alone.next().await), "after");
}

#[tokio::test]
async fn f8_an_id_is_known_across_a_restart() {
    let Some(mut redis) = Redis::start("faults", SAFE) else {
        return;
    };
    let broker = open(&redis.url()).await;
    let message = || Message::new(topic("t"), "x").with_id("1");
    let publish = async || {
        broker
            .publish(&Context::new(), message(), Default::default())
            .await
    };
    let first = publish().await.unwrap();
    redis.kill();
    redis.restart();
    let begin = Instant::now();
    let again = loop {
        match publish().await {
            Ok(again) => break again,
            Err(err) => assert!(begin.elapsed() < PATIENCE, "{err:?}"),
        }
    };
    assert!(again.duplicate && !first.duplicate);
    assert_eq!(first.offset, again.offset);
}

#[tokio::test]
async fn what_others_add_is_a_message_or_a_dead_letter() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&redis.url()).await;
    let operator = Operator::of(&redis);
    let mut inbox = Inbox::at(&broker, "t", member("g")).await;
    let mut dead = Inbox::at(&broker, "t.g.dead", member("u")).await;
    let stream = "{micro-broker}:s::t";
    operator
        .say(&["XADD", stream, "*", "micro-body", "tea", "tenant", "acme"])
        .await;
    let delivery = inbox.next().await;
    assert_eq!(text(&delivery), "tea");
    assert_eq!(delivery.message().metadata.get("tenant"), Some("acme"));
    assert!(!delivery.id().is_empty());
    operator
        .say(&["XADD", stream, "*", "micro-body", "tea", "micro-hops", "99"])
        .await;
    let delivery = dead.next().await;
    let why = delivery.message().dead_letter.clone().unwrap();
    assert!(why.reason.starts_with("INVALID_ARGUMENT"), "{why:?}");
    // Keys that would be mistaken for others' places do no harm.
    for key in ["a", "a\0b", "a\nb", "a\u{1}", "ä"] {
        operator
            .say(&["XADD", stream, "*", "micro-body", "x", "micro-key", key])
            .await;
    }
    assert_eq!(text(&inbox.next().await), "x");
    for _ in 0..4 {
        dead.next().await;
    }
    // One that is deleted before it was handled is not waited for, nor is its key.
    drop(inbox);
    sleep(Duration::from_millis(200)).await;
    let add = ["XADD", stream, "*", "micro-body", "x", "micro-key", "k"];
    let Value::BulkString(id) = operator.say(&add).await else {
        panic!("it has an id");
    };
    operator
        .say(&["XDEL", stream, std::str::from_utf8(&id).unwrap()])
        .await;
    operator.say(&add).await;
    let mut inbox = Inbox::at(&broker, "t", member("g")).await;
    assert_eq!(text(&inbox.next().await), "x");
}

#[tokio::test]
async fn a_subscriber_that_is_not_heard_of_is_buried_and_told() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&format!("{}?max_messages=8", redis.url())).await;
    let operator = Operator::of(&redis);
    let inbox = Inbox::at(&broker, "t", SubscribeOptions::default()).await;
    let groups = "{micro-broker}:g::t";
    let Value::Array(names) = operator.say(&["ZRANGE", groups, "0", "-1"]).await else {
        panic!("it has a group");
    };
    let Value::BulkString(name) = &names[0] else {
        panic!("it has a name");
    };
    // As if it had been silent for a minute.
    operator
        .say(&["ZADD", groups, "1", std::str::from_utf8(name).unwrap()])
        .await;
    for _ in 0..9 {
        say(&broker, "t", "x").await.unwrap();
    }
    let ended = timeout(PATIENCE, inbox._subscription.ended())
        .await
        .unwrap();
    assert_eq!(ended.kind(), ErrorKind::Aborted, "{ended:?}");
    assert_eq!(
        operator.say(&["ZCARD", groups]).await,
        Value::Int(0),
        "nobody is left"
    );
}

#[tokio::test]
async fn whoever_leaves_leaves_nothing() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    let broker = open(&format!("{}?retain=0s", redis.url())).await;
    let operator = Operator::of(&redis);
    let mut alone = Inbox::at(&broker, "t", SubscribeOptions::default()).await;
    let mut grouped = Inbox::at(&broker, "t", member("g")).await;
    for i in 0..10 {
        let message = Message::new(topic("t"), i.to_string()).with_key("k");
        broker
            .publish(&Context::new(), message, Default::default())
            .await
            .unwrap();
        alone.next().await;
        grouped.next().await;
    }
    drop((alone, grouped));
    sleep(Duration::from_millis(300)).await;
    let group = Group::new("g").unwrap();
    assert!(
        broker
            .remove_group(&topic("t"), &group, Default::default())
            .await
            .unwrap()
    );
    let left = operator.say(&["KEYS", "*"]).await;
    let mark = Value::BulkString(b"{micro-broker}:x::t:g".to_vec());
    assert_eq!(left, Value::Array(vec![mark]));
}

#[tokio::test]
async fn who_may_not_is_told_at_once_and_without_the_password() {
    let Some(redis) = Redis::start("faults", &[]) else {
        return;
    };
    open(&redis.url()).await;
    let operator = Operator::of(&redis);
    let rights = "on >hunter2 resetkeys ~{*}:* resetchannels -@all +ping +info +get +set +exists +unlink +pexpire +persist +time +eval +evalsha +xadd +xlen +xtrim +xinfo|groups +xgroup|create +xgroup|destroy +xreadgroup +xpending +xclaim +zadd +zrem +zcard +zscore +zrange +zrangebyscore +zrangebylex +hget +hset +hdel +llen +lpush +blpop";
    let mut words = vec!["ACL", "SETUSER", "narrow"];
    words.extend(rights.split(' '));
    operator.say(&words).await;
    let url = |user: &str| redis.url().replace("//", &format!("//{user}@"));
    let err = try_open(&url("narrow:hunter3")).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unauthenticated, "{err:?}");
    let err = try_open(&url("narrow:hunter2")).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
    operator.say(&["ACL", "SETUSER", "narrow", "+xack"]).await;
    let broker = open(&url("narrow:hunter2")).await;
    let mut inbox = Inbox::at(&broker, "t", member("g")).await;
    say(&broker, "t", "x").await.unwrap();
    inbox.next().await;
    assert!(!format!("{broker:?}").contains("hunter2"), "{broker:?}");
}
