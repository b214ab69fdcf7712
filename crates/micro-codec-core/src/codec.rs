//! The trait of this crate.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{Decode, Encode, Result};

/// Turns messages into bytes and back.
///
/// A codec has no state that one message leaves for the next.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The content type that chooses this codec, in lower case: `application/json`.
    fn content_type(&self) -> &'static str;

    /// Appends the message to `out`, leaving what is there alone.
    ///
    /// # Errors
    ///
    /// `Unimplemented` if the message has no view that this codec can use; `InvalidArgument` for a
    /// value that the format cannot hold. `out` may then have a partial message at its end.
    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()>;

    /// Reads a message from exactly these bytes.
    ///
    /// # Errors
    ///
    /// `Unimplemented` as above; `InvalidArgument` for bytes that are no such message, including
    /// bytes that go on behind it.
    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()>;
}

#[deny(clippy::missing_trait_methods)]
impl<C: Codec + ?Sized> Codec for Arc<C> {
    fn content_type(&self) -> &'static str {
        (**self).content_type()
    }

    fn encode(&self, message: Encode<'_>, out: &mut BytesMut) -> Result<()> {
        (**self).encode(message, out)
    }

    fn decode(&self, bytes: Bytes, message: Decode<'_>) -> Result<()> {
        (**self).decode(bytes, message)
    }
}

// `Codec` must stay usable as a trait object.
const _: fn(&dyn Codec) = |_| ();
