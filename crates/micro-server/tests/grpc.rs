//! What others see: `grpcurl` against a contract that was written in Rust.

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::Ledger;
use micro_codec_core::{Codecs, shape};
use micro_core::{Context, Result, Streaming};
use micro_server::{Contract as _, Routes, RunningServer, Server, ServerOptions};
use micro_transport_core::{ContractSpec, MethodKind, MethodSpec};
use micro_transport_grpc::GrpcTransport;
use serde::{Deserialize, Serialize};

/// A facade in miniature: what the derive names.
mod fake {
    pub(crate) mod __v1 {
        pub(crate) use micro_codec_core as codec;
        pub(crate) use micro_codec_proto as proto;
    }
}

/// Whom to greet.
#[derive(Clone, Debug, Default, Serialize, Deserialize, micro_macros::Message)]
#[micro(crate = "crate::fake")]
struct HelloRequest {
    /// The person's name.
    name: String,
    times: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, micro_macros::Message)]
#[micro(crate = "crate::fake")]
struct HelloReply {
    text: String,
}

/// Serde only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note(String);

static HELLO: MethodSpec = MethodSpec::new("Hello", MethodKind::Unary)
    .with_idempotent(true)
    .with_doc("Greets a person by name.");
static REPEAT: MethodSpec = MethodSpec::new("Repeat", MethodKind::ServerStreaming);
static NOTES: MethodSpec = MethodSpec::new("Notes", MethodKind::Unary);
static GREETER: ContractSpec =
    ContractSpec::new("", "Greeter", &[HELLO, REPEAT, NOTES]).with_doc("Greets people.");

fn greeter() -> Routes {
    Routes::new(&GREETER)
        .unary(
            &HELLO,
            shape!(HelloRequest),
            shape!(HelloReply),
            |_: Context, request: HelloRequest| async move {
                let text = format!("Hello, {}!", request.name);
                Ok(HelloReply { text })
            },
        )
        .server_streaming(
            &REPEAT,
            shape!(HelloRequest),
            shape!(HelloReply),
            |_: Context, request: HelloRequest| async move {
                Ok((0..request.times.unwrap_or(2))
                    .map(|n| HelloReply {
                        text: format!("{n} {}", request.name),
                    })
                    .collect::<Streaming<_>>())
            },
        )
        .unary(
            &NOTES,
            shape!(Note),
            shape!(Note),
            |_: Context, note: Note| async move { Ok(note) },
        )
}

/// `grpcurl` where Go puts it, or in the path; without it the test is skipped, and says so.
fn grpcurl(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join("go/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(home)
        .map(|folder| folder.join("grpcurl"))
        .find(|file| file.is_file());
    if found.is_none() {
        let cure = "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest";
        if let Some(log) = std::env::var_os("MICRO_SKIP_LOG") {
            let log = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log);
            writeln!(log.unwrap(), "{test}\tgrpcurl is not installed\t{cure}").unwrap();
        }
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped {test}: no grpcurl; {cure}").unwrap();
    }
    found
}

async fn start() -> RunningServer {
    let codecs = Codecs::new()
        .with(micro_codec_json::Json)
        .with(micro_codec_proto::Proto);
    let options = ServerOptions::default()
        .with_codecs(codecs)
        .with_stop_timeout(std::time::Duration::from_secs(2));
    Server::new("my-greeter")
        .options(options)
        .handle(greeter().routes())
        .start(Ledger::new(), Arc::new(GrpcTransport::new()))
        .await
        .unwrap()
}

/// What it says, on both outputs, and whether it succeeded.
async fn run(program: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_finds_describes_and_calls_a_contract_in_rust() {
    let Some(grpcurl) = grpcurl("grpcurl_finds_describes_and_calls_a_contract_in_rust") else {
        return;
    };
    let running = start().await;
    let address = running.address();
    let ask = async |args: &[&str]| {
        let mut all = vec!["-plaintext"];
        all.extend(args);
        run(&grpcurl, &all).await
    };

    let (ok, text) = ask(&[address, "list"]).await;
    assert!(ok, "{text}");
    let names: Vec<_> = text.lines().collect();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "my_greeter.Greeter",
        ]
    );

    let (ok, text) = ask(&[address, "describe", "my_greeter.Greeter"]).await;
    assert!(ok, "{text}");
    for line in [
        "// Greets people.",
        "// Greets a person by name.",
        "rpc Hello ( .my_greeter.HelloRequest ) returns ( .my_greeter.HelloReply ) {",
        "option idempotency_level = IDEMPOTENT;",
        "rpc Repeat ( .my_greeter.HelloRequest ) returns ( stream .my_greeter.HelloReply );",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    for (symbol, line) in [
        ("my_greeter.HelloRequest", "optional uint32 times = 2;"),
        ("my_greeter.HelloRequest", "// The person's name."),
        ("my_greeter.Note", "// Not protobuf"),
        ("grpc.health.v1.HealthCheckResponse", "SERVING = 1;"),
    ] {
        let (ok, text) = ask(&[address, "describe", symbol]).await;
        assert!(ok && text.contains(line), "{line:?} is not in\n{text}");
    }

    let hello = "my_greeter.Greeter/Hello";
    let (ok, text) = ask(&["-d", r#"{"name":"Ada"}"#, address, hello]).await;
    assert!(ok && text.contains(r#""text": "Hello, Ada!""#), "{text}");
    let repeat = "my_greeter.Greeter/Repeat";
    let (ok, text) = ask(&["-d", r#"{"name":"Ada","times":3}"#, address, repeat]).await;
    assert!(ok && text.contains("2 Ada"), "{text}");
    let (ok, text) = ask(&[address, "my_greeter.Greeter/Notes"]).await;
    assert!(!ok && text.contains("Unimplemented"), "{text}");
    assert!(text.contains("derive micro::Message"), "{text}");
    let (ok, text) = ask(&[address, "grpc.health.v1.Health/Check"]).await;
    assert!(ok && text.contains(r#""status": "SERVING""#), "{text}");

    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_proto_is_enough_to_call() {
    let Some(grpcurl) = grpcurl("the_printed_proto_is_enough_to_call") else {
        return;
    };
    let running = start().await;
    let folder = tempfile::tempdir().unwrap();
    let text = greeter().to_proto("my-greeter").unwrap();
    std::fs::write(folder.path().join("greeter.proto"), text).unwrap();
    let (ok, text) = run(
        &grpcurl,
        &[
            "-plaintext",
            "-import-path",
            folder.path().to_str().unwrap(),
            "-proto",
            "greeter.proto",
            "-d",
            r#"{"name":"Ada"}"#,
            running.address(),
            "my_greeter.Greeter/Hello",
        ],
    )
    .await;
    assert!(ok && text.contains("Hello, Ada!"), "{text}");
    running.stop().await.unwrap();
}

/// As a health check of Kubernetes or a load balancer does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_the_health_does_not_hold_up_the_stop() -> Result<()> {
    use micro_transport_core::{Body, DialOptions, Request, Transport as _};

    let running = start().await;
    let transport = GrpcTransport::new();
    let connection = transport
        .dial(running.address(), DialOptions::default())
        .await?;
    let request = Request::new(
        "/grpc.health.v1.Health/Watch",
        "application/json",
        Body::Message("{}".into()),
    );
    let response = connection.call(&Context::new(), request).await?;
    let seen = tokio::spawn(common::texts(response.body));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let report = running.stop().await?;
    assert!(!report.forced && report.unfinished == 0, "{report:?}");
    let (texts, err) = seen.await.unwrap();
    assert_eq!(
        texts,
        [r#"{"status":"SERVING"}"#, r#"{"status":"NOT_SERVING"}"#]
    );
    assert_eq!(err.unwrap().kind(), micro_core::ErrorKind::Unavailable);
    Ok(())
}
