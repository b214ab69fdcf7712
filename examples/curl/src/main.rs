//! The port that answers gRPC also answers JSON by a plain POST: curl is enough.
//!
//! `cargo run -p curl` starts a service and calls it with curl, if curl is installed.
//! `cargo run -p curl serve` keeps it running on port 8080, for the line in the README.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use micro::{Context, Error, Result, Service};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
struct HelloRequest {
    name: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro::Message)]
struct HelloReply {
    message: String,
}

#[micro::service]
trait Greeter {
    async fn hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply>;
}

struct English;

impl Greeter for English {
    async fn hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        if req.name.is_empty() {
            return Err(Error::invalid_argument(
                "say who you are: {\"name\":\"Ada\"}",
            ));
        }
        Ok(HelloReply {
            message: format!("Hello, {}!", req.name),
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::new("greeter").handle(GreeterServer::new(English));
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return service.address("127.0.0.1:8080").run().await;
    }
    let running = service.start().await?;
    let url = format!("http://{}/greeter.Greeter/Hello", running.address());
    for (body, more) in [
        (r#"{"name":"Ada"}"#, &[] as &[&str]),
        (r#"{"name":"Ada"}"#, &["--http2-prior-knowledge"]),
        ("{}", &[]),
        ("not json", &[]),
    ] {
        println!(
            "$ curl -d '{body}' -H 'content-type: application/json' {} {url}",
            more.join(" ")
        );
        match curl(&url, body, more).await? {
            Some(answer) => println!("{answer}"),
            None => {
                println!("curl is not installed: install it (apt-get install curl) and run again");
                break;
            }
        }
    }
    running.stop().await
}

/// Runs curl; `None` if it is not installed.
async fn curl(url: &str, body: &str, more: &[&str]) -> Result<Option<String>> {
    let ran = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args([
            "--write-out",
            "\n(HTTP %{http_version}, status %{http_code})",
        ])
        .args(["--data", body, "--header", "content-type: application/json"])
        .args(more)
        .arg(url)
        .output()
        .await;
    match ran {
        Ok(out) if out.status.success() => Ok(Some(String::from_utf8_lossy(&out.stdout).into())),
        Ok(out) => Err(Error::internal(
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err.into()),
    }
}
