//! The end of subscribers and brokers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use micro_broker_core::{ErrorKind, handler};
use tokio::time::{Instant, sleep};

use super::{
    BEHIND, Backend, Cases, Inbox, Site, eventually, member, on_one_handle, refused, say,
    subscribe, text, topic, try_publish,
};
use crate::harness::cases;

pub(super) fn cases() -> Cases {
    let mut all = on_one_handle![
        stopping_waits_for_handlers,
        what_was_not_finished_goes_to_another_member,
    ];
    all.extend(cases![super::Needs; a_closed_broker_refuses]);
    all
}

async fn stopping_waits_for_handlers(broker: Backend) {
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (b, e) = (Arc::clone(&begun), Arc::clone(&ended));
    let handle = handler(move |_, _| {
        b.fetch_add(1, Ordering::SeqCst);
        let e = Arc::clone(&e);
        async move {
            sleep(Duration::from_millis(300)).await;
            e.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let subscription = subscribe(&broker, "orders", member("g"), handle).await;
    let publishing = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { say(&broker, "orders", "x").await }
    });
    eventually("a handler at work", || begun.load(Ordering::SeqCst) == 1).await;
    let stopped = subscription
        .stop(Duration::from_secs(10))
        .await
        .expect("it stops");
    assert_eq!((stopped.unfinished, ended.load(Ordering::SeqCst)), (0, 1));
    publishing.await.expect("it was published");
    // It was acknowledged: nobody gets it again.
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    inbox.silent().await;
}

async fn what_was_not_finished_goes_to_another_member(broker: Backend) {
    let begun = Arc::new(AtomicUsize::new(0));
    let b = Arc::clone(&begun);
    let stuck = handler(move |_, _| {
        b.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    });
    let opts = || member("g").with_ack_deadline(Duration::from_secs(2));
    let subscription = subscribe(&broker, "orders", opts(), stuck).await;
    let publishing = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { say(&broker, "orders", "x").await }
    });
    eventually("a handler at work", || begun.load(Ordering::SeqCst) == 1).await;
    let mut other = Inbox::at(&broker, "orders", opts()).await;
    let begin = Instant::now();
    let stopped = subscription
        .stop(Duration::from_millis(50))
        .await
        .expect("it stops");
    assert_eq!(stopped.unfinished, 1);
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(text(&other.next().await), "x");
    publishing.await.expect("it was published");
    other.silent().await;
}

async fn a_closed_broker_refuses(site: Arc<Site>) {
    let broker = site.open().await;
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    say(&broker, "orders", "before").await;
    broker
        .close(Duration::from_secs(5))
        .await
        .expect("it closes");
    let (handle, _inbox) = Inbox::new();
    let message = micro_broker_core::Message::new(topic("orders"), "after");
    refused(
        try_publish(&broker, message).await,
        ErrorKind::FailedPrecondition,
        "publishing",
    );
    let subscribed = broker
        .subscribe(&topic("orders"), member("g"), handle)
        .await;
    refused(subscribed, ErrorKind::FailedPrecondition, "subscribing");
    broker
        .close(Duration::from_secs(5))
        .await
        .expect("it is closed");
    // Subscribers go on until they are stopped.
    let other = site.open().await;
    say(&other, "orders", "from another").await;
    assert_eq!(inbox.texts(2).await.len(), 2);
    sleep(BEHIND).await;
}
