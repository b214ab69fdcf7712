//! The tree that sources fill.

use std::collections::BTreeMap;
use std::fmt;

use micro_core::Secret;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The keys of a level, sorted.
pub type Map = BTreeMap<String, Value>;

/// One value of the configuration.
///
/// It is deserialized from any format that describes itself (JSON, TOML, YAML), and made of any
/// type that serializes by [`Value::from_serialize`]. It does not serialize itself, so that it
/// cannot be written somewhere with its secrets by accident.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing, said explicitly: it hides what stands below it.
    #[default]
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64::MAX`.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// Text from a source that has types: it stays text.
    Text(String),
    /// Text from a source without types, such as a variable: it becomes what its reader asks for.
    Word(String),
    /// Text that must not be printed; otherwise like [`Word`](Self::Word).
    Secret(Secret),
    /// Several values in order. A list replaces the one below it.
    List(Vec<Self>),
    /// Values by key. Maps of several sources are merged.
    Map(Map),
}

impl Value {
    /// The value at `path` within this one; see [`path`](crate::path).
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        self.at_keys(&crate::path::split(path))
    }

    pub(crate) fn at_keys<K: AsRef<str>>(&self, keys: &[K]) -> Option<&Self> {
        let mut value = self;
        for key in keys {
            value = match value {
                Self::Map(map) => map.get(key.as_ref())?,
                Self::List(list) => list.get(key.as_ref().parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(value)
    }

    /// What kind of value it is, for messages: `"text"`, `"a list"`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Uint(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) | Self::Word(_) => "text",
            Self::Secret(_) => "a secret",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Calls `visit` with every value that is neither map nor list, and its path.
    pub(crate) fn leaves<'a>(&'a self, visit: &mut dyn FnMut(&[&str], &'a Self)) {
        fn walk<'a>(
            value: &'a Value,
            keys: &mut Vec<&'a str>,
            visit: &mut dyn FnMut(&[&str], &'a Value),
        ) {
            match value {
                Value::Map(map) => {
                    for (key, value) in map {
                        keys.push(key);
                        walk(value, keys, visit);
                        keys.pop();
                    }
                }
                Value::List(list) => {
                    for value in list {
                        walk(value, keys, visit);
                    }
                }
                leaf => visit(keys, leaf),
            }
        }
        walk(self, &mut Vec::new(), visit);
    }
}

/// How a value is shown by `explain`: secrets as `***`, long texts cut, control characters escaped.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 200;
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) | Self::Word(text) => {
                f.write_str("\"")?;
                for c in text.chars().take(SHOWN) {
                    write!(f, "{}", c.escape_debug())?;
                }
                if text.chars().nth(SHOWN).is_some() {
                    f.write_str("…")?;
                }
                f.write_str("\"")
            }
            Self::Secret(_) => f.write_str("***"),
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::Map(map) => write!(f, "a map of {}", map.len()),
        }
    }
}

macro_rules! from {
    ($($type:ty => $make:expr),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                let make: fn($type) -> Self = $make;
                make(value)
            }
        })*
    };
}

from! {
    bool => Self::Bool,
    i64 => Self::Int,
    i32 => |value| Self::Int(value.into()),
    u32 => |value| Self::Int(value.into()),
    u16 => |value| Self::Int(value.into()),
    u64 => |value| i64::try_from(value).map_or(Self::Uint(value), Self::Int),
    f64 => Self::Float,
    &str => |value| Self::Text(value.to_owned()),
    String => Self::Text,
    Secret => Self::Secret,
    Vec<Self> => Self::List,
    Map => Self::Map,
}

/// Our own reader knows this name and keeps secrets secret for it; to others it is a newtype.
pub(crate) const VALUE_NAME: &str = "$micro::Value";

/// The key under which our reader hands a secret to a [`Value`], which has no other way to tell.
pub(crate) const SECRET_KEY: &str = "$micro::secret";

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE_NAME, ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Int)
            .map_err(|_| E::custom("the number does not fit into 64 bits"))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        u64::try_from(value)
            .map(Value::from)
            .map_err(|_| E::custom("the number does not fit into 64 bits"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    /// Formats keep the last of two equal keys; here the second is refused, for one of the two
    /// is not what its writer believes to be in force.
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<Key>()? {
            let Key(key) = key;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!(
                    "the key \"{}\" stands here twice",
                    key.chars().take(100).collect::<String>().escape_debug()
                )));
            }
            map.insert(key, access.next_value()?);
        }
        if let (1, Some(Value::Text(text))) = (map.len(), map.get(SECRET_KEY)) {
            return Ok(Value::Secret(Secret::new(text.clone())));
        }
        Ok(Value::Map(map))
    }
}

/// A key: YAML's may be numbers or truth values.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key that is text, a number or a truth value")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }

            fn visit_string<E>(self, key: String) -> Result<Key, E> {
                Ok(Key(key))
            }

            fn visit_i64<E>(self, key: i64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }

            fn visit_u64<E>(self, key: u64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }

            fn visit_bool<E>(self, key: bool) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_line() {
        let err = serde_json::from_str::<Value>("{\n\"a\": {\"b\": 1,\n\"b\": 2}}").unwrap_err();
        assert!(err.to_string().contains("the key \"b\" stands here twice"));
        assert_eq!(err.line(), 3);
    }

    #[test]
    fn paths_go_through_maps_and_lists() {
        let value: Value =
            serde_json::from_str(r#"{"a": [{"b": 1}, {"b": 18446744073709551615}]}"#).unwrap();
        assert_eq!(value.at("a.0.b"), Some(&Value::Int(1)));
        assert_eq!(value.at("a.1.b"), Some(&Value::Uint(u64::MAX)));
        assert_eq!(value.at("a.2"), None);
        assert_eq!(value.at("a.x"), None);
        assert_eq!(value.at(""), Some(&value));
    }

    #[test]
    fn s71_a_secret_is_not_shown() {
        let value = Value::List(vec![Value::Secret(Secret::new("hunter2"))]);
        assert!(!format!("{value:?}").contains("hunter2"));
        assert_eq!(Value::Secret(Secret::new("hunter2")).to_string(), "***");
    }
}
