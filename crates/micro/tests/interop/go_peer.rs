//! grpc-go on either side, generated from the printed `.proto` files; and what go-micro, which is
//! made of it, puts on the wire.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use micro::{CallOptions, ErrorKind};
use prost::Message as _;
use prost_types::compiler::{CodeGeneratorRequest, CodeGeneratorResponse};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::codegen::{PRINTED, folder};
use crate::common::{Fleet, Ping, Probe as _, ProbeClient, ping, until};
use crate::kinds::{KindsServer, Mirror};
use crate::stranger::{is_called, soon};
use crate::tools::{cache, find, run, skip};

/// What is missing, and what helps.
struct Missing {
    reason: String,
    cure: &'static str,
}

/// The program below `go/`; without Go the test is skipped.
async fn program(test: &str) -> Option<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();
    let built = tokio::task::spawn_blocking(|| PROGRAM.get_or_init(build)).await;
    match built.expect("the build does not panic") {
        Ok(program) => Some(program.clone()),
        Err(missing) => {
            skip(test, &missing.reason, missing.cure);
            None
        }
    }
}

/// Generates and builds. What Go has built before it takes from its own cache.
fn build() -> Result<PathBuf, Missing> {
    let Some(go) = find("go") else {
        return Err(Missing {
            reason: "Go is not installed".to_owned(),
            cure: "install Go 1.26 or later",
        });
    };
    let (src, bin) = (cache().join("src"), cache().join("bin"));
    fs::create_dir_all(&bin).unwrap();
    // Another run of this test may build too.
    let lock = File::create(cache().join("lock")).unwrap();
    lock.lock().unwrap();

    if src.is_dir() {
        fs::remove_dir_all(&src).unwrap();
    }
    fs::create_dir_all(&src).unwrap();
    for entry in fs::read_dir(folder().join("go")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), src.join(entry.file_name())).unwrap();
    }

    let go = |args: &[&str]| {
        let mut command = Command::new(&go);
        let output = command.current_dir(&src).args(args).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    // Only the network can be at fault here: the versions and their hashes are pinned.
    go(&["mod", "download"]).map_err(|reason| Missing {
        reason: format!("the Go modules cannot be had: {reason}"),
        cure: "let Go reach a module proxy (go env GOPROXY) once",
    })?;
    let bin_arg = format!("{}/", bin.display());
    // The generators, at the versions of go.mod's `tool` lines.
    let generators = [
        "google.golang.org/protobuf/cmd/protoc-gen-go",
        "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
    ];
    go(&["build", "-o", &bin_arg, generators[0], generators[1]]).unwrap();
    for generator in generators {
        let generator = generator.rsplit('/').next().unwrap();
        generate(&bin.join(generator), &src);
    }
    let program = bin.join("peer");
    go(&["build", "-o", program.to_str().unwrap(), "."]).unwrap();
    Ok(program)
}

/// Runs a generator as `protoc` would: a request on its standard input, files on its output.
fn generate(generator: &Path, into: &Path) {
    for printed in PRINTED {
        // No parameter: the printed file says by itself which Go package it is.
        let request = CodeGeneratorRequest {
            file_to_generate: vec![printed.file()],
            proto_file: printed.descriptors().file,
            ..CodeGeneratorRequest::default()
        };
        let mut child = Command::new(generator)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // They read everything before they write anything.
        stdin.write_all(&request.encode_to_vec()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let response = CodeGeneratorResponse::decode(&*output.stdout).unwrap();
        assert_eq!(response.error, None);
        assert!(!response.file.is_empty());
        for file in response.file {
            let path = into.join(file.name());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.content()).unwrap();
        }
    }
}

/// A server of the program's; it ends with its standard input.
struct GoServer {
    address: String,
    _child: tokio::process::Child,
}

impl GoServer {
    async fn start(program: &Path, which: impl AsRef<OsStr>) -> Self {
        let mut child = tokio::process::Command::new(program)
            .arg(which)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("an address");
        Self {
            address,
            _child: child,
        }
    }
}

/// A code-first service with both contracts.
fn with_kinds(service: micro::Service) -> micro::Service {
    service.handle(KindsServer::new(Mirror))
}

#[tokio::test]
async fn a_go_client_built_from_the_printed_proto_calls() {
    let Some(program) = program("a_go_client_built_from_the_printed_proto_calls").await else {
        return;
    };
    let fleet = Fleet::new();
    let (running, seen) = fleet.start_with("probe", "probe-1", with_kinds).await;
    let said = run(&program, &["client", running.address()]).await.said();
    assert_eq!(
        said,
        "echo: föö 18446744073709551615\n\
         metadata: [acme] [probe-1] [application/grpc]\n\
         big: true\n\
         left: true\n\
         count: 1000\n\
         sum: 5050\n\
         chat: chat 0\n\
         chat: chat 1\n\
         chat: chat 2\n\
         chat ends: EOF\n\
         fail: NotFound no such user\n\
         panic: Internal false\n\
         deadline: DeadlineExceeded\n\
         cancelled: Canceled\n\
         too large: ResourceExhausted\n\
         gzip: Unimplemented\n\
         unknown method: Unimplemented\n\
         unknown service: Unimplemented\n\
         kinds: true [true]\n\
         binary metadata: [0 255]\n\
         refused: NotFound no such inner\n\
         detail: type.googleapis.com/kinds.v1.Why [10 3 119 104 121]\n"
    );
    until("what was cancelled has ended", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_go_server_built_from_the_printed_proto_is_called() {
    let Some(program) = program("a_go_server_built_from_the_printed_proto_is_called").await else {
        return;
    };
    let server = GoServer::start(&program, "server").await;
    is_called(&server.address).await;
}

#[tokio::test]
async fn go_reads_reflection_in_both_versions_and_health() {
    let Some(program) = program("go_reads_reflection_in_both_versions_and_health").await else {
        return;
    };
    let fleet = Fleet::new();
    let (running, _) = fleet.start_with("probe", "probe-1", with_kinds).await;
    let said = run(&program, &["reflect", running.address()]).await.said();
    let version = |version: &str| {
        "V lists: grpc.health.v1.Health\n\
         V lists: grpc.reflection.v1.ServerReflection\n\
         V lists: grpc.reflection.v1alpha.ServerReflection\n\
         V lists: kinds.v1.Kinds\n\
         V lists: probe.Probe\n\
         V probe.Probe: Echo false false\n\
         V probe.Probe: Safe false false\n\
         V probe.Probe: Sleep false false\n\
         V probe.Probe: Fail false false\n\
         V probe.Probe: Panic false false\n\
         V probe.Probe: Count false true\n\
         V probe.Probe: Sum true false\n\
         V probe.Probe: Chat true true\n\
         V probe.Probe: Left false false\n\
         V probe.Probe: Ping 2\n\
         V kinds.v1.Everything: Echo false false\n\
         V kinds.v1.Everything: Refuse false false\n\
         V kinds.v1.Everything: Everything 25\n\
         V kinds.v1.Everything: Inner 2\n\
         V nobody: NotFound\n"
            .replace("V ", &format!("{version} "))
    };
    let health = "health of '': SERVING OK\n\
                  health of 'probe.Probe': SERVING OK\n\
                  health of 'nobody': UNKNOWN NotFound\n";
    assert_eq!(said, version("v1") + &version("v1alpha") + health);
}

#[tokio::test]
async fn go_sees_the_health_change_when_the_service_stops() {
    let Some(program) = program("go_sees_the_health_change_when_the_service_stops").await else {
        return;
    };
    let fleet = Fleet::new();
    let (running, _) = fleet.start("probe", "probe-1").await;
    let mut child = tokio::process::Command::new(program)
        .args(["watch", running.address()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = async || lines.next_line().await.unwrap().unwrap_or_default();
    assert_eq!(line().await, "health: SERVING");
    let stopped = tokio::spawn(running.stop());
    assert_eq!(line().await, "health: NOT_SERVING");
    assert_eq!(line().await, "ends: Unavailable");
    stopped.await.unwrap().unwrap();
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn what_a_go_micro_client_sends_is_understood() {
    let Some(program) = program("what_a_go_micro_client_sends_is_understood").await else {
        return;
    };
    let fleet = Fleet::new();
    let (running, seen) = fleet.start("probe", "probe-1").await;
    let ran = run(&program, &["go-micro-client", running.address()]).await;
    assert_eq!(
        ran.said(),
        "/probe.Probe/Echo: hello 7 [application/grpc+json] [acme]\n\
         /any.pkg.Probe/Echo: hello 7 [application/grpc+json] [acme]\n\
         /Probe/Echo: hello 7 [application/grpc+json] [acme]\n\
         /any.pkg.Probe/Nothing: Unimplemented\n\
         /any.pkg.Nobody/Echo: Unimplemented\n\
         /any.pkg.Probe/Echo/More: InvalidArgument\n\
         left: true\n\
         timeout: DeadlineExceeded true\n\
         count: n 0\n\
         count: n 1\n\
         count: n 2\n\
         count ends: EOF\n\
         fail: NotFound no such user\n\
         proto: hi 9 OK\n"
    );
    until("the handler is dropped", || {
        seen.under_way.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn what_a_go_micro_server_answers_is_understood() {
    let Some(program) = program("what_a_go_micro_server_answers_is_understood").await else {
        return;
    };
    let server = GoServer::start(&program, "go-micro-server").await;
    let fleet = Fleet::new();
    let node = micro::registry::Node::new("probe-1", &server.address);
    let service = micro::registry::Service::new("go.micro.srv.probe", "latest").with_node(node);
    fleet
        .registry
        .register(&service, Default::default())
        .await
        .unwrap();
    let client = fleet.client().await;
    let probe = ProbeClient::new(client.clone(), "go.micro.srv.probe");

    // The registry name takes the place of the package.
    let (cx, received) = soon().with_received();
    assert_eq!(probe.echo(&cx, ping("hi", 7)).await.unwrap(), ping("hi", 7));
    let metadata = received.metadata().unwrap();
    let path = "/go.micro.srv.probe.Probe/Echo";
    assert_eq!(metadata.get("x-path"), Some(path));
    let seen = metadata.get("x-content-type-seen").unwrap();
    assert!(
        ["application/grpc", "application/grpc+proto"].contains(&seen),
        "{seen}"
    );

    // Without a generated type it is JSON, as go-micro has it.
    let (cx, received) = soon().with_received();
    let reply: Ping = client
        .call("go.micro.srv.probe", "Probe.Echo", &ping("json", 1))
        .send(&cx)
        .await
        .unwrap();
    assert_eq!(reply, ping("json", 1));
    let metadata = received.metadata().unwrap();
    assert_eq!(metadata.get("x-path"), Some(path));
    let seen = metadata.get("x-content-type-seen");
    assert_eq!(seen, Some("application/grpc+json"));

    let kinds = [
        (400, ErrorKind::InvalidArgument),
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (408, ErrorKind::DeadlineExceeded),
        (409, ErrorKind::AlreadyExists),
        (412, ErrorKind::FailedPrecondition),
        (500, ErrorKind::Internal),
        (501, ErrorKind::Unimplemented),
        (503, ErrorKind::Unavailable),
        (418, ErrorKind::Unknown),
    ];
    // One answer for each call, so that a failed one is seen as it came.
    let once = client.with_options(CallOptions::new().with_retries(0));
    let probe = ProbeClient::new(once, "go.micro.srv.probe");
    for text in ["with details", "json only", "v3"] {
        for (code, kind) in kinds {
            let err = probe.fail(&soon(), ping(text, code)).await.unwrap_err();
            assert_eq!((err.kind(), err.message()), (kind, text), "{code} {err}");
            let id = err.context().find(|(key, _)| *key == "id");
            assert_eq!(id, Some(("id", "go.micro.srv.probe")), "{code} {text}");
        }
    }
}
