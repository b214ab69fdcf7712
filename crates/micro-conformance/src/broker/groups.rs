//! Who gets what.

use std::sync::Arc;
use std::time::Duration;

use micro_broker_core::{
    DeadLetters, ErrorKind, MAX_CONCURRENCY, Reach, RemoveOptions, SubscribeOptions,
};

use super::{
    BEHIND, Backend, Cases, Inbox, Site, group, member, on_one_handle, quick, refused, say,
    subscribe, text, topic,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        a_group_shares_and_each_group_gets_all,
        subscribers_without_a_group_get_everything,
        nobody_being_there_is_said,
        a_receipt_says_for_how_many,
        topics_are_apart,
        s66_similar_topics_are_apart,
        what_is_published_after_subscribing_arrives,
        a_dropped_subscription_gets_nothing_more,
        bad_subscriptions_are_refused,
        a_lasting_group_gets_what_came_without_it if lasting_groups,
        a_removed_group_is_forgotten if lasting_groups,
    ];
    all.extend(cases![super::Needs;
        namespaces_are_apart,
        handles_of_one_place_meet,
    ]);
    all
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{i:03}")).collect()
}

async fn say_all(broker: &Backend, name: &str, texts: &[String]) {
    for text in texts {
        say(broker, name, text).await;
    }
}

async fn a_group_shares_and_each_group_gets_all(broker: Backend) {
    // Both members tell the same inbox.
    let (handle, mut shared) = Inbox::new();
    let _one = subscribe(&broker, "orders", member("a"), Arc::clone(&handle)).await;
    let _two = subscribe(&broker, "orders", member("a"), handle).await;
    let mut other = Inbox::at(&broker, "orders", member("b")).await;
    let sent = numbers(30);
    say_all(&broker, "orders", &sent).await;
    for inbox in [&mut shared, &mut other] {
        let mut arrived = inbox.texts(sent.len()).await;
        arrived.sort();
        assert_eq!(arrived, sent);
        inbox.silent().await;
    }
}

async fn subscribers_without_a_group_get_everything(broker: Backend) {
    let mut inboxes = Vec::new();
    for _ in 0..3 {
        inboxes.push(Inbox::at(&broker, "orders", quick()).await);
    }
    inboxes.push(Inbox::at(&broker, "orders", member("g")).await);
    let sent = numbers(10);
    say_all(&broker, "orders", &sent).await;
    for inbox in &mut inboxes {
        let mut arrived = inbox.texts(sent.len()).await;
        arrived.sort();
        assert_eq!(arrived, sent);
        inbox.silent().await;
    }
}

async fn nobody_being_there_is_said(broker: Backend) {
    match say(&broker, "nobody", "x").await.reach {
        Reach::Stored { groups, .. } => assert!(matches!(groups, None | Some(0)), "{groups:?}"),
        Reach::Delivered {
            acknowledged: 0,
            pending: 0,
            failed: 0,
        }
        | Reach::Outbox { .. } => {}
        reach => panic!("nobody is there, and yet: {reach:?}"),
    }
    // It is nobody's business later.
    let mut inbox = Inbox::at(&broker, "nobody", member("g")).await;
    inbox.silent().await;
}

async fn a_receipt_says_for_how_many(broker: Backend) {
    let _a = Inbox::at(&broker, "orders", member("a")).await;
    let _also_a = Inbox::at(&broker, "orders", member("a")).await;
    let _b = Inbox::at(&broker, "orders", member("b")).await;
    let _alone = Inbox::at(&broker, "orders", quick()).await;
    match say(&broker, "orders", "x").await.reach {
        Reach::Stored { groups, .. } => assert!(matches!(groups, None | Some(3)), "{groups:?}"),
        Reach::Delivered {
            acknowledged,
            pending,
            failed,
        } => {
            assert_eq!((acknowledged + pending, failed), (3, 0));
        }
        Reach::Outbox { .. } => {}
        reach => panic!("how far is {reach:?}?"),
    }
}

async fn topics_are_apart(broker: Backend) {
    let mut orders = Inbox::at(&broker, "orders", member("g")).await;
    let mut bills = Inbox::at(&broker, "bills", member("g")).await;
    say(&broker, "orders", "an order").await;
    say(&broker, "bills", "a bill").await;
    assert_eq!(text(&orders.next().await), "an order");
    assert_eq!(text(&bills.next().await), "a bill");
    orders.silent().await;
    bills.silent().await;
}

async fn s66_similar_topics_are_apart(broker: Backend) {
    let names = ["a", "a.b", "a-b", "a_b", "A.B", "a.b.c", "ab"];
    let mut inboxes = Vec::new();
    for name in names {
        inboxes.push(Inbox::at(&broker, name, member("g")).await);
    }
    for name in names {
        say(&broker, name, name).await;
    }
    for (name, inbox) in names.iter().zip(&mut inboxes) {
        let delivery = inbox.next().await;
        assert_eq!(
            (&*text(&delivery), delivery.message().topic.as_str()),
            (*name, *name)
        );
    }
    for inbox in &mut inboxes {
        assert!(inbox.arrived.try_recv().is_err());
    }
}

async fn namespaces_are_apart(site: Arc<Site>) {
    let ours = site.open().await;
    let theirs = site.open_in(&format!("{}-b", site.place.id())).await;
    let mut here = Inbox::at(&ours, "orders", member("g")).await;
    let mut there = Inbox::at(&theirs, "orders", member("g")).await;
    say(&ours, "orders", "here").await;
    say(&theirs, "orders", "there").await;
    let delivery = here.next().await;
    assert_eq!(
        (&*text(&delivery), delivery.message().topic.as_str()),
        ("here", "orders")
    );
    assert_eq!(text(&there.next().await), "there");
    here.silent().await;
    there.silent().await;
}

async fn what_is_published_after_subscribing_arrives(broker: Backend) {
    for i in 0..10 {
        let name = format!("orders.{i}");
        let mut inbox = Inbox::at(&broker, &name, member("g")).await;
        say(&broker, &name, "at once").await;
        assert_eq!(text(&inbox.next().await), "at once");
    }
}

async fn a_dropped_subscription_gets_nothing_more(broker: Backend) {
    let (handle, mut inbox) = Inbox::new();
    let subscription = subscribe(&broker, "orders", quick(), handle).await;
    assert_eq!(
        (subscription.topic().as_str(), subscription.group()),
        ("orders", None)
    );
    let mut other = Inbox::at(&broker, "orders", quick()).await;
    say(&broker, "orders", "one").await;
    assert_eq!(text(&inbox.next().await), "one");
    drop(subscription);
    tokio::time::sleep(BEHIND).await;
    say(&broker, "orders", "two").await;
    assert_eq!(other.texts(2).await, ["one", "two"]);
    assert!(inbox.arrived.try_recv().is_err());
}

async fn bad_subscriptions_are_refused(broker: Backend) {
    let good = || member("g");
    for bad in [
        good().with_concurrency(0),
        good().with_concurrency(MAX_CONCURRENCY + 1),
        good().with_ack_deadline(Duration::ZERO),
        good().with_ack_deadline(Duration::MAX),
        good().with_max_deliveries(0),
        good().with_dead_letters(DeadLetters::To(topic("orders"))),
    ] {
        let shown = format!("{bad:?}");
        let (handle, _inbox) = Inbox::new();
        let subscribed = broker.subscribe(&topic("orders"), bad, handle).await;
        refused(subscribed, ErrorKind::InvalidArgument, &shown);
    }
    let (handle, _inbox) = Inbox::new();
    let long = topic(&"x".repeat(128));
    let subscribed = broker
        .subscribe(&long, SubscribeOptions::default(), handle)
        .await;
    refused(
        subscribed,
        ErrorKind::InvalidArgument,
        "a topic without room for its dead letters",
    );
}

async fn handles_of_one_place_meet(site: Arc<Site>) {
    let (one, two) = (site.open().await, site.open().await);
    let mut at_one = Inbox::at(&one, "orders", quick()).await;
    let mut at_two = Inbox::at(&two, "orders", quick()).await;
    say(&one, "orders", "from one").await;
    say(&two, "orders", "from two").await;
    for inbox in [&mut at_one, &mut at_two] {
        let mut arrived = inbox.texts(2).await;
        arrived.sort();
        assert_eq!(arrived, ["from one", "from two"]);
    }
}

async fn a_lasting_group_gets_what_came_without_it(broker: Backend) {
    let (handle, mut inbox) = Inbox::new();
    let subscription = subscribe(&broker, "orders", member("g"), handle).await;
    say(&broker, "orders", "before").await;
    assert_eq!(text(&inbox.next().await), "before");
    subscription
        .stop(Duration::from_secs(5))
        .await
        .expect("it stops");
    say(&broker, "orders", "meanwhile").await;
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    assert_eq!(text(&inbox.next().await), "meanwhile");
    inbox.silent().await;
}

async fn a_removed_group_is_forgotten(broker: Backend) {
    let (handle, _inbox) = Inbox::new();
    let subscription = subscribe(&broker, "orders", member("g"), handle).await;
    subscription
        .stop(Duration::from_secs(5))
        .await
        .expect("it stops");
    say(&broker, "orders", "kept for nobody").await;
    let (orders, removed) = (topic("orders"), group("g"));
    let remove = || broker.remove_group(&orders, &removed, RemoveOptions::default());
    assert!(remove().await.expect("it is removed"));
    assert!(!remove().await.expect("it is not there"));
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    say(&broker, "orders", "new").await;
    assert_eq!(text(&inbox.next().await), "new");
    inbox.silent().await;
}
