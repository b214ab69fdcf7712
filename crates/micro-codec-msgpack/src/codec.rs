//! The codec.

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_codec_core::{Codec, Decode, Encode, Error, Result, erased_serde};
use serde::Serialize as _;

use crate::CONTENT_TYPE;
use crate::walk;

/// The MessagePack codec: messages with serde's traits.
#[derive(Clone, Copy, Debug, Default)]
pub struct MsgPack;

impl Codec for MsgPack {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        let message = message.to_serde()?;
        let mut to = rmp_serde::Serializer::new(out.writer()).with_struct_map();
        message.serialize(&mut to).map_err(|err| {
            let text = format!("the message cannot be written as MessagePack: {err}");
            Error::invalid_argument(text).with_source(err)
        })
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let slot = message.into_serde()?;
        walk::one_value(&bytes)?;
        let mut from = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
        slot.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut from))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use micro_codec_core::{ErrorKind, Shape, shape};
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use super::*;

    fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
        let mut out = BytesMut::new();
        let shape = Shape::<T>::serde();
        shape.encode(value, &MsgPack, &mut out).unwrap();
        out.to_vec()
    }

    fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T> {
        Shape::<T>::serde().decode(&MsgPack, Bytes::copy_from_slice(bytes))
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Compact {
        compact: bool,
        schema: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Self>),
    }

    #[test]
    fn the_golden_vectors_of_the_specification() {
        // The example of msgpack.org, then the edges of the formats in spec.md.
        let compact = Compact {
            compact: true,
            schema: 0,
        };
        assert_eq!(encode(&compact), b"\x82\xa7compact\xc3\xa6schema\x00");
        assert_eq!(encode(&127_u64), [0x7f]);
        assert_eq!(encode(&128_u64), [0xcc, 0x80]);
        assert_eq!(encode(&65_536_u64), [0xce, 0, 1, 0, 0]);
        assert_eq!(
            encode(&u64::MAX),
            [0xcf, 255, 255, 255, 255, 255, 255, 255, 255]
        );
        assert_eq!(encode(&-32_i64), [0xe0]);
        assert_eq!(encode(&-33_i64), [0xd0, 0xdf]);
        assert_eq!(encode(&i64::MIN), [0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&1.5_f32), [0xca, 0x3f, 0xc0, 0, 0]);
        assert_eq!(encode(&-1.5_f64), [0xcb, 0xbf, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&None::<u8>), [0xc0]);
        assert_eq!(encode(&"é".to_owned()), [0xa2, 0xc3, 0xa9]);
        assert_eq!(encode(&"a".repeat(32))[..2], [0xd9, 32]);
        assert_eq!(encode(&vec![1_u8, 2]), [0x92, 1, 2]);
        assert_eq!(
            encode(&BTreeMap::from([(1_u8, "a".to_owned())])),
            b"\x81\x01\xa1a"
        );
    }

    #[test]
    fn what_others_write_is_read() {
        let compact = Compact {
            compact: true,
            schema: 7,
        };
        for bytes in [
            // In the other order, wider than needed, with a field unknown here, as an array.
            &b"\x82\xa6schema\x07\xa7compact\xc3"[..],
            b"\xde\x00\x02\xd9\x07compact\xc3\xda\x00\x06schema\xcd\x00\x07",
            b"\x83\xa7compact\xc3\xa3new\x92\x01\xd4\x05\x00\xa6schema\x07",
            b"\x92\xc3\x07",
        ] {
            assert_eq!(decode::<Compact>(bytes).unwrap(), compact);
        }
        assert_eq!(decode::<Vec<u8>>(b"\xc4\x02\x01\x02").unwrap(), [1, 2]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &b""[..],
            b"\x82\xa7compact\xc3",
            b"\x82\xa7compact\xc3\xa6schema\x07\x00",
            b"\x82\xa7compact\xc3\xa6schema\xc1",
            b"\xd9\xff",
            b"\xc9\xff\xff\xff\xff\x01",
        ] {
            let err = decode::<Compact>(bytes).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
        }
        assert!(decode::<String>(b"\xa2\xc3\x28").is_err());
    }

    #[test]
    fn lengths_beyond_the_input_are_refused_before_anything_is_allocated() {
        for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
            let bytes = [marker, 0xff, 0xff, 0xff, 0xff];
            assert!(decode::<Vec<[u64; 32]>>(&bytes).is_err());
            assert!(decode::<String>(&bytes).is_err());
        }
    }

    #[test]
    fn enums_do_not_nest_without_end() {
        // rmp-serde alone overflows the stack here.
        let nested = |depth: usize| [b"\x81\xa4Node".repeat(depth), b"\xa4Leaf".to_vec()].concat();
        assert!(decode::<Tree>(&nested(100)).is_ok());
        let err = decode::<Tree>(&nested(100_000)).unwrap_err();
        assert!(err.message().contains("too deep"), "{err}");
        assert!(shape!(Tree).has_serde());
    }
}
