//! Messages that are had again.

use std::time::{Duration, SystemTime};

use micro_broker_core::{ErrorKind, Start};
use micro_core::{Clock as _, SystemClock};
use tokio::time::sleep;

use super::{Backend, Cases, Inbox, member, on_one_handle, quick, refused, say, text, topic};

pub(super) fn cases() -> Cases {
    on_one_handle![
        a_new_group_begins_where_it_says if replay,
        offsets_grow_and_replay_from_one_begins_there if replay,
        replay_from_a_time_begins_there if replay,
        a_group_that_is_there_goes_on_where_it_stands if replay,
        replay_is_refused_where_there_is_none if no_replay,
    ]
}

/// One after the other.
fn from(start: Start) -> micro_broker_core::SubscribeOptions {
    quick().with_concurrency(1).with_start(start)
}

async fn a_new_group_begins_where_it_says(broker: Backend) {
    for text in ["a", "b", "c"] {
        say(&broker, "orders", text).await;
    }
    let mut new = Inbox::at(&broker, "orders", from(Start::New)).await;
    let mut all = Inbox::at(&broker, "orders", from(Start::Oldest)).await;
    let grouped = from(Start::Oldest).with_group(super::group("g"));
    let mut group = Inbox::at(&broker, "orders", grouped).await;
    say(&broker, "orders", "d").await;
    assert_eq!(all.texts(4).await, ["a", "b", "c", "d"]);
    assert_eq!(group.texts(4).await, ["a", "b", "c", "d"]);
    assert_eq!(new.texts(1).await, ["d"]);
    for inbox in [&mut new, &mut all, &mut group] {
        inbox.silent().await;
    }
}

async fn offsets_grow_and_replay_from_one_begins_there(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", from(Start::New)).await;
    let mut offsets = Vec::new();
    for text in ["a", "b", "c", "d"] {
        let receipt = say(&broker, "orders", text).await;
        let delivery = inbox.next().await;
        let offset = delivery.offset().expect("it has an offset");
        assert!(
            receipt.offset.is_none_or(|told| told == offset),
            "{receipt:?}, {offset}"
        );
        offsets.push(offset);
    }
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    let mut again = Inbox::at(&broker, "orders", from(Start::Offset(offsets[2]))).await;
    let first = again.next().await;
    assert_eq!((&*text(&first), first.offset()), ("c", Some(offsets[2])));
    assert_eq!(again.texts(1).await, ["d"]);
    again.silent().await;
    // What is not there yet will be the first.
    let later = from(Start::Offset(offsets[3] + 1));
    let mut later = Inbox::at(&broker, "orders", later).await;
    later.silent().await;
}

async fn replay_from_a_time_begins_there(broker: Backend) {
    say(&broker, "orders", "before").await;
    sleep(Duration::from_millis(50)).await;
    let time = SystemClock.wall();
    sleep(Duration::from_millis(50)).await;
    say(&broker, "orders", "after").await;
    let mut inbox = Inbox::at(&broker, "orders", from(Start::Time(time))).await;
    assert_eq!(text(&inbox.next().await), "after");
    inbox.silent().await;
    let mut all = Inbox::at(&broker, "orders", from(Start::Time(SystemTime::UNIX_EPOCH))).await;
    assert_eq!(all.texts(2).await, ["before", "after"]);
}

async fn a_group_that_is_there_goes_on_where_it_stands(broker: Backend) {
    let mut inbox = Inbox::at(&broker, "orders", member("g")).await;
    say(&broker, "orders", "a").await;
    assert_eq!(inbox.texts(1).await, ["a"]);
    drop(inbox);
    let opts = member("g").with_start(Start::Oldest);
    let mut again = Inbox::at(&broker, "orders", opts).await;
    say(&broker, "orders", "b").await;
    assert_eq!(again.texts(1).await, ["b"]);
    again.silent().await;
}

async fn replay_is_refused_where_there_is_none(broker: Backend) {
    for start in [
        Start::Oldest,
        Start::Offset(1),
        Start::Time(SystemTime::UNIX_EPOCH),
    ] {
        let (handle, _inbox) = Inbox::new();
        let subscribed = broker
            .subscribe(&topic("orders"), from(start), handle)
            .await;
        refused(subscribed, ErrorKind::Unimplemented, &format!("{start:?}"));
    }
}
