//! The codec.

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_codec_core::{Codec, Decode, Encode, Error, Result, erased_serde};

use crate::CONTENT_TYPE;

/// The JSON codec: messages with serde's traits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        let message = message.to_serde()?;
        serde_json::to_writer(out.writer(), message).map_err(|err| {
            Error::invalid_argument(format!("the message cannot be written as JSON: {err}"))
                .with_source(err)
        })
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let slot = message.into_serde()?;
        let mut from = serde_json::Deserializer::from_slice(&bytes);
        slot.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut from))?;
        from.end().map_err(|err| {
            Error::invalid_argument(format!("there is more than one JSON value: {err}"))
                .with_source(err)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use micro_codec_core::{ErrorKind, shape};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Hello {
        name: String,
        #[serde(default)]
        age: Option<f64>,
    }

    fn decode(text: &'static [u8]) -> Result<Hello> {
        shape!(Hello).decode(&Json, Bytes::from_static(text))
    }

    fn encode<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> String {
        let mut out = BytesMut::new();
        let shape = micro_codec_core::Shape::<T>::serde();
        shape.encode(value, &Json, &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_text_is_that_of_the_grammar() {
        let hello = Hello {
            name: "\"\\/\u{8}\u{1}é𝄞\u{7f}".to_owned(),
            age: Some(0.1),
        };
        assert_eq!(
            encode(&hello),
            r#"{"name":"\"\\/\b\u0001é𝄞"#.to_owned() + "\u{7f}" + r#"","age":0.1}"#
        );
        // RFC 8259, section 7: the same character escaped as a pair.
        assert_eq!(
            decode(br#" { "name" : "\uD834\uDD1E" } "#).unwrap().name,
            "𝄞"
        );
        assert_eq!(encode(&u64::MAX), "18446744073709551615");
        assert_eq!(encode(&i64::MIN), "-9223372036854775808");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        // From JSONTestSuite's `n_` cases, as members of our message.
        for text in [
            &b""[..],
            b"{",
            b"{\"name\":\"a\"}x",
            b"{\"name\":\"a\"}{\"name\":\"b\"}",
            b"{\"name\":\"a\",}",
            b"{'name':'a'}",
            b"{\"name\":\"\xff\"}",
            b"{\"name\":\"\xed\xa0\x80\"}",
            b"{\"name\":\"\\uD800\"}",
            b"{\"name\":\"a\nb\"}",
            b"{\"name\":\"a\",\"age\":NaN}",
            b"{\"name\":\"a\",\"age\":1e999}",
            b"{\"name\":\"a\",\"age\":01}",
            b"{\"name\":\"a\",\"name\":\"b\"}",
            b"\xef\xbb\xbf{\"name\":\"a\"}",
        ] {
            let err = decode(text).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
        }
    }

    #[test]
    fn an_error_says_where() {
        let err = decode(b"{\"name\":7}").unwrap_err();
        assert!(err.message().contains("line 1 column 9"), "{err}");
    }

    #[test]
    fn in_a_map_the_last_of_two_keys_wins() {
        let map = shape!(BTreeMap<String, u8>)
            .decode(&Json, Bytes::from_static(b"{\"a\":1,\"a\":2}"))
            .unwrap();
        assert_eq!(map["a"], 2);
    }

    #[test]
    fn floats_that_json_lacks_do_not_come_back_as_something_else() {
        assert_eq!(encode(&f64::NAN), "null");
        assert!(
            shape!(f64)
                .decode(&Json, Bytes::from_static(b"null"))
                .is_err()
        );
    }

    #[test]
    fn a_map_needs_keys_that_json_can_write() {
        let map = BTreeMap::from([(vec![1_u8], 1_u8)]);
        let err = shape!(BTreeMap<Vec<u8>, u8>)
            .encode(&map, &Json, &mut BytesMut::new())
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    }
}
