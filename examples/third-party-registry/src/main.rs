//! A service and a client that meet in a folder.
//!
//! What chooses the backend is a URL: `MICRO_REGISTRY=filedir:./fleet`, or the setting below.

use std::time::Duration;

use micro::{Client, Context, DriverSet, Result, Service, Settings};
use serde::{Deserialize, Serialize};
use third_party_registry::FileDirDriver;

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
struct HelloRequest {
    name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
struct HelloReply {
    message: String,
}

/// Greets people.
#[micro::service]
trait Greeter {
    /// Greets a person by name.
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;
}

struct English;

impl Greeter for English {
    async fn hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        Ok(HelloReply {
            message: format!("Hello, {}!", req.name),
        })
    }
}

/// micro's own backends and this one: it joins in the same way as they do.
fn drivers() -> DriverSet {
    micro::drivers().with(FileDirDriver)
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join("third-party-registry");
    let url = match std::env::var("MICRO_REGISTRY") {
        Ok(url) => url,
        Err(_) => format!("filedir://{}", folder.display()),
    };
    let service = Service::new("greeter")
        .drivers(drivers())
        .registry_url(&url)
        .handle(GreeterServer::new(English))
        .start()
        .await?;
    println!("the service 'greeter' is in {url}");

    // In a program of its own this would be `Client::from_env_with(drivers())`.
    let settings = Settings::from_pairs([("MICRO_REGISTRY", url.as_str())])?;
    let client = Client::from_settings(settings, drivers()).await?;
    let greeter = GreeterClient::new(client, "greeter");
    let cx = Context::new().with_timeout(Duration::from_secs(5));
    let ada = HelloRequest { name: "Ada".into() };
    println!(
        "the client found it: {}",
        greeter.hello(&cx, ada).await?.message
    );

    service.stop().await
}
