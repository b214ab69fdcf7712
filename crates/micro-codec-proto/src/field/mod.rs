//! What derived messages are made of: the generated code dispatches on these traits by type, so
//! that the macro never has to guess what a type's name means.
//!
//! | in the struct | on the wire |
//! | --- | --- |
//! | `bool`, `i32`, `i64`, `u32`, `u64`, `f32`, `f64` | `bool`, `int32`, `int64`, `uint32`, `uint64`, `float`, `double` |
//! | `String`; `Vec<u8>`, `Bytes` | `string`; `bytes` |
//! | `Duration`, `SystemTime` | `google.protobuf.Duration`, `google.protobuf.Timestamp` |
//! | a message or an enum, derived or of prost's | itself |
//! | `Option<T>`, `Vec<T>` | `optional`, `repeated` |
//! | `HashMap<K, V>`, `BTreeMap<K, V>` | `map` |
//! | `Box<T>` of a message | the message |
//!
//! [`Value`] and [`Field`] are two traits because `Vec<u8>` is one value and `Vec<i32>` are many:
//! `u8` is no [`Value`], so the two impls never overlap.

mod collection;
mod enumeration;
mod message;
mod scalar;
mod time;

use bytes::{Bytes, BytesMut};
use micro_codec_core::{Error, FieldKind, FieldLabel, Result};
use prost::encoding::{DecodeContext, WireType};

pub use self::enumeration::{
    Enumeration, enum_encode_all, enum_len_all, enum_merge, enum_merge_all,
};
pub use self::message::{
    Message, a_message_starts_as_its_default, message_encode, message_field_encode,
    message_field_len, message_field_merge, message_merge,
};
use crate::bridge::malformed;

/// How deep messages may nest: prost's limit, and that of most of the family.
const MAX_DEPTH: u32 = 100;

/// What a field of a derived message may be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a protobuf message",
    label = "protobuf has no such type",
    note = "use bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>, Bytes, Duration or SystemTime, an Option, Vec, HashMap or BTreeMap of them, or a type that derives micro::Message"
)]
pub trait Field {
    /// How often it may appear.
    fn label() -> FieldLabel;
    /// What it holds.
    fn kind() -> FieldKind;
    /// The length with its tag; 0 if nothing is sent.
    fn encoded_len(&self, tag: u32) -> usize;
    /// Appends it with its tag.
    fn encode(&self, tag: u32, out: &mut BytesMut);
    /// Reads one occurrence.
    fn merge(&mut self, from: Reader<'_>) -> Result<()>;
}

/// What may stand in an `Option`, a `Vec` or a map.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot stand in an Option, a Vec or a map of a protobuf message",
    label = "protobuf has no such type",
    note = "use bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>, Bytes, Duration, SystemTime, or a type that derives micro::Message"
)]
pub trait Value: Sized {
    /// What it is.
    fn kind() -> FieldKind;
    /// The value that protobuf takes for absent.
    fn empty() -> Self;
    /// Whether it is [`empty`](Self::empty).
    fn is_empty(&self) -> bool;
    /// The length with its tag, even if empty.
    fn encoded_len(&self, tag: u32) -> usize;
    /// Appends it with its tag, even if empty.
    fn encode(&self, tag: u32, out: &mut BytesMut);
    /// Reads it; a message is merged. `false` if there is nothing to keep: an enum's unknown number.
    fn merge(&mut self, from: Reader<'_>) -> Result<bool>;

    /// The length of many; numbers override it, for they are packed.
    fn encoded_len_all(values: &[Self], tag: u32) -> usize {
        values.iter().map(|value| value.encoded_len(tag)).sum()
    }
    /// Appends many.
    fn encode_all(values: &[Self], tag: u32, out: &mut BytesMut) {
        for value in values {
            value.encode(tag, out);
        }
    }
    /// Reads one occurrence of many.
    fn merge_all(values: &mut Vec<Self>, from: Reader<'_>) -> Result<()> {
        let mut value = Self::empty();
        if value.merge(from)? {
            values.push(value);
        }
        Ok(())
    }
}

/// What may be the key of a map.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a protobuf map",
    label = "not a key",
    note = "use bool, i32, i64, u32, u64 or String"
)]
pub trait MapKey: Value {}

/// Where the value of a field is read from.
#[derive(Debug)]
pub struct Reader<'a> {
    pub(crate) wire: WireType,
    pub(crate) bytes: &'a mut Bytes,
    /// How many messages may still begin inside this value.
    depth: u32,
}

impl Reader<'_> {
    /// Skips a field that the message does not know.
    pub fn skip(self, tag: u32) -> Result<()> {
        prost::encoding::skip_field(self.wire, tag, self.bytes, DecodeContext::default())
            .map_err(malformed)
    }

    /// Reads the fields of the message that is the value.
    pub(crate) fn message(
        mut self,
        field: impl FnMut(u32, Reader<'_>) -> Result<()>,
    ) -> Result<()> {
        prost::encoding::check_wire_type(WireType::LengthDelimited, self.wire)
            .map_err(malformed)?;
        let depth = self.depth.checked_sub(1).ok_or_else(|| {
            Error::invalid_argument("messages nest too deep").with_context("limit", MAX_DEPTH)
        })?;
        let end = self.end()?;
        fields(self.bytes, end, depth, field)
    }

    /// Reads a length; returns how many bytes remain behind that many.
    pub(crate) fn end(&mut self) -> Result<usize> {
        let len = prost::encoding::decode_varint(self.bytes).map_err(malformed)?;
        usize::try_from(len)
            .ok()
            .and_then(|len| self.bytes.len().checked_sub(len))
            .ok_or_else(cut_short)
    }
}

/// Reads fields until only `end` bytes remain.
pub(crate) fn fields(
    bytes: &mut Bytes,
    end: usize,
    depth: u32,
    mut field: impl FnMut(u32, Reader<'_>) -> Result<()>,
) -> Result<()> {
    while bytes.len() > end {
        let (tag, wire) = prost::encoding::decode_key(bytes).map_err(malformed)?;
        field(tag, Reader { wire, bytes, depth })?;
    }
    // A field that goes on behind the end of its message.
    if bytes.len() < end {
        return Err(cut_short());
    }
    Ok(())
}

/// Says in which field reading failed.
pub fn in_field(name: &'static str) -> impl FnOnce(Error) -> Error {
    move |err| err.with_context("field", name)
}

pub(crate) fn cut_short() -> Error {
    Error::invalid_argument("the protobuf message is cut short")
}

pub(crate) fn check_len(len: usize) -> Result<()> {
    match i32::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid_argument(
            "a protobuf message has at most 2 GiB; send a stream of parts",
        )
        .with_context("length", len)),
    }
}
