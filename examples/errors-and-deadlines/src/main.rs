//! Typed errors that survive the wire, a deadline that shrinks over three hops, and cancellation.
//!
//! `cargo run -p errors-and-deadlines`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use micro::{Client, Context, Error, ErrorKind, Result, Service};

#[micro::service]
trait Chain {
    /// Calls the next service of the chain, if there is one, and tells how much time was left here.
    async fn pass(&self, cx: &Context, hop: u32) -> Result<Vec<String>>;
    /// Looks up a user, and never finds one.
    async fn find(&self, cx: &Context, user: String) -> Result<String>;
    /// Takes longer than anybody waits.
    async fn sleep(&self, cx: &Context, millis: u64) -> Result<()>;
}

struct Hop {
    client: Client,
    next: Option<&'static str>,
}

impl Chain for Hop {
    async fn pass(&self, cx: &Context, hop: u32) -> Result<Vec<String>> {
        let left = cx.remaining().map_or(0, |left| left.as_millis());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut told = vec![format!("hop {hop}: {left} ms left")];
        if let Some(next) = self.next {
            // The context is passed on: deadline, cancellation and trace go with it.
            let next = ChainClient::new(self.client.clone(), next);
            told.extend(next.pass(cx, hop + 1).await?);
        }
        Ok(told)
    }

    async fn find(&self, _cx: &Context, user: String) -> Result<String> {
        Err(Error::not_found(format!("there is no user '{user}'"))
            // Stays here: operation and context are for our own log.
            .with_operation("users.find")
            .with_context("table", "users"))
    }

    async fn sleep(&self, _cx: &Context, millis: u64) -> Result<()> {
        let gone = OnDrop("  (the handler was dropped: it does not work for nobody)");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        std::mem::forget(gone);
        Ok(())
    }
}

struct OnDrop(&'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        println!("{}", self.0);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut running = Vec::new();
    // One set for all three, so that a registry within this process is one too.
    let drivers = micro::drivers();
    for (name, next) in [
        ("first", Some("second")),
        ("second", Some("third")),
        ("third", None),
    ] {
        let service = Service::new(name).drivers(drivers.clone());
        let hop = Hop {
            client: service.client().await?,
            next,
        };
        running.push(service.handle(ChainServer::new(hop)).start().await?);
    }
    let first = ChainClient::new(running[0].client().await?, "first");

    println!("an error comes back with its kind:");
    let err = first.find(&Context::new(), "ada".into()).await.unwrap_err();
    println!("  {err}");
    assert_eq!(err.kind(), ErrorKind::NotFound);

    // The first call of each hop finds the next service, which takes multicast DNS a moment.
    first
        .pass(&Context::new().with_timeout(Duration::from_secs(20)), 1)
        .await?;
    println!("a deadline of 500 ms over three hops:");
    let cx = Context::new().with_timeout(Duration::from_millis(500));
    for line in first.pass(&cx, 1).await? {
        println!("  {line}");
    }

    println!("a deadline that passes:");
    let cx = Context::new().with_timeout(Duration::from_millis(100));
    let err = first.sleep(&cx, 10_000).await.unwrap_err();
    println!("  {err}");
    assert_eq!(err.kind(), ErrorKind::DeadlineExceeded);
    tokio::time::sleep(Duration::from_millis(100)).await;

    println!("a call that is cancelled:");
    let (cx, canceller) = Context::new().with_cancel();
    let call = tokio::spawn({
        let first = first.clone();
        async move { first.sleep(&cx, 10_000).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    canceller.cancel();
    let err = call
        .await
        .map_err(|err| Error::internal(err.to_string()))?
        .unwrap_err();
    println!("  {err}");
    tokio::time::sleep(Duration::from_millis(100)).await;

    println!("a service that is not there:");
    let nobody = ChainClient::new(running[0].client().await?, "nobody");
    let cx = Context::new().with_timeout(Duration::from_millis(300));
    let err = nobody.find(&cx, "ada".into()).await.unwrap_err();
    println!("  {err}");

    for service in running {
        service.stop().await?;
    }
    Ok(())
}
