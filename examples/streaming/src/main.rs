//! Streams in both directions: order, flow control, errors in the middle, and hanging up.
//!
//! `cargo run -p streaming`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use micro::{Context, Error, Result, Service, Streaming};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
struct Number {
    value: u64,
    padding: Vec<u8>,
}

#[micro::service]
trait Numbers {
    /// Counts up from a number, as fast as the caller reads.
    async fn count(&self, cx: &Context, from: Number) -> Result<Streaming<Number>>;
    /// Adds up what it is sent.
    async fn sum(&self, cx: &Context, numbers: Streaming<Number>) -> Result<Number>;
    /// Doubles each number as it comes; refuses 13.
    async fn double(&self, cx: &Context, numbers: Streaming<Number>) -> Result<Streaming<Number>>;
}

/// `produced` shows how far ahead of its reader the server gets.
struct Calculator {
    produced: Arc<AtomicU64>,
}

impl Numbers for Calculator {
    async fn count(&self, _cx: &Context, from: Number) -> Result<Streaming<Number>> {
        let (sender, numbers) = Streaming::channel(4);
        let produced = Arc::clone(&self.produced);
        tokio::spawn(async move {
            for value in from.value.. {
                let padding = vec![0; 64 * 1024];
                if sender.send(Number { value, padding }).await.is_err() {
                    println!("  (the server sees that the caller hung up)");
                    break;
                }
                produced.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(numbers)
    }

    async fn sum(&self, _cx: &Context, mut numbers: Streaming<Number>) -> Result<Number> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?.value;
        }
        Ok(number(sum))
    }

    async fn double(
        &self,
        _cx: &Context,
        mut numbers: Streaming<Number>,
    ) -> Result<Streaming<Number>> {
        let (sender, doubled) = Streaming::channel(4);
        tokio::spawn(async move {
            while let Some(Ok(next)) = numbers.next().await {
                if next.value == 13 {
                    let err = Error::invalid_argument("13 is not doubled here");
                    return sender.fail(err).await;
                }
                sender.send(number(2 * next.value)).await?;
            }
            Ok(())
        });
        Ok(doubled)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let produced = Arc::new(AtomicU64::new(0));
    let calculator = Calculator {
        produced: Arc::clone(&produced),
    };
    let service = Service::new("numbers")
        .handle(NumbersServer::new(calculator))
        .start()
        .await?;
    let numbers = NumbersClient::new(service.client().await?, "numbers");
    let cx = Context::new().with_timeout(Duration::from_secs(20));

    println!("server streaming, with a reader that pauses:");
    let mut stream = numbers.count(&cx, number(1)).await?;
    for _ in 0..3 {
        if let Some(next) = stream.next().await {
            println!("  {}", next?.value);
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ahead = produced.load(Ordering::Relaxed);
    println!("  after a pause the server is {ahead} messages of 64 KiB ahead, and waits");
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;

    println!("client streaming:");
    let sum = numbers.sum(&cx, (1..=1000).map(number).collect()).await?;
    println!("  1 + … + 1000 = {}", sum.value);

    println!("bidirectional, each reply before the next request:");
    let (sender, requests) = Streaming::channel(1);
    let mut doubled = numbers.double(&cx, requests).await?;
    for value in [1, 12, 13] {
        sender.send(number(value)).await?;
        match doubled.next().await {
            Some(Ok(next)) => println!("  {value} → {}", next.value),
            Some(Err(err)) => println!("  {value} → {err}"),
            None => println!("  {value} → the stream has ended"),
        }
    }
    drop(doubled);
    service.stop().await
}

fn number(value: u64) -> Number {
    Number {
        value,
        padding: Vec::new(),
    }
}
