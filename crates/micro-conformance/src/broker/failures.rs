//! Handlers that fail, and what becomes of their messages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use micro_broker_core::{
    Backoff, DeadLetters, Delivery, Error, ErrorKind, Handler, Message, NackExt as _,
    PublishOptions, Result, handler,
};
use tokio::time::{Instant, sleep};

use super::{
    BEHIND, Backend, Cases, Inbox, PATIENCE, eventually, member, on_one_handle, publish, quick,
    say, subscribe, text, topic,
};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_failure_is_delivered_again,
        a_panic_is_delivered_again,
        the_handler_may_say_when,
        after_the_last_delivery_it_is_a_dead_letter,
        a_rejected_message_is_a_dead_letter_at_once,
        dead_letters_go_where_the_subscriber_says,
        a_failing_group_troubles_no_other,
        s68_a_poison_message_holds_up_no_other,
        s68_messages_in_a_circle_come_to_an_end,
        a_handler_that_is_too_slow_is_delivered_again,
        progress_keeps_a_slow_handler_s_message,
        a_message_that_is_too_late_is_a_dead_letter,
    ]
}

fn no() -> Result<()> {
    Err(Error::internal("no"))
}

async fn a_failure_is_delivered_again(broker: Backend) {
    let fail_twice = |delivery: &Delivery| {
        if delivery.deliveries() < 3 {
            no()
        } else {
            Ok(())
        }
    };
    let (handle, mut inbox) = Inbox::answering(fail_twice);
    let _subscription = subscribe(&broker, "orders", member("g"), handle).await;
    let id = say(&broker, "orders", "x").await.id;
    for time in 1..=3 {
        let delivery = inbox.next().await;
        assert_eq!((delivery.id(), delivery.deliveries()), (&*id, time));
        assert_eq!(text(&delivery), "x");
    }
    inbox.silent().await;
}

async fn a_panic_is_delivered_again(broker: Backend) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let handle = handler(move |_, _| {
        let call = count.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(call > 0, "the first one panics, as it is to");
            Ok(())
        }
    });
    let _subscription = subscribe(&broker, "orders", member("g"), handle).await;
    say(&broker, "orders", "x").await;
    eventually("a second delivery", || calls.load(Ordering::SeqCst) == 2).await;
    sleep(BEHIND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

async fn the_handler_may_say_when(broker: Backend) {
    let pause = Duration::from_millis(400);
    // The handler's own clock: this test hears of it later.
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let (handle, mut inbox) = Inbox::answering(move |delivery| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Instant::now());
        match delivery.deliveries() {
            1 => Err(Error::unavailable("later").retry_in(pause)),
            _ => Ok(()),
        }
    });
    let backoff = Backoff::new(Duration::from_secs(20), Duration::from_secs(20));
    let opts = member("g").with_backoff(backoff);
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    say(&broker, "orders", "x").await;
    inbox.next().await;
    assert_eq!(inbox.next().await.deliveries(), 2);
    let taken = {
        let times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times[1] - times[0]
    };
    assert!(
        taken >= pause.mul_f32(0.8) && taken < Duration::from_secs(10),
        "{taken:?}"
    );
}

async fn after_the_last_delivery_it_is_a_dead_letter(broker: Backend) {
    let (handle, mut inbox) = Inbox::answering(|_| no());
    let opts = member("g").with_max_deliveries(2);
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    let mut dead = Inbox::at(&broker, "orders.g.dead", member("undertaker")).await;
    let message = Message::new(topic("orders"), "poison")
        .with_id("id-1")
        .with_key("k")
        .with_content_type("text/plain")
        .with_metadata("tenant", "acme")
        .expect("the header is good");
    publish(&broker, message.clone()).await;
    assert_eq!(inbox.next().await.deliveries(), 1);
    assert_eq!(inbox.next().await.deliveries(), 2);
    let delivery = dead.next().await;
    let letter = delivery.message();
    assert_eq!(
        (letter.topic.as_str(), delivery.deliveries()),
        ("orders.g.dead", 1)
    );
    assert_eq!((delivery.id(), &letter.body), ("id-1", &message.body));
    assert_eq!(
        (&letter.key, &letter.content_type),
        (&message.key, &message.content_type)
    );
    assert_eq!(letter.metadata, message.metadata);
    let why = letter.dead_letter.as_ref().expect("it says why");
    assert_eq!((why.topic.as_str(), why.deliveries), ("orders", 2));
    assert_eq!(why.group.as_ref().map(|group| group.as_str()), Some("g"));
    assert_eq!(why.reason, "INTERNAL: no");
    inbox.silent().await;
    dead.silent().await;
}

async fn a_rejected_message_is_a_dead_letter_at_once(broker: Backend) {
    let reject = |_: &Delivery| Err(Error::invalid_argument("no customer").reject());
    let (handle, mut inbox) = Inbox::answering(reject);
    let _subscription = subscribe(&broker, "orders", member("g"), handle).await;
    let mut dead = Inbox::at(&broker, "orders.g.dead", quick()).await;
    say(&broker, "orders", "x").await;
    inbox.next().await;
    let delivery = dead.next().await;
    let why = delivery.message().dead_letter.clone().expect("it says why");
    assert_eq!(
        (&*why.reason, why.deliveries),
        ("INVALID_ARGUMENT: no customer", 1)
    );
    inbox.silent().await;
}

async fn dead_letters_go_where_the_subscriber_says(broker: Backend) {
    let mut dead = Inbox::at(&broker, "graveyard", quick()).await;
    let mut usual = Inbox::at(&broker, "orders.dead", quick()).await;
    let fatal = || quick().with_max_deliveries(1);
    let (handle, mut inbox) = Inbox::answering(|_| no());
    let opts = fatal().with_dead_letters(DeadLetters::To(topic("graveyard")));
    let told = subscribe(&broker, "orders", opts, handle).await;
    say(&broker, "orders", "x").await;
    inbox.next().await;
    assert_eq!(text(&dead.next().await), "x");
    drop(told);
    sleep(BEHIND).await;
    let (handle, mut inbox) = Inbox::answering(|_| no());
    let opts = fatal().with_dead_letters(DeadLetters::Nowhere);
    let untold = subscribe(&broker, "orders", opts, handle).await;
    say(&broker, "orders", "y").await;
    inbox.next().await;
    inbox.silent().await;
    drop(untold);
    sleep(BEHIND).await;
    let (handle, _inbox) = Inbox::answering(|_| no());
    let _subscription = subscribe(&broker, "orders", fatal(), handle).await;
    say(&broker, "orders", "z").await;
    assert_eq!(text(&usual.next().await), "z");
    dead.silent().await;
}

async fn a_failing_group_troubles_no_other(broker: Backend) {
    let (handle, mut failing) = Inbox::answering(|_| no());
    let opts = member("bad").with_max_deliveries(2);
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    let mut good = Inbox::at(&broker, "orders", member("good")).await;
    let mut dead = Inbox::at(&broker, "orders.bad.dead", quick()).await;
    let mut none = Inbox::at(&broker, "orders.good.dead", quick()).await;
    say(&broker, "orders", "x").await;
    assert_eq!(good.next().await.deliveries(), 1);
    failing.texts(2).await;
    dead.next().await;
    good.silent().await;
    none.silent().await;
}

/// Also those of its key go on.
async fn s68_a_poison_message_holds_up_no_other(broker: Backend) {
    let (handle, mut inbox) = Inbox::answering(|delivery| {
        if text(delivery) == "poison" {
            no()
        } else {
            Ok(())
        }
    });
    let backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(2));
    let opts = member("g")
        .with_concurrency(1)
        .with_backoff(backoff)
        .with_max_deliveries(3);
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    let begin = Instant::now();
    let keyed = |text: &str| Message::new(topic("orders"), text.to_owned()).with_key("k");
    publish(&broker, keyed("poison")).await;
    for i in 0..10 {
        publish(&broker, keyed(&i.to_string())).await;
    }
    let mut others = 0;
    while others < 10 {
        if text(&inbox.next().await) != "poison" {
            others += 1;
        }
    }
    assert!(
        begin.elapsed() < Duration::from_millis(1900),
        "{:?}",
        begin.elapsed()
    );
}

async fn s68_messages_in_a_circle_come_to_an_end(broker: Backend) {
    let calls = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let (count, no_more) = (Arc::clone(&calls), Arc::clone(&refused));
    // Two services that answer each other.
    let to = |name: &'static str| -> Arc<dyn Handler> {
        let (count, no_more) = (Arc::clone(&count), Arc::clone(&no_more));
        let broker = Arc::clone(&broker);
        handler(move |cx, _| {
            let (count, no_more) = (Arc::clone(&count), Arc::clone(&no_more));
            let broker = Arc::clone(&broker);
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = Message::new(topic(name), "answer");
                match broker.publish(&cx, answer, PublishOptions::default()).await {
                    Ok(_) => {}
                    Err(err) if err.kind() == ErrorKind::FailedPrecondition => {
                        no_more.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(err) => panic!("answering failed: {err:?}"),
                }
                Ok(())
            }
        })
    };
    let ping = subscribe(&broker, "ping", member("g"), to("pong")).await;
    let pong = subscribe(&broker, "pong", member("g"), to("ping")).await;
    say(&broker, "ping", "question").await;
    eventually("the end of the circle", || {
        refused.load(Ordering::SeqCst) > 0
    })
    .await;
    sleep(BEHIND).await;
    let calls = calls.load(Ordering::SeqCst);
    assert!((17..=20).contains(&calls), "{calls} deliveries");
    drop((ping, pong));
}

async fn a_handler_that_is_too_slow_is_delivered_again(broker: Backend) {
    let calls = Arc::new(AtomicUsize::new(0));
    let ends = Arc::new(AtomicUsize::new(0));
    let (call, end) = (Arc::clone(&calls), Arc::clone(&ends));
    let handle = handler(move |_, _| {
        let (first, end) = (call.fetch_add(1, Ordering::SeqCst) == 0, Arc::clone(&end));
        async move {
            if first {
                sleep(PATIENCE).await;
            }
            end.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let opts = member("g").with_ack_deadline(Duration::from_millis(200));
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    let begin = Instant::now();
    say(&broker, "orders", "x").await;
    eventually("a second delivery", || ends.load(Ordering::SeqCst) == 1).await;
    assert!(begin.elapsed() < Duration::from_millis(200) + Duration::from_secs(2));
    sleep(BEHIND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

async fn progress_keeps_a_slow_handler_s_message(broker: Backend) {
    let calls = Arc::new(AtomicUsize::new(0));
    let ends = Arc::new(AtomicUsize::new(0));
    let (call, end) = (Arc::clone(&calls), Arc::clone(&ends));
    let handle = handler(move |_, delivery| {
        call.fetch_add(1, Ordering::SeqCst);
        let end = Arc::clone(&end);
        async move {
            for _ in 0..12 {
                sleep(Duration::from_millis(100)).await;
                delivery.progress();
            }
            end.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let opts = member("g").with_ack_deadline(Duration::from_millis(500));
    let _subscription = subscribe(&broker, "orders", opts, handle).await;
    say(&broker, "orders", "x").await;
    eventually("the handler's end", || ends.load(Ordering::SeqCst) == 1).await;
    sleep(Duration::from_millis(700)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

async fn a_message_that_is_too_late_is_a_dead_letter(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    let mut dead = Inbox::at(&broker, "orders.g.dead", quick()).await;
    let late = Message::new(topic("orders"), "x").with_deadline(SystemTime::UNIX_EPOCH);
    publish(&broker, late).await;
    let delivery = dead.next().await;
    let why = delivery.message().dead_letter.clone().expect("it says why");
    assert!(why.reason.starts_with("DEADLINE_EXCEEDED"), "{why:?}");
    // Else it would be late there, too.
    assert_eq!(delivery.message().deadline, None);
    inbox.silent().await;
}
