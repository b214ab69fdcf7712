//! From prost's messages to ours.

use bytes::{Bytes, BytesMut};
use micro_codec_core::{Error, Result};
use prost::DecodeError;
use prost::encoding::DecodeContext;

use crate::field::{Reader, check_len};

/// Appends a message of prost's to `out`.
///
/// # Errors
///
/// `InvalidArgument` if it is larger than protobuf allows, which is 2 GiB.
pub fn prost_encode<M: prost::Message>(message: &M, out: &mut BytesMut) -> Result<()> {
    let len = message.encoded_len();
    check_len(len)?;
    out.reserve(len);
    message.encode_raw(out);
    Ok(())
}

/// Merges an encoded message into a message of prost's.
///
/// # Errors
///
/// `InvalidArgument` for bytes that are no such message.
pub fn prost_merge<M: prost::Message>(message: &mut M, bytes: Bytes) -> Result<()> {
    message.merge(bytes).map_err(malformed)
}

/// Merges one field into a message of prost's that stands in a derived one.
#[doc(hidden)]
pub fn prost_merge_field<M: prost::Message>(
    message: &mut M,
    tag: u32,
    from: Reader<'_>,
) -> Result<()> {
    // prost does not let anyone pass the depth on, so it counts from zero again: at most twice
    // the limit in all, for prost's messages hold none of ours.
    let Reader { wire, bytes, .. } = from;
    message
        .merge_field(tag, wire, bytes, DecodeContext::default())
        .map_err(malformed)
}

pub(crate) fn malformed(err: DecodeError) -> Error {
    Error::invalid_argument(err.to_string()).with_source(err)
}

/// Makes a type of prost's a protobuf message of `micro`, also as a field of derived messages.
///
/// It takes the type, the encoded `FileDescriptorSet` that describes it (with all imports) as a
/// `&'static [u8]`, and its full name.
///
/// ```
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Ping {}
/// micro_codec_proto::prost_message!(Ping, &[], "health.v1.Ping");
/// assert!(micro_codec_core::shape!(Ping).has_proto());
/// ```
#[macro_export]
macro_rules! prost_message {
    ($message:ty, $set:expr, $full_name:expr $(,)?) => {
        const _: () = {
            use $crate::__private::{bytes, codec, prost};

            impl codec::ProtoMessage for $message {
                fn schema(&self) -> codec::Schema {
                    <Self as $crate::field::Message>::schema()
                }
                fn encoded_len(&self) -> usize {
                    prost::Message::encoded_len(self)
                }
                fn encode(&self, out: &mut bytes::BytesMut) -> codec::Result<()> {
                    $crate::prost_encode(self, out)
                }
                fn merge(&mut self, bytes: bytes::Bytes) -> codec::Result<()> {
                    $crate::prost_merge(self, bytes)
                }
            }

            impl $crate::field::Message for $message {
                fn empty() -> Self {
                    ::core::default::Default::default()
                }
                fn schema() -> codec::Schema {
                    codec::Schema::File {
                        set: $set,
                        full_name: $full_name,
                    }
                }
                fn encoded_len(&self) -> usize {
                    prost::Message::encoded_len(self)
                }
                fn encode(&self, out: &mut bytes::BytesMut) {
                    prost::Message::encode_raw(self, out);
                }
                fn merge_field(
                    &mut self,
                    tag: u32,
                    from: $crate::field::Reader<'_>,
                ) -> codec::Result<()> {
                    $crate::prost_merge_field(self, tag, from)
                }
            }

            $crate::__message_field!($message);
        };
    };
}
