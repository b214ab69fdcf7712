#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! Contracts choose codecs by themselves; [`Codecs`] is the set that a client or server knows.
//!
//! # For implementors
//!
//! Implement [`Codec`], give it to `Service::codec` or `Client`'s builder, and run the `codec`
//! suite of `micro-conformance`.
//! A codec is synchronous and does no input or output. Decoding takes time and memory linear in
//! the input and never panics, whatever the bytes.

mod codec;
mod codecs;
mod detail;
mod message;
mod room;
mod schema;
mod shape;

pub use self::codec::Codec;
pub use self::codecs::Codecs;
pub use self::detail::ErrorDetail;
pub use self::message::{Decode, Encode, ProtoMessage, RawBytes, SerdeSlot};
pub use self::schema::{EnumSchema, FieldKind, FieldLabel, FieldSchema, MessageSchema, Schema};
pub use self::shape::Shape;
#[doc(hidden)]
pub use self::shape::{Probe, ViaBoth, ViaProto, ViaRaw, ViaSerde};
pub use erased_serde;
pub use micro_core::{Error, ErrorKind, Result};

/// Finds the [`Shape`] of a message type by the traits that it implements.
///
/// The type must be named, not generic: the choice is made where the macro stands.
///
/// ```
/// let shape = micro_codec_core::shape!(String);
/// assert!(shape.has_serde() && !shape.has_proto());
/// ```
#[macro_export]
macro_rules! shape {
    ($message:ty) => {{
        #[allow(unused_imports)]
        use $crate::{ViaBoth as _, ViaProto as _, ViaRaw as _, ViaSerde as _};
        (&&&&$crate::Probe::<$message>::new()).shape()
    }};
}
