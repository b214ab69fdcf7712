//! A message with a field of every kind, in both views.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_codec_core::{
    EnumSchema, Error, FieldKind, FieldLabel, FieldSchema, MessageSchema, ProtoMessage, Result,
    Schema,
};
use serde::{Deserialize, Serialize};

/// How deep the protobuf view nests.
const MAX_DEPTH: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) flag: bool,
    pub(super) int: i32,
    pub(super) long: i64,
    pub(super) unsigned: u32,
    pub(super) big: u64,
    pub(super) ratio: f32,
    pub(super) number: f64,
    pub(super) text: String,
    pub(super) blob: Vec<u8>,
    pub(super) maybe: Option<i64>,
    pub(super) numbers: Vec<i32>,
    pub(super) names: Vec<String>,
    pub(super) nested: Option<Box<Self>>,
    pub(super) children: Vec<Self>,
    pub(super) scores: BTreeMap<String, i64>,
    pub(super) by_number: BTreeMap<u32, String>,
    pub(super) color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Color {
    #[default]
    Unspecified,
    Red,
    Green,
}

impl Sample {
    /// One with something in every field.
    pub(super) fn full() -> Self {
        let leaf = Self {
            text: "leaf".to_owned(),
            color: Color::Green,
            ..Self::default()
        };
        Self {
            flag: true,
            int: -7,
            long: i64::MIN,
            unsigned: u32::MAX,
            big: u64::MAX,
            ratio: 0.5,
            number: -1.5e300,
            text: "Grüße, 世界 𝄞".to_owned(),
            blob: vec![0, 255, 128],
            maybe: Some(0),
            numbers: vec![0, -1, i32::MAX],
            names: vec![String::new(), "Ada".to_owned()],
            nested: Some(Box::new(leaf.clone())),
            children: vec![Self::default(), leaf],
            scores: [("a".to_owned(), 1), (String::new(), -1)].into(),
            by_number: [(0, "zero".to_owned()), (9, String::new())].into(),
            color: Color::Red,
        }
    }

    /// One with something in some fields; messages in it nest `depth` deep.
    pub(super) fn random(random: &mut Random, depth: usize) -> Self {
        let mut sample = Self {
            flag: random.next() & 1 == 1,
            int: random.number() as i32,
            long: random.number() as i64,
            unsigned: random.number() as u32,
            big: random.number(),
            ratio: random.number() as i32 as f32 / 64.0,
            number: random.number() as i64 as f64 / 1024.0,
            text: random.text(),
            blob: random.bytes(8).to_vec(),
            maybe: random.maybe(|random| random.number() as i64),
            numbers: random.many(|random| random.number() as i32),
            names: random.many(Random::text),
            nested: None,
            children: Vec::new(),
            scores: random
                .many(|random| (random.text(), random.number() as i64))
                .into_iter()
                .collect(),
            by_number: random
                .many(|random| (random.number() as u32, random.text()))
                .into_iter()
                .collect(),
            color: [Color::Unspecified, Color::Red, Color::Green][random.below(3)],
        };
        if let Some(depth) = depth.checked_sub(1) {
            sample.nested = random.maybe(|random| Box::new(Self::random(random, depth)));
            sample.children = random.many(|random| Self::random(random, depth));
        }
        sample
    }
}

/// A small generator, so that a failure can be repeated from its seed.
pub(super) struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    pub(super) fn new() -> Self {
        let given = std::env::var("MICRO_CONFORMANCE_SEED");
        let seed = given.ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        Self { seed, state: seed }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// splitmix64.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Small ones as often as large ones.
    fn number(&mut self) -> u64 {
        let bits = self.below(65) as u32;
        self.next().checked_shr(bits).unwrap_or(0)
    }

    pub(super) fn bytes(&mut self, most: usize) -> Bytes {
        let len = self.below(most + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        let len = self.below(6);
        (0..len)
            .map(|_| match self.below(4) {
                0 => char::from_u32(self.below(0x11_0000) as u32).unwrap_or('\u{fffd}'),
                _ => char::from(self.below(128) as u8),
            })
            .collect()
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.next() & 1 == 1).then(|| value(self))
    }

    fn many<T>(&mut self, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| value(self)).collect()
    }
}

impl ProtoMessage for Sample {
    fn schema(&self) -> Schema {
        schema()
    }

    fn encoded_len(&self) -> usize {
        self.to_proto().len()
    }

    fn encode(&self, out: &mut BytesMut) -> Result<()> {
        out.put_slice(&self.to_proto());
        Ok(())
    }

    fn merge(&mut self, bytes: Bytes) -> Result<()> {
        self.merge_proto(&bytes, MAX_DEPTH)
    }
}

fn schema() -> Schema {
    use FieldKind as Kind;
    use FieldLabel::{Implicit, Optional, Repeated};
    let map = |key, value| Kind::Map(Box::new(key), Box::new(value));
    let colors = ["COLOR_UNSPECIFIED", "COLOR_RED", "COLOR_GREEN"];
    let colors = (0..)
        .zip(colors)
        .map(|(number, name)| (name.into(), number));
    let fields = [
        ("flag", Implicit, Kind::Bool),
        ("int", Implicit, Kind::Int32),
        ("long", Implicit, Kind::Int64),
        ("unsigned", Implicit, Kind::Uint32),
        ("big", Implicit, Kind::Uint64),
        ("ratio", Implicit, Kind::Float),
        ("number", Implicit, Kind::Double),
        ("text", Implicit, Kind::String),
        ("blob", Implicit, Kind::Bytes),
        ("maybe", Optional, Kind::Int64),
        ("numbers", Repeated, Kind::Int32),
        ("names", Repeated, Kind::String),
        ("nested", Optional, Kind::Message(schema)),
        ("children", Repeated, Kind::Message(schema)),
        ("scores", Repeated, map(Kind::String, Kind::Int64)),
        ("by_number", Repeated, map(Kind::Uint32, Kind::String)),
        (
            "color",
            Implicit,
            Kind::Enum(EnumSchema::new("Color", colors.collect())),
        ),
    ];
    let mut message = MessageSchema::new("Sample");
    for (tag, (name, label, kind)) in (1..).zip(fields) {
        message = message.with_field(FieldSchema::new(name, tag, label, kind));
    }
    Schema::Derived(message)
}

// The protobuf view, straight from the encoding's documentation.

/// The value of a field as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Wire<'a> {
    fn varint(self) -> Result<u64> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(malformed()),
        }
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed()),
        }
    }

    fn text(self) -> Result<String> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| malformed())?;
        Ok(text.to_owned())
    }
}

fn malformed() -> Error {
    Error::invalid_argument("the bytes are no such protobuf message")
}

fn take_varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or_else(malformed)?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let len = usize::try_from(len).map_err(|_| malformed())?;
    let (taken, behind) = rest.split_at_checked(len).ok_or_else(malformed)?;
    *rest = behind;
    Ok(taken)
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Wire<'a>)> {
    let key = take_varint(rest)?;
    let wire = match key & 7 {
        0 => Wire::Varint(take_varint(rest)?),
        1 => {
            let bytes = take(rest, 8)?.try_into().map_err(|_| malformed())?;
            Wire::Fixed64(u64::from_le_bytes(bytes))
        }
        2 => {
            let len = take_varint(rest)?;
            Wire::Bytes(take(rest, len)?)
        }
        5 => {
            let bytes = take(rest, 4)?.try_into().map_err(|_| malformed())?;
            Wire::Fixed32(u32::from_le_bytes(bytes))
        }
        _ => return Err(malformed()),
    };
    match key >> 3 {
        0 => Err(malformed()),
        tag => Ok((tag, wire)),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, tag: u64, wire: u64) {
    put_varint(out, tag << 3 | wire);
}

fn put_bytes(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_key(out, tag, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, tag: u64, value: u64) {
    if value != 0 {
        put_key(out, tag, 0);
        put_varint(out, value);
    }
}

impl Sample {
    fn to_proto(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        let out = &mut buffer;
        put_number(out, 1, self.flag.into());
        put_number(out, 2, i64::from(self.int) as u64);
        put_number(out, 3, self.long as u64);
        put_number(out, 4, self.unsigned.into());
        put_number(out, 5, self.big);
        if self.ratio.to_bits() != 0 {
            put_key(out, 6, 5);
            out.extend(self.ratio.to_le_bytes());
        }
        if self.number.to_bits() != 0 {
            put_key(out, 7, 1);
            out.extend(self.number.to_le_bytes());
        }
        for (tag, bytes) in [(8, self.text.as_bytes()), (9, &self.blob)] {
            if !bytes.is_empty() {
                put_bytes(out, tag, bytes);
            }
        }
        if let Some(maybe) = self.maybe {
            put_key(out, 10, 0);
            put_varint(out, maybe as u64);
        }
        if !self.numbers.is_empty() {
            let mut packed = Vec::new();
            for number in &self.numbers {
                put_varint(&mut packed, i64::from(*number) as u64);
            }
            put_bytes(out, 11, &packed);
        }
        for name in &self.names {
            put_bytes(out, 12, name.as_bytes());
        }
        if let Some(nested) = &self.nested {
            put_bytes(out, 13, &nested.to_proto());
        }
        for child in &self.children {
            put_bytes(out, 14, &child.to_proto());
        }
        for (key, value) in &self.scores {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_number(&mut entry, 2, *value as u64);
            put_bytes(out, 15, &entry);
        }
        for (key, value) in &self.by_number {
            let mut entry = Vec::new();
            put_number(&mut entry, 1, (*key).into());
            put_bytes(&mut entry, 2, value.as_bytes());
            put_bytes(out, 16, &entry);
        }
        put_number(out, 17, self.color as u64);
        buffer
    }

    fn merge_proto(&mut self, bytes: &[u8], depth: usize) -> Result<()> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| Error::invalid_argument("messages nest too deep"))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (tag, wire) = take_field(&mut rest)?;
            match (tag, wire) {
                (1, wire) => self.flag = wire.varint()? != 0,
                (2, wire) => self.int = wire.varint()? as i32,
                (3, wire) => self.long = wire.varint()? as i64,
                (4, wire) => self.unsigned = wire.varint()? as u32,
                (5, wire) => self.big = wire.varint()?,
                (6, Wire::Fixed32(bits)) => self.ratio = f32::from_bits(bits),
                (7, Wire::Fixed64(bits)) => self.number = f64::from_bits(bits),
                (6 | 7, _) => return Err(malformed()),
                (8, wire) => self.text = wire.text()?,
                (9, wire) => self.blob = wire.bytes()?.to_vec(),
                (10, wire) => self.maybe = Some(wire.varint()? as i64),
                (11, Wire::Varint(number)) => self.numbers.push(number as i32),
                (11, wire) => {
                    let mut packed = wire.bytes()?;
                    while !packed.is_empty() {
                        self.numbers.push(take_varint(&mut packed)? as i32);
                    }
                }
                (12, wire) => self.names.push(wire.text()?),
                (13, wire) => {
                    let nested = self.nested.get_or_insert_default();
                    nested.merge_proto(wire.bytes()?, depth)?;
                }
                (14, wire) => {
                    let mut child = Self::default();
                    child.merge_proto(wire.bytes()?, depth)?;
                    self.children.push(child);
                }
                (15, wire) => {
                    let (mut key, mut value) = (String::new(), 0);
                    let mut entry = wire.bytes()?;
                    while !entry.is_empty() {
                        match take_field(&mut entry)? {
                            (1, wire) => key = wire.text()?,
                            (2, wire) => value = wire.varint()? as i64,
                            _ => {}
                        }
                    }
                    self.scores.insert(key, value);
                }
                (16, wire) => {
                    let (mut key, mut value) = (0, String::new());
                    let mut entry = wire.bytes()?;
                    while !entry.is_empty() {
                        match take_field(&mut entry)? {
                            (1, wire) => key = wire.varint()? as u32,
                            (2, wire) => value = wire.text()?,
                            _ => {}
                        }
                    }
                    self.by_number.insert(key, value);
                }
                (17, wire) => {
                    self.color = match wire.varint()? {
                        1 => Color::Red,
                        2 => Color::Green,
                        _ => Color::Unspecified,
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
