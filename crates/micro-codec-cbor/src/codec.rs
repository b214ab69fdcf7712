//! The codec.

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_codec_core::{Codec, Decode, Encode, Error, Result, erased_serde};

use crate::CONTENT_TYPE;
use crate::decode::Decoder;

/// The CBOR codec: messages with serde's traits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cbor;

impl Codec for Cbor {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        let message = message.to_serde()?;
        ciborium::into_writer(message, out.writer()).map_err(|err| {
            let text = match &err {
                ciborium::ser::Error::Io(err) => err.to_string(),
                ciborium::ser::Error::Value(text) => text.clone(),
            };
            Error::invalid_argument(format!("the message cannot be written as CBOR: {text}"))
                .with_source(err)
        })
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let slot = message.into_serde()?;
        let mut from = Decoder::new(&bytes);
        let filled = slot.fill(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut from));
        let rest = from.rest();
        filled.map_err(|err| err.with_context("at-byte", bytes.len() - rest))?;
        match rest {
            0 => Ok(()),
            more => Err(Error::invalid_argument("there is more than one CBOR item")
                .with_context("bytes-behind", more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use ciborium::Value;
    use micro_codec_core::{ErrorKind, Shape};
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use super::*;

    fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
        let mut out = BytesMut::new();
        let shape = Shape::<T>::serde();
        shape.encode(value, &Cbor, &mut out).unwrap();
        out.to_vec()
    }

    fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T> {
        Shape::<T>::serde().decode(&Cbor, Bytes::copy_from_slice(bytes))
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect()
    }

    /// Both ways, for a vector of the RFC in its preferred form.
    #[expect(clippy::needless_pass_by_value, reason = "the table reads better")]
    fn both<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str, value: T) {
        assert_eq!(encode(&value), hex(text), "{text}");
        assert_eq!(decode::<T>(&hex(text)).unwrap(), value, "{text}");
    }

    /// Reading only.
    #[expect(clippy::needless_pass_by_value, reason = "the table reads better")]
    fn reads<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str, value: T) {
        assert_eq!(decode::<T>(&hex(text)).unwrap(), value, "{text}");
    }

    #[test]
    fn the_golden_vectors_of_rfc_8949_appendix_a() {
        both("00", 0_u64);
        both("0a", 10_u8);
        both("17", 23_i32);
        both("1818", 24_u64);
        both("1903e8", 1_000_u64);
        both("1a000f4240", 1_000_000_u64);
        both("1bffffffffffffffff", u64::MAX);
        both("c249010000000000000000", 18_446_744_073_709_551_616_u128);
        both("3bffffffffffffffff", -18_446_744_073_709_551_616_i128);
        both("c349010000000000000000", -18_446_744_073_709_551_617_i128);
        both("20", -1_i64);
        both("3903e7", -1_000_i64);
        both("f90000", 0.0_f64);
        assert!(decode::<f64>(&hex("f98000")).unwrap().is_sign_negative());
        both("f93c00", 1.0_f64);
        both("fb3ff199999999999a", 1.1_f64);
        both("f97bff", 65_504.0_f64);
        both("fa47c35000", 100_000.0_f32);
        both("fb7e37e43c8800759c", 1.0e300_f64);
        both("f90001", 5.960_464_477_539_063e-8_f64);
        both("f90400", 0.000_061_035_156_25_f64);
        both("fbc010666666666666", -4.1_f64);
        both("f97c00", f64::INFINITY);
        both("f9fc00", f64::NEG_INFINITY);
        assert!(decode::<f64>(&hex("f97e00")).unwrap().is_nan());
        both("f4", false);
        both("f5", true);
        both("f6", ());
        reads("f7", None::<u8>);
        both("60", String::new());
        both("62225c", "\"\\".to_owned());
        both("62c3bc", "ü".to_owned());
        both("64f0908591", "\u{10151}".to_owned());
        both("80", Vec::<u8>::new());
        both("83010203", vec![1, 2, 3]);
        both("8301820203820405", (1, (2, 3), [4, 5]));
        both("a0", BTreeMap::<u8, u8>::new());
        both("a201020304", BTreeMap::from([(1, 2), (3, 4)]));
        both(
            "826161a161626163",
            (
                "a".to_owned(),
                BTreeMap::from([("b".to_owned(), "c".to_owned())]),
            ),
        );

        reads(
            "c074323031332d30332d32315432303a30343a30305a",
            "2013-03-21T20:04:00Z".to_owned(),
        );
        reads("c11a514b67b0", 1_363_896_240_u64);
        reads("4401020304", vec![1_u8, 2, 3, 4]);
        reads("5f42010243030405ff", vec![1_u8, 2, 3, 4, 5]);
        reads("7f657374726561646d696e67ff", "streaming".to_owned());
        reads("9fff", Vec::<u8>::new());
        reads("9f018202039f0405ffff", (1, (2, 3), vec![4, 5]));
        reads("83018202039f0405ff", (1, [2, 3], (4, 5)));
        reads(
            "bf61610161629f0203ffff",
            Struct {
                a: 1,
                b: vec![2, 3],
            },
        );
        reads(
            "bf6346756ef563416d7421ff",
            BTreeMap::from([
                ("Fun".to_owned(), Any::Bool(true)),
                ("Amt".to_owned(), Any::Int(-2)),
            ]),
        );
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Struct {
        a: u8,
        b: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Any {
        Bool(bool),
        Int(i64),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Self>),
        Pair(u8, Option<String>),
        Named { at: i128 },
    }

    #[test]
    fn enums_come_back_in_every_form() {
        for tree in [
            Tree::Leaf,
            Tree::Node(Box::new(Tree::Leaf)),
            Tree::Pair(1, Some("é".to_owned())),
            Tree::Named { at: i128::MIN },
        ] {
            assert_eq!(decode::<Tree>(&encode(&tree)).unwrap(), tree);
        }
        reads("bf644e6f6465644c656166ff", Tree::Node(Box::new(Tree::Leaf)));
        reads("a1644c656166f6", Tree::Leaf);
        for text in ["a0", "644e6f6465", "a2644c656166f6644c656166f6", "9f", "f6"] {
            assert!(decode::<Tree>(&hex(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        // RFC 8949, appendix F: what is not well-formed; then what does not fit.
        for text in [
            "",
            "18",
            "1a0102",
            "41",
            "5affffffff00",
            "5bffffffffffffffff010203",
            "7affffffff00",
            "81",
            "9affffffff00",
            "9bffffffffffffffff",
            "bbffffffffffffffff",
            "a1",
            "a20102",
            "c0",
            "f800",
            "1c",
            "3f",
            "df",
            "ff",
            "5f00ff",
            "5f7f6100ffff",
            "7f4100ff",
            "9f",
            "bf01",
            "81ff",
            "bf00ff",
            "62c328",
            "7f61c361bcff",
            "f8ff",
            "e0",
            "0000",
            "8201",
            "820102",
            "a2616101",
        ] {
            let err = decode::<Struct>(&hex(text)).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{text}: {err}");
        }
        // Unknown fields are passed over only where they are well-formed.
        reads("a36161016178c482a00061628102", Struct { a: 1, b: vec![2] });
        for text in [
            "a3616101617801ff61628102",
            "a3616101617862c32861628102",
            "a36161016178f800616281 02",
        ] {
            assert!(
                decode::<Struct>(&hex(&text.replace(' ', ""))).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_nests_without_end() {
        let arrays = |depth: usize| [[0x81].repeat(depth), vec![0]].concat();
        let trees = |depth: usize| [b"\xa1\x64Node".repeat(depth), b"\x64Leaf".to_vec()].concat();
        assert!(decode::<Tree>(&trees(128)).is_ok());
        for depth in [129, 100_000] {
            assert!(decode::<Tree>(&trees(depth)).is_err());
            assert!(decode::<Value>(&arrays(depth)).is_err());
            let skipped = [hex("a16178"), arrays(depth)].concat();
            assert!(decode::<Struct>(&skipped).is_err());
        }
        // Tags take no stack.
        let tags = [[0xc1].repeat(100_000), vec![7]].concat();
        assert_eq!(decode::<u8>(&tags).unwrap(), 7);
    }

    #[test]
    fn ciborium_reads_the_same() {
        // A small generator of bytes that are often well-formed; the seed is fixed.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let starts = [
            0x00, 0x17, 0x18, 0x20, 0x38, 0x40, 0x41, 0x60, 0x61, 0x80, 0x81, 0x82, 0xa0, 0xa1,
            0xf4, 0xf5, 0xf6, 0xf9, 0xfa, 0x9f, 0xbf, 0xff, 0x5f, 0x7f,
        ];
        let (mut read, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let len = random() % 8 + 1;
            let bytes: Vec<u8> = (0..len)
                .map(|_| match random() % 3 {
                    0 => random() as u8 & 0x7f,
                    _ => starts[random() as usize % starts.len()],
                })
                .collect();
            let mut reader = &bytes[..];
            let theirs = ciborium::from_reader::<Value, _>(&mut reader);
            let theirs = theirs.ok().filter(|_| reader.is_empty());
            let ours = decode::<Value>(&bytes).ok();
            match (&ours, &theirs) {
                (Some(ours), Some(theirs)) => {
                    // As text, for NaN is not equal to itself.
                    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{bytes:02x?}");
                    read += 1;
                }
                (None, None) => refused += 1,
                // ciborium also takes strings of unknown length as parts of one another, which
                // section 3.2.3 forbids.
                (None, Some(_))
                    if bytes.iter().filter(|b| [0x5f, 0x7f].contains(b)).count() > 1 => {}
                _ => panic!("{bytes:02x?}: ours {ours:?}, theirs {theirs:?}"),
            }
        }
        assert!(read > 10_000 && refused > 10_000, "{read} {refused}");
    }
}
