//! The client: it knows the service's name, and no address.

use std::time::Duration;

use micro::registry::RegistryExt as _;
use micro::{Client, Context, Error, Result, Streaming};

use crate::contract::{Greeter, GreeterClient, HelloRequest};

pub(crate) async fn run() -> Result<()> {
    let client = Client::from_env().await?;
    let greeter = GreeterClient::new(client.clone(), "greeter");
    let cx = Context::new().with_timeout(Duration::from_secs(10));

    // The first call waits until the service is found.
    let reply = greeter.hello(&cx, ada()).await?;

    let service = client.registry().get("greeter").await?;
    let node = service
        .first()
        .and_then(|service| service.nodes.first())
        .ok_or_else(|| Error::not_found("the service has no node"))?;
    println!("  greeter → node {} at {}", node.id, node.address);
    show("unary", &reply.message);

    let mut replies = greeter.watch(&cx, ada()).await?;
    for _ in 0..3 {
        if let Some(reply) = replies.next().await {
            show("server streaming", &reply?.message);
        }
    }
    drop(replies); // hangs up; the server's side ends too

    let both = Streaming::from_iter([ada(), grace()]);
    show(
        "client streaming",
        &greeter.gather(&cx, both).await?.message,
    );

    let both = Streaming::from_iter([ada(), grace()]);
    let mut replies = greeter.chat(&cx, both).await?;
    while let Some(reply) = replies.next().await {
        show("bidirectional", &reply?.message);
    }
    Ok(())
}

fn show(shape: &str, reply: &str) {
    println!("  {shape:<16} → {reply}");
}

fn ada() -> HelloRequest {
    HelloRequest { name: "Ada".into() }
}

fn grace() -> HelloRequest {
    HelloRequest {
        name: "Grace".into(),
    }
}
