//! Messages in messages.

use bytes::{Bytes, BytesMut};
use micro_codec_core::{FieldKind, FieldLabel, Result, Schema};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{Field, MAX_DEPTH, Reader, Value, check_len, fields};

/// A whole message: what the derive implements, and `prost_message!`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a protobuf message",
    label = "derive micro::Message for it"
)]
pub trait Message: Sized {
    /// A message without fields.
    fn empty() -> Self;
    /// What it is made of.
    fn schema() -> Schema;
    /// The length of its fields.
    fn encoded_len(&self) -> usize;
    /// Appends its fields.
    fn encode(&self, out: &mut BytesMut);
    /// Reads one field.
    fn merge_field(&mut self, tag: u32, from: Reader<'_>) -> Result<()>;
}

/// What a derived message starts as; named for the error that a type without `Default` gets.
#[must_use]
pub fn a_message_starts_as_its_default<M: Default>() -> M {
    M::default()
}

/// Appends a whole message, if protobuf allows its size.
pub fn message_encode<M: Message>(message: &M, out: &mut BytesMut) -> Result<()> {
    let len = message.encoded_len();
    check_len(len)?;
    out.reserve(len);
    message.encode(out);
    Ok(())
}

/// Merges a whole message.
pub fn message_merge<M: Message>(message: &mut M, mut bytes: Bytes) -> Result<()> {
    fields(&mut bytes, 0, MAX_DEPTH, |tag, from| {
        message.merge_field(tag, from)
    })
}

/// The length of a message as a field.
pub fn message_field_len<M: Message>(message: &M, tag: u32) -> usize {
    let len = message.encoded_len();
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// Appends a message as a field.
pub fn message_field_encode<M: Message>(message: &M, tag: u32, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(message.encoded_len() as u64, out);
    message.encode(out);
}

/// Merges a message that is a field.
pub fn message_field_merge<M: Message>(message: &mut M, from: Reader<'_>) -> Result<()> {
    from.message(|tag, from| message.merge_field(tag, from))
}

/// Makes a message a value and a field. A blanket impl would do the same, and would make the
/// compiler complain of a missing `Message` where a type cannot be a field at all.
#[doc(hidden)]
#[macro_export]
macro_rules! __message_field {
    ($message:ty) => {
        impl $crate::field::Value for $message {
            fn kind() -> $crate::__private::codec::FieldKind {
                $crate::__private::codec::FieldKind::Message(
                    <Self as $crate::field::Message>::schema,
                )
            }
            fn empty() -> Self {
                <Self as $crate::field::Message>::empty()
            }
            fn is_empty(&self) -> bool {
                $crate::field::Message::encoded_len(self) == 0
            }
            fn encoded_len(&self, tag: u32) -> usize {
                $crate::field::message_field_len(self, tag)
            }
            fn encode(&self, tag: u32, out: &mut $crate::__private::bytes::BytesMut) {
                $crate::field::message_field_encode(self, tag, out);
            }
            fn merge(
                &mut self,
                from: $crate::field::Reader<'_>,
            ) -> $crate::__private::codec::Result<bool> {
                $crate::field::message_field_merge(self, from)?;
                ::core::result::Result::Ok(true)
            }
        }

        // Not left out when empty: a struct that has a message always has it.
        impl $crate::field::Field for $message {
            fn label() -> $crate::__private::codec::FieldLabel {
                $crate::__private::codec::FieldLabel::Implicit
            }
            fn kind() -> $crate::__private::codec::FieldKind {
                <Self as $crate::field::Value>::kind()
            }
            fn encoded_len(&self, tag: u32) -> usize {
                $crate::field::message_field_len(self, tag)
            }
            fn encode(&self, tag: u32, out: &mut $crate::__private::bytes::BytesMut) {
                $crate::field::message_field_encode(self, tag, out);
            }
            fn merge(
                &mut self,
                from: $crate::field::Reader<'_>,
            ) -> $crate::__private::codec::Result<()> {
                $crate::field::message_field_merge(self, from)
            }
        }
    };
}

impl<M: Message + Value> Value for Box<M> {
    fn kind() -> FieldKind {
        M::kind()
    }
    fn empty() -> Self {
        Self::new(<M as Message>::empty())
    }
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }
    fn encoded_len(&self, tag: u32) -> usize {
        message_field_len(&**self, tag)
    }
    fn encode(&self, tag: u32, out: &mut BytesMut) {
        message_field_encode(&**self, tag, out);
    }
    fn merge(&mut self, from: Reader<'_>) -> Result<bool> {
        (**self).merge(from)
    }
}

impl<M: Message + Value> Field for Box<M> {
    fn label() -> FieldLabel {
        FieldLabel::Implicit
    }
    fn kind() -> FieldKind {
        M::kind()
    }
    fn encoded_len(&self, tag: u32) -> usize {
        message_field_len(&**self, tag)
    }
    fn encode(&self, tag: u32, out: &mut BytesMut) {
        message_field_encode(&**self, tag, out);
    }
    fn merge(&mut self, from: Reader<'_>) -> Result<()> {
        message_field_merge(&mut **self, from)
    }
}
