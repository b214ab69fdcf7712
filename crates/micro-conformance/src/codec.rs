//! Behavior that every [`Codec`] shares.
//!
//! The suite finds out by itself which views of a message the codec uses. It carries its messages
//! in the serde view, the protobuf view or both; the protobuf one is written by hand, so that the
//! suite needs no protobuf library.

mod sample;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use micro_codec_core::{Codec, Decode, Encode, ErrorKind, Result, Shape};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::sample::{Random, Sample};
use crate::harness::{cases, run_cases};

type Backend = Arc<dyn Codec>;

/// What the codec can do, as far as the suite can see.
struct Capabilities {
    /// It uses the serde view.
    serde: bool,
    /// It uses the protobuf view.
    proto: bool,
    /// It uses the serde view, and a value in another is written between bytes that do not depend
    /// on it, so that the suite can nest them deeper than any writer would.
    wraps: bool,
}

impl Capabilities {
    fn of(codec: &dyn Codec) -> Self {
        let uses = |shape: Shape<Sample>| {
            let encoded = shape.encode(&Sample::default(), codec, &mut BytesMut::new());
            !matches!(encoded, Err(err) if err.kind() == ErrorKind::Unimplemented)
        };
        let serde = uses(Shape::serde());
        Self {
            serde,
            proto: uses(Shape::proto()),
            wraps: serde && Wrapper::find(codec, Tree::around).is_some(),
        }
    }
}

/// Runs the suite; `open` returns the codec.
///
/// `MICRO_CONFORMANCE_SEED` repeats a run whose random input failed; its number is in the message.
///
/// # Panics
///
/// If the codec does.
pub fn run<F>(open: F) -> ExitCode
where
    F: Fn() -> Backend + Clone + Send + 'static,
{
    let capabilities = Capabilities::of(&*open());
    LENGTHS.get_or_init(|| claim_lengths(open()));
    run_cases(
        cases![Capabilities;
            the_content_type_is_lower_case_without_parameters,
            the_codec_uses_a_view,
            a_message_without_a_view_that_it_uses_is_unimplemented,
            messages_of_every_field_come_back,
            messages_of_every_field_come_back_by_serde if serde,
            messages_of_every_field_come_back_by_protobuf if proto,
            a_message_with_both_views_comes_back,
            extremes_come_back,
            a_megabyte_comes_back,
            enums_and_buffered_values_come_back if serde,
            a_float_that_is_no_number_comes_back_or_is_refused,
            encoding_appends_and_leaves_what_is_there,
            encoding_twice_gives_the_same_bytes,
            decoding_reads_a_part_of_a_larger_buffer,
            unknown_fields_are_skipped,
            fields_may_come_in_another_order if serde,
            a_field_that_is_missing_takes_its_default if serde,
            no_bytes_are_refused_by_serde if serde,
            no_bytes_are_the_default_message_by_protobuf if proto,
            a_message_cut_short_is_refused_by_serde if serde,
            a_message_cut_short_never_panics,
            bytes_behind_the_message_are_refused if serde,
            invalid_utf8_in_a_text_is_refused,
            another_type_is_refused if serde,
            garbage_never_panics,
            damaged_messages_never_panic,
            lengths_beyond_the_input_allocate_nothing,
            values_nested_a_hundred_thousand_deep_are_refused if wraps,
            one_codec_serves_many_threads,
        ],
        &capabilities,
        &move || Ok(open()),
    )
}

/// Runs a case where a codec that never returns stops only the case: the harness's deadline cannot
/// interrupt what never awaits.
async fn blocking(case: impl FnOnce() + Send + 'static) {
    if let Err(err) = tokio::task::spawn_blocking(case).await {
        std::panic::resume_unwind(err.into_panic());
    }
}

/// The views of [`Sample`] that the codec uses.
fn shapes(codec: &dyn Codec) -> Vec<Shape<Sample>> {
    let capabilities = Capabilities::of(codec);
    let serde = capabilities.serde.then(Shape::serde);
    serde
        .into_iter()
        .chain(capabilities.proto.then(Shape::proto))
        .collect()
}

fn encode<T>(shape: Shape<T>, codec: &dyn Codec, message: &T) -> Bytes {
    let mut out = BytesMut::new();
    if let Err(err) = shape.encode(message, codec, &mut out) {
        panic!("the message is encoded: {err:?}");
    }
    out.freeze()
}

fn serde<T: Serialize + DeserializeOwned>(codec: &dyn Codec, message: &T) -> Bytes {
    encode(Shape::serde(), codec, message)
}

fn refused<T>(result: Result<T>, what: &str) {
    match result {
        Ok(_) => panic!("{what}: it was read"),
        Err(err) => assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{what}: {err}"),
    }
}

fn round_trip(shape: Shape<Sample>, codec: &dyn Codec, message: &Sample) {
    let bytes = encode(shape, codec, message);
    match shape.decode(codec, bytes.clone()) {
        Ok(back) => assert_eq!(&back, message, "{bytes:?}"),
        Err(err) => panic!("what was encoded is decoded: {err:?}\n{bytes:?}\n{message:?}"),
    }
}

// The codec and its views.

async fn the_content_type_is_lower_case_without_parameters(codec: Backend) {
    let content_type = codec.content_type();
    let (kind, subtype) = content_type.split_once('/').expect("type/subtype");
    for part in [kind, subtype] {
        assert!(!part.is_empty(), "{content_type}");
        // A token of HTTP without capitals.
        let token =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "!#$%&'*+-.^_`|~".contains(c);
        assert!(part.chars().all(token), "{content_type}");
    }
    assert_eq!(codec.content_type(), content_type);
}

async fn the_codec_uses_a_view(codec: Backend) {
    assert!(
        !shapes(&*codec).is_empty(),
        "the codec refuses a message with serde's view and one with protobuf's",
    );
}

async fn a_message_without_a_view_that_it_uses_is_unimplemented(codec: Backend) {
    let capabilities = Capabilities::of(&*codec);
    let check = |message: Encode<'_>, into: Decode<'_>| {
        let mut out = BytesMut::from("before");
        let err = codec.encode(message, &mut out).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err}");
        assert_eq!(&out[..], b"before");
        let err = codec.decode(Bytes::new(), into).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented, "{err}");
    };
    check(Encode::new(None, None), Decode::new(None, None));
    let sample = Sample::default();
    if !capabilities.serde {
        let err = Shape::<Sample>::serde().decode(&codec, Bytes::new());
        assert_eq!(err.unwrap_err().kind(), ErrorKind::Unimplemented);
        check(Encode::new(Some(&sample), None), Decode::new(None, None));
    }
    if !capabilities.proto {
        let mut into = Sample::default();
        check(
            Encode::new(None, Some(&sample)),
            Decode::new(None, Some(&mut into)),
        );
    }
}

// Round trips.

async fn messages_of_every_field_come_back(codec: Backend) {
    blocking(move || {
        for shape in shapes(&*codec) {
            round_trip(shape, &codec, &Sample::default());
            round_trip(shape, &codec, &Sample::full());
        }
    })
    .await;
}

async fn messages_of_every_field_come_back_by_serde(codec: Backend) {
    blocking(move || random_round_trips(Shape::serde(), &codec)).await;
}

async fn messages_of_every_field_come_back_by_protobuf(codec: Backend) {
    blocking(move || random_round_trips(Shape::proto(), &codec)).await;
}

fn random_round_trips(shape: Shape<Sample>, codec: &dyn Codec) {
    let mut random = Random::new();
    let seed = random.seed();
    for _ in 0..1_000 {
        let message = Sample::random(&mut random, 2);
        guard(seed, &message, || round_trip(shape, codec, &message));
    }
}

async fn a_message_with_both_views_comes_back(codec: Backend) {
    round_trip(Shape::both(), &codec, &Sample::full());
}

async fn extremes_come_back(codec: Backend) {
    let texts = [
        "",
        "\0",
        "\"\\\n\r\t\u{8}\u{c}",
        "é",
        "\u{10ffff}\u{fffe}",
        "𝄞",
        "\u{2028}",
        "</script>",
    ];
    let numbers = [
        0.0,
        -0.0,
        1.0,
        0.1,
        -4.1,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
    ];
    for shape in shapes(&*codec) {
        for (int, long) in [
            (i32::MIN, i64::MIN),
            (i32::MAX, i64::MAX),
            (-1, -1),
            (1, (1 << 53) + 1),
        ] {
            let unsigned = int as u32;
            let big = long as u64;
            let maybe = Some(long);
            round_trip(
                shape,
                &codec,
                &Sample {
                    int,
                    long,
                    unsigned,
                    big,
                    maybe,
                    ..Sample::default()
                },
            );
        }
        for text in texts {
            let text = text.to_owned();
            round_trip(
                shape,
                &codec,
                &Sample {
                    text,
                    ..Sample::default()
                },
            );
        }
        for number in numbers {
            let message = Sample {
                number,
                ratio: number as f32 / 2.0,
                ..Sample::default()
            };
            if message.ratio.is_finite() {
                round_trip(shape, &codec, &message);
                let back = shape.decode(&codec, encode(shape, &codec, &message));
                assert_eq!(back.unwrap().number.to_bits(), number.to_bits(), "{number}");
            }
        }
        let blob = (0..=255).collect();
        round_trip(
            shape,
            &codec,
            &Sample {
                blob,
                ..Sample::default()
            },
        );
        let maybe = Some(0);
        round_trip(
            shape,
            &codec,
            &Sample {
                maybe,
                ..Sample::default()
            },
        );
    }
}

async fn a_megabyte_comes_back(codec: Backend) {
    blocking(move || {
        for shape in shapes(&*codec) {
            let text = "megabyte".repeat(1 << 17);
            round_trip(
                shape,
                &codec,
                &Sample {
                    text,
                    ..Sample::default()
                },
            );
            let numbers = (0..1 << 18).collect();
            round_trip(
                shape,
                &codec,
                &Sample {
                    numbers,
                    ..Sample::default()
                },
            );
        }
    })
    .await;
}

/// What serde can describe and protobuf cannot.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Choice {
    Unit,
    Newtype(Vec<Self>),
    Tuple(i8, Option<String>),
    Struct { at: u16, tagged: Tagged },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    Point { x: i32, y: i32 },
    Nothing,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Self>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    first: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Untagged>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Choices {
    choices: Vec<Choice>,
    flat: Flat,
    unit: (),
    tuple: (bool, char, [u8; 3]),
    nested: Option<Vec<Option<u8>>>,
}

async fn enums_and_buffered_values_come_back(codec: Backend) {
    let choices = Choices {
        choices: vec![
            Choice::Unit,
            Choice::Newtype(vec![Choice::Unit, Choice::Newtype(Vec::new())]),
            Choice::Tuple(-8, Some("é".to_owned())),
            Choice::Tuple(0, None),
            Choice::Struct {
                at: 9,
                tagged: Tagged::Point { x: 1, y: -1 },
            },
            Choice::Struct {
                at: 0,
                tagged: Tagged::Nothing,
            },
        ],
        flat: Flat {
            first: 1,
            rest: [
                ("number".to_owned(), Untagged::Number(i64::MIN)),
                (
                    "list".to_owned(),
                    Untagged::List(vec![Untagged::Text("x".to_owned())]),
                ),
            ]
            .into(),
        },
        unit: (),
        tuple: (true, 'ß', [1, 2, 3]),
        nested: Some(vec![Some(1), None]),
    };
    let bytes = serde(&codec, &choices);
    let back: Choices = Shape::serde().decode(&codec, bytes).unwrap();
    assert_eq!(back, choices);
}

async fn a_float_that_is_no_number_comes_back_or_is_refused(codec: Backend) {
    for shape in shapes(&*codec) {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let message = Sample {
                number,
                ..Sample::default()
            };
            let mut out = BytesMut::new();
            let back = shape
                .encode(&message, &codec, &mut out)
                .and_then(|()| shape.decode(&codec, out.freeze()));
            match back {
                Ok(back) => assert!(
                    back.number == number || back.number.is_nan() && number.is_nan(),
                    "{number} came back as {}",
                    back.number,
                ),
                Err(err) => assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}"),
            }
        }
    }
}

// Buffers.

async fn encoding_appends_and_leaves_what_is_there(codec: Backend) {
    for shape in shapes(&*codec) {
        let alone = encode(shape, &codec, &Sample::full());
        let mut out = BytesMut::from("before");
        shape.encode(&Sample::full(), &codec, &mut out).unwrap();
        shape.encode(&Sample::full(), &codec, &mut out).unwrap();
        assert_eq!(out[..], *[b"before", &alone[..], &alone[..]].concat());
    }
}

async fn encoding_twice_gives_the_same_bytes(codec: Backend) {
    for shape in shapes(&*codec) {
        let first = encode(shape, &codec, &Sample::full());
        assert_eq!(encode(shape, &codec, &Sample::full()), first);
    }
}

async fn decoding_reads_a_part_of_a_larger_buffer(codec: Backend) {
    for shape in shapes(&*codec) {
        let alone = encode(shape, &codec, &Sample::full());
        let around = Bytes::from([&[0xff; 5], &alone[..], &[0xff; 5]].concat());
        let back = shape.decode(&codec, around.slice(5..5 + alone.len()));
        assert_eq!(back.unwrap(), Sample::full());
    }
}

// Versions of a message.

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Less {
    text: String,
    long: i64,
}

async fn unknown_fields_are_skipped(codec: Backend) {
    let capabilities = Capabilities::of(&*codec);
    let full = Sample::full();
    if capabilities.serde {
        let bytes = serde(&codec, &full);
        let less: Less = Shape::serde().decode(&codec, bytes).unwrap();
        assert_eq!((&less.text, less.long), (&full.text, full.long));
    }
    if capabilities.proto {
        let mut bytes = encode(Shape::proto(), &codec, &full).to_vec();
        // Field 100, with two bytes that the message does not know.
        bytes.extend([0xa2, 0x06, 0x02, 0xff, 0xff]);
        assert_eq!(
            Shape::<Sample>::proto()
                .decode(&codec, bytes.into())
                .unwrap(),
            full
        );
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Reordered {
    long: i64,
    text: String,
}

async fn fields_may_come_in_another_order(codec: Backend) {
    let bytes = serde(
        &codec,
        &Less {
            text: "moved".to_owned(),
            long: -3,
        },
    );
    let back: Reordered = Shape::serde().decode(&codec, bytes).unwrap();
    assert_eq!(
        back,
        Reordered {
            long: -3,
            text: "moved".to_owned()
        }
    );
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct More {
    #[serde(default)]
    added: Vec<u8>,
    text: String,
    long: i64,
    maybe: Option<String>,
}

async fn a_field_that_is_missing_takes_its_default(codec: Backend) {
    let bytes = serde(
        &codec,
        &Less {
            text: "old".to_owned(),
            long: 1,
        },
    );
    let back: More = Shape::serde().decode(&codec, bytes).unwrap();
    let expected = More {
        text: "old".to_owned(),
        long: 1,
        ..More::default()
    };
    assert_eq!(back, expected);
}

// What is no message.

async fn no_bytes_are_refused_by_serde(codec: Backend) {
    refused(
        Shape::<Sample>::serde().decode(&codec, Bytes::new()),
        "no bytes",
    );
}

async fn no_bytes_are_the_default_message_by_protobuf(codec: Backend) {
    let back = Shape::<Sample>::proto().decode(&codec, Bytes::new());
    assert_eq!(back.unwrap(), Sample::default());
}

async fn a_message_cut_short_is_refused_by_serde(codec: Backend) {
    blocking(move || {
        let mut random = Random::new();
        let seed = random.seed();
        for _ in 0..20 {
            let message = Sample::random(&mut random, 1);
            let bytes = serde(&codec, &message);
            for end in 0..bytes.len() {
                let cut = bytes.slice(..end);
                guard(seed, &cut, || {
                    let back = Shape::<Sample>::serde().decode(&codec, cut.clone());
                    refused(back, "a message cut short");
                });
            }
        }
    })
    .await;
}

async fn a_message_cut_short_never_panics(codec: Backend) {
    blocking(move || {
        for shape in shapes(&*codec) {
            let bytes = encode(shape, &codec, &Sample::full());
            for end in 0..bytes.len() {
                // Between two fields, protobuf cannot know that more was to come.
                read_or_refused(shape, &codec, bytes.slice(..end));
            }
        }
    })
    .await;
}

async fn bytes_behind_the_message_are_refused(codec: Backend) {
    let bytes = serde(&codec, &Sample::full());
    for behind in [&b"\0"[..], b"x", b"\xff", &bytes] {
        let bytes = Bytes::from([&bytes, behind].concat());
        refused(
            Shape::<Sample>::serde().decode(&codec, bytes),
            "bytes behind",
        );
    }
}

async fn invalid_utf8_in_a_text_is_refused(codec: Backend) {
    let marker = "needle-in-the-text";
    let text = marker.to_owned();
    let message = Sample {
        text,
        ..Sample::default()
    };
    for shape in shapes(&*codec) {
        let bytes = encode(shape, &codec, &message);
        let Some(at) = bytes
            .windows(marker.len())
            .position(|w| w == marker.as_bytes())
        else {
            // The format does not write texts as they are, so there is nothing to break.
            continue;
        };
        // A stray byte, a character cut short, an overlong slash, a surrogate, one beyond Unicode.
        for bad in [
            &b"\xff"[..],
            b"\xc3",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
        ] {
            let mut bytes = bytes.to_vec();
            bytes[at..at + bad.len()].copy_from_slice(bad);
            refused(shape.decode(&codec, bytes.into()), "invalid UTF-8");
        }
    }
}

async fn another_type_is_refused(codec: Backend) {
    let less = serde(&codec, &Less::default());
    refused(
        Shape::<Vec<u64>>::serde().decode(&codec, less.clone()),
        "a struct as a list",
    );
    refused(
        Shape::<Sample>::serde().decode(&codec, less),
        "a struct without fields it needs",
    );
}

// Attacks.

/// Reads the bytes; they are a message or refused, whatever they are.
fn read_or_refused(shape: Shape<Sample>, codec: &dyn Codec, bytes: Bytes) {
    match shape.decode(codec, bytes) {
        // What was read can be written.
        Ok(message) => drop(encode(shape, codec, &message)),
        Err(err) => assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}"),
    }
}

/// Runs what uses random input; a panic in it names the seed and the input.
fn guard(seed: u64, input: &(impl std::fmt::Debug + ?Sized), run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        let text = text_of(&*panic);
        panic!("{text}\nMICRO_CONFORMANCE_SEED={seed}\ninput: {input:?}");
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked")
}

async fn garbage_never_panics(codec: Backend) {
    blocking(move || {
        let mut random = Random::new();
        let seed = random.seed();
        for shape in shapes(&*codec) {
            for _ in 0..10_000 {
                let bytes = random.bytes(64);
                guard(seed, &bytes, || {
                    read_or_refused(shape, &codec, bytes.clone())
                });
            }
        }
    })
    .await;
}

async fn damaged_messages_never_panic(codec: Backend) {
    blocking(move || {
        let mut random = Random::new();
        let seed = random.seed();
        for shape in shapes(&*codec) {
            for _ in 0..100 {
                let message = Sample::random(&mut random, 1);
                let whole = encode(shape, &codec, &message).to_vec();
                if whole.is_empty() {
                    continue;
                }
                for _ in 0..50 {
                    let mut bytes = whole.clone();
                    for _ in 0..=random.below(3) {
                        let at = random.below(bytes.len());
                        match random.below(3) {
                            0 => bytes[at] ^= 1 << random.below(8),
                            1 => bytes[at] = random.next() as u8,
                            _ => bytes.insert(at, random.next() as u8),
                        }
                    }
                    let bytes = Bytes::from(bytes);
                    guard(seed, &bytes, || {
                        read_or_refused(shape, &codec, bytes.clone())
                    });
                }
            }
        }
    })
    .await;
}

/// What came of [`claim_lengths`], which runs before there are other threads: what they allocate
/// would be taken for the codec's.
static LENGTHS: OnceLock<Result<(), String>> = OnceLock::new();

async fn lengths_beyond_the_input_allocate_nothing(_: Backend) {
    if let Some(Err(text)) = LENGTHS.get() {
        panic!("{text}");
    }
}

/// Hands the codec lengths that claim far more than there is.
fn claim_lengths(codec: Backend) -> Result<(), String> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        let checked = catch_unwind(AssertUnwindSafe(|| claim_lengths_of(&*codec)));
        // The receiver may have lost patience.
        let _ = done.send(checked.map_err(|panic| text_of(&*panic).to_owned()));
    });
    outcome
        .recv_timeout(Duration::from_secs(30))
        .unwrap_or_else(|_| Err("the case did not finish".to_owned()))
}

fn claim_lengths_of(codec: &dyn Codec) {
    for shape in shapes(codec) {
        let whole = encode(shape, codec, &Sample::full());
        let before = peak_memory();
        // Wherever the format keeps a length, one of these makes it enormous.
        for at in 0..whole.len() {
            for len in [1, 2, 4, 5, 8, 9] {
                for fill in [0xff, 0x7f] {
                    let mut bytes = whole.to_vec();
                    let end = bytes.len().min(at + len);
                    bytes[at..end].fill(fill);
                    read_or_refused(shape, codec, bytes.into());
                }
            }
        }
        // The heads of binary formats with a length, and nothing behind.
        for head in 0..=255 {
            for len in 1..=9 {
                let mut bytes = vec![0xff; len];
                bytes.insert(0, head);
                read_or_refused(shape, codec, bytes.clone().into());
                bytes.push(0x0f);
                read_or_refused(shape, codec, bytes.into());
            }
        }
        if let (Some(before), Some(after)) = (before, peak_memory()) {
            let grown = after.saturating_sub(before) / 1024;
            assert!(grown < 256, "{grown} MiB were allocated for lengths alone");
        }
    }
}

/// The most address space that the process has had, in KiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Self>>,
}

impl Chain {
    fn around(inner: Option<Self>) -> Self {
        Self {
            next: inner.map(Box::new),
        }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct List {
    items: Vec<Self>,
}

impl List {
    fn around(inner: Option<Self>) -> Self {
        Self {
            items: inner.into_iter().collect(),
        }
    }
}

/// Some libraries count the depth of lists and maps, and forget enums.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
enum Tree {
    #[default]
    Leaf,
    Node(Box<Self>),
}

impl Tree {
    fn around(inner: Option<Self>) -> Self {
        inner.map_or(Self::Leaf, |inner| Self::Node(Box::new(inner)))
    }
}

/// The bytes before and behind a value that stands in another.
struct Wrapper {
    before: Vec<u8>,
    inside: Vec<u8>,
    behind: Vec<u8>,
}

impl Wrapper {
    /// `None` if they depend on the value.
    fn find<T: Serialize + DeserializeOwned>(
        codec: &dyn Codec,
        around: fn(Option<T>) -> T,
    ) -> Option<Self> {
        let nested = |depth: usize| {
            let mut value = around(None);
            for _ in 0..depth {
                value = around(Some(value));
            }
            let mut out = BytesMut::new();
            Shape::serde().encode(&value, codec, &mut out).ok()?;
            Some(out.to_vec())
        };
        let (inside, once) = (nested(1)?, nested(2)?);
        let at = once.windows(inside.len()).position(|part| part == inside)?;
        let wrapper = Self {
            before: once[..at].to_vec(),
            behind: once[at + inside.len()..].to_vec(),
            inside,
        };
        (wrapper.nest(9) == nested(10)?).then_some(wrapper)
    }

    fn nest(&self, depth: usize) -> Vec<u8> {
        [
            self.before.repeat(depth),
            self.inside.clone(),
            self.behind.repeat(depth),
        ]
        .concat()
    }
}

async fn values_nested_a_hundred_thousand_deep_are_refused(codec: Backend) {
    fn check<T: Serialize + DeserializeOwned>(codec: &dyn Codec, around: fn(Option<T>) -> T) {
        let Some(wrapper) = Wrapper::find(codec, around) else {
            return;
        };
        let decode = |depth| Shape::<T>::serde().decode(codec, wrapper.nest(depth).into());
        if let Err(err) = decode(30) {
            panic!("values nested 30 deep are read: {err}");
        }
        for depth in [2_000, 100_000] {
            refused(decode(depth), "nested values");
            // The same in a field that the message does not know; it may be passed over.
            let bytes = Bytes::from(wrapper.nest(depth));
            if let Err(err) = Shape::<Unknowing>::serde().decode(codec, bytes) {
                assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
            }
        }
        // Without their ends, as an attacker saves the other half.
        refused(
            Shape::<T>::serde().decode(codec, wrapper.before.repeat(100_000).into()),
            "nested values without ends",
        );
    }
    blocking(move || {
        check(&codec, Chain::around);
        check(&codec, List::around);
        check(&codec, Tree::around);
    })
    .await;
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Unknowing {}

async fn one_codec_serves_many_threads(codec: Backend) {
    blocking(move || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut random = Random::new();
                    for _ in 0..100 {
                        let message = Sample::random(&mut random, 1);
                        for shape in shapes(&*codec) {
                            round_trip(shape, &codec, &message);
                        }
                    }
                });
            }
        });
    })
    .await;
}
