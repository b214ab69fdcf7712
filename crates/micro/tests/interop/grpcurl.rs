//! grpcurl against contracts in Rust, through the facade. What any service shows it is tested in
//! micro-server.

use serde_json::{Deserializer, Value, json};

use crate::common::Fleet;
use crate::kinds::{KindsServer, Mirror};
use crate::tools::{Ran, grpcurl, run};

/// All the messages it printed.
fn messages(ran: Ran) -> Vec<Value> {
    let said = ran.said();
    let messages = Deserializer::from_str(&said).into_iter();
    messages.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn grpcurl_calls_all_four_shapes_by_reflection() {
    let Some(grpcurl) = grpcurl("grpcurl_calls_all_four_shapes_by_reflection").await else {
        return;
    };
    let fleet = Fleet::new();
    let with_kinds = |service: micro::Service| service.handle(KindsServer::new(Mirror));
    let (running, _) = fleet.start_with("probe", "probe-1", with_kinds).await;
    let address = running.address();
    let ask = async |args: &[&str]| {
        let mut all = vec!["-plaintext", "-max-time", "30"];
        all.extend(args);
        run(&grpcurl, &all).await
    };
    let number = |number: u64| json!({"number": number.to_string()});

    let listed = ask(&[address, "list"]).await.said();
    assert_eq!(
        listed,
        "grpc.health.v1.Health\n\
         grpc.reflection.v1.ServerReflection\n\
         grpc.reflection.v1alpha.ServerReflection\n\
         kinds.v1.Kinds\n\
         probe.Probe\n"
    );
    let described = ask(&[address, "describe", "probe.Probe"]).await.said();
    for line in [
        "// Adds up the numbers.",
        "rpc Sum ( stream .probe.Ping ) returns ( .probe.Ping );",
        "rpc Chat ( stream .probe.Ping ) returns ( stream .probe.Ping );",
    ] {
        assert!(described.contains(line), "{line} is not in\n{described}");
    }

    let data = r#"{"text":"föö","number":"18446744073709551615"}"#;
    let header = "x-tenant: acme";
    let echo = ask(&["-v", "-H", header, "-d", data, address, "probe.Probe/Echo"]).await;
    let echo = echo.said();
    for part in ["x-tenant-seen: acme", "18446744073709551615", "föö"] {
        assert!(echo.contains(part), "{part} is not in\n{echo}");
    }
    let data = r#"{"number":3}"#;
    let count = messages(ask(&["-d", data, address, "probe.Probe/Count"]).await);
    assert_eq!(count, [json!({}), number(1), number(2)]);
    let data = r#"{"number":2}{"number":3}"#;
    let sum = messages(ask(&["-d", data, address, "probe.Probe/Sum"]).await);
    assert_eq!(sum, [number(5)]);
    let chat = messages(ask(&["-d", data, address, "probe.Probe/Chat"]).await);
    assert_eq!(chat, [number(2), number(3)]);

    let data = r#"{"text":"no such user","number":5}"#;
    let failed = ask(&["-d", data, address, "probe.Probe/Fail"]).await;
    assert!(!failed.ok, "{failed:?}");
    for part in ["Code: NotFound", "Message: no such user"] {
        assert!(failed.complained.contains(part), "{failed:?}");
    }

    let check = "grpc.health.v1.Health/Check";
    for (service, serving) in [("", true), ("kinds.v1.Kinds", true), ("nobody", false)] {
        let data = json!({"service": service}).to_string();
        let health = ask(&["-d", &data, address, check]).await;
        assert_eq!(health.ok, serving, "{health:?}");
        let part = if serving { "SERVING" } else { "Code: NotFound" };
        let text = health.said + &health.complained;
        assert!(text.contains(part), "{service}: {text}");
    }
}

/// protobuf's JSON mapping over the descriptors that we print: names, enums, maps and times.
#[tokio::test]
async fn grpcurl_sends_every_kind_of_field() {
    let Some(grpcurl) = grpcurl("grpcurl_sends_every_kind_of_field").await else {
        return;
    };
    let fleet = Fleet::new();
    let service = fleet.service("any-name").handle(KindsServer::new(Mirror));
    let running = service.start().await.unwrap();
    // As `Everything::full`.
    let full = json!({
        "flag": true,
        "int32": -32,
        "int64": i64::MIN.to_string(),
        "uint32": u32::MAX,
        "uint64": u64::MAX.to_string(),
        "float": 1.5,
        "double": -2.25,
        "text": "föö",
        "raw": "AP8H",
        "maybeNumber": 0,
        "maybeText": "",
        "numbers": ["0", "-1", "1099511627776"],
        "texts": ["", "b"],
        "raws": ["", "AQ=="],
        "inner": {"id": "1", "name": "one"},
        "maybeInner": {},
        "inners": [{"id": "2", "name": "two"}, {}],
        "color": "COLOR_RED",
        "colors": ["COLOR_DEEP_BLUE", "COLOR_UNSPECIFIED"],
        "byName": {"a": 1, "": 0},
        "byNumber": {"-1": {"id": "3", "name": "three"}},
        "took": "3.500s",
        "at": "2023-11-14T22:13:20.025Z",
        "next": {"text": "next", "inner": {}, "took": "0s"},
        "type": "keyword",
    });
    let data = full.to_string();
    let args = [
        "-plaintext",
        "-v",
        "-d",
        &data,
        running.address(),
        "kinds.v1.Kinds/Echo",
    ];
    let verbose = run(&grpcurl, &args).await.said();
    assert!(verbose.contains("x-is-full: true"), "{verbose}");
    let args: Vec<_> = args.into_iter().filter(|arg| *arg != "-v").collect();
    assert_eq!(messages(run(&grpcurl, &args).await), [full]);
}
