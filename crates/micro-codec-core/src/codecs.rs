//! The codecs that a client or a server knows.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{Codec, Decode, Encode, Error, Result};

/// The content type of raw bytes.
const OCTET_STREAM: &str = "application/octet-stream";

/// The codecs that a client or a server knows, found by content type.
///
/// It is cheap to clone. Raw bytes (`application/octet-stream`) are always known.
#[derive(Clone, Debug)]
pub struct Codecs(Arc<[Arc<dyn Codec>]>);

impl Codecs {
    /// No codec but raw bytes.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new([Arc::new(Raw) as Arc<dyn Codec>]))
    }

    /// Adds a codec; for a content type already known, the last one wins.
    #[must_use]
    pub fn with(self, codec: impl Codec) -> Self {
        let codec: Arc<dyn Codec> = Arc::new(codec);
        let others = self
            .0
            .iter()
            .filter(|known| known.content_type() != codec.content_type())
            .cloned();
        Self(others.chain([Arc::clone(&codec)]).collect())
    }

    /// The codec of a content type; parameters (`; charset=utf-8`) and case do not matter.
    ///
    /// # Errors
    ///
    /// `Unimplemented`, naming those known.
    pub fn get(&self, content_type: &str) -> Result<&Arc<dyn Codec>> {
        // A handful of codecs: comparing them all is quicker than hashing.
        let found = self
            .0
            .iter()
            .find(|codec| codec.content_type() == content_type);
        if let Some(codec) = found {
            return Ok(codec);
        }
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        self.0
            .iter()
            .find(|codec| codec.content_type().eq_ignore_ascii_case(essence))
            .ok_or_else(|| {
                let shown: String = essence
                    .chars()
                    .take(80)
                    .flat_map(char::escape_debug)
                    .collect();
                Error::unimplemented("no codec for this content type")
                    .with_context("content-type", shown)
                    .with_context("known", self.content_types().collect::<Vec<_>>().join(" "))
            })
    }

    /// The content types known.
    pub fn content_types(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|codec| codec.content_type())
    }
}

impl Default for Codecs {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets [`RawBytes`](crate::RawBytes) through, and nothing else.
#[derive(Debug)]
struct Raw;

impl Codec for Raw {
    fn content_type(&self) -> &'static str {
        OCTET_STREAM
    }

    fn encode(&self, _: Encode<'_>, _: &mut BytesMut) -> Result<()> {
        Err(not_raw())
    }

    fn decode(&self, _: Bytes, _: Decode<'_>) -> Result<()> {
        Err(not_raw())
    }
}

fn not_raw() -> Error {
    Error::unimplemented("application/octet-stream carries RawBytes only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, RawBytes, shape};

    #[test]
    fn content_types_are_found_without_case_and_parameters() {
        let codecs = Codecs::new();
        assert!(codecs.get("application/octet-stream").is_ok());
        assert!(codecs.get("Application/Octet-Stream; x=1").is_ok());
        let err = codecs.get("text/html\n").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
        assert!(
            err.to_string().contains("known: application/octet-stream"),
            "{err}"
        );
    }

    #[test]
    fn raw_bytes_pass_and_others_do_not() {
        let codecs = Codecs::new();
        let raw = codecs.get("application/octet-stream").unwrap();
        let mut out = BytesMut::new();
        shape!(RawBytes)
            .encode(&RawBytes(Bytes::from_static(b"x")), raw, &mut out)
            .unwrap();
        assert_eq!(&out[..], b"x");
        assert!(
            shape!(String)
                .encode(&String::new(), raw, &mut out)
                .is_err()
        );
    }
}
