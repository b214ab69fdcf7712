//! A serde deserializer over the bytes of one item.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::header::{Header, Input};

/// How deep arrays and maps may nest.
const MAX_DEPTH: usize = 128;

/// The tags of RFC 8949, section 3.4.3: the byte string behind is an integer.
const BIG_UNSIGNED: u64 = 2;
const BIG_NEGATIVE: u64 = 3;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the bytes could not be read.
#[derive(Debug)]
pub(crate) struct Error(Cow<'static, str>);

impl Error {
    pub(crate) fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(Cow::Owned(text.to_string()))
    }
}

#[derive(Debug)]
pub(crate) struct Decoder<'de> {
    input: Input<'de>,
    /// How many arrays and maps may still begin.
    depth: usize,
}

impl<'de> Decoder<'de> {
    pub(crate) fn new(bytes: &'de [u8]) -> Self {
        Self {
            input: Input(bytes),
            depth: MAX_DEPTH,
        }
    }

    /// How many bytes are left.
    pub(crate) fn rest(&self) -> usize {
        self.input.0.len()
    }

    fn peek(&self) -> Result<Header> {
        let mut ahead = self.input;
        ahead.header()
    }

    /// Takes the head of the next item, past its tags; an integer comes out of a big one.
    fn header(&mut self) -> Result<Head> {
        loop {
            let tag = match self.input.header()? {
                Header::Tag(tag) => tag,
                header => return Ok(Head::Plain(header)),
            };
            if let BIG_UNSIGNED | BIG_NEGATIVE = tag
                && let Header::Bytes(len) = self.peek()?
            {
                self.input.header()?;
                let magnitude = magnitude(&self.input.bytes(len)?)?;
                return Ok(match (tag, u64::try_from(magnitude)) {
                    (BIG_UNSIGNED, Ok(value)) => Head::Plain(Header::Unsigned(value)),
                    (BIG_UNSIGNED, Err(_)) => Head::BigUnsigned(magnitude),
                    (_, Ok(value)) => Head::Plain(Header::Negative(value)),
                    (_, Err(_)) => Head::BigNegative(i128::try_from(magnitude).map_err(too_big)?),
                });
            }
        }
    }

    /// Goes into an array or a map.
    fn descend<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| Error::new("values nest too deep: at most 128 arrays and maps"))?;
        let value = inside(self)?;
        self.depth += 1;
        Ok(value)
    }

    /// Passes over the next item.
    fn skip(&mut self) -> Result<()> {
        let header = loop {
            match self.input.header()? {
                Header::Tag(_) => {}
                header => break header,
            }
        };
        match header {
            Header::Bytes(len) => self.input.bytes(len).map(drop),
            Header::Text(len) => self.input.text(len).map(drop),
            Header::Array(len) => self.descend(|me| {
                let mut items = Items { of: me, left: len };
                while items.more()? {
                    items.of.skip()?;
                }
                Ok(())
            }),
            Header::Map(len) => self.descend(|me| {
                let mut items = Items { of: me, left: len };
                while items.more()? {
                    items.of.skip()?;
                    items.of.skip()?;
                }
                Ok(())
            }),
            Header::Break => Err(stray_break()),
            _ => Ok(()),
        }
    }

    fn array<V: Visitor<'de>>(&mut self, len: Option<usize>, visitor: V) -> Result<V::Value> {
        self.descend(|me| {
            let mut items = Items { of: me, left: len };
            let value = visitor.visit_seq(&mut items)?;
            items.end()?;
            Ok(value)
        })
    }

    fn map<V: Visitor<'de>>(&mut self, len: Option<usize>, visitor: V) -> Result<V::Value> {
        self.descend(|me| {
            let mut items = Items { of: me, left: len };
            let value = visitor.visit_map(&mut items)?;
            items.end()?;
            Ok(value)
        })
    }

    fn plain<V: Visitor<'de>>(&mut self, header: Header, visitor: V) -> Result<V::Value> {
        match header {
            Header::Unsigned(value) => visitor.visit_u64(value),
            Header::Negative(value) => match i64::try_from(value) {
                Ok(value) => visitor.visit_i64(!value),
                Err(_) => visitor.visit_i128(!i128::from(value)),
            },
            Header::Bytes(len) => match self.input.bytes(len)? {
                Cow::Borrowed(bytes) => visitor.visit_borrowed_bytes(bytes),
                Cow::Owned(bytes) => visitor.visit_byte_buf(bytes),
            },
            Header::Text(len) => match self.input.text(len)? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            Header::Array(len) => self.array(len, visitor),
            Header::Map(len) => self.map(len, visitor),
            Header::Bool(value) => visitor.visit_bool(value),
            Header::Null => visitor.visit_unit(),
            Header::Float(value) => visitor.visit_f64(value),
            Header::Break | Header::Tag(_) => Err(stray_break()),
        }
    }
}

/// The head of an item without its tags.
enum Head {
    Plain(Header),
    BigUnsigned(u128),
    /// The value is -1 minus this.
    BigNegative(i128),
}

impl<'de> de::Deserializer<'de> for &mut Decoder<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.header()? {
            Head::Plain(header) => self.plain(header, visitor),
            Head::BigUnsigned(value) => visitor.visit_u128(value),
            Head::BigNegative(value) => visitor.visit_i128(!value),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.peek()? == Header::Null {
            self.input.header()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.header()? {
            // `Vec<u8>`, where the other side has a type for bytes.
            Head::Plain(Header::Bytes(len)) => {
                let bytes = self.input.bytes(len)?;
                visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
            }
            Head::Plain(header) => self.plain(header, visitor),
            Head::BigUnsigned(_) | Head::BigNegative(_) => Err(de::Error::invalid_type(
                Unexpected::Other("an integer"),
                &visitor,
            )),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let before = self.input;
        match self.header()? {
            Head::Plain(Header::Map(len)) => self.descend(|me| {
                let mut items = Items { of: me, left: len };
                if !items.more()? {
                    return Err(Error::new("an enum is a map of one entry, not of none"));
                }
                let value = visitor.visit_enum(Variant {
                    of: &mut *items.of,
                    has_value: true,
                })?;
                items.end()?;
                Ok(value)
            }),
            Head::Plain(Header::Text(_) | Header::Unsigned(_)) => {
                self.input = before;
                visitor.visit_enum(Variant {
                    of: self,
                    has_value: false,
                })
            }
            Head::Plain(header) => Err(de::Error::invalid_type(
                Unexpected::Other(header.name()),
                &visitor,
            )),
            Head::BigUnsigned(_) | Head::BigNegative(_) => Err(de::Error::invalid_type(
                Unexpected::Other("an integer"),
                &visitor,
            )),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct map struct identifier
    }
}

/// The items of an array, or the entries of a map.
struct Items<'a, 'de> {
    of: &'a mut Decoder<'de>,
    /// `None` until a break.
    left: Option<usize>,
}

impl Items<'_, '_> {
    /// Whether there is another; if not, the end was passed.
    fn more(&mut self) -> Result<bool> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.of.peek()? == Header::Break => {
                self.of.input.header()?;
                self.left = Some(0);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.more()? {
            true => Err(Error::new(
                "an array or map has more items than the message",
            )),
            false => Ok(()),
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        match self.more()? {
            true => seed.deserialize(&mut *self.of).map(Some),
            false => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.of)
    }

    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

/// The name of an enum's variant, and the value behind it.
struct Variant<'a, 'de> {
    of: &'a mut Decoder<'de>,
    has_value: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let name = seed.deserialize(&mut *self.of)?;
        Ok((name, self))
    }
}

impl<'de> Variant<'_, 'de> {
    fn value(&mut self) -> Result<&mut Decoder<'de>> {
        match self.has_value {
            true => Ok(self.of),
            false => Err(Error::new("an enum's variant lacks its value")),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        match self.has_value {
            true => de::Deserialize::deserialize(self.of),
            false => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(mut self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value> {
        de::Deserializer::deserialize_tuple(self.value()?, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        de::Deserializer::deserialize_struct(self.value()?, "", fields, visitor)
    }
}

/// The value of a big integer's bytes.
fn magnitude(bytes: &[u8]) -> Result<u128> {
    let start = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    let significant = &bytes[start..];
    if significant.len() > size_of::<u128>() {
        return Err(too_big(()));
    }
    Ok(significant
        .iter()
        .fold(0, |value, byte| value << 8 | u128::from(*byte)))
}

fn too_big<E>(_: E) -> Error {
    Error::new("an integer has more than 128 bits")
}

fn stray_break() -> Error {
    Error::new("a CBOR break stands where a value should")
}
