//! The JSON that proto3 gives the well-known types, through serde.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pbjson::private::{BytesDeserialize, NumberDeserialize};
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::Float;

use super::time::text;
use super::value::Kind;
use super::{
    Any, BoolValue, BytesValue, DoubleValue, Duration, Empty, FieldMask, FloatValue, Int32Value,
    Int64Value, ListValue, NullValue, StringValue, Struct, Timestamp, UInt32Value, UInt64Value,
    Value,
};

/// Types that are one text.
macro_rules! as_text {
    ($($ty:ty: $expected:literal, $write:expr, $read:expr;)*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let text = $write(self)
                    .ok_or_else(|| S::Error::custom(concat!("it cannot be written as ", $expected)))?;
                to.serialize_str(&text)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $ty;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$ty, E> {
                        $read(text).ok_or_else(|| {
                            E::invalid_value(serde::de::Unexpected::Str(text), &self)
                        })
                    }
                }
                from.deserialize_str(Text)
            }
        }
    )*};
}

as_text! {
    Timestamp: "a time such as 1972-01-01T10:00:20.021Z", text::write_timestamp, text::read_timestamp;
    Duration: "a duration such as 1.5s", text::write_duration, text::read_duration;
    FieldMask: "field names with commas between them", write_mask, read_mask;
}

fn write_mask(mask: &FieldMask) -> Option<String> {
    let paths: Option<Vec<String>> = mask.paths.iter().map(|path| camel(path)).collect();
    Some(paths?.join(","))
}

fn read_mask(text: &str) -> Option<FieldMask> {
    let paths = text.split(',').filter(|path| !path.is_empty()).map(snake);
    Some(FieldMask {
        paths: paths.collect::<Option<_>>()?,
    })
}

/// `foo_bar.baz` is `fooBar.baz`; what would not come back as it was cannot be written.
fn camel(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut up = false;
    for c in path.chars() {
        match c {
            '_' if up => return None,
            '_' => up = true,
            _ if up && !c.is_ascii_lowercase() => return None,
            _ if c.is_ascii_uppercase() => return None,
            _ => {
                out.push(if up { c.to_ascii_uppercase() } else { c });
                up = false;
            }
        }
    }
    (!up).then_some(out)
}

fn snake(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '_' => return None,
            _ if c.is_ascii_uppercase() => {
                out.push('_');
                out.push(c.to_ascii_lowercase());
            }
            _ => out.push(c),
        }
    }
    Some(out)
}

/// Types that wrap one value and are written as it.
macro_rules! as_value {
    ($($ty:ident: |$value:ident| $write:expr, $read:ty => $get:expr;)*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let $value = &self.value;
                $write.serialize(to)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let get: fn($read) -> _ = $get;
                <$read>::deserialize(from).map(|read| Self { value: get(read) })
            }
        }
    )*};
}

as_value! {
    BoolValue: |value| value, bool => |read| read;
    StringValue: |value| value, String => |read| read;
    BytesValue: |value| STANDARD.encode(value), BytesDeserialize<Vec<u8>> => |read| read.0;
    Int32Value: |value| value, NumberDeserialize<i32> => |read| read.0;
    UInt32Value: |value| value, NumberDeserialize<u32> => |read| read.0;
    Int64Value: |value| value.to_string(), NumberDeserialize<i64> => |read| read.0;
    UInt64Value: |value| value.to_string(), NumberDeserialize<u64> => |read| read.0;
    FloatValue: |value| Float(value), NumberDeserialize<f32> => |read| read.0;
    DoubleValue: |value| Float(value), NumberDeserialize<f64> => |read| read.0;
}

impl Serialize for Empty {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_map(Some(0))?.end()
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Nothing;
        impl<'de> Visitor<'de> for Nothing {
            type Value = Empty;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an empty object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Empty, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Empty {})
            }
        }
        from.deserialize_map(Nothing)
    }
}

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("@type", &self.type_url)?;
        map.serialize_entry("value", &STANDARD.encode(&self.value))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Packed;
        impl<'de> Visitor<'de> for Packed {
            type Value = Any;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with \"@type\" and a \"value\" in base64")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
                let mut any = Any::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "@type" => any.type_url = map.next_value()?,
                        "value" => any.value = map.next_value::<BytesDeserialize<Vec<u8>>>()?.0,
                        _ => {
                            return Err(A::Error::custom(
                                "the messages in an Any are not known here: give it as base64",
                            ));
                        }
                    }
                }
                Ok(any)
            }
        }
        from.deserialize_map(Packed)
    }
}

impl Serialize for Struct {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Struct {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        HashMap::deserialize(from).map(Self::from)
    }
}

impl Serialize for ListValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(to)
    }
}

impl<'de> Deserialize<'de> for ListValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::deserialize(from).map(|values| Self { values })
    }
}

impl Serialize for NullValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for NullValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // `null`, or the name or number that a parser must take too.
        IgnoredAny::deserialize(from).map(|_| Self::NullValue)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            None | Some(Kind::NullValue(_)) => to.serialize_unit(),
            Some(Kind::BoolValue(value)) => to.serialize_bool(*value),
            Some(Kind::StringValue(value)) => to.serialize_str(value),
            Some(Kind::StructValue(value)) => value.serialize(to),
            Some(Kind::ListValue(value)) => value.serialize(to),
            Some(Kind::NumberValue(value)) if value.is_finite() => to.serialize_f64(*value),
            Some(Kind::NumberValue(_)) => Err(S::Error::custom(
                "a google.protobuf.Value cannot be NaN or infinite",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Kind::NullValue(NullValue::NullValue as i32).into())
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Kind::NullValue(NullValue::NullValue as i32).into())
            }
            fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
                from.deserialize_any(self)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok((value as f64).into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok((value as f64).into())
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Value::from(values))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = HashMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                }
                Ok(Struct::from(fields).into())
            }
        }
        // Where a field may be `null`, this asks for the `null` itself.
        from.deserialize_option(Anything)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    #[track_caller]
    fn both<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T, text: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), text);
        assert_eq!(&serde_json::from_str::<T>(text).unwrap(), value);
    }

    #[test]
    fn each_type_has_the_json_of_the_specification() {
        both(
            &Timestamp {
                seconds: 63_108_020,
                nanos: 21_000_000,
            },
            r#""1972-01-01T10:00:20.021Z""#,
        );
        both(
            &Duration {
                seconds: 1,
                nanos: 500_000_000,
            },
            r#""1.500s""#,
        );
        both(
            &FieldMask {
                paths: vec!["user.display_name".into(), "photo".into()],
            },
            r#""user.displayName,photo""#,
        );
        both(&FieldMask { paths: Vec::new() }, r#""""#);
        both(&Empty {}, "{}");
        both(&BoolValue { value: true }, "true");
        both(&StringValue { value: "x".into() }, r#""x""#);
        both(&BytesValue { value: vec![1, 2] }, r#""AQI=""#);
        both(&Int32Value { value: -1 }, "-1");
        both(&UInt32Value { value: 1 }, "1");
        both(&Int64Value { value: i64::MIN }, r#""-9223372036854775808""#);
        both(
            &UInt64Value { value: u64::MAX },
            r#""18446744073709551615""#,
        );
        both(&FloatValue { value: 0.1 }, "0.1");
        both(
            &DoubleValue {
                value: f64::INFINITY,
            },
            r#""Infinity""#,
        );
        both(
            &Any {
                type_url: "type.googleapis.com/a.B".into(),
                value: vec![1],
            },
            r#"{"@type":"type.googleapis.com/a.B","value":"AQ=="}"#,
        );
        both(
            &Value::from(vec![
                Kind::NullValue(0).into(),
                true.into(),
                1.5.into(),
                "x".into(),
                Struct::from_iter([("a".to_owned(), Vec::new().into())]).into(),
            ]),
            r#"[null,true,1.5,"x",{"a":[]}]"#,
        );
        both(&NullValue::NullValue, "null");
    }

    #[test]
    fn what_a_parser_must_take_too_is_taken() {
        let number: Int64Value = serde_json::from_str("7").unwrap();
        assert_eq!(number.value, 7);
        let nan: DoubleValue = serde_json::from_str(r#""NaN""#).unwrap();
        assert!(nan.value.is_nan());
        assert_eq!(serde_json::to_string(&nan).unwrap(), r#""NaN""#);
        assert!(serde_json::from_str::<Empty>(r#"{"unknown":1}"#).is_ok());
        let url_safe: BytesValue = serde_json::from_str(r#""_-8""#).unwrap();
        assert_eq!(url_safe.value, [0xff, 0xef]);
    }

    #[test]
    fn what_has_no_json_is_an_error() {
        assert!(
            serde_json::to_string(&Timestamp {
                seconds: 0,
                nanos: -1
            })
            .is_err()
        );
        assert!(serde_json::to_string(&Value::from(f64::NAN)).is_err());
        for path in ["fooBar", "foo__bar", "foo_", "foo_1"] {
            let mask = FieldMask {
                paths: vec![path.into()],
            };
            assert!(serde_json::to_string(&mask).is_err(), "{path}");
        }
        assert!(serde_json::from_str::<FieldMask>(r#""foo_bar""#).is_err());
        assert!(serde_json::from_str::<Any>(r#"{"@type":"a","name":"b"}"#).is_err());
    }
}
