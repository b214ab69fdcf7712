//! The codec.

use bytes::{Bytes, BytesMut};
use micro_codec_core::{Codec, Decode, Encode, Result};

use crate::CONTENT_TYPE;

/// The protobuf codec: messages with a protobuf view.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proto;

impl Codec for Proto {
    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        message.to_proto()?.encode(out)
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        message.into_proto()?.merge(bytes)
    }
}
