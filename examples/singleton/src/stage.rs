//! Breaks the nodes, and looks at what comes of it.

use std::sync::PoisonError;
use std::time::Duration;

use micro::Result;
use tokio::time::{Instant, sleep};

use crate::engine::Engine;
use crate::fleet::{Fleet, Leader};
use crate::{TTL, ledger};

pub(crate) async fn run() -> Result<()> {
    let Some(engine) = Engine::find().await? else {
        println!(
            "there is nothing that three processes could share: install etcd (apt-get install \
             etcd-server), or name one that runs: MICRO_SYNC=postgres://user:password@host/database"
        );
        return Ok(());
    };
    let scheme = engine.url.split(':').next().unwrap_or_default();
    println!("three nodes over {scheme}, time to live {TTL:?}");
    let (ledger, written) = ledger::start().await?;
    let mut fleet = Fleet::start(&engine.url, ledger.address())?;
    let first = fleet.leader().await?;
    println!("node {} leads with token {}", first.node, first.token);

    fleet.signal(first.node, "KILL").await?;
    let killed = Instant::now();
    let second = fleet.leader().await?;
    takes_over(
        "after kill -9",
        killed,
        first,
        second,
        TTL + Duration::from_secs(1),
    );

    fleet.signal(second.node, "STOP").await?;
    let stopped = Instant::now();
    let third = fleet.leader().await?;
    takes_over(
        "after kill -STOP",
        stopped,
        second,
        third,
        TTL + Duration::from_secs(1),
    );
    // Until it has written, nobody could know better than who is stopped.
    sleep(Duration::from_secs(1)).await;
    fleet.signal(second.node, "CONT").await?;
    let held = fleet.says(second.node, "woke").await?;
    println!("  on waking, it holds the leadership: {held}");
    assert_eq!(held, "false");
    let refused = fleet.says(second.node, "refused").await?;
    println!("  its late write: {refused}");
    let lost = fleet.says(second.node, "lost").await?;
    println!("  and it is told: {lost}");

    // Whoever lost campaigns again, after a pause of a second at most.
    sleep(Duration::from_millis(1500)).await;
    fleet.signal(third.node, "TERM").await?;
    let ended = Instant::now();
    let last = fleet.leader().await?;
    takes_over("in order", ended, third, last, TTL / 2);

    sleep(Duration::from_millis(500)).await;
    drop(fleet);
    let tokens = written
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    println!("{} lines were written, their tokens in order", tokens.len());
    assert!(tokens.is_sorted(), "{tokens:?}");
    assert_eq!(tokens.last(), Some(&last.token));
    ledger.stop().await
}

fn takes_over(how: &str, since: Instant, old: Leader, new: Leader, within: Duration) {
    let took = new.since - since;
    println!(
        "{how}: node {} leads after {took:.1?} with token {}",
        new.node, new.token
    );
    assert!(took <= within, "not within {within:?}");
    assert_ne!(new.node, old.node);
    assert!(new.token > old.token);
}
