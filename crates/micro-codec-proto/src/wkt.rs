//! Protobuf's well-known types, for what `micro-build` generates.
//!
//! `google.protobuf.Timestamp` and the like, as prost encodes them. With the feature `json` they
//! have the JSON that proto3 gives them: a timestamp is a text, a struct an object, and so on.
//! `Any` alone is not as proto3 has it, for nobody here knows all message types: it is
//! `{"@type": …, "value": …}`, the value in base64.

#[path = "generated/google.protobuf.rs"]
mod generated;
#[cfg(feature = "json")]
mod json;
mod time;

use std::collections::HashMap;

pub use self::generated::*;
pub use self::time::OutOfRange;

impl From<value::Kind> for Value {
    fn from(kind: value::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        value::Kind::BoolValue(value).into()
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        value::Kind::NumberValue(value).into()
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        value::Kind::StringValue(value).into()
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        value.to_owned().into()
    }
}

impl From<Vec<Self>> for Value {
    fn from(values: Vec<Self>) -> Self {
        value::Kind::ListValue(ListValue { values }).into()
    }
}

impl From<Struct> for Value {
    fn from(value: Struct) -> Self {
        value::Kind::StructValue(value).into()
    }
}

impl From<HashMap<String, Value>> for Struct {
    fn from(fields: HashMap<String, Value>) -> Self {
        Self { fields }
    }
}

impl FromIterator<(String, Value)> for Struct {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        Self {
            fields: fields.into_iter().collect(),
        }
    }
}

impl FromIterator<Value> for ListValue {
    fn from_iter<I: IntoIterator<Item = Value>>(values: I) -> Self {
        Self {
            values: values.into_iter().collect(),
        }
    }
}

impl From<()> for Empty {
    fn from((): ()) -> Self {
        Self {}
    }
}
