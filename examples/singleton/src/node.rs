//! A node of the fleet. What it says on standard output, the stage reads.

use std::sync::Arc;

use micro::sync::Leadership;
use micro::{Context, ErrorKind, Result, Service, SingletonOptions};
use tokio::time::{Duration, Instant, sleep};

use crate::TTL;
use crate::ledger::{Ledger as _, LedgerClient, Line};

pub(crate) async fn run() -> Result<()> {
    let service = Service::new("clock");
    let ledger = LedgerClient::new(service.client().await?, "ledger");
    let options = SingletonOptions::default().with_ttl(TTL);
    service
        .singleton_with(options, move |leadership| lead(leadership, ledger.clone()))
        .run()
        .await
}

/// The task: a line for each tick. It is dropped where it stands when the leadership is lost.
async fn lead(leadership: Arc<Leadership>, ledger: LedgerClient) -> Result<()> {
    println!("leads {}", leadership.token().seq);
    tokio::spawn(careless(Arc::clone(&leadership), ledger.clone()));
    loop {
        write(&leadership, &ledger, "tick").await?;
        sleep(Duration::from_millis(200)).await;
    }
}

/// A part of it that nobody stops, and that does not ask before it writes. It ends when it has once
/// slept for longer than its time.
async fn careless(leadership: Arc<Leadership>, ledger: LedgerClient) {
    let mut last = Instant::now();
    while last.elapsed() < TTL {
        if !leadership.is_held() {
            return;
        }
        last = Instant::now();
        sleep(Duration::from_millis(20)).await;
    }
    println!("woke {}", leadership.is_held());
    match write(&leadership, &ledger, "late").await {
        Err(err) if err.kind() == ErrorKind::Lost => println!("refused {err}"),
        written => println!("wrote {written:?}"),
    }
    println!("lost {}", leadership.lost().await);
}

async fn write(leadership: &Leadership, ledger: &LedgerClient, text: &str) -> Result<()> {
    let token = leadership.token();
    let line = Line {
        epoch: token.epoch,
        seq: token.seq,
        text: text.to_owned(),
    };
    ledger.write(&Context::new(), line).await.map(drop)
}
