#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! Structs are maps from field names, enums are strings or maps of one entry, floats are as short
//! as they can be without loss. `Vec<u8>` is an array of numbers unless it says
//! `#[serde(with = "serde_bytes")]`; a byte string is read as either.
//!
//! Reading takes all of RFC 8949: indefinite lengths, integers of any width up to 128 bits, half
//! floats. Tags are passed over, but for big integers. It is strict: bytes behind the value are
//! refused, invalid UTF-8 in a text is, values nest at most 128 deep, and no length can claim more
//! than there is.
//!
//! Writing is `ciborium`'s. Reading is our own, because `ciborium` 0.2 reads only into types known
//! when compiling, not through a `dyn Deserializer`; its tests compare the two.

mod codec;
mod decode;
mod header;

pub use self::codec::Cbor;

/// The content type of [`Cbor`].
pub const CONTENT_TYPE: &str = "application/cbor";
