//! A contract whose message has a field of every kind.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use micro::{Context, Detail, Error, Result};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, micro::Message)]
pub(crate) struct Everything {
    pub(crate) flag: bool,
    pub(crate) int32: i32,
    pub(crate) int64: i64,
    pub(crate) uint32: u32,
    pub(crate) uint64: u64,
    pub(crate) float: f32,
    pub(crate) double: f64,
    pub(crate) text: String,
    pub(crate) raw: Vec<u8>,
    pub(crate) maybe_number: Option<i32>,
    pub(crate) maybe_text: Option<String>,
    pub(crate) numbers: Vec<i64>,
    pub(crate) texts: Vec<String>,
    pub(crate) raws: Vec<Vec<u8>>,
    pub(crate) inner: Inner,
    pub(crate) maybe_inner: Option<Inner>,
    pub(crate) inners: Vec<Inner>,
    pub(crate) color: Color,
    pub(crate) colors: Vec<Color>,
    pub(crate) by_name: BTreeMap<String, u32>,
    pub(crate) by_number: BTreeMap<i32, Inner>,
    pub(crate) took: Duration,
    pub(crate) at: Option<SystemTime>,
    pub(crate) next: Option<Box<Self>>,
    /// A keyword in Rust.
    pub(crate) r#type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, micro::Message)]
pub(crate) struct Inner {
    #[micro(tag = 2)]
    pub(crate) id: u64,
    #[micro(tag = 1)]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, micro::Message)]
pub(crate) enum Color {
    #[default]
    Unspecified,
    Red = 5,
    DeepBlue,
}

impl Everything {
    /// Every field has a value that is not its default.
    pub(crate) fn full() -> Self {
        Self {
            flag: true,
            int32: -32,
            int64: i64::MIN,
            uint32: u32::MAX,
            uint64: u64::MAX,
            float: 1.5,
            double: -2.25,
            text: "föö".to_owned(),
            raw: vec![0, 255, 7],
            // Present, though the default's value.
            maybe_number: Some(0),
            maybe_text: Some(String::new()),
            numbers: vec![0, -1, 1 << 40],
            texts: vec![String::new(), "b".to_owned()],
            raws: vec![vec![], vec![1]],
            inner: inner(1, "one"),
            maybe_inner: Some(Inner::default()),
            inners: vec![inner(2, "two"), Inner::default()],
            color: Color::Red,
            colors: vec![Color::DeepBlue, Color::Unspecified],
            by_name: BTreeMap::from([("a".to_owned(), 1), (String::new(), 0)]),
            by_number: BTreeMap::from([(-1, inner(3, "three"))]),
            took: Duration::new(3, 500_000_000),
            at: Some(UNIX_EPOCH + Duration::new(1_700_000_000, 25_000_000)),
            next: Some(Box::new(Self {
                text: "next".to_owned(),
                ..Self::default()
            })),
            r#type: "keyword".to_owned(),
        }
    }
}

fn inner(id: u64, name: &str) -> Inner {
    Inner {
        id,
        name: name.to_owned(),
    }
}

/// Has a package of its own, so the registry name is not in its path.
#[micro::service(package = "kinds.v1")]
pub(crate) trait Kinds {
    /// Answers with the same, with the binary metadata `x-raw-bin`, and in `x-is-full` with
    /// whether it is [`Everything::full`].
    async fn echo(&self, cx: &Context, everything: Everything) -> Result<Everything>;
    /// Fails with a detail.
    async fn refuse(&self, cx: &Context, inner: Inner) -> Result<Inner>;
}

pub(crate) struct Mirror;

/// A detail that no library here knows.
pub(crate) const DETAIL: (&str, &[u8]) = ("type.googleapis.com/kinds.v1.Why", b"\x0a\x03why");

impl Kinds for Mirror {
    async fn echo(&self, cx: &Context, everything: Everything) -> Result<Everything> {
        if let Some(raw) = cx.metadata().get_bytes("x-raw-bin") {
            cx.reply().insert("x-raw-bin", raw)?;
        }
        let is_full = everything == Everything::full();
        cx.reply().insert("x-is-full", is_full.to_string())?;
        Ok(everything)
    }

    async fn refuse(&self, _cx: &Context, inner: Inner) -> Result<Inner> {
        let (type_url, value) = DETAIL;
        Err(Error::not_found(inner.name).with_detail(Detail::new(type_url, value)))
    }
}
