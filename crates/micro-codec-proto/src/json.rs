//! Proto3's JSON, as far as pbjson leaves it out: for the code that micro-build generates.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};

/// The entries of a message in which `null` stands for the default value, whatever the field.
pub fn nulls<M>(map: M) -> Nulls<M> {
    Nulls(map)
}

/// See [`nulls`].
#[derive(Debug)]
pub struct Nulls<M>(M);

impl<M> Nulls<M> {
    /// As of [`MapAccess`], which generated code need not bring into scope.
    pub fn next_key<'de, K>(&mut self) -> Result<Option<K>, M::Error>
    where
        M: MapAccess<'de>,
        K: Deserialize<'de>,
    {
        self.0.next_key()
    }

    /// As of [`MapAccess`].
    pub fn next_value<'de, V>(&mut self) -> Result<V, M::Error>
    where
        M: MapAccess<'de>,
        V: Deserialize<'de>,
    {
        self.0.next_value_seed(OrNull(PhantomData))
    }
}

/// A value, or `null`.
struct OrNull<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> DeserializeSeed<'de> for OrNull<V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<V, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for OrNull<V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V, D::Error> {
        V::deserialize(from)
    }

    fn visit_none<E: Error>(self) -> Result<V, E> {
        V::deserialize(Null(PhantomData))
    }

    fn visit_unit<E: Error>(self) -> Result<V, E> {
        self.visit_none()
    }
}

/// The default value of whatever is asked for.
struct Null<E>(PhantomData<E>);

impl<'de, E: Error> Deserializer<'de> for Null<E> {
    type Error = E;

    // Numbers and enumerations, which may be told in more than one way.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_u64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_bool(false)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_borrowed_str("")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_none()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_seq(Nothing(PhantomData))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(Nothing(PhantomData))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_map(Nothing(PhantomData))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum identifier
    }
}

/// No elements and no entries.
struct Nothing<E>(PhantomData<E>);

impl<'de, E: Error> SeqAccess<'de> for Nothing<E> {
    type Error = E;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, _: T) -> Result<Option<T::Value>, E> {
        Ok(None)
    }
}

impl<'de, E: Error> MapAccess<'de> for Nothing<E> {
    type Error = E;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, _: K) -> Result<Option<K::Value>, E> {
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, _: V) -> Result<V::Value, E> {
        Err(E::custom("there are no entries"))
    }
}

/// A value of an enumeration: a name, or a number that has none here.
#[derive(Clone, Copy, Debug)]
pub enum Enumeration<T> {
    /// One that is known.
    Name(T),
    /// One that the other side knows, maybe.
    Number(i32),
}

impl<T: TryFrom<i32>> From<i32> for Enumeration<T> {
    fn from(number: i32) -> Self {
        T::try_from(number).map_or(Self::Number(number), Self::Name)
    }
}

/// A value of an enumeration, on its way out: it cannot fail, but stands where it could.
pub fn enumeration<T: TryFrom<i32>, E>(number: i32) -> Result<Enumeration<T>, E> {
    Ok(number.into())
}

impl<T: Into<i32>> Enumeration<T> {
    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Self::Name(name) => name.into(),
            Self::Number(number) => number,
        }
    }
}

impl<T: Serialize> Serialize for Enumeration<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => name.serialize(to),
            Self::Number(number) => to.serialize_i32(*number),
        }
    }
}

impl<'de, T: Deserialize<'de> + TryFrom<i32>> Deserialize<'de> for Enumeration<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrNumber<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + TryFrom<i32>> Visitor<'de> for NameOrNumber<T> {
            type Value = Enumeration<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a value or its number")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Enumeration<T>, E> {
                T::deserialize(StrDeserializer::new(name)).map(Enumeration::Name)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Enumeration<T>, E> {
                i32::try_from(number)
                    .map(Enumeration::from)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Enumeration<T>, E> {
                i32::try_from(number)
                    .map(Enumeration::from)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        from.deserialize_any(NameOrNumber(PhantomData))
    }
}

/// A field of `float` or `double`: what is no number has a name in JSON.
#[derive(Debug)]
pub struct Float<'a, T: ?Sized>(pub &'a T);

macro_rules! floats {
    ($($float:ident: $write:ident;)*) => {$(
        impl Serialize for Float<'_, $float> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match *self.0 {
                    value if value.is_nan() => to.serialize_str("NaN"),
                    $float::INFINITY => to.serialize_str("Infinity"),
                    $float::NEG_INFINITY => to.serialize_str("-Infinity"),
                    value => to.$write(value),
                }
            }
        }

        impl Serialize for Float<'_, Vec<$float>> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_seq(self.0.iter().map(Float))
            }
        }

        impl<K: Serialize> Serialize for Float<'_, HashMap<K, $float>> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_map(self.0.iter().map(|(key, value)| (key, Float(value))))
            }
        }
    )*};
}

floats! {
    f32: serialize_f32;
    f64: serialize_f64;
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error as ValueError, MapDeserializer};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(try_from = "String")]
    struct Red;

    impl TryFrom<String> for Red {
        type Error = &'static str;

        fn try_from(name: String) -> Result<Self, Self::Error> {
            match name.as_str() {
                "RED" => Ok(Self),
                _ => Err("no such color"),
            }
        }
    }

    impl TryFrom<i32> for Red {
        type Error = ();

        fn try_from(number: i32) -> Result<Self, ()> {
            if number == 1 { Ok(Self) } else { Err(()) }
        }
    }

    impl From<Red> for i32 {
        fn from(_: Red) -> Self {
            1
        }
    }

    #[test]
    fn null_is_the_default_of_everything() {
        fn null<T: for<'de> Deserialize<'de>>() -> T {
            let entries = MapDeserializer::new([("key", ())].into_iter());
            let mut entries = nulls::<MapDeserializer<'_, _, ValueError>>(entries);
            assert_eq!(entries.next_key().unwrap(), Some("key".to_owned()));
            entries.next_value().unwrap()
        }
        assert_eq!(null::<String>(), "");
        assert!(!null::<bool>());
        assert_eq!(null::<u64>(), 0);
        assert!(null::<Vec<u8>>().is_empty());
        assert_eq!(null::<HashMap<String, u8>>(), HashMap::new());
        assert_eq!(null::<Option<u8>>(), None);
        assert_eq!(null::<Enumeration<Red>>().number(), 0);
    }

    #[test]
    fn an_enumeration_is_a_name_or_a_number() {
        let read = |text| serde_json::from_str::<Enumeration<Red>>(text);
        for (text, number) in [("\"RED\"", 1), ("1", 1), ("7", 7), ("-7", -7)] {
            assert_eq!(read(text).unwrap().number(), number, "{text}");
        }
        for text in ["\"BLUE\"", "4294967296", "1.5", "true", "[]"] {
            assert!(read(text).is_err(), "{text}");
        }
        let unknown = enumeration::<Red, ()>(7).unwrap();
        assert!(matches!(unknown, Enumeration::Number(7)));
    }

    #[test]
    fn what_is_no_number_has_a_name() {
        let text = |value: Vec<f32>| serde_json::to_string(&Float(&value)).unwrap();
        assert_eq!(
            text(vec![0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
            r#"[0.5,"NaN","Infinity","-Infinity"]"#
        );
        let map = HashMap::from([(1, f64::NAN)]);
        assert_eq!(
            serde_json::to_string(&Float(&map)).unwrap(),
            r#"{"1":"NaN"}"#
        );
    }
}
