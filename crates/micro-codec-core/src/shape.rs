//! How one message type meets any codec.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::Slot;
use crate::room;
use crate::{Codec, Decode, Encode, Error, ProtoMessage, RawBytes, Result, Schema};

/// How the message type `T` meets any codec: which views it has.
///
/// It is `Copy` and holds function pointers only. [`shape!`](crate::shape) finds it by the traits
/// of a named type; generic code says which view it means.
pub struct Shape<T> {
    encode: fn(&T, &dyn Codec, &mut BytesMut) -> Result<()>,
    decode: fn(&dyn Codec, Bytes) -> Result<T>,
    schema: Option<fn() -> Schema>,
    serde: bool,
    raw: bool,
}

impl<T> Clone for Shape<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shape<T> {}

impl<T> fmt::Debug for Shape<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shape")
            .field("serde", &self.serde)
            .field("proto", &self.has_proto())
            .field("raw", &self.raw)
            .finish()
    }
}

impl<T> Shape<T> {
    /// Appends the message to `out`.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode`].
    pub fn encode(&self, message: &T, codec: &dyn Codec, out: &mut BytesMut) -> Result<()> {
        (self.encode)(message, codec, out)
    }

    /// The message in bytes of its own. Small ones that are written one after the other lie in one
    /// piece of memory, so that not each costs an allocation; it is freed with the last of them.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode`].
    pub fn to_bytes(&self, message: &T, codec: &dyn Codec) -> Result<Bytes> {
        room::written(|out| self.encode(message, codec, out))
    }

    /// Reads a message from exactly these bytes.
    ///
    /// # Errors
    ///
    /// As [`Codec::decode`].
    pub fn decode(&self, codec: &dyn Codec, bytes: Bytes) -> Result<T> {
        (self.decode)(codec, bytes)
    }

    /// Whether the type has a serde view.
    #[must_use]
    pub fn has_serde(&self) -> bool {
        self.serde
    }

    /// Whether the type has a protobuf view.
    #[must_use]
    pub fn has_proto(&self) -> bool {
        self.schema.is_some()
    }

    /// Whether the type is raw bytes, which every codec lets through.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// The protobuf schema, if the type has one.
    #[must_use]
    pub fn schema(&self) -> Option<Schema> {
        self.schema.map(|schema| schema())
    }
}

impl<T: Serialize + DeserializeOwned> Shape<T> {
    /// A type with serde's traits only.
    #[must_use]
    pub fn serde() -> Self {
        Self {
            encode: |message, codec, out| codec.encode(Encode::new(Some(message), None), out),
            decode: |codec, bytes| {
                let mut slot = Slot(None);
                codec.decode(bytes, Decode::new(Some(&mut slot), None))?;
                slot.0.ok_or_else(|| filled_nothing(codec))
            },
            schema: None,
            serde: true,
            raw: false,
        }
    }
}

impl<T: ProtoMessage + Default> Shape<T> {
    /// A protobuf message without serde's traits.
    #[must_use]
    pub fn proto() -> Self {
        Self {
            encode: |message, codec, out| codec.encode(Encode::new(None, Some(message)), out),
            decode: |codec, bytes| {
                let mut message = T::default();
                codec.decode(bytes, Decode::new(None, Some(&mut message)))?;
                Ok(message)
            },
            schema: Some(|| T::default().schema()),
            serde: false,
            raw: false,
        }
    }
}

impl<T: ProtoMessage + Default + Serialize + DeserializeOwned> Shape<T> {
    /// A protobuf message that also has serde's traits.
    #[must_use]
    pub fn both() -> Self {
        Self {
            encode: |message, codec, out| {
                codec.encode(Encode::new(Some(message), Some(message)), out)
            },
            decode: |codec, bytes| {
                let mut slot = Slot(None);
                let mut message = T::default();
                codec.decode(bytes, Decode::new(Some(&mut slot), Some(&mut message)))?;
                Ok(slot.0.unwrap_or(message))
            },
            schema: Some(|| T::default().schema()),
            serde: true,
            raw: false,
        }
    }
}

impl Shape<RawBytes> {
    /// Bytes that pass through every codec unchanged.
    #[must_use]
    pub fn raw() -> Self {
        Self {
            encode: |message, _, out| {
                out.extend_from_slice(&message.0);
                Ok(())
            },
            decode: |_, bytes| Ok(RawBytes(bytes)),
            schema: None,
            serde: false,
            raw: true,
        }
    }
}

fn filled_nothing(codec: &dyn Codec) -> Error {
    Error::internal("the codec filled no view of the message")
        .with_context("content-type", codec.content_type())
}

// A macro knows each message type by name, so it can choose the shape by the number of references
// that method resolution has to strip: no overlapping blanket impls are needed.

#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<T>(PhantomData<fn() -> T>);

impl<T> Probe<T> {
    #[doc(hidden)]
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }

    /// What is left if no view is found; it is here for what the compiler then says.
    #[doc(hidden)]
    #[must_use]
    pub fn shape(self) -> Shape<T>
    where
        T: IsMessage,
    {
        T::shape()
    }
}

/// Nobody implements it: a type is a message by having a view.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "this type cannot travel",
    note = "derive serde's `Serialize` and `Deserialize` for it, or `micro::Message` for protobuf, or all of them"
)]
pub trait IsMessage: Sized {
    fn shape() -> Shape<Self>;
}

#[doc(hidden)]
pub trait ViaRaw<T> {
    fn shape(&self) -> Shape<T>;
}

#[doc(hidden)]
pub trait ViaBoth<T> {
    fn shape(&self) -> Shape<T>;
}

#[doc(hidden)]
pub trait ViaProto<T> {
    fn shape(&self) -> Shape<T>;
}

#[doc(hidden)]
pub trait ViaSerde<T> {
    fn shape(&self) -> Shape<T>;
}

impl ViaRaw<RawBytes> for &&&Probe<RawBytes> {
    fn shape(&self) -> Shape<RawBytes> {
        Shape::raw()
    }
}

impl<T: ProtoMessage + Default + Serialize + DeserializeOwned> ViaBoth<T> for &&Probe<T> {
    fn shape(&self) -> Shape<T> {
        Shape::both()
    }
}

impl<T: ProtoMessage + Default> ViaProto<T> for &Probe<T> {
    fn shape(&self) -> Shape<T> {
        Shape::proto()
    }
}

impl<T: Serialize + DeserializeOwned> ViaSerde<T> for Probe<T> {
    fn shape(&self) -> Shape<T> {
        Shape::serde()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;

    #[derive(Default)]
    struct Proto(u8);

    impl ProtoMessage for Proto {
        fn schema(&self) -> Schema {
            Schema::Derived(crate::MessageSchema::new("Proto"))
        }
        fn encoded_len(&self) -> usize {
            1
        }
        fn encode(&self, out: &mut BytesMut) -> Result<()> {
            out.extend_from_slice(&[self.0]);
            Ok(())
        }
        fn merge(&mut self, bytes: Bytes) -> Result<()> {
            self.0 = bytes[0];
            Ok(())
        }
    }

    #[derive(Debug)]
    struct ProtoOnly;

    impl Codec for ProtoOnly {
        fn content_type(&self) -> &'static str {
            "application/protobuf"
        }
        fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
            message.to_proto()?.encode(out)
        }
        fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
            message.into_proto()?.merge(bytes)
        }
    }

    #[test]
    fn the_shape_follows_from_the_type() {
        assert!(shape!(RawBytes).is_raw());
        let shape = shape!(Proto);
        assert!(shape.has_proto() && !shape.has_serde());
        let mut out = BytesMut::new();
        shape.encode(&Proto(7), &ProtoOnly, &mut out).unwrap();
        assert_eq!(shape.decode(&ProtoOnly, out.freeze()).unwrap().0, 7);
        let shape = shape!(Vec<u8>);
        assert!(shape.has_serde() && !shape.has_proto());
        let err = shape
            .encode(&vec![1], &ProtoOnly, &mut BytesMut::new())
            .unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::Unimplemented);
    }
}
