//! Making values of types that serialize.

use micro_core::{Error, Result};
use serde::Serialize;

use crate::Value;

impl Value {
    /// The value of anything that serializes: for defaults, and for settings given in code.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not serialize to what JSON can hold.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let invalid = |err: serde_json::Error| {
            Error::invalid_argument("this value cannot be a configuration").with_source(err)
        };
        let json = serde_json::to_value(value).map_err(invalid)?;
        serde::Deserialize::deserialize(json).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serializes_becomes_a_value() {
        let value = Value::from_serialize(&(1, "x", Some(2.5), None::<u8>)).unwrap();
        assert_eq!(
            value,
            Value::List(vec![1.into(), "x".into(), 2.5.into(), Value::Null])
        );
    }
}
