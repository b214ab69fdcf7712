//! Generated code at work: messages as protobuf and as JSON, and a contract that is called.

#![expect(unreachable_pub, reason = "generated modules are public")]

/// As `micro::include_proto!` and `Builder::include_file` would have it.
mod common {
    pub mod v1 {
        include!("golden/common.v1.rs.golden");
    }
}
mod everything {
    pub mod v1 {
        include!("golden/everything.v1.rs.golden");
    }
}

use std::collections::HashMap;

use common::v1::{Place, place};
use everything::v1::everything::{Choice, Nested, nested::Deeper};
use everything::v1::{
    Color, Everything, FILE_DESCRIPTOR_SET, Nothing, Tester, TesterClient, TesterServer,
};
use micro::__v1::proto::__private::prost::Message as _;
use micro::codec::proto::wkt;
use micro::codec::{Schema, shape};
use micro::{Context, ErrorKind, Result, Service, Streaming};
use serde_json::{Value, json};

fn json(message: &Everything) -> Value {
    serde_json::to_value(message).unwrap()
}

fn from_json(value: Value) -> Everything {
    serde_json::from_value(value).unwrap()
}

/// Each is the canonical JSON of the message: it comes out so, and goes in so.
#[test]
fn json_is_that_of_proto3() {
    let message = Everything {
        a_double: 1.5,
        an_int64: i64::MIN,
        a_uint64: u64::MAX,
        a_sfixed64: -1,
        an_int32: -1,
        a_bool: true,
        a_string: "x".into(),
        some_bytes: vec![0xfb, 0xff],
        color: Color::DarkBlue.into(),
        place: Some(Place {
            city: "Rome".into(),
            kind: place::Kind::Town.into(),
        }),
        int64s: vec![1, 2],
        colors: vec![Color::Red.into(), Color::Unspecified.into()],
        many_bytes: vec![vec![1]],
        int64_by_name: HashMap::from([("a".into(), 1)]),
        nested_by_number: HashMap::from([(7, Nested::default())]),
        color_by_flag: HashMap::from([(true, Color::Red.into())]),
        bytes_by_number: HashMap::from([(8, vec![1])]),
        // Set, though it is the default: it is there.
        maybe_int32: Some(0),
        maybe_color: Some(Color::Unspecified.into()),
        maybe_int64: Some(3),
        choice: Some(Choice::Nested(Nested {
            text: "n".into(),
            deeper: Some(Deeper { down: true }),
        })),
        r#type: "t".into(),
        self_: "s".into(),
        renamed: "r".into(),
        child: Some(Box::default()),
        ..Everything::default()
    };
    let expected = json!({
        "aDouble": 1.5,
        "anInt64": "-9223372036854775808",
        "aUint64": "18446744073709551615",
        "aSfixed64": "-1",
        "anInt32": -1,
        "aBool": true,
        "aString": "x",
        "someBytes": "+/8=",
        "color": "COLOR_DARK_BLUE",
        "place": {"city": "Rome", "kind": "KIND_TOWN"},
        "int64s": ["1", "2"],
        "colors": ["COLOR_RED", "COLOR_UNSPECIFIED"],
        "manyBytes": ["AQ=="],
        "int64ByName": {"a": "1"},
        "nestedByNumber": {"7": {}},
        "colorByFlag": {"true": "COLOR_RED"},
        "bytesByNumber": {"8": "AQ=="},
        "maybeInt32": 0,
        "maybeColor": "COLOR_UNSPECIFIED",
        "maybeInt64": "3",
        "nested": {"text": "n", "deeper": {"down": true}},
        "type": "t",
        "self": "s",
        "otherwise": "r",
        "child": {},
    });
    assert_eq!(json(&message), expected);
    assert_eq!(from_json(expected), message);
    assert_eq!(json(&Everything::default()), json!({}));
}

#[test]
fn json_takes_what_a_parser_must_take_too() {
    let message = from_json(json!({
        // The names of the file, numbers as numbers or as text, an enumeration by number, `null`
        // for what is absent, base64 for URLs, and fields that are not known.
        "an_int64": 5,
        "an_int32": "6",
        "color": 1,
        "some_bytes": "-_8",
        "place": null,
        "maybe_int32": null,
        "aDouble": null,
        "anInt64s": null,
        "aBool": null,
        "aString": null,
        "placeKind": null,
        "strings": null,
        "colors": null,
        "nesteds": null,
        "int64ByName": null,
        "nested": null,
        "not_known": {"deep": [1, 2]},
    }));
    let expected = Everything {
        an_int64: 5,
        an_int32: 6,
        color: Color::Red.into(),
        some_bytes: vec![0xfb, 0xff],
        ..Everything::default()
    };
    assert_eq!(message, expected);
    for wrong in [
        json!({"anInt32": 1.5}),
        json!({"anInt32": 4_294_967_296_u64}),
        json!({"color": "COLOR_NONE"}),
        json!({"name": "a", "number": "1"}),
        json!({"aString": "a", "a_string": "b"}),
        json!([]),
    ] {
        assert!(
            serde_json::from_value::<Everything>(wrong.clone()).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn json_has_what_is_not_a_number_and_has_no_name() {
    let message = Everything {
        a_double: f64::NEG_INFINITY,
        a_float: f32::INFINITY,
        color: 99,
        colors: vec![99, 1],
        color_by_flag: HashMap::from([(false, 99)]),
        maybe_color: Some(99),
        choice: Some(Choice::Shade(99)),
        at: Some(wkt::Timestamp::default()),
        value: Some(wkt::Value::from(wkt::value::Kind::NullValue(0))),
        nested_by_number: HashMap::from([(-1, Nested::default())]),
        ..Everything::default()
    };
    let expected = json!({
        "aDouble": "-Infinity",
        "aFloat": "Infinity",
        "color": 99,
        "colors": [99, "COLOR_RED"],
        "colorByFlag": {"false": 99},
        "maybeColor": 99,
        "shade": 99,
        "at": "1970-01-01T00:00:00Z",
        "value": null,
        "nestedByNumber": {"-1": {}},
    });
    assert_eq!(json(&message), expected);
    assert_eq!(from_json(expected), message);
    let nan = Everything {
        a_double: f64::NAN,
        ..Everything::default()
    };
    assert_eq!(json(&nan), json!({"aDouble": "NaN"}));
    assert!(from_json(json(&nan)).a_double.is_nan());
}

#[test]
fn a_message_is_protobuf_and_knows_its_file() {
    let shape = shape!(Everything);
    assert!(shape.has_proto() && shape.has_serde());
    let Some(Schema::File { set, full_name }) = shape!(Nested).schema() else {
        panic!("no file");
    };
    assert_eq!(full_name, "everything.v1.Everything.Nested");
    assert_eq!(set, FILE_DESCRIPTOR_SET);
    let message = Everything {
        an_int32: 150,
        ..Everything::default()
    };
    assert_eq!(message.encode_to_vec(), [3 << 3, 0x96, 1]);
}

#[test]
fn every_codec_carries_a_message() {
    let message = Everything {
        an_int64: -1,
        a_double: 0.5,
        some_bytes: vec![1, 2],
        color: Color::Red.into(),
        colors: vec![99, 1],
        nested_by_number: HashMap::from([(-1, Nested::default())]),
        color_by_flag: HashMap::from([(true, 1)]),
        choice: Some(Choice::Number(u64::MAX)),
        at: Some(wkt::Timestamp::default()),
        child: Some(Box::default()),
        ..Everything::default()
    };
    let shape = shape!(Everything);
    let codecs = micro::codecs();
    for content_type in [
        "application/cbor",
        "application/json",
        "application/msgpack",
        "application/protobuf",
    ] {
        let codec = codecs.get(content_type).unwrap();
        let mut out = micro::__v1::bytes::BytesMut::new();
        shape.encode(&message, codec, &mut out).unwrap();
        let back = shape.decode(codec, out.freeze()).unwrap();
        assert_eq!(back, message, "{content_type}");
    }
}

struct Double;

impl Tester for Double {
    async fn get_everything(&self, _: &Context, mut request: Everything) -> Result<Everything> {
        request.an_int32 *= 2;
        Ok(request)
    }

    async fn watch(&self, _: &Context, _: Nothing) -> Result<Streaming<Everything>> {
        Ok(Streaming::from_iter(vec![Everything::default(); 2]))
    }

    async fn gather(&self, _: &Context, requests: Streaming<Everything>) -> Result<Place> {
        let city = requests.collect(9).await?.into_iter().map(|it| it.a_string);
        Ok(Place {
            city: city.collect(),
            ..Place::default()
        })
    }

    async fn chat(
        &self,
        _: &Context,
        requests: Streaming<Everything>,
    ) -> Result<Streaming<Everything>> {
        Ok(requests)
    }

    async fn r#type(&self, _: &Context, _: wkt::Empty) -> Result<wkt::Timestamp> {
        Ok(wkt::Timestamp {
            seconds: 7,
            nanos: 0,
        })
    }

    async fn get_http_status(&self, _: &Context, _: Nothing) -> Result<Nested> {
        Err(micro::Error::not_found("no status"))
    }
}

#[tokio::test]
#[expect(deprecated, reason = "one method is, to see it pass through")]
async fn a_generated_contract_is_called_like_any_other() {
    let service = Service::new("tester")
        .registry_url("memory")
        .transport_url("memory")
        .handle(TesterServer::new(Double))
        .start()
        .await
        .unwrap();
    let remote = TesterClient::new(service.client().await.unwrap(), "tester");
    let cx = &Context::new();
    let many = || {
        Streaming::from_iter(["a", "b"].map(|text| Everything {
            a_string: text.into(),
            ..Everything::default()
        }))
    };

    let request = Everything {
        an_int32: 21,
        ..Everything::default()
    };
    let reply = remote.get_everything(cx, request).await.unwrap();
    assert_eq!(reply.an_int32, 42);
    let replies = remote.watch(cx, Nothing {}).await.unwrap();
    assert_eq!(replies.collect(9).await.unwrap().len(), 2);
    assert_eq!(remote.gather(cx, many()).await.unwrap().city, "ab");
    let replies = remote.chat(cx, many()).await.unwrap();
    assert_eq!(replies.collect(9).await.unwrap()[1].a_string, "b");
    let err = remote.get_http_status(cx, Nothing {}).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let time = remote.r#type(cx, wkt::Empty {}).await.unwrap();
    assert_eq!(time.seconds, 7);
    service.stop().await.unwrap();
}

#[test]
fn the_contract_is_as_in_the_file() {
    let contract = TesterClient::CONTRACT;
    assert_eq!(
        (contract.package, contract.name),
        ("everything.v1", "Tester")
    );
    assert_eq!(contract.doc, "Uses everything.\n\nIn all ways.");
    let methods: Vec<_> = contract
        .methods
        .iter()
        .map(|method| (method.name, method.idempotent))
        .collect();
    assert_eq!(
        methods,
        [
            ("GetEverything", true),
            ("Watch", false),
            ("Gather", true),
            ("Chat", false),
            ("GetHTTPStatus", false),
            ("type", false),
        ]
    );
    assert_eq!(contract.methods[0].doc, "One request, one reply.");
}
