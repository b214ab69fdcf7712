//! Numbers, strings and bytes.

use bytes::{Bytes, BytesMut};
use micro_codec_core::{FieldKind, FieldLabel, Result};
use prost::encoding::{self, DecodeContext};

use super::{Field, MapKey, Reader, Value};
use crate::bridge::malformed;

/// The parts of [`Value`] that prost has a function for.
macro_rules! value {
    ($kind:ident, $module:ident, $value:ident => $is_empty:expr) => {
        fn kind() -> FieldKind {
            FieldKind::$kind
        }
        fn empty() -> Self {
            Self::default()
        }
        fn is_empty(&self) -> bool {
            let $value = self;
            $is_empty
        }
        fn encoded_len(&self, tag: u32) -> usize {
            encoding::$module::encoded_len(tag, self)
        }
        fn encode(&self, tag: u32, out: &mut BytesMut) {
            encoding::$module::encode(tag, self, out);
        }
        fn merge(&mut self, from: Reader<'_>) -> Result<bool> {
            encoding::$module::merge(from.wire, self, from.bytes, DecodeContext::default())
                .map_err(malformed)?;
            Ok(true)
        }
    };
}

/// A field that is not sent when it is empty.
macro_rules! implicit_field {
    ($type:ty) => {
        impl Field for $type {
            fn label() -> FieldLabel {
                FieldLabel::Implicit
            }
            fn kind() -> FieldKind {
                <Self as Value>::kind()
            }
            fn encoded_len(&self, tag: u32) -> usize {
                match Value::is_empty(self) {
                    true => 0,
                    false => Value::encoded_len(self, tag),
                }
            }
            fn encode(&self, tag: u32, out: &mut BytesMut) {
                if !Value::is_empty(self) {
                    Value::encode(self, tag, out);
                }
            }
            fn merge(&mut self, from: Reader<'_>) -> Result<()> {
                Value::merge(self, from).map(drop)
            }
        }
    };
}

macro_rules! number {
    ($type:ty, $kind:ident, $module:ident, $value:ident => $is_empty:expr) => {
        impl Value for $type {
            value!($kind, $module, $value => $is_empty);

            fn encoded_len_all(values: &[Self], tag: u32) -> usize {
                encoding::$module::encoded_len_packed(tag, values)
            }
            fn encode_all(values: &[Self], tag: u32, out: &mut BytesMut) {
                encoding::$module::encode_packed(tag, values, out);
            }
            fn merge_all(values: &mut Vec<Self>, from: Reader<'_>) -> Result<()> {
                let context = DecodeContext::default();
                encoding::$module::merge_repeated(from.wire, values, from.bytes, context)
                    .map_err(malformed)
            }
        }

        implicit_field!($type);
    };
}

macro_rules! text {
    ($type:ty, $kind:ident, $module:ident) => {
        impl Value for $type {
            value!($kind, $module, value => <$type>::is_empty(value));
        }

        implicit_field!($type);
    };
}

number!(bool, Bool, bool, value => !*value);
number!(i32, Int32, int32, value => *value == 0);
number!(i64, Int64, int64, value => *value == 0);
number!(u32, Uint32, uint32, value => *value == 0);
number!(u64, Uint64, uint64, value => *value == 0);
// By bits: -0.0 is not the default and must arrive.
number!(f32, Float, float, value => value.to_bits() == 0);
number!(f64, Double, double, value => value.to_bits() == 0);
text!(String, String, string);
text!(Vec<u8>, Bytes, bytes);
text!(Bytes, Bytes, bytes);

impl MapKey for bool {}
impl MapKey for i32 {}
impl MapKey for i64 {}
impl MapKey for u32 {}
impl MapKey for u64 {}
impl MapKey for String {}
