//! A service whose configuration file changes while it runs: the new value is taken over without a
//! restart, a broken one is refused and the last good one stays.
//!
//! `cargo run -p config-reload`; with a path behind it, edit that file by hand in another terminal.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro::config::{Config, ViewOptions};
use micro::{Context, Error, ErrorKind, Live, Message, Result, Service};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize, Message)]
struct HelloRequest {
    name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Message)]
struct HelloReply {
    message: String,
}

#[micro::service]
trait Greeter {
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;
}

/// What the file says under `greeting`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Greeting {
    text: String,
    delay: Duration,
}

impl Default for Greeting {
    fn default() -> Self {
        let (text, delay) = ("Hello".to_owned(), Duration::ZERO);
        Self { text, delay }
    }
}

fn check(greeting: &Greeting) -> Result<()> {
    if greeting.text.is_empty() {
        return Err(Error::invalid_argument("a greeting says something"));
    }
    Ok(())
}

struct Polite {
    greeting: Live<Greeting>,
}

impl Greeter for Polite {
    async fn hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        let greeting = self.greeting.get_arc();
        tokio::time::sleep(greeting.delay).await;
        let message = format!("{}, {}!", greeting.text, req.name);
        Ok(HelloReply { message })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let by_hand = std::env::args_os().nth(1).map(PathBuf::from);
    let own = std::env::temp_dir().join(format!("config-reload-{}.toml", std::process::id()));
    let path = by_hand.as_deref().unwrap_or(&own);
    if by_hand.is_none() {
        write(path, "[greeting]\ntext = \"Good morning\"\n");
    }

    let service = Service::new("greeter")
        .registry_url("memory") // of this process, where the caller is too
        .config_url(format!("file:{}", path.display()))
        .config_url("env:APP?optional=true"); // APP_GREETING__TEXT outweighs the file
    let config = service.config().await?;
    let options = ViewOptions::<Greeting>::new().with_check(check);
    let greeting = config.live_with("greeting", options)?;
    let polite = Polite {
        greeting: greeting.clone(),
    };
    let client = service.client().await?;
    let running = service.handle(GreeterServer::new(polite)).start().await?;
    let greeter = GreeterClient::new(client, "greeter");
    println!("begins:  {}", hello(&greeter).await?);
    println!("{}", config.explain("greeting.text"));

    if by_hand.is_some() {
        return follow(&config, &greeting, &greeter).await;
    }

    let mut changes = greeting.changes();
    write(path, "[greeting]\ntext = \"Good evening\"\n");
    changes.next().await;
    println!("edited:  {}", hello(&greeter).await?);

    write(path, "[greeting\ntext = \n");
    refusal(&config, "broken", |_| true).await;
    println!("served:  {}", hello(&greeter).await?);

    write(path, "[greeting]\ntext = \"\"\n");
    refusal(&config, "refused", |why| why.contains("says something")).await;
    println!("served:  {}", hello(&greeter).await?);

    // The framework's own settings, too: how long a call may take.
    write(
        path,
        "[greeting]\ndelay = \"200ms\"\n[micro]\nclient_timeout = \"50ms\"\n",
    );
    let late = loop {
        if let Err(err) = hello(&greeter).await {
            break err;
        }
    };
    println!("slower:  {late}");
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);

    running.stop().await?;
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Says what comes of every edit, until the program is ended.
async fn follow(config: &Config, greeting: &Live<Greeting>, greeter: &GreeterClient) -> Result<()> {
    let status = config.status();
    let (mut edits, mut told) = (greeting.changes(), status.changes());
    let mut shown = String::new();
    loop {
        tokio::select! {
            _ = edits.next() => println!("edited:  {}", hello(greeter).await?),
            _ = told.next() => {
                let refusals = config.refusals();
                let now = refusals.first().map_or(String::new(), ToString::to_string);
                if !now.is_empty() && now != shown {
                    println!("refused: {now}");
                    println!("served:  {}", hello(greeter).await?);
                }
                shown = now;
            }
        }
    }
}

async fn hello(greeter: &GreeterClient) -> Result<String> {
    let name = "Ada".to_owned();
    let reply = greeter
        .hello(&Context::new(), HelloRequest { name })
        .await?;
    Ok(reply.message)
}

/// Waits for a refusal, and prints it.
async fn refusal(config: &Config, what: &str, is: fn(&str) -> bool) {
    let status = config.status();
    let mut changes = status.changes();
    loop {
        let refusals = config.refusals();
        if let Some(refusal) = refusals.iter().find(|refusal| is(&refusal.reason)) {
            println!("{:8} {refusal}", format!("{what}:"));
            return;
        }
        changes.next().await;
    }
}

/// As editors do it: a new file takes the old one's place.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("the folder for temporary files can be written");
    std::fs::rename(&new, path).expect("the folder for temporary files can be written");
}
