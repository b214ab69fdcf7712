//! Enumerations: enums without data.

use bytes::{Buf as _, BytesMut};
use micro_codec_core::{EnumSchema, Result};
use prost::encoding::{self, DecodeContext, WireType};

use super::{Reader, cut_short};
use crate::bridge::malformed;

/// An enum without data: what the derive implements.
pub trait Enumeration: Sized {
    /// The values and their numbers.
    fn schema() -> EnumSchema;
    /// The number of this value.
    fn number(&self) -> i32;
    /// The value of a number.
    fn from_number(number: i32) -> Option<Self>;
}

/// The length of a number without its tag.
fn enum_len(number: i32) -> usize {
    encoding::encoded_len_varint(i64::from(number) as u64)
}

/// Reads a number.
pub fn enum_merge(from: Reader<'_>) -> Result<i32> {
    let mut number = 0;
    let Reader { wire, bytes, .. } = from;
    encoding::int32::merge(wire, &mut number, bytes, DecodeContext::default())
        .map_err(malformed)?;
    Ok(number)
}

/// The length of packed numbers.
#[doc(hidden)]
pub fn enum_len_all<E: Enumeration>(values: &[E], tag: u32) -> usize {
    match packed_len(values) {
        0 => 0,
        len => encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len,
    }
}

/// Appends packed numbers.
#[doc(hidden)]
pub fn enum_encode_all<E: Enumeration>(values: &[E], tag: u32, out: &mut BytesMut) {
    if values.is_empty() {
        return;
    }
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(packed_len(values) as u64, out);
    for value in values {
        encoding::encode_varint(i64::from(value.number()) as u64, out);
    }
}

/// Reads numbers, packed or not, and keeps those that are known.
#[doc(hidden)]
pub fn enum_merge_all<E: Enumeration>(values: &mut Vec<E>, mut from: Reader<'_>) -> Result<()> {
    if from.wire != WireType::LengthDelimited {
        values.extend(E::from_number(enum_merge(from)?));
        return Ok(());
    }
    let end = from.end()?;
    while from.bytes.remaining() > end {
        let number = encoding::decode_varint(from.bytes).map_err(malformed)?;
        // As for a single one: the number is the low 32 bits.
        values.extend(E::from_number(number as i32));
    }
    match from.bytes.remaining() < end {
        true => Err(cut_short()),
        false => Ok(()),
    }
}

fn packed_len<E: Enumeration>(values: &[E]) -> usize {
    values.iter().map(|value| enum_len(value.number())).sum()
}

/// Makes an enumeration a value and a field.
#[doc(hidden)]
#[macro_export]
macro_rules! __enum_field {
    ($enum:ty, $zero:expr) => {
        impl $crate::field::Value for $enum {
            fn kind() -> $crate::__private::codec::FieldKind {
                $crate::__private::codec::FieldKind::Enum(
                    <Self as $crate::field::Enumeration>::schema(),
                )
            }
            fn empty() -> Self {
                $zero
            }
            fn is_empty(&self) -> bool {
                $crate::field::Enumeration::number(self) == 0
            }
            fn encoded_len(&self, tag: u32) -> usize {
                let number = $crate::field::Enumeration::number(self);
                $crate::field::Value::encoded_len(&number, tag)
            }
            fn encode(&self, tag: u32, out: &mut $crate::__private::bytes::BytesMut) {
                let number = $crate::field::Enumeration::number(self);
                $crate::field::Value::encode(&number, tag, out);
            }
            fn merge(
                &mut self,
                from: $crate::field::Reader<'_>,
            ) -> $crate::__private::codec::Result<bool> {
                let number = $crate::field::enum_merge(from)?;
                let known = <Self as $crate::field::Enumeration>::from_number(number);
                ::core::result::Result::Ok(match known {
                    ::core::option::Option::Some(value) => {
                        *self = value;
                        true
                    }
                    ::core::option::Option::None => false,
                })
            }
            fn encoded_len_all(values: &[Self], tag: u32) -> usize {
                $crate::field::enum_len_all(values, tag)
            }
            fn encode_all(values: &[Self], tag: u32, out: &mut $crate::__private::bytes::BytesMut) {
                $crate::field::enum_encode_all(values, tag, out);
            }
            fn merge_all(
                values: &mut ::std::vec::Vec<Self>,
                from: $crate::field::Reader<'_>,
            ) -> $crate::__private::codec::Result<()> {
                $crate::field::enum_merge_all(values, from)
            }
        }

        impl $crate::field::Field for $enum {
            fn label() -> $crate::__private::codec::FieldLabel {
                $crate::__private::codec::FieldLabel::Implicit
            }
            fn kind() -> $crate::__private::codec::FieldKind {
                <Self as $crate::field::Value>::kind()
            }
            fn encoded_len(&self, tag: u32) -> usize {
                match $crate::field::Value::is_empty(self) {
                    true => 0,
                    false => $crate::field::Value::encoded_len(self, tag),
                }
            }
            fn encode(&self, tag: u32, out: &mut $crate::__private::bytes::BytesMut) {
                if !$crate::field::Value::is_empty(self) {
                    $crate::field::Value::encode(self, tag, out);
                }
            }
            fn merge(
                &mut self,
                from: $crate::field::Reader<'_>,
            ) -> $crate::__private::codec::Result<()> {
                $crate::field::Value::merge(self, from).map(|_| ())
            }
        }
    };
}
