//! What is published, and what arrives.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use micro_broker_core::{Context, ErrorKind, Message, Metadata, PublishOptions, TraceContext};
use micro_core::{Clock as _, SeededRandom, SystemClock};

use super::{
    Backend, Cases, Inbox, PATIENCE, member, on_one_handle, publish, quick, refused, say, text,
    topic, try_publish,
};

pub(super) fn cases() -> Cases {
    on_one_handle![
        the_backend_s_name_is_a_url_scheme,
        a_message_arrives_whole,
        every_message_has_an_id_of_its_own,
        what_the_context_brings_travels,
        an_event_outlives_the_call_that_caused_it,
        any_bytes_are_a_body,
        large_bodies_arrive_and_too_large_ones_are_refused,
        bad_messages_are_refused_and_delivered_to_nobody,
        s67_what_belongs_to_the_broker_cannot_be_set,
        a_call_that_is_over_publishes_nothing,
        a_dropped_publish_leaves_the_broker_usable,
        the_same_id_is_published_once if dedup,
    ]
}

async fn the_backend_s_name_is_a_url_scheme(broker: Backend) {
    let name = broker.backend();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    assert!(
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain),
        "{name}"
    );
}

/// To the millisecond, as it travels.
fn in_an_hour() -> SystemTime {
    let since = SystemClock.wall().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.expect("the clock is set").as_millis() as u64;
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis + 3_600_000)
}

async fn a_message_arrives_whole(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let trace = TraceContext::root(&SeededRandom::new(1));
    let message = Message::new(topic("orders"), "tea")
        .with_id("order:1/a")
        .with_key("customer 7")
        .with_content_type("application/json; charset=utf-8")
        .with_metadata("tenant", "acme, \"inc\" \\ %41=&")
        .and_then(|message| message.with_metadata("raw-bin", [0, 255, 10, 13]))
        .expect("the headers are good")
        .with_deadline(in_an_hour())
        .with_trace(trace);
    let receipt = publish(&broker, message.clone()).await;
    assert_eq!(&*receipt.id, "order:1/a");
    assert!(!receipt.duplicate);
    let (cx, delivery) = inbox.next_with_context().await;
    assert_eq!((delivery.id(), delivery.deliveries()), ("order:1/a", 1));
    let mut arrived = delivery.message().clone();
    let time = arrived.time.take().expect("it has a time");
    let age = SystemClock.wall().duration_since(time).unwrap_or_default();
    assert!(age < PATIENCE, "{age:?}");
    assert_eq!(arrived, message);
    // The handler's context is of this message.
    assert_eq!(cx.trace(), Some(trace));
    assert_eq!(cx.metadata().get("tenant"), message.metadata.get("tenant"));
    let left = cx.remaining().expect("it has a deadline");
    assert!(
        left > Duration::from_secs(3500) && left <= Duration::from_secs(3600),
        "{left:?}"
    );
    assert!(cx.outgoing().is_empty() && cx.identity().is_none());
}

async fn every_message_has_an_id_of_its_own(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(say(&broker, "orders", "x").await.id.to_string());
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(inbox.next().await.id().to_owned());
    }
    told.sort();
    seen.sort();
    assert_eq!(told, seen);
    told.dedup();
    assert_eq!(told.len(), 3);
}

async fn what_the_context_brings_travels(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let trace = TraceContext::root(&SeededRandom::new(2)).with_sampled(true);
    let cx = Context::new()
        .with_trace(trace)
        .with_timeout(Duration::from_secs(50))
        .with_metadata("tenant", "acme")
        .expect("the header is good");
    let opts = PublishOptions::default().with_carry_deadline(true);
    let message = Message::new(topic("orders"), "x");
    broker
        .publish(&cx, message, opts)
        .await
        .expect("it is published");
    let (cx, delivery) = inbox.next_with_context().await;
    assert_eq!(cx.trace().map(|trace| trace.trace_id), Some(trace.trace_id));
    assert_eq!(cx.metadata().get("tenant"), Some("acme"));
    assert!(
        cx.remaining()
            .is_some_and(|left| left <= Duration::from_secs(50))
    );
    assert_eq!(delivery.message().metadata.get("tenant"), Some("acme"));
}

async fn an_event_outlives_the_call_that_caused_it(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let (cx, canceller) = Context::new().with_timeout(PATIENCE).with_cancel();
    let message = Message::new(topic("orders"), "x");
    broker
        .publish(&cx, message, PublishOptions::default())
        .await
        .expect("it is published");
    canceller.cancel();
    let (cx, delivery) = inbox.next_with_context().await;
    assert!(cx.deadline().is_none() && !cx.is_cancelled());
    assert_eq!(delivery.message().deadline, None);
}

async fn any_bytes_are_a_body(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g").with_concurrency(1)).await;
    let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for body in [
        Vec::new(),
        vec![0],
        b"\r\n\r\n+OK\r\nPUB x 1\r\n".to_vec(),
        all,
    ] {
        publish(&broker, Message::new(topic("orders"), body.clone())).await;
        let delivery = inbox.next().await;
        assert_eq!(delivery.message().body, body);
        assert_eq!(delivery.message().content_type, "application/octet-stream");
    }
}

async fn large_bodies_arrive_and_too_large_ones_are_refused(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let most = broker.capabilities().max_body;
    let large = Message::new(topic("orders"), vec![7; most + 1]);
    let err = refused(
        try_publish(&broker, large).await,
        ErrorKind::ResourceExhausted,
        "a large body",
    );
    assert!(!err.is_retryable());
    publish(&broker, Message::new(topic("orders"), vec![7; most])).await;
    assert_eq!(inbox.next().await.message().body.len(), most);
    inbox.silent().await;
}

async fn bad_messages_are_refused_and_delivered_to_nobody(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let message = || Message::new(topic("orders"), "x");
    let mut twice = message();
    twice.metadata.append("a", "1").expect("the header is good");
    twice.metadata.append("a", "2").expect("the header is good");
    for bad in [
        message().with_id(""),
        message().with_id("a b"),
        message().with_id("a\r\nb"),
        message().with_id("x".repeat(129)),
        message().with_key(""),
        message().with_key("ü"),
        message().with_key("x".repeat(257)),
        message().with_content_type("a\nb"),
        twice,
    ] {
        let shown = format!("{bad:?}");
        refused(
            try_publish(&broker, bad).await,
            ErrorKind::InvalidArgument,
            &shown,
        );
    }
    let wide = message().with_metadata("a", "x".repeat(Metadata::MAX_BYTES - 40));
    let wide = wide.expect("the header is good");
    refused(
        try_publish(&broker, wide).await,
        ErrorKind::ResourceExhausted,
        "a wide header",
    );
    inbox.silent().await;
}

async fn s67_what_belongs_to_the_broker_cannot_be_set(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    for name in [
        "micro-id",
        "micro-topic",
        "micro-delivery-no",
        "Micro-Hops",
        "traceparent",
    ] {
        let message = Message::new(topic("orders"), "x").with_metadata(name, "1");
        let message = message.expect("the header is good");
        refused(
            try_publish(&broker, message).await,
            ErrorKind::InvalidArgument,
            name,
        );
    }
    inbox.silent().await;
}

async fn a_call_that_is_over_publishes_nothing(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let late = Context::new().with_timeout(Duration::ZERO);
    let (gone, canceller) = Context::new().with_cancel();
    canceller.cancel();
    for (cx, kind) in [
        (late, ErrorKind::DeadlineExceeded),
        (gone, ErrorKind::Cancelled),
    ] {
        let message = Message::new(topic("orders"), "x");
        let published = broker
            .publish(&cx, message, PublishOptions::default())
            .await;
        refused(published, kind, "a call that is over");
    }
    inbox.silent().await;
}

/// Whatever became of the message.
async fn a_dropped_publish_leaves_the_broker_usable(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", quick()).await;
    for polls in 0..20 {
        let cx = Context::new();
        let message = Message::new(topic("orders"), "dropped").with_key("k");
        let mut publishing = pin!(broker.publish(&cx, message, PublishOptions::default()));
        for _ in 0..polls / 4 {
            let step = poll_fn(|task| Poll::Ready(publishing.as_mut().poll(task).is_ready()));
            if step.await {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    publish(&broker, Message::new(topic("orders"), "last").with_key("k")).await;
    while text(&inbox.next().await) != "last" {}
}

async fn the_same_id_is_published_once(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let mut other = Inbox::at(&broker, "bills", member("g")).await;
    let message = |name: &str, text: &'static str| Message::new(topic(name), text).with_id("id-1");
    assert!(!publish(&broker, message("orders", "first")).await.duplicate);
    assert_eq!(text(&inbox.next().await), "first");
    let again = publish(&broker, message("orders", "again")).await;
    assert!(again.duplicate && &*again.id == "id-1", "{again:?}");
    inbox.silent().await;
    // An id is one of its topic.
    assert!(!publish(&broker, message("bills", "x")).await.duplicate);
    other.next().await;
}
