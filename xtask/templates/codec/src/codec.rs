//! The codec itself. It writes JSON: replace that by {{backend}}.

use bytes::{BufMut as _, Bytes, BytesMut};
use micro_codec_core::erased_serde::{Deserializer, serialize};
use micro_codec_core::{Codec, Decode, Encode, Error, Result};

use crate::CONTENT_TYPE;

/// Turns messages into {{backend}} and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct {{Type}}Codec;

impl Codec for {{Type}}Codec {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        let value = message.to_serde()?;
        let mut writer = serde_json::Serializer::new(out.writer());
        serialize(value, &mut writer).map_err(|err| {
            Error::invalid_argument("the message cannot be written as {{backend}}")
                .with_context("why", err)
        })
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        let slot = message.into_serde()?;
        // It refuses to nest deeper than 128 levels: a peer's bytes must not exhaust the stack.
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        slot.fill(&mut <dyn Deserializer<'_>>::erase(&mut reader))?;
        reader.end().map_err(|err| {
            Error::invalid_argument("bytes go on behind the message").with_context("why", err)
        })
    }
}
