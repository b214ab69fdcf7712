//! Derived messages, byte for byte against prost's derive.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use micro_codec_core::{ErrorKind, FieldKind, FieldLabel, ProtoMessage, Schema, shape};
use micro_codec_proto::{Proto, field};
use micro_macros::Message;
use proptest::prelude::*;
use prost::Message as _;

mod facade {
    pub(crate) mod __v1 {
        pub(crate) use micro_codec_core as codec;
        pub(crate) use micro_codec_proto as proto;
    }
}

// The two sides: the same fields, derived by us and by prost.

/// Everything that a message can hold.
///
/// In two paragraphs.
#[derive(Clone, Debug, Default, PartialEq, Message)]
#[micro(crate = "self::facade")]
struct All {
    /// A truth.
    flag: bool,
    int32: i32,
    int64: i64,
    uint32: u32,
    uint64: u64,
    float: f32,
    double: f64,
    string: String,
    bytes: Vec<u8>,
    shared: Bytes,
    maybe_int: Option<i32>,
    maybe_string: Option<String>,
    maybe_bytes: Option<Vec<u8>>,
    maybe_flag: Option<bool>,
    ints: Vec<i32>,
    longs: Vec<u64>,
    doubles: Vec<f64>,
    flags: Vec<bool>,
    strings: Vec<String>,
    blobs: Vec<Vec<u8>>,
    inner: Inner,
    maybe_inner: Option<Inner>,
    inners: Vec<Inner>,
    boxed: Option<Box<Inner>>,
    color: Color,
    maybe_color: Option<Color>,
    colors: Vec<Color>,
    numbers: BTreeMap<i32, String>,
    named: BTreeMap<String, Inner>,
    palette: BTreeMap<bool, Color>,
    r#type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Message)]
#[micro(crate = "self::facade")]
struct Inner {
    #[micro(tag = 2)]
    id: u64,
    #[micro(tag = 1)]
    name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Message)]
#[micro(crate = "self::facade")]
enum Color {
    #[default]
    Unspecified,
    Red = 5,
    DeepBlue,
    Negative = -7,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProstAll {
    #[prost(bool, tag = "1")]
    flag: bool,
    #[prost(int32, tag = "2")]
    int32: i32,
    #[prost(int64, tag = "3")]
    int64: i64,
    #[prost(uint32, tag = "4")]
    uint32: u32,
    #[prost(uint64, tag = "5")]
    uint64: u64,
    #[prost(float, tag = "6")]
    float: f32,
    #[prost(double, tag = "7")]
    double: f64,
    #[prost(string, tag = "8")]
    string: String,
    #[prost(bytes = "vec", tag = "9")]
    bytes: Vec<u8>,
    #[prost(bytes = "bytes", tag = "10")]
    shared: Bytes,
    #[prost(int32, optional, tag = "11")]
    maybe_int: Option<i32>,
    #[prost(string, optional, tag = "12")]
    maybe_string: Option<String>,
    #[prost(bytes = "vec", optional, tag = "13")]
    maybe_bytes: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "14")]
    maybe_flag: Option<bool>,
    #[prost(int32, repeated, tag = "15")]
    ints: Vec<i32>,
    #[prost(uint64, repeated, tag = "16")]
    longs: Vec<u64>,
    #[prost(double, repeated, tag = "17")]
    doubles: Vec<f64>,
    #[prost(bool, repeated, tag = "18")]
    flags: Vec<bool>,
    #[prost(string, repeated, tag = "19")]
    strings: Vec<String>,
    #[prost(bytes = "vec", repeated, tag = "20")]
    blobs: Vec<Vec<u8>>,
    #[prost(message, required, tag = "21")]
    inner: ProstInner,
    #[prost(message, optional, tag = "22")]
    maybe_inner: Option<ProstInner>,
    #[prost(message, repeated, tag = "23")]
    inners: Vec<ProstInner>,
    #[prost(message, optional, boxed, tag = "24")]
    boxed: Option<Box<ProstInner>>,
    #[prost(enumeration = "ProstColor", tag = "25")]
    color: i32,
    #[prost(enumeration = "ProstColor", optional, tag = "26")]
    maybe_color: Option<i32>,
    #[prost(enumeration = "ProstColor", repeated, tag = "27")]
    colors: Vec<i32>,
    #[prost(btree_map = "int32, string", tag = "28")]
    numbers: BTreeMap<i32, String>,
    #[prost(btree_map = "string, message", tag = "29")]
    named: BTreeMap<String, ProstInner>,
    #[prost(btree_map = "bool, enumeration(ProstColor)", tag = "30")]
    palette: BTreeMap<bool, i32>,
    #[prost(string, tag = "31")]
    r#type: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProstInner {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ProstColor {
    Unspecified = 0,
    Red = 5,
    DeepBlue = 6,
    Negative = -7,
}

// A prost type as a field of a derived one.
micro_codec_proto::prost_message!(ProstInner, &[], "test.Inner");

fn encode<M: ProtoMessage>(message: &M) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    assert_eq!(out.len(), ProtoMessage::encoded_len(message));
    out.freeze()
}

fn decode<M: ProtoMessage + Default>(bytes: impl Into<Bytes>) -> micro_codec_core::Result<M> {
    let mut message = M::default();
    message.merge(bytes.into())?;
    Ok(message)
}

// Random messages.

fn float() -> impl Strategy<Value = f64> {
    // prost takes -0.0 for absent; see `negative_zero_arrives`.
    prop_oneof![
        Just(0.0),
        any::<f64>().prop_filter("-0", |x| *x != 0.0 && !x.is_nan())
    ]
}

fn inner() -> impl Strategy<Value = ProstInner> {
    prop_oneof![
        Just(ProstInner::default()),
        (any::<String>(), any::<u64>()).prop_map(|(name, id)| ProstInner { name, id }),
    ]
}

fn color() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), Just(5), Just(6), Just(-7)]
}

fn all() -> impl Strategy<Value = ProstAll> {
    use proptest::collection::{btree_map, vec};
    use proptest::option::of;
    let numbers = (
        any::<bool>(),
        any::<i32>(),
        any::<i64>(),
        any::<u32>(),
        any::<u64>(),
    );
    let texts = (
        any::<String>(),
        any::<Vec<u8>>(),
        any::<Vec<u8>>(),
        "[a-c]{0,2}",
    );
    let maybes = (
        of(any::<i32>()),
        of(any::<String>()),
        of(any::<Vec<u8>>()),
        of(any::<bool>()),
    );
    let many = (
        vec(any::<i32>(), 0..4),
        vec(any::<u64>(), 0..4),
        vec(float(), 0..4),
        vec(any::<bool>(), 0..4),
        vec(any::<String>(), 0..4),
        vec(any::<Vec<u8>>(), 0..4),
    );
    let messages = (inner(), of(inner()), vec(inner(), 0..3), of(inner()));
    let colors = (color(), of(color()), vec(color(), 0..5));
    let maps = (
        btree_map(any::<i32>(), any::<String>(), 0..3),
        btree_map("[a-c]{0,1}", inner(), 0..3),
        btree_map(any::<bool>(), color(), 0..3),
    );
    let floats = (float(), float());
    (numbers, floats, texts, maybes, many, messages, colors, maps).prop_map(
        |(numbers, floats, texts, maybes, many, messages, colors, maps)| ProstAll {
            flag: numbers.0,
            int32: numbers.1,
            int64: numbers.2,
            uint32: numbers.3,
            uint64: numbers.4,
            float: floats.0 as f32 + 0.0,
            double: floats.1,
            string: texts.0,
            bytes: texts.1,
            shared: texts.2.into(),
            r#type: texts.3,
            maybe_int: maybes.0,
            maybe_string: maybes.1,
            maybe_bytes: maybes.2,
            maybe_flag: maybes.3,
            ints: many.0,
            longs: many.1,
            doubles: many.2,
            flags: many.3,
            strings: many.4,
            blobs: many.5,
            inner: messages.0,
            maybe_inner: messages.1,
            inners: messages.2,
            boxed: messages.3.map(Box::new),
            color: colors.0,
            maybe_color: colors.1,
            colors: colors.2,
            numbers: maps.0,
            named: maps.1,
            palette: maps.2,
        },
    )
}

proptest! {
    #[test]
    fn every_message_is_byte_for_byte_that_of_prost(theirs in all()) {
        let bytes = Bytes::from(theirs.encode_to_vec());
        let ours: All = decode(bytes.clone()).unwrap();
        prop_assert_eq!(&encode(&ours), &bytes);
        prop_assert_eq!(decode::<All>(bytes).unwrap(), ours);
    }

    #[test]
    fn a_message_cut_short_never_panics(theirs in all()) {
        let bytes = Bytes::from(theirs.encode_to_vec());
        for end in 0..bytes.len() {
            let cut = bytes.slice(..end);
            // Ours and prost's agree on which cuts fall between two fields.
            prop_assert_eq!(decode::<All>(cut.clone()).is_ok(), ProstAll::decode(cut).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_prost_does(bytes: Vec<u8>) {
        let ours = decode::<All>(bytes.clone());
        prop_assert_eq!(ours.is_ok(), ProstAll::decode(&*bytes).is_ok());
        if let Err(err) = ours {
            prop_assert_eq!(err.kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn one_changed_byte_never_panics(theirs in all(), at: prop::sample::Index, value: u8) {
        let mut bytes = theirs.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let ours = decode::<All>(bytes.clone());
        prop_assert_eq!(ours.is_ok(), ProstAll::decode(&*bytes).is_ok());
    }
}

#[test]
fn the_golden_vectors_of_the_protobuf_documentation() {
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Test1 {
        a: i32,
    }
    assert_eq!(encode(&Test1 { a: 150 })[..], [0x08, 0x96, 0x01]);
    assert_eq!(
        encode(&Test1 { a: -2 })[..],
        [
            0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
        ],
    );

    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Test2 {
        #[micro(tag = 2)]
        b: String,
    }
    let test2 = Test2 {
        b: "testing".to_owned(),
    };
    assert_eq!(encode(&test2)[..], *b"\x12\x07testing");

    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Test3 {
        #[micro(tag = 3)]
        c: Option<Test1>,
    }
    let test3 = Test3 {
        c: Some(Test1 { a: 150 }),
    };
    assert_eq!(encode(&test3)[..], [0x1a, 0x03, 0x08, 0x96, 0x01]);

    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Test5 {
        #[micro(tag = 6)]
        f: Vec<i32>,
    }
    let test5 = Test5 {
        f: vec![3, 270, 86_942],
    };
    let packed = [0x32, 0x06, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05];
    assert_eq!(encode(&test5)[..], packed);
    // The same unpacked, and both mixed: a reader takes all of them.
    let unpacked = [0x30, 0x03, 0x30, 0x8e, 0x02, 0x32, 0x03, 0x9e, 0xa7, 0x05];
    assert_eq!(decode::<Test5>(unpacked.to_vec()).unwrap(), test5);
}

#[test]
fn empty_messages_are_empty() {
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Unit;
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Braces {}
    assert!(encode(&Unit).is_empty());
    assert_eq!(decode::<Braces>(Bytes::new()).unwrap(), Braces {});
    // The one message that is always there.
    assert_eq!(encode(&All::default())[..], [0xaa, 0x01, 0x00]);
    assert_eq!(decode::<All>(Bytes::new()).unwrap(), All::default());
}

#[test]
fn unknown_fields_are_skipped() {
    let theirs = ProstAll {
        string: "kept".to_owned(),
        inners: vec![ProstInner {
            name: "dropped".to_owned(),
            id: 1,
        }],
        ..Default::default()
    };
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Less {
        #[micro(tag = 8)]
        string: String,
    }
    let less: Less = decode(theirs.encode_to_vec()).unwrap();
    assert_eq!(less.string, "kept");
    assert_eq!(encode(&less)[..], *b"\x42\x04kept");
}

#[test]
fn an_enums_unknown_number_counts_as_absent() {
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Colors {
        #[micro(tag = 25)]
        color: Color,
        #[micro(tag = 26)]
        maybe_color: Option<Color>,
        #[micro(tag = 27)]
        colors: Vec<Color>,
        #[micro(tag = 30)]
        palette: BTreeMap<bool, Color>,
    }
    let theirs = ProstAll {
        color: 99,
        maybe_color: Some(99),
        colors: vec![5, 99, 6],
        palette: [(false, 99), (true, 5)].into(),
        ..Default::default()
    };
    let colors: Colors = decode(theirs.encode_to_vec()).unwrap();
    let expected = Colors {
        color: Color::Unspecified,
        maybe_color: None,
        colors: vec![Color::Red, Color::DeepBlue],
        palette: [(true, Color::Red)].into(),
    };
    assert_eq!(colors, expected);
}

#[test]
fn negative_zero_arrives() {
    let all = All {
        float: -0.0,
        double: -0.0,
        ..All::default()
    };
    let back: All = decode(encode(&all)).unwrap();
    assert!(back.float.is_sign_negative() && back.double.is_sign_negative());
}

#[test]
fn hash_maps_times_and_foreign_messages_come_back() {
    #[derive(Debug, Default, PartialEq, Message)]
    #[micro(crate = "self::facade")]
    struct Others {
        ages: HashMap<String, u32>,
        timeout: Duration,
        at: Option<SystemTime>,
        history: Vec<SystemTime>,
        foreign: ProstInner,
        foreigners: HashMap<u64, ProstInner>,
    }
    let foreign = ProstInner {
        name: "prost".to_owned(),
        id: 7,
    };
    let others = Others {
        ages: [("Ada".to_owned(), 36), (String::new(), 0)].into(),
        timeout: Duration::from_millis(1_500),
        at: Some(UNIX_EPOCH - Duration::from_millis(1)),
        history: vec![UNIX_EPOCH, UNIX_EPOCH + Duration::from_nanos(1)],
        foreign: foreign.clone(),
        foreigners: [(1, foreign)].into(),
    };
    assert_eq!(decode::<Others>(encode(&others)).unwrap(), others);

    #[derive(Clone, PartialEq, prost::Message)]
    struct ProstTimes {
        #[prost(message, optional, tag = "2")]
        timeout: Option<prost_types::Duration>,
        #[prost(message, optional, tag = "3")]
        at: Option<prost_types::Timestamp>,
    }
    let times = ProstTimes::decode(encode(&others)).unwrap();
    assert_eq!(
        times.timeout,
        Some(prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000
        })
    );
    assert_eq!(
        times.at,
        Some(prost_types::Timestamp {
            seconds: -1,
            nanos: 999_000_000
        })
    );
}

#[derive(Debug, Default, PartialEq, Message)]
#[micro(crate = "self::facade")]
struct Chain {
    next: Option<Box<Self>>,
    children: Vec<Self>,
    by_name: BTreeMap<String, Self>,
}

#[test]
fn messages_nest_a_hundred_deep_and_no_deeper() {
    // Wraps in the field `tag`, from the inside out.
    let nested = |tag: u8, depth: usize| {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..depth {
            let mut outer = BytesMut::new();
            prost::encoding::encode_key(
                tag.into(),
                prost::encoding::WireType::LengthDelimited,
                &mut outer,
            );
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.extend_from_slice(&bytes);
            bytes = outer.to_vec();
        }
        bytes
    };
    for tag in [1, 2] {
        assert!(decode::<Chain>(nested(tag, 100)).is_ok());
        for depth in [101, 1_000, 10_000] {
            let err = decode::<Chain>(nested(tag, depth)).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument);
            assert!(err.message().contains("too deep"), "{err}");
        }
    }
    // Groups that the message does not know: skipping recurses too.
    for depth in [101, 100_000] {
        assert!(decode::<Chain>(vec![0x23; depth]).is_err());
    }
}

#[test]
fn lengths_beyond_the_input_are_refused_at_once() {
    for bytes in [
        &[0x42, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[
            0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        &[0x7a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x01],
        &[0xaa, 0x01, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // A field of `inner` that goes on behind its end, into the rest of the message.
        &[0xaa, 0x01, 0x03, 0x0a, 0x05, b'a', b'b', b'c', b'd', b'e'],
    ] {
        let err = decode::<All>(bytes.to_vec()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{bytes:02x?}");
    }
}

#[test]
fn an_error_names_the_fields() {
    let theirs = [0xaa, 0x01, 0x03, 0x0a, 0x01, 0xff];
    let err = decode::<All>(theirs.to_vec()).unwrap_err();
    assert_eq!(
        err.to_string(),
        "InvalidArgument: failed to decode Protobuf message: invalid string value: \
         data is not UTF-8 encoded { field: Inner.name, field: All.inner }",
    );
}

#[test]
fn a_second_occurrence_merges_messages_and_replaces_the_rest() {
    let mut bytes = encode(&Inner {
        id: 1,
        name: "first".to_owned(),
    })
    .to_vec();
    bytes.extend(encode(&Inner {
        id: 2,
        name: String::new(),
    }));
    let inner: Inner = decode(bytes).unwrap();
    assert_eq!(
        inner,
        Inner {
            id: 2,
            name: "first".to_owned()
        }
    );
}

#[test]
fn the_schema_tells_everything() {
    let Schema::Derived(schema) = All::default().schema() else {
        panic!("derived");
    };
    assert_eq!(schema.name, "All");
    assert_eq!(
        schema.doc,
        "Everything that a message can hold.\n\nIn two paragraphs."
    );
    assert_eq!(schema.fields.len(), 31);
    assert_eq!(schema.fields[0].doc, "A truth.");
    for (tag, name, label) in [
        (1, "flag", FieldLabel::Implicit),
        (11, "maybe_int", FieldLabel::Optional),
        (15, "ints", FieldLabel::Repeated),
        (20, "blobs", FieldLabel::Repeated),
        (21, "inner", FieldLabel::Implicit),
        (22, "maybe_inner", FieldLabel::Optional),
        (28, "numbers", FieldLabel::Repeated),
        (31, "type", FieldLabel::Implicit),
    ] {
        let field = &schema.fields[tag as usize - 1];
        assert_eq!((field.tag, &*field.name, field.label), (tag, name, label));
    }
    assert!(matches!(schema.fields[8].kind, FieldKind::Bytes));
    assert!(
        matches!(&schema.fields[24].kind, FieldKind::Enum(color) if color.name == "Color"
        && color.values[1] == ("COLOR_RED".into(), 5) && color.values[2].0 == "COLOR_DEEP_BLUE")
    );
    let FieldKind::Message(inner) = schema.fields[23].kind else {
        panic!("a message");
    };
    assert_eq!(inner().name(), "Inner");
    let FieldKind::Map(key, value) = &schema.fields[28].kind else {
        panic!("a map");
    };
    assert!(matches!(
        (&**key, &**value),
        (FieldKind::String, FieldKind::Message(_))
    ));
}

#[test]
fn a_message_has_a_shape_and_its_name_can_be_chosen() {
    #[derive(Debug, Default, Message)]
    #[micro(crate = "self::facade", name = "HelloRequest")]
    struct Request {
        name: String,
    }
    let shape = shape!(Request);
    assert!(shape.has_proto() && !shape.has_serde());
    assert_eq!(shape.schema().unwrap().name(), "HelloRequest");
    let mut out = BytesMut::from("before");
    shape
        .encode(
            &Request {
                name: "Ada".to_owned(),
            },
            &Proto,
            &mut out,
        )
        .unwrap();
    assert_eq!(out[..], *b"before\x0a\x03Ada");
    let bytes = out.split_off(6).freeze();
    assert_eq!(shape.decode(&Proto, bytes).unwrap().name, "Ada");
}

#[test]
fn bytes_are_not_copied() {
    let bytes = encode(&All {
        shared: Bytes::from(vec![7; 4096]),
        ..All::default()
    });
    let all: All = decode(bytes.clone()).unwrap();
    let inside = bytes.as_ptr_range().contains(&all.shared.as_ptr());
    assert!(inside, "a slice of the input");
    assert_eq!(field::Message::encoded_len(&all), bytes.len());
}
