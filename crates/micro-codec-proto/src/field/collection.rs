//! Values that may be absent, and many of them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use bytes::BytesMut;
use micro_codec_core::{FieldKind, FieldLabel, Result};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{Field, MapKey, Reader, Value};

impl<T: Value> Field for Option<T> {
    fn label() -> FieldLabel {
        FieldLabel::Optional
    }

    fn kind() -> FieldKind {
        T::kind()
    }

    fn encoded_len(&self, tag: u32) -> usize {
        self.as_ref().map_or(0, |value| value.encoded_len(tag))
    }

    fn encode(&self, tag: u32, out: &mut BytesMut) {
        if let Some(value) = self {
            value.encode(tag, out);
        }
    }

    fn merge(&mut self, from: Reader<'_>) -> Result<()> {
        match self {
            Some(value) => {
                value.merge(from)?;
            }
            None => {
                let mut value = T::empty();
                if value.merge(from)? {
                    *self = Some(value);
                }
            }
        }
        Ok(())
    }
}

impl<T: Value> Field for Vec<T> {
    fn label() -> FieldLabel {
        FieldLabel::Repeated
    }

    fn kind() -> FieldKind {
        T::kind()
    }

    fn encoded_len(&self, tag: u32) -> usize {
        T::encoded_len_all(self, tag)
    }

    fn encode(&self, tag: u32, out: &mut BytesMut) {
        T::encode_all(self, tag, out);
    }

    fn merge(&mut self, from: Reader<'_>) -> Result<()> {
        T::merge_all(self, from)
    }
}

macro_rules! map {
    ($map:ty, [$($generics:tt)*]) => {
        impl<$($generics)*> Field for $map {
            fn label() -> FieldLabel {
                FieldLabel::Repeated
            }
            fn kind() -> FieldKind {
                FieldKind::Map(Box::new(K::kind()), Box::new(V::kind()))
            }
            fn encoded_len(&self, tag: u32) -> usize {
                let entries = self.iter().map(|(key, value)| {
                    let len = entry_len(key, value);
                    key_len(tag) + encoded_len_varint(len as u64) + len
                });
                entries.sum()
            }
            fn encode(&self, tag: u32, out: &mut BytesMut) {
                for (key, value) in self {
                    encode_entry(key, value, tag, out);
                }
            }
            fn merge(&mut self, from: Reader<'_>) -> Result<()> {
                if let Some((key, value)) = merge_entry(from)? {
                    self.insert(key, value);
                }
                Ok(())
            }
        }
    };
}

map!(HashMap<K, V, S>, [K: MapKey + Eq + Hash, V: Value, S: BuildHasher]);
map!(BTreeMap<K, V>, [K: MapKey + Ord, V: Value]);

// An entry is a message of a key, field 1, and a value, field 2.

fn entry_len<K: MapKey, V: Value>(key: &K, value: &V) -> usize {
    let key_len = match key.is_empty() {
        true => 0,
        false => key.encoded_len(1),
    };
    let value_len = match value.is_empty() {
        true => 0,
        false => value.encoded_len(2),
    };
    key_len + value_len
}

fn encode_entry<K: MapKey, V: Value>(key: &K, value: &V, tag: u32, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(entry_len(key, value) as u64, out);
    if !key.is_empty() {
        key.encode(1, out);
    }
    if !value.is_empty() {
        value.encode(2, out);
    }
}

/// `None` if the value is an enum's unknown number.
fn merge_entry<K: MapKey, V: Value>(from: Reader<'_>) -> Result<Option<(K, V)>> {
    let mut key = K::empty();
    let mut value = V::empty();
    let mut known = true;
    from.message(|tag, from| {
        match tag {
            1 => {
                key.merge(from)?;
            }
            2 => known = value.merge(from)?,
            _ => from.skip(tag)?,
        }
        Ok(())
    })?;
    Ok(known.then_some((key, value)))
}
