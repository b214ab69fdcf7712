//! From the merged tree to types.
//!
//! Values of sources with types are what they are; a [`Word`](Value::Word) becomes what its reader
//! asks for. Errors carry the path, and never a text: it could be a password in the wrong place.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use micro_core::url::Span;
use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::secret::SECRET_NAME;
use crate::value::{SECRET_KEY, VALUE_NAME};
use crate::{Map, Value, path};

/// What was noticed while reading.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Paths that were read as secrets.
    pub(crate) secrets: BTreeSet<String>,
    /// Paths that the type does not know.
    pub(crate) unknown: Vec<String>,
}

/// Reads a `T` of what stands at `base`.
pub(crate) fn read<T: DeserializeOwned>(
    value: Option<&Value>,
    base: &[String],
    notes: &mut Notes,
) -> Result<T, ReadError> {
    let cell = RefCell::new(std::mem::take(notes));
    let reader = Reader {
        value,
        path: path::join(base),
        notes: &cell,
    };
    let result = T::deserialize(reader);
    *notes = cell.into_inner();
    result.map_err(|mut err| {
        err.path.get_or_insert_with(|| path::join(base));
        err
    })
}

/// Why a value is not of the type that was asked for.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub(crate) path: Option<String>,
    pub(crate) message: String,
    /// The value is not there at all.
    pub(crate) missing: bool,
}

impl ReadError {
    fn new(message: String) -> Self {
        Self {
            path: None,
            message,
            missing: false,
        }
    }

    /// The innermost path is the one that says most.
    fn within(mut self, path: &str) -> Self {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

/// What was found, without the text of it.
fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "text".to_owned(),
        Unexpected::Bool(value) => format!("{value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        _ => "something else".to_owned(),
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", found(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!(
            "expected one of {}, found another text",
            expected.join(", ")
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut err = Self::new(format!(
            "there is no such key; there are: {}",
            expected.join(", ")
        ));
        // The map puts it behind its own path.
        err.path = Some(UNKNOWN.to_owned() + field);
        err
    }

    fn missing_field(field: &'static str) -> Self {
        let mut err = Self::new("this key is missing".to_owned());
        err.path = Some(UNKNOWN.to_owned() + field);
        err.missing = true;
        err
    }
}

/// Marks the name of a field that still lacks the path of its map.
const UNKNOWN: &str = "\0";

/// Reads one value.
#[derive(Clone)]
struct Reader<'a> {
    /// `None`: no source has it.
    value: Option<&'a Value>,
    path: String,
    notes: &'a RefCell<Notes>,
}

impl<'a> Reader<'a> {
    fn child(&self, key: &str, value: &'a Value) -> Self {
        Self {
            value: Some(value),
            path: path::child(&self.path, key),
            notes: self.notes,
        }
    }

    fn wrong(&self, expected: &dyn Expected) -> ReadError {
        let mut err = match self.value {
            None => {
                let mut err = ReadError::new(format!("expected {expected}, and no source has it"));
                err.missing = true;
                err
            }
            Some(value) => ReadError::new(format!("expected {expected}, found {}", value.kind())),
        };
        err.path = Some(self.path.clone());
        err
    }

    /// The text, if this is one.
    fn text(&self) -> Option<&'a str> {
        match self.value? {
            Value::Text(text) | Value::Word(text) => Some(text),
            Value::Secret(secret) => Some(secret.expose()),
            _ => None,
        }
    }

    /// The text, if it may become something else.
    fn word(&self) -> Option<&'a str> {
        match self.value? {
            Value::Word(text) => Some(text.trim()),
            Value::Secret(secret) => Some(secret.expose().trim()),
            _ => None,
        }
    }

    fn is_secret(&self) -> bool {
        matches!(self.value, Some(Value::Secret(_)))
    }

    /// Runs a visitor, so that what it says of a secret is not passed on, and every error has a path.
    fn visit<T>(&self, visit: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
        visit().map_err(|err| {
            let mut err = err.within(&self.path);
            if let Some(field) = err.path.as_deref().and_then(|at| at.strip_prefix(UNKNOWN)) {
                err.path = Some(path::child(&self.path, field));
            }
            if self.is_secret() && !err.message.starts_with("expected") {
                "its secret value is not accepted".clone_into(&mut err.message);
            }
            err
        })
    }

    fn parse<T: FromStr>(&self, expected: &dyn Expected) -> Result<Option<T>, ReadError> {
        let Some(word) = self.word() else {
            return Ok(None);
        };
        match word.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(
                ReadError::new(format!("expected {expected}, found text that is none"))
                    .within(&self.path),
            ),
        }
    }

    fn map<V: Visitor<'a>>(&self, map: &'a Map, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(|| {
            visitor.visit_map(Fields {
                reader: self.clone(),
                entries: map.iter(),
                value: None,
            })
        })
    }

    fn list<V: Visitor<'a>>(&self, list: &'a [Value], visitor: V) -> Result<V::Value, ReadError> {
        self.visit(|| {
            visitor.visit_seq(Items {
                reader: self.clone(),
                values: list.iter().enumerate(),
            })
        })
    }

    /// A length of time: `250ms`, `30s`, or a number of seconds.
    fn duration(&self) -> Result<Option<Duration>, ReadError> {
        let invalid = || {
            ReadError::new(
                "expected a length of time such as \"250ms\", \"30s\", \"5m\" or a number of seconds"
                    .to_owned(),
            )
            .within(&self.path)
        };
        let span = match self.value {
            Some(Value::Text(_) | Value::Word(_) | Value::Secret(_)) => {
                let text = self.text().unwrap_or_default().trim();
                text.parse::<Span>().map_err(|_| invalid())?.0
            }
            Some(Value::Int(seconds)) => {
                Duration::from_secs(u64::try_from(*seconds).map_err(|_| invalid())?)
            }
            Some(Value::Uint(seconds)) => Duration::from_secs(*seconds),
            Some(Value::Float(seconds)) => {
                Duration::try_from_secs_f64(*seconds).map_err(|_| invalid())?
            }
            // The map of seconds and nanoseconds that serde writes.
            Some(Value::Map(_)) => return Ok(None),
            _ => return Err(invalid()),
        };
        Ok(Some(span))
    }
}

/// Numbers: as they are, or read out of a word.
macro_rules! numbers {
    ($($method:ident($type:ty) => $visit:ident;)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
            if let Some(number) = self.parse::<$type>(&visitor)? {
                return self.visit(|| visitor.$visit(number));
            }
            self.number(visitor)
        }
    )*};
}

impl<'a> Reader<'a> {
    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Some(Value::Int(number)) if *number < 0 => self.visit(|| visitor.visit_i64(*number)),
            Some(Value::Int(number)) => self.visit(|| visitor.visit_u64(number.unsigned_abs())),
            Some(Value::Uint(number)) => self.visit(|| visitor.visit_u64(*number)),
            Some(Value::Float(number)) => self.visit(|| visitor.visit_f64(*number)),
            _ => Err(self.wrong(&visitor)),
        }
    }
}

impl<'a> Deserializer<'a> for Reader<'a> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            None => Err(self.wrong(&visitor)),
            Some(Value::Null) => self.visit(|| visitor.visit_unit()),
            Some(Value::Bool(value)) => self.visit(|| visitor.visit_bool(*value)),
            Some(Value::Int(_) | Value::Uint(_) | Value::Float(_)) => self.number(visitor),
            Some(Value::Text(text) | Value::Word(text)) => {
                self.visit(|| visitor.visit_borrowed_str(text))
            }
            Some(Value::Secret(secret)) => {
                self.visit(|| visitor.visit_borrowed_str(secret.expose()))
            }
            Some(Value::List(list)) => self.list(list, visitor),
            Some(Value::Map(map)) => self.map(map, visitor),
        }
    }

    numbers! {
        deserialize_i8(i64) => visit_i64;
        deserialize_i16(i64) => visit_i64;
        deserialize_i32(i64) => visit_i64;
        deserialize_i64(i64) => visit_i64;
        deserialize_i128(i64) => visit_i64;
        deserialize_u8(u64) => visit_u64;
        deserialize_u16(u64) => visit_u64;
        deserialize_u32(u64) => visit_u64;
        deserialize_u64(u64) => visit_u64;
        deserialize_u128(u64) => visit_u64;
        deserialize_f32(f64) => visit_f64;
        deserialize_f64(f64) => visit_f64;
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let value = match (self.value, self.word()) {
            (Some(Value::Bool(value)), _) => *value,
            (_, Some(word)) => match word.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                _ => {
                    return Err(ReadError::new(
                        "expected true or false (yes, no, on, off, 1, 0), found another text"
                            .to_owned(),
                    )
                    .within(&self.path));
                }
            },
            _ => return Err(self.wrong(&visitor)),
        };
        self.visit(|| visitor.visit_bool(value))
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.text() {
            Some(text) => self.visit(|| visitor.visit_borrowed_str(text)),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match (self.text(), self.value) {
            (Some(text), _) => self.visit(|| visitor.visit_borrowed_bytes(text.as_bytes())),
            (None, Some(Value::List(list))) => self.list(list, visitor),
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_bytes(visitor)
    }

    /// An empty word, as of a variable that is set to nothing, is nothing.
    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            None | Some(Value::Null) => self.visit(|| visitor.visit_none()),
            Some(Value::Word(word)) if word.is_empty() => self.visit(|| visitor.visit_none()),
            Some(_) => {
                let inner = self.clone();
                self.visit(|| visitor.visit_some(inner))
            }
        }
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            None | Some(Value::Null) => self.visit(|| visitor.visit_unit()),
            Some(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == SECRET_NAME && self.value.is_some() {
            self.notes.borrow_mut().secrets.insert(self.path.clone());
        }
        if name == VALUE_NAME {
            match self.value {
                None => return self.visit(|| visitor.visit_none()),
                Some(Value::Secret(secret)) => {
                    let pair = (SECRET_KEY, secret.expose());
                    return self
                        .visit(|| visitor.visit_map(MapDeserializer::new(std::iter::once(pair))));
                }
                Some(_) => {}
            }
        }
        let inner = self.clone();
        self.visit(|| visitor.visit_newtype_struct(inner))
    }

    /// A word is split at its commas; an empty one is an empty list.
    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match (self.value, self.word()) {
            (Some(Value::List(list)), _) => self.list(list, visitor),
            (_, Some(words)) => {
                let secret = self.is_secret();
                let parts: Vec<Value> = words
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(|part| match secret {
                        true => Value::Secret(part.into()),
                        false => Value::Word(part.to_owned()),
                    })
                    .collect();
                // The parts live no longer than this call, so what is read of them owns its text.
                self.visit(|| {
                    visitor.visit_seq(Parts {
                        reader: &self,
                        values: parts.iter().enumerate(),
                    })
                })
            }
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'a>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    /// What no source has is an empty map: a type's own defaults fill it.
    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        static EMPTY: Map = Map::new();
        match self.value {
            Some(Value::Map(map)) => self.map(map, visitor),
            None | Some(Value::Null) => self.map(&EMPTY, visitor),
            Some(_) => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        // How serde reads a `std::time::Duration`.
        if name == "Duration"
            && fields == ["secs", "nanos"]
            && let Some(span) = self.duration()?
        {
            let pairs = [
                ("secs", span.as_secs()),
                ("nanos", span.subsec_nanos().into()),
            ];
            return self.visit(|| visitor.visit_map(MapDeserializer::new(pairs.into_iter())));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match (self.value, self.text()) {
            (_, Some(text)) => self.visit(|| {
                visitor.visit_enum(Variant {
                    name: text,
                    content: None,
                })
            }),
            (Some(Value::Map(map)), _) if map.len() == 1 => {
                let Some((name, value)) = map.iter().next() else {
                    return Err(self.wrong(&visitor));
                };
                let content = Some(self.child(name, value));
                self.visit(|| visitor.visit_enum(Variant { name, content }))
            }
            _ => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    /// Only asked for by a field that its type does not know.
    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.notes.borrow_mut().unknown.push(self.path.clone());
        visitor.visit_unit()
    }
}

struct Fields<'a> {
    reader: Reader<'a>,
    entries: std::collections::btree_map::Iter<'a, String, Value>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'a> MapAccess<'a> for Fields<'a> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, value));
        seed.deserialize(KeyReader { key }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, value)) = self.value.take() else {
            return Err(ReadError::new(
                "a value was asked for without a key".to_owned(),
            ));
        };
        let reader = self.reader.child(key, value);
        // A type may fail without asking the reader for anything, so the path is set here too.
        let at = reader.path.clone();
        seed.deserialize(reader).map_err(|err| err.within(&at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// A key of a map: text, or what a map with other keys asks for.
struct KeyReader<'de> {
    key: &'de str,
}

macro_rules! parsed_keys {
    ($($method:ident($type:ty) => $visit:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.key.parse::<$type>() {
                Ok(key) => visitor.$visit(key),
                Err(_) => Err(ReadError::new(format!("a key of this map should be {}", &visitor as &dyn Expected))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyReader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_borrowed_str(self.key)
    }

    parsed_keys! {
        deserialize_i8(i64) => visit_i64;
        deserialize_i16(i64) => visit_i64;
        deserialize_i32(i64) => visit_i64;
        deserialize_i64(i64) => visit_i64;
        deserialize_u8(u64) => visit_u64;
        deserialize_u16(u64) => visit_u64;
        deserialize_u32(u64) => visit_u64;
        deserialize_u64(u64) => visit_u64;
        deserialize_bool(bool) => visit_bool;
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_enum(Variant {
            name: self.key,
            content: None,
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    values: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some((index, value)) = self.values.next() else {
            return Ok(None);
        };
        let reader = self.reader.child(&index.to_string(), value);
        let at = reader.path.clone();
        seed.deserialize(reader)
            .map(Some)
            .map_err(|err| err.within(&at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len())
    }
}

/// The parts of a word that was split.
struct Parts<'r, 'v> {
    reader: &'r Reader<'r>,
    values: std::iter::Enumerate<std::slice::Iter<'v, Value>>,
}

impl<'de> SeqAccess<'de> for Parts<'_, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some((index, value)) = self.values.next() else {
            return Ok(None);
        };
        let reader = Reader {
            value: Some(value),
            path: path::child(&self.reader.path, &index.to_string()),
            notes: self.reader.notes,
        };
        seed.deserialize(Part(reader)).map(Some)
    }
}

/// A part of a word: like [`Reader`], but what it gives is not borrowed.
struct Part<'v>(Reader<'v>);

macro_rules! parts {
    ($($method:ident($type:ty) => $visit:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.0.parse::<$type>(&visitor)? {
                Some(value) => self.0.visit(|| visitor.$visit(value)),
                None => Err(self.0.wrong(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let text = self.0.text().unwrap_or_default();
        self.0.visit(|| visitor.visit_str(text))
    }

    parts! {
        deserialize_i8(i64) => visit_i64;
        deserialize_i16(i64) => visit_i64;
        deserialize_i32(i64) => visit_i64;
        deserialize_i64(i64) => visit_i64;
        deserialize_u8(u64) => visit_u64;
        deserialize_u16(u64) => visit_u64;
        deserialize_u32(u64) => visit_u64;
        deserialize_u64(u64) => visit_u64;
        deserialize_f32(f64) => visit_f64;
        deserialize_f64(f64) => visit_f64;
        deserialize_bool(bool) => visit_bool;
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let name = self.0.text().unwrap_or_default();
        self.0.visit(|| {
            visitor.visit_enum(Variant {
                name,
                content: None,
            })
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == SECRET_NAME {
            let mut notes = self.0.notes.borrow_mut();
            notes.secrets.insert(self.0.path.clone());
            // The list as a whole is one text in its source.
            if let Some((whole, _)) = self.0.path.rsplit_once('.') {
                notes.secrets.insert(whole.to_owned());
            }
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == "Duration"
            && fields == ["secs", "nanos"]
            && let Some(span) = self.0.duration()?
        {
            let pairs = [
                ("secs", span.as_secs()),
                ("nanos", span.subsec_nanos().into()),
            ];
            return visitor.visit_map(MapDeserializer::new(pairs.into_iter()));
        }
        Err(self.0.wrong(&visitor))
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

/// A variant of an enum: its name alone, or a map of the name to the content.
struct Variant<'n, 'a> {
    name: &'n str,
    content: Option<Reader<'a>>,
}

impl<'a> EnumAccess<'a> for Variant<'_, 'a> {
    type Error = ReadError;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'a>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), ReadError> {
        let name: StrDeserializer<'_, ReadError> =
            de::IntoDeserializer::into_deserializer(self.name);
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

struct Content<'a>(Option<Reader<'a>>);

impl<'a> VariantAccess<'a> for Content<'a> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        match self.0 {
            None => Ok(()),
            Some(reader) => serde::Deserialize::deserialize(reader),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, ReadError> {
        seed.deserialize(self.reader()?)
    }

    fn tuple_variant<V: Visitor<'a>>(self, _len: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.reader()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.reader()?.deserialize_map(visitor)
    }
}

impl<'a> Content<'a> {
    fn reader(self) -> Result<Reader<'a>, ReadError> {
        self.0.ok_or_else(|| {
            ReadError::new("this variant has content: write a map of its name to it".to_owned())
        })
    }
}
