//! The views of a message.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::{Error, Result, Schema};

/// Protobuf without any library's types: implemented by `#[derive(micro::Message)]` and by what
/// `micro-build` generates.
pub trait ProtoMessage: Send + Sync {
    /// What the message is made of, for reflection and for printing a `.proto`.
    fn schema(&self) -> Schema;

    /// The length of the encoded message in bytes.
    fn encoded_len(&self) -> usize;

    /// Appends the encoded message to `out`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the message cannot be encoded.
    fn encode(&self, out: &mut BytesMut) -> Result<()>;

    /// Merges the encoded message into this one, which is usually a default one.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for bytes that are no such message.
    fn merge(&mut self, bytes: Bytes) -> Result<()>;
}

/// A message that is its own encoding: it passes through every codec unchanged.
///
/// For proxies, for calls without a generated type, and for payloads of another format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBytes(pub Bytes);

impl From<Bytes> for RawBytes {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// A message on its way out: every view that its type has.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Encode<'a> {
    /// The view for formats that serde describes.
    pub serde: Option<&'a dyn erased_serde::Serialize>,
    /// The view for protobuf.
    pub proto: Option<&'a dyn ProtoMessage>,
}

impl<'a> Encode<'a> {
    /// A message with these views.
    #[must_use]
    pub fn new(
        serde: Option<&'a dyn erased_serde::Serialize>,
        proto: Option<&'a dyn ProtoMessage>,
    ) -> Self {
        Self { serde, proto }
    }

    /// The serde view.
    ///
    /// # Errors
    ///
    /// `Unimplemented` if the type does not implement serde's traits.
    pub fn to_serde(self) -> Result<&'a dyn erased_serde::Serialize> {
        self.serde.ok_or_else(no_serde)
    }

    /// The protobuf view.
    ///
    /// # Errors
    ///
    /// `Unimplemented` if the type is no protobuf message.
    pub fn to_proto(self) -> Result<&'a dyn ProtoMessage> {
        self.proto.ok_or_else(no_proto)
    }
}

impl fmt::Debug for Encode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encode")
            .field("serde", &self.serde.is_some())
            .field("proto", &self.proto.is_some())
            .finish()
    }
}

/// A message on its way in: a codec fills one of the views.
#[non_exhaustive]
pub struct Decode<'a> {
    /// The view for formats that serde describes.
    pub serde: Option<&'a mut dyn SerdeSlot>,
    /// The view for protobuf.
    pub proto: Option<&'a mut dyn ProtoMessage>,
}

impl<'a> Decode<'a> {
    /// A message with these views.
    #[must_use]
    pub fn new(
        serde: Option<&'a mut dyn SerdeSlot>,
        proto: Option<&'a mut dyn ProtoMessage>,
    ) -> Self {
        Self { serde, proto }
    }

    /// The serde view.
    ///
    /// # Errors
    ///
    /// `Unimplemented` if the type does not implement serde's traits.
    pub fn into_serde(self) -> Result<&'a mut dyn SerdeSlot> {
        self.serde.ok_or_else(no_serde)
    }

    /// The protobuf view.
    ///
    /// # Errors
    ///
    /// `Unimplemented` if the type is no protobuf message.
    pub fn into_proto(self) -> Result<&'a mut dyn ProtoMessage> {
        self.proto.ok_or_else(no_proto)
    }
}

impl fmt::Debug for Decode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decode")
            .field("serde", &self.serde.is_some())
            .field("proto", &self.proto.is_some())
            .finish()
    }
}

fn no_serde() -> Error {
    Error::unimplemented(
        "this message does not derive serde's Serialize and Deserialize, which this content type needs",
    )
}

fn no_proto() -> Error {
    Error::unimplemented(
        "this message is not protobuf: derive micro::Message, or use another content type",
    )
}

/// A place that one serde value is read into.
pub trait SerdeSlot {
    /// Reads the value.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the input is no such value.
    fn fill(&mut self, from: &mut dyn erased_serde::Deserializer<'_>) -> Result<()>;
}

pub(crate) struct Slot<T>(pub(crate) Option<T>);

impl<T: serde::de::DeserializeOwned> SerdeSlot for Slot<T> {
    fn fill(&mut self, from: &mut dyn erased_serde::Deserializer<'_>) -> Result<()> {
        let value = erased_serde::deserialize(from)
            .map_err(|err| Error::invalid_argument(format!("the message cannot be read: {err}")))?;
        self.0 = Some(value);
        Ok(())
    }
}
